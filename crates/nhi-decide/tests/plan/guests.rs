//! What is done to one guest beside its power: configuration, disks, place, backups, its end.

use crate::lab::{calls, ct, intent, lab, now, vm};
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    intent::Operation,
    plan::{ConfigChange, Ends, OnFailure, Repeat, Risk},
    refusal::RefusalCode,
};
use serde_json::json;

#[test]
fn settings_change_what_differs_and_know_the_way_back() {
    let lab = lab([vm(105, "db").stopped().line("tags", "b;a").line("description", "old\n")]);
    let key = lab.guests[&105].key();
    let plan = lab
        .plan(&intent(json!({"do": "set", "guest": "105", "settings": {
            "cores": 4, "memory_mib": 2048, "tags": ["a", "c"], "onboot": true, "description": "",
        }})))
        .unwrap();
    assert_eq!(
        calls(&plan),
        [
            "PUT /nodes/pve1/qemu/105/config cores=4 delete=description digest=digest-of-105-7 onboot=1 tags=a;c"
        ]
    );
    assert_eq!((&plan.steps[0].ends, plan.steps[0].repeat), (&Ends::Answer {}, Repeat::Harmless));
    let back = plan.steps[0].compensation.as_ref().unwrap();
    assert_eq!(
        back.call.to_string(),
        "PUT /nodes/pve1/qemu/105/config cores=2 delete=onboot description=old\n tags=b;a"
    );
    assert_eq!(plan.on_failure, OnFailure::Compensate);
    assert_eq!(
        plan.undo.intents,
        [intent(json!({"do": "set", "guest": "vm.home.105", "settings": {
            "cores": 2, "tags": ["a", "b"], "onboot": false, "description": "old\n",
        }}))]
    );
    assert!(plan.undo.complete);
    assert!(plan.config_changes.contains(&ConfigChange {
        guest: key.clone(),
        field: "cores".to_owned(),
        before: Some("2".to_owned()),
        after: Some("4".to_owned()),
    }));
    assert!(plan.expects.contains(&Fact::Processors { guest: key.clone(), count: 4 }), "{:?}", plan.expects);
    assert!(plan.expects.contains(&Fact::Config {
        guest: key,
        field: "onboot".to_owned(),
        value: Some("1".to_owned())
    }));
    let same =
        json!({"do": "set", "guest": "105", "settings": {"cores": 2, "tags": ["b", "a"], "onboot": false}});
    assert_eq!(lab.plan(&intent(same)).unwrap_err().code, RefusalCode::NothingToDo);
}

#[test]
fn what_a_running_machine_takes_over_later_is_not_expected_now() {
    let lab = lab([vm(105, "db"), ct(106, "web")]);
    let set = |guest: &str| intent(json!({"do": "set", "guest": guest, "settings": {"memory_mib": 4096}}));
    let plan = lab.plan(&set("105")).unwrap();
    assert_eq!(plan.steps[0].after, []);
    assert!(plan.effects.iter().any(|effect| effect.contains("pending")));
    assert_eq!(plan.expects, [Fact::Exists { guest: lab.guests[&105].key() }]);
    let plan = lab.plan(&set("106")).unwrap();
    let memory = Fact::Config {
        guest: lab.guests[&106].key(),
        field: "memory".to_owned(),
        value: Some("4096".to_owned()),
    };
    assert_eq!((&plan.steps[0].after, &plan.expects), (&vec![memory.clone()], &vec![memory]));
}

#[test]
fn a_line_changed_twice_goes_back_by_its_steps() {
    let lab = lab([vm(105, "db").stopped(), vm(106, "web")]);
    let set = |guest: &str, mib: u32| json!({"do": "set", "guest": guest, "settings": {"memory_mib": mib}});
    let all = |of: serde_json::Value| lab.plan(&intent(json!({"do": "all", "of": of}))).unwrap();
    let way = |plan: &nhi_model::plan::Plan| -> Vec<(Option<String>, Option<String>)> {
        plan.config_changes.iter().map(|change| (change.before.clone(), change.after.clone())).collect()
    };
    let mib = |mib: &str| Some(mib.to_owned());
    let plan = all(json!([set("105", 4096), set("105", 1024)]));
    assert_eq!(way(&plan), [(mib("2048"), mib("4096")), (mib("4096"), mib("1024"))]);
    let backs: Vec<String> = plan
        .steps
        .iter()
        .map(|step| step.compensation.as_ref().unwrap().call.params["memory"].clone())
        .collect();
    assert_eq!(backs, ["2048", "4096"]);
    // What waits while the machine runs is in force when it has stopped: setting the old value is no change before,
    // and one after.
    let plan = all(json!([set("106", 4096), {"do": "shutdown", "guest": "106"}, set("106", 2048)]));
    assert_eq!(way(&plan), [(mib("2048"), mib("4096")), (mib("4096"), mib("2048"))]);
    let plan = all(json!([set("106", 4096), {"do": "reboot", "guest": "106"}]));
    let key = lab.guests[&106].key();
    assert!(plan.expects.contains(&Fact::Config {
        guest: key,
        field: "memory".to_owned(),
        value: mib("4096")
    }));
}

#[test]
fn a_mark_that_protects_is_not_taken_back_by_itself() {
    let lab = lab([vm(105, "db")]);
    let set = |tag: &str| intent(json!({"do": "set", "guest": "105", "settings": {"tags": [tag]}}));
    let plan = lab.plan(&set("critical")).unwrap();
    assert_eq!((plan.undo.intents.len(), plan.undo.complete), (0, false));
    assert!(plan.undo.cost.contains("a person takes this back"), "{}", plan.undo.cost);
    assert_eq!(lab.plan_with(&set("critical"), Some(10)).unwrap_err().code, RefusalCode::NotPossible);
    assert!(lab.plan_with(&set("lab"), Some(10)).unwrap().undo.complete, "control");
    // Also of a guest that the plan makes.
    for (tag, complete) in [("critical", false), ("lab", true)] {
        let new = json!({"name": "new", "tags": [tag], "storage": "tank", "disk_gib": 8});
        let plan = lab.plan(&intent(json!({"do": "create-vm", "new": new}))).unwrap();
        assert_eq!((plan.undo.complete, plan.undo.intents.is_empty()), (complete, !complete), "{tag}");
    }
}

#[test]
fn disks_only_grow() {
    let lab = lab([
        vm(105, "db").line("scsi1", "tank:vm-105-disk-1,size=8G"),
        ct(106, "web").line("mp0", "/srv,mp=/srv"),
    ]);
    let resize = |guest: &str, disk: &str, size: u64| {
        lab.plan(&intent(json!({"do": "resize", "guest": guest, "disk": disk, "size_gib": size})))
    };
    let plan = resize("105", "scsi1", 9).unwrap();
    assert_eq!(calls(&plan), ["PUT /nodes/pve1/qemu/105/resize disk=scsi1 size=9G"]);
    let key = lab.guests[&105].key();
    assert_eq!(
        plan.steps[0].after,
        [Fact::DiskAtLeast { guest: key.clone(), disk: "scsi1".to_owned(), bytes: 9 << 30 }]
    );
    // The record has one size, and with two disks nobody knows whose.
    assert_eq!(plan.expects, [Fact::Exists { guest: key }]);
    assert!(!plan.undo.complete && plan.undo.intents.is_empty());
    assert!(matches!(resize("106", "rootfs", 64).unwrap().expects[0], Fact::DiskAtLeast { .. }));
    for (guest, disk, size, code) in [
        ("105", "scsi1", 7, RefusalCode::BadValue),
        ("105", "scsi1", 8, RefusalCode::NothingToDo),
        ("106", "mp0", 9, RefusalCode::NotPossible),
        ("106", "scsi0", 9, RefusalCode::Unknown),
    ] {
        assert_eq!(resize(guest, disk, size).unwrap_err().code, code, "{guest} {disk} {size}");
    }
}

#[test]
fn guests_move_as_their_kind_allows() {
    let mut lab = lab([vm(105, "db"), ct(106, "web"), ct(107, "off").stopped()]);
    lab.graph = json!({"site": {"depends_on": ["db"]}});
    lab.guests.insert(108, ct(108, "site"));
    for (guest, call) in [
        ("105", "POST /nodes/pve1/qemu/105/migrate online=1 target=pve2"),
        ("106", "POST /nodes/pve1/lxc/106/migrate restart=1 target=pve2"),
        ("107", "POST /nodes/pve1/lxc/107/migrate target=pve2"),
    ] {
        let plan = lab.plan(&intent(json!({"do": "migrate", "guest": guest, "node": "pve2"}))).unwrap();
        assert_eq!(calls(&plan), [call]);
        let key = lab.guests[&guest.parse().unwrap()].key();
        assert_eq!(plan.undo.intents, [intent(json!({"do": "migrate", "guest": key, "node": "pve1"}))]);
        assert!(plan.expects.contains(&Fact::OnNode { guest: key, node: "pve2".to_owned() }));
        assert_eq!(plan.impacts.len(), usize::from(guest == "105"), "what needs it is told");
    }
    lab.storages = vec![("nas", "nfs", "images", true)];
    let refused = lab.plan(&intent(json!({"do": "migrate", "guest": "105", "node": "pve2"}))).unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotPossible);
}

#[test]
fn a_backup_goes_to_the_only_place_and_removes_nothing() {
    let mut lab = lab([vm(105, "db")]);
    let plan = lab.plan(&intent(json!({"do": "backup", "guest": "105"}))).unwrap();
    assert_eq!(
        calls(&plan),
        ["POST /nodes/pve1/vzdump compress=zstd mode=snapshot remove=0 storage=nas vmid=105"]
    );
    let made = Fact::BackupSince { guest: lab.guests[&105].key(), since: now() };
    assert_eq!((plan.steps[0].repeat, &plan.expects), (Repeat::Harmful, &vec![made]));
    lab.storages.push(("pbs", "pbs", "backup", true));
    assert_eq!(
        lab.plan(&intent(json!({"do": "backup", "guest": "105"}))).unwrap_err().code,
        RefusalCode::BadValue
    );
    let plan = lab.plan(&intent(json!({"do": "backup", "guest": "105", "storage": "pbs"}))).unwrap();
    assert!(calls(&plan)[0].contains("storage=pbs"));
}

#[test]
fn a_destroy_says_what_goes_and_never_forces() {
    let mut lab = lab([ct(106, "web").stopped()]);
    lab.guests.get_mut(&106).unwrap().pool = Some("lab".to_owned());
    let plan = lab.plan(&intent(json!({"do": "destroy", "guest": "106"}))).unwrap();
    assert_eq!(calls(&plan), ["DELETE /nodes/pve1/lxc/106 destroy-unreferenced-disks=0"]);
    let key = lab.guests[&106].key();
    assert_eq!(
        (plan.expects.as_slice(), plan.risk),
        ([Fact::Gone { guest: key.clone() }].as_slice(), Risk::Destructive)
    );
    assert!(
        plan.steps[0].before.contains(&Fact::Status { guest: key.clone(), status: GuestStatus::Stopped })
    );
    assert!(plan.steps[0].before.contains(&Fact::HaManaged { guest: key.clone(), managed: false }));
    assert!(plan.requires.contains(&Fact::Unprotected { guest: key }));
    assert!(plan.impacts.iter().any(|impact| impact.name == "lab"));
    assert!(plan.undo.intents.is_empty() && !plan.undo.complete);
    let purge = lab.plan(&intent(json!({"do": "destroy", "guest": "106", "purge": true}))).unwrap();
    assert_eq!(calls(&purge), ["DELETE /nodes/pve1/lxc/106 destroy-unreferenced-disks=0 purge=1"]);
    assert!(purge.effects.iter().any(|effect| effect.contains("backup jobs, replication and HA")));
}

#[test]
fn policy_makes_a_snapshot_first_where_it_can() {
    let mut lab = lab([vm(105, "db"), vm(9000, "t").template()]);
    lab.policy.caution.snapshot_before = [Operation::Set, Operation::Stop, Operation::Destroy].into();
    let asked = intent(json!({"do": "all", "of": [
        {"do": "set", "guest": "105", "settings": {"cores": 4}}, {"do": "stop", "guest": "105"},
    ]}));
    let plan = lab.plan(&asked).unwrap();
    assert_eq!(
        calls(&plan),
        [
            "POST /nodes/pve1/qemu/105/snapshot description=before set by plan p-0k3x9a snapname=nhi-0k3x9a",
            // The snapshot changes the configuration's digest.
            "PUT /nodes/pve1/qemu/105/config cores=4",
            "POST /nodes/pve1/qemu/105/status/stop",
        ]
    );
    assert_eq!(plan.targets[0].operations, [Operation::Snapshot, Operation::Set, Operation::Stop]);
    let mut sight = lab.sight();
    sight.seen_mut(&lab.guests[&105].key()).unwrap().can_snapshot = Some(false);
    let plan = lab.plan_on(&intent(json!({"do": "stop", "guest": "105"})), &sight).unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert!(plan.effects.iter().any(|effect| effect.contains("No snapshot")), "{:?}", plan.effects);
    lab.guests.insert(105, vm(105, "db").stopped());
    let plan = lab.plan(&intent(json!({"do": "destroy", "guest": "105"}))).unwrap();
    assert_eq!(plan.steps.len(), 1);
}
