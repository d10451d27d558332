//! A Python program beside the test, spoken to in JSON lines. It ends with the test.

use nhi_tests::python::Python;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
};

/// Longest that a peer may take for one thing.
const ANSWER_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Peer {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What it complains about; somebody has to read it, or a peer that says much stands still when the pipe is full.
    complaint: Arc<Mutex<Vec<u8>>>,
    reading: JoinSet<()>,
}

/// How much of the complaint is kept.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;

/// The folder of the peers' scripts.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

/// Python with the packages of a list in `tests/interop`; the first test of all installs them.
pub(crate) async fn python(list: &'static str) -> Python {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned();
    let prepared = tokio::task::spawn_blocking(move || Python::prepare(&cache, &scripts().join(list)));
    prepared.await.unwrap().unwrap_or_else(|error| panic!("{error:#}"))
}

/// What most peers need.
pub(crate) const PACKAGES: &str = "requirements.txt";

impl Peer {
    /// Starts a script of `tests/interop` with the packages of a list.
    pub(crate) async fn start(script: &str, list: &'static str) -> Self {
        Self::start_with(script, list, &[]).await
    }

    /// The same, with arguments.
    pub(crate) async fn start_with(script: &str, list: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::from(python(list).await.script(&scripts().join(script)));
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let (complaint, mut errors) = (Arc::<Mutex<Vec<u8>>>::default(), child.stderr.take().unwrap());
        let (mut reading, kept) = (JoinSet::new(), Arc::clone(&complaint));
        reading.spawn(async move {
            let mut bytes = vec![0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut bytes).await {
                let mut kept = kept.lock().unwrap();
                kept.extend_from_slice(&bytes[..read]);
                let too_many = kept.len().saturating_sub(COMPLAINT_BYTES_MAX);
                kept.drain(..too_many);
            }
        });
        Self { name: script.to_owned(), child, input, output, complaint, reading }
    }

    /// Says one thing.
    pub(crate) async fn say(&mut self, line: &Value) {
        let line = format!("{line}\n");
        if self.input.write_all(line.as_bytes()).await.is_err() {
            self.fail("takes no input").await;
        }
    }

    /// The next line, as what it should be.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> T {
        match tokio::time::timeout(ANSWER_MAX, self.output.next_line()).await {
            Ok(Ok(Some(line))) => {
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.name))
            }
            Ok(_) => self.fail("ended").await,
            Err(_) => self.fail("says nothing").await,
        }
    }

    /// Fails the test with what the peer complained about.
    async fn fail(&mut self, what: &str) -> ! {
        let _killed = self.child.start_kill();
        let _ended = self.reading.join_next().await;
        let complaint = String::from_utf8_lossy(&self.complaint.lock().unwrap()).into_owned();
        panic!("{} {what}:\n{complaint}", self.name)
    }
}
