//! What was allowed once and is not any more: a run that waits for its hour is judged when that comes, by what holds
//! then, and a plan when it is applied. Hours are of UTC; what is due is made so as HOME.

use crate::house::{House, SOON};
use jiff::tz::TimeZone;
use nhi_bus::{
    audit,
    plans::{self, PlansChange},
};
use nhi_model::{
    Timestamp,
    act::{ActCancel, ActGot, ActPlan},
    audit::AuditKind,
    call::AuditList,
    envelope::OpId,
    identity::Role,
    plans::PlansKey,
    run::{Run, RunId, RunState},
};
use nhi_testkit::{Person, wait_for, wish};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// What waits: 209 runs.
fn shutdown() -> Value {
    json!({ "do": "shutdown", "guest": "209" })
}

fn hour_of(moment: Timestamp) -> u8 {
    u8::try_from(moment.to_zoned(TimeZone::UTC).hour()).unwrap()
}

/// The hour that begins so many hours from the one now.
fn hour_in(hours: u64) -> u8 {
    hour_of(Timestamp::now() + Duration::from_secs(3600 * hours))
}

/// A policy in which agents only start something in this hour, and `careful` only what somebody approved.
fn policy(open: u8, more: &str) -> String {
    let quiet: Vec<u8> = (0..24).filter(|hour| *hour != open).collect();
    format!(
        "[operations]\nautomatic = [\"shutdown\"]\n{more}\n[identities.careful]\napproval = [\"shutdown\"]\n[hours]\nquiet = {quiet:?}\n"
    )
}

/// What changes while a run waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Hours,
    Never,
    Protection,
    Asker,
    Approver,
}

impl House {
    fn run(&self, id: &RunId) -> Run {
        self.plans.read().runs[id].value.clone()
    }

    /// Changes a run's record, and waits until that is seen.
    async fn change_run(&self, id: &RunId, change: impl Fn(&mut Run)) {
        let (home, key) = (self.nats.connect(&self.cx, "home").await, PlansKey::Run(id.clone()));
        let revision = wait_for("the run to be changed", SOON, async || {
            let mut row = plans::get::<Run>(&home, &key).await.unwrap().ok_or("no run")?;
            change(&mut row.value);
            let change = PlansChange::put(key.clone(), row.revision, &row.value);
            let op = OpId(uuid::Uuid::new_v4().to_string());
            plans::commit(&home, &op, Timestamp::now(), &[change]).await.map_err(|_| "lost")
        })
        .await;
        drop(tokio::time::timeout(SOON, self.plans.reached(revision)).await.unwrap());
    }

    /// Its hour has come.
    async fn bring_on(&self, id: &RunId) {
        self.change_run(id, |run| {
            if let RunState::Waiting { not_before, .. } = &mut run.state {
                *not_before = Some(Timestamp::now() - Duration::from_secs(1));
            }
        })
        .await;
    }

    /// A run that waits for its hour.
    async fn waiting(&self, agent: &Person, approver: Option<&Person>) -> RunId {
        let record = agent.plan(shutdown()).await.unwrap();
        if let Some(approver) = approver {
            approver.approve(&record, None).await.unwrap();
        }
        let applied = agent.apply(&record, None).await.unwrap();
        let is_later =
            matches!(applied.state, RunState::Waiting { not_before: Some(at), .. } if at > Timestamp::now());
        assert!(is_later, "{applied:?}");
        applied.run
    }

    async fn change(&self, change: Change) {
        let (open, more) = match change {
            Change::Nothing => (hour_in(3), ""),
            Change::Hours => (hour_in(5), ""),
            Change::Never => (hour_in(3), "never = [\"shutdown\"]"),
            Change::Protection => (hour_in(3), "[protected]\nguests = [\"209\"]"),
            Change::Asker => return self.nats.revoke("aider").await,
            Change::Approver => return self.nats.revoke("otto").await,
        };
        fs::write(self.policy(), policy(open, more)).unwrap();
    }

    /// Waits until it says why it does not start.
    async fn says_why(&self, id: &RunId, change: Change) {
        let why = match change {
            Change::Nothing | Change::Hours => "",
            Change::Never => "[operations]",
            Change::Protection => "policy protects 209",
            Change::Asker => "aider is no longer among the identities",
            Change::Approver => "(otto may not approve any more)",
        };
        let hour = hour_in(if change == Change::Hours { 5 } else { 3 });
        wait_for(&format!("{change:?} to be told"), SOON, async || match self.run(id).state {
            RunState::Waiting { not_before: Some(at), reason }
                if why.is_empty() && at > Timestamp::now() && hour_of(at) == hour =>
            {
                assert!(reason.contains("policy lets it start at"), "{reason}");
                Ok(())
            }
            RunState::Failed { text } if !why.is_empty() && text.contains(why) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let ends = self.ends_of(id).await;
        assert_eq!(ends, if why.is_empty() { vec![] } else { vec!["failed"] }, "{change:?}");
    }

    /// The ends of a run in the audit log.
    async fn ends_of(&self, id: &RunId) -> Vec<String> {
        let home = self.nats.connect(&self.cx, "home").await;
        let listed = audit::list(&home, &AuditList::default()).await.unwrap();
        let ends = listed
            .entries
            .into_iter()
            .map(|row| row.entry)
            .filter(|entry| entry.kind == AuditKind::RunEnded && entry.details["run"] == id.as_str());
        ends.map(|entry| entry.details["state"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_due_while_nobody_acted_is_judged_before_it_starts() {
    let mut house = House::open(&json!({ "services": {} }), &policy(hour_in(3), "")).await;
    let (anna, otto) =
        (house.person("anna", Role::Operator).await, house.person("otto", Role::Operator).await);
    let (aider, careful) =
        (house.person("aider", Role::Agent).await, house.person("careful", Role::Agent).await);
    let before = house.writes();
    for change in
        [Change::Nothing, Change::Hours, Change::Never, Change::Protection, Change::Approver, Change::Asker]
    {
        let id = match change {
            Change::Approver => house.waiting(&careful, Some(&otto)).await,
            _ => house.waiting(&aider, None).await,
        };
        house.stop_acting().await;
        house.change(change).await;
        house.bring_on(&id).await;
        house.act().await;
        house.says_why(&id, change).await;
        assert_eq!(house.writes(), before, "{change:?}");
        if !house.run(&id).state.is_over() {
            anna.call::<ActGot>("cancel", &ActCancel { plan: id.plan() }).await.unwrap();
        }
        house.stop_acting().await;
        fs::write(house.policy(), policy(hour_in(3), "")).unwrap();
        house.act().await;
    }
    // The control: in its hour it starts.
    let id = house.waiting(&careful, Some(&anna)).await;
    house.stop_acting().await;
    fs::write(house.policy(), policy(hour_in(0), "")).unwrap();
    house.bring_on(&id).await;
    house.act().await;
    wait_for("the run to be done", SOON, async || {
        let state = house.run(&id).state;
        if matches!(state, RunState::Done { .. }) { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    assert_eq!(house.writes(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_a_run_waits_is_told_before_its_hour() {
    let house = House::open(&json!({ "services": {} }), &policy(hour_in(3), "")).await;
    let aider = house.person("aider", Role::Agent).await;
    let before = house.writes();
    let id = house.waiting(&aider, None).await;
    for change in [Change::Hours, Change::Protection] {
        house.change(change).await;
        house.says_why(&id, change).await;
    }
    assert_eq!(house.writes(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_protected_since_is_not_harmed_by_an_older_plan() {
    let house = House::plain().await;
    let anna = house.person("anna", Role::Operator).await;
    let before = house.writes();
    let plans = [anna.plan(shutdown()).await.unwrap(), anna.plan(shutdown()).await.unwrap()];
    fs::write(house.policy(), "[protected]\nguests = [\"209\"]\n").unwrap();
    wait_for("the policy to hold", SOON, async || match anna.plan(shutdown()).await {
        Err(fault) if fault.code == "protected" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let fault = anna.apply(&plans[0], None).await.unwrap_err();
    assert_eq!(fault.code, "protected", "{fault}");
    assert_eq!(house.writes(), before);
    // The control: one that nobody protects goes.
    fs::write(house.policy(), "# Nothing but the defaults.\n").unwrap();
    wait_for("the policy to hold", SOON, async || anna.plan(shutdown()).await.map(drop)).await;
    let run = anna.end(&anna.apply(&plans[1], None).await.unwrap()).await;
    assert_eq!(run.state.as_str(), "done", "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_not_kept_keeps_no_number() {
    let house = House::plain().await;
    let anna = house.person("anna", Role::Operator).await;
    let create = json!({ "do": "create-vm", "template": "9000", "new": { "name": "built" } });
    // There is no program that could rehearse it.
    let fault = anna.ask(&ActPlan { rehearse: true, ..wish(create.clone()) }).await.unwrap_err();
    assert!(fault.message.contains("could not be rehearsed"), "{fault}");
    let kept = anna.plan(create).await.unwrap();
    wait_for("its number alone to be kept", SOON, async || {
        let vmids = house.plans.read().vmids.clone();
        let plans: Vec<_> = vmids.values().map(|row| row.value.plan.clone()).collect();
        if plans == [kept.plan.id.clone()] { Ok(()) } else { Err(format!("{plans:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_destroyed_counts_from_its_end_however_long_it_waited() {
    let house = House::open(&json!({ "services": {} }), "[limits]\ndestroys_per_day = 1\n").await;
    let anna = house.person("anna", Role::Operator).await;
    let destroy = |guest: &str| json!({ "do": "destroy", "guest": guest });
    let record = anna.plan(destroy("106")).await.unwrap();
    let run = anna.end(&anna.apply(&record, Some("staging")).await.unwrap()).await;
    assert_eq!(run.state.as_str(), "done", "{run:?}");
    let ago = |hours: u64| Timestamp::now() - Duration::from_secs(3600 * hours);
    house.change_run(&run.id, |run| run.at = ago(30)).await;
    assert_eq!(anna.plan(destroy("212")).await.unwrap_err().code, "quota");
    // The control: that was yesterday.
    house.change_run(&run.id, |run| run.ended_at = Some(ago(25))).await;
    wait_for("the desk to see when it ended", SOON, async || {
        anna.plan(destroy("212")).await.map_err(|fault| fault.to_string())
    })
    .await;
}
