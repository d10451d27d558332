//! Snapshots: made, removed, gone back to; every line that returns is said.

use crate::lab::{calls, ct, intent, lab, vm};
use nhi_decide::plan::needs;
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    plan::{Repeat, Risk},
    refusal::RefusalCode,
};
use serde_json::json;

#[test]
fn a_snapshot_is_made_named_and_counted() {
    let lab = lab([vm(105, "db").snapshot("old", 3, &[]), ct(106, "web"), vm(9000, "t").template()]);
    let plan =
        lab.plan(&intent(json!({"do": "snapshot", "guest": "105", "name": "new", "memory": true}))).unwrap();
    assert_eq!(calls(&plan), ["POST /nodes/pve1/qemu/105/snapshot snapname=new vmstate=1"]);
    let key = lab.guests[&105].key();
    assert_eq!(plan.expects, [Fact::SnapshotCount { guest: key.clone(), count: 2 }]);
    assert!(plan.steps[0].before.contains(&Fact::Snapshot {
        guest: key,
        name: "new".to_owned(),
        present: false
    }));
    assert_eq!(
        plan.undo.intents,
        [intent(json!({"do": "snapshot-delete", "guest": "vm.home.105", "name": "new"}))]
    );
    assert_eq!(plan.risk, Risk::Low);
    for (asked, code) in [
        (json!({"do": "snapshot", "guest": "105", "name": "old"}), RefusalCode::NotPossible),
        (json!({"do": "snapshot", "guest": "106", "name": "new", "memory": true}), RefusalCode::NotPossible),
        (json!({"do": "snapshot", "guest": "9000", "name": "new"}), RefusalCode::NotPossible),
    ] {
        assert_eq!(lab.plan(&intent(asked.clone())).unwrap_err().code, code, "{asked}");
    }
    let plan = lab.plan(&intent(json!({"do": "snapshot-delete", "guest": "105", "name": "old"}))).unwrap();
    assert_eq!(calls(&plan), ["DELETE /nodes/pve1/qemu/105/snapshot/old"]);
    assert_eq!((plan.risk, plan.undo.complete), (Risk::Destructive, false));
}

#[test]
fn going_back_shows_every_line_that_returns() {
    let differs = [
        ("memory", Some("1024")),
        ("tags", Some("a")),
        ("onboot", None),
        ("vmgenid", Some("x")),
        ("scsi1", Some("tank:v")),
    ];
    let guest = vm(105, "db").line("onboot", "1").line("description", "kept").snapshot("old", 9, &differs);
    let lab = lab([guest]);
    let asked = intent(json!({"do": "rollback", "guest": "105", "name": "old"}));
    let wanted = needs(&asked, &lab.known(), &lab.policy, None).unwrap();
    assert_eq!(wanted.snapshot_configs, [(lab.guests[&105].key(), "old".to_owned())].into());
    let plan = lab.plan(&asked).unwrap();
    assert_eq!(
        calls(&plan),
        [
            "POST /nodes/pve1/qemu/105/snapshot description=before rollback by plan p-0k3x9a snapname=nhi-0k3x9a",
            "POST /nodes/pve1/qemu/105/snapshot/old/rollback",
        ]
    );
    let changed: Vec<&str> = plan.config_changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(changed, ["memory", "onboot", "scsi1", "tags"]);
    assert_eq!((plan.steps[1].repeat, plan.risk), (Repeat::Harmful, Risk::High));
    let key = lab.guests[&105].key();
    assert!(plan.steps[1].after.contains(&Fact::Status { guest: key.clone(), status: GuestStatus::Stopped }));
    let tags = |value| Fact::Config { guest: key.clone(), field: "tags".to_owned(), value };
    assert!(plan.expects.contains(&tags(Some("a".to_owned()))));
    // What returns is otherwise before, so that a rollback whose end nobody saw is told from none.
    let was = plan.steps[1].before.iter().find(|fact| **fact == tags(None));
    assert!(was.is_some() && !plan.steps[1].after.contains(&tags(None)), "{:#?}", plan.steps[1]);
    let said = plan.effects.join("\n");
    assert!(said.contains("stopped without being asked") && said.contains("lost"), "{said}");
    assert_eq!(
        plan.undo.intents,
        [intent(json!({"do": "rollback", "guest": "vm.home.105", "name": "nhi-0k3x9a", "start": true}))]
    );

    let mut unread = lab.sight();
    unread.seen_mut(&lab.guests[&105].key()).unwrap().snapshots.as_mut().unwrap()[0].config = None;
    assert_eq!(lab.plan_on(&asked, &unread).unwrap_err().code, RefusalCode::NotSeen);
}

#[test]
fn storages_that_only_know_the_newest_are_asked_for_no_other() {
    let on_zfs = || vm(105, "db").line("scsi0", "tank:vm-105-disk-0,size=8G");
    let lab = lab([on_zfs().snapshot("first", 9, &[]).snapshot("last", 1, &[])]);
    let back = |name: &str| lab.plan(&intent(json!({"do": "rollback", "guest": "105", "name": name})));
    let refused = back("first").unwrap_err();
    assert_eq!((refused.code, &refused.details["newer"]), (RefusalCode::NotPossible, &json!(["last"])));
    // Nor is one made for safety, which would itself be the newest.
    let plan = back("last").unwrap();
    assert_eq!((plan.steps.len(), plan.risk), (1, Risk::Destructive));
    let plan = self::lab([vm(105, "db").snapshot("first", 9, &[]).snapshot("last", 1, &[])])
        .plan(&intent(json!({"do": "rollback", "guest": "105", "name": "first", "start": true})))
        .unwrap();
    assert!(calls(&plan)[1].ends_with("/snapshot/first/rollback start=1"));
}
