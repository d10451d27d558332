//! Power commands: what is refused at once, what in the task, and what the HA manager makes of them.

use crate::support::{As, home, none, text};
use serde_json::json;

#[test]
fn starting_a_running_machine_is_accepted_and_fails_in_the_task() {
    let mut home = home();
    let exit = home.task("POST", "/nodes/pve1/qemu/100/status/start", none());
    assert_eq!(exit, "VM 100 already running");
}

#[test]
fn starting_a_running_container_is_refused_at_once() {
    let mut home = home();
    home.refused("POST", "/nodes/pve1/lxc/201/status/start", none(), 500, "CT 201 already running");
}

#[test]
fn stopping_a_stopped_machine_succeeds_and_a_stopped_container_is_refused() {
    let mut home = home();
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/106/status/stop", none()), "OK");
    home.refused("POST", "/nodes/pve3/lxc/212/status/stop", none(), 500, "CT 212 not running");
    home.refused("POST", "/nodes/pve3/lxc/212/status/shutdown", none(), 500, "CT 212 not running");
}

#[test]
fn a_start_takes_time_and_is_seen_in_the_live_list_first() {
    let mut home = home();
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/106/status/start", none()));
    assert_eq!(home.get(&format!("/nodes/pve1/tasks/{upid}/status"))["status"], "running");
    assert_eq!(home.get("/nodes/pve1/qemu/106/status/current")["status"], "stopped");
    assert_eq!(home.exit_of(&upid), "OK");
    assert_eq!(home.get("/nodes/pve1/qemu/106/status/current")["status"], "running");
    assert_eq!(home.row(106).expect("listed")["status"], "stopped", "statistics lag behind");
    home.pass_s(10);
    assert_eq!(home.row(106).expect("listed")["status"], "running");
}

#[test]
fn a_guest_that_ignores_shutdown_lets_the_task_time_out() {
    let mut home = home();
    home.fault(json!({"kind": "ignores_shutdown", "vmid": 107}));
    let exit = home.task("POST", "/nodes/pve1/qemu/107/status/shutdown", json!({"timeout": 20}));
    assert_eq!(exit, "VM quit/powerdown failed - got timeout");
    assert_eq!(home.get("/nodes/pve1/qemu/107/status/current")["status"], "running");
    let forced = json!({"timeout": 20, "forceStop": 1});
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/shutdown", forced), "OK");
    assert_eq!(home.get("/nodes/pve1/qemu/107/status/current")["status"], "stopped");
}

#[test]
fn the_shutdown_timeout_is_the_guests_own_before_the_default() {
    let mut home = home();
    home.fault(json!({"kind": "ignores_shutdown", "vmid": 101}));
    let upid = text(&home.ok("POST", "/nodes/pve2/qemu/101/status/shutdown", none()));
    home.pass_s(170);
    assert_eq!(home.get(&format!("/nodes/pve2/tasks/{upid}/status"))["status"], "running");
    home.pass_s(15);
    assert_eq!(home.get(&format!("/nodes/pve2/tasks/{upid}/status"))["status"], "stopped");
}

#[test]
fn a_stop_waits_for_the_lock_file_of_a_shutdown_unless_it_overrules_it() {
    let mut home = home();
    home.fault(json!({"kind": "ignores_shutdown", "vmid": 107}));
    let shutdown = text(&home.ok("POST", "/nodes/pve1/qemu/107/status/shutdown", none()));
    let stop = home.task("POST", "/nodes/pve1/qemu/107/status/stop", none());
    assert_eq!(stop, "can't lock file '/var/lock/qemu-server/lock-107.conf' - got timeout");
    let overruling = json!({"overrule-shutdown": 1});
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/stop", overruling), "OK");
    assert_eq!(home.exit_of(&shutdown), "received interrupt");
    assert_eq!(home.get("/nodes/pve1/qemu/107/status/current")["status"], "stopped");
}

#[test]
fn a_lock_is_told_by_the_task_not_by_the_call() {
    let mut home = home();
    let lock = json!({"do": "config", "set": {"lock": "backup"}});
    home.lab.edit(106, serde_json::from_value(lock).expect("an edit")).expect("the guest is there");
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/106/status/start", none()), "VM is locked (backup)");
    let lock = json!({"do": "config", "set": {"lock": "mounted"}});
    home.lab.edit(212, serde_json::from_value(lock).expect("an edit")).expect("the guest is there");
    assert_eq!(home.task("POST", "/nodes/pve3/lxc/212/status/start", none()), "CT is locked (mounted)");
}

#[test]
fn a_paused_machine_is_running_to_status_and_paused_to_qmpstatus() {
    let mut home = home();
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/suspend", none()), "OK");
    let current = home.get("/nodes/pve1/qemu/107/status/current");
    assert_eq!((&current["status"], &current["qmpstatus"]), (&json!("running"), &json!("paused")));
    let plain = home.get("/nodes/pve1/qemu");
    let plain =
        plain.as_array().expect("a list").iter().find(|row| row["vmid"] == 107).expect("listed").clone();
    assert!(plain.get("qmpstatus").is_none(), "only with full=1");
    home.refused(
        "POST",
        "/nodes/pve1/qemu/107/status/shutdown",
        none(),
        500,
        "VM is paused - cannot shutdown",
    );
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/resume", none()), "OK");
}

#[test]
fn a_machine_suspended_to_disk_is_stopped_locked_and_starts_by_resume() {
    let mut home = home();
    let exit = home.task("POST", "/nodes/pve1/qemu/107/status/suspend", json!({"todisk": 1}));
    assert_eq!(exit, "OK");
    let current = home.get("/nodes/pve1/qemu/107/status/current");
    assert_eq!((&current["status"], &current["lock"]), (&json!("stopped"), &json!("suspended")));
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/resume", none()), "OK");
    assert!(home.get("/nodes/pve1/qemu/107/status/current").get("lock").is_none());
}

#[test]
fn a_managed_guest_still_runs_when_its_hastop_task_is_ok() {
    let mut home = home();
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/102/status/stop", none()));
    assert!(upid.contains(":hastop:102:"), "{upid}");
    assert_eq!(home.exit_of(&upid), "OK");
    assert_eq!(home.get("/nodes/pve1/qemu/102/status/current")["status"], "running");
    home.pass_s(20);
    assert_eq!(home.get("/nodes/pve1/qemu/102/status/current")["status"], "stopped");
    let by = home.get("/nodes/pve1/tasks");
    let shutdown = by
        .as_array()
        .expect("a list")
        .iter()
        .find(|task| task["type"] == "qmshutdown")
        .expect("the manager's");
    assert_eq!(shutdown["user"], "root@pam");
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/102/status/start", none()));
    assert!(upid.contains(":hastart:102:"), "{upid}");
    home.pass_s(20);
    assert_eq!(home.get("/nodes/pve1/qemu/102/status/current")["status"], "running");
}

#[test]
fn the_ha_manager_restarts_what_fell_over() {
    let mut home = home();
    let crash = json!({"do": "power", "to": "stopped"});
    home.lab.edit(211, serde_json::from_value(crash).expect("an edit")).expect("the guest is there");
    assert_eq!(home.get("/nodes/pve1/lxc/211/status/current")["status"], "stopped");
    home.pass_s(20);
    assert_eq!(home.get("/nodes/pve1/lxc/211/status/current")["status"], "running");
}

#[test]
fn skiplock_is_for_root_alone_and_no_token_is_root() {
    let mut home = home();
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/106/status/start", json!({"skiplock": 1})), "OK");
    home.become_(As::Act);
    home.refused(
        "POST",
        "/nodes/pve1/qemu/106/status/stop",
        json!({"skiplock": 1}),
        400,
        "Parameter verification failed.",
    );
}

#[test]
fn a_reboot_takes_over_what_waited() {
    let mut home = home();
    home.ok("PUT", "/nodes/pve1/qemu/107/config", json!({"cores": 2}));
    assert_eq!(home.ok("GET", "/nodes/pve1/qemu/107/config", json!({"current": 1}))["cores"], 4);
    assert_eq!(home.config("pve1", "qemu", 107)["cores"], 2);
    assert_eq!(home.task("POST", "/nodes/pve1/qemu/107/status/reboot", none()), "OK");
    assert_eq!(home.ok("GET", "/nodes/pve1/qemu/107/config", json!({"current": 1}))["cores"], 2);
}
