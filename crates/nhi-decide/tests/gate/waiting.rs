//! What was allowed once and is not any more: a plan when it is applied, a run that waited when it is due, and a
//! take-back that has to be tried again.

use crate::{
    lab::{Lab, key, lab, name, now, plan, power_plan, record_of},
    planned::try_planned,
    steps::{clone, power, snapshot, snapshot_delete},
};
use jiff::SignedDuration;
use nhi_decide::{
    gate::{self, Recent, Start},
    policy, switch,
};
use nhi_model::{
    guest::GuestStatus,
    identity::Role,
    intent::{GuestRef, Intent, Operation},
    plan::{Approval, Gate, Plan, PlanRecord, PlanState, Verdict},
    refusal::{Refusal, RefusalCode},
    run::RunId,
};

fn recheck(lab: &Lab, plan: &Plan) -> Result<(), RefusalCode> {
    let recent = Recent::default();
    let input = lab.input(plan, Role::Operator, &recent);
    let harmless = gate::harmless(&input).map_err(|refusal| refusal.code);
    let checked = gate::recheck(&input).map(drop).map_err(|refusal| {
        assert!(!refusal.hint.is_empty() && refusal.guest.is_some(), "{refusal:?}");
        refusal.code
    });
    assert_eq!(harmless, checked);
    checked
}

#[test]
fn who_was_protected_since_is_not_harmed() {
    let mut lab = lab();
    let stop = power_plan(&lab, Operation::Stop, 105);
    let start = power_plan(&lab, Operation::Start, 107);
    let all = |steps| plan(&lab, Intent::All { of: vec![] }, steps);
    let own = all(vec![snapshot(105, "pve1", "s1"), snapshot_delete(105, "pve1", "s1")]);
    let others = all(vec![snapshot(105, "pve1", "s1"), snapshot_delete(105, "pve1", "before")]);
    let mut back = all(vec![snapshot(105, "pve1", "s1")]);
    back.steps[0].compensation = Some(Box::new(snapshot_delete(105, "pve1", "s1")));
    let mut harms_back = start.clone();
    harms_back.steps[0].compensation = Some(Box::new(power(Operation::Stop, 107, "pve2")));
    let born = all(vec![clone(9000, 300, "pve1", "made"), power(Operation::Stop, 300, "pve1")]);
    for free in [&stop, &start, &own, &others, &back, &harms_back, &born] {
        assert_eq!(recheck(&lab, free), Ok(()), "{:?}", free.steps);
    }
    for protected in [
        "guests = [\"web\", \"107\", \"300\"]",
        "guests = [\"home/105\", \"idle\", \"made\"]",
        "guests = [\"vm.home.105\", \"tag:lab\"]",
    ] {
        lab.policy = policy::parse(&format!("[protected]\n{protected}")).unwrap();
        for harmed in [&stop, &others, &harms_back] {
            assert_eq!(recheck(&lab, harmed), Err(RefusalCode::Protected), "{protected}: {:?}", harmed.steps);
        }
        // What harms nobody, what takes its own away again, and what is the plan's own.
        for free in [&start, &own, &back, &born] {
            assert_eq!(recheck(&lab, free), Ok(()), "{protected}: {:?}", free.steps);
        }
    }
    // A tag that it has now protects it, whatever it had when the plan was made.
    lab.policy_of("[protected]\ntags = [\"keep\"]");
    assert_eq!(recheck(&lab, &stop), Ok(()));
    lab.known.get_mut(&key(105)).unwrap().record["tags"] = serde_json::json!(["Keep"]);
    assert_eq!(recheck(&lab, &stop), Err(RefusalCode::Protected));
}

/// A run of a plan that was applied twenty minutes ago, hours after nobody knows what changed.
fn may_start(lab: &Lab, record: &PlanRecord, (by, role): (&str, Role), asker: Role) -> Result<Gate, Refusal> {
    let (by, recent) = (name(by), Recent::default());
    let applied_at = now() - SignedDuration::from_mins(20);
    let input = lab.input(&record.plan, asker, &recent);
    gate::may_start(&Start { record, by: &by, role, applied_at, input })
}

fn applied(mut record: PlanRecord, approvers: &[&str]) -> PlanRecord {
    let at = now() - SignedDuration::from_mins(21);
    record.approvals = approvers
        .iter()
        .map(|by| Approval {
            by: name(by),
            digest: record.plan.digest().clone(),
            at,
            expires_at: at + SignedDuration::from_mins(10),
        })
        .collect();
    let (run, at) = (RunId::parse("r-abcd1234").unwrap(), now() - SignedDuration::from_mins(20));
    record.state = PlanState::Applied { run, by: name("aider"), at };
    record
}

#[test]
fn a_run_that_waited_starts_by_the_roles_and_the_approvals_of_today() {
    let mut lab = lab();
    let stop = |approvers: &[&str]| {
        applied(record_of(power_plan(&lab, Operation::Stop, 105), Verdict::Approval, 1), approvers)
    };
    let (one, two, none) = (stop(&["ada"]), stop(&["ada", "eve"]), stop(&[]));
    let code = |lab: &Lab, record, by, asker| {
        may_start(lab, record, by, asker).map(|gate| gate.verdict).map_err(|refusal| refusal.code)
    };
    let (agent, ada) = (("aider", Role::Agent), ("ada", Role::Operator));
    // What was approved when it was applied stays so, however long it waited since.
    assert_eq!(code(&lab, &one, agent, Role::Agent), Ok(Verdict::Approval));
    assert_eq!(code(&lab, &one, ada, Role::Agent), Ok(Verdict::Approval));
    // Whoever applied it is nobody now, or may not apply others' plans; whoever asked is nobody now.
    assert_eq!(code(&lab, &one, ("ada", Role::Viewer), Role::Agent), Err(RefusalCode::Never));
    assert_eq!(code(&lab, &one, ("ada", Role::Agent), Role::Agent), Err(RefusalCode::Never));
    assert_eq!(code(&lab, &one, ada, Role::Viewer), Err(RefusalCode::Never));
    // Who approved it may not any more.
    let refused = may_start(&lab, &none, agent, Role::Agent).unwrap_err();
    assert_eq!(refused.code, RefusalCode::NeedsApproval);
    assert!(refused.hint.contains("new plan"), "{refused:?}");
    // Policy wants more than it did, or has it rehearsed.
    lab.policy_of("[approval]\ntwo_people = [\"stop\"]");
    assert_eq!(code(&lab, &one, agent, Role::Agent), Err(RefusalCode::NeedsApproval));
    assert_eq!(code(&lab, &two, agent, Role::Agent), Ok(Verdict::Approval));
    lab.policy_of("[caution]\nrehearse = [\"stop\"]");
    assert_eq!(code(&lab, &one, agent, Role::Agent), Err(RefusalCode::RehearsalDiffers));
    lab.policy_of("[protected]\nguests = [\"web\"]");
    assert_eq!(code(&lab, &one, agent, Role::Agent), Err(RefusalCode::Protected));
    lab.policy_of("[hours]\nquiet = [13]");
    assert!(may_start(&lab, &one, agent, Role::Agent).unwrap().not_before.is_some());
}

#[test]
fn what_a_guest_is_like_now_is_no_last_word_about_taking_a_run_back() {
    let mut lab = lab();
    lab.add(108, "asleep", "pve1", GuestStatus::Paused, "");
    let shut =
        |vmid| Intent::Shutdown { guest: GuestRef::key(&key(vmid)), with_dependents: false, timeout_s: None };
    let paused = try_planned(&lab, &shut(108)).unwrap_err();
    assert_eq!(paused.code, RefusalCode::NotPossible);
    assert!(!switch::is_final(&paused), "{paused:?}");
    // The controls: nothing to do, and what the plan itself cannot be taken back for.
    assert!(switch::is_final(&try_planned(&lab, &shut(107)).unwrap_err()));
    assert!(switch::is_final(&Refusal::new(RefusalCode::NotPossible, "it cannot be taken back", "By hand.")));
    assert!(!switch::is_final(&Refusal::new(RefusalCode::Locked, "it is locked", "Wait.")));
}
