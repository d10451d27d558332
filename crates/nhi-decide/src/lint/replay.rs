//! The steps one after the other on the lab as it was seen: each must be possible where it stands, say truly what holds
//! before it and after it, and take nothing away that something running needs.

mod lines;
mod said;

pub(super) use lines::written;
pub(super) use said::is_sure;

use lines::Lines;

use super::{
    Checked, Faults,
    calls::{Call, Verb},
    needs::{self, Needs},
};
use crate::{
    policy::snapshot_helps,
    sight::{Seen, Sight, SnapshotSight, is_disk},
};
use nhi_model::{
    guest::{GuestKind, GuestStatus},
    intent::Operation,
    key::{Key, Section},
    plan::Step,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A guest as the steps so far leave it.
#[derive(Clone, Debug)]
struct Now {
    status: Option<GuestStatus>,
    node: String,
    made: bool,
    snapshots: Option<BTreeSet<String>>,
    /// Disks made larger, bytes.
    disks: BTreeMap<String, u64>,
    lines: Lines,
}

struct Replay<'a> {
    view: &'a Checked<'a>,
    guests: BTreeMap<Key, Option<Now>>,
    needs: Option<Needs<'a>>,
    /// How far the changes that are shown were read, for each line of each guest.
    shown: BTreeMap<(Key, String), usize>,
    /// Those of them that a step makes.
    found: BTreeSet<usize>,
}

pub(super) fn check(view: &Checked<'_>, faults: &mut Faults) {
    let interrupts = view.steps().any(|(_, step, call)| cuts(call, kind_of(step)));
    let graph = if interrupts { needs::graph(view.scene) } else { Ok(Default::default()) };
    let graph = graph.unwrap_or_else(|fault| {
        faults.add(fault);
        Default::default()
    });
    let needs = interrupts.then(|| Needs::new(&graph, view.scene));
    let mut replay =
        Replay { view, guests: BTreeMap::new(), needs, shown: BTreeMap::new(), found: BTreeSet::new() };
    for (at, step, call) in view.steps() {
        replay.possible(at, step, call, faults);
        replay.said_before(at, step, call, faults);
        replay.needed(at, step, call, faults);
        replay.caution(at, step, call, faults);
        replay.lines(at, step, call, faults);
        replay.apply(step, call);
        replay.said_after(at, step, call, faults);
    }
    replay.expected(faults);
    replay.all_found(faults);
}

fn kind_of(step: &Step) -> GuestKind {
    if step.guest.section() == Section::Lxc { GuestKind::Lxc } else { GuestKind::Qemu }
}

/// Whether a call may take a guest away from what needs it.
fn cuts(call: &Call, kind: GuestKind) -> bool {
    match &call.verb {
        Verb::Stop
        | Verb::Shutdown
        | Verb::Reboot
        | Verb::Reset
        | Verb::Suspend { .. }
        | Verb::Destroy { .. }
        | Verb::Rollback { .. } => true,
        // A running container is stopped to be moved.
        Verb::Migrate { .. } => kind == GuestKind::Lxc,
        Verb::Start
        | Verb::Resume
        | Verb::Create
        | Verb::Clone { .. }
        | Verb::Snapshot { .. }
        | Verb::SnapshotDelete { .. }
        | Verb::Resize { .. }
        | Verb::Config { .. }
        | Verb::Backup => false,
    }
}

const fn is_up(status: GuestStatus) -> bool {
    match status {
        GuestStatus::Running | GuestStatus::Paused | GuestStatus::Unknown => true,
        GuestStatus::Stopped | GuestStatus::Suspended => false,
    }
}

impl Now {
    fn of(seen: &Seen) -> Self {
        let names = |list: &Vec<SnapshotSight>| list.iter().map(|one| one.name.clone()).collect();
        let node = seen.node.clone();
        let snapshots = seen.snapshots.as_ref().map(names);
        let status = Some(seen.status);
        Self { status, node, made: false, snapshots, disks: BTreeMap::new(), lines: Lines::default() }
    }

    fn is(&self, one_of: &[GuestStatus]) -> bool {
        self.status.is_none_or(|status| one_of.contains(&status))
    }
}

impl<'a> Replay<'a> {
    fn sight(&self) -> &'a Sight {
        self.view.scene.sight
    }

    fn seen(&self, guest: &Key) -> Option<&'a Seen> {
        self.view.scene.sight.seen(guest)
    }

    fn now(&self, guest: &Key) -> Option<Now> {
        match self.guests.get(guest) {
            Some(now) => now.clone(),
            None => self.seen(guest).map(Now::of),
        }
    }

    /// Whether the call can be carried out where it stands.
    fn possible(&self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        use GuestStatus::{Paused, Running, Stopped, Suspended};
        let mut fault = |text: &str| faults.step(at, step, text);
        if !self.sight().nodes.get(&call.node).is_some_and(|node| node.online) {
            fault("its node does not answer, or was not looked at");
        }
        self.storages(step, call, &mut fault);
        if call.verb.makes() {
            if self.now(&step.guest).is_some() {
                fault("it makes a guest that is there");
            }
            if let Verb::Clone { source, of_snapshot, .. } = &call.verb {
                self.copied(step, call, *source, *of_snapshot, &mut fault);
            }
            return;
        }
        let Some(now) = self.now(&step.guest) else {
            fault("its guest is not there by then");
            return;
        };
        if now.node != call.node {
            fault("its guest is on another node by then");
        }
        let of_making = step.operation.creates();
        if of_making && !now.made {
            fault("it changes a guest that the plan does not make, and says it makes one");
        }
        // One that is suspended to disk is locked: Proxmox does nothing with it but wake it.
        let wants: &[GuestStatus] = match &call.verb {
            Verb::Start => &[Stopped, Suspended],
            Verb::Resume => &[Paused, Suspended],
            Verb::Stop => &[Running, Paused],
            Verb::Shutdown | Verb::Reboot | Verb::Reset | Verb::Suspend { .. } => &[Running],
            Verb::Destroy { .. } => &[Stopped],
            Verb::Snapshot { memory: true, .. } => &[Running],
            Verb::Create
            | Verb::Clone { .. }
            | Verb::Snapshot { .. }
            | Verb::SnapshotDelete { .. }
            | Verb::Rollback { .. }
            | Verb::Migrate { .. }
            | Verb::Resize { .. }
            | Verb::Config { .. }
            | Verb::Backup => &[Running, Paused, Stopped],
        };
        if !now.is(wants) {
            fault("its guest is in another state by then");
        }
        self.fits(step, call, &now, &mut fault);
    }

    /// The storages a call names are there, where the node's were looked at.
    fn storages(&self, step: &Step, call: &Call, fault: &mut dyn FnMut(&str)) {
        let node = call.verb.goes_to().unwrap_or(&call.node);
        let storages = &self.sight().storages;
        if !storages.keys().any(|(place, _)| place == node) {
            return;
        }
        let needs_backup = matches!(call.verb, Verb::Backup);
        for name in ["storage", "targetstorage", "target-storage", "scsi0", "rootfs"] {
            let Some(value) = step.call.params.get(name) else { continue };
            let storage = value.split(':').next().unwrap_or_default();
            let there = storages.get(&(node.to_owned(), storage.to_owned())).filter(|storage| storage.active);
            if !there.is_some_and(|there| !needs_backup || there.content.contains("backup")) {
                fault(&format!("node {node} has no storage {storage} for that"));
            }
        }
    }

    /// What a call of one kind alone wants of the guest.
    fn fits(&self, step: &Step, call: &Call, now: &Now, fault: &mut dyn FnMut(&str)) {
        let seen = self.seen(&step.guest);
        let has = |name: &String| now.snapshots.as_ref().map(|names| names.contains(name));
        let digest = step.call.params.get("digest");
        if digest.is_some_and(|digest| seen.and_then(|seen| seen.digest.as_ref()) != Some(digest)) {
            fault("it goes by another configuration than the one that was read");
        }
        let verb = &call.verb;
        if let Verb::Snapshot { name, .. } = verb
            && has(name) == Some(true)
        {
            fault("a snapshot of that name is there");
        }
        if let Verb::SnapshotDelete { name } | Verb::Rollback { name, .. } = verb
            && has(name) != Some(true)
        {
            fault("there is no such snapshot, or nobody knows");
        }
        if let Verb::Rollback { name, .. } = verb
            && seen
                .and_then(|seen| seen.snapshots.as_ref())
                .is_some_and(|list| list.iter().any(|one| one.name == *name))
            && self.past(&step.guest, name).is_none()
        {
            fault("nobody read the configuration it goes back to");
        }
        if let Verb::Migrate { to, restart } = verb {
            if *to == now.node || !self.sight().nodes.get(to).is_some_and(|node| node.online) {
                fault("it is moved to where it is, or to a node that does not answer");
            }
            if *restart && !now.status.is_none_or(is_up) {
                fault("it is restarted and does not run");
            }
        }
        if let Verb::Resize { disk, bytes } = verb
            && !now.made
            && !self.grows(seen, now, disk, *bytes)
        {
            fault("it is no disk of the guest, or does not become larger");
        }
        if matches!(verb, Verb::Destroy { .. }) && self.has_clones(&step.guest, call.vmid) {
            fault("disks of other guests are linked to it");
        }
        if matches!(verb, Verb::Destroy { .. })
            && seen.is_some_and(|seen| self.hides_clones(&step.guest, seen))
        {
            fault("disks of other guests may be linked to it, which LVM-thin does not show");
        }
        if matches!(verb, Verb::Start | Verb::Resume) && seen.is_some_and(|seen| seen.template) {
            fault("a template does not run");
        }
        let changes = matches!(verb, Verb::Snapshot { .. } | Verb::Rollback { .. } | Verb::Resize { .. });
        if changes && seen.is_some_and(|seen| seen.template) {
            fault("a template does not change");
        }
        if matches!(verb, Verb::Snapshot { .. }) && seen.is_some_and(|seen| seen.can_snapshot == Some(false))
        {
            fault("Proxmox cannot make a snapshot of it");
        }
        if seen.is_some_and(|seen| seen.ha.is_some()) && verb.fights_ha() {
            fault("HA manages it and would work against that");
        }
    }

    /// Whether a disk of the guest becomes larger.
    fn grows(&self, seen: Option<&Seen>, now: &Now, disk: &str, bytes: u64) -> bool {
        let Some((seen, line)) = seen.and_then(|seen| Some((seen, seen.config.get(disk)?))) else {
            return false;
        };
        let had = now.disks.get(disk).copied().or_else(|| crate::fact::size_bytes(line));
        is_disk(seen.kind, disk, line) && had.is_some_and(|had| had < bytes)
    }

    fn copied(&self, step: &Step, call: &Call, source: u32, of_snapshot: bool, fault: &mut dyn FnMut(&str)) {
        let kind = kind_of(step);
        let source = Key::guest(kind, &self.view.plan.cluster, source);
        match self.now(&source) {
            None => fault("what it copies is not there by then"),
            Some(now) => {
                if now.node != call.node {
                    fault("what it copies is on another node by then");
                }
                let runs = now.status != Some(GuestStatus::Stopped);
                if kind == GuestKind::Lxc && runs && !of_snapshot {
                    fault("a container that runs cannot be copied");
                }
            }
        }
    }

    /// Whether other guests' disks hang on this one's, where that can be seen.
    fn has_clones(&self, guest: &Key, vmid: u32) -> bool {
        let mark = format!("base-{vmid}-");
        let there = |key: &Key| key != guest && !matches!(self.guests.get(key), Some(None));
        let live = self.sight().guests.keys().filter(|key| there(key)).any(|key| {
            self.seen(key).is_some_and(|seen| seen.config.values().any(|line| line.contains(&mark)))
        });
        live || self.view.scene.known.iter().any(|(key, known)| {
            let guests = matches!(key.section(), Section::Vm | Section::Lxc);
            let volumes = || known.record.get("volumes").and_then(Value::as_object).into_iter().flatten();
            guests
                && there(key)
                && key.tokens().first() == Some(&self.view.plan.cluster)
                && volumes().any(|(_, volume)| volume.as_str().is_some_and(|volume| volume.contains(&mark)))
        })
    }

    /// Whether a template lies on LVM-thin, where a link is not to be seen, beside disks that could be linked to it.
    fn hides_clones(&self, guest: &Key, seen: &Seen) -> bool {
        let known = &self.view.scene.known;
        let shows = |storage: &str| {
            let place = (seen.node.clone(), storage.to_owned());
            let live = self.sight().storages.get(&place).and_then(|storage| storage.kind.as_deref());
            let record = known.get(&Key::storage(&self.view.plan.cluster, &seen.node, storage));
            let kind = live.or_else(|| record?.record.get("kind")?.as_str());
            kind.is_some_and(|kind| kind != "lvmthin")
        };
        let disks = seen.config.iter().filter(|(field, line)| is_disk(seen.kind, field, line));
        let hiding: BTreeSet<&str> = disks
            .filter_map(|(_, line)| Some(line.split_once(':')?.0))
            .filter(|storage| seen.template && !shows(storage))
            .collect();
        let lies_there = |volume: &Value| {
            let parts = volume.as_str().and_then(|volume| volume.split_once(':'));
            parts.is_some_and(|(storage, name)| hiding.contains(storage) && !name.ends_with("-cloudinit"))
        };
        !hiding.is_empty()
            && known.iter().any(|(key, known)| {
                let volumes = known.record.get("volumes").and_then(Value::as_object);
                key.section() == guest.section()
                    && key != guest
                    && key.tokens().first() == Some(&self.view.plan.cluster)
                    && known.record.get("node").and_then(Value::as_str) == Some(&seen.node)
                    && !matches!(self.guests.get(key), Some(None))
                    && volumes.is_none_or(|volumes| volumes.is_empty() || volumes.values().any(lies_there))
            })
    }

    /// Nothing that runs by then may need what the call takes away.
    fn needed(&self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        let up = self.now(&step.guest).is_some_and(|now| now.status.is_none_or(is_up));
        let counts = up || matches!(call.verb, Verb::Destroy { .. });
        let Some(needs) = self.needs.as_ref().filter(|_| counts && cuts(call, kind_of(step))) else { return };
        for dependent in needs.dependents(&step.guest) {
            if self.runs(dependent) {
                faults.step(at, step, format!("{dependent} needs it and runs by then"));
            }
        }
    }

    /// Whether a guest runs by then, or nobody can say that it does not.
    fn runs(&self, guest: &Key) -> bool {
        if let Some(now) = self.guests.get(guest) {
            return now.as_ref().is_some_and(|now| now.status.is_none_or(is_up));
        }
        match self.sight().guests.get(guest) {
            Some(crate::sight::GuestSight::Seen(seen)) => is_up(seen.status),
            Some(crate::sight::GuestSight::Gone) => false,
            Some(crate::sight::GuestSight::Unseen { .. }) => true,
            None => self.view.scene.known.get(guest).is_some_and(|known| {
                let status = known.record.get("status").and_then(Value::as_str);
                known.stale.is_some() || !matches!(status, Some("stopped" | "suspended"))
            }),
        }
    }

    /// The snapshot policy wants first. Of a rollback only its storage could tell whether one is possible.
    fn caution(&self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        let wanted = &self.view.scene.policy.caution.snapshot_before;
        let of_use = snapshot_helps(step.operation) && step.operation != Operation::Rollback;
        if !of_use || !wanted.contains(&step.operation) || call.verb.makes() {
            return;
        }
        let Some(seen) = self.seen(&step.guest) else { return };
        // One that bears the plan's id cannot be made a second time.
        let id = self.view.plan.id.as_str().trim_start_matches("p-");
        let is_free = |list: &Vec<SnapshotSight>| !list.iter().any(|one| one.name.ends_with(id));
        let possible = seen.can_snapshot == Some(true) && !seen.template;
        let possible = possible && seen.snapshots.as_ref().is_some_and(is_free);
        // One that is suspended to disk is locked: there is no snapshot of it, whatever its storage can.
        let asleep = self.now(&step.guest).is_some_and(|now| now.status == Some(GuestStatus::Suspended));
        let possible = possible && !asleep;
        let made =
            self.view.steps().take(at).any(|(_, other, call)| {
                other.guest == step.guest && matches!(call.verb, Verb::Snapshot { .. })
            });
        if possible && !made {
            faults.step(at, step, "policy wants a snapshot first, and the plan makes none");
        }
    }

    fn apply(&mut self, step: &Step, call: &Call) {
        let mut now = self.now(&step.guest);
        if call.verb.makes() {
            let node = call.verb.goes_to().unwrap_or(&call.node).to_owned();
            let status = Some(GuestStatus::Stopped);
            now = Some(Now {
                status,
                node,
                made: true,
                snapshots: Some(BTreeSet::new()),
                disks: BTreeMap::new(),
                lines: Lines::default(),
            });
        } else if matches!(call.verb, Verb::Destroy { .. }) {
            now = None;
        } else if let Some(now) = &mut now {
            self.change(step, call, now);
        }
        self.guests.insert(step.guest.clone(), now);
    }

    fn change(&self, step: &Step, call: &Call, now: &mut Now) {
        self.leave(step, call, now);
        match &call.verb {
            Verb::Start | Verb::Resume | Verb::Reboot | Verb::Reset => {
                now.status = Some(GuestStatus::Running)
            }
            Verb::Stop | Verb::Shutdown => now.status = Some(GuestStatus::Stopped),
            Verb::Suspend { to_disk } => {
                now.status = Some(if *to_disk { GuestStatus::Suspended } else { GuestStatus::Paused });
            }
            Verb::Snapshot { name, .. } => {
                now.snapshots.iter_mut().for_each(|names| names.extend([name.clone()]));
            }
            Verb::SnapshotDelete { name } => {
                now.snapshots.iter_mut().for_each(|names| names.retain(|other| other != name));
            }
            Verb::Rollback { name, start } => {
                now.status = match (start, self.past(&step.guest, name)) {
                    (true, _) => Some(GuestStatus::Running),
                    (false, Some(past)) if !past.contains_key("vmstate") => Some(GuestStatus::Stopped),
                    (false, Some(_)) => Some(GuestStatus::Running),
                    (false, None) => None,
                };
            }
            Verb::Migrate { to, .. } => now.node.clone_from(to),
            Verb::Resize { disk, bytes } => drop(now.disks.insert(disk.clone(), *bytes)),
            Verb::Create | Verb::Clone { .. } | Verb::Destroy { .. } | Verb::Config { .. } | Verb::Backup => {
            }
        }
    }
}
