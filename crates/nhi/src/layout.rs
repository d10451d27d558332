//! Where things are under `--dir`. It knows paths, not what stands in them.

use nhi_bus::private::{self, PrivateError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The paths of one lab.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a directory, made absolute so that children may change theirs.
    ///
    /// # Errors
    /// When the current directory cannot be read.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `.nhi/`, run-time data.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join(".nhi")
    }

    /// `.nhi/keys/`, one nkey seed a file.
    pub(crate) fn keys(&self) -> PathBuf {
        self.data().join("keys")
    }

    /// `.nhi/run/endpoints.json`, there once everything is ready.
    pub(crate) fn endpoints(&self) -> PathBuf {
        self.data().join("run/endpoints.json")
    }

    /// `.nhi/run/up.lock`, held while a copy of `nhi up` runs; `.nhi/run/<part>.lock` while a part does.
    pub(crate) fn lock(&self, part: &str) -> PathBuf {
        self.data().join(format!("run/{part}.lock"))
    }

    /// `.nhi/run/`, where what runs leaves word.
    pub(crate) fn run(&self) -> PathBuf {
        self.data().join("run")
    }

    /// `.nhi/run/up.pid`: who holds, or held, the lock beside it.
    pub(crate) fn holder(&self, part: &str) -> PathBuf {
        self.data().join(format!("run/{part}.pid"))
    }

    /// `.nhi/lab`, whose records this directory holds: `real` or `simulated`.
    pub(crate) fn lab(&self) -> PathBuf {
        self.data().join("lab")
    }

    /// `.nhi/logs/`.
    pub(crate) fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    /// `.nhi/tls/`.
    pub(crate) fn tls(&self) -> PathBuf {
        self.data().join("tls")
    }

    /// `infrastructure/`, the mirror and the hand-written files beside it.
    pub(crate) fn infrastructure(&self) -> PathBuf {
        self.root.join("infrastructure")
    }

    /// `infrastructure/dependency_graph.json`.
    pub(crate) fn dependency_graph(&self) -> PathBuf {
        self.infrastructure().join("dependency_graph.json")
    }

    /// `infrastructure/policy.toml`.
    pub(crate) fn policy(&self) -> PathBuf {
        self.infrastructure().join("policy.toml")
    }

    /// `nhi.toml`.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("nhi.toml")
    }

    /// `.env`.
    pub(crate) fn dot_env(&self) -> PathBuf {
        self.root.join(".env")
    }

    /// Makes `.nhi/` with its directories, closed to others.
    ///
    /// # Errors
    /// When a directory cannot be made, or `.nhi` belongs to another user.
    pub(crate) fn create(&self) -> Result<(), PrivateError> {
        for dir in [self.data(), self.data().join("run"), self.logs()] {
            private::ensure_dir(&dir)?;
        }
        Ok(())
    }
}
