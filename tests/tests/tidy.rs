//! The architecture checks over the whole tree: one failure lists every place, as `file:line: what to do`. The rules
//! and their controls are in `nhi_tests::tidy`.

use anyhow::{Context as _, Result, ensure};
use nhi_tests::tidy::{self, TextFile, Violation};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the workspace")
        .to_owned()
}

fn text<'f>(files: &'f [TextFile], path: &str) -> Result<&'f str> {
    let file = files.iter().find(|f| f.path == path);
    Ok(file.with_context(|| format!("{path} is missing"))?.text.as_str())
}

/// Fails with all places at once.
fn none(violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} places break the rules of docs/style.md:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

#[test]
fn sources_keep_the_rules() -> Result<()> {
    let files = tidy::read_tree(&root())?;
    let sources: Vec<&TextFile> = files.iter().filter(|f| f.path.ends_with(".rs")).collect();
    ensure!(sources.len() > 20, "only {} sources were found", sources.len());
    let mut all: Vec<Violation> = sources.into_iter().flat_map(tidy::sources::check).collect();
    all.extend(tidy::sources::agent_sizes(&files));
    none(&all);
    Ok(())
}

#[test]
fn arrows_between_crates_point_down() -> Result<()> {
    let files = tidy::read_tree(&root())?;
    let arrows = tidy::manifests::arrows(text(&files, "docs/design.md")?)?;
    let manifests = tidy::manifests::read(&files)?;
    ensure!(manifests.len() > 5, "only {} manifests were found", manifests.len());
    let mut all = Vec::new();
    for manifest in &manifests {
        all.extend(tidy::manifests::check_arrows(manifest, &arrows));
        all.extend(tidy::manifests::check_wrapped(manifest));
        all.extend(tidy::manifests::check_form(manifest));
        all.extend(tidy::manifests::check_unused(manifest, &files));
    }
    none(&all);
    Ok(())
}

#[test]
fn documents_are_whole() -> Result<()> {
    let root = root();
    let files = tidy::read_tree(&root)?;
    let mut all = tidy::prose::required(&files);
    all.extend(files.iter().flat_map(tidy::prose::unfilled));
    all.extend(tidy::prose::links(&files, &|path| root.join(path).exists()));
    all.extend(tidy::prose::change_log(
        text(&files, "CHANGELOG.md").unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
    ));
    none(&all);
    Ok(())
}

#[test]
fn the_project_speaks_of_itself_alone() -> Result<()> {
    let root = root();
    let files = tidy::read_tree(&root)?;
    let all: Vec<Violation> = files.iter().flat_map(|file| tidy::prose::traces(file, &root)).collect();
    none(&all);
    Ok(())
}

#[test]
fn dependencies_are_allowed() -> Result<()> {
    let root = root();
    let files = tidy::read_tree(&root)?;
    let policy = tidy::licences::Policy::parse(text(&files, "deny.toml")?)?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    let mut all = tidy::licences::duplicates(&lock, &policy)?;
    all.extend(tidy::licences::packages(&metadata(&root)?, &policy));
    none(&all);
    Ok(())
}

/// What is built here: packages for other platforms need not have been downloaded.
fn metadata(root: &Path) -> Result<serde_json::Value> {
    let version = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let version = String::from_utf8(version.stdout).context("reading the version of rustc")?;
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc names no host")?;
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("reading the output of cargo metadata")
}
