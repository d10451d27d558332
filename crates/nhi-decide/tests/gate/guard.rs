//! The floor: the commands it takes, and that what they give has no finding, while each hole and each lack has one.

use nhi_decide::guard::{self, Check, Finding, Options, Permissions};
use nhi_model::{alert::Severity, intent::Operation, policy::Policy};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn options(version: (u32, u32)) -> Options {
    Options {
        protected: [100, 101].into(),
        templates: [9000].into(),
        tags: set(&["nh-critical"]),
        ..Options::usual(version, &Policy::default())
    }
}

/// Proxmox's own role, as far as it is told apart here.
fn auditor(version: (u32, u32)) -> BTreeSet<String> {
    let mut out =
        set(&["Sys.Audit", "VM.Audit", "Datastore.Audit", "SDN.Audit", "Pool.Audit", "Mapping.Audit"]);
    if version.0 >= 9 {
        out.insert("VM.GuestAgent.Audit".to_owned());
    }
    out
}

/// What the commands give a token, as Proxmox would answer it: a deeper path replaces, and a pool's role is added to
/// its members.
fn granted(options: &Options, token: &str, members: &BTreeSet<u32>) -> Permissions {
    let floor = guard::plan(options, &BTreeSet::new());
    let mut roles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    roles.insert("PVEAuditor".to_owned(), auditor(options.version));
    let mut own: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for command in &floor.commands {
        let line = command.line.replace('\'', "");
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["pveum", "role", "add", role, "--privs", rest @ ..] => {
                roles.insert((*role).to_owned(), set(rest));
            }
            ["pveum", "acl", "modify", path, kind, who, "--roles", role] => {
                let privileges = roles[*role].clone();
                let grants = match *kind {
                    "--users" => &mut users,
                    "--tokens" => &mut own,
                    other => panic!("{other}"),
                };
                if *who == token || token.starts_with(&format!("{who}!")) {
                    grants.entry((*path).to_owned()).or_default().extend(privileges);
                }
            }
            ["pveum", "user", "add", _]
            | ["pveum", "user", "token", "add", _, _, "--privsep", "1"]
            | ["pveum", "pool", "add", _]
            | ["pvesh", "set", "/cluster/options", "--registered-tags", _] => {}
            other => panic!("an unknown command: {other:?}"),
        }
    }
    let mut paths: BTreeSet<String> = own.keys().chain(users.keys()).cloned().collect();
    paths.extend(["/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms"].map(str::to_owned));
    paths.extend(members.iter().map(|vmid| format!("/vms/{vmid}")));
    let at = |grants: &BTreeMap<String, BTreeSet<String>>, path: &str| -> BTreeSet<String> {
        let mut at = path;
        let mut held = loop {
            if let Some(held) = grants.get(at) {
                break held.clone();
            }
            match at.rfind('/') {
                Some(0) if at.len() > 1 => at = "/",
                Some(cut) if cut > 0 => at = &at[..cut],
                _ => break BTreeSet::new(),
            }
        };
        let member = path.strip_prefix("/vms/").and_then(|vmid| vmid.parse().ok());
        if member.is_some_and(|vmid: u32| members.contains(&vmid)) {
            held.extend(grants.get("/pool/lab").into_iter().flatten().cloned());
        }
        held
    };
    paths
        .into_iter()
        .map(|path| {
            let held = &at(&own, &path) & &at(&users, &path);
            (path, held.into_iter().map(|privilege| (privilege, true)).collect::<BTreeMap<_, _>>())
        })
        .filter(|(_, held)| !held.is_empty())
        .collect()
}

fn findings(
    options: &Options,
    scan: &Permissions,
    act: &Permissions,
    members: &BTreeSet<u32>,
) -> Vec<Finding> {
    let pools = BTreeMap::from([("lab".to_owned(), members.clone())]);
    let registered = set(&["nh-critical"]);
    guard::check(&Check {
        options,
        scan: Some(scan),
        act: Some(act),
        pools: Some(&pools),
        registered: Some(&registered),
    })
}

fn checked(options: &Options, change: impl FnOnce(&mut Permissions, &mut Permissions)) -> Vec<Finding> {
    let members = [300].into();
    let mut scan = granted(options, &options.scan, &members);
    let mut act = granted(options, &options.act, &members);
    change(&mut scan, &mut act);
    findings(options, &scan, &act, &members)
}

fn one(findings: &[Finding]) -> &Finding {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    &findings[0]
}

#[test]
fn what_the_commands_give_is_what_is_checked() {
    for version in [(8, 4), (9, 1)] {
        for sees_backups in [false, true] {
            let options = Options { sees_backups, ..options(version) };
            assert_eq!(checked(&options, |_, _| {}), [], "{version:?}");
        }
    }
}

#[test]
fn the_commands_read_as_the_manual_has_them() {
    let floor = guard::plan(&options((9, 1)), &set(&["production"]));
    let lines: Vec<&str> = floor.commands.iter().map(|command| command.line.as_str()).collect();
    for expected in [
        "pveum user token add nhi-act@pve mesh --privsep 1",
        "pveum acl modify / --users nhi-scan@pve --roles PVEAuditor",
        "pveum acl modify / --tokens 'nhi-scan@pve!mesh' --roles PVEAuditor",
        "pveum role add NHPower --privs 'VM.Audit VM.Backup VM.PowerMgmt VM.Snapshot'",
        "pveum acl modify /vms --tokens 'nhi-act@pve!mesh' --roles NHPower",
        "pveum pool add lab",
        "pveum acl modify /pool/lab --tokens 'nhi-act@pve!mesh' --roles NHBuild",
        "pveum acl modify /vms/9000 --tokens 'nhi-act@pve!mesh' --roles NHTemplate",
        "pveum acl modify /vms/101 --tokens 'nhi-act@pve!mesh' --roles PVEAuditor",
        "pvesh set /cluster/options --registered-tags 'nh-critical;production'",
    ] {
        assert!(lines.contains(&expected), "{expected} is not in {lines:#?}");
    }
    let all = lines.join("\n");
    for never in [
        "Sys.Modify",
        "Permissions.Modify",
        "Administrator",
        "VM.Monitor",
        "Datastore.Allocate ",
        "Unrestricted",
    ] {
        assert!(!all.contains(never), "{never}");
    }
    assert!(floor.commands.iter().all(|command| !command.why.is_empty()));
    let registered = guard::plan(&options((9, 1)), &set(&["nh-critical"]));
    assert!(!registered.commands.iter().any(|command| command.line.contains("registered-tags")));
}

#[test]
fn versions_differ_in_what_is_told() {
    let notes = |version| guard::plan(&options(version), &BTreeSet::new()).notes.join("\n");
    assert!(notes((8, 4)).contains("VM.Monitor") && !notes((9, 1)).contains("VM.Monitor"));
    let old = guard::plan(&options((7, 4)), &BTreeSet::new());
    assert!(old.commands.is_empty() && old.notes[0].contains("older than 8"));
    assert!(notes((10, 0)).contains("newer than this program knows"));
}

#[test]
fn what_policy_never_does_takes_no_rights() {
    let mut policy = Policy::default();
    policy.operations.never = Some([Operation::Backup, Operation::Migrate].into());
    let options = Options::usual((9, 1), &policy);
    let lines: Vec<String> =
        guard::plan(&options, &BTreeSet::new()).commands.into_iter().map(|command| command.line).collect();
    assert!(
        !lines.iter().any(|line| line.contains("VM.Backup") || line.contains("VM.Migrate")),
        "{lines:#?}"
    );
    let rollback = Policy {
        operations: nhi_model::policy::Rules {
            never: Some([Operation::Rollback].into()),
            ..Default::default()
        },
        ..Policy::default()
    };
    let floor = guard::plan(&Options::usual((9, 1), &rollback), &BTreeSet::new());
    assert!(
        floor.notes.iter().any(|note| note.contains("without rollbacks")),
        "Proxmox cannot tell them apart"
    );
}

#[test]
fn every_lack_is_one_finding() {
    let options = options((9, 1));
    for (token, path, privilege) in [
        ("scan", "/", "Sys.Audit"),
        ("scan", "/vms", "VM.Audit"),
        ("scan", "/storage", "Datastore.Audit"),
        ("scan", "/pool", "Pool.Audit"),
        ("scan", "/vms", "VM.GuestAgent.Audit"),
        ("act", "/", "Sys.Audit"),
        ("act", "/vms", "VM.PowerMgmt"),
        ("act", "/vms", "VM.Snapshot"),
        ("act", "/pool/lab", "VM.Allocate"),
        ("act", "/pool/lab", "VM.Config.Disk"),
        ("act", "/storage/local-lvm", "Datastore.AllocateSpace"),
        ("act", "/sdn/zones/localnetwork", "SDN.Use"),
    ] {
        let found = checked(&options, |scan, act| {
            let rights = if token == "scan" { scan } else { act };
            rights.get_mut(path).unwrap().remove(privilege).unwrap();
        });
        let finding = one(&found);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.what.contains(privilege) && finding.what.contains(path), "{finding:?}");
        let who = if token == "scan" { "nhi-scan@pve" } else { "nhi-act@pve" };
        let lines: Vec<&str> = finding.remedy.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.contains(who)), "{finding:?}");
    }
    let blind = checked(&options, |scan, _| scan.clear());
    assert_eq!(blind.len(), 5, "{blind:#?}");
}

#[test]
fn every_excess_is_one_finding() {
    let options = options((9, 1));
    for (token, path, privilege, severity) in [
        ("scan", "/", "Sys.Modify", Severity::Critical),
        ("scan", "/vms", "VM.PowerMgmt", Severity::Warning),
        ("scan", "/storage", "Datastore.AllocateSpace", Severity::Warning),
        ("act", "/", "Permissions.Modify", Severity::Critical),
        ("act", "/nodes", "Sys.PowerMgmt", Severity::Critical),
        ("act", "/vms", "VM.Allocate", Severity::Critical),
        ("act", "/vms", "VM.Config.CPU", Severity::Warning),
        ("act", "/vms", "VM.Monitor", Severity::Critical),
        ("act", "/pool", "Pool.Allocate", Severity::Critical),
        ("act", "/storage", "Datastore.AllocateSpace", Severity::Warning),
        ("act", "/storage/local-lvm", "Datastore.Allocate", Severity::Critical),
        ("act", "/vms/9000", "VM.Config.Disk", Severity::Warning),
    ] {
        let found = checked(&options, |scan, act| {
            let rights = if token == "scan" { scan } else { act };
            rights.entry(path.to_owned()).or_default().insert(privilege.to_owned(), true);
        });
        let finding = one(&found);
        assert_eq!(finding.severity, severity, "{finding:?}");
        assert!(finding.what.contains(privilege) && finding.what.contains(path), "{finding:?}");
        assert!(!finding.remedy.is_empty());
    }
    // In the pool it is meant to be there.
    let found = checked(&options, |_, act| {
        assert!(act["/vms/300"].contains_key("VM.Allocate"));
    });
    assert_eq!(found, []);
}

#[test]
fn a_protected_guest_is_untouchable_or_a_finding() {
    let options = options((9, 1));
    let found = checked(&options, |_, act| {
        act.remove("/vms/101");
    });
    let finding = one(&found);
    assert_eq!(finding.severity, Severity::Critical);
    assert!(finding.what.contains("guest 101") && finding.what.contains("VM.PowerMgmt"), "{finding:?}");
    assert_eq!(finding.remedy, "pveum acl modify /vms/101 --tokens 'nhi-act@pve!mesh' --roles PVEAuditor");
    // Nothing at all on it, as Proxmox tells who asks for that path alone.
    let found = checked(&options, |_, act| {
        act.insert("/vms/101".to_owned(), BTreeMap::new());
    });
    assert_eq!(found, []);
}

#[test]
fn a_pool_undoes_the_grant_on_its_member() {
    let options = options((9, 1));
    let members = [101, 300].into();
    let scan = granted(&options, &options.scan, &members);
    let act = granted(&options, &options.act, &members);
    assert!(act["/vms/101"].contains_key("VM.Allocate"), "control: the role of the pool is added");
    let found = findings(&options, &scan, &act, &members);
    let whats: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(found.len(), 2, "{whats:#?}");
    assert!(found.iter().all(|finding| finding.severity == Severity::Critical));
    assert!(whats.iter().any(|what| what.contains("in pool lab")), "{whats:#?}");
    assert!(found.iter().any(|finding| finding.remedy == "pveum pool modify lab --vms 101 --delete 1"));
}

#[test]
fn one_token_for_both_and_free_tags_are_told() {
    let options = options((9, 1));
    let same = Options { scan: options.act.clone(), ..options.clone() };
    let members = [300].into();
    let act = granted(&options, &options.act, &members);
    let found = findings(&same, &act, &act, &members);
    assert!(found.iter().any(|finding| finding.what.contains("both looks and acts")), "{found:#?}");
    assert!(
        !found.iter().any(|finding| finding.what.contains("scanner's token has VM")),
        "it is the actuator's"
    );
    let none = BTreeSet::new();
    let input = Check { options: &options, scan: None, act: None, pools: None, registered: Some(&none) };
    let found = guard::check(&input);
    assert_eq!(one(&found).remedy, "pvesh set /cluster/options --registered-tags nh-critical");
}

proptest! {
    #[test]
    fn no_name_leaves_its_word(name in "[ -~]{1,20}") {
        let options = Options { pools: [name.clone()].into(), ..options((9, 1)) };
        for command in guard::plan(&options, &BTreeSet::new()).commands {
            // As a shell reads it: outside quotes there is nothing but plain words.
            let mut outside = String::new();
            let mut quoted = false;
            let mut chars = command.line.chars();
            while let Some(char) = chars.next() {
                match char {
                    '\'' => quoted = !quoted,
                    '\\' if !quoted => { chars.next(); }
                    char if !quoted => outside.push(char),
                    _ => {}
                }
            }
            prop_assert!(!quoted, "{}", command.line);
            prop_assert!(outside.chars().all(|c| c.is_ascii_alphanumeric() || " -_./@:".contains(c)), "{}", command.line);
        }
    }
}
