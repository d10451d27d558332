//! Memory that does not come free, or not for long, and whoever keeps it: a server that hangs, a reader that sleeps, a
//! model that comes up late.

use crate::house::{HOST, Pc, SOON, Setup, load};
use nhi_agents::gpu::{OnRed, here, say_here};
use nhi_bus::pass;
use nhi_decide::semaphore::Thresholds;
use nhi_model::{
    Timestamp,
    gpu::{Freed, FreedBy, Light, Reason},
};
use nhi_sim::models::{Fault, On};
use nhi_testkit::wait_for;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn freed(pc: &Pc, expected: bool) -> Freed {
    wait_for("the memory to be told of", SOON, async || {
        let gauges = pc.gauges();
        match gauges.freed {
            Some(freed) if freed.free == expected => Ok(freed),
            _ => Err(gauges),
        }
    })
    .await
}

/// The active alerts.
fn alerts(pc: &Pc) -> Vec<String> {
    let shown = pc.in_mesh().view.read();
    shown.records.keys().map(ToString::to_string).filter(|key| key.starts_with("alert.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_does_not_come_free_is_a_problem_until_it_does() {
    let pc = Pc::in_a_house(OnRed::Cut).await;
    pc.is_available("free", true).await;
    pc.chat("hello").await.unwrap();
    assert_eq!(alerts(&pc), Vec::<String>::new());
    pc.keeps_memory.store(true, Ordering::Relaxed);
    let began = Instant::now();
    pc.start_game();
    let told = freed(&pc, false).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(
        told.after_ms >= 2_000 && told.by == FreedBy::Driver && told.held_bytes > Some(1 << 30),
        "{told:?}"
    );
    let expected = [format!("alert.state.gpu_memory_{HOST}")];
    wait_for("the alert", SOON, async || if alerts(&pc) == expected { Ok(()) } else { Err(alerts(&pc)) })
        .await;
    assert_eq!(pc.seen().await.gauges.unwrap().freed.map(|freed| freed.free), Some(false));
    pc.keeps_memory.store(false, Ordering::Relaxed);
    freed(&pc, true).await;
    wait_for(
        "the alert to go",
        SOON,
        async || if alerts(&pc).is_empty() { Ok(()) } else { Err(alerts(&pc)) },
    )
    .await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_keeps_nobody_from_looking() {
    let pc = Pc::new(OnRed::Cut).await;
    pc.chat("hello").await.unwrap();
    let path = |path: &str| On { path: Some(path.to_owned()), ..On::default() };
    let hang = pc.sim.set_fault_on(Fault::SlowHeaders { ms: 60_000 }, path("/api/generate"));
    let began = Instant::now();
    pc.start_game();
    freed(&pc, false).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // It is told again, and lets go as soon as it hears.
    pc.sim.clear_fault(hang);
    freed(&pc, true).await;
    assert!(pc.sim.loaded().is_empty());
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_comes_up_late_is_unloaded_too() {
    let pc = Pc::new(OnRed::Cut).await;
    pc.chat("hello").await.unwrap();
    pc.start_game();
    freed(&pc, true).await;
    load(&pc.sim).await;
    wait_for("it to be unloaded again", SOON, async || {
        if pc.sim.loaded().is_empty() { Ok(()) } else { Err(pc.gauges()) }
    })
    .await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_starts_takes_nothing_out_of_memory() {
    let pc = Pc::set_up(Setup { is_loaded: true, hangs: true, ..Setup::default() }).await;
    let unloaded = wait_for("a model to be unloaded", SOON, async || pc.sim.loaded().is_empty());
    // The first look takes its time, and the light is red so long.
    assert!(
        tokio::time::timeout(Duration::from_millis(700), unloaded).await.is_err(),
        "nothing was seen yet"
    );
    pc.hang().end();
    wait_for("the first look", SOON, async || pc.shown().seen).await;
    assert_eq!(pc.shown().memory.light, Light::Yellow, "{}", pc.shown().memory.text);
    assert_eq!((pc.sim.loaded().len(), pc.gauges().freed), (1, None));
    // The control: a reason to turn red is one.
    pc.start_game();
    freed(&pc, true).await;
    assert!(pc.sim.loaded().is_empty() && pc.sim.counts().by_path["/api/generate"] > 1);
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_look_no_word_makes_it_free() {
    let thresholds = Thresholds { card_needed: false, ..Thresholds::default() };
    let pc = Pc::set_up(Setup { hangs: true, thresholds, ..Setup::default() }).await;
    let word = say_here(&pc.run_dir(), Timestamp::now(), None).unwrap();
    // The word is heard at once, the first look takes two seconds.
    let mut said = pc.handle.shown();
    let lights = async {
        loop {
            let shown = said.borrow_and_update().clone();
            assert_eq!(shown.memory.light, Light::Red, "{}", shown.memory.text);
            if shown.seen {
                return;
            }
            said.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, lights).await.unwrap();
    wait_for("commands here to be told", SOON, async || {
        let told = here(&pc.run_dir(), Timestamp::now()).and_then(|here| here.said);
        if told.as_ref() == Some(&word) { Ok(()) } else { Err(told) }
    })
    .await;
    // The control: what was seen then frees it.
    wait_for("it to settle", SOON, async || {
        let memory = pc.shown().memory.clone();
        if memory.reason == Reason::Unreadable { Ok(()) } else { Err(memory) }
    })
    .await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_is_cut_too() {
    let pc = Pc::new(OnRed::Cut).await;
    pc.sim.set_fault(Fault::Huge { bytes: 64 << 20 });
    let mut stream = TcpStream::connect(pc.relay()).await.unwrap();
    let body = r#"{"model":"sim-8b","stream":false,"messages":[{"role":"user","content":"much"}]}"#;
    let pass = pass::issue(&pc.seed, HOST, "POST", "/api/chat", Timestamp::now());
    let head = format!("Host: x\r\nNhi-Relay: {pass}\r\nContent-Length: {}", body.len());
    stream.write_all(format!("POST /api/chat HTTP/1.1\r\n{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(
        (pc.gauges().running, pc.sim.counts().in_flight),
        (1, 1),
        "the control: it is on its way, and stays"
    );
    let began = Instant::now();
    pc.start_game();
    wait_for("it to be gone", SOON, async || {
        let (running, counts) = (pc.gauges().running, pc.sim.counts());
        if running == 0 && counts.cancelled.len() == 1 { Ok(()) } else { Err((running, counts)) }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    pc.end().await;
}
