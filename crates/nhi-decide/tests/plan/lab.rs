//! A lab in a few words: guests as they are, from which records and live sight are made. It plans nothing itself.

use nhi_decide::{
    lint,
    observe::Known,
    plan::{self, Done, Past, Request, Scene},
    sight::{GuestSight, MigrateSight, NodeSight, Seen, Sight, SnapshotSight, StorageSight},
};
use nhi_model::{
    Timestamp,
    call::At,
    envelope::Stale,
    fact::Fact,
    guest::{AddressSource, Backups, Guest, GuestIdentity, GuestKind, GuestStatus, Ha},
    identity::{IdentityName, Role},
    intent::Intent,
    key::Key,
    lab::{Node, NodeStatus, Storage},
    plan::{Plan, PlanId},
    policy::Policy,
    refusal::Refusal,
    run::{Entry, Hold, Leg, Mark, Run, RunId},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const CLUSTER: &str = "home";

pub(crate) fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// One guest as it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inmate {
    pub(crate) kind: GuestKind,
    pub(crate) vmid: u32,
    pub(crate) node: String,
    pub(crate) status: GuestStatus,
    pub(crate) config: BTreeMap<String, String>,
    /// Lines that wait until it has stopped.
    pub(crate) pending: BTreeMap<String, Option<String>>,
    pub(crate) snapshots: Vec<SnapshotSight>,
    pub(crate) ha: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) backup: Option<Timestamp>,
    pub(crate) uuid: Option<String>,
}

fn inmate(kind: GuestKind, vmid: u32, name: &str) -> Inmate {
    let (title, disk) = match kind {
        GuestKind::Qemu => ("name", "scsi0"),
        GuestKind::Lxc => ("hostname", "rootfs"),
    };
    let lines = [
        (title, name.to_owned()),
        ("cores", "2".to_owned()),
        ("memory", "2048".to_owned()),
        (disk, format!("local-lvm:vm-{vmid}-disk-0,size=32G")),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1".to_owned()),
    ];
    Inmate {
        kind,
        vmid,
        node: "pve1".to_owned(),
        status: GuestStatus::Running,
        config: lines.into_iter().map(|(field, line)| (field.to_owned(), line)).collect(),
        pending: BTreeMap::new(),
        snapshots: Vec::new(),
        ha: None,
        pool: None,
        backup: None,
        uuid: (kind == GuestKind::Qemu).then(|| format!("00000000-0000-4000-8000-{vmid:012}")),
    }
}

/// A running virtual machine.
pub(crate) fn vm(vmid: u32, name: &str) -> Inmate {
    inmate(GuestKind::Qemu, vmid, name)
}

/// A running container.
pub(crate) fn ct(vmid: u32, name: &str) -> Inmate {
    inmate(GuestKind::Lxc, vmid, name)
}

impl Inmate {
    pub(crate) fn stopped(self) -> Self {
        self.status(GuestStatus::Stopped)
    }

    pub(crate) fn status(mut self, status: GuestStatus) -> Self {
        self.status = status;
        if status == GuestStatus::Suspended {
            self.config.insert("lock".to_owned(), "suspended".to_owned());
        }
        self
    }

    pub(crate) fn on(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    pub(crate) fn line(mut self, field: &str, line: &str) -> Self {
        self.config.insert(field.to_owned(), line.to_owned());
        self
    }

    pub(crate) fn without(mut self, field: &str) -> Self {
        self.config.remove(field);
        self
    }

    pub(crate) fn template(self) -> Self {
        let disk = self.disk();
        let line = format!("local-lvm:base-{}-disk-0,size=32G", self.vmid);
        self.stopped().line("template", "1").line(disk, &line)
    }

    pub(crate) fn managed(mut self) -> Self {
        self.ha = Some("started".to_owned());
        self
    }

    /// A snapshot of how it is now, but for some lines; a line without a value is not in it.
    pub(crate) fn snapshot(mut self, name: &str, days_ago: i64, differs: &[(&str, Option<&str>)]) -> Self {
        let mut config = self.config.clone();
        for (field, line) in differs {
            match line {
                Some(line) => drop(config.insert((*field).to_owned(), (*line).to_owned())),
                None => drop(config.remove(*field)),
            }
        }
        config.remove("lock");
        let parent = self.config.insert("parent".to_owned(), name.to_owned());
        let at = now() - jiff::SignedDuration::from_hours(days_ago * 24);
        self.snapshots.push(SnapshotSight {
            name: name.to_owned(),
            parent,
            at: Some(at),
            config: Some(config),
        });
        self
    }

    /// It has stopped, if only for a moment.
    pub(crate) fn take_over(&mut self) {
        for (field, line) in std::mem::take(&mut self.pending) {
            match line {
                Some(line) => drop(self.config.insert(field, line)),
                None => drop(self.config.remove(&field)),
            }
        }
    }

    pub(crate) fn disk(&self) -> &'static str {
        match self.kind {
            GuestKind::Qemu => "scsi0",
            GuestKind::Lxc => "rootfs",
        }
    }

    pub(crate) fn title(&self) -> &'static str {
        match self.kind {
            GuestKind::Qemu => "name",
            GuestKind::Lxc => "hostname",
        }
    }

    pub(crate) fn name(&self) -> String {
        self.config.get(self.title()).cloned().unwrap_or_default()
    }

    pub(crate) fn key(&self) -> Key {
        Key::guest(self.kind, CLUSTER, self.vmid)
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.status, GuestStatus::Running | GuestStatus::Paused)
    }

    pub(crate) fn flag(&self, field: &str) -> bool {
        self.config.get(field).is_some_and(|line| line == "1")
    }

    pub(crate) fn tags(&self) -> BTreeSet<String> {
        let line = self.config.get("tags").map(String::as_str).unwrap_or_default();
        line.split(';').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
    }

    fn identity(&self) -> GuestIdentity {
        let rootfs = self.config.get("rootfs").and_then(|line| line.split(',').next());
        GuestIdentity {
            uuid: self.uuid.clone(),
            rootfs: rootfs.map(str::to_owned),
            ..GuestIdentity::default()
        }
    }

    fn seen(&self) -> Seen {
        let bare = |snapshot: &SnapshotSight| snapshot.clone();
        Seen {
            kind: self.kind,
            vmid: self.vmid,
            node: self.node.clone(),
            name: self.name(),
            status: self.status,
            lock: self.config.get("lock").cloned(),
            template: self.flag("template"),
            ha: self.ha.clone(),
            identity: self.identity(),
            config: self.config.clone(),
            config_whole: true,
            digest: Some(format!("digest-of-{}-{}", self.vmid, self.config.len())),
            snapshots: Some(self.snapshots.iter().map(bare).collect()),
            snapshot_count: None,
            processors: None,
            can_snapshot: Some(true),
            newest_backup: self.backup,
            migrate: Some(MigrateSight::default()),
            pool: self.pool.clone(),
        }
    }

    fn record(&self) -> Guest {
        let number = |field: &str| self.config.get(field).and_then(|line| line.parse::<u32>().ok());
        let volume = |(field, line): (&String, &String)| {
            let volume = line.split(',').next().unwrap_or_default().to_owned();
            (volume.contains(':') && !field.starts_with("net")).then(|| (field.clone(), volume))
        };
        Guest {
            kind: self.kind,
            cluster: CLUSTER.to_owned(),
            vmid: self.vmid,
            name: self.name(),
            node: self.node.clone(),
            status: self.status,
            template: self.flag("template"),
            tags: self.tags().into_iter().collect(),
            pool: self.pool.clone(),
            lock: self.config.get("lock").cloned(),
            protection: Some(self.flag("protection")),
            onboot: Some(self.flag("onboot")),
            ha: self.ha.clone().map(|state| Ha { state, group: None }),
            cpus: number("cores"),
            memory_bytes: number("memory").map(|mib| u64::from(mib) << 20),
            disk_bytes: self.config.get(self.disk()).and_then(|line| nhi_decide::fact::size_bytes(line)),
            os: None,
            nics: BTreeMap::new(),
            volumes: self.config.iter().filter_map(volume).collect(),
            addresses: Vec::new(),
            address_source: AddressSource::NotRead,
            snapshots: u32::try_from(self.snapshots.len()).ok(),
            backups: self.backup.map_or(Backups::None, |at| Backups::Newest { at, storage: None }),
            notes: self.config.get("description").cloned(),
            config_digest: None,
            identity: self.identity(),
        }
    }
}

/// A lab with all that stands around its guests.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    pub(crate) guests: BTreeMap<u32, Inmate>,
    pub(crate) graph: Value,
    pub(crate) policy: Policy,
    pub(crate) ourselves: BTreeSet<Key>,
    pub(crate) holds: BTreeMap<Key, Hold>,
    pub(crate) leases: BTreeMap<Key, RunId>,
    pub(crate) offline: BTreeSet<String>,
    pub(crate) stale: BTreeSet<u32>,
    pub(crate) quorate: Option<bool>,
    pub(crate) past: Option<Past>,
    pub(crate) vmids: Vec<u32>,
    /// Id of the next plan.
    pub(crate) id: PlanId,
    /// Changes of the live sight against what the records were made of.
    pub(crate) live: BTreeMap<u32, Inmate>,
    pub(crate) storages: Vec<(&'static str, &'static str, &'static str, bool)>,
}

pub(crate) fn lab(guests: impl IntoIterator<Item = Inmate>) -> Lab {
    Lab {
        guests: guests.into_iter().map(|guest| (guest.vmid, guest)).collect(),
        graph: json!({}),
        policy: Policy::default(),
        ourselves: BTreeSet::new(),
        holds: BTreeMap::new(),
        leases: BTreeMap::new(),
        offline: BTreeSet::new(),
        stale: BTreeSet::new(),
        quorate: Some(true),
        past: None,
        vmids: vec![500, 501, 502],
        id: id(),
        live: BTreeMap::new(),
        storages: vec![
            ("local-lvm", "lvmthin", "images rootdir", false),
            ("nas", "nfs", "images rootdir iso backup", true),
            ("tank", "zfspool", "images rootdir", false),
            ("local", "dir", "iso vztmpl", false),
        ],
    }
}

pub(crate) fn id() -> PlanId {
    PlanId::parse("p-0k3x9a").unwrap()
}

pub(crate) fn who() -> IdentityName {
    IdentityName::parse("aider").unwrap()
}

/// An intent as an agent writes it.
pub(crate) fn intent(value: Value) -> Intent {
    serde_json::from_value(value).unwrap()
}

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];

impl Lab {
    pub(crate) fn known(&self) -> BTreeMap<Key, Known> {
        let fresh = |record: Value| Known { revision: 7, record, stale: None };
        let mut known = BTreeMap::new();
        for guest in self.guests.values() {
            let stale = self.stale.contains(&guest.vmid);
            let stale = stale.then(|| Stale { reason: "node pve9 is offline".to_owned(), since: now() });
            let record = serde_json::to_value(guest.record()).unwrap();
            known.insert(guest.key(), Known { stale, ..fresh(record) });
        }
        for name in NODES {
            let online = !self.offline.contains(name);
            let node = Node {
                cluster: CLUSTER.to_owned(),
                node: name.to_owned(),
                status: if online { NodeStatus::Online } else { NodeStatus::Offline },
                address: None,
                cpus: Some(16),
                memory_bytes: None,
                disk_bytes: None,
                pve_version: None,
                kernel: None,
                ssl_fingerprint: None,
                level: String::new(),
            };
            known.insert(Key::node(CLUSTER, name), fresh(serde_json::to_value(node).unwrap()));
            for (storage, kind, content, shared) in &self.storages {
                let record = Storage {
                    cluster: CLUSTER.to_owned(),
                    node: name.to_owned(),
                    storage: (*storage).to_owned(),
                    kind: Some((*kind).to_owned()),
                    content: content.split(' ').map(str::to_owned).collect(),
                    shared: *shared,
                    active: Some(true),
                    enabled: Some(true),
                };
                let key = Key::storage(CLUSTER, name, storage);
                known.insert(key, fresh(serde_json::to_value(record).unwrap()));
            }
        }
        known.insert(Key::graph(), fresh(json!({ "services": self.graph })));
        known
    }

    /// The live sight of everything.
    pub(crate) fn sight(&self) -> Sight {
        let mut sight = Sight::nothing(CLUSTER.to_owned(), now());
        sight.quorate = self.quorate;
        for (at, name) in NODES.into_iter().enumerate() {
            let free = Some((at as u64 + 1) << 30);
            sight.nodes.insert(
                name.to_owned(),
                NodeSight { online: !self.offline.contains(name), memory_free_bytes: free },
            );
            for (storage, kind, content, shared) in &self.storages {
                let seen = StorageSight {
                    kind: Some((*kind).to_owned()),
                    content: content.split(' ').map(str::to_owned).collect(),
                    shared: *shared,
                    active: true,
                    free_bytes: Some(500 << 30),
                };
                sight.storages.insert((name.to_owned(), (*storage).to_owned()), seen);
            }
        }
        for guest in self.guests.values() {
            let guest = self.live.get(&guest.vmid).unwrap_or(guest);
            let seen = if self.offline.contains(&guest.node) {
                GuestSight::Unseen { why: format!("node {} does not answer", guest.node) }
            } else {
                GuestSight::Seen(Box::new(guest.seen()))
            };
            sight.guests.insert(guest.key(), seen);
        }
        // Numbers somebody may ask about.
        for vmid in self.vmids.iter().copied().chain(100..120) {
            for kind in [GuestKind::Qemu, GuestKind::Lxc] {
                sight.guests.entry(Key::guest(kind, CLUSTER, vmid)).or_insert(GuestSight::Gone);
            }
        }
        sight
    }

    pub(crate) fn plan(&self, intent: &Intent) -> Result<Plan, Refusal> {
        self.plan_with(intent, None)
    }

    pub(crate) fn plan_with(&self, intent: &Intent, minutes: Option<u32>) -> Result<Plan, Refusal> {
        self.plan_in(intent, minutes, &self.known(), &self.sight())
    }

    pub(crate) fn plan_on(&self, intent: &Intent, sight: &Sight) -> Result<Plan, Refusal> {
        self.plan_in(intent, None, &self.known(), sight)
    }

    pub(crate) fn plan_knowing(
        &self,
        intent: &Intent,
        known: &BTreeMap<Key, Known>,
        sight: &Sight,
    ) -> Result<Plan, Refusal> {
        self.plan_in(intent, None, known, sight)
    }

    fn plan_in(
        &self,
        intent: &Intent,
        minutes: Option<u32>,
        known: &BTreeMap<Key, Known>,
        sight: &Sight,
    ) -> Result<Plan, Refusal> {
        let by = who();
        let scene = Scene {
            now: now(),
            revision: 42,
            known,
            sight,
            policy: &self.policy,
            ourselves: &self.ourselves,
            holds: &self.holds,
            leases: &self.leases,
            past: self.past.as_ref(),
        };
        let request = Request {
            id: self.id.clone(),
            by: &by,
            intent,
            reason: Some("because".to_owned()),
            vmids: &self.vmids,
            undo_unless_confirmed_minutes: minutes,
        };
        // Whatever is planned must have been asked for beforehand.
        let needs = plan::needs(intent, known, &self.policy, self.past.as_ref());
        let made = plan::plan(&request, &scene)?;
        let needs = needs.expect("what can be planned has needs");
        for target in &made.targets {
            let new = target.identity.is_none();
            assert!(new || needs.guests.contains(&target.guest), "{} was not to be looked at", target.guest);
        }
        // The linter knows nothing of the planner, and finds nothing.
        let scene = lint::Scene {
            now: now(),
            revision: 42,
            known,
            sight,
            policy: &self.policy,
            ourselves: &self.ourselves,
            role: Role::Agent,
        };
        let faults = lint::lint(&made, &scene);
        assert_eq!(faults, Vec::<String>::new(), "{:?}", calls(&made));
        Ok(made)
    }

    /// The records as they are now, as a moment of the past.
    pub(crate) fn moment(&self, at: At) -> plan::Moment {
        let records = self.known().into_iter().map(|(key, known)| (key, known.record)).collect();
        plan::Moment { at, revision: 7, records, unknown: BTreeSet::new() }
    }

    /// The sight the scanner's records give.
    pub(crate) fn recorded(&self) -> Sight {
        Sight::of_records(CLUSTER, now(), &self.known())
    }
}

/// A plan that was carried out, with its run.
pub(crate) fn carried_out(plan: &Plan) -> Done {
    let entry = |step, mark| Entry { at: now(), step, leg: Leg::Forward, mark };
    let journal = (0..plan.steps.len()).flat_map(|step| {
        [Mark::Begun { attempt: 1 }, Mark::Sent { upid: None }, Mark::Seen {}].map(|mark| entry(step, mark))
    });
    let made = plan.targets.iter().filter(|target| target.identity.is_none());
    let made: BTreeMap<_, _> = made.map(|target| (target.guest.clone(), GuestIdentity::default())).collect();
    // As a store has it, so that what is added to runs is absent here.
    let journal: Vec<Entry> = journal.collect();
    let run: Run = serde_json::from_value(json!({
        "v": 1, "id": plan.id.run(), "plan": plan.id, "digest": plan.digest(), "by": who(), "at": now(),
        "state": {"is": "done", "revision": 43}, "journal": journal, "made": made, "ended_at": now(),
    }))
    .unwrap();
    Done { plan: plan.clone(), run: Some(run) }
}

/// The calls of a plan, a line each.
pub(crate) fn calls(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| step.call.to_string()).collect()
}

/// The facts of a guest that are about its state.
pub(crate) fn statuses(facts: &[Fact]) -> Vec<(Key, GuestStatus)> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Status { guest, status } => Some((guest.clone(), *status)),
            _ => None,
        })
        .collect()
}
