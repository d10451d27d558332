//! What a power cut would take. A process that is killed loses nothing it gave to the kernel, so kills say nothing about
//! `sync_interval: always`; this does. The power cannot be cut here. Instead the server is stopped, its store is copied
//! without the pages that the kernel has not written yet (see `power_cut.py`), the server is killed, and a new one starts
//! on the copy. What a disk itself forgets after it has confirmed a write is not covered.
//!
//! Where the kernel does not tell which pages are written (Linux before 6.5, a store in memory), that one test says so and
//! what remains is the server's own word, which the other one asks for.

use crate::SOON;
use nhi_bus::{cx::Cx, store};
use nhi_decide::change::{Change, What};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    key::Key,
    subject::{STATE_BUCKET, bucket_stream},
};
use nhi_testkit::{Controls, Nats, wait_for};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, process::Command};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Commits before the cut: some single records, some batches.
const COMMITS: u64 = 20;
/// The kernel may write a page by itself at any time, so a control that lost nothing is tried again.
const CONTROL_TRIES_MAX: u32 = 3;

fn without_sync() -> Controls {
    Controls { default_sync_interval: true, ..Controls::default() }
}

#[tokio::test]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    match lost_by_a_power_cut(Controls::default()).await {
        Ok(lost) => assert!(lost.is_empty(), "acknowledged and gone: {lost:?}"),
        Err(blind) => println!("not shown on this machine: {blind}"),
    }
}

#[tokio::test]
async fn control_without_sync_a_power_cut_takes_acknowledged_writes() {
    for _ in 0..CONTROL_TRIES_MAX {
        match lost_by_a_power_cut(without_sync()).await {
            Ok(lost) if lost.is_empty() => {}
            Ok(_) => return,
            Err(blind) => return println!("not shown on this machine: {blind}"),
        }
    }
    panic!("the control must lose something, or the test above proves nothing");
}

/// The revisions that were acknowledged before the cut and are not there after it. `Err` when it cannot be told.
async fn lost_by_a_power_cut(controls: Controls) -> Result<Vec<u64>, String> {
    let (cx, mut nats) = (Cx::new(), Nats::start_with(controls).await);
    let home = nats.connect(&cx, "home").await;
    store::provision(&home, &store::StoreSettings { replicas: 1 }).await.unwrap();
    // A mesh does not lose its power in its first second: the streams themselves are on the disk in both cases.
    sync_files(&nats.store_dir());
    let mut acknowledged = BTreeMap::new();
    for number in 0..COMMITS {
        let op = OpId(format!("op-{number}"));
        // Every third a batch: it is written in another way.
        let records = if number % 3 == 0 { 5 } else { 1 };
        let changes: Vec<Change> = (0..records).map(|place| host(number, place)).collect();
        let done = store::commit(&home, &op, Timestamp::now(), &changes).await.unwrap();
        acknowledged.extend((0..records).map(|back| (done.revision - back, op.clone())));
    }
    home.close().await;
    cx.close().await;

    let image = nats.dir().join("image");
    signal(nats.pid().unwrap(), "-STOP");
    let copied = copy_what_is_written(&nats.store_dir(), &image);
    nats.kill9().await;
    copied?;
    fs::rename(nats.store_dir(), nats.dir().join("before")).unwrap();
    fs::rename(&image, nats.store_dir()).unwrap();
    nats.restart().await;

    let client = nats.raw("home").await;
    let mut lost = Vec::new();
    for (revision, op) in acknowledged {
        let ask = format!("$JS.API.STREAM.MSG.GET.{}", bucket_stream(STATE_BUCKET));
        let body = json!({ "seq": revision }).to_string();
        let answer = client.request(ask, body.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        let subject = answer["message"]["subject"].as_str().unwrap_or_default();
        let number = op.0.trim_start_matches("op-");
        if !subject.contains(&format!("machine-{number}-")) {
            lost.push(revision);
        }
    }
    Ok(lost)
}

fn host(number: u64, place: u64) -> Change {
    let name = format!("machine-{number}-{place}");
    let record = json!({ "host": name, "facts": { "filler": "x".repeat(200) } });
    let key = Key::parse(&format!("host.{name}")).unwrap();
    Change { key, expected: 0, what: What::Put { record, stale: None } }
}

fn sync_files(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            sync_files(&entry.path());
        } else {
            fs::File::open(entry.path()).unwrap().sync_all().unwrap();
        }
    }
}

/// `Err` with the reason when the kernel does not tell what is written.
fn copy_what_is_written(from: &Path, to: &Path) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill/power_cut.py");
    let output = Command::new("python3").arg(script).arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    match told["blind"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Ok(()),
    }
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn the_server_says_that_it_syncs_always() {
    assert_eq!(sync_always(Controls::default()).await, Value::Bool(true));
}

#[tokio::test]
async fn control_the_server_says_when_it_does_not() {
    assert_ne!(sync_always(without_sync()).await, Value::Bool(true));
}

/// `sync_always` of the configuration in force, from a monitoring port that only this test opens.
async fn sync_always(controls: Controls) -> Value {
    let mut nats = Nats::start_with(controls).await;
    nats.stop().await;
    let config = nats.dir().join("nats-server.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\nhttp: \"127.0.0.1:-1\"\n")).unwrap();
    nats.restart().await;
    let ports = format!("_{}.ports", nats.pid().unwrap());
    let monitoring = wait_for("the monitoring port", SOON, async || {
        let files = fs::read_dir(nats.dir().join("run")).unwrap().flatten();
        let file = files.map(|file| file.path()).find(|path| path.to_string_lossy().ends_with(&ports))?;
        let told: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        told["monitoring"][0].as_str().map(str::to_owned)
    })
    .await;
    let mut stream = TcpStream::connect(monitoring.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /jsz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let told: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(told["config"]["store_dir"].is_string(), "{told}");
    told["config"]["sync_always"].clone()
}
