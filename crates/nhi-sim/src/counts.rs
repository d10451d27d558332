//! What the simulator was asked: every request by method and path class, every write one by one. A test that
//! says "zero writes" reads it here.

use serde::Serialize;
use std::collections::BTreeMap;

/// Writes that are kept one by one; later ones are only counted.
const WRITES_KEPT_MAX: usize = 10_000;

/// Counters since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// All requests that reached the API, refused ones included.
    pub requests: u64,
    /// Of these, everything but GET.
    pub writes: u64,
    /// Writes that were answered with success.
    pub writes_accepted: u64,
    /// Requests answered with 401.
    pub refused_logins: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// By `METHOD /path/{class}`.
    pub by_route: BTreeMap<String, u64>,
    /// Requests by guest in the path: reads and writes.
    pub by_guest: BTreeMap<u32, GuestCounts>,
    /// The most requests any node's pvedaemon worked on or had waiting at a time.
    pub protected_in_flight_max: BTreeMap<String, u64>,
    /// Writes, one by one.
    pub write_log: Vec<Write>,
}

/// Requests about one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestCounts {
    /// GET.
    pub reads: u64,
    /// Everything else.
    pub writes: u64,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Write {
    /// Lab time, milliseconds.
    pub at_ms: i64,
    /// `POST`, `PUT`, `DELETE`.
    pub method: String,
    /// The path below `/api2/json`, without the query.
    pub path: String,
    /// Who asked, as it said; empty for a login.
    pub by: String,
    /// The status it got; 0 when the connection was dropped.
    pub status: u16,
}

impl Counts {
    /// Notes a request and its answer.
    pub(crate) fn note(&mut self, write: Write, route: Option<&str>, vmid: Option<u32>) {
        self.requests += 1;
        let class = route.unwrap_or("(unknown)");
        *self.by_route.entry(format!("{} {class}", write.method)).or_default() += 1;
        if write.status == 401 {
            self.refused_logins += 1;
        }
        let is_write = write.method != "GET" && route != Some("/access/ticket");
        if let Some(vmid) = vmid {
            let entry = self.by_guest.entry(vmid).or_default();
            if is_write {
                entry.writes += 1;
            } else {
                entry.reads += 1;
            }
        }
        if is_write {
            self.writes += 1;
            if (200..300).contains(&write.status) {
                self.writes_accepted += 1;
            }
            if self.write_log.len() < WRITES_KEPT_MAX {
                self.write_log.push(write);
            }
        }
    }

    pub(crate) fn note_in_flight(&mut self, node: &str, now: u64) {
        let most = self.protected_in_flight_max.entry(node.to_owned()).or_default();
        *most = (*most).max(now);
    }
}
