//! One look at the machine, made of all that can be looked at here. It keeps libraries and connections open between
//! looks, and blocks for some milliseconds: call it from a thread that may.

#[cfg(unix)]
use crate::{amd, desktop::Desktop, remote};
use crate::{
    games,
    nvidia::Nvidia,
    process::{self, Processes},
};
use nhi_model::gpu::{Card, CardGauges};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// Ports of screens looked at from elsewhere: RDP, and VNC with the first of its displays.
const REMOTE_PORTS: &[u16] = &[3389, 5900, 5901, 5902, 5903];

/// Where a Linux machine tells about itself. Tests give directories of their own.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/run`, where the message buses of the desktop listen.
    pub run: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), run: "/run".into() }
    }
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where a Linux machine tells about itself.
    pub places: Places,
    /// NVIDIA's library; absent: by its usual name.
    pub nvml: Option<PathBuf>,
    /// Programs that serve models: what they and their children take of the GPU is our own inference.
    pub model_servers: BTreeSet<String>,
    /// Programs that are games although no launcher says so.
    pub games: BTreeSet<String>,
    /// Local ports whose established connections mean that somebody looks at the screen from elsewhere.
    pub remote_ports: BTreeSet<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            places: Places::default(),
            nvml: None,
            model_servers: process::MODEL_SERVERS.iter().map(|name| (*name).to_owned()).collect(),
            games: BTreeSet::new(),
            remote_ports: REMOTE_PORTS.iter().copied().collect(),
        }
    }
}

/// What one look saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Version of the GPU's driver.
    pub driver: Option<String>,
    /// Each card.
    pub cards: Vec<CardReading>,
    /// The game that runs.
    pub game: Option<Game>,
    /// The port at which somebody looks at the screen from elsewhere.
    pub remote_desktop: Option<u16>,
    /// How long nobody touched keyboard or mouse; absent where the machine does not tell.
    pub idle: Option<Duration>,
    /// What should be readable and was not, a fragment each. Nothing of it is secret.
    pub troubles: Vec<String>,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardReading {
    /// What it is.
    pub card: Card,
    /// Load, percent; ours included.
    pub utilization_percent: Option<u32>,
    /// The part of the load that is our own inference; absent where the driver does not tell it apart.
    pub utilization_ours_percent: Option<u32>,
    /// Memory taken, bytes; ours included.
    pub vram_used_bytes: Option<u64>,
    /// The part of it that is our own inference; absent where the driver does not tell it apart.
    pub vram_ours_bytes: Option<u64>,
    /// Processes of our own inference on the card; absent where the driver lists none at all.
    pub processes_ours: Option<usize>,
    /// Temperature, °C.
    pub temperature_c: Option<u32>,
    /// Power, watts.
    pub power_w: Option<u32>,
}

impl CardReading {
    /// As it is told on the wire.
    pub fn gauges(&self) -> CardGauges {
        CardGauges {
            id: self.card.id.clone(),
            utilization_percent: self.utilization_percent,
            vram_used_bytes: self.vram_used_bytes,
            vram_ours_bytes: self.vram_ours_bytes,
            temperature_c: self.temperature_c,
            power_w: self.power_w,
        }
    }
}

/// A game that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Game {
    /// What is known of it: `570`, `minecraft`; empty when only its being there shows.
    pub name: String,
    /// What gave it away.
    pub sign: Sign,
}

/// What gives a game away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Steam started it, or says so.
    Steam,
    /// It stands in a launcher's folder of games.
    Folder,
    /// It asked GameMode for the machine.
    GameMode,
    /// It has the whole screen.
    FullScreen,
    /// The owner named it.
    Named,
}

impl Game {
    /// The game as people call it; empty when only its being there shows.
    pub fn text(&self) -> String {
        match (self.sign, self.name.as_str()) {
            (Sign::Steam, "") => "of Steam".to_owned(),
            (Sign::Steam, app) => format!("{app} of Steam"),
            (Sign::GameMode | Sign::FullScreen | Sign::Folder | Sign::Named, name) => name.to_owned(),
        }
    }
}

/// The machine's senses.
#[derive(Debug)]
pub struct Sensor {
    settings: Settings,
    nvidia: Nvidia,
    #[cfg(unix)]
    desktop: Desktop,
}

impl Sensor {
    /// Opens what there is. Nothing of it has to be there.
    pub fn open(settings: Settings) -> Self {
        Self {
            nvidia: Nvidia::new(settings.nvml.clone()),
            #[cfg(unix)]
            desktop: Desktop::new(&settings.places.run),
            settings,
        }
    }

    /// Whether there is a card here that can be read.
    pub fn has_card(&mut self) -> bool {
        !self.read().cards.is_empty()
    }

    /// Looks. It blocks for some milliseconds.
    pub fn read(&mut self) -> Reading {
        let processes = Processes::read(&self.settings.places.proc);
        let is_ours = |pid: u32| processes.is_below(pid, &self.settings.model_servers);
        let mut reading = Reading::default();
        self.nvidia.read(&is_ours, &mut reading);
        reading.game = games::find(&processes, &self.settings.games);
        self.read_platform(&processes, &mut reading);
        reading
    }

    #[cfg(unix)]
    fn read_platform(&mut self, processes: &Processes, reading: &mut Reading) {
        let places = &self.settings.places;
        amd::read(&places.sys, processes, &self.settings.model_servers, reading);
        if reading.game.is_none() && self.desktop.game_mode() {
            reading.game = Some(Game { name: String::new(), sign: Sign::GameMode });
        }
        reading.remote_desktop = remote::connected(&places.proc, &self.settings.remote_ports);
        reading.idle = self.desktop.idle(&places.proc);
    }

    #[cfg(windows)]
    fn read_platform(&mut self, _processes: &Processes, reading: &mut Reading) {
        if reading.game.is_none() {
            reading.game = crate::windows::game();
        }
        // Windows tells of a remote session by itself; VNC servers are found by their port nowhere but on Linux.
        reading.remote_desktop = crate::windows::is_remote_session().then_some(3389);
        reading.idle = crate::windows::idle();
    }
}
