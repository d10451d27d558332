//! `nhi man`: the manual, from the same types that parse the command line.

use crate::{cli::Cli, exit::Failure, out};
use anyhow::Context;
use clap::CommandFactory;
use std::path::Path;

/// Prints the page of `nhi`, or writes one page a command into a directory.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn run(dir: Option<&Path>) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).context("render the manual")?;
        out::line(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.with_context(|| format!("cannot write the manual into {}", dir.display()))?;
    out::note(&format!("manual pages → {}", dir.display()));
    Ok(())
}
