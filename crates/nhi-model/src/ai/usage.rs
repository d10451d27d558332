//! What AI requests came to, summed up: the answer of `ai.usage`. The lines themselves are in the ledger.

use super::Intent;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `ai.usage`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AiUsage {
    /// Days back from today, today included; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// What the rows are summed by; absent: provider and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UsageBy>,
}

/// What usage is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UsageBy {
    /// By backend and model.
    Provider,
    /// By who asked.
    Caller,
    /// By project.
    Project,
    /// By day.
    Day,
}

/// Answer of `ai.usage`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AiUsed {
    /// Sums.
    pub rows: Vec<UsageRow>,
    /// What is left of each quota.
    pub quotas: Vec<QuotaRow>,
}

/// A sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRow {
    /// What it is the sum of: `groq/llama-3.3-70b`, `aider`, `2026-01-31`.
    pub of: String,
    /// Requests.
    pub requests: u64,
    /// Those that did not end well.
    pub failed: u64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// US dollars.
    pub cost: f64,
    /// Mean time to the first token, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// Those of which no judge said what they are about.
    #[serde(default)]
    pub judge_failed: u64,
    /// Those whose caller went before the end. They are no failures.
    #[serde(default)]
    pub cancelled: u64,
    /// How long those took that were answered or failed.
    #[serde(default)]
    pub latency: Latency,
    /// What they were read as, and how many of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<Intent, u64>,
}

/// Upper bounds of a [`Latency`]'s counts, milliseconds: from a cached word to a long answer of a large model.
pub const LATENCY_BOUNDS_MS: [u64; 10] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000];

/// How long requests took, as a distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// How many took at most as long as each of [`LATENCY_BOUNDS_MS`] and longer than the one before. What took longer
    /// than all of them is only in `count`.
    pub counts: Vec<u64>,
    /// How many there are.
    pub count: u64,
    /// Their durations together, milliseconds.
    pub sum_ms: u64,
}

impl Latency {
    /// Counts one more.
    pub fn add(&mut self, duration_ms: u64) {
        self.counts.resize(LATENCY_BOUNDS_MS.len(), 0);
        let place = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < duration_ms);
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add(1);
        }
        self.count = self.count.saturating_add(1);
        self.sum_ms = self.sum_ms.saturating_add(duration_ms);
    }

    /// Counts all of another one.
    pub fn join(&mut self, other: &Self) {
        self.counts.resize(LATENCY_BOUNDS_MS.len(), 0);
        for (mine, more) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*more);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
    }
}

/// What is left of a quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuotaRow {
    /// The backend.
    pub provider: String,
    /// `requests a day`
    pub what: String,
    /// Taken.
    pub used: u64,
    /// Allowed.
    pub limit: u64,
    /// When it starts anew, UTC.
    pub resets_at: Timestamp,
}
