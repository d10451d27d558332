//! What checking the whole audit log costs over a million entries, against reading the same stream with the library's
//! own ordered consumer and nothing else; and what an entry costs that is written.
//!
//! `cargo bench -p nhi-tests --bench audit`; `-- 100000` after it makes so many entries.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use futures::{StreamExt as _, future::join_all};
use nhi_bus::{
    audit,
    connect::Bus,
    cx::Cx,
    store::{self, StoreSettings},
};
use nhi_model::{
    audit::{AuditEntry, AuditKind},
    identity,
    subject::{self, AUDIT_STREAM},
};
use nhi_testkit::{Controls, Nats, wait_for};
use nhi_tests::measure::{Table, machine, note, percentile, times, told};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    time::{Duration, Instant},
};

/// A busy year or ten.
const ENTRIES: u64 = 1_000_000;
/// Entries between two looks at how far the server is, while filling.
const BURST: u64 = 20_000;
/// Entries written one by one.
const APPENDS: usize = 500;
/// Longest that all of it may take; filling is most of it.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() {
    let machine = machine();
    // Cargo adds `--bench`.
    let entries = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ENTRIES);
    let measured = tokio::time::timeout(PATIENCE, measure(entries)).await;
    let (head, table) = measured.unwrap_or_else(|_| panic!("not measured within {PATIENCE:?}"));
    println!("{machine}; {head}\n\n{table}");
}

async fn measure(entries: u64) -> (String, Table) {
    let mut table = Table::new(&["what", "answer", "took", "against"]);
    writing(&mut table).await;
    let began = Instant::now();
    note(&format!("filling the log with {entries} entries"));
    // Filling with a sync for each would take the longest; reading is the same.
    let nats = Nats::start_with(Controls { default_sync_interval: true, ..Controls::default() }).await;
    let cx = Cx::new();
    let home = nats.connect(&cx, "home").await;
    store::provision(&home, &StoreSettings { replicas: 1 }).await.expect("streams can be made");
    let bytes = fill(&nats, entries).await;
    let head =
        format!("{entries} entries of {} bytes, written in {}", bytes / entries, told(began.elapsed()));

    note("reading with the library's ordered consumer");
    let reference = read_with_library(&nats, entries).await;
    table.row(["reading it with the library".to_owned(), String::new(), told(reference), "1 ×".to_owned()]);
    note("verifying");
    let began = Instant::now();
    let verified = audit::verify(&home).await.expect("it can be read");
    let took = began.elapsed();
    assert_eq!((verified.entries, verified.intact), (entries, true), "{verified:?}");
    let answer = format!("{} intact", verified.entries);
    table.row(["audit verify".to_owned(), answer, told(took), times(reference, took)]);
    note("exporting");
    let began = Instant::now();
    let lines = audit::export(&home, 0, &mut std::io::sink(), |_| {}).await.expect("it can be read");
    let took = began.elapsed();
    table.row(["audit export".to_owned(), format!("{lines} lines"), told(took), times(reference, took)]);
    home.close().await;
    cx.close().await;
    (head, table)
}

/// With a sync for each entry, as the product runs.
async fn writing(table: &mut Table) {
    note("writing");
    let nats = Nats::start().await;
    let cx = Cx::new();
    let home = nats.connect(&cx, "home").await;
    store::provision(&home, &StoreSettings { replicas: 1 }).await.expect("streams can be made");
    let mut taken = Vec::new();
    let act = nats.connect(&cx, "act").await;
    for number in 0..APPENDS {
        taken.push(append(&act, number).await);
    }
    let [half, most] = [50, 99].map(|percent| percentile(&taken, percent));
    let name = "audit append, one writer".to_owned();
    table.row([name, format!("p50 {}, p99 {}", told(half), told(most)), told(half), "–".to_owned()]);
    let mut writers = Vec::new();
    for who in ["act", "scan", "state", "route", "mirror"] {
        writers.push(nats.connect(&cx, who).await);
    }
    let began = Instant::now();
    let all = writers.iter().map(|bus| async move {
        let mut taken = Vec::new();
        for number in 0..APPENDS / 5 {
            taken.push(append(bus, number).await);
        }
        taken
    });
    let taken: Vec<Duration> = join_all(all).await.into_iter().flatten().collect();
    let [half, most] = [50, 99].map(|percent| percentile(&taken, percent));
    let name = format!("audit append, five agents at once, {APPENDS} entries");
    let answer = format!("p50 {}, p99 {}", told(half), told(most));
    table.row([name, answer, told(began.elapsed()), "–".to_owned()]);
    cx.close().await;
}

async fn append(bus: &Bus, number: usize) -> Duration {
    let began = Instant::now();
    audit::append(bus, AuditKind::StepSent, Some(&identity::owner()), details(number as u64))
        .await
        .expect("appended");
    began.elapsed()
}

/// What the actuator writes of a step.
fn details(number: u64) -> BTreeMap<String, Value> {
    [
        ("run", json!(format!("r-{number:08}"))),
        ("plan", json!(format!("p-{number:08}"))),
        ("step", json!(number % 7)),
        ("guest", json!("vm.home.105")),
        ("upid", json!("UPID:pve1:0003A5B2:0A1B2C3D:69213A4F:qmstart:105:nhi@pve!act:")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The entries as they would be written, chained; returns their bytes.
async fn fill(nats: &Nats, entries: u64) -> u64 {
    let raw = nats.raw("home").await;
    let mut entry = AuditEntry {
        v: 1,
        at: nhi_model::Timestamp::now(),
        agent: identity::home(),
        kind: AuditKind::StepSent,
        actor: Some(identity::owner()),
        details: BTreeMap::new(),
        prev: String::new(),
        hash: String::new(),
    };
    let mut bytes = 0;
    for number in 1..=entries {
        entry.details = details(number);
        entry.hash = String::new();
        let unsealed = serde_json::to_vec(&entry).expect("an entry is JSON");
        let mut hash = String::with_capacity(64);
        for byte in Sha256::digest(unsealed) {
            write!(hash, "{byte:02x}").expect("a string takes it");
        }
        entry.hash = hash;
        let text = serde_json::to_vec(&entry).expect("an entry is JSON");
        bytes += text.len() as u64;
        raw.publish(subject::audit(&identity::home()), text.into()).await.expect("published");
        entry.prev = entry.hash.clone();
        if number % BURST == 0 || number == entries {
            wait_for("the entries", PATIENCE, async || last(&raw).await >= number).await;
        }
        if number % 100_000 == 0 {
            note(&format!("{number} entries"));
        }
    }
    bytes
}

async fn last(raw: &async_nats::Client) -> u64 {
    let answer =
        raw.request(format!("$JS.API.STREAM.INFO.{AUDIT_STREAM}"), "".into()).await.expect("an answer");
    let info: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    info["state"]["last_seq"].as_u64().expect("a number")
}

async fn read_with_library(nats: &Nats, entries: u64) -> Duration {
    let context = jetstream::new(nats.raw("home").await);
    let stream = context.get_stream(AUDIT_STREAM).await.expect("the log");
    let began = Instant::now();
    let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    let mut read = 0;
    while read < entries {
        let message = messages.next().await.expect("it goes on").expect("a message");
        read = message.info().expect("it comes from a stream").stream_sequence;
    }
    began.elapsed()
}
