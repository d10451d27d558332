//! The real `nhi` for tests and benches that run it as processes of its own: built when what is there is older than
//! its sources, found otherwise. It starts nothing itself.
//!
//! Why not only look beside the running test? `cargo test -p nhi-tests` does not build the binary, and a stale one would
//! be tested without a word. Why not always build? `cargo test --workspace` has just built it, with other features
//! than building it alone means, so that would take minutes for nothing.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

/// Settings of whoever runs the tests, which must not reach the program.
const FOREIGN_VARIABLES: &[&str] = &[
    "NHI_DIR",
    "NHI_LOG",
    "PROXMOX_HOST",
    "PROXMOX_USER",
    "PROXMOX_TOKEN_ID",
    "PROXMOX_SECRET_KEY",
    "PROXMOX_CA_FILE",
    "PROXMOX_FINGERPRINT",
];

/// A built `nhi` under a name of its own, so that a build beside the test cannot take it away. Removed when dropped.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// The program in the profile this test was built in. `place` is a directory on the same disk as the build:
    /// `CARGO_TARGET_TMPDIR`.
    ///
    /// # Errors
    /// When it cannot be built, with cargo's words.
    pub fn build(place: &Path) -> Result<Self> {
        let profile = profile_dir()?;
        let there = profile.join("nhi");
        let built = if is_fresh(&there) { there } else { cargo_build(&profile)? };
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = place.join(format!("nhi-{}-{nanos}", std::process::id()));
        fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
        fs::hard_link(&built, &path).with_context(|| format!("linking {}", built.display()))?;
        Ok(Self { path })
    }

    /// `nhi --dir DIR`, without the settings of whoever runs the test.
    pub fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--dir").arg(dir);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What stays is a file in the build directory that nobody runs.
        let _ = fs::remove_file(&self.path);
    }
}

/// `target/<profile>`: tests and benches are in its `deps`.
fn profile_dir() -> Result<PathBuf> {
    let me = env::current_exe().context("finding this test")?;
    let dir = me.ancestors().find(|dir| dir.ends_with("deps")).and_then(Path::parent);
    dir.map(Path::to_owned).with_context(|| format!("{} is not in cargo's build directory", me.display()))
}

/// Whether the binary is newer than every source its build has read. A new source is named by one that changed.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let (Some(built), Ok(told)) = (modified(binary), fs::read_to_string(binary.with_extension("d"))) else {
        return false;
    };
    let Some((_, sources)) = told.split_once(": ") else { return false };
    split_escaped(sources).iter().all(|source| modified(source).is_some_and(|at| at <= built))
}

/// Paths as make writes them: a space within one is `\ `.
fn split_escaped(sources: &str) -> Vec<PathBuf> {
    let marked = sources.trim().replace("\\ ", "\0");
    marked.split_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

fn cargo_build(profile: &Path) -> Result<PathBuf> {
    let name = profile.file_name().and_then(|name| name.to_str()).context("the profile has a name")?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "-p", "nhi", "--message-format=json-render-diagnostics"]);
    // The directory of the profile `dev` is called `debug`.
    if name != "debug" {
        command.args(["--profile", name]);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::piped());
    let output = command.output().context("running cargo build")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo build -p nhi:\n{said}");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == "nhi";
        message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    match executables.next_back() {
        Some(path) => Ok(path),
        None => bail!("cargo build -p nhi made no executable:\n{said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_spaces_stay_whole() {
        let paths = split_escaped("/a/b.rs /a/with\\ space.rs\n");
        assert_eq!(paths, [PathBuf::from("/a/b.rs"), PathBuf::from("/a/with space.rs")]);
    }

    #[test]
    fn a_binary_older_than_a_source_is_stale() {
        let dir = env::temp_dir().join(format!("nhi-program-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (binary, source) = (dir.join("nhi"), dir.join("main.rs"));
        fs::write(&source, "").unwrap();
        fs::write(&binary, "").unwrap();
        fs::write(dir.join("nhi.d"), format!("{}: {}\n", binary.display(), source.display())).unwrap();
        assert!(is_fresh(&binary));
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::options().write(true).open(&source).unwrap().set_modified(later).unwrap();
        assert!(!is_fresh(&binary));
        fs::remove_file(&source).unwrap();
        assert!(!is_fresh(&binary), "a source that is gone means another build");
        fs::remove_dir_all(&dir).unwrap();
    }
}
