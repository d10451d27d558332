//! Finds a nats-server that is new enough: `$NATS_SERVER`, `PATH`, our cache, and last a fetch into it.
//!
//! It does not start anything but `nats-server --version`.

use super::{
    fetch::{self, FetchError, Progress},
    source::{self, VERSION, VERSION_MIN, Version},
};
use crate::private::PrivateError;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

/// How long `--version` may take; a cold disk on a small board needs a second or two.
const VERSION_SECONDS_MAX: u64 = 20;

/// Where to look. [`Locate::from_environment`] is the usual one.
#[derive(Clone, Debug)]
pub struct Locate {
    /// `$NATS_SERVER`: this one or none.
    pub named: Option<PathBuf>,
    /// `$PATH`.
    pub path: Option<OsString>,
    /// Our cache directory (`~/.cache/neural-home`); none when the user has no home.
    pub cache: Option<PathBuf>,
    /// Whether to fetch when there is none.
    pub fetch: Fetch,
}

/// What to do when no nats-server is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Fetch the pinned one.
    Pinned,
    /// Say that there is none.
    Never,
}

impl Locate {
    /// What the environment says.
    pub fn from_environment() -> Self {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let base = if cfg!(windows) {
            var("LOCALAPPDATA").map(PathBuf::from)
        } else {
            let home = || var("HOME").map(|home| Path::new(&home).join(".cache"));
            // The specification says to ignore a relative one.
            var("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute()).or_else(home)
        };
        Self {
            named: var("NATS_SERVER").map(PathBuf::from),
            path: var("PATH"),
            cache: base.map(|base| base.join("neural-home")),
            fetch: Fetch::Pinned,
        }
    }
}

/// A nats-server that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBinary {
    /// Where it is.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// Why there is no nats-server to start.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// `$NATS_SERVER` or the one in `PATH` cannot be run.
    #[error("{} does not run as nats-server: {why}; set NATS_SERVER to a working one", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// It is too old to be trusted with state and permissions.
    #[error(
        "nats-server {version} at {} is too old, {VERSION_MIN} or newer is needed: upgrade it, or remove it (then \
         {VERSION} is fetched), or set NATS_SERVER to a newer one", path.display()
    )]
    TooOld {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: Version,
    },
    /// There is none and fetching is not wanted.
    #[error("no nats-server found: install {VERSION_MIN} or newer, or set NATS_SERVER to its path")]
    NotFound,
    /// There is none and none could be fetched.
    #[error(
        "no nats-server found and none could be fetched: install {VERSION_MIN} or newer, or set NATS_SERVER to its path"
    )]
    Fetch(#[source] FetchError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] PrivateError),
}

/// Finds nats-server, or fetches it.
///
/// # Errors
/// [`LocateError`], which names the remedy.
pub async fn locate(wanted: &Locate) -> Result<ServerBinary, LocateError> {
    locate_reporting(wanted, |_| ()).await
}

/// Finds nats-server, or fetches it and tells how that goes.
///
/// # Errors
/// [`LocateError`], which names the remedy.
pub async fn locate_reporting(
    wanted: &Locate,
    report: impl Fn(Progress) + Send + Sync,
) -> Result<ServerBinary, LocateError> {
    let installed = wanted.named.clone().or_else(|| in_path(wanted.path.as_ref()?));
    if let Some(path) = installed {
        let version = version_of(&path).await?;
        if version < VERSION_MIN {
            return Err(LocateError::TooOld { path, version });
        }
        return Ok(ServerBinary { path, version });
    }
    let Some(cache) = &wanted.cache else { return Err(LocateError::NotFound) };
    if let Some(path) = in_cache(cache).await {
        return Ok(ServerBinary { path, version: VERSION });
    }
    match wanted.fetch {
        Fetch::Never => Err(LocateError::NotFound),
        Fetch::Pinned => {
            fetch::fetch(cache, &report).await.map_err(LocateError::Fetch)?;
            // Read back what stands there now: what was fetched must also be what is started.
            let path = in_cache(cache).await.ok_or(LocateError::NotFound)?;
            let version = version_of(&path).await?;
            Ok(ServerBinary { path, version })
        }
    }
}

fn in_path(path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(source::program())).find(|file| is_program(file))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

async fn version_of(path: &Path) -> Result<Version, LocateError> {
    let broken = |why: String| LocateError::Broken { path: path.to_owned(), why };
    let run = tokio::process::Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(VERSION_SECONDS_MAX), run)
        .await
        .map_err(|_| broken(format!("--version did not end within {VERSION_SECONDS_MAX} s")))?
        .map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::from_output(&text).ok_or_else(|| {
        let said: String = text.trim().chars().take(80).collect();
        broken(format!("--version printed {said:?}"))
    })
}

/// `<cache>/nats-server-2.15.1`, where the pinned program and its recorded digest stand.
pub(super) fn cache_dir(cache: &Path) -> PathBuf {
    cache.join(format!("nats-server-{VERSION}"))
}

/// The file beside the program that holds the digest it had when it was installed.
pub(super) fn record_file(program: &Path) -> PathBuf {
    program.with_extension("sha256")
}

/// The cached program, when it is still what was installed.
pub(super) async fn in_cache(cache: &Path) -> Option<PathBuf> {
    let program = cache_dir(cache).join(source::program());
    let checked = {
        let program = program.clone();
        // Hashing 18 MB is work for a thread that may block.
        tokio::task::spawn_blocking(move || is_as_installed(&program)).await
    };
    match checked {
        Ok(Ok(true)) => Some(program),
        Ok(Ok(false)) => {
            tracing::warn!(path = %program.display(), "cached nats-server is not what was installed");
            None
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(Err(error)) => {
            tracing::warn!(path = %program.display(), err = %error, "cached nats-server cannot be read");
            None
        }
        Err(_) => None,
    }
}

fn is_as_installed(program: &Path) -> io::Result<bool> {
    let recorded = std::fs::read_to_string(record_file(program))?;
    Ok(recorded.trim() == sha256_of(program)?)
}

/// SHA-256 of a file in lower-case hex.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String does not fail");
        out
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
