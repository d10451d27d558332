//! Which certificate is believed, and what is said about one that is not.

use crate::{
    endpoint,
    server::{Nobody, Server},
    version,
};
use nhi_pve::{Fingerprint, Kind, PveError, Reader, Trust, TrustedAs};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::BTreeSet, sync::Arc};

/// A cluster's authority, as `/etc/pve/pve-root-ca.pem` is one.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate with its key.
pub(crate) struct Leaf {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        self.sign(params(names))
    }

    fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate: certificate.der().clone(), key: key.serialize_der(), pem: certificate.pem() }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>()).unwrap()
}

pub(crate) fn self_signed() -> Leaf {
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["127.0.0.1"]).self_signed(&key).unwrap();
    Leaf { certificate: certificate.der().clone(), key: key.serialize_der(), pem: certificate.pem() }
}

impl Leaf {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    pub(crate) fn config(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap()
    }

    async fn serve(&self) -> Server {
        Server::tls(self.config(), |_| vec![version()]).await
    }
}

fn trusting(server: &Server, trust: Trust) -> Reader {
    Reader::new(endpoint(&[server.url()], trust)).unwrap()
}

/// The refusal; nothing was sent.
async fn refusal(server: &Server, trust: Trust) -> PveError {
    let reader = trusting(server, trust);
    let error = reader.version().await.unwrap_err();
    assert_eq!(*error.kind(), Kind::Tls, "{error}");
    assert_eq!(reader.requests(), 0, "the token must not leave");
    assert_eq!(reader.trusted_as(), TrustedAs::NotYet);
    error
}

async fn accepted(server: &Server, trust: Trust) -> TrustedAs {
    let reader = trusting(server, trust);
    reader.version().await.unwrap();
    reader.trusted_as()
}

#[tokio::test]
async fn a_self_signed_certificate_without_a_pin_is_one_clear_sentence() {
    let leaf = self_signed();
    let server = leaf.serve().await;
    let seen = leaf.fingerprint();
    let error = refusal(&server, Trust::System).await;
    let text = error.text();
    assert!(text.starts_with("the server presented a certificate no known authority signed; "), "{text}");
    assert!(
        text.contains(&format!("its SHA-256 is {seen}; if that is right set PROXMOX_FINGERPRINT={seen} or")),
        "{text}"
    );
    assert!(text.contains("PROXMOX_CA_FILE"), "{text}");
    assert!(
        error.to_string().starts_with(&format!("read /version from {}: the server", server.url())),
        "{error}"
    );
    assert_eq!(error.certificate(), Some(seen));
}

#[tokio::test]
async fn a_pinned_certificate_is_believed_and_another_is_not() {
    let leaf = self_signed();
    let server = leaf.serve().await;
    let pin = leaf.fingerprint();
    assert_eq!(accepted(&server, Trust::fingerprint(pin)).await, TrustedAs::Pinned { fingerprint: pin });
    // As it is written in a setting, several of them, lower case too.
    let several = format!("{}, {}", self_signed().fingerprint(), pin.to_string().to_lowercase());
    accepted(&server, Trust::from_settings(None, Some(&several)).unwrap()).await;

    let impostor = self_signed();
    let server = impostor.serve().await;
    let error = refusal(&server, Trust::fingerprint(pin)).await;
    assert!(error.text().contains("another certificate than the pinned one"), "{error}");
    assert!(error.text().contains(&pin.to_string()), "{error}");
    assert_eq!(error.certificate(), Some(impostor.fingerprint()));
}

#[tokio::test]
async fn what_the_pinned_authority_signed_is_believed() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["127.0.0.1", "pve1"]);
    let server = leaf.serve().await;
    let expected = TrustedAs::Authority { fingerprint: leaf.fingerprint() };
    assert_eq!(accepted(&server, Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await, expected);

    // Another authority of the same name.
    let other = Authority::new();
    let error = refusal(&server, Trust::ca_pem(other.pem.as_bytes()).unwrap()).await;
    assert!(error.text().contains("PROXMOX_CA_FILE did not sign"), "{error}");
    assert!(error.text().contains(&leaf.fingerprint().to_string()), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_followed_when_the_pinned_authority_signed_it() {
    let authority = Authority::new();
    let old = authority.leaf(&["127.0.0.1"]).fingerprint();
    let renewed = authority.leaf(&["127.0.0.1"]);
    let server = renewed.serve().await;
    let both = Trust::from_settings(Some(authority.pem.as_bytes()), Some(&old.to_string())).unwrap();
    let expected = TrustedAs::Rotated { fingerprint: renewed.fingerprint(), pinned: BTreeSet::from([old]) };
    assert_eq!(accepted(&server, both.clone()).await, expected);

    // The controls: without the authority it is refused, and so is one the authority did not sign.
    refusal(&server, Trust::fingerprint(old)).await;
    let impostor = Authority::new().leaf(&["127.0.0.1"]);
    let server = impostor.serve().await;
    refusal(&server, both).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_unless_it_is_the_pinned_one() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["pve1.example.org", "192.0.2.7"]);
    let server = leaf.serve().await;
    let error = refusal(&server, Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    assert!(error.text().contains("pve1.example.org"), "{error}");
    assert!(error.text().contains("use one of them"), "{error}");
    accepted(&server, Trust::fingerprint(leaf.fingerprint())).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_unless_it_is_the_pinned_one() {
    let authority = Authority::new();
    let mut expired = params(&["127.0.0.1"]);
    expired.not_before = date_time_ymd(2000, 1, 1);
    expired.not_after = date_time_ymd(2001, 1, 1);
    let leaf = authority.sign(expired);
    let server = leaf.serve().await;
    let error = refusal(&server, Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    assert!(error.text().contains("an expired certificate"), "{error}");
    accepted(&server, Trust::fingerprint(leaf.fingerprint())).await;
}

#[tokio::test]
async fn a_ca_file_that_holds_the_nodes_own_certificate_pins_it() {
    let leaf = self_signed();
    let server = leaf.serve().await;
    let expected = TrustedAs::Pinned { fingerprint: leaf.fingerprint() };
    assert_eq!(accepted(&server, Trust::ca_pem(leaf.pem.as_bytes()).unwrap()).await, expected);
}

/// Presents somebody else's certificate, signing with a key of its own.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesServerCert for Thief {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_refused() {
    let leaf = self_signed();
    let other_key = PrivateKeyDer::try_from(self_signed().key).unwrap();
    let signing = ring::sign::any_supported_type(&other_key).unwrap();
    let stolen = CertifiedKey::new(vec![leaf.certificate.clone()], signing);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Thief(Arc::new(stolen.clone()))));
        let server = Server::tls(config, |_| vec![crate::version()]).await;
        refusal(&server, Trust::fingerprint(leaf.fingerprint())).await;
    }
}

#[tokio::test]
async fn nothing_newer_than_http_1_is_spoken() {
    let leaf = self_signed();
    let mut config = leaf.config();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Server::tls(config, |_| vec![version()]).await;
    accepted(&server, Trust::fingerprint(leaf.fingerprint())).await;
    assert_eq!(server.log().alpn, [None]);
    assert!(server.log().requests[0].1.starts_with("GET /api2/json/version HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_said_so() {
    let talker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", talker.local_addr().unwrap());
    let answer = async {
        let (mut tcp, _) = talker.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tcp
    };
    let reader = Reader::new(endpoint(&[url], Trust::System)).unwrap();
    let (outcome, _tcp) = tokio::join!(reader.version(), answer);
    let error = outcome.unwrap_err();
    assert_eq!(*error.kind(), Kind::Tls);
    assert!(error.text().contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn a_refused_certificate_is_told_even_when_another_address_is_only_dead() {
    let leaf = self_signed();
    let server = leaf.serve().await;
    let nobody = Nobody::new();
    let reader = Reader::new(endpoint(&[nobody.url(), server.url()], Trust::System)).unwrap();
    let error = reader.version().await.unwrap_err();
    assert_eq!((error.kind(), error.certificate()), (&Kind::Tls, Some(leaf.fingerprint())));
    assert!(error.text().contains(&nobody.url()), "{error}");
}

#[tokio::test]
async fn plain_http_to_this_machine_is_told() {
    let server = Server::plain(|_| vec![version()]).await;
    assert_eq!(accepted(&server, Trust::System).await, TrustedAs::Plain);
}
