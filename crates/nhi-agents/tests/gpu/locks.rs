//! Locks: over the mesh, at the machine itself, and what a machine that is silent means.

use crate::house::{HOST, Pc, SOON};
use nhi_agents::gpu::{OnRed, here, say_here};
use nhi_bus::{
    call::{CallError, call},
    connect::Bus,
    store,
};
use nhi_llm::Kind;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    audit::AuditKind,
    call::{AuditList, AuditListed},
    envelope::Live,
    gpu::{GpuLock, GpuLocked, GpuUnlock, Light, Lock, Reason},
    identity::Role,
    key::Key,
};
use nhi_testkit::wait_for;
use std::time::{Duration, Instant};

async fn lock(bus: &Bus, minutes: Option<u32>) -> Result<GpuLocked, CallError> {
    call(bus, "gpu", "lock", &GpuLock { host: HOST.to_owned(), minutes }).await
}

async fn unlock(bus: &Bus) -> GpuLocked {
    call(bus, "gpu", "unlock", &GpuUnlock { host: HOST.to_owned() }).await.unwrap()
}

/// Every word of the test below is in the audit log: what was said, by whom, and where.
async fn audited(pc: &Pc) {
    let expected = [
        (AuditKind::GpuLocked, "owner", "over the mesh"),
        (AuditKind::GpuUnlocked, "owner", "over the mesh"),
        (AuditKind::GpuLocked, HOST, "at the machine"),
        (AuditKind::GpuUnlocked, "owner", "over the mesh"),
        (AuditKind::GpuLocked, "owner", "over the mesh"),
        (AuditKind::GpuUnlocked, HOST, "at the machine"),
    ];
    let expected = expected.map(|(kind, by, said)| (kind, by.to_owned(), said.to_owned()));
    wait_for("the audit log to tell", SOON, async || {
        let listed: AuditListed =
            call(&pc.in_mesh().owner, "audit", "list", &AuditList::default()).await.unwrap();
        let words = listed
            .entries
            .iter()
            .filter(|row| row.entry.details.get("host").is_some_and(|host| host == HOST));
        let told: Vec<_> = words
            .map(|row| {
                let by = row.entry.actor.as_ref().unwrap().to_string();
                (row.entry.kind, by, row.entry.details["said"].as_str().unwrap().to_owned())
            })
            .collect();
        if told == expected { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Waits until the machine is locked, or is not.
async fn is_locked(pc: &Pc, expected: bool) {
    wait_for("the lock to count", SOON, async || {
        let memory = pc.shown().memory.clone();
        if (memory.reason == Reason::Locked) == expected { Ok(()) } else { Err(memory.text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_over_the_mesh_reaches_the_machine_and_a_word_there_reaches_the_mesh() {
    let pc = Pc::in_a_house(OnRed::Cut).await;
    pc.is_available("free", true).await;
    let mesh = pc.in_mesh();
    mesh.nats.add("aider", Role::Agent).await;
    let aider = mesh.nats.connect(&pc.cx, "aider").await;
    assert!(matches!(lock(&aider, None).await, Err(CallError::Refused { .. })), "an agent may not");
    assert!(lock(&mesh.owner, Some(0)).await.is_err());

    let began = Instant::now();
    let locked = lock(&mesh.owner, Some(5)).await.unwrap();
    assert_eq!(locked.gpu.lock.unwrap().by.unwrap().as_str(), "owner");
    is_locked(&pc, true).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(pc.chat("hello").await.unwrap_err().kind, Kind::GpuTaken);
    pc.is_available("locked", false).await;
    assert!(pc.seen().await.text.contains("owner"));
    unlock(&mesh.owner).await;
    is_locked(&pc, false).await;
    assert!(pc.chat("hello").await.is_ok());

    // At the machine itself; then somebody elsewhere ends it.
    let until = Timestamp::now() + Duration::from_secs(600);
    say_here(&pc.run_dir(), Timestamp::now(), Some(Lock { by: None, until })).unwrap();
    is_locked(&pc, true).await;
    wait_for("the record to tell", SOON, async || match pc.record() {
        Some(gpu) if gpu.lock == Some(Lock { by: None, until }) => Ok(()),
        other => Err(other),
    })
    .await;
    unlock(&mesh.owner).await;
    is_locked(&pc, false).await;
    // And the other way round.
    lock(&mesh.owner, None).await.unwrap();
    is_locked(&pc, true).await;
    say_here(&pc.run_dir(), Timestamp::now(), None).unwrap();
    is_locked(&pc, false).await;
    wait_for("the record to tell", SOON, async || pc.record().is_some_and(|gpu| gpu.lock.is_none())).await;
    audited(&pc).await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_at_the_machine_needs_no_mesh_and_ends_by_itself() {
    let pc = Pc::new(OnRed::Cut).await;
    let until = Timestamp::now() + Duration::from_secs(2);
    let word = say_here(&pc.run_dir(), Timestamp::now(), Some(Lock { by: None, until })).unwrap();
    is_locked(&pc, true).await;
    assert_eq!(pc.chat("hello").await.unwrap_err().kind, Kind::GpuTaken);
    wait_for("commands here to be told", SOON, async || {
        let told = here(&pc.run_dir(), Timestamp::now()).ok_or("nobody tells")?;
        let is_heard = told.said.as_ref() == Some(&word) && told.gauges.light == Light::Red;
        if is_heard { Ok(()) } else { Err("it is not told yet") }
    })
    .await;
    is_locked(&pc, false).await;
    assert!(Timestamp::now() >= until);
    pc.sleep().await;
    assert!(here(&pc.run_dir(), Timestamp::now()).is_none(), "a publisher that ended tells nothing");
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_silent_is_not_available() {
    let pc = Pc::in_a_house(OnRed::Cut).await;
    pc.is_available("free", true).await;
    let gauges = serde_json::to_value(pc.gauges()).unwrap();
    pc.sleep().await;
    let told = |seconds: u64| {
        let at = Timestamp::now() - Duration::from_secs(seconds);
        Live { v: SCHEMA_VERSION, at, valid_until: at + Duration::from_secs(30), record: gauges.clone() }
    };
    for (seconds, available) in [(29, true), (31, false)] {
        store::put_live(&pc.in_mesh().home, &[(Key::gpu(HOST), told(seconds))]).await.unwrap();
        pc.is_available("what was told so long ago", available).await;
    }
    let seen = pc.seen().await;
    assert!(seen.gauges.is_none() && seen.text.contains("last heard of"), "{seen:?}");
    // Whoever sleeps can be locked all the same.
    let locked = lock(&pc.in_mesh().owner, Some(1)).await.unwrap();
    assert!(locked.gpu.lock.is_some());
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_are_over_leave_the_record() {
    let pc = Pc::in_a_house(OnRed::Cut).await;
    pc.is_available("free", true).await;
    let until = Timestamp::now() + Duration::from_secs(1);
    say_here(&pc.run_dir(), Timestamp::now(), Some(Lock { by: None, until })).unwrap();
    wait_for("the record to tell", SOON, async || pc.record().is_some_and(|gpu| gpu.lock.is_some())).await;
    wait_for("the lock to go", SOON, async || pc.record().is_some_and(|gpu| gpu.lock.is_none())).await;
    pc.is_available("free", true).await;
    pc.end().await;
}
