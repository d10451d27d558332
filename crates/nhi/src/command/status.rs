//! `nhi status`: the mesh at a glance.

use super::state::{get_all, warn_stale};
use crate::{
    exit::Failure,
    mesh::{Mesh, discover_failure},
    out,
};
use nhi_bus::discover::discover;
use nhi_model::{
    Timestamp,
    alert::{Alert, Severity},
    call::StateGot,
    source::Coverage,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Runs `nhi status`.
///
/// # Errors
/// When the mesh cannot be reached.
pub(crate) async fn run(mesh: &Mesh, as_json: bool) -> Result<(), Failure> {
    let services = discover(&mesh.bus, Duration::from_millis(500)).await.map_err(discover_failure)?;
    let got = get_all(mesh, Vec::new(), None, false).await?;
    let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (key, record) in &got.records {
        *counts.entry(key.section().as_str()).or_default() += 1;
        if key.section() == nhi_model::key::Section::Alert {
            alerts.insert(key.to_string(), alert(&record.record));
        }
    }
    if as_json {
        let services: Vec<_> =
            services.iter().map(|s| json!({"name": s.name, "id": s.id, "version": s.version})).collect();
        out::json(&json!({
            "revision": got.revision, "as_of": got.as_of, "stale": got.stale, "sources": got.sources,
            "records": counts, "services": services, "alerts": alerts,
        }));
        return Ok(());
    }
    warn_stale(&got);
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    out::line(&format!("revision  {}", got.revision));
    out::line(&format!("services  {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }));
    let counted: Vec<String> = counts.iter().map(|(section, n)| format!("{n} {section}")).collect();
    out::line(&format!(
        "records   {}",
        if counted.is_empty() { "none yet".to_owned() } else { counted.join(", ") }
    ));
    sources(&got);
    if alerts.is_empty() {
        out::line("\nno alerts");
    } else {
        out::line("");
        let rows = alerts.into_iter().map(|(key, alert)| {
            let severity = format!("{:?}", alert.severity).to_lowercase();
            [severity, key, alert.summary, alert.hint]
        });
        out::table(["SEVERITY", "ALERT", "WHAT", "DO"], rows);
    }
    Ok(())
}

/// An alert, also of an agent that is newer than this program: that there is one must not be lost.
fn alert(record: &Value) -> Alert {
    serde_json::from_value(record.clone()).unwrap_or_else(|_| Alert {
        severity: Severity::Warning,
        summary: record
            .get("summary")
            .and_then(Value::as_str)
            .unwrap_or("an alert of a newer version")
            .to_owned(),
        hint: "update nhi to read the whole of it".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        about: None,
    })
}

fn sources(got: &StateGot) {
    if got.sources.is_empty() {
        return out::line("sources   none: set PROXMOX_HOST in .env or [proxmox.NAME] in nhi.toml");
    }
    out::line("");
    let rows = got.sources.iter().map(|(name, source)| {
        let coverage = match &source.coverage {
            Coverage::Complete => "complete".to_owned(),
            Coverage::Partial { reason } => format!("partial: {reason}"),
            Coverage::Unseen { reason } => format!("not seen: {reason}"),
        };
        let age = source.age_s.map_or_else(|| "never".to_owned(), |s| format!("{} ago", out::age(s)));
        [name.clone(), age, coverage]
    });
    out::table(["SOURCE", "LAST FULL", "COVERAGE"], rows);
}
