//! How commands on this machine and its publisher leave word for each other in `.nhi/run`: what the light is, and who
//! locked it. It works without the mesh, and wakes nobody: the publisher looks ten times a second.

use nhi_bus::private::{self, PrivateError};
use nhi_model::{
    Timestamp,
    gpu::{GpuGauges, GpuSaid, Lock, Relay},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What the publisher tells.
const SHOWN: &str = "gpu.json";
/// The last word about the lock, from either side.
const SAID: &str = "gpu-lock.json";
/// How old what it tells may be. It tells each five seconds.
const FRESH_SECONDS_MAX: i64 = 15;

/// What this machine's publisher tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The machine.
    pub host: String,
    /// When it told, UTC.
    pub at: Timestamp,
    /// The last word about a lock that it heard.
    pub said: Option<GpuSaid>,
    /// Where others reach its models.
    pub relay: Option<Relay>,
    /// What it sees.
    pub gauges: GpuGauges,
}

/// Why a word cannot be left.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] PrivateError),
}

/// What this machine's publisher tells; `None` when none runs here.
pub fn here(run_dir: &Path, now: Timestamp) -> Option<Here> {
    let here: Here = read(&run_dir.join(SHOWN))?;
    (now.duration_since(here.at).as_secs().abs() <= FRESH_SECONDS_MAX).then_some(here)
}

/// Says to this machine's publisher that the GPU is locked, or that it is not.
///
/// # Errors
/// [`HereError`] when the word cannot be written.
pub fn say_here(run_dir: &Path, now: Timestamp, lock: Option<Lock>) -> Result<GpuSaid, HereError> {
    let known = here(run_dir, now).and_then(|here| here.said);
    let last = GpuSaid::later(known, said(run_dir));
    let word = GpuSaid::after(last.as_ref(), now, lock);
    keep(run_dir, &word)?;
    Ok(word)
}

/// The last word that was left.
pub(super) fn said(run_dir: &Path) -> Option<GpuSaid> {
    read(&run_dir.join(SAID))
}

/// Leaves a word.
pub(super) fn keep(run_dir: &Path, said: &GpuSaid) -> Result<(), HereError> {
    Ok(private::write(&run_dir.join(SAID), &json(said))?)
}

/// Tells commands on this machine.
pub(super) fn tell(run_dir: &Path, here: &Here) -> Result<(), HereError> {
    Ok(private::write(&shown(run_dir), &json(here))?)
}

/// Whether they were told of the last word.
pub(super) fn is_told(run_dir: &Path, said: Option<&GpuSaid>) -> bool {
    read::<Here>(&shown(run_dir)).is_some_and(|here| here.said.as_ref() == said)
}

/// Nobody tells any more.
pub(super) fn forget(run_dir: &Path) {
    match fs::remove_file(shown(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(agent = "gpu", err = %error, "last word to commands here not taken back");
        }
        Ok(()) | Err(_) => {}
    }
}

fn shown(run_dir: &Path) -> PathBuf {
    run_dir.join(SHOWN)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types are JSON")
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
