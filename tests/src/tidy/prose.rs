//! Rules for documents and for every text: links lead somewhere, and the project speaks of itself alone.

use super::{TextFile, Violation};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Documents without which the tree is not whole.
pub const REQUIRED: &[&str] = &[
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "docs/architecture.md",
    "docs/design.md",
    "docs/style.md",
];

/// Absolute paths of somebody's own folder; they mean nothing anywhere else.
const OWN_FOLDERS: &[&str] = &["/home/", "/root/", "/Users/"];

/// Hosts of package registries, in parts so that this list does not name them. A package is named, not its host:
/// whoever builds this may use a mirror.
const REGISTRY_HOSTS: &[&[&str]] = &[
    &["pypi", "org"],
    &["files", "pythonhosted", "org"],
    &["registry", "npmjs", "org"],
    &["index", "crates", "io"],
    &["static", "crates", "io"],
    &["deb", "debian", "org"],
];

/// Places in a document that wait to be filled: `@LIKE_THIS@` alone on a line.
pub fn unfilled(file: &TextFile) -> Vec<Violation> {
    let is_place = |line: &str| {
        let name = line.trim().strip_prefix('@').and_then(|l| l.strip_suffix('@'));
        name.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let lines =
        file.text.lines().enumerate().filter(|(_, line)| file.path.ends_with(".md") && is_place(line));
    lines
        .map(|(at, line)| Violation::new(&file.path, at + 1, format!("{} is not filled in", line.trim())))
        .collect()
}

/// Documents that must be there.
pub fn required(files: &[TextFile]) -> Vec<Violation> {
    let there: BTreeSet<&str> = files.iter().map(|f| f.path.as_str()).collect();
    let missing = REQUIRED.iter().filter(|path| !there.contains(**path));
    missing.map(|path| Violation::new(path, 1, "the file is missing")).collect()
}

/// The change log speaks of the version that is built.
pub fn change_log(text: &str, version: &str) -> Vec<Violation> {
    let told =
        text.lines().any(|l| l.starts_with("## ") && (l.contains(version) || l.contains("Unreleased")));
    if told {
        return Vec::new();
    }
    vec![Violation::new("CHANGELOG.md", 1, format!("no section for {version} and none that says Unreleased"))]
}

/// Traces of the place where a file was written. `root` is where the tree is checked out now.
pub fn traces(file: &TextFile, root: &Path) -> Vec<Violation> {
    let hosts: Vec<String> = REGISTRY_HOSTS.iter().map(|parts| parts.join(".")).collect();
    let root = root.to_string_lossy();
    let mut out = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let mut fault = |message: String| out.push(Violation::new(&file.path, at + 1, message));
        for folder in OWN_FOLDERS {
            if starts_path(line, folder) {
                fault(format!("a path in {folder} means nothing elsewhere"));
            }
        }
        if root.len() > 1 && starts_path(line, &root) {
            fault("the place of this checkout means nothing elsewhere".to_owned());
        }
        for host in hosts.iter().filter(|host| line.contains(host.as_str())) {
            fault(format!("{host} is a registry's host: name the package instead"));
        }
    }
    out
}

/// Whether `path` stands in `line` as the start of a path with something behind it.
fn starts_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let is_whole = path.ends_with('/') || after.is_none_or(|c| !c.is_alphanumeric());
        let names_one = !path.ends_with('/') || after.is_some_and(|c| c.is_ascii_alphanumeric());
        before.is_none_or(|c| !c.is_alphanumeric() && !"/.-_}>".contains(c)) && is_whole && names_one
    })
}

/// Links in the documents that lead nowhere. `exists` says whether a path of the tree is there.
pub fn links(files: &[TextFile], exists: &dyn Fn(&str) -> bool) -> Vec<Violation> {
    let documents: BTreeMap<&str, &str> = files
        .iter()
        .filter(|f| f.path.ends_with(".md"))
        .map(|f| (f.path.as_str(), f.text.as_str()))
        .collect();
    let mut out = Vec::new();
    for (path, text) in &documents {
        for (line, target) in targets(text) {
            if let Some(reason) = broken(path, &target, &documents, exists) {
                out.push(Violation::new(path, line, format!("link {target:?}: {reason}")));
            }
        }
    }
    out
}

/// Targets of inline links outside code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut in_fence = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
            continue;
        }
        if in_fence {
            continue;
        }
        // Every second part is inline code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for (start, _) in prose.match_indices("](") {
            let rest = &prose[start + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or_default().trim_matches(['<', '>']);
            out.push((at + 1, target.to_owned()));
        }
    }
    out
}

/// Why a link leads nowhere.
fn broken(
    from: &str,
    target: &str,
    documents: &BTreeMap<&str, &str>,
    exists: &dyn Fn(&str) -> bool,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let resolved = if file.is_empty() { Some(from.to_owned()) } else { resolve(from, file) };
    let Some(path) = resolved else { return Some("it leaves the tree".to_owned()) };
    if !exists(&path) {
        return Some(format!("{path} is not there"));
    }
    let text = documents.get(path.as_str())?;
    let anchor = anchor?;
    let known = text.lines().filter(|l| l.starts_with('#')).any(|l| slug(l) == anchor);
    (!known).then(|| format!("{path} has no heading {anchor}"))
}

/// A target as a path of the tree; `None` when it leaves it.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// The anchor that a heading gets.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn traces_of_a_workplace_are_found() {
        let host = REGISTRY_HOSTS[0].join(".");
        let folder = ["", "home", "ann", "nhi"].join("/");
        let root = Path::new("/somewhere/checkout");
        for bad in
            [format!("see https://{host}/x"), format!("cd {folder}"), "`/somewhere/checkout/a`".to_owned()]
        {
            assert_eq!(traces(&file("a.md", &bad), root).len(), 1, "{bad}");
        }
        for good in
            ["GET /nodes/home/qemu", "/somewhere/checkout2", "crates.io", "https://x/home/ann", "~/nhi"]
        {
            assert_eq!(traces(&file("a.md", good), root), [], "{good}");
        }
    }

    #[test]
    fn links_are_followed() {
        let exists = |path: &str| ["docs/a.md", "README.md", "docs"].contains(&path);
        let check =
            |text: &str| links(&[file("docs/a.md", text), file("README.md", "# How to, now")], &exists);
        for bad in [
            "[a](b.md)",
            "[a](../../x)",
            "[a](/etc)",
            "[a](../README.md#what)",
            "x\n[a](#none)",
            "[a](https.md)",
        ] {
            assert_eq!(check(bad).len(), 1, "{bad}");
        }
        for good in [
            "[a](../README.md) [b](https://x.example/y) [c](.)",
            "[a](../README.md#how-to-now)",
            "# Top\n[a](#top)",
            "`[a](b.md)`\n```\n[a](b.md)\n```",
            "[a](<a.md> \"title\")",
        ] {
            assert_eq!(check(good), [], "{good}");
        }
    }

    #[test]
    fn the_change_log_knows_the_version() {
        assert_eq!(change_log("# Log\n## 0.1.0\n", "0.1.0"), []);
        assert_eq!(change_log("# Log\n## Unreleased\n", "0.1.0"), []);
        assert_eq!(change_log("# Log\n## 0.0.9\n", "0.1.0").len(), 1);
    }

    #[test]
    fn places_to_fill_are_found() {
        assert_eq!(unfilled(&file("a.md", "text\n  @UP_NOW@\n")).len(), 1);
        assert_eq!(unfilled(&file("a.md", "a@b.example\n@@\nsee @UP@ there\n")), []);
    }

    #[test]
    fn missing_documents_are_named() {
        let all: Vec<TextFile> = REQUIRED.iter().map(|path| file(path, "")).collect();
        assert_eq!(required(&all), []);
        assert_eq!(required(&all[1..]).len(), 1);
    }
}
