//! Requests that can wait: for the GPU, through the death of a router, and through failures; each finished once.

use crate::{
    counts::{asked, start_mortal},
    home::{Pc, at_pc, house},
    house::{House, SOON, backend, ordered, quick, server},
};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use nhi_bus::{
    call::{CallError, call},
    connect::Bus,
    jobs::Jobs,
};
use nhi_decide::route::BackendSettings;
use nhi_model::{
    ai::{AiJobs, AiJobsListed, AiResult, AiSubmit, AiSubmitted, Job, JobId, JobPriority, JobState, Routed},
    fault::Fault,
    gpu::Light,
    identity::{IdentityName, Role},
    jobs::{JobRow, RowState},
};
use nhi_sim::models::{Fault as Broken, ModelSettings, On, answer_text};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Longer than a lease.
const LATER: Duration = Duration::from_secs(60);

fn ask(model: &str, text: &str) -> AiSubmit {
    let messages = json!([{ "role": "user", "content": text }]);
    let request = [("model", json!(model)), ("messages", messages)];
    let request = request.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    AiSubmit { request, priority: None }
}

fn faulty<T>(outcome: Result<T, CallError>) -> Result<T, Box<Fault>> {
    match outcome {
        Ok(value) => Ok(value),
        Err(CallError::Fault { fault, .. }) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

async fn submit(bus: &Bus, ask: &AiSubmit) -> Result<JobId, Box<Fault>> {
    faulty(call::<_, AiSubmitted>(bus, "ai", "submit", ask).await).map(|submitted| submitted.job)
}

async fn result(bus: &Bus, job: &JobId) -> Result<Job, Box<Fault>> {
    faulty(call(bus, "ai", "result", &AiResult { job: job.clone() }).await)
}

async fn listed(bus: &Bus) -> Vec<Job> {
    call::<_, AiJobsListed>(bus, "ai", "jobs", &AiJobs {}).await.unwrap().jobs
}

/// The state of a job once it is as wished.
async fn state(house: &House, job: &JobId, wished: impl Fn(&JobState) -> bool) -> JobState {
    wait_for("the job", LATER, async || {
        let state = result(&house.aider, job).await.unwrap().state;
        if wished(&state) { Ok(state) } else { Err(state) }
    })
    .await
}

fn is_done(state: &JobState) -> bool {
    matches!(state, JobState::Done { .. })
}

fn text_of(answer: &BTreeMap<String, Value>) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_the_gpu_and_only_its_submitter_reads_it() {
    let (relay, cloud) = (quick("m").await, quick("m").await);
    let away = BackendSettings { home: false, ..backend("cloud", &cloud, "m") };
    let house = house(vec![at_pc(&relay), away]).await;
    house.nats.add("bella", Role::Agent).await;
    let bella = house.nats.connect(&house.cx, "bella").await;
    // Nothing was heard of the machine yet.
    let job = submit(&house.aider, &ask("private", "My diary says?")).await.unwrap();
    let waits = |state: &JobState| matches!(state, JobState::Waiting { .. });
    assert!(waits(&result(&house.aider, &job).await.unwrap().state));
    // The control: what may leave home waits for nobody.
    let other = submit(&house.aider, &ask("cloud/m", "And?")).await.unwrap();
    state(&house, &other, is_done).await;
    let pc = Pc::new(&house, &relay).await;
    pc.show(Light::Red).await;
    let plays =
        |state: &JobState| matches!(state, JobState::Waiting { text } if text.contains("somebody plays"));
    state(&house, &job, plays).await;
    assert_eq!((asked(&relay), asked(&cloud)), (0, 1));
    pc.show(Light::Green).await;
    let JobState::Done { answer, until } = state(&house, &job, is_done).await else { panic!("it is done") };
    assert_eq!(text_of(&answer), answer_text("My diary says?", 60));
    assert_eq!(answer["nhi"]["provider"], "pc");
    let kept = until.duration_since(Timestamp::now());
    assert!((SignedDuration::from_mins(1_439)..=SignedDuration::from_mins(1_440)).contains(&kept), "{kept}");
    assert_eq!((asked(&relay), asked(&cloud)), (1, 1), "nothing of it went out");

    assert_eq!(result(&bella, &job).await.unwrap_err().code, "not-found");
    assert!(is_done(&result(&house.home, &job).await.unwrap().state));
    assert_eq!((listed(&bella).await.len(), listed(&house.home).await.len()), (0, 2));
    let list = listed(&house.aider).await;
    assert_eq!(list.iter().map(|job| &job.job).collect::<Vec<_>>(), [&other, &job], "newest first");
    assert!(matches!(&list[1].state, JobState::Done { answer, .. } if answer.is_empty()));
    let jobs = Jobs::open(&house.cx, &house.nats.connect(&house.cx, "route").await).await.unwrap();
    assert_eq!(jobs.request(&job).await.unwrap(), None, "what was asked is not kept");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_router_that_is_killed_is_finished_once_by_another() {
    let slow = server(ModelSettings { tokens_per_s: 40.0, ..ModelSettings::named("m") }).await;
    let house = House::new(ordered(vec![backend("slow", &slow, "m")])).await;
    let mortal = start_mortal(&house).await;
    house.known().await;
    let job = submit(&house.aider, &ask("auto", "Go on?")).await.unwrap();
    wait_for("it to be asked", SOON, async || asked(&slow) == 1).await;
    mortal.shutdown_background();
    house.start().await;
    house.start().await;
    let JobState::Done { answer, .. } = state(&house, &job, is_done).await else { panic!("it is done") };
    assert_eq!(text_of(&answer), answer_text("Go on?", 60));
    let jobs = Jobs::open(&house.cx, &house.nats.connect(&house.cx, "route").await).await.unwrap();
    let row = jobs.get(&job).await.unwrap().unwrap().row;
    assert!(matches!(row.state, RowState::Done { attempt: 2, .. }), "{row:?}");
    assert_eq!(asked(&slow), 2, "the one that died and the one that finished");
    // A router that stops hands on what it has at once, and that was no try.
    let (cx, handle) = house.start().await;
    let next = submit(&house.aider, &ask("auto", "And on?")).await.unwrap();
    wait_for("it to be asked", SOON, async || asked(&slow) == 3).await;
    handle.stop().await;
    cx.close().await;
    state(&house, &next, is_done).await;
    let row = jobs.get(&next).await.unwrap().unwrap().row;
    assert!(matches!(row.state, RowState::Done { attempt: 1, .. }), "{row:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_is_tried_again_and_dies_after_its_third_try() {
    let (bad, worse) = (quick("m").await, quick("m").await);
    bad.set_fault_on(Broken::ServerError {}, On::times(1_000));
    worse.set_fault_on(Broken::ServerError {}, On::times(1_000));
    let house = House::new(ordered(vec![backend("bad", &bad, "m"), backend("worse", &worse, "m")])).await;
    // A job that failed twice.
    let jobs = Jobs::open(&house.cx, &house.nats.connect(&house.cx, "route").await).await.unwrap();
    let old = JobId("old".to_owned());
    let row = JobRow {
        by: IdentityName::parse("aider").unwrap(),
        at: Timestamp::now(),
        priority: JobPriority::High,
        asked: "worse/m".to_owned(),
        state: RowState::Waiting { attempt: 2, not_before: None, text: None },
    };
    let request = ask("worse/m", "Why?").request.into_iter().collect();
    jobs.add(&old, &row, &request, |_| Ok::<(), ()>(())).await.unwrap().unwrap();
    house.start().await;
    house.known().await;
    let new = submit(&house.aider, &ask("bad/m", "Why?")).await.unwrap();
    let again =
        |state: &JobState| matches!(state, JobState::Waiting { text } if text.contains("tried again"));
    let state_of = |job| state(&house, job, again);
    let JobState::Waiting { text } = state_of(&new).await else { panic!("it waits") };
    assert!(text.contains("bad/m"), "{text}");
    let row = jobs.get(&new).await.unwrap().unwrap().row;
    let RowState::Waiting { attempt: 1, not_before: Some(at), .. } = row.state else { panic!("{row:?}") };
    assert!(at > Timestamp::now() + SignedDuration::from_secs(10), "{at}");
    let dead = |state: &JobState| matches!(state, JobState::Dead { .. });
    let JobState::Dead { text } = state(&house, &old, dead).await else { panic!("it is dead") };
    assert!(text.contains("worse/m"), "{text}");
    assert_eq!(asked(&worse), 1);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fits_nowhere_is_dead_at_once() {
    let small = quick("m").await;
    small.set_fault_on(Broken::TooLong {}, On::times(1_000));
    let house = House::with(vec![backend("small", &small, "m")]).await;
    let job = submit(&house.aider, &ask("auto", "Why?")).await.unwrap();
    // The control: a failure that may pass is tried again, see above.
    let dead = |state: &JobState| matches!(state, JobState::Dead { .. });
    let JobState::Dead { text } = state(&house, &job, dead).await else { panic!("it is dead") };
    assert!(text.contains("small/m"), "{text}");
    assert_eq!(asked(&small), 1);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_who_its_projects_manifest_allows() {
    let (relay, cloud) = (quick("m").await, quick("m").await);
    let away = BackendSettings { home: false, ..backend("cloud", &cloud, "m") };
    let house = house(vec![at_pc(&relay), away]).await;
    house.project("shop", json!({ "backends": ["pc"] })).await;
    let pc = Pc::new(&house, &relay).await;
    pc.show(Light::Red).await;
    let mut of_shop = ask("auto", "Sum it up?");
    of_shop.request.insert("nhi".to_owned(), json!({ "project": "shop" }));
    // The router has seen the manifest when nobody but the machine may be asked.
    wait_for("the router to see it", SOON, async || {
        let routed: Routed = call(&house.aider, "ai", "route", &of_shop.request).await.unwrap();
        if routed.order.is_empty() { Ok(()) } else { Err(routed) }
    })
    .await;
    let job = submit(&house.aider, &of_shop).await.unwrap();
    let waits = |state: &JobState| matches!(state, JobState::Waiting { text } if text.contains("somebody plays") && !text.contains("tried"));
    state(&house, &job, waits).await;
    let jobs = Jobs::open(&house.cx, &house.nats.connect(&house.cx, "route").await).await.unwrap();
    let row = jobs.get(&job).await.unwrap().unwrap().row;
    assert!(matches!(row.state, RowState::Waiting { attempt: 0, text: None, .. }), "nobody took it: {row:?}");
    pc.show(Light::Green).await;
    state(&house, &job, is_done).await;
    assert_eq!((asked(&relay), asked(&cloud)), (1, 0));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_jobs_than_it_may_however_fast_it_submits() {
    let relay = quick("m").await;
    let house = house(vec![at_pc(&relay)]).await;
    house.start().await;
    house.nats.add("bella", Role::Agent).await;
    let bella = house.nats.connect(&house.cx, "bella").await;
    let private = ask("private", "Later?");
    let submitted = join_all((0..104).map(|_| submit(&house.aider, &private))).await;
    let refused: Vec<_> = submitted.iter().filter_map(|one| one.as_ref().err()).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().all(|fault| fault.code == "too-many"), "{refused:?}");
    assert_eq!(listed(&house.aider).await.len(), 100);
    submit(&bella, &private).await.expect("another caller's are its own");
    let mut streamed = private.clone();
    streamed.request.insert("stream".to_owned(), json!(true));
    assert_eq!(submit(&bella, &streamed).await.unwrap_err().code, "bad-request");
    assert_eq!(submit(&bella, &ask("no-such", "?")).await.unwrap_err().code, "unknown-model");
    house.cx.close().await;
}
