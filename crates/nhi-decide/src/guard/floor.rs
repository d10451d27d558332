//! The commands that lay the floor, in an order in which they can be run as root on one node.

use super::{
    Options,
    privileges::{of, takes_room},
    user, word,
};
use nhi_model::intent::Operation;
use std::collections::BTreeSet;

/// The oldest version the floor is written for.
const OLDEST: u32 = 8;
/// The newest.
const NEWEST: u32 = 9;

/// What to run, and what to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Commands, in order.
    pub commands: Vec<Command>,
    /// What Proxmox cannot be told, a sentence each.
    pub notes: Vec<String>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The line, each word quoted where it must be.
    pub line: String,
    /// What for, one sentence.
    pub why: String,
}

impl Floor {
    fn run(&mut self, why: &str, line: String) {
        self.commands.push(Command { line, why: why.to_owned() });
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A grant to the token and its user: it has what both have.
    fn grant(&mut self, why: &str, path: &str, token: &str, role: &str) {
        let path = word(path);
        self.run(why, format!("pveum acl modify {path} --users {} --roles {role}", word(user(token))));
        self.run(why, format!("pveum acl modify {path} --tokens {} --roles {role}", word(token)));
    }

    fn role(&mut self, why: &str, role: &str, privileges: &BTreeSet<&str>) {
        let list = privileges.iter().copied().collect::<Vec<_>>().join(" ");
        self.run(why, format!("pveum role add {role} --privs {}", word(&list)));
    }

    fn token(&mut self, why: &str, token: &str) {
        let name = token.split_once('!').map_or("mesh", |(_, name)| name);
        self.run(why, format!("pveum user add {}", word(user(token))));
        self.run(why, format!("pveum user token add {} {} --privsep 1", word(user(token)), word(name)));
    }
}

/// The floor for these options; `registered` are the tags that are registered already.
pub fn plan(options: &Options, registered: &BTreeSet<String>) -> Floor {
    let mut floor = Floor::default();
    let (major, minor) = options.version;
    if major < OLDEST {
        floor.note(format!(
            "Proxmox VE {major}.{minor} is older than {OLDEST}, and its rights are others: update it, and ask again."
        ));
        return floor;
    }
    if major > NEWEST {
        floor.note(format!(
            "Proxmox VE {major}.{minor} is newer than this program knows: compare the roles with its own documentation."
        ));
    }
    scanner(&mut floor, options);
    actuator(&mut floor, options);
    pools(&mut floor, options);
    protected(&mut floor, options, registered);
    notes(&mut floor, options);
    floor
}

fn scanner(floor: &mut Floor, options: &Options) {
    let why = "The scanner looks and does not touch.";
    floor.token(why, &options.scan);
    floor.grant(why, "/", &options.scan, "PVEAuditor");
    if options.sees_backups {
        let why = "The scanner sees backups; Proxmox shows them to nobody who could not make some.";
        // It replaces PVEAuditor there, so what that brings is in it.
        let mut privileges = BTreeSet::from(["VM.Audit", "VM.Backup"]);
        if options.version.0 >= 9 {
            privileges.insert("VM.GuestAgent.Audit");
        }
        floor.role(why, "NHBackupView", &privileges);
        floor.grant(why, "/vms", &options.scan, "NHBackupView");
        floor.role(why, "NHBackupStore", &["Datastore.AllocateSpace", "Datastore.Audit"].into());
        floor.grant(why, "/storage", &options.scan, "NHBackupStore");
    }
}

fn actuator(floor: &mut Floor, options: &Options) {
    let why = "The actuator has a user and a token of its own, and sees what the scanner sees.";
    floor.token(why, &options.act);
    floor.grant(why, "/", &options.act, "PVEAuditor");
    if !options.everywhere.is_empty() {
        let why = "What it may do to every guest that is not protected.";
        floor.role(why, "NHPower", &of(&options.everywhere));
        floor.grant(why, "/vms", &options.act, "NHPower");
    }
    let room = options.everywhere.iter().chain(&options.in_pools).any(|operation| takes_room(*operation));
    if room && !options.storages.is_empty() {
        let why = "Room for disks and backups, on these storages alone.";
        floor.role(why, "NHSpace", &["Datastore.AllocateSpace", "Datastore.Audit"].into());
        for storage in &options.storages {
            floor.grant(why, &format!("/storage/{storage}"), &options.act, "NHSpace");
        }
    }
    if makes(options) && !options.zones.is_empty() {
        let why = "Bridges for the network cards of new guests.";
        floor.role(why, "NHNet", &["SDN.Audit", "SDN.Use"].into());
        for zone in &options.zones {
            floor.grant(why, &format!("/sdn/zones/{zone}"), &options.act, "NHNet");
        }
    }
}

fn makes(options: &Options) -> bool {
    let mut all = options.everywhere.iter().chain(&options.in_pools);
    all.any(|operation| operation.creates())
}

fn pools(floor: &mut Floor, options: &Options) {
    if !options.pools.is_empty() && !options.in_pools.is_empty() {
        let why =
            "Guests are made, changed and destroyed in these pools, and Proxmox refuses it anywhere else.";
        let mut privileges = of(&options.in_pools);
        privileges.insert("Pool.Audit");
        floor.role(why, "NHBuild", &privileges);
        for pool in &options.pools {
            floor.run(why, format!("pveum pool add {}", word(pool)));
            floor.grant(why, &format!("/pool/{pool}"), &options.act, "NHBuild");
        }
    }
    if options.in_pools.contains(&Operation::Clone) && !options.templates.is_empty() {
        let why = "Templates outside the pools may be copied, and nothing else.";
        floor.role(why, "NHTemplate", &["VM.Audit", "VM.Clone"].into());
        for vmid in &options.templates {
            floor.grant(why, &format!("/vms/{vmid}"), &options.act, "NHTemplate");
        }
    }
}

fn protected(floor: &mut Floor, options: &Options, registered: &BTreeSet<String>) {
    let why =
        "A grant on the guest itself replaces what comes from above: Proxmox refuses every change of it.";
    for vmid in &options.protected {
        floor.run(why, reduce(options, *vmid));
    }
    if !options.tags.is_subset(registered) {
        let why = "Only who may change the datacenter takes these tags on or off.";
        floor.run(why, register(&options.tags, registered));
    }
}

/// The command that makes a guest untouchable.
pub(super) fn reduce(options: &Options, vmid: u32) -> String {
    format!("pveum acl modify /vms/{vmid} --tokens {} --roles PVEAuditor", word(&options.act))
}

/// The command that registers tags; the list is set as a whole, so those that are there stay in it.
pub(super) fn register(tags: &BTreeSet<String>, registered: &BTreeSet<String>) -> String {
    let all: Vec<&str> = tags.union(registered).map(String::as_str).collect();
    format!("pvesh set /cluster/options --registered-tags {}", word(&all.join(";")))
}

fn notes(floor: &mut Floor, options: &Options) {
    floor.note("A role or user that exists already makes its command fail: use `pveum role modify` with the same list.");
    floor.note("Keep the two secrets that are printed once: they go into the environment, never into a file of the lab.");
    if !options.protected.is_empty() {
        floor.note(
            "Keep protected guests out of the pools above: a pool's role is added to what its members have.",
        );
    }
    let snapshots = options.everywhere.iter().chain(&options.in_pools);
    let rolls_back = options.everywhere.contains(&Operation::Rollback);
    if snapshots.clone().any(|operation| *operation == Operation::Snapshot) && !rolls_back {
        floor.note(
            "Proxmox has no right for snapshots without rollbacks: that the actuator does not roll back is kept by Neural-Home alone.",
        );
    }
    if options.version.0 == 8 {
        floor.note(
            "On version 8 addresses of virtual machines need VM.Monitor, which also runs programs in the guest: it is left out.",
        );
    }
}
