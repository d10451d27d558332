//! Who may say yes, and what a freeze, a hold and a broken policy do.

use crate::house::{House, NUMBERS};
use nhi_bus::{audit, plans};
use nhi_model::{
    act::{ActCancel, ActFreeze, ActFrozen, ActGot, ActHeld, ActHold, ActReject, ActRelease, ActThaw},
    audit::AuditKind,
    call::AuditList,
    identity::Role,
    intent::GuestRef,
    plan::{PlanRecord, Verdict},
    plans::PlansKey,
    run::{Reservation, RunState},
};
use serde_json::json;
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_needs_somebody_else() {
    let house = House::plain().await;
    let (agent, anna) =
        (house.person("aider", Role::Agent).await, house.person("anna", Role::Operator).await);
    let before = house.writes();
    let plan = agent.plan(json!({ "do": "destroy", "guest": "106" })).await.unwrap();
    assert_eq!(plan.gate.verdict, Verdict::Approval);
    assert_eq!(agent.apply(&plan, None).await.unwrap_err().code, "needs-approval");
    assert_eq!(house.refusals_of(&plan).await, ["needs-approval"]);
    assert_eq!(anna.approve(&plan, None).await.unwrap_err().code, "name-not-typed");
    assert_eq!(anna.approve(&plan, Some("stagin")).await.unwrap_err().code, "name-not-typed");
    assert_eq!(house.writes(), before);
    anna.approve(&plan, Some("staging")).await.unwrap();
    let applied = agent.apply(&plan, None).await.unwrap();
    let run = agent.end(&applied).await;
    assert!(matches!(run.state, RunState::Done { .. }), "{run:?}");
    assert_eq!(house.writes(), before + 1);
    // Told again, it is the same run.
    assert_eq!(agent.apply(&plan, None).await.unwrap().run, applied.run);
    assert_eq!(house.writes(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_approves_their_own_plan_and_a_no_is_a_no() {
    let house = House::plain().await;
    let (agent, anna) =
        (house.person("aider", Role::Agent).await, house.person("anna", Role::Operator).await);
    let own = anna.plan(json!({ "do": "shutdown", "guest": "209" })).await.unwrap();
    assert_eq!(own.gate.verdict, Verdict::Confirm);
    assert_eq!(anna.approve(&own, None).await.unwrap_err().code, "self-approval");
    let plan = agent.plan(json!({ "do": "shutdown", "guest": "209" })).await.unwrap();
    let no = ActReject { plan: plan.plan.id.clone(), reason: "not now".to_owned() };
    anna.call::<ActGot>("reject", &no).await.unwrap();
    assert_eq!(anna.approve(&plan, None).await.unwrap_err().code, "used");
    let mine = agent.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    let cancel = ActCancel { plan: mine.plan.id.clone() };
    agent.call::<ActGot>("cancel", &cancel).await.unwrap();
    assert_eq!(agent.apply(&mine, None).await.unwrap_err().code, "used");
    assert_eq!(house.writes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_stops_what_has_not_started() {
    let house = House::plain().await;
    let (agent, anna) =
        (house.person("aider", Role::Agent).await, house.person("anna", Role::Operator).await);
    let plan = agent.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    let frozen: ActFrozen = anna.call("freeze", &ActFreeze { reason: "party".to_owned() }).await.unwrap();
    assert!(frozen.frozen.is_some() && frozen.under_way.is_empty());
    assert_eq!(agent.apply(&plan, None).await.unwrap_err().code, "frozen");
    // Nor is anything planned, and the number it would have had is nobody's.
    let create = json!({ "do": "create-vm", "template": "9000", "new": { "name": "built" } });
    assert_eq!(agent.plan(create.clone()).await.unwrap_err().code, "frozen");
    let home = house.nats.connect(&house.cx, "home").await;
    let number = PlansKey::Vmid { cluster: "home".to_owned(), vmid: NUMBERS.0 };
    assert_eq!(plans::get::<Reservation>(&home, &number).await.unwrap().map(|row| row.value), None);
    assert_eq!(house.writes(), 0);
    anna.call::<ActFrozen>("thaw", &ActThaw {}).await.unwrap();
    let applied = agent.apply(&plan, None).await.unwrap();
    assert_eq!(agent.end(&applied).await.state.as_str(), "done");
    // The control: now it is kept.
    let made = agent.plan(create).await.unwrap().plan.id;
    let kept = plans::get::<Reservation>(&home, &number).await.unwrap().map(|row| row.value.plan);
    assert_eq!(kept, Some(made));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_guest_is_its_holders() {
    let house = House::plain().await;
    let (one, two) = (house.person("aider", Role::Agent).await, house.person("codex", Role::Agent).await);
    let guest = GuestRef::parse("106").unwrap();
    let hold = ActHold { guest: guest.clone(), minutes: 5, reason: "in the middle of it".to_owned() };
    one.call::<ActHeld>("hold", &hold).await.unwrap();
    assert_eq!(two.plan(json!({ "do": "start", "guest": "106" })).await.unwrap_err().code, "held");
    assert_eq!(
        two.call::<ActHeld>("release", &ActRelease { guest: guest.clone() }).await.unwrap_err().code,
        "held"
    );
    let own = one.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    one.call::<ActHeld>("release", &ActRelease { guest: guest.clone() }).await.unwrap();
    // One that was made before the hold is not carried out during it; the holder's own is.
    let others = two.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    one.call::<ActHeld>("hold", &hold).await.unwrap();
    let fault = two.apply(&others, None).await.unwrap_err();
    assert!(fault.code == "held" && fault.details["plan"] == others.plan.id.as_str(), "{fault:?}");
    assert_eq!(house.refusals_of(&others).await, ["held"]);
    assert_eq!(house.writes(), 0);
    one.apply(&own, None).await.unwrap();
}

impl House {
    /// Codes of the refusals that the audit log has of a plan.
    async fn refusals_of(&self, record: &PlanRecord) -> Vec<String> {
        let home = self.nats.connect(&self.cx, "home").await;
        let listed = audit::list(&home, &AuditList::default()).await.unwrap();
        let refused = listed.entries.into_iter().map(|row| row.entry).filter(|entry| {
            entry.kind == AuditKind::PlanRefused
                && entry.details.get("plan").is_some_and(|id| *id == record.plan.id.as_str())
        });
        refused.map(|entry| entry.details["code"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_policy_widens_nothing() {
    let house = House::open(&json!({ "services": {} }), "[operations]\nnever = [\"start\"]\n").await;
    let agent = house.person("aider", Role::Agent).await;
    let start = json!({ "do": "start", "guest": "106" });
    assert_eq!(agent.plan(start.clone()).await.unwrap_err().code, "never");
    fs::write(house.policy(), "[operations]\nautomatc = [\"start\"]\n").unwrap();
    house
        .shows("the alert about the policy", |state| {
            state.records.keys().any(|key| key.as_str() == "alert.act.policy-broken")
        })
        .await;
    assert_eq!(agent.plan(start.clone()).await.unwrap_err().code, "never");
    fs::write(house.policy(), "# Nothing but the defaults.\n").unwrap();
    house
        .shows("the alert to go", |state| {
            !state.records.keys().any(|key| key.as_str() == "alert.act.policy-broken")
        })
        .await;
    agent.plan(start).await.unwrap();
}
