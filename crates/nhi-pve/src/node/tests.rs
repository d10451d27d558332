//! What a node tells, in older and newer forms.

use super::{BackupVolume, NodeRow, NodeState, NodeStatus, Space, Storage, Task};
use crate::rows::{Row, Rows, Unknown, many, one};
use serde_json::{Value, json};

fn rows<T: Row>(data: Value) -> Rows<T> {
    many(data, &mut Unknown::default()).unwrap()
}

#[test]
fn nodes() {
    let read = rows::<NodeRow>(json!([
        {"node": "a", "status": "online", "type": "node", "id": "node/a", "level": "", "ssl_fingerprint": "AB:CD",
         "cpu": 0.02, "maxcpu": 8, "mem": "1", "uptime": 1},
        {"node": "b", "status": "offline"}, {"node": "c"}, {"node": "d", "status": "maintenance"}, {"status": "online"},
    ]));
    let states: Vec<NodeStatus> = read.rows.iter().map(|row| row.status).collect();
    assert_eq!(states, [NodeStatus::Online, NodeStatus::Offline, NodeStatus::Unknown, NodeStatus::Unknown]);
    assert_eq!((read.unreadable, read.rows[0].mem, &read.rows[0].level), (1, Some(1), &None));
    assert!(read.rows[0].rest.is_empty());
}

#[test]
fn the_state_of_a_node_in_older_and_newer_words() {
    let mut unknown = Unknown::default();
    let newer: NodeState = one(
        json!({"pveversion": "pve-manager/9.1.1/2a5fa54a8503f96d", "current-kernel": {"release": "6.17.2-1-pve"},
            "kversion": "Linux 6.17.2-1-pve #1 SMP", "cpuinfo": {"cpus": 8, "cores": "4", "sockets": 1, "model": "N100"},
            "memory": {"total": 100, "used": "40", "free": 60}, "loadavg": ["0.10", 0.2, "x"], "uptime": 9}),
        &mut unknown,
    )
    .unwrap();
    assert_eq!((newer.pve_version(), newer.kernel.as_deref()), (Some("9.1.1"), Some("6.17.2-1-pve")));
    assert_eq!((newer.cpus, newer.cores, newer.cpu_model.as_deref()), (Some(8), Some(4), Some("N100")));
    assert_eq!(newer.memory, Space { total: Some(100), used: Some(40), free: Some(60) });
    assert_eq!((newer.loadavg, newer.swap), (vec![0.1, 0.2], Space::default()));
    let older: NodeState =
        one(json!({"kversion": "Linux 5.15.102-1-pve #1 SMP", "pveversion": "x"}), &mut unknown).unwrap();
    assert_eq!((older.kernel.as_deref(), older.pve_version()), (Some("5.15.102-1-pve"), None));
}

#[test]
fn storages_and_backups() {
    let read =
        rows::<Storage>(json!([{"storage": "nas", "type": "nfs", "content": "backup,images", "shared": "1",
        "active": 0, "enabled": true, "total": 10, "used": null, "avail": "4", "used_fraction": 0.6}]));
    let storage = &read.rows[0];
    assert_eq!((storage.shared, storage.active, storage.enabled), (true, Some(false), Some(true)));
    assert_eq!(storage.space, Space { total: Some(10), used: None, free: Some(4) });

    let volid = "nas:backup/vzdump-qemu-100-2026_01_01-02_00_00.vma.zst";
    let read = rows::<BackupVolume>(json!([
        {"volid": volid, "vmid": "100", "ctime": "1767232800", "size": null, "format": "vma.zst", "content": "backup",
         "protected": "1", "verification": {"state": "ok", "upid": "UPID:…"}},
        {"vmid": 100},
    ]));
    let backup = &read.rows[0];
    assert_eq!((backup.vmid, backup.ctime, backup.size), (Some(100), Some(1_767_232_800), None));
    assert!(backup.protected && backup.verification.as_deref() == Some("ok"));
    assert_eq!(read.unreadable, 1);
}

#[test]
fn tasks_run_end_well_or_do_not() {
    let task = |more: Value| {
        let mut row = json!({"upid": "UPID:a:00000001:00000001:00000001:vzdump:100:a@pam:", "type": "vzdump",
            "starttime": "1", "id": 100, "saved": "1", "pid": 1, "pstart": 1, "user": "a@pam", "node": "a"});
        for (key, value) in more.as_object().unwrap() {
            row[key] = value.clone();
        }
        rows::<Task>(json!([row])).rows.remove(0)
    };
    let cases = [
        (json!({}), true, false),
        (json!({"status": "RUNNING"}), true, false),
        (json!({"status": "OK", "endtime": 2}), false, true),
        (json!({"status": "WARNINGS: 2", "endtime": 2}), false, true),
        (json!({"status": "unexpected status", "endtime": 2}), false, false),
        (json!({"status": "command 'vzdump' failed: exit code 1", "endtime": 2}), false, false),
        (json!({"endtime": 2}), false, false),
    ];
    for (more, running, succeeded) in cases {
        let task = task(more.clone());
        assert_eq!((task.running(), task.succeeded()), (running, succeeded), "{more}");
        assert_eq!(task.id.as_deref(), Some("100"));
        assert!(task.rest.is_empty());
    }
}
