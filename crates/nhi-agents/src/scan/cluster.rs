//! One cluster's loop: a cheap look every few seconds, everything every minute. The cheap look only says where
//! something may have happened; what is written is what the nodes themselves say.
//!
//! Nothing a cluster answers ends the loop or touches another cluster's.

use super::{
    desk::{Desk, Outcome, PassDone},
    ledger::{self, Ledger, Refusal},
    refused::{Refusals, Retry},
};
use crate::{
    fits::{self, Fitting},
    proxmox::{
        answers::{AddressAnswer, Answers},
        backup_log::BackupLog,
        convert::{self, Outline},
        pass::{Asker, Index, Memory},
        schedule::{Schedule, Work},
    },
};
use nhi_bus::cx::Cx;
use nhi_decide::{
    observation::{GuestRef, Scope, source_key},
    observe,
};
use nhi_model::{
    Timestamp,
    guest::{Guest, GuestKind, GuestStatus},
    identity::Agent,
    key::{Key, Section},
    live::SourceGauges,
    source::Coverage,
};
use nhi_pve::config::AgentSetting;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How long a count of snapshots is believed when the configuration's digest says that nothing changed.
const SNAPSHOTS_AGE_MAX: Duration = Duration::from_secs(900);
/// How often storages are asked for backups: they are made once a day, and a backup server's list is long.
const BACKUPS_AGE_MAX: Duration = Duration::from_secs(300);
/// How often a refused token is tried again because somebody asks.
const RESET_EVERY: Duration = Duration::from_secs(10);
/// Cheap looks that may fail before the whole is looked at: one lost answer is no outage.
const FAILURES_MAX: u32 = 2;

/// The two paces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) index: Duration,
    pub(super) full: Duration,
}

impl Pace {
    /// Never faster than once a second, and never a full pass more often than a cheap one.
    pub(super) fn new(index_s: u64, full_s: u64) -> Self {
        let index = Duration::from_secs(index_s.max(1));
        Self { index, full: Duration::from_secs(full_s).max(index) }
    }

    /// A tenth more or less, so that clusters and restarts do not fall into step.
    pub(super) fn jittered(period: Duration) -> Duration {
        period.mul_f64(0.9 + 0.2 * rand::random::<f64>())
    }
}

/// One cluster.
#[derive(Debug)]
pub(super) struct ClusterScan {
    asker: Asker,
    ledger: Ledger,
    desk: Desk,
    pace: Pace,
    schedule: Schedule,
    /// The cheap look that was last taken account of.
    outline: Outline,
    snapshots_at: BTreeMap<GuestRef, Instant>,
    backups_at: Option<Instant>,
    backup_log: BackupLog,
    last_success: Option<Timestamp>,
    failures: u32,
    /// Whether a pass could not be written: what it saw is not in the state.
    owes: bool,
    retry: Retry,
    refusals: Refusals,
    /// Guests whose records are too long: each pass reads them whole, so that it can tell whether they still are.
    too_long: BTreeSet<GuestRef>,
    /// When a pause after a refused login was last ended for somebody who asked.
    reset_at: Option<Instant>,
}

/// What the cheap look led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Go on.
    AsPlanned,
    /// Look at everything now.
    FullNow,
    /// The cluster does not answer: the next full pass is soon enough.
    FullOnly,
}

// A stop drops a pass wherever it is, even between a commit and its acknowledgement: the next start reads the state
// and finds what was written.
impl ClusterScan {
    pub(super) fn new(asker: Asker, ledger: Ledger, desk: Desk, pace: Pace) -> Self {
        let refusals = Refusals::new(&super::id_of(&source_key(&asker.cluster)));
        Self {
            asker,
            ledger,
            desk,
            pace,
            schedule: Schedule::default(),
            outline: Outline::default(),
            snapshots_at: BTreeMap::new(),
            backups_at: None,
            backup_log: BackupLog::default(),
            last_success: None,
            failures: 0,
            owes: false,
            retry: Retry::default(),
            refusals,
            too_long: BTreeSet::new(),
            reset_at: None,
        }
    }

    pub(super) async fn run(mut self, stop: Cx) {
        let mut full_at = Instant::now();
        let mut index_at = full_at + self.pace.index;
        loop {
            let due = full_at.min(index_at);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.desk.asked() => {
                    full_at = Instant::now();
                    self.end_pause(full_at);
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
            if Instant::now() >= full_at {
                self.desk.begin();
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = self.full() => outcome,
                };
                self.tell(&outcome);
                self.owes = outcome.is_err();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.refusals.take(&mut self.ledger, &outcome) => {}
                }
                self.desk.finish(&outcome, Timestamp::now());
                full_at = Instant::now() + Pace::jittered(self.pace.full);
                index_at = Instant::now() + Pace::jittered(self.pace.index);
                continue;
            }
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = self.look() => next,
            };
            index_at = Instant::now() + Pace::jittered(self.pace.index);
            match next {
                Next::AsPlanned => {}
                Next::FullNow => full_at = Instant::now(),
                Next::FullOnly => index_at = full_at,
            }
        }
    }

    /// Somebody asks: they may have corrected the token that was refused. Not at each call, because each refused
    /// login makes the node wait and log.
    fn end_pause(&mut self, now: Instant) {
        if self.reset_at.is_none_or(|at| now.duration_since(at) >= RESET_EVERY) {
            self.asker.reader.reset();
            self.reset_at = Some(now);
        }
    }

    fn tell(&self, outcome: &Outcome) {
        let cluster = &self.asker.cluster;
        match outcome {
            Ok(done) if done.writes > 0 => {
                tracing::info!(agent = "scan", key = cluster, rev = done.revision, "changes written");
            }
            Ok(done) => {
                tracing::debug!(agent = "scan", key = cluster, elapsed_ms = done.duration_ms, "nothing new")
            }
            // Told where refusals are counted.
            Err(_) => {}
        }
    }

    /// Everything.
    async fn full(&mut self) -> Outcome {
        // A pass that could not be written would only load the lab.
        if let Some(refusal) = self.ledger.refusal() {
            return Err(refusal);
        }
        if self.ledger.store_changed() {
            self.forget();
        }
        let began = Instant::now();
        let at = Timestamp::now();
        let requests = self.asker.reader.requests();
        let mut answers = self.asker.lists(at).await;
        let listed = convert::listed(&answers.nodes);
        let runs: BTreeMap<_, _> = listed.iter().map(|(guest, (_, runs))| (*guest, *runs)).collect();
        let outline = Outline::of(&answers.resources, &answers.status);
        for guest in outline.news(&self.outline).0 {
            self.schedule.changed(guest);
        }
        for guest in runs.iter().filter(|(_, runs)| !**runs).map(|(guest, _)| guest) {
            self.schedule.stopped(*guest);
        }
        let places = listed.into_iter().map(|(guest, (node, _))| (guest, node)).collect();
        let work = self.schedule.full(began, self.pace.full, &runs);
        self.ask_guests(&mut answers, &work, &places).await;
        if self.backups_at.is_none_or(|at| at.elapsed() >= BACKUPS_AGE_MAX) {
            self.asker.backups(&mut answers).await;
            self.backups_at = Some(began);
        }
        self.asker.backup_log(&mut answers, &mut self.backup_log).await;
        let landed = self.written(&answers).await?;
        // Only now: a guest that one failed call hid must not lose what is remembered of it.
        if landed.coverage.is_complete() {
            self.schedule.keep(&runs);
            self.snapshots_at.retain(|guest, _| runs.contains_key(guest));
        }
        if answers.resources.is_ok() {
            self.outline = outline;
        }
        let done = PassDone {
            revision: landed.revision,
            writes: landed.messages,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            requests: u32::try_from(self.asker.reader.requests() - requests).unwrap_or(u32::MAX),
            coverage: landed.coverage,
        };
        self.source_gauges(at, &done).await;
        Ok(done)
    }

    /// The cheap look, and a closer one where it shows something new.
    async fn look(&mut self) -> Next {
        if self.ledger.refusal().is_some() {
            self.owes = true;
            return Next::AsPlanned;
        }
        if self.ledger.store_changed() {
            self.forget();
            self.retry.written();
            self.owes = true;
        }
        if self.owes {
            // Until then nothing is asked: it could not be written either.
            return if self.retry.is_due(Instant::now()) { Next::FullNow } else { Next::AsPlanned };
        }
        let at = Timestamp::now();
        let index = self.asker.index().await;
        let denied = index.status.as_ref().is_err_and(convert::is_denied);
        if index.resources.is_err() || (index.status.is_err() && !denied) {
            self.failures += 1;
            return match self.failures.cmp(&FAILURES_MAX) {
                std::cmp::Ordering::Less => Next::AsPlanned,
                std::cmp::Ordering::Equal => Next::FullNow,
                std::cmp::Ordering::Greater => Next::FullOnly,
            };
        }
        if self.failures >= FAILURES_MAX {
            // It answers again: everything may have changed meanwhile.
            self.failures = 0;
            return Next::FullNow;
        }
        self.failures = 0;
        match self.closer(at, index).await {
            Ok(()) => Next::AsPlanned,
            Err(refusal) => {
                tracing::debug!(agent = "scan", key = self.asker.cluster, err = %refusal, "closer look not written");
                self.owes = true;
                Next::AsPlanned
            }
        }
    }

    /// Reads again the nodes and guests about which the index tells something new.
    async fn closer(&mut self, at: Timestamp, index: Index) -> Result<(), Refusal> {
        let now = Instant::now();
        let outline = Outline::of(&index.resources, &index.status);
        let (mut guests, nodes) = outline.news(&self.outline);
        for guest in &guests {
            self.schedule.changed(*guest);
        }
        let mut retries = self.schedule.retries(now);
        retries.retain(|guest| outline.guests.contains_key(guest));
        guests.extend(&retries);
        if guests.is_empty() && nodes.is_empty() {
            // What moves by itself is compared with what it was a moment ago.
            self.outline = outline;
            return Ok(());
        }
        guests.extend(self.too_long.iter().filter(|guest| outline.guests.contains_key(guest)));
        retries.retain(|guest| !self.too_long.contains(guest));
        let mut answers = self.asker.some_lists(at, index, nodes, guests.clone()).await;
        let listed = convert::listed(&answers.nodes);
        let faces = &outline.guests;
        let mut places: BTreeMap<_, _> =
            faces.iter().map(|(guest, face)| (*guest, face.row.node.clone())).collect();
        places.extend(listed.iter().map(|(guest, (node, _))| (*guest, node.clone())));
        let runs = |guest: &GuestRef| match listed.get(guest) {
            Some((_, runs)) => *runs,
            None => faces.get(guest).is_some_and(|face| face.row.status == GuestStatus::Running),
        };
        let configs = guests.iter().filter(|guest| !retries.contains(guest)).copied().collect();
        let addresses = guests.iter().filter(|guest| runs(guest)).copied().collect();
        for guest in guests.iter().filter(|guest| !runs(guest)) {
            self.schedule.stopped(*guest);
        }
        self.ask_guests(&mut answers, &Work { configs, addresses }, &places).await;
        let landed = self.written(&answers).await?;
        if landed.messages > 0 {
            tracing::info!(
                agent = "scan",
                key = self.asker.cluster,
                rev = landed.revision,
                "changes written"
            );
        }
        self.outline = outline;
        Ok(())
    }

    async fn ask_guests(&mut self, answers: &mut Answers, work: &Work, places: &BTreeMap<GuestRef, String>) {
        let hint = self.ledger.hint();
        let remember = |guest: GuestRef| {
            let key = Key::guest(guest.kind, &self.asker.cluster, guest.vmid);
            let known = hint.records.get(&key).and_then(|entry| entry.stored.typed::<Guest>(&key).ok());
            let counted = known.as_ref().is_some_and(|known| known.snapshots.is_some());
            let lately = self.snapshots_at.get(&guest).is_some_and(|at| at.elapsed() < SNAPSHOTS_AGE_MAX);
            Memory {
                digest: known.and_then(|known| known.config_digest),
                snapshots_fresh: counted && lately,
                no_agent: self.schedule.has_no_agent(guest),
            }
        };
        self.asker.guests(answers, work, places, remember).await;
        let now = Instant::now();
        for (guest, answer) in &answers.guests {
            if let Some(Ok(config)) = &answer.config {
                let has_agent = match guest.kind {
                    GuestKind::Qemu => Some(config.agent() == AgentSetting::On),
                    GuestKind::Lxc => None,
                };
                self.schedule.config_read(*guest, now, has_agent);
            }
            if matches!(&answer.snapshots, Some(Ok(_))) {
                self.snapshots_at.insert(*guest, now);
            }
            match &answer.addresses {
                Some(
                    AddressAnswer::NoAgent | AddressAnswer::Agent(Ok(_)) | AddressAnswer::Container(Ok(_)),
                ) => {
                    self.schedule.addresses_read(*guest, now);
                }
                Some(AddressAnswer::Agent(Err(_)) | AddressAnswer::Container(Err(_))) => {
                    self.schedule.addresses_failed(*guest, now, rand::random());
                }
                None => {}
            }
        }
    }

    /// Writes what the answers change. When that is refused, what was read does not count as read: it is due again
    /// with the next pass. All else is remembered, or each refusal would cost the lab a first pass.
    async fn written(&mut self, answers: &Answers) -> Result<Landed, Refusal> {
        let landed = self.land(answers).await;
        match &landed {
            Ok(_) => self.retry.written(),
            Err(_) => {
                self.retry.refused(Instant::now(), self.pace.index, self.pace.full);
                for (guest, answer) in &answers.guests {
                    let silent = matches!(
                        answer.addresses,
                        Some(AddressAnswer::Agent(Err(_)) | AddressAnswer::Container(Err(_)))
                    );
                    if matches!(answer.config, Some(Ok(_))) || !silent {
                        self.schedule.changed(*guest);
                        self.snapshots_at.remove(guest);
                    }
                }
                if answers.backups.is_some() {
                    self.backups_at = None;
                }
            }
        }
        landed
    }

    /// Decides what the answers change, and writes it.
    async fn land(&mut self, answers: &Answers) -> Result<Landed, Refusal> {
        let mut seen = convert::observation(answers);
        let state = self.ledger.state().await?;
        let known = ledger::known(&state, |key| is_mine(key, &seen.cluster));
        convert::steady(&known, &mut seen);
        seen.gone = self.asker.gone(observe::missing(&known, &seen)).await;
        let changes = observe::changes(&known, &seen);
        let whole = seen.scope == Scope::Full;
        let mine = |key: &Key| is_mine(key, &seen.cluster);
        let decided: BTreeSet<Key> = changes.iter().map(|change| change.key.clone()).collect();
        let settled = |key: &Key| mine(key) && (whole || decided.contains(key));
        let Fitting { changes, too_long } = fits::fit(&state, changes, seen.at, settled);
        let written = self.ledger.commit(&state, &changes).await?;
        let coverage = ledger::coverage(&state, &changes, &source_key(&seen.cluster));
        let coverage = coverage.unwrap_or_else(|| seen.reach.clone());
        self.too_long = answers.guests.keys().chain(&self.too_long).copied().collect();
        self.too_long
            .retain(|guest| too_long.contains(&Key::guest(guest.kind, &self.asker.cluster, guest.vmid)));
        for guest in &self.too_long {
            self.schedule.changed(*guest);
        }
        self.ledger.gauges(seen.live, Timestamp::now()).await;
        Ok(Landed { revision: written.revision, messages: written.messages, coverage })
    }

    /// What was read and is not in the state does not count as read.
    fn forget(&mut self) {
        self.schedule = Schedule::default();
        self.snapshots_at.clear();
        self.backups_at = None;
        self.outline = Outline::default();
    }

    async fn source_gauges(&mut self, at: Timestamp, done: &PassDone) {
        let key = source_key(&self.asker.cluster);
        let now = Timestamp::now();
        if done.coverage.is_complete() {
            self.last_success = Some(now);
        } else if self.last_success.is_none() {
            // After a restart the gauge may still know.
            let shown = self.ledger.gauge(&key).and_then(|gauge| SourceGauges::deserialize(gauge).ok());
            self.last_success = shown.and_then(|gauges| gauges.last_success);
        }
        let gauges = SourceGauges {
            last_attempt: at,
            last_success: self.last_success,
            duration_ms: done.duration_ms,
            requests: done.requests,
        };
        let record = serde_json::to_value(gauges).expect("gauges are plain numbers and times");
        self.ledger.gauges(BTreeMap::from([(key, record)]), now).await;
    }
}

/// A pass in the state.
struct Landed {
    revision: u64,
    messages: u32,
    coverage: Coverage,
}

/// The records a cluster's scan decides about.
fn is_mine(key: &Key, cluster: &str) -> bool {
    match key.section() {
        Section::Node | Section::Vm | Section::Lxc | Section::Storage => {
            key.tokens().first().is_some_and(|owner| owner == cluster)
        }
        Section::Alert => key.tokens().first().is_some_and(|owner| owner == Agent::Scan.as_str()),
        Section::Source => *key == source_key(cluster),
        Section::Host
        | Section::Gpu
        | Section::Docker
        | Section::Project
        | Section::Provider
        | Section::Graph => false,
    }
}
