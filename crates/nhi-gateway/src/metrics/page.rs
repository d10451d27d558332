//! Writes Prometheus' text format, version 0.0.4. Labels may hold anything the lab names itself; they are escaped, cut
//! and bounded in number.

use super::family::{Family, Scope};
use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

/// Series of one family: more than the guests of a large lab, and still a page of some hundred kilobytes.
const SERIES_MAX: usize = 2_000;
/// Longest value of a label, characters.
const LABEL_CHARS_MAX: usize = 200;

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// The numbers of one scrape.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    series: BTreeMap<Family, Vec<String>>,
    /// Series that did not fit.
    pub(super) dropped: u64,
}

/// A distribution: counts up to each bound and longer than the one before, all of them, and their sum.
#[derive(Clone, Debug)]
pub(super) struct Spread<'a> {
    pub(super) bounds: &'a [f64],
    pub(super) counts: &'a [u64],
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Page {
    /// One number.
    pub(super) fn set(&mut self, family: Family, labels: Labels<'_>, value: impl Display) {
        let line = format!("{}{} {value}\n", family.name(), written(labels, None));
        self.push(family, line);
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, family: Family, labels: Labels<'_>, value: bool) {
        self.set(family, labels, u8::from(value));
    }

    /// A number where there is one.
    pub(super) fn known(&mut self, family: Family, labels: Labels<'_>, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(family, labels, value);
        }
    }

    /// A distribution.
    pub(super) fn spread(&mut self, family: Family, labels: Labels<'_>, spread: &Spread<'_>) {
        let (name, mut below, mut lines) = (family.name(), 0_u64, String::new());
        for (bound, count) in spread.bounds.iter().zip(spread.counts) {
            below = below.saturating_add(*count);
            line(
                &mut lines,
                format_args!("{name}_bucket{} {below}", written(labels, Some(&bound.to_string()))),
            );
        }
        line(&mut lines, format_args!("{name}_bucket{} {}", written(labels, Some("+Inf")), spread.count));
        line(&mut lines, format_args!("{name}_sum{} {}", written(labels, None), spread.sum));
        line(&mut lines, format_args!("{name}_count{} {}", written(labels, None), spread.count));
        self.push(family, lines);
    }

    fn push(&mut self, family: Family, lines: String) {
        let series = self.series.entry(family).or_default();
        if series.len() < SERIES_MAX {
            series.push(lines);
        } else {
            self.dropped += 1;
        }
    }

    /// Adds all of another page.
    pub(super) fn join(&mut self, other: Self) {
        for (family, lines) in other.series {
            self.series.entry(family).or_default().extend(lines);
        }
        self.dropped += other.dropped;
    }

    /// The text, each family of these scopes with what it means, also where it has no number now.
    pub(super) fn text(&self, scopes: &[Scope]) -> String {
        let mut out = String::new();
        for family in Family::ALL.iter().filter(|family| scopes.contains(&family.scope())) {
            line(&mut out, format_args!("# HELP {} {}", family.name(), family.help()));
            line(&mut out, format_args!("# TYPE {} {}", family.name(), family.kind().as_str()));
            out.extend(self.series.get(family).into_iter().flatten().map(String::as_str));
        }
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).and_then(|()| out.write_char('\n')).expect("a string takes everything");
}

/// `{name="value",…}`, or nothing without labels.
fn written(labels: Labels<'_>, bound: Option<&str>) -> String {
    let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
    let pairs: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars().take(LABEL_CHARS_MAX) {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_lab_names_itself_breaks_no_line() {
        let mut page = Page::default();
        page.set(Family::Alert, &[("id", "a\"} 1\n# HELP x\\\r")], 1);
        let text = page.text(&[Scope::Lab]);
        assert!(text.contains("\nnhi_alert{id=\"a\\\"} 1\\n# HELP x\\\\ \"} 1\n"), "{text}");
    }

    #[test]
    fn a_spread_counts_upwards_and_ends_with_all() {
        let mut page = Page::default();
        let spread = Spread { bounds: &[0.1, 1.0], counts: &[2, 3], count: 9, sum: 4.5 };
        page.spread(Family::ApiLatency, &[("provider", "pc")], &spread);
        let text = page.text(&[Scope::Lab]);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("api_latency")).collect();
        assert_eq!(
            lines,
            [
                "api_latency_seconds_bucket{provider=\"pc\",le=\"0.1\"} 2",
                "api_latency_seconds_bucket{provider=\"pc\",le=\"1\"} 5",
                "api_latency_seconds_bucket{provider=\"pc\",le=\"+Inf\"} 9",
                "api_latency_seconds_sum{provider=\"pc\"} 4.5",
                "api_latency_seconds_count{provider=\"pc\"} 9",
            ]
        );
    }

    #[test]
    fn a_family_is_bounded_and_what_was_left_out_is_counted() {
        let mut page = Page::default();
        for n in 0..SERIES_MAX + 3 {
            page.set(Family::Records, &[("section", &n.to_string())], 1);
        }
        assert_eq!(page.dropped, 3);
    }
}
