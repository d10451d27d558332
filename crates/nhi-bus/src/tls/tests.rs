//! Certificates as they are made, and a real nats-server that presents them.

use super::*;
use crate::{
    accounts,
    connect::{Bus, Target},
    cx::Cx,
    enrol, keys,
    registry::{Registry, keys_dir},
    server::{Listen, Locate, ServerPlan, ServerProcess, locate},
};
use nhi_model::identity;

fn now() -> Timestamp {
    Timestamp::now()
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

fn days(count: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_hours(24 * count)
}

#[test]
fn an_authority_with_anothers_key_signs_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, other) = (tmp.path().join("tls"), tmp.path().join("other"));
    let wanted = names(&["localhost"]);
    let files = server_named(&dir, &wanted, now()).unwrap();
    server_named(&other, &wanted, now()).unwrap();
    let before = fs::read_to_string(&files.cert_file).unwrap();
    fs::copy(ca_key_file(&other), ca_key_file(&dir)).unwrap();
    // The second name is new, so that it would have to sign.
    for wanted in [wanted, names(&["localhost", "192.168.1.5"])] {
        let error = server_named(&dir, &wanted, now()).unwrap_err();
        assert!(matches!(&error, TlsError::Damaged { path, .. } if *path == ca_file(&dir)), "{error}");
        assert!(error.to_string().contains("ca.key") && error.to_string().contains("backup"), "{error}");
    }
    assert_eq!(fs::read_to_string(&files.cert_file).unwrap(), before);
}

#[test]
fn a_certificate_stays_until_something_changes() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("tls");
    assert_eq!(ca_sha256(&dir).unwrap(), None);
    let wanted = names(&["localhost", "192.168.1.5", "::1"]);
    let files = server_named(&dir, &wanted, now()).unwrap();
    let read = || fs::read_to_string(&files.cert_file).unwrap();
    let (first, authority) = (read(), ca_sha256(&dir).unwrap().unwrap());
    assert_eq!(authority.len(), 64);
    for same in [wanted.clone(), names(&["localhost"])] {
        server_named(&dir, &same, now()).unwrap();
        assert_eq!(read(), first);
    }
    server_named(&dir, &wanted, now() + days(SERVER_DAYS - RENEW_DAYS - 2)).unwrap();
    assert_eq!(read(), first, "more than 30 days are left");

    let changes: [&dyn Fn(); 4] = [
        &|| drop(server_named(&dir, &wanted, now() + days(SERVER_DAYS - RENEW_DAYS + 1)).unwrap()),
        &|| drop(server_named(&dir, &names(&["localhost", "192.168.1.6"]), now()).unwrap()),
        &|| {
            fs::remove_file(&files.key_file).unwrap();
            server_named(&dir, &wanted, now()).unwrap();
        },
        &|| {
            fs::write(&files.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
            server_named(&dir, &wanted, now()).unwrap();
        },
    ];
    for (n, change) in changes.iter().enumerate() {
        let before = read();
        change();
        assert_ne!(read(), before, "change {n}");
    }
    assert_eq!(ca_sha256(&dir).unwrap().unwrap(), authority, "the authority stays");
    for file in ["ca.key", "server.key"] {
        assert!(!private::is_exposed(&dir.join(file)), "{file}");
    }
}

#[test]
fn what_cannot_be_used_is_said() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("tls");
    let wanted = names(&["localhost"]);
    for bad in ["no name", "", "ä", "a..b"] {
        let error = server_named(&dir, &names(&[bad]), now()).unwrap_err();
        assert!(matches!(error, TlsError::BadName { .. }), "{error}");
    }
    server_named(&dir, &wanted, now()).unwrap();
    let good = fs::read_to_string(ca_file(&dir)).unwrap();
    fs::write(ca_file(&dir), "nonsense").unwrap();
    assert!(matches!(server_named(&dir, &wanted, now()), Err(TlsError::Damaged { .. })));
    assert!(matches!(ca_sha256(&dir), Err(TlsError::Damaged { .. })));
    fs::write(ca_file(&dir), &good).unwrap();
    fs::remove_file(ca_key_file(&dir)).unwrap();
    assert!(matches!(server_named(&dir, &wanted, now()), Err(TlsError::JoinedElsewhere { .. })));
}

#[test]
fn a_certificate_is_the_same_as_pem() {
    let tmp = tempfile::tempdir().unwrap();
    server_named(tmp.path(), &names(&["localhost"]), now()).unwrap();
    let text = fs::read_to_string(ca_file(tmp.path())).unwrap();
    let der = certificate(&ca_file(tmp.path()), &text).unwrap();
    assert_eq!(pem(&der), text);
}

#[test]
fn a_server_for_everybody_names_this_machine() {
    let names = names_at(Ipv4Addr::UNSPECIFIED.into());
    assert!(
        names.contains("localhost") && names.contains("127.0.0.1") && !names.contains("0.0.0.0"),
        "{names:?}"
    );
    assert!(names_at(Ipv4Addr::new(10, 1, 2, 3).into()).contains("10.1.2.3"));
}

#[tokio::test]
async fn clients_that_know_the_authority_come_in_and_others_do_not() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("tls");
    let files = server(&dir, Ipv4Addr::UNSPECIFIED.into(), now()).unwrap();
    let (registry, _) = Registry::create_if_missing(tmp.path(), now()).unwrap();
    let listen = Listen::with_tls("0.0.0.0:0".parse().unwrap(), files.clone());
    let plan = ServerPlan::new(tmp.path(), listen).unwrap();
    accounts::write(&registry, &plan).unwrap();
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let nats = ServerProcess::start(&binary, &plan).await.unwrap();
    let owner = identity::owner();
    let seed = keys::load(&keys_dir(tmp.path()), &owner).unwrap();
    let cx = Cx::new();

    let connect = async |ca_file| {
        let target = Target { urls: vec![nats.url()], ca_file };
        Bus::connect(&cx, &target, &owner, &seed).await
    };
    connect(Some(ca_file(&dir))).await.unwrap().close().await;
    let other = tmp.path().join("other");
    server_named(&other, &names(&["localhost"]), now()).unwrap();
    for stranger in [Some(ca_file(&other)), None] {
        assert!(connect(stranger).await.is_err());
    }

    let sha256 = ca_sha256(&dir).unwrap().unwrap();
    let learned = enrol::authority(&nats.url(), &sha256).await.unwrap();
    assert_eq!(pem(&learned), fs::read_to_string(ca_file(&dir)).unwrap());
    let wrong = "0".repeat(64);
    assert!(enrol::authority(&nats.url(), &wrong).await.is_err());

    // A renewed certificate is presented after a reload, without a restart.
    server(&dir, Ipv4Addr::UNSPECIFIED.into(), now() + days(SERVER_DAYS - 1)).unwrap();
    nats.reload().await.unwrap();
    assert!(connect(Some(ca_file(&dir))).await.is_err(), "it is not valid yet");
    nats.stop().await;
    cx.close().await;
}
