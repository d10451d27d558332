//! Making a backup now. It never removes older ones: that is what the jobs and their rules are for.

use super::{
    call::{self, params, task},
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible},
    wish::Deed,
};
use crate::{fact::label, sight::Seen};
use nhi_model::{
    fact::Fact,
    guest::Backups,
    intent::Operation,
    key::Key,
    plan::{Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;

impl Draft<'_> {
    pub(super) fn backup(&mut self, deed: &Deed, storage: Option<&str>) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Backup)? else { return Ok(()) };
        let guest = &deed.guest;
        let storage = self.backup_storage(&seen, guest, storage)?;
        self.keep_first(deed, &seen, Operation::Backup)?;
        self.write_to(guest, &seen, Operation::Backup)?;
        self.reads(&Key::storage(self.cluster, &seen.node, &storage));
        let since = self.scene.now;
        let made = Fact::BackupSince { guest: guest.clone(), since };
        // Only who sees backups can see a new one.
        let after =
            if seen.newest_backup.is_some() { made.clone() } else { Fact::Unlocked { guest: guest.clone() } };
        let asked = params([
            ("vmid", seen.vmid.to_string()),
            ("storage", storage.clone()),
            ("mode", "snapshot".to_owned()),
            ("compress", "zstd".to_owned()),
            ("remove", "0".to_owned()),
        ]);
        let mut before = self.before(guest, &seen, Operation::Backup);
        before.retain(|fact| !matches!(fact, Fact::Status { .. }));
        self.steps.push(Step {
            what: format!("back up {} to {storage}", label(&seen)),
            operation: Operation::Backup,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: call::node(Method::Post, &seen.node, &["vzdump"], asked),
            ends: task(&["vzdump"], seen.vmid, 43_200),
            before,
            after: vec![after],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmful,
            compensation: None,
        });
        self.world.change(guest, |seen| seen.newest_backup = seen.newest_backup.max(Some(since)));
        if self.sees_backups(guest) {
            self.shows(guest, made);
        }
        self.risk(Risk::Low);
        self.effect(format!("The backup of {} takes room on {storage}; older ones stay.", label(&seen)));
        let cost = "The backup stays; who wants it away removes it in Proxmox.".to_owned();
        self.undo.push(Undoing { intents: Vec::new(), complete: true, cost });
        Ok(())
    }

    /// Whether the scanner sees backups of the guest.
    fn sees_backups(&self, guest: &Key) -> bool {
        let recorded = self.lab.roster.get(guest).and_then(|row| row.known.record.get("backups"));
        match recorded.map(Backups::deserialize) {
            Some(Ok(Backups::Newest { .. } | Backups::None)) => true,
            Some(Ok(Backups::NotVisible) | Err(_)) | None => false,
        }
    }

    fn backup_storage(&self, seen: &Seen, guest: &Key, storage: Option<&str>) -> Result<String, Refusal> {
        let storages = self.world.sight().storages.iter().filter(|((node, _), _)| *node == seen.node);
        let takes: Vec<&str> = storages
            .filter(|(_, storage)| storage.active && storage.content.contains("backup"))
            .map(|((_, name), _)| name.as_str())
            .collect();
        match (storage, takes.as_slice()) {
            (Some(wanted), takes) if takes.contains(&wanted) => Ok(wanted.to_owned()),
            (None, [only]) => Ok((*only).to_owned()),
            (_, []) => {
                let what = format!("is on node {}, where no storage takes backups", seen.node);
                Err(not_possible(seen, guest, &what, "Add a storage for backups in Proxmox."))
            }
            (Some(wanted), several) => Err(Refusal::new(
                RefusalCode::Unknown,
                format!("node {} has no storage {wanted} that takes backups", seen.node),
                "Use one of those it has.",
            )
            .about(guest)
            .with("candidates", several.to_vec())),
            (None, several) => Err(Refusal::new(
                RefusalCode::BadValue,
                format!("several storages of node {} take backups: {}", seen.node, several.join(", ")),
                "Say which one with `storage`.",
            )
            .about(guest)
            .with("candidates", several.to_vec())),
        }
    }
}
