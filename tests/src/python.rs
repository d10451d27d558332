//! Python programs as outside peers of the tests: their packages, pinned by hash, installed once for all tests. What
//! the machine must have is Python 3.10 or newer with pip.
//!
//! The packages go into a folder of their own (`pip install --target`), so that neither a virtual environment nor a
//! writable system Python is needed, and nothing on the machine changes.

use anyhow::{Context as _, Result, bail};
use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

/// How much of pip's complaint is repeated.
const COMPLAINT_LINES_MAX: usize = 12;

/// A Python with the peers' packages.
#[derive(Clone, Debug)]
pub struct Python {
    packages: PathBuf,
}

impl Python {
    /// Finds the packages of `requirements` under `cache`, or installs them there. Tests that run at the same time wait
    /// for the one that installs.
    ///
    /// # Errors
    /// When there is no Python with pip, or the packages cannot be had.
    pub fn prepare(cache: &Path, requirements: &Path) -> Result<Self> {
        let text = fs::read(requirements).with_context(|| format!("reading {}", requirements.display()))?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let folder = cache.join(format!("python-peers-{:016x}", hasher.finish()));
        let packages = folder.join("packages");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("making the lock of the Python packages")?;
        lock.lock().context("waiting for the Python packages")?;
        let is_done = folder.join("installed");
        if !is_done.exists() {
            // What an interrupted installation left is not trusted.
            if packages.exists() {
                fs::remove_dir_all(&packages).context("removing half-installed Python packages")?;
            }
            install(&packages, requirements)?;
            File::create(&is_done).context("marking the Python packages as installed")?;
        }
        Ok(Self { packages })
    }

    /// A command that runs one of our scripts.
    pub fn script(&self, path: &Path) -> Command {
        let mut command = Command::new("python3");
        command.arg(path).env("PYTHONPATH", &self.packages).env("PYTHONNOUSERSITE", "1");
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
        command
    }
}

fn install(packages: &Path, requirements: &Path) -> Result<()> {
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        // The lists are whole, and one of them leaves out on purpose what a package says it needs.
        .args(["--no-deps", "--require-hashes", "--requirement"])
        .arg(requirements)
        .arg("--target")
        .arg(packages)
        .output()
        .context("running python3: these tests need Python 3.10 or newer with pip")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(COMPLAINT_LINES_MAX)..];
        bail!("installing the Python peers (needed: Python 3.10 or newer with pip):\n{}", last.join("\n"));
    }
    Ok(())
}
