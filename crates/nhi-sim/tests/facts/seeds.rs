//! Where labs come from: the demo home, the large lab, a file, Neural-Home's state.

use crate::support::{Home, all, home};
use nhi_sim::{PveVersion, Seed};
use serde_json::json;

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
