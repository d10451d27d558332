//! What the router tells the house: `provider.<id>` records, and alerts. It also asks the backends which models they have.
//!
//! Several routers write the same records. They are configured alike, so the same stands there whoever was first; one
//! that comes second finds nothing to write.

use super::pool::Pool;
use crate::{
    alerts::{self, Problem},
    book::{Book, Counts, low},
};
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store,
    view::{Snapshot, View},
};
use nhi_decide::{
    change::{Change, What},
    quota::Quota,
};
use nhi_model::{
    Timestamp,
    ai::{Provider, UsageKey},
    alert::Severity,
    envelope::OpId,
    identity::Agent,
    key::{Key, Section},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use url::Url;

/// How often a backend is asked for its models.
const LOOK: Duration = Duration::from_secs(300);
/// How soon again when it did not tell.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How often everything is compared with what stands there; changes are told at once.
const PACE: Duration = Duration::from_secs(30);
/// Between two commits at least.
const CALM: Duration = Duration::from_millis(250);

/// What tells.
#[derive(Debug)]
pub(super) struct Records {
    bus: Bus,
    view: View,
    pool: Arc<Pool>,
    counts: Counts,
    book: Book,
}

impl Records {
    pub(super) fn start(cx: &Cx, bus: &Bus, view: View, pool: &Arc<Pool>, counts: &Counts, book: &Book) {
        let news = watch::Sender::new(());
        for backend in &pool.settings().backends {
            let name = backend.name.clone();
            cx.spawn("models", look(cx.clone(), pool.clone(), name, news.clone()));
        }
        let (pool, counts, book) = (pool.clone(), counts.clone(), book.clone());
        let records = Self { bus: bus.clone(), view, pool, counts, book };
        cx.spawn("providers", records.run(cx.clone(), news.subscribe()));
    }

    async fn run(self, stop: Cx, mut news: watch::Receiver<()>) {
        let (mut trouble, mut lost) = (self.counts.trouble(), self.book.lost());
        let (mut counted, mut revisions) = (self.counts.changed(), self.view.changed());
        loop {
            revisions.mark_unchanged();
            counted.mark_unchanged();
            let is_away = trouble.borrow_and_update().is_some();
            if is_away {
                self.counts.probe().await;
            }
            let lines = *lost.borrow_and_update();
            let pause = match self.write(lines).await {
                true => PACE,
                false => CALM,
            };
            let calm = tokio::time::sleep(CALM);
            let changed = async {
                tokio::select! {
                    _ = news.changed() => {}
                    _ = trouble.changed() => {}
                    _ = lost.changed() => {}
                    _ = counted.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                calm.await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed => {}
            }
        }
    }

    /// Whether everything stands there as it should.
    async fn write(&self, lost: u64) -> bool {
        let state = self.view.read();
        if state.stale.is_some() || !self.bus.is_up() {
            return false;
        }
        let now = Timestamp::now();
        let mut changes = self.providers(&state);
        changes.extend(alerts::changes(&state, Agent::Route, |_| true, &self.problems(now, lost), now));
        if changes.is_empty() {
            return true;
        }
        let op = OpId(uuid::Uuid::now_v7().to_string());
        match store::commit(&self.bus, &op, now, &changes).await {
            Ok(_) => true,
            Err(error) => {
                // Another router was faster, or the store is away: it is compared again.
                tracing::debug!(agent = "route", err = %error, "records not written");
                false
            }
        }
    }

    /// Backends that are no longer configured go.
    fn providers(&self, state: &Snapshot) -> Vec<Change> {
        let mut wanted: BTreeMap<Key, Provider> = BTreeMap::new();
        for backend in &self.pool.settings().backends {
            let provider = Provider {
                kind: backend.kind,
                url: without_credentials(&backend.url),
                home: backend.home,
                gpu: backend.gpu.clone(),
                models: self.pool.models(&backend.name),
            };
            wanted.insert(Key::provider(&backend.name), provider);
        }
        let mut changes = Vec::new();
        for (key, entry) in state.records.iter().filter(|(key, _)| key.section() == Section::Provider) {
            if !wanted.contains_key(key) {
                changes.push(Change { key: key.clone(), expected: entry.revision, what: What::Retire });
            }
        }
        for (key, provider) in wanted {
            let record = serde_json::to_value(&provider).expect("a provider is made of JSON types");
            let known = state.records.get(&key);
            if known.is_none_or(|entry| entry.stored.record != record) {
                let expected = known.map_or(0, |entry| entry.revision);
                changes.push(Change { key, expected, what: What::Put { record, stale: None } });
            }
        }
        changes
    }

    fn problems(&self, now: Timestamp, lost: u64) -> BTreeMap<String, Problem> {
        let mut problems = BTreeMap::new();
        let problem = |summary: String, hint: &str, about: Option<Key>| Problem {
            severity: Severity::Warning,
            summary,
            hint: hint.to_owned(),
            about,
        };
        if let Some(reason) = self.counts.trouble().borrow().as_ref() {
            let summary = format!("quotas are counted by each router alone: {reason}");
            let hint = "Look at nats-server and its bucket nhi-usage; until it is back each router takes its share only.";
            problems.insert("counters".to_owned(), problem(summary, hint, None));
        }
        if lost > 0 {
            let summary = format!("{lost} lines of the ledger of AI requests are lost");
            let hint = "Look at nats-server and its stream NHI_LEDGER; the sums of `nhi ai usage` lack them.";
            problems.insert("ledger".to_owned(), problem(summary, hint, None));
        }
        let of_project = |id: &str| self.pool.rules(id).and_then(|rules| rules.dollars_a_day);
        for (row, limit) in low(self.pool.settings(), &self.counts, of_project, now) {
            let percent = self.pool.settings().budget.alert_percent;
            let summary = format!("less than {percent} % are left of the ${limit:.2} a day of {row}");
            let hint = "What costs is refused when they are gone; `[ai.budget]` and its like in nhi.toml allow more.";
            problems.insert(format!("budget_{row}"), problem(summary, hint, None));
        }
        for backend in &self.pool.settings().backends {
            let about = Key::provider(&backend.name);
            let meters = self.counts.meters(&UsageKey::Quota(backend.name.clone()));
            let percent = u64::from(self.pool.settings().budget.alert_percent);
            let low = |quota: &&Quota| {
                meters.get(&quota.key()).is_some_and(|meter| meter.is_low(quota, now, percent))
            };
            for quota in backend.quotas.iter().filter(low) {
                let (name, words) = (&backend.name, quota.words());
                // The figure itself would be a write for each request.
                let summary =
                    format!("less than {percent} % are left of the {} {words} of {name}", quota.limit);
                let hint = "Requests go elsewhere when they are gone; `nhi ai usage` shows what is left.";
                problems.insert(
                    format!("quota_{name}_{}", quota.key()),
                    problem(summary, hint, Some(about.clone())),
                );
            }
            if let Some(reason) = self.pool.unreachable(&backend.name) {
                let summary = format!("the models of {} are not known: {reason}", backend.name);
                let hint = "Correct its url and key in nhi.toml, or list its models there.";
                problems.insert(format!("models_{}", backend.name), problem(summary, hint, Some(about)));
            }
        }
        problems
    }
}

/// Asks one backend for its models, now and then.
async fn look(stop: Cx, pool: Arc<Pool>, name: String, news: watch::Sender<()>) {
    let mut lights = pool.lights();
    let governed = pool.configured(&name).is_some_and(|backend| backend.gpu.is_some());
    loop {
        lights.mark_unchanged();
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = pool.look(&name) => told,
        };
        let wait = if told.is_ok() { LOOK } else { LOOK_AGAIN };
        if pool.heard(&name, told) {
            news.send_replace(());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            // A machine that wakes up tells so.
            _ = lights.changed(), if governed && wait == LOOK_AGAIN => {}
        }
    }
}

/// An address for others to read.
fn without_credentials(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return String::new() };
    // Neither can be refused by an address that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}
