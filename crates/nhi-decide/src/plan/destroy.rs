//! Removing guests. Only stopped ones, only their own disks, and never where something hangs on them.

use super::{
    call::{self, by_kind, params, task},
    copy,
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible, unknown_status},
    refuse::protected,
    wish::Deed,
};
use crate::{
    clean,
    fact::label,
    resolve::Row,
    sight::{Seen, is_disk},
};
use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    fact::Fact,
    guest::{Backups, GuestKind, GuestStatus},
    intent::Operation,
    key::Key,
    plan::{Impact, ImpactCause, Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Types of storage that do not show what is linked to a template's disks.
const HIDES_LINKS: [&str; 1] = ["lvmthin"];

impl Draft<'_> {
    pub(super) fn destroy(&mut self, deed: &Deed, purge: bool) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Destroy)? else { return Ok(()) };
        let guest = &deed.guest;
        if seen.flag("protection") == Some(true) && !self.born.contains(guest) {
            // Where policy does not count the flag, Proxmox still does.
            return Err(protected(&label(&seen), "Proxmox's own protection flag is on", guest));
        }
        match seen.status {
            GuestStatus::Stopped => {}
            GuestStatus::Unknown => return Err(unknown_status(&seen, guest)),
            GuestStatus::Running | GuestStatus::Paused => {
                return Err(Refusal::new(
                    RefusalCode::Running,
                    format!(
                        "{} is {}, and only a stopped guest is removed",
                        label(&seen),
                        seen.status.as_str()
                    ),
                    "Ask for `all` of a shutdown and then the destroy of it.",
                )
                .about(guest));
            }
            GuestStatus::Suspended => {
                let hint =
                    "Resume it and shut it down first, so that what it holds in memory is not lost unseen.";
                return Err(not_possible(&seen, guest, "is suspended to disk", hint));
            }
        }
        self.has_no_clones(&seen, guest)?;
        self.nothing_needs(guest, Operation::Destroy)?;
        self.keep_first(deed, &seen, Operation::Destroy)?;
        let backup = self.backup_of(guest, &seen)?;
        self.write_to(guest, &seen, Operation::Destroy)?;
        self.destroy_step(guest, &seen, purge, backup);
        self.say_what_goes(&seen, purge);
        self.risk(Risk::Destructive);
        let cost = match self.newest_backup(guest, &seen) {
            Some(at) => format!(
                "Only a restore of its backup of {at} brings {} back; what it did since is lost.",
                label(&seen)
            ),
            None => format!("Nothing brings {} back: no backup of it is visible.", label(&seen)),
        };
        self.undo.push(Undoing { intents: Vec::new(), complete: false, cost });
        Ok(())
    }

    fn destroy_step(&mut self, guest: &Key, seen: &Seen, purge: bool, backup: Option<Fact>) {
        let mut before = self.before(guest, seen, Operation::Destroy);
        before.push(Fact::Named { guest: guest.clone(), name: seen.name.clone() });
        before.extend(backup);
        self.steps.push(Step {
            what: format!("remove {} and its disks", label(seen)),
            operation: Operation::Destroy,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: destroy_call(seen, purge),
            ends: task(&[by_kind(seen.kind, "qmdestroy", "vzdestroy")], seen.vmid, 1800),
            before,
            after: vec![Fact::Gone { guest: guest.clone() }],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmful,
            compensation: None,
        });
        self.world.remove(guest);
    }

    fn say_what_goes(&mut self, seen: &Seen, purge: bool) {
        let words = label(seen);
        self.effect(format!(
            "{words} and every disk and snapshot of its configuration are removed for good."
        ));
        self.effect(format!(
            "Proxmox always removes the access rights and firewall rules of number {}, too.",
            seen.vmid
        ));
        self.effect(if purge {
            format!("Proxmox also takes number {} out of backup jobs, replication and HA (purge).", seen.vmid)
        } else {
            format!(
                "Backup jobs that name number {} keep it, and would take a later guest of that number.",
                seen.vmid
            )
        });
        if let Some(pool) = &seen.pool {
            let pool = clean::text(pool, 64);
            let how = format!("{words} leaves the pool {pool}");
            self.impact(Impact { name: pool, guest: None, cause: ImpactCause::Pool, how });
        }
        if purge {
            let how = format!("jobs that name {words} no longer do");
            let name = "backup and replication jobs".to_owned();
            self.impact(Impact { name, guest: None, cause: ImpactCause::Job, how });
        }
    }

    fn has_no_clones(&mut self, seen: &Seen, guest: &Key) -> Result<(), Refusal> {
        let recorded = copy::linked(&self.lab, guest);
        let live = self.world.sight().guests.keys().filter(|key| {
            let other = self.world.seen(key);
            other.is_some_and(|other| copy::hangs_on(other.config.values().map(String::as_str), seen.vmid))
        });
        let made = self.links.iter().filter(|(_, source)| source == guest).map(|(copy, _)| copy);
        let mut linked: Vec<Key> =
            recorded.into_iter().chain(live).chain(made).filter(|key| *key != guest).cloned().collect();
        linked.sort();
        linked.dedup();
        // One that this plan removes before no longer hangs on it.
        linked.retain(|key| !matches!(self.world.look(key), super::world::Look::Gone));
        if linked.is_empty() {
            return self.has_no_hidden_clones(seen, guest);
        }
        let words: Vec<String> = linked.iter().take(20).map(|key| self.words(key)).collect();
        let keys: Vec<&str> = linked.iter().map(Key::as_str).collect();
        Err(Refusal::new(
            RefusalCode::LinkedClones,
            format!("the disks of {} are linked to those of {}", words.join(", "), label(seen)),
            "Remove those first, or copy their disks in full (move disk in Proxmox).",
        )
        .about(guest)
        .with("clones", keys))
    }

    /// A copy that is linked on LVM-thin names a plain volume, so nobody who asks Proxmox can tell it from a full one.
    /// It lies on the storage and node of its template: where nothing else does, there is none.
    fn has_no_hidden_clones(&self, seen: &Seen, guest: &Key) -> Result<(), Refusal> {
        let disks =
            seen.config.iter().filter(|(field, line)| seen.template && is_disk(seen.kind, field, line));
        let storages = disks.filter_map(|(_, line)| Some(line.split_once(':')?.0));
        let hides = |storage: &&str| {
            self.storage_kind(&seen.node, storage).is_none_or(|kind| HIDES_LINKS.contains(&kind.as_str()))
        };
        let storages: BTreeSet<&str> = storages.filter(hides).collect();
        let could_be = |row: &&Row<'_>| {
            let beside = row.key != guest && row.is_in(self.cluster) && row.kind == seen.kind;
            let volumes = row.known.record.get("volumes").and_then(Value::as_object);
            let mut volumes =
                volumes.into_iter().flatten().filter_map(|(_, volume)| volume.as_str()).peekable();
            let unread = volumes.peek().is_none();
            let there = |volume: &str| {
                volume.split_once(':').is_some_and(|(storage, name)| {
                    storages.contains(storage) && !name.ends_with("-cloudinit")
                })
            };
            beside
                && row.text("node") == Some(&seen.node)
                && !matches!(self.world.look(row.key), super::world::Look::Gone)
                && (unread || volumes.any(there))
        };
        let rows = self.lab.roster.rows().iter().filter(|_| !storages.is_empty());
        let suspects: Vec<&Key> = rows.filter(could_be).map(|row| row.key).collect();
        if suspects.is_empty() {
            return Ok(());
        }
        let words: Vec<String> = suspects.iter().take(20).map(|key| self.words(key)).collect();
        let storages: Vec<&str> = storages.into_iter().collect();
        Err(Refusal::new(
            RefusalCode::LinkedClones,
            format!(
                "on {} Proxmox does not show which disks are linked to those of {}, and {} may have such",
                storages.join(", "),
                label(seen),
                words.join(", ")
            ),
            format!(
                "As root on {}, `lvs -o lv_name,origin -S 'origin=~^base-{vmid}-'` lists the linked disks: vm-N-… is \
                 guest N's. Move those to another storage in Proxmox, or remove their guests. When it lists none, \
                 `{tool} destroy {vmid}` there removes the template.",
                seen.node,
                vmid = seen.vmid,
                tool = match seen.kind {
                    GuestKind::Qemu => "qm",
                    GuestKind::Lxc => "pct",
                },
            ),
        )
        .about(guest)
        .with("clones", suspects.iter().map(|key| key.as_str()).collect::<Vec<_>>()))
    }

    /// Whether there is the backup policy asks for; the fact to check before the step, where it can be seen live.
    fn backup_of(&mut self, guest: &Key, seen: &Seen) -> Result<Option<Fact>, Refusal> {
        let Some(hours) = self.scene.policy.caution.backup_before_destroy_hours else { return Ok(None) };
        if self.born.contains(guest) {
            return Ok(None);
        }
        let now = self.scene.now;
        let since = now.checked_sub(SignedDuration::from_hours(hours.into())).unwrap_or(Timestamp::MIN);
        match self.newest_backup(guest, seen) {
            Some(at) if at >= since => {
                let fact = Fact::BackupSince { guest: guest.clone(), since };
                Ok(seen.newest_backup.is_some_and(|at| at >= since).then_some(fact))
            }
            found => {
                let newest =
                    found.map_or_else(|| "none is visible".to_owned(), |at| format!("the newest is of {at}"));
                Err(Refusal::new(
                    RefusalCode::NotPossible,
                    format!(
                        "policy wants a backup of {} not older than {hours} h, and {newest}",
                        label(seen)
                    ),
                    "Make a backup first, wait until the scanner has seen it, and plan again.",
                )
                .about(guest))
            }
        }
    }

    /// When its newest backup was made, as far as anybody can see.
    pub(super) fn newest_backup(&self, guest: &Key, seen: &Seen) -> Option<Timestamp> {
        let recorded = self.lab.roster.get(guest).and_then(|row| row.known.record.get("backups"));
        let recorded = match Backups::deserialize(recorded?).ok()? {
            Backups::Newest { at, .. } => Some(at),
            Backups::None | Backups::NotVisible => None,
        };
        seen.newest_backup.max(recorded)
    }
}

/// The call that removes a guest: its own disks alone, and never a running one.
pub(super) fn destroy_call(seen: &Seen, purge: bool) -> nhi_model::plan::ApiCall {
    let mut asked = params([("destroy-unreferenced-disks", "0".to_owned())]);
    if purge {
        asked.insert("purge".to_owned(), "1".to_owned());
    }
    call::guest(Method::Delete, &seen.node, seen.kind, seen.vmid, &[], asked)
}
