//! `/metrics`: what is declared has a true value that follows the facts, whoever may not read the lab is not told of it.

use crate::house::{House, SOON};
use nhi_bus::service::{Service as Services, Spec};
use nhi_model::{
    call::Effect,
    fault::{Fault, FaultCode},
    identity::Role,
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What cannot change while a gateway runs and is connected; the link has its own test in `health`.
const CONSTANT: [&str; 3] = ["nhi_build_info", "nhi_gateway_linked", "nhi_gateway_start_time_seconds"];

/// A scrape: lines of numbers by family.
type Scrape = BTreeMap<String, BTreeSet<String>>;

/// Reads the text format as strictly as promtool does: HELP and TYPE once and first, numbers only of what is declared, no series
/// twice.
fn read(text: &str) -> Scrape {
    let (mut scrape, mut kinds, mut series) = (Scrape::new(), BTreeMap::new(), BTreeSet::new());
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.trim().is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "{name} has no HELP before its TYPE");
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is declared twice");
            scrape.insert(name.to_owned(), BTreeSet::new());
        } else if !line.starts_with('#') {
            let (one, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(series.insert(one.to_owned()), "{one} is there twice");
            let name = one.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let of_histogram = of_histogram.filter(|name| kinds.get(*name).is_some_and(|k| k == "histogram"));
            let family = of_histogram.unwrap_or(name);
            assert!(kinds.contains_key(family), "{family} is not declared");
            scrape.get_mut(family).unwrap().insert(line.to_owned());
        }
    }
    assert_eq!(helped.len(), kinds.len());
    scrape
}

async fn scrape(house: &House, who: &str) -> Scrape {
    let key = format!("Bearer {}", house.seed(who));
    let answer = house.send("GET", "/metrics", &[("Authorization", &key)], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    read(&answer.body)
}

fn spec(endpoint: &'static str) -> Spec {
    Spec { endpoint, effect: Effect::Read, description: "", stream: false }
}

/// Services that tell the facts of the moment `n`, 1 or 2: every fact is another one.
async fn tell(house: &mut House, n: &Arc<AtomicU64>) {
    // The keeper's own state, which has no records.
    house.keeper.pop().unwrap().stop().await;
    let home = house.nats.connect(&house.cx, "home").await;
    for (service, endpoint, facts) in [
        ("state", "get", state as fn(u64) -> Value),
        ("act", "list", plans),
        ("gpu", "get", gpus),
        ("ai", "usage", usage),
        ("ai", "jobs", jobs),
    ] {
        let n = n.clone();
        let answer = move |_, _: Value| {
            let n = n.load(Ordering::Relaxed);
            async move {
                match (endpoint, n) {
                    // Until later nobody knows of jobs.
                    ("jobs", 1) => Err(Fault::new(FaultCode::Unavailable, "not now", "")),
                    (_, n) => Ok(facts(n)),
                }
            }
        };
        let service = Services::new(service, "1.0.0", "facts").endpoint(spec(endpoint), answer);
        service.start(&house.cx, &home).await.unwrap();
    }
}

fn record(record: Value, live: Option<Value>) -> Value {
    let mut stored = json!({"revision": 1, "at": "2026-01-01T00:00:00Z", "op": "o", "record": record});
    if let Some(live) = live {
        stored["live"] = json!({"v": 1, "at": "2026-01-01T00:00:00Z", "valid_until": "2099-01-01T00:00:00Z", "record": live});
    }
    stored
}

fn state(n: u64) -> Value {
    let status = |a: &'static str, b: &'static str| if n == 1 { a } else { b };
    let mut records = BTreeMap::from([
        (
            "node.home.pve1".to_owned(),
            record(
                json!({"cluster": "home", "node": "pve1", "status": status("online", "offline"), "memory_bytes": 10 * n, "disk_bytes": 11 * n}),
                Some(json!({"cpu": 0.25 * n as f64, "mem": 12 * n, "disk": 13 * n, "uptime": 14 * n})),
            ),
        ),
        (
            "vm.home.100".to_owned(),
            record(
                json!({
                    "kind": "qemu", "cluster": "home", "vmid": 100, "name": "we\"b", "node": "pve1", "onboot": true,
                    "status": status("running", "stopped"), "template": false, "memory_bytes": 20 * n,
                    "address_source": {"kind": "not-read"}, "backups": {"kind": "none"},
                }),
                Some(json!({"cpu": 0.1 * n as f64, "mem": 21 * n})),
            ),
        ),
        (
            "storage.home.pve1.local".to_owned(),
            record(
                json!({"cluster": "home", "node": "pve1", "storage": "local", "shared": false, "active": n == 1, "enabled": true}),
                Some(json!({"total": 30 * n, "used": 31 * n})),
            ),
        ),
        (
            "source.home".to_owned(),
            record(
                json!({"kind": "proxmox", "place": "p", "coverage": {"kind": "complete"}}),
                Some(json!({"last_attempt": "2026-01-01T00:00:00Z", "duration_ms": 40 * n, "requests": 3})),
            ),
        ),
    ]);
    let alert = json!({"severity": "critical", "summary": "s", "hint": "h", "since": "2026-01-01T00:00:00Z"});
    if n == 2 {
        // More than a family shows, and one that nobody can read.
        for id in 0..2_001 {
            records.insert(format!("alert.scan.a{id}"), record(alert.clone(), None));
        }
        records.insert("lxc.home.7".to_owned(), record(json!({"kind": "teapot"}), None));
    }
    let coverage =
        if n == 1 { json!({"kind": "complete"}) } else { json!({"kind": "unseen", "reason": "r"}) };
    json!({
        "revision": 50 * n, "as_of": "2026-01-01T00:00:00Z", "records": records,
        "sources": {"home": {"coverage": coverage, "age_s": 60 * n}},
    })
}

fn plans(n: u64) -> Value {
    let row = |run: Value, approvals: u64, human: bool| {
        json!({
            "plan": "p-0k3x9a", "by": "aider", "made_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z",
            "summary": "s", "risk": "low", "verdict": verdict(), "approvals": approvals, "approvals_needed": 1,
            "state": {"is": "open"}, "run": run, "needs_human": human,
        })
    };
    if n == 1 {
        return json!({"plans": [row(Value::Null, 0, false)], "more": false});
    }
    let plans =
        [row(json!({"is": "running"}), 1, false), row(json!({"is": "needs-human", "text": "t"}), 1, true)];
    let frozen = json!({"by": "owner", "since": "2026-01-01T00:00:00Z", "reason": "r"});
    let hold = json!({"by": "aider", "until": "2026-01-02T00:00:00Z", "reason": "r"});
    json!({"plans": plans, "more": false, "frozen": frozen, "holds": [{"guest": "vm.home.100", "hold": hold}]})
}

/// As the model writes it, whatever that is.
fn verdict() -> Value {
    serde_json::to_value(nhi_model::plan::Verdict::Approval).unwrap()
}

fn gpus(n: u64) -> Value {
    let light = if n == 1 { "green" } else { "red" };
    json!({"gpus": {"pc": {
        "gpu": {"host": "pc", "cards": [{"id": "GPU-1", "name": "RTX", "vram_bytes": 70 * n}]}, "available": n == 1, "text": "t",
        "gauges": {
            "light": light, "reason": "idle", "text": "t", "since": "2026-01-01T00:00:00Z", "running": 71 * n, "waiting": 72 * n,
            "cards": [{"id": "GPU-1", "utilization_percent": 10 * n, "vram_used_bytes": 73 * n, "temperature_c": 30 * n, "power_w": 74 * n}],
        },
    }}})
}

fn usage(n: u64) -> Value {
    json!({
        "rows": [{
            "of": "groq/llama/3", "requests": 10 * n, "failed": n, "cancelled": n, "input_tokens": 80 * n, "output_tokens": 81 * n,
            "cost": 0.5 * n as f64, "latency": {"counts": [n, 0, 0, 0, 0, 0, 0, 0, 0, 2 * n], "count": 8 * n, "sum_ms": 1500 * n},
            "tasks": {"coding": 4 * n, "simple": 6 * n},
        }],
        "quotas": [{"provider": "groq", "what": "requests a day", "used": 5 * n, "limit": 100 * n, "resets_at": "2026-01-01T00:00:00Z"}],
    })
}

fn jobs(n: u64) -> Value {
    let job = |id: u64| {
        json!({
            "job": id.to_string(), "by": "aider", "at": "2026-01-01T00:00:00Z", "priority": "low", "asked": "auto",
            "state": {"is": "waiting", "text": "t"},
        })
    };
    json!({"jobs": (0..n).map(job).collect::<Vec<_>>()})
}

#[tokio::test]
async fn every_declared_number_follows_the_facts() {
    let mut house = House::open().await;
    let n = Arc::new(AtomicU64::new(1));
    tell(&mut house, &n).await;
    let before = wait_for("the first facts", SOON, async || {
        let seen = scrape(&house, "owner").await;
        let is_known = seen["nhi_state_revision"].contains("nhi_state_revision 50")
            && seen["nhi_service_instances"].iter().any(|line| line.contains("kettle"));
        if is_known { Ok(seen) } else { Err(seen) }
    })
    .await;
    assert!(before.len() > 50, "{:?}", before.keys());

    // The control: what is compared below stands still while the facts do.
    let again = scrape(&house, "owner").await;
    let moved = |a: &Scrape, b: &Scrape| -> Vec<String> {
        a.keys().filter(|name| a[*name] != b[*name]).cloned().collect()
    };
    let own = moved(&before, &again);
    assert!(
        own.iter()
            .all(|name| name.starts_with("nhi_gateway_requests") || name.starts_with("nhi_gateway_request_")),
        "{own:?}"
    );

    n.store(2, Ordering::Relaxed);
    house.raw("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    // Another caller, another version of a service.
    house.nats.add("watcher", Role::Viewer).await;
    let home = house.nats.connect(&house.cx, "home").await;
    let newer = Services::new("kettle", "2.0.0", "a kettle")
        .endpoint(spec("tell"), |_, _: Value| async { Ok(json!({})) });
    newer.start(&house.cx, &home).await.unwrap();
    let listener = listen(&house, "owner").await;
    let after = wait_for("the later facts", SOON, async || {
        let seen = scrape(&house, "watcher").await;
        let is_known = seen["nhi_state_revision"].contains("nhi_state_revision 100")
            && seen["nhi_service_instances"].iter().any(|line| line.contains("2.0.0"));
        if is_known { Ok(seen) } else { Err(seen) }
    })
    .await;
    drop(listener);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let moved: BTreeSet<String> = moved(&before, &after).into_iter().collect();
    let still: Vec<&String> = before.keys().filter(|name| !moved.contains(*name)).collect();
    assert_eq!(still, CONSTANT.iter().collect::<Vec<_>>(), "a number that does not follow the facts is none");
    check_values(&before, &after);
    house.close().await;
}

/// A reader of the events who has had the first one.
async fn listen(house: &House, who: &str) -> TcpStream {
    let mut stream = TcpStream::connect(house.addr).await.unwrap();
    let key = house.seed(who);
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut text, mut bytes) = (String::new(), [0; 1024]);
    while !text.contains("event: hello") {
        let read = tokio::time::timeout(SOON, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    stream
}

/// Some of them by their values.
fn check_values(before: &Scrape, after: &Scrape) {
    let has = |scrape: &Scrape, line: &str| {
        let family = line.split(['{', ' ']).next().unwrap();
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
        assert!(scrape[family].contains(line), "{line} is not among {:#?}", scrape[family]);
    };
    for (first, then) in [
        (
            "nhi_guests{cluster=\"home\",kind=\"qemu\",status=\"running\"} 1",
            "nhi_guests{cluster=\"home\",kind=\"qemu\",status=\"stopped\"} 1",
        ),
        (
            "nhi_guest_running{cluster=\"home\",node=\"pve1\",kind=\"qemu\",vmid=\"100\",name=\"we\\\"b\",onboot=\"true\"} 1",
            "nhi_guest_running{cluster=\"home\",node=\"pve1\",kind=\"qemu\",vmid=\"100\",name=\"we\\\"b\",onboot=\"true\"} 0",
        ),
        ("nhi_node_up{cluster=\"home\",node=\"pve1\"} 1", "nhi_node_up{cluster=\"home\",node=\"pve1\"} 0"),
        ("nhi_alerts{severity=\"critical\"} 0", "nhi_alerts{severity=\"critical\"} 2001"),
        ("nhi_source_age_seconds{source=\"home\"} 60", "nhi_source_age_seconds{source=\"home\"} 120"),
        ("nhi_plans_open{state=\"approval\"} 1", "nhi_plans_open{state=\"running\"} 1"),
        ("nhi_runs_open{state=\"running\"} 0", "nhi_runs_open{state=\"running\"} 1"),
        ("nhi_frozen 0", "nhi_frozen 1"),
        ("gpu_semaphore_state{host=\"pc\"} 2", "gpu_semaphore_state{host=\"pc\"} 0"),
        ("neural_home_gpu_status{host=\"pc\"} 1", "neural_home_gpu_status{host=\"pc\"} 0"),
        (
            "gpu_temperature_celsius{host=\"pc\",card=\"GPU-1\"} 30",
            "gpu_temperature_celsius{host=\"pc\",card=\"GPU-1\"} 60",
        ),
        (
            "api_requests_total{provider=\"groq\",status=\"success\"} 8",
            "api_requests_total{provider=\"groq\",status=\"success\"} 16",
        ),
        (
            "api_latency_seconds_bucket{provider=\"groq\",le=\"120\"} 3",
            "api_latency_seconds_bucket{provider=\"groq\",le=\"+Inf\"} 16",
        ),
        ("api_latency_seconds_sum{provider=\"groq\"} 1.5", "api_latency_seconds_sum{provider=\"groq\"} 3"),
        (
            "routing_decision{task_type=\"coding\",provider=\"groq\"} 4",
            "routing_decision{task_type=\"coding\",provider=\"groq\"} 8",
        ),
        (
            "api_quota_remaining{provider=\"groq\",window=\"requests a day\"} 95",
            "api_quota_remaining{provider=\"groq\",window=\"requests a day\"} 190",
        ),
        ("nhi_metrics_source_up{source=\"ai.jobs\"} 0", "nhi_metrics_source_up{source=\"ai.jobs\"} 1"),
    ] {
        has(before, first);
        has(after, then);
    }
    assert!(before["nhi_ai_jobs"].is_empty(), "what nobody answered is missing");
    has(after, "nhi_ai_jobs{state=\"waiting\"} 2");
    has(after, "nhi_metrics_unreadable_records 1");
    has(after, "nhi_metrics_dropped_series 1");
}

#[tokio::test]
async fn the_lab_is_told_to_those_who_may_read_it() {
    let house = House::open().await;
    let anonymous = house.get("/metrics").await;
    assert_eq!(anonymous.status, 200);
    let own = read(&anonymous.body);
    assert!(own.contains_key("nhi_gateway_requests_total"), "{own:?}");
    assert!(
        own.keys().all(|name| ["nhi_gateway_", "nhi_build_", "nhi_events_"]
            .iter()
            .any(|about| name.starts_with(about))),
        "{own:?}"
    );

    assert!(scrape(&house, "owner").await.contains_key("nhi_guests"));
    house.nats.add("desk", Role::Edge).await;
    let key = format!("Bearer {}", house.seed("desk"));
    let refused = wait_for("the new identity to be known", SOON, async || {
        let answer = house.send("GET", "/metrics", &[("Authorization", &key)], "").await;
        if answer.status == 401 { Err(answer) } else { Ok(answer) }
    })
    .await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{refused:?}");
    let unknown = house.send("GET", "/metrics", &[("Authorization", "Bearer SUnothing")], "").await;
    assert_eq!(unknown.status, 401, "{unknown:?}");
    house.close().await;
}
