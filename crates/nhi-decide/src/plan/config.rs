//! Changing lines of a configuration, and making disks larger.

use super::{
    call::{self, Params, params, task},
    draft::{Draft, Undoing},
    power::{SETTLE_S, not_possible},
    refuse::not_seen,
    wish::Deed,
};
use crate::{
    fact::{label, normal, size_bytes},
    sight::{Seen, is_disk},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::{GuestRef, Intent, Operation, Settings},
    key::Key,
    lab::Node,
    plan::{ApiCall, ConfigChange, Ends, Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Lines to be written, and those to be removed.
pub(super) type Lines = BTreeMap<String, Option<String>>;

pub(super) const GIB: u64 = 1 << 30;

impl Draft<'_> {
    pub(super) fn set(
        &mut self,
        deed: &Deed,
        settings: &Settings,
        processors: Option<u32>,
    ) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Set)? else { return Ok(()) };
        let guest = &deed.guest;
        if !seen.config_whole {
            return Err(
                not_seen(format!("the configuration of {} could not be read", label(&seen))).about(guest)
            );
        }
        let mut settings = settings.clone();
        settings.cores = settings.cores.or_else(|| processors.and_then(|count| cores_of(&seen, count)));
        let lines = differing(&seen, lines_of(&settings));
        if lines.is_empty() {
            self.already(deed, format!("The configuration of {} is so already.", label(&seen)));
            return Ok(());
        }
        fits_balloon(&seen, guest, &lines)?;
        self.keep_first(deed, &seen, Operation::Set)?;
        self.write_to(guest, &seen, Operation::Set)?;
        let digest = seen.digest.clone().filter(|_| !self.world.is_changed(guest));
        self.set_step(guest, &seen, &lines, digest);
        self.set_undo(guest, &seen, &lines);
        Ok(())
    }

    fn set_step(&mut self, guest: &Key, seen: &Seen, lines: &Lines, digest: Option<String>) {
        let old: Lines = lines.keys().map(|field| (field.clone(), seen.config.get(field).cloned())).collect();
        let back = Step {
            what: format!("set back {} of {}", fields(lines), label(seen)),
            operation: Operation::Set,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: config_call(seen, &old, None),
            ends: Ends::Answer {},
            before: self.identity_alone(guest, seen),
            after: facts(guest, seen, &old),
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        };
        self.steps.push(Step {
            what: format!("set {} of {}", fields(lines), label(seen)),
            operation: Operation::Set,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: config_call(seen, lines, digest),
            ends: Ends::Answer {},
            before: self.before(guest, seen, Operation::Set),
            after: facts(guest, seen, lines),
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: Some(Box::new(back)),
        });
        for (field, value) in lines {
            self.change_line(guest, seen, field, value.clone());
        }
        let later: Vec<&str> = lines.keys().map(String::as_str).filter(|field| waits(seen, field)).collect();
        if !later.is_empty() {
            self.effect(format!(
                "{} of {} takes effect when it is stopped and started; until then Proxmox shows it as pending.",
                later.join(" and "),
                label(seen)
            ));
        }
        let (later, now): (Lines, Lines) =
            lines.clone().into_iter().partition(|(field, _)| waits(seen, field));
        self.world.change(guest, |seen| write(seen, &now));
        self.world.wait(guest, later);
        self.shows_lines(guest, seen, &now);
    }

    /// What the records will show of lines that are written.
    pub(super) fn shows_lines(&mut self, guest: &Key, seen: &Seen, lines: &Lines) {
        for (field, value) in lines {
            match field.as_str() {
                "cores" => {
                    if let Some(count) = value.as_deref().and_then(|cores| self.processors(seen, cores)) {
                        self.shows(guest, Fact::Processors { guest: guest.clone(), count });
                    }
                }
                _ => self.shows(
                    guest,
                    Fact::Config { guest: guest.clone(), field: field.clone(), value: value.clone() },
                ),
            }
        }
    }

    /// How many processors the node's list will show; `None` where something else decides it.
    pub(super) fn processors(&self, seen: &Seen, cores: &str) -> Option<u32> {
        let limited = ["cpulimit", "vcpus"].iter().any(|field| seen.config.contains_key(*field));
        let sockets = sockets_of(seen);
        let count = cores.parse::<u32>().ok()?.checked_mul(sockets)?;
        let node = &self.lab.known.get(&Key::node(self.cluster, &seen.node))?.record;
        let most = Node::deserialize(node).ok()?.cpus?;
        // Proxmox lists no more than the node has.
        (!limited && count <= most).then_some(count)
    }

    fn change_line(&mut self, guest: &Key, seen: &Seen, field: &str, after: Option<String>) {
        let before = seen.config.get(field).cloned();
        self.changes.push(ConfigChange { guest: guest.clone(), field: field.to_owned(), before, after });
    }

    fn set_undo(&mut self, guest: &Key, seen: &Seen, lines: &Lines) {
        let old = |field: &str| lines.contains_key(field).then(|| seen.config.get(field));
        let number = |field: &str| old(field).map(|line| line.and_then(|text| text.parse::<u64>().ok()));
        let one = (seen.kind == GuestKind::Qemu).then_some(1);
        // A line that is not there means Proxmox's own default, where it has one that can be said.
        let cores = number("cores").map(|cores| cores.and_then(|cores| u32::try_from(cores).ok()).or(one));
        let memory = number("memory").map(|memory| memory.or(Some(512)));
        let settings = Settings {
            cores: cores.flatten(),
            memory_mib: memory.flatten(),
            tags: old("tags").map(|_| seen.tags()),
            onboot: old("onboot").map(|_| seen.flag("onboot").unwrap_or(false)),
            description: old("description").map(|line| line.cloned().unwrap_or_default()),
        };
        let complete = cores.is_none_or(|cores| cores.is_some());
        let cost = if complete {
            format!("{} of {} is what it was.", fields(lines), label(seen))
        } else {
            format!(
                "{} had no bound of its cores, which cannot be said here; the rest is what it was.",
                label(seen)
            )
        };
        let intents = if settings == Settings::default() {
            Vec::new()
        } else {
            vec![Intent::Set { guest: GuestRef::key(guest), settings }]
        };
        // One that has a tag by now that protects it is not changed back.
        self.undone_by(guest, &[Operation::Set], Undoing { intents, complete, cost });
    }

    /// What tells the guest from another, whatever happened to it since.
    pub(super) fn identity_alone(&self, guest: &Key, seen: &Seen) -> Vec<Fact> {
        let mut facts = self.before(guest, seen, Operation::Start);
        facts.retain(|fact| !matches!(fact, Fact::Status { .. } | Fact::Unprotected { .. }));
        facts
    }

    pub(super) fn resize(&mut self, deed: &Deed, disk: &str, size_gib: u64) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Resize)? else { return Ok(()) };
        let guest = &deed.guest;
        let had = disk_size(&seen, guest, disk)?;
        let wanted = size_gib.saturating_mul(GIB);
        if wanted < had {
            return Err(shrinks(&seen, guest, disk, had, size_gib));
        }
        if wanted == had {
            self.already(deed, format!("{disk} of {} has {size_gib} GiB already.", label(&seen)));
            return Ok(());
        }
        if seen.template {
            let hint = "Clone it, and make the copy's disk larger.";
            return Err(not_possible(&seen, guest, "is a template, whose disks never change", hint));
        }
        self.has_room(&seen, guest, disk, wanted - had)?;
        self.keep_first(deed, &seen, Operation::Resize)?;
        self.write_to(guest, &seen, Operation::Resize)?;
        self.resize_step(guest, &seen, disk, size_gib, Operation::Resize);
        self.change_line(guest, &seen, disk, grown(&seen, disk, size_gib));
        self.risk(Risk::Medium);
        self.effect(match seen.kind {
            GuestKind::Qemu => format!(
                "The file system inside {} is not grown with its disk: that is done inside.",
                label(&seen)
            ),
            GuestKind::Lxc => format!("The file system of {} grows with its disk.", label(&seen)),
        });
        let cost =
            format!("{disk} of {} stays as large as it is made: no disk becomes smaller.", label(&seen));
        self.undo.push(Undoing { intents: Vec::new(), complete: false, cost });
        Ok(())
    }

    pub(super) fn resize_step(
        &mut self,
        guest: &Key,
        seen: &Seen,
        disk: &str,
        size_gib: u64,
        operation: Operation,
    ) {
        let asked = params([("disk", disk.to_owned()), ("size", format!("{size_gib}G"))]);
        let mut before = self.before(guest, seen, operation);
        before.retain(|fact| !matches!(fact, Fact::Status { .. }));
        let grown_to = Fact::DiskAtLeast {
            guest: guest.clone(),
            disk: disk.to_owned(),
            bytes: size_gib.saturating_mul(GIB),
        };
        self.steps.push(Step {
            what: format!("make {disk} of {} {size_gib} GiB large", label(seen)),
            operation,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: call::guest(Method::Put, &seen.node, seen.kind, seen.vmid, &["resize"], asked),
            ends: task(&["resize"], seen.vmid, 600),
            before,
            after: vec![grown_to.clone()],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        });
        let line = grown(seen, disk, size_gib);
        self.world.change(guest, |seen| write(seen, &[(disk.to_owned(), line)].into()));
        if !self.born.contains(guest) {
            self.shows(guest, grown_to);
        }
    }

    /// Whether the storage has room for more of a disk; where space is only taken when it is used, a word.
    pub(super) fn has_room(
        &mut self,
        seen: &Seen,
        guest: &Key,
        disk: &str,
        bytes: u64,
    ) -> Result<(), Refusal> {
        let Some((storage, _)) = seen.config.get(disk).and_then(|line| line.split_once(':')) else {
            return Ok(());
        };
        let storage = storage.to_owned();
        self.room_on(&seen.node, &storage, bytes).map_err(|refusal| refusal.about(guest))
    }

    pub(super) fn room_on(&mut self, node: &str, storage: &str, bytes: u64) -> Result<(), Refusal> {
        let place = self.world.sight().storages.get(&(node.to_owned(), storage.to_owned()));
        let Some(free) = place.and_then(|place| place.free_bytes).filter(|free| *free < bytes) else {
            return Ok(());
        };
        let thick = place.is_some_and(|place| place.kind.as_deref() == Some("lvm"));
        let (free, wanted) = (free.div_ceil(GIB), bytes.div_ceil(GIB));
        let message = format!("storage {storage} has {free} GiB free, and {wanted} GiB are wanted");
        if thick {
            let hint = "Make room there, or choose another storage or size.";
            return Err(Refusal::new(RefusalCode::NoRoom, message, hint).with("storage", storage));
        }
        self.effect(format!("Beware: {message}; it fills only as the guest writes."));
        Ok(())
    }
}

fn sockets_of(seen: &Seen) -> u32 {
    let line = seen.config.get("sockets").filter(|_| seen.kind == GuestKind::Qemu);
    line.and_then(|sockets| sockets.parse().ok()).unwrap_or(1)
}

/// The cores that give so many processors.
fn cores_of(seen: &Seen, processors: u32) -> Option<u32> {
    let sockets = sockets_of(seen);
    (sockets > 0 && processors.is_multiple_of(sockets)).then(|| processors / sockets)
}

fn lines_of(settings: &Settings) -> Lines {
    let mut lines = Lines::new();
    let mut line = |field: &str, value: Option<String>| {
        lines.insert(field.to_owned(), value);
    };
    if let Some(cores) = settings.cores {
        line("cores", Some(cores.to_string()));
    }
    if let Some(memory) = settings.memory_mib {
        line("memory", Some(memory.to_string()));
    }
    if let Some(tags) = &settings.tags {
        let text = tags.iter().map(String::as_str).collect::<Vec<_>>().join(";");
        line("tags", Some(text).filter(|text| !text.is_empty()));
    }
    if let Some(onboot) = settings.onboot {
        line("onboot", Some(if onboot { "1" } else { "0" }.to_owned()));
    }
    if let Some(text) = &settings.description {
        line("description", Some(text.clone()).filter(|text| !text.is_empty()));
    }
    lines
}

/// The lines that would change something. Of a line that waits for a start nobody sees what waits there already: it is
/// written in any case, which also takes back what waits.
pub(super) fn differing(seen: &Seen, lines: Lines) -> Lines {
    let differs = |field: &str, value: Option<&str>| waits(seen, field) || !is_so(seen, field, value);
    lines.into_iter().filter(|(field, value)| differs(field, value.as_deref())).collect()
}

fn is_so(seen: &Seen, field: &str, value: Option<&str>) -> bool {
    let now = seen.config.get(field).map(String::as_str);
    let now = match (field, now, seen.kind) {
        ("cores", None, GuestKind::Qemu) => Some("1"),
        ("memory", None, _) => Some("512"),
        (_, now, _) => now,
    };
    normal(field, now) == normal(field, value)
}

/// Whether a line of a running virtual machine waits for its next start. What can be plugged in while it runs is
/// left out of account: whether Proxmox does it depends on the system inside.
fn waits(seen: &Seen, field: &str) -> bool {
    let runs = matches!(seen.status, GuestStatus::Running | GuestStatus::Paused);
    seen.kind == GuestKind::Qemu && runs && matches!(field, "cores" | "memory")
}

fn fits_balloon(seen: &Seen, guest: &Key, lines: &Lines) -> Result<(), Refusal> {
    let number = |line: Option<&str>| line.and_then(|text| text.parse::<u64>().ok());
    let balloon = number(seen.config.get("balloon").map(String::as_str));
    let memory = number(lines.get("memory").and_then(|line| line.as_deref()));
    match balloon.zip(memory).filter(|(balloon, memory)| balloon > memory) {
        None => Ok(()),
        Some((balloon, memory)) => {
            let what =
                format!("keeps at least {balloon} MiB (balloon), so {memory} MiB of memory are too few");
            Err(not_possible(
                seen,
                guest,
                &what,
                "Give it more, or let a person lower its balloon in Proxmox.",
            ))
        }
    }
}

pub(super) fn config_call(seen: &Seen, lines: &Lines, digest: Option<String>) -> ApiCall {
    let mut asked = Params::new();
    let mut removed = Vec::new();
    for (field, value) in lines {
        match value {
            Some(value) => drop(asked.insert(field.clone(), value.clone())),
            None => removed.push(field.as_str()),
        }
    }
    if !removed.is_empty() {
        asked.insert("delete".to_owned(), removed.join(","));
    }
    asked.extend(digest.map(|digest| ("digest".to_owned(), digest)));
    call::guest(Method::Put, &seen.node, seen.kind, seen.vmid, &["config"], asked)
}

/// What is read back of lines: not what waits for a start, and not what Proxmox completes by itself.
pub(super) fn facts(guest: &Key, seen: &Seen, lines: &Lines) -> Vec<Fact> {
    let shown = lines.iter().filter(|(field, _)| !waits(seen, field) && !field.starts_with("net"));
    shown
        .map(|(field, value)| Fact::Config {
            guest: guest.clone(),
            field: field.clone(),
            value: value.clone(),
        })
        .collect()
}

pub(super) fn fields(lines: &Lines) -> String {
    lines.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

pub(super) fn write(seen: &mut Seen, lines: &Lines) {
    for (field, value) in lines {
        match value {
            Some(value) => drop(seen.config.insert(field.clone(), value.clone())),
            None => drop(seen.config.remove(field)),
        }
    }
}

/// The size of a disk, bytes.
pub(super) fn disk_size(seen: &Seen, guest: &Key, disk: &str) -> Result<u64, Refusal> {
    let disks: Vec<&str> = seen
        .config
        .iter()
        .filter(|(field, line)| is_disk(seen.kind, field, line))
        .map(|(f, _)| f.as_str())
        .collect();
    let Some(line) = seen.config.get(disk).filter(|_| disks.contains(&disk)) else {
        let message = format!("{} has no disk {disk}; it has {}", label(seen), disks.join(", "));
        let refusal = Refusal::new(RefusalCode::Unknown, message, "Use one of the disks it has.");
        return Err(refusal.about(guest).with("candidates", disks));
    };
    if line.starts_with('/') {
        let what = format!("has a directory of its node at {disk}, which has no size of its own");
        return Err(not_possible(seen, guest, &what, "Choose a disk on a storage."));
    }
    size_bytes(line)
        .ok_or_else(|| not_seen(format!("the size of {disk} of {} is not told", label(seen))).about(guest))
}

pub(super) fn shrinks(seen: &Seen, guest: &Key, disk: &str, had: u64, size_gib: u64) -> Refusal {
    let had = had.div_ceil(GIB);
    Refusal::new(
        RefusalCode::BadValue,
        format!("{disk} of {} has {had} GiB, and no disk becomes smaller ({size_gib} GiB)", label(seen)),
        "Give a larger size, or make a new guest with a smaller disk.",
    )
    .about(guest)
    .with("size_gib", had)
}

/// A disk's line with another size.
fn grown(seen: &Seen, disk: &str, size_gib: u64) -> Option<String> {
    let line = seen.config.get(disk)?;
    let parts = line
        .split(',')
        .map(|part| if part.starts_with("size=") { format!("size={size_gib}G") } else { part.to_owned() });
    Some(parts.collect::<Vec<_>>().join(","))
}
