//! What holds of every plan, whatever the lab and whatever is asked: it does what it says, harms nothing that is
//! protected or that something running needs, and its way back leads back.

use crate::{
    lab::{Inmate, Lab, carried_out, ct, lab, vm},
    proxmox,
};
use nhi_decide::{
    fact::{Holds, holds, sentence},
    plan::Past,
};
use nhi_model::{
    call::At,
    guest::{GuestKind, GuestStatus},
    intent::{GuestRef, Intent, NewGuest, Operation, Settings},
    key::Key,
    plan::{Plan, PlanId, Step},
    refusal::RefusalCode,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const GUESTS: usize = 7;

fn vmid(at: usize) -> u32 {
    101 + u32::try_from(at).unwrap()
}

fn reference(at: usize) -> GuestRef {
    GuestRef::parse(&vmid(at).to_string()).unwrap()
}

fn inmate() -> impl Strategy<Value = Inmate> {
    let tags = prop::sample::subsequence(vec!["a", "b", "critical"], 0..=2);
    let kind = any::<bool>();
    let status = 0..10_u8;
    (kind, status, tags, any::<[bool; 4]>(), 1..4_u32).prop_map(
        |(kind, status, tags, [flag, boot, away, snap], cores)| {
            let mut guest = if kind { vm(0, "x") } else { ct(0, "x") };
            guest = guest.line("cores", &cores.to_string());
            if !tags.is_empty() {
                guest = guest.line("tags", &tags.join(";"));
            }
            if boot {
                guest = guest.line("onboot", "1").line("description", "notes");
            }
            if snap {
                guest = guest.snapshot("s1", 3, &[("memory", Some("1024")), ("onboot", None)]);
            }
            // One in four is protected by Proxmox's flag.
            if flag && cores == 1 {
                guest = guest.line("protection", "1");
            }
            if away {
                guest = guest.on("pve2");
            }
            match (status, kind) {
                (0..=4, _) => guest,
                (5..=7, _) => guest.stopped(),
                (8, true) => guest.status(GuestStatus::Paused),
                (9, true) => guest.status(GuestStatus::Suspended),
                (_, _) => guest.managed(),
            }
        },
    )
}

prop_compose! {
    fn any_lab()(
        guests in prop::collection::vec(inmate(), GUESTS),
        edges in prop::collection::vec((0..GUESTS + 1, 0..GUESTS + 1), 0..6),
        cautious in any::<bool>(),
        us in prop::option::of(0..GUESTS),
    ) -> Lab {
        let mut lab = lab(guests.into_iter().enumerate().map(|(at, mut guest)| {
            guest.vmid = vmid(at);
            guest.uuid = guest.uuid.map(|_| format!("00000000-0000-4000-8000-{:012}", guest.vmid));
            let (title, disk) = (guest.title(), guest.disk());
            let mut guest = guest
                .line(title, &format!("g{at}"))
                .line(disk, &format!("local-lvm:vm-{}-disk-0,size=32G", vmid(at)));
            let (config, lock) = (guest.config.clone(), guest.config.contains_key("lock"));
            for snapshot in &mut guest.snapshots {
                let old = snapshot.config.as_mut().unwrap();
                old.insert(title.to_owned(), config[title].clone());
                old.insert(disk.to_owned(), config[disk].clone());
            }
            assert!(!lock || guest.status == GuestStatus::Suspended);
            guest
        }));
        // A later service needs an earlier one; the last has no guest.
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (one, other) in edges.into_iter().filter(|(one, other)| one != other) {
            let (low, high) = (one.min(other), one.max(other));
            graph.entry(format!("g{high}")).or_default().insert(format!("g{low}"));
        }
        lab.graph = Value::Object(graph.into_iter().map(|(name, needs)| (name, json!({ "depends_on": needs }))).collect::<Map<_, _>>());
        if cautious {
            lab.policy.caution.snapshot_before = Operation::ALL.into();
        }
        lab.policy.limits.guests_per_plan = 100;
        lab.policy.limits.destroys_per_day = 100;
        lab.ourselves = us.map(|at| lab.guests[&vmid(at)].key()).into_iter().collect();
        lab
    }
}

fn any_deed() -> impl Strategy<Value = Intent> {
    let settings = (prop::option::of(1..4_u32), prop::option::of(any::<bool>()), any::<bool>()).prop_map(
        |(cores, onboot, tags)| Settings {
            cores,
            memory_mib: None,
            tags: tags.then(|| ["c".to_owned()].into()),
            onboot,
            description: Some(if tags { "" } else { "new" }.to_owned()),
        },
    );
    let guest = || (0..GUESTS).prop_map(reference);
    prop_oneof![
        guest().prop_map(|guest| Intent::Start { guest }),
        (guest(), any::<bool>()).prop_map(|(guest, with_dependents)| Intent::Stop { guest, with_dependents }),
        (guest(), any::<bool>()).prop_map(|(guest, with_dependents)| Intent::Shutdown {
            guest,
            with_dependents,
            timeout_s: None
        }),
        (guest(), any::<bool>())
            .prop_map(|(guest, with_dependents)| Intent::Reboot { guest, with_dependents }),
        guest().prop_map(|guest| Intent::Reset { guest }),
        (guest(), any::<bool>()).prop_map(|(guest, to_disk)| Intent::Suspend { guest, to_disk }),
        guest().prop_map(|guest| Intent::Resume { guest }),
        guest().prop_map(|guest| Intent::Destroy { guest, purge: false }),
        guest().prop_map(|guest| Intent::Snapshot {
            guest,
            name: "s2".to_owned(),
            description: None,
            memory: false
        }),
        guest().prop_map(|guest| Intent::SnapshotDelete { guest, name: "s1".to_owned() }),
        (guest(), any::<bool>()).prop_map(|(guest, start)| Intent::Rollback {
            guest,
            name: "s1".to_owned(),
            start
        }),
        guest().prop_map(|guest| Intent::Migrate { guest, node: "pve3".to_owned() }),
        (guest(), settings).prop_map(|(guest, settings)| Intent::Set { guest, settings }),
        guest().prop_map(|guest| Intent::Backup { guest, storage: None }),
        (guest(), any::<bool>()).prop_map(|(guest, start)| Intent::Clone {
            guest,
            new: NewGuest { name: "copy".to_owned(), start, disk_gib: Some(40), ..NewGuest::default() },
            full: true,
            snapshot: None,
        }),
        (0..GUESTS).prop_map(|at| Intent::ServiceUp { service: format!("g{at}") }),
        Just(Intent::LabDown {}),
        Just(Intent::Start { guest: GuestRef::parse("tag:a").unwrap() }),
        Just(Intent::Shutdown {
            guest: GuestRef::parse("tag:b").unwrap(),
            with_dependents: true,
            timeout_s: None
        }),
    ]
}

fn any_intent() -> impl Strategy<Value = Intent> {
    prop::collection::vec(any_deed(), 1..4).prop_map(|of| Intent::All { of })
}

/// Whether an operation may harm; written apart from the planner's list.
fn harms(operation: Operation) -> bool {
    operation.interrupts()
        || matches!(operation, Operation::Set | Operation::Resize | Operation::SnapshotDelete)
}

fn is_protected(guest: &Inmate) -> bool {
    guest.flag("protection") || guest.tags().contains("critical")
}

/// Guests that need another, found by asking everybody again and again.
fn needing(lab: &Lab, guest: &Inmate) -> BTreeSet<u32> {
    let own = guest.name();
    let mut found: BTreeSet<String> = BTreeSet::new();
    loop {
        let graph = lab.graph.as_object().unwrap();
        let needs = |needed: &Value| {
            let needed = needed.as_str().unwrap();
            needed == own || found.contains(needed)
        };
        let more = graph.iter().filter(|(_, row)| row["depends_on"].as_array().unwrap().iter().any(needs));
        let more: BTreeSet<String> = more.map(|(name, _)| name.clone()).collect();
        if more.is_subset(&found) {
            break;
        }
        found.extend(more);
    }
    let others =
        lab.guests.values().filter(|other| other.vmid != guest.vmid && found.contains(&other.name()));
    others.map(|other| other.vmid).collect()
}

fn check_facts(lab: &Lab, facts: &[nhi_model::fact::Fact], when: &str, step: &Step) {
    let sight = lab.sight();
    for fact in facts {
        let answer = holds(fact, &sight);
        assert!(answer == Holds::Yes, "{when} {:?}: {}: {answer:?}", step.what, sentence(fact));
    }
}

/// Carries a plan out, looking at each step whether it may be done and whether it did what it said.
fn carry_out(lab: &mut Lab, plan: &Plan) {
    let untouchable: BTreeSet<Key> = lab
        .guests
        .values()
        .filter(|guest| is_protected(guest) || lab.ourselves.contains(&guest.key()))
        .map(Inmate::key)
        .collect();
    for step in &plan.steps {
        assert!(!(harms(step.operation) && untouchable.contains(&step.guest)), "{}", step.what);
        assert!(!lab.ourselves.contains(&step.guest), "{}", step.what);
        let number: u32 = step.guest.tokens()[1].parse().unwrap();
        if let Some(guest) = lab.guests.get(&number) {
            let moves_live = step.operation == Operation::Migrate && guest.kind == GuestKind::Qemu;
            let cut = step.operation.interrupts()
                && !moves_live
                && (guest.is_up() || step.operation == Operation::Destroy);
            let running: Vec<u32> =
                needing(lab, guest).into_iter().filter(|other| cut && lab.guests[other].is_up()).collect();
            assert!(running.is_empty(), "{} cuts off {running:?}", step.what);
        }
        check_facts(lab, &step.before, "before", step);
        proxmox::call(lab, &step.call).unwrap_or_else(|refused| panic!("{}: {refused}", step.what));
        check_facts(lab, &step.after, "after", step);
    }
    let records = lab.recorded();
    for fact in &plan.expects {
        assert_eq!(holds(fact, &records), Holds::Yes, "the scanner sees: {}", sentence(fact));
    }
}

/// What is a fact of a guest: not the snapshots made for safety, and not what points at them.
fn facts(lab: &Lab) -> BTreeMap<u32, Inmate> {
    let mut guests = lab.guests.clone();
    for guest in guests.values_mut() {
        guest.config.remove("parent");
        if !guest.flag("onboot") {
            guest.config.remove("onboot");
        }
        let in_force = |field: &String, line: &Option<String>| guest.config.get(field) == line.as_ref();
        guest.pending.retain(|field, line| !in_force(field, line));
        guest.backup = None;
        guest.snapshots.retain(|snapshot| !snapshot.name.starts_with("nhi-"));
        for snapshot in &mut guest.snapshots {
            snapshot.parent = None;
        }
    }
    guests
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_does_what_it_says_harms_nothing_and_leads_back(mut lab in any_lab(), asked in any_intent()) {
        let Ok(plan) = lab.plan(&asked) else { return Ok(()) };
        let before = facts(&lab);
        carry_out(&mut lab, &plan);
        if plan.undo.intents.is_empty() {
            return Ok(());
        }
        lab.id = PlanId::parse("p-second").unwrap();
        lab.past = Some(Past { done: Some(carried_out(&plan)), moment: None });
        match lab.plan(&Intent::Undo { plan: plan.id.clone() }) {
            Ok(back) => {
                carry_out(&mut lab, &back);
                if plan.undo.complete {
                    prop_assert_eq!(facts(&lab), before);
                }
            }
            // Something that needs it may have run all the while, without what it needs.
            Err(refusal) => prop_assert!(
                matches!(refusal.code, RefusalCode::DependentsRunning | RefusalCode::NothingToDo | RefusalCode::Ourselves),
                "{:?}", refusal
            ),
        }
    }

    #[test]
    fn guests_return_to_any_moment(mut lab in any_lab(), asked in any_intent(), whom in 0..GUESTS) {
        let before = lab.guests.clone();
        let moment = lab.moment(At::Revision(7));
        let Ok(plan) = lab.plan(&asked) else { return Ok(()) };
        carry_out(&mut lab, &plan);
        lab.id = PlanId::parse("p-second").unwrap();
        lab.past = Some(Past { moment: Some(moment), done: None });
        let Ok(back) = lab.plan(&Intent::Return { guests: vec![reference(whom)], to: At::Revision(7) }) else { return Ok(()) };
        carry_out(&mut lab, &back);
        let (was, is) = (&before[&vmid(whom)], &lab.guests[&vmid(whom)]);
        prop_assert_eq!(was.status, is.status);
        prop_assert_eq!(&was.node, &is.node);
        prop_assert_eq!(was.tags(), is.tags());
        prop_assert_eq!(was.flag("onboot"), is.flag("onboot"));
        prop_assert_eq!(was.config.get("description"), is.config.get("description"));
    }
}
