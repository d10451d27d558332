//! The source record: what the scan of a cluster covered.

use super::{Pass, reason_of};
use crate::observation::{CertificateSight, Scope, source_key};
use nhi_model::source::{Coverage, Source};

pub(super) fn apply(pass: &mut Pass<'_>) {
    let seen = pass.seen;
    let key = source_key(&seen.cluster);
    let mut source = match (&seen.scope, pass.source.clone()) {
        (_, Some(known)) if pass.stranger => known,
        (Scope::Full, known) => Source {
            parts: seen.nodes.iter().map(|(n, sight)| (n.clone(), clean(&sight.coverage))).collect(),
            ..known.unwrap_or_else(|| blank(pass))
        },
        (Scope::Only { nodes, .. }, Some(mut known)) => {
            let read = seen.nodes.iter().filter(|(name, _)| nodes.contains(*name));
            known.parts.extend(read.map(|(name, sight)| (name.clone(), clean(&sight.coverage))));
            known
        }
        // A whole that was never seen cannot be judged by a part.
        (Scope::Only { .. }, None) => return,
    };
    source.place = reason_of(&seen.place);
    if let Some(rights) = &seen.rights {
        source.missing_rights = rights.missing.clone();
        // A targeted pass does not settle a change of rights: the next full pass must notice it as well.
        if seen.scope == Scope::Full && !pass.stranger {
            source.rights_digest = Some(rights.digest.clone());
        }
    }
    take_certificates(pass, &mut source);
    source.coverage = whole(pass, &source);
    pass.rotated = Some(source.rotated.clone());
    pass.draft.fresh(key, &source);
}

/// Which certificates are not the pinned ones. An address that nothing was connected to since the start of the
/// scanner keeps what is known.
fn take_certificates(pass: &Pass<'_>, source: &mut Source) {
    for (address, sight) in &pass.seen.certificates {
        match sight {
            CertificateSight::NotSeen => {}
            CertificateSight::AsSet => drop(source.rotated.remove(address)),
            CertificateSight::Rotated { fingerprint } => {
                source.rotated.insert(address.clone(), fingerprint.clone());
            }
        }
    }
    source.rotated.retain(|address, _| pass.seen.certificates.contains_key(address));
}

fn blank(pass: &Pass<'_>) -> Source {
    Source {
        kind: "proxmox".to_owned(),
        place: pass.seen.place.clone(),
        coverage: Coverage::Complete,
        parts: std::collections::BTreeMap::new(),
        missing_rights: std::collections::BTreeMap::new(),
        rights_digest: None,
        rotated: std::collections::BTreeMap::new(),
    }
}

fn clean(coverage: &Coverage) -> Coverage {
    match coverage {
        Coverage::Complete => Coverage::Complete,
        Coverage::Partial { reason } => Coverage::Partial { reason: reason_of(reason) },
        Coverage::Unseen { reason } => Coverage::Unseen { reason: reason_of(reason) },
    }
}

/// The whole: what the cluster said, then its nodes, then what its rights hide.
fn whole(pass: &Pass<'_>, source: &Source) -> Coverage {
    if pass.stranger {
        return Coverage::Unseen { reason: super::STRANGER.to_owned() };
    }
    if !pass.seen.reach.is_complete() {
        return clean(&pass.seen.reach);
    }
    let mut reasons: Vec<String> = source
        .parts
        .iter()
        .filter_map(|(name, part)| match part {
            Coverage::Complete => None,
            Coverage::Partial { reason } | Coverage::Unseen { reason } => Some(format!("{name}: {reason}")),
        })
        .collect();
    if pass.seen.rights.as_ref().is_some_and(|rights| !rights.sees_all_guests) {
        reasons.push("the token may not see all guests".to_owned());
    }
    if reasons.is_empty() {
        return Coverage::Complete;
    }
    let reason = reason_of(&reasons.join("; "));
    let nothing = source.parts.values().all(|part| matches!(part, Coverage::Unseen { .. }));
    if nothing && !source.parts.is_empty() {
        Coverage::Unseen { reason }
    } else {
        Coverage::Partial { reason }
    }
}
