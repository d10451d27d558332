//! Faults one can ask for, and which of them are on. The lab's own rules (locks, protection, quorum) are not
//! faults; these are what the world does.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that goes wrong until it is cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A node is cut off. Its guests go on; calls that must be proxied to it end in `code` (595 unless
    /// told) with an empty body. With `power_cut` everything on it died: its tasks end in
    /// `unexpected status`, and when the fault is cleared guests with `onboot` start afresh.
    NodeOffline {
        /// The node.
        node: String,
        /// 595, 596, 597 or 599.
        #[serde(default = "unreachable_code")]
        code: u16,
        /// The machine lost power.
        #[serde(default)]
        power_cut: bool,
    },
    /// pvestatd of a node hangs (a dead NFS mount): its statistics age, and after 300 s every guest of this
    /// healthy node is `unknown`. With `expired` that is so at once.
    StatsStuck {
        /// The node.
        node: String,
        /// Do not wait the 300 s.
        #[serde(default)]
        expired: bool,
    },
    /// The cluster has no majority: everything can be read, nothing written.
    QuorumLost {},
    /// A storage does not answer on a node, or on all.
    StorageOffline {
        /// The storage.
        storage: String,
        /// Only there.
        #[serde(default)]
        node: Option<String>,
    },
    /// A guest's agent is not there.
    AgentMissing {
        /// The guest.
        vmid: u32,
    },
    /// A guest's agent hangs: calls take the QMP deadline of 5 s in one of the three workers.
    AgentSilent {
        /// The guest.
        vmid: u32,
    },
    /// A guest takes no notice of shutdown requests.
    IgnoresShutdown {
        /// The guest.
        vmid: u32,
    },
    /// Tasks of this type end in this error.
    TaskFails {
        /// `qmstart`, `vzdump`, …
        task: String,
        /// Only for this guest.
        #[serde(default)]
        vmid: Option<u32>,
        /// The error, as PVE would word it.
        error: String,
        /// How often; always when absent.
        #[serde(default)]
        times: Option<u32>,
        /// The work is done all the same: only its end was not seen (`unexpected status`).
        #[serde(default)]
        done: bool,
    },
    /// Tasks of this type never end by themselves.
    TaskHangs {
        /// `qmstart`, `vzdump`, …
        task: String,
        /// Only for this guest.
        #[serde(default)]
        vmid: Option<u32>,
    },
    /// A user or token silently has less rights than its access lists say.
    RightsLost {
        /// `user@realm` or `user@realm!token`.
        principal: String,
        /// Only on this path and below.
        #[serde(default)]
        path: Option<String>,
        /// Only this privilege.
        #[serde(default)]
        privilege: Option<String>,
    },
    /// A token is past its expiry.
    TokenExpired {
        /// `user@realm!token`.
        token: String,
    },
    /// A token was removed.
    TokenGone {
        /// `user@realm!token`.
        token: String,
    },
    /// A node shows a new certificate: of the cluster's own authority, or of another one.
    CertificateRotated {
        /// The node.
        node: String,
        /// Signed by a stranger.
        #[serde(default)]
        foreign: bool,
    },
    /// Answers take this much longer.
    Slow {
        /// Which requests.
        #[serde(default)]
        on: Match,
        /// Milliseconds.
        ms: u64,
    },
    /// Something between client and API breaks the answer.
    Http {
        /// Which requests.
        #[serde(default)]
        on: Match,
        /// How.
        answer: Breakage,
    },
}

const fn unreachable_code() -> u16 {
    595
}

/// Which requests a fault is for; an empty one is for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// `GET`, `POST`, …
    #[serde(default)]
    pub method: Option<String>,
    /// Part of the path after `/api2/json`.
    #[serde(default)]
    pub path: Option<String>,
    /// How many requests; all when absent.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many matching requests go through before.
    #[serde(default)]
    pub after: u32,
}

/// What becomes of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case", deny_unknown_fields)]
pub enum Breakage {
    /// A proxy answers with its own page, status 200 unless told.
    Html {
        /// The page's status.
        #[serde(default = "ok_code")]
        status: u16,
    },
    /// This status, this reason phrase, and a body of PVE's error form (empty from 595 up).
    Status {
        /// The status.
        code: u16,
        /// The reason phrase.
        #[serde(default)]
        message: String,
    },
    /// The connection closes instead of an answer. The request was *not* carried out.
    DropBefore {},
    /// The request is carried out and the connection closes instead of the answer.
    DropAfter {},
    /// The request is carried out and whoever passes it on gives up on the answer: another node (595 and above, with
    /// an empty body), or a proxy with a page of its own (504).
    GiveUp {
        /// The status.
        #[serde(default = "given_up_code")]
        code: u16,
    },
    /// Headers and half of the body, then the connection closes.
    Truncate {},
    /// A valid answer with this many extra bytes in it.
    Huge {
        /// Bytes.
        bytes: usize,
    },
    /// Status 200 and something that is not JSON.
    Garbage {},
    /// Every field that could hold a number holds a string, and the other way round.
    SwapTypes {},
}

const fn ok_code() -> u16 {
    200
}

const fn given_up_code() -> u16 {
    596
}

/// Faults that are on, by id, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    list: BTreeMap<u64, Fault>,
    next: u64,
}

impl Faults {
    /// Switches a fault on and returns its id.
    pub fn set(&mut self, fault: Fault) -> u64 {
        self.next += 1;
        self.list.insert(self.next, fault);
        self.next
    }

    /// Switches one off.
    pub fn clear(&mut self, id: u64) -> Option<Fault> {
        self.list.remove(&id)
    }

    /// Changes those that are on.
    pub fn change(&mut self, mut act: impl FnMut(&mut Fault)) {
        self.list.values_mut().for_each(&mut act);
    }

    /// All that are on.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Fault)> {
        self.list.iter().map(|(id, fault)| (*id, fault))
    }

    /// Whether any fault is like this.
    pub fn any(&self, test: impl Fn(&Fault) -> bool) -> bool {
        self.list.values().any(test)
    }

    /// The first thing to break about this request; counts the request against `times` and `after`.
    pub fn breakage(&mut self, method: &str, path: &str) -> Option<Breakage> {
        self.list.values_mut().find_map(|fault| {
            if let Fault::Http { on, answer } = fault
                && on.takes(method, path)
            {
                return Some(answer.clone());
            }
            None
        })
    }

    /// Milliseconds this request takes longer.
    pub fn slowness_ms(&mut self, method: &str, path: &str) -> u64 {
        let mut total_ms = 0;
        for fault in self.list.values_mut() {
            if let Fault::Slow { on, ms } = fault
                && on.takes(method, path)
            {
                total_ms += *ms;
            }
        }
        total_ms
    }

    /// The error a task of this type is to end in, and whether its work is done before.
    pub fn task_error(&mut self, kind: &str, about: &[u32]) -> Option<(String, bool)> {
        self.list.values_mut().find_map(|fault| {
            if let Fault::TaskFails { task, vmid, error, times, done } = fault
                && task == kind
                && vmid.is_none_or(|vmid| about.contains(&vmid))
                && take(times)
            {
                return Some((error.clone(), *done));
            }
            None
        })
    }

    /// Whether a task of this type never ends.
    pub fn task_hangs(&self, kind: &str, about: &[u32]) -> bool {
        self.any(|fault| {
            matches!(fault, Fault::TaskHangs { task, vmid }
                if task == kind && vmid.is_none_or(|vmid| about.contains(&vmid)))
        })
    }
}

impl Match {
    fn takes(&mut self, method: &str, path: &str) -> bool {
        let fits = self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path.as_deref().is_none_or(|part| path.contains(part));
        if !fits {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        take(&mut self.times)
    }
}

fn take(times: &mut Option<u32>) -> bool {
    match times {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}
