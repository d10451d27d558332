//! Making, copying, moving, backing up and removing guests.

use crate::support::{As, Home, all, home, none, text};
use serde_json::{Value, json};

#[test]
fn a_number_that_is_taken_is_refused_whoever_holds_it() {
    let mut home = home();
    home.refused(
        "POST",
        "/nodes/pve2/qemu",
        json!({"vmid": 201}),
        500,
        "CT 201 already exists on node 'pve1'",
    );
    home.refused(
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        json!({"newid": 100}),
        500,
        "VM 100 already exists on node 'pve1'",
    );
}

#[test]
fn nextid_is_a_string_the_lowest_free_and_no_reservation() {
    let mut home = home();
    assert_eq!(home.get("/cluster/nextid"), "109");
    assert_eq!(home.get("/cluster/nextid"), "109");
    assert_eq!(home.ok("GET", "/cluster/nextid", json!({"vmid": 500})), "500");
    home.refused("GET", "/cluster/nextid", json!({"vmid": 100}), 400, "Parameter verification failed.");
}

#[test]
fn a_number_is_used_again_by_another_guest() {
    let mut home = home();
    let before = home.config("pve1", "qemu", 106)["smbios1"].clone();
    assert_eq!(home.task("DELETE", "/nodes/pve1/qemu/106", none()), "OK");
    assert_eq!(home.get("/cluster/nextid"), "106");
    assert_eq!(home.task("POST", "/nodes/pve1/qemu", json!({"vmid": 106, "name": "another"})), "OK");
    assert_ne!(home.config("pve1", "qemu", 106)["smbios1"], before, "its identity is its own");
}

#[test]
fn destroying_is_refused_early_for_protection_power_ha_and_replication() {
    let mut home = home();
    home.refused(
        "DELETE",
        "/nodes/pve1/qemu/100",
        none(),
        500,
        "can't remove VM 100 - protection mode enabled",
    );
    home.refused("DELETE", "/nodes/pve1/qemu/107", none(), 500, "VM 107 is running - destroy failed");
    home.refused(
        "DELETE",
        "/nodes/pve1/qemu/102",
        none(),
        500,
        "unable to remove VM 102 - used in HA resources and purge parameter not set.",
    );
    home.refused(
        "DELETE",
        "/nodes/pve2/lxc/204",
        none(),
        500,
        "There is a replication job '204-0' for guest '204'",
    );
    home.refused(
        "DELETE",
        "/nodes/pve1/lxc/203",
        none(),
        500,
        "unable to destroy CT 203 - container is running",
    );
}

#[test]
fn force_destroys_a_running_container_in_one_call() {
    let mut home = home();
    assert_eq!(home.task("DELETE", "/nodes/pve1/lxc/203", json!({"force": 1})), "OK");
    assert!(home.row(203).is_none());
}

#[test]
fn purge_edits_jobs_ha_and_replication_and_rights_go_always() {
    let mut home = home();
    home.ok("PUT", "/access/acl", json!({"path": "/vms/104", "roles": "PVEVMUser", "users": "nh-scan@pve"}));
    assert_eq!(home.task("DELETE", "/nodes/pve3/qemu/104", none()), "OK");
    assert!(!all(&home.get("/access/acl"), "path").contains(&&json!("/vms/104")), "without purge too");
    assert_eq!(home.get("/cluster/backup")[0]["exclude"], "104,9000", "untouched without purge");
    assert_eq!(home.task("POST", "/nodes/pve2/lxc/204/status/stop", none()), "OK");
    assert_eq!(home.task("DELETE", "/nodes/pve2/lxc/204", json!({"purge": 1})), "OK");
    assert_eq!(home.get("/cluster/replication"), json!([]));
    assert_eq!(home.task("DELETE", "/nodes/pve1/qemu/106", json!({"purge": 1})), "OK");
    assert_eq!(home.task("DELETE", "/nodes/pve1/qemu/9000", json!({"purge": 1})), "OK");
    assert_eq!(home.get("/cluster/backup")[0]["exclude"], "104");
}

#[test]
fn a_disk_that_cannot_be_removed_is_a_warning() {
    let mut home = home();
    home.fault(json!({"kind": "storage_offline", "storage": "nas"}));
    assert_eq!(home.task("DELETE", "/nodes/pve3/lxc/210", none()), "WARNINGS: 1");
    assert!(home.row(210).is_none());
}

#[test]
fn a_template_with_linked_clones_is_kept_except_on_lvm_thin() {
    let mut home = home();
    // On LVM-thin the link is nowhere to be seen: 106 and 107 were made from this one.
    assert_eq!(home.task("DELETE", "/nodes/pve1/qemu/9000", none()), "OK");
    let made = json!({"vmid": 9010, "scsi0": "local-zfs:8", "name": "base"});
    assert_eq!(home.task("POST", "/nodes/pve3/qemu", made), "OK");
    assert_eq!(home.task("POST", "/nodes/pve3/qemu/9010/template", none()), "OK");
    assert_eq!(home.task("POST", "/nodes/pve3/qemu/9010/clone", json!({"newid": 9011})), "OK");
    assert!(
        text(&home.config("pve3", "qemu", 9011)["scsi0"])
            .starts_with("local-zfs:base-9010-disk-0/vm-9011-disk-0")
    );
    // The call itself is taken: only its task says so.
    let exit = home.task("DELETE", "/nodes/pve3/qemu/9010", none());
    assert!(exit.starts_with("base volume 'local-zfs:base-9010-disk-0' is still in use"), "{exit}");
}

#[test]
fn a_copy_has_protection_and_tags_but_another_identity() {
    let mut home = home();
    home.ok("PUT", "/nodes/pve1/qemu/106/config", json!({"protection": 1}));
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/106/clone", json!({"newid": 150, "name": "copy"})), "OK");
    let (source, copy) = (home.config("pve1", "qemu", 106), home.config("pve1", "qemu", 150));
    assert_eq!((&copy["protection"], &copy["tags"]), (&json!(1), &source["tags"]));
    for key in ["smbios1", "vmgenid", "net0", "meta", "scsi0"] {
        assert_ne!(copy[key], source[key], "{key}");
    }
}

#[test]
fn the_new_guest_is_locked_while_it_is_made() {
    let mut home = home();
    home.ok("POST", "/nodes/pve1/qemu/9000/clone", json!({"newid": 150}));
    assert_eq!(home.config("pve1", "qemu", 150)["lock"], "clone");
    home.ok("POST", "/nodes/pve1/qemu", json!({"vmid": 151}));
    assert_eq!(home.config("pve1", "qemu", 151)["lock"], "create");
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/151/status/start", none()), "VM is locked (create)");
}

#[test]
fn a_running_container_is_copied_from_a_snapshot_only() {
    let mut home = home();
    home.refused("POST", "/nodes/pve1/lxc/203/clone", json!({"newid": 250}), 500, "running container");
    let from = json!({"newid": 250, "snapname": "good-certificates", "hostname": "proxy-copy"});
    assert_eq!(home.task("POST", "/nodes/pve1/lxc/203/clone", from), "OK");
}

#[test]
fn a_copy_for_another_node_needs_shared_disks() {
    let mut home = home();
    let wanted = json!({"newid": 150, "target": "pve2"});
    home.refused(
        "POST",
        "/nodes/pve1/qemu/106/clone",
        wanted,
        500,
        "can't clone VM to node 'pve2' (VM uses local storage)",
    );
}

fn moved(home: &mut Home, vmid: u32) -> Value {
    home.row(vmid).expect("listed")["node"].clone()
}

#[test]
fn moving_locks_the_guest_and_takes_its_file_away_from_the_old_node() {
    let mut home = home();
    let upid = text(&home.ok("POST", "/nodes/pve1/lxc/211/migrate", json!({"target": "pve2", "restart": 1})));
    assert!(upid.contains(":hamigrate:"), "{upid}");
    home.ok("DELETE", "/cluster/ha/resources/ct:211", none());
    home.pass_s(20);
    let upid = text(&home.ok("POST", "/nodes/pve1/lxc/211/migrate", json!({"target": "pve2", "restart": 1})));
    assert!(upid.contains(":vzmigrate:211:"), "{upid}");
    assert_eq!(home.config("pve1", "lxc", 211)["lock"], "migrate");
    assert_eq!(home.exit_of(&upid), "OK");
    assert_eq!(moved(&mut home, 211), "pve2");
    home.refused(
        "GET",
        "/nodes/pve1/lxc/211/config",
        none(),
        500,
        "Configuration file 'nodes/pve1/lxc/211.conf' does not exist",
    );
}

#[test]
fn live_moves_of_local_disks_must_be_asked_for() {
    let mut home = home();
    let target = |more: Value| {
        let mut wanted = json!({"target": "pve2", "online": 1});
        if let Value::Object(more) = more {
            wanted.as_object_mut().expect("an object").extend(more);
        }
        wanted
    };
    let path = "/nodes/pve3/qemu/103/migrate";
    home.refused("POST", path, json!({"target": "pve2"}), 500, "can't migrate running VM without --online");
    assert_eq!(
        home.task("POST", path, target(json!({}))),
        "can't live migrate attached local disks without with-local-disks option"
    );
    let to_1 = json!({"target": "pve1", "online": 1, "with-local-disks": 1});
    assert_eq!(home.task("POST", path, to_1), "storage 'local-zfs' is not available on node 'pve1'");
    assert_eq!(home.task("POST", path, target(json!({"with-local-disks": 1}))), "OK");
    assert_eq!(moved(&mut home, 103), "pve2");
    assert_eq!(home.get("/nodes/pve2/qemu/103/status/current")["status"], "running");
}

#[test]
fn the_check_before_a_move_names_nodes_disks_and_storages() {
    let mut home = home();
    let stopped = home.get("/nodes/pve3/qemu/104/migrate");
    assert_eq!(stopped["allowed_nodes"], json!(["pve2"]));
    assert_eq!(stopped["not_allowed_nodes"]["pve1"]["unavailable_storages"], json!(["local-zfs"]));
    assert_eq!(stopped["local_disks"].as_array().expect("a list").len(), 3);
    assert_eq!(home.get("/nodes/pve1/lxc/203/migrate")["allowed-nodes"], json!(["pve2", "pve3"]));
}

#[test]
fn a_container_has_no_check_before_a_move_in_release_8() {
    crate::support::old_home().refused("GET", "/nodes/pve1/lxc/203/migrate", none(), 501, "not implemented");
}

#[test]
fn a_backup_appears_where_it_was_asked_for() {
    let mut home = home();
    let wanted = json!({"vmid": "107", "storage": "nas", "mode": "snapshot", "compress": "zstd", "notes-template": "{{guestname}}"});
    assert_eq!(home.task("POST", "/nodes/pve1/vzdump", wanted), "OK");
    let found = home.ok("GET", "/nodes/pve1/storage/nas/content", json!({"content": "backup", "vmid": 107}));
    assert_eq!((&found[0]["notes"], &found[0]["format"]), (&json!("build-runner"), &json!("vma.zst")));
    assert!(text(&found[0]["volid"]).starts_with("nas:backup/vzdump-qemu-107-2026_11_22-20_00_"));
}

#[test]
fn a_backup_of_a_locked_guest_is_a_job_error() {
    let mut home = home();
    let first = text(&home.ok("POST", "/nodes/pve1/vzdump", json!({"vmid": "107", "storage": "nas"})));
    let second = home.task("POST", "/nodes/pve1/vzdump", json!({"vmid": "107", "storage": "nas"}));
    assert_eq!(second, "job errors");
    assert_eq!(home.exit_of(&first), "OK", "the first one's lock was left alone");
}

#[test]
fn guests_of_other_nodes_are_left_out_of_a_backup_without_a_task() {
    let mut home = home();
    assert_eq!(home.ok("POST", "/nodes/pve1/vzdump", json!({"vmid": "103", "storage": "nas"})), "OK");
}

#[test]
fn a_protected_backup_is_not_removed() {
    let mut home = home();
    assert_eq!(
        home.task("POST", "/nodes/pve1/vzdump", json!({"vmid": "107", "storage": "nas", "protected": 1})),
        "OK"
    );
    let found = home.ok("GET", "/nodes/pve1/storage/nas/content", json!({"content": "backup"}));
    let path = format!("/nodes/pve1/storage/nas/content/{}", text(&found[0]["volid"]));
    assert!(home.task("DELETE", &path, none()).starts_with("can't remove protected volume"));
    home.ok("PUT", &path, json!({"protected": 0}));
    assert_eq!(home.task("DELETE", &path, none()), "OK");
}

#[test]
fn restoring_over_a_guest_needs_force_and_respects_protection() {
    let mut home = home();
    assert_eq!(home.task("POST", "/nodes/pve1/vzdump", json!({"vmid": "106", "storage": "nas"})), "OK");
    let found = home.ok("GET", "/nodes/pve1/storage/nas/content", json!({"content": "backup"}));
    let wanted = json!({"vmid": 106, "archive": found[0]["volid"]});
    home.refused("POST", "/nodes/pve1/qemu", wanted.clone(), 500, "VM 106 already exists");
    home.ok("PUT", "/nodes/pve1/qemu/106/config", json!({"protection": 1, "description": "newer"}));
    let mut forced = wanted;
    forced["force"] = json!(1);
    home.refused("POST", "/nodes/pve1/qemu", forced.clone(), 500, "protection mode enabled");
    home.ok("PUT", "/nodes/pve1/qemu/106/config", json!({"delete": "protection"}));
    assert_eq!(home.task("POST", "/nodes/pve1/qemu", forced), "OK");
    assert!(home.config("pve1", "qemu", 106).get("description").is_none());
}

#[test]
fn guests_without_a_backup_job_are_named() {
    let mut home = home();
    assert_eq!(all(&home.get("/cluster/backup-info/not-backed-up"), "vmid"), [104, 9000]);
}

#[test]
fn a_container_is_made_from_a_template_that_exists() {
    let mut home = home();
    home.become_(As::Act);
    let mut wanted =
        json!({"vmid": 250, "ostemplate": "local:vztmpl/none.tar.zst", "rootfs": "local-lvm:4", "start": 1});
    home.refused(
        "POST",
        "/nodes/pve1/lxc",
        wanted.clone(),
        500,
        "volume 'local:vztmpl/none.tar.zst' does not exist",
    );
    wanted["ostemplate"] = json!("local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst");
    assert_eq!(home.task("POST", "/nodes/pve1/lxc", wanted), "OK");
    home.pass_s(3);
    assert_eq!(
        home.get("/nodes/pve1/lxc/250/status/current")["status"],
        "running",
        "a second task started it"
    );
}

#[test]
fn pools_hold_what_is_put_in_and_are_removed_empty_only() {
    let mut home = home();
    home.ok("POST", "/pools", json!({"poolid": "new"}));
    home.ok("PUT", "/pools/new", json!({"vms": "108,205"}));
    home.refused("PUT", "/pools/new", json!({"vms": "106"}), 500, "'allow-move' is not set");
    assert_eq!(all(&home.get("/pools/new")["members"], "vmid"), [108, 205]);
    home.refused("DELETE", "/pools/new", none(), 500, "is not empty");
    home.ok("PUT", "/pools/new", json!({"vms": "108,205", "delete": 1}));
    home.ok("DELETE", "/pools/new", none());
}
