//! A guest's configuration: typed reading over the raw map. It never invents a default: what the configuration
//! does not say is `None`, and the doc comment tells what Proxmox assumes then.

use crate::{
    fields::{as_flag, as_number, as_text, as_whole, split_words},
    guest::GuestKind,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The configuration of one guest, as it is now (not what is pending).
#[derive(Clone, Debug, PartialEq)]
pub struct GuestConfig {
    kind: GuestKind,
    map: Map<String, Value>,
}

/// A network card as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkCard {
    /// Model of a virtual machine's card (`virtio`, `e1000`, …).
    pub model: Option<String>,
    /// Name inside a container (`eth0`).
    pub name: Option<String>,
    /// Bridge it is plugged into.
    pub bridge: Option<String>,
    /// Hardware address, lower case.
    pub mac: Option<String>,
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// A container's `ip=` (`dhcp`, `192.0.2.4/24`): what is configured, not what was seen.
    pub ip: Option<String>,
    /// A container's `ip6=`.
    pub ip6: Option<String>,
    /// Whether the card is unplugged.
    pub link_down: bool,
}

/// The guest agent as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentSetting {
    /// Switched on.
    On,
    /// Not configured, or switched off.
    Off,
}

/// A disk or mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The volume id (`local-lvm:vm-100-disk-0`) or host path (`/srv/media`), without options.
    pub source: String,
    /// Size as configured, bytes; absent where the configuration does not say.
    pub size_bytes: Option<u64>,
    /// A container's mount point (`mp=`).
    pub mount_point: Option<String>,
}

impl GuestConfig {
    /// Wraps a configuration as Proxmox answers it; `None` when it is no object.
    pub fn of(kind: GuestKind, data: Value) -> Option<Self> {
        match data {
            Value::Object(map) => Some(Self { kind, map }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// Virtual machine or container.
    pub fn kind(&self) -> GuestKind {
        self.kind
    }

    /// Everything, as answered.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.map
    }

    /// A value as text, whatever its JSON type.
    pub fn text(&self, key: &str) -> Option<String> {
        self.map.get(key).and_then(as_text)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.map.get(key).and_then(as_flag)
    }

    fn small(&self, key: &str) -> Option<u32> {
        self.map.get(key).and_then(as_whole).and_then(|number| u32::try_from(number).ok())
    }

    /// Its name: `name` of a virtual machine, `hostname` of a container.
    pub fn name(&self) -> Option<String> {
        match self.kind {
            GuestKind::Qemu => self.text("name"),
            GuestKind::Lxc => self.text("hostname"),
        }
    }

    /// Proxmox's protection flag; absent means off.
    pub fn protection(&self) -> bool {
        self.flag("protection").unwrap_or(false)
    }

    /// Start at boot; absent means off.
    pub fn onboot(&self) -> bool {
        self.flag("onboot").unwrap_or(false)
    }

    /// Whether it is a template; absent means not.
    pub fn template(&self) -> bool {
        self.flag("template").unwrap_or(false)
    }

    /// Its tags.
    pub fn tags(&self) -> BTreeSet<String> {
        self.text("tags").map(|tags| split_words(&tags)).unwrap_or_default()
    }

    /// Cores per socket (virtual machine, absent means 1) or cores (container, absent means all of the node).
    pub fn cores(&self) -> Option<u32> {
        self.small("cores")
    }

    /// Sockets of a virtual machine; absent means 1.
    pub fn sockets(&self) -> Option<u32> {
        self.small("sockets")
    }

    /// Virtual processors: cores times sockets, or what `vcpus` limits them to. `None` for a container without
    /// a limit.
    pub fn cpus(&self) -> Option<u32> {
        match self.kind {
            GuestKind::Lxc => self.cores(),
            GuestKind::Qemu => {
                let all = self.cores().unwrap_or(1).saturating_mul(self.sockets().unwrap_or(1));
                Some(self.small("vcpus").map_or(all, |plugged| plugged.min(all)))
            }
        }
    }

    /// Limit of processor time, processors; absent or 0 means none.
    pub fn cpulimit(&self) -> Option<f64> {
        self.map.get("cpulimit").and_then(as_number).filter(|limit| *limit > 0.0)
    }

    /// Memory, bytes. Absent means 512 MiB. Since Proxmox VE 8 the value may be a property string
    /// (`current=2048`).
    pub fn memory_bytes(&self) -> Option<u64> {
        let text = self.text("memory")?;
        let mib = match text.parse::<f64>() {
            Ok(_) => as_whole(&Value::String(text))?,
            Err(_) => Properties::of(&text).default_or("current")?.parse().ok()?,
        };
        mib.checked_mul(1024 * 1024)
    }

    /// The guest agent's setting (`1`, `0`, `enabled=1,fstrim_cloned_disks=1`); absent means off.
    pub fn agent(&self) -> AgentSetting {
        let text = self.text("agent").unwrap_or_default();
        let on = Properties::of(&text).default_or("enabled").and_then(|word| as_flag(&Value::String(word)));
        if on.unwrap_or(false) { AgentSetting::On } else { AgentSetting::Off }
    }

    /// Network cards by key (`net0`).
    pub fn network_cards(&self) -> BTreeMap<String, NetworkCard> {
        let cards = self.numbered(&["net"]);
        cards.map(|(key, text)| (key, network_card(self.kind, &text))).collect()
    }

    /// Disks and mount points by key (`scsi0`, `efidisk0`, `rootfs`, `mp0`, `unused0`). CD-ROM drives, cloud-init
    /// drives and empty ones are not among them.
    pub fn volumes(&self) -> BTreeMap<String, Volume> {
        let families: &[&str] = match self.kind {
            GuestKind::Qemu => &["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused"],
            GuestKind::Lxc => &["mp", "unused"],
        };
        let root = self.text("rootfs").filter(|_| self.kind == GuestKind::Lxc);
        let root = root.map(|text| ("rootfs".to_owned(), text));
        self.numbered(families).chain(root).filter_map(|(key, text)| Some((key, volume(&text)?))).collect()
    }

    /// SMBIOS uuid of a virtual machine, lower case: it stays with the guest.
    pub fn smbios_uuid(&self) -> Option<String> {
        Properties::of(&self.text("smbios1")?).get("uuid").map(|uuid| uuid.to_ascii_lowercase())
    }

    /// Generation id of a virtual machine, lower case. It changes on rollback.
    pub fn vmgenid(&self) -> Option<String> {
        self.text("vmgenid").map(|id| id.to_ascii_lowercase())
    }

    /// When the guest was created, seconds since 1970 UTC (`meta: ctime=…`; virtual machines since 7.1).
    pub fn created(&self) -> Option<u64> {
        Properties::of(&self.text("meta")?).get("ctime")?.parse().ok()
    }

    /// Operating system type (`l26`, `win11`, `debian`, …).
    pub fn ostype(&self) -> Option<String> {
        self.text("ostype")
    }

    /// SHA-1 of the configuration file, for optimistic locking.
    pub fn digest(&self) -> Option<String> {
        self.text("digest")
    }

    /// Notes. Text from the lab: data, never instructions.
    pub fn description(&self) -> Option<String> {
        self.text("description")
    }

    /// Lock held on it.
    pub fn lock(&self) -> Option<String> {
        self.text("lock")
    }

    /// Name of the newest snapshot the guest stands on.
    pub fn parent(&self) -> Option<String> {
        self.text("parent")
    }

    /// The keys `<family><number>` with their texts.
    fn numbered(&self, families: &'static [&'static str]) -> impl Iterator<Item = (String, String)> {
        self.map.iter().filter_map(move |(key, value)| {
            let digits = families.iter().find_map(|family| key.strip_prefix(family))?;
            let is_number =
                !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| as_text(value).map(|text| (key.clone(), text))).flatten()
        })
    }
}

/// A property string: `first,key=value,…`, where the first part may have no key.
#[derive(Debug)]
struct Properties<'a> {
    default: Option<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Properties<'a> {
    fn of(text: &'a str) -> Self {
        let mut read = Self { default: None, named: BTreeMap::new() };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => {
                    read.named.insert(key, value);
                }
                None if read.default.is_none() => read.default = Some(part),
                None => {}
            }
        }
        read
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.named.get(key).copied().filter(|value| !value.is_empty())
    }

    fn default_or(&self, key: &str) -> Option<String> {
        self.default.or_else(|| self.get(key)).map(str::to_owned)
    }
}

fn network_card(kind: GuestKind, text: &str) -> NetworkCard {
    let properties = Properties::of(text);
    let owned = |key: &str| properties.get(key).map(str::to_owned);
    // A virtual machine's card is `virtio=BC:24:…,bridge=vmbr0` or `model=virtio,macaddr=…`: the model is a key.
    let by_model = match kind {
        GuestKind::Lxc => None,
        GuestKind::Qemu => properties.named.iter().find(|(_, value)| is_mac(value)),
    };
    let mac =
        owned("hwaddr").or_else(|| owned("macaddr")).or_else(|| by_model.map(|(_, mac)| (*mac).to_owned()));
    let model = match kind {
        GuestKind::Lxc => None,
        GuestKind::Qemu => owned("model")
            .or_else(|| by_model.filter(|(key, _)| **key != "macaddr").map(|(key, _)| (*key).to_owned()))
            .or_else(|| properties.default.map(str::to_owned)),
    };
    NetworkCard {
        model,
        name: owned("name"),
        bridge: owned("bridge"),
        mac: mac.map(|mac| mac.to_ascii_lowercase()),
        vlan: properties.get("tag").and_then(|tag| tag.parse().ok()),
        ip: owned("ip"),
        ip6: owned("ip6"),
        link_down: properties.get("link_down") == Some("1"),
    }
}

fn is_mac(text: &str) -> bool {
    let mut parts = text.split(':');
    text.len() == 17 && parts.all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn volume(text: &str) -> Option<Volume> {
    let properties = Properties::of(text);
    let source = properties.default_or("file").or_else(|| properties.default_or("volume"))?;
    let is_drive =
        properties.get("media") == Some("cdrom") || source == "none" || source.contains("cloudinit");
    if is_drive {
        return None;
    }
    let mount_point = properties.get("mp").map(str::to_owned);
    Some(Volume { source, size_bytes: properties.get("size").and_then(size_bytes), mount_point })
}

/// `32G`, `528K`, `4M`, `1T` or plain bytes.
fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().next_back()? {
        (_, digit) if digit.is_ascii_digit() => (text, 1),
        (at, 'K' | 'k') => (&text[..at], 1 << 10),
        (at, 'M' | 'm') => (&text[..at], 1 << 20),
        (at, 'G' | 'g') => (&text[..at], 1 << 30),
        (at, 'T' | 't') => (&text[..at], 1_u64 << 40),
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => as_whole(&Value::from(number.parse::<f64>().ok()? * unit as f64)),
    }
}

#[cfg(test)]
mod tests;
