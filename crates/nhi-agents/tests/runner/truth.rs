//! The simulated home, and what is really so in it: for tests that hold the truth against what was said.

use crate::{
    builds::{EARLIER, MOVER, SPARE},
    steps::{RUNNER, SANDBOX, STAGING, key},
};
use nhi_decide::sight::{GuestSight, NodeSight, Seen, Sight, SnapshotSight};
use nhi_model::{
    Timestamp,
    guest::{GuestIdentity, GuestKind, GuestStatus},
};
use nhi_sim::{Kind, Lab, Power, Seed, SeedGuest, SeedSnapshot};
use std::collections::BTreeMap;

/// The demo home with only the guests that are worked on, and two more that may go and move.
pub(crate) fn seed() -> Seed {
    let mut home = Seed::demo();
    home.guests.retain(|guest| [STAGING, RUNNER, SANDBOX].contains(&guest.vmid));
    home.guests.iter_mut().for_each(|guest| guest.linked_to = None);
    let staging = home.guests.iter().find(|guest| guest.vmid == STAGING).unwrap().clone();
    for vmid in [SPARE, MOVER] {
        home.guests.push(SeedGuest { vmid, name: format!("guest-{vmid}"), ..staging.clone() });
    }
    let (name, tags, _) = EARLIER;
    let earlier = SeedSnapshot {
        name: name.to_owned(),
        age_s: 86_400,
        description: String::new(),
        config: BTreeMap::from([("tags".to_owned(), tags.into())]),
        whole: false,
        parent: None,
        memory: false,
    };
    home.guests
        .iter_mut()
        .filter(|guest| guest.vmid == STAGING)
        .for_each(|guest| guest.snapshots.push(earlier.clone()));
    home.backup_jobs.clear();
    home.replication_jobs.clear();
    home
}

/// The lab as it is; guests of nodes that are away cannot be seen by anybody.
pub(crate) fn look(lab: &Lab, now: Timestamp) -> Sight {
    let mut sight = Sight::nothing("home".to_owned(), now);
    sight.quorate = Some(lab.is_quorate());
    sight.absent_is_gone = true;
    for node in lab.nodes.keys() {
        let online = lab.is_online(node);
        sight.nodes.insert(node.clone(), NodeSight { online, memory_free_bytes: None });
    }
    for (vmid, guest) in &lab.guests {
        let seen = if lab.is_online(&guest.node) {
            GuestSight::Seen(Box::new(seen(guest)))
        } else {
            GuestSight::Unseen { why: "its node does not answer".to_owned() }
        };
        sight.guests.insert(key(*vmid), seen);
    }
    sight
}

fn seen(guest: &nhi_sim::Guest) -> Seen {
    let snapshot = |name: &String| SnapshotSight { name: name.clone(), parent: None, at: None, config: None };
    Seen {
        kind: if guest.kind == Kind::Qemu { GuestKind::Qemu } else { GuestKind::Lxc },
        vmid: guest.vmid,
        node: guest.node.clone(),
        name: guest.name(),
        status: match guest.power {
            Power::Running { .. } => GuestStatus::Running,
            Power::Paused { .. } => GuestStatus::Paused,
            Power::Stopped => GuestStatus::Stopped,
        },
        lock: guest.config.get("lock").cloned(),
        template: guest.is_template(),
        ha: None,
        identity: GuestIdentity::default(),
        config: guest.config.clone(),
        config_whole: true,
        digest: Some(guest.digest()),
        snapshots: Some(guest.snapshots.keys().map(snapshot).collect()),
        snapshot_count: None,
        processors: None,
        can_snapshot: None,
        newest_backup: None,
        migrate: None,
        pool: None,
    }
}
