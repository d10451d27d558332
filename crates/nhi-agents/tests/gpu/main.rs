//! The GPU's publisher on a machine made of files, with a stand-in for NVIDIA's library and a simulated model server: a
//! game starts, and what happens then, with and without the mesh.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod door;
mod freeing;
mod house;
mod locks;
#[path = "../../../nhi-host/tests/sensor/nvml.rs"]
mod nvml;

use house::{Pc, SOON};
use nhi_agents::gpu::{OnRed, say_here};
use nhi_llm::Kind;
use nhi_model::{
    Timestamp,
    gpu::{FreedBy, Light, Lock, Reason},
};
use nhi_testkit::wait_for;
use std::time::{Duration, Instant};

/// What the design promises.
const NO_NEW_WORK: Duration = Duration::from_secs(1);
const MEMORY_FREE: Duration = Duration::from_secs(2);

/// A game starts while an answer streams. Returns when everything that must happen has happened.
async fn a_game_starts_in_the_middle_of_an_answer(pc: &Pc) {
    let mut answer = pc.stream("tell me a long story").await.unwrap();
    for _ in 0..5 {
        answer.next().await.unwrap().unwrap();
    }
    assert_eq!(pc.sim.loaded().len(), 1);
    wait_for("the request to be counted, and its memory to be ours", SOON, async || {
        let gauges = pc.gauges();
        let ours = gauges.cards.first().and_then(|card| card.vram_ours_bytes);
        if gauges.running == 1 && ours > Some(0) { Ok(()) } else { Err(gauges) }
    })
    .await;
    assert_eq!(pc.shown().memory.light, Light::Yellow, "our own inference is no sign of a person");

    let began = Instant::now();
    pc.start_game();
    let broken = loop {
        match answer.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(broken, Some(Err(error)) if error.kind == Kind::Cut), "it is cut, and says so");
    assert!(began.elapsed() < NO_NEW_WORK, "{:?}", began.elapsed());
    let refused = pc.chat("hello").await.unwrap_err();
    assert_eq!(refused.kind, Kind::GpuTaken, "{refused}");
    assert!(refused.message.contains("570"), "{refused}");
    assert!(began.elapsed() < NO_NEW_WORK, "{:?}", began.elapsed());
    wait_for("the memory to be free", SOON, async || {
        let loaded = pc.sim.loaded();
        if loaded.is_empty() { Ok(()) } else { Err(loaded) }
    })
    .await;
    assert!(began.elapsed() < MEMORY_FREE, "{:?}", began.elapsed());
    let counts = pc.sim.counts();
    assert_eq!(
        (counts.cancelled.len(), counts.in_flight),
        (1, 0),
        "the server was told to stop, not left alone"
    );
    wait_for("the light to tell", SOON, async || {
        let gauges = pc.gauges();
        let is_free = gauges.freed.as_ref().is_some_and(|freed| freed.free && freed.by == FreedBy::Driver);
        let is_told =
            gauges.reason == Reason::Game && gauges.loaded.is_empty() && gauges.running == 0 && is_free;
        if is_told { Ok(()) } else { Err(gauges) }
    })
    .await;
    let freed = pc.gauges().freed.unwrap();
    assert!(Duration::from_millis(freed.after_ms) < MEMORY_FREE && freed.held_bytes == Some(0), "{freed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mesh_the_person_who_plays_comes_first() {
    let pc = Pc::new(OnRed::Cut).await;
    assert!(pc.chat("hello").await.is_ok(), "the control: before the game it answers");
    a_game_starts_in_the_middle_of_an_answer(&pc).await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mesh_everybody_hears_of_it_and_without_it_again_nothing_waits() {
    let mut pc = Pc::in_a_house(OnRed::Cut).await;
    pc.is_available("green or yellow", true).await;
    let routers = pc.seen().await.gpu;
    assert_eq!(routers.relay.unwrap().url, format!("http://{}", pc.relay()));
    a_game_starts_in_the_middle_of_an_answer(&pc).await;
    pc.is_available("red", false).await;
    assert!(pc.seen().await.text.contains("the game 570 of Steam runs"));

    // The bus goes away in the middle.
    let pc_two = Pc::in_a_house(OnRed::Cut).await;
    pc_two.is_available("green or yellow", true).await;
    pc.end().await;
    pc = pc_two;
    pc.kill_mesh().await;
    a_game_starts_in_the_middle_of_an_answer(&pc).await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_hangs_is_red_and_locks_are_heard_meanwhile() {
    let pc = Pc::new(OnRed::Cut).await;
    assert_eq!(pc.shown().memory.light, Light::Yellow, "the control: it can be read");
    let hang = pc.hang_driver();
    let reason = async |what: &str, expected: Reason| {
        wait_for(what, SOON, async || {
            let memory = pc.shown().memory.clone();
            if memory.reason == expected { Ok(()) } else { Err(memory.text) }
        })
        .await;
    };
    reason("the hanging driver to show", Reason::Unreadable).await;
    assert_eq!(pc.shown().memory.light, Light::Red);
    assert!(pc.shown().memory.text.contains("takes longer than 2s"), "{}", pc.shown().memory.text);
    assert_eq!(pc.chat("hello").await.unwrap_err().kind, Kind::GpuTaken);
    let until = Timestamp::now() + Duration::from_secs(600);
    let began = Instant::now();
    say_here(&pc.run_dir(), Timestamp::now(), Some(Lock { by: None, until })).unwrap();
    reason("the lock to be heard", Reason::Locked).await;
    assert!(began.elapsed() < NO_NEW_WORK, "{:?}", began.elapsed());
    say_here(&pc.run_dir(), Timestamp::now(), None).unwrap();
    reason("the lock to end", Reason::Unreadable).await;
    hang.end();
    reason("the driver to be read again", Reason::Settling).await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_answers_may_end_they_end_and_then_the_memory_is_freed() {
    let pc = Pc::new(OnRed::Finish).await;
    let mut answer = pc.stream("a short one").await.unwrap();
    answer.next().await.unwrap().unwrap();
    pc.start_game();
    wait_for("new work to be refused", SOON, async || {
        pc.chat("hello").await.is_err_and(|error| error.kind == Kind::GpuTaken)
    })
    .await;
    assert_eq!(pc.sim.loaded().len(), 1, "it still answers");
    let mut last = None;
    while let Some(chunk) = answer.next().await {
        last = Some(chunk.unwrap());
    }
    assert!(last.is_some(), "it came to its end");
    wait_for("the memory to be free", SOON, async || pc.sim.loaded().is_empty()).await;
    assert!(pc.sim.counts().cancelled.is_empty());
    pc.end().await;
}
