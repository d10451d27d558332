//! Which certificate is believed. There is no way to believe any.

mod verifier;

pub(crate) use verifier::Identity;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// SHA-256 of a certificate, written `AB:CD:…` as Proxmox does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Parses a list separated by commas or white space: every node has a certificate of its own.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, TrustError> {
        let words = text.split(|char: char| char == ',' || char.is_whitespace());
        words.filter(|word| !word.is_empty()).map(Self::from_str).collect()
    }
}

impl FromStr for Fingerprint {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let bad = || TrustError::Fingerprint { text: text.escape_debug().take(120).collect() };
        let text = text.trim();
        let text = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("SHA256:")).unwrap_or(text);
        let digits: Vec<u8> = text
            .chars()
            .filter(|char| *char != ':')
            .map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or_else(bad))
            .collect::<Result<_, _>>()?;
        let pairs: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        match (digits.len(), <[u8; 32]>::try_from(pairs)) {
            (64, Ok(bytes)) => Ok(Self(bytes)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(formatter, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// What makes a certificate believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authorities this machine knows.
    System,
    /// Only what is named here.
    Pinned(Pins),
}

/// A cluster's authority, or certificates of single nodes, or both.
///
/// A certificate whose fingerprint is named is believed whatever it says about itself. Any other must be signed by
/// the authority and name the host: so a node may renew its certificate when both are given. A file that holds the
/// node's own certificate pins that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) fingerprints: BTreeSet<Fingerprint>,
}

impl Trust {
    /// From the two settings (`PROXMOX_CA_FILE`'s content and `PROXMOX_FINGERPRINT`); neither means the
    /// authorities this machine knows.
    pub fn from_settings(ca_pem: Option<&[u8]>, fingerprints: Option<&str>) -> Result<Self, TrustError> {
        let authorities = ca_pem.map(certificates).transpose()?.unwrap_or_default();
        let fingerprints = fingerprints.map(Fingerprint::parse_list).transpose()?.unwrap_or_default();
        if authorities.is_empty() && fingerprints.is_empty() {
            return Ok(Self::System);
        }
        Ok(Self::Pinned(Pins { authorities, fingerprints: fingerprints.into_iter().collect() }))
    }

    /// Only what this authority signed.
    pub fn ca_pem(pem: &[u8]) -> Result<Self, TrustError> {
        Self::from_settings(Some(pem), None)
    }

    /// Only this certificate.
    pub fn fingerprint(fingerprint: Fingerprint) -> Self {
        Self::Pinned(Pins { authorities: Vec::new(), fingerprints: BTreeSet::from([fingerprint]) })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| TrustError::CaUnreadable { reason: error.to_string() })?;
    if found.is_empty() { Err(TrustError::CaEmpty) } else { Ok(found) }
}

/// Why the certificate in use is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedAs {
    /// Nothing was connected to yet.
    NotYet,
    /// There is no certificate: plain http to this machine itself.
    Plain,
    /// An authority this machine knows signed it.
    System {
        /// The certificate.
        fingerprint: Fingerprint,
    },
    /// It is the pinned one.
    Pinned {
        /// The certificate.
        fingerprint: Fingerprint,
    },
    /// The cluster told that the node at this address shows it; only at an address that the cluster told.
    Told {
        /// The certificate.
        fingerprint: Fingerprint,
    },
    /// The pinned authority signed it.
    Authority {
        /// The certificate.
        fingerprint: Fingerprint,
    },
    /// It is not the pinned one any more, but the pinned authority signed it: the node renewed its certificate, and
    /// the setting should follow.
    Rotated {
        /// The certificate now.
        fingerprint: Fingerprint,
        /// What is pinned.
        pinned: BTreeSet<Fingerprint>,
    },
}

/// A setting of trust is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not a SHA-256 fingerprint.
    #[error(
        "read \"{text}\" as a SHA-256 fingerprint: write 32 pairs of hex digits, AB:CD:… (SHA-1 has 20 and is not enough)"
    )]
    Fingerprint {
        /// As given.
        text: String,
    },
    /// Not PEM.
    #[error("read the CA file as PEM: {reason} (on a node it is /etc/pve/pve-root-ca.pem)")]
    CaUnreadable {
        /// What is wrong.
        reason: String,
    },
    /// PEM without a certificate.
    #[error(
        "find a certificate in the CA file: it must hold -----BEGIN CERTIFICATE----- (on a node it is /etc/pve/pve-root-ca.pem)"
    )]
    CaEmpty,
    /// An authority that cannot be one.
    #[error("use a certificate of the CA file as an authority: {reason}")]
    CaUnusable {
        /// What is wrong.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
