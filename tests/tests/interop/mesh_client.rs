//! A client somebody else wrote, with nats-py and a key: what it finds, reads and follows, and what it may not do.

use crate::{
    mesh::Mesh,
    peer::{self, Peer},
    proxmox,
};
use nhi_bus::registry::keys_dir;
use nhi_model::identity::Role;
use serde_json::{Value, json};

/// Messages of the feed that are followed.
const MESSAGES: usize = 3;

#[tokio::test]
async fn a_plain_nats_client_is_a_full_member() {
    let mut lab = proxmox::small().await;
    let mesh = Mesh::start(lab.endpoint()).await;
    mesh.nats.add("pyagent", Role::Agent).await;
    let mut client = Peer::start("mesh_client.py", peer::PACKAGES).await;
    let seed_file = keys_dir(&mesh.nats.dir()).join("pyagent.nk");
    client
        .say(&json!({"url": mesh.nats.url(), "name": "pyagent", "seed_file": seed_file, "key": "vm.home.104",
        "feed_messages": MESSAGES}))
        .await;

    let found: Value = client.hear().await;
    let services = found["services"].as_object().unwrap_or_else(|| panic!("{found}"));
    for (service, endpoint) in
        [("state", "get"), ("state", "diff"), ("scan", "now"), ("auth", "list"), ("audit", "list")]
    {
        let told = &services[service]["endpoints"][endpoint];
        assert_eq!(services[service]["type"], "io.nats.micro.v1.info_response");
        assert_eq!(told["subject"], format!("nhi.{service}.{endpoint}.*"));
        assert_eq!(told["effect"], "read", "{service}.{endpoint}");
        assert!(!told["description"].as_str().unwrap().is_empty(), "{service}.{endpoint}");
        for schema in ["request_schema", "response_schema"] {
            assert_eq!(told[schema]["type"], "object", "{schema} of {service}.{endpoint}");
        }
    }

    let answer: Value = client.hear().await;
    let record = &answer["state"]["body"]["records"]["vm.home.104"]["record"];
    assert_eq!(record["name"], "guest-104", "{answer}");

    let refused: Value = client.hear().await;
    for (subject, is_refused) in refused["refused"].as_object().unwrap() {
        assert_eq!(is_refused, true, "{subject} was not refused");
    }

    assert_eq!(client.hear::<Value>().await, json!({"following": true}));
    for vmid in [104, 102, 103] {
        lab.stop_guest(vmid).await;
    }
    let done = mesh.scan().await;
    let mut last = None;
    for _ in 0..MESSAGES {
        let message: Value = client.hear().await;
        let (subject, headers) = (&message["feed"]["subject"], &message["feed"]["headers"]);
        assert!(subject.as_str().unwrap().starts_with("nhi-pub.state."), "{message}");
        let sequence: u64 = headers["Nats-Sequence"].as_str().unwrap().parse().unwrap();
        assert!(last.is_none_or(|last| sequence == last + 1), "no gap: {last:?}, then {message}");
        assert!(headers["Nats-Batch-Id"].is_string(), "a scan lands whole: {message}");
        last = Some(sequence);
    }
    assert!(last.is_some_and(|last| last <= done.revision), "{last:?} of {done:?}");
    mesh.stop().await;
}
