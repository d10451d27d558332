//! Making and removing snapshots, also the one made for safety before something else.

use super::{
    call::{self, Params, by_kind, params, task},
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible},
    refuse::not_seen,
    wish::Deed,
};
use crate::{
    clean,
    fact::label,
    sight::{Seen, SnapshotSight},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::{GuestRef, Intent, Operation},
    key::Key,
    plan::{Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};

impl Draft<'_> {
    pub(super) fn snapshot(
        &mut self,
        deed: &Deed,
        name: &str,
        description: Option<&str>,
        memory: bool,
    ) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Snapshot)? else { return Ok(()) };
        let guest = &deed.guest;
        if seen.template {
            return Err(not_possible(&seen, guest, "is a template and never changes", "Leave it."));
        }
        if memory && (seen.kind == GuestKind::Lxc || seen.status != GuestStatus::Running) {
            let hint = "Leave out memory; only a running virtual machine's can be kept.";
            return Err(not_possible(&seen, guest, "has no memory that could be kept", hint));
        }
        if seen.can_snapshot == Some(false) {
            let hint = "Make a backup instead, or move its disks to a storage that has snapshots.";
            return Err(not_possible(
                &seen,
                guest,
                "has a disk or mount on something without snapshots",
                hint,
            ));
        }
        if has(&seen, name) == Some(true) {
            let what = format!("has a snapshot {name} already");
            return Err(not_possible(&seen, guest, &what, "Choose another name."));
        }
        self.write_to(guest, &seen, Operation::Snapshot)?;
        self.snapshot_step(guest, &seen, name, description, memory);
        if memory {
            self.effect(format!("{} stands still while its memory is written.", label(&seen)));
        }
        let intents = vec![Intent::SnapshotDelete { guest: GuestRef::key(guest), name: name.to_owned() }];
        let cost = format!("The snapshot {name} of {} is removed.", label(&seen));
        self.undone_by(guest, &[Operation::SnapshotDelete], Undoing { intents, complete: true, cost });
        Ok(())
    }

    fn snapshot_step(
        &mut self,
        guest: &Key,
        seen: &Seen,
        name: &str,
        description: Option<&str>,
        memory: bool,
    ) {
        let mut asked = params([("snapname", name.to_owned())]);
        if let Some(text) = description.filter(|text| !text.is_empty()) {
            asked.insert("description".to_owned(), text.to_owned());
        }
        if memory {
            asked.insert("vmstate".to_owned(), "1".to_owned());
        }
        let mut before = self.before(guest, seen, Operation::Snapshot);
        // What it is doing makes no difference to a snapshot, but for its memory.
        before.retain(|fact| memory || !matches!(fact, Fact::Status { .. }));
        before.push(Fact::Snapshot { guest: guest.clone(), name: name.to_owned(), present: false });
        self.steps.push(Step {
            what: format!("make the snapshot {name} of {}", label(seen)),
            operation: Operation::Snapshot,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: call::guest(Method::Post, &seen.node, seen.kind, seen.vmid, &["snapshot"], asked),
            ends: task(
                &[by_kind(seen.kind, "qmsnapshot", "vzsnapshot")],
                seen.vmid,
                if memory { 3600 } else { 600 },
            ),
            before,
            after: vec![Fact::Snapshot { guest: guest.clone(), name: name.to_owned(), present: true }],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        });
        self.effect(format!(
            "What {} changes on its disks takes more space while it has snapshots.",
            label(seen)
        ));
        let at = self.scene.now;
        self.world.change(guest, |seen| {
            let parent = seen.config.insert("parent".to_owned(), name.to_owned());
            let config = seen.config.clone();
            let made = SnapshotSight { name: name.to_owned(), parent, at: Some(at), config: Some(config) };
            seen.snapshots.iter_mut().for_each(|list| list.push(made.clone()));
        });
        self.count_snapshots(guest);
    }

    /// The records show how many snapshots there are, not which.
    fn count_snapshots(&mut self, guest: &Key) {
        let count = self.world.seen(guest).and_then(|seen| seen.snapshots.as_ref()).map(Vec::len);
        if let Some(count) = count.and_then(|count| u32::try_from(count).ok()) {
            self.shows(guest, Fact::SnapshotCount { guest: guest.clone(), count });
        }
    }

    /// Makes the snapshot policy wants before an operation, where that is possible; says so where it is not.
    pub(super) fn keep_first(
        &mut self,
        deed: &Deed,
        seen: &Seen,
        operation: Operation,
    ) -> Result<(), Refusal> {
        let guest = &deed.guest;
        let wanted = self.scene.policy.caution.snapshot_before.contains(&operation);
        if !wanted || self.born.contains(guest) || self.kept.contains_key(guest) {
            return Ok(());
        }
        let tail = self.request.id.as_str().trim_start_matches("p-");
        let name = format!("nhi-{tail}");
        let obstacle = if operation == Operation::Snapshot {
            return Ok(());
        } else if seen.template {
            Some("it is a template")
        } else if seen.status == GuestStatus::Suspended {
            Some("it is locked while it is suspended to disk")
        } else if seen.can_snapshot != Some(true) {
            Some("Proxmox cannot make one of it")
        } else if operation == Operation::Destroy {
            Some("it would be destroyed as well")
        } else if operation == Operation::Rollback && self.is_linear(seen) != Some(false) {
            Some("its storage can only go back to the newest one")
        } else if has(seen, &name) != Some(false) {
            Some("one of that name is there, or its snapshots could not be listed")
        } else {
            None
        };
        if let Some(why) = obstacle {
            self.effect(format!(
                "No snapshot of {} is made before, as policy would have it: {why}.",
                label(seen)
            ));
            return Ok(());
        }
        self.write_to(guest, seen, Operation::Snapshot)?;
        let text = format!("before {operation} by plan {}", self.request.id);
        self.snapshot_step(guest, seen, &name, Some(&text), false);
        self.effect(format!(
            "The snapshot {name} of {} is made first and stays until somebody removes it.",
            label(seen)
        ));
        self.kept.insert(guest.clone(), name);
        Ok(())
    }

    pub(super) fn snapshot_delete(&mut self, deed: &Deed, name: &str) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::SnapshotDelete)? else { return Ok(()) };
        let guest = &deed.guest;
        if has(&seen, name) == Some(false) && deed.guard.is_some() {
            self.already(deed, format!("{} has no snapshot {name} any more.", label(&seen)));
            return Ok(());
        }
        self.must_have(&seen, guest, name)?;
        self.keep_first(deed, &seen, Operation::SnapshotDelete)?;
        self.write_to(guest, &seen, Operation::SnapshotDelete)?;
        let mut before = self.before(guest, &seen, Operation::SnapshotDelete);
        before.retain(|fact| !matches!(fact, Fact::Status { .. }));
        before.push(Fact::Snapshot { guest: guest.clone(), name: name.to_owned(), present: true });
        self.steps.push(Step {
            what: format!("remove the snapshot {name} of {}", label(&seen)),
            operation: Operation::SnapshotDelete,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: call::guest(
                Method::Delete,
                &seen.node,
                seen.kind,
                seen.vmid,
                &["snapshot", name],
                Params::new(),
            ),
            ends: task(&[by_kind(seen.kind, "qmdelsnapshot", "vzdelsnapshot")], seen.vmid, 3600),
            before,
            after: vec![Fact::Snapshot { guest: guest.clone(), name: name.to_owned(), present: false }],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        });
        self.world.change(guest, |seen| forget(seen, name));
        self.count_snapshots(guest);
        self.risk(Risk::Destructive);
        self.effect(format!("{} can no longer go back to {name}.", label(&seen)));
        let cost = format!("Nothing brings back the snapshot {name} of {}.", label(&seen));
        self.undo.push(Undoing { intents: Vec::new(), complete: false, cost });
        Ok(())
    }

    /// Refuses when the guest does not have the snapshot, naming those it has.
    pub(super) fn must_have(&self, seen: &Seen, guest: &Key, name: &str) -> Result<(), Refusal> {
        let Some(list) = &seen.snapshots else {
            return Err(
                not_seen(format!("the snapshots of {} could not be listed", label(seen))).about(guest)
            );
        };
        if list.iter().any(|snapshot| snapshot.name == name) {
            return Ok(());
        }
        let names: Vec<String> =
            list.iter().take(50).map(|snapshot| clean::text(&snapshot.name, 40)).collect();
        let has =
            if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        Err(Refusal::new(
            RefusalCode::Unknown,
            format!("{} has no snapshot {name}: {has}", label(seen)),
            "Use one of the names it has.",
        )
        .about(guest)
        .with("candidates", names))
    }
}

/// Whether the guest has a snapshot of that name; `None` when nobody knows.
fn has(seen: &Seen, name: &str) -> Option<bool> {
    seen.snapshots.as_ref().map(|list| list.iter().any(|snapshot| snapshot.name == name))
}

/// Takes a snapshot out; what was made after it hangs on what it was made after.
fn forget(seen: &mut Seen, name: &str) {
    let Some(list) = &mut seen.snapshots else { return };
    let parent =
        list.iter().find(|snapshot| snapshot.name == name).and_then(|snapshot| snapshot.parent.clone());
    list.retain(|snapshot| snapshot.name != name);
    for snapshot in list.iter_mut().filter(|snapshot| snapshot.parent.as_deref() == Some(name)) {
        snapshot.parent.clone_from(&parent);
    }
    if seen.config.get("parent").is_some_and(|now| now == name) {
        match parent {
            Some(parent) => drop(seen.config.insert("parent".to_owned(), parent)),
            None => drop(seen.config.remove("parent")),
        }
    }
}
