//! One running nats-server: started, awaited until it listens, reloaded, ended. It does not restart it.

use super::{
    locate::ServerBinary,
    plan::{ServerFiles, ServerPlan},
    signal::{self, Signal},
};
use crate::private::{self, PrivateError};
use serde::Deserialize;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// How long starting may take: replaying a store of a few GB from a slow disk.
const START_SECONDS_MAX: u64 = 120;
/// How long ending in good order may take before it is killed.
const STOP_SECONDS_MAX: u64 = 10;
/// How long a reload may take; accounts take some milliseconds.
const RELOAD_SECONDS_MAX: u64 = 5;
/// Between two looks at a file or process. A server is ready in about 30 ms.
const LOOK_MS: u64 = 3;
/// How much of the log is read for one answer.
const TAIL_BYTES_MAX: u64 = 64 * 1024;

/// Why nats-server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody listens there already.
    #[error(
        "cannot listen on {address}: the port is in use; stop what uses it, or choose another with --nats-port"
    )]
    PortInUse {
        /// The address.
        address: String,
    },
    /// The address is another machine's, or nobody's.
    #[error(
        "cannot listen on {address}: this machine has no such address; give one of its own, 127.0.0.1 for itself alone \
         or 0.0.0.0 for all"
    )]
    NotOurAddress {
        /// The address.
        address: String,
    },
    /// Another process of ours supervises a server with the same files.
    #[error("another neural-home already runs a nats-server in {}: stop it first, or choose another --dir", dir.display())]
    AlreadySupervised {
        /// `.nhi`
        dir: PathBuf,
    },
    /// It ended at once.
    #[error("nats-server ended ({status}): {said}; the log is {}", log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its last complaint.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// It neither listens nor ends.
    #[error("nats-server does not listen after {START_SECONDS_MAX} s; the log is {}", log.display())]
    TooSlow {
        /// Its log.
        log: PathBuf,
    },
    /// It cannot be started at all.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its directories or files cannot be used.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Its log cannot be written.
    #[error("cannot write {}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a new configuration is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The server read it and refused; what was in force stays in force.
    #[error("nats-server refused the new configuration: {said}")]
    Refused {
        /// Its words.
        said: String,
    },
    /// The server said nothing.
    #[error("nats-server did not take the new configuration within {RELOAD_SECONDS_MAX} s; the log is {}", log.display())]
    NoAnswer {
        /// Its log.
        log: PathBuf,
    },
    /// It does not run; the next start reads the new configuration.
    #[error("nats-server does not run now; it reads the new configuration when it starts")]
    NotRunning,
    /// The system does not let us signal it or read its log.
    #[error("cannot tell nats-server to reload")]
    Io(#[from] io::Error),
}

/// A running nats-server. It is killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    pid: u32,
    port: u16,
    plan: ServerPlan,
}

impl ServerProcess {
    /// Starts the server with the configuration file of the plan, which must be there, and waits until it
    /// listens. An orphan of an earlier run with the same files is ended first.
    ///
    /// Not cancel safe in the sense that the server is then killed.
    ///
    /// # Errors
    /// [`StartError`], with the server's own words where it said any.
    pub async fn start(binary: &ServerBinary, plan: &ServerPlan) -> Result<Self, StartError> {
        Self::start_at(binary, plan, plan.listen.address().port()).await
    }

    /// The same at a given port: a restart keeps the one the clients know.
    ///
    /// # Errors
    /// As [`ServerProcess::start`].
    pub async fn start_at(binary: &ServerBinary, plan: &ServerPlan, port: u16) -> Result<Self, StartError> {
        let log_file = plan.files.log();
        for dir in [Some(plan.files.dir()), Some(&plan.files.run()), log_file.parent()].into_iter().flatten()
        {
            private::ensure_dir(dir)?;
        }
        end_orphan(plan).await;
        let log = open_log(&log_file).map_err(|source| StartError::Log { path: log_file.clone(), source })?;
        let written_before = log.1;
        let mut child = spawn(binary, plan, port, log.0)?;
        let pid = child.id().expect("a child that nobody waited for has its id");
        let ready = timeout(Duration::from_secs(START_SECONDS_MAX), ready(&mut child, pid, plan)).await;
        let port = match ready {
            Ok(Ok(port)) => port,
            Ok(Err(status)) => {
                let said = complaint(&log_file, written_before);
                return Err(ended(plan, port, status, said));
            }
            Err(_) => return Err(StartError::TooSlow { log: log_file }),
        };
        tracing::debug!(pid, port, "nats-server listens");
        Ok(Self { child, pid, port, plan: plan.clone() })
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The port it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL by which this machine reaches it.
    pub fn url(&self) -> String {
        self.plan.listen.url(self.port)
    }

    /// Waits until it ends by itself. Cancel safe.
    ///
    /// # Errors
    /// When the system cannot say.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Makes it read its configuration file again, and waits until it says that it did.
    ///
    /// # Errors
    /// [`ReloadError`]; after [`ReloadError::Refused`] the configuration from before is in force.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        reload(self.pid, &self.plan.files).await
    }

    /// Ends it in good order, or kills it when that takes too long.
    pub async fn stop(mut self) {
        let asked = signal::send(self.pid, Signal::Stop);
        let patience = Duration::from_secs(STOP_SECONDS_MAX);
        if asked.is_err() || timeout(patience, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "nats-server did not end when told, killing it");
            self.kill().await;
        }
        // A pid file that stays is harmless: it is believed only after a look at the process.
        drop(fs::remove_file(self.plan.files.pid()));
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(pid = self.pid, err = %error, "nats-server cannot be killed");
        }
    }
}

fn spawn(binary: &ServerBinary, plan: &ServerPlan, port: u16, log: File) -> Result<Child, StartError> {
    let failed = |source| StartError::Spawn { path: binary.path.clone(), source };
    let mut command = Command::new(&binary.path);
    command.arg("-c").arg(plan.files.config());
    command.arg("-P").arg(plan.files.pid());
    command.arg("--ports_file_dir").arg(plan.files.run());
    // It writes its log itself, so that it can limit its size; what it says before that goes to the same file.
    command.arg("-l").arg(plan.files.log());
    // The flag beats the file, and stays in force through reloads.
    command.arg("-p").arg(if port == 0 { "-1".to_owned() } else { port.to_string() });
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log).kill_on_drop(true);
    // Its own group: Ctrl-C in a terminal reaches us alone, and we end it last.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().map_err(failed)
}

/// Opens the log for appending, and says how long it is.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Its port once it listens, or how it ended. The server writes `<program>_<pid>.ports` when all its listeners
/// are open.
async fn ready(child: &mut Child, pid: u32, plan: &ServerPlan) -> Result<u16, ExitStatus> {
    let mut look = interval(Duration::from_millis(LOOK_MS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = child.wait() => return Err(ended.unwrap_or_default()),
            _ = look.tick() => if let Some(port) = read_port(&plan.files.run(), pid) { return Ok(port) },
        }
    }
}

/// The ports file as nats-server writes it. Half written it does not parse, and is read again.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

fn read_port(dir: &Path, pid: u32) -> Option<u16> {
    let url = read_url(dir, pid)?;
    let (_, port) = url.rsplit_once(':')?;
    port.parse().ok()
}

fn read_url(dir: &Path, pid: u32) -> Option<String> {
    let suffix = format!("_{pid}.ports");
    let file =
        fs::read_dir(dir).ok()?.flatten().find(|e| e.file_name().to_string_lossy().ends_with(&suffix))?;
    let ports: Ports = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    ports.nats.into_iter().next()
}

/// Ends the server that an earlier run left behind when it was killed, and forgets its files.
async fn end_orphan(plan: &ServerPlan) {
    let config_file = plan.files.config();
    if let Some(pid) = running(&plan.files) {
        tracing::warn!(pid, "ending the nats-server an earlier run left behind");
        for signal in [Signal::Stop, Signal::Kill] {
            let gone = async {
                let mut look = interval(Duration::from_millis(LOOK_MS));
                while signal::is_ours(pid, &config_file) {
                    look.tick().await;
                }
            };
            if signal::send(pid, signal).is_err()
                || timeout(Duration::from_secs(STOP_SECONDS_MAX), gone).await.is_ok()
            {
                break;
            }
        }
    }
    let Ok(entries) = fs::read_dir(plan.files.run()) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(".ports")) {
        // It names a process that is gone; read_port asks for the right one anyway.
        drop(fs::remove_file(entry.path()));
    }
}

fn ended(plan: &ServerPlan, port: u16, status: ExitStatus, said: String) -> StartError {
    // The words are the systems': Unix, then Windows; macOS says "can't".
    let in_use = ["address already in use", "Only one usage of each socket address"];
    let not_ours = ["assign requested address", "address is not valid in its context"];
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let address = || std::net::SocketAddr::new(plan.listen.address().ip(), port).to_string();
    if says(&in_use) {
        return StartError::PortInUse { address: address() };
    }
    if says(&not_ours) {
        return StartError::NotOurAddress { address: address() };
    }
    StartError::Ended { status, said, log: plan.files.log() }
}

/// The last thing the server complained of since the given place in its log.
fn complaint(log: &Path, from: u64) -> String {
    let text = read_from(log, from).unwrap_or_default();
    let is_complaint =
        |line: &&str| ["[FTL]", "[ERR]", "nats-server:"].iter().any(|mark| line.contains(mark));
    let mut lines = text.lines().rev();
    let line = lines.clone().find(is_complaint).or_else(|| lines.find(|line| !line.trim().is_empty()));
    line.map_or("it said nothing", without_stamp).chars().take(500).collect()
}

/// `[pid] date time [LVL] words` → `words`
fn without_stamp(line: &str) -> &str {
    ["[FTL] ", "[ERR] ", "[INF] "]
        .iter()
        .find_map(|mark| line.split_once(mark))
        .map_or(line, |(_, words)| words)
}

fn read_from(path: &Path, from: u64) -> io::Result<String> {
    read_open(&File::open(path)?, from)
}

fn read_open(mut file: &File, from: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a log says from a moment on, also when the server puts it aside meanwhile and begins a new one.
struct News {
    path: PathBuf,
    file: File,
    from: u64,
}

impl News {
    fn from_now(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let from = file.metadata()?.len();
        Ok(Self { path, file, from })
    }

    fn read(&self) -> io::Result<String> {
        let mut text = read_open(&self.file, self.from)?;
        match File::open(&self.path) {
            Ok(now) if !is_same_file(&now, &self.file)? => text.push_str(&read_open(&now, 0)?),
            Ok(_) => {}
            // Between putting aside and beginning there is none; the next look sees it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(text)
    }
}

#[cfg(unix)]
fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Without signals there is no reload to wait for, so the question does not arise.
#[cfg(not(unix))]
fn is_same_file(_one: &File, _other: &File) -> io::Result<bool> {
    Ok(true)
}

/// Makes the server that runs with these files read its configuration again, whoever started it, and waits until
/// it says that it did.
///
/// # Errors
/// [`ReloadError`]; after [`ReloadError::Refused`] the configuration from before is in force.
pub async fn reload_running(files: &ServerFiles) -> Result<(), ReloadError> {
    let pid = running(files).ok_or(ReloadError::NotRunning)?;
    reload(pid, files).await
}

/// Where this machine reaches the server that runs with these files, whoever started it; `None` when none runs. It
/// may be one that outlived a `nhi up` that was killed.
pub fn running_url(files: &ServerFiles) -> Option<String> {
    read_url(&files.run(), running(files)?)
}

/// The process id of the server that runs with these files.
fn running(files: &ServerFiles) -> Option<u32> {
    let pid = fs::read_to_string(files.pid()).ok()?.trim().parse().ok()?;
    signal::is_ours(pid, &files.config()).then_some(pid)
}

/// Tells the server to read its configuration, and reads from its log whether it took it.
///
/// Why the log and not the monitoring port? That port is open to every program on the machine and names all
/// identities and subjects; nobody has to see them to run a lab.
pub(super) async fn reload(pid: u32, files: &ServerFiles) -> Result<(), ReloadError> {
    let news = News::from_now(files.log())?;
    if !signal::is_ours(pid, &files.config()) {
        return Err(ReloadError::NotRunning);
    }
    signal::send(pid, Signal::Reload)?;
    let deadline = Instant::now() + Duration::from_secs(RELOAD_SECONDS_MAX);
    let mut look = interval(Duration::from_millis(LOOK_MS));
    while Instant::now() < deadline {
        look.tick().await;
        if let Some(outcome) = reload_outcome(pid, &news.read()?) {
            return outcome;
        }
        if !signal::is_ours(pid, &files.config()) {
            return Err(ReloadError::NotRunning);
        }
    }
    Err(ReloadError::NoAnswer { log: news.path })
}

/// What the log says of the reload; nothing when it says nothing yet, or only half a line.
fn reload_outcome(pid: u32, text: &str) -> Option<Result<(), ReloadError>> {
    const REFUSED: &str = "Failed to reload server configuration: ";
    let own = format!("[{pid}] ");
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.starts_with(&own));
    whole.map(str::trim_end).find_map(|line| {
        if let Some((_, said)) = line.split_once(REFUSED) {
            return Some(Err(ReloadError::Refused { said: said.to_owned() }));
        }
        line.contains("Reloaded server configuration").then_some(Ok(()))
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
