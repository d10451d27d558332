//! Clients that remember what they were told: a reader of the files in a thread of its own, one that asks for the state,
//! and a machine that reports about itself. What one of them was told once must be true for ever.

use crate::{
    SOON,
    house::{EDGE, House},
};
use async_nats::{Client, ConnectOptions};
use nhi_bus::{
    call::{Call, Timeout},
    connect::Bus,
    cx::Cx,
    keys,
};
use nhi_model::{
    call::{At, StateGet, StateGot, StateHistoried, StateHistory, StateRecord, StateReport, StateReported},
    identity,
    key::{Key, Section},
    subject,
};
use nhi_testkit::wait_for;
use nhi_tests::state_file;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// Between two questions for the whole state.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two reports of the machine.
const REPORT_INTERVAL: Duration = Duration::from_millis(1000);
/// The bucket keeps 1000 versions of a key: no more reports than that, or the oldest are forgotten by design and the
/// store has the holes that this looks for. 200 rounds on a slow machine get there.
const REPORTS_MAX: u64 = 990;
/// Between two readings of the files.
const READ_INTERVAL: Duration = Duration::from_millis(2);
/// Whoever was asked may be dead; then somebody else is asked soon.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Most versions one answer has.
const VERSIONS_MAX: u32 = 1000;

/// What a client was told about one revision.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    /// It stood in an answer of `state.get`.
    Shown(Box<StateRecord>),
    /// It is the revision a report was acknowledged with.
    Acknowledged { report: u64 },
}

#[derive(Debug, Default)]
struct Memory {
    told: BTreeMap<u64, (Key, Told)>,
    /// Revision of the newest answer.
    answered: u64,
    answers: u64,
    reports: u64,
    /// Readings of the files, those that needed a second look, and the revision of the last.
    readings: u64,
    retries: u64,
    read: u64,
    complaints: Vec<String>,
}

pub(crate) struct Witness {
    memory: Arc<Mutex<Memory>>,
    owner: Bus,
    home: Client,
    /// Up to here everything told was found again.
    checked: u64,
    reader: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Witness {
    pub(crate) async fn start(house: &House) -> Self {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let owner = house.connect("owner").await;
        let edge = house.connect(EDGE).await;
        house.cx.spawn("asker", ask_for_ever(house.cx.clone(), owner.clone(), memory.clone()));
        house.cx.spawn("reporter", report_again_and_again(house.cx.clone(), edge, memory.clone()));
        let dir = house.infrastructure();
        wait_for("the first state.json", SOON, async || state_file::read_generation(&dir).is_ok()).await;
        let (stop, stopped) = mpsc::channel();
        let read = memory.clone();
        let reader = std::thread::spawn(move || read_for_ever(&dir, &stopped, &read));
        let seed = keys::load(&house.dir().join(".nhi/keys"), &identity::home()).unwrap();
        let options = ConnectOptions::with_nkey(seed.expose().to_owned());
        let options = options.custom_inbox_prefix(subject::inbox_prefix(&identity::home()));
        let home = options.connect(owner.urls()).await.unwrap();
        Self { memory, owner, home, checked: 0, reader: Some((stop, reader)) }
    }

    /// Nobody has complained, and the pair that lies on the disk now belongs together.
    pub(crate) fn check_files(&self, house: &House, story: &str) {
        let read = self.memory.lock().unwrap().read;
        let at_rest = loop {
            let look = state_file::read_generation(&house.infrastructure());
            if let Some(whole) = look.unwrap_or_else(|error| panic!("{error:#}{story}")) {
                break whole;
            }
        };
        assert!(at_rest.revision >= read, "revision {} after {read}{story}", at_rest.revision);
        let memory = self.memory.lock().unwrap();
        assert!(memory.complaints.is_empty(), "{:?}{story}", memory.complaints);
    }

    /// Whether the marked guest has its new name in the file and in the keeper's answer.
    pub(crate) async fn shows(&self, house: &House, mark: &str) -> Result<(), String> {
        let whole = state_file::read_generation(&house.infrastructure()).map_err(|e| format!("{e:#}"))?;
        let Some(whole) = whole else { return Err("no generation".to_owned()) };
        if House::marked_in(&whole.state) != Some(mark) {
            return Err(format!("state.json is at revision {}", whole.revision));
        }
        let request = StateGet { select: House::marked_keys(), ..StateGet::default() };
        let got: StateGot = ask(&self.owner, "get", &request).await?;
        let name = got.records.into_values().next().map(|record| record.record["name"].clone());
        if name == Some(Value::from(mark)) { Ok(()) } else { Err(format!("state.get tells {name:?}")) }
    }

    /// Everything told since the last time stands in the history as it was told, and the store has no hole.
    pub(crate) async fn check_acknowledged(&mut self, house: &House, story: &str) {
        self.check_files(house, story);
        let told: BTreeMap<u64, (Key, Told)> = {
            let memory = self.memory.lock().unwrap();
            memory.told.range(self.checked + 1..).map(|(at, told)| (*at, told.clone())).collect()
        };
        let sections: BTreeSet<Section> = told.values().map(|(key, _)| key.section()).collect();
        let mut versions = BTreeMap::new();
        for section in sections {
            versions.extend(self.history(section.as_str(), Some(At::Revision(self.checked))).await);
        }
        for (revision, (key, told)) in &told {
            check_told(*revision, key, told, versions.get(revision), story);
        }
        self.checked = told.last_key_value().map_or(self.checked, |(revision, _)| *revision);
        self.check_store(story).await;
    }

    /// The versions after a moment by revision. Asked until it is answered: the keeper may just be starting.
    async fn history(&self, select: &str, since: Option<At>) -> BTreeMap<u64, (Key, Option<StateRecord>)> {
        let request = StateHistory { select: select.to_owned(), since, limit: Some(VERSIONS_MAX) };
        let what = format!("the history of {select}");
        let asked = async || ask::<StateHistoried>(&self.owner, "history", &request).await;
        let history = wait_for(&what, SOON, asked).await;
        assert!(!history.truncated, "{select} has more than {VERSIONS_MAX} versions since {since:?}");
        history.versions.into_iter().map(|version| (version.revision, (version.key, version.value))).collect()
    }

    /// Revisions are the stream's sequence and nothing is ever removed within 1000 versions of a key, so a message that
    /// was lost leaves a hole or a lower end.
    async fn check_store(&self, story: &str) {
        let ask = format!("$JS.API.STREAM.INFO.{}", subject::bucket_stream(subject::STATE_BUCKET));
        let newest = {
            let memory = self.memory.lock().unwrap();
            memory.told.last_key_value().map_or(memory.read, |(told, _)| memory.read.max(*told))
        };
        let info = wait_for("the stream's own account", SOON, async || {
            self.home.request(ask.clone(), "".into()).await.map_err(|error| error.to_string())
        });
        let info: Value = serde_json::from_slice(&info.await.payload).unwrap();
        let state = &info["state"];
        let number = |field: &str| state[field].as_u64().unwrap_or_else(|| panic!("{info}"));
        assert_eq!((number("first_seq"), number("messages")), (1, number("last_seq")), "{state}{story}");
        assert!(number("last_seq") >= newest, "revision {newest} was told: {state}{story}");
    }

    /// Everything that was ever told, once more. Returns what there was to tell.
    pub(crate) async fn finish(&mut self, house: &House, story: &str) -> String {
        self.check_acknowledged(house, story).await;
        let (stop, reader) = self.reader.take().unwrap();
        drop(stop);
        reader.join().unwrap();
        let memory = std::mem::take(&mut *self.memory.lock().unwrap());
        assert!(memory.complaints.is_empty(), "{:?}{story}", memory.complaints);
        let mut by_key: BTreeMap<&Key, BTreeMap<u64, &Told>> = BTreeMap::new();
        for (revision, (key, told)) in &memory.told {
            by_key.entry(key).or_default().insert(*revision, told);
        }
        for (key, told) in by_key {
            let versions = self.history(key.as_str(), None).await;
            for (revision, told) in told {
                check_told(revision, key, told, versions.get(&revision), story);
            }
        }
        let Memory { told, answers, reports, readings, retries, .. } = memory;
        assert!(answers > 10 && reports > 3 && readings > 100, "{answers} answers, {reports} reports{story}");
        format!(
            "{} revisions were told in {answers} answers and {reports} acknowledgements, and all are there; {readings} \
             readings of state.json, {retries} looked twice, none was torn{story}",
            told.len(),
        )
    }
}

fn check_told(
    revision: u64,
    key: &Key,
    told: &Told,
    found: Option<&(Key, Option<StateRecord>)>,
    story: &str,
) {
    let Some((found_key, Some(found))) = found else {
        panic!("{key} at revision {revision} was told as {told:?} and is missing: {found:?}{story}");
    };
    assert_eq!(found_key, key, "revision {revision} belongs to another record{story}");
    match told {
        Told::Shown(shown) => assert_eq!(found, &**shown, "{key} at revision {revision}{story}"),
        Told::Acknowledged { report } => {
            assert_eq!(found.record["facts"]["report"], *report, "{key} at revision {revision}{story}");
        }
    }
}

/// One call of the keeper.
async fn ask<T: DeserializeOwned>(
    bus: &Bus,
    endpoint: &str,
    request: &(impl Serialize + Sync),
) -> Result<T, String> {
    let body = serde_json::to_vec(request).unwrap();
    let call = Call::new(bus, "state", endpoint, body.into()).unwrap().timeout(Timeout::of(ANSWER_MAX));
    let answer = call.send(bus).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| error.to_string())
}

/// Asks for the whole state and remembers every record of the answer.
async fn ask_for_ever(stop: Cx, owner: Bus, memory: Arc<Mutex<Memory>>) {
    let mut pace = interval(ASK_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = async {
                pace.tick().await;
                ask::<StateGot>(&owner, "get", &StateGet::default()).await
            } => answer,
        };
        // Whoever should answer may be dead at this moment.
        let Ok(got) = answer else { continue };
        let mut memory = memory.lock().unwrap();
        let Memory { told, answered, answers, complaints, .. } = &mut *memory;
        *answers += 1;
        if got.next.is_some() {
            complaints.push("the lab is larger than a page".to_owned());
        }
        if got.revision < *answered {
            complaints.push(format!("state.get answered revision {} after {answered}", got.revision));
        }
        *answered = got.revision.max(*answered);
        for (key, record) in got.records {
            let revision = record.revision;
            let now = (key, Told::Shown(Box::new(record)));
            match told.get(&revision) {
                Some(before) if matches!(before.1, Told::Shown(_)) && *before != now => {
                    complaints.push(format!("{} at revision {revision} was told in two ways", now.0));
                }
                Some(_) => {}
                None => {
                    told.insert(revision, now);
                }
            }
        }
    }
}

/// Reports a new number each time and remembers what was acknowledged.
async fn report_again_and_again(stop: Cx, edge: Bus, memory: Arc<Mutex<Memory>>) {
    let mut pace = interval(REPORT_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let key = Key::parse(&format!("{}.{EDGE}", Section::Host.as_str())).unwrap();
    for report in 1..=REPORTS_MAX {
        let facts = BTreeMap::from([("report".to_owned(), report.into())]);
        let request = StateReport { os: None, version: None, facts, gauges: BTreeMap::new(), gpu: None };
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = async {
                pace.tick().await;
                ask::<StateReported>(&edge, "report", &request).await
            } => answer,
        };
        let Ok(StateReported { revision, .. }) = answer else { continue };
        let mut memory = memory.lock().unwrap();
        memory.reports += 1;
        memory.told.insert(revision, (key.clone(), Told::Acknowledged { report }));
    }
}

/// Reads the files by the protocol, as fast as they can be read, until told to stop.
fn read_for_ever(dir: &Path, stopped: &mpsc::Receiver<()>, memory: &Mutex<Memory>) {
    while !matches!(stopped.recv_timeout(READ_INTERVAL), Err(mpsc::RecvTimeoutError::Disconnected)) {
        // Told to stop meanwhile, it reads to the end without pausing.
        let pause = |time| _ = stopped.recv_timeout(time);
        let told = state_file::read(dir, pause);
        let generation = state_file::read_generation(dir);
        let mut memory = memory.lock().unwrap();
        memory.readings += 1;
        for whole in [told.map(Some), generation] {
            match whole {
                Ok(Some(whole)) if whole.revision < memory.read => {
                    let complaint =
                        format!("state.json went from revision {} to {}", memory.read, whole.revision);
                    memory.complaints.push(complaint);
                }
                Ok(Some(whole)) => {
                    memory.read = whole.revision;
                    memory.retries += u64::from(whole.retries);
                }
                Ok(None) => {}
                Err(error) => memory.complaints.push(format!("{error:#}")),
            }
        }
    }
}
