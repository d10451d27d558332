//! Tasks as a follower of tasks sees them.

use crate::support::{home, none, text};
use serde_json::json;

#[test]
fn a_running_task_has_no_end_and_its_status_depends_on_the_list() {
    let mut home = home();
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/106/status/start", none()));
    let cluster = home.get("/cluster/tasks");
    assert_eq!(cluster[0]["upid"], json!(upid));
    assert!(cluster[0].get("status").is_none() && cluster[0].get("endtime").is_none());
    assert_eq!(cluster[0]["saved"], "0", "a string");
    assert_eq!(home.get("/nodes/pve1/tasks"), json!([]), "the archive holds finished ones");
    let active = home.ok("GET", "/nodes/pve1/tasks", json!({"source": "all"}));
    assert_eq!(active[0]["status"], "RUNNING");
    assert_eq!(home.exit_of(&upid), "OK");
    let done = home.get("/nodes/pve1/tasks");
    assert_eq!((&done[0]["status"], &done[0]["id"]), (&json!("OK"), &json!("106")));
    assert_eq!(home.get("/cluster/tasks")[0]["saved"], "1");
}

#[test]
fn lists_can_be_narrowed() {
    let mut home = home();
    home.task("POST", "/nodes/pve1/qemu/106/status/start", none());
    home.pass_s(10);
    let since = home.lab.now_s();
    home.task("POST", "/nodes/pve1/qemu/106/status/start", none());
    home.task("POST", "/nodes/pve1/qemu/106/status/stop", none());
    let count = |home: &mut crate::support::Home, filter| {
        home.ok("GET", "/nodes/pve1/tasks", filter).as_array().expect("a list").len()
    };
    assert_eq!(count(&mut home, json!({"since": since})), 2);
    assert_eq!(count(&mut home, json!({"errors": 1})), 1);
    assert_eq!(count(&mut home, json!({"typefilter": "qmstop"})), 1);
    assert_eq!(count(&mut home, json!({"vmid": 107})), 0);
    assert_eq!(count(&mut home, json!({"limit": 1})), 1);
    let (_, body) = home.call("GET", "/nodes/pve1/tasks", json!({"limit": 1}));
    assert_eq!(body["total"], 3, "the counter is of all");
}

#[test]
fn a_upid_that_cannot_be_read_or_is_not_known_is_400() {
    let mut home = home();
    let (status, body) = home.call("GET", "/nodes/pve1/tasks/nonsense/status", none());
    assert_eq!((status, &body["errors"]["upid"]), (400, &json!("unable to parse worker upid 'nonsense'")));
    let unknown = "UPID:pve1:00000001:00000001:60000000:qmstart:100:root@pam:";
    assert_eq!(home.call("GET", &format!("/nodes/pve1/tasks/{unknown}/status"), none()).0, 400);
}

#[test]
fn the_log_ends_with_how_the_task_ended() {
    let mut home = home();
    home.task("POST", "/nodes/pve1/qemu/107/status/start", none());
    let upid = text(&home.get("/nodes/pve1/tasks")[0]["upid"]);
    let log = home.get(&format!("/nodes/pve1/tasks/{upid}/log"));
    let last = log.as_array().expect("a list").last().expect("lines").clone();
    assert_eq!(last["t"], "TASK ERROR: VM 107 already running");
}

#[test]
fn stopping_a_task_undoes_what_it_had_begun() {
    let mut home = home();
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/9000/clone", json!({"newid": 150})));
    home.ok("DELETE", &format!("/nodes/pve1/tasks/{upid}"), none());
    assert_eq!(home.exit_of(&upid), "received interrupt");
    assert!(home.row(150).is_none());
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/107/snapshot", json!({"snapname": "never"})));
    home.ok("DELETE", &format!("/nodes/pve1/tasks/{upid}"), none());
    assert!(home.config("pve1", "qemu", 107).get("lock").is_none());
}

#[test]
fn a_task_can_be_made_to_fail_to_hang_and_to_lie() {
    let mut home = home();
    let start = "/nodes/pve1/qemu/106/status/start";
    home.fault(json!({"kind": "task_fails", "task": "qmstart", "error": "start failed: QEMU exited with code 1", "times": 1}));
    assert_eq!(home.task("POST", start, none()), "start failed: QEMU exited with code 1");
    assert_eq!(home.get("/nodes/pve1/qemu/106/status/current")["status"], "stopped");
    home.fault(json!({"kind": "task_fails", "task": "qmstart", "error": "unexpected status", "times": 1, "done": true}));
    assert_eq!(home.task("POST", start, none()), "unexpected status");
    assert_eq!(home.get("/nodes/pve1/qemu/106/status/current")["status"], "running", "it did its work");
    let hang = home.fault(json!({"kind": "task_hangs", "task": "qmstop"}));
    let upid = text(&home.ok("POST", "/nodes/pve1/qemu/106/status/stop", none()));
    home.pass_s(3600);
    assert_eq!(home.get(&format!("/nodes/pve1/tasks/{upid}/status"))["status"], "running");
    home.lab.clear_fault(hang);
    assert_eq!(home.exit_of(&upid), "OK");
}

#[test]
fn the_index_forgets_the_oldest_of_a_thousand() {
    let mut home = home();
    let first = text(&home.ok("POST", "/nodes/pve1/qemu/107/status/start", none()));
    for _ in 0..1005 {
        home.ok("POST", "/nodes/pve1/qemu/107/status/reset", none());
        home.pass_s(1);
    }
    assert_eq!(home.call("GET", &format!("/nodes/pve1/tasks/{first}/status"), none()).0, 400);
}
