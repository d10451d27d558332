//! Snapshots, and all that a rollback does without asking.

use crate::support::{all, home, none};
use serde_json::json;

const VM: &str = "/nodes/pve1/qemu/107";

fn snapshot(home: &mut crate::support::Home, name: &str) {
    assert_eq!(home.task("POST", &format!("{VM}/snapshot"), json!({"snapname": name})), "OK");
}

#[test]
fn the_list_ends_with_current_which_is_no_snapshot() {
    let mut home = home();
    let rows = home.get("/nodes/pve3/qemu/103/snapshot");
    assert_eq!(all(&rows, "name"), ["before-compose-v2", "clean", "current"]);
    assert!(rows[2].get("snaptime").is_none() && rows[2]["running"] == 1);
    assert_eq!(rows[2]["parent"], "before-compose-v2");
    assert_eq!(rows[0]["parent"], "clean");
    assert!(rows[1].get("parent").is_none());
}

#[test]
fn rollback_ignores_protection_and_brings_back_old_protection_and_tags() {
    let mut home = home();
    assert_eq!(home.config("pve2", "qemu", 101)["protection"], 1);
    assert_eq!(home.task("POST", "/nodes/pve2/qemu/101/snapshot/before-upgrade/rollback", none()), "OK");
    let config = home.config("pve2", "qemu", 101);
    assert!(config.get("protection").is_none(), "the guest is not protected any more");
    assert_eq!(config["memory"], "12288");
    assert_eq!(home.get("/nodes/pve2/qemu/101/status/current")["status"], "stopped", "it ran before");
}

#[test]
fn rollback_checks_no_right_on_registered_tags() {
    let mut home = home();
    snapshot(&mut home, "before");
    home.ok("PUT", &format!("{VM}/config"), json!({"tags": "nh-critical"}));
    home.become_(crate::support::As::Act);
    assert_eq!(home.task("POST", &format!("{VM}/snapshot/before/rollback"), none()), "OK");
    assert_eq!(home.config("pve1", "qemu", 107)["tags"], "ci;lab");
}

#[test]
fn rollback_keeps_description_and_the_list_of_snapshots() {
    let mut home = home();
    snapshot(&mut home, "one");
    home.pass_s(5);
    home.ok("PUT", &format!("{VM}/config"), json!({"description": "kept"}));
    snapshot(&mut home, "two");
    assert_eq!(home.task("POST", &format!("{VM}/snapshot/one/rollback"), none()), "OK");
    assert_eq!(home.config("pve1", "qemu", 107)["description"], "kept");
    let rows = home.get(&format!("{VM}/snapshot"));
    assert_eq!(all(&rows, "name"), ["one", "two", "current"]);
    assert_eq!(rows[2]["parent"], "one");
}

#[test]
fn zfs_returns_to_its_newest_snapshot_only() {
    let mut home = home();
    let exit = home.task("POST", "/nodes/pve3/qemu/103/snapshot/clean/rollback", none());
    assert_eq!(exit, "can't rollback, 'clean' is not most recent snapshot on 'local-zfs:vm-103-disk-0'");
    assert_eq!(home.get("/nodes/pve3/qemu/103/status/current")["status"], "running", "nothing was touched");
}

#[test]
fn a_snapshot_with_memory_starts_again_after_rollback() {
    let mut home = home();
    let wanted = json!({"snapname": "ram", "vmstate": 1});
    assert_eq!(home.task("POST", &format!("{VM}/snapshot"), wanted), "OK");
    assert_eq!(home.task("POST", &format!("{VM}/snapshot/ram/rollback"), none()), "OK");
    assert_eq!(home.get(&format!("{VM}/status/current"))["status"], "running");
}

#[test]
fn removing_a_snapshot_gives_its_children_to_its_parent() {
    let mut home = home();
    assert_eq!(home.task("DELETE", "/nodes/pve3/qemu/103/snapshot/clean", none()), "OK");
    let rows = home.get("/nodes/pve3/qemu/103/snapshot");
    assert_eq!(all(&rows, "name"), ["before-compose-v2", "current"]);
    assert!(rows[0].get("parent").is_none());
    let exit = home.task("DELETE", "/nodes/pve3/qemu/103/snapshot/clean", none());
    assert_eq!(exit, "snapshot 'clean' does not exist");
}

#[test]
fn names_are_checked() {
    let mut home = home();
    for name in ["1st", "x", "a b", "ä"] {
        home.refused(
            "POST",
            &format!("{VM}/snapshot"),
            json!({"snapname": name}),
            400,
            "Parameter verification failed.",
        );
    }
    let long = "a".repeat(41);
    home.refused(
        "POST",
        &format!("{VM}/snapshot"),
        json!({"snapname": long}),
        400,
        "Parameter verification failed.",
    );
    home.refused("POST", &format!("{VM}/snapshot"), json!({"snapname": "Current"}), 500, "reserved name");
}

#[test]
fn a_bind_mount_or_a_raw_file_forbids_snapshots() {
    let mut home = home();
    let exit = home.task("POST", "/nodes/pve2/lxc/204/snapshot", json!({"snapname": "no"}));
    assert_eq!(exit, "snapshot feature is not available");
    let exit = home.task("POST", "/nodes/pve1/lxc/211/snapshot", json!({"snapname": "no"}));
    assert_eq!(exit, "snapshot feature is not available", "a container on NFS is a raw file");
    assert_eq!(
        home.ok("GET", "/nodes/pve2/lxc/204/feature", json!({"feature": "snapshot"}))["hasFeature"],
        0
    );
}
