//! Keeps the simulated home and a real one apart: their records would end up in one state, as guests of one home.

use crate::{
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
};
use anyhow::Context;
use std::{fs, io};

/// Whose records a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lab {
    Real,
    Simulated,
    /// No cluster is configured, so nothing of either is written.
    Neither,
}

impl Lab {
    /// What is wanted now.
    pub(super) fn wanted(config: &Config, demo: bool) -> Self {
        if demo {
            Self::Simulated
        } else if config.clusters.is_empty() {
            Self::Neither
        } else {
            Self::Real
        }
    }

    /// Refuses a lab where there is one of the other kind.
    ///
    /// # Errors
    /// [`Exit::Config`], with what to do.
    pub(super) fn check(self, layout: &Layout) -> Result<(), Failure> {
        let path = layout.lab();
        let held = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).context(format!("cannot read {}", path.display())).ending(Exit::Config);
            }
        };
        let sentence = match (self, held.trim()) {
            (Self::Real, "simulated") => {
                "this directory holds the simulated lab of `nhi up --demo`: use another --dir for your own"
            }
            (Self::Simulated, "real") => {
                "this directory holds your own lab: use another --dir for the simulated lab of `nhi up --demo`"
            }
            (Self::Real | Self::Simulated | Self::Neither, _) => return Ok(()),
        };
        Err(Failure::new(Exit::Config, sentence))
    }

    /// Remembers the kind before the first record is written.
    ///
    /// # Errors
    /// [`Exit::Config`] when the directory cannot be written.
    pub(super) fn remember(self, layout: &Layout) -> Result<(), Failure> {
        let kind = match self {
            Self::Real => "real\n",
            Self::Simulated => "simulated\n",
            Self::Neither => return Ok(()),
        };
        let path = layout.lab();
        fs::write(&path, kind)
            .with_context(|| format!("cannot write {}", path.display()))
            .ending(Exit::Config)
    }
}
