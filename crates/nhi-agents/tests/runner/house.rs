//! A nats-server, a simulated home with its scanner, and actuators in processes of their own as far as a test can have
//! them: each in a runtime that is dropped at whatever it was waiting for.

use crate::{
    steps::{record_of, run_of},
    truth,
};
use nhi_agents::{
    runner::{Options, Runner, Word},
    scan,
};
use nhi_bus::{
    audit,
    connect::{Bus, Target},
    cx::Cx,
    plans::{self, PlansChange, PlansSnapshot, PlansView},
    store::{self, StoreSettings},
    view::View,
};
use nhi_decide::next::Pace;
use nhi_model::{
    Timestamp,
    audit::{AuditEntry, AuditKind},
    call::AuditList,
    envelope::OpId,
    fault::Fault,
    identity::{self, IdentityName},
    plan::Plan,
    plans::PlansKey,
    run::{Leg, Mark, Run, RunId, RunState},
};
use nhi_pve::{Address, ApiToken, Endpoint, Operator, Trust};
use nhi_sim::{LabOptions, Running};
use nhi_testkit::{Nats, Proxy, wait_for};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Mutex, MutexGuard, oneshot},
};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const LEASE: Duration = Duration::from_millis(400);
const MS: fn(u64) -> Duration = Duration::from_millis;
/// Short waits: the lab answers in milliseconds, and its tasks take tens of them.
const PACE: Pace = Pace {
    poll: Duration::from_millis(20),
    settle_harmless: Duration::from_millis(400),
    settle_harmful: Duration::from_millis(800),
    clock_skew: Duration::from_secs(60),
    read_back: Duration::from_millis(300),
    patience: Duration::from_secs(3),
    verify: Duration::from_secs(15),
};

pub(crate) struct House {
    pub(crate) lab: Running,
    pub(crate) home: Bus,
    pub(crate) plans: PlansView,
    nats: Nats,
    pub(crate) cx: Cx,
    names: AtomicU64,
    /// What is said of runs that wait, by whoever is let in.
    word: Arc<Mutex<Result<Word, Fault>>>,
    /// How often that was asked.
    asked: Arc<AtomicU64>,
    _scan: scan::Handle,
    _dir: TempDir,
}

/// An actuator. Dropping it kills it.
pub(crate) struct Actuator {
    runtime: Option<Runtime>,
    pub(crate) runner: Runner,
    pub(crate) cx: Cx,
}

impl House {
    pub(crate) async fn open() -> Self {
        let nats = Nats::start().await;
        let mut options = LabOptions::local(truth::seed());
        (options.auth_delay_ms, options.task_ms) = (10, 20);
        let lab = nhi_sim::serve(options).await.unwrap();
        let cx = Cx::new();
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let plans = PlansView::open(&cx, &home).await.unwrap();
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("projects")).unwrap();
        let token = ApiToken::parse(&lab.scan_token.id, &lab.scan_token.secret).unwrap();
        let scan = scan::Options {
            clusters: vec![scan::Cluster { name: "home".to_owned(), endpoint: endpoint(&lab, token) }],
            project_roots: vec![dir.path().join("projects")],
            graph: dir.path().join("dependency_graph.json"),
            index_s: 60,
            full_s: 600,
        };
        let bus = nats.connect(&cx, "scan").await;
        let scan = scan::run(&cx, bus, scan).await.unwrap();
        let mut progress = scan.progress();
        let ready = tokio::time::timeout(SOON, progress.wait_for(scan::Progress::is_ready));
        drop(ready.await.expect("the first pass takes seconds").unwrap());
        let (names, word) = (AtomicU64::new(0), Arc::new(Mutex::new(Ok(Word::Start))));
        Self { lab, home, plans, nats, cx, names, word, asked: Arc::default(), _scan: scan, _dir: dir }
    }

    /// Another process that may act.
    pub(crate) async fn actuator(&self) -> Actuator {
        self.actuator_at(self.nats.target()).await
    }

    /// One whose way to the bus can be broken.
    pub(crate) async fn actuator_by(&self, path: &Proxy) -> Actuator {
        self.actuator_at(Target::plain(path.url())).await
    }

    pub(crate) fn nats_address(&self) -> SocketAddr {
        self.nats.address()
    }

    /// What is said of runs that wait from now on.
    pub(crate) async fn says(&self, word: Result<Word, Fault>) {
        *self.word.lock().await = word;
    }

    /// Applies a plan, and has the actuator that asks about its run wait for the word as long as this one is held.
    pub(crate) async fn is_asked_about(&self, plan: &Plan) -> (RunId, MutexGuard<'_, Result<Word, Fault>>) {
        let word = self.word.lock().await;
        let before = self.asked.load(Ordering::SeqCst);
        let id = self.apply(plan).await;
        let is_asked = async || (self.asked.load(Ordering::SeqCst) > before).then_some(());
        wait_for("an actuator to ask", SOON, is_asked).await;
        (id, word)
    }

    /// Asks JetStream itself, as somebody who may do anything.
    pub(crate) async fn jetstream(&self, verb: &str) -> serde_json::Value {
        let raw = self.nats.raw("home").await;
        let answer = raw.request(format!("$JS.API.{verb}"), "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// The token that may write, in the test's own hand.
    pub(crate) fn operator(&self) -> Operator {
        let token = ApiToken::parse(&self.lab.act_token.id, &self.lab.act_token.secret).unwrap();
        Operator::new(endpoint(&self.lab, token)).unwrap()
    }

    async fn actuator_at(&self, target: Target) -> Actuator {
        let operator = self.operator();
        let seed = self.nats.seed("act");
        let instance = format!("act-{}", self.names.fetch_add(1, Ordering::SeqCst));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (ready, started) = oneshot::channel();
        let (word, asked) = (self.word.clone(), self.asked.clone());
        runtime.spawn(async move {
            let (cx, me) = (Cx::new(), IdentityName::parse("act").unwrap());
            let bus = Bus::connect(&cx, &target, &me, &seed).await.unwrap();
            let plans = PlansView::open(&cx, &bus).await.unwrap();
            let view = View::open(&cx, &bus).await.unwrap();
            let operators = Arc::new(BTreeMap::from([("home".to_owned(), operator)]));
            let options = Options { instance, lease: LEASE, pace: PACE };
            let judge = Arc::new(move |_, _| {
                asked.fetch_add(1, Ordering::SeqCst);
                let word = word.clone();
                Box::pin(async move { word.lock().await.clone() }) as _
            });
            let runner = Runner::start(&cx, bus, plans, view, operators, options, judge);
            drop(ready.send((runner, cx.clone())));
            std::future::pending::<()>().await;
        });
        let (runner, cx) = tokio::time::timeout(SOON, started).await.unwrap().unwrap();
        Actuator { runtime: Some(runtime), runner, cx }
    }

    /// A plan that is applied: its record and its run.
    pub(crate) async fn apply(&self, plan: &Plan) -> RunId {
        self.apply_as(plan, run_of(plan)).await
    }

    pub(crate) async fn apply_as(&self, plan: &Plan, run: Run) -> RunId {
        let id = run.id.clone();
        let record = PlansChange::put(PlansKey::Plan(plan.id.clone()), 0, &record_of(plan));
        self.put(&[record, PlansChange::put(PlansKey::Run(id.clone()), 0, &run)]).await;
        id
    }

    pub(crate) async fn put(&self, changes: &[PlansChange]) -> u64 {
        let op = OpId(uuid::Uuid::new_v4().to_string());
        plans::commit(&self.home, &op, Timestamp::now(), changes).await.unwrap()
    }

    /// Changes a run behind its actuator's back.
    pub(crate) async fn edit(&self, id: &RunId, change: impl Fn(&mut Run)) {
        let key = PlansKey::Run(id.clone());
        let revision = wait_for("the run to be changed", SOON, async || {
            let row = plans::get::<Run>(&self.home, &key).await.unwrap().ok_or("there is none")?;
            let mut run = row.value;
            change(&mut run);
            let op = OpId(uuid::Uuid::new_v4().to_string());
            let changes = [PlansChange::put(key.clone(), row.revision, &run)];
            plans::commit(&self.home, &op, Timestamp::now(), &changes)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
        // What is asked next is not answered with what was before.
        drop(tokio::time::timeout(SOON, self.plans.reached(revision)).await.unwrap());
    }

    /// Waits until what acting remembers looks as wanted.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&PlansSnapshot) -> Option<T>) -> T {
        let mut changed = self.plans.changed();
        let found = async {
            loop {
                if let Some(found) = look(&self.plans.read()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(SOON, found).await {
            Ok(found) => found,
            Err(_) => {
                panic!("{what}: {:#?}", self.plans.read().runs.values().rev().take(3).collect::<Vec<_>>())
            }
        }
    }

    /// Waits until a run looks as wanted.
    pub(crate) async fn run_until(&self, id: &RunId, what: &str, is_so: impl Fn(&Run) -> bool) -> Run {
        self.until(what, |kept| kept.runs.get(id).map(|row| row.value.clone()).filter(|run| is_so(run))).await
    }

    /// The end of a run.
    pub(crate) async fn over(&self, id: &RunId) -> Run {
        self.run_until(id, "the run to be over", |run| run.state.is_over()).await
    }

    /// Whether it is over within so long.
    pub(crate) async fn is_over_within(&self, id: &RunId, ms: u64) -> bool {
        let over = self.run_until(id, "the run to be over", |run| run.state.is_over());
        tokio::time::timeout(MS(ms), over).await.is_ok()
    }

    /// An operator has looked at a run whose outcome was not known.
    pub(crate) async fn acknowledge(&self, id: &RunId) {
        self.edit(id, |run| run.state = RunState::Cancelled { by: identity::owner() }).await;
    }

    /// Everything the audit log says of a run.
    pub(crate) async fn audit_of(&self, id: &RunId) -> Vec<AuditEntry> {
        let mut request = AuditList { limit: Some(1000), ..AuditList::default() };
        let mut entries = Vec::new();
        loop {
            let page = audit::list(&self.home, &request).await.unwrap();
            request.after = page.entries.last().map(|row| row.sequence);
            entries.extend(page.entries.into_iter().map(|row| row.entry));
            if !page.more {
                break;
            }
        }
        entries.retain(|entry| entry.details.get("run").is_some_and(|run| run == id.as_str()));
        entries
    }

    /// Tasks that the actuator's token began, by type and guest.
    pub(crate) fn tasks(&self) -> BTreeMap<(String, String), Vec<String>> {
        let mut tasks: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        self.lab.with_lab(|lab| {
            for task in lab.tasks.values().filter(|task| task.user == self.lab.act_token.id) {
                tasks.entry((task.kind.to_owned(), task.id.clone())).or_default().push(task.upid.clone());
            }
        });
        tasks
    }

    /// What holds at the end of every run, whatever happened to it.
    pub(crate) async fn check(&self, plan: &Plan, run: &Run) {
        let journal = &run.journal;
        for (kind, upids) in self.tasks() {
            assert_eq!(upids.len(), 1, "{kind:?} has two effects: {upids:?} {journal:#?}");
        }
        let known = self.lab.with_lab(|lab| lab.tasks.keys().cloned().collect::<BTreeSet<String>>());
        let told: Vec<&String> = journal.iter().filter_map(|entry| upid(&entry.mark)).collect();
        let distinct: BTreeSet<&&String> = told.iter().collect();
        assert!(distinct.len() == told.len() && told.iter().all(|upid| known.contains(*upid)), "{told:?}");
        if !matches!(run.state, RunState::NeedsHuman { .. }) {
            assert!(told.len() == known.len() || self.others_ran(), "{known:#?} {run:#?}");
        }
        let left: Vec<_> = self.plans.read().leases.keys().cloned().collect();
        assert!(left.is_empty(), "leases are left: {left:?}");
        self.check_audit(plan, run).await;
    }

    /// Whether somebody else began tasks too: a node that boots starts its guests.
    fn others_ran(&self) -> bool {
        self.lab.with_lab(|lab| lab.tasks.values().any(|task| task.user != self.lab.act_token.id))
    }

    /// Every call that was to leave is closed in the audit log, with what the journal says, and so is the run.
    async fn check_audit(&self, plan: &Plan, run: &Run) {
        let entries = self.audit_of(&run.id).await;
        let same = |one: &AuditEntry, other: &AuditEntry, names: &[&str]| {
            names.iter().all(|name| one.details.get(*name) == other.details.get(*name))
        };
        for (place, begun) in
            entries.iter().enumerate().filter(|(_, entry)| entry.kind == AuditKind::StepBegun)
        {
            let closed = entries[place..].iter().any(|entry| {
                let outcome =
                    entry.details.get("outcome").and_then(|value| value.as_str()).unwrap_or_default();
                match entry.kind {
                    AuditKind::StepSent => {
                        matches!(outcome, "refused" | "not-taken")
                            && same(begun, entry, &["step", "leg", "attempt"])
                    }
                    AuditKind::StepReadBack => same(begun, entry, &["step", "leg"]),
                    _ => false,
                }
            });
            assert!(closed, "not closed: {begun:#?}\n{entries:#?}");
        }
        // The last word about each step is the journal's.
        for index in 0..plan.steps.len() {
            for leg in [Leg::Forward, Leg::Back] {
                let last = run.journal.iter().rfind(|entry| entry.step == index && entry.leg == leg);
                let word = |value: &serde_json::Value| value.as_str().map(str::to_owned);
                let told = entries.iter().rfind(|entry| {
                    entry.details.get("step").is_some_and(|step| *step == index)
                        && entry.details.get("leg") == Some(&serde_json::to_value(leg).unwrap())
                });
                let told = told.and_then(|entry| entry.details.get("outcome").and_then(word));
                let wrote = last.and_then(|entry| word(&serde_json::to_value(&entry.mark).unwrap()["mark"]));
                assert_eq!(told, wrote, "step {index} {leg:?}: {entries:#?}");
            }
        }
        let ends: Vec<&AuditEntry> =
            entries.iter().filter(|entry| entry.kind == AuditKind::RunEnded).collect();
        let said = ends.last().and_then(|entry| entry.details.get("state").and_then(|state| state.as_str()));
        assert_eq!(said, Some(run.state.as_str()), "{entries:#?}");
    }

    pub(crate) async fn close(self) {
        assert!(audit::verify(&self.home).await.unwrap().intact);
        self.cx.close().await;
    }
}

impl Actuator {
    /// Ends it as kill -9 does: whatever it waits for is dropped.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Actuator {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn upid(mark: &Mark) -> Option<&String> {
    match mark {
        Mark::Sent { upid } => upid.as_ref(),
        Mark::Adopted { upid } => Some(upid),
        _ => None,
    }
}

fn endpoint(lab: &Running, token: ApiToken) -> Endpoint {
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).unwrap();
    Endpoint::new(Address::parse_list(&lab.url).unwrap(), token, trust).unwrap()
}
