//! Timers against the real server: they fire although everybody was dead, once confirmed they never do, and one that
//! nobody acknowledged comes again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;

use jiff::SignedDuration;
use lab::{Lab, api, fill};
use nhi_bus::{
    connect::{Bus, Target},
    store::{self, ApiError, AskError},
    timers::{self, DueTimer, DueTimers, TimerError},
};
use nhi_model::{Timestamp, identity::IdentityName, run::RunId};
use nhi_testkit::{Fault, Proxy, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long anything that happens by itself may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Longer than the server takes to deliver what is due, by far.
const QUIET: Duration = Duration::from_millis(1_500);
/// Long enough to act between a write and its acknowledgement.
const HELD: Duration = Duration::from_millis(700);
const STREAM: &str = "NHI_TIMERS";

fn run(tail: &str) -> RunId {
    RunId::parse(&format!("r-{tail}")).unwrap()
}

fn hence(millis: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_millis(millis)
}

async fn act(lab: &Lab) -> Bus {
    lab.nats.connect(&lab.cx, "act").await
}

async fn next(timers: &mut DueTimers) -> DueTimer {
    tokio::time::timeout(SOON, timers.next()).await.expect("a timer is due").expect("it goes on")
}

/// Whether nothing becomes due for a while.
async fn is_quiet(timers: &mut DueTimers) -> bool {
    tokio::time::timeout(QUIET, timers.next()).await.is_err()
}

/// Returns when a moment has passed.
async fn past(due: Timestamp) {
    wait_for("the moment", SOON, async || Timestamp::now() > due).await;
}

#[tokio::test]
async fn a_timer_fires_once_at_its_moment() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act).await.unwrap();
    let (first, at) = (run("aaaa"), hence(700));
    let sequence = timers::arm(&act, &first, at).await.unwrap();
    assert_eq!(timers::arm(&act, &first, at).await.unwrap(), sequence, "it is set already");
    let timer = next(&mut due).await;
    assert!(Timestamp::now() >= at, "too early");
    assert_eq!((&timer.run, timer.delivery), (&first, 1));
    timer.ack().await.unwrap();
    assert!(!timers::confirm(&act, &first).await.unwrap(), "it has fired");
    // A moment that has passed is due at once.
    timers::arm(&act, &run("bbbb"), hence(-3_600_000)).await.unwrap();
    let timer = next(&mut due).await;
    assert_eq!(timer.run, run("bbbb"));
    timer.ack().await.unwrap();
    assert!(is_quiet(&mut due).await, "each comes once");
}

#[tokio::test]
async fn a_confirmed_timer_never_fires_and_is_confirmed_once() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act).await.unwrap();
    let (kept, control, at) = (run("kept"), run("undo"), hence(800));
    for run in [&kept, &control] {
        timers::arm(&act, run, at).await.unwrap();
    }
    let (one, other) = tokio::join!(timers::confirm(&act, &kept), timers::confirm(&act, &kept));
    let mut answers = [one.unwrap(), other.unwrap()];
    answers.sort_unstable();
    assert_eq!(answers, [false, true], "one of two at the same time");
    assert!(!timers::confirm(&act, &kept).await.unwrap());
    assert!(!timers::confirm(&act, &run("none")).await.unwrap(), "it was never set");
    let fired = next(&mut due).await;
    assert_eq!(fired.run, control, "the control must fire");
    fired.ack().await.unwrap();
    assert!(is_quiet(&mut due).await);
    // Set anew it is a new one.
    timers::arm(&act, &kept, hence(0)).await.unwrap();
    assert_eq!(next(&mut due).await.run, kept);
}

#[tokio::test]
async fn a_timer_that_is_set_again_has_the_new_moment() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act).await.unwrap();
    let (run, later) = (run("move"), hence(3_600_000));
    timers::arm(&act, &run, hence(400)).await.unwrap();
    timers::arm(&act, &run, later).await.unwrap();
    assert!(is_quiet(&mut due).await, "the first moment counts no more");
    timers::arm(&act, &run, hence(100)).await.unwrap();
    assert_eq!(next(&mut due).await.run, run);
}

/// What the dead man's switch is for: everybody is dead when it is due, the server too.
#[tokio::test]
async fn what_became_due_while_the_server_was_killed_fires_after_it_is_back() {
    let mut lab = Lab::start().await;
    let act_one = act(&lab).await;
    // The consumer is there; nobody listens to it.
    drop(timers::due(&lab.cx, &act_one).await.unwrap());
    let (missed, kept, later) = (run("missed"), run("kept"), run("later"));
    let at = hence(900);
    timers::arm(&act_one, &missed, at).await.unwrap();
    timers::arm(&act_one, &kept, at).await.unwrap();
    assert!(timers::confirm(&act_one, &kept).await.unwrap());
    let later_at = hence(6_000);
    timers::arm(&act_one, &later, later_at).await.unwrap();
    lab.nats.kill9().await;
    act_one.close().await;
    past(at).await;
    lab.nats.restart().await;
    let back = Instant::now();
    let act_two = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act_two).await.unwrap();
    let timer = next(&mut due).await;
    assert_eq!(timer.run, missed);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    timer.ack().await.unwrap();
    let timer = next(&mut due).await;
    assert_eq!(timer.run, later, "and not the one that was confirmed");
    assert!(Timestamp::now() >= later_at);
}

#[tokio::test]
async fn what_became_due_while_no_actuator_was_there_waits_for_one() {
    let mut lab = Lab::start().await;
    let act_one = act(&lab).await;
    timers::arm(&act_one, &run("wait"), hence(0)).await.unwrap();
    let raw = lab.nats.raw("home").await;
    wait_for("it to fire", SOON, async || {
        let last = api(&raw, "STREAM.MSG.GET.NHI_TIMERS", json!({ "last_by_subj": "nhi-timer.due.*" })).await;
        last.get("error").is_none()
    })
    .await;
    // It waits on disk, also for an actuator that has never been here before.
    lab.nats.kill9().await;
    lab.nats.restart().await;
    wait_for("the link", SOON, async || act_one.is_up()).await;
    let mut due = timers::due(&lab.cx, &act_one).await.unwrap();
    assert_eq!(next(&mut due).await.run, run("wait"));
}

#[tokio::test]
async fn a_timer_that_is_not_acknowledged_comes_again() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act).await.unwrap();
    // So that the test does not take half a minute.
    let raw = lab.nats.raw("home").await;
    let info = api(&raw, "CONSUMER.INFO.NHI_TIMERS.act", Value::Null).await;
    let mut config = info["config"].clone();
    config["ack_wait"] = json!(500_000_000);
    let body = json!({ "stream_name": STREAM, "config": config });
    let changed = api(&raw, "CONSUMER.CREATE.NHI_TIMERS.act", body).await;
    assert!(changed.get("error").is_none(), "{changed}");
    timers::arm(&act, &run("again"), hence(0)).await.unwrap();
    let first = next(&mut due).await;
    drop(first);
    let again = next(&mut due).await;
    assert_eq!((&again.run, again.delivery), (&run("again"), 2));
    again.working().await.unwrap();
    again.ack().await.unwrap();
    assert!(is_quiet(&mut due).await);
}

#[tokio::test]
async fn waiting_goes_on_over_an_outage_and_a_stream_made_anew() {
    let mut lab = Lab::start().await;
    let act = act(&lab).await;
    let mut due = timers::due(&lab.cx, &act).await.unwrap();
    assert!(is_quiet(&mut due).await);
    lab.nats.kill9().await;
    lab.nats.restart().await;
    wait_for("the links", SOON, async || act.is_up() && lab.home.is_up()).await;
    timers::arm(&act, &run("after"), hence(0)).await.unwrap();
    next(&mut due).await.ack().await.unwrap();
    // With the stream its consumer goes.
    assert!(is_quiet(&mut due).await);
    let raw = lab.nats.raw("home").await;
    api(&raw, "STREAM.DELETE.NHI_TIMERS", Value::Null).await;
    store::provision(&lab.home, &lab::settings()).await.unwrap();
    timers::arm(&act, &run("anew"), hence(0)).await.unwrap();
    assert_eq!(next(&mut due).await.run, run("anew"));
    lab.cx.cancel();
    assert!(tokio::time::timeout(SOON, due.next()).await.unwrap().is_none(), "it ends with its context");
}

#[tokio::test]
async fn a_lost_acknowledgement_is_looked_into() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let proxy = Proxy::start(&lab.cx, lab.nats.address()).await.unwrap();
    let name = IdentityName::parse("act").unwrap();
    let target = Target::plain(proxy.url());
    let act = Bus::connect(&lab.cx, &target, &name, &lab.nats.seed("act")).await.unwrap();
    let (run, at) = (run("lost"), hence(3_600_000));
    // Cuts the path when so many messages were ever stored, before anybody hears of the last one.
    let cut_at = async |last: u64| {
        wait_for("the write to arrive", SOON, async || fill(&raw, STREAM).await.1 == last).await;
        let mut link = act.link();
        proxy.set(Fault::Cut);
        link.wait_for(|link| !link.is_up()).await.unwrap();
        proxy.set(Fault::Pass);
    };
    proxy.set(Fault::Delay(HELD));
    let (armed, ()) = tokio::join!(timers::arm(&act, &run, at), cut_at(1));
    assert_eq!(armed.unwrap(), 1, "it was set once");
    assert_eq!(fill(&raw, STREAM).await, (1, 1));
    proxy.set(Fault::Delay(HELD));
    let (confirmed, ()) = tokio::join!(timers::confirm(&act, &run), cut_at(2));
    assert!(confirmed.unwrap(), "it was confirmed by this very call");
    assert_eq!(fill(&raw, STREAM).await, (1, 2), "only the word that it was confirmed is left");
}

#[tokio::test]
async fn nobody_but_the_actuator_sets_timers() {
    let lab = Lab::start().await;
    let refused = |outcome: Result<(), TimerError>| {
        matches!(outcome, Err(TimerError::Api(ApiError::Ask(AskError::Refused { .. }))))
    };
    let run = run("mine");
    assert!(refused(timers::arm(&lab.scan, &run, hence(0)).await.map(drop)));
    let act = act(&lab).await;
    timers::arm(&act, &run, hence(3_600_000)).await.unwrap();
    assert!(refused(timers::confirm(&lab.scan, &run).await.map(drop)));
    let owner = lab.nats.connect(&lab.cx, "owner").await;
    assert!(refused(timers::due(&lab.cx, &owner).await.map(drop)));
    assert!(timers::confirm(&act, &run).await.unwrap(), "the control: it was there");
}
