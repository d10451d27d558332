//! The light of a machine's GPU: whether it may be used now, and in one sentence why. It reads no sensor, keeps no
//! clock and frees no memory.
//!
//! Stricter at once, freer slowly: a game turns the light red with the reading that shows it, and what was red stays so
//! until nothing spoke for red during [`Thresholds::settle_ms`]. What our own inference takes is no sign of a person.

mod available;
mod wake;
mod words;

use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    gpu::{Light, Lock, Reason},
};
use serde::{Deserialize, Serialize};

pub use available::{Unavailable, available};
pub use wake::Wake;

/// Where the light turns. The defaults are Neural-Home v3's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Load of others under which the GPU is idle, percent: 10. At exactly this much it is not.
    pub utilization_green_percent: u32,
    /// Load of others above which it is red, percent: 40. At exactly this much it is yellow.
    pub utilization_red_percent: u32,
    /// Temperature above which it is red, °C: 65.
    pub temperature_red_c: u32,
    /// The same while our own inference warms it, and for [`Self::cooling_ms`] after: 80, where v3's alert stood.
    pub temperature_working_red_c: u32,
    /// How long our own heat is remembered, milliseconds: two minutes.
    pub cooling_ms: u64,
    /// Memory of others above which it is red, bytes: 8 GiB.
    pub memory_red_bytes: u64,
    /// How long nobody touched keyboard or mouse before it may be green, milliseconds: 300,000. Exactly so long is not
    /// enough.
    pub idle_ms: u64,
    /// How long nothing may speak for red before it leaves red, and no load for yellow before it leaves that,
    /// milliseconds: 30,000, three readings; a game's menu and loading screens are shorter.
    pub settle_ms: u64,
    /// How long after our last request the load is still taken for ours where it cannot be told apart, milliseconds:
    /// 3,000. The driver's figure is a mean over up to a second.
    pub ours_fades_ms: u64,
    /// The light while somebody looks at the machine from elsewhere: yellow.
    pub remote_desktop: Light,
    /// Whether a machine without a readable card is red. `false`: it is judged by its people alone.
    pub card_needed: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            utilization_green_percent: 10,
            utilization_red_percent: 40,
            temperature_red_c: 65,
            temperature_working_red_c: 80,
            cooling_ms: 120_000,
            memory_red_bytes: 8 << 30,
            idle_ms: 300_000,
            settle_ms: 30_000,
            ours_fades_ms: 3_000,
            remote_desktop: Light::Yellow,
            card_needed: true,
        }
    }
}

/// What was read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Present while a person keeps the machine.
    pub lock: Option<Lock>,
    /// The game that runs, as a person would call it.
    pub game: Option<String>,
    /// Who or what looks at the machine from elsewhere: `RDP`, `VNC from 192.168.1.9`.
    pub remote_desktop: Option<String>,
    /// How long nobody touched keyboard or mouse, milliseconds; absent: it cannot be told, which is not idle. A machine
    /// without either tells the time since it started.
    pub idle_ms: Option<u64>,
    /// Each card.
    pub cards: Vec<CardSight>,
    /// What could not be read although it is there, one sentence.
    pub unreadable: Option<String>,
    /// Requests of ours that are worked on.
    pub running: u32,
}

/// What one card showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardSight {
    /// Load of everybody, percent.
    pub utilization_percent: Option<u32>,
    /// The part of it that is ours, where the driver tells processes apart.
    pub utilization_ours_percent: Option<u32>,
    /// Memory taken by everybody, bytes.
    pub memory_used_bytes: Option<u64>,
    /// The part of it that is ours; absent: it cannot be told, and all of it is taken for others'.
    pub memory_ours_bytes: Option<u64>,
    /// Temperature, °C.
    pub temperature_c: Option<u32>,
}

/// The light, and what has to be remembered to judge the next reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whether it may be used.
    pub light: Light,
    /// What turned the light.
    pub reason: Reason,
    /// The same in one sentence, with the figure or the name.
    pub text: String,
    /// Since when the light is so, UTC.
    pub since: Timestamp,
    /// When something other than a lock last spoke for red.
    red_at: Option<Timestamp>,
    /// When load last spoke for yellow.
    busy_at: Option<Timestamp>,
    /// When a request of ours last ran.
    ours_at: Option<Timestamp>,
}

impl Memory {
    /// Before the first reading: red.
    pub fn new(now: Timestamp) -> Self {
        Self {
            light: Light::Red,
            reason: Reason::Unreadable,
            text: "nothing was read yet".to_owned(),
            since: now,
            red_at: None,
            busy_at: None,
            ours_at: None,
        }
    }
}

/// A light and why, before anything that came before it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Judged {
    light: Light,
    reason: Reason,
    text: String,
}

impl Judged {
    fn new(light: Light, reason: Reason, text: impl Into<String>) -> Self {
        Self { light, reason, text: text.into() }
    }
}

/// Judges a reading. Pure: the same four give the same.
pub fn step(now: Timestamp, thresholds: &Thresholds, sight: &Sight, memory: &Memory) -> Memory {
    let ours_at = if sight.running > 0 { Some(now) } else { memory.ours_at };
    let raw = judge(now, thresholds, sight, ours_at);
    let red_at = if raw.light == Light::Red { Some(now) } else { memory.red_at };
    let loaded =
        matches!(raw.reason, Reason::Busy | Reason::Hot | Reason::MemoryTaken | Reason::RemoteDesktop);
    let busy_at = if raw.light != Light::Green && loaded { Some(now) } else { memory.busy_at };
    // A lock does not settle: it ends when its time comes or its person says so, and what was read meanwhile counts.
    let judged = match &sight.lock {
        Some(lock) if lock.until > now => Judged::new(Light::Red, Reason::Locked, words::lock(lock)),
        Some(_) | None => settled(now, thresholds, raw, red_at, busy_at),
    };
    let since = if judged.light == memory.light { memory.since } else { now };
    let Judged { light, reason, text } = judged;
    Memory { light, reason, text, since, red_at, busy_at, ours_at }
}

/// The reading alone, in Neural-Home v3's order.
fn judge(now: Timestamp, thresholds: &Thresholds, sight: &Sight, ours_at: Option<Timestamp>) -> Judged {
    if let Some(game) = &sight.game {
        return Judged::new(Light::Red, Reason::Game, words::game(game));
    }
    if let Some(what) = &sight.unreadable {
        return Judged::new(Light::Red, Reason::Unreadable, words::unreadable(what));
    }
    if sight.cards.is_empty() && thresholds.card_needed {
        return Judged::new(Light::Red, Reason::Unreadable, "no GPU can be read on this machine");
    }
    let cards: Vec<Others> =
        sight.cards.iter().map(|card| Others::of(now, thresholds, sight, card, ours_at)).collect();
    let red = cards.iter().find_map(|card| card.red(thresholds));
    let remote = || {
        let what = sight.remote_desktop.as_ref()?;
        (thresholds.remote_desktop != Light::Green)
            .then(|| Judged::new(thresholds.remote_desktop, Reason::RemoteDesktop, words::remote(what)))
    };
    if let Some(judged) = red {
        return judged;
    }
    if let Some(judged) = remote() {
        return judged;
    }
    if let Some(judged) = cards.iter().find_map(|card| card.yellow(thresholds)) {
        return judged;
    }
    match sight.idle_ms {
        Some(idle_ms) if idle_ms > thresholds.idle_ms => {
            Judged::new(Light::Green, Reason::Idle, words::idle(idle_ms))
        }
        Some(idle_ms) => Judged::new(Light::Yellow, Reason::InUse, words::in_use(idle_ms)),
        None => Judged::new(
            Light::Yellow,
            Reason::InUse,
            "nobody can tell whether somebody is at keyboard or mouse",
        ),
    }
}

/// What others take of a card.
struct Others {
    /// Absent: unknown.
    utilization_percent: Option<u32>,
    memory_bytes: Option<u64>,
    temperature_c: Option<u32>,
    temperature_red_c: u32,
}

impl Others {
    fn of(
        now: Timestamp,
        thresholds: &Thresholds,
        sight: &Sight,
        card: &CardSight,
        ours_at: Option<Timestamp>,
    ) -> Self {
        let ours_within = |ms| ours_at.is_some_and(|at| within(now, at, ms));
        let utilization_percent = match (card.utilization_percent, card.utilization_ours_percent) {
            (Some(all), Some(ours)) => Some(all.saturating_sub(ours)),
            // While we work, a load that is not told apart says nothing about others: a game that starts then is seen
            // by its process, its memory or its player's hands.
            (Some(_), None) if sight.running > 0 || ours_within(thresholds.ours_fades_ms) => Some(0),
            (all, None) => all,
            (None, Some(_)) => None,
        };
        let temperature_red_c = if sight.running > 0 || ours_within(thresholds.cooling_ms) {
            thresholds.temperature_working_red_c.max(thresholds.temperature_red_c)
        } else {
            thresholds.temperature_red_c
        };
        Self {
            utilization_percent,
            memory_bytes: card
                .memory_used_bytes
                .map(|used| used.saturating_sub(card.memory_ours_bytes.unwrap_or(0))),
            temperature_c: card.temperature_c,
            temperature_red_c,
        }
    }

    fn red(&self, thresholds: &Thresholds) -> Option<Judged> {
        let red = |reason, text: String| Some(Judged::new(Light::Red, reason, text));
        match (self.utilization_percent, self.temperature_c, self.memory_bytes) {
            (Some(percent), _, _) if percent > thresholds.utilization_red_percent => {
                let than = format!("more than {} %", thresholds.utilization_red_percent);
                red(Reason::Busy, words::busy(percent, &than))
            }
            (_, Some(degrees), _) if degrees > self.temperature_red_c => {
                red(Reason::Hot, words::hot(degrees, self.temperature_red_c))
            }
            (_, _, Some(bytes)) if bytes > thresholds.memory_red_bytes => {
                red(Reason::MemoryTaken, words::memory(bytes, thresholds.memory_red_bytes))
            }
            _ => None,
        }
    }

    fn yellow(&self, thresholds: &Thresholds) -> Option<Judged> {
        match self.utilization_percent {
            None => Some(Judged::new(Light::Yellow, Reason::Unreadable, "the GPU does not tell its load")),
            Some(percent) if percent >= thresholds.utilization_green_percent => {
                let than = format!("not less than {} %", thresholds.utilization_green_percent);
                Some(Judged::new(Light::Yellow, Reason::Busy, words::busy(percent, &than)))
            }
            Some(_) => None,
        }
    }
}

/// Keeps a light that was stricter a short while ago.
fn settled(
    now: Timestamp,
    thresholds: &Thresholds,
    raw: Judged,
    red_at: Option<Timestamp>,
    busy_at: Option<Timestamp>,
) -> Judged {
    let recent = |at: Option<Timestamp>| at.is_some_and(|at| within(now, at, thresholds.settle_ms));
    match raw.light {
        Light::Red => raw,
        Light::Yellow | Light::Green if recent(red_at) => {
            Judged::new(Light::Red, Reason::Settling, words::settling(thresholds.settle_ms))
        }
        Light::Green if recent(busy_at) => {
            Judged::new(Light::Yellow, Reason::Settling, words::settling(thresholds.settle_ms))
        }
        Light::Yellow | Light::Green => raw,
    }
}

/// Whether `at` is less than so long ago. A clock that was set back counts as recent: the stricter reading.
fn within(now: Timestamp, at: Timestamp, ms: u64) -> bool {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    now.duration_since(at) < SignedDuration::from_millis(ms)
}
