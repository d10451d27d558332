//! Making guests as copies of others. A copy inherits its source's protection and tags, which are its own to set.

use super::{
    bounds,
    build::card,
    call::{self, by_kind, params, task},
    config::{Lines, differing},
    draft::Draft,
    expand::{Lab, cluster_of},
    power::{SETTLE_S, not_possible},
    refuse::{Sighted, not_seen},
    wish::{Act, Copy, Deed},
};
use crate::{
    clean,
    fact::{label, size_bytes},
    sight::{Seen, is_disk, is_on, tags},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::Operation,
    key::Key,
    plan::{Impact, ImpactCause, Method, Repeat, Step},
    refusal::{Refusal, RefusalCode},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Storages whose disks can be linked to, by kind of guest.
const LINKS_VM: [&str; 9] = ["btrfs", "cephfs", "cifs", "dir", "lvmthin", "nfs", "rbd", "zfspool", "zfs"];
const LINKS_LXC: [&str; 4] = ["btrfs", "lvmthin", "rbd", "zfspool"];

impl Draft<'_> {
    pub(super) fn copy(&mut self, copy: &Copy) -> Result<(), Refusal> {
        let source = self.source(copy)?;
        let base = self.base(copy, &source)?;
        let full = self.is_full(copy, &source)?;
        let node = self.copy_node(copy, &source)?;
        let (vmid, key) = self.next_number(source.kind, &copy.new)?;
        let inherited = inherited(&base);
        let seen = Self::unborn(source.kind, vmid, &node, &copy.new, inherited);
        self.clone_step(copy, &source, &key, seen, full);
        let wanted = self.lines(copy, &base)?;
        self.fit(&key, &wanted, copy.operation);
        if let Some(size) = copy.new.disk_gib {
            let (disk, had) = first_disk(&base, &source, &copy.source)?;
            self.grow(&key, &disk, had, size, copy.operation)?;
        }
        self.send_off(&key, &copy.new)
    }

    /// The source, when it may be copied now.
    fn source(&mut self, copy: &Copy) -> Result<Seen, Refusal> {
        let guest = &copy.source;
        // As with a backup, the guest is only read.
        let deed =
            Deed { asked: copy.asked.clone(), ..Deed::new(guest.clone(), Act::Backup { storage: None }) };
        let seen = match self.sight_of(&deed, Operation::Clone)? {
            Sighted::There(seen) => *seen,
            Sighted::Gone => {
                return Err(not_seen(format!("{} is not there", crate::fact::named(guest))).about(guest));
            }
        };
        if copy.operation != Operation::Clone && !seen.template {
            let hint = "Name a template, or use clone, which copies any guest.";
            return Err(not_possible(&seen, guest, "is no template", hint));
        }
        if seen.kind == GuestKind::Lxc && copy.snapshot.is_none() && seen.status != GuestStatus::Stopped {
            let hint = "Shut it down first, or copy one of its snapshots.";
            return Err(not_possible(
                &seen,
                guest,
                "is a container that runs, of which only a snapshot can be copied",
                hint,
            ));
        }
        if let Some(name) = &copy.snapshot {
            self.must_have(&seen, guest, name)?;
            if seen.template {
                return Err(not_possible(
                    &seen,
                    guest,
                    "is a template and has no snapshots",
                    "Leave out the snapshot.",
                ));
            }
        }
        // It is read, not written; but who works on it, or a lock, stands against a copy as well.
        self.is_free(guest, &seen)?;
        self.node_answers(&seen.node).map_err(|refusal| refusal.about(guest))?;
        if let Some(lock) = seen.lock.as_deref().filter(|lock| !lock.is_empty()) {
            let message = format!("{} is locked ({})", label(&seen), clean::text(lock, 40));
            let hint = "Wait until what holds the lock has ended.";
            return Err(Refusal::new(RefusalCode::Locked, message, hint).about(guest));
        }
        // Of one this very plan changes first, what must hold beforehand is said already.
        if !self.world.is_changed(guest) {
            self.rely_on_source(guest, &seen);
        }
        Ok(seen)
    }

    fn rely_on_source(&mut self, guest: &Key, seen: &Seen) {
        let key = || guest.clone();
        self.require(Fact::SameGuest { guest: key(), identity: seen.identity.clone() });
        self.require(Fact::Named { guest: key(), name: seen.name.clone() });
        self.require(Fact::OnNode { guest: key(), node: seen.node.clone() });
        self.require(Fact::Template { guest: key(), template: seen.template });
        self.require(Fact::Unlocked { guest: key() });
        if seen.kind == GuestKind::Lxc {
            self.require(Fact::Status { guest: key(), status: seen.status });
        }
        if let Some(digest) = seen.digest.clone() {
            self.require(Fact::ConfigDigest { guest: key(), digest });
        }
    }

    /// The configuration that is copied.
    fn base(&self, copy: &Copy, source: &Seen) -> Result<BTreeMap<String, String>, Refusal> {
        let Some(name) = &copy.snapshot else {
            if source.config_whole {
                return Ok(source.config.clone());
            }
            let message = format!("the configuration of {} could not be read", label(source));
            return Err(not_seen(message).about(&copy.source));
        };
        let list = source.snapshots.as_deref().unwrap_or_default();
        let config =
            list.iter().find(|snapshot| snapshot.name == *name).and_then(|snapshot| snapshot.config.clone());
        config.ok_or_else(|| {
            let message =
                format!("the configuration the snapshot {name} of {} keeps could not be read", label(source));
            not_seen(message).about(&copy.source)
        })
    }

    /// Whether the disks are copied. Only a template's can be linked to, and only on some storages.
    fn is_full(&mut self, copy: &Copy, source: &Seen) -> Result<bool, Refusal> {
        let links: &[&str] = match source.kind {
            GuestKind::Qemu => &LINKS_VM,
            GuestKind::Lxc => &LINKS_LXC,
        };
        let disks: Vec<&String> = source
            .config
            .iter()
            .filter(|(field, line)| is_disk(source.kind, field, line))
            .map(|(_, line)| line)
            .collect();
        let kinds: Vec<Option<String>> = disks
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(storage, _)| self.storage_kind(&source.node, storage))
            .collect();
        let cannot = kinds.iter().flatten().find(|kind| !links.contains(&kind.as_str()));
        let full = copy.full || !source.template || cannot.is_some();
        if let Some(kind) = cannot.filter(|_| source.template && !copy.full) {
            let kind = clean::text(kind, 40);
            self.effect(format!(
                "The disks are copied in full: nothing can be linked to on storage of type {kind}."
            ));
        }
        if let Some(storage) = copy.new.storage.as_ref().filter(|_| !full) {
            return Err(Refusal::new(
                RefusalCode::BadValue,
                format!("a linked copy lies where its template lies, not on storage {storage}"),
                "Ask for `full`, or leave out the storage.",
            )
            .about(&copy.source));
        }
        Ok(full)
    }

    /// The node of the copy: its source's, or another one that reaches the same disks.
    fn copy_node(&mut self, copy: &Copy, source: &Seen) -> Result<String, Refusal> {
        let Some(node) = copy.new.node.as_ref().filter(|node| **node != source.node) else {
            return Ok(source.node.clone());
        };
        self.node_answers(node)?;
        let lines = source.config.iter().filter(|(field, line)| is_disk(source.kind, field, line));
        for (_, line) in lines {
            let Some((storage, _)) = line.split_once(':') else { continue };
            let place = self.world.sight().storages.get(&(source.node.clone(), storage.to_owned()));
            if !place.is_some_and(|place| place.shared) {
                let what = format!("has disks on storage {storage}, which node {node} cannot reach");
                let hint = "Leave out the node, and move the copy afterwards.";
                return Err(not_possible(source, &copy.source, &what, hint));
            }
        }
        Ok(node.clone())
    }

    fn clone_step(&mut self, copy: &Copy, source: &Seen, key: &Key, seen: Seen, full: bool) {
        let mut asked = params([
            ("newid", seen.vmid.to_string()),
            (Self::name_field(source.kind), copy.new.name.clone()),
        ]);
        let mut set =
            |name: &str, value: Option<String>| asked.extend(value.map(|value| (name.to_owned(), value)));
        set("full", full.then(|| "1".to_owned()));
        set("snapname", copy.snapshot.clone());
        set("storage", copy.new.storage.clone());
        set("pool", copy.new.pool.clone());
        set("target", Some(seen.node.clone()).filter(|node| *node != source.node));
        let guest = || copy.source.clone();
        let mut before = vec![
            Fact::Gone { guest: key.clone() },
            Fact::SameGuest { guest: guest(), identity: source.identity.clone() },
            Fact::OnNode { guest: guest(), node: source.node.clone() },
            Fact::Unlocked { guest: guest() },
        ];
        if source.kind == GuestKind::Lxc && copy.snapshot.is_none() {
            before.push(Fact::Status { guest: guest(), status: GuestStatus::Stopped });
        }
        let step = Step {
            what: format!(
                "make {} as a {} copy of {}",
                label(&seen),
                if full { "full" } else { "linked" },
                label(source)
            ),
            operation: copy.operation,
            guest: key.clone(),
            node: source.node.clone(),
            call: call::guest(Method::Post, &source.node, source.kind, source.vmid, &["clone"], asked),
            // The task carries the source's number.
            ends: task(
                &[by_kind(source.kind, "qmclone", "vzclone")],
                source.vmid,
                if full { 21_600 } else { 1800 },
            ),
            before,
            after: Self::newborn_facts(key, &seen),
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        };
        if !full {
            self.links.push((key.clone(), copy.source.clone()));
            let words = label(source);
            self.effect(format!(
                "{} shares base disks with {words}, which cannot be removed while it is there.",
                copy.new.name
            ));
            let how = format!("{} is linked to its disks", copy.new.name);
            self.impact(Impact { name: words, guest: Some(guest()), cause: ImpactCause::LinkedClone, how });
        }
        self.bear(key, seen, copy.operation, step);
    }

    /// The lines of the copy that are to differ from what it inherits.
    fn lines(&mut self, copy: &Copy, base: &BTreeMap<String, String>) -> Result<Lines, Refusal> {
        let (new, name) = (&copy.new, &copy.new.name);
        let mut lines = Lines::new();
        let mut set = |field: &str, value: Option<String>| drop(lines.insert(field.to_owned(), value));
        new.cores.iter().for_each(|cores| set("cores", Some(cores.to_string())));
        new.memory_mib.iter().for_each(|memory| set("memory", Some(memory.to_string())));
        new.onboot.iter().for_each(|on| set("onboot", Some(if *on { "1" } else { "0" }.to_owned())));
        if let Some(text) = &new.description {
            set("description", Some(text.clone()).filter(|text| !text.is_empty()));
        }
        let wanted: Vec<&str> = new.tags.iter().map(String::as_str).collect();
        set("tags", Some(wanted.join(";")).filter(|tags| !tags.is_empty()));
        let protected = base.get("protection").is_some_and(|line| is_on(line));
        if protected {
            set("protection", None);
        }
        let kind =
            if copy.source.section() == GuestKind::Qemu.section() { GuestKind::Qemu } else { GuestKind::Lxc };
        let addressed = copy.ip.is_some() || copy.gateway.is_some();
        if new.bridge.is_some() || addressed {
            let address = bounds::address(copy.ip.as_deref(), copy.gateway.as_deref())?;
            set("net0", Some(net0(kind, base.get("net0"), copy, addressed.then_some(address.as_str()))));
        }
        let had = base.get("tags").map(|line| tags(line)).unwrap_or_default();
        if had != new.tags && !had.is_empty() {
            self.effect(format!("{name} does not keep the tags of what it is copied from."));
        }
        if protected {
            self.effect(format!("{name} is not protected, as what it is copied from is."));
        }
        if new.onboot.is_none() && base.get("onboot").is_some_and(|line| is_on(line)) {
            self.effect(format!("{name} starts when its node boots, as what it is copied from does."));
        }
        let guest = Self::unborn(kind, 0, "", new, inherited(base));
        Ok(differing(&guest, lines))
    }
}

/// What a copy inherits: everything but what tells guests apart and what belongs to the source's life.
fn inherited(base: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = ["digest", "lock", "meta", "parent", "smbios1", "snaptime", "template", "vmgenid", "vmstate"];
    let kept =
        |field: &str| !own.contains(&field) && !field.starts_with("unused") && !field.starts_with("running");
    base.iter().filter(|(field, _)| kept(field)).map(|(field, line)| (field.clone(), line.clone())).collect()
}

/// The first card, with a hardware address of its own.
fn net0(kind: GuestKind, had: Option<&String>, copy: &Copy, address: Option<&str>) -> String {
    let Some(had) = had else {
        return match kind {
            GuestKind::Qemu => format!("virtio,bridge={}", copy.new.bridge.as_deref().unwrap_or("vmbr0")),
            GuestKind::Lxc => card(&copy.new, address.unwrap_or("ip=dhcp")),
        };
    };
    let models = ["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"];
    let mut parts: Vec<String> = Vec::new();
    for part in had.split(',') {
        match part.split_once('=') {
            Some(("hwaddr" | "macaddr", _)) => {}
            Some((model, _)) if models.contains(&model) => parts.push(model.to_owned()),
            Some(("bridge", old)) => {
                parts.push(format!("bridge={}", copy.new.bridge.as_deref().unwrap_or(old)))
            }
            Some(("ip" | "gw", _)) if address.is_some() => {}
            Some(_) | None => parts.push(part.to_owned()),
        }
    }
    parts.extend(address.map(str::to_owned));
    parts.join(",")
}

/// The disk a guest boots from, and its size.
fn first_disk(base: &BTreeMap<String, String>, source: &Seen, key: &Key) -> Result<(String, u64), Refusal> {
    let is = |field: &str| base.get(field).is_some_and(|line| is_disk(source.kind, field, line));
    let order =
        base.get("boot").and_then(|line| line.split(',').find_map(|part| part.strip_prefix("order=")));
    let listed = order.into_iter().flat_map(|order| order.split(';'));
    let usual = ["scsi0", "virtio0", "sata0", "ide0", "rootfs"];
    let named = base.get("bootdisk").map(String::as_str);
    let first = listed.chain(named).chain(usual).find(|field| is(field));
    let Some(first) = first else {
        return Err(not_possible(
            source,
            key,
            "has no disk that could be made larger",
            "Leave out disk_gib.",
        ));
    };
    let size = base.get(first).and_then(|line| size_bytes(line));
    match size {
        Some(size) => Ok((first.to_owned(), size)),
        None => Err(not_seen(format!("the size of {first} of {} is not told", label(source))).about(key)),
    }
}

/// Whether volumes are linked to a base disk of a number.
pub(super) fn hangs_on<'a>(mut volumes: impl Iterator<Item = &'a str>, vmid: u32) -> bool {
    let bases = [format!(":base-{vmid}-"), format!("/base-{vmid}-")];
    volumes.any(|volume| {
        let volume = volume.split(',').next().unwrap_or_default();
        // The link is the part before the slash of `base-9000-disk-0/vm-106-disk-0`.
        volume.contains('/') && bases.iter().any(|base| volume.contains(base.as_str()))
    })
}

/// Guests of its cluster whose recorded disks are linked to those of a guest.
pub(super) fn linked<'a>(lab: &Lab<'a>, guest: &Key) -> Vec<&'a Key> {
    let tokens = guest.tokens();
    let Some(vmid) = tokens.get(1).and_then(|number| number.parse().ok()) else { return Vec::new() };
    let cluster = cluster_of(guest);
    let rows = lab.roster.rows().iter().filter(|row| row.key != guest && row.is_in(&cluster));
    rows.filter(|row| {
        let volumes = row.known.record.get("volumes").and_then(Value::as_object);
        hangs_on(volumes.into_iter().flatten().filter_map(|(_, volume)| volume.as_str()), vmid)
    })
    .map(|row| row.key)
    .collect()
}
