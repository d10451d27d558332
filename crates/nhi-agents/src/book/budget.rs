//! What a request takes of budgets: its caller's, its project's, everybody's. One row is taken from once for what the
//! first attempt may need, and again for what a later one may need on top of it.

use super::{Counts, Line, Settle, Taken, micro};
use nhi_decide::{
    quota::{Gone, Meter, Per, Quota, What},
    route::{Ask, CallerSettings, Settings},
};
use nhi_model::{Timestamp, ai::UsageKey, identity::IdentityName};
use std::collections::{BTreeMap, BTreeSet};

/// Meter of a budget.
pub(crate) const DOLLARS: &str = "dollars-day";

/// Dollars as budgets count them: millionths.
const MICRO: f64 = 1e6;

/// `spent.caller/<name>`
pub(crate) fn caller_row(caller: &IdentityName) -> UsageKey {
    UsageKey::Spent(format!("caller/{caller}"))
}

/// `spent.project/<id>`
pub(crate) fn project_row(project: &str) -> UsageKey {
    UsageKey::Spent(format!("project/{project}"))
}

/// `spent.everybody`
pub(crate) fn everybody_row() -> UsageKey {
    UsageKey::Spent("everybody".to_owned())
}

/// A budget as a quota of millionths of a dollar a day.
fn budget(dollars: f64) -> Quota {
    Quota::new(What::Tokens, Per::Day, micro(dollars))
}

/// US dollars of today.
#[expect(clippy::cast_precision_loss, reason = "millionths of dollars of a day are far below 2^52")]
pub(crate) fn dollars_used(meter: &Meter, now: Timestamp) -> f64 {
    meter.used(&budget(0.0), now) as f64 / MICRO
}

/// Budgets of dollars of which less than this share is left: whose, and how much a day. `of_project` tells the budget of a
/// project with a manifest, which is the stricter one.
pub(crate) fn low(
    settings: &Settings,
    counts: &Counts,
    of_project: impl Fn(&str) -> Option<f64>,
    now: Timestamp,
) -> Vec<(String, f64)> {
    let percent = settings.budget.alert_percent;
    let limit = |row: &str| match row.split_once('/') {
        Some(("caller", name)) => settings.caller(&name.parse().ok()?)?.dollars_a_day,
        Some(("project", id)) => of_project(id).or_else(|| settings.projects.get(id)?.dollars_a_day),
        _ => settings.budget.dollars_a_day,
    };
    let rows = counts.spent().into_iter().filter_map(|row| Some((limit(&row)?, row)));
    let is_low = |row: &str, limit: f64| {
        let meter = counts.meters(&UsageKey::Spent(row.to_owned())).remove(DOLLARS);
        meter.is_some_and(|meter| meter.is_low(&budget(limit), now, percent.into()))
    };
    rows.filter(|(limit, row)| is_low(row, *limit)).map(|(limit, row)| (row, limit)).collect()
}

/// What a request needs of the budgets for this many tokens and dollars, over all of its attempts.
pub(crate) fn needs(
    settings: &Settings,
    caller: Option<&CallerSettings>,
    ask: &Ask,
    tokens: u64,
    dollars: f64,
) -> Vec<(UsageKey, Vec<Line>)> {
    let of_dollars =
        |limit: f64| Line { name: DOLLARS.to_owned(), quota: budget(limit), amount: micro(dollars) };
    let quota = caller.and_then(CallerSettings::tokens_quota);
    let mut of_caller: Vec<Line> =
        quota.map(|quota| Line { name: quota.key(), quota, amount: tokens }).into_iter().collect();
    of_caller.extend(caller.and_then(|caller| caller.dollars_a_day).map(of_dollars));
    let mut rows = vec![(caller_row(&ask.caller), of_caller)];
    if let Some(project) = &ask.project {
        let limit = settings.projects.get(project).and_then(|project| project.dollars_a_day);
        rows.push((project_row(project), limit.map(of_dollars).into_iter().collect()));
    }
    rows.push((everybody_row(), settings.budget.dollars_a_day.map(of_dollars).into_iter().collect()));
    rows
}

/// What one request has taken.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    taken: Vec<Taken>,
    reserved: BTreeMap<(UsageKey, String), u64>,
}

impl Purse {
    /// Takes what is not in it yet.
    ///
    /// # Errors
    /// [`Gone`]; what was taken before stays in it.
    pub(crate) async fn cover(
        &mut self,
        counts: &Counts,
        rows: Vec<(UsageKey, Vec<Line>)>,
        now: Timestamp,
    ) -> Result<(), Gone> {
        for (key, lines) in rows {
            let missing = |line: Line| {
                let has = self.reserved.get(&(key.clone(), line.name.clone())).copied();
                let amount = line.amount.saturating_sub(has.unwrap_or(0));
                (has.is_none() || amount > 0).then_some(Line { amount, ..line })
            };
            let lines: Vec<Line> = lines.into_iter().filter_map(missing).collect();
            let taken = counts.take(key.clone(), lines.clone(), now).await?;
            self.taken.push(taken);
            for line in lines {
                let sum = self.reserved.entry((key.clone(), line.name)).or_default();
                *sum = sum.saturating_add(line.amount);
            }
        }
        Ok(())
    }

    /// How it is settled: what was really used counts once for each row, however often was taken from it.
    pub(super) fn settles(self, tokens: u64, microdollars: u64) -> Vec<Settle> {
        let mut seen = BTreeSet::new();
        let mut settles = Vec::new();
        for Taken { key, tickets } in self.taken {
            let (first, again): (Vec<_>, Vec<_>) =
                tickets.into_iter().partition(|(name, _)| seen.insert((key.clone(), name.clone())));
            let taken = |tickets| Taken { key: key.clone(), tickets };
            settles.push(Settle { taken: taken(first), requests: 1, tokens, microdollars });
            settles.push(Settle { taken: taken(again), requests: 0, tokens: 0, microdollars: 0 });
        }
        settles.retain(|settle| !settle.taken.tickets.is_empty());
        settles
    }
}
