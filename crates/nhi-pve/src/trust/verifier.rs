//! Checks a server's certificate while TLS is set up. It opens nothing and asks nobody.

use super::{Fingerprint, Pins, Trust, TrustError, TrustedAs};
use crate::{endpoint::Address, error::clean};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{fmt, sync::Arc};

/// TLS as this endpoint needs it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    rule: Rule,
    chain: Chain,
    config: Arc<ClientConfig>,
}

/// What makes a certificate believed at one kind of address.
#[derive(Clone, Debug)]
enum Rule {
    /// The settings, at the addresses they name.
    Settings(Trust),
    /// At an address that the cluster told as a node's: what is pinned, or the certificate that the cluster told of
    /// the node. Never an authority this machine knows: it would sign for whoever sits at that address.
    Learned { node: String, told: Option<Fingerprint>, pins: Option<Pins> },
}

/// The check of signatures up to an authority; `None` when there is no authority to check against.
type Chain = Option<Arc<dyn ServerCertVerifier>>;

impl Identity {
    pub(crate) fn new(trust: &Trust) -> Result<Self, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let chain = chain_verifier(trust, &provider)?;
        Ok(Self::of(Rule::Settings(trust.clone()), chain, provider))
    }

    /// The same for an address the cluster told as `node`'s, which shows the certificate `told`.
    pub(crate) fn for_learned(&self, node: &str, told: Option<Fingerprint>) -> Self {
        let (pins, chain) = match &self.rule {
            Rule::Settings(Trust::Pinned(pins)) => (Some(pins.clone()), self.chain.clone()),
            Rule::Settings(Trust::System) | Rule::Learned { .. } => (None, None),
        };
        let rule = Rule::Learned { node: node.to_owned(), told, pins };
        Self::of(rule, chain, Arc::new(ring::default_provider()))
    }

    fn of(rule: Rule, chain: Chain, provider: Arc<CryptoProvider>) -> Self {
        let verifier = Verifier {
            chain: chain.clone(),
            algorithms: provider.signature_verification_algorithms,
            rule: rule.clone(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // No ALPN: Proxmox has none, and without it nobody speaks anything newer than HTTP/1.1 to us.
        Self { rule, chain, config: Arc::new(config) }
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Why this certificate, which was believed, is.
    pub(crate) fn trusted_as(&self, fingerprint: Fingerprint) -> TrustedAs {
        match &self.rule {
            Rule::Settings(Trust::System) => TrustedAs::System { fingerprint },
            Rule::Settings(Trust::Pinned(pins)) if pins.names(fingerprint) => {
                TrustedAs::Pinned { fingerprint }
            }
            Rule::Settings(Trust::Pinned(pins)) if pins.fingerprints.is_empty() => {
                TrustedAs::Authority { fingerprint }
            }
            Rule::Settings(Trust::Pinned(pins)) => {
                TrustedAs::Rotated { fingerprint, pinned: pins.fingerprints.clone() }
            }
            Rule::Learned { pins: Some(pins), .. } if pins.names(fingerprint) => {
                TrustedAs::Pinned { fingerprint }
            }
            Rule::Learned { told, .. } if *told == Some(fingerprint) => TrustedAs::Told { fingerprint },
            Rule::Learned { .. } => TrustedAs::Authority { fingerprint },
        }
    }

    /// What to tell when this error is our own refusal of the certificate.
    pub(crate) fn refusal(&self, place: &Address, error: &Error) -> Option<(String, Option<Fingerprint>)> {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else {
            return None;
        };
        let Refusal { seen, why } = inner.downcast_ref::<Refusal>()?;
        match &self.rule {
            Rule::Settings(trust) => Some((explain(place, trust, *seen, why), Some(*seen))),
            // Nobody is to pin it: the settings do not name this address.
            Rule::Learned { node, told, .. } => Some((explain_learned(node, *told, *seen), None)),
        }
    }
}

fn explain_learned(node: &str, told: Option<Fingerprint>, seen: Fingerprint) -> String {
    let told = told.map_or("none".to_owned(), |told| told.to_string());
    format!(
        "the cluster tells this address of node {node}, but the certificate there (SHA-256 {seen}) is neither the one \
         the cluster tells of that node ({told}) nor signed by a pinned authority; nothing is sent there"
    )
}

fn explain(place: &Address, trust: &Trust, seen: Fingerprint, why: &Why) -> String {
    let what = match (why, trust) {
        (Why::OtherName { names }, _) => {
            let host = place.host();
            return format!(
                "the server presented a certificate for other names ({names}) than {host}; use one of them as its \
                 address, or if the certificate is right set PROXMOX_FINGERPRINT={seen}"
            );
        }
        (Why::Expired, _) => "an expired certificate, or this machine's clock is wrong".to_owned(),
        (Why::NotYetValid, _) => {
            "a certificate that is not valid yet, or this machine's clock is wrong".to_owned()
        }
        (Why::NotPinned, Trust::Pinned(pins)) => {
            let pinned: Vec<String> = pins.fingerprints.iter().map(Fingerprint::to_string).collect();
            return format!(
                "the server presented another certificate than the pinned one: its SHA-256 is {seen}, pinned is {}; if \
                 the node renewed its certificate and this is right set PROXMOX_FINGERPRINT={seen}, and give the \
                 cluster's authority (PROXMOX_CA_FILE) beside it so that renewals are followed",
                pinned.join(", ")
            );
        }
        (Why::NotSigned { detail }, Trust::Pinned(_)) => {
            format!("a certificate the authority in PROXMOX_CA_FILE did not sign{detail}")
        }
        (Why::NotSigned { detail }, Trust::System) => {
            format!("a certificate no known authority signed{detail}")
        }
        (Why::NotPinned, Trust::System) => "a certificate no known authority signed".to_owned(),
    };
    format!(
        "the server presented {what}; its SHA-256 is {seen}; if that is right set PROXMOX_FINGERPRINT={seen} or \
         PROXMOX_CA_FILE (in nhi.toml: fingerprint or ca_file; on a node the authority is /etc/pve/pve-root-ca.pem)"
    )
}

impl Rule {
    /// Whether this very certificate is named, whatever it says about itself.
    fn names(&self, fingerprint: Fingerprint) -> bool {
        match self {
            Self::Settings(Trust::System) => false,
            Self::Settings(Trust::Pinned(pins)) => pins.names(fingerprint),
            Self::Learned { told, pins, .. } => {
                *told == Some(fingerprint) || pins.as_ref().is_some_and(|pins| pins.names(fingerprint))
            }
        }
    }
}

impl Pins {
    /// Whether this very certificate is pinned.
    fn names(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprints.contains(&fingerprint)
            || self.authorities.iter().any(|certificate| Fingerprint::of(certificate) == fingerprint)
    }
}

fn chain_verifier(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Chain, TrustError> {
    let unusable = |reason: String| TrustError::CaUnusable { reason: clean(&reason) };
    let pins = match trust {
        Trust::System => {
            return match rustls_platform_verifier::Verifier::new(provider.clone()) {
                Ok(verifier) => Ok(Some(Arc::new(verifier))),
                // A container image without authorities: nothing is believed, and the refusal says so.
                Err(error) => {
                    tracing::debug!(err = %error, "this machine knows no authority");
                    Ok(None)
                }
            };
        }
        Trust::Pinned(pins) if pins.authorities.is_empty() => return Ok(None),
        Trust::Pinned(pins) => pins,
    };
    let mut roots = RootCertStore::empty();
    for certificate in &pins.authorities {
        roots.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let verifier = built.map_err(|error| unusable(error.to_string()))?;
    Ok(Some(verifier))
}

/// A certificate was refused.
#[derive(Debug)]
struct Refusal {
    seen: Fingerprint,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NotPinned,
    NotSigned { detail: String },
    OtherName { names: String },
    Expired,
    NotYetValid,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "certificate {} was refused", self.seen)
    }
}

impl std::error::Error for Refusal {}

#[derive(Debug)]
struct Verifier {
    rule: Rule,
    chain: Chain,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint::of(end_entity);
        if self.rule.names(seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let why = match (&self.chain, &self.rule) {
            (None, Rule::Settings(Trust::Pinned(_)) | Rule::Learned { .. }) => Why::NotPinned,
            (None, Rule::Settings(Trust::System)) => {
                Why::NotSigned { detail: " (this machine knows none)".to_owned() }
            }
            (Some(chain), _) => {
                match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => reason(&error),
                }
            }
        };
        let refusal: Arc<dyn std::error::Error + Send + Sync> = Arc::new(Refusal { seen, why });
        Err(CertificateError::Other(OtherError(refusal)).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn reason(error: &Error) -> Why {
    let Error::InvalidCertificate(error) = error else {
        return Why::NotSigned { detail: format!(" ({})", clean(&error.to_string())) };
    };
    match error {
        CertificateError::NotValidForName => Why::OtherName { names: "none given".to_owned() },
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = if presented.is_empty() { "none given".to_owned() } else { presented.join(", ") };
            Why::OtherName { names: clean(&names) }
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Why::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Why::NotYetValid,
        CertificateError::UnknownIssuer => Why::NotSigned { detail: String::new() },
        other => Why::NotSigned { detail: format!(" ({})", clean(&other.to_string())) },
    }
}
