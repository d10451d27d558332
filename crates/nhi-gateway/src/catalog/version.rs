//! Which of two versions is the newer, as far as their texts tell. It refuses none.

use std::cmp::Ordering;

/// A version that compares as people mean it: numbers as numbers, and before its release what comes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order<'t> {
    numbers: Vec<u64>,
    before: Option<&'t str>,
    text: &'t str,
}

pub(super) fn order(text: &str) -> Order<'_> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    let plain = plain.split('+').next().unwrap_or_default();
    let (numbers, before) = plain.split_once('-').map_or((plain, None), |(n, b)| (n, Some(b)));
    Order { numbers: numbers.split('.').map_while(|part| part.parse().ok()).collect(), before, text }
}

impl Ord for Order<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // A release is newer than everything before it.
        let rank = |order: &Self| order.before.is_none();
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| rank(self).cmp(&rank(other)))
            .then_with(|| self.before.cmp(&other.before))
            .then_with(|| self.text.cmp(other.text))
    }
}

impl PartialOrd for Order<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_is_what_people_call_newer() {
        let sorted = ["", "x", "0.9", "1.0.0-alpha", "1.0.0-beta", "1.0.0", "v1.2", "1.10.0", "2"];
        for pair in sorted.windows(2) {
            assert!(order(pair[0]) < order(pair[1]), "{pair:?}");
        }
    }
}
