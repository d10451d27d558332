//! Moving guests to another node.

use super::{
    bounds,
    call::{self, by_kind, params, task},
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible, unknown_status},
    refuse::not_seen,
    wish::Deed,
};
use crate::{
    clean,
    fact::label,
    sight::{MigrateSight, Seen, is_disk},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::{GuestRef, Intent, Operation},
    key::Key,
    plan::{Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeSet;

impl Draft<'_> {
    pub(super) fn migrate(&mut self, deed: &Deed, node: &str) -> Result<(), Refusal> {
        bounds::node(node)?;
        let Some(seen) = self.found(deed, Operation::Migrate)? else { return Ok(()) };
        let guest = &deed.guest;
        if seen.node == node {
            self.already(deed, format!("{} is on node {node} already.", label(&seen)));
            return Ok(());
        }
        if !self.world.sight().nodes.contains_key(node) {
            let names: Vec<&str> = self.world.sight().nodes.keys().map(String::as_str).collect();
            let message = format!("cluster {} has no node {node}", self.cluster);
            return Err(Refusal::new(RefusalCode::Unknown, message, "Use one of its nodes.")
                .with("candidates", names));
        }
        self.node_answers(node)?;
        let live = match seen.status {
            GuestStatus::Running | GuestStatus::Paused => true,
            GuestStatus::Stopped => false,
            GuestStatus::Suspended => {
                return Err(not_possible(&seen, guest, "is suspended to disk", "Resume it first."));
            }
            GuestStatus::Unknown => return Err(unknown_status(&seen, guest)),
        };
        let asked = self.may_go(&seen, guest, node)?;
        match (live, seen.kind) {
            (true, GuestKind::Lxc) => self.nothing_needs(guest, Operation::Migrate)?,
            // It goes on running; what needs it notices a moment at most.
            (true, GuestKind::Qemu) => self.is_noticed(guest),
            (false, GuestKind::Qemu | GuestKind::Lxc) => {}
        }
        self.keep_first(deed, &seen, Operation::Migrate)?;
        self.write_to(guest, &seen, Operation::Migrate)?;
        self.migrate_step(guest, &seen, node, live, asked.local_disks);
        self.risk(Risk::Medium);
        let words = label(&seen);
        match (seen.kind, live) {
            (GuestKind::Lxc, true) => self.effect(format!(
                "{words} is shut down, moved and started again: it does not serve meanwhile."
            )),
            (GuestKind::Qemu, true) => {
                self.effect(format!("{words} goes on running while it moves, but for a moment."))
            }
            (GuestKind::Qemu | GuestKind::Lxc, false) => {}
        }
        if asked.local_disks {
            self.effect(format!(
                "The disks of {words} lie on node {} and are copied to {node}, which takes long.",
                seen.node
            ));
        }
        let intents = vec![Intent::Migrate { guest: GuestRef::key(guest), node: seen.node.clone() }];
        let cost = format!("{words} moves back to {}, in the same way.", seen.node);
        self.undo.push(Undoing { intents, complete: true, cost });
        Ok(())
    }

    fn migrate_step(&mut self, guest: &Key, seen: &Seen, node: &str, live: bool, local_disks: bool) {
        let mut asked = params([("target", node.to_owned())]);
        match (seen.kind, live) {
            (GuestKind::Qemu, true) => {
                asked.insert("online".to_owned(), "1".to_owned());
                if local_disks {
                    asked.insert("with-local-disks".to_owned(), "1".to_owned());
                }
            }
            (GuestKind::Lxc, true) => drop(asked.insert("restart".to_owned(), "1".to_owned())),
            (GuestKind::Qemu | GuestKind::Lxc, false) => {}
        }
        self.steps.push(Step {
            what: format!("move {} to node {node}", label(seen)),
            operation: Operation::Migrate,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: call::guest(Method::Post, &seen.node, seen.kind, seen.vmid, &["migrate"], asked),
            ends: task(&[by_kind(seen.kind, "qmigrate", "vzmigrate")], seen.vmid, 21_600),
            before: {
                let mut before = self.before(guest, seen, Operation::Migrate);
                before.push(Fact::NodeOnline { node: node.to_owned() });
                before
            },
            after: vec![
                Fact::OnNode { guest: guest.clone(), node: node.to_owned() },
                Fact::Status { guest: guest.clone(), status: seen.status },
            ],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        });
        self.world.change(guest, |seen| node.clone_into(&mut seen.node));
        self.powered.insert(guest.clone());
        self.shows(guest, Fact::OnNode { guest: guest.clone(), node: node.to_owned() });
    }

    /// What Proxmox says of the move, when nothing of it stands against.
    fn may_go(&mut self, seen: &Seen, guest: &Key, node: &str) -> Result<MigrateSight, Refusal> {
        let asked = match (&seen.migrate, seen.kind) {
            (Some(asked), _) => asked.clone(),
            // Older versions cannot be asked about containers.
            (None, GuestKind::Lxc) => MigrateSight::default(),
            (None, GuestKind::Qemu) => {
                let message = format!("Proxmox did not say where {} may go", label(seen));
                return Err(not_seen(message).about(guest));
            }
        };
        if let Some(why) = asked.refused.get(node) {
            let what = format!("may not go to node {node}: {}", clean::text(why, 200));
            return Err(not_possible(seen, guest, &what, "Choose another node, or move its disks first."));
        }
        if let Some(allowed) = asked.allowed.as_ref().filter(|allowed| !allowed.contains(node)) {
            let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
            let what = format!("may not go to node {node}; it may go to {}", names.join(", "));
            return Err(not_possible(seen, guest, &what, "Choose one of those.").with("candidates", names));
        }
        if !asked.local_resources.is_empty() {
            let devices = clean::text(&asked.local_resources.join(", "), 200);
            let what = format!("uses devices of its node ({devices})");
            return Err(not_possible(
                seen,
                guest,
                &what,
                "A person takes those out of its configuration first.",
            ));
        }
        self.storages_are_there(seen, guest, node)?;
        Ok(asked)
    }

    fn storages_are_there(&mut self, seen: &Seen, guest: &Key, node: &str) -> Result<(), Refusal> {
        let sight = self.world.sight();
        // Where no storage of the node was seen, Proxmox's own answer has to do.
        if !sight.storages.keys().any(|(place, _)| place == node) {
            return Ok(());
        }
        let lines = seen.config.iter().filter(|(field, line)| is_disk(seen.kind, field, line));
        let names: BTreeSet<&str> = lines.filter_map(|(_, line)| Some(line.split_once(':')?.0)).collect();
        for storage in names.into_iter().filter(|name| !name.starts_with('/')) {
            let there = sight.storages.get(&(node.to_owned(), storage.to_owned()));
            if !there.is_some_and(|there| there.active) {
                let what = format!("has a disk on storage {storage}, which node {node} does not have");
                return Err(not_possible(
                    seen,
                    guest,
                    &what,
                    "Move that disk first, or choose another node.",
                ));
            }
        }
        Ok(())
    }
}
