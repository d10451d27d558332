//! Which addresses are taken from what a cluster tells, and when they may be asked.

use super::*;
use crate::{
    cluster::{ClusterNode, ClusterRow},
    rows::{Rows, Unknown, many},
};
use serde_json::{Map, json};
use std::str::FromStr;

fn node(name: &str, ip: &str, local: bool) -> ClusterNode {
    ClusterNode {
        name: name.to_owned(),
        nodeid: None,
        ip: Some(ip.to_owned()),
        online: Some(true),
        local,
        level: None,
        rest: Map::new(),
    }
}

fn status(quorate: bool, nodes: Vec<ClusterNode>) -> ClusterStatus {
    let cluster =
        ClusterRow { name: None, quorate: Some(quorate), nodes: None, version: None, rest: Map::new() };
    ClusterStatus { cluster: Some(cluster), nodes: Rows { rows: nodes, unreadable: 0 } }
}

fn places(configured: &str) -> Places {
    Places::new(Address::parse_list(configured).unwrap(), 8006)
}

fn shown(places: &Places) -> Vec<String> {
    places.all().into_iter().map(|number| places.get(number).address.to_string()).collect()
}

const THREE: [(&str, &str, bool); 3] =
    [("pve1", "192.0.2.1", true), ("pve2", "192.0.2.2", false), ("pve3", "2001:db8::3", false)];

fn three() -> Vec<ClusterNode> {
    THREE.map(|(name, ip, local)| node(name, ip, local)).into()
}

#[test]
fn the_nodes_addresses_come_behind_the_settings_and_who_answered_last() {
    let places = places("pve1.lan");
    places.learn(0, &status(true, three()));
    let expected = [
        "https://pve1.lan:8006",
        "https://192.0.2.2:8006",
        "https://[2001:db8::3]:8006",
        "https://192.0.2.1:8006",
    ];
    assert_eq!(shown(&places), expected);
    assert_eq!(places.node(1).as_deref(), Some("pve2"));
    // Again, from another node: no number changes its address.
    let mut turned = three();
    (turned[0].local, turned[1].local) = (false, true);
    places.learn(1, &status(true, turned));
    assert_eq!(shown(&places), expected);
}

#[test]
fn what_stands_in_the_settings_is_not_learned_again() {
    let places = places("192.0.2.1,https://192.0.2.2:443");
    places.learn(0, &status(true, three()));
    assert_eq!(shown(&places)[2..], ["https://192.0.2.2:8006", "https://[2001:db8::3]:8006"]);
}

#[test]
fn what_is_no_address_of_another_machine_is_not_learned() {
    let odd = ["", "pve9.lan", "127.0.1.1", "::1", "0.0.0.0", "224.0.0.1", "192.0.2.9:8006", "../x"];
    let nodes = || odd.iter().map(|ip| node("odd", ip, false)).collect();
    let places_ = places("pve1.lan");
    places_.learn(0, &status(true, nodes()));
    assert_eq!(places_.all(), [0]);
    // Where the settings lead to this machine, into a tunnel mostly, so must its neighbours.
    let here = places("127.0.0.1");
    here.learn(0, &status(true, nodes()));
    here.learn(0, &status(false, three()));
    assert_eq!(shown(&here)[1..], ["https://127.0.1.1:8006", "https://[::1]:8006"]);
}

#[test]
fn a_single_host_and_plain_http_teach_nothing() {
    let alone = places("pve1.lan");
    alone.learn(0, &ClusterStatus { cluster: None, ..status(true, three()) });
    assert_eq!(alone.all(), [0]);
    let plain = places("http://localhost:18006");
    plain.learn(0, &status(true, three()));
    assert_eq!(plain.all(), [0]);
}

#[test]
fn a_node_that_left_is_not_asked_and_only_a_majority_says_so() {
    let places = places("pve1.lan");
    places.learn(0, &status(true, three()));
    let fewer = || three().into_iter().take(2).collect();
    places.learn(0, &status(false, fewer()));
    assert_eq!(places.all().len(), 4);
    let mut broken = status(true, fewer());
    broken.nodes.unreadable = 1;
    places.learn(0, &broken);
    assert_eq!(places.all().len(), 4);
    places.learn(0, &status(true, fewer()));
    assert_eq!(places.all(), [0, 1, 3]);
    places.learn(0, &status(true, three()));
    assert_eq!(places.all(), [0, 1, 2, 3]);
}

#[test]
fn the_certificate_told_last_counts() {
    let places = places("pve1.lan");
    places.learn(0, &status(true, three()));
    let tell = |print: &str| {
        let rows = json!([{"node": "pve2", "ssl_fingerprint": print}]);
        places.learn_certificates(0, &many::<NodeRow>(rows, &mut Unknown::default()).unwrap().rows);
    };
    let (old, new) = (["AA"; 32].join(":"), ["BB"; 32].join(":"));
    assert!(places.get(1).learned.unwrap().certificate.is_none());
    for print in [&old, &new] {
        tell(print);
        let told = places.get(1).learned.unwrap().certificate.unwrap();
        assert_eq!(told, Fingerprint::from_str(print).unwrap());
    }
    tell("nonsense");
    assert!(
        places.get(1).learned.unwrap().certificate.is_none(),
        "what is no longer told is no longer believed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_learned_address_that_fails_rests_ever_longer_and_one_of_the_settings_never() {
    let places = places("pve1.lan");
    places.learn(0, &status(true, three()));
    places.failed(0, "down");
    assert_eq!(places.open(), [0, 1, 2, 3]);
    let mut waited = Vec::new();
    for _ in 0..6 {
        places.failed(1, "no way there");
        assert_eq!(places.open(), [0, 2, 3]);
        let start = Instant::now();
        while !places.open().contains(&1) {
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        waited.push(start.elapsed().as_secs());
    }
    assert_eq!(waited, [30, 60, 120, 240, 480, 600]);
    assert_eq!(places.get(1).trouble.as_deref(), Some("no way there"));
    places.answered(1);
    assert!(places.get(1).trouble.is_none());
    places.failed(1, "again");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(places.open(), [0, 1, 2, 3], "it begins anew");
}
