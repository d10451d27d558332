//! The linter on guests and the lab: what protects, what needs what, what is possible where it stands.

use crate::{
    lab::{Lab, intent, key, lab, plan, power_plan},
    lint::{broken, has, of, sound, start},
    steps::{destroy, migrate, power, resize, rollback, set, snapshot, snapshot_delete},
};
use nhi_decide::sight::GuestSight;
use nhi_model::{
    guest::GuestStatus,
    intent::{Intent, Operation},
    key::Key,
    plan::{PlanId, Risk},
};
use serde_json::json;

#[test]
fn protected_guests_are_left_alone() {
    let mut lab = lab();
    let snap = plan(&lab, intent(Operation::Snapshot, 101), vec![snapshot(101, "pve1", "s1")]);
    assert_eq!(lab.faults(&snap), [""; 0], "control: a snapshot harms nothing");
    let harms = [
        power(Operation::Stop, 101, "pve1"),
        power(Operation::Shutdown, 101, "pve1"),
        power(Operation::Reboot, 101, "pve1"),
        power(Operation::Reset, 101, "pve1"),
        power(Operation::Suspend, 101, "pve1"),
        destroy(101, "pve1"),
        rollback(101, "pve1", "before"),
        snapshot_delete(101, "pve1", "before"),
        migrate(101, "pve1", "pve2", GuestStatus::Running),
        resize(101, "pve1", "scsi0", 16),
        set(101, "pve1", "4096", "2048").0,
    ];
    for step in harms {
        let plan = plan(&lab, Intent::LabDown {}, vec![step]);
        has(&lab.faults(&plan), "it is protected: policy protects what has the tag critical");
    }
    // By each kind of mark, on the sight and on the record.
    let stop = |lab: &Lab| power_plan(lab, Operation::Stop, 105);
    assert_eq!(lab.faults(&stop(&lab)), [""; 0], "control");
    lab.policy_of("[protected]\nguests = [\"web\"]");
    has(&lab.faults(&stop(&lab)), "policy protects web");
    lab.policy_of("");
    lab.seen_mut(105).config.insert("protection".to_owned(), "1".to_owned());
    has(&lab.faults(&stop(&lab)), "switched on in Proxmox");
    lab.seen_mut(105).config.remove("protection");
    lab.seen_mut(105).config_whole = false;
    has(&lab.faults(&stop(&lab)), "could not be read");
    lab.seen_mut(105).config_whole = true;
    lab.known.get_mut(&key(105)).unwrap().record["tags"] = json!(["Protected"]);
    has(&lab.faults(&stop(&lab)), "the tag protected");
}

#[test]
fn the_mesh_itself_is_never_touched() {
    let lab = lab();
    for step in [snapshot(100, "pve1", "s1"), power(Operation::Shutdown, 100, "pve1")] {
        has(&lab.faults(&plan(&lab, Intent::LabDown {}, vec![step])), "the mesh itself runs on it");
    }
}

#[test]
fn a_never_of_any_table_is_found() {
    for table in ["operations", "roles.agent", "identities.aider"] {
        let (mut lab, plan) = start();
        lab.policy_of(&format!("[{table}]\nnever = [\"start\"]"));
        has(&lab.faults(&plan), &format!("policy never does it: [{table}]"));
    }
    let (mut lab, plan) = start();
    lab.policy_of("[roles.owner]\nnever = [\"start\"]\n[identities.other]\nnever = [\"start\"]");
    assert_eq!(lab.faults(&plan), [""; 0]);
}

#[test]
fn nothing_that_runs_loses_what_it_needs() {
    let mut lab = lab();
    let down = |lab: &Lab, guests: &[u32]| {
        let steps = guests.iter().map(|vmid| power(Operation::Shutdown, *vmid, "pve1")).collect();
        lab.faults(&plan(lab, intent(Operation::Shutdown, 106), steps))
    };
    has(&down(&lab, &[106]), "vm.home.105 needs it and runs by then");
    has(&down(&lab, &[106, 105]), "step 1");
    assert_eq!(down(&lab, &[105, 106]), [""; 0]);
    // Every way of taking it away counts.
    for step in [
        power(Operation::Stop, 106, "pve1"),
        power(Operation::Reboot, 106, "pve1"),
        power(Operation::Reset, 106, "pve1"),
        power(Operation::Suspend, 106, "pve1"),
        rollback(106, "pve1", "before"),
        destroy(106, "pve1"),
    ] {
        has(&lab.faults(&plan(&lab, Intent::LabDown {}, vec![step])), "vm.home.105 needs it");
    }
    // Through others, also such as no guest carries; by policy's table; of what could not be seen.
    lab.graph_of(r#"{"services":{"web":{"depends_on":["api"]},"api":{"depends_on":["db"]}}}"#);
    has(&down(&lab, &[106]), "vm.home.105 needs it");
    lab.graph_of(r#"{"services":{"shop":{"depends_on":["store"]}}}"#);
    assert_eq!(down(&lab, &[106]), [""; 0], "control: nobody carries either");
    lab.policy_of("services.shop = [\"105\"]\nservices.store = [\"tag:lab\", \"home/db\"]");
    has(&down(&lab, &[106]), "vm.home.105 needs it");
    lab.sight.guests.insert(key(105), GuestSight::Unseen { why: "its node hangs".to_owned() });
    has(&down(&lab, &[106]), "vm.home.105 needs it");
    lab.sight.guests.insert(key(105), GuestSight::Gone);
    assert_eq!(down(&lab, &[106]), [""; 0]);
    // One that was not looked at: its record counts.
    lab.sight.guests.remove(&key(105));
    has(&down(&lab, &[106]), "vm.home.105 needs it");
    lab.known.get_mut(&key(105)).unwrap().record["status"] = json!("stopped");
    assert_eq!(down(&lab, &[106]), [""; 0]);
    lab.known
        .insert(Key::graph(), nhi_decide::observe::Known { revision: 7, record: json!("x"), stale: None });
    has(&down(&lab, &[106]), "graph's record cannot be read");
}

#[test]
fn steps_are_possible_where_they_stand() {
    let mut lab = lab();
    let check = |lab: &Lab, says: &str, steps| has(&lab.faults(&plan(lab, Intent::LabDown {}, steps)), says);
    check(&lab, "in another state", vec![power(Operation::Start, 105, "pve1")]);
    check(&lab, "in another state", vec![power(Operation::Stop, 107, "pve2")]);
    check(&lab, "in another state", vec![power(Operation::Resume, 105, "pve1")]);
    check(&lab, "in another state", vec![destroy(105, "pve1")]);
    check(&lab, "not there by then", vec![destroy(107, "pve2"), power(Operation::Start, 107, "pve2")]);
    check(&lab, "on another node by then", vec![power(Operation::Start, 107, "pve1")]);
    check(
        &lab,
        "on another node by then",
        vec![migrate(107, "pve2", "pve1", GuestStatus::Stopped), power(Operation::Start, 107, "pve2")],
    );
    check(&lab, "of that name is there", vec![snapshot(105, "pve1", "before")]);
    check(&lab, "no such snapshot", vec![snapshot_delete(105, "pve1", "other")]);
    check(&lab, "does not become larger", vec![resize(105, "pve1", "scsi0", 8)]);
    check(
        &lab,
        "does not become larger",
        vec![resize(105, "pve1", "scsi0", 16), resize(105, "pve1", "scsi0", 12)],
    );
    check(&lab, "a template does not run", vec![power(Operation::Start, 9000, "pve1")]);
    check(&lab, "linked to it", vec![destroy(9000, "pve1")]);
    lab.sight.nodes.get_mut("pve2").unwrap().online = false;
    check(&lab, "does not answer", vec![power(Operation::Start, 107, "pve2")]);
    check(&lab, "does not answer", vec![migrate(105, "pve1", "pve2", GuestStatus::Running)]);
    lab.sight.nodes.get_mut("pve2").unwrap().online = true;
    lab.seen_mut(105).ha = Some("started".to_owned());
    check(&lab, "HA manages it", vec![migrate(105, "pve1", "pve2", GuestStatus::Running)]);
    lab.seen_mut(107).lock = Some("backup".to_owned());
    check(&lab, "it is locked (backup)", vec![power(Operation::Start, 107, "pve2")]);
    lab.sight.quorate = Some(false);
    check(&lab, "no quorum", vec![power(Operation::Stop, 105, "pve1")]);
}

#[test]
fn a_template_goes_after_its_clones() {
    let lab = lab();
    let both =
        plan(&lab, intent(Operation::Destroy, 9000), vec![destroy(110, "pve1"), destroy(9000, "pve1")]);
    assert_eq!(lab.faults(&both), [""; 0]);
    let mut unseen = lab.clone();
    unseen.sight.guests.remove(&key(110));
    has(
        &unseen.faults(&plan(&unseen, intent(Operation::Destroy, 9000), vec![destroy(9000, "pve1")])),
        "linked to it",
    );
}

#[test]
fn a_template_on_lvm_thin_may_have_clones_that_do_not_show() {
    let mut lab = lab();
    let both =
        plan(&lab, intent(Operation::Destroy, 9000), vec![destroy(110, "pve1"), destroy(9000, "pve1")]);
    let zfs = ("pve1".to_owned(), "local-zfs".to_owned());
    lab.sight.storages.get_mut(&zfs).unwrap().kind = Some("lvmthin".to_owned());
    has(&lab.faults(&both), "LVM-thin does not show");
    let other = plan(&lab, intent(Operation::Destroy, 110), vec![destroy(110, "pve1")]);
    assert_eq!(lab.faults(&other), [""; 0], "it is no template");
}

#[test]
fn a_number_is_proved_free() {
    let mut lab = lab();
    let made = sound(&mut lab).pop().unwrap();
    assert_eq!(lab.faults(&made), [""; 0]);
    let mut taken = lab.clone();
    taken.known.insert(
        Key::guest(nhi_model::guest::GuestKind::Lxc, "home", 300),
        nhi_decide::observe::Known { revision: 7, record: json!({}), stale: None },
    );
    has(&taken.faults(&made), "its number is taken");
    let mut unseen = lab.clone();
    unseen.sight.guests.insert(key(300), GuestSight::Unseen { why: "pve2 hangs".to_owned() });
    has(&unseen.faults(&made), "nobody proved");
    unseen.sight.guests.remove(&key(300));
    has(&unseen.faults(&made), "nobody proved");
}

#[test]
fn going_back_takes_no_protection_away() {
    let mut lab = lab();
    lab.policy_of("[protected]\nflag = false\ntags = [\"gold\"]");
    let back = |lab: &Lab| {
        let steps = vec![snapshot(105, "pve1", "s1"), rollback(105, "pve1", "before")];
        let intent = Intent::Rollback { guest: of(105), name: "before".to_owned(), start: false };
        lab.faults(&plan(lab, intent, steps))
    };
    lab.seen_mut(105).config.insert("protection".to_owned(), "1".to_owned());
    // The plan could not require what is not so; only what the rollback loses is looked at here.
    has(&back(&lab), "takes its protection in Proxmox away");
    let past = |lab: &mut Lab, line: &str, value: &str| {
        let config = [(line.to_owned(), value.to_owned())].into();
        lab.seen_mut(105).snapshots.as_mut().unwrap()[0].config = Some(config);
    };
    past(&mut lab, "protection", "1");
    assert!(!back(&lab).iter().any(|fault| fault.contains("takes its protection")), "{:?}", back(&lab));
    lab.seen_mut(105).config.remove("protection");
    lab.seen_mut(105).config.insert("tags".to_owned(), "gold".to_owned());
    has(&back(&lab), "takes the tag gold away");
}

#[test]
fn nothing_is_done_that_was_not_asked_for() {
    let lab = lab();
    let other = plan(&lab, intent(Operation::Start, 107), vec![destroy(107, "pve2")]);
    has(&lab.faults(&other), "start was asked for");
    let mut gone = plan(&lab, intent(Operation::Destroy, 107), vec![destroy(107, "pve2")]);
    gone.steps[0].call.params.insert("purge".to_owned(), "1".to_owned());
    has(&broken(&gone, &lab, |_| {}), "nobody asked for");
    assert_eq!(
        broken(&gone, &lab, |plan| plan.intent = Intent::Destroy { guest: of(107), purge: true }),
        [""; 0]
    );
}

#[test]
fn risk_is_not_made_small() {
    let lab = lab();
    for (step, least) in [
        (destroy(107, "pve2"), Risk::Destructive),
        (power(Operation::Stop, 105, "pve1"), Risk::High),
        (power(Operation::Shutdown, 105, "pve1"), Risk::Medium),
    ] {
        let plan = plan(&lab, Intent::Undo { plan: PlanId::parse("p-aaaa").unwrap() }, vec![step]);
        for risk in [Risk::Low, Risk::Medium, Risk::High, Risk::Destructive] {
            let faults = broken(&plan, &lab, |plan| plan.risk = risk);
            assert_eq!(faults.is_empty(), risk >= least, "{risk:?}: {faults:?}");
        }
    }
}

#[test]
fn policy_gets_its_snapshot() {
    let mut lab = lab();
    lab.policy_of("[caution]\nsnapshot_before = [\"resize\"]");
    let grow = |lab: &Lab, steps| {
        let intent = Intent::Resize { guest: of(105), disk: "scsi0".to_owned(), size_gib: 16 };
        lab.faults(&plan(lab, intent, steps))
    };
    has(&grow(&lab, vec![resize(105, "pve1", "scsi0", 16)]), "policy wants a snapshot first");
    assert_eq!(grow(&lab, vec![snapshot(105, "pve1", "s1"), resize(105, "pve1", "scsi0", 16)]), [""; 0]);
    lab.seen_mut(105).can_snapshot = Some(false);
    assert_eq!(grow(&lab, vec![resize(105, "pve1", "scsi0", 16)]), [""; 0]);
}

#[test]
fn what_is_suspended_to_disk_is_only_woken() {
    let mut lab = lab();
    lab.policy_of("[caution]\nsnapshot_before = [\"set\"]");
    lab.add(108, "asleep", "pve1", GuestStatus::Suspended, "");
    let check = |steps| lab.faults(&plan(&lab, Intent::LabDown {}, steps));
    for step in [
        set(108, "pve1", "4096", "2048").0,
        snapshot(108, "pve1", "s1"),
        resize(108, "pve1", "scsi0", 16),
        migrate(108, "pve1", "pve2", GuestStatus::Suspended),
        snapshot_delete(108, "pve1", "before"),
        rollback(108, "pve1", "before"),
        crate::steps::backup(108, "pve1"),
    ] {
        let faults = check(vec![step]);
        has(&faults, "in another state by then");
    }
    // Nothing can be made of it, so nothing is missed either; control: of one that is awake it is.
    let asleep = check(vec![set(108, "pve1", "4096", "2048").0]);
    assert!(!asleep.iter().any(|fault| fault.contains("wants a snapshot")), "{asleep:?}");
    has(&check(vec![set(105, "pve1", "4096", "2048").0]), "wants a snapshot first");
}

#[test]
fn a_template_neither_changes_nor_is_kept() {
    let lab = lab();
    for step in
        [snapshot(9000, "pve1", "s1"), resize(9000, "pve1", "scsi0", 16), rollback(9000, "pve1", "before")]
    {
        has(&lab.faults(&plan(&lab, Intent::LabDown {}, vec![step])), "a template does not change");
    }
    let mut lab = lab;
    lab.seen_mut(105).can_snapshot = Some(false);
    has(
        &lab.faults(&plan(&lab, intent(Operation::Snapshot, 105), vec![snapshot(105, "pve1", "s1")])),
        "cannot make a snapshot",
    );
}

#[test]
fn a_destroy_has_the_backup_policy_wants() {
    let mut lab = lab();
    lab.policy_of("[caution]\nbackup_before_destroy_hours = 24");
    let gone =
        |lab: &Lab| lab.faults(&plan(lab, intent(Operation::Destroy, 107), vec![destroy(107, "pve2")]));
    let hours = |hours| crate::lab::now() - jiff::SignedDuration::from_hours(hours);
    lab.seen_mut(107).newest_backup = Some(hours(24));
    assert_eq!(gone(&lab), [""; 0]);
    lab.seen_mut(107).newest_backup = Some(hours(25));
    has(&gone(&lab), "a backup not older than 24 h");
    lab.known.get_mut(&key(107)).unwrap().record["backups"] = json!({"kind": "newest", "at": hours(1)});
    assert_eq!(gone(&lab), [""; 0], "its record tells of one");
    lab.known.get_mut(&key(107)).unwrap().record["backups"] = json!({"kind": "not-visible"});
    lab.seen_mut(107).newest_backup = None;
    has(&gone(&lab), "a backup not older than 24 h");
    lab.policy_of("");
    assert_eq!(gone(&lab), [""; 0], "control");
}

/// A plan that changes the memory of 107 to one size and then to another.
fn twice(lab: &Lab, back: &str) -> nhi_model::plan::Plan {
    let ((one, first), (other, second)) = (set(107, "pve2", "4096", "2048"), set(107, "pve2", "1024", back));
    let settings = nhi_model::intent::Settings { memory_mib: Some(1024), ..Default::default() };
    let mut plan = plan(lab, Intent::Set { guest: of(107), settings }, vec![one, other]);
    plan.config_changes.extend([first, second]);
    plan.on_failure = nhi_model::plan::OnFailure::Compensate;
    plan
}

#[test]
fn a_line_that_changes_twice_goes_back_to_what_it_was_before_each_step() {
    let lab = lab();
    assert_eq!(broken(&twice(&lab, "4096"), &lab, |_| {}), [""; 0]);
    // Neither what it was at first, nor something else, nor the first step's undo with the second's value.
    for wrong in ["2048", "512"] {
        let faults = broken(&twice(&lab, wrong), &lab, |_| {});
        has(&faults, "step 2");
        has(&faults, "memory would not be what it was");
        has(&faults, "memory is shown to be another one before it");
    }
    let faults = broken(&twice(&lab, "4096"), &lab, |plan| {
        let back = plan.steps[0].compensation.as_mut().unwrap();
        back.call.params.insert("memory".to_owned(), "4096".to_owned());
    });
    has(&faults, "step 1 (set vm.home.107): what takes it back: memory would not be what it was");
    let faults =
        broken(&twice(&lab, "4096"), &lab, |plan| plan.config_changes.push(plan.config_changes[0].clone()));
    has(&faults, "a change of memory is shown, and no step makes it");
    // A change that is shown once does not stand for two, also not where the second goes back to what was seen.
    has(
        &broken(&twice(&lab, "4096"), &lab, |plan| drop(plan.config_changes.pop())),
        "not among those that are shown",
    );
    has(
        &broken(&twice(&lab, "4096"), &lab, |plan| {
            plan.config_changes.pop();
            for fact in [&mut plan.steps[1].after[0], &mut plan.expects[0]] {
                *fact = nhi_model::fact::Fact::Config {
                    guest: key(107),
                    field: "memory".to_owned(),
                    value: Some("2048".to_owned()),
                };
            }
            plan.steps[1].call.params.insert("memory".to_owned(), "2048".to_owned());
        }),
        "not among those that are shown",
    );
}

#[test]
fn going_back_shows_the_tags_and_the_name_it_brings() {
    let mut lab = lab();
    let steps = || vec![snapshot(105, "pve1", "s1"), rollback(105, "pve1", "before")];
    let back = Intent::Rollback { guest: of(105), name: "before".to_owned(), start: false };
    let made = plan(&lab, back, steps());
    assert_eq!(lab.faults(&made), [""; 0]);
    let past = |lab: &mut Lab, config: Option<&str>| {
        let mut lines = lab.seen(105).config.clone();
        lines.extend(config.map(|tags| ("tags".to_owned(), tags.to_owned())));
        lab.seen_mut(105).snapshots.as_mut().unwrap()[0].config = config.map(|_| lines);
    };
    past(&mut lab, Some("dns"));
    has(&lab.faults(&made), "the change of tags is not among those that are shown");
    let change = |before: &str| nhi_model::plan::ConfigChange {
        guest: key(105),
        field: "tags".to_owned(),
        before: Some(before.to_owned()),
        after: Some("dns".to_owned()),
    };
    assert_eq!(broken(&made, &lab, |plan| plan.config_changes.push(change(""))), [""; 0]);
    has(&broken(&made, &lab, |plan| plan.config_changes.push(change("x"))), "shown to be another one");
    past(&mut lab, None);
    has(&lab.faults(&made), "nobody read the configuration");
}
