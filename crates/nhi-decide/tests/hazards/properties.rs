//! The promises about observations, over random labs, changes of them, and faults.

use crate::lab::{CLUSTER, Faults, Truth, World, ct, guest, identity, is_retired, timeless, truth, vm};
use nhi_decide::{
    change::What,
    observation::{GuestRef, List},
};
use nhi_model::{
    guest::{AddressSource, GuestStatus},
    key::Key,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];

/// Something that happens in the lab.
#[derive(Clone, Debug)]
enum Event {
    Create(GuestRef, usize),
    Destroy(GuestRef),
    Move(GuestRef, usize),
    Rename(GuestRef, String),
    Status(GuestRef, GuestStatus),
    Reuse(GuestRef, u8),
}

fn id() -> impl Strategy<Value = GuestRef> {
    (100u32..106, any::<bool>()).prop_map(|(number, qemu)| if qemu { vm(number) } else { ct(number + 100) })
}

fn status() -> impl Strategy<Value = GuestStatus> {
    prop_oneof![Just(GuestStatus::Running), Just(GuestStatus::Stopped), Just(GuestStatus::Paused)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (id(), 0..3usize).prop_map(|(id, node)| Event::Create(id, node)),
        id().prop_map(Event::Destroy),
        (id(), 0..3usize).prop_map(|(id, node)| Event::Move(id, node)),
        (id(), "[a-z]{1,8}").prop_map(|(id, name)| Event::Rename(id, name)),
        (id(), status()).prop_map(|(id, status)| Event::Status(id, status)),
        (id(), any::<u8>()).prop_map(|(id, what)| Event::Reuse(id, what)),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let node = prop::sample::select(NODES.as_slice());
    let list = prop::sample::select([List::Qemu, List::Lxc, List::Storage].as_slice());
    let rare = || prop::bool::weighted(0.1);
    (
        prop::collection::btree_set(node.clone().prop_map(str::to_owned), 0..2),
        prop::collection::btree_set((node.clone().prop_map(str::to_owned), list), 0..2),
        prop::option::weighted(0.1, node.prop_map(str::to_owned)),
        (rare(), any::<bool>(), rare(), rare(), rare(), rare(), rare()),
    )
        .prop_map(
            |(offline, broken, alone, (blind, rights_told, split, html, no_index, stuck, no_configs))| {
                Faults {
                    offline,
                    broken,
                    alone,
                    blind,
                    rights_told,
                    split,
                    html,
                    no_index,
                    stuck,
                    no_configs,
                }
            },
        )
}

fn three_nodes() -> Truth {
    let mut truth = truth();
    truth.nodes = NODES.map(str::to_owned).into();
    truth
}

fn happen(truth: &mut Truth, event: &Event) {
    let with = |truth: &mut Truth, id: &GuestRef, change: &dyn Fn(&mut nhi_model::guest::Guest)| {
        if let Some(guest) = truth.guests.get_mut(id) {
            change(guest);
        }
    };
    match event {
        Event::Create(id, node) => {
            truth.guests.entry(*id).or_insert_with(|| guest(*id, NODES[*node], "made"));
        }
        Event::Destroy(id) => {
            truth.guests.remove(id);
        }
        Event::Move(id, node) => with(truth, id, &|guest| NODES[*node].clone_into(&mut guest.node)),
        Event::Rename(id, name) => with(truth, id, &|guest| guest.name.clone_from(name)),
        Event::Status(id, status) => with(truth, id, &|guest| {
            *guest = self::guest(*id, &guest.node, &guest.name);
            guest.status = *status;
            if *status == GuestStatus::Stopped {
                guest.addresses.clear();
                guest.address_source = AddressSource::NotRunning;
            }
        }),
        Event::Reuse(id, what) => with(truth, id, &|guest| guest.identity = identity(*id, &what.to_string())),
    }
}

/// The guests' records of a state that saw exactly this lab.
fn expected(truth: &Truth) -> Vec<(Key, serde_json::Value)> {
    let records = truth.guests.iter().map(|(id, guest)| {
        (Key::guest(id.kind, CLUSTER, id.vmid), serde_json::to_value(guest).expect("a guest is JSON"))
    });
    let mut records: Vec<_> = records.collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    records
}

fn held(world: &World) -> Vec<(Key, serde_json::Value)> {
    world.guests().into_iter().map(|(key, record)| (key.clone(), record)).collect()
}

proptest! {
    /// Nothing that exists is ever retired or called stopped, whatever is in the way; and when the view is
    /// clear again, the state is the lab.
    #[test]
    fn faults_never_lie_and_a_clear_view_heals(
        steps in prop::collection::vec((event(), faults()), 1..12),
    ) {
        let mut truth = three_nodes();
        let mut world = World::of(&truth);
        let mut second = 0;
        for (event, faults) in &steps {
            second += 60;
            happen(&mut truth, event);
            let before = world.clone();
            let changes = world.scan(&truth, second, faults);
            for change in &changes {
                let alive = truth.guests.keys().any(|id| change.key == Key::guest(id.kind, CLUSTER, id.vmid));
                prop_assert!(!alive || change.what != What::Retire, "{} is alive", change.key);
            }
            for (id, guest) in &truth.guests {
                let elsewhere = faults.alone.as_ref().is_some_and(|alone| *alone != guest.node);
                let silent = faults.offline.contains(&guest.node) || elsewhere;
                let hidden = silent || faults.html || faults.blind;
                let known = (before.entry(*id), world.entry(*id));
                if let (true, (Some(was), Some(is))) = (hidden, known) {
                    prop_assert_eq!(&was.record, &is.record, "{:?} was not seen", id);
                    prop_assert!(is.stale.is_some());
                }
            }
            // What is shown without a mark is true.
            for (id, guest) in &truth.guests {
                if let Some(known) = world.entry(*id).filter(|known| known.stale.is_none()) {
                    let record = serde_json::to_value(guest).expect("a guest is JSON");
                    prop_assert_eq!(timeless(&known.record), record, "{:?} under {:?}", id, faults);
                }
            }
            // The same again is no news, except that rights which just changed now count as settled.
            if world.source().rights_digest == before.source().rights_digest {
                prop_assert_eq!(world.scan(&truth, second + 1, faults), vec![]);
            }
        }
        // The first clear pass may find the rights changed; the second may not.
        world.scan(&truth, second + 60, &Faults::default());
        world.scan(&truth, second + 120, &Faults::default());
        prop_assert_eq!(held(&world), expected(&truth));
        prop_assert!(world.known.values().all(|known| known.stale.is_none()));
        prop_assert_eq!(world.alert_ids(), Vec::<String>::new());
        prop_assert_eq!(world.scan(&truth, second + 180, &Faults::default()), vec![]);
    }

    /// Diff then apply is the observation: from any state, two clear passes give what an empty state gets.
    #[test]
    fn diff_then_apply_is_the_observation(
        before in prop::collection::vec(event(), 0..12),
        after in prop::collection::vec(event(), 0..12),
    ) {
        let mut truth = three_nodes();
        before.iter().for_each(|event| happen(&mut truth, event));
        let mut world = World::of(&truth);
        prop_assert_eq!(held(&world), expected(&truth));
        after.iter().for_each(|event| happen(&mut truth, event));
        world.scan(&truth, 60, &Faults::default());
        let fresh = World::of(&truth);
        prop_assert_eq!(held(&world), held(&fresh));
        let records = |world: &World| -> Vec<_> {
            world.known.iter().map(|(k, known)| (k.clone(), timeless(&known.record), known.stale.clone())).collect()
        };
        prop_assert_eq!(records(&world), records(&fresh));
    }

    /// A partial or unauthorised pass retires nothing at all.
    #[test]
    fn what_was_not_seen_whole_retires_nothing_unseen(
        events in prop::collection::vec(event(), 1..12),
        faults in faults(),
    ) {
        let mut truth = three_nodes();
        let mut world = World::of(&truth);
        events.iter().for_each(|event| happen(&mut truth, event));
        let changes = world.scan(&truth, 60, &faults);
        let told =
            faults.blind || faults.split || faults.html || faults.no_index || faults.alone.is_some();
        prop_assert!(!told || !is_retired(&changes));
        let silent: BTreeSet<&str> = faults.offline.iter().map(String::as_str).collect();
        for change in changes.iter().filter(|change| change.what == What::Retire) {
            let tokens = change.key.tokens();
            prop_assert!(!tokens.iter().any(|token| silent.contains(token.as_str())), "{}", change.key);
        }
    }
}
