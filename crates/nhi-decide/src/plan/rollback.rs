//! Going back to a snapshot. Proxmox looks at no protection there, stops a running guest, and brings back the
//! configuration with its protection and tags; so every line that returns is said, and none that protects may go.

use super::{
    call::{self, Params, by_kind, params, task},
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible},
    refuse::{not_seen, ourselves},
    wish::Deed,
};
use crate::{
    fact::{label, normal},
    sight::{Seen, is_disk, is_on, tags},
};
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    intent::{GuestRef, Intent, Operation},
    key::Key,
    lab::Storage,
    plan::{ConfigChange, Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

type Config = BTreeMap<String, String>;

/// Lines of a snapshot that are no configuration, or that going back does not bring back.
const NOT_RETURNED: [&str; 10] = [
    "description",
    "digest",
    "lock",
    "parent",
    "running-nets-host-mtu",
    "runningcpu",
    "runningmachine",
    "snapstate",
    "snaptime",
    "vmgenid",
];
/// Lines that are read back after the step: what Proxmox writes as it was, whatever the storage.
const READ_BACK: [&str; 8] =
    ["cores", "hostname", "memory", "name", "onboot", "protection", "sockets", "tags"];
/// Storages that can only go back to the newest snapshot.
const LINEAR: [&str; 3] = ["lvm", "zfs", "zfspool"];

impl Draft<'_> {
    pub(super) fn rollback(&mut self, deed: &Deed, name: &str, start: bool) -> Result<(), Refusal> {
        let guest = &deed.guest;
        // Said before the guest's own protection: it tells more, and a guest whose flag policy does not count keeps it.
        if self.scene.ourselves.contains(guest) {
            return Err(ourselves(&self.words(guest), guest));
        }
        self.keeps_protection(guest, name)?;
        let Some(seen) = self.found(deed, Operation::Rollback)? else { return Ok(()) };
        if seen.template {
            return Err(not_possible(&seen, guest, "is a template and has no way back", "Leave it."));
        }
        self.must_have(&seen, guest, name)?;
        let Some(past) = config_of(&seen, name) else {
            let message =
                format!("the configuration the snapshot {name} of {} keeps could not be read", label(&seen));
            return Err(not_seen(message).about(guest));
        };
        self.is_reachable(&seen, guest, name)?;
        let runs = matches!(seen.status, GuestStatus::Running | GuestStatus::Paused);
        if runs {
            self.nothing_needs(guest, Operation::Rollback)?;
        }
        self.keep_first(deed, &seen, Operation::Rollback)?;
        self.write_to(guest, &seen, Operation::Rollback)?;
        let with_memory = past.contains_key("vmstate");
        let status = if start || with_memory { GuestStatus::Running } else { GuestStatus::Stopped };
        let changed = returned(guest, &seen, &past);
        self.rollback_step(guest, &seen, name, start, status, &changed);
        self.say_what_returns(&seen, name, runs, status, &changed);
        self.changes.extend(changed);
        self.goes_back(guest, &seen, past, status);
        self.rollback_undo(guest, &seen, name, runs);
        Ok(())
    }

    fn rollback_step(
        &mut self,
        guest: &Key,
        seen: &Seen,
        name: &str,
        start: bool,
        status: GuestStatus,
        changed: &[ConfigChange],
    ) {
        let key = || guest.clone();
        let mut before = self.before(guest, seen, Operation::Rollback);
        before.push(Fact::Snapshot { guest: key(), name: name.to_owned(), present: true });
        let mut after = vec![Fact::Status { guest: key(), status }];
        let line = |field: &str, value: &Option<String>| Fact::Config {
            guest: key(),
            field: field.to_owned(),
            value: value.clone(),
        };
        // What returns is otherwise before: only so a lost answer or a task that was cut off can be told from one that
        // did nothing.
        for change in changed.iter().filter(|change| READ_BACK.contains(&change.field.as_str())) {
            before.push(line(&change.field, &change.before));
            after.push(line(&change.field, &change.after));
        }
        let asked = if start { params([("start", "1".to_owned())]) } else { Params::new() };
        self.steps.push(Step {
            what: format!("take {} back to its snapshot {name}", label(seen)),
            operation: Operation::Rollback,
            guest: key(),
            node: seen.node.clone(),
            call: call::guest(
                Method::Post,
                &seen.node,
                seen.kind,
                seen.vmid,
                &["snapshot", name, "rollback"],
                asked,
            ),
            ends: task(&[by_kind(seen.kind, "qmrollback", "vzrollback")], seen.vmid, 3600),
            before,
            after,
            settle_s: SETTLE_S,
            repeat: Repeat::Harmful,
            compensation: None,
        });
        self.powered.insert(key());
    }

    fn say_what_returns(
        &mut self,
        seen: &Seen,
        name: &str,
        runs: bool,
        status: GuestStatus,
        changed: &[ConfigChange],
    ) {
        let words = label(seen);
        self.effect(format!("Everything written to the disks of {words} after {name} was made is lost."));
        match (runs, status == GuestStatus::Running) {
            (true, false) => {
                self.effect(format!("{words} is stopped without being asked, and stays stopped."))
            }
            (true, true) => {
                self.effect(format!("{words} is stopped without being asked, and started again."))
            }
            (false, true) => self.effect(format!("{words} runs afterwards.")),
            (false, false) => {}
        }
        if changed.is_empty() {
            self.effect(format!("The configuration of {words} is the same in {name}."));
        } else {
            let fields: Vec<&str> = changed.iter().map(|change| change.field.as_str()).collect();
            self.effect(format!(
                "Lines of the configuration of {words} return to what they were: {}.",
                fields.join(", ")
            ));
        }
        self.risk(Risk::High);
    }

    /// The guest as the snapshot has it.
    fn goes_back(&mut self, guest: &Key, seen: &Seen, past: Config, status: GuestStatus) {
        let kept = |field: &str| field == "description" || field.starts_with("unused");
        let mut config: Config = past.into_iter().filter(|(field, _)| !is_volatile(field)).collect();
        config
            .extend(seen.config.iter().filter(|(field, _)| kept(field)).map(|(f, v)| (f.clone(), v.clone())));
        let uuid = config
            .get("smbios1")
            .and_then(|line| line.split(',').find_map(|part| part.strip_prefix("uuid=")));
        let uuid = uuid.map(str::to_owned);
        let name = config.get(Self::name_field(seen.kind)).cloned();
        self.world.give_up_waiting(guest);
        let (tags, onboot) = (config.get("tags").cloned(), config.get("onboot").cloned());
        self.world.change(guest, |seen| {
            seen.config = config;
            seen.status = status;
            seen.name = name.unwrap_or_else(|| seen.name.clone());
            if uuid.is_some() {
                seen.identity.uuid = uuid;
            }
        });
        let key = || guest.clone();
        self.shows(guest, Fact::Config { guest: key(), field: "tags".to_owned(), value: tags });
        self.shows(guest, Fact::Config { guest: key(), field: "onboot".to_owned(), value: onboot });
    }

    fn rollback_undo(&mut self, guest: &Key, seen: &Seen, name: &str, runs: bool) {
        let words = label(seen);
        match self.kept.get(guest).cloned() {
            Some(kept) => {
                let intents =
                    vec![Intent::Rollback { guest: GuestRef::key(guest), name: kept.clone(), start: runs }];
                let cost = format!(
                    "{words} goes to the snapshot {kept} made before; what it had in memory, and what it did since, is lost."
                );
                self.undo.push(Undoing { intents, complete: false, cost });
            }
            None => {
                self.risk(Risk::Destructive);
                let cost = format!("Nothing brings back what {words} was before it went back to {name}.");
                self.undo.push(Undoing { intents: Vec::new(), complete: false, cost });
            }
        }
    }

    /// Refuses a way back on which a mark that protects would be lost.
    fn keeps_protection(&self, guest: &Key, name: &str) -> Result<(), Refusal> {
        let Some(seen) = self.world.seen(guest) else { return Ok(()) };
        let Some(past) = config_of(seen, name) else { return Ok(()) };
        let mut lost = Vec::new();
        if seen.flag("protection") == Some(true) && !past.get("protection").is_some_and(|line| is_on(line)) {
            lost.push("Proxmox's protection flag".to_owned());
        }
        let then = past.get("tags").map(|line| tags(line)).unwrap_or_default();
        let guards = self.protecting_tags();
        let gone = seen.tags().into_iter().filter(|tag| !then.contains(tag));
        lost.extend(
            gone.filter(|tag| guards.contains(&tag.to_ascii_lowercase())).map(|tag| format!("the tag {tag}")),
        );
        if lost.is_empty() {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::DropsProtection,
            format!("going back to {name} would take {} from {}", lost.join(" and "), label(seen)),
            "Leave it, or let a person do this in Proxmox and put the protection back at once.",
        )
        .about(guest)
        .with("lost", lost))
    }

    /// Tags by which policy protects, lower case.
    fn protecting_tags(&self) -> BTreeSet<String> {
        let rules = &self.scene.policy.protected;
        let named = rules.guests.iter().filter_map(|reference| reference.as_str().strip_prefix("tag:"));
        rules.tags.iter().map(String::as_str).chain(named).map(str::to_ascii_lowercase).collect()
    }

    fn is_reachable(&self, seen: &Seen, guest: &Key, name: &str) -> Result<(), Refusal> {
        let list = seen.snapshots.as_deref().unwrap_or_default();
        let at = list.iter().find(|snapshot| snapshot.name == name).and_then(|snapshot| snapshot.at);
        let is_later =
            |later: Option<nhi_model::Timestamp>| later.zip(at).is_some_and(|(later, at)| later > at);
        let newer: Vec<&str> = list
            .iter()
            .filter(|other| other.name != name)
            .filter(|other| other.parent.as_deref() == Some(name) || is_later(other.at))
            .map(|other| other.name.as_str())
            .collect();
        if newer.is_empty() || self.is_linear(seen) != Some(true) {
            return Ok(());
        }
        let what = format!(
            "cannot go back to {name}: {} is newer, and its storage can only go back to the newest",
            newer.join(", ")
        );
        let hint = "Remove the newer snapshots first, in a plan of its own, or restore a backup beside it.";
        Err(not_possible(seen, guest, &what, hint).with("newer", newer))
    }

    /// Whether a disk of it lies on a storage that can only go back to the newest snapshot; `None` when nobody knows.
    pub(super) fn is_linear(&self, seen: &Seen) -> Option<bool> {
        let disks = seen.config.iter().filter(|(field, line)| is_disk(seen.kind, field, line));
        let mut known = Some(false);
        for (_, line) in disks {
            let Some((storage, _)) = line.split_once(':') else { continue };
            match self.storage_kind(&seen.node, storage) {
                Some(kind) if LINEAR.contains(&kind.as_str()) => return Some(true),
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }

    /// The type of a storage, as it was seen or recorded.
    pub(super) fn storage_kind(&self, node: &str, storage: &str) -> Option<String> {
        let seen = self.world.sight().storages.get(&(node.to_owned(), storage.to_owned()));
        seen.and_then(|storage| storage.kind.clone()).or_else(|| {
            let record = &self.lab.known.get(&Key::storage(self.cluster, node, storage))?.record;
            Storage::deserialize(record).ok()?.kind
        })
    }
}

fn config_of(seen: &Seen, name: &str) -> Option<Config> {
    seen.snapshots.as_ref()?.iter().find(|snapshot| snapshot.name == name)?.config.clone()
}

fn is_volatile(field: &str) -> bool {
    NOT_RETURNED.contains(&field) || field == "vmstate" || field.starts_with("unused")
}

/// Every line that differs between now and then.
fn returned(guest: &Key, seen: &Seen, past: &Config) -> Vec<ConfigChange> {
    let fields: BTreeSet<&String> =
        seen.config.keys().chain(past.keys()).filter(|field| !is_volatile(field)).collect();
    let change = |field: &String| {
        let (before, after) = (seen.config.get(field), past.get(field));
        let text = |line: Option<&String>| normal(field, line.map(String::as_str));
        (text(before) != text(after)).then(|| ConfigChange {
            guest: guest.clone(),
            field: field.clone(),
            before: before.cloned(),
            after: after.cloned(),
        })
    };
    fields.into_iter().filter_map(change).collect()
}
