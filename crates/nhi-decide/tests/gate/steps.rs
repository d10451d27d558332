//! Steps made by hand, the way a planner would.

use crate::lab::{identity, key, kind, now, params, status};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::Operation,
    plan::{ApiCall, ConfigChange, Ends, Method, Repeat, Step},
};

/// One call for one guest, on the node it is on.
#[derive(Clone, Debug)]
pub(crate) struct Draw<'a> {
    pub(crate) operation: Operation,
    pub(crate) vmid: u32,
    pub(crate) method: Method,
    /// Below `/nodes/NODE`.
    pub(crate) path: String,
    pub(crate) params: &'a [(&'a str, &'a str)],
    /// The task's type without `qm` or `vz`; absent when the call ends with its answer.
    pub(crate) task: Option<&'a str>,
    pub(crate) before: Vec<Fact>,
    pub(crate) after: Vec<Fact>,
    pub(crate) repeat: Repeat,
}

impl Draw<'_> {
    pub(crate) fn step(self, node: &str) -> Step {
        let prefix = if kind(self.vmid) == GuestKind::Qemu { "qm" } else { "vz" };
        Step {
            what: format!("{} guest {}", self.operation, self.vmid),
            operation: self.operation,
            guest: key(self.vmid),
            node: node.to_owned(),
            call: ApiCall {
                method: self.method,
                path: format!("/nodes/{node}{}", self.path),
                params: params(self.params),
            },
            ends: match self.task {
                Some("vzdump") => {
                    Ends::Task { kinds: vec!["vzdump".to_owned()], vmid: self.vmid, seconds_max: 3600 }
                }
                Some(task) => {
                    Ends::Task { kinds: vec![format!("{prefix}{task}")], vmid: self.vmid, seconds_max: 600 }
                }
                None => Ends::Answer {},
            },
            before: [sure(self.operation, self.vmid, node), self.before].concat(),
            after: self.after,
            settle_s: 10,
            repeat: self.repeat,
            compensation: None,
        }
    }
}

/// What a planner looks at before each call on a guest that is there.
fn sure(operation: Operation, vmid: u32, node: &str) -> Vec<Fact> {
    if operation.creates() {
        return Vec::new();
    }
    let guest = || key(vmid);
    let mut facts = vec![
        Fact::SameGuest { guest: guest(), identity: identity(vmid) },
        Fact::OnNode { guest: guest(), node: node.to_owned() },
        Fact::Unlocked { guest: guest() },
    ];
    if nhi_decide::policy::harms_protected(operation) {
        facts.push(Fact::Unprotected { guest: guest() });
    }
    if matches!(operation, Operation::Suspend | Operation::Migrate | Operation::Destroy | Operation::Rollback)
    {
        facts.push(Fact::HaManaged { guest: guest(), managed: false });
    }
    facts
}

fn base(vmid: u32) -> String {
    format!("/{}/{vmid}", kind(vmid).as_str())
}

/// `start`, `stop`, `shutdown`, `reboot`, `reset`, `suspend` or `resume`.
pub(crate) fn power(operation: Operation, vmid: u32, node: &str) -> Step {
    use GuestStatus::{Paused, Running, Stopped};
    let (before, after, repeat) = match operation {
        Operation::Start => (Stopped, Running, Repeat::Harmless),
        Operation::Resume => (Paused, Running, Repeat::Harmless),
        Operation::Suspend => (Running, Paused, Repeat::Harmless),
        Operation::Reboot | Operation::Reset => (Running, Running, Repeat::Harmful),
        _ => (Running, Stopped, Repeat::Harmless),
    };
    let task = if operation == Operation::Suspend { "pause" } else { operation.as_str() };
    Draw {
        operation,
        vmid,
        method: Method::Post,
        path: format!("{}/status/{operation}", base(vmid)),
        params: &[],
        task: Some(task),
        before: vec![status(vmid, before)],
        after: vec![status(vmid, after)],
        repeat,
    }
    .step(node)
}

pub(crate) fn snapshot(vmid: u32, node: &str, name: &str) -> Step {
    let fact = |present| Fact::Snapshot { guest: key(vmid), name: name.to_owned(), present };
    Draw {
        operation: Operation::Snapshot,
        vmid,
        method: Method::Post,
        path: format!("{}/snapshot", base(vmid)),
        params: &[("snapname", name)],
        task: Some("snapshot"),
        before: vec![fact(false)],
        after: vec![fact(true)],
        repeat: Repeat::Harmless,
    }
    .step(node)
}

pub(crate) fn destroy(vmid: u32, node: &str) -> Step {
    Draw {
        operation: Operation::Destroy,
        vmid,
        method: Method::Delete,
        path: base(vmid),
        params: &[("destroy-unreferenced-disks", "0")],
        task: Some("destroy"),
        before: vec![status(vmid, GuestStatus::Stopped)],
        after: vec![Fact::Gone { guest: key(vmid) }],
        repeat: Repeat::Harmless,
    }
    .step(node)
}

/// Back to a snapshot every guest of the lab has.
pub(crate) fn rollback(vmid: u32, node: &str, name: &str) -> Step {
    Draw {
        operation: Operation::Rollback,
        vmid,
        method: Method::Post,
        path: format!("{}/snapshot/{name}/rollback", base(vmid)),
        params: &[],
        task: Some("rollback"),
        before: vec![
            Fact::Snapshot { guest: key(vmid), name: name.to_owned(), present: true },
            status(vmid, GuestStatus::Running),
        ],
        after: vec![status(vmid, GuestStatus::Stopped)],
        repeat: Repeat::Harmful,
    }
    .step(node)
}

pub(crate) fn snapshot_delete(vmid: u32, node: &str, name: &str) -> Step {
    let fact = |present| Fact::Snapshot { guest: key(vmid), name: name.to_owned(), present };
    Draw {
        operation: Operation::SnapshotDelete,
        vmid,
        method: Method::Delete,
        path: format!("{}/snapshot/{name}", base(vmid)),
        params: &[],
        task: Some("delsnapshot"),
        before: vec![fact(true)],
        after: vec![fact(false)],
        repeat: Repeat::Harmless,
    }
    .step(node)
}

pub(crate) fn migrate(vmid: u32, node: &str, to: &str, now: GuestStatus) -> Step {
    let online: &[(&str, &str)] = match (kind(vmid), now) {
        (GuestKind::Qemu, GuestStatus::Running) => &[("target", to), ("online", "1")],
        (GuestKind::Lxc, GuestStatus::Running) => &[("target", to), ("restart", "1")],
        _ => &[("target", to)],
    };
    let mut step = Draw {
        operation: Operation::Migrate,
        vmid,
        method: Method::Post,
        path: format!("{}/migrate", base(vmid)),
        params: online,
        task: Some("migrate"),
        before: vec![status(vmid, now)],
        after: vec![Fact::OnNode { guest: key(vmid), node: to.to_owned() }, status(vmid, now)],
        repeat: Repeat::Harmless,
    }
    .step(node);
    // The type is `qmigrate`, not `qmmigrate`.
    if let Ends::Task { kinds, .. } = &mut step.ends {
        *kinds = vec![if kind(vmid) == GuestKind::Qemu { "qmigrate" } else { "vzmigrate" }.to_owned()];
    }
    step
}

pub(crate) fn resize(vmid: u32, node: &str, disk: &str, gib: u64) -> Step {
    let size = format!("{gib}G");
    let mut step = Draw {
        operation: Operation::Resize,
        vmid,
        method: Method::Put,
        path: format!("{}/resize", base(vmid)),
        params: &[("disk", disk), ("size", &size)],
        task: Some(""),
        before: Vec::new(),
        after: vec![Fact::DiskAtLeast { guest: key(vmid), disk: disk.to_owned(), bytes: gib << 30 }],
        repeat: Repeat::Harmless,
    }
    .step(node);
    if let Ends::Task { kinds, .. } = &mut step.ends {
        *kinds = vec!["resize".to_owned()];
    }
    step
}

pub(crate) fn backup(vmid: u32, node: &str) -> Step {
    let number = vmid.to_string();
    Draw {
        operation: Operation::Backup,
        vmid,
        method: Method::Post,
        path: "/vzdump".to_owned(),
        params: &[("vmid", &number), ("mode", "snapshot"), ("remove", "0"), ("storage", "pbs")],
        task: Some("vzdump"),
        before: Vec::new(),
        after: vec![Fact::BackupSince { guest: key(vmid), since: now() }],
        repeat: Repeat::Harmful,
    }
    .step(node)
}

/// Another memory size, and its way back.
pub(crate) fn set(vmid: u32, node: &str, mib: &str, back: &str) -> (Step, ConfigChange) {
    let write = |value: &str| {
        Draw {
            operation: Operation::Set,
            vmid,
            method: Method::Put,
            path: format!("{}/config", base(vmid)),
            params: &[("memory", value)],
            task: None,
            before: Vec::new(),
            after: vec![Fact::Config {
                guest: key(vmid),
                field: "memory".to_owned(),
                value: Some(value.to_owned()),
            }],
            repeat: Repeat::Harmless,
        }
        .step(node)
    };
    let mut step = write(mib);
    step.compensation = Some(Box::new(write(back)));
    let change = ConfigChange {
        guest: key(vmid),
        field: "memory".to_owned(),
        before: Some(back.to_owned()),
        after: Some(mib.to_owned()),
    };
    (step, change)
}

/// A linked clone of the template, with the step that removes it again.
pub(crate) fn clone(source: u32, vmid: u32, node: &str, name: &str) -> Step {
    let number = vmid.to_string();
    let named = || Fact::Named { guest: key(vmid), name: name.to_owned() };
    let mut step = Draw {
        operation: Operation::CreateVm,
        vmid,
        method: Method::Post,
        path: format!("{}/clone", base(source)),
        params: &[("newid", &number), ("name", name)],
        task: Some("clone"),
        before: vec![
            Fact::Gone { guest: key(vmid) },
            Fact::SameGuest { guest: key(source), identity: identity(source) },
        ],
        after: vec![named(), status(vmid, GuestStatus::Stopped)],
        repeat: Repeat::Harmless,
    }
    .step(node);
    if let Ends::Task { vmid, .. } = &mut step.ends {
        *vmid = source;
    }
    let mut back = destroy(vmid, node);
    back.before = vec![named(), status(vmid, GuestStatus::Stopped)];
    back.repeat = Repeat::Harmful;
    step.compensation = Some(Box::new(back));
    step
}
