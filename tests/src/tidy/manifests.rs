//! Rules for the manifests: which crate may use which. The compiler checks that they build; this checks that they may.

use super::{TextFile, Violation, tokens::Source};
use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// Which of our crates each of our crates may use.
pub type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The crates below the agents that know one outside system each; the table says "edge crates" for them.
const EDGE_CRATES: &[&str] = &["nhi-llm", "nhi-pve"];
/// For development only: nothing that ships may depend on it.
const DEV_ONLY: &str = "nhi-testkit";
/// The member that tests the whole; it may use everything.
const WHOLE_TESTS: &str = "nhi-tests";

/// Foreign crates that only some of ours may use, and why.
const WRAPPED: &[(&str, &[&str], &str)] = &[
    (NATS, &["nhi-bus", DEV_ONLY, WHOLE_TESTS], "only nhi-bus knows NATS"),
    ("axum", &["nhi-gateway"], "only nhi-gateway serves HTTP to others"),
    ("anyhow", &["nhi", DEV_ONLY, WHOLE_TESTS], "a library has typed errors"),
    ("clap", &["nhi"], "only the binary has a command line"),
    ("tracing-subscriber", &["nhi"], "only the binary decides where logs go"),
];
/// Stays behind one of ours in tests as well: they use what the testkit offers.
const NATS: &str = "async-nats";
/// Crates whose manifest may not name these: what decides has no runtime.
const PURE: &[&str] = &["nhi-model", "nhi-decide"];
const IMPURE_DEPENDENCIES: &[&str] = &[
    "async-nats",
    "axum",
    "futures",
    "hyper",
    "rand",
    "reqwest",
    "rustix",
    "tokio",
    "tokio-util",
    "tracing",
];

/// One manifest of the workspace.
#[derive(Clone, Debug)]
pub struct Manifest<'a> {
    path: &'a str,
    text: &'a str,
    table: Table,
    name: String,
}

/// Reads the manifests of all members.
///
/// # Errors
/// When one is not TOML or has no package name.
pub fn read(files: &[TextFile]) -> Result<Vec<Manifest<'_>>> {
    let members = files.iter().filter(|f| f.path.ends_with("/Cargo.toml"));
    members.map(|f| Manifest::parse(&f.path, &f.text)).collect()
}

impl<'a> Manifest<'a> {
    fn parse(path: &'a str, text: &'a str) -> Result<Self> {
        let table: Table = text.parse().with_context(|| format!("reading {path}"))?;
        let name = table.get("package").and_then(|p| p.get("name")).and_then(Value::as_str);
        let name = name.with_context(|| format!("{path} has no package name"))?.to_owned();
        Ok(Self { path, text, table, name })
    }

    /// Names and values of a dependency table, also of those for one platform.
    fn dependencies(&self, kind: &str) -> BTreeMap<&str, &Value> {
        let mut out: BTreeMap<&str, &Value> = entries(&self.table, kind).collect();
        if let Some(Value::Table(platforms)) = self.table.get("target") {
            for platform in platforms.values().filter_map(Value::as_table) {
                out.extend(entries(platform, kind));
            }
        }
        out
    }

    fn line_of(&self, name: &str) -> usize {
        let starts =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
        self.text.lines().position(starts).map_or(1, |at| at + 1)
    }

    fn fault(&self, name: &str, message: String) -> Violation {
        Violation::new(self.path, self.line_of(name), message)
    }
}

fn entries<'t>(table: &'t Table, kind: &str) -> impl Iterator<Item = (&'t str, &'t Value)> {
    table
        .get(kind)
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

/// Reads the arrows from the table of crates in the design.
///
/// # Errors
/// When the table is not there or has a word that is no crate.
pub fn arrows(design: &str) -> Result<Arrows> {
    let section =
        design.split("\n## ").find(|part| part.starts_with("2. ")).context("the design has no section 2")?;
    let mut arrows = Arrows::new();
    for row in section.lines().filter(|l| l.starts_with("| `nhi")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        ensure!(cells.len() == 3, "the row {row:?} has not three cells");
        let name = cells[0].trim_matches('`').to_owned();
        let mut uses = BTreeSet::new();
        let words = cells[2].split(',').map(|w| w.split('(').next().unwrap_or(w).trim());
        for word in words.filter(|w| *w != "–") {
            match word {
                "all above" => uses.extend(arrows.keys().cloned()),
                "edge crates" => uses.extend(EDGE_CRATES.iter().map(|c| (*c).to_owned())),
                word => {
                    ensure!(
                        word.chars().all(|c| c.is_ascii_lowercase()),
                        "{word:?} in the row of {name} is no crate"
                    );
                    uses.insert(format!("nhi-{word}"));
                }
            }
        }
        arrows.insert(name, uses);
    }
    ensure!(!arrows.is_empty(), "section 2 of the design has no table of crates");
    Ok(arrows)
}

/// Arrows between our crates against the table.
pub fn check_arrows(manifest: &Manifest<'_>, arrows: &Arrows) -> Vec<Violation> {
    let me = manifest.name.as_str();
    if me == WHOLE_TESTS {
        return Vec::new();
    }
    let Some(allowed) = arrows.get(me) else {
        return vec![Violation::new(
            manifest.path,
            1,
            format!("{me} has no row in docs/design.md section 2"),
        )];
    };
    let mut out = Vec::new();
    for kind in ["dependencies", "build-dependencies"] {
        for name in manifest.dependencies(kind).into_keys().filter(|n| *n == "nhi" || n.starts_with("nhi-")) {
            if !allowed.contains(name) {
                let message = format!("{me} may not use {name}: see the table in docs/design.md section 2");
                out.push(manifest.fault(name, message));
            }
        }
    }
    out
}

/// Foreign crates that stay behind one of ours, and crates that stay pure.
pub fn check_wrapped(manifest: &Manifest<'_>) -> Vec<Violation> {
    let me = manifest.name.as_str();
    let mut out = Vec::new();
    for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
        for name in manifest.dependencies(kind).into_keys() {
            let wrapped = WRAPPED.iter().find(|(wrapped, by, _)| *wrapped == name && !by.contains(&me));
            let wrapped = wrapped.filter(|_| kind != "dev-dependencies" || name == NATS);
            if let Some((_, _, why)) = wrapped {
                out.push(manifest.fault(name, format!("{me} may not use {name}: {why}")));
            }
            if kind != "dev-dependencies" && PURE.contains(&me) && IMPURE_DEPENDENCIES.contains(&name) {
                out.push(manifest.fault(name, format!("{me} is pure and may not use {name}")));
            }
        }
    }
    out
}

/// What every manifest has: the workspace's lints and versions, and no features.
pub fn check_form(manifest: &Manifest<'_>) -> Vec<Violation> {
    let mut out = Vec::new();
    let is_inherited =
        |value: Option<&Value>| value.and_then(|v| v.get("workspace")) == Some(&Value::Boolean(true));
    if !is_inherited(manifest.table.get("lints")) && manifest.name != "nhi-host" {
        out.push(manifest.fault("lints", "every crate has `[lints] workspace = true`".to_owned()));
    }
    if manifest.table.contains_key("features") {
        out.push(manifest.fault("[features]", "no cargo features: configuration is run-time".to_owned()));
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !is_inherited(manifest.table.get("package").and_then(|p| p.get(key))) {
            out.push(manifest.fault(key, format!("`{key}.workspace = true`: the workspace says it once")));
        }
    }
    for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
        for (name, _) in
            manifest.dependencies(kind).into_iter().filter(|(_, value)| !is_inherited(Some(value)))
        {
            out.push(manifest.fault(name, format!("{name}: versions stand in [workspace.dependencies]")));
        }
    }
    out
}

/// Dependencies that no source of the crate names.
pub fn check_unused(manifest: &Manifest<'_>, files: &[TextFile]) -> Vec<Violation> {
    let folder = manifest.path.trim_end_matches("Cargo.toml");
    let sources = files.iter().filter(|f| f.path.starts_with(folder) && f.path.ends_with(".rs"));
    let mut named = BTreeSet::new();
    for source in sources.filter_map(|f| Source::parse(&f.text, false).ok()) {
        named.extend(source.tokens.iter().filter_map(|t| t.ident().map(str::to_owned)));
    }
    let kinds = ["dependencies", "dev-dependencies"];
    let declared = kinds.iter().flat_map(|kind| manifest.dependencies(kind).into_keys());
    let unused = declared.filter(|name| !named.contains(&name.replace('-', "_")));
    unused.map(|name| manifest.fault(name, format!("{} does not use {name}", manifest.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIGN: &str = "# D\n\n## 2. The house\n\n| crate | owns | uses (ours) |\n|---|---|---|\n\
        | `nhi-model` | nouns | – |\n| `nhi-decide` | decisions | model |\n| `nhi-pve` | api | – |\n\
        | `nhi-agents` | loops | model, decide, edge crates, host |\n| `nhi-sim` | lab | model, pve (types only) |\n\
        | `nhi` | binary | all above |\n\n## 3. State\n\n| `nhi-x` | y | model |\n";

    const FORM: &str = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
        license.workspace = true\npublish.workspace = true\n";

    fn check(name: &str, rest: &str, rule: impl Fn(&Manifest<'_>) -> Vec<Violation>) -> Vec<String> {
        let text = format!("[package]\nname = \"{name}\"\n{FORM}\n{rest}\n[lints]\nworkspace = true\n");
        let manifest = Manifest::parse("crates/x/Cargo.toml", &text).unwrap();
        rule(&manifest).into_iter().map(|v| v.to_string()).collect()
    }

    #[test]
    fn the_table_is_read() {
        let arrows = arrows(DESIGN).unwrap();
        let uses = |name: &str| arrows[name].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(uses("nhi-model"), [""; 0]);
        assert_eq!(uses("nhi-agents"), ["nhi-decide", "nhi-host", "nhi-llm", "nhi-model", "nhi-pve"]);
        assert_eq!(uses("nhi-sim"), ["nhi-model", "nhi-pve"]);
        assert_eq!(uses("nhi"), ["nhi-agents", "nhi-decide", "nhi-model", "nhi-pve", "nhi-sim"]);
        assert!(!arrows.contains_key("nhi-x"), "another section's table is no law");
        assert!(super::arrows("# D\n## 2. The house\n").is_err());
        assert!(super::arrows("\n## 2. X\n| `nhi-a` | b | Whatever |\n").is_err());
    }

    #[test]
    fn arrows_point_down() {
        let arrows = arrows(DESIGN).unwrap();
        let check = |name, rest| check(name, rest, |m| check_arrows(m, &arrows));
        let up = check("nhi-model", "[dependencies]\nnhi-decide.workspace = true");
        assert_eq!(up.len(), 1, "{up:?}");
        assert!(up[0].starts_with("crates/x/Cargo.toml:10: nhi-model may not use nhi-decide"), "{up:?}");
        assert_eq!(
            check("nhi-decide", "[target.'cfg(unix)'.dependencies]\nnhi-pve.workspace = true").len(),
            1
        );
        assert_eq!(check("nhi-decide", "[dependencies]\nnhi-testkit.workspace = true").len(), 1);
        assert_eq!(check("nhi-new", "").len(), 1, "a crate needs a row");
        assert_eq!(
            check("nhi-decide", "[dependencies]\nnhi-model.workspace = true\nserde.workspace = true"),
            [""; 0]
        );
        assert_eq!(check("nhi-decide", "[dev-dependencies]\nnhi-testkit.workspace = true"), [""; 0]);
        assert_eq!(check("nhi-tests", "[dependencies]\nnhi-sim.workspace = true"), [""; 0]);
    }

    #[test]
    fn foreign_crates_stay_behind_one_of_ours() {
        let nats = "[dependencies]\nasync-nats.workspace = true";
        assert_eq!(check("nhi-agents", nats, check_wrapped).len(), 1);
        assert_eq!(
            check("nhi-agents", "[dev-dependencies]\nasync-nats.workspace = true", check_wrapped).len(),
            1
        );
        assert_eq!(check("nhi-bus", nats, check_wrapped), [""; 0]);
        assert_eq!(check("nhi-sim", "[dependencies]\nanyhow.workspace = true", check_wrapped).len(), 1);
        assert_eq!(check("nhi-sim", "[dev-dependencies]\nanyhow.workspace = true", check_wrapped), [""; 0]);
        assert_eq!(check("nhi-decide", "[dependencies]\ntokio.workspace = true", check_wrapped).len(), 1);
        assert_eq!(check("nhi-decide", "[dev-dependencies]\ntokio.workspace = true", check_wrapped), [""; 0]);
    }

    #[test]
    fn manifests_inherit() {
        assert_eq!(check("nhi-a", "[dependencies]\nserde.workspace = true", check_form), [""; 0]);
        assert_eq!(
            check("nhi-a", "[dependencies]\nserde = \"1\"\nbytes = { version = \"1\" }", check_form).len(),
            2
        );
        assert_eq!(check("nhi-a", "[features]\nx = []", check_form).len(), 1);
        let bare = Manifest::parse("a/Cargo.toml", "[package]\nname = \"a\"\n").unwrap();
        assert_eq!(check_form(&bare).len(), 6);
    }

    #[test]
    fn unused_dependencies_are_named() {
        let source =
            |text: &str| vec![TextFile { path: "crates/x/src/lib.rs".to_owned(), text: text.to_owned() }];
        let declared = "[dependencies]\nserde-json.workspace = true";
        let unused = |text: &str| check("nhi-a", declared, |m| check_unused(m, &source(text)));
        assert_eq!(unused("use serde_json::Value;"), [""; 0]);
        assert_eq!(unused("// serde_json\nstruct A;").len(), 1);
    }
}
