//! A reader of `infrastructure/state.json` that knows only what `docs/state-file.md` tells it, and nothing of the program
//! that writes it. It does not fall back to the history: a pair that stays torn is what tests look for.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// First pause before a pair that did not match is read again.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// Longest pause between two readings.
const PAUSE_MAX: Duration = Duration::from_millis(64);
/// How long a reader tries.
const PATIENCE: Duration = Duration::from_secs(2);

/// A state whose checksum is right.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The document.
    pub state: Value,
    /// `meta.revision`.
    pub revision: u64,
    /// How often the pair was read again because a commit came in between.
    pub retries: u32,
}

/// Reads by the protocol: checksum, file, compare; again with growing pauses for two seconds. The caller brings the
/// pause, because only it knows what it may wait for meanwhile.
///
/// # Errors
/// When the pair did not match for two seconds, or what matched is no state: what must never happen.
pub fn read(dir: &Path, mut pause: impl FnMut(Duration)) -> Result<Whole> {
    let began = Instant::now();
    let (mut next, mut retries) = (PAUSE_FIRST, 0);
    loop {
        let why = match pair(dir) {
            Ok(Some(bytes)) => return parse(&bytes, retries),
            Ok(None) => "the pair does not match".to_owned(),
            Err(error) => error.to_string(),
        };
        ensure!(began.elapsed() < PATIENCE, "{why}, {retries} times within {PATIENCE:?}");
        pause(next);
        next = (next * 2).min(PAUSE_MAX);
        retries += 1;
    }
}

/// Reads both files below the one generation directory that `.current` names now: that needs no second look, so a pair
/// that does not match is torn. Nothing when the generation was tidied away meanwhile.
///
/// # Errors
/// When the pair is torn, or something of it is missing while its directory stays.
pub fn read_generation(dir: &Path) -> Result<Option<Whole>> {
    let current = match fs::read_link(dir.join(".current")) {
        Ok(current) => dir.join(current),
        Err(error) => return Err(error).context("reading .current"),
    };
    match pair(&current) {
        Ok(Some(bytes)) => parse(&bytes, 0).map(Some),
        Ok(None) => anyhow::bail!("the pair in {} is torn", current.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_old(dir, &current) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading the pair in {}", current.display())),
    }
}

/// Whether a generation is no longer the current one, so that its files may go.
fn is_old(dir: &Path, generation: &Path) -> bool {
    fs::read_link(dir.join(".current")).is_ok_and(|now| dir.join(now) != generation)
}

/// The file's bytes when the checksum is theirs.
fn pair(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let checksum = fs::read_to_string(dir.join("state.json.checksum"))?;
    let bytes = fs::read(dir.join("state.json"))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((digest == checksum.trim()).then_some(bytes))
}

fn parse(bytes: &[u8], retries: u32) -> Result<Whole> {
    let state: Value = serde_json::from_slice(bytes).context("a pair matches and is not JSON")?;
    let revision = state["meta"]["revision"].as_u64().context("the state has no meta.revision")?;
    Ok(Whole { state, revision, retries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// The three files' shape with a state and somebody's checksum.
    fn directory(name: &str, state: &str, digest_of: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("nhi-state-file-{name}-{}", std::process::id()));
        let generation = dir.join(".gen-7-1");
        fs::create_dir_all(&generation).unwrap();
        fs::write(generation.join("state.json"), state).unwrap();
        let digest: String = Sha256::digest(digest_of).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(generation.join("state.json.checksum"), digest).unwrap();
        std::os::unix::fs::symlink(".gen-7-1", dir.join(".current")).unwrap();
        for file in ["state.json", "state.json.checksum"] {
            std::os::unix::fs::symlink(format!(".current/{file}"), dir.join(file)).unwrap();
        }
        dir
    }

    #[test]
    fn a_whole_pair_is_read() {
        let state = r#"{"meta": {"revision": 7}}"#;
        let dir = directory("whole", state, state);
        assert_eq!(read(&dir, |_| panic!("no pause is needed")).unwrap().revision, 7);
        assert_eq!(read_generation(&dir).unwrap().unwrap().revision, 7);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_torn_pair_is_told() {
        let dir = directory("torn", r#"{"meta": {"revision": 8}}"#, r#"{"meta": {"revision": 7}}"#);
        assert!(read_generation(&dir).unwrap_err().to_string().contains("torn"));
        let mut pauses = Vec::new();
        let told = read(&dir, |pause| {
            pauses.push(pause);
            std::thread::park_timeout(pause);
        });
        let error = told.unwrap_err().to_string();
        assert!(error.contains("does not match"), "{error}");
        assert_eq!(pauses[..3], [1, 2, 4].map(Duration::from_millis));
        assert_eq!(pauses.iter().max(), Some(&PAUSE_MAX));
        fs::remove_dir_all(dir).unwrap();
    }
}
