//! The arguments of what rules say: `nhi policy …`, `nhi guard …`, and words that several commands read.

use clap::{Args, Subcommand};
use nhi_decide::guard::Version;
use nhi_model::{audit::AuditKind, intent::Operation};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// `nhi policy …`
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Print what holds, with every default filled in
    Show,
    /// Print the file that says what holds without one
    Default,
    /// Look for mistakes in a policy file
    Check {
        /// The file; by default infrastructure/policy.toml
        file: Option<PathBuf>,
    },
}

/// `nhi guard …`
#[derive(Debug, Subcommand)]
pub(crate) enum Guard {
    /// Print the commands that make Proxmox itself refuse what must never be done; nothing is run
    Plan(Floor),
    /// Compare what the configured tokens may do with what they should
    Check(Floor),
}

/// What the tokens are meant to be able to do. Each of these beats [guard] of nhi.toml.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Floor {
    /// Only this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Version of Proxmox VE, such as 8 or 9.1; by default what the cluster says, else 9
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub pve: Option<Version>,
    /// A pool in which guests may be made and destroyed; may be given several times [default: lab]
    #[arg(long = "pool", value_name = "NAME")]
    pub pools: Vec<String>,
    /// A storage for disks of new guests and for backups; may be given several times [default: local-lvm]
    #[arg(long = "storage", value_name = "NAME")]
    pub storages: Vec<String>,
    /// A zone whose bridges new guests may use; may be given several times [default: localnetwork]
    #[arg(long = "zone", value_name = "NAME")]
    pub zones: Vec<String>,
    /// A guest outside the pools that may be copied; may be given several times [default: every template]
    #[arg(long = "template", value_name = "NUMBER")]
    pub templates: Vec<u32>,
    /// What may be done to every guest that is not protected [default: power, snapshots, backups]
    #[arg(long, value_name = "OPERATION,…", value_delimiter = ',', value_parser = operation)]
    pub everywhere: Vec<Operation>,
    /// What may be done to guests in the pools [default: everything]
    #[arg(long, value_name = "OPERATION,…", value_delimiter = ',', value_parser = operation)]
    pub in_pools: Vec<Operation>,
    /// Let the scanner see backups, which takes rights that could make some
    #[arg(long)]
    pub backups: bool,
}

/// A version: `8`, `9.1`, `9.1.3`.
fn version(text: &str) -> Result<Version, String> {
    read_version(text).ok_or_else(|| format!("{text:?} is no version; write it as 9 or 9.1"))
}

/// The first two numbers of a version.
pub(crate) fn read_version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '~']).map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    Some((major, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

fn operation(text: &str) -> Result<Operation, String> {
    let words = || Operation::ALL.map(Operation::as_str).join(", ");
    read(text).ok_or_else(|| format!("there is no operation {text:?}; the words are {}", words()))
}

/// A kind of audit entry, as the log has it.
pub(crate) fn audit_kind(text: &str) -> Result<AuditKind, String> {
    read(text).ok_or_else(|| {
        format!("there is no kind {text:?}; `nhi audit list` shows them, such as plan.refused or run.ended")
    })
}

/// A word that stands for a value.
fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        assert_eq!([version("9"), version("8.4.5"), version("9.1-1")], [Ok((9, 0)), Ok((8, 4)), Ok((9, 1))]);
        assert!(version("new").unwrap_err().contains("write it as 9"));
        assert_eq!(operation("create-vm"), Ok(Operation::CreateVm));
        assert!(operation("delete").unwrap_err().contains("destroy"));
        assert_eq!(audit_kind("plan.refused"), Ok(AuditKind::PlanRefused));
        assert!(audit_kind("plan").unwrap_err().contains("plan.refused"));
    }
}
