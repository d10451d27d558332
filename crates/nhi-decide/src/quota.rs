//! Quotas: which window a moment belongs to, what is left of it, and reservations that settle to what was really taken.
//! It stores nothing: a [`Meter`] is the value of one key, moved by compare-and-swap.

mod window;

use jiff::tz::TimeZone;
use nhi_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use window::{DayTime, Window};

/// A limit of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// What is counted.
    pub what: What,
    /// Over which time.
    pub per: Per,
    /// How much of it may be taken.
    pub limit: u64,
    /// The zone its days begin in, by its IANA name (`America/Los_Angeles`); absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// When its days begin there, `HH:MM`; absent: midnight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<DayTime>,
    /// The one model it is for; absent: all of the backend's together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Requests.
    Requests,
    /// Tokens of prompts and answers together.
    Tokens,
}

/// The time a quota is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Any sixty seconds.
    Minute,
    /// A day, from reset to reset.
    Day,
}

impl Quota {
    /// A limit of everything together, of days in UTC.
    pub const fn new(what: What, per: Per, limit: u64) -> Self {
        Self { what, per, limit, zone: None, resets_at: None, model: None }
    }

    /// The name of its meter: `requests-day`, `tokens-minute`, with the model behind a slash where it is for one.
    pub fn key(&self) -> String {
        let name = match (self.what, self.per) {
            (What::Requests, Per::Minute) => "requests-minute",
            (What::Requests, Per::Day) => "requests-day",
            (What::Tokens, Per::Minute) => "tokens-minute",
            (What::Tokens, Per::Day) => "tokens-day",
        };
        self.model.as_ref().map_or_else(|| name.to_owned(), |model| format!("{name}/{model}"))
    }

    /// The same for people: `requests a day`.
    pub fn words(&self) -> String {
        let what = match self.what {
            What::Requests => "requests",
            What::Tokens => "tokens",
        };
        let per = match self.per {
            Per::Minute => "a minute",
            Per::Day => "a day",
        };
        match &self.model {
            Some(model) => format!("{what} {per} of {model}"),
            None => format!("{what} {per}"),
        }
    }

    /// How much a request takes of it.
    pub fn amount(&self, tokens: u64) -> u64 {
        match self.what {
            What::Requests => 1,
            What::Tokens => tokens,
        }
    }

    /// The zone its days begin in. A name that is none is UTC here: the configuration was checked before.
    pub fn zone(&self) -> TimeZone {
        self.zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
    }

    /// The window of a moment.
    pub fn window(&self, now: Timestamp) -> Window {
        match self.per {
            Per::Minute => Window::minute(now),
            Per::Day => Window::day(now, &self.zone(), self.resets_at.unwrap_or_default()),
        }
    }
}

/// What was taken of one quota, by the start of the slot it was taken in. The value of one key of `nhi-usage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Taken, by the start of the slot.
    #[serde(default)]
    pub slots: BTreeMap<Timestamp, u64>,
}

/// What was reserved, to be settled by what was really taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The slot.
    pub slot: Timestamp,
    /// How much.
    pub amount: u64,
}

/// Too little is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} of {limit} {words} are left, {wanted} are needed; more from {until} on")]
pub struct Gone {
    /// `requests a day`
    pub words: String,
    /// Left.
    pub left: u64,
    /// Allowed.
    pub limit: u64,
    /// Needed.
    pub wanted: u64,
    /// When there will be enough; where a request is larger than the whole limit, when all of it is there.
    pub until: Timestamp,
}

impl Meter {
    /// Taken in the window of this moment.
    pub fn used(&self, quota: &Quota, now: Timestamp) -> u64 {
        let window = quota.window(now);
        // A slot in the future is another worker's whose clock is ahead; it counts.
        self.slots.range(window.counts_from..).map(|(_, taken)| *taken).fold(0, u64::saturating_add)
    }

    /// Left in the window of this moment.
    pub fn left(&self, quota: &Quota, now: Timestamp) -> u64 {
        quota.limit.saturating_sub(self.used(quota, now))
    }

    /// Whether some was taken and no more than this share is left, percent.
    pub fn is_low(&self, quota: &Quota, now: Timestamp, percent: u64) -> bool {
        let left = self.left(quota, now);
        self.used(quota, now) > 0 && left.saturating_mul(100) <= quota.limit.saturating_mul(percent)
    }

    /// Whether so much may be taken now.
    ///
    /// # Errors
    /// [`Gone`] says what is left and when there is more.
    pub fn check(&self, quota: &Quota, now: Timestamp, amount: u64) -> Result<(), Gone> {
        let left = self.left(quota, now);
        if amount <= left {
            return Ok(());
        }
        Err(Gone {
            words: quota.words(),
            left,
            limit: quota.limit,
            wanted: amount,
            until: self.enough_at(quota, now, amount),
        })
    }

    /// Takes so much, if it is there, and forgets what no window counts any more.
    ///
    /// # Errors
    /// [`Gone`]; nothing is taken then.
    pub fn reserve(&mut self, quota: &Quota, now: Timestamp, amount: u64) -> Result<Ticket, Gone> {
        self.check(quota, now, amount)?;
        let window = quota.window(now);
        self.slots = self.slots.split_off(&window.counts_from);
        let taken = self.slots.entry(window.slot).or_default();
        *taken = taken.saturating_add(amount);
        Ok(Ticket { slot: window.slot, amount })
    }

    /// Puts what was really taken in place of what was reserved. More than reserved counts too, even past the limit:
    /// the provider counted it. A slot that is forgotten stays so.
    pub fn settle(&mut self, ticket: Ticket, taken: u64) {
        if let Some(slot) = self.slots.get_mut(&ticket.slot) {
            *slot = slot.saturating_sub(ticket.amount).saturating_add(taken);
        }
    }

    /// Whether a day's quota will be gone before its reset if it goes on as it went since the last one. Said only once a
    /// tenth is taken: a few requests after midnight are no trend.
    pub fn runs_out(&self, quota: &Quota, now: Timestamp) -> bool {
        let window = quota.window(now);
        let used = u128::from(self.used(quota, now));
        let limit = u128::from(quota.limit);
        if quota.per == Per::Minute || used * 10 < limit {
            return false;
        }
        let ms =
            |from: Timestamp, to: Timestamp| u128::try_from(to.duration_since(from).as_millis()).unwrap_or(0);
        used * ms(window.slot, window.ends) > limit * ms(window.slot, now)
    }

    /// When so much will be free, as far as is known now.
    fn enough_at(&self, quota: &Quota, now: Timestamp, amount: u64) -> Timestamp {
        let window = quota.window(now);
        let mut used = self.used(quota, now);
        for (slot, taken) in self.slots.range(window.counts_from..) {
            used = used.saturating_sub(*taken);
            if used.saturating_add(amount) <= quota.limit {
                return window.forgotten_at(*slot);
            }
        }
        window.ends
    }
}

/// What one of several workers may take by itself while the counters' store is away: an equal share of what was last
/// known to be left, so that all of them together never take more.
pub fn share(left: u64, workers: u32) -> u64 {
    left / u64::from(workers.max(1))
}
