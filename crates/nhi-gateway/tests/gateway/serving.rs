//! Where and how it listens, and how it stops.

use crate::house::{House, SOON, exchange};
use nhi_bus::{connect::Bus, cx::Cx, server::ServerTls};
use nhi_gateway::{GatewayError, Options};
use nhi_model::Timestamp;
use nhi_testkit::{Nats, wait_for};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};

fn options(nats: &Nats, bus: Bus, listen: &str) -> Options {
    Options {
        listen: listen.parse().unwrap(),
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        target: nats.target(),
        bus,
        tls: None,
    }
}

#[tokio::test]
async fn what_cannot_be_served_is_said_in_one_sentence() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let bus = nats.connect(&cx, "gateway").await;
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8000"] {
        let error = nhi_gateway::run(&cx, options(&nats, bus.clone(), listen)).await.unwrap_err();
        assert!(matches!(error, GatewayError::NeedsTls { .. }), "{error}");
    }
    let files = ServerTls { cert_file: "/nowhere/a.pem".into(), key_file: "/nowhere/a.key".into() };
    let no_file = Options { tls: Some(files), ..options(&nats, bus.clone(), "127.0.0.1:0") };
    let error = nhi_gateway::run(&cx, no_file).await.unwrap_err();
    assert!(matches!(error, GatewayError::Certificate { .. }), "{error}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = nhi_gateway::run(&cx, options(&nats, bus.clone(), &address)).await.unwrap_err();
    assert!(matches!(error, GatewayError::InUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("in use") && text.contains("choose another"), "{text}");
    cx.close().await;
}

#[tokio::test]
async fn beyond_loopback_it_speaks_tls_alone() {
    let (folder, names) = (tempfile::tempdir().unwrap(), BTreeSet::from(["localhost".to_owned()]));
    let files = nhi_bus::tls::server_named(folder.path(), &names, Timestamp::now()).unwrap();
    let house = House::open_with(|options| {
        options.listen = "0.0.0.0:0".parse().unwrap();
        options.tls = Some(files);
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(nhi_bus::tls::ca_file(folder.path())).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), house.addr.port());
    let ask = async |head: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = client.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        exchange(stream, &format!("POST /mesh/kettle/tell HTTP/1.1\r\n{head}Connection: close\r\n\r\n")).await
    };
    let key = format!("X-Api-Key: {}\r\nContent-Type: application/json\r\n", house.seed("owner"));
    assert_eq!(ask(&format!("Host: localhost\r\nOrigin: https://localhost\r\n{key}")).await.status, 200);
    assert_eq!(ask(&format!("Host: localhost\r\nOrigin: http://localhost\r\n{key}")).await.status, 403);

    let mut plain = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut bytes).await;
    assert!(!String::from_utf8_lossy(&bytes).contains("HTTP/1.1"), "plain HTTP was answered");
    house.close().await;
}

#[tokio::test]
async fn stopping_lets_requests_end() {
    let house = House::open().await;
    let (cx, fire, address) = (house.cx.clone(), house.fire.clone(), house.addr);
    let request = format!(
        "POST /mesh/kettle/boil HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {}\r\nContent-Length: 2\r\n\r\n{{}}",
        house.seed("owner")
    );
    let boiling = house.raw(&request);
    let stopping = async {
        // The handler has begun, so the request is under way.
        wait_for("the kettle to be asked", SOON, async || house.metric("nhi_gateway_connections").await == 1)
            .await;
        cx.cancel();
        wait_for("new requests to be refused", SOON, async || TcpStream::connect(address).await.is_err())
            .await;
        fire.add_permits(1);
    };
    let (answer, ()) = tokio::join!(boiling, stopping);
    assert_eq!((answer.status, &answer.json()["celsius"]), (200, &serde_json::json!(100)), "{answer:?}");
    house.close().await;
}
