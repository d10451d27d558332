//! What the cluster believes and for how long: the traps of `/cluster/resources` and of proxied calls.

use crate::support::{As, all, home, none, text};
use serde_json::json;

#[test]
fn guests_of_a_dead_node_stay_running_with_old_counters_for_300_seconds() {
    let mut home = home();
    home.pass_s(10);
    let before = home.row(103).expect("listed");
    home.fault(json!({"kind": "node_offline", "node": "pve3"}));
    home.pass_s(290);
    let during = home.row(103).expect("listed");
    assert_eq!(during["status"], "running");
    assert_eq!(during["uptime"], before["uptime"], "the counters stand still");
    home.pass_s(20);
    let after = home.row(103).expect("still listed");
    assert_eq!(after["status"], "unknown");
    for key in ["name", "template", "maxmem", "maxcpu", "uptime"] {
        assert!(after.get(key).is_none(), "{key} is gone");
    }
    assert_eq!(after["tags"], "docker;needs-nas", "tags come from the configuration");
}

#[test]
fn the_node_itself_is_offline_at_once() {
    let mut home = home();
    home.fault(json!({"kind": "node_offline", "node": "pve3"}));
    let nodes = home.get("/nodes");
    let node = nodes.as_array().expect("a list").iter().find(|node| node["node"] == "pve3").expect("listed");
    assert_eq!(node["status"], "offline");
    let status = home.get("/cluster/status");
    let node = status.as_array().expect("a list").iter().find(|node| node["name"] == "pve3").expect("listed");
    assert_eq!(node["online"], 0);
}

#[test]
fn a_call_for_a_dead_node_ends_in_595_with_an_empty_body() {
    let mut home = home();
    let fault = home.fault(json!({"kind": "node_offline", "node": "pve3"}));
    let (status, body) = home.call("GET", "/nodes/pve3/qemu", none());
    assert_eq!((status, body.get("data")), (595, None));
    home.lab.clear_fault(fault);
    home.fault(json!({"kind": "node_offline", "node": "pve3", "code": 596}));
    assert_eq!(home.call("GET", "/nodes/pve3/qemu/103/config", none()).0, 596);
}

#[test]
fn a_stuck_pvestatd_makes_every_guest_of_a_healthy_node_unknown() {
    let mut home = home();
    home.fault(json!({"kind": "stats_stuck", "node": "pve2"}));
    home.pass_s(310);
    assert_eq!(home.row(101).expect("listed")["status"], "unknown");
    assert_eq!(home.row(100).expect("listed")["status"], "running", "other nodes are fine");
    let live = home.get("/nodes/pve2/qemu");
    let live = live.as_array().expect("a list").iter().find(|row| row["vmid"] == 101).expect("listed");
    assert_eq!(live["status"], "running", "the live list knows better");
    let nodes = home.get("/nodes");
    assert_eq!(all(&nodes, "status"), ["online", "online", "online"]);
}

#[test]
fn a_fresh_clone_has_no_name_until_statistics_were_told() {
    let mut home = home();
    home.pass_s(1);
    let exit = home.task(
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        json!({"newid": 150, "name": "fresh", "pool": "lab"}),
    );
    assert_eq!(exit, "OK");
    let row = home.row(150).expect("listed at once");
    assert_eq!((&row["status"], row.get("name")), (&json!("unknown"), None));
    assert_eq!(row["pool"], "lab");
    home.pass_s(10);
    assert_eq!(home.row(150).expect("listed")["name"], "fresh");
}

#[test]
fn the_order_of_resources_is_random() {
    let mut home = home();
    let first: Vec<String> = all(&home.get("/cluster/resources"), "id").into_iter().map(text).collect();
    let second: Vec<String> = all(&home.get("/cluster/resources"), "id").into_iter().map(text).collect();
    assert_ne!(first, second);
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(first), sorted(second));
}

#[test]
fn disk_of_a_machine_is_zero_and_of_a_container_is_used_space() {
    let mut home = home();
    assert_eq!(home.row(100).expect("listed")["disk"], 0);
    assert!(home.row(201).expect("listed")["disk"].as_u64().expect("a number") > 0);
}

#[test]
fn a_shared_storage_is_listed_once_per_node_and_a_disabled_one_never() {
    let mut home = home();
    let rows = home.get("/cluster/resources");
    let of = |id: &str| rows.as_array().expect("a list").iter().filter(|row| row["storage"] == id).count();
    assert_eq!((of("nas"), of("local-zfs"), of("old-nas")), (3, 2, 0));
}

#[test]
fn without_quorum_everything_can_be_read_and_nothing_written() {
    let mut home = home();
    home.fault(json!({"kind": "quorum_lost"}));
    let status = home.get("/cluster/status");
    assert_eq!(status[0]["quorate"], 0);
    assert_eq!(home.config("pve1", "qemu", 100)["name"], "neural-home");
    home.refused(
        "PUT",
        "/nodes/pve1/qemu/100/config",
        json!({"cores": 1}),
        500,
        "cluster not ready - no quorum?",
    );
    home.refused("POST", "/nodes/pve1/qemu/106/status/start", none(), 500, "cluster not ready - no quorum?");
}

#[test]
fn two_of_three_nodes_away_is_no_quorum() {
    let mut home = home();
    for node in ["pve2", "pve3"] {
        home.fault(json!({"kind": "node_offline", "node": node}));
    }
    assert_eq!(home.get("/cluster/status")[0]["quorate"], 0);
}

#[test]
fn a_node_cut_off_comes_back_with_its_guests_and_one_without_power_boots() {
    let mut home = home();
    home.fault(json!({"kind": "node_offline", "node": "pve3"}));
    home.pass_s(30);
    home.lab.clear_fault(1);
    assert!(home.get("/nodes/pve3/qemu/103/status/current")["uptime"].as_u64().expect("a number") > 86_400);
    let cut = home.fault(json!({"kind": "node_offline", "node": "pve3", "power_cut": true}));
    home.pass_s(30);
    home.lab.clear_fault(cut);
    assert_eq!(home.get("/nodes/pve3/qemu/103/status/current")["status"], "stopped");
    home.pass_s(10);
    assert_eq!(home.get("/nodes/pve3/qemu/103/status/current")["status"], "running", "it has onboot");
    assert!(home.get("/nodes/pve3/qemu/103/status/current")["uptime"].as_u64().expect("a number") < 60);
}

#[test]
fn a_power_cut_leaves_tasks_in_unexpected_status_and_locks_behind() {
    let mut home = home();
    home.pass_s(1);
    let upid = text(&home.ok("POST", "/nodes/pve3/vzdump", json!({"vmid": "103", "storage": "nas"})));
    let fault = home.fault(json!({"kind": "node_offline", "node": "pve3", "power_cut": true}));
    home.lab.clear_fault(fault);
    assert_eq!(home.exit_of(&upid), "unexpected status");
    assert_eq!(home.config("pve3", "qemu", 103)["lock"], "backup");
}

#[test]
fn a_managed_guest_of_a_lost_node_is_fenced_and_started_elsewhere() {
    let mut home = home();
    home.ok("POST", "/nodes/pve1/lxc/211/migrate", json!({"target": "pve2", "restart": 1}));
    home.pass_s(30);
    assert_eq!(home.get("/nodes/pve2/lxc/211/status/current")["status"], "running");
    home.fault(json!({"kind": "node_offline", "node": "pve2"}));
    home.pass_s(100);
    assert_eq!(home.row(211).expect("listed")["node"], "pve2", "not before the fence");
    home.pass_s(60);
    let row = home.row(211).expect("listed");
    assert_ne!(row["node"], "pve2");
    let node = text(&row["node"]);
    assert_eq!(home.get(&format!("/nodes/{node}/lxc/211/status/current"))["status"], "running");
}

#[test]
fn loss_of_rights_looks_like_an_empty_lab() {
    let mut home = home();
    home.become_(As::Scan);
    let before = home.get("/cluster/resources").as_array().expect("a list").len();
    assert!(before > 30);
    let fault = home.fault(json!({"kind": "rights_lost", "principal": "nh-scan@pve!mesh"}));
    let rows = home.get("/cluster/resources");
    assert_eq!(all(&rows, "type"), ["node", "node", "node"], "only nodes, and status 200");
    assert_eq!(home.get("/nodes/pve1/qemu"), json!([]));
    assert_eq!(home.get("/access/permissions"), json!({}));
    home.refused("GET", "/cluster/status", none(), 403, "Permission check failed (/, Sys.Audit)");
    home.lab.clear_fault(fault);
    assert_eq!(home.get("/cluster/resources").as_array().expect("a list").len(), before);
}

#[test]
fn a_storage_that_does_not_answer_stays_available_until_statistics_expire() {
    let mut home = home();
    home.pass_s(10);
    home.fault(json!({"kind": "storage_offline", "storage": "nas"}));
    let status = |home: &mut crate::support::Home| {
        let rows = home.get("/cluster/resources");
        rows.as_array().expect("a list").iter().find(|row| row["storage"] == "nas").expect("listed")["status"]
            .clone()
    };
    assert_eq!(status(&mut home), "available");
    let list = home.get("/nodes/pve1/storage");
    let live = list.as_array().expect("a list").iter().find(|row| row["storage"] == "nas").expect("listed");
    assert_eq!(live["active"], 0);
    home.refused("GET", "/nodes/pve1/storage/nas/content", none(), 500, "storage 'nas' is not online");
    assert_eq!(home.task("POST", "/nodes/pve3/lxc/210/status/start", none()), "storage 'nas' is not online");
    home.pass_s(300);
    assert_eq!(status(&mut home), "unknown");
}
