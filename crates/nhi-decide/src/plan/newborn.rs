//! What all new guests have in common: their number, the proof that nobody has it, how they are started and how they
//! are removed again when a later step fails.

use super::{
    call::{by_kind, task},
    config::{GIB, Lines, config_call, facts, fields, write},
    destroy::destroy_call,
    draft::{Draft, Undoing},
    power::SETTLE_S,
    refuse::not_seen,
    wish::{Act, Deed},
    world::Look,
};
use crate::{fact::label, sight::Seen};
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestKind, GuestStatus},
    intent::{GuestRef, Intent, NewGuest, Operation},
    key::Key,
    plan::{ConfigChange, Ends, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeMap;

impl Draft<'_> {
    /// The number of the next new guest, and the proof that it is free.
    pub(super) fn next_number(&mut self, kind: GuestKind, new: &NewGuest) -> Result<(u32, Key), Refusal> {
        let reserved = self.request.vmids.get(self.births).copied();
        self.births += 1;
        let vmid = match (new.vmid, reserved) {
            (Some(wanted), Some(given)) if wanted != given => {
                let message = format!("number {wanted} is taken, or kept for another plan");
                let hint = "Choose another number, or leave it out to get the next free one.";
                return Err(Refusal::new(RefusalCode::NoRoom, message, hint).with("vmid", wanted));
            }
            (Some(wanted), _) => wanted,
            (None, Some(given)) => given,
            (None, None) => {
                return Err(Refusal::new(
                    RefusalCode::NoRoom,
                    "no number is free for a new guest",
                    "Widen [act] vmid_range in nhi.toml, or remove guests nobody needs.",
                ));
            }
        };
        for other in [GuestKind::Qemu, GuestKind::Lxc] {
            let key = Key::guest(other, self.cluster, vmid);
            let taken = self.lab.known.contains_key(&key) || self.world.seen(&key).is_some();
            if taken {
                let message = format!("number {vmid} is taken by {}", self.words(&key));
                let hint = "Choose another number, or leave it out to get the next free one.";
                return Err(Refusal::new(RefusalCode::NoRoom, message, hint).with("vmid", vmid));
            }
        }
        let key = Key::guest(kind, self.cluster, vmid);
        match self.world.look(&key) {
            Look::Gone => {}
            Look::Seen(_) | Look::Unseen(_) | Look::NotLooked => {
                return Err(not_seen(format!("nobody could prove that number {vmid} is free")));
            }
        }
        if let Some(run) = self.scene.leases.get(&key) {
            let message = format!("run {run} works on number {vmid}");
            return Err(Refusal::new(RefusalCode::Busy, message, "Plan again when it has ended.").about(&key));
        }
        self.reads(&key);
        self.require(Fact::Gone { guest: key.clone() });
        Ok((vmid, key))
    }

    /// A guest as it will be made, stopped.
    pub(super) fn unborn(
        kind: GuestKind,
        vmid: u32,
        node: &str,
        new: &NewGuest,
        config: BTreeMap<String, String>,
    ) -> Seen {
        let mut config = config;
        config.insert(Self::name_field(kind).to_owned(), new.name.clone());
        Seen {
            kind,
            vmid,
            node: node.to_owned(),
            name: new.name.clone(),
            status: GuestStatus::Stopped,
            lock: None,
            template: false,
            ha: None,
            identity: GuestIdentity::default(),
            config,
            config_whole: true,
            digest: None,
            snapshots: Some(Vec::new()),
            snapshot_count: Some(0),
            processors: None,
            can_snapshot: None,
            newest_backup: None,
            migrate: None,
            pool: new.pool.clone(),
        }
    }

    /// Adds a step that makes a guest, with the one that removes it again.
    pub(super) fn bear(&mut self, key: &Key, seen: Seen, operation: Operation, step: Step) {
        let guest = || key.clone();
        let undone = Step {
            what: format!("remove {} again", label(&seen)),
            operation: Operation::Destroy,
            guest: guest(),
            node: seen.node.clone(),
            call: destroy_call(&seen, false),
            ends: task(&[by_kind(seen.kind, "qmdestroy", "vzdestroy")], seen.vmid, 1800),
            before: vec![
                Fact::Named { guest: guest(), name: seen.name.clone() },
                Fact::Status { guest: guest(), status: GuestStatus::Stopped },
                Fact::Unlocked { guest: guest() },
            ],
            after: vec![Fact::Gone { guest: guest() }],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmful,
            compensation: None,
        };
        self.steps.push(Step { compensation: Some(Box::new(undone)), ..step });
        self.born.insert(guest());
        self.target(key, &seen, operation, true);
        self.powered.insert(guest());
        self.shows(key, Fact::Named { guest: guest(), name: seen.name.clone() });
        self.shows(key, Fact::OnNode { guest: guest(), node: seen.node.clone() });
        self.shows(key, Fact::Template { guest: guest(), template: false });
        self.world.add(key, seen);
        self.risk(Risk::Medium);
    }

    /// What a new guest has once it is there and stopped.
    pub(super) fn newborn_facts(key: &Key, seen: &Seen) -> Vec<Fact> {
        vec![
            Fact::Named { guest: key.clone(), name: seen.name.clone() },
            Fact::OnNode { guest: key.clone(), node: seen.node.clone() },
            Fact::Status { guest: key.clone(), status: GuestStatus::Stopped },
            Fact::Unlocked { guest: key.clone() },
        ]
    }

    /// Writes lines of a new guest's configuration that it would otherwise inherit or lack.
    pub(super) fn fit(&mut self, key: &Key, lines: &Lines, operation: Operation) {
        let Some(seen) = self.world.seen(key).cloned() else { return };
        if lines.is_empty() {
            return;
        }
        self.steps.push(Step {
            what: format!("set {} of {}", fields(lines), label(&seen)),
            operation,
            guest: key.clone(),
            node: seen.node.clone(),
            call: config_call(&seen, lines, None),
            ends: Ends::Answer {},
            before: self.before(key, &seen, operation),
            after: facts(key, &seen, lines),
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        });
        for (field, value) in lines {
            let before = seen.config.get(field).cloned();
            self.changes.push(ConfigChange {
                guest: key.clone(),
                field: field.clone(),
                before,
                after: value.clone(),
            });
        }
        self.world.change(key, |seen| write(seen, lines));
    }

    /// What the records will show of a new guest's configuration, once all of it is written.
    pub(super) fn shows_newborn(&mut self, key: &Key) {
        let Some(seen) = self.world.seen(key).cloned() else { return };
        for field in ["tags", "onboot", "protection"] {
            let value = seen.config.get(field).cloned();
            self.shows(key, Fact::Config { guest: key.clone(), field: field.to_owned(), value });
        }
        if let Some(memory) = seen.config.get("memory") {
            let value = Some(memory.clone());
            self.shows(key, Fact::Config { guest: key.clone(), field: "memory".to_owned(), value });
        }
        if let Some(count) = seen.config.get("cores").and_then(|cores| self.processors(&seen, cores)) {
            self.shows(key, Fact::Processors { guest: key.clone(), count });
        }
    }

    /// Makes the first disk of a new guest as large as asked.
    pub(super) fn grow(
        &mut self,
        key: &Key,
        disk: &str,
        had: u64,
        size_gib: u64,
        operation: Operation,
    ) -> Result<(), Refusal> {
        let Some(seen) = self.world.seen(key).cloned() else { return Ok(()) };
        let wanted = size_gib.saturating_mul(GIB);
        if wanted < had {
            return Err(super::config::shrinks(&seen, key, disk, had, size_gib));
        }
        if wanted > had {
            self.has_room(&seen, key, disk, wanted - had)?;
            self.resize_step(key, &seen, disk, size_gib, operation);
        }
        Ok(())
    }

    /// Starts a new guest when asked, and says how all of it is taken back.
    pub(super) fn send_off(&mut self, key: &Key, new: &NewGuest) -> Result<(), Refusal> {
        self.shows_newborn(key);
        if new.start {
            self.start(&Deed::new(key.clone(), Act::Start))?;
        }
        let guest = || GuestRef::key(key);
        let mut intents = Vec::new();
        if new.start {
            intents.push(Intent::Stop { guest: guest(), with_dependents: false });
        }
        intents.push(Intent::Destroy { guest: guest(), purge: false });
        let cost =
            format!("{} ({}) is removed with all it holds by then.", crate::fact::named(key), new.name);
        self.undone_by(key, &[Operation::Destroy], Undoing { intents, complete: true, cost });
        Ok(())
    }
}
