//! Learning the mesh's certificate authority on another machine, knowing only its SHA-256.
//!
//! The server presents its chain with the authority in it. Only a certificate with that digest is believed, and only
//! when it signed the server's own; nothing of ours is sent before that.

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long the other machine may take; it is in the same home.
const ENROL_SECONDS_MAX: u64 = 10;

/// Why the authority could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The address cannot be one.
    #[error("read {url:?} as the address of a mesh: write nats://HOST:4222")]
    BadAddress {
        /// As given.
        url: String,
    },
    /// The digest cannot be one.
    #[error("read {text:?} as a SHA-256: it must be 64 hex digits, as `nhi auth add` prints them")]
    BadDigest {
        /// As given.
        text: String,
    },
    /// Nobody answers there.
    #[error("reach {host}: {source}; check that the mesh listens there and no firewall is between")]
    Connect {
        /// Host and port.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// What answers is no mesh, or not this one.
    #[error("believe {host}: {why}; compare --ca-sha256 with what `nhi auth add` printed")]
    NotTrusted {
        /// Host and port.
        host: String,
        /// What is wrong.
        why: String,
    },
}

/// Host and port of `nats://HOST[:PORT]` or `tls://…`.
fn host_port(url: &str) -> Result<(String, u16), EnrolError> {
    let bad = || EnrolError::BadAddress { url: url.to_owned() };
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let address = reqwest::Url::parse(&format!("nats://{rest}")).map_err(|_| bad())?;
    let host = address.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    Ok((host.trim_matches(['[', ']']).to_owned(), address.port().unwrap_or(4222)))
}

fn digest(text: &str) -> Result<[u8; 32], EnrolError> {
    let bad = || EnrolError::BadDigest { text: text.chars().take(80).collect() };
    let hex: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    if hex.len() != 64 {
        return Err(bad());
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(hex.chunks(2)) {
        let nibble = |c: u8| char::from(c).to_digit(16).ok_or_else(bad);
        *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).map_err(|_| bad())?;
    }
    Ok(out)
}

/// The authority's certificate (DER) of the mesh at `url`, when its SHA-256 is `sha256`.
///
/// # Errors
/// [`EnrolError`].
pub async fn authority(url: &str, sha256: &str) -> Result<CertificateDer<'static>, EnrolError> {
    let (host, port) = host_port(url)?;
    let wanted = digest(sha256)?;
    let shown = format!("{host}:{port}");
    let limit = Duration::from_secs(ENROL_SECONDS_MAX);
    match timeout(limit, handshake(&host, port, wanted)).await {
        Ok(done) => done,
        Err(_) => Err(EnrolError::Connect { host: shown, source: io::Error::from(io::ErrorKind::TimedOut) }),
    }
}

async fn handshake(host: &str, port: u16, wanted: [u8; 32]) -> Result<CertificateDer<'static>, EnrolError> {
    let shown = format!("{host}:{port}");
    let unreachable = |source| EnrolError::Connect { host: shown.clone(), source };
    let distrusted = |why: String| EnrolError::NotTrusted { host: shown.clone(), why };
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    let mut reader = BufReader::new(stream);
    let mut greeting = String::new();
    reader.read_line(&mut greeting).await.map_err(unreachable)?;
    if !greeting.starts_with("INFO ") {
        return Err(distrusted("it does not greet as nats-server does".to_owned()));
    }
    if !greeting.contains("\"tls_required\":true") {
        return Err(distrusted("it does not speak TLS".to_owned()));
    }
    let provider = Arc::new(ring::default_provider());
    let pinned = Arc::new(Pinned { wanted, provider: provider.clone(), found: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| distrusted(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| distrusted(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, reader.into_inner()).await.map_err(|error| distrusted(error.to_string()))?;
    let found = pinned.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.ok_or_else(|| distrusted("it showed no authority".to_owned()))
}

/// Believes a chain only through the authority with the wanted digest.
#[derive(Debug)]
struct Pinned {
    wanted: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_wanted = |cert: &&CertificateDer<'_>| Sha256::digest(cert)[..] == self.wanted;
        let authority = intermediates.iter().find(is_wanted).ok_or_else(|| {
            rustls::Error::General("its certificate authority is not the one with that SHA-256".to_owned())
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_digests_are_parsed_or_refused() {
        assert_eq!(host_port("nats://192.0.2.5:4333").unwrap(), ("192.0.2.5".to_owned(), 4333));
        assert_eq!(host_port("pve.lan").unwrap(), ("pve.lan".to_owned(), 4222));
        assert_eq!(host_port("tls://[2001:db8::1]").unwrap(), ("2001:db8::1".to_owned(), 4222));
        assert!(host_port("").is_err() && host_port("nats://").is_err());
        assert_eq!(digest(&"ab".repeat(32)).unwrap(), [0xab; 32]);
        assert!(digest("ab").is_err() && digest(&"zz".repeat(32)).is_err());
    }
}
