//! Problems of a cluster that a person should know. An alert keeps its `since` while the problem lasts and is
//! retired by the first pass that looked and no longer found it.

use super::{Pass, merge, reason_of};
use crate::{
    draft::Problem,
    observation::{Detour, GuestSight, Scope, source_key},
};
use nhi_model::{
    alert::Severity,
    guest::GuestKind,
    identity::Agent,
    key::{Key, Section},
    lab::NodeStatus,
    source::Coverage,
};
use std::collections::{BTreeMap, BTreeSet};

/// The kinds of alert this module owns. An id is `<kind>_<cluster>` or `<kind>_<cluster>_<node or number>`;
/// neither kinds, node names nor numbers contain an underscore, so two problems never share an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unreachable,
    OtherCluster,
    SingleHost,
    QuorumLost,
    RightsMissing,
    CertificateRotated,
    Detour,
    NodeOffline,
    NodeUnseen,
    IdTwice,
    RecordCut,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Unreachable,
        Self::OtherCluster,
        Self::SingleHost,
        Self::QuorumLost,
        Self::RightsMissing,
        Self::CertificateRotated,
        Self::Detour,
        Self::NodeOffline,
        Self::NodeUnseen,
        Self::IdTwice,
        Self::RecordCut,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::OtherCluster => "other-cluster",
            Self::SingleHost => "single-host",
            Self::QuorumLost => "quorum-lost",
            Self::RightsMissing => "rights-missing",
            Self::CertificateRotated => "certificate-rotated",
            Self::Detour => "detour",
            Self::NodeOffline => "node-offline",
            Self::NodeUnseen => "node-unseen",
            Self::IdTwice => "id-twice",
            Self::RecordCut => "record-cut",
        }
    }
}

pub(super) fn apply(pass: &mut Pass<'_>) {
    let mut found = BTreeMap::new();
    cluster_problems(pass, &mut found);
    access_problems(pass, &mut found);
    node_problems(pass, &mut found);
    id_problems(pass, &mut found);
    cut_problems(pass, &mut found);
    let looked: BTreeSet<Key> = pass.known.keys().filter(|key| is_settled(pass, key)).cloned().collect();
    pass.draft.alerts(found, |key| looked.contains(key));
}

fn key_of(pass: &Pass<'_>, kind: Kind, what: Option<&str>) -> Key {
    let cluster = &pass.seen.cluster;
    let id = match what {
        None => format!("{}_{cluster}", kind.as_str()),
        Some(what) => format!("{}_{cluster}_{what}", kind.as_str()),
    };
    Key::alert(Agent::Scan.identity().as_str(), &id)
}

/// Whether the key is an alert of this cluster whose matter this pass looked at.
fn is_settled(pass: &Pass<'_>, key: &Key) -> bool {
    if pass.stranger || key.section() != Section::Alert {
        return false;
    }
    let tokens = key.tokens();
    let Some((kind, rest)) = tokens[1].split_once('_') else { return false };
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else { return false };
    let seen = pass.seen;
    if tokens[0] != Agent::Scan.identity().as_str() {
        return false;
    }
    match kind {
        Kind::Unreachable => rest == seen.cluster && seen.scope == Scope::Full,
        // Only a cluster that was seen whole can be told from another.
        Kind::OtherCluster => rest == seen.cluster && seen.scope == Scope::Full && seen.reach.is_complete(),
        Kind::SingleHost => rest == seen.cluster && seen.clustered.is_some(),
        Kind::QuorumLost => rest == seen.cluster && seen.quorate.is_some(),
        Kind::RightsMissing => rest == seen.cluster && seen.rights.is_some(),
        Kind::CertificateRotated => rest == seen.cluster && pass.rotated.is_some(),
        Kind::Detour => rest == seen.cluster,
        Kind::NodeOffline | Kind::NodeUnseen => rest.rsplit_once('_').is_some_and(|(cluster, node)| {
            cluster == seen.cluster
                && pass.covers_node(node)
                && (seen.nodes.contains_key(node) || pass.node_left(node))
        }),
        Kind::IdTwice => rest.rsplit_once('_').is_some_and(|(cluster, _)| {
            cluster == seen.cluster && seen.scope == Scope::Full && seen.reach.is_complete()
        }),
        Kind::RecordCut => rest.rsplit_once('_').is_some_and(|(cluster, number)| {
            let number: Option<u32> = number.parse().ok();
            let guests = [GuestKind::Qemu, GuestKind::Lxc];
            let known = |number| {
                guests.iter().any(|kind| pass.known.contains_key(&Key::guest(*kind, cluster, number)))
            };
            cluster == seen.cluster
                && number.is_some_and(|number| pass.cut.get(&number) == Some(&false) || !known(number))
        }),
    }
}

fn cluster_problems(pass: &Pass<'_>, found: &mut BTreeMap<Key, Problem>) {
    let seen = pass.seen;
    let about = source_key(&seen.cluster);
    let mut add = |kind, severity, summary, hint| {
        found.insert(
            key_of(pass, kind, None),
            Problem { severity, summary, hint, about: Some(about.clone()) },
        );
    };
    let cluster = &seen.cluster;
    if let (Coverage::Partial { reason } | Coverage::Unseen { reason }, Scope::Full) =
        (&seen.reach, &seen.scope)
    {
        let whole = matches!(seen.reach, Coverage::Unseen { .. });
        add(
            Kind::Unreachable,
            if whole { Severity::Critical } else { Severity::Warning },
            format!(
                "cluster {cluster} could not be read{}: {}",
                if whole { "" } else { " whole" },
                reason_of(reason)
            ),
            "Check that the host is up, that the URL is right and that the token is valid (nhi doctor tells which).",
        );
    }
    if pass.stranger {
        add(
            Kind::OtherCluster,
            Severity::Critical,
            format!(
                "another cluster answers where cluster {cluster} was: none of its nodes was known before"
            ),
            "If the lab really moved, give it a cluster name of its own in nhi.toml; nothing known is removed.",
        );
    }
    if pass.alone {
        add(
            Kind::SingleHost,
            Severity::Critical,
            format!("{}: cluster {cluster} had several nodes", super::ALONE),
            "Check on that host that its cluster services run (pvecm status) and that it is still a member. Nothing \
             known is removed; if the cluster was dissolved, give what is left a cluster name of its own in nhi.toml.",
        );
    }
    if seen.quorate == Some(false) {
        add(
            Kind::QuorumLost,
            Severity::Critical,
            format!("cluster {cluster} has lost its quorum: nothing in it can be changed"),
            "Bring nodes back until more than half of the votes are there.",
        );
    }
}

/// Who asks, and what answers: rights that are missing, certificates that are not the pinned ones.
fn access_problems(pass: &Pass<'_>, found: &mut BTreeMap<Key, Problem>) {
    let cluster = &pass.seen.cluster;
    let mut add = |kind, severity, summary: String, hint| {
        let (summary, about) = (reason_of(&summary), Some(source_key(cluster)));
        found.insert(key_of(pass, kind, None), Problem { severity, summary, hint, about });
    };
    if let Some(rights) = &pass.seen.rights
        && (!rights.missing.is_empty() || !rights.sees_all_guests)
    {
        let mut lacks: Vec<&str> = rights.missing.keys().map(String::as_str).collect();
        if !rights.sees_all_guests && !lacks.contains(&"VM.Audit") {
            lacks.push("VM.Audit on every guest");
        }
        add(
            Kind::RightsMissing,
            if rights.sees_all_guests { Severity::Warning } else { Severity::Critical },
            format!("the token for cluster {cluster} lacks rights: {}", lacks.join(", ")),
            "Grant the role PVEAuditor on / to both the user and the token.",
        );
    }
    if let Some(Detour { address, node }) = &pass.seen.detour {
        add(
            Kind::Detour,
            Severity::Warning,
            format!(
                "cluster {cluster} is read through node {node} ({address}), of which it told itself, because no \
                 address of the settings speaks for it"
            ),
            "See `nhi call scan status` for the reason, and correct PROXMOX_HOST (or url) or its certificate; it is tried \
             again every two minutes.",
        );
    }
    let rotated = pass.rotated.iter().flatten();
    let rotated: Vec<String> =
        rotated.map(|(address, fingerprint)| format!("{address} shows {fingerprint}")).collect();
    if !rotated.is_empty() {
        add(
            Kind::CertificateRotated,
            Severity::Info,
            format!(
                "a certificate of cluster {cluster} is not the pinned one any more, but the pinned authority signed \
                 it: {}",
                rotated.join("; ")
            ),
            "Compare it with the node's page System → Certificates and set PROXMOX_FINGERPRINT (or fingerprint) to it.",
        );
    }
}

fn node_problems(pass: &Pass<'_>, found: &mut BTreeMap<Key, Problem>) {
    if pass.stranger {
        return;
    }
    for (name, sight) in &pass.seen.nodes {
        if !pass.covers_node(name) {
            continue;
        }
        let about = Key::node(&pass.seen.cluster, name);
        let offline = sight.record.as_ref().is_some_and(|node| node.status == NodeStatus::Offline);
        let (kind, problem) = match &sight.coverage {
            _ if offline => (
                Kind::NodeOffline,
                Problem {
                    severity: Severity::Critical,
                    summary: format!("node {name} is offline; its guests are shown as last seen"),
                    hint: "Check its power and its network, and start it; what is known of it stays until it is back.",
                    about: Some(about),
                },
            ),
            Coverage::Complete => continue,
            Coverage::Partial { reason } | Coverage::Unseen { reason } => (
                Kind::NodeUnseen,
                Problem {
                    severity: Severity::Warning,
                    summary: format!("node {name} could not be read whole: {}", reason_of(reason)),
                    hint: "What could not be read is marked stale; it heals with the next complete pass.",
                    about: Some(about),
                },
            ),
        };
        found.insert(key_of(pass, kind, Some(name)), problem);
    }
}

/// One number, two guests. A guest that moves while we look is seen twice too, but is the same guest.
fn id_problems(pass: &Pass<'_>, found: &mut BTreeMap<Key, Problem>) {
    if pass.seen.scope != Scope::Full || pass.stranger {
        return;
    }
    let mut by_number: BTreeMap<u32, Vec<(&str, &GuestSight)>> = BTreeMap::new();
    for (node, on_node) in &pass.seen.nodes {
        for sight in &on_node.guests {
            by_number.entry(sight.guest.vmid).or_default().push((node, sight));
        }
    }
    for (vmid, sights) in by_number {
        let (first_node, first) = sights[0];
        let other = sights.iter().find(|(_, sight)| {
            sight.guest.kind != first.guest.kind || merge::is_another(&first.guest, &sight.guest)
        });
        let Some((node, other)) = other else { continue };
        let word = |kind| match kind {
            GuestKind::Qemu => "virtual machine",
            GuestKind::Lxc => "container",
        };
        let problem = Problem {
            severity: Severity::Warning,
            summary: format!(
                "the number {vmid} was seen twice: {} on {first_node} and {} on {node}",
                word(first.guest.kind),
                word(other.guest.kind)
            ),
            hint: "If it stays, one of the two configuration files is a leftover; compare them on the nodes.",
            about: Some(Key::guest(other.guest.kind, &pass.seen.cluster, vmid)),
        };
        found.insert(key_of(pass, Kind::IdTwice, Some(&vmid.to_string())), problem);
    }
}

/// A guest of which more is told than a record may hold.
fn cut_problems(pass: &Pass<'_>, found: &mut BTreeMap<Key, Problem>) {
    for vmid in pass.cut.iter().filter(|(_, cut)| **cut).map(|(vmid, _)| vmid) {
        let problem = Problem {
            severity: Severity::Warning,
            summary: format!(
                "guest {vmid} has a longer name or notes, or more tags, cards, volumes or addresses than its record holds"
            ),
            hint: "What is beyond the limit, or too long, is not shown; look at the guest in Proxmox itself.",
            about: Some(source_key(&pass.seen.cluster)),
        };
        found.insert(key_of(pass, Kind::RecordCut, Some(&vmid.to_string())), problem);
    }
}
