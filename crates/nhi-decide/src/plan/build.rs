//! Making guests from scratch: virtual machines with an empty disk, containers of a container template's file.

use super::{
    bounds,
    call::{self, Params, task},
    config::GIB,
    draft::Draft,
    power::SETTLE_S,
};
use nhi_model::{
    fact::Fact,
    guest::GuestKind,
    intent::{NewGuest, Operation},
    key::Key,
    plan::{Method, Repeat, Step},
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeSet;

/// Size of the first disk where none is said, GiB.
const DISK_GIB_VM: u64 = 32;
/// The same of a container.
const DISK_GIB_LXC: u64 = 8;
/// Bridge where none is said: the one Proxmox's installer makes.
const BRIDGE: &str = "vmbr0";

impl Draft<'_> {
    pub(super) fn create_vm(
        &mut self,
        new: &NewGuest,
        iso: Option<&str>,
        os: Option<&str>,
    ) -> Result<(), Refusal> {
        os.map_or(Ok(()), bounds::os)?;
        let image = iso.map(|iso| bounds::file(iso, "iso", &[".iso", ".img"])).transpose()?;
        let node = self.node_for(new, image)?;
        let storage = self.storage_for(new, &node, "images")?;
        let size = new.disk_gib.unwrap_or(DISK_GIB_VM);
        self.room_on(&node, &storage, size.saturating_mul(GIB))?;
        let mut asked = self.asked(GuestKind::Qemu, new);
        let mut set = |name: &str, value: String| drop(asked.insert(name.to_owned(), value));
        set("ostype", os.unwrap_or("l26").to_owned());
        set("scsihw", "virtio-scsi-single".to_owned());
        set("scsi0", format!("{storage}:{size}"));
        set("net0", format!("virtio,bridge={}", new.bridge.as_deref().unwrap_or(BRIDGE)));
        match iso {
            Some(iso) => {
                set("ide2", format!("{iso},media=cdrom"));
                set("boot", "order=scsi0;ide2;net0".to_owned());
            }
            None => set("boot", "order=scsi0;net0".to_owned()),
        }
        if iso.is_none() {
            self.effect(format!("{} has an empty disk and nothing to boot from but the network.", new.name));
        }
        self.make(GuestKind::Qemu, new, &node, asked)
    }

    pub(super) fn create_lxc(
        &mut self,
        new: &NewGuest,
        image: &str,
        ip: Option<&str>,
        gateway: Option<&str>,
    ) -> Result<(), Refusal> {
        let on = bounds::file(image, "vztmpl", &[".tar.gz", ".tar.xz", ".tar.zst"])?;
        let address = bounds::address(ip, gateway)?;
        let node = self.node_for(new, Some(on))?;
        let storage = self.storage_for(new, &node, "rootdir")?;
        let size = new.disk_gib.unwrap_or(DISK_GIB_LXC);
        self.room_on(&node, &storage, size.saturating_mul(GIB))?;
        let mut asked = self.asked(GuestKind::Lxc, new);
        let mut set = |name: &str, value: String| drop(asked.insert(name.to_owned(), value));
        set("ostemplate", image.to_owned());
        set("rootfs", format!("{storage}:{size}"));
        set("unprivileged", "1".to_owned());
        // Without it the services of present distributions do not start in an unprivileged container.
        set("features", "nesting=1".to_owned());
        set("net0", card(new, &address));
        self.effect(format!(
            "No password and no key is set in {}: it is entered from its node (pct enter).",
            new.name
        ));
        self.make(GuestKind::Lxc, new, &node, asked)
    }

    /// The parameters both kinds have.
    fn asked(&self, kind: GuestKind, new: &NewGuest) -> Params {
        let mut asked = Params::new();
        let mut set =
            |name: &str, value: Option<String>| asked.extend(value.map(|value| (name.to_owned(), value)));
        set(Self::name_field(kind), Some(new.name.clone()));
        set("cores", new.cores.map(|cores| cores.to_string()));
        set("memory", new.memory_mib.map(|memory| memory.to_string()));
        let tags: Vec<&str> = new.tags.iter().map(String::as_str).collect();
        set("tags", Some(tags.join(";")).filter(|tags| !tags.is_empty()));
        set("description", new.description.clone().filter(|text| !text.is_empty()));
        set("onboot", new.onboot.map(|on| if on { "1" } else { "0" }.to_owned()));
        set("pool", new.pool.clone());
        asked
    }

    fn make(&mut self, kind: GuestKind, new: &NewGuest, node: &str, asked: Params) -> Result<(), Refusal> {
        let (vmid, key) = self.next_number(kind, new)?;
        self.node_answers(node)?;
        let (operation, word) = match kind {
            GuestKind::Qemu => (Operation::CreateVm, "qmcreate"),
            GuestKind::Lxc => (Operation::CreateLxc, "vzcreate"),
        };
        let lines = ["cores", "memory", "tags", "description", "onboot"];
        let config = asked.iter().filter(|(name, _)| lines.contains(&name.as_str()));
        let seen = Self::unborn(kind, vmid, node, new, config.map(|(f, v)| (f.clone(), v.clone())).collect());
        let mut asked = asked;
        asked.insert("vmid".to_owned(), vmid.to_string());
        let step = Step {
            what: format!("make {}", crate::fact::label(&seen)),
            operation,
            guest: key.clone(),
            node: node.to_owned(),
            call: call::node(Method::Post, node, &[kind.as_str()], asked),
            ends: task(&[word], vmid, 3600),
            before: vec![Fact::Gone { guest: key.clone() }, Fact::NodeOnline { node: node.to_owned() }],
            after: Self::newborn_facts(&key, &seen),
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        };
        self.bear(&key, seen, operation, step);
        self.send_off(&key, new)
    }

    /// The node a new guest goes to: the one that is named, else the one with most free memory.
    fn node_for(&mut self, new: &NewGuest, needs: Option<&str>) -> Result<String, Refusal> {
        let sight = self.world.sight();
        if let Some(node) = &new.node {
            if sight.nodes.contains_key(node) {
                return Ok(node.clone());
            }
            let names: Vec<&str> = sight.nodes.keys().map(String::as_str).collect();
            let message = format!("cluster {} has no node {node}", self.cluster);
            return Err(Refusal::new(RefusalCode::Unknown, message, "Use one of its nodes.")
                .with("candidates", names));
        }
        let has = |node: &str, storage: &str| {
            sight.storages.get(&(node.to_owned(), storage.to_owned())).is_some_and(|storage| storage.active)
        };
        let fits = |node: &&String| {
            needs.is_none_or(|storage| has(node, storage))
                && new.storage.as_deref().is_none_or(|storage| has(node, storage))
        };
        let online = sight.nodes.iter().filter(|(name, node)| node.online && fits(name));
        // Of equals the first by name.
        let best = online.max_by(|one, other| {
            one.1.memory_free_bytes.cmp(&other.1.memory_free_bytes).then_with(|| other.0.cmp(one.0))
        });
        match best {
            Some((name, _)) => {
                let name = name.clone();
                self.effect(format!("{} goes to node {name}, which has most free memory.", new.name));
                Ok(name)
            }
            None if needs.is_some() || new.storage.is_some() => {
                let names: BTreeSet<&str> = sight.storages.keys().map(|(_, name)| name.as_str()).collect();
                let message =
                    format!("no node of cluster {} that answers has the storages it needs", self.cluster);
                Err(Refusal::new(RefusalCode::Unknown, message, "Name storages the nodes have.")
                    .with("candidates", names.into_iter().collect::<Vec<_>>()))
            }
            None => Err(Refusal::new(
                RefusalCode::NodeOffline,
                format!("no node of cluster {} answers", self.cluster),
                "Bring a node back, then plan again.",
            )),
        }
    }

    /// The storage of a new guest's disks: the one that is named, else the one with most free room.
    fn storage_for(&mut self, new: &NewGuest, node: &str, content: &str) -> Result<String, Refusal> {
        let storages = self.world.sight().storages.iter().filter(|((place, _), _)| place == node);
        let takes: Vec<_> =
            storages.filter(|(_, storage)| storage.active && storage.content.contains(content)).collect();
        let names: Vec<&str> = takes.iter().map(|((_, name), _)| name.as_str()).collect();
        let chosen = match &new.storage {
            Some(wanted) => names.iter().find(|name| *name == wanted).map(|name| (*name).to_owned()),
            None => {
                let best = takes.iter().max_by(|one, other| {
                    one.1.free_bytes.cmp(&other.1.free_bytes).then_with(|| other.0.1.cmp(&one.0.1))
                });
                best.map(|((_, name), _)| name.clone())
            }
        };
        match chosen {
            Some(name) => {
                self.reads(&Key::storage(self.cluster, node, &name));
                if new.storage.is_none() {
                    self.effect(format!(
                        "The disk of {} goes to storage {name}, which has most free room.",
                        new.name
                    ));
                }
                Ok(name)
            }
            None => {
                let wanted = new.storage.as_deref().map(|name| format!("{name} ")).unwrap_or_default();
                let message = format!("node {node} has no storage {wanted}that takes disks of such a guest");
                let hint = "Use one of those it has, or another node.";
                Err(Refusal::new(RefusalCode::Unknown, message, hint).with("candidates", names))
            }
        }
    }
}

/// A container's first card.
pub(super) fn card(new: &NewGuest, address: &str) -> String {
    format!("name=eth0,bridge={},{address},type=veth", new.bridge.as_deref().unwrap_or(BRIDGE))
}
