//! Licences, sources and duplicate versions of what we depend on, against `deny.toml`. `cargo deny check` knows more
//! (advisories); this runs wherever the tests run, with nothing to install.

use super::Violation;
use anyhow::{Context as _, Result};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// What `deny.toml` says.
#[derive(Clone, Debug)]
pub struct Policy {
    allowed: BTreeSet<String>,
    skipped: BTreeSet<(String, String)>,
    registries: BTreeSet<String>,
}

impl Policy {
    /// Reads `deny.toml`.
    ///
    /// # Errors
    /// When it is not TOML or lacks a part that is needed here.
    pub fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().context("reading deny.toml")?;
        let list = |section: &str, key: &str| -> Result<Vec<Value>> {
            let list = table.get(section).and_then(|s| s.get(key)).and_then(Value::as_array);
            list.cloned().with_context(|| format!("deny.toml has no list {key} in [{section}]"))
        };
        let words = |values: Vec<Value>| values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let skipped = list("bans", "skip")?;
        let skipped = skipped.iter().filter_map(|s| s.get("crate").and_then(Value::as_str));
        let skipped = skipped.filter_map(|s| s.split_once('@'));
        Ok(Self {
            allowed: words(list("licenses", "allow")?),
            skipped: skipped.map(|(name, version)| (name.to_owned(), version.to_owned())).collect(),
            registries: words(list("sources", "allow-registry")?),
        })
    }
}

/// Licences and sources of all packages in the output of `cargo metadata`.
pub fn packages(metadata: &Json, policy: &Policy) -> Vec<Violation> {
    let mut out = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let mut fault = |message: String| out.push(Violation::new("Cargo.lock", 1, message));
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence, &policy.allowed) {
            fault(format!("{name}: licence {licence:?} is not allowed by deny.toml"));
        }
        let source = package["source"].as_str().and_then(|s| s.strip_prefix("registry+").or(Some(s)));
        if let Some(source) = source.filter(|s| !policy.registries.contains(*s)) {
            fault(format!("{name}: source {source:?} is not allowed by deny.toml"));
        }
    }
    out
}

/// Crates in `Cargo.lock` with more than one version that `deny.toml` does not explain, and explanations without need.
///
/// # Errors
/// When the lock file is not TOML.
pub fn duplicates(lock: &str, policy: &Policy) -> Result<Vec<Violation>> {
    let table: Table = lock.parse().context("reading Cargo.lock")?;
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in table.get("package").and_then(Value::as_array).into_iter().flatten() {
        let text = |key| package.get(key).and_then(Value::as_str).unwrap_or_default();
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    let mut out = Vec::new();
    for (name, versions) in &versions {
        let open =
            versions.iter().filter(|v| !policy.skipped.contains(&((*name).to_owned(), (**v).to_owned())));
        let open: Vec<&str> = open.copied().collect();
        if open.len() > 1 {
            let message =
                format!("{name} is there as {}: unite them, or explain one in deny.toml", open.join(" and "));
            out.push(Violation::new("Cargo.lock", 1, message));
        }
    }
    for (name, version) in &policy.skipped {
        let of = versions.get(name.as_str());
        if !of.is_some_and(|of| of.len() > 1 && of.contains(version.as_str())) {
            let message = format!("{name}@{version} is no duplicate any more: take it out of the list");
            out.push(Violation::new("deny.toml", 1, message));
        }
    }
    Ok(out)
}

/// Whether an SPDX expression can be met with allowed licences. `AND` binds closer than `OR`; the old `/` means `OR`.
/// What is no expression is not allowed.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed) == Some(true) && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is_met = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        is_met |= all_of(words, allowed)?;
    }
    Some(is_met)
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is_met = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        is_met &= one(words, allowed)?;
    }
    Some(is_met)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let is_met = any_of(words, allowed)?;
        return (words.next()? == ")").then_some(is_met);
    }
    if words.next_if_eq(&"WITH").is_some() {
        return Some(allowed.contains(&format!("{word} WITH {}", words.next()?)));
    }
    Some(allowed.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[licenses]\nallow = [\"MIT\", \"ISC\"]\n[bans]\nskip = [{ crate = \"b@1.0.0\", reason = \"x\" }]\n\
        [sources]\nallow-registry = [\"https://registry.example\"]\n";

    fn policy() -> Policy {
        Policy::parse(DENY).unwrap()
    }

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = policy().allowed;
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "MIT AND ISC",
            "(GPL-3.0 OR MIT) AND ISC",
            "A AND B OR MIT",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH X", "(MIT", "MIT)", "MIT OR", "MIT ISC"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn packages_are_judged() {
        let check = |licence: &str, source: &str| {
            let package =
                serde_json::json!({"packages": [{"name": "a", "license": licence, "source": source}]});
            packages(&package, &policy()).len()
        };
        assert_eq!(check("MIT", "registry+https://registry.example"), 0);
        assert_eq!(check("GPL-3.0", "registry+https://registry.example"), 1);
        assert_eq!(check("MIT", "git+https://somewhere.example/a"), 1);
        let ours = serde_json::json!({"packages": [{"name": "a", "license": "MIT", "source": null}]});
        assert_eq!(packages(&ours, &policy()), []);
    }

    #[test]
    fn duplicates_are_explained_or_reported() {
        let lock = |versions: &[&str]| -> String {
            let row = |v: &&str| {
                let (name, version) = v.split_once(' ').unwrap();
                format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n")
            };
            versions.iter().map(row).collect()
        };
        let check = |versions: &[&str]| duplicates(&lock(versions), &policy()).unwrap().len();
        assert_eq!(check(&["a 1.0.0", "b 1.0.0", "b 2.0.0"]), 0);
        assert_eq!(check(&["a 1.0.0", "a 2.0.0", "b 1.0.0", "b 2.0.0"]), 1);
        assert_eq!(check(&["b 2.0.0"]), 1, "an explanation that is not needed");
    }
}
