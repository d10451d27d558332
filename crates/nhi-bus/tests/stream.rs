//! Answers in frames, across the border of accounts too: in order, without a hole, with an end.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use bytes::Bytes;
use futures::StreamExt;
use nhi_bus::{
    call::{Call, CallError, Frame, FrameStream, Opened, Timeout, stream},
    connect::Bus,
    cx::Cx,
    service::{Caller, Ending, FrameError, Frames, Service, Spec},
};
use nhi_model::{
    call::{Effect, PAYLOAD_BYTES_MAX},
    fault::{Fault, FaultCode},
    identity::Role,
};
use nhi_testkit::{Nats, settle, wait_for};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(10);
/// Nobody answers for so long.
const BRIEFLY: Duration = Duration::from_millis(200);
/// Far less than any time-out, and enough for a machine that does much else.
const AT_ONCE: Duration = Duration::from_secs(3);
/// What one frame of a long stream has, bytes.
const FRAME: usize = 64 * 1024;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ask {
    frames: u32,
    #[serde(default)]
    then: Then,
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Then {
    #[default]
    End,
    Fail,
    Panic,
    Hang,
    /// Nothing at all, for as long as the caller waits.
    Brood,
    Whole,
}

async fn pour(_: Caller, ask: Ask, frames: Frames) -> Result<Ending, Fault> {
    if matches!(ask.then, Then::Hang) {
        frames.open().await.unwrap();
    }
    for n in 0..ask.frames {
        frames.send_json(&json!({"n": n})).await.unwrap();
    }
    match ask.then {
        Then::End => Ok(Ending::Done),
        Then::Fail => Err(Fault::new(FaultCode::Conflict, "the kettle is empty", "fill it")),
        Then::Panic => panic!("on purpose"),
        Then::Hang | Then::Brood => pending().await,
        Then::Whole => Ending::whole(&json!({"whole": true})),
    }
}

async fn house(cx: &Cx) -> (Nats, Bus, Bus) {
    let nats = Nats::start().await;
    nats.add("kettle", Role::Service).await;
    nats.add("aider", Role::Agent).await;
    nats.grant("aider", "kettle").await;
    let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "pours", stream: true };
    let service = Service::new("kettle", "1.2.3", "").streaming::<Ask, Value, _>(spec, pour);
    service.start(cx, &nats.connect(cx, "kettle").await).await.unwrap();
    let (home, aider) = (nats.connect(cx, "home").await, nats.connect(cx, "aider").await);
    (nats, home, aider)
}

async fn ask(bus: &Bus, frames: u32, then: Then) -> FrameStream {
    let body = serde_json::to_vec(&Ask { frames, then }).unwrap();
    stream(bus, Call::new(bus, "kettle", "pour", body.into()).unwrap()).await.unwrap()
}

async fn all(mut stream: FrameStream) -> (Vec<Frame>, Option<CallError>) {
    let mut frames = Vec::new();
    while let Some(next) = timeout(SOON, stream.next()).await.unwrap() {
        match next {
            Ok(frame) => frames.push(frame),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (frames, Some(error));
            }
        }
    }
    (frames, None)
}

#[tokio::test]
async fn a_thousand_frames_come_in_order() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    for bus in [&home, &aider] {
        for count in [0, 1, 1_000] {
            let (frames, error) = all(ask(bus, count, Then::End).await).await;
            assert!(error.is_none(), "{error:?}");
            let expect: Vec<Frame> =
                (0..count).map(|n| Frame::Part(json!({"n": n}).to_string().into())).collect();
            assert_eq!(frames.len(), expect.len());
            assert_eq!(frames, expect);
        }
    }
}

#[tokio::test]
async fn a_stream_ends_in_one_way_or_another() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    for bus in [&home, &aider] {
        for count in [0, 5] {
            for (then, code) in [(Then::Fail, "conflict"), (Then::Panic, "internal")] {
                let (frames, error) = all(ask(bus, count, then).await).await;
                assert_eq!(frames.len(), count as usize);
                assert_eq!(error.unwrap().to_fault().code, code);
            }
        }
        let (frames, error) = all(ask(bus, 0, Then::Whole).await).await;
        assert!(error.is_none());
        assert_eq!(frames, [Frame::Whole(r#"{"whole":true}"#.into())]);
        let (_, error) = all(ask(bus, 3, Then::Whole).await).await;
        assert_eq!(error.unwrap().to_fault().code, "internal", "a whole answer after frames is a mistake");
        let bad = Call::new(bus, "kettle", "pour", "{}".into()).unwrap();
        let (_, error) = all(stream(bus, bad).await.unwrap()).await;
        assert_eq!(error.unwrap().to_fault().code, "bad-request");
    }
}

#[tokio::test]
async fn an_open_stream_outlives_its_deadline_and_ends_with_the_link() {
    let cx = Cx::new();
    let (mut nats, _home, aider) = house(&cx).await;
    let body = serde_json::to_vec(&Ask { frames: 1, then: Then::Hang }).unwrap();
    let call = Call::new(&aider, "kettle", "pour", body.into()).unwrap();
    let mut open = stream(&aider, call.timeout(Timeout::of(Duration::from_millis(300)))).await.unwrap();
    let first = timeout(SOON, open.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first, Frame::Part(r#"{"n":0}"#.into()));
    assert!(timeout(Duration::from_millis(600), open.next()).await.is_err(), "it is still open");
    let before = Instant::now();
    nats.kill9().await;
    let cut = timeout(SOON, open.next()).await.unwrap().unwrap();
    assert!(matches!(cut, Err(CallError::Disconnected { sent: true, .. })), "{cut:?}");
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    assert!(open.next().await.is_none());
}

#[tokio::test]
async fn what_cannot_succeed_fails_at_once() {
    let cx = Cx::new();
    let (_nats, _home, aider) = house(&cx).await;
    let before = Instant::now();
    let fails = async |service: &str, endpoint: &str| {
        let call = Call::new(&aider, service, endpoint, Bytes::new()).unwrap();
        all(stream(&aider, call).await.unwrap()).await.1.unwrap()
    };
    assert!(matches!(fails("act", "approve").await, CallError::Refused { .. }));
    assert!(matches!(fails("ai", "chat").await, CallError::NobodyAnswers { .. }));
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    let large = Call::new(&aider, "ai", "chat", vec![0; PAYLOAD_BYTES_MAX + 1].into()).unwrap();
    assert!(matches!(stream(&aider, large).await, Err(CallError::TooLarge { .. })));
}

/// A service of somebody else that skips a frame must not pass for a whole answer.
#[tokio::test]
async fn a_hole_is_noticed() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (home, client) = (nats.connect(&cx, "home").await, nats.raw("home").await);
    let mut requests = client.subscribe("nhi.alarm.ring.*").await.unwrap();
    settle(&client).await;
    let mut reading = stream(&home, Call::new(&home, "alarm", "ring", Bytes::new()).unwrap()).await.unwrap();
    let reply = timeout(SOON, requests.next()).await.unwrap().unwrap().reply.unwrap();
    for number in ["1", "3"] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nhi-Seq", number);
        client.publish_with_headers(reply.clone(), headers, "x".into()).await.unwrap();
    }
    assert_eq!(timeout(SOON, reading.next()).await.unwrap().unwrap().unwrap(), Frame::Part("x".into()));
    let hole = timeout(SOON, reading.next()).await.unwrap().unwrap();
    assert!(matches!(hole, Err(CallError::Gap { expected: 2, got: 3, .. })), "{hole:?}");
}

#[tokio::test]
async fn an_answer_that_is_over_leaves_nobody_listening() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (home, client) = (nats.connect(&cx, "home").await, nats.raw("home").await);
    let mut requests = client.subscribe("nhi.alarm.ring.*").await.unwrap();
    settle(&client).await;
    let mut replies = Vec::new();
    for _ in 0..20 {
        let asked = Call::new(&home, "alarm", "ring", Bytes::new()).unwrap();
        let reading = stream(&home, asked).await.unwrap();
        replies.push((timeout(SOON, requests.next()).await.unwrap().unwrap().reply.unwrap(), reading));
    }
    let is_heard = async |reply: &async_nats::Subject| {
        let asked =
            client.send_request(reply.clone(), async_nats::Request::new().timeout(Some(BRIEFLY))).await;
        !asked.is_err_and(|error| error.kind() == async_nats::RequestErrorKind::NoResponders)
    };
    assert!(is_heard(&replies[0].0).await, "the control");
    for (reply, reading) in replies {
        drop(reading);
        wait_for("nobody to listen", SOON, async || (!is_heard(&reply).await).then_some(()).ok_or(())).await;
    }
    cx.close().await;
}

#[tokio::test]
async fn a_frame_that_does_not_fit_is_the_handlers_to_handle() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("kettle", Role::Service).await;
    let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "", stream: true };
    let handler = async |_: Caller, _: Value, frames: Frames| {
        let large = frames.send(vec![0; PAYLOAD_BYTES_MAX]).await.unwrap_err();
        assert!(matches!(large, FrameError::TooLarge { .. }), "{large}");
        frames.send("small").await.unwrap();
        Ok(Ending::Done)
    };
    let service = Service::new("kettle", "1.2.3", "").streaming::<Value, Value, _>(spec, handler);
    service.start(&cx, &nats.connect(&cx, "kettle").await).await.unwrap();
    let home = nats.connect(&cx, "home").await;
    let call = Call::new(&home, "kettle", "pour", Bytes::new()).unwrap();
    let (frames, error) = all(stream(&home, call).await.unwrap()).await;
    assert_eq!(frames, [Frame::Part("small".into())]);
    assert!(error.is_none(), "{error:?}");
}

#[tokio::test]
async fn the_first_message_tells_what_the_answer_is_and_nothing_is_lost() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    for bus in [&home, &aider] {
        let mut whole = ask(bus, 0, Then::Whole).await;
        assert_eq!(whole.opened().await.unwrap(), Opened::Whole(r#"{"whole":true}"#.into()));
        assert!(whole.next().await.is_none());
        for count in [0, 1, 3] {
            let mut frames = ask(bus, count, Then::End).await;
            assert_eq!(frames.opened().await.unwrap(), Opened::Stream);
            assert_eq!(all(frames).await.0.len(), count as usize);
        }
        let mut failing = ask(bus, 0, Then::Fail).await;
        assert_eq!(failing.opened().await.unwrap_err().status(), 409);
        assert!(failing.next().await.is_none());
        // Opened before there is a frame: known at once, although nothing more comes.
        let mut quiet = ask(bus, 0, Then::Hang).await;
        assert_eq!(timeout(SOON, quiet.opened()).await.unwrap().unwrap(), Opened::Stream);
    }
}

/// Tells when a handler is dropped.
struct Dropped(tokio::sync::mpsc::UnboundedSender<String>, String);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(std::mem::take(&mut self.1));
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_is_not_worked_on() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("kettle", Role::Service).await;
    for name in ["aider", "bob"] {
        nats.add(name, Role::Agent).await;
        nats.grant(name, "kettle").await;
    }
    let (tell, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "", stream: true };
    let handler = move |caller: Caller, _: Value, frames: Frames| {
        let mark = Dropped(tell.clone(), caller.name.to_string());
        async move {
            let _mark = mark;
            frames.send("first").await.unwrap();
            pending().await
        }
    };
    let service = Service::new("kettle", "1.2.3", "").streaming::<Value, Value, _>(spec, handler);
    service.start(&cx, &nats.connect(&cx, "kettle").await).await.unwrap();
    let open = async |who: &str| {
        let bus = nats.connect(&cx, who).await;
        let call = Call::new(&bus, "kettle", "pour", Bytes::new()).unwrap().id("the-same").unwrap();
        let mut frames = stream(&bus, call).await.unwrap();
        assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Part("first".into()));
        frames
    };
    let [home, aider, mut bob] = [open("home").await, open("aider").await, open("bob").await];
    for (frames, who) in [(home, "home"), (aider, "aider")] {
        drop(frames);
        assert_eq!(timeout(SOON, dropped.recv()).await.unwrap().unwrap(), who);
    }
    // The control: bob's, under the same id, goes on.
    assert!(timeout(Duration::from_millis(200), bob.next()).await.is_err(), "it was cancelled by another");
    assert!(dropped.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_first_frame_hears_when_its_instance_is_killed() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("kettle", Role::Service).await;
    nats.add("aider", Role::Agent).await;
    nats.grant("aider", "kettle").await;
    let by = nats.raw("kettle").await;
    let mut words = by.subscribe("nhi.kettle.flow.*").await.unwrap();
    let dying = mortal(&nats).await;
    let aider = nats.connect(&cx, "aider").await;
    let mut lost = ask(&aider, 0, Then::Brood).await;
    let killed = async {
        // Asked again within a second it has shown nothing yet; asked later it had, and never does again.
        let (mut asked, mut shows) = (None::<Instant>, false);
        while !shows {
            let word = timeout(SOON, words.next()).await.unwrap().unwrap();
            assert!(word.headers.unwrap().get("Nhi-Nudge").is_some());
            shows = asked.replace(Instant::now()).is_some_and(|asked| asked.elapsed().as_millis() > 1_600);
        }
        dying.shutdown_background();
    };
    let (lost, ()) = futures::join!(lost.opened(), killed);
    assert!(matches!(lost, Err(CallError::Lost { .. })), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_the_death_of_a_built_in_service_and_of_no_other() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let home = nats.connect(&cx, "home").await;
    // All of a built-in service show life while they work, of what is answered once as well.
    let spec = |endpoint, effect, stream| Spec { endpoint, effect, description: "broods", stream };
    let brood = |_: Caller, _: Ask| pending::<Result<Value, Fault>>();
    let service = Service::new("act", "1.2.3", "")
        .endpoint::<Ask, Value, _>(spec("plan", Effect::Write, false), brood)
        .endpoint::<Ask, Value, _>(spec("list", Effect::Read, false), brood)
        .streaming::<Ask, Value, _>(spec("run", Effect::Write, true), pour);
    service.start(&cx, &nats.connect(&cx, "act").await).await.unwrap();
    let by = nats.raw("home").await;
    let mut mute = by.subscribe("nhi.ai.chat.*").await.unwrap();
    let mut foreign = by.subscribe("nhi.kettle.boil.*").await.unwrap();
    settle(&by).await;
    let asked = async |by: &Bus, service: &str, endpoint: &str, seconds: u64| {
        let call = Call::new(by, service, endpoint, r#"{"frames":0}"#.into()).unwrap();
        let mut asked = stream(by, call.timeout(Timeout::of(Duration::from_secs(seconds)))).await.unwrap();
        asked.opened().await
    };
    // Whom the server lets not ask for signs of life does not miss any.
    nats.add("anna", Role::Viewer).await;
    let anna = nats.connect(&cx, "anna").await;
    let (built_in, other, working, refused, ..) = futures::join!(
        asked(&home, "ai", "chat", 60),
        asked(&home, "kettle", "boil", 17),
        asked(&home, "act", "plan", 17),
        asked(&anna, "act", "list", 17),
        timeout(SOON, mute.next()),
        timeout(SOON, foreign.next())
    );
    assert!(matches!(built_in, Err(CallError::Lost { .. })), "{built_in:?}");
    for timed_out in [other, working, refused] {
        assert!(matches!(&timed_out, Err(error) if error.status() == 504), "{timed_out:?}");
    }
}

/// A kettle that can be killed: nothing of it says good-bye.
async fn mortal(nats: &Nats) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (target, seed) = (nats.target(), nats.seed("kettle"));
    let started = runtime.spawn(async move {
        let cx = Cx::new();
        let bus = Bus::connect(&cx, &target, &"kettle".parse().unwrap(), &seed).await.unwrap();
        let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "pours", stream: true };
        let service = Service::new("kettle", "1.2.3", "").streaming::<Ask, Value, _>(spec, pour);
        (service.start(&cx, &bus).await.unwrap(), cx)
    });
    std::mem::forget(started.await.unwrap());
    runtime
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_an_instance_that_is_killed_hears_of_it_soon() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("kettle", Role::Service).await;
    nats.add("aider", Role::Agent).await;
    nats.grant("aider", "kettle").await;
    let dying = mortal(&nats).await;
    let aider = nats.connect(&cx, "aider").await;
    let mut lost = ask(&aider, 1, Then::Hang).await;
    assert!(matches!(timeout(SOON, lost.next()).await.unwrap(), Some(Ok(Frame::Part(_)))));
    // Another instance hears the question as well, and it is none of its streams.
    let living = mortal(&nats).await;
    dying.shutdown_background();
    // Until the server has seen that its connection is closed, it hands questions to the dead one too.
    let began = Instant::now();
    let mut kept = loop {
        let mut kept = ask(&aider, 1, Then::Hang).await;
        if let Ok(Some(Ok(Frame::Part(_)))) = timeout(Duration::from_secs(1), kept.next()).await {
            break kept;
        }
        assert!(began.elapsed() < SOON, "nobody answers");
    };
    let before = Instant::now();
    let noticed = async {
        let gone = timeout(SOON, lost.next()).await.unwrap();
        assert!(matches!(gone, Some(Err(CallError::Gone { .. }))), "{gone:?}");
        before.elapsed()
    };
    // The control: one that is only quiet says that it is alive.
    let quiet = timeout(Duration::from_secs(7), kept.next());
    let (noticed, quiet) = futures::join!(noticed, quiet);
    assert!(noticed < Duration::from_secs(8), "{noticed:?}");
    assert!(quiet.is_err(), "{quiet:?}");
    living.shutdown_background();
}

/// A service that pours frames of 64 KiB for as long as it may, and tells how many and when it is over.
async fn spring(cx: &Cx, nats: &Nats) -> (Arc<AtomicUsize>, tokio::sync::mpsc::UnboundedReceiver<String>) {
    nats.add("kettle", Role::Service).await;
    let (sent, (tell, dropped)) = (Arc::new(AtomicUsize::new(0)), tokio::sync::mpsc::unbounded_channel());
    let count = sent.clone();
    let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "", stream: true };
    let handler = move |caller: Caller, _: Value, frames: Frames| {
        let (count, mark) = (count.clone(), Dropped(tell.clone(), caller.name.to_string()));
        async move {
            let _mark = mark;
            loop {
                frames.send(vec![b'x'; FRAME]).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let service = Service::new("kettle", "1.2.3", "").streaming::<Value, Value, _>(spec, handler);
    service.start(cx, &nats.connect(cx, "kettle").await).await.unwrap();
    (sent, dropped)
}

/// Frames that may come before a caller says anything.
const ALLOWED: usize = 4 * 1024 * 1024 / FRAME;

async fn reads(frames: &mut FrameStream, count: usize) {
    for n in 0..count {
        let frame = timeout(SOON, frames.next()).await.unwrap().unwrap();
        assert!(matches!(&frame, Ok(Frame::Part(bytes)) if bytes.len() == FRAME), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_granted_one_endpoint_reads_a_long_stream_and_calls_it_off() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (_sent, mut dropped) = spring(&cx, &nats).await;
    // A viewer may call nothing of the sort by its role.
    nats.add("wall", Role::Viewer).await;
    nats.grant("wall", "kettle.pour").await;
    let wall = nats.connect(&cx, "wall").await;
    let call = Call::new(&wall, "kettle", "pour", Bytes::new()).unwrap();
    let mut frames = stream(&wall, call).await.unwrap();
    reads(&mut frames, 3 * ALLOWED).await;
    drop(frames);
    assert_eq!(timeout(SOON, dropped.recv()).await.unwrap().unwrap(), "wall");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_its_stream_and_no_memory() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (sent, _dropped) = spring(&cx, &nats).await;
    nats.add("aider", Role::Agent).await;
    nats.grant("aider", "kettle").await;
    let aider = nats.connect(&cx, "aider").await;
    let call = Call::new(&aider, "kettle", "pour", Bytes::new()).unwrap();
    let mut frames = stream(&aider, call).await.unwrap();
    wait_for("it to use its credit", SOON, async || sent.load(Ordering::Relaxed) >= ALLOWED).await;
    // What the handler may be ahead of the connection comes on top.
    let grows = wait_for_more(&sent, ALLOWED + 40).await;
    assert!(!grows, "{} frames for nobody", sent.load(Ordering::Relaxed));
    // The control: who reads gets more than that, and all of it.
    reads(&mut frames, 4 * ALLOWED).await;
}

/// Whether a count goes beyond a bound within half a second.
async fn wait_for_more(count: &AtomicUsize, most: usize) -> bool {
    let more = async {
        while count.load(Ordering::Relaxed) <= most {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_millis(500), more).await.is_ok()
}
