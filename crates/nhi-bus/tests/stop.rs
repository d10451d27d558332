//! Services that stop, and servers that die, under load: no request that the server took is lost.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use async_nats::Client;
use futures::StreamExt;
use nhi_bus::{
    call::{Call, CallError, Timeout, call},
    connect::Bus,
    cx::Cx,
    service::{Caller, Service, Spec},
};
use nhi_model::{call::Effect, fault::Fault, identity::Role};
use nhi_testkit::{Nats, settle, wait_for};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(10);
/// A request that is not answered within this is lost. Long, for a busy machine.
const LOST: Duration = Duration::from_secs(5);
/// The same for the control, which waits for it.
const LOST_CONTROL: Duration = Duration::from_millis(500);
const CALLERS: usize = 64;

const SPEC: Spec =
    Spec { endpoint: "boil", effect: Effect::Write, description: "for the tests", stream: false };

fn kettle() -> Service {
    Service::new("kettle", "1.2.3", "boils water").endpoint(SPEC, async |_: Caller, order: Value| {
        // Some work, so that requests are being handled when the stop comes.
        tokio::task::yield_now().await;
        Ok::<Value, Fault>(order)
    })
}

async fn house(cx: &Cx) -> (Nats, Bus) {
    let nats = Nats::start().await;
    nats.add("kettle", Role::Service).await;
    let home = nats.connect(cx, "home").await;
    (nats, home)
}

/// Calls from many at once.
struct Load {
    answered: Arc<AtomicU64>,
    callers: JoinSet<Vec<CallError>>,
    cx: Cx,
}

impl Load {
    fn start(home: &Bus, service: &'static str, lost: Duration) -> Self {
        let (answered, cx, mut callers) = (Arc::new(AtomicU64::new(0)), Cx::new(), JoinSet::new());
        for _ in 0..CALLERS {
            let (home, answered, cx) = (home.clone(), answered.clone(), cx.clone());
            callers.spawn(async move {
                let mut errors = Vec::new();
                while !cx.is_cancelled() {
                    let call = Call::new(&home, service, "boil", r#"{"cups":1}"#.into()).unwrap();
                    match call.timeout(Timeout::of(lost)).send(&home).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => errors.push(error),
                    }
                }
                errors
            });
        }
        Self { answered, callers, cx }
    }

    /// Returns when so many more were answered.
    async fn more(&self, count: u64) {
        let goal = self.answered.load(Ordering::SeqCst) + count;
        wait_for("answers", SOON, async || {
            let now = self.answered.load(Ordering::SeqCst);
            if now >= goal { Ok(()) } else { Err(goal - now) }
        })
        .await;
    }

    async fn finish(self) -> Vec<CallError> {
        self.cx.cancel();
        self.callers.join_all().await.into_iter().flatten().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_lose_nothing() {
    let cx = Cx::new();
    let (nats, home) = house(&cx).await;
    let (first, second) = (nats.connect(&cx, "kettle").await, nats.connect(&cx, "kettle").await);
    kettle().start(&cx, &first).await.unwrap();
    let load = Load::start(&home, "kettle", LOST);
    for _ in 0..5 {
        let instance = kettle().start(&cx, &second).await.unwrap();
        load.more(500).await;
        let before = Instant::now();
        instance.stop().await;
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    }
    let lost = load.finish().await;
    assert!(lost.is_empty(), "{} lost, one of them: {}", lost.len(), lost[0]);
}

/// One instance as it is written without care: it ends with its subscription.
async fn careless(client: Client, until: Cx) {
    let mut requests = client.queue_subscribe("nhi.careless.boil.*", "q".to_owned()).await.unwrap();
    loop {
        tokio::select! {
            request = requests.next() => {
                let request = request.unwrap();
                client.publish(request.reply.unwrap(), request.payload).await.unwrap();
            }
            () = until.cancelled() => return,
        }
    }
}

/// The control: the same load, the same stops, no drain.
#[tokio::test(flavor = "multi_thread")]
async fn control_stops_without_a_drain_lose_requests() {
    let cx = Cx::new();
    let (nats, home) = house(&cx).await;
    cx.spawn("careless", careless(nats.raw("home").await, cx.clone()));
    let second = nats.raw("home").await;
    settle(&second).await;
    wait_for("the first instance", SOON, async || {
        call::<_, Value>(&home, "careless", "boil", &json!({})).await.map(drop)
    })
    .await;
    let load = Load::start(&home, "careless", LOST_CONTROL);
    for _ in 0..20 {
        let instance = cx.child();
        instance.spawn("careless", careless(second.clone(), instance.clone()));
        load.more(500).await;
        instance.close().await;
    }
    let lost = load.finish().await;
    cx.close().await;
    assert!(!lost.is_empty(), "the control must lose requests");
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_and_takes_nothing_new() {
    let cx = Cx::new();
    let (nats, home) = house(&cx).await;
    let (gate, started) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (gated, starting) = (gate.clone(), started.clone());
    let service = Service::new("kettle", "1.2.3", "").endpoint(SPEC, move |_: Caller, order: Value| {
        let (gated, starting) = (gated.clone(), starting.clone());
        async move {
            starting.add_permits(1);
            gated.acquire().await.unwrap().forget();
            Ok::<Value, Fault>(order)
        }
    });
    let running = service.start(&cx, &nats.connect(&cx, "kettle").await).await.unwrap();
    let order = json!({"cups": 3});
    let asking = call::<_, Value>(&home, "kettle", "boil", &order);
    let stopping = async {
        started.acquire().await.unwrap().forget();
        let opening = async {
            // New requests find nobody in the end; only then may what was taken go on.
            wait_for("nobody to answer", SOON, async || {
                let call = Call::new(&home, "kettle", "boil", "{}".into()).unwrap();
                match call.timeout(Timeout::of(Duration::from_millis(100))).send(&home).await {
                    Err(CallError::NobodyAnswers { .. }) => Ok(()),
                    other => Err(other),
                }
            })
            .await;
            gate.add_permits(1_000);
        };
        tokio::join!(running.stop(), opening);
    };
    let (answer, ()) = timeout(SOON, async { tokio::join!(asking, stopping) }).await.unwrap();
    assert_eq!(answer.unwrap(), order);
}

/// A service does not notice that the server died, but for the pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_outlives_the_server_and_still_stops_without_loss() {
    let cx = Cx::new();
    let (mut nats, home) = house(&cx).await;
    let (first, second) = (nats.connect(&cx, "kettle").await, nats.connect(&cx, "kettle").await);
    kettle().start(&cx, &first).await.unwrap();
    let instance = kettle().start(&cx, &second).await.unwrap();
    let load = Load::start(&home, "kettle", LOST);
    load.more(500).await;
    drop(load.finish().await);
    nats.kill9().await;
    nats.restart().await;
    for bus in [&home, &first, &second] {
        timeout(SOON, bus.link().wait_for(|link| link.is_up())).await.unwrap().unwrap();
        bus.ready().await.unwrap();
    }
    let load = Load::start(&home, "kettle", LOST);
    load.more(500).await;
    instance.stop().await;
    load.more(500).await;
    let lost = load.finish().await;
    assert!(lost.is_empty(), "{} lost, one of them: {}", lost.len(), lost[0]);
    timeout(SOON, cx.close()).await.unwrap();
}

#[tokio::test]
async fn a_stop_without_a_server_does_not_hang() {
    let cx = Cx::new();
    let (mut nats, _home) = house(&cx).await;
    let bus = nats.connect(&cx, "kettle").await;
    let running = kettle().start(&cx, &bus).await.unwrap();
    nats.kill9().await;
    timeout(SOON, bus.link().wait_for(|link| !link.is_up())).await.unwrap().unwrap();
    let before = Instant::now();
    running.stop().await;
    bus.close().await;
    cx.close().await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}
