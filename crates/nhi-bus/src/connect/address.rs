//! Where the servers are, and whom to believe that they are ours. It opens no connection.

use super::ConnectError;
use async_nats::ServerAddr;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The servers, `nats://HOST:PORT` each: one, or all of a cluster.
    pub urls: Vec<String>,
    /// The mesh's certificate authority, PEM. With it the connection is encrypted or fails; without it no server
    /// that asks for TLS is believed. For one with a public certificate it is the system's bundle.
    pub ca_file: Option<PathBuf>,
}

impl Target {
    /// One server without TLS: what listens on the loopback.
    pub fn plain(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into()], ca_file: None }
    }

    /// Looks whether the addresses can be some, for whoever reads them from a file. It opens nothing.
    ///
    /// # Errors
    /// [`ConnectError::BadAddress`] with the first that cannot.
    pub fn check(&self) -> Result<(), ConnectError> {
        self.addresses().map(drop)
    }

    /// The servers, parsed one by one: the client refuses a comma-separated text as a bad port.
    pub(super) fn addresses(&self) -> Result<Vec<ServerAddr>, ConnectError> {
        let bad = |url: &str, reason: &str| ConnectError::BadAddress {
            url: without_credentials(url),
            reason: reason.to_owned(),
        };
        if self.urls.is_empty() {
            return Err(bad("", "there is none"));
        }
        let parse = |url: &String| {
            let address: ServerAddr = url.parse().map_err(|_| bad(url, "it does not parse"))?;
            if address.has_user_pass() {
                return Err(bad(url, "it carries a password, and identities have keys"));
            }
            if address.is_websocket() || address.host().is_empty() {
                return Err(bad(url, "it is no plain NATS address"));
            }
            Ok(address)
        };
        self.urls.iter().map(parse).collect()
    }

    pub(super) fn display(&self) -> String {
        self.urls.iter().map(|url| without_credentials(url)).collect::<Vec<_>>().join(", ")
    }

    /// Whom to believe. Always given to the client, which would else take the process's crypto provider and the
    /// system's authorities.
    pub(super) async fn tls(&self) -> Result<ClientConfig, ConnectError> {
        let roots = match &self.ca_file {
            Some(path) => roots(path).await?,
            None => RootCertStore::empty(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the ring provider supports the default protocol versions");
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

async fn roots(path: &Path) -> Result<RootCertStore, ConnectError> {
    let bad = |reason: String| ConnectError::BadCa { path: path.to_owned(), reason };
    let pem = tokio::fs::read(path).await.map_err(|error| bad(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// The address as it may be shown: a password somebody wrote into it stays hidden.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_or_say_why_without_showing_passwords() {
        let check = |url: &str| Target::plain(url).addresses().map(|a| a[0].port());
        assert_eq!(check("nats://127.0.0.1:4333").unwrap(), 4333);
        assert_eq!(check("pve1").unwrap(), 4222);
        for bad in ["nats://a:1,b:2", "http://a", "ws://a", "nats://u:secret@a", "nats://a:port", ""] {
            let shown = check(bad).unwrap_err().to_string();
            assert!(!shown.contains("secret") && shown.contains("nats://HOST:4222"), "{bad}: {shown}");
        }
        assert!(Target { urls: vec![], ca_file: None }.addresses().is_err());
    }

    #[tokio::test]
    async fn a_ca_file_must_hold_a_certificate() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path().to_owned(), PathBuf::from("/nonexistent/ca.pem")] {
            let target = Target { urls: vec!["nats://a".to_owned()], ca_file: Some(path) };
            assert!(matches!(target.tls().await, Err(ConnectError::BadCa { .. })));
        }
    }
}
