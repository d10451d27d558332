//! The allow list of calls: what each is understood as, from its method, path and parameters alone. A path is compared
//! with its own parts, which hold nothing that would have to be encoded; nothing is decoded.

use super::values as v;
use nhi_model::{
    guest::GuestKind,
    intent::Operation,
    plan::{ApiCall, Ends, Method, Repeat, Step},
};
use std::collections::BTreeMap;

/// A call as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The node in its path.
    pub(super) node: String,
    /// Kind of the guest it writes to; a backup's path does not tell.
    pub(super) kind: Option<GuestKind>,
    /// Number of the guest it writes to.
    pub(super) vmid: u32,
    /// What it does.
    pub(super) verb: Verb,
}

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Shutdown,
    Reboot,
    Reset,
    Suspend { to_disk: bool },
    Resume,
    Create,
    Clone { source: u32, to: Option<String>, of_snapshot: bool },
    Destroy { purge: bool },
    Snapshot { name: String, memory: bool },
    SnapshotDelete { name: String },
    Rollback { name: String, start: bool },
    Migrate { to: String, restart: bool },
    Resize { disk: String, bytes: u64 },
    Config { unprotects: bool },
    Backup,
}

impl Verb {
    /// Whether there is a guest more afterwards.
    pub(super) const fn makes(&self) -> bool {
        matches!(self, Self::Create | Self::Clone { .. })
    }

    /// The node its guest is on afterwards, when that is not the one it was sent to.
    pub(super) fn goes_to(&self) -> Option<&str> {
        match self {
            Self::Migrate { to, .. } => Some(to),
            Self::Clone { to, .. } => to.as_deref(),
            Self::Start
            | Self::Stop
            | Self::Shutdown
            | Self::Reboot
            | Self::Reset
            | Self::Suspend { .. }
            | Self::Resume
            | Self::Create
            | Self::Destroy { .. }
            | Self::Snapshot { .. }
            | Self::SnapshotDelete { .. }
            | Self::Rollback { .. }
            | Self::Resize { .. }
            | Self::Config { .. }
            | Self::Backup => None,
        }
    }

    /// Whether HA would work against it. Starts and stops become requests to HA.
    pub(super) const fn fights_ha(&self) -> bool {
        matches!(
            self,
            Self::Suspend { .. } | Self::Migrate { .. } | Self::Destroy { .. } | Self::Rollback { .. }
        )
    }

    /// Whether it is what a step says it is.
    fn is(&self, operation: Operation, kind: GuestKind) -> bool {
        let makes = match kind {
            GuestKind::Qemu => operation == Operation::CreateVm,
            GuestKind::Lxc => operation == Operation::CreateLxc,
        };
        match self {
            Self::Start => operation == Operation::Start,
            Self::Stop => operation == Operation::Stop,
            Self::Shutdown => operation == Operation::Shutdown,
            Self::Reboot => operation == Operation::Reboot,
            Self::Reset => operation == Operation::Reset,
            Self::Suspend { .. } => operation == Operation::Suspend,
            Self::Resume => operation == Operation::Resume,
            Self::Create => makes,
            Self::Clone { .. } => makes || operation == Operation::Clone,
            Self::Destroy { .. } => operation == Operation::Destroy,
            Self::Snapshot { .. } => operation == Operation::Snapshot,
            Self::SnapshotDelete { .. } => operation == Operation::SnapshotDelete,
            Self::Rollback { .. } => operation == Operation::Rollback,
            Self::Migrate { .. } => operation == Operation::Migrate,
            // What finishes a guest that is being made is part of making it; that it is one is checked by replay.
            Self::Resize { .. } => operation == Operation::Resize || operation.creates(),
            // A copy inherits protection, and what makes it may take that away; nothing else may.
            Self::Config { unprotects: true } => operation.creates(),
            Self::Config { unprotects: false } => operation == Operation::Set || operation.creates(),
            Self::Backup => operation == Operation::Backup,
        }
    }

    /// Types the task may have; none when the call ends with its answer.
    fn tasks(&self, kind: GuestKind) -> &'static [&'static str] {
        match (self, kind) {
            (Self::Start, GuestKind::Qemu) => &["qmstart", "hastart"],
            (Self::Start, GuestKind::Lxc) => &["vzstart", "hastart"],
            (Self::Stop, GuestKind::Qemu) => &["qmstop", "hastop"],
            (Self::Stop, GuestKind::Lxc) => &["vzstop", "hastop"],
            (Self::Shutdown, GuestKind::Qemu) => &["qmshutdown", "hashutdown", "hastop"],
            (Self::Shutdown, GuestKind::Lxc) => &["vzshutdown", "hashutdown", "hastop"],
            (Self::Reboot, GuestKind::Qemu) => &["qmreboot"],
            (Self::Reboot, GuestKind::Lxc) => &["vzreboot"],
            (Self::Reset, _) => &["qmreset"],
            (Self::Suspend { .. }, _) => &["qmsuspend", "qmpause"],
            (Self::Resume, GuestKind::Qemu) => &["qmresume", "qmstart"],
            (Self::Resume, GuestKind::Lxc) => &["vzresume", "vzstart"],
            (Self::Create, GuestKind::Qemu) => &["qmcreate"],
            (Self::Create, GuestKind::Lxc) => &["vzcreate"],
            (Self::Clone { .. }, GuestKind::Qemu) => &["qmclone"],
            (Self::Clone { .. }, GuestKind::Lxc) => &["vzclone"],
            (Self::Destroy { .. }, GuestKind::Qemu) => &["qmdestroy"],
            (Self::Destroy { .. }, GuestKind::Lxc) => &["vzdestroy"],
            (Self::Snapshot { .. }, GuestKind::Qemu) => &["qmsnapshot"],
            (Self::Snapshot { .. }, GuestKind::Lxc) => &["vzsnapshot"],
            (Self::SnapshotDelete { .. }, GuestKind::Qemu) => &["qmdelsnapshot"],
            (Self::SnapshotDelete { .. }, GuestKind::Lxc) => &["vzdelsnapshot"],
            (Self::Rollback { .. }, GuestKind::Qemu) => &["qmrollback"],
            (Self::Rollback { .. }, GuestKind::Lxc) => &["vzrollback"],
            (Self::Migrate { .. }, GuestKind::Qemu) => &["qmigrate", "hamigrate"],
            (Self::Migrate { .. }, GuestKind::Lxc) => &["vzmigrate", "hamigrate"],
            (Self::Resize { .. }, _) => &["resize"],
            (Self::Config { .. }, _) => &[],
            (Self::Backup, _) => &["vzdump"],
        }
    }

    /// Whether a second one would be an effect of its own.
    const fn is_harmful_twice(&self) -> bool {
        matches!(self, Self::Reboot | Self::Reset | Self::Rollback { .. } | Self::Backup)
    }
}

/// Longest a task may be waited for, seconds: a day, for a backup or a move of large disks.
const SECONDS_MAX: u32 = 24 * 60 * 60;
/// Longest an effect may take to show after its task, seconds.
const SETTLE_S_MAX: u32 = 60 * 60;

/// Understands a step's call, and whether it is what the step says.
pub(super) fn read(step: &Step) -> Result<Call, String> {
    let call = call(&step.call)?;
    let kind = call.kind.or_else(|| kind_of(step)).ok_or("its guest is neither a machine nor a container")?;
    if !call.verb.is(step.operation, kind) {
        return Err(format!("{} is not {}", step.call, step.operation));
    }
    if step.node != call.node {
        return Err(format!("it counts for node {} and goes to node {}", step.node, call.node));
    }
    if step.settle_s > SETTLE_S_MAX {
        return Err(format!("{} s is too long for an effect to show", step.settle_s));
    }
    if call.verb.is_harmful_twice() && step.repeat == Repeat::Harmless {
        return Err("a second one would be an effect of its own, and it says it would not".to_owned());
    }
    ends(step, &call, kind)?;
    Ok(call)
}

fn kind_of(step: &Step) -> Option<GuestKind> {
    [GuestKind::Qemu, GuestKind::Lxc].into_iter().find(|kind| kind.section() == step.guest.section())
}

/// The task it starts is of the right types, and carries the number that is in the path.
fn ends(step: &Step, call: &Call, kind: GuestKind) -> Result<(), String> {
    let known = call.verb.tasks(kind);
    let number = if let Verb::Clone { source, .. } = call.verb { source } else { call.vmid };
    match &step.ends {
        // Older versions answer a resize at once.
        Ends::Answer {} if known.is_empty() || matches!(call.verb, Verb::Resize { .. }) => Ok(()),
        Ends::Answer {} => Err("it starts a task, and its end would not be known".to_owned()),
        Ends::Task { kinds, vmid, seconds_max } => {
            if kinds.is_empty() || kinds.iter().any(|kind| !known.contains(&kind.as_str())) {
                return Err(format!("its task is not one of {kinds:?}"));
            }
            if *vmid != number {
                return Err(format!("its task has the number {number}, not {vmid}"));
            }
            if !(1..=SECONDS_MAX).contains(seconds_max) {
                return Err(format!("{seconds_max} s is no time to wait for a task"));
            }
            Ok(())
        }
    }
}

/// Understands a call.
pub(super) fn call(call: &ApiCall) -> Result<Call, String> {
    let unknown = || format!("{} {} is no call this program may make", call.method.as_str(), call.path);
    let mut segments = call.path.split('/');
    if (segments.next(), segments.next()) != (Some(""), Some("nodes")) {
        return Err(unknown());
    }
    let node = segments.next().filter(|node| v::node(node)).ok_or_else(unknown)?;
    let rest: Vec<&str> = segments.collect();
    if rest == ["vzdump"] && call.method == Method::Post {
        let params = checked(&call.params, BACKUP)?;
        return Ok(Call { node: node.to_owned(), kind: None, vmid: params.vmid("vmid"), verb: Verb::Backup });
    }
    let (kind, rest) = match rest.split_first() {
        Some((&"qemu", rest)) => (GuestKind::Qemu, rest),
        Some((&"lxc", rest)) => (GuestKind::Lxc, rest),
        Some(_) | None => return Err(unknown()),
    };
    let Some((number, rest)) = rest.split_first() else {
        if call.method != Method::Post {
            return Err(unknown());
        }
        let params = checked(&call.params, if kind == GuestKind::Qemu { CREATE_VM } else { CREATE_LXC })?;
        let vmid = params.vmid("vmid");
        return Ok(Call { node: node.to_owned(), kind: Some(kind), vmid, verb: Verb::Create });
    };
    if !v::vmid(number) {
        return Err(unknown());
    }
    let number: u32 = number.parse().map_err(|_| unknown())?;
    let verb = of_guest(call, kind, number, rest).ok_or_else(unknown)??;
    let vmid = if verb.makes() { Params(&call.params).vmid("newid") } else { number };
    Ok(Call { node: node.to_owned(), kind: Some(kind), vmid, verb })
}

/// A call below a guest; `None` when there is none of this method and path.
fn of_guest(call: &ApiCall, kind: GuestKind, number: u32, rest: &[&str]) -> Option<Result<Verb, String>> {
    let qemu = kind == GuestKind::Qemu;
    let with = |list: &'static [Param], verb: &dyn Fn(Params<'_>) -> Verb| {
        Some(checked(&call.params, list).map(verb))
    };
    match (call.method, rest) {
        (Method::Post, ["status", word]) => power(call, qemu, word),
        (Method::Post, ["clone"]) => with(if qemu { CLONE_VM } else { CLONE_LXC }, &|params| Verb::Clone {
            source: number,
            to: params.text("target"),
            of_snapshot: params.text("snapname").is_some(),
        }),
        (Method::Delete, []) => with(DESTROY, &|params| Verb::Destroy { purge: params.is_on("purge") }),
        (Method::Post, ["snapshot"]) => {
            with(if qemu { SNAPSHOT_VM } else { SNAPSHOT_LXC }, &|params| Verb::Snapshot {
                name: params.text("snapname").unwrap_or_default(),
                memory: params.is_on("vmstate"),
            })
        }
        (Method::Delete, ["snapshot", name]) if v::snapshot(name) => {
            with(&[], &|_| Verb::SnapshotDelete { name: (*name).to_owned() })
        }
        (Method::Post, ["snapshot", name, "rollback"]) if v::snapshot(name) => with(ROLLBACK, &|params| {
            Verb::Rollback { name: (*name).to_owned(), start: params.is_on("start") }
        }),
        (Method::Post, ["migrate"]) => with(if qemu { MIGRATE_VM } else { MIGRATE_LXC }, &|params| {
            Verb::Migrate { to: params.text("target").unwrap_or_default(), restart: params.is_on("restart") }
        }),
        (Method::Put, ["resize"]) => with(RESIZE, &|params| Verb::Resize {
            disk: params.text("disk").unwrap_or_default(),
            bytes: params.text("size").as_deref().and_then(v::size_bytes).unwrap_or_default(),
        }),
        (Method::Put, ["config"]) => {
            let removed = call.params.get("delete").map(String::as_str).unwrap_or_default();
            if let Some(line) = removed.split(',').find(|line| call.params.contains_key(*line)) {
                return Some(Err(format!("{line} is set and removed in one call")));
            }
            with(CONFIG, &|_| Verb::Config { unprotects: v::unprotects(removed) })
        }
        (Method::Post | Method::Put | Method::Delete, _) => None,
    }
}

fn power(call: &ApiCall, qemu: bool, word: &str) -> Option<Result<Verb, String>> {
    let with = |list: &'static [Param], verb: Verb| Some(checked(&call.params, list).map(|_| verb));
    match word {
        "start" => with(&[], Verb::Start),
        "stop" => with(&[], Verb::Stop),
        "shutdown" => with(WAIT, Verb::Shutdown),
        "reboot" => with(WAIT, Verb::Reboot),
        "resume" => with(&[], Verb::Resume),
        "reset" if qemu => with(&[], Verb::Reset),
        "suspend" if qemu => {
            let to_disk = Params(&call.params).is_on("todisk");
            with(SUSPEND, Verb::Suspend { to_disk })
        }
        _ => None,
    }
}

/// Parameters that were checked.
#[derive(Clone, Copy)]
struct Params<'a>(&'a BTreeMap<String, String>);

impl Params<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn is_on(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|text| v::on(text))
    }

    fn vmid(&self, name: &str) -> u32 {
        self.0.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

/// A parameter a call may have.
struct Param {
    name: &'static str,
    needed: bool,
    good: fn(&str) -> bool,
}

const fn must(name: &'static str, good: fn(&str) -> bool) -> Param {
    Param { name, needed: true, good }
}

const fn may(name: &'static str, good: fn(&str) -> bool) -> Param {
    Param { name, needed: false, good }
}

fn checked<'a>(params: &'a BTreeMap<String, String>, list: &[Param]) -> Result<Params<'a>, String> {
    for (name, value) in params {
        match list.iter().find(|param| param.name == name) {
            None => return Err(format!("the parameter {name:?} is none it may have")),
            Some(param) if !(param.good)(value) => {
                return Err(format!("{name}={value:?} is no value it may have"));
            }
            Some(_) => {}
        }
    }
    match list.iter().find(|param| param.needed && !params.contains_key(param.name)) {
        Some(param) => Err(format!("the parameter {:?} is missing", param.name)),
        None => Ok(Params(params)),
    }
}

const WAIT: &[Param] = &[may("timeout", v::seconds)];
const SUSPEND: &[Param] = &[may("todisk", v::flag)];
const CREATE_VM: &[Param] = &[
    must("vmid", v::vmid),
    must("name", v::dns_name),
    may("agent", v::card),
    may("boot", v::boot),
    may("cores", v::cores),
    may("cpu", v::one_word),
    may("description", v::notes),
    may("ide2", v::image),
    may("memory", v::memory_mib),
    may("net0", v::card),
    may("onboot", v::flag),
    may("ostype", v::one_word),
    may("pool", v::pool),
    may("scsi0", v::new_disk),
    may("scsihw", v::one_word),
    may("tags", v::tags),
];
const CREATE_LXC: &[Param] = &[
    must("vmid", v::vmid),
    must("hostname", v::dns_name),
    must("ostemplate", v::container_template),
    // A privileged container's root is the host's.
    must("unprivileged", v::on),
    may("cores", v::cores),
    may("description", v::notes),
    may("features", v::nesting),
    may("memory", v::memory_mib),
    may("net0", v::card),
    may("onboot", v::flag),
    may("pool", v::pool),
    may("rootfs", v::new_disk),
    may("storage", v::storage),
    may("tags", v::tags),
];
const CLONE_VM: &[Param] = &[
    must("newid", v::vmid),
    must("name", v::dns_name),
    may("description", v::notes),
    may("full", v::flag),
    may("pool", v::pool),
    may("snapname", v::snapshot),
    may("storage", v::storage),
    may("target", v::node),
];
const CLONE_LXC: &[Param] = &[
    must("newid", v::vmid),
    must("hostname", v::dns_name),
    may("description", v::notes),
    may("full", v::flag),
    may("pool", v::pool),
    may("snapname", v::snapshot),
    may("storage", v::storage),
    may("target", v::node),
];
// `force` kills a running container; disks that nothing names may be somebody's all the same.
const DESTROY: &[Param] = &[may("purge", v::flag), may("destroy-unreferenced-disks", v::off)];
const SNAPSHOT_VM: &[Param] =
    &[must("snapname", v::snapshot), may("description", v::notes), may("vmstate", v::flag)];
const SNAPSHOT_LXC: &[Param] = &[must("snapname", v::snapshot), may("description", v::notes)];
const ROLLBACK: &[Param] = &[may("start", v::flag)];
const MIGRATE_VM: &[Param] = &[
    must("target", v::node),
    may("online", v::flag),
    may("targetstorage", v::storage),
    may("with-local-disks", v::flag),
];
const MIGRATE_LXC: &[Param] = &[
    must("target", v::node),
    may("restart", v::flag),
    may("target-storage", v::storage),
    may("timeout", v::seconds),
];
const RESIZE: &[Param] = &[must("disk", v::disk), must("size", v::size), may("digest", v::digest)];
const CONFIG: &[Param] = &[
    may("cores", v::cores),
    may("delete", v::removable),
    may("description", v::notes),
    may("digest", v::digest),
    may("memory", v::memory_mib),
    may("net0", v::card),
    may("onboot", v::flag),
    may("tags", v::tags),
];
// Without `remove=0` a backup also removes older ones.
const BACKUP: &[Param] = &[
    must("vmid", v::vmid),
    must("mode", v::gentle_backup),
    must("remove", v::off),
    may("compress", v::one_word),
    may("notes-template", v::notes_template),
    may("storage", v::storage),
];
