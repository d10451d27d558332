//! The rules of the house as functions over paths and texts. It does not fix anything and does not repeat what the
//! compiler and clippy already refuse.
//!
//! `tests/tidy.rs` applies them to the tree. The law for the arrows is the table in `docs/design.md` section 2: it is
//! read from there, so that the table and the check cannot part.

pub mod licences;
pub mod manifests;
pub mod prose;
pub mod sources;
pub mod tokens;

use anyhow::{Context as _, Result};
use std::{fmt, fs, path::Path};

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path from the root of the tree, with forward slashes.
    pub path: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Violation {
    /// A violation at a line.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// One text file of the tree.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Path from the root of the tree, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Folders that hold no sources: what builds, runs and editors leave behind.
const SKIPPED: &[&str] = &["target", ".git", ".nhi", "node_modules", "__pycache__"];
/// Endings of the files that are read.
const ENDINGS: &[&str] = &["rs", "md", "toml", "sh", "py", "yml", "yaml", "conf", "service", "txt"];

/// Reads every text file under `root`, ordered by path. Run-time files in `infrastructure/` are left out.
///
/// # Errors
/// When a folder or a file cannot be read.
pub fn read_tree(root: &Path) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    read_folder(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<TextFile>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type()?;
        let is_run_time = prefix == "infrastructure" && name != "README.md";
        if is_run_time || SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            read_folder(&entry.path(), &path, files)?;
        } else if kind.is_file() && is_text(&path) {
            // A file may go while somebody else works in the tree; one that is not UTF-8 is not text.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(TextFile { path, text });
            }
        }
    }
    Ok(())
}

fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((_, ending)) => ENDINGS.contains(&ending),
        None => path.starts_with(".ci/") || name.starts_with("LICENSE"),
    }
}
