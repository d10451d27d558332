//! Tests of the dependency graph.

use super::*;
use crate::change::What;
use proptest::prelude::*;
use serde_json::json;

fn graph(edges: &[(&str, &[&str])]) -> Result<Graph, GraphError> {
    let services: BTreeMap<_, _> =
        edges.iter().map(|(name, needs)| ((*name).to_owned(), json!({"depends_on": needs}))).collect();
    parse(&json!({"services": services}).to_string())
}

fn error(text: &str) -> String {
    parse(text).expect_err("the file is broken").sentence()
}

#[test]
fn a_good_file_is_read_whole() {
    let read = parse(
        "\u{feff}{\"_note\": 1, \"services\": {\"db\": {\"required_by\": [\"web\"], \"criticality\": \"critical\",
         \"can_restart_without_approval\": false, \"restart_safe_hours\": [4, 2, 3, 2]},
         \"web\": {\"depends_on\": [\"db\"]}}}",
    )
    .unwrap();
    assert_eq!(read.warnings, [""; 0]);
    assert_eq!(read.services["db"].restart_safe_hours, [2, 3, 4]);
    assert_eq!(read.services["db"].criticality, Criticality::Critical);
    assert_eq!(read.services["web"].criticality, Criticality::Medium);
    assert!(!read.services["web"].can_restart_without_approval, "missing means no");
}

#[test]
fn what_is_wrong_is_named() {
    let place = error("{\"services\":\n{\"a\": [}}");
    assert!(
        place.starts_with("the dependency graph is not readable JSON: ") && place.contains("line 2"),
        "{place}"
    );
    assert!(error("{}").contains("services"), "{}", error("{}"));
    assert!(error("").contains("line 1 column 0"));
    assert!(error(r#"{"services": {"a": {}, "a": {}}}"#).contains("\"a\" stands twice"));
    let word = error(r#"{"services": {"a": {"criticality": "severe"}}}"#);
    assert!(word.contains("\"a\"") && word.contains("severe") && word.contains("critical, high"), "{word}");
    for hour in ["24", "-1", "9999999999"] {
        let text = format!(r#"{{"services": {{"a": {{"restart_safe_hours": [{hour}]}}}}}}"#);
        assert!(error(&text).contains(hour) && error(&text).contains("0 to 23"));
    }
    assert!(error(&" ".repeat(FILE_BYTES_MAX + 1)).contains("right file"));
}

#[test]
fn a_cycle_is_told_as_a_path() {
    assert!(error_of(&[("a", &["b"]), ("b", &["a"])]).contains("a → b → a"));
    assert!(error_of(&[("z", &["m"]), ("m", &["k"]), ("k", &["m"])]).contains("k → m → k"));
    assert!(error_of(&[("a", &["a"])]).contains("a → a"));
    // The circle is closed by required_by alone.
    let text = r#"{"services": {"a": {"depends_on": ["b"], "required_by": ["b"]}, "b": {}}}"#;
    assert!(error(text).contains("a → b → a"));
    assert!(graph(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]).is_ok());
}

fn error_of(edges: &[(&str, &[&str])]) -> String {
    graph(edges).expect_err("there is a cycle").sentence()
}

#[test]
fn a_long_chain_is_no_problem() {
    let services: BTreeMap<_, _> =
        (0..9000).map(|n| (format!("s{n}"), json!({"depends_on": [format!("s{}", n + 1)]}))).collect();
    let graph = parse(&json!({"services": services}).to_string()).unwrap();
    assert_eq!(dependents(&graph, "s9000").len(), 9000);
}

#[test]
fn dangling_names_and_one_sided_edges_are_warnings() {
    let text = r#"{"services": {"db": {"required_by": ["web", "ghost"]}, "web": {"depends_on": ["cache"]}, "cache": {}}}"#;
    assert_eq!(
        parse(text).unwrap().warnings,
        [
            "db is required by ghost, which is not a service of the graph",
            "db is required by web, but web does not list it in depends_on",
            "web depends on cache, but cache does not list it in required_by",
        ]
    );
}

#[test]
fn impact_is_transitive_and_takes_both_sides() {
    let text =
        r#"{"services": {"nas": {"required_by": ["media"]}, "media": {}, "tv": {"depends_on": ["media"]}}}"#;
    let graph = parse(text).unwrap();
    assert_eq!(dependents(&graph, "nas"), ["media", "tv"].map(str::to_owned).into());
    assert_eq!(dependents(&graph, "tv"), BTreeSet::new());
    assert_eq!(dependents(&graph, "unknown"), BTreeSet::new());
}

#[test]
fn a_broken_file_is_an_alert_and_the_last_graph_stays() {
    let at: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
    let mut known = BTreeMap::new();
    let mut look = |read: FileRead| -> Vec<String> {
        let changes = graph_changes(&known, at, "infrastructure/dependency_graph.json", &read);
        assert!(graph_changes(&known, at, "infrastructure/dependency_graph.json", &read) == changes);
        for change in &changes {
            match &change.what {
                What::Put { record, stale } => {
                    let known_now = Known { revision: 1, record: record.clone(), stale: stale.clone() };
                    known.insert(change.key.clone(), known_now);
                }
                What::Retire => assert!(known.remove(&change.key).is_some()),
            }
        }
        assert_eq!(graph_changes(&known, at, "infrastructure/dependency_graph.json", &read), []);
        let stale = |known: &Known| if known.stale.is_some() { " (stale)" } else { "" };
        known.iter().map(|(key, known)| format!("{key}{}", stale(known))).collect()
    };
    let good = || FileRead::Text(graph(&[("a", &["b"])]));
    assert_eq!(look(good()), ["alert.scan.graph-warnings", "graph", "source.graph"]);
    let broken = FileRead::Text(graph(&[("a", &["a"])]));
    assert_eq!(look(broken), ["alert.scan.graph-broken", "graph (stale)", "source.graph"]);
    let denied = FileRead::Unreadable("permission denied".to_owned());
    assert_eq!(look(denied), ["alert.scan.graph-broken", "graph (stale)", "source.graph"]);
    assert_eq!(look(good()), ["alert.scan.graph-warnings", "graph", "source.graph"]);
    assert_eq!(look(FileRead::Absent), ["source.graph"]);
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn a_graph_is_read_exactly_when_it_has_no_cycle(
        edges in prop::collection::vec((0..6u8, 0..6u8), 0..12),
    ) {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (from, to) in &edges {
            map.entry(format!("s{from}")).or_default().push(format!("s{to}"));
        }
        let rows: BTreeMap<_, _> = map.iter().map(|(name, needs)| (name, json!({"depends_on": needs}))).collect();
        // Closure by multiplication: simple and slow, so it checks the search.
        let mut reach = [[false; 6]; 6];
        edges.iter().for_each(|(from, to)| reach[usize::from(*from)][usize::from(*to)] = true);
        for middle in 0..6 {
            let through = reach[middle];
            for row in reach.iter_mut().filter(|row| row[middle]) {
                row.iter_mut().zip(through).for_each(|(to, reached)| *to |= reached);
            }
        }
        let cyclic = reach.iter().enumerate().any(|(place, row)| row[place]);
        match parse(&json!({"services": rows}).to_string()) {
            Err(GraphError::Cycle { path }) => {
                prop_assert!(cyclic);
                prop_assert_eq!(path.first(), path.last());
                for pair in path.windows(2) {
                    prop_assert!(map[&pair[0]].contains(&pair[1]));
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
            Ok(graph) => {
                prop_assert!(!cyclic);
                for needed in 0..6 {
                    let needing = reach.iter().enumerate().filter(|(_, row)| row[needed]);
                    let want: BTreeSet<String> = needing.map(|(place, _)| format!("s{place}")).collect();
                    prop_assert_eq!(dependents(&graph, &format!("s{needed}")), want);
                }
            }
        }
    }
}
