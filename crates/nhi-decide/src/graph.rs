//! The dependency graph: read from its file, checked, asked for what a failure takes with it. It does not read
//! the file and does not decide whether a restart is allowed.

mod cycle;

use crate::{
    change::Change,
    clean,
    draft::{Draft, Problem},
    observe::Known,
};
use nhi_model::{
    Timestamp,
    alert::Severity,
    graph::{Criticality, Graph, Service},
    identity::Agent,
    key::Key,
    source::{Coverage, Source},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Largest file that is read, bytes. A home has hundreds of services, not a hundred thousand.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Id of the source record.
pub const SOURCE: &str = "graph";

/// Why a file is no dependency graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Too large to be one.
    #[error(
        "the dependency graph has {bytes} bytes, at most {FILE_BYTES_MAX} are read: is it the right file?"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, or not of the shape. The parser names line and column.
    #[error("the dependency graph is not readable JSON")]
    Json(#[from] serde_json::Error),
    /// A service that is named twice: one of the two would be lost.
    #[error("service {service:?} stands twice in the dependency graph: merge the two")]
    Twice {
        /// Which one.
        service: String,
    },
    /// A word that is no criticality.
    #[error("service {service:?} has the criticality {found:?}: use critical, high, medium or low")]
    Criticality {
        /// Of which service.
        service: String,
        /// What stands there.
        found: String,
    },
    /// An hour that no clock shows.
    #[error("service {service:?} has {hour} among its restart_safe_hours: hours are 0 to 23")]
    Hour {
        /// Of which service.
        service: String,
        /// What stands there.
        hour: i64,
    },
    /// Services that need each other in a circle.
    #[error("the dependency graph has a cycle: {} (each needs the next); remove one of these dependencies", .path.join(" → "))]
    Cycle {
        /// The circle; the first name is the last as well.
        path: Vec<String>,
    },
}

impl GraphError {
    /// The whole story in one sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::Json(source) => format!("{self}: {source}"),
            Self::TooLarge { .. }
            | Self::Twice { .. }
            | Self::Criticality { .. }
            | Self::Hour { .. }
            | Self::Cycle { .. } => self.to_string(),
        }
    }
}

/// The file as a person writes it. Unknown fields beside `services` are notes to themselves.
#[derive(Deserialize)]
struct File {
    services: Services,
}

/// A map that still has what stands twice in it.
struct Services(Vec<(String, FileService)>);

#[derive(Deserialize)]
struct FileService {
    #[serde(default)]
    depends_on: Vec<String>,
    #[serde(default)]
    required_by: Vec<String>,
    criticality: Option<String>,
    #[serde(default)]
    can_restart_without_approval: bool,
    #[serde(default)]
    restart_safe_hours: Vec<i64>,
}

impl<'de> Deserialize<'de> for Services {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rows;
        impl<'de> Visitor<'de> for Rows {
            type Value = Services;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of services by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Services, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Services(rows))
            }
        }
        deserializer.deserialize_map(Rows)
    }
}

/// Reads `dependency_graph.json`.
///
/// # Errors
/// [`GraphError`] names what spoils the file. What is only odd about it is in [`Graph::warnings`].
pub fn parse(text: &str) -> Result<Graph, GraphError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(GraphError::TooLarge { bytes: text.len() });
    }
    // Editors on Windows put a mark in front that is no JSON.
    let file: File = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let mut graph = Graph::default();
    for (name, row) in file.services.0 {
        let service = service(&name, row)?;
        if graph.services.insert(name.clone(), service).is_some() {
            return Err(GraphError::Twice { service: name });
        }
    }
    if let Some(path) = cycle::find(&needs(&graph)) {
        return Err(GraphError::Cycle { path: path.into_iter().map(str::to_owned).collect() });
    }
    graph.warnings = warnings(&graph).into_iter().collect();
    Ok(graph)
}

fn service(name: &str, row: FileService) -> Result<Service, GraphError> {
    let criticality = match row.criticality.as_deref() {
        None => Criticality::default(),
        Some("low") => Criticality::Low,
        Some("medium") => Criticality::Medium,
        Some("high") => Criticality::High,
        Some("critical") => Criticality::Critical,
        Some(found) => {
            return Err(GraphError::Criticality { service: name.to_owned(), found: found.to_owned() });
        }
    };
    let hours: Result<BTreeSet<u8>, GraphError> = row
        .restart_safe_hours
        .into_iter()
        .map(|hour| match u8::try_from(hour) {
            Ok(known @ 0..=23) => Ok(known),
            Ok(_) | Err(_) => Err(GraphError::Hour { service: name.to_owned(), hour }),
        })
        .collect();
    Ok(Service {
        depends_on: row.depends_on,
        required_by: row.required_by,
        criticality,
        can_restart_without_approval: row.can_restart_without_approval,
        restart_safe_hours: hours?.into_iter().collect(),
    })
}

/// What each name needs, from both sides of the file: what it depends on, and who says to require it.
fn needs(graph: &Graph) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, service) in &graph.services {
        out.entry(name).or_default().extend(service.depends_on.iter().map(String::as_str));
        for dependent in &service.required_by {
            out.entry(dependent).or_default().insert(name);
        }
    }
    out
}

fn warnings(graph: &Graph) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (name, service) in &graph.services {
        for needed in &service.depends_on {
            match graph.services.get(needed) {
                None => {
                    out.insert(format!("{name} depends on {needed}, which is not a service of the graph"))
                }
                Some(other) if !other.required_by.contains(name) => out.insert(format!(
                    "{name} depends on {needed}, but {needed} does not list it in required_by"
                )),
                Some(_) => false,
            };
        }
        for dependent in &service.required_by {
            match graph.services.get(dependent) {
                None => out.insert(format!(
                    "{name} is required by {dependent}, which is not a service of the graph"
                )),
                Some(other) if !other.depends_on.contains(name) => out.insert(format!(
                    "{name} is required by {dependent}, but {dependent} does not list it in depends_on"
                )),
                Some(_) => false,
            };
        }
    }
    out
}

/// Everything that stops when `name` stops, directly or not; names that are no services included.
pub fn dependents(graph: &Graph, name: &str) -> BTreeSet<String> {
    let mut needed_by: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let needs = needs(graph);
    for (dependent, needed) in &needs {
        for needed in needed {
            needed_by.entry(needed).or_default().insert(dependent);
        }
    }
    let mut out = BTreeSet::new();
    let mut todo = vec![name];
    while let Some(next) = todo.pop() {
        for dependent in needed_by.get(next).into_iter().flatten() {
            if *dependent != name && out.insert((*dependent).to_owned()) {
                todo.push(dependent);
            }
        }
    }
    out
}

/// What reading the file gave.
#[derive(Debug)]
pub enum FileRead {
    /// There is none, in a directory that could be read.
    Absent,
    /// Its text.
    Text(Result<Graph, GraphError>),
    /// It could not be read; why, one sentence.
    Unreadable(String),
}

/// The changes one look at the file means. A broken file is an alert, and the last good graph stays, stale.
pub fn graph_changes(
    known: &BTreeMap<Key, Known>,
    at: Timestamp,
    place: &str,
    read: &FileRead,
) -> Vec<Change> {
    let mut draft = Draft::new(known, at);
    let mut found = BTreeMap::new();
    let mut add = |id, severity, summary: &str, hint| {
        let summary = clean::text(summary, clean::REASON_CHARS_MAX);
        found.insert(alert_key(id), Problem { severity, summary, hint, about: Some(Key::graph()) });
    };
    let broken = match read {
        FileRead::Absent => {
            draft.retire(&Key::graph());
            None
        }
        FileRead::Text(Ok(graph)) => {
            draft.fresh(Key::graph(), graph);
            if let Some(first) = graph.warnings.first() {
                let others = match graph.warnings.len() - 1 {
                    0 => String::new(),
                    count => format!(" (and {count} more)"),
                };
                let summary = format!("the dependency graph is odd: {first}{others}");
                add(WARNINGS, Severity::Warning, &summary, "Correct the names in dependency_graph.json.");
            }
            None
        }
        FileRead::Text(Err(error)) => Some(error.sentence()),
        FileRead::Unreadable(reason) => Some(reason.clone()),
    };
    let coverage = match broken {
        None => Coverage::Complete,
        Some(reason) => {
            let reason = clean::text(&reason, clean::REASON_CHARS_MAX);
            draft.stale(&Key::graph(), &reason);
            add(
                BROKEN,
                Severity::Warning,
                &reason,
                "Correct dependency_graph.json; the last good graph is used until then.",
            );
            Coverage::Unseen { reason }
        }
    };
    let source = Source {
        kind: SOURCE.to_owned(),
        place: clean::text(place, clean::REASON_CHARS_MAX),
        coverage,
        parts: BTreeMap::new(),
        missing_rights: BTreeMap::new(),
        rights_digest: None,
        rotated: BTreeMap::new(),
    };
    draft.fresh(Key::source(SOURCE), &source);
    draft.alerts(found, |key| [BROKEN, WARNINGS].into_iter().any(|id| *key == alert_key(id)));
    draft.finish()
}

const BROKEN: &str = "graph-broken";
const WARNINGS: &str = "graph-warnings";

fn alert_key(id: &str) -> Key {
    Key::alert(Agent::Scan.identity().as_str(), id)
}

#[cfg(test)]
mod tests;
