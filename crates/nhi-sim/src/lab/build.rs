//! Builds a lab from a seed: fills in what PVE would have written, allocates volumes, makes users.

use super::{
    HaResource, Lab, Node, PveVersion,
    access::{Access, Principal, Secret, User, built_in_roles},
    fault::Faults,
    guest::{
        Config, Guest, Interface, Kind, Power, disks_of, format_size, is_disk_key, size_of_disk, volid_of,
    },
    service_id,
    stats::Statistics,
    storage::Volume,
};
use crate::seed::{Seed, SeedGuest};
use serde_json::Value;
use std::collections::BTreeMap;

/// A token's full name and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret {
    /// `user@realm!token`.
    pub id: String,
    /// The UUID.
    pub secret: String,
}

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TokenSecret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The secrets of the identities every lab has.
#[derive(Clone, Debug)]
pub struct Identities {
    /// A token that may read everything but backups: `PVEAuditor` on `/`.
    pub scan: TokenSecret,
    /// A token that may act: power, snapshots, backups everywhere, building.
    pub act: TokenSecret,
    /// `root@pam` and its password.
    pub admin: (String, Secret),
}

const ROLE_POWER: &str = "VM.Audit VM.PowerMgmt VM.Snapshot VM.Backup";
const ROLE_BUILD: &str = "VM.Allocate VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk \
    VM.Config.HWType VM.Config.Memory VM.Config.Network VM.Config.Options VM.Migrate Datastore.AllocateSpace \
    Datastore.Audit SDN.Use Pool.Audit Sys.Audit";

impl Lab {
    /// Builds a lab. The same seed, number and time give the same lab.
    pub fn new(seed: &Seed, version: PveVersion, identities: &Identities, number: u64, now_ms: i64) -> Self {
        let mut lab = Self {
            version,
            cluster: seed.cluster.clone(),
            nodes: BTreeMap::new(),
            guests: BTreeMap::new(),
            storages: seed.storages.iter().map(|storage| (storage.id.clone(), storage.clone())).collect(),
            volumes: BTreeMap::new(),
            pools: seed.pools.clone(),
            pool_of_guest: BTreeMap::new(),
            pool_of_storage: BTreeMap::new(),
            ha: BTreeMap::new(),
            ha_rules: BTreeMap::new(),
            backup_jobs: seed.backup_jobs.clone(),
            replication_jobs: seed.replication_jobs.clone(),
            options: seed.options.clone(),
            access: access(version, identities),
            faults: Faults::default(),
            tasks: BTreeMap::new(),
            task_order: Vec::new(),
            statistics: Statistics::new(now_ms),
            task_ms: 1000,
            hides_login_cause: false,
            sessions: BTreeMap::new(),
            now_ms,
            events: BTreeMap::new(),
            lock_files: BTreeMap::new(),
            next_event: 0,
            random: number,
            last_pid: 1800,
        };
        for (place, node) in seed.nodes.iter().enumerate() {
            let node = Node {
                name: node.name.clone(),
                number: u32::try_from(place + 1).unwrap_or(u32::MAX),
                address: node.address.clone(),
                cpus: node.cpus,
                memory_bytes: u64::from(node.memory_gib) << 30,
                disk_bytes: u64::from(node.disk_gib) << 30,
                booted_ms: now_ms - i64::from(node.uptime_s) * 1000,
                processor: node.processor.clone(),
                fingerprint: String::new(),
                certificate_pem: String::new(),
                certificate_valid_s: (now_ms / 1000 - 86_400, now_ms / 1000 + 700 * 86_400),
            };
            lab.nodes.insert(node.name.clone(), node);
        }
        for file in &seed.files {
            lab.add_file(&file.volid, file.node.as_deref(), file.size_bytes);
        }
        // Templates first, so that linked clones find their base.
        for only_templates in [true, false] {
            for guest in &seed.guests {
                if guest.config.get("template").is_some_and(|value| plain(value) == "1") == only_templates {
                    lab.add_guest(guest);
                }
            }
        }
        lab.tell_statistics_now();
        lab
    }

    fn add_file(&mut self, volid: &str, node: Option<&str>, size_bytes: u64) {
        let name = volid.split_once(':').map_or(volid, |(_, name)| name);
        let content = name.split('/').next().unwrap_or("iso").to_owned();
        let format = match content.as_str() {
            "vztmpl" => "tzst",
            "snippets" => "snippet",
            _ => "iso",
        };
        let volume = Volume {
            volid: volid.to_owned(),
            node: node.map(str::to_owned),
            content,
            format: format.to_owned(),
            size_bytes,
            vmid: None,
            made_s: self.now_s() - 86_400 * 60,
            notes: String::new(),
            protected: false,
            parent: None,
            saved_config: None,
        };
        self.volumes.insert((node.unwrap_or_default().to_owned(), volid.to_owned()), volume);
    }

    pub(super) fn add_guest(&mut self, seed: &SeedGuest) {
        let made_s = self.now_s() - i64::from(seed.age_s);
        let mut config: Config = seed
            .config
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect();
        if !seed.verbatim {
            config.entry(seed.kind.name_key().to_owned()).or_insert_with(|| seed.name.clone());
            self.fill_in(seed.kind, &mut config, made_s);
        }
        let base = seed.linked_to.and_then(|base| self.guests.get(&base)).cloned();
        let (mut config, mut volumes) = self.allocate(seed.vmid, seed.kind, &seed.node, &config, made_s);
        if let Some(base) = base {
            self.link(&mut volumes, &mut config, &base);
        }
        for volume in volumes {
            let key = self.volume_key(&seed.node, &volume.volid);
            self.volumes.insert(key, volume);
        }
        let up_ms = self.now_ms - i64::from(seed.uptime_s) * 1000;
        let power = match (seed.running, seed.paused) {
            (false, _) => Power::Stopped,
            (true, false) => Power::Running { since_ms: up_ms, pid: self.next_pid() },
            (true, true) => Power::Paused { since_ms: up_ms, pid: self.next_pid() },
        };
        let mut guest = Guest {
            vmid: seed.vmid,
            kind: seed.kind,
            node: seed.node.clone(),
            interfaces: interfaces(&config, seed),
            config,
            pending: seed.pending.iter().map(|(key, value)| (key.clone(), line(value))).collect(),
            snapshots: BTreeMap::new(),
            power,
            agent: seed.agent,
            ignores_shutdown: false,
            shown_digest: None,
        };
        self.add_snapshots(&mut guest, seed);
        self.adopt_volumes(&guest, made_s);
        show_digest(&mut guest, seed);
        self.add_backups(&guest, seed);
        if let Some(pool) = &seed.pool {
            self.pools.entry(pool.clone()).or_default();
            self.pool_of_guest.insert(seed.vmid, pool.clone());
        }
        if let Some(wanted) = &seed.ha {
            let sid = service_id(seed.kind, seed.vmid);
            let is_request = matches!(wanted.as_str(), "started" | "stopped" | "disabled" | "ignored");
            let state = match (is_request, seed.running) {
                (true, true) => "started",
                (true, false) => "stopped",
                // The manager's own word (`error`, `migrate`) for a guest that is to run.
                (false, _) => wanted,
            };
            let resource = HaResource {
                sid: sid.clone(),
                wanted: if is_request { wanted } else { "started" }.to_owned(),
                state: state.to_owned(),
                fields: BTreeMap::new(),
            };
            self.ha.insert(sid, resource);
        }
        self.guests.insert(seed.vmid, guest);
    }

    fn add_backups(&mut self, guest: &Guest, seed: &SeedGuest) {
        for backup in &seed.backups {
            if self.storages.contains_key(&backup.storage) {
                let at_s = self.now_s() - i64::from(backup.age_s);
                let mut volume = self.backup_volume(guest, &backup.storage, "zstd", at_s);
                volume.protected = backup.protected;
                volume.notes = guest.name();
                let key = self.volume_key(&guest.node, &volume.volid);
                self.volumes.insert(key, volume);
            }
        }
    }

    /// The archive of a guest on a storage.
    pub(crate) fn backup_volume(&self, guest: &Guest, storage: &str, compress: &str, at_s: i64) -> Volume {
        let stamp = jiff::Timestamp::from_second(at_s).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let is_server = self.storages.get(storage).is_some_and(|storage| storage.kind == "pbs");
        let (name, format) = if is_server {
            let group = match guest.kind {
                Kind::Qemu => "vm",
                Kind::Lxc => "ct",
            };
            (
                format!("backup/{group}/{}/{}", guest.vmid, stamp.strftime("%Y-%m-%dT%H:%M:%SZ")),
                format!("pbs-{group}"),
            )
        } else {
            let archive = match guest.kind {
                Kind::Qemu => "vma",
                Kind::Lxc => "tar",
            };
            let ending = match compress {
                "zstd" | "1" => ".zst",
                "gzip" => ".gz",
                "lzo" => ".lzo",
                _ => "",
            };
            let time = stamp.strftime("%Y_%m_%d-%H_%M_%S");
            let name = format!("backup/vzdump-{}-{}-{time}.{archive}{ending}", guest.kind.word(), guest.vmid);
            (name, format!("{archive}{ending}"))
        };
        let shared = self.storages.get(storage).is_some_and(|storage| storage.shared);
        Volume {
            volid: format!("{storage}:{name}"),
            node: (!shared).then(|| guest.node.clone()),
            content: "backup".to_owned(),
            format,
            size_bytes: guest.disk_bytes() / 5 * 2 + 1_048_576,
            vmid: Some(guest.vmid),
            made_s: at_s,
            notes: String::new(),
            protected: false,
            parent: None,
            saved_config: Some(guest.config.clone()),
        }
    }

    /// Adds the lines PVE always writes.
    pub(crate) fn fill_in(&mut self, kind: Kind, config: &mut Config, made_s: i64) {
        let mut default = |key: &str, value: String| {
            config.entry(key.to_owned()).or_insert(value);
        };
        let mac = self.next_mac();
        match kind {
            Kind::Qemu => {
                default("memory", "512".to_owned());
                default("cores", "1".to_owned());
                default("ostype", "l26".to_owned());
                default("scsihw", "virtio-scsi-single".to_owned());
                default("net0", format!("virtio={mac},bridge=vmbr0,firewall=1"));
                default("smbios1", format!("uuid={}", self.next_uuid()));
                default("vmgenid", self.next_uuid());
                let creator = match self.version {
                    PveVersion::V8_2 => "9.0.2",
                    PveVersion::V9_1 => "10.1.2",
                };
                default("meta", format!("creation-qemu={creator},ctime={made_s}"));
                if let Some((disk, _)) = disks_of(Kind::Qemu, config).first() {
                    config.entry("boot".to_owned()).or_insert(format!("order={disk}"));
                }
            }
            Kind::Lxc => {
                default("arch", "amd64".to_owned());
                default("memory", "512".to_owned());
                default("swap", "512".to_owned());
                default("ostype", "debian".to_owned());
                default("unprivileged", "1".to_owned());
                default("net0", format!("name=eth0,bridge=vmbr0,firewall=1,hwaddr={mac},ip=dhcp,type=veth"));
            }
        }
    }

    /// Gives network lines without a hardware address one.
    pub(crate) fn complete_network(&mut self, kind: Kind, config: &mut Config) {
        for (key, value) in config.iter_mut().filter(|(key, _)| key.starts_with("net")) {
            let number = key.trim_start_matches("net");
            let has_address =
                value.split(['=', ',']).any(|part| part.len() == 17 && part.matches(':').count() == 5);
            if has_address || number.parse::<u8>().is_err() {
                continue;
            }
            let mac = self.next_mac();
            *value = match kind {
                Kind::Qemu => {
                    let (model, rest) = value.split_once(',').unwrap_or((value.as_str(), ""));
                    let model = model.strip_prefix("model=").unwrap_or(model);
                    if rest.is_empty() { format!("{model}={mac}") } else { format!("{model}={mac},{rest}") }
                }
                Kind::Lxc => format!("{value},hwaddr={mac},type=veth"),
            };
        }
    }

    /// Turns `storage:SIZE` (GiB) in disk lines into real volumes.
    pub(crate) fn allocate(
        &self,
        vmid: u32,
        kind: Kind,
        node: &str,
        config: &Config,
        made_s: i64,
    ) -> (Config, Vec<Volume>) {
        let mut result = config.clone();
        let mut volumes: Vec<Volume> = Vec::new();
        for (key, value) in config {
            if !is_disk_key(kind, key) || value.contains("media=cdrom") {
                continue;
            }
            let volid = volid_of(value);
            let Some((storage, size)) = volid.split_once(':') else { continue };
            let (Some(storage), Ok(size_gib)) = (self.storages.get(storage), size.parse::<u64>()) else {
                continue;
            };
            let format = storage.format(kind == Kind::Qemu);
            let is_base = config.get("template").is_some_and(|flag| flag == "1");
            let number = self.free_disk_number(vmid, &volumes);
            let name = storage.disk_name(vmid, number, format, is_base);
            let volid = format!("{}:{name}", storage.id);
            let options = value.split_once(',').map(|(_, options)| format!(",{options}")).unwrap_or_default();
            result.insert(key.clone(), format!("{volid}{options},size={}", format_size(size_gib << 30)));
            volumes.push(self.disk_volume(&volid, node, kind, vmid, format, size_gib << 30, made_s));
        }
        (result, volumes)
    }

    /// A disk's volume.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of the record it builds")]
    pub(crate) fn disk_volume(
        &self,
        volid: &str,
        node: &str,
        kind: Kind,
        vmid: u32,
        format: &str,
        size_bytes: u64,
        made_s: i64,
    ) -> Volume {
        let storage = volid.split(':').next().unwrap_or_default();
        let shared = self.storages.get(storage).is_some_and(|storage| storage.shared);
        Volume {
            volid: volid.to_owned(),
            node: (!shared).then(|| node.to_owned()),
            content: if kind == Kind::Lxc { "rootdir" } else { "images" }.to_owned(),
            format: format.to_owned(),
            size_bytes,
            vmid: Some(vmid),
            made_s,
            notes: String::new(),
            protected: false,
            parent: None,
            saved_config: None,
        }
    }

    /// The lowest disk number no volume of the guest has.
    pub(crate) fn free_disk_number(&self, vmid: u32, also: &[Volume]) -> u32 {
        let taken = |number: u32| {
            let stem = format!("-{vmid}-disk-{number}");
            let names = |volume: &Volume| {
                volume.volid.split('/').next_back().is_some_and(|name| {
                    let name = name.split_once(':').map_or(name, |(_, name)| name);
                    name.split('.').next().is_some_and(|name| name.ends_with(&stem))
                })
            };
            self.volumes.values().any(names) || also.iter().any(names)
        };
        (0..u32::MAX).find(|number| !taken(*number)).unwrap_or(0)
    }

    /// Makes freshly allocated disks linked clones of a template's. Only storages that keep the link in the
    /// volume's name can tell it later; on LVM-thin nobody but a graph of one's own knows.
    fn link(&self, volumes: &mut [Volume], config: &mut Config, base: &Guest) {
        let bases = base.disks();
        for (volume, (_, base_value)) in volumes.iter_mut().zip(&bases) {
            let base_volid = volid_of(base_value).to_owned();
            let base_name = base_volid.split_once(':').map_or("", |(_, name)| name);
            let old = volume.volid.clone();
            if self.storages.get(volume.storage()).is_some_and(|storage| storage.kind != "lvmthin") {
                volume.volid = format!("{}:{base_name}/{}", volume.storage(), volume.name());
                volume.parent = Some(base_name.to_owned());
            }
            volume.size_bytes = size_of_disk(base_value).unwrap_or(volume.size_bytes);
            for value in config.values_mut() {
                if volid_of(value) == old {
                    *value = value.replacen(&old, &volume.volid, 1);
                }
            }
        }
    }
}

/// The digest of the guest it was copied from stands for its own, as long as that stays.
fn show_digest(guest: &mut Guest, seed: &SeedGuest) {
    guest.shown_digest = seed.digest.clone().map(|shown| (guest.digest(), shown));
}

/// A line; `None` where there is to be none.
fn line(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| plain(value))
}

/// A seed's scalar as a configuration line.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}

/// Hardware address of the first card, lower case; "" when it has none.
pub(crate) fn first_mac(config: &Config) -> String {
    let of_line = |line: &String| {
        line.split(',').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            let is_mac = value.len() == 17 && value.bytes().filter(|byte| *byte == b':').count() == 5;
            (is_mac && (key == "hwaddr" || key != "name")).then(|| value.to_ascii_lowercase())
        })
    };
    config.get("net0").and_then(of_line).unwrap_or_default()
}

fn interfaces(config: &Config, seed: &SeedGuest) -> Vec<Interface> {
    let mac = first_mac(config);
    let name = match seed.kind {
        Kind::Qemu if seed.config.get("ostype").is_some_and(|value| plain(value).starts_with("win")) => {
            "Ethernet"
        }
        Kind::Qemu => "ens18",
        Kind::Lxc => "eth0",
    };
    let loopback = Interface {
        name: "lo".to_owned(),
        mac: "00:00:00:00:00:00".to_owned(),
        addresses: vec!["127.0.0.1/8".to_owned(), "::1/128".to_owned()],
    };
    vec![loopback, Interface { name: name.to_owned(), mac, addresses: seed.addresses.clone() }]
}

fn access(version: PveVersion, identities: &Identities) -> Access {
    let roles = built_in_roles(version == PveVersion::V9_1);
    let mut access = Access { built_in: roles.keys().cloned().collect(), roles, ..Access::default() };
    let set = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    access.roles.insert("NHPower".to_owned(), set(ROLE_POWER));
    access.roles.insert("NHBuild".to_owned(), set(ROLE_BUILD));
    let user = |password: Option<Secret>, comment: &str| User {
        enabled: true,
        expires_s: 0,
        password,
        tokens: BTreeMap::new(),
        comment: comment.to_owned(),
    };
    access.users.insert(identities.admin.0.clone(), user(Some(identities.admin.1.clone()), ""));
    access.users.entry("root@pam".to_owned()).or_insert_with(|| user(None, ""));
    for (token, roles) in
        [(&identities.scan, &["PVEAuditor"][..]), (&identities.act, &["NHPower", "NHBuild"][..])]
    {
        let Some((name, token_name)) = token.id.split_once('!') else { continue };
        let entry = access.users.entry(name.to_owned()).or_insert_with(|| user(None, "the mesh"));
        let secret = super::access::Token {
            secret: Secret(token.secret.clone()),
            separated: true,
            expires_s: 0,
            comment: String::new(),
        };
        entry.tokens.insert(token_name.to_owned(), secret);
        for role in roles {
            access.grant("/", Principal::User(name.to_owned()), role, true);
            access.grant("/", Principal::Token(token.id.clone()), role, true);
        }
    }
    access
}
