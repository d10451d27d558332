//! The linter: hand-made plans that are sound, and every way in which one can be unsound.

use crate::{
    lab::{Lab, identity, intent, key, lab, name, plan, power_plan, seal, status},
    steps::{backup, clone, destroy, migrate, power, resize, rollback, set, snapshot, snapshot_delete},
};
use nhi_decide::sight::GuestSight;
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestStatus},
    identity::Role,
    intent::{GuestRef, Intent, NewGuest, Operation, Settings},
    plan::{Ends, Method, OnFailure, Plan, Repeat, STEPS_MAX},
};

pub(crate) fn of(vmid: u32) -> GuestRef {
    GuestRef::key(&key(vmid))
}

fn all(of: Vec<Intent>) -> Intent {
    Intent::All { of }
}

/// A plan of every kind, each sound.
pub(crate) fn sound(lab: &mut Lab) -> Vec<Plan> {
    lab.sight.guests.insert(key(300), GuestSight::Gone);
    let new = NewGuest { name: "mongodb".to_owned(), start: true, ..NewGuest::default() };
    let mut plans = vec![
        power_plan(lab, Operation::Start, 107),
        power_plan(lab, Operation::Stop, 105),
        power_plan(lab, Operation::Shutdown, 201),
        power_plan(lab, Operation::Reboot, 105),
    ];
    let mut add = |intent, steps| plans.push(plan(lab, intent, steps));
    add(Intent::Reset { guest: of(105) }, vec![power(Operation::Reset, 105, "pve1")]);
    add(Intent::Suspend { guest: of(105), to_disk: false }, vec![power(Operation::Suspend, 105, "pve1")]);
    add(intent(Operation::Snapshot, 101), vec![snapshot(101, "pve1", "s1")]);
    add(
        Intent::SnapshotDelete { guest: of(105), name: "before".to_owned() },
        vec![snapshot_delete(105, "pve1", "before")],
    );
    add(
        Intent::Rollback { guest: of(105), name: "before".to_owned(), start: false },
        vec![snapshot(105, "pve1", "s1"), rollback(105, "pve1", "before")],
    );
    add(
        Intent::Migrate { guest: of(106), node: "pve2".to_owned() },
        vec![migrate(106, "pve1", "pve2", GuestStatus::Running)],
    );
    add(
        Intent::Resize { guest: of(105), disk: "scsi0".to_owned(), size_gib: 16 },
        vec![resize(105, "pve1", "scsi0", 16)],
    );
    add(Intent::Backup { guest: of(101), storage: None }, vec![backup(101, "pve1")]);
    add(intent(Operation::Destroy, 107), vec![destroy(107, "pve2")]);
    let (step, change) = set(107, "pve2", "4096", "2048");
    let settings = Settings { memory_mib: Some(4096), ..Settings::default() };
    let mut changed = plan(lab, Intent::Set { guest: of(107), settings }, vec![step]);
    changed.config_changes.push(change);
    changed.on_failure = OnFailure::Compensate;
    plans.push(changed);
    let mut add = |intent, steps| plans.push(plan(lab, intent, steps));
    add(
        all(vec![intent(Operation::Shutdown, 105), intent(Operation::Shutdown, 106)]),
        vec![power(Operation::Shutdown, 105, "pve1"), power(Operation::Shutdown, 106, "pve1")],
    );
    add(
        Intent::Reboot { guest: of(106), with_dependents: true },
        vec![
            power(Operation::Shutdown, 105, "pve1"),
            power(Operation::Reboot, 106, "pve1"),
            power(Operation::Start, 105, "pve1"),
        ],
    );
    let mut start = power(Operation::Start, 300, "pve1");
    start.before = vec![
        Fact::Named { guest: key(300), name: "mongodb".to_owned() },
        Fact::OnNode { guest: key(300), node: "pve1".to_owned() },
        Fact::Unlocked { guest: key(300) },
        status(300, GuestStatus::Stopped),
    ];
    let create = Intent::CreateVm { new, template: Some(of(9000)), full: false, iso: None, os: None };
    let mut made = plan(lab, create, vec![clone(9000, 300, "pve1", "mongodb"), start]);
    made.requires.push(Fact::SameGuest { guest: key(9000), identity: identity(9000) });
    made.reads.insert(key(9000), crate::lab::REVISION);
    made.on_failure = OnFailure::Compensate;
    plans.push(made);
    plans.iter_mut().for_each(seal);
    plans
}

#[test]
fn sound_plans_have_no_fault() {
    let mut lab = lab();
    for plan in sound(&mut lab) {
        assert_eq!(lab.faults(&plan), [""; 0], "{:?}", plan.intent);
    }
}

/// The first fault after a change of a sound plan, sealed again.
pub(crate) fn broken(plan: &Plan, lab: &Lab, change: impl FnOnce(&mut Plan)) -> Vec<String> {
    let mut plan = plan.clone();
    change(&mut plan);
    seal(&mut plan);
    lab.faults(&plan)
}

pub(crate) fn has(faults: &[String], says: &str) {
    assert!(faults.iter().any(|fault| fault.contains(says)), "no fault says {says:?}: {faults:#?}");
}

pub(crate) fn start() -> (Lab, Plan) {
    let lab = lab();
    let plan = power_plan(&lab, Operation::Start, 107);
    (lab, plan)
}

#[test]
fn the_frame_holds() {
    let (lab, plan) = start();
    let mut other = plan.clone();
    other.reason = Some("another".to_owned());
    has(&lab.faults(&other), "digest");
    let mut none = plan.clone();
    none.digest = None;
    has(&lab.faults(&none), "digest");
    let check = |says: &str, change: &dyn Fn(&mut Plan)| has(&broken(&plan, &lab, change), says);
    check("version 2", &|plan| plan.v = 2);
    check("was looked at", &|plan| plan.cluster = "attic".to_owned());
    check("yet to come", &|plan| plan.made_at = "2026-06-15T13:00:01Z".parse().unwrap());
    check("ended at", &|plan| plan.expires_at = "2026-06-15T13:00:00Z".parse().unwrap());
    check("ends before it begins", &|plan| plan.expires_at = plan.made_at);
    check("policy lets 60 pass", &|plan| plan.expires_at = "2026-06-15T14:00:01Z".parse().unwrap());
    check("the newest is 7", &|plan| plan.revision = 8);
    check("and that is at 7", &|plan| {
        plan.reads.insert(key(107), 6);
    });
    check("no steps", &|plan| plan.steps.clear());
    check("101 steps", &|plan| plan.steps = vec![plan.steps[0].clone(); 101]);
    check("steps", &|plan| plan.steps = vec![plan.steps[0].clone(); STEPS_MAX + 1]);
    check("has 20000 bytes", &|plan| plan.reason = Some("x".repeat(20_000)));
    check("control characters", &|plan| plan.effects.push("a\u{1b}[2J".to_owned()));
    check("after 1441 min", &|plan| plan.undo_unless_confirmed_minutes = Some(1441));
    check("after 0 min", &|plan| plan.undo_unless_confirmed_minutes = Some(0));
}

#[test]
fn sizes_are_policys() {
    let mut lab = lab();
    let down = [105, 106].map(|vmid| power(Operation::Shutdown, vmid, "pve1")).to_vec();
    let both = plan(&lab, all(vec![intent(Operation::Shutdown, 105)]), down.clone());
    assert_eq!(lab.faults(&both), [""; 0]);
    lab.policy_of("[limits]\nguests_per_plan = 1");
    has(&lab.faults(&both), "writes to 2 guests, and 1 are allowed");
    let whole = plan(&lab, Intent::LabDown {}, down);
    has(&lab.faults(&whole), "writes to 2 guests");
    let person = nhi_decide::lint::Scene { role: Role::Owner, ..lab.scene() };
    assert_eq!(nhi_decide::lint::lint(&whole, &person), [""; 0]);
    lab.policy_of("[limits]\ndestroys_per_day = 1");
    let gone = plan(&lab, intent(Operation::Destroy, 107), vec![destroy(107, "pve2"), destroy(110, "pve1")]);
    has(&lab.faults(&gone), "destroys 2 guests");
    lab.policy_of("[caution]\nundo_unless_confirmed_minutes = { start = 5 }");
    let mut start = power_plan(&lab, Operation::Start, 107);
    assert_eq!(lab.faults(&start), [""; 0], "it cannot be taken back");
    start.undo.intents.push(intent(Operation::Shutdown, 107));
    has(&broken(&start, &lab, |_| {}), "unless confirmed within 5 min");
    assert_eq!(broken(&start, &lab, |plan| plan.undo_unless_confirmed_minutes = Some(5)), [""; 0]);
}

#[test]
fn only_known_calls_are_made() {
    let (lab, plan) = start();
    let path =
        |path: &str| has(&broken(&plan, &lab, |plan| plan.steps[0].call.path = path.to_owned()), "no call");
    for tricky in [
        "",
        "/",
        "/nodes/pve2",
        "/nodes/pve2/stopall",
        "/nodes/pve2/status",
        "/nodes/pve2/qemu/107/status/start/",
        "/nodes/pve2/qemu/107/status",
        "/nodes/pve2/qemu/0107/status/start",
        "/nodes/pve2/qemu/+107/status/start",
        "/nodes/pve2/qemu/107/status/migrate",
        "/nodes/pve2/qemu/107/agent/exec",
        "/nodes/pve2/qemu/107/monitor",
        "/nodes/pve2/openvz/107/status/start",
        "/nodes/pve2/../pve1/qemu/107/status/start",
        "/nodes/pve2%2F/qemu/107/status/start",
        "//nodes/pve2/qemu/107/status/start",
        "/nodes/pve2/qemu/107/status/start?skiplock=1",
        "nodes/pve2/qemu/107/status/start",
        "/cluster/bulk-action/guest/start",
        "/access/users",
    ] {
        path(tricky);
    }
    has(&broken(&plan, &lab, |plan| plan.steps[0].call.method = Method::Delete), "no call");
    has(
        &broken(&plan, &lab, |plan| plan.steps[0].call.path = "/nodes/pve2/qemu/107/status/stop".to_owned()),
        "is not start",
    );
}

#[test]
fn forbidden_parameters_are_found() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    let forbidden = [
        ("force", "1"),
        ("forceStop", "1"),
        ("skiplock", "1"),
        ("args", "-device x"),
        ("hookscript", "local:snippets/x"),
        ("overrule-shutdown", "1"),
        ("protection", "0"),
        ("delete", "protection"),
        ("revert", "memory"),
        ("lock", "backup"),
        ("stop", "1"),
        ("all", "1"),
        ("script", "/bin/sh"),
        ("dumpdir", "/etc"),
        ("migration_network", "10.0.0.0/8"),
        ("keepActive", "1"),
        ("bwlimit", "0"),
        ("archive", "x"),
        ("restore", "1"),
        ("unique", "0"),
        ("x", "y"),
    ];
    for plan in &plans {
        for (name, value) in forbidden {
            let faults = broken(plan, &lab, |plan| {
                drop(plan.steps[0].call.params.insert(name.to_owned(), value.to_owned()))
            });
            assert!(!faults.is_empty(), "{:?} with {name}", plan.intent);
        }
    }
}

#[test]
fn values_stay_values() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    let find = |word: &str| plans.iter().find(|plan| plan.intent.as_str() == word).unwrap();
    let check = |word: &str, name: &str, values: &[&str]| {
        for value in values {
            let faults = broken(find(word), &lab, |plan| {
                plan.steps[0].call.params.insert(name.to_owned(), (*value).to_owned());
            });
            assert!(!faults.is_empty(), "{word} with {name}={value:?}");
        }
    };
    check("backup", "mode", &["stop", "suspend", ""]);
    check("backup", "remove", &["1"]);
    check("backup", "vmid", &["101,105", "105", "all"]);
    check("backup", "storage", &["/etc", "a b", "-x", "nowhere", "local-zfs"]);
    check("destroy", "destroy-unreferenced-disks", &["1"]);
    check("destroy", "purge", &["1", "yes"]);
    check("snapshot", "snapname", &["current", "1a", "a/b", "a b", "x"]);
    check("resize", "size", &["+8G", "8G", "7G", "-1G", "16g", "0", "9999999999999G"]);
    check("resize", "disk", &["scsi1", "net0", "unused0", "efidisk0"]);
    check("set", "memory", &["-1", "0", "2048M", "1e9", " 4096"]);
    check("set", "net0", &["virtio,bridge=vmbr0"]);
    check("migrate", "target", &["pve1", "pve3", "../x", ""]);
    check("create-vm", "newid", &["301", "105", "99", "-1"]);
    check("create-vm", "name", &["105", "a b", "-x", "a;b"]);
    check("create-vm", "target", &["pve9"]);
    check("shutdown", "timeout", &["0", "-1", "999999", "x"]);
}

#[test]
fn tasks_are_the_right_ones() {
    let (lab, plan) = start();
    let check = |says: &str, ends: Ends| has(&broken(&plan, &lab, |plan| plan.steps[0].ends = ends), says);
    let task = |kind: &str, vmid, seconds_max| Ends::Task { kinds: vec![kind.to_owned()], vmid, seconds_max };
    check("its end would not be known", Ends::Answer {});
    check("its task", task("qmstop", 107, 60));
    check("its task", Ends::Task { kinds: vec![], vmid: 107, seconds_max: 60 });
    check("has the number 107", task("qmstart", 105, 60));
    check("no time to wait", task("qmstart", 107, 0));
    check("no time to wait", task("qmstart", 107, 86_401));
    has(&broken(&plan, &lab, |plan| plan.steps[0].settle_s = 3601), "too long");
    let reboot = power_plan(&lab, Operation::Reboot, 105);
    has(&broken(&reboot, &lab, |plan| plan.steps[0].repeat = Repeat::Harmless), "effect of its own");
    has(&broken(&reboot, &lab, |plan| plan.steps[0].node = "pve2".to_owned()), "goes to node pve1");
}

#[test]
fn targets_are_who_is_written_to() {
    let (lab, plan) = start();
    let check = |says: &str, change: &dyn Fn(&mut Plan)| has(&broken(&plan, &lab, change), says);
    check("no target", &|plan| plan.targets.clear());
    check("twice", &|plan| plan.targets.push(plan.targets[0].clone()));
    check("nothing is done to it", &|plan| {
        let mut other = plan.targets[0].clone();
        (other.guest, other.vmid) = (key(105), 105);
        plan.targets.push(other);
    });
    check("not what its target says", &|plan| plan.targets[0].operations.push(Operation::Stop));
    check("is not the key", &|plan| plan.targets[0].vmid = 105);
    // The task is said to be the other guest's as well, so that only the path and the target disagree.
    check("another guest's", &|plan| {
        plan.steps[0].call.path = "/nodes/pve2/qemu/105/status/start".to_owned();
        plan.steps[0].ends = Ends::Task { kinds: vec!["qmstart".to_owned()], vmid: 105, seconds_max: 60 };
    });
    check("another guest's", &|plan| {
        plan.steps[0].call.path = "/nodes/pve2/lxc/107/status/start".to_owned();
        plan.steps[0].ends = Ends::Task { kinds: vec!["vzstart".to_owned()], vmid: 107, seconds_max: 60 };
    });
    check("another name", &|plan| plan.targets[0].name = "web".to_owned());
    check("elsewhere", &|plan| plan.targets[0].node = "pve1".to_owned());
    check("with another identity", &|plan| {
        plan.targets[0].identity.as_mut().unwrap().uuid = Some("x".to_owned())
    });
    check("nothing in its identity", &|plan| plan.targets[0].identity = Some(GuestIdentity::default()));
    check("the plan does not make it", &|plan| plan.targets[0].identity = None);
    check("on which record", &|plan| {
        plan.reads.remove(&key(107));
    });
}

#[test]
fn everything_relied_on_is_required_and_so() {
    let mut lab = lab();
    // Facts whose absence would let a plan go on in a lab it was not made for.
    for plan in sound(&mut lab) {
        for at in 0..plan.requires.len() {
            let faults = broken(&plan, &lab, |plan| drop(plan.requires.remove(at)));
            let unneeded = matches!(plan.requires[at], Fact::Unprotected { .. })
                && plan.steps.iter().all(|step| !nhi_decide::policy::harms_protected(step.operation));
            assert_eq!(faults.is_empty(), unneeded, "{:?} without {:?}", plan.intent, plan.requires[at]);
        }
    }
    let (lab, plan) = start();
    let check = |says: &str, fact: Fact| has(&broken(&plan, &lab, |plan| plan.requires.push(fact)), says);
    check("what is not so", status(107, GuestStatus::Running));
    check("what nobody can tell", Fact::NodeOnline { node: "pve9".to_owned() });
}

#[test]
fn what_a_step_looks_at_first_is_enough() {
    let mut lab = lab();
    for plan in sound(&mut lab) {
        for step in 0..plan.steps.len() {
            let before = &plan.steps[step].before;
            for (at, fact) in before.iter().enumerate() {
                // A source is looked at in the step too; the plan's requirements hold it already.
                if fact.guest() != Some(&plan.steps[step].guest) {
                    continue;
                }
                let faults = broken(&plan, &lab, |plan| drop(plan.steps[step].before.remove(at)));
                assert!(!faults.is_empty(), "{:?}, step {step} without {fact:?}", plan.intent);
            }
            let untrue = broken(&plan, &lab, |plan| {
                let guest = plan.steps[step].guest.clone();
                plan.steps[step].before.push(Fact::OnNode { guest, node: "pve9".to_owned() });
            });
            let makes = plan.steps[step].operation.creates();
            assert_eq!(untrue.is_empty(), makes, "{:?}", plan.intent);
        }
    }
}

#[test]
fn what_a_step_brings_is_shown() {
    let mut lab = lab();
    for plan in sound(&mut lab) {
        for step in 0..plan.steps.len() {
            let faults = broken(&plan, &lab, |plan| plan.steps[step].after.clear());
            let set = plan.steps[step].operation == Operation::Set;
            assert_eq!(faults.is_empty(), set, "{:?}: lines may wait for a restart", plan.intent);
        }
        let faults = broken(&plan, &lab, |plan| plan.expects.clear());
        has(&faults, "expected");
    }
    let stop = power_plan(&lab, Operation::Stop, 105);
    has(
        &broken(&stop, &lab, |plan| plan.steps[0].after = vec![status(105, GuestStatus::Running)]),
        "not so by then",
    );
    has(
        &broken(&stop, &lab, |plan| plan.expects = vec![status(105, GuestStatus::Running)]),
        "not so by then",
    );
}

#[test]
fn what_takes_back_does_no_more() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    let find = |word: &str| plans.iter().find(|plan| plan.intent.as_str() == word).unwrap();
    let (made, changed) = (find("create-vm"), find("set"));
    let back = |plan: &Plan, change: &dyn Fn(&mut nhi_model::plan::Step)| {
        broken(plan, &lab, |plan| change(plan.steps[0].compensation.as_mut().unwrap()))
    };
    assert_eq!(back(made, &|_| {}), [""; 0]);
    has(&back(made, &|back| *back = destroy(107, "pve2")), "another guest's");
    has(
        &back(made, &|back| drop(back.call.params.insert("purge".to_owned(), "1".to_owned()))),
        "does not take create-vm back",
    );
    has(
        &back(made, &|back| drop(back.call.params.insert("force".to_owned(), "1".to_owned()))),
        "none it may have",
    );
    has(&back(made, &|back| back.before.clear()), "the guest that is meant");
    has(&back(made, &|back| back.compensation = Some(Box::new(back.clone()))), "taken back itself");
    has(
        &back(changed, &|back| drop(back.call.params.insert("memory".to_owned(), "1024".to_owned()))),
        "would not be what it was",
    );
    has(
        &back(changed, &|back| drop(back.call.params.insert("cores".to_owned(), "1".to_owned()))),
        "other lines",
    );
    has(&back(changed, &|back| *back = destroy(107, "pve2")), "does not take set back");
    has(&broken(made, &lab, |plan| plan.on_failure = OnFailure::Stop), "says that nothing is");
    // A guest that was there is not destroyed by the way.
    let mut start = power_plan(&lab, Operation::Start, 107);
    start.on_failure = OnFailure::Compensate;
    has(
        &broken(&start, &lab, |plan| plan.steps[0].compensation = Some(Box::new(destroy(107, "pve2")))),
        "does not take start back",
    );
}

#[test]
fn changes_are_shown_to_who_approves() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    let changed = plans.iter().find(|plan| plan.intent.as_str() == "set").unwrap();
    has(&broken(changed, &lab, |plan| plan.config_changes.clear()), "not among those that are shown");
    has(
        &broken(changed, &lab, |plan| plan.config_changes[0].after = Some("1".to_owned())),
        "not among those",
    );
    has(
        &broken(changed, &lab, |plan| {
            plan.steps[0].after =
                vec![Fact::Config { guest: key(107), field: "memory".to_owned(), value: None }];
        }),
        "what it does not write",
    );
}

#[test]
fn who_asks_is_told_apart() {
    let (lab, mut plan) = start();
    plan.by = name("other");
    has(&lab.faults(&plan), "digest");
}
