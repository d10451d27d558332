//! Plans of the planner: the linter finds nothing in them, and everything that is changed about them.

use crate::{
    changed::{leaves, matters, mutated},
    lab::{Lab, key, lab, name, now, seal},
};
use nhi_decide::{
    gate,
    plan::{self, Request},
    sight::{GuestSight, MigrateSight},
};
use nhi_model::{
    guest::GuestStatus,
    identity::Role,
    intent::{GuestRef, Intent, NewGuest, Settings},
    plan::{Plan, PlanId, Verdict},
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeMap;

pub(crate) fn planned(lab: &Lab, intent: &Intent) -> Plan {
    try_planned(lab, intent).unwrap_or_else(|refusal| panic!("{intent:?}: {refusal:?}"))
}

pub(crate) fn try_planned(lab: &Lab, intent: &Intent) -> Result<Plan, Refusal> {
    let (holds, leases) = (BTreeMap::new(), BTreeMap::new());
    let scene = plan::Scene {
        now: now(),
        revision: crate::lab::REVISION,
        known: &lab.known,
        sight: &lab.sight,
        policy: &lab.policy,
        ourselves: &lab.ourselves,
        holds: &holds,
        leases: &leases,
        past: None,
    };
    let by = name("aider");
    let request = Request {
        id: PlanId::parse("p-abcd1234").unwrap(),
        by: &by,
        intent,
        reason: None,
        vmids: &[300],
        undo_unless_confirmed_minutes: None,
    };
    plan::plan(&request, &scene)
}

fn of(vmid: u32) -> GuestRef {
    GuestRef::key(&key(vmid))
}

/// A lab in which everything can be asked for.
fn whole() -> Lab {
    let mut lab = lab();
    lab.sight.guests.insert(key(300), GuestSight::Gone);
    lab.seen_mut(106).migrate =
        Some(MigrateSight { allowed: Some(["pve2".to_owned()].into()), ..MigrateSight::default() });
    let past = lab.seen(105).config.clone();
    lab.seen_mut(105).snapshots.as_mut().unwrap()[0].config = Some(past);
    lab.add(108, "asleep", "pve1", GuestStatus::Paused, "");
    lab
}

fn intents() -> Vec<Intent> {
    let new = || NewGuest {
        name: "mongodb".to_owned(),
        memory_mib: Some(4096),
        disk_gib: Some(16),
        start: true,
        ..NewGuest::default()
    };
    let settings = Settings { memory_mib: Some(4096), ..Settings::default() };
    vec![
        Intent::Start { guest: of(107) },
        Intent::Stop { guest: of(105), with_dependents: false },
        Intent::Shutdown { guest: of(106), with_dependents: true, timeout_s: Some(90) },
        Intent::Reboot { guest: of(106), with_dependents: true },
        Intent::Reset { guest: of(105) },
        Intent::Suspend { guest: of(105), to_disk: true },
        Intent::Resume { guest: of(108) },
        Intent::CreateVm { new: new(), template: Some(of(9000)), full: false, iso: None, os: None },
        Intent::CreateVm {
            new: NewGuest { storage: Some("local-zfs".to_owned()), ..new() },
            template: None,
            full: false,
            iso: None,
            os: None,
        },
        Intent::Clone { guest: of(107), new: new(), full: true, snapshot: None },
        Intent::Destroy { guest: of(107), purge: true },
        Intent::Snapshot { guest: of(105), name: "s1".to_owned(), description: None, memory: false },
        Intent::SnapshotDelete { guest: of(105), name: "before".to_owned() },
        Intent::Rollback { guest: of(105), name: "before".to_owned(), start: true },
        Intent::Migrate { guest: of(106), node: "pve2".to_owned() },
        Intent::Resize { guest: of(105), disk: "scsi0".to_owned(), size_gib: 16 },
        Intent::Set { guest: of(107), settings },
        Intent::Backup { guest: of(105), storage: None },
        Intent::ServiceUp { service: "idle".to_owned() },
        Intent::LabDown {},
    ]
}

#[test]
fn the_planners_plans_are_sound_and_no_change_goes_unseen() {
    let mut lab = whole();
    lab.graph_of(r#"{"services":{"web":{"depends_on":["db"]},"idle":{"depends_on":["web"]}}}"#);
    let mut seen = 0;
    for intent in intents() {
        let plan = planned(&lab, &intent);
        assert_eq!(lab.faults(&plan), [""; 0], "{intent:?}");
        let mut pointers = Vec::new();
        leaves(&serde_json::to_value(&plan).unwrap(), String::new(), &mut pointers);
        for pointer in pointers.iter().filter(|pointer| matters(pointer) && !is_word(pointer)) {
            for salt in 0..4 {
                if let Some(changed) = mutated(&plan, pointer, salt).filter(|changed| *changed != plan) {
                    seen += 1;
                    assert!(!lab.faults(&changed).is_empty(), "{intent:?}: {pointer} was changed unseen");
                }
            }
        }
    }
    assert!(seen > 1000, "only {seen} changes were tried");
}

/// Parameters of which another value is as good, and is shown to who approves.
fn is_word(pointer: &str) -> bool {
    [
        "/params/timeout",
        "/params/description",
        "/params/compress",
        "/params/boot",
        "/params/net0",
        "/params/scsihw",
    ]
    .iter()
    .chain(&["/params/ostype", "/params/memory", "/params/scsi0"])
    .any(|word| pointer.ends_with(word))
}

#[test]
fn one_plan_is_not_sound_in_another_lab() {
    let lab = whole();
    for intent in intents().into_iter().filter(|intent| !matches!(intent, Intent::ServiceUp { .. })) {
        let plan = planned(&lab, &intent);
        let mut other = lab.clone();
        for key in plan.targets.iter().filter(|target| target.identity.is_some()).map(|target| &target.guest)
        {
            let seen = other.sight.seen_mut(key).unwrap();
            seen.identity.uuid = seen.identity.uuid.as_ref().map(|_| "another".to_owned());
            seen.identity.rootfs = seen.identity.rootfs.as_ref().map(|_| "another".to_owned());
        }
        let makes = plan.targets.iter().all(|target| target.identity.is_none());
        if makes {
            other.sight.guests.insert(key(300), GuestSight::Unseen { why: "x".to_owned() });
        }
        assert!(!other.faults(&plan).is_empty(), "{intent:?}");
    }
}

#[test]
fn what_the_gate_says_of_them() {
    let lab = whole();
    let recent = gate::Recent::default();
    for intent in intents().into_iter().filter(|intent| !matches!(intent, Intent::ServiceUp { .. })) {
        let plan = planned(&lab, &intent);
        let verdict = |role| gate::gate(&lab.input(&plan, role, &recent)).unwrap().verdict;
        assert_eq!(verdict(Role::Owner), Verdict::Confirm, "{intent:?}");
        let automatic =
            plan.steps.iter().all(|step| ["start", "snapshot"].contains(&step.operation.as_str()));
        let expected = if automatic { Verdict::Automatic } else { Verdict::Approval };
        assert_eq!(verdict(Role::Agent), expected, "{intent:?}");
    }
}

#[test]
fn a_person_may_mean_the_whole_lab_and_nobody_else() {
    let mut lab = whole();
    lab.policy_of("[limits]\nsteps_per_plan = 2\nguests_per_plan = 2");
    let recent = gate::Recent::default();
    let plan = planned(&lab, &Intent::LabDown {});
    assert!(plan.steps.len() > 2, "{:?}", plan.steps);
    let judge = |role| gate::gate(&lab.input(&plan, role, &recent)).map(|gate| gate.verdict);
    assert_eq!(judge(Role::Owner), Ok(Verdict::Confirm));
    assert_eq!(judge(Role::Agent).unwrap_err().code, RefusalCode::TooManySteps);
    let owner = nhi_decide::lint::Scene { role: Role::Owner, ..lab.scene() };
    assert_eq!(nhi_decide::lint::lint(&plan, &owner), [""; 0]);
    assert!(!lab.faults(&plan).is_empty(), "an agent's");
    // What was done at once is taken back at once.
    let mut back = plan.clone();
    back.intent = Intent::Undo { plan: PlanId::parse("p-aaaa").unwrap() };
    let judge = |role| gate::gate(&lab.input(&back, role, &recent)).map(|gate| gate.verdict);
    assert_eq!(judge(Role::Operator), Ok(Verdict::Confirm));
    assert_eq!(judge(Role::Agent).unwrap_err().code, RefusalCode::TooManySteps);
    // Anything else is held to it.
    let shut = |vmid| Intent::Shutdown { guest: of(vmid), with_dependents: false, timeout_s: None };
    let three = Intent::All { of: vec![shut(105), shut(106), shut(201)] };
    assert_eq!(try_planned(&lab, &three).unwrap_err().code, RefusalCode::TooManySteps);
}

#[test]
fn the_two_digests_are_one() {
    let lab = whole();
    for intent in intents().into_iter().filter(|intent| !matches!(intent, Intent::ServiceUp { .. })) {
        let mut plan = planned(&lab, &intent);
        let own = plan.digest.clone();
        seal(&mut plan);
        assert_eq!(plan.digest, own);
        assert_eq!(plan::digest(&plan), own.unwrap());
    }
}
