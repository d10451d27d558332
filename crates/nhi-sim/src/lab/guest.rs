//! A guest as its configuration file and its process have it. It does not know the cluster around it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use std::{collections::BTreeMap, fmt::Write as _};

/// Virtual machine or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl Kind {
    /// The word in paths and in `type`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }

    /// What error texts call it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Qemu => "VM",
            Self::Lxc => "CT",
        }
    }

    /// Folder of its configuration files.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-server",
            Self::Lxc => "lxc",
        }
    }

    /// Prefix of its task types.
    pub const fn task_prefix(self) -> &'static str {
        match self {
            Self::Qemu => "qm",
            Self::Lxc => "vz",
        }
    }

    /// Prefix of its service id in the HA manager.
    pub const fn service_prefix(self) -> &'static str {
        match self {
            Self::Qemu => "vm",
            Self::Lxc => "ct",
        }
    }

    /// The key its name stands under.
    pub const fn name_key(self) -> &'static str {
        match self {
            Self::Qemu => "name",
            Self::Lxc => "hostname",
        }
    }
}

/// Whether its process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum Power {
    /// No process.
    Stopped,
    /// A process.
    Running {
        /// When it started, lab time.
        since_ms: i64,
        /// Its process id.
        pid: u32,
    },
    /// A process whose processors stand still.
    Paused {
        /// When it started, lab time.
        since_ms: i64,
        /// Its process id.
        pid: u32,
    },
}

impl Power {
    /// True for everything that has a process: a paused guest is `running` to PVE.
    pub const fn is_up(self) -> bool {
        match self {
            Self::Stopped => false,
            Self::Running { .. } | Self::Paused { .. } => true,
        }
    }

    /// Start and process id of the process.
    pub const fn process(self) -> Option<(i64, u32)> {
        match self {
            Self::Stopped => None,
            Self::Running { since_ms, pid } | Self::Paused { since_ms, pid } => Some((since_ms, pid)),
        }
    }
}

/// What answers on the guest agent's channel. Whether one is *configured* stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// The agent answers.
    Running,
    /// Nothing was installed: PVE says so at once, after its ping fails.
    Missing,
    /// It hangs: every call takes the whole QMP deadline.
    Silent,
}

/// A network card as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name inside the guest.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// Addresses with prefix length (`192.168.1.4/24`).
    pub addresses: Vec<String>,
}

/// Lines of a configuration file.
pub type Config = BTreeMap<String, String>;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// When it was taken, seconds.
    pub taken_s: i64,
    /// The snapshot before it.
    pub parent: Option<String>,
    /// Free text.
    pub description: String,
    /// Whether the memory is in it.
    pub with_memory: bool,
    /// The configuration of that moment.
    pub config: Config,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// What it is.
    pub kind: Kind,
    /// The node that holds its configuration file.
    pub node: String,
    /// Its configuration, `lock` and `parent` included, snapshots apart.
    pub config: Config,
    /// Changes that wait for the next start; `None` removes the line.
    pub pending: BTreeMap<String, Option<String>>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// Its process.
    pub power: Power,
    /// Its guest agent.
    pub agent: Agent,
    /// Its network cards.
    pub interfaces: Vec<Interface>,
    /// It takes no notice of a shutdown request.
    pub ignores_shutdown: bool,
    /// Digest of its own, and the one that is shown in its place: that of the guest it was copied from.
    #[serde(skip)]
    pub shown_digest: Option<(String, String)>,
}

impl Guest {
    /// Its name, as the lists show it: PVE makes one up where the configuration has none.
    pub fn name(&self) -> String {
        self.config.get(self.kind.name_key()).cloned().unwrap_or_else(|| match self.kind {
            Kind::Qemu => format!("VM {}", self.vmid),
            Kind::Lxc => format!("CT{}", self.vmid),
        })
    }

    /// A line of the configuration, empty when absent.
    pub fn line(&self, key: &str) -> &str {
        self.config.get(key).map_or("", String::as_str)
    }

    /// Whether a boolean line is set.
    pub fn flag(&self, key: &str) -> bool {
        self.line(key) == "1"
    }

    /// A number of the configuration.
    pub fn number(&self, key: &str) -> Option<u64> {
        // `memory` may be a property string in PVE 8 and later: `current=2048`.
        let text = self.line(key);
        text.rsplit('=').next().unwrap_or(text).parse().ok()
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.flag("template")
    }

    /// Processors it may use.
    pub fn cpus(&self) -> u64 {
        let cores = self.number("cores").unwrap_or(1).max(1);
        match self.kind {
            Kind::Qemu => cores * self.number("sockets").unwrap_or(1).max(1),
            Kind::Lxc => cores,
        }
    }

    /// Memory, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.number("memory").unwrap_or(512) << 20
    }

    /// Disks in the configuration: key and value, CD drives left out.
    pub fn disks(&self) -> Vec<(String, String)> {
        disks_of(self.kind, &self.config)
    }

    /// Size of its first disk, bytes.
    pub fn disk_bytes(&self) -> u64 {
        let first = match self.kind {
            Kind::Lxc => Some("rootfs".to_owned()),
            Kind::Qemu => self
                .line("boot")
                .strip_prefix("order=")
                .and_then(|order| order.split(';').find(|key| is_disk_key(Kind::Qemu, key)))
                .map(str::to_owned)
                .or_else(|| self.disks().first().map(|(key, _)| key.clone())),
        };
        first.and_then(|key| self.config.get(&key)).and_then(|value| size_of_disk(value)).unwrap_or(0)
    }

    /// Whether an agent is configured (`agent: 1`, `agent: enabled=1,…`).
    pub fn has_agent_configured(&self) -> bool {
        let text = self.line("agent");
        let first = text.split(',').next().unwrap_or_default();
        first == "1" || first == "enabled=1"
    }

    /// The configuration file as text, the way PVE would store it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        write_section(&mut text, &self.config);
        if !self.pending.is_empty() {
            text.push_str("\n[PENDING]\n");
            for (key, value) in &self.pending {
                match value {
                    Some(value) => writeln!(text, "{key}: {value}").expect("writing to a string cannot fail"),
                    None => writeln!(text, "delete: {key}").expect("writing to a string cannot fail"),
                }
            }
        }
        for (name, snapshot) in &self.snapshots {
            write!(text, "\n[{name}]\n").expect("writing to a string cannot fail");
            write_section(&mut text, &snapshot.config);
            writeln!(text, "snaptime: {}", snapshot.taken_s).expect("writing to a string cannot fail");
        }
        text
    }

    /// SHA-1 of the configuration file: what optimistic locking compares.
    pub fn digest(&self) -> String {
        let own = hex(&Sha1::digest(self.text().as_bytes()));
        match &self.shown_digest {
            Some((of, shown)) if *of == own => shown.clone(),
            Some(_) | None => own,
        }
    }

    /// The configuration with waiting changes applied, as it will be after the next start.
    pub fn config_after_restart(&self) -> Config {
        let mut config = self.config.clone();
        for (key, value) in &self.pending {
            match value {
                Some(value) => config.insert(key.clone(), value.clone()),
                None => config.remove(key),
            };
        }
        config
    }

    /// Applies what waited.
    pub fn settle_pending(&mut self) {
        self.config = self.config_after_restart();
        self.pending.clear();
    }
}

fn write_section(text: &mut String, config: &Config) {
    for (key, value) in config {
        writeln!(text, "{key}: {value}").expect("writing to a string cannot fail");
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// Whether a configuration key names a disk of this kind of guest.
pub(crate) fn is_disk_key(kind: Kind, key: &str) -> bool {
    let (stem, digits) = key.split_at(key.find(|c: char| c.is_ascii_digit()).unwrap_or(key.len()));
    match kind {
        Kind::Qemu => {
            matches!(stem, "scsi" | "virtio" | "ide" | "sata" | "efidisk" | "tpmstate") && !digits.is_empty()
        }
        Kind::Lxc => key == "rootfs" || (stem == "mp" && !digits.is_empty()),
    }
}

/// Disks of a configuration: key and value, CD drives and bind mounts left out.
pub(crate) fn disks_of(kind: Kind, config: &Config) -> Vec<(String, String)> {
    config
        .iter()
        .filter(|(key, value)| {
            is_disk_key(kind, key)
                && !value.contains("media=cdrom")
                && !value.starts_with('/')
                && volid_of(value) != "none"
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The volume id at the head of a disk line.
pub(crate) fn volid_of(value: &str) -> &str {
    let head = value.split(',').next().unwrap_or(value);
    head.strip_prefix("file=").or_else(|| head.strip_prefix("volume=")).unwrap_or(head)
}

/// The `size=` of a disk line, bytes.
pub(crate) fn size_of_disk(value: &str) -> Option<u64> {
    value.split(',').find_map(|part| part.strip_prefix("size=")).and_then(parse_size)
}

/// Reads `32G`, `512M`, `1024K`, `1T` or plain bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: f64 = digits.parse().ok()?;
    if !(0.0..1e15).contains(&number) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just above")]
    Some((number * (1_u64 << shift) as f64) as u64)
}

/// Writes a size the way PVE does: the largest unit that divides it.
pub(crate) fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Replaces one option of a disk line (`size=`), or appends it.
pub(crate) fn with_disk_option(value: &str, option: &str, new: &str) -> String {
    let mut parts: Vec<String> = value.split(',').map(str::to_owned).collect();
    let prefix = format!("{option}=");
    match parts.iter_mut().find(|part| part.starts_with(&prefix)) {
        Some(part) => *part = format!("{prefix}{new}"),
        None => parts.push(format!("{prefix}{new}")),
    }
    parts.join(",")
}

/// Configuration lines that PVE sends as JSON numbers; everything else goes out as a string.
const NUMBERS_QEMU: &[&str] = &[
    "acpi",
    "autostart",
    "balloon",
    "ciupgrade",
    "cores",
    "freeze",
    "kvm",
    "localtime",
    "migrate_speed",
    "numa",
    "onboot",
    "protection",
    "reboot",
    "shares",
    "snaptime",
    "sockets",
    "tablet",
    "tdf",
    "template",
    "vcpus",
];
const NUMBERS_LXC: &[&str] = &[
    "console",
    "cores",
    "debug",
    "memory",
    "onboot",
    "protection",
    "snaptime",
    "swap",
    "template",
    "tty",
    "unprivileged",
];

/// A configuration as PVE's JSON: types depend on the key, not on the value.
pub(crate) fn config_json(kind: Kind, config: &Config) -> Map<String, Value> {
    let numbers = match kind {
        Kind::Qemu => NUMBERS_QEMU,
        Kind::Lxc => NUMBERS_LXC,
    };
    config
        .iter()
        .map(|(key, value)| {
            let sent = match value.parse::<i64>() {
                Ok(number) if numbers.contains(&key.as_str()) => json!(number),
                _ => json!(value),
            };
            (key.clone(), sent)
        })
        .collect()
}
