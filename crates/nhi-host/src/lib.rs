//! What a machine can sense about itself: its GPU, a running game, whether somebody is there. It judges nothing.
//!
//! Invariants:
//! - a machine without a GPU, a driver, a desktop or a game is an ordinary machine: nothing here fails to start;
//! - what cannot be read is absent, never zero;
//! - `unsafe` only around Windows' own functions, each with the reason why it is sound.

#[cfg(unix)]
mod amd;
#[cfg(unix)]
mod dbus;
#[cfg(unix)]
mod desktop;
mod games;
mod nvidia;
mod process;
#[cfg(unix)]
mod remote;
mod sensor;
mod wake;
#[cfg(windows)]
mod windows;

pub use self::{
    process::MODEL_SERVERS,
    sensor::{CardReading, Game, Places, Reading, Sensor, Settings, Sign},
    wake::{BadMac, Mac, WAKE_PORT, packet, wake},
};
