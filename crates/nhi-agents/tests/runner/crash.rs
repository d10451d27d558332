//! Random schedules with everything real but Proxmox: a nats-server, HTTP, faults on the way, and actuators that are
//! killed at any moment.

use crate::{
    dice::{Dice, schedules},
    house::{Actuator, House},
    steps::{everything, impatient, plan},
    truth,
};
use futures::future::join_all;
use nhi_decide::verify::{Verified, verify};
use nhi_model::{
    Timestamp,
    plan::{Ends, OnFailure, Plan},
    run::{Run, RunState},
};
use nhi_sim::{Breakage, Fault, Match};
use nhi_testkit::{Fault as PathFault, Proxy};
use std::{collections::BTreeMap, time::Instant};

/// Houses side by side: a schedule mostly waits. Each costs a nats-server, which only many schedules are worth.
const fn lanes(count: u64) -> u64 {
    if count > 500 { 16 } else { 4 }
}

/// Schedules after which a lane moves into a new house: what acting remembers, and the audit log that is read through after
/// each of them, would grow for ever.
const HOUSE_LASTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn random_schedules_have_one_effect_each() {
    let count = schedules(60, 2_000);
    let lanes = join_all((0..lanes(count)).map(|first| lane(first, count))).await;
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for (state, many) in lanes.iter().flat_map(|lane| &lane.ends) {
        *ends.entry(state).or_default() += many;
    }
    println!("{count} schedules: {ends:?}");
    let paces: Vec<&Vec<u128>> = lanes.iter().map(|lane| &lane.paces_ms).collect();
    println!("milliseconds of a schedule, lane by lane and house by house: {paces:?}");
    assert!(ends.len() > 2 || count < 30, "a sample in which all end alike shows nothing: {ends:?}");
}

/// What became of a lane's schedules.
#[derive(Default)]
struct Lane {
    ends: BTreeMap<&'static str, u32>,
    /// How long one took, on average, in each house.
    paces_ms: Vec<u128>,
}

/// Every so many schedules, in one house after the other.
async fn lane(first: u64, count: u64) -> Lane {
    let mut lane = Lane::default();
    let seeds: Vec<u64> = (first..count).step_by(usize::try_from(lanes(count)).unwrap()).collect();
    for seeds in seeds.chunks(HOUSE_LASTS) {
        let house = House::open().await;
        let path = Proxy::start(&house.cx, house.nats_address()).await.unwrap();
        let mut actuator = house.actuator_by(&path).await;
        let begun = Instant::now();
        for seed in seeds {
            let run;
            (run, actuator) = one(&house, &path, actuator, *seed).await;
            *lane.ends.entry(run.state.as_str()).or_default() += 1;
        }
        lane.paces_ms.push(begun.elapsed().as_millis() / seeds.len() as u128);
        drop(actuator);
        house.close().await;
    }
    lane
}

async fn one(house: &House, path: &Proxy, mut actuator: Actuator, seed: u64) -> (Run, Actuator) {
    let mut dice = Dice::of(seed);
    house.lab.reset();
    let mut wishes = everything();
    dice.shuffle(&mut wishes);
    wishes.truncate(usize::try_from(1 + dice.below(4)).unwrap());
    let on_failure = dice.pick(&[OnFailure::Compensate, OnFailure::Compensate, OnFailure::Stop]);
    let plan = impatient(plan(&format!("p-{seed:08}"), &wishes, on_failure));
    let faults: Vec<u64> =
        faults(&mut dice, &plan).into_iter().map(|f| house.lab.set_fault(f).unwrap()).collect();
    let id = house.apply(&plan).await;
    for _ in 0..dice.below(4) {
        if house.is_over_within(&id, dice.below(900)).await {
            break;
        }
        // It dies, or the bus is out of its reach for a while.
        if dice.once_in(4) {
            path.set(dice.pick(&[PathFault::Cut, PathFault::HalfOpen]));
            let _still_cut = house.is_over_within(&id, dice.below(700)).await;
            path.set(PathFault::Pass);
        } else {
            actuator.kill();
            actuator = house.actuator_by(path).await;
        }
    }
    // What does not mend by itself is mended after a while.
    if !house.is_over_within(&id, 500 + dice.below(4000)).await {
        for fault in faults {
            house.lab.clear_fault(fault).unwrap();
        }
    }
    let run = house.over(&id).await;
    house.check(&plan, &run).await;
    let is_so = |facts: Vec<_>| {
        let sight = house.lab.with_lab(|lab| truth::look(lab, Timestamp::now()));
        verify(&Plan { expects: facts, ..plan.clone() }, &sight) == Verified::Done
    };
    match &run.state {
        RunState::Done { .. } => assert!(is_so(plan.expects.clone()), "schedule {seed}: {run:#?}"),
        RunState::NeedsHuman { text } => {
            assert!(text.contains("look at") || text.contains("Taking it back"), "schedule {seed}: {text}");
            house.acknowledge(&id).await;
        }
        RunState::Failed { .. } | RunState::Compensated { .. } => {}
        other => panic!("schedule {seed}: {other:?}"),
    }
    (run, actuator)
}

/// What goes wrong in a schedule: up to two things.
fn faults(dice: &mut Dice, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for _ in 0..1 + dice.below(2) {
        let step = dice.pick(&plan.steps);
        let step = match &step.compensation {
            Some(undo) if dice.once_in(4) => (**undo).clone(),
            _ => step,
        };
        let on = Match {
            method: Some(step.call.method.as_str().to_owned()),
            path: Some(step.call.path.clone()),
            times: Some(1),
            after: 0,
        };
        let http = |answer| Fault::Http { on: on.clone(), answer };
        let task = |error: &str, done: bool| match &step.ends {
            Ends::Task { kinds, vmid, .. } => Fault::TaskFails {
                task: kinds[0].clone(),
                vmid: Some(*vmid),
                error: error.to_owned(),
                times: Some(1),
                done,
            },
            Ends::Answer {} => Fault::Slow { on: on.clone(), ms: 150 },
        };
        faults.push(match dice.below(11) {
            0 => http(Breakage::DropBefore {}),
            1 => http(Breakage::DropAfter {}),
            2 => http(Breakage::Truncate {}),
            3 => http(Breakage::Status { code: 500, message: "not today".to_owned() }),
            4 | 5 => task("it broke", false),
            6 => task("it broke at the end", true),
            7 => task("unexpected status", dice.once_in(2)),
            8 => match &step.ends {
                Ends::Task { kinds, vmid, .. } => {
                    Fault::TaskHangs { task: kinds[0].clone(), vmid: Some(*vmid) }
                }
                Ends::Answer {} => http(Breakage::Garbage {}),
            },
            9 => Fault::NodeOffline { node: step.node.clone(), code: 595, power_cut: dice.once_in(2) },
            _ => Fault::Slow { on: on.clone(), ms: 200 },
        });
    }
    faults
}
