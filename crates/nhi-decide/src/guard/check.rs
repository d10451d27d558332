//! What the tokens have against what they are meant to have: one finding for each difference, with its remedy.

use super::{
    Options, Permissions,
    floor::{reduce, register},
    privileges::{DANGEROUS, allowed, allowed_to_scan, looks, of, takes_room, users_of},
    user, word,
};
use nhi_model::alert::Severity;
use std::collections::{BTreeMap, BTreeSet};

/// What was read of Proxmox's rights.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// What is meant.
    pub options: &'a Options,
    /// The scanner's rights; `None` when they could not be read.
    pub scan: Option<&'a Permissions>,
    /// The actuator's; `None` when there is no token for it.
    pub act: Option<&'a Permissions>,
    /// Members of each pool; `None` when they could not be read.
    pub pools: Option<&'a BTreeMap<String, BTreeSet<u32>>>,
    /// Tags that are registered; `None` when that could not be read.
    pub registered: Option<&'a BTreeSet<String>>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is: `critical` when the floor has a hole.
    pub severity: Severity,
    /// What is so, one sentence.
    pub what: String,
    /// What to do: one sentence, or commands, one a line.
    pub remedy: String,
}

/// Every difference, the worst first.
pub fn check(input: &Check<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let options = input.options;
    if options.scan == options.act {
        found.push(Finding {
            severity: Severity::Warning,
            what: format!(
                "one token, {}, both looks and acts: what reads the lab could change it",
                options.scan
            ),
            remedy: "Make a second one: `nhi guard plan` prints how.".to_owned(),
        });
    }
    if let Some(rights) = input.scan {
        missing_to_scan(options, rights, &mut found);
        if options.scan != options.act {
            excess(
                input,
                "scanner",
                &options.scan,
                rights,
                &|path| allowed_to_scan(options, path),
                &mut found,
            );
        }
    }
    if let Some(rights) = input.act {
        missing_to_act(options, rights, &mut found);
        let at_most = |path: &str| allowed(options, path, is_member(input, path));
        excess(input, "actuator", &options.act, rights, &at_most, &mut found);
        protected(input, rights, &mut found);
    }
    pooled(input, &mut found);
    if let Some(registered) = input.registered
        && let Some(missing) = joined(options.tags.difference(registered))
    {
        found.push(Finding {
            severity: Severity::Warning,
            what: format!(
                "tags that protect are not registered, so whoever may set options takes them off: {missing}"
            ),
            remedy: register(&options.tags, registered),
        });
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn joined<'a>(words: impl Iterator<Item = &'a String>) -> Option<String> {
    let words: Vec<&str> = words.map(String::as_str).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What holds on a path: what is said for it, else what the nearest path above says and spreads.
fn effective<'a>(rights: &'a Permissions, path: &str) -> BTreeSet<&'a str> {
    let mut at = path;
    loop {
        if let Some(own) = rights.get(at) {
            let holds = own.iter().filter(|(_, spreads)| at == path || **spreads);
            return holds.map(|(privilege, _)| privilege.as_str()).collect();
        }
        at = match at.rfind('/') {
            Some(0) if at.len() > 1 => "/",
            Some(cut) if cut > 0 => &at[..cut],
            Some(_) | None => return BTreeSet::new(),
        };
    }
}

/// Whether a path is that of a guest in a pool of ours.
fn is_member(input: &Check<'_>, path: &str) -> bool {
    let Some(vmid) = path.strip_prefix("/vms/").and_then(|vmid| vmid.parse::<u32>().ok()) else {
        return false;
    };
    let members = |pool: &String| input.pools.and_then(|pools| pools.get(pool));
    input.options.pools.iter().filter_map(members).any(|members| members.contains(&vmid))
}

fn missing_to_scan(options: &Options, rights: &Permissions, found: &mut Vec<Finding>) {
    let mut needs = vec![
        ("/", "Sys.Audit", "nodes and the cluster's health are not seen"),
        ("/vms", "VM.Audit", "guests are not seen, and Proxmox does not say so"),
        ("/storage", "Datastore.Audit", "storages are not seen, and Proxmox does not say so"),
        ("/pool", "Pool.Audit", "pools are not seen"),
    ];
    if options.version.0 >= 9 {
        needs.push(("/vms", "VM.GuestAgent.Audit", "addresses of virtual machines are not seen"));
    }
    if options.sees_backups {
        needs.push(("/vms", "VM.Backup", "backups are not seen"));
        needs.push(("/storage", "Datastore.AllocateSpace", "backups are not seen"));
    }
    for (path, privilege, then) in needs {
        if effective(rights, path).contains(privilege) {
            continue;
        }
        let (role, at) = match (looks(privilege), path) {
            (true, _) => ("PVEAuditor", "/"),
            (false, "/storage") => ("NHBackupStore", path),
            (false, _) => ("NHBackupView", path),
        };
        found.push(Finding {
            severity: Severity::Warning,
            what: format!("the scanner's token has no {privilege} on {path}: {then}"),
            remedy: both(at, &options.scan, role),
        });
    }
}

/// The two commands of one grant.
fn both(path: &str, token: &str, role: &str) -> String {
    let (path, user, token) = (word(path), word(user(token)), word(token));
    format!(
        "pveum acl modify {path} --users {user} --roles {role}\npveum acl modify {path} --tokens {token} --roles {role}"
    )
}

fn missing_to_act(options: &Options, rights: &Permissions, found: &mut Vec<Finding>) {
    let mut need = |path: &str, privilege: &str, role: &str, then: String| {
        if !effective(rights, path).contains(privilege) {
            found.push(Finding {
                severity: Severity::Warning,
                what: format!("the actuator's token has no {privilege} on {path}: {then}"),
                remedy: both(path, &options.act, role),
            });
        }
    };
    need("/", "Sys.Audit", "PVEAuditor", "it cannot follow tasks, so it does nothing".to_owned());
    for privilege in of(&options.everywhere) {
        let users = users_of(privilege, &options.everywhere);
        need("/vms", privilege, "NHPower", format!("Proxmox refuses {users}"));
    }
    for pool in &options.pools {
        for privilege in of(&options.in_pools) {
            let users = users_of(privilege, &options.in_pools);
            need(
                &format!("/pool/{pool}"),
                privilege,
                "NHBuild",
                format!("Proxmox refuses {users} in that pool"),
            );
        }
    }
    let mut operations = options.everywhere.iter().chain(&options.in_pools);
    if operations.clone().any(|operation| takes_room(*operation)) {
        for storage in &options.storages {
            let then = "Proxmox refuses disks and backups there".to_owned();
            need(&format!("/storage/{storage}"), "Datastore.AllocateSpace", "NHSpace", then);
        }
    }
    if operations.any(|operation| operation.creates()) {
        for zone in &options.zones {
            let then = "Proxmox refuses network cards on its bridges".to_owned();
            need(&format!("/sdn/zones/{zone}"), "SDN.Use", "NHNet", then);
        }
    }
}

/// What is there and was not meant, by privilege.
fn excess(
    input: &Check<'_>,
    who: &str,
    token: &str,
    rights: &Permissions,
    at_most: &dyn Fn(&str) -> BTreeSet<&'static str>,
    found: &mut Vec<Finding>,
) {
    let mut by_privilege: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, held) in rights {
        let at_most = at_most(path);
        let over = held.keys().filter(|privilege| !looks(privilege) && !at_most.contains(privilege.as_str()));
        // A protected guest has a finding of its own.
        for privilege in over.filter(|_| who == "scanner" || !is_protected(input.options, path)) {
            by_privilege.entry(privilege).or_default().push(path);
        }
    }
    for (privilege, paths) in by_privilege {
        let dangerous = DANGEROUS.iter().find(|(name, _)| *name == privilege).map(|(_, then)| *then);
        let dangerous = dangerous.or((privilege == "VM.Allocate").then_some("it destroys guests there"));
        let severity = if dangerous.is_some() { Severity::Critical } else { Severity::Warning };
        let then = dangerous.unwrap_or("nothing of ours needs it");
        found.push(Finding {
            severity,
            what: format!("the {who}'s token has {privilege} on {}: {then}", paths.join(", ")),
            remedy: format!(
                "Take the role that brings it from {} and its user: `pveum acl list` shows it, `pveum acl delete` takes it away.",
                word(token)
            ),
        });
    }
}

fn is_protected(options: &Options, path: &str) -> bool {
    let vmid = path.strip_prefix("/vms/").and_then(|vmid| vmid.parse().ok());
    vmid.is_some_and(|vmid: u32| options.protected.contains(&vmid))
}

fn protected(input: &Check<'_>, rights: &Permissions, found: &mut Vec<Finding>) {
    for vmid in &input.options.protected {
        let held = effective(rights, &format!("/vms/{vmid}"));
        let over: Vec<&str> = held.into_iter().filter(|privilege| !looks(privilege)).collect();
        if !over.is_empty() {
            found.push(Finding {
                severity: Severity::Critical,
                what: format!(
                    "guest {vmid} is protected, and the actuator's token has {} on it",
                    over.join(", ")
                ),
                remedy: reduce(input.options, *vmid),
            });
        }
    }
}

/// Protected guests in pools that bring rights: the grant on the guest does not help there.
fn pooled(input: &Check<'_>, found: &mut Vec<Finding>) {
    for (pool, members) in input.pools.into_iter().flatten() {
        let granted = input.options.pools.contains(pool)
            || input.act.is_some_and(|rights| {
                effective(rights, &format!("/pool/{pool}")).iter().any(|privilege| !looks(privilege))
            });
        for vmid in members.intersection(&input.options.protected).filter(|_| granted) {
            found.push(Finding {
                severity: Severity::Critical,
                what: format!(
                    "guest {vmid} is protected and in pool {pool}, whose rights are added to its own"
                ),
                remedy: format!("pveum pool modify {} --vms {vmid} --delete 1", word(pool)),
            });
        }
    }
}
