//! Plans made by hand for the simulated home: what is tested here is carrying out, not planning.

use crate::builds::{self, BUILDS, MADE};
use nhi_model::{
    Timestamp,
    fact::Fact,
    guest::{GuestIdentity, GuestKind, GuestStatus},
    identity,
    intent::{GuestRef, Intent, Operation},
    key::Key,
    plan::{
        ApiCall, Ends, Gate, Method, OnFailure, Plan, PlanId, PlanRecord, PlanState, Repeat, Risk, Step,
        Target, Undo, Verdict,
    },
    run::{Run, RunState},
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const CLUSTER: &str = "home";
/// A stopped virtual machine, a running one, and a stopped container; the actuator's token may do all with them.
pub(crate) const STAGING: u32 = 106;
pub(crate) const RUNNER: u32 = 107;
pub(crate) const SANDBOX: u32 = 212;

pub(crate) fn kind_of(vmid: u32) -> GuestKind {
    if (200..9000).contains(&vmid) { GuestKind::Lxc } else { GuestKind::Qemu }
}

pub(crate) fn node_of(vmid: u32) -> &'static str {
    if matches!(vmid, SANDBOX | MADE) { "pve3" } else { "pve1" }
}

pub(crate) fn key(vmid: u32) -> Key {
    Key::guest(kind_of(vmid), CLUSTER, vmid)
}

pub(crate) fn status(vmid: u32, status: GuestStatus) -> Fact {
    Fact::Status { guest: key(vmid), status }
}

pub(crate) fn tags(vmid: u32, tags: &str) -> Fact {
    Fact::Config { guest: key(vmid), field: "tags".to_owned(), value: Some(tags.to_owned()) }
}

fn snapshot(vmid: u32, name: &str, present: bool) -> Fact {
    Fact::Snapshot { guest: key(vmid), name: name.to_owned(), present }
}

/// How long a task may take, seconds.
pub(crate) const SECONDS_MAX: u32 = 120;

pub(crate) fn step(operation: Operation, vmid: u32, method: Method, below: &str, task: Option<&str>) -> Step {
    let (node, kind) = (node_of(vmid), kind_of(vmid).as_str());
    let ends = match task {
        None => Ends::Answer {},
        Some(task) => {
            let prefix = if kind == "qemu" { "qm" } else { "vz" };
            Ends::Task { kinds: vec![format!("{prefix}{task}")], vmid, seconds_max: SECONDS_MAX }
        }
    };
    Step {
        what: format!("{operation} {vmid}"),
        operation,
        guest: key(vmid),
        node: node.to_owned(),
        call: ApiCall {
            method,
            path: format!("/nodes/{node}/{kind}/{vmid}/{below}").trim_end_matches('/').to_owned(),
            params: BTreeMap::new(),
        },
        ends,
        before: Vec::new(),
        after: Vec::new(),
        settle_s: 0,
        repeat: Repeat::Harmless,
        compensation: None,
    }
}

impl Wish {
    /// The step, with what takes it back.
    pub(crate) fn step(self) -> Step {
        let unlocked = |vmid| Fact::Unlocked { guest: key(vmid) };
        match self {
            Self::Start(vmid) => {
                let start = step(Operation::Start, vmid, Method::Post, "status/start", Some("start"));
                Step {
                    before: vec![status(vmid, GuestStatus::Stopped), unlocked(vmid)],
                    after: vec![status(vmid, GuestStatus::Running)],
                    compensation: Some(Box::new(Self::Stop(vmid).step())),
                    ..start
                }
            }
            Self::Stop(vmid) => {
                let stop = step(Operation::Stop, vmid, Method::Post, "status/stop", Some("stop"));
                Step {
                    before: vec![status(vmid, GuestStatus::Running), unlocked(vmid)],
                    after: vec![status(vmid, GuestStatus::Stopped)],
                    ..stop
                }
            }
            Self::Reboot(vmid) => {
                let reboot = step(Operation::Reboot, vmid, Method::Post, "status/reboot", Some("reboot"));
                Step {
                    before: vec![status(vmid, GuestStatus::Running), unlocked(vmid)],
                    after: vec![status(vmid, GuestStatus::Running)],
                    repeat: Repeat::Harmful,
                    ..reboot
                }
            }
            Self::Snapshot(vmid) => {
                let mut take = step(Operation::Snapshot, vmid, Method::Post, "snapshot", Some("snapshot"));
                take.call.params = [("snapname".to_owned(), "kept".to_owned())].into();
                let below = "snapshot/kept";
                let remove =
                    step(Operation::SnapshotDelete, vmid, Method::Delete, below, Some("delsnapshot"));
                let remove = Step {
                    before: vec![snapshot(vmid, "kept", true), unlocked(vmid)],
                    after: vec![snapshot(vmid, "kept", false), unlocked(vmid)],
                    ..remove
                };
                Step {
                    before: vec![snapshot(vmid, "kept", false), unlocked(vmid)],
                    after: vec![snapshot(vmid, "kept", true), unlocked(vmid)],
                    compensation: Some(Box::new(remove)),
                    ..take
                }
            }
            Self::Tags(vmid, from, to) => {
                let set = |from: &str, to: &str| {
                    let mut set = step(Operation::Set, vmid, Method::Put, "config", None);
                    set.call.params = [("tags".to_owned(), to.to_owned())].into();
                    Step {
                        before: vec![tags(vmid, from), unlocked(vmid)],
                        after: vec![tags(vmid, to)],
                        ..set
                    }
                };
                Step { compensation: Some(Box::new(set(to, from))), ..set(from, to) }
            }
            Self::Clone(source, vmid) => builds::clone(source, vmid),
            Self::Create(vmid) => builds::create(vmid),
            Self::Destroy(vmid) => builds::destroy(vmid),
            Self::Migrate(vmid) => builds::migrate(vmid),
            Self::Resize(vmid, size_gib) => builds::resize(vmid, size_gib),
            Self::Rollback(vmid) => builds::rollback(vmid),
            Self::Backup(vmid) => builds::backup(vmid),
        }
    }

    pub(crate) fn vmid(self) -> u32 {
        match self {
            Self::Start(vmid)
            | Self::Stop(vmid)
            | Self::Reboot(vmid)
            | Self::Snapshot(vmid)
            | Self::Clone(_, vmid)
            | Self::Create(vmid)
            | Self::Destroy(vmid)
            | Self::Migrate(vmid)
            | Self::Resize(vmid, _)
            | Self::Rollback(vmid)
            | Self::Backup(vmid)
            | Self::Tags(vmid, ..) => vmid,
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Start(u32),
    Stop(u32),
    Reboot(u32),
    Snapshot(u32),
    Tags(u32, &'static str, &'static str),
    /// Of which, and its number.
    Clone(u32, u32),
    Create(u32),
    Destroy(u32),
    Migrate(u32),
    /// GiB.
    Resize(u32, u32),
    Rollback(u32),
    Backup(u32),
}

/// A little of everything: a snapshot, starts on two nodes, a change without a task, and one that must not be repeated.
pub(crate) const MIXED: [Wish; 5] = [
    Wish::Snapshot(RUNNER),
    Wish::Start(STAGING),
    Wish::Tags(RUNNER, "ci;lab", "ci;lab;touched"),
    Wish::Reboot(RUNNER),
    Wish::Start(SANDBOX),
];

/// All there is to wish for.
pub(crate) fn everything() -> Vec<Wish> {
    MIXED.into_iter().chain(BUILDS).collect()
}

pub(crate) fn plan(id: &str, wishes: &[Wish], on_failure: OnFailure) -> Plan {
    let steps: Vec<Step> = wishes.iter().map(|wish| wish.step()).collect();
    let vmids: BTreeSet<u32> = wishes.iter().map(|wish| wish.vmid()).collect();
    let target = |vmid: &u32| Target {
        guest: key(*vmid),
        kind: kind_of(*vmid),
        vmid: *vmid,
        name: format!("guest-{vmid}"),
        node: node_of(*vmid).to_owned(),
        // Only what the plan makes has none yet.
        identity: (!builds::is_made(*vmid)).then(GuestIdentity::default),
        operations: Vec::new(),
    };
    // The scanner's records know no snapshot by name and no lock that comes and goes.
    let visible = |fact: &&Fact| !matches!(fact, Fact::Snapshot { .. } | Fact::Unlocked { .. });
    let now = Timestamp::now();
    let mut plan = Plan {
        v: 1,
        id: PlanId::parse(id).unwrap(),
        cluster: CLUSTER.to_owned(),
        intent: Intent::Start { guest: GuestRef::parse("106").unwrap() },
        by: identity::owner(),
        reason: None,
        made_at: now,
        expires_at: now + std::time::Duration::from_secs(3600),
        revision: 0,
        reads: BTreeMap::new(),
        targets: vmids.iter().map(target).collect(),
        requires: vmids
            .iter()
            .map(|vmid| {
                let guest = key(*vmid);
                if builds::is_made(*vmid) { Fact::Gone { guest } } else { Fact::Exists { guest } }
            })
            .collect(),
        expects: steps.iter().flat_map(|step| step.after.iter().filter(visible).cloned()).collect(),
        steps,
        effects: Vec::new(),
        config_changes: Vec::new(),
        impacts: Vec::new(),
        risk: Risk::Low,
        undo: Undo { intents: Vec::new(), complete: true, cost: String::new() },
        on_failure,
        undo_unless_confirmed_minutes: None,
        digest: None,
    };
    plan.requires.push(Fact::Quorate {});
    // What a later step changes again is not expected of an earlier one.
    let mut last = BTreeMap::new();
    for fact in &plan.expects {
        let subject = match fact {
            Fact::Config { guest, field, .. } => (guest.clone(), field.clone()),
            Fact::OnNode { guest, .. } => (guest.clone(), "node".to_owned()),
            Fact::Named { guest, .. } => (guest.clone(), "name".to_owned()),
            Fact::DiskAtLeast { guest, disk, .. } => (guest.clone(), disk.clone()),
            other => (other.guest().cloned().unwrap_or_else(Key::graph), "status".to_owned()),
        };
        last.insert(subject, fact.clone());
    }
    plan.expects = last.into_values().collect();
    sealed(plan)
}

/// With its digest.
pub(crate) fn sealed(mut plan: Plan) -> Plan {
    plan.digest = Some(nhi_decide::plan::digest(&plan));
    plan
}

/// The same with little patience for tasks: where they take milliseconds, one that hangs is soon known to.
pub(crate) fn impatient(mut plan: Plan) -> Plan {
    let hurry = |step: &mut Step| {
        if let Ends::Task { seconds_max, .. } = &mut step.ends {
            *seconds_max = 3;
        }
    };
    for step in &mut plan.steps {
        hurry(step);
        step.compensation.as_deref_mut().map(hurry);
    }
    sealed(plan)
}

pub(crate) fn run_of(plan: &Plan) -> Run {
    Run {
        v: 1,
        id: plan.id.run(),
        plan: plan.id.clone(),
        digest: plan.digest().clone(),
        by: plan.by.clone(),
        at: Timestamp::now(),
        holder: None,
        state: RunState::Waiting { reason: "it begins at once".to_owned(), not_before: None },
        journal: Vec::new(),
        dead_man: None,
        made: BTreeMap::new(),
        ended_at: None,
        acknowledged: None,
        unseen: Vec::new(),
    }
}

pub(crate) fn record_of(plan: &Plan) -> PlanRecord {
    let gate = Gate {
        verdict: Verdict::Automatic,
        reasons: Vec::new(),
        approvals: 0,
        not_before: None,
        rehearse: false,
    };
    let state = PlanState::Applied { run: plan.id.run(), by: plan.by.clone(), at: Timestamp::now() };
    PlanRecord { plan: plan.clone(), gate, state, approvals: Vec::new(), rehearsal: None, request: None }
}
