//! Connections against a real server: every cause of failure told apart, the link followed, nothing published into
//! the void.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use nhi_bus::{
    accounts,
    connect::{Bus, ConnectError, Link, PublishError, Target},
    cx::Cx,
    keys::Seed,
    registry::Registry,
    server::{Listen, Locate, ServerPlan, ServerProcess, ServerTls, locate},
};
use nhi_model::{
    Timestamp,
    identity::{self, Agent, IdentityName, Role},
};
use nhi_testkit::{Nats, settle};
use std::{fs, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(10);
/// Far less than any time-out, and enough for a machine that does much else.
const AT_ONCE: Duration = Duration::from_secs(3);

fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

async fn error(target: &Target, me: &IdentityName, seed: &Seed) -> ConnectError {
    let before = Instant::now();
    let error = Bus::connect(&Cx::new(), target, me, seed).await.unwrap_err();
    assert!(before.elapsed() < AT_ONCE, "known at once: {error}");
    error
}

#[tokio::test]
async fn a_server_that_is_not_there_and_a_key_it_does_not_know() {
    let mut nats = Nats::start().await;
    let stranger = error(&nats.target(), &name("aider"), &Seed::generate()).await;
    assert!(matches!(stranger, ConnectError::WrongKey { .. }), "{stranger}");
    let home = nats.seed("home");
    let unknown = error(&Target::plain("nats://no-such-host.invalid:4222"), &identity::home(), &home).await;
    assert!(matches!(unknown, ConnectError::UnknownHost { .. }), "{unknown}");
    nats.stop().await;
    let refused = error(&nats.target(), &identity::home(), &home).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains(&nats.url()), "{refused}");
}

#[tokio::test]
async fn a_key_opens_only_under_its_own_name() {
    let nats = Nats::start().await;
    for (who, role) in [("aider", Role::Agent), ("pc", Role::Edge), ("kettle", Role::Service)] {
        nats.add(who, role).await;
    }
    let cx = Cx::new();
    for who in ["aider", "pc", "owner", "gateway", "home", "state", "mirror", "kettle"] {
        nats.connect(&cx, who).await.ready().await.unwrap();
    }
    for (key, me) in [
        ("aider", "owner"),
        ("aider", "kettle"),
        ("aider", "toaster"),
        ("pc", "aider"),
        ("kettle", "aider"),
        ("kettle", "toaster"),
        ("scan", "state"),
        ("state", "gpu"),
        ("state", "kettle"),
    ] {
        let error = error(&nats.target(), &name(me), &nats.seed(key)).await;
        assert!(
            matches!(&error, ConnectError::WrongName { me: name, .. } if name.as_str() == me),
            "{key}: {error}"
        );
    }
}

#[tokio::test]
async fn a_healthy_connection_leaves_no_violation_in_the_log() {
    let nats = Nats::start().await;
    for (who, role) in [("aider", Role::Agent), ("pc", Role::Edge)] {
        nats.add(who, role).await;
    }
    let cx = Cx::new();
    let log = || fs::read_to_string(nats.dir().join("logs/nats-server.log")).unwrap();
    for who in ["aider", "pc", "owner", "gateway", "home", "state", "mirror"] {
        let bus = nats.connect(&cx, who).await;
        bus.ready().await.unwrap();
        bus.close().await;
        assert!(!log().contains("Violation"), "{who}: {}", log());
    }
    // The control: one is written before the refusal is sent.
    let aider = nats.connect(&cx, "aider").await;
    let refused = aider.refused("nhi.act.approve.owner");
    aider.publish_plain("nhi.act.approve.owner", Bytes::new()).await.unwrap();
    timeout(SOON, refused).await.unwrap();
    assert!(log().contains("Violation"), "{}", log());
}

/// A program at a port that says it is nats-server of some version.
async fn pretend(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    Cx::new().spawn("pretender", async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (from, mut to) = stream.into_split();
        let info = format!(
            r#"INFO {{"server_id":"x","server_name":"x","version":"{version}","go":"x","host":"x","port":1,"headers":true,"max_payload":1048576,"proto":1,"client_id":1,"nonce":"abc"}}"#
        );
        to.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("PING") && to.write_all(b"PONG\r\n").await.is_err() {
                return;
            }
        }
    });
    url
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named() {
    let target = Target::plain(pretend("2.9.10").await);
    let old = error(&target, &identity::home(), &Seed::generate()).await;
    assert!(matches!(&old, ConnectError::TooOld { version, .. } if version == "2.9.10"), "{old}");
    assert!(old.to_string().contains("2.14.3"), "{old}");
}

/// A certificate for the loopback address and the authority that signed it, as files.
fn certificates(dir: &Path) -> ServerTls {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let tls = ServerTls { cert_file: dir.join("server.pem"), key_file: dir.join("server.key") };
    fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    fs::write(&tls.cert_file, certificate.pem()).unwrap();
    fs::write(&tls.key_file, key.serialize_pem()).unwrap();
    tls
}

#[tokio::test]
async fn tls_is_checked_against_the_meshs_own_authority() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listen = Listen::with_tls("127.0.0.1:0".parse().unwrap(), certificates(dir.path()));
    certificates(other.path());
    let plan = ServerPlan::new(&dir.path().join(".nhi"), listen).unwrap();
    let (registry, _) = Registry::create_if_missing(plan.files.dir(), Timestamp::now()).unwrap();
    accounts::write(&registry, &plan).unwrap();
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let server = ServerProcess::start(&binary, &plan).await.unwrap();
    let url = format!("nats://127.0.0.1:{}", server.port());
    let home = identity::home();
    let seed = nhi_bus::keys::load(&nhi_bus::registry::keys_dir(plan.files.dir()), &home).unwrap();
    let with =
        |ca: Option<&Path>| Target { urls: vec![url.clone()], ca_file: ca.map(|dir| dir.join("ca.pem")) };

    let bus = Bus::connect(&Cx::new(), &with(Some(dir.path())), &home, &seed).await.unwrap();
    assert!(bus.is_up());
    for wrong in [with(Some(other.path())), with(None)] {
        let error = error(&wrong, &home, &seed).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{wrong:?}: {error}");
    }
    server.stop().await;

    // A server without TLS in its place must not get a plain connection.
    let nats = Nats::start().await;
    let target = Target { urls: vec![nats.url()], ca_file: Some(dir.path().join("ca.pem")) };
    let downgraded = error(&target, &home, &nats.seed("home")).await;
    assert!(matches!(downgraded, ConnectError::Tls { .. }), "{downgraded}");
}

#[tokio::test]
async fn an_agent_needs_jetstream_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let plan = ServerPlan::new(&dir.path().join(".nhi"), Listen::loopback(0)).unwrap();
    let (registry, _) = Registry::create_if_missing(plan.files.dir(), Timestamp::now()).unwrap();
    accounts::write(&registry, &plan).unwrap();
    let accounts = fs::read_to_string(plan.files.accounts()).unwrap();
    fs::write(plan.files.accounts(), accounts.replace("jetstream: enabled", "jetstream: disabled")).unwrap();
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let server = ServerProcess::start(&binary, &plan).await.unwrap();
    let target = Target::plain(plan.listen.url(server.port()));
    let keys = nhi_bus::registry::keys_dir(plan.files.dir());
    let seed = |who| nhi_bus::keys::load(&keys, &who).unwrap();
    let without = error(&target, &Agent::Scan.identity(), &seed(Agent::Scan.identity())).await;
    assert!(matches!(without, ConnectError::NoJetStream { .. }), "{without}");
    // Those outside HOME have none in any case.
    Bus::connect(&Cx::new(), &target, &identity::owner(), &seed(identity::owner())).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn the_link_is_followed_and_nothing_is_published_without_it() {
    let (cx, mut nats) = (Cx::new(), Nats::start().await);
    let bus = nats.connect(&cx, "home").await;
    let mut link = bus.link();
    assert_eq!(*link.borrow_and_update(), Link::Up);
    let publish = async || bus.publish_plain("nhi-test.x", Bytes::new()).await;
    publish().await.unwrap();

    nats.kill9().await;
    timeout(SOON, link.wait_for(|link| matches!(link, Link::Down { .. }))).await.unwrap().unwrap();
    let before = Instant::now();
    assert!(matches!(publish().await, Err(PublishError::Disconnected { .. })));
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());

    nats.restart().await;
    timeout(SOON, link.wait_for(|link| link.is_up())).await.unwrap().unwrap();
    bus.ready().await.unwrap();
    publish().await.unwrap();
    bus.close().await;
    assert_eq!(*bus.link().borrow(), Link::Closed);
    assert!(publish().await.is_err());
}

#[tokio::test]
async fn a_revoked_identity_learns_it_and_nobody_else_is_touched() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("aider", Role::Agent).await;
    let (home, aider) = (nats.connect(&cx, "home").await, nats.connect(&cx, "aider").await);
    let losses = home.link();
    nats.revoke("aider").await;
    let mut link = aider.link();
    timeout(SOON, link.wait_for(|link| matches!(link, Link::Revoked { .. }))).await.unwrap().unwrap();
    assert!(!losses.has_changed().unwrap() && home.is_up());
    aider.close().await;
}

#[tokio::test]
async fn refusals_are_told_by_their_subject() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("aider", Role::Agent).await;
    let bus = nats.connect(&cx, "aider").await;
    let (mine, other) = (bus.refused("nhi.act.approve.aider"), bus.refused("nhi.act.thaw.aider"));
    let before = Instant::now();
    bus.publish_plain("nhi.act.approve.aider", Bytes::new()).await.unwrap();
    timeout(SOON, mine).await.unwrap();
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    bus.ready().await.unwrap();
    assert!(other.now_or_never().is_none());
    let bad = bus.publish_plain("nhi.act. approve", Bytes::new()).await;
    assert!(matches!(bad, Err(PublishError::BadSubject { .. })), "{bad:?}");
}

#[tokio::test]
async fn closing_sends_what_waits_to_be_sent() {
    const COUNT: usize = 5_000;
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (bus, home) = (nats.connect(&cx, "home").await, nats.raw("home").await);
    let received = home.subscribe("nhi-test.>").await.unwrap();
    settle(&home).await;
    for _ in 0..COUNT {
        bus.publish_plain("nhi-test.x", Bytes::from_static(&[0; 100])).await.unwrap();
    }
    timeout(SOON, bus.close()).await.unwrap();
    let all = timeout(SOON, received.take(COUNT).count()).await.unwrap();
    assert_eq!(all, COUNT);
}

/// The gateway has a connection for each caller: one that is dropped must not stay open.
#[tokio::test]
async fn a_connection_ends_with_its_last_handle() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, server) = (format!("nats://{}", listener.local_addr().unwrap()), nats.address());
    let (ended, end) = tokio::sync::oneshot::channel();
    cx.spawn("path", async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        ended.send(()).unwrap();
    });
    let bus = Bus::connect(&cx, &Target::plain(url), &identity::home(), &nats.seed("home")).await.unwrap();
    let clone = bus.clone();
    drop(bus);
    clone.ready().await.unwrap();
    drop(clone);
    timeout(SOON, end).await.unwrap().unwrap();
}
