//! `nhi up --demo` as a process of its own, as people start it: the whole mesh with a simulated home.

use nhi_testkit::wait_for;
use nhi_tests::program::Program;
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

/// Longest that the start may take on a busy machine.
const SOON: Duration = Duration::from_secs(120);

pub(crate) struct Up {
    program: Program,
    child: Child,
    dir: TempDir,
    pub(crate) nats: String,
    pub(crate) http: String,
}

impl Up {
    /// Starts it and waits until it is ready. `settings` is its `nhi.toml`.
    pub(crate) async fn start(settings: &str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = tokio::task::spawn_blocking(|| Program::build(place)).await.unwrap();
        let program = program.unwrap_or_else(|error| panic!("{error:#}"));
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("nhi.toml"), settings).unwrap();
        let log = File::create(dir.path().join("up.log")).unwrap();
        let mut command = program.command(dir.path());
        command.args(["up", "--demo", "--http-port", "0", "--nats-port", "0"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let file = dir.path().join(".nhi/run/endpoints.json");
        let told = wait_for("nhi up to be ready", SOON, async || {
            let log = || fs::read_to_string(dir.path().join("up.log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "nhi up ended:\n{}", log());
            let told: Option<Value> =
                fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            told.ok_or_else(log)
        })
        .await;
        let url = |name: &str| told[name].as_str().unwrap().to_owned();
        let (nats, http) = (url("nats"), url("http"));
        Self { program, child, dir, nats, http }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The key of an identity.
    pub(crate) fn key(&self, who: &str) -> String {
        let file = self.dir().join(format!(".nhi/keys/{who}.nk"));
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }

    /// `nhi` of this directory, to be started by somebody else.
    pub(crate) fn command(&self) -> std::process::Command {
        self.program.command(self.dir())
    }

    /// `nhi` with these arguments; what it prints, once it ends well.
    pub(crate) async fn nhi(&self, arguments: &[&str]) -> String {
        let mut command = Command::from(self.program.command(self.dir()));
        let output = command.args(arguments).stdin(Stdio::null()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nhi {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A request over HTTP with an identity's key: status and body. In HTTP/1.0 a body ends with the connection.
    pub(crate) async fn http(&self, who: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
        self.http_with(who, method, path, body, "").await
    }

    /// The same with further headers, each ended by a line break.
    pub(crate) async fn http_with(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: &Value,
        headers: &str,
    ) -> (u16, String) {
        let (head, body) = self.exchange(who, method, path, body, headers).await;
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    /// The same with the whole head of the answer.
    pub(crate) async fn exchange(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: &Value,
        headers: &str,
    ) -> (String, String) {
        let address = self.http.strip_prefix("http://").unwrap();
        let (key, body) = (self.key(who), if method == "GET" { String::new() } else { body.to_string() });
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             {headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(SOON, stream.read_to_string(&mut text)).await;
        read.unwrap_or_else(|_| panic!("no end of the answer to {method} {path}: {text}")).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Everything it has logged, for a failure.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir().join("up.log")).unwrap_or_default()
    }

    /// Ends it as Ctrl-C does.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let asked = Command::new("kill").args(["-INT", &pid.to_string()]).status().await.unwrap();
            assert!(asked.success());
        }
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        assert!(ended.is_ok(), "nhi up does not stop:\n{}", self.log());
    }
}
