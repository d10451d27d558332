//! How a cluster is read: its addresses, their certificates, and what of its answers is not understood. It asks
//! nothing.

use nhi_decide::observation::{CertificateSight, Detour};
use nhi_model::call::{ScanAddress, ScanConnection, ScanTrust};
use nhi_pve::{Reader, TrustedAs};
use std::collections::BTreeMap;

/// As `scan.status` tells it.
pub(crate) fn connection(reader: &Reader) -> ScanConnection {
    let addresses = reader.addresses().into_iter().map(|state| ScanAddress {
        url: state.address.to_string(),
        node: state.learned_from,
        first: state.is_first,
        trust: trust(state.trusted_as),
        trouble: state.trouble,
    });
    ScanConnection { addresses: addresses.collect(), unknown_fields: reader.unknown_fields() }
}

fn trust(trusted_as: TrustedAs) -> ScanTrust {
    match trusted_as {
        TrustedAs::NotYet => ScanTrust::NotYet,
        TrustedAs::Plain => ScanTrust::Plain,
        TrustedAs::System { fingerprint } => ScanTrust::System { fingerprint: fingerprint.to_string() },
        TrustedAs::Pinned { fingerprint } => ScanTrust::Pinned { fingerprint: fingerprint.to_string() },
        TrustedAs::Told { fingerprint } => ScanTrust::Told { fingerprint: fingerprint.to_string() },
        TrustedAs::Authority { fingerprint } => ScanTrust::Authority { fingerprint: fingerprint.to_string() },
        TrustedAs::Rotated { fingerprint, pinned } => ScanTrust::Rotated {
            fingerprint: fingerprint.to_string(),
            pinned: pinned.iter().map(ToString::to_string).collect(),
        },
    }
}

/// The certificates at the addresses of the settings. Those that were learned are nobody's to set.
pub(crate) fn certificates(reader: &Reader) -> BTreeMap<String, CertificateSight> {
    let settings = reader.addresses().into_iter().filter(|state| state.learned_from.is_none());
    settings
        .map(|state| {
            let sight = match state.trusted_as {
                TrustedAs::NotYet => CertificateSight::NotSeen,
                TrustedAs::Plain
                | TrustedAs::System { .. }
                | TrustedAs::Pinned { .. }
                | TrustedAs::Told { .. }
                | TrustedAs::Authority { .. } => CertificateSight::AsSet,
                TrustedAs::Rotated { fingerprint, .. } => {
                    CertificateSight::Rotated { fingerprint: fingerprint.to_string() }
                }
            };
            (state.address.to_string(), sight)
        })
        .collect()
}

/// The address that is asked in place of those of the settings.
pub(crate) fn detour(reader: &Reader) -> Option<Detour> {
    let first = reader.addresses().into_iter().find(|state| state.is_first)?;
    Some(Detour { address: first.address.to_string(), node: first.learned_from? })
}
