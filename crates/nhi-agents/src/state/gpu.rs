//! The machines' GPUs as the keeper knows them: what they report, what people say about them, and the service `gpu`,
//! so that a machine that sleeps still has an answer. It reads no sensor and judges no light: each machine does that.

use super::{
    VERSION,
    keep::{Keeper, Writer, unavailable},
    read::Reading,
    spec,
};
use crate::alerts::{self, Problem};
use nhi_bus::{
    audit, commands,
    service::Service,
    store,
    view::{Snapshot, View},
};
use nhi_decide::semaphore;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    alert::Severity,
    audit::AuditKind,
    call::Effect,
    envelope::Live,
    fault::{Fault, FaultCode},
    gpu::{
        Gpu, GpuGauges, GpuGet, GpuGot, GpuLock, GpuLocked, GpuReport, GpuSaid, GpuSeen, GpuTold, GpuUnlock,
        LOCK_MINUTES_DEFAULT, LOCK_MINUTES_MAX, Light, Lock, READING_SECONDS_MAX,
    },
    identity::{Agent, IdentityName},
    key::{Key, Section},
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// How often locks that are over are taken out of their records. Nobody goes by them meanwhile: each has its end in it.
pub(super) const LOCKS_LOOKED_AT: Duration = Duration::from_secs(5);
/// Cards a machine may tell of.
const CARDS_MAX: usize = 16;
/// Models it may have in memory.
const LOADED_MAX: usize = 64;
/// Longest text in a report.
const TEXT_BYTES_MAX: usize = 512;
/// What the ids of alerts about memory that is not free begin with.
const MEMORY: &str = "gpu_memory_";

/// What a person says about a machine's GPU.
#[derive(Clone, Debug)]
pub(super) struct Word {
    host: String,
    lock: Option<Lock>,
    by: IdentityName,
}

impl Word {
    fn lock(by: &IdentityName, request: GpuLock, now: Timestamp) -> Result<Self, Fault> {
        let minutes = request.minutes.unwrap_or(LOCK_MINUTES_DEFAULT);
        if !(1..=LOCK_MINUTES_MAX).contains(&minutes) {
            let message = format!("a lock of {minutes} minutes is not possible");
            let hint = format!("Give 1 to {LOCK_MINUTES_MAX} minutes; lock again when they are over.");
            return Err(Fault::new(FaultCode::BadRequest, message, hint));
        }
        let until = now + Duration::from_secs(u64::from(minutes) * 60);
        Ok(Self { host: request.host, lock: Some(Lock { by: Some(by.clone()), until }), by: by.clone() })
    }
}

/// The service `gpu`.
pub(super) fn service(reading: &Reading, keeper: &Keeper) -> Service {
    let (reading, locking, unlocking) = (reading.clone(), keeper.clone(), keeper.clone());
    Service::new("gpu", VERSION, "The GPUs of the house: whether they may be used, and who keeps them.")
        .endpoint(
            spec("get", Effect::Read, "Each machine's GPU: whether anything may be sent there now, and why."),
            move |_, request: GpuGet| {
                let reading = reading.clone();
                async move { get(&reading, &request, Timestamp::now()) }
            },
        )
        .endpoint(
            spec(
                "lock",
                Effect::Write,
                "Keep a machine's GPU for its owner: nothing of ours runs there until then.",
            ),
            move |caller, request: GpuLock| {
                let keeper = locking.clone();
                async move { keeper.gpu(Word::lock(&caller.name, request, Timestamp::now())?).await }
            },
        )
        .endpoint(
            spec(
                "unlock",
                Effect::Write,
                "End a lock. Whether the GPU is free is judged anew by its machine.",
            ),
            move |caller, request: GpuUnlock| {
                let keeper = unlocking.clone();
                async move { keeper.gpu(Word { host: request.host, lock: None, by: caller.name }).await }
            },
        )
}

fn get(reading: &Reading, request: &GpuGet, now: Timestamp) -> Result<GpuGot, Fault> {
    let live = reading.live.read();
    let wanted = |gpu: &Gpu| request.host.as_ref().is_none_or(|host| *host == gpu.host);
    let seen = |(key, gpu): (Key, Gpu)| (gpu.host.clone(), seen(now, gpu, live.get(&key)));
    let gpus: BTreeMap<String, GpuSeen> =
        all(&reading.view).into_iter().filter(|(_, gpu)| wanted(gpu)).map(seen).collect();
    match &request.host {
        Some(host) if gpus.is_empty() => Err(unknown(host, &reading.view)),
        Some(_) | None => Ok(GpuGot { gpus }),
    }
}

fn seen(now: Timestamp, gpu: Gpu, live: Option<&Live>) -> GpuSeen {
    let valid = live.filter(|live| live.valid_until > now);
    let gauges = valid.and_then(|live| serde_json::from_value::<GpuGauges>(live.record.clone()).ok());
    let read_at = gauges.as_ref().and_then(|_| valid.map(|live| live.at));
    let (available, text) = match semaphore::available(now, Some(&gpu), live) {
        Ok(_) => (true, gauges.as_ref().map(|gauges| gauges.text.clone()).unwrap_or_default()),
        Err(not) => (false, not.text),
    };
    GpuSeen { gpu, available, text, gauges, read_at }
}

/// The records of all machines.
fn all(view: &View) -> Vec<(Key, Gpu)> {
    let shown = view.read();
    let records = shown.records.iter().filter(|(key, _)| key.section() == Section::Gpu);
    let read =
        |(key, record): (&Key, &Value)| Some((key.clone(), serde_json::from_value(record.clone()).ok()?));
    records.map(|(key, entry)| (key, &entry.stored.record)).filter_map(read).collect()
}

fn unknown(host: &str, view: &View) -> Fault {
    let known: Vec<String> = all(view).into_iter().map(|(_, gpu)| gpu.host).collect();
    let hint = match known.as_slice() {
        [] => "No machine has told of a GPU yet: `nhi agent gpu` runs on each that has one.".to_owned(),
        known => format!("The machines are {}.", known.join(", ")),
    };
    Fault::new(FaultCode::NotFound, format!("no GPU of a machine {host:?} is known"), hint)
}

/// Whether a report is of a size that can be kept.
///
/// # Errors
/// What is too much.
pub(super) fn check(report: &GpuReport) -> Result<(), String> {
    let GpuReport { gpu, gauges } = report;
    for (what, count, max) in [
        ("cards", gpu.cards.len().max(gauges.cards.len()), CARDS_MAX),
        ("loaded models", gauges.loaded.len().max(gauges.loaded_tokens.len()), LOADED_MAX),
    ] {
        if count > max {
            return Err(format!("{count} {what} of a GPU are more than {max}"));
        }
    }
    let relay = gpu.relay.iter().flat_map(|relay| [Some(&relay.url), relay.fingerprint.as_ref()]).flatten();
    let cards = gpu.cards.iter().flat_map(|card| [&card.id, &card.name]);
    let read = gauges
        .cards
        .iter()
        .map(|card| &card.id)
        .chain(&gauges.loaded)
        .chain(gauges.loaded_tokens.keys())
        .chain([&gauges.text]);
    match relay.chain(cards).chain(&gpu.driver).chain(read).find(|text| text.len() > TEXT_BYTES_MAX) {
        Some(text) => {
            Err(format!("a text about the GPU has {} bytes, {TEXT_BYTES_MAX} are taken", text.len()))
        }
        None => Ok(()),
    }
}

impl Writer {
    /// Writes what a machine reports about its GPU, and says what it has to know.
    pub(super) async fn take_gpu(
        &mut self,
        shown: &Snapshot,
        host: &str,
        report: GpuReport,
    ) -> Result<GpuTold, Fault> {
        let now = Timestamp::now();
        let key = Key::gpu(host);
        let known = self.known(shown, &key).and_then(|(_, record)| read(&record)).and_then(|gpu| gpu.said());
        let said = merged(now, known.clone(), report.gpu.said());
        let gpu = Gpu { host: host.to_owned(), ..report.gpu }.saying(said.clone());
        self.settle(shown, key.clone(), json(&gpu)).await?;
        if let Some(said) = said.as_ref().filter(|said| known.is_none_or(|known| said.at > known.at)) {
            let machine = IdentityName::parse(host).ok();
            self.audit(host, said, machine.as_ref(), "at the machine").await;
        }
        self.tell_memory(shown, Some((host, &report.gauges))).await;
        let valid_until = now + Duration::from_secs(READING_SECONDS_MAX.into());
        let record = serde_json::to_value(&report.gauges).expect("gauges are JSON");
        let live = Live { v: SCHEMA_VERSION, at: now, valid_until, record };
        if let Err(error) = store::put_live(&self.bus, &[(key, live)]).await {
            tracing::debug!(agent = "state", err = %error, "gauges not written");
        }
        Ok(GpuTold { said, routers: self.people.routers().await })
    }

    /// Writes what a person says, and says it to the machine at once; one that does not hear it is told when it
    /// reports.
    pub(super) async fn say(&mut self, word: Word) -> Result<GpuLocked, Fault> {
        let shown = self.view.read();
        if let Some(stale) = &shown.stale {
            return Err(unavailable(&format!("the state is not sound: {}", stale.reason)));
        }
        let Word { host, lock, by } = word;
        let key = Key::gpu(&host);
        let known = self.known(&shown, &key).and_then(|(_, record)| read(&record));
        let gpu = known.ok_or_else(|| unknown(&host, &self.view))?;
        let said = GpuSaid::after(gpu.said().as_ref(), Timestamp::now(), lock);
        let gpu = gpu.saying(Some(said.clone()));
        self.settle(&shown, key, json(&gpu)).await?;
        if let Ok(machine) = IdentityName::parse(&host)
            && let Err(error) = commands::say(&self.bus, &machine, "lock", &said).await
        {
            tracing::debug!(agent = "state", err = %error, "word about a gpu not sent");
        }
        self.audit(&host, &said, Some(&by), "over the mesh").await;
        Ok(GpuLocked { gpu })
    }

    /// Puts a word into the audit log. It counts also where that cannot be written: whoever sits at a machine does not
    /// wait for a log.
    async fn audit(&self, host: &str, said: &GpuSaid, by: Option<&IdentityName>, said_where: &str) {
        let kind = if said.lock.is_some() { AuditKind::GpuLocked } else { AuditKind::GpuUnlocked };
        let mut details: BTreeMap<String, Value> =
            BTreeMap::from([("host".to_owned(), host.into()), ("said".to_owned(), said_where.into())]);
        if let Some(lock) = &said.lock {
            details.insert("until".to_owned(), lock.until.to_string().into());
        }
        if let Err(error) = audit::append(&self.bus, kind, by, details).await {
            tracing::warn!(agent = "state", err = %error, "word about a gpu not audited");
        }
    }

    /// Tells of machines whose model server keeps its memory although somebody needs it. A machine that is silent tells
    /// nothing; `news` is what one has just said.
    async fn tell_memory(&self, shown: &Snapshot, news: Option<(&str, &GpuGauges)>) {
        let (now, live) = (Timestamp::now(), self.live.read());
        let mut wanted = BTreeMap::new();
        for (key, gpu) in all(&self.view) {
            let told = live.get(&key).filter(|live| live.valid_until > now);
            let told = told.and_then(|live| serde_json::from_value(live.record.clone()).ok());
            let gauges = match news {
                Some((host, gauges)) if host == gpu.host => Some(gauges.clone()),
                Some(_) | None => told,
            };
            let is_held = |gauges: &GpuGauges| {
                gauges.light == Light::Red && gauges.freed.as_ref().is_some_and(|freed| !freed.free)
            };
            if gauges.as_ref().is_some_and(is_held) {
                let host = &gpu.host;
                let problem = Problem {
                    severity: Severity::Warning,
                    summary: format!("the model server of {host} keeps its memory although the light is red"),
                    hint: format!("End the model server at {host}, or have it unload its models there."),
                    about: Some(key),
                };
                wanted.insert(format!("{MEMORY}{host}"), problem);
            }
        }
        let changes = alerts::changes(shown, Agent::State, |id| id.starts_with(MEMORY), &wanted, now);
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.commit(&changes).await {
            tracing::debug!(agent = "state", err = %error, "alert not written");
        }
    }

    /// Takes locks that are over out of their records, and alerts of machines that went silent.
    pub(super) async fn look_at_gpus(&mut self) {
        let shown = self.view.read();
        if shown.stale.is_some() {
            return;
        }
        self.tell_memory(&shown, None).await;
        let now = Timestamp::now();
        let over = |gpu: &Gpu| gpu.lock.as_ref().is_some_and(|lock| lock.until <= now);
        for (key, _) in all(&self.view).into_iter().filter(|(_, gpu)| over(gpu)) {
            // The view may be behind our own last write.
            let Some(gpu) =
                self.known(&shown, &key).and_then(|(_, record)| read(&record)).filter(|gpu| over(gpu))
            else {
                continue;
            };
            let record = json(&Gpu { lock: None, ..gpu });
            if let Err(fault) = self.settle(&shown, key, record).await {
                tracing::debug!(agent = "state", err = fault.message, "lock that is over not taken away");
            }
        }
    }
}

/// The last word: what we know, or what was said at the machine itself since. That was said by whoever sits there, for
/// at most a day.
fn merged(now: Timestamp, known: Option<GpuSaid>, reported: Option<GpuSaid>) -> Option<GpuSaid> {
    let is_news = |reported: &GpuSaid| known.as_ref().is_none_or(|known| reported.at > known.at);
    let longest = now + Duration::from_secs(u64::from(LOCK_MINUTES_MAX) * 60);
    let here = |lock: Lock| Lock { by: None, until: lock.until.min(longest) };
    let news = reported.filter(is_news).map(|said| GpuSaid { lock: said.lock.map(here), ..said });
    let mut said = news.or(known)?;
    said.lock = said.lock_at(now).cloned();
    Some(said)
}

fn read(record: &Value) -> Option<Gpu> {
    serde_json::from_value(record.clone()).ok()
}

fn json(gpu: &Gpu) -> Value {
    serde_json::to_value(gpu).expect("a record of ours is JSON")
}
