//! `nhi audit …`: what was done, by whom, and whether the log of it is whole. All of it is asked of the service `audit`,
//! page by page: no identity of a person reads the log itself.

use crate::{
    cli::Audit,
    exit::{Ending, Exit, Failure},
    mesh::Mesh,
    out,
};
use anyhow::Context;
use nhi_model::call::{AuditList, AuditListed, AuditRow, AuditVerified, AuditVerify};
use serde_json::{Value, to_value};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// Entries of one page of an export.
const PAGE: u32 = 1000;

/// Runs one of the audit commands.
///
/// # Errors
/// The call's failure; [`Exit::Unwell`] when the chain is broken.
pub(crate) async fn run(mesh: &Mesh, command: Audit, as_json: bool) -> Result<(), Failure> {
    match command {
        Audit::List { after, limit, plan, kind } => {
            let request = AuditList { after, limit: Some(limit), plan, kind };
            list(&found(mesh, request).await?, as_json);
            Ok(())
        }
        Audit::Show { sequence } => show(mesh, sequence, as_json).await,
        Audit::Export { after, out } => export(mesh, after, out.as_deref(), as_json).await,
        Audit::Verify => {
            let verified: AuditVerified = mesh.call_long("audit", "verify", &AuditVerify {}).await?;
            if as_json {
                out::json(&verified);
            } else if verified.intact {
                let entries = verified.entries;
                out::line(&format!("{entries} entries, every link holds, head {}", verified.head));
            }
            if verified.intact {
                return Ok(());
            }
            let fault = verified.fault.unwrap_or_else(|| "no reason given".to_owned());
            Err(Failure::new(Exit::Unwell, format!("the audit log does not hold together: {fault}")))
        }
    }
}

/// A page; a search that came far without a find goes on from there.
async fn found(mesh: &Mesh, mut request: AuditList) -> Result<AuditListed, Failure> {
    loop {
        let listed: AuditListed = mesh.call_long("audit", "list", &request).await?;
        match listed.next {
            Some(next) if listed.entries.is_empty() && listed.more => request.after = Some(next),
            _ => return Ok(listed),
        }
    }
}

fn list(listed: &AuditListed, as_json: bool) {
    if as_json {
        return out::json(listed);
    }
    if listed.entries.is_empty() {
        return out::note("no such entries");
    }
    let rows = listed.entries.iter().map(|row| {
        let entry = &row.entry;
        [
            row.sequence.to_string(),
            format!("{:.0}", entry.at),
            kind(row),
            entry.actor.as_ref().unwrap_or(&entry.agent).to_string(),
            details(row),
        ]
    });
    out::table(["SEQUENCE", "AT", "WHAT", "WHO", "DETAILS"], rows);
    if let (true, Some(next)) = (listed.more, listed.next) {
        out::note(&format!("there are more: --after {next}"));
    }
}

fn kind(row: &AuditRow) -> String {
    to_value(row.entry.kind).unwrap_or_default().as_str().unwrap_or_default().to_owned()
}

/// `plan=p-1 digest=sha256:…`: what is short as it is, the rest as JSON.
fn details(row: &AuditRow) -> String {
    let text = |value: &Value| match value {
        Value::String(text) if !text.contains(' ') => text.clone(),
        other => other.to_string(),
    };
    let details = row.entry.details.iter().map(|(name, value)| format!("{name}={}", text(value)));
    details.collect::<Vec<_>>().join(" ")
}

async fn show(mesh: &Mesh, sequence: u64, as_json: bool) -> Result<(), Failure> {
    let request =
        AuditList { after: Some(sequence.saturating_sub(1)), limit: Some(1), ..AuditList::default() };
    let listed: AuditListed = mesh.call("audit", "list", &request).await?;
    let row = listed.entries.into_iter().find(|row| row.sequence == sequence).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no entry {sequence} that can be read"))
    })?;
    if as_json {
        out::json(&row);
        return Ok(());
    }
    let entry = &row.entry;
    let line = |name: &str, text: &str| out::line(&out::safe(&format!("{name:<9} {text}")));
    line("sequence", &row.sequence.to_string());
    line("at", &entry.at.to_string());
    line("what", &kind(&row));
    line("by", entry.actor.as_ref().unwrap_or(&entry.agent).as_str());
    line("written", &format!("by {}", entry.agent));
    for (name, value) in &entry.details {
        line(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    line("hash", &entry.hash);
    line("prev", if entry.prev.is_empty() { "(the first)" } else { &entry.prev });
    Ok(())
}

/// All entries, in the shape of a row each.
async fn export(mesh: &Mesh, after: Option<u64>, out: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let mut file = out
        .map(|path| File::create(path).with_context(|| format!("write {}", path.display())))
        .transpose()
        .ending(Exit::Config)?
        .map(BufWriter::new);
    let mut request = AuditList { after, limit: Some(PAGE), ..AuditList::default() };
    let mut count: usize = 0;
    loop {
        let listed: AuditListed = mesh.call_long("audit", "list", &request).await?;
        for row in &listed.entries {
            let line = serde_json::to_string(row).context("write an entry as JSON")?;
            match &mut file {
                Some(file) => writeln!(file, "{line}").context("write the file").ending(Exit::Config)?,
                // Nobody reads any more.
                None if !out::told(&line) => return Ok(()),
                None => {}
            }
        }
        count += listed.entries.len();
        match listed.next {
            Some(next) if listed.more => request.after = Some(next),
            _ => break,
        }
    }
    let Some(mut file) = file else { return Ok(()) };
    file.flush().context("write the file").ending(Exit::Config)?;
    let path = out.unwrap_or(Path::new("")).display();
    if as_json {
        out::json(&serde_json::json!({ "file": path.to_string(), "entries": count }));
    } else {
        out::line(&format!("{count} entries are in {path}"));
    }
    Ok(())
}
