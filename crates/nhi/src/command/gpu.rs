//! `nhi gpu …`: whether the GPUs may be used, and keeping one for its owner. At the machine itself it works without the
//! mesh: the publisher there looks for the word that is left for it.

use crate::{
    cli::{Global, gpu::Gpu as Asked},
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, Mesh},
    out,
};
use nhi_agents::gpu::{Here, here, say_here};
use nhi_model::{
    Timestamp,
    gpu::{Gpu, GpuGet, GpuGot, GpuLock, GpuLocked, GpuSaid, GpuSeen, GpuUnlock, Light, Lock},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

/// How long the publisher of this machine may take to hear a word. It looks ten times a second.
const HEARD_MAX: Duration = Duration::from_secs(3);
/// Between two looks whether it did.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs one of the GPU commands.
///
/// # Errors
/// No such machine, no mesh, or a publisher that does not hear.
pub(crate) async fn run(
    layout: &Layout,
    config: &Config,
    global: &Global,
    asked: Asked,
) -> Result<(), Failure> {
    let local = here(&layout.run(), Timestamp::now());
    let is_local = |host: &Option<String>| {
        local.as_ref().filter(|here| host.as_ref().is_none_or(|host| *host == here.host)).cloned()
    };
    let command = Command { layout, config, global };
    match asked {
        Asked::Status { host } => match is_local(&host) {
            Some(here) => command.status_here(host, here).await,
            None => command.status(host).await,
        },
        Asked::Lock { host, minutes } => match is_local(&host) {
            Some(here) => command.say(&here, Some(minutes)).await,
            None => command.lock(host, minutes).await,
        },
        Asked::Unlock { host } => match is_local(&host) {
            Some(here) => command.say(&here, None).await,
            None => command.unlock(host).await,
        },
        Asked::Toggle { host, minutes } => match is_local(&host) {
            Some(here) => {
                let is_locked =
                    here.said.as_ref().is_some_and(|said| said.lock_at(Timestamp::now()).is_some());
                command.say(&here, (!is_locked).then_some(minutes)).await
            }
            None => command.toggle(host, minutes).await,
        },
    }
}

struct Command<'a> {
    layout: &'a Layout,
    config: &'a Config,
    global: &'a Global,
}

impl Command<'_> {
    async fn open(&self) -> Result<Mesh, Failure> {
        let (joined, ca_file) = (&self.config.nats_join, self.config.nats_ca_file.as_deref());
        let opened = match mesh::target(self.layout, joined, ca_file) {
            Ok(target) => Mesh::open(self.layout, &target, self.global.identity()).await,
            Err(failure) => Err(failure),
        };
        opened.map_err(|failure| match self.config.gpu {
            // A machine with a publisher of its own mostly has nobody's key but its own.
            Some(_) => {
                let why = crate::chain(&failure.error);
                let sentence = format!(
                    "the publisher of this machine does not run (`nhi agent gpu` or `nhi up` starts it), and the mesh \
                     cannot be asked instead: {why}"
                );
                Failure::new(Exit::Unreachable, sentence)
            }
            None => failure,
        })
    }

    /// All machines of the mesh, where one is at hand; else this one.
    async fn status_here(&self, host: Option<String>, here: Here) -> Result<(), Failure> {
        let Some(mesh) = Mesh::here(self.layout, self.config, self.global).await else {
            self.show(&GpuGot { gpus: BTreeMap::from([(here.host.clone(), seen(here))]) });
            return Ok(());
        };
        let got = mesh.call("gpu", "get", &GpuGet { host }).await;
        mesh.close().await;
        let mut got: GpuGot = got.unwrap_or_default();
        // What it says itself is newer than what the mesh heard of it.
        let known = got.gpus.remove(&here.host).map(|seen| seen.gpu);
        let mut own = seen(here);
        own.gpu.cards = known.map(|gpu| gpu.cards).unwrap_or_default();
        got.gpus.insert(own.gpu.host.clone(), own);
        self.show(&got);
        Ok(())
    }

    async fn status(&self, host: Option<String>) -> Result<(), Failure> {
        let mesh = self.open().await?;
        let got = mesh.call("gpu", "get", &GpuGet { host }).await;
        mesh.close().await;
        self.show(&got?);
        Ok(())
    }

    async fn lock(&self, host: Option<String>, minutes: u32) -> Result<(), Failure> {
        let mesh = self.open().await?;
        let locked = lock(&mesh, host, minutes).await;
        mesh.close().await;
        self.told(&locked?.gpu);
        Ok(())
    }

    async fn unlock(&self, host: Option<String>) -> Result<(), Failure> {
        let mesh = self.open().await?;
        let unlocked = unlock(&mesh, host).await;
        mesh.close().await;
        self.told(&unlocked?.gpu);
        Ok(())
    }

    async fn toggle(&self, host: Option<String>, minutes: u32) -> Result<(), Failure> {
        let mesh = self.open().await?;
        let toggled = async {
            let seen = one(&mesh, host).await?;
            let is_locked = seen.gpu.lock.as_ref().is_some_and(|lock| lock.until > Timestamp::now());
            let host = Some(seen.gpu.host);
            if is_locked { unlock(&mesh, host).await } else { lock(&mesh, host, minutes).await }
        };
        let toggled = toggled.await;
        mesh.close().await;
        self.told(&toggled?.gpu);
        Ok(())
    }

    /// Says it to the publisher of this machine, and waits until it was heard.
    async fn say(&self, here_now: &Here, minutes: Option<u32>) -> Result<(), Failure> {
        let (run_dir, now) = (self.layout.run(), Timestamp::now());
        let lock = minutes.map(|minutes| {
            let until = now + Duration::from_secs(u64::from(minutes) * 60);
            Lock { by: None, until }
        });
        let word = say_here(&run_dir, now, lock).ending(Exit::Config)?;
        let until = Instant::now() + HEARD_MAX;
        while Instant::now() < until {
            if let Some(here) = here(&run_dir, Timestamp::now()).filter(|here| heard(here, &word)) {
                self.told(&seen(here).gpu);
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        let sentence = format!(
            "the publisher of {} did not hear it within {} s; the word stays in {} and counts once it runs",
            here_now.host,
            HEARD_MAX.as_secs(),
            run_dir.display()
        );
        Err(Failure::new(Exit::Timeout, sentence))
    }

    fn told(&self, gpu: &Gpu) {
        if self.global.json {
            return out::json(&GpuLocked { gpu: gpu.clone() });
        }
        let now = Timestamp::now();
        out::line(&match gpu.lock.as_ref().filter(|lock| lock.until > now) {
            Some(lock) => {
                let left = lock.until.duration_since(now).as_secs().max(0).unsigned_abs();
                format!("{} is locked for {}: nothing of ours runs there", gpu.host, out::age(left + 1))
            }
            None => format!("{} is not locked; whether it is free, `nhi gpu status` tells", gpu.host),
        });
    }

    fn show(&self, got: &GpuGot) {
        if self.global.json {
            return out::json(got);
        }
        if got.gpus.is_empty() {
            return out::line("no machine has told of a GPU yet: `nhi agent gpu` runs on each that has one");
        }
        let header = ["MACHINE", "LIGHT", "WHY", "CARD", "LOAD", "MEMORY", "HEAT", "OURS"];
        out::table(header, got.gpus.values().flat_map(rows));
    }
}

/// Whether a word, or a later one, was heard.
fn heard(here: &Here, word: &GpuSaid) -> bool {
    here.said.as_ref().is_some_and(|said| said.at >= word.at)
}

async fn lock(mesh: &Mesh, host: Option<String>, minutes: u32) -> Result<GpuLocked, Failure> {
    let host = one(mesh, host).await?.gpu.host;
    mesh.call("gpu", "lock", &GpuLock { host, minutes: Some(minutes) }).await
}

async fn unlock(mesh: &Mesh, host: Option<String>) -> Result<GpuLocked, Failure> {
    let host = one(mesh, host).await?.gpu.host;
    mesh.call("gpu", "unlock", &GpuUnlock { host }).await
}

/// The machine that is meant: the named one, or the only one.
async fn one(mesh: &Mesh, host: Option<String>) -> Result<GpuSeen, Failure> {
    let got: GpuGot = mesh.call("gpu", "get", &GpuGet { host }).await?;
    let names: Vec<&String> = got.gpus.keys().collect();
    let sentence = match names.as_slice() {
        [_] => return Ok(got.gpus.into_values().next().expect("there is one")),
        [] => "no machine has told of a GPU yet: `nhi agent gpu` runs on each that has one".to_owned(),
        names => {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            format!("name the machine: {}", names.join(", "))
        }
    };
    Err(Failure::new(if names.is_empty() { Exit::NotFound } else { Exit::Usage }, sentence))
}

/// What the publisher of this machine tells, as the mesh would tell it.
fn seen(here: Here) -> GpuSeen {
    let gpu = Gpu { host: here.host, relay: here.relay, ..Gpu::default() }.saying(here.said);
    let (available, text) = (here.gauges.light != Light::Red, here.gauges.text.clone());
    GpuSeen { gpu, available, text, gauges: Some(here.gauges), read_at: Some(here.at) }
}

/// A row a card; a machine without one has a row too.
fn rows(seen: &GpuSeen) -> Vec<[String; 8]> {
    let gauges = seen.gauges.as_ref();
    let light = match (seen.available, gauges) {
        (_, None) => "unknown".to_owned(),
        (false, Some(_)) => Light::Red.to_string(),
        (true, Some(gauges)) => gauges.light.to_string(),
    };
    let ours = gauges.map_or_else(String::new, |gauges| {
        let loaded = gauges.loaded.join(", ");
        match (gauges.running, gauges.waiting) {
            (0, 0) => loaded,
            (running, 0) => format!("{running} running {loaded}"),
            (running, waiting) => format!("{running} running, {waiting} waiting {loaded}"),
        }
    });
    let told =
        |value: Option<u32>, unit: &str| value.map_or_else(String::new, |value| format!("{value} {unit}"));
    let gibibytes = |bytes: u64| format!("{}.{}", bytes >> 30, ((bytes & ((1 << 30) - 1)) * 10) >> 30);
    let first = [seen.gpu.host.clone(), light, seen.text.clone()];
    let cards = gauges.map(|gauges| gauges.cards.as_slice()).unwrap_or_default();
    if cards.is_empty() {
        let [host, light, why] = first;
        return vec![[host, light, why, String::new(), String::new(), String::new(), String::new(), ours]];
    }
    let row = |(index, card): (usize, &nhi_model::gpu::CardGauges)| {
        let known = seen.gpu.cards.iter().find(|known| known.id == card.id);
        let memory = card.vram_used_bytes.map_or_else(String::new, |used| match known {
            Some(known) => format!("{} of {} GiB", gibibytes(used), gibibytes(known.vram_bytes)),
            None => format!("{} GiB", gibibytes(used)),
        });
        let [host, light, why] = if index == 0 { first.clone() } else { Default::default() };
        let name = known.map_or_else(|| card.id.clone(), |known| known.name.clone());
        let load = told(card.utilization_percent, "%");
        let heat = told(card.temperature_c, "°C");
        [host, light, why, name, load, memory, heat, if index == 0 { ours.clone() } else { String::new() }]
    };
    cards.iter().enumerate().map(row).collect()
}
