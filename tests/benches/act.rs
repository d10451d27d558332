//! What acting costs before anything happens: planning over 10,000 guests and a graph of 50,000 edges, and the way from
//! an agent's wish over an operator's yes to the first call that arrives at Proxmox, every write on disk.
//!
//! `cargo bench -p nhi-tests --bench act`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use nhi_agents::{
    act::{self, Pace},
    scan,
};
use nhi_bus::{
    call::{Call, Timeout},
    connect::Bus,
    cx::Cx,
    plans::PlansView,
    store::{self, StoreSettings},
};
use nhi_decide::{
    observe::Known,
    plan::{Prepared, Request, Scene},
    records::Records,
    sight::Sight,
};
use nhi_model::{
    Timestamp,
    act::{ActApplied, ActPlanned},
    graph::{Graph, Service},
    identity::{IdentityName, Role},
    intent::{GuestRef, Intent},
    key::Key,
    plan::PlanId,
    policy::Policy,
};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{LabOptions, Running, Seed, TokenSecret};
use nhi_testkit::{Nats, wait_for};
use nhi_tests::{
    measure::{Table, machine, note, percentile, times, told},
    running::pass,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Guests, and what they need of each other.
const GUESTS: u32 = 10_000;
const EDGES_EACH: u32 = 5;
/// Plans that are made.
const PLANS: usize = 200;
/// Wishes that are carried out.
const WISHES: u32 = 200;
/// Longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How exactly the moment of the first call is known.
const LOOKED_EVERY: Duration = Duration::from_millis(1);

#[tokio::main]
async fn main() {
    let machine = machine();
    let mut table = Table::new(&["what", "p50", "p99", "against"]);
    planning(&mut table);
    acting(&mut table).await;
    println!("{machine}\n\n{table}");
}

/// Guests of one cluster, each a service that needs five others; never in a circle.
fn large() -> BTreeMap<Key, Known> {
    let mut known = BTreeMap::new();
    let mut graph = Graph::default();
    for number in 0..GUESTS {
        let vmid = 1000 + number;
        let name = format!("guest-{number}");
        let record = json!({
            "kind": "qemu", "cluster": "home", "vmid": vmid, "name": name, "node": format!("pve{}", number % 5),
            "status": if number % 10 == 0 { "stopped" } else { "running" }, "template": false,
            "address_source": { "kind": "not-read" }, "backups": { "kind": "not-visible" },
            "identity": { "uuid": format!("00000000-0000-4000-8000-{vmid:012}") },
        });
        let key = Key::parse(&format!("vm.home.{vmid}")).expect("a key");
        known.insert(key, Known { revision: u64::from(vmid), record, stale: None });
        let needs = (1..=EDGES_EACH).filter_map(|step| number.checked_sub(step * 7));
        let depends_on = needs.map(|other| format!("guest-{other}")).collect();
        graph.services.insert(name, Service { depends_on, ..Service::default() });
    }
    for node in 0..5 {
        let record =
            json!({ "cluster": "home", "node": format!("pve{node}"), "status": "online", "level": "" });
        known.insert(Key::node("home", &format!("pve{node}")), Known { revision: 1, record, stale: None });
    }
    let graph = serde_json::to_value(graph).expect("a graph is JSON");
    known.insert(Key::graph(), Known { revision: 2, record: graph, stale: None });
    known
}

/// The last guest that stops is needed by nobody, the first ones by thousands: both are asked for. What is found out about
/// the whole state is found out anew for each plan, or kept with the records, as the actuator does.
fn planning(table: &mut Table) {
    note("planning");
    let records = Records::new(large());
    let policy = Policy::default();
    let sight = Sight { quorate: Some(true), ..Sight::of_records("home", Timestamp::now(), &records) };
    let began = Instant::now();
    black_box(serde_json::to_vec(&records[&Key::graph()].record).expect("JSON"));
    let reference = began.elapsed();
    let bench = Planning { policy: &policy, sight: &sight };
    let (all_anew, made) = bench.timed(records.clone(), |_, _| {}, anew);
    let [renamed, scanned] = ["name", "status"].map(|field| {
        let change = |number: usize, records: &mut Records| {
            let key = Key::parse(&format!("vm.home.{}", 1001 + 50 * number)).expect("a key");
            let mut other = records[&key].clone();
            other.revision += u64::from(GUESTS);
            other.record[field] = format!("other-{number}").into();
            records.put(key, other);
        };
        bench.timed(records.clone(), change, kept).0
    });
    let (unchanged, _) = bench.timed(records, |_, _| {}, kept);
    let edges = GUESTS * EDGES_EACH;
    let refused = PLANS - made;
    let what = format!("planning over {GUESTS} guests and {edges} edges ({made} plans, {refused} refusals)");
    for (what, taken) in [
        (what, all_anew),
        ("the same, a guest was renamed before each".to_owned(), renamed),
        ("the same, a guest's status changed before each".to_owned(), scanned),
        ("the same, nothing changed".to_owned(), unchanged),
    ] {
        let [half, most] = [50, 99].map(|percent| percentile(&taken, percent));
        let against = format!("{} writing the graph as JSON", times(most, reference));
        table.row([what, told(half), told(most), against]);
    }
}

fn anew<'a>(records: &'a Records, policy: &'a Policy) -> Prepared<'a> {
    Prepared::new(records, policy)
}

fn kept<'a>(records: &'a Records, policy: &'a Policy) -> Prepared<'a> {
    Prepared::of(records, policy)
}

/// What all plans are made with.
#[derive(Clone, Copy)]
struct Planning<'a> {
    policy: &'a Policy,
    sight: &'a Sight,
}

impl Planning<'_> {
    /// How long each plan takes, with what changes before it, and how many are made.
    fn timed(
        self,
        mut records: Records,
        change: impl Fn(usize, &mut Records),
        prepare: for<'a> fn(&'a Records, &'a Policy) -> Prepared<'a>,
    ) -> (Vec<Duration>, usize) {
        let (none, holds, leases) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let (mut taken, mut made) = (Vec::new(), 0);
        for number in 0..PLANS {
            let intent = intent(number);
            let request = request(&intent);
            let began = Instant::now();
            change(number, &mut records);
            let scene = Scene {
                now: self.sight.at,
                revision: 9,
                known: &records,
                sight: self.sight,
                policy: self.policy,
                ourselves: &none,
                holds: &holds,
                leases: &leases,
                past: None,
            };
            let prepared = prepare(&records, self.policy);
            black_box(prepared.needs(&intent, None).expect("the guest is known"));
            made += usize::from(black_box(prepared.plan(&request, &scene)).is_ok());
            taken.push(began.elapsed());
        }
        (taken, made)
    }
}

fn intent(number: usize) -> Intent {
    let of = u32::try_from(number).expect("small") * (GUESTS / 200);
    let guest = GuestRef::parse(&format!("guest-{of}")).expect("a guest");
    match number % 2 {
        0 => Intent::Start { guest },
        _ => Intent::Shutdown { guest, with_dependents: false, timeout_s: None },
    }
}

fn request(intent: &Intent) -> Request<'_> {
    static BY: LazyLock<IdentityName> = LazyLock::new(|| IdentityName::parse("aider").expect("a name"));
    let id = PlanId::parse("p-bench00000").expect("an id");
    Request { id, by: &BY, intent, reason: None, vmids: &[], undo_unless_confirmed_minutes: None }
}

fn endpoint(lab: &Running, token: &TokenSecret) -> Endpoint {
    let token = ApiToken::parse(&token.id, &token.secret).expect("a token");
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).expect("an authority");
    Endpoint::new(Address::parse_list(&lab.url).expect("an address"), token, trust).expect("an endpoint")
}

async fn call<A: DeserializeOwned>(bus: &Bus, endpoint: &str, request: &Value) -> A {
    let body = serde_json::to_vec(request).expect("JSON");
    let call = Call::new(bus, "act", endpoint, body.into()).expect("a call").timeout(Timeout::LONGEST);
    serde_json::from_slice(&call.send(bus).await.expect("an answer")).expect("the answer is read")
}

async fn acting(table: &mut Table) {
    note("acting");
    let nats = Nats::start().await;
    let options = LabOptions { auth_delay_ms: 0, task_ms: 5, ..LabOptions::local(Seed::large(3, WISHES)) };
    let lab = nhi_sim::serve(options).await.expect("a lab");
    let (cx, dir) = (Cx::new(), TempDir::new().expect("a directory"));
    let home = nats.connect(&cx, "home").await;
    store::provision(&home, &StoreSettings { replicas: 1 }).await.expect("streams");
    let plans = PlansView::open(&cx, &home).await.expect("plans");
    let scanner = scan::Options {
        clusters: vec![scan::Cluster { name: "home".to_owned(), endpoint: endpoint(&lab, &lab.scan_token) }],
        project_roots: Vec::new(),
        graph: dir.path().join("dependency_graph.json"),
        index_s: 1,
        full_s: 600,
    };
    let scanner = scan::run(&cx, nats.connect(&cx, "scan").await, scanner).await.expect("a scanner");
    let mut progress = scanner.progress();
    let ready = tokio::time::timeout(PATIENCE, progress.wait_for(scan::Progress::is_ready)).await;
    drop(ready.expect("in time").expect("it lives"));
    let vmids: Vec<u32> = Seed::large(3, WISHES).guests.iter().map(|guest| guest.vmid).collect();
    let actuator = act::Options {
        clusters: vec![act::Cluster { name: "home".to_owned(), endpoint: endpoint(&lab, &lab.act_token) }],
        registry: nats.dir(),
        policy: dir.path().join("policy.toml"),
        self_guests: Vec::new(),
        vmid_range: (900_000, 900_099),
        program: PathBuf::from("nhi"),
        pace: Pace { poll: Duration::from_millis(5), ..Pace::REAL },
    };
    std::fs::write(dir.path().join("policy.toml"), "[limits]\nplans_per_minute = 10000\napplies_per_hour = 10000\n[operations]\napproval = [\"snapshot\"]\n").expect("a policy");
    let _actuator = act::run(&cx, nats.connect(&cx, "act").await, actuator).await.expect("an actuator");
    nats.add("aider", Role::Agent).await;
    nats.add("anna", Role::Operator).await;
    let (agent, operator) = (nats.connect(&cx, "aider").await, nats.connect(&cx, "anna").await);
    let (mut plan_ms, mut all_ms, mut call_ms) = (Vec::new(), Vec::new(), Vec::new());
    for vmid in vmids {
        let intent = json!({ "do": "snapshot", "guest": vmid.to_string(), "name": "bench" });
        let before = lab.counts().writes;
        let began = Instant::now();
        let planned: ActPlanned = call(&agent, "plan", &json!({ "intent": intent })).await;
        plan_ms.push(began.elapsed());
        let plan = &planned.record.plan;
        let decided = json!({ "plan": plan.id, "digest": plan.digest() });
        let _: Value = call(&operator, "approve", &decided).await;
        let applying = Instant::now();
        let applied: ActApplied = call(&agent, "apply", &decided).await;
        while lab.counts().writes == before {
            assert!(began.elapsed() < PATIENCE, "no call arrived");
            // Looked for without a pause, it would take the processor from those who are measured.
            pass(LOOKED_EVERY).await;
        }
        call_ms.push(applying.elapsed());
        all_ms.push(began.elapsed());
        wait_for("the end of the run", PATIENCE, async || {
            plans.read().runs.get(&applied.run).filter(|row| row.value.state.is_over()).map(drop)
        })
        .await;
    }
    for (what, taken) in [
        ("act.plan: look live, plan, check, keep", &plan_ms),
        ("act.apply to the first call at Proxmox", &call_ms),
        ("plan, approve, apply, first call at Proxmox", &all_ms),
    ] {
        let [half, most] = [50, 99].map(|percent| percentile(taken, percent));
        table.row([what.to_owned(), told(half), told(most), "–".to_owned()]);
    }
    cx.close().await;
}
