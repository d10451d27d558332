//! How long a change takes until it is in `state.json` and on the disk, for small and large labs, against an atomic batch
//! of the same size alone. The mirror runs as the product runs it, with its own identity and its own view.
//!
//! `cargo bench -p nhi-tests --bench mirror`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod filled;

use async_nats::{Client, HeaderMap};
use filled::Filled;
use nhi_agents::mirror::{self, files::Files};
use nhi_bus::view::View;
use nhi_decide::render::{self, MirrorInput};
use nhi_model::Timestamp;
use nhi_tests::measure::{Table, machine, note, percentile, size, times, told};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

/// Sizes of the lab, and how many commits are measured at each.
const SIZES: [(usize, usize); 3] = [(20, 100), (1_000, 100), (10_000, 40)];
/// Records of one commit: a pass over a lab where something happened.
const CHANGED: usize = 10;
/// Between two commits: more than the mirror's own pause, so that none waits for the one before.
const PACE: Duration = Duration::from_millis(250);
/// How often the parts of the work are measured.
const PARTS_ROUNDS: u64 = 20;
/// Longest that one commit may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The stream of the batches that are measured alone.
const ALONE: &str = "ALONE";

#[tokio::main]
async fn main() {
    let machine = machine();
    let mut table = Table::new(&[
        "records",
        "state.json",
        "",
        "batch alone",
        "our commit",
        "text made",
        "files written",
        "commit to disk",
        "against the batch",
    ]);
    for (records, rounds) in SIZES {
        measure(records, rounds, &mut table).await;
    }
    println!("{machine}; a commit changes {CHANGED} records\n\n{table}");
}

async fn measure(records: usize, rounds: usize, table: &mut Table) {
    note(&format!("{records} records: filling the bucket"));
    let mut filled = Filled::with(records).await;
    let raw = filled.nats.raw("home").await;
    make_stream(&raw).await;
    let dir = tempfile::tempdir().expect("a directory");
    let bus = filled.nats.connect(&filled.cx, "mirror").await;
    let zone = jiff::tz::TimeZone::UTC;
    let options = mirror::Options { dir: dir.path().to_owned(), generator: "bench".to_owned(), zone };
    let handle = mirror::run(&filled.cx, bus, options).await.expect("the mirror runs");
    let mut progress = handle.progress();
    let started = progress.wait_for(|progress| progress.revision.is_some());
    drop(tokio::time::timeout(PATIENCE, started).await.expect("the first files").expect("a mirror"));

    note(&format!("{records} records: {rounds} commits, {} ms apart", PACE.as_millis()));
    let (mut alone, mut commits, mut totals) = (Vec::new(), Vec::new(), Vec::new());
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0..rounds {
        pace.tick().await;
        alone.push(batch_alone(&raw, round).await);
        let began = Instant::now();
        let done = filled.change(round * CHANGED % (records - CHANGED + 1), CHANGED).await;
        commits.push(began.elapsed());
        let shown = progress.wait_for(|progress| progress.revision >= Some(done.revision));
        drop(tokio::time::timeout(PATIENCE, shown).await.expect("the files follow").expect("a mirror"));
        totals.push(began.elapsed());
    }
    let bytes = size(fs::metadata(dir.path().join("state.json")).expect("it is there").len());
    let (renderings, files) = parts(&filled).await;
    for percent in [50, 99] {
        let all = [&alone, &commits, &renderings, &files, &totals];
        let [batch, commit, render, write, total] = all.map(|times| percentile(times, percent));
        let cells = [told(batch), told(commit), told(render), told(write), told(total), times(total, batch)];
        let head = [records.to_string(), bytes.clone(), format!("p{percent}")];
        table.row(head.into_iter().chain(cells));
    }
    check(dir.path());
    filled.cx.close().await;
}

/// The two parts of the mirror's work, each alone: the text, and the pair of files on the disk.
async fn parts(filled: &Filled) -> (Vec<Duration>, Vec<Duration>) {
    let view = View::open(&filled.cx, &filled.home).await.expect("the state can be followed");
    let snapshot = view.read();
    let dir = tempfile::tempdir().expect("a directory");
    let (mut files, _) = Files::open(dir.path()).expect("nobody else writes there");
    let (mut renderings, mut writings) = (Vec::new(), Vec::new());
    let (now, live) = (Timestamp::now(), BTreeMap::new());
    for revision in 1..=PARTS_ROUNDS {
        let began = Instant::now();
        let rendered = render::render(&MirrorInput {
            now,
            offset: jiff::tz::Offset::UTC,
            revision,
            scan_duration_ms: 0,
            generator: "bench",
            records: snapshot.records.iter().map(|(key, entry)| (key, &*entry.stored)).collect(),
            stale: None,
            live: &live,
        });
        renderings.push(began.elapsed());
        let began = Instant::now();
        files.commit(revision, now, &rendered.state_json).expect("there is room");
        writings.push(began.elapsed());
    }
    (renderings, writings)
}

/// What was measured must be the real thing.
fn check(dir: &Path) {
    nhi_tests::state_file::read(dir, |_| {}).expect("the pair is whole");
}

async fn make_stream(raw: &Client) {
    let config = json!({
        "name": ALONE, "subjects": ["alone.>"], "storage": "file", "retention": "limits", "discard": "new",
        "num_replicas": 1, "allow_atomic": true, "max_msgs_per_subject": 1000, "max_msgs": -1, "max_bytes": -1,
        "max_age": 0, "max_msg_size": -1, "max_consumers": -1,
    });
    let body = serde_json::to_vec(&config).expect("JSON");
    let answer = raw.request(format!("$JS.API.STREAM.CREATE.{ALONE}"), body.into()).await.expect("an answer");
    assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
}

/// The same number of messages of the same size, sent and acknowledged without anything of ours.
async fn batch_alone(raw: &Client, round: usize) -> Duration {
    let body = "x".repeat(1200);
    let began = Instant::now();
    for place in 1..=CHANGED {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", format!("alone-{round}"));
        headers.insert("Nats-Batch-Sequence", place.to_string());
        let subject = format!("alone.{place}");
        match place {
            1 => drop(raw.request_with_headers(subject, headers, body.clone().into()).await.expect("opened")),
            CHANGED => {
                headers.insert("Nats-Batch-Commit", "1");
                let answer = raw.request_with_headers(subject, headers, body.clone().into()).await;
                let answer = answer.expect("committed").payload;
                assert!(!String::from_utf8_lossy(&answer).contains("error"), "{answer:?}");
            }
            _ => raw.publish_with_headers(subject, headers, body.clone().into()).await.expect("sent"),
        }
    }
    began.elapsed()
}
