//! The cluster's certificate authority and its nodes' certificates. Keys live in memory only.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, net::IpAddr, sync::Arc};

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Generating or signing failed.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// rustls did not take it.
    #[error("cannot set up TLS")]
    Configure(#[from] rustls::Error),
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A node's certificate, ready to serve.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) pem: String,
    /// SHA-256, `AB:CD:…`.
    pub(crate) fingerprint: String,
}

impl Authority {
    pub(crate) fn generate() -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = name("Proxmox Virtual Environment", "PVE Cluster Manager CA");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A new certificate for a node that is reached at `address` and on loopback.
    pub(crate) fn sign(&self, node: &str, address: &str) -> Result<Leaf, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), node.to_owned()])?;
        for address in ["127.0.0.1", "::1", address] {
            if let Ok(address) = address.parse::<IpAddr>() {
                params.subject_alt_names.push(SanType::IpAddress(address));
            }
        }
        params.distinguished_name = name(node, "Proxmox Virtual Environment");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let fingerprint = fingerprint(certificate.der());
        let pem = certificate.pem();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // No ALPN: PVE speaks HTTP/1.1 and does not negotiate.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(Leaf { config: Arc::new(config), pem, fingerprint })
    }
}

fn name(common: &str, organisation: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organisation);
    name.push(DnType::CommonName, common);
    name
}

fn fingerprint(der: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(der) {
        if !text.is_empty() {
            text.push(':');
        }
        write!(text, "{byte:02X}").expect("writing to a string cannot fail");
    }
    text
}
