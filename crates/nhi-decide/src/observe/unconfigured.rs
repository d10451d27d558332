//! Clusters that are known and no longer configured: nobody looks at them any more, so nothing about them is
//! current. Nothing is retired but the alerts that nobody would ever settle.

#[cfg(test)]
mod tests;

use super::{Known, of_cluster};
use crate::{
    change::Change,
    clean,
    draft::{Draft, Problem},
    observation::source_key,
};
use nhi_model::{
    Timestamp,
    alert::{Alert, Severity},
    identity::Agent,
    key::{Key, Section},
    source::{Coverage, Source},
};
use std::collections::{BTreeMap, BTreeSet};

/// What the ids of these alerts begin with.
const ALERT: &str = "unconfigured_";
/// Sections whose keys begin with a cluster.
const SECTIONS: [Section; 4] = [Section::Node, Section::Vm, Section::Lxc, Section::Storage];

/// The changes that mark what is known of clusters that are not `configured`, and take back the alert about those
/// that are again; their records become fresh when they are seen. Once so, it gives none.
pub fn changes(known: &BTreeMap<Key, Known>, configured: &BTreeSet<String>, at: Timestamp) -> Vec<Change> {
    let mut draft = Draft::new(known, at);
    let mut found = BTreeMap::new();
    let mut moot = BTreeSet::new();
    for cluster in clusters(known).difference(configured) {
        let name = clean::text(cluster, clean::NAME_CHARS_MAX);
        let reason = format!("cluster {name} is no longer configured");
        for section in SECTIONS {
            for (key, _) in of_cluster(known, section, cluster) {
                draft.stale(key, &reason);
            }
        }
        let source = source_key(cluster);
        if let Some(before) = known.get(&source).and_then(Known::typed::<Source>) {
            let coverage = Coverage::Unseen { reason: reason.clone() };
            draft.fresh(source.clone(), &Source { coverage, ..before });
        }
        moot.extend(alerts_about(known, cluster));
        let problem = Problem {
            severity: Severity::Warning,
            summary: format!("{reason}; its records are shown as last seen"),
            hint: "Put it back into nhi.toml under the same name and start nhi again; its records stay until then.",
            about: Some(source),
        };
        found.insert(Key::alert(Agent::Scan.as_str(), &format!("{ALERT}{cluster}")), problem);
    }
    draft.alerts(found, |key| moot.contains(key) || is_ours(key));
    draft.finish()
}

/// The clusters that have records.
fn clusters(known: &BTreeMap<Key, Known>) -> BTreeSet<String> {
    let of_key = |key: &Key| {
        let first = key.tokens().into_iter().next()?;
        match key.section() {
            Section::Node | Section::Vm | Section::Lxc | Section::Storage => Some(first),
            Section::Source => first.strip_prefix("proxmox-").map(str::to_owned),
            Section::Host
            | Section::Gpu
            | Section::Docker
            | Section::Project
            | Section::Provider
            | Section::Graph
            | Section::Alert => None,
        }
    };
    known.keys().filter_map(of_key).collect()
}

/// Alerts of the scanner about anything of a cluster: only a look at it would settle them.
fn alerts_about<'a>(known: &'a BTreeMap<Key, Known>, cluster: &'a str) -> impl Iterator<Item = Key> + 'a {
    let source = source_key(cluster);
    known.iter().filter(|(key, _)| is_scanners(key)).filter_map(move |(key, alert)| {
        let about = alert.typed::<Alert>()?.about?;
        let of_it = SECTIONS.contains(&about.section())
            && about.tokens().first().is_some_and(|owner| owner == cluster);
        (of_it || about == source).then(|| key.clone())
    })
}

fn is_scanners(key: &Key) -> bool {
    key.section() == Section::Alert && key.tokens().first().is_some_and(|owner| owner == Agent::Scan.as_str())
}

fn is_ours(key: &Key) -> bool {
    is_scanners(key) && key.tokens().last().is_some_and(|id| id.starts_with(ALERT))
}
