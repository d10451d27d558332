//! `nhi state …` and `nhi scan`, `nhi guest list`: what the lab looks like.

use crate::{
    cli::State,
    exit::{Ending, Exit, Failure},
    mesh::Mesh,
    moment, out,
};
use anyhow::Context;
use nhi_bus::{
    connect::Link,
    feed::{Commit, Feed},
};
use nhi_model::{
    Timestamp,
    call::{
        At, RecordDiff, ScanDone, ScanNow, StateDiff, StateDiffed, StateGet, StateGot, StateHistoried,
        StateHistory, StateRecord,
    },
    envelope::Stored,
    guest::Guest,
    key::Key,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Runs one of the state commands.
///
/// # Errors
/// The call's failure, or wrong arguments.
pub(crate) async fn run(mesh: &Mesh, command: State, as_json: bool) -> Result<(), Failure> {
    match command {
        State::Get { select, at, live } => {
            let got = get_all(mesh, select, moment_of(at.as_deref())?, live).await?;
            show_records(&got, as_json);
        }
        State::Watch { select } => watch(mesh, &select, as_json).await?,
        State::Diff { from, to } => {
            let request = StateDiff { from: must(&from)?, to: moment_of(to.as_deref())? };
            let diffed: StateDiffed = mesh.call("state", "diff", &request).await?;
            show_diff(&diffed, as_json);
        }
        State::History { select, since, limit } => {
            let request = StateHistory { select, since: moment_of(since.as_deref())?, limit: Some(limit) };
            let told: StateHistoried = mesh.call("state", "history", &request).await?;
            show_history(&told, as_json);
        }
        State::Snapshot { at, out } => {
            let got = get_all(mesh, Vec::new(), moment_of(at.as_deref())?, false).await?;
            snapshot(&got, out.as_deref())?;
        }
    }
    Ok(())
}

fn moment_of(text: Option<&str>) -> Result<Option<At>, Failure> {
    text.map(must).transpose()
}

fn must(text: &str) -> Result<At, Failure> {
    moment::parse(text, Timestamp::now()).map_err(|sentence| Failure::new(Exit::Usage, sentence))
}

/// All pages of `state.get`, at one revision.
///
/// # Errors
/// The call's failure.
pub(crate) async fn get_all(
    mesh: &Mesh,
    select: Vec<String>,
    at: Option<At>,
    live: bool,
) -> Result<StateGot, Failure> {
    let mut request = StateGet { at, select, live, limit: None, cursor: None };
    let mut got: StateGot = mesh.call("state", "get", &request).await?;
    while let Some(cursor) = got.next.take() {
        request.cursor = Some(cursor);
        request.at = Some(At::Revision(got.revision));
        // Gauges are of now, and the pages after the first are of a revision.
        request.live = false;
        let page: StateGot = mesh.call("state", "get", &request).await?;
        got.records.extend(page.records);
        got.unknown.extend(page.unknown);
        got.next = page.next;
    }
    Ok(got)
}

/// What a person should know before believing what follows.
pub(crate) fn warn_stale(got: &StateGot) {
    if let Some(stale) = &got.stale {
        out::note(&format!("! not current since {}: {}", stale.since, out::safe(&stale.reason)));
    }
    for (name, source) in &got.sources {
        if let Some(reason) = &source.stale {
            out::note(&format!("! source {name}: {}", out::safe(reason)));
        }
    }
    if !got.unknown.is_empty() {
        out::note(&format!("! {} records are older than what is kept and are not shown", got.unknown.len()));
    }
}

fn show_records(got: &StateGot, as_json: bool) {
    if as_json {
        return out::json(got);
    }
    warn_stale(got);
    if got.records.is_empty() {
        return out::note(&format!("nothing matches at revision {}", got.revision));
    }
    let rows = got.records.iter().map(|(key, record)| {
        [key.to_string(), record.revision.to_string(), summary(key, &record.record), staleness(record)]
    });
    out::table(["KEY", "REVISION", "WHAT", "STALE"], rows);
    out::line(&format!("\n{} at revision {}", out::count(got.records.len(), "record"), got.revision));
}

fn staleness(record: &StateRecord) -> String {
    record.stale.as_ref().map_or_else(String::new, |stale| stale.reason.clone())
}

/// A record in a few words: its most telling fields, in this order.
fn summary(key: &Key, record: &Value) -> String {
    const TELLING: [&str; 9] =
        ["name", "status", "summary", "severity", "node", "kind", "coverage", "storage", "os"];
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => object.get("kind").and_then(Value::as_str).map(str::to_owned),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    };
    let own: Vec<String> = TELLING.iter().filter_map(|field| text(record.get(field)?)).take(4).collect();
    if own.is_empty() { format!("({})", key.section().as_str()) } else { own.join(" · ") }
}

fn show_diff(diffed: &StateDiffed, as_json: bool) {
    if as_json {
        return out::json(diffed);
    }
    if diffed.changes.is_empty() {
        return out::note(&format!("nothing changed from revision {} to {}", diffed.from, diffed.to));
    }
    for (key, change) in &diffed.changes {
        match change {
            RecordDiff::Added { record } => {
                out::line(&format!("+ {key}  {}", out::safe(&summary(key, record))))
            }
            RecordDiff::Removed { record } => {
                out::line(&format!("- {key}  {}", out::safe(&summary(key, record))));
            }
            RecordDiff::Changed { fields } => {
                out::line(&format!("~ {key}"));
                for (pointer, field) in fields {
                    let line = format!("    {pointer}: {} → {}", field.before, field.after);
                    out::line(&out::safe(&line));
                }
            }
        }
    }
    let more = if diffed.truncated { "; cut short, choose moments closer together" } else { "" };
    let count = match diffed.changes.len() {
        1 => "1 record differs".to_owned(),
        count => format!("{count} records differ"),
    };
    out::line(&format!("\n{count} between revisions {} and {}{more}", diffed.from, diffed.to));
}

fn show_history(told: &StateHistoried, as_json: bool) {
    if as_json {
        return out::json(told);
    }
    if told.versions.is_empty() {
        return out::note("no versions are kept for that");
    }
    let rows = told.versions.iter().map(|version| {
        let what = match &version.value {
            Some(value) => summary(&version.key, &value.record),
            None => "retired".to_owned(),
        };
        [version.revision.to_string(), format!("{:.0}", version.at), version.key.to_string(), what]
    });
    out::table(["REVISION", "AT", "KEY", "WHAT"], rows);
    if told.truncated {
        out::note("there are more: raise --limit");
    }
}

fn snapshot(got: &StateGot, path: Option<&Path>) -> Result<(), Failure> {
    warn_stale(got);
    let records: BTreeMap<&Key, &Value> = got.records.iter().map(|(key, r)| (key, &r.record)).collect();
    let document = json!({ "revision": got.revision, "records": records });
    let Some(path) = path else {
        out::json(&document);
        return Ok(());
    };
    let bytes = serde_json::to_vec_pretty(&document).context("serialise the snapshot")?;
    let next = path.with_extension("next");
    std::fs::write(&next, bytes)
        .and_then(|()| std::fs::rename(&next, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let count = out::count(got.records.len(), "record");
    out::note(&format!("{count} at revision {} → {}", got.revision, path.display()));
    Ok(())
}

/// Follows the change feed, whole commits at a time.
async fn watch(mesh: &Mesh, select: &[String], as_json: bool) -> Result<(), Failure> {
    let mut feed = Feed::open(&mesh.bus).await.ending(Exit::Unreachable)?;
    if !as_json {
        out::note("watching; Ctrl-C ends");
    }
    let mut link = mesh.bus.link();
    loop {
        tokio::select! {
            change = feed.next() => match change {
                None => return Ok(()),
                Some(change) => {
                    if !show_commit(&change.ending(Exit::Unreachable)?, select, as_json) {
                        return Ok(());
                    }
                }
            },
            Ok(()) = link.changed() => {
                let now = *link.borrow_and_update();
                match now {
                    Link::Up => out::note("! the mesh is back; what happened meanwhile is not shown: read the state again"),
                    Link::Down { .. } => out::note("! the mesh is not connected; waiting for it"),
                    Link::Revoked { .. } => {
                        return Err(Failure::new(Exit::Refused, "the server refuses this key; it was revoked"));
                    }
                    Link::Closed => return Ok(()),
                }
            }
        }
    }
}

/// False when nobody reads any more.
fn show_commit(change: &Commit, select: &[String], as_json: bool) -> bool {
    let mut is_heard = true;
    for (key, record) in &change.records {
        if !select.is_empty() && !select.iter().any(|s| key.matches(s)) {
            continue;
        }
        if as_json {
            let line = json!({ "revision": change.revision, "key": key, "value": record });
            is_heard &= out::told(&line.to_string());
            continue;
        }
        let told = |stored: &Stored| {
            let stale = stored.stale.as_ref().map(|s| format!("  stale: {}", s.reason)).unwrap_or_default();
            summary(key, &stored.record) + &stale
        };
        let what = record.as_ref().map_or_else(|| "retired".to_owned(), told);
        is_heard &= out::told(&format!("{:>8}  {key}  {}", change.revision, out::safe(&what)));
    }
    if change.missed > 0 {
        out::note(&format!("! {} changes were missed: read the state again", change.missed));
    }
    is_heard
}

/// `nhi scan`
///
/// # Errors
/// The call's failure.
pub(crate) async fn scan(mesh: &Mesh, as_json: bool) -> Result<(), Failure> {
    if !as_json {
        out::note("scanning…");
    }
    let done: ScanDone = mesh.call("scan", "now", &ScanNow {}).await?;
    if as_json {
        out::json(&done);
        return Ok(());
    }
    for (name, coverage) in &done.sources {
        let text = match coverage {
            nhi_model::source::Coverage::Complete => "complete".to_owned(),
            nhi_model::source::Coverage::Partial { reason } => format!("partial: {reason}"),
            nhi_model::source::Coverage::Unseen { reason } => format!("not seen: {reason}"),
        };
        out::line(&format!("{name:<14} {}", out::safe(&text)));
    }
    out::line(&format!(
        "revision {}, {} written, {} requests in {} ms",
        done.revision, done.writes, done.requests, done.duration_ms
    ));
    Ok(())
}

/// Which guests to list.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// With this tag.
    pub tag: Option<String>,
    /// On this node.
    pub node: Option<String>,
    /// In this status.
    pub status: Option<String>,
}

/// `nhi guest list`
///
/// # Errors
/// The call's failure.
pub(crate) async fn guests(mesh: &Mesh, wanted: &Wanted, as_json: bool) -> Result<(), Failure> {
    let Wanted { tag, node, status } = wanted;
    let mut got = get_all(mesh, vec!["vm".to_owned(), "lxc".to_owned()], None, true).await?;
    let mut rows: Vec<(Guest, StateRecord)> = Vec::new();
    let (mut unread, mut values) = (0, [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()]);
    for record in std::mem::take(&mut got.records).into_values() {
        let Ok(guest) = serde_json::from_value::<Guest>(record.record.clone()) else {
            unread += 1;
            continue;
        };
        let is_wanted = tag.as_ref().is_none_or(|t| guest.tags.contains(t))
            && node.as_ref().is_none_or(|n| guest.node == *n)
            && status.as_ref().is_none_or(|s| guest.status.as_str() == s);
        values[0].extend(guest.tags.iter().cloned());
        values[1].insert(guest.node.clone());
        values[2].insert(guest.status.as_str().to_owned());
        if is_wanted {
            rows.push((guest, record));
        }
    }
    if unread > 0 {
        out::note(&format!(
            "! {} not shown: this nhi cannot read them, a newer one can",
            out::count(unread, "guest")
        ));
    }
    rows.sort_by(|a, b| (&a.0.cluster, a.0.vmid).cmp(&(&b.0.cluster, b.0.vmid)));
    if as_json {
        out::json(&rows.into_iter().map(|(_, record)| record).collect::<Vec<_>>());
        return Ok(());
    }
    warn_stale(&got);
    if rows.is_empty() {
        out::note("no guest matches; `nhi status` tells which sources were seen");
        let asked = [("tags", tag), ("nodes", node), ("statuses", status)];
        for ((what, _), values) in asked.iter().zip(values).filter(|((_, asked), _)| asked.is_some()) {
            let values: Vec<String> = values.into_iter().collect();
            out::note(&format!("{what} there are: {}", out::safe(&values.join(", "))));
        }
        return Ok(());
    }
    out::table(
        ["ID", "NAME", "KIND", "STATUS", "NODE", "ADDRESSES", "TAGS", "NOTE"],
        rows.iter().map(|(guest, record)| guest_row(guest, record)),
    );
    Ok(())
}

fn guest_row(guest: &Guest, record: &StateRecord) -> [String; 8] {
    let mut notes: Vec<String> = Vec::new();
    if let Some(stale) = &record.stale {
        notes.push(format!("stale: {}", stale.reason));
    }
    if guest.template {
        notes.push("template".to_owned());
    }
    if let Some(lock) = &guest.lock {
        notes.push(format!("locked: {lock}"));
    }
    if guest.protection == Some(true) {
        notes.push("protected".to_owned());
    }
    let addresses: Vec<String> = guest
        .addresses
        .iter()
        .filter(|a| !a.address.is_loopback())
        .filter(|a| a.address.is_ipv4())
        .map(|a| a.address.to_string())
        .collect();
    [
        guest.vmid.to_string(),
        guest.name.clone(),
        guest.kind.as_str().to_owned(),
        guest.status.as_str().to_owned(),
        guest.node.clone(),
        addresses.join(", "),
        guest.tags.join(", "),
        notes.join("; "),
    ]
}
