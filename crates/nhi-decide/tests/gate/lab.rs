//! A small lab as it was seen, and plans for it made by hand, the way a planner would.

use crate::steps::power;
use nhi_decide::{
    gate::{Input, Recent},
    lint::{self, Scene},
    observe::Known,
    sight::{GuestSight, NodeSight, Seen, Sight, SnapshotSight, StorageSight},
};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    fact::Fact,
    graph::Graph,
    guest::{AddressSource, Backups, Guest, GuestIdentity, GuestKind, GuestStatus},
    identity::{IdentityName, Role},
    intent::{GuestRef, Intent, Operation},
    key::Key,
    plan::{Gate, OnFailure, Plan, PlanId, PlanRecord, PlanState, Risk, Step, Target, Undo, Verdict},
    policy::Policy,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const CLUSTER: &str = "home";
/// The revision of every record.
pub(crate) const REVISION: u64 = 7;

/// 15:00 in Rome.
pub(crate) fn now() -> Timestamp {
    "2026-06-15T13:00:00Z".parse().unwrap()
}

pub(crate) fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

/// Containers have numbers from 200 to 299.
pub(crate) fn kind(vmid: u32) -> GuestKind {
    if (200..300).contains(&vmid) { GuestKind::Lxc } else { GuestKind::Qemu }
}

pub(crate) fn key(vmid: u32) -> Key {
    Key::guest(kind(vmid), CLUSTER, vmid)
}

/// Everything that is known.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    pub(crate) known: BTreeMap<Key, Known>,
    pub(crate) sight: Sight,
    pub(crate) policy: Policy,
    pub(crate) graph: Graph,
    pub(crate) ourselves: BTreeSet<Key>,
}

/// `web` needs `db`. 100 is ourselves, 101 is protected by its tag, 110 is a linked clone of the template 9000.
pub(crate) fn lab() -> Lab {
    let mut lab = Lab {
        known: BTreeMap::new(),
        sight: Sight { quorate: Some(true), ..Sight::nothing(CLUSTER.to_owned(), now()) },
        policy: Policy::default(),
        graph: Graph::default(),
        ourselves: [key(100)].into(),
    };
    for node in ["pve1", "pve2"] {
        lab.sight.nodes.insert(node.to_owned(), NodeSight { online: true, memory_free_bytes: Some(1 << 34) });
    }
    for (node, storage, content) in
        [("pve1", "local-zfs", "images"), ("pve1", "pbs", "backup"), ("pve2", "local-zfs", "images")]
    {
        let storage_sight = StorageSight {
            kind: Some(if storage == "pbs" { "pbs" } else { "zfspool" }.to_owned()),
            content: [content.to_owned()].into(),
            shared: false,
            active: true,
            free_bytes: None,
        };
        lab.sight.storages.insert((node.to_owned(), storage.to_owned()), storage_sight);
    }
    for (vmid, name, node, status, tags) in [
        (100, "neural-home", "pve1", GuestStatus::Running, "core"),
        (101, "nas", "pve1", GuestStatus::Running, "critical;storage"),
        (105, "web", "pve1", GuestStatus::Running, ""),
        (106, "db", "pve1", GuestStatus::Running, ""),
        (107, "idle", "pve2", GuestStatus::Stopped, "lab"),
        (110, "linked", "pve1", GuestStatus::Stopped, ""),
        (201, "dns", "pve1", GuestStatus::Running, ""),
        (9000, "debian-12", "pve1", GuestStatus::Stopped, ""),
    ] {
        lab.add(vmid, name, node, status, tags);
    }
    lab.graph_of(
        r#"{"services":{"web":{"depends_on":["db"]},"db":{"required_by":["web"]},
        "dns":{"can_restart_without_approval":true,"restart_safe_hours":[2,3,4]}}}"#,
    );
    lab
}

impl Lab {
    pub(crate) fn add(&mut self, vmid: u32, name: &str, node: &str, status: GuestStatus, tags: &str) {
        let seen = seen(vmid, name, node, status, tags);
        self.sight.guests.insert(key(vmid), GuestSight::Seen(Box::new(seen.clone())));
        let record = serde_json::to_value(record(&seen)).unwrap();
        self.known.insert(key(vmid), Known { revision: REVISION, record, stale: None });
    }

    pub(crate) fn graph_of(&mut self, text: &str) {
        self.graph = nhi_decide::graph::parse(text).unwrap();
        let record = serde_json::to_value(&self.graph).unwrap();
        self.known.insert(Key::graph(), Known { revision: REVISION, record, stale: None });
    }

    pub(crate) fn policy_of(&mut self, text: &str) {
        self.policy = nhi_decide::policy::parse(text).unwrap();
    }

    pub(crate) fn seen(&self, vmid: u32) -> &Seen {
        self.sight.seen(&key(vmid)).unwrap()
    }

    pub(crate) fn seen_mut(&mut self, vmid: u32) -> &mut Seen {
        self.sight.seen_mut(&key(vmid)).unwrap()
    }

    /// The gate's input for a plan of this identity.
    pub(crate) fn input<'a>(&'a self, plan: &'a Plan, role: Role, recent: &'a Recent) -> Input<'a> {
        Input {
            now: now(),
            plan,
            policy: &self.policy,
            graph: &self.graph,
            known: &self.known,
            role,
            frozen: None,
            recent,
            rehearsed: false,
        }
    }
}

pub(crate) fn seen(vmid: u32, name: &str, node: &str, status: GuestStatus, tags: &str) -> Seen {
    let qemu = kind(vmid) == GuestKind::Qemu;
    let mut config: BTreeMap<String, String> = [("cores", "2"), ("memory", "2048"), ("tags", tags)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let (disk, volume) = match vmid {
        9000 => ("scsi0", "local-zfs:base-9000-disk-0,size=8G".to_owned()),
        110 => ("scsi0", "local-zfs:base-9000-disk-0/vm-110-disk-0,size=8G".to_owned()),
        _ if qemu => ("scsi0", format!("local-zfs:vm-{vmid}-disk-0,size=8G")),
        _ => ("rootfs", format!("local-zfs:subvol-{vmid}-disk-0,size=8G")),
    };
    config.insert(disk.to_owned(), volume);
    let before = SnapshotSight {
        name: "before".to_owned(),
        parent: None,
        at: Some(now()),
        config: Some(config.clone()),
    };
    Seen {
        kind: kind(vmid),
        vmid,
        node: node.to_owned(),
        name: name.to_owned(),
        status,
        lock: None,
        template: vmid == 9000,
        ha: None,
        identity: identity(vmid),
        config,
        config_whole: true,
        digest: Some(format!("digest-{vmid}")),
        snapshots: Some(vec![before]),
        snapshot_count: None,
        processors: None,
        can_snapshot: Some(true),
        newest_backup: Some(now()),
        migrate: None,
        pool: None,
    }
}

pub(crate) fn identity(vmid: u32) -> GuestIdentity {
    match kind(vmid) {
        GuestKind::Qemu => GuestIdentity { uuid: Some(format!("uuid-{vmid}")), ..GuestIdentity::default() },
        GuestKind::Lxc => GuestIdentity {
            rootfs: Some(format!("local-zfs:subvol-{vmid}-disk-0")),
            ..GuestIdentity::default()
        },
    }
}

fn record(seen: &Seen) -> Guest {
    let volumes = seen.config.iter().filter(|(field, _)| *field == "scsi0" || *field == "rootfs");
    let source = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
    Guest {
        kind: seen.kind,
        cluster: CLUSTER.to_owned(),
        vmid: seen.vmid,
        name: seen.name.clone(),
        node: seen.node.clone(),
        status: seen.status,
        template: seen.template,
        tags: seen.tags().into_iter().collect(),
        pool: seen.pool.clone(),
        lock: seen.lock.clone(),
        protection: seen.flag("protection"),
        onboot: Some(false),
        ha: None,
        cpus: Some(2),
        memory_bytes: Some(2048 << 20),
        disk_bytes: Some(8 << 30),
        os: None,
        nics: BTreeMap::new(),
        volumes: volumes.map(|(field, line)| (field.clone(), source(line))).collect(),
        addresses: Vec::new(),
        address_source: AddressSource::NotRead,
        snapshots: None,
        backups: Backups::NotVisible,
        notes: None,
        config_digest: None,
        identity: seen.identity.clone(),
    }
}

pub(crate) fn params(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn status(vmid: u32, status: GuestStatus) -> Fact {
    Fact::Status { guest: key(vmid), status }
}

/// A plan of these steps that an agent `aider` asked for. `requires` has what a planner would put there.
pub(crate) fn plan(lab: &Lab, intent: Intent, steps: Vec<Step>) -> Plan {
    let mut targets: Vec<Target> = Vec::new();
    for step in &steps {
        if let Some(target) = targets.iter_mut().find(|target| target.guest == step.guest) {
            target.operations.push(step.operation);
            continue;
        }
        let vmid = step.guest.tokens()[1].parse().unwrap();
        let seen = lab.sight.seen(&step.guest);
        targets.push(Target {
            guest: step.guest.clone(),
            kind: kind(vmid),
            vmid,
            name: seen.map_or_else(|| step.call.params["name"].clone(), |seen| seen.name.clone()),
            node: seen.map_or_else(|| step.node.clone(), |seen| seen.node.clone()),
            identity: seen.map(|seen| seen.identity.clone()),
            operations: vec![step.operation],
        });
    }
    let mut requires = vec![Fact::Quorate {}];
    let moved = steps.iter().filter_map(|step| step.call.params.get("target"));
    let nodes: BTreeSet<&String> = steps.iter().map(|step| &step.node).chain(moved).collect();
    requires.extend(nodes.into_iter().map(|node| Fact::NodeOnline { node: node.clone() }));
    let mut reads = BTreeMap::from([(Key::graph(), REVISION)]);
    for target in &targets {
        let guest = target.guest.clone();
        reads.insert(guest.clone(), if target.identity.is_some() { REVISION } else { 0 });
        match lab.sight.seen(&guest) {
            None => requires.push(Fact::Gone { guest }),
            Some(seen) => requires.extend([
                Fact::SameGuest { guest: guest.clone(), identity: seen.identity.clone() },
                Fact::OnNode { guest: guest.clone(), node: seen.node.clone() },
                Fact::Status { guest: guest.clone(), status: seen.status },
                Fact::Unlocked { guest: guest.clone() },
                Fact::Unprotected { guest: guest.clone() },
                Fact::HaManaged { guest: guest.clone(), managed: false },
                Fact::ConfigDigest { guest, digest: seen.digest.clone().unwrap() },
            ]),
        }
    }
    let expects = expected(&steps);
    let mut plan = Plan {
        v: SCHEMA_VERSION,
        id: PlanId::parse("p-abcd1234").unwrap(),
        cluster: CLUSTER.to_owned(),
        intent,
        by: name("aider"),
        reason: None,
        made_at: now(),
        expires_at: "2026-06-15T14:00:00Z".parse().unwrap(),
        revision: REVISION,
        reads,
        targets,
        requires,
        steps,
        expects,
        effects: Vec::new(),
        config_changes: Vec::new(),
        impacts: Vec::new(),
        risk: Risk::Destructive,
        undo: Undo { intents: Vec::new(), complete: false, cost: "nothing".to_owned() },
        on_failure: OnFailure::Stop,
        undo_unless_confirmed_minutes: None,
        digest: None,
    };
    seal(&mut plan);
    plan
}

/// The last word of the steps about each thing of each guest.
fn expected(steps: &[Step]) -> Vec<Fact> {
    let mut out: Vec<Fact> = Vec::new();
    for fact in steps.iter().flat_map(|step| &step.after) {
        let gone = matches!(fact, Fact::Gone { .. });
        let same = |other: &Fact| gone || std::mem::discriminant(other) == std::mem::discriminant(fact);
        out.retain(|other| other.guest() != fact.guest() || !same(other));
        out.push(fact.clone());
    }
    out
}

/// Gives a plan its digest.
pub(crate) fn seal(plan: &mut Plan) {
    plan.digest = Some(lint::digest(plan));
}

pub(crate) fn intent(operation: Operation, vmid: u32) -> Intent {
    let guest = GuestRef::key(&key(vmid));
    match operation {
        Operation::Stop => Intent::Stop { guest, with_dependents: false },
        Operation::Shutdown => Intent::Shutdown { guest, with_dependents: false, timeout_s: None },
        Operation::Reboot => Intent::Reboot { guest, with_dependents: false },
        Operation::Destroy => Intent::Destroy { guest, purge: false },
        Operation::Snapshot => {
            Intent::Snapshot { guest, name: "s1".to_owned(), description: None, memory: false }
        }
        _ => Intent::Start { guest },
    }
}

/// A plan of one power step of a guest where it is.
pub(crate) fn power_plan(lab: &Lab, operation: Operation, vmid: u32) -> Plan {
    let node = lab.seen(vmid).node.clone();
    plan(lab, intent(operation, vmid), vec![power(operation, vmid, &node)])
}

pub(crate) fn record_of(plan: Plan, verdict: Verdict, approvals: u8) -> PlanRecord {
    PlanRecord {
        plan,
        gate: Gate { verdict, reasons: Vec::new(), approvals, not_before: None, rehearse: false },
        state: PlanState::Open {},
        approvals: Vec::new(),
        rehearsal: None,
        request: None,
    }
}

impl Lab {
    /// What the linter checks against, for a plan of an agent.
    pub(crate) fn scene(&self) -> Scene<'_> {
        Scene {
            now: now(),
            revision: REVISION,
            known: &self.known,
            sight: &self.sight,
            policy: &self.policy,
            ourselves: &self.ourselves,
            role: Role::Agent,
        }
    }

    pub(crate) fn faults(&self, plan: &Plan) -> Vec<String> {
        lint::lint(plan, &self.scene())
    }
}
