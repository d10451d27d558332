//! Every process of the mesh under `kill -9`, at random moments, while the lab changes all the time and clients read and
//! write: a reader of `state.json` never sees a torn pair, nothing that was acknowledged is missing, and the mesh goes
//! on by itself. A sample by default, the stated counts with `NHI_FULL=1`.
//!
//! The processes are the real `nhi` and the real nats-server; the simulated Proxmox and the clients live in the test.
//! The control for torn pairs, a writer with two renames instead of one, is in `crates/nhi-agents/tests/mirror_kill.rs`:
//! it kills writers much closer together. The control for `sync_interval` is in `power`: a killed process loses
//! nothing that it gave to the kernel, so only a power cut can tell the two settings apart.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it is, its helpers too")]

mod house;
mod moment;
mod power;
mod witness;

use house::{House, Part};
use moment::{Dice, Moments};
use nhi_testkit::wait_for;
use std::{
    env,
    fmt::Write as _,
    time::{Duration, Instant},
};
use witness::Witness;

/// How long anything may take on a busy machine: a mesh that starts anew needs about two seconds.
const SOON: Duration = Duration::from_secs(60);

fn rounds(sample: usize, full: usize) -> usize {
    if env::var_os("NHI_FULL").is_some_and(|value| value == "1") { full } else { sample }
}

/// Each agent a process of its own, as on several machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_their_own_are_killed() {
    let parts = [Part::Server, Part::Scan, Part::Mirror, Part::State];
    let house = House::apart().await;
    println!("{}", kill_again_and_again(house, &parts, Dice::new(0x6e68_6933), rounds(6, 200)).await);
}

/// `nhi up` with everything in it, and the nats-server it supervises.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_and_its_server_are_killed() {
    let parts = [Part::Up, Part::Server];
    let house = House::together().await;
    println!("{}", kill_again_and_again(house, &parts, Dice::new(0x6e68_6934), rounds(4, 200)).await);
}

/// Returns what was seen, for whoever reads along.
async fn kill_again_and_again(mut house: House, parts: &[Part], mut dice: Dice, rounds: usize) -> String {
    let mut witness = Witness::start(&house).await;
    let moments = Moments::of(&house).await;
    let mut story = String::new();
    for round in 0..rounds {
        // Each part once, then whichever comes.
        let part = *parts.get(round).unwrap_or_else(|| &parts[dice.below(parts.len() as u64) as usize]);
        let told = moments.wait_for_one(&mut dice).await;
        let killed_at = Instant::now();
        house.kill(part).await;
        let _ = write!(story, "\nround {round}: {part:?} {told}");
        witness.check_files(&house, &story);
        house.restart(part).await;
        let mark = format!("round-{round}");
        house.mark(&mark);
        wait_for(&format!("a change to arrive everywhere:{story}"), SOON, async || {
            house.check_alive()?;
            witness.shows(&house, &mark).await
        })
        .await;
        witness.check_acknowledged(&house, &story).await;
        let _ = write!(story, ", well again after {} ms", killed_at.elapsed().as_millis());
    }
    let seen = witness.finish(&house, &story).await;
    house.end().await;
    seen
}
