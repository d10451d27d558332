//! Where things are under `--dir`. It knows paths, not what stands in them.

use nhi_bus::private::{self, PrivateError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The paths of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a directory, made absolute so that children may change theirs.
    ///
    /// # Errors
    /// When the current directory cannot be read.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `.nhi/`, run-time data.
    pub fn data(&self) -> PathBuf {
        self.root.join(".nhi")
    }

    /// `.nhi/keys/`, one nkey seed a file.
    pub fn keys(&self) -> PathBuf {
        self.data().join("keys")
    }

    /// `.nhi/identities.json`, who exists.
    pub fn identities(&self) -> PathBuf {
        nhi_bus::registry::file(&self.data())
    }

    /// `.nhi/run/endpoints.json`, there once everything is ready.
    pub fn endpoints(&self) -> PathBuf {
        self.data().join("run/endpoints.json")
    }

    /// `.nhi/run/up.lock`, held while a copy runs.
    pub fn lock(&self) -> PathBuf {
        self.data().join("run/up.lock")
    }

    /// `.nhi/logs/`.
    pub fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    /// `.nhi/tls/`.
    pub fn tls(&self) -> PathBuf {
        self.data().join("tls")
    }

    /// `infrastructure/`, the mirror and the hand-written files beside it.
    pub fn infrastructure(&self) -> PathBuf {
        self.root.join("infrastructure")
    }

    /// `infrastructure/dependency_graph.json`.
    pub fn dependency_graph(&self) -> PathBuf {
        self.infrastructure().join("dependency_graph.json")
    }

    /// `nhi.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("nhi.toml")
    }

    /// `.env`.
    pub fn dot_env(&self) -> PathBuf {
        self.root.join(".env")
    }

    /// Makes `.nhi/` with its directories, closed to others.
    ///
    /// # Errors
    /// When a directory cannot be made, or `.nhi` belongs to another user.
    pub fn create(&self) -> Result<(), PrivateError> {
        for dir in [self.data(), self.data().join("run"), self.logs()] {
            private::ensure_dir(&dir)?;
        }
        Ok(())
    }
}
