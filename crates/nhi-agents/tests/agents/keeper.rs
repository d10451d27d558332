//! The keeper's services, called by those who may.

use crate::house::{House, SOON};
use nhi_bus::{
    call::{CallError, call},
    connect::Bus,
};
use nhi_model::{
    call::{
        At, AuditVerified, AuditVerify, AuthList, AuthListed, AuthWhoami, IdentityInfo, RecordDiff,
        StateDiff, StateDiffed, StateGet, StateGot, StateHistoried, StateHistory, StateReport, StateReported,
    },
    identity::Role,
    key::Key,
    lab::Host,
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_told_now_and_then() {
    let house = House::scanned().await;
    let keeper = house.start_keeper().await;
    let owner = house.nats.connect(&house.cx, "owner").await;
    let got: StateGot = call(&owner, "state", "get", &StateGet::default()).await.unwrap();
    assert!(got.records.len() > 25 && got.stale.is_none() && got.next.is_none());
    assert!(got.sources["proxmox-home"].age_s.is_some(), "{:?}", got.sources);

    let request = StateGet { select: vec!["vm.home.100".to_owned()], live: true, ..StateGet::default() };
    let one: StateGot = call(&owner, "state", "get", &request).await.unwrap();
    let record = &one.records[&Key::parse("vm.home.100").unwrap()];
    assert!(record.live.is_some() && one.sources.contains_key("proxmox-home"));

    let before = got.revision;
    let all = page_by_page(&owner, None).await;
    assert!(all.keys().eq(got.records.keys()));

    house.lab.with_lab(|lab| {
        lab.guests.get_mut(&100).unwrap().config.insert("tags".to_owned(), "renamed".to_owned());
    });
    house.pass().await;
    let diff: StateDiffed =
        call(&owner, "state", "diff", &StateDiff { from: At::Revision(before), to: None }).await.unwrap();
    let changed = &diff.changes[&Key::parse("vm.home.100").unwrap()];
    assert!(matches!(changed, RecordDiff::Changed { .. }), "{diff:?}");
    assert_eq!(page_by_page(&owner, Some(At::Revision(before))).await, all, "as it was, in pages too");
    let past = StateGet {
        at: Some(At::Revision(before)),
        select: vec!["vm.home.100".to_owned()],
        ..StateGet::default()
    };
    let past: StateGot = call(&owner, "state", "get", &past).await.unwrap();
    assert_eq!(
        past.records[&Key::parse("vm.home.100").unwrap()].record["tags"],
        json!(["core", "nh-critical"])
    );
    let request = StateHistory { select: "vm.home.100".to_owned(), since: None, limit: None };
    let history: StateHistoried = call(&owner, "state", "history", &request).await.unwrap();
    assert!(history.versions.len() >= 2);

    let bad = StateGet { select: vec!["nonsense".to_owned()], ..StateGet::default() };
    let error = call::<_, StateGot>(&owner, "state", "get", &bad).await.unwrap_err();
    assert!(matches!(&error, CallError::Fault { fault, .. } if fault.status() == 400), "{error:?}");
    keeper.stop().await;
    house.cx.close().await;
}

/// All records, ten at a time, and the revision and value of each.
async fn page_by_page(owner: &Bus, at: Option<At>) -> BTreeMap<Key, (u64, Value)> {
    let mut request = StateGet { at, limit: Some(10), ..StateGet::default() };
    let mut all = BTreeMap::new();
    loop {
        let page: StateGot = call(owner, "state", "get", &request).await.unwrap();
        assert!(page.sources.contains_key("proxmox-home"), "every page tells how far to trust it");
        all.extend(page.records.into_iter().map(|(key, row)| (key, (row.revision, row.record))));
        request.at = Some(At::Revision(page.revision));
        let Some(next) = page.next else { return all };
        request.cursor = Some(next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reports_about_itself_only() {
    let house = House::empty().await;
    let _keeper = house.start_keeper().await;
    house.nats.add("gaming-pc", Role::Edge).await;
    let pc = house.nats.connect(&house.cx, "gaming-pc").await;
    let report = |os: &str, cpu: f64| StateReport {
        os: Some(os.to_owned()),
        version: None,
        facts: BTreeMap::from([("host".to_owned(), json!("vm.home.100"))]),
        gauges: BTreeMap::from([("cpu".to_owned(), json!(cpu))]),
        gpu: None,
    };
    let first: StateReported = call(&pc, "state", "report", &report("Windows 11", 0.1)).await.unwrap();
    let again: StateReported = call(&pc, "state", "report", &report("Windows 11", 0.9)).await.unwrap();
    assert_eq!(first, again, "gauges are no facts");
    let changed: StateReported = call(&pc, "state", "report", &report("Windows 12", 0.9)).await.unwrap();
    assert!(changed.revision > first.revision);
    house.shown(changed.revision).await;
    let host: Host = house.record("host.gaming-pc");
    assert_eq!((host.host.as_str(), host.os.as_deref()), ("gaming-pc", Some("Windows 12")));

    let many = (0..65).map(|n| (format!("fact{n}"), json!(n))).collect();
    let report = StateReport { os: None, version: None, facts: many, gauges: BTreeMap::new(), gpu: None };
    let error = call::<_, StateReported>(&pc, "state", "report", &report).await.unwrap_err();
    assert!(matches!(&error, CallError::Fault { fault, .. } if fault.status() == 413), "{error:?}");
    let error = call::<_, StateGot>(&pc, "state", "get", &StateGet::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }), "{error:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_the_audit_log_are_told() {
    let house = House::empty().await;
    let _keeper = house.start_keeper().await;
    house.nats.add("aider", Role::Agent).await;
    let aider = house.nats.connect(&house.cx, "aider").await;
    let me: IdentityInfo = call(&aider, "auth", "whoami", &AuthWhoami {}).await.unwrap();
    assert_eq!((me.name.as_str(), me.role), ("aider", Some(Role::Agent)));
    let all: AuthListed = call(&aider, "auth", "list", &AuthList {}).await.unwrap();
    assert!(all.identities.iter().any(|identity| identity.name.as_str() == "owner"));
    let verified: AuditVerified = call(&aider, "audit", "verify", &AuditVerify {}).await.unwrap();
    assert!(verified.intact);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_a_newer_program_is_an_alert() {
    let house = House::empty().await;
    let _keeper = house.start_keeper().await;
    let raw = house.nats.raw("home").await;
    raw.publish("$KV.nhi-state.host.future", r#"{"v":99,"shape":"unknown"}"#.into()).await.unwrap();
    raw.flush().await.unwrap();
    wait_for("the alert", SOON, async || {
        house.alerts().iter().any(|alert| alert.starts_with("alert.state.unreadable"))
    })
    .await;
    assert!(house.stored("host.future").is_none());
    house.cx.close().await;
}
