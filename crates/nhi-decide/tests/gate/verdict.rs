//! Automatic, confirm, approval, refused: each rule on both sides of its border, and that rules only ever narrow.

use crate::{
    lab::{Lab, intent, lab, name, now, plan, power_plan},
    steps::{destroy, power, snapshot},
};
use nhi_decide::{
    gate::{self, Input, Recent},
    policy,
};
use nhi_model::{
    identity::Role,
    intent::{Intent, Operation},
    plan::{Gate, Plan, STEPS_MAX, Verdict},
    policy::{Policy, Rules},
    refusal::{Refusal, RefusalCode},
    run::Freeze,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn judge(lab: &Lab, plan: &Plan, role: Role) -> Result<Gate, Refusal> {
    gate::gate(&lab.input(plan, role, &Recent::default()))
}

fn verdict(lab: &Lab, plan: &Plan, role: Role) -> Result<Verdict, RefusalCode> {
    judge(lab, plan, role).map(|gate| gate.verdict).map_err(|refusal| refusal.code)
}

fn under(text: &str) -> Lab {
    let mut lab = lab();
    lab.policy_of(text);
    lab
}

#[test]
fn the_default_lets_agents_start_and_snapshot() {
    let lab = lab();
    let start = power_plan(&lab, Operation::Start, 107);
    let stop = power_plan(&lab, Operation::Stop, 105);
    let snap = plan(&lab, intent(Operation::Snapshot, 105), vec![snapshot(105, "pve1", "s1")]);
    assert_eq!(verdict(&lab, &start, Role::Agent), Ok(Verdict::Automatic));
    assert_eq!(verdict(&lab, &snap, Role::Agent), Ok(Verdict::Automatic));
    assert_eq!(verdict(&lab, &stop, Role::Agent), Ok(Verdict::Approval));
    let gate = judge(&lab, &stop, Role::Agent).unwrap();
    assert_eq!(gate.approvals, 1);
    assert!(gate.reasons.iter().any(|why| why.contains("stop stands nowhere")), "{gate:?}");
    // A person confirms what is theirs, whatever it is.
    for role in [Role::Operator, Role::Owner] {
        for plan in [&start, &stop, &snap] {
            assert_eq!(verdict(&lab, plan, role), Ok(Verdict::Confirm));
            assert_eq!(judge(&lab, plan, role).unwrap().approvals, 0);
        }
    }
    for role in [Role::Viewer, Role::Edge, Role::Service] {
        assert_eq!(verdict(&lab, &start, role), Err(RefusalCode::Never));
    }
}

#[test]
fn the_strictest_step_counts() {
    let lab = lab();
    let steps = vec![power(Operation::Start, 107, "pve2"), snapshot(105, "pve1", "s1")];
    let mixed = plan(&lab, Intent::All { of: vec![] }, steps.clone());
    assert_eq!(verdict(&lab, &mixed, Role::Agent), Ok(Verdict::Automatic));
    let more = [steps, vec![power(Operation::Stop, 105, "pve1")]].concat();
    let mixed = plan(&lab, Intent::All { of: vec![] }, more);
    assert_eq!(verdict(&lab, &mixed, Role::Agent), Ok(Verdict::Approval));
}

#[test]
fn identity_beats_role_beats_all() {
    let check = |text: &str, expected: Result<Verdict, RefusalCode>| {
        let lab = under(text);
        assert_eq!(verdict(&lab, &power_plan(&lab, Operation::Stop, 107), Role::Agent), expected, "{text}");
    };
    check("[operations]\nautomatic = [\"stop\"]", Ok(Verdict::Automatic));
    check("[operations]\nautomatic = []", Ok(Verdict::Approval));
    check("[operations]\nautomatic = [\"stop\"]\napproval = [\"stop\"]", Ok(Verdict::Approval));
    check("[roles.agent]\nautomatic = [\"stop\"]", Ok(Verdict::Automatic));
    check("[roles.operator]\nautomatic = [\"stop\"]", Ok(Verdict::Approval));
    check("[identities.aider]\nautomatic = [\"stop\"]", Ok(Verdict::Automatic));
    check("[identities.other]\nautomatic = [\"stop\"]", Ok(Verdict::Approval));
    check(
        "[roles.agent]\napproval = [\"stop\"]\n[identities.aider]\nautomatic = [\"stop\"]",
        Ok(Verdict::Automatic),
    );
    check(
        "[roles.agent]\nautomatic = [\"stop\"]\n[identities.aider]\napproval = [\"stop\"]",
        Ok(Verdict::Approval),
    );
    for table in ["operations", "roles.agent", "identities.aider"] {
        check(&format!("[{table}]\nautomatic = [\"stop\"]\nnever = [\"stop\"]"), Err(RefusalCode::Never));
    }
    check(
        "[operations]\nnever = [\"stop\"]\n[identities.aider]\nautomatic = [\"stop\"]",
        Err(RefusalCode::Never),
    );
    check("[roles.owner]\nnever = [\"stop\"]", Ok(Verdict::Approval));
}

#[test]
fn people_are_held_to_tables_of_their_own() {
    let check = |text: &str, expected: Result<Verdict, RefusalCode>| {
        let lab = under(text);
        assert_eq!(verdict(&lab, &power_plan(&lab, Operation::Stop, 107), Role::Owner), expected, "{text}");
    };
    check("[operations]\napproval = [\"stop\"]", Ok(Verdict::Confirm));
    check("[operations]\nautomatic = [\"stop\"]", Ok(Verdict::Confirm));
    check("[roles.owner]\napproval = [\"stop\"]", Ok(Verdict::Approval));
    check("[roles.owner]\nautomatic = [\"stop\"]", Ok(Verdict::Confirm));
    check("[operations]\nnever = [\"stop\"]", Err(RefusalCode::Never));
}

#[test]
fn two_people_means_two() {
    let lab = under("[approval]\ntwo_people = [\"stop\"]");
    let plan = power_plan(&lab, Operation::Stop, 107);
    let agents = judge(&lab, &plan, Role::Agent).unwrap();
    assert_eq!((agents.verdict, agents.approvals), (Verdict::Approval, 2));
    let own = judge(&lab, &plan, Role::Operator).unwrap();
    assert_eq!((own.verdict, own.approvals), (Verdict::Approval, 1), "who asks is one of the two");
    let start = judge(&lab, &power_plan(&lab, Operation::Start, 107), Role::Agent).unwrap();
    assert_eq!((start.verdict, start.approvals), (Verdict::Automatic, 0));
}

#[test]
fn a_service_that_asks_is_asked_for() {
    // Without hours, so that only the flag counts.
    let mut lab = under("[operations]\nautomatic = [\"reboot\", \"destroy\", \"shutdown\"]");
    lab.graph_of(r#"{"services":{"web":{},"idle":{},"dns":{"can_restart_without_approval":true}}}"#);
    let of = |operation, vmid| verdict(&lab, &power_plan(&lab, operation, vmid), Role::Agent);
    assert_eq!(of(Operation::Reboot, 201), Ok(Verdict::Automatic));
    assert_eq!(of(Operation::Reboot, 106), Ok(Verdict::Automatic), "no service of the graph");
    assert_eq!(of(Operation::Reboot, 105), Ok(Verdict::Approval));
    assert_eq!(of(Operation::Shutdown, 107), Ok(Verdict::Automatic), "it is required to be stopped");
    let gone = plan(&lab, intent(Operation::Destroy, 107), vec![destroy(107, "pve2")]);
    assert_eq!(
        verdict(&lab, &gone, Role::Agent),
        Ok(Verdict::Approval),
        "a destroy ends the service for good"
    );
    // The service's guest by a tag: the record knows it.
    lab.policy_of(
        "services.dns = [\"tag:lab\"]\nservices.idle = [\"dns\"]\n[operations]\nautomatic = [\"destroy\"]",
    );
    assert_eq!(verdict(&lab, &gone, Role::Agent), Ok(Verdict::Automatic));
}

#[test]
fn a_freeze_stops_everybody() {
    let lab = lab();
    let plan = power_plan(&lab, Operation::Start, 107);
    let freeze = Freeze { by: name("ada"), reason: "moving house".to_owned(), since: now() };
    for role in [Role::Agent, Role::Owner] {
        let recent = Recent::default();
        let input = Input { frozen: Some(&freeze), ..lab.input(&plan, role, &recent) };
        let refusal = gate::gate(&input).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Frozen);
        assert!(refusal.message.contains("ada") && refusal.message.contains("moving house"), "{refusal}");
        assert_eq!(gate::recheck(&input).unwrap_err().code, RefusalCode::Frozen);
    }
}

#[test]
fn plans_have_a_size() {
    let lab = under("[limits]\nguests_per_plan = 2\nsteps_per_plan = 3");
    let steps = |guests: &[u32]| guests.iter().map(|vmid| snapshot(*vmid, "pve1", "s1")).collect::<Vec<_>>();
    let of = |guests: &[u32], intent: Intent, role| verdict(&lab, &plan(&lab, intent, steps(guests)), role);
    let all = || Intent::All { of: vec![] };
    assert_eq!(of(&[105, 106], all(), Role::Agent), Ok(Verdict::Automatic));
    assert_eq!(of(&[105, 106, 201], all(), Role::Agent), Err(RefusalCode::Quota));
    assert_eq!(of(&[105, 106, 105], all(), Role::Agent), Ok(Verdict::Automatic));
    assert_eq!(of(&[105, 106, 105, 106], all(), Role::Agent), Err(RefusalCode::TooManySteps));
    // The whole lab is what a person meant, and what an agent may not.
    assert_eq!(of(&[105, 106, 201, 107], Intent::LabDown {}, Role::Owner), Ok(Verdict::Confirm));
    assert_eq!(of(&[105, 106, 201], all(), Role::Owner), Err(RefusalCode::Quota));
    assert_eq!(of(&[105, 106, 201], Intent::LabDown {}, Role::Agent), Err(RefusalCode::Quota));
    assert_eq!(of(&vec![105; STEPS_MAX], Intent::LabDown {}, Role::Owner), Ok(Verdict::Confirm));
    assert_eq!(
        of(&vec![105; STEPS_MAX + 1], Intent::LabDown {}, Role::Owner),
        Err(RefusalCode::TooManySteps)
    );
}

#[test]
fn destroys_are_counted_for_all() {
    let lab = lab();
    let one = plan(&lab, intent(Operation::Destroy, 107), vec![destroy(107, "pve2")]);
    let two = plan(&lab, Intent::All { of: vec![] }, vec![destroy(107, "pve2"), destroy(110, "pve1")]);
    let other = power_plan(&lab, Operation::Start, 107);
    let of = |plan: &Plan, destroys_last_day| {
        let recent = Recent { destroys_last_day, ..Recent::default() };
        gate::gate(&lab.input(plan, Role::Owner, &recent))
            .map(|gate| gate.verdict)
            .map_err(|refusal| refusal.code)
    };
    assert_eq!(of(&one, 1), Ok(Verdict::Confirm));
    assert_eq!(of(&one, 2), Err(RefusalCode::Quota));
    assert_eq!(of(&two, 0), Ok(Verdict::Confirm));
    assert_eq!(of(&two, 1), Err(RefusalCode::Quota));
    assert_eq!(of(&other, 99), Ok(Verdict::Confirm));
}

#[test]
fn plans_of_an_agent_have_a_rate() {
    let lab = lab();
    let plan = power_plan(&lab, Operation::Start, 107);
    let of = |plans_last_minute, role| {
        let recent = Recent { plans_last_minute, ..Recent::default() };
        gate::gate(&lab.input(&plan, role, &recent)).map(|gate| gate.verdict).map_err(|refusal| refusal.code)
    };
    assert_eq!(of(29, Role::Agent), Ok(Verdict::Automatic));
    assert_eq!(of(30, Role::Agent), Err(RefusalCode::Quota));
    assert_eq!(of(30_000, Role::Owner), Ok(Verdict::Confirm));
    let recent = Recent { plans_last_minute: 30, ..Recent::default() };
    assert!(gate::recheck(&lab.input(&plan, Role::Agent, &recent)).is_ok(), "it was made already");
}

#[test]
fn policy_asks_for_rehearsals() {
    let lab = under("[caution]\nrehearse = [\"start\"]");
    let plan = power_plan(&lab, Operation::Start, 107);
    let recent = Recent::default();
    let input = lab.input(&plan, Role::Agent, &recent);
    assert!(gate::gate(&input).unwrap().rehearse);
    assert!(!gate::gate(&Input { rehearsed: true, ..input }).unwrap().rehearse);
    assert!(!judge(&lab, &power_plan(&lab, Operation::Stop, 107), Role::Agent).unwrap().rehearse);
}

#[test]
fn a_compensation_is_no_way_around_never() {
    let lab = under("[operations]\nnever = [\"stop\", \"snapshot-delete\"]");
    let mut plan = plan(&lab, intent(Operation::Start, 107), vec![power(Operation::Start, 107, "pve2")]);
    assert_eq!(verdict(&lab, &plan, Role::Agent), Ok(Verdict::Automatic));
    plan.steps[0].compensation = Some(Box::new(power(Operation::Stop, 107, "pve2")));
    assert_eq!(verdict(&lab, &plan, Role::Agent), Err(RefusalCode::Never));
    // Removing what the plan itself made is part of making it.
    let mut own = snapshot(105, "pve1", "s1");
    own.compensation = Some(Box::new(nhi_model::plan::Step {
        operation: Operation::SnapshotDelete,
        ..snapshot(105, "pve1", "s1")
    }));
    plan.steps = vec![own];
    assert_eq!(verdict(&lab, &plan, Role::Agent), Ok(Verdict::Automatic));
}

/// Any rules whatever.
fn rules() -> impl Strategy<Value = Rules> {
    let set =
        || prop::option::of(prop::collection::btree_set(prop::sample::select(Operation::ALL.to_vec()), 0..6));
    (set(), set(), set()).prop_map(|(automatic, approval, never)| Rules { automatic, approval, never })
}

fn policies() -> impl Strategy<Value = Policy> {
    let two = prop::collection::btree_set(prop::sample::select(Operation::ALL.to_vec()), 0..3);
    (rules(), rules(), rules(), two).prop_map(|(common, agent, aider, two_people)| {
        let mut policy = Policy { operations: common, ..Policy::default() };
        policy.roles.insert(Role::Agent, agent);
        policy.identities.insert(name("aider"), aider);
        policy.approval.two_people = two_people;
        policy
    })
}

fn some_plan(lab: &Lab, which: &[usize]) -> Plan {
    let steps = which.iter().map(|which| match which {
        0 => power(Operation::Start, 107, "pve2"),
        1 => power(Operation::Stop, 105, "pve1"),
        2 => snapshot(106, "pve1", "s1"),
        3 => power(Operation::Reboot, 201, "pve1"),
        _ => destroy(107, "pve2"),
    });
    plan(lab, Intent::All { of: vec![] }, steps.collect())
}

/// How strict an answer is: refused is strictest.
fn strictness(answer: &Result<Gate, Refusal>) -> (u8, u8) {
    match answer {
        Ok(gate) => (gate.verdict as u8, gate.approvals),
        Err(_) => (u8::MAX, u8::MAX),
    }
}

proptest! {
    #[test]
    fn a_never_more_never_widens(
        policy in policies(),
        operation in prop::sample::select(Operation::ALL.to_vec()),
        table in 0..3,
        which in prop::collection::vec(0usize..5, 1..5),
        role in prop::sample::select(vec![Role::Agent, Role::Owner]),
    ) {
        let mut lab = lab();
        let plan = some_plan(&lab, &which);
        lab.policy = policy.clone();
        let before = judge(&lab, &plan, role);
        let rules = match table {
            0 => &mut lab.policy.operations,
            1 => lab.policy.roles.get_mut(&Role::Agent).unwrap(),
            _ => lab.policy.identities.get_mut(&name("aider")).unwrap(),
        };
        rules.never.get_or_insert_default().insert(operation);
        let after = judge(&lab, &plan, role);
        prop_assert!(strictness(&after) >= strictness(&before), "{before:?} became {after:?}");
        // And an operation that is never done is in no plan that goes.
        let applies = table != 1 || role == Role::Agent;
        if applies && plan.steps.iter().any(|step| step.operation == operation) {
            prop_assert!(after.is_err());
        }
    }

    #[test]
    fn a_step_more_never_widens(
        policy in policies(),
        which in prop::collection::vec(0usize..5, 1..4),
        more in 0usize..5,
    ) {
        let mut lab = lab();
        lab.policy = policy;
        let before = judge(&lab, &some_plan(&lab, &which), Role::Agent);
        let after = judge(&lab, &some_plan(&lab, &[which, vec![more]].concat()), Role::Agent);
        prop_assert!(strictness(&after) >= strictness(&before), "{before:?} became {after:?}");
    }

    #[test]
    fn automatic_is_only_what_a_table_says(policy in policies(), which in prop::collection::vec(0usize..5, 1..4)) {
        let mut lab = lab();
        lab.policy = policy;
        let plan = some_plan(&lab, &which);
        if let Ok(Gate { verdict: Verdict::Automatic, .. }) = judge(&lab, &plan, Role::Agent) {
            let mut said: BTreeSet<Operation> = policy::automatic(&lab.policy).into_iter().collect();
            for rules in lab.policy.roles.values().chain(lab.policy.identities.values()) {
                said.extend(rules.automatic.iter().flatten());
            }
            prop_assert!(plan.steps.iter().all(|step| said.contains(&step.operation)));
        }
    }

    #[test]
    fn refusals_tell_what_to_do(policy in policies(), which in prop::collection::vec(0usize..5, 1..4), plans in 0u32..60) {
        let mut lab = lab();
        lab.policy = policy;
        let recent = Recent { plans_last_minute: plans, ..Recent::default() };
        if let Err(refusal) = gate::gate(&lab.input(&some_plan(&lab, &which), Role::Agent, &recent)) {
            prop_assert!(!refusal.hint.is_empty() && refusal.hint.ends_with('.'), "{refusal:?}");
            prop_assert!(!refusal.message.is_empty());
        }
    }
}
