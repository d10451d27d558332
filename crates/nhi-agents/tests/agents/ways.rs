//! The ways to a cluster: which address is asked, behind which certificate, and that it can be seen.

use crate::house::{House, SOON};
use nhi_bus::cx::Cx;
use nhi_model::{
    call::{ScanAddress, ScanTrust},
    source::{Coverage, Source},
};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{Fault, LabOptions};
use nhi_testkit::wait_for;
use std::net::SocketAddr;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// The demo home whose nodes are at addresses of this machine, each with an API of its own.
fn nearby() -> LabOptions {
    let mut options = LabOptions::demo();
    options.all_nodes = true;
    for (number, node) in options.seed.nodes.iter_mut().enumerate() {
        node.address = format!("127.0.0.{}", number + 1);
    }
    options
}

/// Takes connections to one address over to another, until its context ends.
fn forward(cx: &Cx, listener: TcpListener, to: SocketAddr) {
    let stop = cx.clone();
    cx.spawn("forward", async move {
        loop {
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = listener.accept() => taken,
            };
            let (mut client, _) = taken.unwrap();
            let connection = stop.clone();
            stop.spawn("forwarded connection", async move {
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                tokio::select! {
                    () = connection.cancelled() => {}
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                }
            });
        }
    });
}

/// Listeners on the same port of the first addresses of this machine.
async fn neighbours() -> [TcpListener; 3] {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let others =
            (TcpListener::bind(("127.0.0.2", port)).await, TcpListener::bind(("127.0.0.3", port)).await);
        if let (Ok(second), Ok(third)) = others {
            return [first, second, third];
        }
    }
    panic!("no port is free on 127.0.0.1, 127.0.0.2 and 127.0.0.3");
}

/// A scanned house whose scanner knows one node's address, and what cuts that node off.
async fn with_one_address(trust: impl FnOnce(&House) -> Trust) -> (House, Cx) {
    let mut house = House::with(nearby()).await;
    let listeners = neighbours().await;
    let port = listeners[0].local_addr().unwrap().port();
    let first = house.cx.child();
    for (listener, (node, url)) in listeners.into_iter().zip(&house.lab.node_urls) {
        let to = url.strip_prefix("https://").unwrap().parse().unwrap();
        let cx = if node == "pve1" { &first } else { &house.cx };
        forward(cx, listener, to);
    }
    let token = ApiToken::parse(&house.lab.scan_token.id, &house.lab.scan_token.secret).unwrap();
    let address = Address::parse_list(&format!("127.0.0.1:{port}")).unwrap();
    let mut endpoint = Endpoint::new(address, token, trust(&house)).unwrap();
    endpoint.node_port = port;
    let mut options = house.scan_options();
    options.clusters[0].endpoint = endpoint;
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    (house, first)
}

async fn addresses(house: &House) -> Vec<ScanAddress> {
    house.status().await.connections["proxmox-home"].addresses.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_address_is_replaced_by_the_nodes_the_cluster_told() {
    let (house, first) = with_one_address(|house| Trust::ca_pem(house.lab.ca_pem.as_bytes()).unwrap()).await;
    let known = addresses(&house).await;
    let nodes: Vec<_> = known.iter().map(|address| (address.node.as_deref(), address.first)).collect();
    assert_eq!(nodes, [(None, true), (Some("pve2"), false), (Some("pve3"), false)]);
    assert!(matches!(known[0].trust, ScanTrust::Authority { .. }), "{known:?}");
    assert_eq!(known[1].trust, ScanTrust::NotYet, "nobody asks it without need");

    first.cancel();
    let done = house.pass().await;
    assert_eq!(
        done.sources["proxmox-home"],
        Coverage::Complete,
        "its guests, and all else, are seen through pve2"
    );
    // Nothing of it is wrong, but people are told.
    wait_for("the alert", SOON, async || {
        house.pass().await;
        house.alerts() == ["alert.scan.detour_home"]
    })
    .await;
    let known = addresses(&house).await;
    // The authority signed it and the first node told it; the nearer reason is shown.
    assert!(known[1].first && matches!(known[1].trust, ScanTrust::Told { .. }), "{known:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_certificate_alone_is_enough_for_the_nodes_the_cluster_told() {
    let (house, first) =
        with_one_address(|house| Trust::fingerprint(house.lab.fingerprint.parse().unwrap())).await;
    first.cancel();
    assert_eq!(house.pass().await.sources["proxmox-home"], Coverage::Complete);
    let known = addresses(&house).await;
    assert!(known[1].first && matches!(known[1].trust, ScanTrust::Told { .. }), "{known:?}");
    let trouble = known[0].trouble.as_ref().unwrap();
    assert!(trouble.contains("nothing listens there"), "{trouble}");

    // The control: another certificate at the same place, which the first node never told. Nothing is sent there.
    house.lab.set_fault(Fault::CertificateRotated { node: "pve2".to_owned(), foreign: true }).unwrap();
    house.lab.set_fault(Fault::CertificateRotated { node: "pve3".to_owned(), foreign: true }).unwrap();
    house.lab.with_lab(|lab| {
        for node in lab.nodes.values_mut() {
            node.fingerprint = ["AB"; 32].join(":");
        }
    });
    wait_for("connections to end", SOON, async || {
        house.pass().await;
        house.alerts().contains(&"alert.scan.unreachable_home".to_owned())
    })
    .await;
    let known = addresses(&house).await;
    let trouble = known[1].trouble.as_ref().unwrap();
    assert!(trouble.contains("nothing is sent there"), "{trouble}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_is_shown_until_the_settings_follow() {
    let mut house = House::empty().await;
    let pin = house.lab.fingerprint.clone();
    let both = |pin: &str| Trust::from_settings(Some(house.lab.ca_pem.as_bytes()), Some(pin)).unwrap();
    let trust = both(&pin);
    house.lab.set_fault(Fault::CertificateRotated { node: "pve1".to_owned(), foreign: false }).unwrap();
    let now = house.lab.with_lab(|lab| lab.nodes["pve1"].fingerprint.clone());
    let follow = both(&now);
    let start = async |house: &mut House, trust: Trust| {
        let token = ApiToken::parse(&house.lab.scan_token.id, &house.lab.scan_token.secret).unwrap();
        let endpoint = Endpoint::new(Address::parse_list(&house.lab.url).unwrap(), token, trust).unwrap();
        let mut options = house.scan_options();
        options.clusters[0].endpoint = endpoint;
        house.start_scan(options).await;
        house.ready().await;
        house.pass().await;
    };
    start(&mut house, trust).await;
    let known = addresses(&house).await;
    assert_eq!(known[0].trust, ScanTrust::Rotated { fingerprint: now.clone(), pinned: vec![pin] });
    let source: Source = house.record("source.proxmox-home");
    assert_eq!(
        (source.coverage, source.rotated.values().collect::<Vec<_>>()),
        (Coverage::Complete, vec![&now])
    );
    assert_eq!(house.alerts(), ["alert.scan.certificate-rotated_home"]);
    assert_eq!(house.pass().await.writes, 0, "a fact, told once");

    house.scan.take().unwrap().stop().await;
    start(&mut house, follow).await;
    wait_for("the alert to go", SOON, async || house.alerts().is_empty()).await;
    assert!(house.record::<Source>("source.proxmox-home").rotated.is_empty());
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_counted_where_it_can_be_seen() {
    let house = House::scanned().await;
    let counted =
        async |house: &House| house.status().await.connections["proxmox-home"].unknown_fields.clone();
    assert_eq!(counted(&house).await, [].into(), "nothing in the lab is new to us");
    house.lab.with_lab(|lab| lab.pool_of_storage.insert("nas".to_owned(), "core".to_owned()));
    house.pass().await;
    let seen = counted(&house).await["resource-storage.pool"];
    assert!(seen >= 3, "a row for each node");
    assert_eq!(house.pass().await.writes, 0, "a counter is no fact");
    assert!(counted(&house).await["resource-storage.pool"] > seen);
    house.cx.close().await;
}
