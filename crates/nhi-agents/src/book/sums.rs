//! Sums of the ledger by day, read once and then only what came since. What it keeps is as large as there are different
//! callers, projects and models, up to a bound: beyond it the rest of a day is one row.

use jiff::{ToSpan, civil::Date, tz::TimeZone};
use nhi_bus::{connect::Bus, ledger};
use nhi_model::{
    Timestamp,
    ai::{AiUsage, Latency, LedgerEntry, Outcome, UsageBy, UsageRow},
};
use std::collections::BTreeMap;

/// Days that can be asked for: as long as the ledger keeps lines.
const DAYS_MAX: u32 = 400;
/// Different sums of one day. Projects are named by who asks.
const SUMS_MAX: usize = 4096;
/// Stands for all others.
const OTHERS: &str = "others";

/// Sums by day.
#[derive(Debug, Default)]
pub(super) struct Sums {
    days: BTreeMap<Date, Day>,
}

#[derive(Debug, Default)]
struct Day {
    /// Sequence of the last line in it.
    last: u64,
    sums: BTreeMap<Whose, Sum>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Whose {
    provider: String,
    caller: String,
    project: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Sum {
    row: UsageRow,
    first_tokens: u64,
    first_tokens_ms: u64,
}

impl Sums {
    pub(super) async fn rows(
        &mut self,
        bus: &Bus,
        ask: &AiUsage,
    ) -> Result<Vec<UsageRow>, ledger::LedgerError> {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let back = i64::from(ask.days.unwrap_or(1).clamp(1, DAYS_MAX)) - 1;
        let from = today.saturating_sub(back.days());
        let mut rows: BTreeMap<String, Sum> = BTreeMap::new();
        let mut date = from;
        while date <= today {
            let day = self.days.entry(date).or_default();
            loop {
                let page = ledger::read(bus, date, day.last).await?;
                day.last = page.last;
                page.entries.iter().for_each(|entry| day.add(entry));
                if !page.has_more {
                    break;
                }
            }
            for (whose, sum) in &day.sums {
                if let Some(of) = whose.name(ask.by.unwrap_or(UsageBy::Provider), date) {
                    rows.entry(of).or_default().join(sum);
                }
            }
            date = date.saturating_add(1.day());
        }
        Ok(rows.into_iter().map(|(of, sum)| sum.row(of)).collect())
    }
}

impl Day {
    fn add(&mut self, entry: &LedgerEntry) {
        let mut whose = Whose::of(entry);
        if self.sums.len() >= SUMS_MAX && !self.sums.contains_key(&whose) {
            let others = || OTHERS.to_owned();
            whose = Whose { provider: others(), caller: others(), project: whose.project.map(|_| others()) };
        }
        self.sums.entry(whose).or_default().add(entry);
    }
}

impl Whose {
    fn of(entry: &LedgerEntry) -> Self {
        let provider = match (&entry.provider, &entry.model) {
            (Some(provider), Some(model)) => format!("{provider}/{model}"),
            (Some(provider), None) => provider.clone(),
            (None, _) => "nobody".to_owned(),
        };
        Self { provider, caller: entry.caller.to_string(), project: entry.project.clone() }
    }

    fn name(&self, by: UsageBy, date: Date) -> Option<String> {
        match by {
            UsageBy::Provider => Some(self.provider.clone()),
            UsageBy::Caller => Some(self.caller.clone()),
            UsageBy::Project => self.project.clone(),
            UsageBy::Day => Some(date.to_string()),
        }
    }
}

impl Sum {
    fn add(&mut self, entry: &LedgerEntry) {
        let failed = match entry.outcome {
            Outcome::Done | Outcome::Cancelled => 0,
            Outcome::Failed | Outcome::Refused => 1,
        };
        let mut latency = Latency::default();
        if entry.outcome != Outcome::Cancelled {
            latency.add(entry.duration_ms);
        }
        let row = UsageRow {
            requests: 1,
            failed,
            cancelled: u64::from(entry.outcome == Outcome::Cancelled),
            latency,
            tasks: entry.task.map(|task| (task, 1)).into_iter().collect(),
            input_tokens: entry.input_tokens,
            output_tokens: entry.output_tokens,
            cost: entry.cost,
            judge_failed: u64::from(entry.judge_failed),
            ..UsageRow::default()
        };
        let first_tokens = u64::from(entry.first_token_ms.is_some());
        let first_tokens_ms = entry.first_token_ms.unwrap_or(0);
        self.join(&Self { row, first_tokens, first_tokens_ms });
    }

    fn join(&mut self, other: &Self) {
        let (row, more) = (&mut self.row, &other.row);
        row.requests = row.requests.saturating_add(more.requests);
        row.failed = row.failed.saturating_add(more.failed);
        row.input_tokens = row.input_tokens.saturating_add(more.input_tokens);
        row.output_tokens = row.output_tokens.saturating_add(more.output_tokens);
        row.cost += more.cost;
        row.judge_failed = row.judge_failed.saturating_add(more.judge_failed);
        row.cancelled = row.cancelled.saturating_add(more.cancelled);
        row.latency.join(&more.latency);
        for (task, requests) in &more.tasks {
            let mine = row.tasks.entry(*task).or_default();
            *mine = mine.saturating_add(*requests);
        }
        self.first_tokens = self.first_tokens.saturating_add(other.first_tokens);
        self.first_tokens_ms = self.first_tokens_ms.saturating_add(other.first_tokens_ms);
    }

    fn row(self, of: String) -> UsageRow {
        let first_token_ms = self.first_tokens_ms.checked_div(self.first_tokens);
        UsageRow { of, first_token_ms, ..self.row }
    }
}
