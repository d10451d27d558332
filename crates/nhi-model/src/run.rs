//! A run: one execution of one plan, with its journal. The journal is written before and after each call, so that
//! whoever takes over after a crash knows what may have happened.

use crate::{
    fact::Fact,
    guest::GuestIdentity,
    identity::IdentityName,
    key::Key,
    plan::{BadId, Digest, PlanId, is_tail},
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// Id of a run: `r-` and its plan's tail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    pub(crate) fn of(tail: &str) -> Self {
        Self(format!("r-{tail}"))
    }

    /// Parses an id.
    ///
    /// # Errors
    /// [`BadId`].
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let tail = text.strip_prefix("r-").filter(|tail| is_tail(tail));
        tail.map(|_| Self(text.to_owned())).ok_or_else(|| BadId::new(text, "a run's id, such as r-0k3x9a"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its plan.
    pub fn plan(&self) -> PlanId {
        PlanId::parse(&format!("p-{}", &self.0[2..])).expect("a run's tail is its plan's")
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for RunId {
    fn schema_name() -> Cow<'static, str> {
        "RunId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^r-[a-z0-9]{4,32}$" })
    }
}

/// Which way the journal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Leg {
    /// The plan's steps.
    Forward,
    /// Their compensations, the last one first.
    Back,
}

/// How a task of Proxmox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskExit {
    /// `OK`
    Ok {},
    /// `WARNINGS: n`: done, with warnings.
    Warnings {
        /// How many.
        count: u32,
    },
    /// Any other text: it failed. It may have done part of its work.
    Error {
        /// Proxmox's text, cleaned.
        text: String,
    },
    /// `unexpected status`: its worker was killed or the node went down. Its outcome is not known from this.
    Unexpected {},
    /// It did not end in time.
    Endless {},
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// When, UTC.
    pub at: Timestamp,
    /// Which step, from 0.
    pub step: usize,
    /// Which way.
    pub leg: Leg,
    /// What.
    pub mark: Mark,
}

/// What the journal says about a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "mark", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Mark {
    /// The call will be sent; written before it leaves.
    Begun {
        /// Which try, from 1.
        attempt: u32,
    },
    /// Proxmox took it.
    Sent {
        /// The task it started; absent when the call ends with its answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upid: Option<String>,
    },
    /// Proxmox refused it, so nothing happened.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its text, cleaned.
        text: String,
    },
    /// The answer was lost: it may have been taken.
    AnswerLost {
        /// How.
        why: String,
    },
    /// The task was found in the node's list.
    Adopted {
        /// It.
        upid: String,
    },
    /// The node's task list, read after the call's last possible moment, has no such task, and the guest is as before:
    /// the call was not taken.
    NotTaken {},
    /// The task ended.
    Ended {
        /// How.
        exit: TaskExit,
    },
    /// What the step was to bring was read back.
    Seen {},
    /// It was so already, and nothing was sent.
    AlreadySo {},
    /// The step failed; the truth as far as it is known.
    Failed {
        /// Stable word: `precondition`, `refused`, `task-failed`, `not-as-expected`, `not-taken`.
        code: String,
        /// One sentence.
        text: String,
    },
    /// What happened cannot be told.
    Unknown {
        /// Why, and where to look, one sentence.
        text: String,
    },
}

/// Who works on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The actuator's instance.
    pub actuator: String,
    /// Raised by every one who takes the run: an older one's writes are refused.
    pub generation: u64,
    /// Until when it is the holder's, UTC. Another one may take it afterwards.
    pub until: Timestamp,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RunState {
    /// It has not started.
    Waiting {
        /// What for, one sentence.
        reason: String,
        /// When it is looked at again at the latest, UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
    },
    /// Steps are done.
    Running {},
    /// A step failed and what was done is being taken back.
    Compensating {},
    /// All steps are done; the scanner has not seen it yet.
    Verifying {},
    /// The scanner has seen what was expected.
    Done {
        /// Revision of the state that shows it.
        revision: u64,
    },
    /// A step failed. What was done before stays.
    Failed {
        /// What failed, one sentence.
        text: String,
    },
    /// A step failed, and what was done before was taken back.
    Compensated {
        /// What failed, one sentence.
        text: String,
    },
    /// The outcome is not known. A person has to look; nothing else is done to these guests until then.
    NeedsHuman {
        /// What is not known and where to look, one sentence.
        text: String,
    },
    /// It was taken back before it started.
    Cancelled {
        /// By whom.
        by: IdentityName,
    },
}

impl RunState {
    /// Whether nothing more is done.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Waiting { .. } | Self::Running {} | Self::Compensating {} | Self::Verifying {} => false,
            Self::Done { .. }
            | Self::Failed { .. }
            | Self::Compensated { .. }
            | Self::NeedsHuman { .. }
            | Self::Cancelled { .. } => true,
        }
    }

    /// The word for tables.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Running {} => "running",
            Self::Compensating {} => "compensating",
            Self::Verifying {} => "verifying",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Compensated { .. } => "compensated",
            Self::NeedsHuman { .. } => "needs-human",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// The dead man's switch of a run: it is taken back unless somebody confirms it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadMan {
    /// When it is due, UTC.
    pub due: Timestamp,
    /// What became of it.
    pub state: DeadManState,
}

/// What became of a dead man's switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DeadManState {
    /// The message that takes it back is with nats-server.
    Armed {},
    /// Somebody confirmed in time.
    Confirmed {
        /// Who.
        by: IdentityName,
        /// When, UTC.
        at: Timestamp,
    },
    /// It fired; this plan takes it back.
    Fired {
        /// The plan, when one could be made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<PlanId>,
        /// What came of it, one sentence.
        text: String,
    },
    /// There is nothing to take back: the run did nothing, or was taken back.
    Disarmed {},
}

/// A run, under `run.<id>` of `nhi-plans`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Schema version.
    pub v: u32,
    /// Its id.
    pub id: RunId,
    /// Its plan.
    pub plan: PlanId,
    /// The digest that was applied.
    pub digest: Digest,
    /// Who applied it.
    pub by: IdentityName,
    /// When, UTC.
    pub at: Timestamp,
    /// Who works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// How far it is.
    pub state: RunState,
    /// What happened, oldest first.
    #[serde(default)]
    pub journal: Vec<Entry>,
    /// Its dead man's switch, when the plan has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_man: Option<DeadMan>,
    /// What tells the guests that it made from later ones with their numbers, as each was read back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<Key, GuestIdentity>,
    /// When it was over, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Who looked at a run whose outcome was not known; its guests are free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledged>,
    /// What the scanner has not shown yet, while verifying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<Fact>,
}

impl Run {
    /// Whether its outcome is not known, and nobody has looked yet.
    pub const fn needs_human(&self) -> bool {
        matches!(self.state, RunState::NeedsHuman { .. }) && self.acknowledged.is_none()
    }
}

/// Somebody's word that they looked at a run whose outcome was not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Acknowledged {
    /// Who.
    pub by: IdentityName,
    /// When, UTC.
    pub at: Timestamp,
}

/// A run's hold on a guest, under `lease.<cluster>.<vmid>`: there is at most one, and it goes with the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    /// The run.
    pub run: RunId,
    /// Generation of the run's holder when it was taken.
    pub generation: u64,
    /// When it was taken, UTC.
    pub at: Timestamp,
}

/// A number that is kept free for a plan that makes a guest, under `vmid.<cluster>.<vmid>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reservation {
    /// The plan.
    pub plan: PlanId,
    /// Until when, UTC.
    pub until: Timestamp,
}

/// An identity's own claim on a guest, under `hold.<cluster>.<vmid>`: others' plans for it are refused meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// Whose.
    pub by: IdentityName,
    /// Why.
    pub reason: String,
    /// Until when, UTC.
    pub until: Timestamp,
}

/// The stop of everything, under `control.freeze`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Freeze {
    /// Who.
    pub by: IdentityName,
    /// Why.
    pub reason: String,
    /// Since when, UTC.
    pub since: Timestamp,
}
