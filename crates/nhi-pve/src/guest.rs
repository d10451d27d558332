//! Guests as Proxmox's lists tell them, their interfaces and snapshots. Their configuration is in
//! [`crate::config`].

use crate::{
    fields::{Fields, as_text, as_whole},
    rows::Row,
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Virtual machine or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl GuestKind {
    /// Proxmox's word in paths and rows: `qemu` or `lxc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }

    /// From Proxmox's word. `openvz` is what containers were called before Proxmox VE 4.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "qemu" => Some(Self::Qemu),
            "lxc" | "openvz" => Some(Self::Lxc),
            _ => None,
        }
    }
}

/// The `status` (or `qmpstatus`) word of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestStatus {
    /// `running`. In a node's list a paused machine is this too; see [`NodeGuest::qmpstatus`].
    Running,
    /// `stopped`.
    Stopped,
    /// `paused`: the processors stand still.
    Paused,
    /// `unknown`, or none: Proxmox's statistics know nothing. Never a statement about the guest.
    Unknown,
    /// Another word of QEMU's (`prelaunch`, `inmigrate`, `internal-error`, …).
    Other(String),
}

impl GuestStatus {
    fn parse(text: Option<String>) -> Self {
        match text.as_deref() {
            Some("running") => Self::Running,
            Some("stopped") => Self::Stopped,
            Some("paused") => Self::Paused,
            Some("unknown") | None => Self::Unknown,
            Some(other) => Self::Other(other.to_owned()),
        }
    }
}

/// Gauges of a guest. Absent where the row does not tell them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestUsage {
    /// Processor load, 0..1 of all its processors.
    pub cpu: Option<f64>,
    /// Processors it has (`maxcpu` or `cpus`); containers may have fractions.
    pub maxcpu: Option<f64>,
    /// Memory used, bytes.
    pub mem: Option<u64>,
    /// Memory it may use, bytes.
    pub maxmem: Option<u64>,
    /// Memory the node spends on it, bytes (Proxmox VE 9, virtual machines).
    pub memhost: Option<u64>,
    /// Swap used, bytes (containers).
    pub swap: Option<u64>,
    /// Swap it may use, bytes (containers).
    pub maxswap: Option<u64>,
    /// Root disk used, bytes; always 0 for virtual machines.
    pub disk: Option<u64>,
    /// Size of the root disk, bytes.
    pub maxdisk: Option<u64>,
    /// Bytes read from block devices since start.
    pub diskread: Option<u64>,
    /// Bytes written to block devices since start.
    pub diskwrite: Option<u64>,
    /// Bytes received since start.
    pub netin: Option<u64>,
    /// Bytes sent since start.
    pub netout: Option<u64>,
    /// Seconds since start.
    pub uptime: Option<u64>,
    /// Process id on the node.
    pub pid: Option<u64>,
    /// Pressure stall averages of ten seconds, percent, by Proxmox's flat names (`pressurecpusome`, …).
    pub pressure: BTreeMap<String, f64>,
}

impl GuestUsage {
    fn read(fields: &mut Fields) -> Self {
        let mut pressure: BTreeMap<String, f64> =
            fields.numbers_with_prefix("pressure").into_iter().collect();
        // The seed of Neural-Home v3 shows the nested form too: pressure{cpu,io,memory}{some,full}.
        if let Some(nested) = fields.object("pressure") {
            for (part, figures) in nested.rest() {
                let Some(figures) = Fields::of(figures) else { continue };
                for (figure, number) in figures.rest() {
                    if let Some(number) = crate::fields::as_number(&number) {
                        pressure.insert(format!("pressure{part}{figure}"), number);
                    }
                }
            }
        }
        let maxcpu = fields.number("maxcpu");
        let cpus = fields.number("cpus");
        Self {
            cpu: fields.number("cpu"),
            maxcpu: maxcpu.or(cpus),
            mem: fields.whole("mem"),
            maxmem: fields.whole("maxmem"),
            memhost: fields.whole("memhost"),
            swap: fields.whole("swap"),
            maxswap: fields.whole("maxswap"),
            disk: fields.whole("disk"),
            maxdisk: fields.whole("maxdisk"),
            diskread: fields.whole("diskread"),
            diskwrite: fields.whole("diskwrite"),
            netin: fields.whole("netin"),
            netout: fields.whole("netout"),
            uptime: fields.whole("uptime"),
            pid: fields.whole("pid"),
            pressure,
        }
    }
}

/// A guest in `/cluster/resources`: from statistics that may be 300 s old. `status`, `name`, `template` and the
/// gauges are stale or absent when its node died; `lock`, `tags` and `pool` come from its configuration and are
/// current even then.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestResource {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
    /// The node its configuration lies on.
    pub node: String,
    /// Its name, exactly as answered (any characters, any length).
    pub name: Option<String>,
    /// Its status; may be stale.
    pub status: GuestStatus,
    /// Whether it is a template; absent when unknown.
    pub template: Option<bool>,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Resource pool.
    pub pool: Option<String>,
    /// Lock held on it (`backup`, `migrate`, …).
    pub lock: Option<String>,
    /// HA state, only when HA manages it.
    pub hastate: Option<String>,
    /// Gauges; may be stale.
    pub usage: GuestUsage,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for GuestResource {
    const WHAT: &'static str = "resource-guest";

    fn read(fields: &mut Fields) -> Option<Self> {
        let kind = GuestKind::parse(&fields.text("type")?)?;
        let id = fields.text("id");
        let vmid = fields.small("vmid").or_else(|| id?.rsplit_once('/')?.1.parse().ok())?;
        Some(Self {
            kind,
            vmid,
            node: fields.text("node")?,
            name: fields.text("name"),
            status: GuestStatus::parse(fields.text("status")),
            template: fields.flag("template"),
            tags: fields.words("tags"),
            pool: fields.text("pool"),
            lock: fields.text("lock"),
            hastate: fields.text("hastate"),
            usage: GuestUsage::read(fields),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A guest in its node's own list: live, the truth about `status`, `lock`, `template` and `tags`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGuest {
    /// Virtual machine or container, from the list that was asked.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
    /// Its name, exactly as answered (any characters, any length).
    pub name: Option<String>,
    /// Running or stopped; a paused machine is running here.
    pub status: GuestStatus,
    /// What QEMU says (`running`, `paused`, `prelaunch`, …), only in the full list.
    pub qmpstatus: Option<GuestStatus>,
    /// Whether it is a template.
    pub template: bool,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Lock held on it.
    pub lock: Option<String>,
    /// Gauges.
    pub usage: GuestUsage,
    /// Running machine type (virtual machines, running).
    pub running_machine: Option<String>,
    /// Running QEMU version (virtual machines, running).
    pub running_qemu: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl NodeGuest {
    pub(crate) fn read(kind: GuestKind, fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("type"), fields.take("serial"));
        Some(Self {
            kind,
            vmid: fields.small("vmid")?,
            name: fields.text("name"),
            status: GuestStatus::parse(fields.text("status")),
            qmpstatus: fields.text("qmpstatus").map(|word| GuestStatus::parse(Some(word))),
            template: fields.flag("template").unwrap_or(false),
            tags: fields.words("tags"),
            lock: fields.text("lock"),
            usage: GuestUsage::read(fields),
            running_machine: fields.text("running-machine"),
            running_qemu: fields.text("running-qemu"),
            rest: Map::new(),
        })
    }
}

/// A row of `/nodes/{node}/qemu`.
#[derive(Debug)]
pub(crate) struct QemuRow(pub(crate) NodeGuest);

/// A row of `/nodes/{node}/lxc`.
#[derive(Debug)]
pub(crate) struct LxcRow(pub(crate) NodeGuest);

impl Row for QemuRow {
    const WHAT: &'static str = "qemu";

    fn read(fields: &mut Fields) -> Option<Self> {
        NodeGuest::read(GuestKind::Qemu, fields).map(Self)
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.0.rest = rest;
    }
}

impl Row for LxcRow {
    const WHAT: &'static str = "lxc";

    fn read(fields: &mut Fields) -> Option<Self> {
        NodeGuest::read(GuestKind::Lxc, fields).map(Self)
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.0.rest = rest;
    }
}

/// An interface inside a guest, as its agent or its container tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Name inside the guest (`lo` among them).
    pub name: String,
    /// Hardware address, lower case.
    pub mac: Option<String>,
    /// Addresses, link-local and loopback ones among them.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The address, without a zone.
    pub address: IpAddr,
    /// Prefix length, bits.
    pub prefix: Option<u8>,
}

impl InterfaceAddress {
    fn parse(text: &str, prefix: Option<u8>) -> Option<Self> {
        let (address, behind) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().ok()),
            None => (text, None),
        };
        // Windows' agent writes the zone into the address: fe80::1%12.
        let address: IpAddr = address.split('%').next()?.trim().parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        Some(Self { address, prefix: prefix.or(behind).filter(|prefix| *prefix <= most) })
    }

    fn read(value: Value) -> Option<Self> {
        let mut fields = Fields::of(value)?;
        let prefix = fields.take("prefix").and_then(|value| as_whole(&value));
        Self::parse(&fields.text("ip-address")?, prefix.and_then(|prefix| u8::try_from(prefix).ok()))
    }
}

impl Row for Interface {
    const WHAT: &'static str = "interface";

    fn read(fields: &mut Fields) -> Option<Self> {
        let name = fields.text("name")?;
        let hardware = fields.text("hardware-address");
        let older = fields.text("hwaddr");
        let mut addresses: BTreeSet<InterfaceAddress> = fields
            .list("ip-addresses")
            .unwrap_or_default()
            .into_iter()
            .filter_map(InterfaceAddress::read)
            .collect();
        // Containers before Proxmox VE 9 have only these two, and 10 drops them.
        for key in ["inet", "inet6"] {
            let text = fields.take(key).and_then(|value| as_text(&value));
            if let Some(found) = text.and_then(|text| InterfaceAddress::parse(&text, None))
                && !addresses.iter().any(|known| known.address == found.address)
            {
                addresses.insert(found);
            }
        }
        // Traffic counters of the agent, not facts.
        let _ = fields.take("statistics");
        let mac = hardware.or(older).map(|mac| mac.to_ascii_lowercase());
        Some(Self { name, mac, addresses, rest: Map::new() })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A snapshot. The pseudo entry `current` is not among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Name of the snapshot before it.
    pub parent: Option<String>,
    /// When it was made, seconds since 1970 UTC.
    pub snaptime: Option<u64>,
    /// Whether it includes memory.
    pub vmstate: bool,
    /// Its description.
    pub description: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for Snapshot {
    const WHAT: &'static str = "snapshot";

    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            name: fields.text("name")?,
            parent: fields.text("parent"),
            snaptime: fields.whole("snaptime"),
            vmstate: fields.flag("vmstate").unwrap_or(false),
            description: fields.text("description"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests;
