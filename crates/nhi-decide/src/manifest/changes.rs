//! What one look at the project directories means for the state.

use super::ManifestError;
use crate::{
    change::Change,
    clean,
    draft::{Draft, Problem},
    observe::Known,
};
use nhi_model::{
    Timestamp,
    alert::Severity,
    identity::Agent,
    key::{Key, Section},
    project::Project,
    source::{Coverage, Source},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Id of the source record.
pub const SOURCE: &str = "projects";
/// A manifest that cannot be read.
const BROKEN: &str = "project-broken";
/// Two directories of one name.
const TWICE: &str = "project-twice";
/// A root that cannot be listed.
const UNSEEN: &str = "projects-unseen";

/// One look at the project directories.
#[derive(Debug)]
pub struct ProjectsRead {
    /// When, UTC.
    pub at: Timestamp,
    /// Each directory that holds projects, and whether it could be listed.
    pub roots: BTreeMap<String, Coverage>,
    /// The manifests found, in the order of the roots.
    pub found: Vec<Found>,
}

/// One manifest.
#[derive(Debug)]
pub struct Found {
    /// Name of the project's directory.
    pub id: String,
    /// Path of the file.
    pub file: String,
    /// What it tells, or why it cannot be read.
    pub read: Result<Project, Unread>,
}

/// Why a manifest tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is there, its text is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file could not be read; why, one sentence.
    #[error("the file could not be read: {0}")]
    File(String),
}

/// The changes one look means. A broken manifest is an alert, and what was known of its project stays, stale. A
/// project is gone when every root was listed and none of them has it.
///
/// A root in which nothing is found although projects are missing is taken for one that is not mounted: an empty
/// directory is what remains of it. Those projects stay, stale, for any number of looks, because a second look at
/// the same mount point proves no more than the first. Only a missing project whose path lies below a root that
/// still holds others is gone. Who really emptied a root takes it out of the configuration.
pub fn project_changes(known: &BTreeMap<Key, Known>, read: &ProjectsRead) -> Vec<Change> {
    let mut draft = Draft::new(known, read.at);
    let mut problems = BTreeMap::new();
    let mut seen: BTreeMap<Key, &Found> = BTreeMap::new();
    for found in &read.found {
        let key = Key::project(&found.id);
        if let Some(first) = seen.get(&key) {
            let summary =
                format!("two projects are named {}: {} is used, {} is not", found.id, first.file, found.file);
            add(&mut problems, TWICE, &found.id, &summary, "Rename one of the two directories.");
            continue;
        }
        match &found.read {
            Ok(project) => draft.fresh(key.clone(), project),
            Err(why) => {
                draft.stale(&key, &reason(&why.to_string()));
                let summary = format!("{}: {why}", found.file);
                add(
                    &mut problems,
                    BROKEN,
                    &found.id,
                    &summary,
                    "Correct the file; what was known before stays until then.",
                );
            }
        }
        seen.insert(key, found);
    }
    let missing =
        known.iter().filter(|(key, _)| key.section() == Section::Project && !seen.contains_key(key));
    let missing: Vec<(&Key, bool)> = missing.map(|(key, was)| (key, is_beside_others(was, read))).collect();
    let roots = roots(read, missing.iter().any(|(_, beside_others)| !beside_others));
    let failed = read.roots.values().any(|coverage| !coverage.is_complete());
    let unseen = unseen(&roots);
    for (key, beside_others) in missing {
        match &unseen {
            Some(why) if failed || !beside_others => draft.stale(key, why),
            Some(_) | None => draft.retire(key),
        }
    }
    if let Some(why) = &unseen {
        let summary = format!("not all projects could be seen: {why}");
        let hint = "Mount the directory or make it readable; if it is meant to be empty, take it out of [projects] roots.";
        problems.insert(alert_key(UNSEEN), problem(&summary, hint, Key::source(SOURCE)));
    }
    draft.fresh(Key::source(SOURCE), &source(roots, unseen.as_ref()));
    // A broken project in a root that was not seen may still be broken.
    draft.alerts(problems, |key| is_ours(key) && (unseen.is_none() || *key == alert_key(UNSEEN)));
    draft.finish()
}

fn reason(raw: &str) -> String {
    clean::text(raw, clean::REASON_CHARS_MAX)
}

/// Whether anything was found below a root.
fn is_populated(root: &str, read: &ProjectsRead) -> bool {
    read.found.iter().any(|found| Path::new(&found.file).starts_with(root))
}

/// Whether a known project's path lies below a root that still holds projects.
fn is_beside_others(known: &Known, read: &ProjectsRead) -> bool {
    let path = known.record.get("path").and_then(Value::as_str).map(Path::new);
    path.is_some_and(|path| read.roots.keys().any(|root| path.starts_with(root) && is_populated(root, read)))
}

/// The roots, the empty ones among them in doubt when projects are `missing` that may have been there.
fn roots(read: &ProjectsRead, missing: bool) -> BTreeMap<String, Coverage> {
    let judged = read.roots.iter().map(|(root, coverage)| {
        let doubtful = missing && coverage.is_complete() && !is_populated(root, read);
        let reason = "is empty; is it mounted?".to_owned();
        (root.clone(), if doubtful { Coverage::Partial { reason } } else { coverage.clone() })
    });
    judged.collect()
}

/// Why not every root was seen.
fn unseen(roots: &BTreeMap<String, Coverage>) -> Option<String> {
    let reasons: Vec<String> = roots
        .iter()
        .filter_map(|(root, coverage)| match coverage {
            Coverage::Complete => None,
            Coverage::Partial { reason } | Coverage::Unseen { reason } => Some(format!("{root}: {reason}")),
        })
        .collect();
    (!reasons.is_empty()).then(|| reason(&reasons.join("; ")))
}

fn source(roots: BTreeMap<String, Coverage>, unseen: Option<&String>) -> Source {
    let nothing = roots.values().all(|coverage| matches!(coverage, Coverage::Unseen { .. }));
    let places: Vec<&str> = roots.keys().map(String::as_str).collect();
    Source {
        kind: SOURCE.to_owned(),
        place: reason(&places.join(", ")),
        coverage: match unseen {
            None => Coverage::Complete,
            Some(reason) if nothing => Coverage::Unseen { reason: reason.clone() },
            Some(reason) => Coverage::Partial { reason: reason.clone() },
        },
        parts: roots,
        missing_rights: BTreeMap::new(),
        rights_digest: None,
        rotated: BTreeMap::new(),
    }
}

fn add(problems: &mut BTreeMap<Key, Problem>, kind: &str, id: &str, summary: &str, hint: &'static str) {
    let key = alert_key(&format!("{kind}_{id}"));
    problems.insert(key, problem(summary, hint, Key::project(id)));
}

fn problem(summary: &str, hint: &'static str, about: Key) -> Problem {
    Problem { severity: Severity::Warning, summary: reason(summary), hint, about: Some(about) }
}

fn alert_key(id: &str) -> Key {
    Key::alert(Agent::Scan.identity().as_str(), id)
}

/// Whether this module owns an alert.
fn is_ours(key: &Key) -> bool {
    let [agent, id] = key.tokens().try_into().expect("an alert's key has two tokens");
    let kind = id.split_once('_').map_or(id.as_str(), |(kind, _)| kind);
    agent == Agent::Scan.identity().as_str() && [BROKEN, TWICE, UNSEEN].contains(&kind)
}
