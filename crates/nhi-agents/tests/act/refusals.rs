//! Everything that must be refused, with its code, and with no write at the lab.

use crate::house::House;
use nhi_model::{identity::Role, plan::Digest, refusal::RefusalCode};
use nhi_sim::{Edit, Fault as LabFault, PowerWord};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the house's services need: the shop needs the database's guest, and the front needs the shop.
fn graph() -> Value {
    json!({ "services": {
        "mariadb": { "required_by": ["photos"] },
        "photos": { "depends_on": ["mariadb"], "required_by": ["reverse-proxy"] },
        "reverse-proxy": { "depends_on": ["photos"] },
    }})
}

const POLICY: &str = "
[protected]
guests = [\"dns-secondary\", \"211\"]
tags = [\"nh-critical\"]
flag = true
[operations]
never = [\"reset\"]
[limits]
guests_per_plan = 3
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_is_refused_without_a_write() {
    let house = House::open(&graph(), POLICY).await;
    let agent = house.person("aider", Role::Agent).await;
    let before = house.writes();
    for (intent, code) in [
        (json!({ "do": "stop", "guest": "dns-secondary" }), RefusalCode::Protected),
        (json!({ "do": "shutdown", "guest": "211" }), RefusalCode::Protected),
        (json!({ "do": "destroy", "guest": "truenas" }), RefusalCode::Protected),
        (json!({ "do": "migrate", "guest": "postgres", "node": "pve2" }), RefusalCode::Protected),
        (json!({ "do": "stop", "guest": "100" }), RefusalCode::Ourselves),
        (json!({ "do": "set", "guest": "neural-home", "settings": { "cores": 1 } }), RefusalCode::Ourselves),
        (json!({ "do": "shutdown", "guest": "photos" }), RefusalCode::DependentsRunning),
        (json!({ "do": "shutdown", "guest": "mariadb" }), RefusalCode::DependentsRunning),
        (json!({ "do": "reset", "guest": "107" }), RefusalCode::Never),
        (json!({ "do": "destroy", "guest": "208" }), RefusalCode::Running),
        (json!({ "do": "destroy", "guest": "209" }), RefusalCode::Running),
        // Its copies lie on LVM-thin, where no configuration tells that they are linked.
        (json!({ "do": "destroy", "guest": "9000" }), RefusalCode::LinkedClones),
        (json!({ "do": "start", "guest": "nobody" }), RefusalCode::UnknownGuest),
        (json!({ "do": "resize", "guest": "106", "disk": "scsi0", "size_gib": 1 }), RefusalCode::BadValue),
        (json!({ "do": "rollback", "guest": "106", "name": "never-made" }), RefusalCode::Unknown),
        (json!({ "do": "snapshot", "guest": "106", "name": "../../x" }), RefusalCode::BadValue),
        (json!({ "do": "set", "guest": "106", "settings": {} }), RefusalCode::BadValue),
        (json!({ "do": "migrate", "guest": "106", "node": "pve9" }), RefusalCode::Unknown),
        (json!({ "do": "shutdown", "guest": "tag:media" }), RefusalCode::DependentsRunning),
        (json!({ "do": "undo", "plan": "p-0000nothing" }), RefusalCode::Unknown),
        (json!({ "do": "service-up", "service": "no-such" }), RefusalCode::Unknown),
        (json!({ "do": "all", "of": [] }), RefusalCode::NothingToDo),
        (json!({ "do": "clone", "guest": "107", "new": { "name": "a b; rm -rf /" } }), RefusalCode::BadValue),
    ] {
        let refused = agent.plan(intent.clone()).await;
        let fault = refused.expect_err(&format!("{intent} must be refused"));
        assert_eq!(fault.code, code.as_str(), "{intent}: {fault}");
        assert!(!fault.hint.is_empty() && fault.message.len() > 10, "{intent}: {fault}");
        assert_eq!(house.writes(), before, "{intent} was refused and wrote");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_lab_is_like_now_counts_and_not_what_was_scanned() {
    let house = House::plain().await;
    let agent = house.person("aider", Role::Agent).await;
    let before = house.writes();
    let config = |key: &str, value: &str| Edit::Config {
        set: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        delete: Vec::new(),
    };
    // The scanner has not seen any of this yet, or not all of it.
    house.lab.with_lab(|lab| lab.edit(106, config("lock", "backup"))).unwrap();
    let fault = agent.plan(json!({ "do": "start", "guest": "106" })).await.unwrap_err();
    assert_eq!(fault.code, "locked", "{fault}");
    house.lab.with_lab(|lab| lab.edit(107, config("protection", "1"))).unwrap();
    let fault = agent.plan(json!({ "do": "shutdown", "guest": "107" })).await.unwrap_err();
    assert_eq!(fault.code, "protected", "{fault}");
    let away = LabFault::NodeOffline { node: "pve3".to_owned(), code: 595, power_cut: false };
    let away = house.lab.set_fault(away).unwrap();
    let fault = agent.plan(json!({ "do": "start", "guest": "212" })).await.unwrap_err();
    assert_eq!(fault.code, "node-offline", "{fault}");
    house.lab.clear_fault(away).unwrap();
    let lost = house.lab.set_fault(LabFault::QuorumLost {}).unwrap();
    let fault = agent.plan(json!({ "do": "start", "guest": "212" })).await.unwrap_err();
    assert_eq!(fault.code, "no-quorum", "{fault}");
    house.lab.clear_fault(lost).unwrap();
    let (principal, privilege) = (house.lab.act_token.id.clone(), Some("VM.PowerMgmt".to_owned()));
    let lost = house.lab.set_fault(LabFault::RightsLost { principal, path: None, privilege }).unwrap();
    let fault = agent.plan(json!({ "do": "start", "guest": "212" })).await.unwrap_err();
    assert_eq!(fault.code, "no-rights", "{fault}");
    house.lab.clear_fault(lost).unwrap();
    assert_eq!(house.writes(), before);
    // The control: with everything in order it is planned.
    agent.plan(json!({ "do": "start", "guest": "212" })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_worth_only_what_it_was_made_on() {
    let house = House::plain().await;
    let owner = house.person("olga", Role::Operator).await;
    let before = house.writes();
    // Somebody starts it by hand: the plan is void before the first call.
    let plan = owner.plan(json!({ "do": "snapshot", "guest": "212", "name": "before" })).await.unwrap();
    house.lab.with_lab(|lab| lab.edit(212, Edit::Power { to: PowerWord::Running })).unwrap();
    let key = nhi_model::key::Key::parse("lxc.home.212").unwrap();
    house
        .shows("the scanner to see it", |state| {
            state.records.get(&key).is_some_and(|entry| entry.stored.record["status"] == "running")
        })
        .await;
    let fault = owner.apply(&plan, None).await.unwrap_err();
    assert_eq!(fault.code, "stale", "{fault}");
    // A wrong digest, and one that was used.
    let mut plan = owner.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    let digest = plan.plan.digest.replace(Digest::of([7; 32]));
    assert_eq!(owner.apply(&plan, None).await.unwrap_err().code, "wrong-digest");
    assert_eq!(house.writes(), before, "refusals wrote");
    plan.plan.digest = digest;
    let applied = owner.apply(&plan, None).await.unwrap();
    let run = owner.end(&applied).await;
    assert_eq!(run.state.as_str(), "done", "{run:?}");
    let again = house.person("otto", Role::Operator).await;
    assert_eq!(again.apply(&plan, None).await.unwrap_err().code, "used");
    assert_eq!(house.writes(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_guest_with_the_number_is_left_alone() {
    let house = House::plain().await;
    let owner = house.person("olga", Role::Operator).await;
    let plan = owner.plan(json!({ "do": "destroy", "guest": "106" })).await.unwrap();
    let stranger =
        json!({ "vmid": 106, "kind": "qemu", "node": "pve1", "name": "staging", "config": { "cores": 1 } });
    let stranger = serde_json::from_value(stranger).unwrap();
    house.lab.with_lab(|lab| lab.edit(106, Edit::Replace { guest: stranger })).unwrap();
    let before = house.writes();
    // Applied at once, the records may still show the old one; the live look before the first call does not.
    match owner.apply(&plan, Some("staging")).await {
        Err(fault) => assert!(["stale", "other-guest"].contains(&fault.code.as_str()), "{fault}"),
        Ok(applied) => {
            let run = owner.end(&applied).await;
            assert_eq!(run.state.as_str(), "failed", "{run:?}");
        }
    }
    assert_eq!(house.writes(), before, "the stranger was touched");
}
