//! NVIDIA's cards through its own library, which is opened at run time: a machine without it has no such cards. It
//! tells what our own inference takes from what others take, as far as the driver does.

use crate::sensor::{CardReading, Reading};
use nhi_model::gpu::Card;
use nvml_wrapper::{
    Device, Nvml, enum_wrappers::device::TemperatureSensor, enums::device::UsedGpuMemory, error::NvmlError,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long a missing library or a lost card is left alone. Drivers are not installed every second.
const PAUSE: Duration = Duration::from_secs(30);

/// The driver takes samples of processes' load up to once a second. Without a new one the last one counts so long.
const SAMPLE_LASTS: Duration = Duration::from_secs(2);

/// Load of others, as the driver's samples by process told it last.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    /// The newest sample, µs on the driver's own clock.
    newest: u64,
    others_percent: u32,
    at: Instant,
}

/// The library, when it is there.
#[derive(Debug)]
pub(crate) struct Nvidia {
    library: Option<PathBuf>,
    nvml: Option<Nvml>,
    /// When it is tried again.
    pause_until: Option<Instant>,
    /// What is wrong until then.
    trouble: Option<String>,
    driver: Option<String>,
    /// What was last known of others' load, by card.
    samples: BTreeMap<String, Sampled>,
}

impl Nvidia {
    pub(crate) fn new(library: Option<PathBuf>) -> Self {
        Self { library, nvml: None, pause_until: None, trouble: None, driver: None, samples: BTreeMap::new() }
    }

    /// Adds what the library tells.
    pub(crate) fn read(&mut self, is_ours: &dyn Fn(u32) -> bool, reading: &mut Reading) {
        if !self.is_open(reading) {
            return;
        }
        let Some(nvml) = &self.nvml else { return };
        let read = cards(nvml, is_ours, &mut self.samples, &mut reading.troubles);
        match read {
            Ok(cards) => {
                reading.driver.clone_from(&self.driver);
                reading.cards.extend(cards);
            }
            Err(error) => {
                // A driver that was updated or a card that fell off the bus: only a new start helps.
                self.nvml = None;
                self.pause(Some(format!("NVIDIA's library lists no cards: {error}")));
                reading.troubles.extend(self.trouble.clone());
            }
        }
    }

    fn is_open(&mut self, reading: &mut Reading) -> bool {
        if self.nvml.is_some() {
            return true;
        }
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            reading.troubles.extend(self.trouble.clone());
            return false;
        }
        let mut builder = Nvml::builder();
        if let Some(library) = &self.library {
            builder.lib_path(AsRef::<OsStr>::as_ref(library));
        }
        match builder.init() {
            Ok(nvml) => {
                self.driver = nvml.sys_driver_version().ok();
                self.nvml = Some(nvml);
                self.trouble = None;
                true
            }
            Err(error) => {
                // Without the library there is nothing wrong: there is no such card.
                let is_missing = matches!(error, NvmlError::LibloadingError(_));
                self.pause((!is_missing).then(|| format!("NVIDIA's library does not start: {error}")));
                reading.troubles.extend(self.trouble.clone());
                false
            }
        }
    }

    fn pause(&mut self, trouble: Option<String>) {
        self.pause_until = Some(Instant::now() + PAUSE);
        self.trouble = trouble;
    }
}

fn cards(
    nvml: &Nvml,
    is_ours: &dyn Fn(u32) -> bool,
    samples: &mut BTreeMap<String, Sampled>,
    troubles: &mut Vec<String>,
) -> Result<Vec<CardReading>, NvmlError> {
    let mut cards = Vec::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        cards.push(card(index, &device, is_ours, samples, troubles)?);
    }
    Ok(cards)
}

fn card(
    index: u32,
    device: &Device<'_>,
    is_ours: &dyn Fn(u32) -> bool,
    samples: &mut BTreeMap<String, Sampled>,
    troubles: &mut Vec<String>,
) -> Result<CardReading, NvmlError> {
    let id = device.uuid().unwrap_or_else(|_| format!("nvidia{index}"));
    let name = device.name().unwrap_or_else(|_| "NVIDIA card".to_owned());
    // A figure that one card does not have is no trouble; one that was lost is.
    let mut told = |what: &str, error: NvmlError| match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) => Ok(()),
        NvmlError::GpuLost | NvmlError::Uninitialized => Err(error),
        error => {
            troubles.push(format!("{what} of {name} cannot be read: {error}"));
            Ok(())
        }
    };
    let memory = match device.memory_info() {
        Ok(memory) => Some(memory),
        Err(error) => {
            told("the memory", error)?;
            None
        }
    };
    let utilization = match device.utilization_rates() {
        Ok(rates) => Some(rates.gpu),
        Err(error) => {
            told("the load", error)?;
            None
        }
    };
    let ours = Ours::of(device, is_ours);
    Ok(CardReading {
        utilization_percent: utilization,
        utilization_ours_percent: utilization.and_then(|all| ours.load(device, &id, all, samples)),
        vram_used_bytes: memory.as_ref().map(|memory| memory.used),
        vram_ours_bytes: ours.memory,
        processes_ours: ours.is_told.then_some(ours.pids.len()),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        power_w: device.power_usage().ok().map(|milliwatts| milliwatts.div_ceil(1000)),
        card: Card { id, name, vram_bytes: memory.map_or(0, |memory| memory.total) },
    })
}

/// Our own processes on a card.
struct Ours {
    pids: BTreeSet<u32>,
    others: BTreeSet<u32>,
    /// Whether the driver lists processes at all.
    is_told: bool,
    /// Absent where the driver does not say what each process takes, as on Windows.
    memory: Option<u64>,
}

impl Ours {
    fn of(device: &Device<'_>, is_ours: &dyn Fn(u32) -> bool) -> Self {
        let lists = [device.running_compute_processes(), device.running_graphics_processes()];
        let is_told = lists.iter().any(Result::is_ok);
        let mut taken: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        // Whoever computes and draws stands in both lists with the same figure.
        for process in lists.into_iter().flatten().flatten() {
            let memory = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            taken.insert(process.pid, memory);
        }
        let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            taken.into_iter().partition(|(pid, _)| is_ours(*pid));
        let memory = ours.values().copied().try_fold(0_u64, |sum, memory| Some(sum + memory?));
        Self {
            pids: ours.into_keys().collect(),
            others: others.into_keys().collect(),
            is_told,
            memory: memory.filter(|_| is_told),
        }
    }

    /// The part of the load that is ours: what others do not take. Where nobody else is on the card it is all of it.
    ///
    /// Others' samples are taken from the whole, and not ours added up: the two figures of the driver measure different
    /// things, and what neither explains would turn the light against our own work.
    fn load(
        &self,
        device: &Device<'_>,
        id: &str,
        all: u32,
        samples: &mut BTreeMap<String, Sampled>,
    ) -> Option<u32> {
        if !self.is_told {
            return None;
        }
        if self.pids.is_empty() {
            return Some(0);
        }
        if self.others.is_empty() {
            return Some(all);
        }
        let known = samples.get(id).copied();
        let seen = match device.process_utilization_stats(known.map_or(0, |known| known.newest)) {
            Ok(seen) => seen,
            Err(NvmlError::NotFound) => Vec::new(),
            Err(_) => return None,
        };
        let Some(newest) = seen.iter().map(|sample| sample.timestamp).max() else {
            // No new samples: as before, until nobody computed for a while.
            let known = known.filter(|known| known.at.elapsed() < SAMPLE_LASTS);
            return Some(all.saturating_sub(known.map_or(0, |known| known.others_percent)));
        };
        let mut by_process: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
        for sample in seen.iter().filter(|sample| !self.pids.contains(&sample.pid)) {
            let kept = by_process.entry(sample.pid).or_default();
            if sample.timestamp >= kept.0 {
                *kept = (sample.timestamp, sample.sm_util);
            }
        }
        let others_percent = by_process.values().map(|(_, load)| *load).sum::<u32>().min(all);
        samples.insert(id.to_owned(), Sampled { newest, others_percent, at: Instant::now() });
        Some(all - others_percent)
    }
}
