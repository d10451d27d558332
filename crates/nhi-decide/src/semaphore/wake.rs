//! Whether a machine that sleeps is woken for a request, and what holds while it comes up. It sends nothing.

use super::Unavailable;
use jiff::{SignedDuration, tz::TimeZone};
use nhi_model::{
    Timestamp,
    ai::{LostWhy, Priority},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::SocketAddr};

/// `[ai.wake.<machine>]`: the machine may be woken when a request would go there and it is silent. Without the table
/// nobody wakes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// The address of its network card: `3c:7c:3f:12:34:56`.
    pub mac: String,
    /// Where the packet goes, such as a network's own broadcast address with port 9; absent: to everybody on the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towards: Option<SocketAddr>,
    /// The classes it is woken for: `chat`. Bulk can wait until it is on anyway, and nobody waits a minute for a word to
    /// be completed.
    #[serde(default = "chat", rename = "for")]
    pub priorities: BTreeSet<Priority>,
    /// Whether it sleeps on while somebody else can answer.
    #[serde(default)]
    pub only_if_needed: bool,
    /// The hours in which it may be woken, 0 to 23; empty: all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hours: BTreeSet<u8>,
    /// The zone of these hours, by its IANA name; absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Seconds between two tries at least: 300. One that is meant to be off, or cannot be woken, is not tried for each
    /// request.
    #[serde(default = "every_s")]
    pub every_s: u32,
    /// Seconds it takes to come up at most, during which requests that nobody else may answer wait for it as long as they
    /// wait for anybody: 60.
    #[serde(default = "up_s")]
    pub up_s: u32,
}

fn chat() -> BTreeSet<Priority> {
    [Priority::Chat].into()
}

fn every_s() -> u32 {
    300
}

fn up_s() -> u32 {
    60
}

impl Wake {
    /// Whether it is woken now for a request of this class, which somebody else can answer or nobody; `last` is when it
    /// was tried last.
    pub fn is_due(
        &self,
        now: Timestamp,
        priority: Priority,
        has_other: bool,
        last: Option<Timestamp>,
    ) -> bool {
        let is_early = |last| super::within(now, last, u64::from(self.every_s) * 1000);
        self.priorities.contains(&priority)
            && !(has_other && self.only_if_needed)
            && self.is_hour(now)
            && !last.is_some_and(is_early)
    }

    /// The zone of its hours; `None` when its name is none.
    pub fn zone(&self) -> Option<TimeZone> {
        self.zone.as_deref().map_or(Some(TimeZone::UTC), |name| TimeZone::get(name).ok())
    }

    fn is_hour(&self, now: Timestamp) -> bool {
        let hour = |zone: TimeZone| u8::try_from(zone.to_datetime(now).hour()).ok();
        // A zone that is none allows nothing: the configuration was checked before.
        self.hours.is_empty() || self.zone().and_then(hour).is_some_and(|hour| self.hours.contains(&hour))
    }

    /// What a silence means after it was woken at `last`: nothing else, once it should have come up.
    pub fn coming(&self, now: Timestamp, last: Timestamp, no: &Unavailable) -> Option<Unavailable> {
        let until = last + SignedDuration::from_secs(self.up_s.into());
        (no.why == LostWhy::GpuUnknown && last <= now && now < until).then(|| {
            let seconds = now.duration_since(last).as_secs();
            let text = format!("{}; it was woken {seconds} s ago", no.text);
            Unavailable { why: no.why, text, until: Some(until) }
        })
    }
}
