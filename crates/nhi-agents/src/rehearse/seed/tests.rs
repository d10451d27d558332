//! A copy of the simulated home, made from what was seen of it, shows what the home shows: digests, snapshots and all.

use super::of;
use crate::look::{Wanted, look};
use nhi_decide::{observe::Known, sight::Sight};
use nhi_model::{Timestamp, guest::GuestKind, key::Key, plan::Plan};
use nhi_pve::{Address, ApiToken, Endpoint, Reader, Trust};
use nhi_sim::{LabOptions, Running, Seed};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ZERO: Timestamp = Timestamp::UNIX_EPOCH;

async fn open(seed: Seed) -> (Running, Reader) {
    let lab = nhi_sim::serve(LabOptions { auth_delay_ms: 0, ..LabOptions::local(seed) }).await.unwrap();
    let token = ApiToken::parse(&lab.act_token.id, &lab.act_token.secret).unwrap();
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).unwrap();
    let endpoint = Endpoint::new(Address::parse_list(&lab.url).unwrap(), token, trust).unwrap();
    (lab, Reader::new(endpoint).unwrap())
}

/// Records of a home's nodes, storages and guests, with no more in them than a copy asks for.
fn known(seed: &Seed) -> BTreeMap<Key, Known> {
    let mut known = BTreeMap::new();
    let mut add =
        |key: Key, record: Value| drop(known.insert(key, Known { revision: 1, record, stale: None }));
    for node in &seed.nodes {
        let name = &node.name;
        let record = json!({ "cluster": "home", "node": name, "status": "online", "level": "" });
        add(Key::node("home", name), record);
        for storage in seed.storages.iter().filter(|one| one.nodes.is_empty() || one.nodes.contains(name)) {
            let record = json!({
                "cluster": "home", "node": name, "storage": storage.id, "kind": storage.kind,
                "content": storage.content.split(',').collect::<Vec<_>>(), "shared": storage.shared,
                "active": true, "enabled": true,
            });
            add(Key::storage("home", name, &storage.id), record);
        }
    }
    for guest in &seed.guests {
        let kind: GuestKind = serde_json::from_value(json!(guest.kind)).unwrap();
        let record = json!({
            "kind": kind, "cluster": "home", "vmid": guest.vmid, "name": guest.name, "node": guest.node,
            "status": "stopped", "template": false, "address_source": { "kind": "not-read" },
            "backups": { "kind": "none" },
        });
        add(Key::guest(kind, "home", guest.vmid), record);
    }
    known
}

/// A plan: of it only the cluster and the calls count here.
fn plan() -> Plan {
    let plan = json!({
        "v": 1, "id": "p-0k3x9a", "cluster": "home", "intent": { "do": "start", "guest": "106" }, "by": "aider",
        "made_at": ZERO, "expires_at": ZERO, "revision": 1, "reads": {}, "targets": [], "requires": [], "steps": [],
        "expects": [], "effects": [], "config_changes": [], "impacts": [], "risk": "low",
        "undo": { "intents": [], "complete": false, "cost": "" }, "on_failure": "stop", "digest": null,
    });
    serde_json::from_value(plan).unwrap()
}

async fn see(reader: &Reader, known: &BTreeMap<Key, Known>, configs: &BTreeSet<(Key, String)>) -> Sight {
    let guests = known.iter().filter(|(_, known)| known.record.get("vmid").is_some());
    let node = |known: &Known| known.record["node"].as_str().map(str::to_owned);
    let wanted = Wanted {
        guests: guests.map(|(key, known)| (key.clone(), node(known))).collect(),
        snapshot_configs: configs.clone(),
        ..Wanted::default()
    };
    look(reader, "home", &wanted, Timestamp::now()).await
}

#[tokio::test]
async fn a_copy_is_seen_as_the_home_it_was_made_from() {
    let (_home, reader) = open(Seed::demo()).await;
    let known = known(&Seed::demo());
    let first = see(&reader, &known, &BTreeSet::new()).await;
    let configs: BTreeSet<(Key, String)> = first
        .guests
        .keys()
        .filter_map(|key| Some((key, first.seen(key)?)))
        .flat_map(|(key, seen)| seen.snapshots.iter().flatten().map(|one| (key.clone(), one.name.clone())))
        .collect();
    assert!(!configs.is_empty(), "there are snapshots to copy");
    let sight = see(&reader, &known, &configs).await;

    let described = of(&plan(), &sight, &known);
    let (_copy, reader) = open(serde_json::from_str(&described.text).unwrap()).await;
    let copied = see(&reader, &known, &configs).await;
    assert_eq!(described.keys.len(), 22);
    for key in described.keys.keys() {
        let (was, is) = (sight.seen(key).unwrap(), copied.seen(key).unwrap());
        assert_eq!((&was.digest, &was.config), (&is.digest, &is.config), "{key}");
        assert_eq!((&was.node, &was.name, was.status, &was.pool), (&is.node, &is.name, is.status, &is.pool));
        assert_eq!((&was.identity, was.template, &was.ha), (&is.identity, is.template, &is.ha), "{key}");
        let shape = |sight: &nhi_decide::sight::Seen| {
            let snapshots = sight.snapshots.clone().unwrap_or_default().into_iter();
            let line = |config: BTreeMap<String, String>| {
                config.into_iter().filter(|(field, _)| field != "snaptime").collect::<BTreeMap<_, _>>()
            };
            snapshots.map(|one| (one.name, one.parent, one.config.map(line))).collect::<BTreeSet<_>>()
        };
        assert_eq!(shape(was), shape(is), "{key}");
    }
}

#[tokio::test]
async fn what_is_gone_is_not_copied_and_what_was_not_seen_is_copied_as_recorded() {
    let (_home, reader) = open(Seed::demo()).await;
    let known = known(&Seed::demo());
    let mut sight = see(&reader, &known, &BTreeSet::new()).await;
    let key = |vmid| Key::guest(GuestKind::Qemu, "home", vmid);
    sight.guests.insert(key(106), nhi_decide::sight::GuestSight::Gone);
    sight.guests.remove(&key(107));
    let described = of(&plan(), &sight, &known);
    let seed: Seed = serde_json::from_str(&described.text).unwrap();
    assert!(!described.keys.contains_key(&key(106)) && seed.guests.iter().all(|guest| guest.vmid != 106));
    let recorded = seed.guests.iter().find(|guest| guest.vmid == 107).unwrap();
    assert!(!recorded.verbatim && recorded.digest.is_none());
    let (_copy, _reader) = open(seed).await;
}
