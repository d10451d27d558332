//! `nhi audit …`

use crate::{
    cli::Audit,
    exit::{Exit, Failure},
    mesh::Mesh,
    out,
};
use nhi_model::call::{AuditList, AuditListed, AuditVerified, AuditVerify};

/// Runs one of the audit commands.
///
/// # Errors
/// The call's failure; [`Exit::Unwell`] when the chain is broken.
pub(crate) async fn run(mesh: &Mesh, command: Audit, as_json: bool) -> Result<(), Failure> {
    match command {
        Audit::List { after, limit } => {
            let listed: AuditListed =
                mesh.call("audit", "list", &AuditList { after, limit: Some(limit), ..AuditList::default() }).await?;
            list(&listed, as_json);
            Ok(())
        }
        Audit::Verify => {
            let verified: AuditVerified = mesh.call("audit", "verify", &AuditVerify {}).await?;
            if as_json {
                out::json(&verified);
            } else if verified.intact {
                out::line(&format!("{} entries, every link holds, head {}", verified.entries, verified.head));
            }
            if verified.intact {
                return Ok(());
            }
            let fault = verified.fault.unwrap_or_else(|| "no reason given".to_owned());
            Err(Failure::new(Exit::Unwell, format!("the audit log does not hold together: {fault}")))
        }
    }
}

fn list(listed: &AuditListed, as_json: bool) {
    if as_json {
        return out::json(listed);
    }
    if listed.entries.is_empty() {
        return out::note("no entries after that");
    }
    let rows = listed.entries.iter().map(|row| {
        let entry = &row.entry;
        let kind = serde_json::to_value(entry.kind).unwrap_or_default();
        let details = serde_json::to_string(&entry.details).unwrap_or_default();
        [
            row.sequence.to_string(),
            format!("{:.0}", entry.at),
            kind.as_str().unwrap_or_default().to_owned(),
            entry.actor.as_ref().unwrap_or(&entry.agent).to_string(),
            details,
        ]
    });
    out::table(["SEQUENCE", "AT", "WHAT", "WHO", "DETAILS"], rows);
    if listed.more {
        out::note("there are more: use --after with the last sequence");
    }
}
