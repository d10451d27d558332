//! Who may do what, tried against the real nats-server with the rendered configuration, by clients that have
//! nothing but a seed and the plain library.
//!
//! What must work works, what must not is refused or reaches nothing, and afterwards every stream has the last
//! sequence, the message count, the consumers and the configuration it had before. Each promise has a control: the
//! same attack, on a server that is wrong on purpose, does harm.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod attacks;
mod intruder;
mod stage;

use attacks::Attack;
use futures::StreamExt as _;
use intruder::Intruder;
use nhi_model::{
    identity::{Agent, Role},
    key::Section,
    rights::{ENDPOINTS, FLOW, SERVICES, may_call},
    subject, writers,
};
use nhi_testkit::{Controls, settle, wait_for};
use stage::{DEADLINE, Stage, name};

/// One identity of each role that lives outside HOME.
const OUTSIDE: [(&str, Role); 4] =
    [("aider", Role::Agent), ("wall", Role::Viewer), ("anna", Role::Operator), ("pc", Role::Edge)];

#[tokio::test]
async fn every_role_calls_what_it_may_and_nothing_else() {
    let stage = Stage::set(Controls::default()).await;
    for (who, role) in OUTSIDE.into_iter().chain([("owner", Role::Owner), ("gateway", Role::Viewer)]) {
        let mut intruder = Intruder::enter(&stage, who).await;
        for endpoint in ENDPOINTS {
            let (service, endpoint) = (endpoint.service, endpoint.endpoint);
            let call = subject::call(service, endpoint, &name(who));
            if may_call(role, &[], service, endpoint) {
                assert_eq!(intruder.ask(&call).await, Ok(()), "{who}: {call}");
            } else {
                assert!(intruder.is_refused_to_publish(&call).await, "{who}: {call}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_built_in_is_for_owner_operator_and_by_grant() {
    let stage = Stage::set(Controls::default()).await;
    let boil = |who: &str| subject::call("kettle", "boil", &name(who));
    for (who, may) in [("owner", true), ("anna", true), ("aider", false), ("wall", false), ("pc", false)] {
        let mut intruder = Intruder::enter(&stage, who).await;
        if may {
            assert_eq!(intruder.ask(&boil(who)).await, Ok(()), "{who}");
        } else {
            assert!(intruder.is_refused_to_publish(&boil(who)).await, "{who}");
        }
    }
    stage.nats.grant("aider", "kettle.boil").await;
    let mut aider = Intruder::enter(&stage, "aider").await;
    assert_eq!(aider.ask(&boil("aider")).await, Ok(()));
    // And what it says about the answers to that.
    assert_eq!(aider.ask(&subject::call("kettle", FLOW, &name("aider"))).await, Ok(()));
    for (service, endpoint) in [("kettle", "descale"), ("toaster", FLOW)] {
        let other = subject::call(service, endpoint, &name("aider"));
        assert!(aider.is_refused_to_publish(&other).await, "{other}");
    }
}

#[tokio::test]
async fn outside_identities_hear_the_feed_discovery_and_their_commands() {
    let stage = Stage::set(Controls::default()).await;
    for (who, role) in OUTSIDE {
        let mut intruder = Intruder::enter(&stage, who).await;
        let heard = if role == Role::Edge { "nhi-cmd.pc.>" } else { subject::FEED_ALL };
        let mut heard = intruder.subscribe(heard).await.expect("it is allowed");
        if role == Role::Edge {
            assert!(intruder.is_refused_to_publish("$SRV.PING").await, "{who}");
            stage.home.publish("nhi-cmd.pc.gpu", "yield".into()).await.unwrap();
        } else {
            for question in ["$SRV.PING", "$SRV.INFO.kettle", "$SRV.STATS.kettle.1"] {
                assert_eq!(intruder.ask(question).await, Ok(()), "{who}: {question}");
            }
            stage.put("$KV.nhi-state.vm.home.100", "{}").await;
        }
        let subject = heard.next().await.subject;
        let wanted = if role == Role::Edge { "nhi-cmd.pc.gpu" } else { "nhi-pub.state.vm.home.100" };
        assert_eq!(subject.as_str(), wanted, "{who}");
    }
}

#[tokio::test]
async fn outside_identities_can_harm_nothing() {
    let stage = Stage::set(Controls::default()).await;
    for (who, role) in OUTSIDE {
        assert_eq!(harm(&stage, who, role).await, Vec::<String>::new(), "{who}");
        assert!(
            !stage.reached(who).is_empty(),
            "{who}: the requests with a foreign reply are permitted themselves"
        );
    }
}

/// Tries everything as one identity, and tells what should not have worked.
async fn harm(stage: &Stage, who: &str, role: Role) -> Vec<String> {
    let before = stage.snapshot().await;
    let mut intruder = Intruder::enter(stage, who).await;
    let mut harm = Vec::new();
    for attack in attacks::publishes(who, role) {
        if !intruder.publish(&attack).await {
            harm.push(format!("published to {}", attack.subject));
        }
    }
    for subject in attacks::subscriptions(who) {
        if intruder.subscribe(&subject).await.is_some() || intruder.subscribe_queue(&subject).await.is_some()
        {
            harm.push(format!("listens to {subject}"));
        }
    }
    for attack in attacks::replies(who, role) {
        intruder.publish(&attack).await;
    }
    stage.settle().await;
    let own = attacks::callable(who, role);
    for (subject, reply) in stage.reached(who) {
        if !own.contains(&subject) && !subject.starts_with("_R_.") {
            harm.push(format!("reached {subject}"));
        }
        if let Some(reply) = reply.filter(|reply| !reply.starts_with("_R_.")) {
            harm.push(format!("had {subject} answered to {reply}"));
        }
    }
    let after = stage.snapshot().await;
    let names = before.keys().chain(after.keys());
    harm.extend(
        names.filter(|name| before.get(*name) != after.get(*name)).map(|name| format!("changed {name}")),
    );
    harm.sort();
    harm.dedup();
    harm
}

#[tokio::test]
async fn somebody_elses_service_answers_and_does_nothing_else() {
    let stage = Stage::set(Controls::default()).await;
    let mut kettle = Intruder::enter(&stage, "kettle").await;
    let mut calls = kettle.subscribe("nhi.kettle.>").await.expect("it is allowed");
    let mut questions = kettle.subscribe("$SRV.PING.kettle.*").await.expect("it is allowed");
    for subject in ["$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.INFO.kettle", "$SRV.STATS.kettle.1"] {
        assert!(kettle.subscribe(subject).await.is_some(), "it may listen to {subject}");
    }
    stage.nats.grant("aider", "kettle").await;
    let aider = stage.nats.raw("aider").await;
    let serve = async {
        for round in 0..3 {
            let request = if round == 0 { questions.next().await } else { calls.next().await };
            let reply = request.reply.expect("a request names a reply");
            let answer = Attack::publish(&reply).with_payload("kettle here");
            assert!(!kettle.publish(&answer).await, "it may answer {reply}");
        }
        kettle
    };
    let ask = async {
        // Nobody else answers this question, and the naive responder does not answer calls of `kettle.descale`.
        for (client, subject) in [
            (&aider, "$SRV.PING.kettle.only"),
            (&aider, "nhi.kettle.descale.aider"),
            (&stage.home, "nhi.kettle.descale.home"),
        ] {
            let answer = client.request(subject, "".into()).await.unwrap();
            assert_eq!(&*answer.payload, b"kettle here", "{subject}");
        }
    };
    let (mut kettle, ()) = tokio::join!(serve, ask);

    let before = stage.snapshot().await;
    for attack in attacks::publishes("kettle", Role::Service) {
        assert!(kettle.publish(&attack).await, "not refused: {attack:?}");
    }
    for service in SERVICES {
        let call = subject::call(service, "get", &name("kettle"));
        assert!(kettle.is_refused_to_publish(&call).await, "it sends no request: {call}");
    }
    for subject in attacks::subscriptions("kettle") {
        assert!(kettle.subscribe(&subject).await.is_none(), "it may listen to {subject}");
    }
    for attack in
        attacks::injections("_INBOX_home.x", "kettle").chain(attacks::injections("_R_.x.y", "kettle"))
    {
        kettle.publish(&attack).await;
    }
    stage.settle().await;
    assert_eq!(stage.snapshot().await, before);
    for (subject, _) in stage.reached("kettle") {
        assert!(subject.starts_with("_INBOX_home.") || subject.starts_with("_R_."), "it reached {subject}");
    }
}

/// What `aider` finds by discovery while `kettle` says, wherever it hears a question, that it is `state`.
async fn found_beside_an_impostor(controls: Controls, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
    let stage = Stage::set(controls).await;
    let kettle = stage.nats.raw("kettle").await;
    let mut heard = Vec::new();
    // What it is not allowed is refused, and harms nothing else.
    for subject in ["$SRV.>", "$SRV.INFO", "$SRV.INFO.kettle", "$SRV.INFO.state", "$SRV.INFO.*"] {
        heard.push(kettle.subscribe(subject).await.unwrap());
    }
    let cx = nhi_bus::cx::Cx::new();
    let answering = cx.clone();
    cx.spawn("impostor", async move {
        let mut questions = futures::stream::select_all(heard);
        loop {
            let question = tokio::select! {
                Some(question) = questions.next() => question,
                () = answering.cancelled() => return,
            };
            let Some(reply) = question.reply else { continue };
            for name in ["state", "kettle"] {
                let answer = serde_json::json!({ "name": name, "id": "impostor" }).to_string();
                kettle.publish(reply.clone(), answer.into()).await.unwrap();
            }
        }
    });
    let aider = stage.nats.connect(&cx, "aider").await;
    let found = wait_for("what is enough", DEADLINE, async || {
        let survey = nhi_bus::discover::survey(&aider, DEADLINE).await.unwrap();
        let names: Vec<String> = survey.services.into_iter().map(|service| service.name).collect();
        if enough(&names) { Ok(names) } else { Err(names) }
    })
    .await;
    cx.cancel();
    found
}

#[tokio::test]
async fn somebody_elses_service_cannot_appear_as_a_built_in_one() {
    let is_kettle = |names: &[String]| names.iter().any(|name| name == "kettle");
    assert_eq!(found_beside_an_impostor(Controls::default(), is_kettle).await, ["kettle"]);
}

#[tokio::test]
async fn control_who_hears_all_questions_appears_as_state() {
    let controls = Controls { wide_discovery: true, ..Controls::default() };
    found_beside_an_impostor(controls, |names| names.iter().any(|name| name == "state")).await;
}

#[tokio::test]
async fn trusted_agents_stay_within_their_lists() {
    let stage = Stage::set(Controls::default()).await;
    let before = stage.snapshot().await;
    for agent in Agent::ALL {
        let mut inside = Intruder::enter(&stage, agent.as_str()).await;
        for attack in attacks::of_trusted(agent) {
            assert!(inside.publish(&attack).await, "{agent:?} was not refused: {attack:?}");
        }
        for other in [subject::inbox_all(&nhi_model::identity::home()), "$KV.>".to_owned(), ">".to_owned()] {
            assert!(inside.subscribe(&other).await.is_none(), "{agent:?} may listen to {other}");
        }
    }
    stage.settle().await;
    assert_eq!(stage.snapshot().await, before);
    for agent in Agent::ALL {
        let mut inside = Intruder::enter(&stage, agent.as_str()).await;
        for section in writers::sections(agent) {
            let own = format!("$KV.nhi-state.{}", attacks::key_in(*section, "home"));
            assert!(!inside.publish(&Attack::publish(&own)).await, "{agent:?} writes {own}");
        }
        let info = "$JS.API.STREAM.INFO.KV_nhi-state";
        assert_eq!(inside.ask(info).await, Ok(()), "{agent:?} reads");
    }
    // The purge comes last: its filter stands in the request, so without one it takes all plans.
    let mut act = Intruder::enter(&stage, Agent::Act.as_str()).await;
    for own in attacks::of_actuator() {
        assert!(!act.is_refused_to_publish(&own).await, "the actuator may {own}");
    }
    let written = writers_of_sections();
    let last = |stage: &stage::Snapshot| stage["KV_nhi-state"].last_sequence;
    let wanted = last(&before) + written;
    wait_for("all permitted writes", DEADLINE, async || {
        let now = last(&stage.snapshot().await);
        if now == wanted { Ok(()) } else { Err(now) }
    })
    .await;
}

fn writers_of_sections() -> u64 {
    Agent::ALL.into_iter().map(|agent| writers::sections(agent).len() as u64).sum()
}

/// The control of [`outside_identities_can_harm_nothing`]: without an account of its own, an agent with the same
/// allow lists writes the state, the feed and the audit, commands machines and speaks as the owner, by naming the
/// target as the reply of a permitted call.
#[tokio::test]
async fn control_one_shared_account_is_harmed() {
    let stage = Stage::set(Controls { one_shared_account: true, ..Controls::default() }).await;
    let harm = harm(&stage, "aider", Role::Agent).await;
    for expected in [
        "changed KV_nhi-state",
        "changed KV_nhi-live",
        "changed KV_nhi-plans",
        "changed NHI_TIMERS",
        "changed NHI_AUDIT",
        "changed NHI_JOBS",
        "reached $KV.nhi-state.vm.home.666",
        "reached nhi-pub.state.vm.home.100",
        "reached nhi-cmd.pc.gpu",
        "reached $KV.nhi-plans.control.freeze",
        "reached nhi-timer.due.r-evil0",
        "reached nhi.act.approve.owner",
        "reached nhi.act.approve.aider",
        "reached _INBOX_rival.x.y",
    ] {
        assert!(harm.iter().any(|seen| seen == expected), "{expected} is missing in {harm:#?}");
    }
    let direct: Vec<_> =
        harm.iter().filter(|seen| seen.starts_with("published") || seen.starts_with("listens")).collect();
    assert!(direct.is_empty(), "the allow lists are the same: {direct:?}");
}

/// What the design says of HOME: permissions stop mistakes there, not malice. If this fails, nats-server has
/// become stricter, and the accounts can be thought over.
#[tokio::test]
async fn control_inside_home_a_reply_writes() {
    let stage = Stage::set(Controls::default()).await;
    let before = stage.snapshot().await;
    let mut mirror = Intruder::enter(&stage, "mirror").await;
    let direct = Attack::publish("$KV.nhi-state.vm.home.666");
    assert!(mirror.publish(&direct).await, "directly it may not");
    let through = Attack::publish("$JS.API.STREAM.INFO.KV_nhi-state").with_payload("");
    assert!(!mirror.publish(&through.with_reply("$KV.nhi-state.vm.home.666")).await);
    wait_for("the write", DEADLINE, async || {
        let last = stage.snapshot().await["KV_nhi-state"].last_sequence;
        if last > before["KV_nhi-state"].last_sequence { Ok(()) } else { Err(last) }
    })
    .await;
}

/// The other hole inside HOME: a consumer's deliver subject is a field that no permission sees. It delivers as soon
/// as somebody listens to just that subject, so services listen with wildcards and look at what they get.
#[tokio::test]
async fn control_inside_home_a_push_consumer_delivers_anywhere() {
    let stage = Stage::set(Controls::default()).await;
    let target = "nhi.act.approve.owner";
    let mut victim = stage.home.subscribe(target).await.unwrap();
    settle(&stage.home).await;
    let mut mirror = Intruder::enter(&stage, "mirror").await;
    assert!(mirror.is_refused_to_publish(target).await, "directly it may not");
    assert!(!mirror.publish(&attacks::push_consumer("NHI_JOBS", target, "mirror")).await);
    let delivered = tokio::time::timeout(DEADLINE, victim.next()).await.unwrap().unwrap();
    assert!(delivered.reply.is_some_and(|reply| reply.starts_with("$JS.ACK.")));
}

/// The trade of letting the actuator forget one old plan: which one stands in the request, where no permission sees
/// it. If this fails, nats-server has become stricter, and the right can be narrowed.
#[tokio::test]
async fn control_no_permission_sees_what_is_purged() {
    let stage = Stage::set(Controls::default()).await;
    let before = stage.snapshot().await;
    assert!(before["KV_nhi-plans"].messages > 1);
    let purge = Attack::publish(&subject::plans_purge()).with_payload("{}");
    for who in ["state", "scan", "mirror", "aider"] {
        assert!(Intruder::enter(&stage, who).await.publish(&purge).await, "{who}");
    }
    assert_eq!(stage.snapshot().await, before);
    assert!(!Intruder::enter(&stage, "act").await.publish(&purge).await);
    wait_for("the bucket to be empty", DEADLINE, async || {
        let messages = stage.snapshot().await["KV_nhi-plans"].messages;
        if messages == 0 { Ok(()) } else { Err(messages) }
    })
    .await;
}

#[tokio::test]
async fn a_rollup_erases_nothing() {
    let stage = Stage::set(Controls::default()).await;
    let before = stage.snapshot().await;
    let mut scan = Intruder::enter(&stage, "scan").await;
    for scope in ["all", "sub"] {
        let rollup = Attack::publish("$KV.nhi-state.vm.home.100").with_header("Nats-Rollup", scope);
        assert!(!scan.publish(&rollup).await, "the subject is its own");
    }
    stage.settle().await;
    assert_eq!(stage.snapshot().await, before, "the stream refuses what the subject permits");
}

#[tokio::test]
async fn control_a_rollup_erases_where_it_is_allowed() {
    let stage = Stage::set(Controls { rollup_allowed: true, ..Controls::default() }).await;
    let before = stage.snapshot().await;
    assert!(before["KV_nhi-state"].messages > 1);
    let mut scan = Intruder::enter(&stage, "scan").await;
    let rollup = Attack::publish("$KV.nhi-state.vm.home.100").with_header("Nats-Rollup", "all");
    assert!(!scan.publish(&rollup).await);
    wait_for("the bucket to be erased", DEADLINE, async || {
        let messages = stage.snapshot().await["KV_nhi-state"].messages;
        if messages == 1 { Ok(()) } else { Err(messages) }
    })
    .await;
}

/// Every section has a key that only its writer may write, so that [`trusted_agents_stay_within_their_lists`]
/// tries all of them.
#[test]
fn all_sections_are_tried() {
    let sections: Vec<Section> =
        Agent::ALL.into_iter().flat_map(|agent| writers::sections(agent).to_vec()).collect();
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Alert) {
        assert!(sections.contains(&section), "{section:?}");
        nhi_model::key::Key::parse(&attacks::key_in(section, "home")).unwrap();
    }
}

#[tokio::test]
async fn a_seed_that_was_revoked_or_never_added_opens_nothing() {
    let stage = Stage::set(Controls::default()).await;
    let options = stage.nats.raw_options("aider");
    let client = stage.nats.raw("aider").await;
    settle(&client).await;
    stage.nats.revoke("aider").await;
    assert!(options.connect(stage.nats.url()).await.is_err());
    wait_for("the open connection to be closed", DEADLINE, async || {
        client.connection_state() != async_nats::connection::State::Connected
    })
    .await;
    let stranger = async_nats::ConnectOptions::with_nkey(nhi_bus::keys::Seed::generate().expose().to_owned());
    assert!(stranger.connect(stage.nats.url()).await.is_err());
    assert!(async_nats::connect(stage.nats.url()).await.is_err(), "nobody comes in without a key");
}
