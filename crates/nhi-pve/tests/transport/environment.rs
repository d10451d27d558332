//! The environment of a process: no proxy is taken from it; the machine's authorities are. Each runs as a child
//! process, because a test must not change the environment it shares.

use crate::{authorities::Authority, endpoint, server::Server, version};
use nhi_pve::{Kind, Reader, Trust, TrustedAs};
use std::{env, io::Write, process::ExitStatus};
use tokio::process::Command;

const ADDRESS: &str = "NHI_PVE_TEST_ADDRESS";
const EXPECTED: &str = "NHI_PVE_TEST_EXPECTED";

/// What the children run; alone it does nothing.
#[tokio::test]
async fn child() {
    let (Ok(address), Ok(expected)) = (env::var(ADDRESS), env::var(EXPECTED)) else {
        return;
    };
    let reader = Reader::new(endpoint(&[address], Trust::System)).unwrap();
    let outcome = reader.version().await;
    match expected.as_str() {
        "answer" => assert_eq!(outcome.unwrap().version, "9.1.1"),
        "authority" => {
            outcome.unwrap();
            assert!(matches!(reader.trusted_as(), TrustedAs::System { .. }));
        }
        "refusal" => assert_eq!(*outcome.unwrap_err().kind(), Kind::Tls),
        other => panic!("nobody expects {other}"),
    }
}

async fn run_child(server: &Server, expected: &str, environment: &[(&str, &str)]) -> ExitStatus {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "environment::child"]).env(ADDRESS, server.url()).env(EXPECTED, expected);
    command.envs(environment.iter().copied()).kill_on_drop(true);
    command.output().await.unwrap().status
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    let server = Server::plain(|_| vec![version()]).await;
    let proxy = Server::plain(|_| Vec::new()).await;
    let url = proxy.url();
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let environment: Vec<(&str, &str)> = names.iter().map(|name| (*name, url.as_str())).collect();
    assert!(run_child(&server, "answer", &environment).await.success());
    assert_eq!(server.log().paths(), ["/api2/json/version"]);
    assert_eq!(proxy.log().connections, 0);
}

#[tokio::test]
async fn the_machines_authorities_are_believed_and_no_others() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["127.0.0.1"]);
    let server = Server::tls(leaf.config(), |_| vec![version()]).await;
    let file = |pem: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(pem.as_bytes()).unwrap();
        file
    };
    let known = file(&authority.pem);
    let known = [("SSL_CERT_FILE", known.path().to_str().unwrap())];
    assert!(run_child(&server, "authority", &known).await.success());
    let other = file(&Authority::new().pem);
    let other = [("SSL_CERT_FILE", other.path().to_str().unwrap())];
    assert!(run_child(&server, "refusal", &other).await.success());
    // No authority at all: nothing is believed.
    let none = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/dev/null")];
    assert!(run_child(&server, "refusal", &none).await.success());
}
