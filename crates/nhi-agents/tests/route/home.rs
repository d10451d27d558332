//! A machine at home: its light, its relay, and requests that never leave.

use crate::house::{House, SOON, backend, ordered, question, quick, server};
use nhi_bus::{
    call::call,
    connect::Bus,
    store::{commit, put_live},
};
use nhi_decide::{
    change::{Change, What},
    live::envelope,
    route::{BackendSettings, Guard, Settings},
};
use nhi_model::{
    Timestamp,
    ai::Routed,
    envelope::OpId,
    gpu::{Gpu, GpuGauges, Light, Reason, Relay},
    key::Key,
};
use nhi_sim::models::{Fault, ModelSettings, On, Running, answer_text};
use nhi_testkit::wait_for;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// A gaming PC as the keeper tells of it.
pub(crate) struct Pc {
    keeper: Bus,
}

impl Pc {
    pub(crate) async fn new(house: &House, relay: &Running) -> Self {
        let keeper = house.nats.connect(&house.cx, "state").await;
        let relay = Relay { url: relay.url.clone(), fingerprint: None };
        let gpu = Gpu { host: "pc".to_owned(), relay: Some(relay), ..Gpu::default() };
        let what = What::Put { record: serde_json::to_value(gpu).unwrap(), stale: None };
        let change = Change { key: Key::gpu("pc"), expected: 0, what };
        commit(&keeper, &OpId("pc".to_owned()), Timestamp::now(), &[change]).await.unwrap();
        Self { keeper }
    }

    pub(crate) async fn show(&self, light: Light) {
        let now = Timestamp::now();
        let gauges = GpuGauges {
            light,
            reason: Reason::Game,
            text: "somebody plays".to_owned(),
            since: now,
            cards: Vec::new(),
            idle_s: None,
            running: 0,
            waiting: 0,
            loaded: Vec::new(),
            loaded_tokens: BTreeMap::new(),
            freed: None,
        };
        let live = envelope(serde_json::to_value(gauges).unwrap(), now);
        put_live(&self.keeper, &[(Key::gpu("pc"), live)]).await.unwrap();
    }
}

pub(crate) fn at_pc(server: &Running) -> BackendSettings {
    // What stands there is for the machine itself; the router goes through the relay.
    let url = "http://127.0.0.1:1/v1".to_owned();
    BackendSettings { gpu: Some("pc".to_owned()), url, ..backend("pc", server, "m") }
}

pub(crate) async fn house(backends: Vec<BackendSettings>) -> House {
    let guard = Guard { wait_s: 2, ..Guard::default() };
    let house = House::new(Settings { guard, ..ordered(backends) }).await;
    house.start().await;
    house
}

/// Waits until the router has seen the light, by what it would do.
pub(crate) async fn seen(house: &House, first: Option<&str>) {
    wait_for("the router to see it", SOON, async || {
        let body = question("?", false);
        let routed: Routed = call(&house.aider, "ai", "route", &body).await.unwrap();
        let now = routed.order.first().map(|choice| choice.provider.clone());
        if now.as_deref() == first { Ok(()) } else { Err(routed) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_reached_through_its_relay_while_its_light_allows() {
    let (relay, other) = (quick("m").await, quick("m").await);
    let house = house(vec![at_pc(&relay), backend("other", &other, "m")]).await;
    seen(&house, Some("other")).await;
    let pc = Pc::new(&house, &relay).await;
    pc.show(Light::Green).await;
    seen(&house, Some("pc")).await;
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["provider"], "pc");
    let request = relay.seen().into_iter().rev().find(|seen| seen.model.is_some()).unwrap();
    let proof: Vec<&str> = request.headers["nhi-relay"].split(' ').collect();
    assert_eq!((proof.len(), proof[0]), (4, house.nats.seed("route").public_key().as_str()));
    let again = house.ask(question("?", false)).await.unwrap();
    let next = relay.seen().into_iter().rev().find(|seen| seen.model.is_some()).unwrap();
    assert_ne!(next.headers["nhi-relay"], request.headers["nhi-relay"], "{again:?}");
    pc.show(Light::Red).await;
    seen(&house, Some("other")).await;
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["provider"], "other");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_home_waits_and_is_refused() {
    let (relay, cloud) = (quick("m").await, quick("m").await);
    let away = BackendSettings { home: false, ..backend("cloud", &cloud, "m") };
    let house = house(vec![at_pc(&relay), away]).await;
    let pc = Pc::new(&house, &relay).await;
    pc.show(Light::Red).await;
    seen(&house, Some("cloud")).await;
    let private = || {
        let mut body = question("My diary says?", false);
        body["model"] = json!("private");
        body
    };
    let before = cloud.counts().by_model.len();
    let fault = house.ask(private()).await.unwrap_err();
    assert_eq!(fault.code, "unavailable", "{fault}");
    assert!(fault.message.contains("somebody plays"), "{fault}");
    let mut waiting = Box::pin(house.ask(private()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "it waits");
    pc.show(Light::Green).await;
    assert_eq!(waiting.await.unwrap()["nhi"]["provider"], "pc");
    assert_eq!(cloud.counts().by_model.len(), before, "nothing of it went out");
    pc.show(Light::Red).await;
    seen(&house, Some("cloud")).await;
    // The control: what may leave does.
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["provider"], "cloud");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_keeps_its_project_at_home() {
    let cloud = quick("m").await;
    let house = house(vec![BackendSettings { home: false, ..backend("cloud", &cloud, "m") }]).await;
    // While nothing is kept at home a name is only a name.
    let of_nobody = {
        let mut body = question("?", false);
        body["nhi"] = json!({ "project": "diry" });
        body
    };
    assert_eq!(house.ask(of_nobody.clone()).await.unwrap()["nhi"]["provider"], "cloud");
    house.project("shop", json!({})).await;
    house.project("diary", json!({ "privacy": "home" })).await;
    let of = |project: &str| {
        let mut body = question("?", false);
        body["nhi"] = json!({ "project": project });
        body
    };
    let fault = wait_for("the router to see it", SOON, async || house.ask(of("diary")).await.err()).await;
    assert_eq!(fault.code, "forbidden", "{fault}");
    // A name nobody knows may be the diary's with a letter wrong.
    let fault = house.ask(of_nobody).await.unwrap_err();
    assert_eq!(
        (fault.code.as_str(), &fault.details["field"]),
        ("bad-request", &json!("nhi.project")),
        "{fault}"
    );
    assert!(fault.message.contains("did you mean diary?"), "{fault}");
    // The control: another project's request leaves.
    assert_eq!(house.ask(of("shop")).await.unwrap()["nhi"]["provider"], "cloud");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_that_begins_in_the_middle_does_not_end_the_answer() {
    let model = ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (relay, other) = (server(model).await, quick("m").await);
    let house = house(vec![at_pc(&relay), backend("other", &other, "m")]).await;
    let pc = Pc::new(&house, &relay).await;
    pc.show(Light::Green).await;
    seen(&house, Some("pc")).await;
    house.known().await;
    for _ in 0..6 {
        relay.set_fault_on(Fault::Cut { tokens: 15 }, On::times(1));
        let told = house.read(question("Go on?", true)).await;
        assert_eq!((told.text(), told.fault.is_none()), (answer_text("Go on?", 60), true));
        assert_eq!((told.origin().provider.as_str(), told.origin().seams.len()), ("pc", 1));
    }
    // A relay that cuts says nothing against the machine: it is asked again as soon as its light allows.
    seen(&house, Some("pc")).await;
    house.cx.close().await;
}
