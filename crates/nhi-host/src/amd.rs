//! AMD's cards as Linux shows them in `/sys`, and what our own inference takes of them from the open files of its
//! processes. It opens no library.

use crate::{
    process::Processes,
    sensor::{CardReading, Reading},
};
use nhi_model::gpu::Card;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// AMD in the list of makers of PCI devices.
const VENDOR: &str = "0x1002";

/// Bytes by the card's place.
type Ours = BTreeMap<String, u64>;

/// Adds AMD's cards.
pub(crate) fn read(sys: &Path, processes: &Processes, servers: &BTreeSet<String>, reading: &mut Reading) {
    let Ok(entries) = fs::read_dir(sys.join("class/drm")) else { return };
    let is_card = |name: &str| {
        name.strip_prefix("card").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut places: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_card))
        .map(|entry| entry.path().join("device"))
        .filter(|device| text(&device.join("vendor")).is_some_and(|vendor| vendor == VENDOR))
        .collect();
    places.sort();
    if places.is_empty() {
        return;
    }
    let ours = ours(processes, servers, |pid| clients(&processes.place.join(pid.to_string()).join("fdinfo")));
    for device in places {
        let Some(total) = number(&device.join("mem_info_vram_total")) else { continue };
        reading.cards.push(card(&device, total, ours.as_ref()));
    }
    if reading.driver.is_none() && !reading.cards.is_empty() {
        reading.driver = text(&sys.join("module/amdgpu/version"));
    }
}

fn card(device: &Path, total: u64, ours: Option<&Ours>) -> CardReading {
    let slot = slot(device);
    let model = text(&device.join("device")).unwrap_or_default();
    let name = text(&device.join("product_name")).unwrap_or_else(|| format!("AMD card {model}"));
    let sensors = sensors(device);
    let sensor = |name: &str| sensors.as_ref().and_then(|dir| number(&dir.join(name)));
    let load = number(&device.join("gpu_busy_percent")).and_then(|load| u32::try_from(load).ok());
    CardReading {
        utilization_percent: load,
        // The kernel tells busy time by process and not its share of now: unknown while something of ours is there.
        utilization_ours_percent: load.filter(|_| ours.is_some_and(Ours::is_empty)).map(|_| 0),
        vram_used_bytes: number(&device.join("mem_info_vram_used")),
        vram_ours_bytes: ours.map(|ours| ours.get(&slot).copied().unwrap_or(0)),
        processes_ours: None,
        // Thousandths of a degree, millionths of a watt.
        temperature_c: sensor("temp1_input").and_then(|c| u32::try_from(c.div_ceil(1000)).ok()),
        power_w: sensor("power1_average").and_then(|w| u32::try_from(w.div_ceil(1_000_000)).ok()),
        card: Card { id: slot, name, vram_bytes: total },
    }
}

/// Its place on the bus, `0000:03:00.0`.
fn slot(device: &Path) -> String {
    let told = text(&device.join("uevent")).unwrap_or_default();
    let slot = told.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME="));
    slot.map_or_else(|| device.display().to_string(), str::to_owned)
}

fn sensors(device: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(device.join("hwmon")).ok()?.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter().next()
}

/// Video memory of our own processes by the card's place. `None` when one of them may not be looked at, as one of another
/// user: what it takes is not nothing.
fn ours(
    processes: &Processes,
    servers: &BTreeSet<String>,
    clients: impl Fn(u32) -> io::Result<Vec<String>>,
) -> Option<Ours> {
    let mut taken = Ours::new();
    // One client may be open under several numbers, in several processes.
    let mut seen = BTreeSet::new();
    for pid in processes.all.keys().filter(|pid| processes.is_below(**pid, servers)) {
        let told = match clients(*pid) {
            Ok(told) => told,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            // It ended since.
            Err(_) => continue,
        };
        for told in told {
            let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let (Some(slot), Some(client)) = (field("drm-pdev:"), field("drm-client-id:")) else { continue };
            let memory = field("drm-memory-vram:").or_else(|| field("drm-resident-vram:"));
            if seen.insert((slot.to_owned(), client.to_owned())) {
                *taken.entry(slot.to_owned()).or_default() += memory.and_then(bytes).unwrap_or(0);
            }
        }
    }
    Some(taken)
}

/// What the kernel tells of each file that a process has open.
fn clients(place: &Path) -> io::Result<Vec<String>> {
    let mut told = Vec::new();
    for file in fs::read_dir(place)?.flatten() {
        match fs::read_to_string(file.path()) {
            Ok(text) => told.push(text),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It was closed since.
            Err(_) => {}
        }
    }
    Ok(told)
}

/// `512 KiB`
fn bytes(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let amount: u64 = words.next()?.parse().ok()?;
    match words.next() {
        None => Some(amount),
        Some("KiB") => amount.checked_mul(1024),
        Some("MiB") => amount.checked_mul(1024 * 1024),
        Some(_) => None,
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    #[test]
    fn what_may_not_be_looked_at_is_not_nothing() {
        let process = Process { words: vec!["ollama".to_owned()], parent: None };
        let processes = Processes { all: [(7, process)].into(), ..Processes::default() };
        let servers = BTreeSet::from(["ollama".to_owned()]);
        let dir = tempfile::tempdir().unwrap();
        let card = |told: io::ErrorKind| {
            let ours = ours(&processes, &servers, |_| Err(told.into()));
            fs::write(dir.path().join("gpu_busy_percent"), "35").unwrap();
            let card = card(dir.path(), 1 << 30, ours.as_ref());
            (card.vram_ours_bytes, card.utilization_ours_percent)
        };
        assert_eq!(card(io::ErrorKind::PermissionDenied), (None, None));
        // The control: one that ended takes nothing.
        assert_eq!(card(io::ErrorKind::NotFound), (Some(0), Some(0)));
    }
}
