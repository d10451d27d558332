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
use std::collections::BTreeMap;

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
    let unseen = unseen(read);
    for key in known.keys().filter(|key| key.section() == Section::Project && !seen.contains_key(key)) {
        match &unseen {
            None => draft.retire(key),
            Some(why) => draft.stale(key, why),
        }
    }
    if let Some(why) = &unseen {
        let summary = format!("not all projects could be seen: {why}");
        let hint = "Make the directory readable, or take it out of [projects] roots.";
        problems.insert(alert_key(UNSEEN), problem(&summary, hint, Key::source(SOURCE)));
    }
    draft.fresh(Key::source(SOURCE), &source(read, unseen.as_ref()));
    // A broken project in a root that was not seen may still be broken.
    draft.alerts(problems, |key| is_ours(key) && (unseen.is_none() || *key == alert_key(UNSEEN)));
    draft.finish()
}

fn reason(raw: &str) -> String {
    clean::text(raw, clean::REASON_CHARS_MAX)
}

/// Why not every root was seen.
fn unseen(read: &ProjectsRead) -> Option<String> {
    let reasons: Vec<String> = read
        .roots
        .iter()
        .filter_map(|(root, coverage)| match coverage {
            Coverage::Complete => None,
            Coverage::Partial { reason } | Coverage::Unseen { reason } => Some(format!("{root}: {reason}")),
        })
        .collect();
    (!reasons.is_empty()).then(|| reason(&reasons.join("; ")))
}

fn source(read: &ProjectsRead, unseen: Option<&String>) -> Source {
    let nothing = read.roots.values().all(|coverage| matches!(coverage, Coverage::Unseen { .. }));
    let roots: Vec<&str> = read.roots.keys().map(String::as_str).collect();
    Source {
        kind: SOURCE.to_owned(),
        place: reason(&roots.join(", ")),
        coverage: match unseen {
            None => Coverage::Complete,
            Some(reason) if nothing => Coverage::Unseen { reason: reason.clone() },
            Some(reason) => Coverage::Partial { reason: reason.clone() },
        },
        parts: read.roots.clone(),
        missing_rights: BTreeMap::new(),
        rights_digest: None,
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
