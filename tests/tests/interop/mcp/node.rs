//! Programs for Node that test MCP servers, pinned by tests/interop/mcp/package-lock.json and installed once for all tests
//! into a folder of their own. With them comes the Node they need; what the machine must have is npm.

use crate::peer::scripts;
use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Longest that one run of a program may take.
const RUN_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    folder: PathBuf,
}

impl Node {
    /// Finds the packages or installs them. Where there is no npm, why nothing is tried.
    pub(crate) async fn prepare() -> Result<Self, &'static str> {
        tokio::task::spawn_blocking(install).await.unwrap()
    }

    /// A file beside the packages' list.
    pub(crate) fn file(&self, name: &str) -> String {
        scripts().join("mcp").join(name).display().to_string()
    }

    /// Runs scenarios of the conformance suite; fails when it finds what it should not.
    pub(crate) async fn conformance(&self, url: &str, key: &str, arguments: &[&str]) {
        let suite = self.folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js");
        let mut command = Command::new(self.folder.join("node_modules/.bin/node"));
        command.arg("--require").arg(self.file("authorize.cjs")).arg(suite).args(["server", "--url", url]);
        command.args(arguments).current_dir(&self.folder).env("NHI_KEY", key);
        let (is_well, said) = run(command).await;
        assert!(is_well, "{arguments:?}: {said}");
    }

    /// Runs the Inspector; what it prints.
    pub(crate) async fn inspector(&self, url: &str, key: &str, arguments: &[&str]) -> String {
        let bin = self.folder.join("node_modules/.bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(bin.join("mcp-inspector"));
        command.args([
            "--cli",
            url,
            "--transport",
            "http",
            "--header",
            &format!("Authorization: Bearer {key}"),
        ]);
        command.args(arguments).current_dir(&self.folder).env("PATH", path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(RUN_MAX, command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn run(mut command: Command) -> (bool, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(RUN_MAX, command.output()).await.unwrap().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn install() -> Result<Node, &'static str> {
    let has_npm =
        std::process::Command::new("npm").arg("--version").output().is_ok_and(|o| o.status.success());
    if !has_npm {
        return Err("MCP is not tried with the conformance suite and the Inspector: npm is not installed");
    }
    let list = scripts().join("mcp");
    let mut hasher = DefaultHasher::new();
    fs::read(list.join("package-lock.json")).unwrap().hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("node-peers-{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let is_done = folder.join("installed");
    if !is_done.exists() {
        for name in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(list.join(name), folder.join(name)).unwrap();
        }
        let output = std::process::Command::new("npm").arg("ci").current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "installing the programs that test MCP servers:\n{said}");
        File::create(&is_done).unwrap();
    }
    Ok(Node { folder })
}
