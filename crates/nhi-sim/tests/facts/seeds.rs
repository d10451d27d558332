//! Where labs come from: the demo home, the large lab, a file, Neural-Home's state.

use crate::support::{Home, START_MS, all, home, identities, none, text};
use nhi_sim::{Lab, PveVersion, Seed};
use serde_json::{Value, json};

#[test]
fn the_demo_home_is_believable() {
    let mut home = home();
    assert_eq!(home.get("/nodes").as_array().expect("a list").len(), 3);
    let rows = home.ok("GET", "/cluster/resources", json!({"type": "vm"}));
    assert_eq!(rows.as_array().expect("a list").len(), 22);
    assert_eq!(home.row(100).expect("the control machine")["name"], "neural-home");
    let with_tag = |tag: &str| {
        all(&rows, "tags")
            .iter()
            .filter(|tags| tags.as_str().is_some_and(|tags| tags.split(';').any(|one| one == tag)))
            .count()
    };
    assert_eq!((with_tag("needs-nas"), with_tag("nas"), with_tag("dns"), with_tag("database")), (6, 1, 2, 2));
    assert_eq!(rows.as_array().expect("a list").iter().filter(|row| row["template"] == 1).count(), 1);
    assert_eq!(rows.as_array().expect("a list").iter().filter(|row| row.get("hastate").is_some()).count(), 2);
}

#[test]
fn a_seed_survives_its_own_json() {
    let text = serde_json::to_string(&Seed::demo()).expect("a seed is JSON");
    let again = Seed::from_json(&text).expect("what was written can be read");
    assert_eq!(
        serde_json::to_value(&again).expect("a seed is JSON"),
        serde_json::to_value(Seed::demo()).expect("a seed is JSON")
    );
}

#[test]
fn equal_seeds_and_numbers_give_equal_labs() {
    assert_eq!(home().lab.to_json(), home().lab.to_json());
}

#[test]
fn the_large_lab_has_as_many_as_asked_for() {
    let mut home = Home::of(&Seed::large(3, 500), PveVersion::V9_1);
    let rows = home.ok("GET", "/cluster/resources", json!({"type": "vm"}));
    assert_eq!(rows.as_array().expect("a list").len(), 500);
    assert_eq!(home.get("/nodes/pve2/qemu").as_array().expect("a list").len(), 112);
}

const STATE: &str = r#"{
  "meta": {"generated_at": "2026-01-02T03:04:05.000006"},
  "infrastructure": {
    "nodes": [{"node": "alpha", "status": "online", "maxcpu": 4, "maxmem": 17179869184, "maxdisk": 107374182400, "uptime": 1000}],
    "vms": [
      {"vmid": 101, "name": "one", "node": "alpha", "status": "running", "cpus": 2, "maxmem": 2147483648, "maxdisk": 10737418240,
       "uptime": 500, "tags": "a;b", "ip_addresses": ["192.168.1.5"], "ip6_addresses": ["fd00::5"], "snapshots": 2},
      {"vmid": "102", "name": "two", "node": "alpha", "status": "stopped", "cpus": 1, "maxmem": 1073741824, "template": 1}
    ],
    "lxcs": [{"vmid": "201", "name": "three", "node": "alpha", "status": "running", "cpus": 1, "maxmem": 536870912, "maxdisk": "4294967296"}],
    "endpoints": {}, "health_checks": {}
  },
  "projects": [], "api_providers": {}, "alerts": []
}"#;

#[test]
fn a_state_file_becomes_a_lab_that_looks_the_same() {
    let mut home = Home::of(&Seed::from_json(STATE).expect("a state file"), PveVersion::V9_1);
    let one = home.row(101).expect("listed");
    assert_eq!(
        (&one["name"], &one["status"], &one["tags"]),
        (&json!("one"), &json!("running"), &json!("a;b"))
    );
    assert_eq!(
        (&one["maxcpu"], &one["maxmem"], &one["maxdisk"]),
        (&json!(2), &json!(2_147_483_648_u64), &json!(10_737_418_240_u64))
    );
    let cards = &home.lab.guests[&101].interfaces;
    assert_eq!(cards[1].addresses, ["192.168.1.5/24", "fd00::5/64"]);
    assert_eq!(home.lab.guests[&101].snapshots.len(), 2);
    assert_eq!(home.row(102).expect("listed")["template"], 1);
    assert_eq!(home.row(201).expect("listed")["type"], "lxc");
}

#[test]
fn bad_seeds_are_told_what_is_wrong() {
    let error = |text: &str| Seed::from_json(text).expect_err("it is wrong").to_string();
    assert!(error("{").contains("the seed is not valid"));
    assert!(error(r#"{"nodes": [], "colour": 1}"#).contains("unknown field `colour`"));
    assert!(error(r#"{"nodes": []}"#).contains("no node"));
    let two = r#"{"nodes": [{"name": "a", "address": "192.0.2.1"}, {"name": "b", "address": "192.0.2.2"}]}"#;
    assert!(error(two).contains("name a cluster"));
    let lost = r#"{"nodes": [{"name": "a", "address": "192.0.2.1"}], "guests": [{"vmid": 100, "kind": "qemu", "node": "z", "name": "x"}]}"#;
    assert!(error(lost).contains(r#"guest 100 is on node "z""#));
}

#[test]
fn the_seed_file_in_the_manual_is_valid() {
    let manual = include_str!("../../../../docs/simulator.md");
    let example =
        manual.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let mut home = Home::of(&Seed::from_json(example).expect("a seed"), PveVersion::V9_1);
    assert_eq!(home.row(100).expect("listed")["hastate"], "started");
    assert!(home.row(201).is_some());
}

#[test]
fn the_manual_names_every_fault_edit_and_way_to_break_an_answer() {
    let manual = include_str!("../../../../docs/simulator.md");
    let words = |text: String| -> Vec<String> {
        // serde lists what there is when it is asked for what there is not.
        text.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    };
    let unknown = |key: &str| serde_json::json!({key: "?"});
    let faults =
        words(serde_json::from_value::<nhi_sim::Fault>(unknown("kind")).expect_err("unknown").to_string());
    let edits =
        words(serde_json::from_value::<nhi_sim::Edit>(unknown("do")).expect_err("unknown").to_string());
    let breaks =
        words(serde_json::from_value::<nhi_sim::Breakage>(unknown("how")).expect_err("unknown").to_string());
    assert_eq!((faults.len(), edits.len(), breaks.len()), (15, 9, 9));
    for word in faults.iter().chain(&breaks) {
        assert!(manual.contains(&format!("`{word}`")), "{word}");
    }
    for word in &edits {
        assert!(manual.contains(&format!("\"do\": \"{word}\"")), "{word}");
    }
}

/// What two labs have in common when one was made of the other.
fn lasting(lab: &Lab) -> Value {
    let mut state = lab.to_json();
    for guest in state["guests"].as_object_mut().expect("guests by number").values_mut() {
        if let Some(power) = guest["power"].as_object_mut() {
            power.retain(|key, _| key == "is");
        }
    }
    let volumes = state["volumes"].as_array_mut().expect("volumes").iter_mut().map(|volume| {
        volume
            .as_object_mut()
            .expect("a volume")
            .retain(|key, _| !["made_s", "notes", "saved_config"].contains(&key.as_str()));
        (format!("{} {}", volume["node"], volume["volid"]), volume.take())
    });
    state["volumes"] = volumes.collect();
    let digests: Vec<String> = lab.guests.values().map(nhi_sim::Guest::digest).collect();
    let kept = [
        "cluster",
        "guests",
        "storages",
        "volumes",
        "pools",
        "pool_of_guest",
        "ha",
        "backup_jobs",
        "replication_jobs",
        "options",
    ];
    let kept: serde_json::Map<String, Value> =
        kept.iter().map(|key| ((*key).to_owned(), state[*key].take())).collect();
    json!({"state": kept, "digests": digests})
}

#[test]
fn a_lab_becomes_a_seed_and_the_same_lab_again() {
    let mut home = home();
    for (path, params) in [
        ("/nodes/pve3/qemu/103/snapshot", json!({"snapname": "now", "vmstate": "1", "description": "x\ny"})),
        ("/nodes/pve3/qemu/103/status/suspend", json!({})),
        ("/nodes/pve1/qemu/9000/clone", json!({"newid": "910", "name": "copy"})),
        ("/nodes/pve2/vzdump", json!({"vmid": "202", "storage": "pbs", "compress": "zstd"})),
    ] {
        assert_eq!(home.task("POST", path, params), "OK", "{path}");
    }
    home.ok("PUT", "/nodes/pve1/qemu/107/config", json!({"memory": "4096", "tags": "ci"}));
    let vms = "/nodes/pve2/qemu/101";
    assert_eq!(home.task("POST", &format!("{vms}/snapshot/before-upgrade/rollback"), none()), "OK");
    let digest = home_digest(&mut home, vms);
    home.ok("PUT", &format!("{vms}/config"), json!({"delete": "scsi1", "digest": digest}));

    let seed = serde_json::to_string(&Seed::of_lab(&home.lab)).expect("a seed is JSON");
    let seed = Seed::from_json(&seed).expect("what was written can be read");
    let again = Lab::new(&seed, PveVersion::V9_1, &identities(), 8, home.lab.now_ms());
    let (before, after) = (lasting(&home.lab), lasting(&again));
    for (part, value) in before["state"].as_object().expect("parts") {
        match value {
            Value::Object(rows) => {
                for (key, row) in rows {
                    assert_eq!(after["state"][part][key], *row, "{part} {key}");
                }
            }
            other => assert_eq!(after["state"][part], *other, "{part}"),
        }
    }
    assert_eq!(after["digests"], before["digests"]);
    assert!(again.nodes.keys().eq(home.lab.nodes.keys()));
    assert_ne!(before, lasting(&Lab::new(&Seed::demo(), PveVersion::V9_1, &identities(), 8, START_MS)));
}

fn home_digest(home: &mut Home, guest: &str) -> Value {
    home.get(&format!("{guest}/config"))["digest"].clone()
}

/// A seed of what can be read of a guest over the API: what a rehearsal starts from.
fn read_guest(home: &mut Home, node: &str, kind: &str, vmid: u32) -> Value {
    let at = format!("/nodes/{node}/{kind}/{vmid}");
    let mut config = home.ok("GET", &format!("{at}/config"), json!({"current": "1"}));
    let digest = config.as_object_mut().expect("lines").remove("digest");
    let now_s = home.lab.now_s();
    let listed = home.get(&format!("{at}/snapshot"));
    let mut snapshots = Vec::new();
    for row in listed.as_array().expect("a list").iter().filter(|row| row["name"] != "current") {
        let config = home.ok("GET", &format!("{at}/config"), json!({"snapshot": row["name"]}));
        let age_s = now_s - row["snaptime"].as_i64().expect("a time");
        let parent = row.get("parent").cloned().unwrap_or_default();
        snapshots.push(
            json!({"name": row["name"], "age_s": age_s, "config": config, "whole": true, "parent": parent}),
        );
    }
    let status = home.get(&format!("{at}/status/current"));
    json!({
        "vmid": vmid, "kind": kind, "node": node, "name": status["name"], "running": status["status"] == "running",
        "config": config, "digest": digest, "verbatim": true, "snapshots": snapshots,
    })
}

#[test]
fn a_guest_that_was_read_over_the_api_behaves_alike() {
    let mut home = home();
    let demo = Seed::demo();
    let guests: Vec<Value> =
        [("pve3", "qemu", 103), ("pve1", "lxc", 207), ("pve1", "qemu", 9000), ("pve1", "qemu", 106)]
            .map(|(node, kind, vmid)| read_guest(&mut home, node, kind, vmid))
            .to_vec();
    let seed = json!({
        "cluster": "home",
        "nodes": demo.nodes.iter().map(|node| json!({"name": node.name, "address": "192.0.2.1"})).collect::<Vec<_>>(),
        "storages": demo.storages, "guests": guests,
    });
    let mut copy = Home::of(&Seed::from_json(&seed.to_string()).expect("a seed"), PveVersion::V9_1);
    for (path, kind) in [("/nodes/pve3/qemu/103", "qemu"), ("/nodes/pve1/lxc/207", "lxc")] {
        let config = home.get(&format!("{path}/config"));
        assert_eq!(copy.get(&format!("{path}/config")), config, "every line, and the digest ({kind})");
        assert_eq!(
            text(&copy.get(&format!("{path}/snapshot"))[0]["name"]),
            text(&home.get(&format!("{path}/snapshot"))[0]["name"])
        );
    }
    // The same calls have the same outcome in both.
    let digest = home_digest(&mut home, "/nodes/pve3/qemu/103");
    for lab in [&mut home, &mut copy] {
        let config = "/nodes/pve3/qemu/103/config";
        lab.ok("PUT", config, json!({"description": "new", "digest": digest}));
        lab.refused("PUT", config, json!({"description": "new", "digest": digest}), 500, "detected modified");
        lab.ok("PUT", "/nodes/pve3/qemu/103/resize", json!({"disk": "scsi0", "size": "+10G"}));
        lab.pass_s(60);
        assert!(text(&lab.get(config)["scsi0"]).ends_with("size=130G"));
        // ZFS goes back to the newest only.
        let rolled = lab.task("POST", "/nodes/pve3/qemu/103/snapshot/clean/rollback", none());
        assert!(rolled.contains("is not most recent snapshot"), "{rolled}");
        assert_eq!(
            lab.task("POST", "/nodes/pve3/qemu/103/snapshot/before-compose-v2/rollback", none()),
            "OK"
        );
        assert_eq!(lab.get(config)["parent"], "before-compose-v2");
        lab.refused("DELETE", "/nodes/pve1/lxc/207", none(), 500, "protection mode enabled");
        assert_eq!(lab.task("POST", "/nodes/pve1/lxc/207/snapshot/v16/rollback", none()), "OK");
        assert!(lab.get("/nodes/pve1/lxc/207/config").get("tags").is_none(), "as the snapshot has it");
        assert_eq!(lab.task("POST", "/nodes/pve1/qemu/9000/clone", json!({"newid": "911"})), "OK");
        assert_eq!(lab.task("DELETE", "/nodes/pve1/qemu/106", none()), "OK");
        assert!(lab.row(106).is_none());
    }
}

#[test]
fn a_line_that_names_a_linked_disk_keeps_its_base() {
    let guest = |vmid: u32, disk: &str, template: u32| {
        json!({"vmid": vmid, "kind": "qemu", "node": "a", "name": "x", "verbatim": true,
            "config": {"scsi0": disk, "template": template, "cores": 1}})
    };
    let seed = json!({
        "nodes": [{"name": "a", "address": "192.0.2.1"}],
        "storages": [{"id": "tank", "kind": "zfspool", "content": "images", "total_bytes": 1},
            {"id": "folder", "kind": "dir", "content": "images", "total_bytes": 1}],
        "guests": [
            guest(100, "tank:base-100-disk-0,size=8G", 1), guest(101, "tank:base-100-disk-0/vm-101-disk-0,size=8G", 0),
            guest(200, "folder:200/base-200-disk-0.qcow2,size=8G", 1),
            guest(201, "folder:200/base-200-disk-0.qcow2/201/vm-201-disk-0.qcow2,size=8G", 0),
        ],
    });
    let mut home = Home::of(&Seed::from_json(&seed.to_string()).expect("a seed"), PveVersion::V9_1);
    for (base, clone) in [(100, 101), (200, 201)] {
        let template = format!("/nodes/a/qemu/{base}");
        let exit = home.task("DELETE", &template, none());
        assert!(exit.contains("still in use"), "{exit}");
        assert_eq!(home.task("DELETE", &format!("/nodes/a/qemu/{clone}"), none()), "OK");
        assert_eq!(home.task("DELETE", &template, none()), "OK");
    }
    let lines = home.lab.to_json();
    assert_eq!(lines["volumes"], json!([]), "nothing is left behind");
}
