//! The arguments of `nhi gpu …`.

use clap::Subcommand;
use nhi_model::gpu::{LOCK_MINUTES_DEFAULT, LOCK_MINUTES_MAX};

/// `nhi gpu …`. Without a machine, this one is meant, else the only one there is.
#[derive(Debug, Subcommand)]
pub(crate) enum Gpu {
    /// Show whether the GPUs may be used, and why
    Status {
        /// One machine; by default all
        host: Option<String>,
    },
    /// Keep the GPU: nothing of ours runs there until then
    Lock {
        /// The machine
        host: Option<String>,
        /// For so long
        #[arg(long, default_value_t = LOCK_MINUTES_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOCK_MINUTES_MAX)))]
        minutes: u32,
    },
    /// End a lock; whether the GPU is free is judged anew
    Unlock {
        /// The machine
        host: Option<String>,
    },
    /// Lock when it is not locked, else unlock: for a hotkey
    Toggle {
        /// The machine
        host: Option<String>,
        /// For so long
        #[arg(long, default_value_t = LOCK_MINUTES_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOCK_MINUTES_MAX)))]
        minutes: u32,
    },
}
