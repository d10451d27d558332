//! A lab that is true, the faults through which it is seen, and the state the observations lead to.

use nhi_decide::{
    change::{Change, What},
    observation::{
        Gone, GuestRef, GuestSight, IndexRow, List, NodeSight, Observation, Part, Rights, Scope, source_key,
    },
    observe::{self, Known},
};
use nhi_model::{
    Timestamp,
    alert::Alert,
    guest::{Address, AddressSource, Backups, Guest, GuestIdentity, GuestKind, GuestStatus},
    key::{Key, Section},
    lab::{Node, NodeStatus, Storage},
    source::{Coverage, Source},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const CLUSTER: &str = "home";

/// What is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Truth {
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) guests: BTreeMap<GuestRef, Guest>,
}

/// What stands between the lab and the scanner in one pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Faults {
    /// Nodes that answer 595.
    pub(crate) offline: BTreeSet<String>,
    /// Lists that fail, by node.
    pub(crate) broken: BTreeSet<(String, List)>,
    /// Everything answers 200 with nothing in it, as without rights.
    pub(crate) blind: bool,
    /// The answer to the question for rights is as well.
    pub(crate) rights_told: bool,
    /// No quorum.
    pub(crate) split: bool,
    /// A proxy answers HTML.
    pub(crate) html: bool,
    /// Only this node answers, as a stand-alone host with its own guests.
    pub(crate) alone: Option<String>,
    /// The index was not read.
    pub(crate) no_index: bool,
    /// Every configuration fails, everything else answers.
    pub(crate) no_configs: bool,
    /// The statistics daemon hangs: every index row is `unknown` and nameless.
    pub(crate) stuck: bool,
}

pub(crate) fn vm(vmid: u32) -> GuestRef {
    GuestRef { kind: GuestKind::Qemu, vmid }
}

pub(crate) fn ct(vmid: u32) -> GuestRef {
    GuestRef { kind: GuestKind::Lxc, vmid }
}

pub(crate) fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).expect("a small number")
}

pub(crate) fn guest(id: GuestRef, node: &str, name: &str) -> Guest {
    let qemu = id.kind == GuestKind::Qemu;
    Guest {
        kind: id.kind,
        cluster: CLUSTER.to_owned(),
        vmid: id.vmid,
        name: name.to_owned(),
        node: node.to_owned(),
        status: GuestStatus::Running,
        template: false,
        tags: vec!["a".to_owned(), "b".to_owned()],
        pool: Some("lab".to_owned()),
        lock: None,
        protection: Some(id.vmid.is_multiple_of(2)),
        onboot: Some(true),
        ha: None,
        cpus: Some(2),
        memory_bytes: Some(2 << 30),
        disk_bytes: Some(8 << 30),
        os: Some("l26".to_owned()),
        nics: BTreeMap::new(),
        volumes: BTreeMap::new(),
        addresses: vec![address(u8::try_from(id.vmid % 250).expect("below 250"))],
        address_source: if qemu { AddressSource::GuestAgent } else { AddressSource::Interfaces },
        snapshots: Some(1),
        backups: Backups::Newest { at: time(-1000), storage: None },
        notes: None,
        config_digest: Some("d1".to_owned()),
        identity: identity(id, "first"),
    }
}

/// An identity that differs by `what`.
pub(crate) fn identity(id: GuestRef, what: &str) -> GuestIdentity {
    match id.kind {
        GuestKind::Qemu => {
            GuestIdentity { uuid: Some(format!("uuid-{}-{what}", id.vmid)), ..GuestIdentity::default() }
        }
        GuestKind::Lxc => {
            GuestIdentity { rootfs: Some(format!("rootfs-{}-{what}", id.vmid)), ..GuestIdentity::default() }
        }
    }
}

pub(crate) fn address(last: u8) -> Address {
    Address { interface: "eth0".to_owned(), address: [192, 0, 2, last].into(), prefix: Some(24), mac: None }
}

/// Two nodes, four guests.
pub(crate) fn truth() -> Truth {
    let guests = [
        guest(vm(100), "pve1", "control"),
        guest(vm(101), "pve2", "media"),
        guest(ct(200), "pve1", "dns"),
        guest(ct(201), "pve2", "nas"),
    ];
    Truth {
        nodes: ["pve1", "pve2"].map(str::to_owned).into(),
        guests: guests.into_iter().map(|g| (GuestRef { kind: g.kind, vmid: g.vmid }, g)).collect(),
    }
}

impl Truth {
    pub(crate) fn guest(&mut self, id: GuestRef) -> &mut Guest {
        self.guests.get_mut(&id).expect("the guest exists")
    }

    /// What an honest scanner sees through the faults.
    pub(crate) fn seen(&self, at: Timestamp, faults: &Faults) -> Observation {
        let html = Coverage::Unseen { reason: HTML.to_owned() };
        if let Some(alone) = &faults.alone {
            let mut rest = self.clone();
            rest.nodes.retain(|node| node == alone);
            rest.guests.retain(|_, guest| guest.node == *alone);
            let seen = rest.seen(at, &Faults { alone: None, split: false, ..faults.clone() });
            return Observation { clustered: seen.clustered.map(|_| false), ..seen };
        }
        let nodes = self.nodes.iter().map(|node| (node.clone(), self.node_seen(node, faults)));
        Observation {
            at,
            cluster: CLUSTER.to_owned(),
            place: "https://pve1.test:8006".to_owned(),
            scope: Scope::Full,
            reach: if faults.html { html } else { Coverage::Complete },
            quorate: (!faults.html).then_some(!faults.split),
            clustered: (!faults.html).then_some(true),
            rights: (!faults.html).then(|| rights(faults.blind && faults.rights_told)),
            certificates: BTreeMap::new(),
            detour: None,
            nodes: if faults.html { BTreeMap::new() } else { nodes.collect() },
            index: (!faults.html && !faults.no_index).then(|| self.index(faults)),
            gone: BTreeSet::new(),
            live: BTreeMap::new(),
        }
    }

    fn node_seen(&self, node: &str, faults: &Faults) -> NodeSight {
        let offline = faults.offline.contains(node);
        let asked = [List::Qemu, List::Lxc, List::Storage];
        let lists: BTreeSet<List> = asked
            .into_iter()
            .filter(|list| !offline && !faults.broken.contains(&(node.to_owned(), *list)))
            .collect();
        let coverage = match (offline, lists.len()) {
            (true, _) => Coverage::Unseen { reason: format!("node {node} does not answer (595)") },
            (false, 3) if faults.no_configs => Coverage::Partial {
                reason: format!("configurations of its guests could not be read: {HTML}"),
            },
            (false, 3) => Coverage::Complete,
            (false, _) => Coverage::Partial { reason: format!("a list of node {node} failed") },
        };
        let of_kind = |kind| if kind == GuestKind::Qemu { List::Qemu } else { List::Lxc };
        let sight_of = if faults.no_configs { without_config } else { whole };
        let on_node = self.guests.values().filter(|g| g.node == node && !faults.blind);
        NodeSight {
            coverage,
            record: Some(node_record(node, offline)),
            guests: on_node.filter(|g| lists.contains(&of_kind(g.kind))).map(sight_of).collect(),
            storages: if lists.contains(&List::Storage) && !faults.blind {
                vec![storage(node)]
            } else {
                vec![]
            },
            lists,
        }
    }

    fn index(&self, faults: &Faults) -> Vec<IndexRow> {
        let rows = self.guests.values().filter(|_| !faults.blind).map(|guest| {
            let known = !faults.stuck && !faults.offline.contains(&guest.node);
            IndexRow {
                kind: guest.kind,
                vmid: guest.vmid,
                node: guest.node.clone(),
                status: if known { guest.status } else { GuestStatus::Unknown },
                name: known.then(|| guest.name.clone()),
                tags: guest.tags.clone(),
                pool: guest.pool.clone(),
                lock: guest.lock.clone(),
            }
        });
        rows.collect()
    }
}

/// A sight of which every part was read.
pub(crate) fn whole(guest: &Guest) -> GuestSight {
    GuestSight { guest: guest.clone(), read: Part::ALL.into(), unread_config: None, tells_pause: true }
}

/// A sight without the configuration, which was asked for and failed.
pub(crate) fn without_config(guest: &Guest) -> GuestSight {
    let mut sight = whole(guest);
    sight.read = [Part::List, Part::Membership].into();
    sight.guest.protection = None;
    sight.guest.identity = GuestIdentity::default();
    sight.unread_config = Some(HTML.to_owned());
    sight
}

/// What a proxy answers instead of Proxmox.
pub(crate) const HTML: &str = "the answer is HTML, not Proxmox";

pub(crate) fn node_record(node: &str, offline: bool) -> Node {
    Node {
        cluster: CLUSTER.to_owned(),
        node: node.to_owned(),
        status: if offline { NodeStatus::Offline } else { NodeStatus::Online },
        address: None,
        cpus: (!offline).then_some(8),
        memory_bytes: (!offline).then_some(32 << 30),
        disk_bytes: None,
        pve_version: (!offline).then(|| "9.1.1".to_owned()),
        kernel: None,
        ssl_fingerprint: None,
        level: if offline { String::new() } else { "c".to_owned() },
    }
}

fn storage(node: &str) -> Storage {
    Storage {
        cluster: CLUSTER.to_owned(),
        node: node.to_owned(),
        storage: "local".to_owned(),
        kind: Some("dir".to_owned()),
        content: vec!["images".to_owned()],
        shared: false,
        active: Some(true),
        enabled: Some(true),
    }
}

pub(crate) fn rights(lost: bool) -> Rights {
    let missing = lost.then(|| ("VM.Audit".to_owned(), "guests stay invisible".to_owned()));
    Rights {
        sees_all_guests: !lost,
        sees_all_storages: !lost,
        missing: missing.into_iter().collect(),
        digest: if lost { "less" } else { "all" }.to_owned(),
    }
}

/// The state the observations led to.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) known: BTreeMap<Key, Known>,
    pub(crate) revision: u64,
}

impl World {
    /// A world that has seen the lab whole.
    pub(crate) fn of(truth: &Truth) -> Self {
        let mut world = Self::default();
        world.see(&truth.seen(time(0), &Faults::default()));
        world
    }

    /// Applies an observation and checks what holds of every list of changes.
    pub(crate) fn see(&mut self, seen: &Observation) -> Vec<Change> {
        let changes = observe::changes(&self.known, seen);
        let keys: BTreeSet<&Key> = changes.iter().map(|change| &change.key).collect();
        assert_eq!(keys.len(), changes.len(), "a key occurs once");
        for change in &changes {
            let before = self.known.get(&change.key);
            assert_eq!(change.expected, before.map_or(0, |known| known.revision), "{}", change.key);
            self.revision += 1;
            match &change.what {
                What::Put { record, stale } => {
                    let after =
                        Known { revision: self.revision, record: record.clone(), stale: stale.clone() };
                    assert!(before.is_none_or(|b| b.record != after.record || b.stale != after.stale));
                    self.known.insert(change.key.clone(), after);
                }
                What::Retire => assert!(self.known.remove(&change.key).is_some()),
            }
        }
        changes
    }

    /// As the scanner does: look, ask for the configuration of what is missing, then decide.
    pub(crate) fn scan(&mut self, truth: &Truth, second: i64, faults: &Faults) -> Vec<Change> {
        let mut seen = truth.seen(time(second), faults);
        for (guest, node) in observe::missing(&self.known, &seen) {
            let there = truth.guests.get(&guest).is_some_and(|g| g.node == node);
            // Without rights the answer is 403, which says nothing.
            if !there && !faults.blind && !faults.offline.contains(&node) {
                seen.gone.insert(Gone { guest, node });
            }
        }
        self.see(&seen)
    }

    pub(crate) fn entry(&self, id: GuestRef) -> Option<&Known> {
        self.known.get(&Key::guest(id.kind, CLUSTER, id.vmid))
    }

    /// A guest without the time it was first seen, which no lab knows of its guests.
    pub(crate) fn guest(&self, id: GuestRef) -> Guest {
        let mut guest = self.record(id);
        guest.identity.first_seen = None;
        guest
    }

    /// When a guest was first seen.
    pub(crate) fn first_seen(&self, id: GuestRef) -> Option<Timestamp> {
        self.record(id).identity.first_seen
    }

    fn record(&self, id: GuestRef) -> Guest {
        serde_json::from_value(self.entry(id).expect("the guest is known").record.clone())
            .expect("the record has its shape")
    }

    /// The reason for which a guest is stale.
    pub(crate) fn why(&self, id: GuestRef) -> Option<String> {
        self.entry(id).expect("the guest is known").stale.as_ref().map(|stale| stale.reason.clone())
    }

    pub(crate) fn source(&self) -> Source {
        serde_json::from_value(self.known[&source_key(CLUSTER)].record.clone())
            .expect("the record has its shape")
    }

    /// The active alerts by id.
    pub(crate) fn alerts(&self) -> BTreeMap<String, Alert> {
        let alerts = self.known.iter().filter(|(key, _)| key.section() == Section::Alert);
        alerts
            .map(|(key, known)| {
                (
                    key.tokens().remove(1),
                    serde_json::from_value(known.record.clone()).expect("the record has its shape"),
                )
            })
            .collect()
    }

    pub(crate) fn alert_ids(&self) -> Vec<String> {
        self.alerts().into_keys().collect()
    }

    /// All records of guests, without the time they were first seen.
    pub(crate) fn guests(&self) -> BTreeMap<&Key, Value> {
        let guests = |key: &Key| matches!(key.section(), Section::Vm | Section::Lxc);
        let records = self.known.iter().filter(|(key, _)| guests(key));
        records.map(|(key, known)| (key, timeless(&known.record))).collect()
    }
}

/// A guest's record without the time it was first seen.
pub(crate) fn timeless(record: &Value) -> Value {
    let mut record = record.clone();
    if let Some(identity) = record.get_mut("identity").and_then(Value::as_object_mut) {
        identity.remove("first_seen");
    }
    record
}

pub(crate) fn is_retired(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.what == What::Retire)
}

pub(crate) fn offline(node: &str) -> Faults {
    Faults { offline: [node.to_owned()].into(), ..Faults::default() }
}
