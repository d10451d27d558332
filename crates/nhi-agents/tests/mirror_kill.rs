//! The mirror's files under `kill -9`: a writer is killed at random points, and what is on disk must be a
//! whole pair that is not older than what the writer had acknowledged. The control writes with two renames
//! and must tear. 20 rounds; 200 with `NHI_FULL=1`.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use nhi_agents::mirror::files::{CHECKSUM, Files, STATE};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Names the directory the re-executed test binary writes into.
const DIR: &str = "NHI_MIRROR_KILL_DIR";

fn rounds() -> u32 {
    if env::var_os("NHI_FULL").is_some() { 200 } else { 20 }
}

fn state(revision: u64) -> Vec<u8> {
    format!("{{\"revision\": {revision}, \"filler\": \"{}\"}}", "x".repeat(20_000)).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is on disk: the revision of a pair that matches, `Err` with the reason when it does not.
fn at_rest(dir: &Path) -> Result<u64, String> {
    let state = fs::read(dir.join(STATE)).map_err(|e| format!("no state: {e}"))?;
    let checksum = fs::read_to_string(dir.join(CHECKSUM)).map_err(|e| format!("no checksum: {e}"))?;
    if hex(&state) != checksum {
        return Err("the pair does not match".to_owned());
    }
    let state: serde_json::Value = serde_json::from_slice(&state).map_err(|e| e.to_string())?;
    state["revision"].as_u64().ok_or_else(|| "no revision".to_owned())
}

/// A small generator, seeded: a failing round can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Starts the test named `test` again as a writer, lets it acknowledge a few commits, kills it somewhere in
/// the middle of the next, and says the last revision it acknowledged.
fn kill_a_writer(test: &str, dir: &Path, dice: &mut Dice) -> u64 {
    let mut writer = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    let mut wanted = 1 + dice.below(5);
    // Stays open until the writer is dead: a closed pipe would end it before the kill does.
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        // The test harness prints "test name ... " without a line end before our first line.
        let Some(revision) = line.rsplit("acknowledged ").next().and_then(|r| r.parse().ok()) else {
            continue;
        };
        acknowledged = revision;
        wanted -= 1;
        if wanted == 0 {
            break;
        }
    }
    // Spread over one commit, which takes a millisecond or a few. Spinning, because a timer is too coarse.
    let until = Instant::now() + Duration::from_micros(dice.below(4000));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    drop(lines);
    assert!(acknowledged > 0, "the writer wrote nothing");
    acknowledged
}

fn acknowledge(revision: u64) {
    let mut out = std::io::stdout();
    writeln!(out, "acknowledged {revision}").unwrap();
    out.flush().unwrap();
}

fn write_generations(dir: &Path) {
    let (mut files, _) = Files::open(dir).unwrap();
    let first = files.current().map_or(1, |g| g.revision + 1);
    for revision in first.. {
        let at = jiff::Timestamp::from_second(1_790_000_000 + i64::try_from(revision).unwrap()).unwrap();
        let done = files.commit(revision, at, &state(revision)).unwrap();
        assert!(done.afterwards.is_none(), "{done:?}");
        acknowledge(revision);
    }
}

#[test]
fn killed_writers_leave_whole_pairs() {
    if let Ok(dir) = env::var(DIR) {
        return write_generations(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let mut dice = Dice(0x6e68_6931);
    for round in 0..rounds() {
        let acknowledged = kill_a_writer("killed_writers_leave_whole_pairs", dir.path(), &mut dice);
        let found = at_rest(dir.path()).unwrap_or_else(|why| panic!("round {round}: {why}"));
        assert!(found >= acknowledged, "round {round}: {acknowledged} was acknowledged, {found} is on disk");
    }
    let (files, _) = Files::open(dir.path()).unwrap();
    assert_eq!(files.current().map(|g| g.revision), at_rest(dir.path()).ok());
}

fn write_with_two_renames(dir: &Path) {
    for revision in 1.. {
        let bytes = state(revision);
        let rename = |name: &str, bytes: &[u8]| {
            let unfinished = dir.join(format!("{name}.tmp"));
            let mut file = fs::File::create(&unfinished).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_all().unwrap();
            fs::rename(unfinished, dir.join(name)).unwrap();
        };
        rename(STATE, &bytes);
        rename(CHECKSUM, hex(&bytes).as_bytes());
        acknowledge(revision);
    }
}

#[test]
fn control_two_renames_tear() {
    if let Ok(dir) = env::var(DIR) {
        return write_with_two_renames(Path::new(&dir));
    }
    let mut dice = Dice(0x6e68_6932);
    // About one round in ten tears; 300 without one would mean the kills never hit the gap.
    let torn = (0..300).any(|_| {
        let dir = TempDir::new().unwrap();
        kill_a_writer("control_two_renames_tear", dir.path(), &mut dice);
        at_rest(dir.path()).is_err()
    });
    assert!(torn, "the control must tear, or the kill test proves nothing");
}
