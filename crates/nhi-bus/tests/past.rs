//! Time travel against the real server: what is told about the past equals a replay of what was written.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/records.rs"]
mod records;

use lab::{Lab, api, fill};
use nhi_bus::{
    past::{self, Past, PastError},
    store,
    view::Entry,
};
use nhi_decide::change::{Change, What};
use nhi_model::{
    call::{At, RecordDiff, StateHistory},
    envelope::OpId,
    key::Key,
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use records::{at, commit, key, put, retire};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A state as the model sees it: value and revision by key.
type Model = BTreeMap<Key, (Value, u64)>;

/// One commit of a script: the second it is made at, and for each record a new value or its end.
type Step = (i64, BTreeMap<u8, Option<u16>>);

/// What the bucket must say, by the last revision of each commit.
#[derive(Default)]
struct Replay {
    /// Revision at the end of a commit, its time, and the state then.
    commits: Vec<(u64, i64, Model)>,
    /// Revisions of each key, oldest first.
    versions: BTreeMap<Key, Vec<u64>>,
}

impl Replay {
    /// The state at a revision: that of the last commit that ended by then.
    fn at(&self, revision: u64) -> (u64, Model) {
        let commit = self.commits.iter().rev().find(|(end, _, _)| *end <= revision);
        commit.map_or((0, Model::new()), |(end, _, model)| (*end, model.clone()))
    }
}

fn scripts() -> impl Strategy<Value = Vec<Step>> {
    let changes = prop::collection::btree_map(0..8_u8, prop::option::weighted(0.8, 0..100_u16), 1..6);
    prop::collection::vec((0..3_i64, changes), 1..14)
}

/// Writes a script, and keeps what it must have led to.
async fn play(lab: &Lab, script: &[Step]) -> Replay {
    let mut replay = Replay::default();
    let (mut model, mut second) = (Model::new(), 0);
    for (number, (pause, wanted)) in script.iter().enumerate() {
        second += pause;
        let mut changes = Vec::new();
        for (id, value) in wanted {
            let id = format!("p{id}");
            let expected = model.get(&key(&id)).map_or(0, |(_, revision)| *revision);
            match value {
                Some(value) => changes.push(put(&id, expected, *value)),
                None if expected > 0 => changes.push(retire(&id, expected)),
                None => {}
            }
        }
        let op = OpId(format!("op{number}"));
        let done = store::commit(&lab.scan, &op, at(second), &changes).await.unwrap();
        let first = done.revision + 1 - changes.len() as u64;
        for (revision, change) in (first..).zip(&changes) {
            replay.versions.entry(change.key.clone()).or_default().push(revision);
            match &change.what {
                What::Put { record, .. } => model.insert(change.key.clone(), (record.clone(), revision)),
                What::Retire => model.remove(&change.key),
            };
        }
        if !changes.is_empty() {
            replay.commits.push((done.revision, second, model.clone()));
        }
    }
    replay
}

fn told(past: &Past) -> Model {
    let rows = past.records.iter();
    rows.map(|(key, entry)| (key.clone(), (entry.stored.record.clone(), entry.revision))).collect()
}

fn cases() -> u32 {
    if std::env::var_os("NHI_FULL").is_some() { 200 } else { 6 }
}

/// Scripts from a fixed seed, each with a lab of its own.
async fn for_each_script(mut check: impl AsyncFnMut(&Lab, &[Step])) {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    for _ in 0..cases() {
        let script = scripts().new_tree(&mut runner).unwrap().current();
        let lab = Lab::start().await;
        check(&lab, &script).await;
        lab.cx.close().await;
    }
}

#[tokio::test]
async fn time_travel_equals_a_replay_of_the_writes() {
    for_each_script(async |lab, script| {
        let replay = play(lab, script).await;
        let last = replay.commits.last().map_or(0, |(end, _, _)| *end);
        for revision in 0..=last + 2 {
            let past = past::state_at(&lab.scan, At::Revision(revision), &[]).await.unwrap();
            let expect = replay.at(revision);
            assert_eq!((past.revision, told(&past)), expect, "at revision {revision} of {script:?}");
            assert!(past.unknown.is_empty() && past.quarantined.is_empty());
        }
        let seconds = replay.commits.iter().map(|(_, second, _)| *second);
        for second in seconds.chain([-1, 10_000]) {
            let past = past::state_at(&lab.scan, At::Time(at(second)), &[]).await.unwrap();
            let commit = replay.commits.iter().rev().find(|(_, made, _)| *made <= second);
            let revision = commit.map_or(0, |(end, _, _)| *end);
            assert_eq!((past.revision, told(&past)), replay.at(revision), "at second {second} of {script:?}");
        }
    })
    .await;
}

/// Makes the bucket keep so few versions that scripts run into it.
async fn keep_few(lab: &Lab, versions: u64) {
    let raw = lab.nats.raw("home").await;
    let mut config = api(&raw, "STREAM.INFO.KV_nhi-state", Value::Null).await["config"].clone();
    config["max_msgs_per_subject"] = json!(versions);
    let updated = api(&raw, "STREAM.UPDATE.KV_nhi-state", config).await;
    assert!(updated.get("error").is_none(), "{updated}");
}

#[tokio::test]
async fn what_is_forgotten_is_unknown_and_never_absent_or_wrong() {
    const KEPT: usize = 2;
    let (mut unknowns, mut expired) = (0, 0);
    for_each_script(async |lab, script| {
        keep_few(lab, KEPT as u64).await;
        let replay = play(lab, script).await;
        let last = replay.commits.last().map_or(0, |(end, _, _)| *end);
        for revision in 0..=last {
            let past = match past::state_at(&lab.scan, At::Revision(revision), &[]).await {
                Ok(past) => past,
                Err(PastError::Expired { revision: asked, oldest }) => {
                    assert!(asked < oldest && asked <= revision, "{asked} {oldest} {revision}");
                    expired += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let (_, mut expect) = replay.at(past.revision);
            let unknown: BTreeSet<Key> = past.unknown.iter().cloned().collect();
            for (key, versions) in &replay.versions {
                let kept = &versions[versions.len().saturating_sub(KEPT)..];
                let is_lost =
                    versions.iter().any(|v| *v <= past.revision) && !kept.iter().any(|v| *v <= past.revision);
                // Whether a record existed before its oldest kept version is itself forgotten with the versions.
                let may_be_lost = kept.len() < versions.len() && kept.iter().all(|v| *v > past.revision);
                let is_unknown = unknown.contains(key);
                assert!(is_unknown || !is_lost, "{key} at {revision} is lost: {script:?}");
                assert!(!is_unknown || may_be_lost, "{key} at {revision} is known: {script:?}");
            }
            unknowns += unknown.len();
            expect.retain(|key, _| !unknown.contains(key));
            assert_eq!(told(&past), expect, "at revision {revision} of {script:?}");
        }
    })
    .await;
    assert!(unknowns > 0 && expired > 0, "the scripts must reach what is forgotten: {unknowns} {expired}");
}

#[tokio::test]
async fn selections_and_splitting_tell_the_same_as_everything() {
    let lab = Lab::start().await;
    let records = |from: u32, to: u32| -> Vec<Change> {
        let vm =
            |n| Key::guest(nhi_model::guest::GuestKind::Qemu, if n % 2 == 0 { "home" } else { "lab" }, n);
        let change = |n: u32, key| Change {
            key,
            expected: 0,
            what: What::Put { record: json!({ "n": n }), stale: None },
        };
        (from..to).flat_map(|n| [change(n, vm(n)), change(n, key(&format!("p{n}")))]).collect()
    };
    let early = commit(&lab.scan, "early", &records(100, 500)).await.revision;
    let late = commit(&lab.scan, "late", &records(500, 2600)).await.revision;
    assert_eq!(late, 5000, "more than one request may name, in two sections");
    let select = |select: &[&str]| select.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (revision, count) in [(early, 800), (late, 5000)] {
        let all = past::state_at(&lab.scan, At::Revision(revision), &[]).await.unwrap();
        assert_eq!(all.records.len(), count);
        for wanted in [select(&["vm"]), select(&["vm.home", "project.p7*"]), select(&["vm.*.100", "graph"])] {
            if wanted.iter().any(|w| w.ends_with("7*")) {
                let refused = past::state_at(&lab.scan, At::Revision(revision), &wanted).await;
                assert!(matches!(refused, Err(PastError::BadSelect { .. })), "{refused:?}");
                continue;
            }
            let some = past::state_at(&lab.scan, At::Revision(revision), &wanted).await.unwrap();
            let expect: BTreeMap<_, _> = all
                .records
                .iter()
                .filter(|(key, _)| wanted.iter().any(|w| key.matches(w)))
                .map(|(key, entry)| (key.clone(), entry.clone()))
                .collect();
            assert_eq!(some.records, expect, "{wanted:?} at {revision}");
        }
        for wanted in [select(&[]), select(&["vm"]), select(&["project", "vm.home.102"])] {
            let whole = past::state_at(&lab.scan, At::Revision(revision), &wanted).await.unwrap();
            assert_eq!(by_parts(&lab, revision, &wanted).await, whole.records, "{wanted:?} at {revision}");
        }
    }
}

/// A state read part by part; what lies behind a part's end belongs to the next one.
async fn by_parts(lab: &Lab, revision: u64, select: &[String]) -> BTreeMap<Key, Entry> {
    let (mut all, mut after, mut parts) = (BTreeMap::new(), Key::alert("0", "0"), 0);
    loop {
        let part = past::state_after(&lab.scan, At::Revision(revision), select, &after, 1000).await;
        let (part, last) = part.unwrap();
        parts += 1;
        let reached = part.records.into_iter().filter(|(key, _)| last.as_ref().is_none_or(|l| key <= l));
        all.extend(reached);
        let Some(last) = last else { break };
        assert!(last > after, "it goes on");
        after = last;
    }
    assert!(parts > 1 || all.len() < 1000, "{parts} parts for {} records", all.len());
    all
}

#[tokio::test]
async fn a_revision_inside_a_batch_means_the_state_before_it() {
    let lab = Lab::start().await;
    let batch = |round: u64| -> Vec<Change> {
        (0..5)
            .map(|n| put(&format!("p{n}"), if round == 0 { 0 } else { (round - 1) * 5 + n + 1 }, round))
            .collect()
    };
    for round in 0..3 {
        commit(&lab.scan, &format!("r{round}"), &batch(round)).await;
    }
    for revision in 0..=15 {
        let past = past::state_at(&lab.scan, At::Revision(revision), &[]).await.unwrap();
        assert_eq!(past.revision, revision / 5 * 5);
    }
    // The same where the message at the revision itself is gone.
    keep_few(&lab, 1).await;
    commit(&lab.scan, "last", &[put("p2", 13, 3)]).await;
    let inside = past::state_at(&lab.scan, At::Revision(13), &[]).await;
    assert!(matches!(inside, Err(PastError::Expired { revision: 10, oldest: 11 })), "{inside:?}");
    let end = past::state_at(&lab.scan, At::Revision(15), &[]).await.unwrap();
    assert_eq!((end.revision, end.records.len(), end.unknown), (15, 4, vec![key("p2")]));
}

#[tokio::test]
async fn history_is_newest_first_and_bounded() {
    let lab = Lab::start().await;
    let mut revision = 0;
    for round in 0..6 {
        let changes: Vec<Change> = (0..900)
            .map(|n| put(&format!("p{n}"), if round == 0 { 0 } else { revision - 899 + n }, round))
            .collect();
        revision = commit(&lab.scan, &format!("r{round}"), &changes).await.revision;
    }
    let gone = commit(&lab.scan, "gone", &[retire("p7", revision - 892)]).await.revision;
    assert_eq!(fill(&lab.nats.raw("home").await, "KV_nhi-state").await.1, gone);
    let ask = async |select: &str, since: Option<At>, limit: Option<u32>| {
        let request = StateHistory { select: select.to_owned(), since, limit };
        past::history(&lab.scan, &request).await.unwrap()
    };
    let all = ask("project.p7", None, None).await;
    let revisions: Vec<u64> = all.versions.iter().map(|v| v.revision).collect();
    assert_eq!(revisions, [gone, 4508, 3608, 2708, 1808, 908, 8]);
    assert!(all.versions[0].value.is_none() && !all.truncated);
    assert_eq!(all.versions[1].value.as_ref().unwrap().record, json!({ "value": 5 }));
    let some = ask("project.p7", Some(At::Revision(2000)), Some(2)).await;
    assert_eq!(some.versions.iter().map(|v| v.revision).collect::<Vec<_>>(), [gone, 4508]);
    assert!(some.truncated);
    let since = ask("project.p7", Some(At::Revision(2700)), Some(10)).await;
    assert_eq!((since.versions.len(), since.truncated), (4, false));
    let wide = ask("project", None, Some(1000)).await;
    assert_eq!((wide.versions.len(), wide.truncated), (1000, true));
    let ordered = wide.versions.windows(2).all(|pair| pair[0].revision > pair[1].revision);
    assert!(ordered && wide.versions[0].revision == gone);
    assert!(ask("vm", None, None).await.versions.is_empty());
}

#[tokio::test]
async fn differences_are_those_between_the_two_states() {
    let lab = Lab::start().await;
    let first = commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1), put("c", 0, 1)]).await.revision;
    commit(&lab.scan, "b", &[put("a", 1, 2), retire("b", 2), put("d", 0, 1)]).await;
    let last = commit(&lab.scan, "c", &[put("c", 3, 1)]).await.revision;
    let diff = past::diff(&lab.home, At::Revision(first), None).await.unwrap();
    assert_eq!((diff.from, diff.to, diff.truncated), (first, last, false));
    let kinds: Vec<_> = diff
        .changes
        .iter()
        .map(|(key, change)| match change {
            RecordDiff::Added { .. } => format!("+{key}"),
            RecordDiff::Removed { .. } => format!("-{key}"),
            RecordDiff::Changed { fields } => format!("~{key} {:?}", fields.keys().collect::<Vec<_>>()),
        })
        .collect();
    assert_eq!(kinds, [r#"~project.a ["/value"]"#, "-project.b", "+project.d"]);
}

#[tokio::test]
async fn differences_are_those_of_a_replay_however_few_versions_are_kept() {
    for kept in [1000, 4] {
        for_each_script(async |lab, script| {
            keep_few(lab, kept).await;
            let replay = play(lab, script).await;
            let ends: Vec<u64> =
                [0].into_iter().chain(replay.commits.iter().map(|(end, _, _)| *end)).collect();
            for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
                let diff = match past::diff(&lab.home, At::Revision(from), Some(At::Revision(to))).await {
                    Ok(diff) => diff,
                    Err(PastError::Expired { .. }) => continue,
                    Err(error) => panic!("{error}"),
                };
                let (before, after) = (replay.at(from).1, replay.at(to).1);
                let value = |model: &Model, key: &Key| model.get(key).map(|(value, _)| value.clone());
                let differs = |key: &&Key| value(&before, key) != value(&after, key);
                let known = |key: &&Key| !diff.unknown.contains(key);
                let keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
                let expect: Vec<&Key> = keys.into_iter().filter(differs).filter(known).collect();
                assert_eq!(diff.changes.keys().collect::<Vec<_>>(), expect, "{from} to {to} of {script:?}");
                assert!(kept < 1000 || diff.unknown.is_empty());
            }
        })
        .await;
    }
}
