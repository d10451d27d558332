//! Rules for one Rust source, and for the modules of the agents. It does not look at manifests.

use super::{
    TextFile, Violation,
    tokens::{Kind, Source, Token},
};
use std::collections::BTreeMap;

/// Longest function, lines from `fn` to its closing bracket.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Longest file.
pub const FILE_LINES_MAX: usize = 600;
/// Longest agent, all files of its module without those that hold only tests.
pub const AGENT_LINES_MAX: usize = 2000;

/// Every agent there is or will be. They meet on the bus, never in the program.
pub const AGENTS: &[&str] = &[
    "act", "alert", "docker", "gitops", "gpu", "hass", "mirror", "netbox", "route", "scan", "state",
    "traefik", "wiki",
];
const AGENTS_ROOT: &str = "crates/nhi-agents/src/";

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "prelude", "util", "utils"];
/// Where subjects are built. Everywhere else they come out of these.
const SUBJECT_FILES: &[&str] = &["crates/nhi-model/src/subject.rs", "crates/nhi-model/src/writers.rs"];
/// How the subjects of the mesh begin.
const SUBJECT_STARTS: &[&str] =
    &["nhi.", "nhi-pub.", "nhi-audit.", "nhi-cmd.", "nhi-jobs.", "nhi-timer.", "$KV."];
/// Crates whose values come in as arguments and go out as results.
const PURE_ROOTS: &[&str] = &["crates/nhi-model/src/", "crates/nhi-decide/src/"];
/// What a pure crate does not say at all.
const IMPURE_NAMES: &[&str] = &[
    "async",
    "await",
    "tokio",
    "rand",
    "tracing",
    "SystemTime",
    "Instant",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "stdin",
    "stdout",
    "stderr",
    "println",
    "eprintln",
    "print",
    "eprint",
];
/// What a pure crate does not take from `std`.
const IMPURE_STD: &[&str] = &["env", "fs", "os", "process", "thread"];
/// Functions that read a clock or make random numbers.
const IMPURE_CALLS: &[&str] = &["now", "new_v4", "new_v7", "now_v7"];
/// Macros that have a rule of their own: a test is run or it is not there, and it says what it expects.
const BANNED_TEST_ATTRIBUTES: &[&str] = &["ignore", "should_panic"];

/// All rules for one source.
pub fn check(file: &TextFile) -> Vec<Violation> {
    let mut out = shape(file);
    match Source::parse(&file.text, is_test_file(&file.path)) {
        Ok(source) => {
            out.extend(function_lengths(&file.path, &source));
            out.extend(attributes(&file.path, &source));
            out.extend(sleeping_tests(&file.path, &source));
            out.extend(subjects(&file.path, &source));
            out.extend(purity(&file.path, &source));
            out.extend(agent_isolation(&file.path, &source));
        }
        Err(error) => out.push(Violation::new(&file.path, 1, format!("{error:#}"))),
    }
    out
}

/// Whether the whole file exists only in tests.
pub fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Header, length and name of a file.
fn shape(file: &TextFile) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut fault = |line, message: String| out.push(Violation::new(&file.path, line, message));
    if !file.text.starts_with("//! ") {
        fault(1, "a file opens with `//!`: what it is for, then what it does not do".to_owned());
    }
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        fault(
            FILE_LINES_MAX + 1,
            format!("the file has {lines} lines, at most {FILE_LINES_MAX}: split it by meaning"),
        );
    }
    let stem = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
    if stem == "mod" {
        fault(1, "no mod.rs: name the file after its module".to_owned());
    }
    if EMPTY_NAMES.contains(&stem) {
        fault(1, format!("`{stem}` says nothing about what is inside: name the thing"));
    }
    out
}

fn function_lengths(path: &str, source: &Source) -> Vec<Violation> {
    let long = source.functions.iter().filter(|f| f.lines > FUNCTION_LINES_MAX);
    long.map(|f| {
        let message =
            format!("fn {} has {} lines, at most {FUNCTION_LINES_MAX}: split it by meaning", f.name, f.lines);
        Violation::new(path, f.line, message)
    })
    .collect()
}

fn attributes(path: &str, source: &Source) -> Vec<Violation> {
    let mut out = Vec::new();
    let tokens = &source.tokens;
    for (at, token) in tokens.iter().enumerate() {
        let opens_list = tokens.get(at + 1).is_some_and(|t| matches!(t.kind, Kind::Open(_)));
        if token.is("allow") && opens_list && is_in_attribute(tokens, at) {
            out.push(Violation::new(
                path,
                token.line,
                "use #[expect(lint, reason = \"…\")] instead of allow",
            ));
        }
        let banned = token.ident().filter(|name| BANNED_TEST_ATTRIBUTES.contains(name));
        if let Some(name) = banned.filter(|_| is_in_attribute(tokens, at)) {
            out.push(Violation::new(
                path,
                token.line,
                format!("no #[{name}]: run it and check what it gives"),
            ));
        }
    }
    out
}

/// Whether a token directly follows `#[`, `#![` or stands in their `cfg_attr`.
fn is_in_attribute(tokens: &[Token], at: usize) -> bool {
    let mut depth = 0_usize;
    for (before, token) in tokens[..at].iter().enumerate().rev() {
        match &token.kind {
            Kind::Close(_) => depth += 1,
            Kind::Open(_) if depth > 0 => depth -= 1,
            Kind::Open(proc_macro2::Delimiter::Bracket) => {
                let mark = before.checked_sub(1).map(|i| &tokens[i].kind);
                return matches!(mark, Some(Kind::Punct('#' | '!')));
            }
            Kind::Open(proc_macro2::Delimiter::Parenthesis) => {}
            Kind::Open(_) => return false,
            Kind::Punct(';') => return false,
            Kind::Ident(_) | Kind::Punct(_) | Kind::Literal(_) => {}
        }
    }
    false
}

/// A test waits for a state, not for a time.
fn sleeping_tests(path: &str, source: &Source) -> Vec<Violation> {
    let tokens = &source.tokens;
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, t)| t.in_test) {
        let is_sleep = token.is("sleep") || token.is("sleep_until");
        let is_call =
            tokens.get(at + 1).is_some_and(|t| t.kind == Kind::Open(proc_macro2::Delimiter::Parenthesis));
        let before = at.checked_sub(1).map(|i| &tokens[i]);
        let is_own = before.is_some_and(|t| t.kind == Kind::Punct('.') || t.is("fn"));
        if is_sleep && is_call && !is_own {
            out.push(Violation::new(path, token.line, "a test does not sleep: wait for the state it needs"));
        }
    }
    out
}

/// Subjects and keys are built by functions in one file.
fn subjects(path: &str, source: &Source) -> Vec<Violation> {
    if SUBJECT_FILES.contains(&path) || is_test_file(path) {
        return Vec::new();
    }
    let mut out = Vec::new();
    for token in source.tokens.iter().filter(|t| !t.in_test) {
        let Kind::Literal(literal) = &token.kind else { continue };
        let text = literal.trim_start_matches(['b', 'c', 'r', '#']);
        if let Some(text) =
            text.strip_prefix('"').filter(|text| is_subject(text.trim_end_matches(['#', '"'])))
        {
            let message =
                format!("subject \"{text} is written by hand: use a function of nhi_model::subject");
            out.push(Violation::new(path, token.line, message));
        }
    }
    out
}

/// A file name such as `nhi.toml` is no subject: those have more tokens, or places to fill.
fn is_subject(text: &str) -> bool {
    let Some(start) = SUBJECT_STARTS.iter().find(|start| text.starts_with(**start)) else { return false };
    let rest = &text[start.len()..];
    let one_word = rest.contains(char::is_whitespace);
    !one_word && (*start != "nhi." || rest.contains(['.', '{', '*', '>']))
}

/// Everything that decides is pure: values and `now` in, values out.
fn purity(path: &str, source: &Source) -> Vec<Violation> {
    if is_test_file(path) || !PURE_ROOTS.iter().any(|root| path.starts_with(root)) {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut fault = |line, name: &str| {
        out.push(Violation::new(
            path,
            line,
            format!("`{name}` in a pure crate: take what it gives as an argument"),
        ));
    };
    for (at, token) in source.tokens.iter().enumerate().filter(|(_, t)| !t.in_test) {
        let Some(name) = token.ident() else { continue };
        let follows_path = at >= 2 && source.is_path_separator(at - 2);
        if IMPURE_NAMES.contains(&name) || (follows_path && IMPURE_CALLS.contains(&name)) {
            fault(token.line, name);
        }
        if name == "std" {
            for (taken, line) in source.names_after(at + 1) {
                if IMPURE_STD.contains(&taken) {
                    fault(line, &format!("std::{taken}"));
                }
            }
        }
    }
    out
}

/// Agents do not import or call each other.
fn agent_isolation(path: &str, source: &Source) -> Vec<Violation> {
    let Some(me) = agent_of(path) else { return Vec::new() };
    let mut out = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        let Some(after) = root_prefix_end(path, source, at) else { continue };
        for (name, line) in source.names_after(after) {
            if AGENTS.contains(&name) && name != me {
                let message =
                    format!("agent {me} uses agent {name}: they meet on the bus, never in the program");
                out.push(Violation::new(path, line.max(token.line), message));
            }
        }
    }
    out
}

/// The agent a file belongs to.
fn agent_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(AGENTS_ROOT)?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    AGENTS.contains(&name).then_some(name)
}

/// The token after a prefix that means the crate root: `crate`, or enough `super`.
fn root_prefix_end(path: &str, source: &Source, at: usize) -> Option<usize> {
    let tokens = &source.tokens;
    if tokens[at].is("crate") {
        return Some(at + 1);
    }
    let continues = at >= 2 && source.is_path_separator(at - 2);
    if !tokens[at].is("super") || continues {
        return None;
    }
    let (mut end, mut supers) = (at + 1, 1);
    while source.is_path_separator(end) && tokens.get(end + 2).is_some_and(|t| t.is("super")) {
        end += 3;
        supers += 1;
    }
    let depth = path.strip_prefix(AGENTS_ROOT)?.split('/').count() + tokens[at].modules;
    (supers == depth).then_some(end)
}

/// Each agent with all its files stays small enough to be read in one sitting.
pub fn agent_sizes(files: &[TextFile]) -> Vec<Violation> {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files.iter().filter(|f| f.path.ends_with(".rs") && !is_test_file(&f.path)) {
        if let Some(agent) = agent_of(&file.path) {
            *lines.entry(agent).or_default() += file.text.lines().count();
        }
    }
    let long = lines.into_iter().filter(|(_, lines)| *lines > AGENT_LINES_MAX);
    long.map(|(agent, lines)| {
        let message = format!(
            "agent {agent} has {lines} lines, at most {AGENT_LINES_MAX}: move decisions to nhi-decide"
        );
        Violation::new(&format!("{AGENTS_ROOT}{agent}.rs"), 1, message)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: format!("//! A sample.\n{text}") }
    }

    /// Checks a sample that breaks rules (as `line: word of the message`) and, as its control, one that does not.
    fn check_sample(path: &str, bad: &str, expect: &[(usize, &str)], good: &str) {
        let seen = check(&file(path, bad));
        assert_eq!(seen.len(), expect.len(), "{seen:#?}");
        for (violation, (line, word)) in seen.iter().zip(expect) {
            assert!(
                violation.line == *line && violation.message.contains(word),
                "{violation} is not {line}: {word}"
            );
        }
        assert_eq!(check(&file(path, good)), [], "the good sample is refused");
    }

    #[test]
    fn headers_names_and_lengths() {
        let bare = TextFile { path: "crates/x/src/a.rs".to_owned(), text: "struct A;\n".to_owned() };
        assert_eq!(check(&bare).len(), 1);
        assert_eq!(check(&file("crates/x/src/a/mod.rs", "")).len(), 1);
        assert_eq!(check(&file("crates/x/src/utils.rs", "")).len(), 1);
        let most = "\n".repeat(FILE_LINES_MAX - 1);
        check_sample("crates/x/src/a.rs", &format!("{most}\n"), &[(601, "at most 600")], &most);
        let function = |lines: usize| format!("fn f() {{\n{}}}", "\n".repeat(lines - 2));
        check_sample("a.rs", &function(71), &[(2, "fn f has 71 lines")], &function(70));
    }

    #[test]
    fn lints_are_expected_not_allowed() {
        check_sample(
            "a.rs",
            "#![allow(dead_code)]\n#[cfg_attr(x, allow(y))]\n#[ignore = \"z\"]\n#[should_panic]\nfn f() {}",
            &[(2, "expect"), (3, "expect"), (4, "ignore"), (5, "should_panic")],
            "#[expect(dead_code, reason = \"x\")]\nfn f() { allow(1); let a = [ignore, 2]; }",
        );
    }

    #[test]
    fn tests_do_not_sleep() {
        check_sample(
            "tests/tests/a.rs",
            "async fn f() { tokio::select! { _ = tokio::time::sleep(d) => {} } }",
            &[(2, "sleep")],
            "async fn f() { machine.sleep(); tokio::time::timeout(d, x).await; }",
        );
        check_sample(
            "crates/x/src/a.rs",
            "#[cfg(test)]\nmod tests { fn f() { sleep(d) } }",
            &[(3, "sleep")],
            "async fn f() { tokio::time::sleep(d).await }",
        );
    }

    #[test]
    fn subjects_come_from_the_model() {
        check_sample(
            "crates/x/src/a.rs",
            "fn f() { format!(\"nhi.{a}.get\"); g(\"$KV.nhi-state.vm\"); g(r#\"nhi-pub.state.>\"#) }",
            &[(2, "by hand"), (2, "by hand"), (2, "by hand")],
            "fn f() { g(\"nhi.toml\"); g(\"read nhi.state.get first\"); }\n#[cfg(test)]\nmod tests { const A: &str = \"nhi.a.b.c\"; }",
        );
        assert_eq!(check(&file("crates/nhi-model/src/subject.rs", "const A: &str = \"nhi.a.b.c\";")), []);
    }

    #[test]
    fn what_decides_is_pure() {
        check_sample(
            "crates/nhi-decide/src/a.rs",
            "use std::{fs, time::Instant};\nasync fn f() { Timestamp::now() }\nfn g() { std::env::var(\"A\"); Uuid::new_v4(); }",
            &[(2, "std::fs"), (2, "Instant"), (3, "async"), (3, "now"), (4, "std::env"), (4, "new_v4")],
            "use std::{collections::BTreeMap, fmt};\nfn f(now: Timestamp) -> Timestamp { now }\n#[cfg(test)]\nmod tests { use std::fs; }",
        );
        assert_eq!(check(&file("crates/nhi-agents/src/a.rs", "async fn f() {}")), [], "agents do things");
    }

    #[test]
    fn agents_do_not_know_each_other() {
        check_sample(
            "crates/nhi-agents/src/scan/pass.rs",
            "use crate::{config::A, state::B};\nuse super::super::mirror::C;\nfn f() { crate::gpu::go() }",
            &[(2, "agent state"), (3, "agent mirror"), (4, "agent gpu")],
            "use crate::{config::A, scan::B};\nuse super::state::C;\nuse nhi_model::graph::D;\nmod tests { use super::super::state::E; }",
        );
        assert_eq!(check(&file("crates/nhi-agents/src/lib.rs", "pub use crate::scan::A;")), []);
    }

    #[test]
    fn an_agent_is_measured_whole_and_without_its_tests() {
        let lines = |path: &str, lines: usize| TextFile { path: path.to_owned(), text: "\n".repeat(lines) };
        let mut files = vec![
            lines("crates/nhi-agents/src/scan.rs", 1000),
            lines("crates/nhi-agents/src/scan/pass.rs", 1000),
            lines("crates/nhi-agents/src/scan/tests.rs", 9000),
        ];
        assert_eq!(agent_sizes(&files), []);
        files.push(lines("crates/nhi-agents/src/scan/map.rs", 1));
        assert_eq!(agent_sizes(&files).len(), 1);
    }

    #[test]
    fn what_is_not_rust_is_reported() {
        assert_eq!(check(&file("a.rs", "fn f( {")).len(), 1);
    }
}
