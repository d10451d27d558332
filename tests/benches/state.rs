//! What reading the state now and in the past costs over a history of a million entries, against reading the stream and
//! folding it, which is what whoever has only a message log would do. The keeper runs as the product runs it and is
//! asked as the owner.
//!
//! `cargo bench -p nhi-tests --bench state`; `-- 5` after it makes 5 versions of each record instead of 100.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod filled;

use async_nats::jetstream::{self, consumer::pull::OrderedConfig};
use filled::Filled;
use futures::StreamExt as _;
use nhi_agents::state;
use nhi_bus::{call::call, connect::Bus};
use nhi_model::{
    call::{At, StateDiff, StateDiffed, StateGet, StateGot, StateHistoried, StateHistory},
    subject::{STATE_BUCKET, bucket_stream},
};
use nhi_tests::measure::{Table, machine, note, percentile, times, told};
use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

const RECORDS: usize = 10_000;
/// Versions of each record: a million entries.
const VERSIONS: usize = 100;
/// A record in the middle of them.
const ONE: &str = "vm.home.5100";
/// How often each question is asked, and the time after which it is not asked again.
const ROUNDS: usize = 20;
const ROUNDS_TIME: Duration = Duration::from_secs(10);
/// Longest that all of it may take; filling is most of it.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() {
    let machine = machine();
    // Cargo adds `--bench`.
    let versions = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(VERSIONS);
    let measured = tokio::time::timeout(PATIENCE, measure(versions.max(2))).await;
    let (head, table) = measured.unwrap_or_else(|_| panic!("not measured within {PATIENCE:?}"));
    println!("{machine}; {head}\n\n{table}");
}

async fn measure(versions: usize) -> (String, Table) {
    let began = Instant::now();
    note(&format!("filling the bucket with {versions} versions of {RECORDS} records"));
    let mut filled = Filled::with(RECORDS).await;
    let (mut middle, mut last) = (0, 0);
    for version in 1..versions {
        last = filled.change_all().await.revision;
        if version == versions / 2 {
            middle = last;
        }
        if (version + 1).is_multiple_of(10) {
            note(&format!("{last} entries after {}", told(began.elapsed())));
        }
    }
    let before_last_change = last;
    last = filled.change(0, 10).await.revision;
    let head = format!("{RECORDS} records, {last} entries, written in {}", told(began.elapsed()));

    let options = state::Options { registry: filled.nats.dir() };
    let keeper = state::run(&filled.cx, filled.nats.connect(&filled.cx, "state").await, options).await;
    let keeper = keeper.expect("the keeper runs");
    let owner = filled.nats.connect(&filled.cx, "owner").await;
    note("reading the stream up to the middle");
    let folded = read_the_stream(&filled, middle).await;
    let mut table = Table::new(&["question", "answer", "p50", "longest", "against reading the stream"]);
    let reading = [format!("{} records", folded.1), told(folded.0), "–".to_owned(), "1 ×".to_owned()];
    table.row(["reading the stream up to the middle".to_owned()].into_iter().chain(reading));
    ask_all(&mut table, &owner, folded.0, middle, before_last_change).await;
    keeper.stop().await;
    filled.cx.close().await;
    (head, table)
}

async fn ask_all(table: &mut Table, owner: &Bus, reference: Duration, middle: u64, before_last_change: u64) {
    let some = || vec![ONE.to_owned()];
    for (name, at, select) in [
        ("state.get, one record, now", None, some()),
        ("state.get, all records, now", None, Vec::new()),
        ("state.get, one record, in the middle", Some(At::Revision(middle)), some()),
        ("state.get, all records, in the middle", Some(At::Revision(middle)), Vec::new()),
    ] {
        ask(table, name, reference, async || get(owner, at, &select).await).await;
    }
    for (name, from) in
        [("state.diff, ten records changed", before_last_change), ("state.diff, all records changed", middle)]
    {
        let request = StateDiff { from: At::Revision(from), to: None };
        ask(table, name, reference, async || {
            let diffed: StateDiffed = call(owner, "state", "diff", &request).await.expect("an answer");
            let cut = if diffed.truncated { ", cut to a page" } else { "" };
            format!("{} changes{cut}", diffed.changes.len())
        })
        .await;
    }
    let request = StateHistory { select: ONE.to_owned(), since: None, limit: Some(20) };
    ask(table, "state.history, one record", reference, async || {
        let history: StateHistoried = call(owner, "state", "history", &request).await.expect("an answer");
        format!("{} versions", history.versions.len())
    })
    .await;
}

/// Asks again and again and adds a row.
async fn ask(table: &mut Table, name: &str, reference: Duration, mut question: impl AsyncFnMut() -> String) {
    note(name);
    let (mut taken, mut answer, asked) = (Vec::new(), String::new(), Instant::now());
    while taken.len() < ROUNDS && (taken.is_empty() || asked.elapsed() < ROUNDS_TIME) {
        let began = Instant::now();
        answer = question().await;
        taken.push(began.elapsed());
    }
    let [half, most] = [50, 100].map(|percent| percentile(&taken, percent));
    table.row([name.to_owned(), answer, told(half), told(most), times(reference, half)]);
}

/// All pages of an answer.
async fn get(owner: &Bus, at: Option<At>, select: &[String]) -> String {
    let mut request = StateGet { at, select: select.to_vec(), ..StateGet::default() };
    let (mut records, mut pages) = (0, 0);
    loop {
        let got: StateGot = call(owner, "state", "get", &request).await.expect("an answer");
        records += got.records.len();
        pages += 1;
        let Some(next) = got.next else { return format!("{records} records, {pages} pages") };
        request.at = Some(At::Revision(got.revision));
        request.cursor = Some(next);
    }
}

/// The state at a revision as the stream alone tells it: every message from the first on, the last of each key kept.
async fn read_the_stream(filled: &Filled, up_to: u64) -> (Duration, usize) {
    let context = jetstream::new(filled.nats.raw("home").await);
    let stream = context.get_stream(bucket_stream(STATE_BUCKET)).await.expect("the bucket");
    let began = Instant::now();
    let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    let mut records = BTreeMap::new();
    while let Some(message) = messages.next().await {
        let message = message.expect("a message");
        let sequence = message.info().expect("it comes from a stream").stream_sequence;
        if sequence <= up_to {
            let stored: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
            records.insert(message.subject.to_string(), stored);
        }
        if sequence >= up_to {
            break;
        }
    }
    (began.elapsed(), records.len())
}
