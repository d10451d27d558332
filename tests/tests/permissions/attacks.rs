//! What is tried. Everything marked, so that it can be recognised where it must not arrive.

use crate::stage::{mark, name};
use async_nats::HeaderMap;
use nhi_model::{
    identity::{Agent, Role},
    key::Section,
    rights::{ENDPOINTS, may_call},
    subject, writers,
};
use serde_json::json;

/// One message somebody should not be able to send, or to have answered there.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    header: Option<(&'static str, String)>,
    payload: Option<String>,
}

impl Attack {
    pub(crate) fn publish(subject: &str) -> Self {
        Self { subject: subject.to_owned(), reply: None, header: None, payload: None }
    }

    pub(crate) fn with_reply(self, reply: &str) -> Self {
        Self { reply: Some(reply.to_owned()), ..self }
    }

    pub(crate) fn with_header(self, header: &'static str, value: &str) -> Self {
        Self { header: Some((header, value.to_owned())), ..self }
    }

    pub(crate) fn with_payload(self, payload: &str) -> Self {
        Self { payload: Some(payload.to_owned()), ..self }
    }

    pub(crate) fn payload(&self, who: &str) -> String {
        self.payload.clone().unwrap_or_else(|| mark(who))
    }

    pub(crate) fn headers(&self, who: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("Attack-By", who);
        if let Some((header, value)) = &self.header {
            headers.insert(*header, value.as_str());
        }
        headers
    }
}

/// Subjects nobody but the mesh itself may publish to.
const FORBIDDEN: &[&str] = &[
    // state, directly
    "$KV.nhi-state.vm.home.100",
    "$KV.nhi-state.host.pc",
    "$KV.nhi-state.graph",
    "$KV.nhi-live.vm.home.100",
    // plans and what belongs to them, timers
    "$KV.nhi-plans.plan.p-evil0",
    "$KV.nhi-plans.run.r-evil0",
    "$KV.nhi-plans.lease.home.100",
    "$KV.nhi-plans.control.freeze",
    "$KV.nhi-plans.control.actuator",
    "nhi-timer.set.r-evil0",
    "nhi-timer.due.r-evil0",
    "nhi-timer.confirmed.r-evil0",
    "nhi-pub.plan.plan.p-evil0",
    // the feed, history, audit, jobs, commands
    "nhi-pub.state.vm.home.100",
    "nhi-pub.live.vm.home.100",
    "nhi-history.x",
    "nhi-audit.state",
    "nhi-audit.owner",
    "nhi-jobs.chat",
    "nhi-cmd.pc.gpu",
    // other callers' names
    "nhi.state.get.home",
    "nhi.state.get.rival",
    "nhi.state.get.owner",
    "nhi.act.approve.owner",
    "nhi.act.apply.rival",
    "nhi.state.report.home",
    // other inboxes and made-up answers
    "_INBOX_rival.x.y",
    "_INBOX_state.x.y",
    "_INBOX.x.y",
    // the server itself
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SYS.REQ.USER.INFO",
    "$G.x",
];

/// Stream and consumer verbs, acknowledgements and flow control.
const VERBS: &[&str] = &[
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.KV_nhi-state",
    "$JS.API.STREAM.CREATE.EVIL",
    "$JS.API.STREAM.UPDATE.KV_nhi-state",
    "$JS.API.STREAM.DELETE.KV_nhi-state",
    "$JS.API.STREAM.PURGE.KV_nhi-state",
    "$JS.API.STREAM.MSG.GET.KV_nhi-state",
    "$JS.API.STREAM.MSG.DELETE.KV_nhi-state",
    "$JS.API.STREAM.SNAPSHOT.KV_nhi-state",
    "$JS.API.STREAM.RESTORE.KV_nhi-state",
    "$JS.API.STREAM.LEADER.STEPDOWN.KV_nhi-state",
    "$JS.API.DIRECT.GET.KV_nhi-state",
    "$JS.API.DIRECT.GET.KV_nhi-state.$KV.nhi-state.vm.home.100",
    "$JS.API.CONSUMER.CREATE.KV_nhi-state",
    "$JS.API.CONSUMER.CREATE.KV_nhi-state.evil",
    "$JS.API.CONSUMER.DURABLE.CREATE.KV_nhi-state.evil",
    "$JS.API.CONSUMER.LIST.KV_nhi-state",
    "$JS.API.CONSUMER.INFO.NHI_JOBS.any",
    "$JS.API.CONSUMER.MSG.NEXT.NHI_JOBS.any",
    "$JS.API.CONSUMER.DELETE.NHI_JOBS.any",
    "$JS.API.CONSUMER.PAUSE.NHI_JOBS.any",
    "$JS.API.STREAM.PURGE.KV_nhi-plans",
    "$JS.API.STREAM.MSG.GET.KV_nhi-plans",
    "$JS.API.STREAM.MSG.DELETE.KV_nhi-plans",
    "$JS.API.STREAM.PURGE.NHI_TIMERS",
    "$JS.API.STREAM.MSG.DELETE.NHI_TIMERS",
    "$JS.API.CONSUMER.CREATE.NHI_TIMERS.act",
    "$JS.API.CONSUMER.MSG.NEXT.NHI_TIMERS.act",
    "$JS.API.CONSUMER.DELETE.NHI_TIMERS.act",
    "$JS.ACK.NHI_TIMERS.act.1.1.1.1.1",
    "$JS.ACK.NHI_JOBS.any.1.1.1.1.1",
    "$JS.FC.NHI_JOBS.any.1",
    "$JS.SNAPSHOT.ACK.x",
];

/// What one identity must be refused to publish.
pub(crate) fn publishes(who: &str, role: Role) -> Vec<Attack> {
    let me = name(who);
    let mut subjects: Vec<String> = FORBIDDEN.iter().chain(VERBS).map(|s| (*s).to_owned()).collect();
    subjects.extend([
        format!("nhi-audit.{me}"),
        format!("nhi-cmd.{me}.x"),
        format!("nhi-pub.{me}"),
        // not of the shape of a call
        format!("nhi.{me}"),
        format!("nhi.state.{me}"),
        format!("nhi.state.get.{me}.{me}"),
        format!("nhi.state.get.x.{me}"),
        subject::call("no-such-service", "get", &me),
    ]);
    if role != Role::Service {
        // Somebody else's service may answer `home`, and across the border.
        subjects.extend(["_INBOX_home.x.y", "_R_.x.y"].map(str::to_owned));
    }
    let forbidden_calls = ENDPOINTS.iter().filter(|e| !may_call(role, &[], e.service, e.endpoint));
    subjects.extend(forbidden_calls.map(|e| subject::call(e.service, e.endpoint, &me)));
    let mut attacks: Vec<Attack> = subjects.iter().map(|subject| Attack::publish(subject)).collect();
    attacks.push(push_consumer("KV_nhi-state", "nhi.act.approve.owner", who));
    attacks.push(push_consumer("NHI_JOBS", "$KV.nhi-state.vm.home.100", who));
    attacks.push(push_consumer("NHI_JOBS", "$KV.nhi-plans.control.freeze", who));
    let schedule = ("Nats-Schedule", "@at 2026-01-01T00:00:00Z");
    for subject in ["nhi-timer.set.r-evil0", "nhi-audit.state", "$KV.nhi-plans.plan.p-evil0"] {
        attacks.push(Attack::publish(subject).with_header(schedule.0, schedule.1));
    }
    for header in [("Nats-Rollup", "all"), ("Nats-Rollup", "sub"), ("Nats-Trace-Dest", "$KV.nhi-state.graph")]
    {
        attacks.push(Attack::publish("$KV.nhi-state.vm.home.100").with_header(header.0, header.1));
        attacks.push(Attack::publish("nhi-audit.state").with_header(header.0, header.1));
    }
    attacks
}

/// A consumer that has stored messages delivered where its maker may not publish.
pub(crate) fn push_consumer(stream: &str, deliver_subject: &str, who: &str) -> Attack {
    let body = json!({
        "stream_name": stream,
        "config": { "deliver_subject": deliver_subject, "ack_policy": "none", "description": mark(who) },
    });
    Attack::publish(&format!("$JS.API.CONSUMER.CREATE.{stream}")).with_payload(&body.to_string())
}

/// What one identity must be refused to hear.
pub(crate) fn subscriptions(who: &str) -> Vec<String> {
    let mut subjects: Vec<String> = [
        ">",
        "*",
        "*.>",
        "nhi.>",
        "nhi.*.*.*",
        "nhi.state.get.*",
        "nhi.act.>",
        "nhi-audit.>",
        "nhi-timer.>",
        "nhi-timer.due.*",
        "nhi-jobs.>",
        "nhi-history.>",
        "nhi-cmd.>",
        "nhi-cmd.rival.>",
        "$KV.>",
        "$KV.nhi-state.vm.home.100",
        "$KV.nhi-plans.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.EVENT.>",
        "$SYS.>",
        "$SRV.>",
        "$SRV.*.*",
        "$SRV.INFO.*",
        "$SRV.INFO.state",
        "$SRV.INFO.state.*",
        "_R_.>",
        "_INBOX.>",
        "_INBOX_home.>",
        "_INBOX_rival.>",
        "_INBOX_*.>",
    ]
    .map(str::to_owned)
    .into();
    subjects.push(subject::calls_of(&name(who)));
    subjects
}

/// Everything one identity may ask, as it reaches HOME.
pub(crate) fn callable(who: &str, role: Role) -> Vec<String> {
    let me = name(who);
    let calls = ENDPOINTS.iter().filter(|e| may_call(role, &[], e.service, e.endpoint));
    let mut subjects: Vec<String> = calls.map(|e| subject::call(e.service, e.endpoint, &me)).collect();
    if role != Role::Edge {
        subjects.extend(["$SRV.PING", "$SRV.INFO.state", "$SRV.STATS.state.1"].map(str::to_owned));
    }
    subjects
}

/// Permitted requests that name as their reply what the caller may not publish to. The services answer with the
/// caller's own words, so a reply that is not replaced is a write of the caller's choice.
pub(crate) fn replies(who: &str, role: Role) -> Vec<Attack> {
    callable(who, role).iter().flat_map(|asked| injections(asked, who).collect::<Vec<_>>()).collect()
}

pub(crate) fn injections(asked: &str, who: &str) -> impl Iterator<Item = Attack> + use<> {
    let me = name(who);
    let mut targets: Vec<String> = [
        "$KV.nhi-state.vm.home.100",
        "$KV.nhi-state.vm.home.666",
        "$KV.nhi-live.vm.home.666",
        "$KV.nhi-plans.plan.p-evil0",
        "$KV.nhi-plans.control.freeze",
        "nhi-timer.set.r-evil0",
        "nhi-timer.due.r-evil0",
        "nhi-timer.confirmed.r-kept0",
        "nhi-audit.state",
        "nhi-pub.state.vm.home.100",
        "nhi-jobs.chat",
        "nhi-history.x",
        "nhi-cmd.pc.gpu",
        "nhi.state.get.rival",
        "nhi.act.approve.owner",
        "_INBOX_home.x.y",
        "_INBOX_rival.x.y",
        "_R_.abcdef.ghijkl",
        "$JS.API.STREAM.PURGE.KV_nhi-state",
        "$JS.API.STREAM.PURGE.KV_nhi-plans",
        "$JS.API.STREAM.DELETE.KV_nhi-state",
        "$JS.API.CONSUMER.CREATE.KV_nhi-state",
        "$JS.API.CONSUMER.MSG.NEXT.NHI_TIMERS.act",
        "$SYS.REQ.SERVER.PING",
    ]
    .map(str::to_owned)
    .into();
    // Its own calls that its role does not permit: what comes back must not enter HOME again as a call of its own.
    targets.extend(["act.approve", "act.thaw", "auth.add", "state.report", "gpu.lock"].map(|what| {
        let (service, endpoint) = what.split_once('.').expect("there is a dot");
        subject::call(service, endpoint, &me)
    }));
    let asked = asked.to_owned();
    targets.into_iter().flat_map(move |target| {
        let attack = Attack::publish(&asked).with_reply(&target);
        let rollup = attack.clone().with_header("Nats-Rollup", "all");
        let schedule = attack.clone().with_header("Nats-Schedule", "@at 2026-01-01T00:00:00Z");
        // A trace went anywhere once (fixed in 2.12.6).
        let trace = Attack::publish(&asked).with_header("Nats-Trace-Dest", &target);
        [attack, rollup, schedule, trace]
    })
}

/// What a trusted agent must be refused: keys and logs of others, names of others, changes of streams.
pub(crate) fn of_trusted(agent: Agent) -> Vec<Attack> {
    let me = agent.identity();
    let others = Section::ALL.into_iter().filter(|section| !writers::sections(agent).contains(section));
    let mut subjects = Vec::new();
    for section in others {
        // An alert's first token is its agent; nobody is called `nobody`.
        let key = key_in(section, "nobody");
        subjects.extend([format!("$KV.nhi-state.{key}"), format!("$KV.nhi-live.{key}")]);
    }
    for other in Agent::ALL.into_iter().filter(|other| *other != agent) {
        subjects.extend([
            subject::audit(&other.identity()),
            subject::call("state", "get", &other.identity()),
            format!("$KV.nhi-state.alert.{}.x", other.as_str()),
        ]);
    }
    subjects.extend(["owner", "home", "aider"].map(|caller| subject::call("act", "approve", &name(caller))));
    subjects.extend([subject::call("act", "approve", &me), subject::call("auth", "list", &me)]);
    let changing = [
        "STREAM.CREATE.EVIL",
        "STREAM.UPDATE.KV_nhi-state",
        "STREAM.DELETE.KV_nhi-state",
        "STREAM.PURGE.KV_nhi-state",
        "STREAM.MSG.DELETE.KV_nhi-state",
        "STREAM.SNAPSHOT.KV_nhi-state",
        "STREAM.RESTORE.KV_nhi-state",
        "CONSUMER.DURABLE.CREATE.KV_nhi-state.evil",
    ];
    subjects.extend(changing.map(|verb| format!("$JS.API.{verb}")));
    subjects.extend(
        ["nhi-pub.state.x", "nhi-jobs.x", "_INBOX_aider.x", "$SYS.REQ.SERVER.PING"].map(str::to_owned),
    );
    if agent != Agent::State {
        subjects.push("nhi-cmd.pc.gpu".to_owned());
    }
    // Not even the actuator says itself that a timer is due, takes timers away or deletes messages.
    let never = [
        "nhi-timer.due.r-evil0",
        "$JS.API.STREAM.PURGE.NHI_TIMERS",
        "$JS.API.STREAM.PURGE.NHI_AUDIT",
        "$JS.API.STREAM.MSG.DELETE.KV_nhi-plans",
        "$JS.API.STREAM.MSG.DELETE.NHI_TIMERS",
        "$JS.API.STREAM.UPDATE.KV_nhi-plans",
        "$JS.API.CONSUMER.MSG.NEXT.NHI_JOBS.any",
    ];
    subjects.extend(never.map(str::to_owned));
    if agent != Agent::Act {
        subjects.extend(of_actuator());
    }
    subjects.iter().map(|subject| Attack::publish(subject)).collect()
}

/// What nobody but the actuator publishes, inside HOME too.
pub(crate) fn of_actuator() -> [String; 7] {
    [
        "$KV.nhi-plans.plan.p-evil0",
        "$KV.nhi-plans.control.freeze",
        "$KV.nhi-plans.lease.home.100",
        "nhi-timer.set.r-evil0",
        "nhi-timer.confirmed.r-kept0",
        "$JS.API.STREAM.PURGE.KV_nhi-plans",
        "$JS.API.CONSUMER.MSG.NEXT.NHI_TIMERS.act",
    ]
    .map(str::to_owned)
}

/// Some key of a section; its first token is the given one, where there is any.
pub(crate) fn key_in(section: Section, first: &str) -> String {
    let tokens = ["100", "x"].into_iter();
    let mut key = section.as_str().to_owned();
    for token in [first].into_iter().chain(tokens).take(section.tokens()) {
        key.push('.');
        key.push_str(token);
    }
    key
}
