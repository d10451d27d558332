//! Input nobody would write by mistake: texts, records and sights that hold anything. Planning ends in a plan or a
//! refusal, never in a panic, and no text of it leaves its place in a path.

use crate::lab::{Lab, ct, intent, lab, now, vm, who};
use nhi_decide::{
    observe::Known,
    plan::{Past, Request, Scene, needs, plan},
    sight::{GuestSight, Seen, Sight, SnapshotSight},
};
use nhi_model::{
    guest::{GuestIdentity, GuestKind, GuestStatus},
    intent::Intent,
    key::Key,
    plan::{Plan, PlanId},
    refusal::Refusal,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Texts that break out of things, or are simply odd.
fn nasty() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("../../etc/passwd".to_owned()),
        Just("a,force=1".to_owned()),
        Just("x;reboot -f".to_owned()),
        Just("105".to_owned()),
        Just("db".to_owned()),
        Just("tag:a".to_owned()),
        Just("vm.home.105".to_owned()),
        Just("home/105".to_owned()),
        Just("local-lvm:base-105-disk-0/vm-1-disk-0,size=99999999999T".to_owned()),
        Just("order=;;;,down=4294967296".to_owned()),
        Just("99999999999999999999".to_owned()),
        "[a-zA-Z0-9:/;,=._ -]{0,24}",
        any::<String>(),
    ]
}

fn nasty_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        nasty().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(nasty(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An intent's document with any values in the right places: what is no intent is refused before the planner.
fn nasty_intent() -> impl Strategy<Value = Intent> {
    let words = prop::sample::select(vec![
        "start",
        "stop",
        "shutdown",
        "reboot",
        "reset",
        "suspend",
        "resume",
        "destroy",
        "snapshot",
        "snapshot-delete",
        "rollback",
        "migrate",
        "resize",
        "set",
        "backup",
        "create-vm",
        "create-lxc",
        "clone",
        "service-up",
        "lab-down",
        "lab-up",
        "return",
        "undo",
    ]);
    let guest = prop_oneof![Just("105".to_owned()), Just("db".to_owned()), Just("106".to_owned()), nasty()];
    let fields = (guest, nasty(), nasty(), any::<u32>(), any::<u64>(), any::<bool>());
    let one = (words, fields).prop_filter_map("no intent", |(word, (guest, text, other, small, large, flag))| {
        let new = json!({"name": text, "vmid": small, "cores": small, "memory_mib": large, "disk_gib": large, "node": other,
            "storage": other, "pool": other, "bridge": other, "tags": [other], "description": other, "start": flag});
        let document = match word {
            "start" | "reset" | "resume" => json!({"do": word, "guest": guest}),
            "stop" | "reboot" => json!({"do": word, "guest": guest, "with_dependents": flag}),
            "shutdown" => json!({"do": word, "guest": guest, "timeout_s": small, "with_dependents": flag}),
            "suspend" => json!({"do": word, "guest": guest, "to_disk": flag}),
            "destroy" => json!({"do": word, "guest": guest, "purge": flag}),
            "snapshot" => json!({"do": word, "guest": guest, "name": text, "description": other, "memory": flag}),
            "snapshot-delete" => json!({"do": word, "guest": guest, "name": text}),
            "rollback" => json!({"do": word, "guest": guest, "name": text, "start": flag}),
            "migrate" => json!({"do": word, "guest": guest, "node": text}),
            "resize" => json!({"do": word, "guest": guest, "disk": text, "size_gib": large}),
            "set" => json!({"do": word, "guest": guest, "settings": {"cores": small, "memory_mib": large, "tags": [text], "description": other}}),
            "backup" => json!({"do": word, "guest": guest, "storage": text}),
            "create-vm" => json!({"do": word, "new": new, "template": guest, "full": flag}),
            "create-lxc" => json!({"do": word, "new": new, "template": text, "ip": other, "gateway": other}),
            "clone" => json!({"do": word, "new": new, "guest": guest, "full": flag, "snapshot": other}),
            "service-up" => json!({"do": word, "service": text}),
            "return" => json!({"do": word, "guests": [guest], "to": {"revision": large}}),
            "undo" => json!({"do": word, "plan": "p-0k3x9a"}),
            _ => json!({"do": word}),
        };
        serde_json::from_value(document).ok()
    });
    prop::collection::vec(one, 1..4).prop_map(|of| Intent::All { of })
}

fn nasty_seen() -> impl Strategy<Value = Seen> {
    let status = prop::sample::select(vec![
        GuestStatus::Running,
        GuestStatus::Stopped,
        GuestStatus::Paused,
        GuestStatus::Suspended,
        GuestStatus::Unknown,
    ]);
    let line = prop_oneof![
        prop::sample::select(vec![
            "scsi0", "rootfs", "boot", "startup", "net0", "tags", "memory", "cores", "sockets", "balloon"
        ])
        .prop_map(str::to_owned),
        nasty(),
    ];
    let config = prop::collection::btree_map(line, nasty(), 0..8).boxed();
    (nasty(), nasty(), status, any::<[bool; 5]>(), config.clone(), config, nasty()).prop_map(
        |(name, node, status, [qemu, template, whole, ha, lock], config, past, snapshot)| Seen {
            kind: if qemu { GuestKind::Qemu } else { GuestKind::Lxc },
            vmid: 105,
            node,
            name,
            status,
            lock: lock.then(|| "backup".to_owned()),
            template,
            ha: ha.then(|| "started".to_owned()),
            identity: GuestIdentity::default(),
            config,
            config_whole: whole,
            digest: None,
            snapshots: Some(vec![SnapshotSight {
                name: snapshot,
                parent: None,
                at: None,
                config: Some(past),
            }]),
            snapshot_count: None,
            processors: None,
            can_snapshot: Some(true),
            newest_backup: None,
            migrate: None,
            pool: None,
        },
    )
}

fn try_it(
    lab: &Lab,
    asked: &Intent,
    known: &BTreeMap<Key, Known>,
    sight: &Sight,
    past: Option<&Past>,
) -> Result<Plan, Refusal> {
    let (by, none, nobody, no_runs) = (who(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let scene = Scene {
        now: now(),
        revision: 1,
        known,
        sight,
        policy: &lab.policy,
        ourselves: &none,
        holds: &nobody,
        leases: &no_runs,
        past,
    };
    let request = Request {
        id: PlanId::parse("p-0k3x9a").unwrap(),
        by: &by,
        intent: asked,
        reason: None,
        vmids: &[500, 501, 502],
        undo_unless_confirmed_minutes: None,
    };
    // Neither of the two may panic, whatever the other says.
    let _ = needs(asked, known, &lab.policy, past);
    plan(&request, &scene)
}

/// What may stand in a path and in a parameter of any plan.
fn keeps_its_place(plan: &Plan) {
    for step in plan.steps.iter().flat_map(|step| std::iter::once(step).chain(step.compensation.as_deref())) {
        let path = &step.call.path;
        assert!(path.starts_with("/nodes/"), "{path}");
        assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~%".contains(&b)), "{path}");
        assert!(!path.split('/').any(|part| part == ".." || part == "."), "{path}");
        assert!(
            !step.call.params.contains_key("force") && !step.call.params.contains_key("skiplock"),
            "{path}"
        );
        if let Some(net0) = step.call.params.get("net0") {
            assert!(!net0.contains('\n'), "{net0:?}");
        }
    }
}

fn small() -> Lab {
    let mut lab = lab([
        vm(105, "db").snapshot("good", 1, &[]).line("tags", "a"),
        ct(106, "web"),
        vm(107, "t").template(),
    ]);
    lab.graph = json!({"web": {"depends_on": ["db"]}});
    lab
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_intent_ends_in_a_plan_or_a_refusal(asked in nasty_intent()) {
        let lab = small();
        if let Ok(plan) = try_it(&lab, &asked, &lab.known(), &lab.sight(), None) {
            keeps_its_place(&plan);
        }
    }

    #[test]
    fn any_record_and_sight_end_in_a_plan_or_a_refusal(
        asked in nasty_intent(),
        seen in nasty_seen(),
        records in prop::collection::vec(nasty_json(), 4),
        graph in nasty_json(),
    ) {
        let lab = small();
        let (mut known, mut sight) = (lab.known(), lab.sight());
        let key = lab.guests[&105].key();
        for (key, record) in [key.clone(), lab.guests[&106].key(), Key::node("home", "pve1"), Key::storage("home", "pve1", "nas")]
            .into_iter()
            .zip(records)
        {
            known.insert(key, Known { revision: 2, record, stale: None });
        }
        known.insert(Key::graph(), Known { revision: 2, record: json!({"services": graph}), stale: None });
        sight.nodes.insert(seen.node.clone(), sight.nodes["pve1"].clone());
        sight.guests.insert(key, GuestSight::Seen(Box::new(seen)));
        let moment = lab.moment(nhi_model::call::At::Revision(3));
        let past = Past { moment: Some(moment), done: None };
        if let Ok(plan) = try_it(&lab, &asked, &known, &sight, Some(&past)) {
            keeps_its_place(&plan);
        }
    }
}

#[test]
fn a_graph_with_a_circle_hangs_nobody() {
    let mut lab = lab([vm(101, "a"), vm(102, "b"), vm(103, "c")]);
    lab.graph =
        json!({"a": {"depends_on": ["b"]}, "b": {"depends_on": ["c"]}, "c": {"depends_on": ["a", "c"]}});
    for asked in [
        json!({"do": "stop", "guest": "a", "with_dependents": true}),
        json!({"do": "lab-down"}),
        json!({"do": "service-up", "service": "a"}),
        json!({"do": "shutdown", "guest": "b"}),
    ] {
        assert!(lab.plan(&intent(asked)).is_err());
    }
}
