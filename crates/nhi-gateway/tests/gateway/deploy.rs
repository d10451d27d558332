//! The dashboards and alert rules of `deploy/` name only what `/metrics` declares.

use crate::house::House;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Words of the query language that stand in them.
const WORDS: &[&str] = &[
    "and",
    "by",
    "count",
    "group_left",
    "histogram_quantile",
    "increase",
    "max",
    "min",
    "on",
    "or",
    "predict_linear",
    "rate",
    "sum",
    "topk",
    "unless",
    "vector",
];
/// What Prometheus itself says of a target.
const PROMETHEUS: &[&str] = &["up"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// The metrics a query names: its identifiers that are no words of the language, labels and strings aside.
fn metrics(query: &str) -> BTreeSet<String> {
    let (mut found, mut depth, mut is_text, mut word, mut is_labels) =
        (BTreeSet::new(), 0, false, String::new(), false);
    for c in query.chars().chain([' ']) {
        match c {
            '"' => is_text = !is_text,
            _ if is_text => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ if depth > 0 => {}
            ')' if is_labels => is_labels = false,
            _ if is_labels => {}
            c if c.is_ascii_alphanumeric() || c == '_' => {
                word.push(c);
                continue;
            }
            // `by (a, b)`: labels.
            '(' if ["by", "on"].contains(&word.as_str()) => is_labels = true,
            ' ' if ["by", "on"].contains(&word.as_str()) => continue,
            _ => {}
        }
        let named = std::mem::take(&mut word);
        let is_name =
            named.starts_with(|c: char| c.is_ascii_alphabetic()) && !WORDS.contains(&named.as_str());
        if is_name {
            found.insert(named);
        }
    }
    found
}

#[test]
fn names_are_found_and_words_and_labels_are_not() {
    let check = |query: &str| metrics(query).into_iter().collect::<Vec<_>>();
    assert_eq!(
        check("sum by (le, provider) (rate(a_bucket{b=\"c d\"}[5m])) / on (host) group_left e_1 > 0.5"),
        ["a_bucket", "e_1"]
    );
    assert_eq!(check("up{job=\"x\"} == 0 or not_declared"), ["not_declared", "up"]);
}

fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| queries(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The expressions of the rules: on the line of `expr:`, or on the deeper ones below it.
fn rules(text: &str) -> Vec<String> {
    let (mut found, mut lines) = (Vec::new(), text.lines().peekable());
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim_start().strip_prefix("expr:") else { continue };
        let indent = line.len() - line.trim_start().len();
        let mut expression = expression.trim().trim_start_matches(">-").to_owned();
        while let Some(more) = lines.next_if(|more| more.len() - more.trim_start().len() > indent) {
            expression.push(' ');
            expression.push_str(more.trim());
        }
        found.push(expression);
    }
    found
}

#[tokio::test]
async fn what_is_drawn_and_alerted_on_is_what_is_measured() {
    let house = House::open().await;
    let key = format!("Bearer {}", house.seed("owner"));
    let text = house.send("GET", "/metrics", &[("Authorization", &key)], "").await.body;
    let mut declared: BTreeSet<String> = PROMETHEUS.iter().map(|name| (*name).to_owned()).collect();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "histogram" => declared.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))),
            _ => drop(declared.insert(name.to_owned())),
        }
    }
    let mut used = rules(&fs::read_to_string(deploy().join("prometheus/alerts.yml")).unwrap());
    assert!(used.len() >= 10, "{used:?}");
    let mut dashboards = 0;
    for file in fs::read_dir(deploy().join("grafana/dashboards")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        queries(&serde_json::from_str(&text).unwrap(), &mut used);
        dashboards += 1;
    }
    assert_eq!(dashboards, 4);
    for query in used {
        let names = metrics(&query);
        assert!(!names.is_empty(), "{query} names nothing");
        let unknown: Vec<&String> = names.difference(&declared).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {query:?} is not what /metrics declares");
    }
    house.close().await;
}
