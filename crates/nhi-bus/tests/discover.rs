//! Discovery when somebody makes up names: who is there for true is found all the same, against a real server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use futures::StreamExt as _;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    discover::{Turns, survey_again},
    registry::Registry,
    service::{Running, Service, Spec},
};
use nhi_model::{
    call::{AuthList, AuthListed, Effect},
    identity::Role,
};
use nhi_testkit::{Nats, wait_for};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

const WAIT: Duration = Duration::from_secs(10);
/// Names that are made up: more than are asked for in two rounds.
const MADE_UP: usize = 300;

/// Answers one question with descriptions of these services, in this order, from now on.
async fn answer(cx: &Cx, nats: &Nats, who: &str, question: &'static str, names: Vec<String>) {
    let client = nats.raw(who).await;
    let mut questions = client.subscribe(question).await.unwrap();
    let stop = cx.clone();
    cx.spawn("answers", async move {
        loop {
            let question = tokio::select! {
                question = questions.next() => question.unwrap(),
                () = stop.cancelled() => return,
            };
            for name in &names {
                let described = json!({"name": name, "id": "1", "version": "1", "endpoints": []}).to_string();
                client.publish(question.reply.clone().unwrap(), described.into()).await.unwrap();
            }
        }
    });
    let home = nats.raw("home").await;
    wait_for("the answer", WAIT, async || home.request(question, "".into()).await.map(drop)).await;
}

fn made_up() -> Vec<String> {
    (0..MADE_UP).map(|n| format!("made-up-{n}")).collect()
}

/// The keeper, as far as it tells who is who.
async fn keeper(cx: &Cx, nats: &Nats) -> Running {
    let dir = nats.dir();
    let spec = Spec { endpoint: "list", effect: Effect::Read, description: "", stream: false };
    let auth = Service::new("auth", "1.0.0", "").endpoint(spec, move |_, _: AuthList| {
        let dir = dir.clone();
        async move { Ok(AuthListed { identities: Registry::load(&dir).unwrap().infos() }) }
    });
    auth.start(cx, &nats.connect(cx, "state").await).await.unwrap()
}

/// Whether a survey finds this service.
async fn finds(bus: &Bus, name: &str, turns: &mut Turns) -> bool {
    let found = survey_again(bus, WAIT, &BTreeSet::new(), turns).await.unwrap();
    found.services.iter().any(|service| service.name == name)
}

#[tokio::test]
async fn a_service_with_an_identity_is_found_at_once_among_any_number_of_made_up_names() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    for (name, role) in [("liar", Role::Service), ("teapot", Role::Service), ("anna", Role::Viewer)] {
        nats.add(name, role).await;
    }
    answer(&cx, &nats, "liar", "$SRV.INFO", made_up()).await;
    // Not even heard among the others: it answers to its own name alone.
    answer(&cx, &nats, "teapot", "$SRV.INFO.teapot", vec!["teapot".to_owned()]).await;
    let anna = nats.connect(&cx, "anna").await;
    assert!(!finds(&anna, "teapot", &mut Turns::default()).await, "the control: nobody tells of identities");
    let keeper = keeper(&cx, &nats).await;
    let found =
        async || if finds(&anna, "teapot", &mut Turns::default()).await { Ok(()) } else { Err("not found") };
    wait_for("the teapot", Duration::from_secs(20), found).await;
    keeper.stop().await;
    cx.close().await;
}

#[tokio::test]
async fn a_name_of_no_identity_has_its_turn_behind_those_that_are_made_up() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let names = made_up().into_iter().chain(["samovar".to_owned()]).collect();
    answer(&cx, &nats, "home", "$SRV.INFO", names).await;
    answer(&cx, &nats, "home", "$SRV.INFO.samovar", vec!["samovar".to_owned()]).await;
    let bus = nats.connect(&cx, "home").await;
    let (mut turns, mut rounds) = (Turns::default(), 0);
    while !finds(&bus, "samovar", &mut turns).await {
        rounds += 1;
        assert!(rounds < 8, "it never has its turn");
        let forgetful = finds(&bus, "samovar", &mut Turns::default()).await;
        assert!(!forgetful, "the control: whoever does not remember who waits asks the same each time");
    }
    assert!(rounds > 0, "it had to wait");
    cx.close().await;
}
