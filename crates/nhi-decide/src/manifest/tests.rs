//! Tests of manifests: each shape, the defects of the predecessors' parser, and hostile input.

use super::{changes::Unread, *};
use crate::{change::What, observe::Known};
use nhi_model::{Timestamp, key::Key, source::Coverage};
use proptest::prelude::*;
use serde_json::json;

fn md(text: &str) -> Project {
    parse("dir", "/projects/dir", "project_manifest.md", text.as_bytes())
        .expect("Markdown is always a project")
}

fn yml(text: &str) -> Result<Project, ManifestError> {
    parse("dir", "/projects/dir", "project_manifest.yaml", text.as_bytes())
}

/// Labels, order and remarks of a real file of Neural-Home v3.
const ITALIAN: &str = "# PROGETTO: AI Orchestrator
**Path:** `~/Projects/ai-orchestrator`
**Stato:** Produzione (Systemd: `nhi-orchestrator.service`)

## 🎯 Scopo
Centralizza le chiamate AI.
Gestisce il routing.

## 🔌 Interfacce (API)
- **Base URL:** `http://localhost:8000/v1`
- **Porta:** 8000

## 🛠️ Stack Tecnologico
- Python (FastAPI)
- Redis

## ⚠️ Note per Sviluppatori
- Non bypassare.
";

#[test]
fn italian_markdown_gives_what_it_always_gave() {
    let project = md(ITALIAN);
    assert_eq!(project.name, "AI Orchestrator");
    assert_eq!(project.path, "~/Projects/ai-orchestrator");
    assert_eq!(project.status, "Produzione (Systemd: `nhi-orchestrator.service`)");
    assert_eq!(project.description, "Centralizza le chiamate AI.\nGestisce il routing.");
    assert_eq!((project.port, project.base_url.as_deref()), (Some(8000), Some("http://localhost:8000/v1")));
    assert_eq!(project.shape, ManifestShape::MarkdownItalian);
    assert_eq!(project.raw_manifest, ITALIAN);
    assert_eq!(project.extra["stack"], json!(["Python (FastAPI)", "Redis"]));
    assert_eq!(md(&ITALIAN.replace('\n', "\r\n")).description, project.description);
    assert_eq!(md(&format!("\u{feff}{ITALIAN}")).name, project.name);
}

#[test]
fn defaults_are_neural_home_v3s() {
    let project = md("nothing known");
    assert_eq!((project.name.as_str(), project.path.as_str()), ("dir", "/projects/dir"));
    assert_eq!((project.status.as_str(), project.description.as_str()), ("Unknown", ""));
    assert_eq!((project.port, project.base_url), (None, None));
}

#[test]
fn the_defects_of_the_old_parser_are_gone() {
    let empty = md("# PROGETTO:\n**Stato:**\n**Path:**\n**Porta:**\n## 🎯 Scopo\nLast and\nstill here\n");
    assert_eq!(
        (empty.name.as_str(), empty.status.as_str()),
        ("dir", "Unknown"),
        "no value swallows the next line"
    );
    assert_eq!((empty.path.as_str(), empty.port), ("/projects/dir", None));
    assert_eq!(empty.description, "Last and\nstill here", "the last section is one");
    assert_eq!(md("## PROGETTO: no title\n**Stato:** x").name, "dir");
    assert_eq!(md("# PROGETTO: x\n**Porta:** 99999").port, None);
    assert_eq!(md("# PROGETTO: x\n**Path:** \"/a b\" (NAS)").path, "/a b");
    assert_eq!(md("# PROGETTO: \u{1b}[31mred\u{202e}\n").name, "red");
}

const ENGLISH: &str = "# Media - Project Manifest

> NHI-CORE Project Manifest v1.0

## Overview

**Name:** Media  \n**Description:** Films and music  \n**Status:** Active

## Technical Details

| Property | Value |
|----------|-------|
| **LXC ID** | 105 |
| **IP Address** | 192.0.2.105 |
| **Port** | 8096 |
| **Stack** | Jellyfin |
| **Repository** | {{REPO_URL}} |

## Dependencies

### Centralized Services

| Service | IP | Port | Usage |
|---------|-----|------|-------|
| PostgreSQL | 192.0.2.10 | 5432 | Primary database |
| Redis | TBD | 6379 | Cache |

### External APIs

| API | Purpose | Auth Method |
|-----|---------|-------------|
| - | - | - |

## Health & Monitoring

| Property | Value |
|----------|-------|
| **Health Endpoint** | `/health` |
";

#[test]
fn english_markdown_is_read_from_labels_and_tables() {
    let project = md(ENGLISH);
    assert_eq!(project.shape, ManifestShape::MarkdownEnglish);
    assert_eq!((project.name.as_str(), project.status.as_str()), ("Media", "Active"));
    assert_eq!((project.description.as_str(), project.port), ("Films and music", Some(8096)));
    assert_eq!(project.base_url, None, "an address and a port are no URL");
    assert_eq!(project.path, "/projects/dir");
    let want = json!({
        "vmid": 105, "ip_configured": "192.0.2.105", "stack": "Jellyfin", "health_endpoint": "/health",
        "dependencies": [
            {"name": "PostgreSQL", "port": 5432, "for": "Primary database"},
            {"name": "Redis", "port": 6379, "for": "Cache"},
        ],
    });
    assert_eq!(json!(project.extra), want, "placeholders are not values");
}

#[test]
fn flat_yaml_is_read() {
    let project = yml(
        "name: media\nversion: 1.2.0\nstatus:\n  stage: production\n  last_updated: 2026-01-02\ntype: web\n\
         registration:\n  registered: yes\n  vmid: \"105\"\n  port: \"8096\"\ndependencies:\n  services: [db]\n",
    )
    .unwrap();
    assert_eq!(project.shape, ManifestShape::YamlFlat);
    assert_eq!((project.name.as_str(), project.status.as_str()), ("media", "production"));
    assert_eq!(project.port, Some(8096), "numbers come as text too");
    assert_eq!(project.extra["vmid"], json!(105));
    assert_eq!(project.extra["version"], json!("1.2.0"));
    assert_eq!(project.extra["dependencies"], json!({"services": ["db"]}));
    assert_eq!(project.extra["status"]["last_updated"], json!("2026-01-02"));
}

#[test]
fn nested_yaml_is_read_with_both_kinds_of_status() {
    let project = yml(
        "project:\n  name: media\n  status:\n    stage: testing\n  description: |\n    Two\n    lines\nowner: me\n",
    );
    let project = project.unwrap();
    assert_eq!(project.shape, ManifestShape::YamlNested);
    assert_eq!((project.status.as_str(), project.description.as_str()), ("testing", "Two\nlines"));
    assert_eq!(project.extra["owner"], json!("me"));
    assert_eq!(yml("project:\n  name: media\n  status: archive\n").unwrap().status, "archive");
    assert_eq!(
        md("name: media\nstatus: planning\n").shape,
        ManifestShape::YamlFlat,
        "in a file named .md as well"
    );
}

#[test]
fn bad_yaml_is_refused_with_its_place() {
    let broken = yml("name: [a\nb: c\n").unwrap_err();
    assert!(matches!(&broken, ManifestError::Yaml { reason } if reason.contains("line")), "{broken}");
    for nameless in ["- a\n- b\n", "version: 1\n", "", "42", "project:\n  version: 1\n"] {
        assert!(yml(nameless).is_err(), "{nameless:?}");
    }
    assert!(
        matches!(yml("a: 1\na: 2\nname: x\n"), Err(ManifestError::Yaml { .. })),
        "a field that stands twice"
    );
}

#[test]
fn bombs_do_not_go_off() {
    let mut laughs = "name: bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let below = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", "));
    }
    assert!(matches!(yml(&laughs), Err(ManifestError::Yaml { .. })));
    let long = "y".repeat(100_000);
    let echo = format!("name: echo\na: &a {long}\nb: [{}]\n", ["*a"; 31].join(", "));
    assert!(matches!(yml(&echo), Err(ManifestError::Yaml { .. })), "few aliases of a long text");
    let deep = format!("name: {}", "[".repeat(100_000));
    assert!(yml(&deep).is_err());
    let deep = (0..2_000).map(|level| format!("{}a:\n", " ".repeat(level % 200))).collect::<String>();
    assert!(yml(&deep).is_err());
    assert_eq!(md(&deep).name, "dir");
    let ten_megabytes = vec![b'x'; 10 * 1024 * 1024];
    let refused = parse("dir", "/dir", "project_manifest.md", &ten_megabytes).unwrap_err();
    assert!(
        matches!(refused, ManifestError::TooLarge { bytes } if bytes == ten_megabytes.len()),
        "{refused}"
    );
    let binary = parse("dir", "/dir", "project_manifest.md", b"# PROGETTO: \xff").unwrap_err();
    assert!(matches!(binary, ManifestError::NotText { at: 12 }), "{binary}");
    let wide: String = (0..300).map(|n| format!("k{n}: {}\n", "z".repeat(700))).collect();
    let project = yml(&format!("name: wide\n{wide}")).unwrap();
    assert!(serde_json::to_string(&project.extra).unwrap().len() < 70_000);
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).expect("a small number")
}

/// What is known, after looks at the directories.
#[derive(Default)]
struct Look(BTreeMap<Key, Known>);

impl Look {
    fn at(&mut self, read: &ProjectsRead) -> Vec<String> {
        for change in project_changes(&self.0, read) {
            match change.what {
                What::Put { record, stale } => {
                    self.0.insert(change.key, Known { revision: 1, record, stale });
                }
                What::Retire => assert!(self.0.remove(&change.key).is_some()),
            }
        }
        assert_eq!(project_changes(&self.0, read), [], "the same look again is no news");
        let stale = |known: &Known| if known.stale.is_some() { " (stale)" } else { "" };
        self.0.iter().map(|(key, known)| format!("{key}{}", stale(known))).collect()
    }
}

fn look(found: Vec<(&str, Result<Project, Unread>)>, root: Coverage) -> ProjectsRead {
    let found =
        found.into_iter().map(|(id, read)| Found { id: id.to_owned(), file: format!("/p/{id}"), read });
    ProjectsRead { at: time(0), roots: [("/p".to_owned(), root)].into(), found: found.collect() }
}

#[test]
fn a_broken_manifest_is_an_alert_and_spoils_no_other() {
    let mut state = Look::default();
    let broken = || Err(Unread::Manifest(ManifestError::Nameless));
    let good = || Ok(md(ITALIAN));
    let all = state.at(&look(vec![("a", good()), ("b", good())], Coverage::Complete));
    assert_eq!(all, ["project.a", "project.b", "source.projects"]);
    let all = state.at(&look(vec![("a", broken()), ("b", good()), ("c", broken())], Coverage::Complete));
    assert_eq!(
        all,
        [
            "alert.scan.project-broken_a",
            "alert.scan.project-broken_c",
            "project.a (stale)",
            "project.b",
            "source.projects"
        ]
    );
    let all = state.at(&look(vec![("a", good()), ("a", good())], Coverage::Complete));
    assert_eq!(all, ["alert.scan.project-twice_a", "project.a", "source.projects"]);
}

#[test]
fn projects_are_gone_only_when_every_root_was_seen() {
    let mut state = Look::default();
    state.at(&look(
        vec![("a", Ok(md(ITALIAN))), ("b", Err(Unread::File("denied".to_owned())))],
        Coverage::Complete,
    ));
    let unseen = Coverage::Unseen { reason: "permission denied".to_owned() };
    assert_eq!(
        state.at(&look(vec![], unseen)),
        ["alert.scan.project-broken_b", "alert.scan.projects-unseen", "project.a (stale)", "source.projects"]
    );
    let other = look(vec![("c", Ok(md(ITALIAN)))], Coverage::Complete);
    assert_eq!(state.at(&other), ["project.c", "source.projects"]);
}

#[test]
fn a_root_that_is_suddenly_empty_is_not_mounted() {
    let at = |dir: &str| {
        let mut project = md(ITALIAN);
        dir.clone_into(&mut project.path);
        Ok(project)
    };
    let read = |found: Vec<(&str, &str)>| ProjectsRead {
        at: time(0),
        roots: ["/p", "/q"].map(|root| (root.to_owned(), Coverage::Complete)).into(),
        found: found
            .into_iter()
            .map(|(id, dir)| Found { id: id.to_owned(), file: format!("{dir}/x.md"), read: at(dir) })
            .collect(),
    };
    let mut state = Look::default();
    state.at(&read(vec![("a", "/p/a"), ("b", "/q/b"), ("c", "/q/c")]));
    let want =
        ["alert.scan.projects-unseen", "project.a (stale)", "project.b", "project.c", "source.projects"];
    for _ in 0..3 {
        assert_eq!(state.at(&read(vec![("b", "/q/b"), ("c", "/q/c")])), want);
    }
    let told = state.0[&Key::source(SOURCE)].record.to_string();
    assert!(told.contains("/p: is empty; is it mounted?"), "{told}");
    // Beside others of its own root a project is gone all the same.
    let want = ["alert.scan.projects-unseen", "project.a (stale)", "project.b", "source.projects"];
    assert_eq!(state.at(&read(vec![("b", "/q/b")])), want);
    // Mounted again; and then everything is away.
    assert_eq!(
        state.at(&read(vec![("a", "/p/a"), ("b", "/q/b")])),
        ["project.a", "project.b", "source.projects"]
    );
    let want = ["alert.scan.projects-unseen", "project.a (stale)", "project.b (stale)", "source.projects"];
    assert_eq!(state.at(&read(vec![])), want);
    // An empty root alone is nothing to tell.
    assert_eq!(Look::default().at(&read(vec![("b", "/q/b")])), ["project.b", "source.projects"]);
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), yaml in any::<bool>()) {
        let file = if yaml { FILE_NAMES[1] } else { FILE_NAMES[0] };
        let _ = parse("dir", "/dir", file, &bytes);
    }

    #[test]
    fn no_text_breaks_it(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "# PROGETTO:", "**Stato:**", "**Path:**", "**Porta:**", "## 🎯 Scopo", "**Name:**", "| LXC ID |", "|", "`",
            "\n", "name:", "project:", " ", "é", "&a", "*a", "- ", "[", "{", "\"", "#", "8000", "\u{feff}", "\t", "---",
        ]), 0..60),
        yaml in any::<bool>(),
    ) {
        let text = pieces.concat();
        let file = if yaml { FILE_NAMES[1] } else { FILE_NAMES[0] };
        let read = parse("dir", "/dir", file, text.as_bytes());
        prop_assert!(yaml || read.is_ok(), "Markdown is always a project");
        if let Ok(project) = read {
            prop_assert_eq!(project.raw_manifest, text);
            prop_assert!(!project.name.is_empty() && !project.status.is_empty() && !project.path.is_empty());
        }
    }
}
