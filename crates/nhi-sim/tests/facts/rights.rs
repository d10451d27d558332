//! Who may see and do what, and how a refusal looks.

use crate::support::{As, all, home, none, old_home, text};
use serde_json::json;

/// Makes `rh@pve` with a separated token, gives roles to user and token, and asks as that token.
fn token_with(home: &mut crate::support::Home, user_roles: &[(&str, &str)], token_roles: &[(&str, &str)]) {
    let access = &mut home.lab.access;
    let mut user = access.users["nh-scan@pve"].clone();
    user.tokens.clear();
    access.users.insert("rh@pve".to_owned(), user);
    let made = home.ok("POST", "/access/users/rh@pve/token/t", none());
    for (path, role) in user_roles {
        home.ok("PUT", "/access/acl", json!({"path": path, "roles": role, "users": "rh@pve"}));
    }
    for (path, role) in token_roles {
        home.ok("PUT", "/access/acl", json!({"path": path, "roles": role, "tokens": "rh@pve!t"}));
    }
    home.become_token("rh@pve!t", &text(&made["value"]));
}

fn guests(home: &mut crate::support::Home) -> usize {
    home.ok("GET", "/cluster/resources", json!({"type": "vm"})).as_array().expect("a list").len()
}

#[test]
fn a_separated_token_gets_the_intersection_of_user_and_token() {
    let mut home = home();
    token_with(&mut home, &[("/", "PVEAuditor")], &[]);
    assert_eq!(guests(&mut home), 0, "the token has no role");
    home.become_(As::Root);
    home.ok("PUT", "/access/acl", json!({"path": "/", "roles": "Administrator", "tokens": "rh@pve!t"}));
    let secret = home.lab.access.users["rh@pve"].tokens["t"].secret.0.clone();
    home.become_token("rh@pve!t", &secret);
    assert_eq!(guests(&mut home), 22, "the user may look");
    home.refused(
        "POST",
        "/nodes/pve1/qemu/106/status/start",
        none(),
        403,
        "Permission check failed (/vms/106, VM.PowerMgmt)",
    );
}

#[test]
fn a_deeper_list_replaces_the_inherited_one() {
    let mut home = home();
    home.ok(
        "PUT",
        "/access/acl",
        json!({"path": "/vms/207", "roles": "PVEAuditor", "tokens": "nh-act@pve!mesh"}),
    );
    home.become_(As::Act);
    home.refused("POST", "/nodes/pve1/lxc/207/status/shutdown", none(), 403, "(/vms/207, VM.PowerMgmt)");
    assert_eq!(home.config("pve1", "lxc", 207)["hostname"], "postgres");
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/106/status/start", none()), "OK", "others are as before");
}

#[test]
fn a_pool_brings_back_the_roles_that_it_inherits_itself() {
    let mut home = home();
    let weaker = json!({"path": "/vms/101", "roles": "PVEAuditor", "tokens": "nh-act@pve!mesh"});
    home.ok("PUT", "/access/acl", weaker);
    home.become_(As::Act);
    // 101 is in pool core, where the roles given on / hold too: the list on /vms/101 guards nothing.
    assert_eq!(home.task("POST", "/nodes/pve2/qemu/101/status/shutdown", none()), "OK");
}

#[test]
fn no_access_beats_what_a_pool_gives() {
    let mut home = home();
    token_with(&mut home, &[("/pool/lab", "PVEVMAdmin")], &[("/pool/lab", "PVEVMAdmin")]);
    assert_eq!(guests(&mut home), 3, "the pool's members");
    home.become_(As::Root);
    home.ok("PUT", "/access/acl", json!({"path": "/vms/107", "roles": "NoAccess", "tokens": "rh@pve!t"}));
    let secret = home.lab.access.users["rh@pve"].tokens["t"].secret.0.clone();
    home.become_token("rh@pve!t", &secret);
    assert_eq!(guests(&mut home), 2);
}

#[test]
fn a_role_that_does_not_propagate_stays_on_its_path() {
    let mut home = home();
    token_with(&mut home, &[("/", "PVEAuditor")], &[]);
    home.become_(As::Root);
    home.ok(
        "PUT",
        "/access/acl",
        json!({"path": "/vms", "roles": "PVEAuditor", "tokens": "rh@pve!t", "propagate": 0}),
    );
    let secret = home.lab.access.users["rh@pve"].tokens["t"].secret.0.clone();
    home.become_token("rh@pve!t", &secret);
    assert_eq!(guests(&mut home), 0);
    let mine = home.get("/access/permissions");
    assert_eq!(mine["/vms"]["VM.Audit"], 0, "held, but not below");
    assert!(mine.get("/").is_none());
}

#[test]
fn an_auditor_sees_everything_but_backups() {
    let mut home = home();
    home.become_(As::Scan);
    assert_eq!(guests(&mut home), 22);
    assert_eq!(home.ok("GET", "/nodes/pve1/storage/pbs/content", json!({"content": "backup"})), json!([]));
    assert!(
        !home.get("/nodes/pve1/storage/local/content").as_array().expect("a list").is_empty(),
        "others are seen"
    );
    home.become_(As::Act);
    let seen = home.ok("GET", "/nodes/pve1/storage/pbs/content", json!({"content": "backup"}));
    assert!(seen.as_array().expect("a list").len() > 30);
}

#[test]
fn nodes_are_listed_for_everybody_without_counters_but_with_fingerprint() {
    let mut home = home();
    token_with(&mut home, &[], &[]);
    let nodes = home.get("/nodes");
    assert_eq!(all(&nodes, "node"), ["pve1", "pve2", "pve3"]);
    let first = &nodes[0];
    assert!(
        first.get("mem").is_none() && first.get("level").is_none() && first.get("ssl_fingerprint").is_some()
    );
}

#[test]
fn addresses_need_the_agent_privilege_of_the_release() {
    let mut new = home();
    new.become_(As::Scan);
    assert!(new.get("/nodes/pve1/qemu/100/agent/network-get-interfaces")["result"].is_array());
    let mut old = old_home();
    old.become_(As::Scan);
    old.refused(
        "GET",
        "/nodes/pve1/qemu/100/agent/network-get-interfaces",
        none(),
        403,
        "(/vms/100, VM.Monitor)",
    );
    assert!(old.get("/nodes/pve1/lxc/201/interfaces").is_array(), "containers need VM.Audit only");
}

#[test]
fn a_registered_tag_needs_the_right_to_modify_the_system() {
    let mut home = home();
    home.become_(As::Act);
    home.refused(
        "PUT",
        "/nodes/pve1/qemu/100/config",
        json!({"tags": "core"}),
        403,
        "Permission check failed (/, Sys.Modify)",
    );
    home.refused("PUT", "/nodes/pve1/qemu/100/config", json!({"delete": "tags"}), 403, "(/, Sys.Modify)");
    home.ok("PUT", "/nodes/pve1/qemu/100/config", json!({"tags": "nh-critical;core;new"}));
}

#[test]
fn a_token_sees_no_cluster_tasks_without_sys_audit_but_its_own_by_upid() {
    let mut home = home();
    home.ok(
        "PUT",
        "/access/acl",
        json!({"path": "/", "roles": "NHBuild", "tokens": "nh-act@pve!mesh", "delete": 1}),
    );
    home.become_(As::Act);
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/106/status/start", none()));
    assert_eq!(home.exit_of(&upid), "OK");
    assert_eq!(home.get("/cluster/tasks"), json!([]));
    let status = home.get(&format!("/nodes/pve1/tasks/{upid}/status"));
    assert_eq!((&status["user"], &status["tokenid"]), (&json!("nh-act@pve"), &json!("mesh")));
    home.become_(As::Root);
    let others = text(&home.ok("POST", "/nodes/pve1/qemu/106/status/stop", none()));
    home.become_(As::Act);
    home.refused(
        "GET",
        &format!("/nodes/pve1/tasks/{others}/status"),
        none(),
        403,
        "(/nodes/pve1, Sys.Audit)",
    );
}

#[test]
fn refused_logins_tell_their_cause_in_the_reason_phrase() {
    let mut home = home();
    home.become_token("nh-scan@pve!mesh", "wrong");
    home.refused("GET", "/version", none(), 401, "invalid token value!");
    home.become_token("nobody@pve!mesh", "x");
    home.refused("GET", "/version", none(), 401, "no such user ('nobody@pve')");
    home.become_token("nh-scan@pve!other", "x");
    home.refused("GET", "/version", none(), 401, "no such token");
    home.who = nhi_sim::Credentials::default();
    home.refused("GET", "/version", none(), 401, "No ticket");
    home.become_(As::Scan);
    let fault = home.fault(json!({"kind": "token_expired", "token": "nh-scan@pve!mesh"}));
    home.refused("GET", "/version", none(), 401, "token 'nh-scan@pve!mesh' access expired");
    home.lab.clear_fault(fault);
    home.lab.access.users.get_mut("nh-scan@pve").expect("seeded").enabled = false;
    home.refused("GET", "/version", none(), 401, "user 'nh-scan@pve' is disabled");
    home.lab.hides_login_cause = true;
    home.refused("GET", "/version", none(), 401, "Authentication failed!");
}

#[test]
fn writes_with_a_ticket_need_its_csrf_token_and_reads_do_not() {
    let mut home = home();
    home.who.csrf = None;
    assert_eq!(home.get("/version")["release"], "9.1");
    home.refused("PUT", "/nodes/pve1/qemu/100/config", json!({"cores": 2}), 401, "invalid csrf token");
}

#[test]
fn a_ticket_lives_two_hours() {
    let mut home = home();
    home.pass_s(7190);
    home.get("/version");
    home.pass_s(20);
    home.refused("GET", "/version", none(), 401, "invalid PVE ticket");
}

#[test]
fn a_token_gets_no_ticket_and_makes_no_token() {
    let mut home = home();
    home.become_(As::Act);
    let login = json!({"username": "root@pam", "password": "correct horse"});
    home.refused("POST", "/access/ticket", login, 403, "not available with API token");
    home.refused("POST", "/access/users/nh-act@pve/token/x", none(), 403, "not available with API token");
}

#[test]
fn creating_needs_allocate_on_the_number_or_its_pool_space_and_the_bridge() {
    let mut home = home();
    let pool = [("/pool/lab", "PVEVMAdmin"), ("/storage/local-lvm", "PVEDatastoreUser")];
    token_with(&mut home, &pool, &pool);
    let mut wanted =
        json!({"vmid": 150, "pool": "lab", "scsi0": "local-lvm:8", "net0": "virtio,bridge=vmbr0"});
    home.refused("POST", "/nodes/pve1/qemu", wanted.clone(), 403, "(/sdn/zones/localnetwork/vmbr0, SDN.Use)");
    wanted["net0"] = json!("virtio");
    assert_eq!(home.task("POST", "/nodes/pve1/qemu", wanted.clone()), "OK");
    wanted["vmid"] = json!(151);
    wanted["scsi0"] = json!("nas:8");
    home.refused("POST", "/nodes/pve1/qemu", wanted.clone(), 403, "(/storage/nas, Datastore.AllocateSpace)");
    let outside = json!({"vmid": 152, "scsi0": "local-lvm:8"});
    home.refused("POST", "/nodes/pve1/qemu", outside, 403, "Permission check failed");
}
