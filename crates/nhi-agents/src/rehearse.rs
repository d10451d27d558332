//! Carries a plan out in a simulated copy of the lab: a child process of `nhi sim pve`, seeded from the present state,
//! driven through the same `Operator` as the real one. What comes of it is compared with what the plan expects.
//!
//! It touches nothing real, and it is no proof: the simulation knows Proxmox's rules, not this house's disks.

mod seed;

use crate::look::{self, Wanted};
use nhi_decide::{
    fact::{self, Holds},
    observe::Known,
    sight::{GuestSight, Seen, Sight},
};
use nhi_model::{
    Timestamp,
    fact::Fact,
    key::Key,
    plan::{Method, Plan, Rehearsal, Step},
};
use nhi_pve::{Accepted, Address, ApiToken, Endpoint, Operator, TaskNow, Trust, Upid, Write, WriteMethod};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};
use uuid::Uuid;

/// How long the simulated lab may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// How long one step may take there; a unit of a task takes [`TASK_MS`].
const STEP_MAX: Duration = Duration::from_secs(20);
/// How long a whole rehearsal may take: a call that waits for it must be answered.
const REHEARSAL_MAX: Duration = Duration::from_secs(75);
/// How fast tasks go there, milliseconds a unit.
const TASK_MS: &str = "20";
/// Pause between looks at what has to show.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why there is no rehearsal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RehearseError {
    /// The simulated lab did not start.
    #[error("start the simulated lab ({what})")]
    Start {
        /// Which part of it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It started and cannot be used.
    #[error("use the simulated lab: {reason}")]
    Unusable {
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error("the rehearsal did not end within {} s", REHEARSAL_MAX.as_secs())]
    Late,
}

/// Where the simulated lab is, as `nhi sim pve --json` says.
#[derive(Debug, Deserialize)]
struct Place {
    url: String,
    ca_pem: String,
    act_token_id: String,
    act_token_secret: String,
}

/// A simulated lab. Dropping it ends its process.
struct Stage {
    _child: Child,
    _seed: SeedFile,
    operator: Operator,
}

/// Rehearses a plan.
///
/// # Errors
/// [`RehearseError`] when it could not be rehearsed; what differs is no error.
pub(crate) async fn rehearse(
    program: &Path,
    plan: &Plan,
    sight: &Sight,
    known: &BTreeMap<Key, Known>,
    now: Timestamp,
) -> Result<Rehearsal, RehearseError> {
    let seed = seed::of(plan, sight, known);
    let work = async {
        let stage = Stage::open(program, &seed).await?;
        Ok(stage.play(plan, &seed.keys, now).await)
    };
    timeout(REHEARSAL_MAX, work).await.unwrap_or(Err(RehearseError::Late))
}

impl Stage {
    async fn open(program: &Path, seed: &seed::Seed) -> Result<Self, RehearseError> {
        let start = |what| move |source| RehearseError::Start { what, source };
        let file = SeedFile::write(&seed.text).map_err(start("its description"))?;
        let mut command = Command::new(program);
        command.args(["--json", "sim", "pve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        command.args(["--task-ms", TASK_MS, "--seed"]).arg(&file.path);
        if seed.is_pve8 {
            command.arg("--pve8");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(start("its process"))?;
        let place = timeout(START_MAX, read_place(&mut child)).await.map_err(|_| RehearseError::Late)??;
        let unusable = |reason: String| RehearseError::Unusable { reason };
        let addresses = Address::parse_list(&place.url).map_err(|error| unusable(error.to_string()))?;
        let token = ApiToken::parse(&place.act_token_id, &place.act_token_secret)
            .map_err(|error| unusable(error.to_string()))?;
        let trust = Trust::ca_pem(place.ca_pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let endpoint = Endpoint::new(addresses, token, trust).map_err(|error| unusable(error.to_string()))?;
        let operator = Operator::new(endpoint).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { _child: child, _seed: file, operator })
    }

    async fn play(&self, plan: &Plan, keys: &BTreeMap<Key, String>, now: Timestamp) -> Rehearsal {
        let mut differences = Vec::new();
        let before = self.look(&plan.cluster, keys.keys(), keys, now).await;
        for (number, step) in plan.steps.iter().enumerate() {
            if let Err(difference) = self.step(&plan.cluster, step, keys, now).await {
                differences.push(format!("step {} ({}): {difference}", number + 1, step.what));
                break;
            }
        }
        let made: BTreeSet<Key> = plan.targets.iter().map(|target| target.guest.clone()).collect();
        let all = keys.keys().chain(&made).collect::<BTreeSet<_>>();
        let after = self.look(&plan.cluster, all.into_iter(), keys, now).await;
        if differences.is_empty() {
            // Each step's own facts were looked at already; what only the scanner's records can show is not told here.
            let differing =
                plan.expects.iter().filter(|fact| matches!(fact::holds(fact, &after), Holds::No { .. }));
            differences.extend(differing.filter_map(|fact| unmet(fact, &after)));
        }
        let mut changes = Vec::new();
        for key in after.guests.keys().chain(before.guests.keys()).collect::<BTreeSet<_>>() {
            let lines = changed(key, before.guests.get(key), after.guests.get(key));
            if !lines.is_empty() && !made.contains(key) {
                differences.push(format!("{key} changed, and the plan does not write to it"));
            }
            changes.extend(lines);
        }
        Rehearsal { at: now, as_expected: differences.is_empty(), changes, differences }
    }

    /// One step: its facts before, its call, its task, its facts after.
    async fn step(
        &self,
        cluster: &str,
        step: &Step,
        keys: &BTreeMap<Key, String>,
        now: Timestamp,
    ) -> Result<(), String> {
        let guests: BTreeSet<&Key> = step.before.iter().chain(&step.after).filter_map(Fact::guest).collect();
        let sight = self.look(cluster, guests.iter().copied(), keys, now).await;
        if let Some(difference) = step.before.iter().filter_map(|fact| unmet(fact, &sight)).next() {
            return Err(format!("before it, {difference}"));
        }
        let write = Write {
            method: method(step.call.method),
            path: &step.call.path,
            params: &step.call.params,
            node: &step.node,
        };
        let until = Instant::now() + STEP_MAX;
        match self.operator.send(&write).await {
            Err(error) => return Err(format!("it is refused: {}", error.error().text())),
            Ok(Accepted::Done) => {}
            Ok(Accepted::Task(upid)) => self.follow(&upid, until).await?,
        }
        loop {
            let sight = self.look(cluster, guests.iter().copied(), keys, now).await;
            match step.after.iter().filter_map(|fact| unmet(fact, &sight)).next() {
                None => return Ok(()),
                Some(difference) if Instant::now() >= until => return Err(format!("after it, {difference}")),
                Some(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn follow(&self, upid: &Upid, until: Instant) -> Result<(), String> {
        let ended = async {
            loop {
                match self.operator.task(upid).await {
                    Ok(TaskNow::Running) => tokio::time::sleep(LOOK_EVERY).await,
                    Ok(TaskNow::Ended(text)) => return Ok(text),
                    Err(error) => return Err(error.text().to_owned()),
                }
            }
        };
        match timeout_at(until, ended).await {
            Ok(Ok(text)) if text == "OK" || text.starts_with("WARNINGS") => Ok(()),
            Ok(Ok(text) | Err(text)) => Err(format!("its task fails: {text}")),
            Err(_) => Err("its task does not end".to_owned()),
        }
    }

    async fn look<'a>(
        &self,
        cluster: &str,
        guests: impl Iterator<Item = &'a Key>,
        keys: &BTreeMap<Key, String>,
        now: Timestamp,
    ) -> Sight {
        let guests = guests.map(|key| (key.clone(), keys.get(key).cloned())).collect();
        let wanted = Wanted { guests, storages: false, ..Wanted::default() };
        look::look(self.operator.reader(), cluster, &wanted, now).await
    }
}

/// What the child prints first: one JSON document.
async fn read_place(child: &mut Child) -> Result<Place, RehearseError> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut text = String::new();
    if let Some(stdout) = stdout {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
    }
    if let Ok(place) = serde_json::from_str(&text) {
        return Ok(place);
    }
    let said = match stderr {
        Some(stderr) => BufReader::new(stderr).lines().next_line().await.ok().flatten(),
        None => None,
    };
    Err(RehearseError::Unusable { reason: said.unwrap_or_else(|| "it says nothing".to_owned()) })
}

/// What does not hold of a fact, one sentence. Backups are not copied.
fn unmet(wanted: &Fact, sight: &Sight) -> Option<String> {
    if matches!(wanted, Fact::BackupSince { .. }) {
        return None;
    }
    match fact::holds(wanted, sight) {
        Holds::Yes => None,
        Holds::No { found } => Some(format!("{} is wanted, and it is {found}", fact::sentence(wanted))),
        Holds::Unknown { why } => Some(format!("{} cannot be told: {why}", fact::sentence(wanted))),
    }
}

const fn method(method: Method) -> WriteMethod {
    match method {
        Method::Post => WriteMethod::Post,
        Method::Put => WriteMethod::Put,
        Method::Delete => WriteMethod::Delete,
    }
}

/// What became of a guest, a line each.
fn changed(key: &Key, before: Option<&GuestSight>, after: Option<&GuestSight>) -> Vec<String> {
    let seen = |sight: Option<&GuestSight>| match sight {
        Some(GuestSight::Seen(seen)) => Some((**seen).clone()),
        Some(GuestSight::Gone | GuestSight::Unseen { .. }) | None => None,
    };
    match (seen(before), seen(after)) {
        (None, None) => Vec::new(),
        (None, Some(seen)) => {
            vec![format!("+ {key} {} on {}, {}", seen.name, seen.node, seen.status.as_str())]
        }
        (Some(seen), None) => vec![format!("- {key} {}", seen.name)],
        (Some(before), Some(after)) => differences(key, &before, &after),
    }
}

fn differences(key: &Key, before: &Seen, after: &Seen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut differ = |what: &str, was: &str, is: &str| {
        if was != is {
            lines.push(format!("~ {key} {what}: {was} → {is}"));
        }
    };
    differ("status", before.status.as_str(), after.status.as_str());
    differ("node", &before.node, &after.node);
    let names = |seen: &Seen| {
        let names = seen.snapshots.iter().flatten().map(|snapshot| snapshot.name.clone());
        names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    differ("snapshots", &names(before), &names(after));
    // What Proxmox itself rewrites at every turn.
    let ignored = |field: &str| matches!(field, "vmgenid" | "meta" | "parent" | "lock");
    for field in before.config.keys().chain(after.config.keys()).collect::<BTreeSet<_>>() {
        let side = |seen: &Seen| seen.config.get(field).cloned().unwrap_or_else(|| "(not there)".to_owned());
        if !ignored(field) {
            differ(field, &side(before), &side(after));
        }
    }
    lines
}

/// The description of the lab, in a file of its own that goes with it.
struct SeedFile {
    path: PathBuf,
}

impl SeedFile {
    fn write(text: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("nhi-rehearsal-{}.json", Uuid::new_v4().simple()));
        let file = Self { path };
        nhi_bus::private::write(&file.path, text.as_bytes()).map_err(io::Error::other)?;
        Ok(file)
    }
}

impl Drop for SeedFile {
    fn drop(&mut self) {
        // One that stays is small, private and in the directory for such things.
        let _stays = std::fs::remove_file(&self.path);
    }
}
