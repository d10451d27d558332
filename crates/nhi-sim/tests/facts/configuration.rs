//! Configurations: digests, what waits, locks, protection, types, and parameters that are checked.

use crate::support::{home, none, old_home};
use serde_json::json;

const VM: &str = "/nodes/pve1/qemu/107/config";

#[test]
fn a_stale_digest_is_refused_and_the_right_one_taken() {
    let mut home = home();
    let digest = home.get(VM)["digest"].clone();
    home.ok("PUT", VM, json!({"description": "a", "digest": digest}));
    let stale = json!({"description": "b", "digest": digest});
    home.refused(
        "PUT",
        VM,
        stale,
        500,
        "detected modified configuration - file changed by other user? Try again.",
    );
}

#[test]
fn memory_is_a_string_for_machines_and_a_number_for_containers() {
    let mut home = home();
    assert_eq!(home.get(VM)["memory"], "8192");
    assert_eq!(home.config("pve1", "lxc", 201)["memory"], 512);
    assert_eq!(home.get(VM)["cores"], 4);
}

#[test]
fn protection_is_only_in_the_configuration() {
    let mut home = home();
    assert_eq!(home.config("pve1", "qemu", 100)["protection"], 1);
    assert!(home.row(100).expect("listed").get("protection").is_none());
    assert!(home.get("/nodes/pve1/qemu/100/status/current").get("protection").is_none());
}

#[test]
fn container_numbers_were_strings_in_release_8() {
    let mut old = old_home();
    let row = old.get("/nodes/pve1/lxc")[0].clone();
    assert!(row["vmid"].is_string() && row["pid"].is_string() && row["template"] == "");
    let mut new = home();
    let row = new.get("/nodes/pve1/lxc")[0].clone();
    assert!(row["vmid"].is_number() && row.get("template").is_none());
}

#[test]
fn a_locked_guest_takes_no_change_and_says_so_at_once() {
    let mut home = home();
    home.ok("POST", "/nodes/pve1/qemu/107/snapshot", json!({"snapname": "slow"}));
    home.refused("PUT", VM, json!({"description": "x"}), 500, "VM is locked (snapshot)");
}

#[test]
fn protection_guards_disks_but_not_options() {
    let mut home = home();
    home.refused(
        "PUT",
        "/nodes/pve2/qemu/101/config",
        json!({"delete": "scsi1"}),
        500,
        "can't remove drive 'scsi1' - protection mode enabled",
    );
    home.ok("PUT", "/nodes/pve2/qemu/101/config", json!({"description": "fine"}));
    home.ok("PUT", "/nodes/pve2/qemu/101/config", json!({"delete": "protection"}));
    home.ok("PUT", "/nodes/pve2/qemu/101/config", json!({"delete": "scsi1"}));
    assert!(
        home.config("pve2", "qemu", 101)["unused0"]
            .as_str()
            .expect("kept")
            .starts_with("local-zfs:vm-101-disk")
    );
}

#[test]
fn waiting_changes_can_be_reverted() {
    let mut home = home();
    home.ok("PUT", VM, json!({"memory": "4096"}));
    let pending = home.get("/nodes/pve1/qemu/107/pending");
    let memory =
        pending.as_array().expect("a list").iter().find(|row| row["key"] == "memory").expect("there");
    assert_eq!((&memory["value"], &memory["pending"]), (&json!("8192"), &json!("4096")));
    home.ok("PUT", VM, json!({"revert": "memory"}));
    assert_eq!(home.get(VM)["memory"], "8192");
}

#[test]
fn wrong_parameters_are_named_one_by_one() {
    let mut home = home();
    let (status, body) =
        home.call("POST", "/nodes/pve1/qemu", json!({"vmid": "abc", "cores": "two", "nonsense": 1}));
    assert_eq!(status, 400);
    assert_eq!(body["reason"], "Parameter verification failed.");
    assert_eq!(body["errors"]["vmid"], "type check ('integer') failed - got 'abc'");
    assert_eq!(body["errors"]["cores"], "type check ('integer') failed - got 'two'");
    assert_eq!(
        body["errors"]["nonsense"],
        "property is not defined in schema and the schema does not allow additional properties"
    );
    let (_, body) = home.call("POST", "/nodes/pve1/qemu/107/clone", none());
    assert_eq!(body["errors"]["newid"], "property is missing and it is not optional");
    let (_, body) = home.call("GET", "/nodes/pve1/qemu/99/config", none());
    assert_eq!(body["errors"]["vmid"], "value must have a minimum value of 100");
}

#[test]
fn error_texts_are_in_the_body_since_release_9_only() {
    let mut new = home();
    let (_, body) = new.call("GET", "/nodes/pve1/qemu/4711/config", none());
    assert_eq!(body["message"], "Configuration file 'nodes/pve1/qemu-server/4711.conf' does not exist\n");
    let mut old = old_home();
    let (_, body) = old.call("GET", "/nodes/pve1/qemu/4711/config", none());
    assert!(body.get("message").is_none());
    assert_eq!(body["reason"], "Configuration file 'nodes/pve1/qemu-server/4711.conf' does not exist");
    let (_, body) = old.call("POST", "/nodes/pve1/qemu", none());
    assert!(body["errors"].is_object(), "the map of errors is old");
}

#[test]
fn only_root_sets_what_reaches_the_host() {
    let mut home = home();
    home.become_(crate::support::As::Act);
    home.refused("PUT", VM, json!({"args": "-device x"}), 500, "only root can set 'args' config");
    let bind = json!({"mp5": "/etc,mp=/x"});
    home.refused("PUT", "/nodes/pve1/lxc/203/config", bind, 403, "only allowed for root@pam");
}

#[test]
fn tags_are_stored_lower_case_once_with_semicolons() {
    let mut home = home();
    home.ok("PUT", VM, json!({"tags": "Lab, ci lab"}));
    assert_eq!(home.get(VM)["tags"], "lab;ci");
    home.refused("PUT", VM, json!({"tags": "söme"}), 400, "Parameter verification failed.");
}

#[test]
fn disks_grow_and_never_shrink() {
    let mut home = home();
    let path = "/nodes/pve1/qemu/107/resize";
    assert_eq!(home.task("PUT", path, json!({"disk": "scsi0", "size": "+8G"})), "OK");
    assert!(home.get(VM)["scsi0"].as_str().expect("a disk").contains("size=40G"));
    home.refused(
        "PUT",
        path,
        json!({"disk": "scsi0", "size": "10G"}),
        500,
        "shrinking disks is not supported",
    );
    home.refused("PUT", path, json!({"disk": "scsi7", "size": "+1G"}), 500, "disk 'scsi7' does not exist");
}

#[test]
fn a_standalone_host_has_a_single_node_row_and_no_cluster_row() {
    let mut seed = nhi_sim::Seed::large(1, 4);
    seed.cluster = None;
    let mut home = crate::support::Home::of(&seed, nhi_sim::PveVersion::V9_1);
    let rows = home.get("/cluster/status");
    assert_eq!(rows.as_array().expect("a list").len(), 1);
    assert_eq!(
        (&rows[0]["type"], &rows[0]["nodeid"], &rows[0]["local"]),
        (&json!("node"), &json!(0), &json!(1))
    );
    home.refused("GET", "/cluster/config/join", none(), 500, "node is not in a cluster");
}

#[test]
fn network_resources_were_called_sdn_in_release_8() {
    let mut old = old_home();
    let kinds = |rows: &serde_json::Value| -> Vec<String> {
        crate::support::all(rows, "type").into_iter().map(crate::support::text).collect()
    };
    let (old, new) = (kinds(&old.get("/cluster/resources")), kinds(&home().get("/cluster/resources")));
    assert!(old.contains(&"sdn".to_owned()) && !old.contains(&"network".to_owned()));
    assert!(new.contains(&"network".to_owned()) && !new.contains(&"sdn".to_owned()));
}

#[test]
fn a_network_card_gets_a_hardware_address_and_a_disk_a_volume() {
    let mut home = home();
    home.ok("PUT", VM, json!({"net1": "virtio,bridge=vmbr0", "scsi1": "local-lvm:4"}));
    let config = home.get(VM);
    assert!(config["net1"].as_str().expect("a card").starts_with("virtio=BC:24:11:"), "{config}");
    assert_eq!(config["scsi1"], "local-lvm:vm-107-disk-1,size=4G");
}
