//! From what somebody wants to a plan: exactly what will be asked of Proxmox, what that relies on, what it brings and
//! touches, and how it is taken back; or a refusal. Policy's verdict on a plan is the gate's, and the linter checks
//! every rule again without this module.
//!
//! Rules:
//! - each intent becomes primitive ones, and each of those sees the lab as the earlier ones will leave it;
//! - a step is one call, whole: nothing is left to be decided while acting;
//! - `force` is never sent, and what Proxmox would do by default and nobody asked for is switched off in words;
//! - what a plan relies on stands in it, as facts to be seen live before the first call and as records by revision.

mod backup;
mod bounds;
mod build;
mod call;
mod config;
mod copy;
mod destroy;
mod draft;
mod expand;
mod finish;
mod migrate;
mod needs;
mod newborn;
mod order;
mod power;
mod refuse;
mod rollback;
mod seal;
mod snapshot;
mod undo;
mod wish;
mod words;
mod world;

pub use self::{expand::Prepared, needs::needs, seal::digest, words::summary};

use crate::{observe::Known, sight::Sight};
use nhi_model::{
    Timestamp,
    call::At,
    guest::GuestKind,
    identity::IdentityName,
    intent::Intent,
    key::Key,
    plan::{Plan, PlanId},
    policy::Policy,
    refusal::Refusal,
    run::{Hold, Run, RunId},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a plan is made on.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Now, UTC.
    pub now: Timestamp,
    /// Revision of the records.
    pub revision: u64,
    /// The records.
    pub known: &'a BTreeMap<Key, Known>,
    /// What was seen live of what [`needs`] named.
    pub sight: &'a Sight,
    /// The policy.
    pub policy: &'a Policy,
    /// The guests the mesh itself runs on.
    pub ourselves: &'a BTreeSet<Key>,
    /// Claims of identities.
    pub holds: &'a BTreeMap<Key, Hold>,
    /// Guests runs work on.
    pub leases: &'a BTreeMap<Key, RunId>,
    /// What [`Needs::history`] and [`Needs::plan`] asked for.
    pub past: Option<&'a Past>,
}

/// What was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// The records at the moment of an [`Intent::Return`].
    pub moment: Option<Moment>,
    /// The plan of an [`Intent::Undo`] or [`Intent::LabUp`].
    pub done: Option<Done>,
}

/// The records at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// The moment as it was asked for.
    pub at: At,
    /// The revision it means.
    pub revision: u64,
    /// The records; one that is not here did not exist then.
    pub records: BTreeMap<Key, Value>,
    /// Records that existed, but are no longer kept as they were then.
    pub unknown: BTreeSet<Key>,
}

/// A plan and its run.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The plan.
    pub plan: Plan,
    /// Its run; `None` when it was never applied.
    pub run: Option<Run>,
}

/// What is asked for, by whom.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The plan's id.
    pub id: PlanId,
    /// Who asks.
    pub by: &'a IdentityName,
    /// What for.
    pub intent: &'a Intent,
    /// Why, in the caller's words.
    pub reason: Option<String>,
    /// Numbers reserved for it, one for each of [`Needs::new_guests`], in that order.
    pub vmids: &'a [u32],
    /// It is taken back so many minutes after it is done, unless somebody confirms it.
    pub undo_unless_confirmed_minutes: Option<u32>,
}

/// What has to be looked at before an intent can be planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The cluster; empty as long as only the past is asked for.
    pub cluster: String,
    /// Guests to be read live: the targets, what needs them, what is linked to them. Those of other clusters are not
    /// among them.
    pub guests: BTreeSet<Key>,
    /// Snapshots whose configuration is to be read.
    pub snapshot_configs: BTreeSet<(Key, String)>,
    /// Guests of which Proxmox is to be asked where they may go.
    pub migrate: BTreeSet<Key>,
    /// Guests that are to be made, in order. A number is reserved for each, and the guest of that number is looked at
    /// as well: it has to be proved that there is none.
    pub new_guests: Vec<NewGuestNeed>,
    /// How many numbers that are.
    pub vmids: usize,
    /// The moment whose records are needed.
    pub history: Option<At>,
    /// The plan that is needed.
    pub plan: Option<PlanNeed>,
    /// Whether storages are to be looked at.
    pub storages: bool,
    /// Whether this is not all: ask again with the past.
    pub again: bool,
}

/// A guest that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGuestNeed {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number, when the intent names one.
    pub vmid: Option<u32>,
}

/// A plan that is needed to make another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanNeed {
    /// This one.
    Id(PlanId),
    /// The last shutdown of the lab that was carried out.
    LastLabDown,
}

/// Makes the plan, or says why there is none. Who asks more than once of one state asks a [`Prepared`] one.
///
/// # Errors
/// A [`Refusal`] with a stable code, the reason, and what to do instead. Nothing was changed.
pub fn plan(request: &Request<'_>, scene: &Scene<'_>) -> Result<Plan, Refusal> {
    Prepared::new(scene.known, scene.policy).plan(request, scene)
}
