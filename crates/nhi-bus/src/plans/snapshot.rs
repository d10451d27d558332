//! What the messages of the bucket make: rows by kind. Pure.

use super::{Row, value};
use crate::{store::written::Written, view::watched::Whole};
use nhi_model::{
    envelope::Stale,
    plan::{PlanId, PlanRecord},
    plans::PlansKey,
    run::{Freeze, Hold, Holder, Lease, Reservation, Run, RunId},
    subject::{self, PLANS_BUCKET},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, sync::Arc};

/// Everything acting remembers, at one revision. Rows are shared between snapshots.
#[derive(Clone, Debug, Default)]
pub struct PlansSnapshot {
    /// Revision of the last commit in it.
    pub revision: u64,
    /// Plans.
    pub plans: BTreeMap<PlanId, Arc<Row<PlanRecord>>>,
    /// Runs.
    pub runs: BTreeMap<RunId, Arc<Row<Run>>>,
    /// Runs' holds on guests, by cluster and number.
    pub leases: BTreeMap<(String, u32), Arc<Row<Lease>>>,
    /// Identities' claims on guests, by cluster and number. One that is past its time still stands here.
    pub holds: BTreeMap<(String, u32), Arc<Row<Hold>>>,
    /// Reserved numbers, by cluster. One that is past its time still stands here.
    pub vmids: BTreeMap<(String, u32), Arc<Row<Reservation>>>,
    /// The freeze, while there is one.
    pub freeze: Option<Arc<Row<Freeze>>>,
    /// Who acts.
    pub actuator: Option<Arc<Row<Holder>>>,
    /// What stands in the bucket and cannot be used, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Why all of it may be out of date, when it may: then nothing may be decided on it.
    pub stale: Option<Stale>,
}

impl PlansSnapshot {
    /// Puts a row, or takes it away.
    fn set(&mut self, key: PlansKey, written: &Written) -> Result<(), String> {
        match key {
            PlansKey::Plan(id) => place(&mut self.plans, id, written),
            PlansKey::Run(id) => place(&mut self.runs, id, written),
            PlansKey::Lease { cluster, vmid } => place(&mut self.leases, (cluster, vmid), written),
            PlansKey::Hold { cluster, vmid } => place(&mut self.holds, (cluster, vmid), written),
            PlansKey::Vmid { cluster, vmid } => place(&mut self.vmids, (cluster, vmid), written),
            PlansKey::Freeze => place_one(&mut self.freeze, written),
            PlansKey::Actuator => place_one(&mut self.actuator, written),
        }
    }
}

fn place<K: Ord, T: DeserializeOwned>(
    rows: &mut BTreeMap<K, Arc<Row<T>>>,
    key: K,
    written: &Written,
) -> Result<(), String> {
    let mut row = None;
    let outcome = place_one(&mut row, written);
    match row {
        Some(row) => drop(rows.insert(key, row)),
        None => drop(rows.remove(&key)),
    }
    outcome
}

/// What cannot be read takes the row that stood there away: what it says now is not known.
fn place_one<T: DeserializeOwned>(row: &mut Option<Arc<Row<T>>>, written: &Written) -> Result<(), String> {
    *row = None;
    if !written.is_delete() {
        *row = Some(Arc::new(value::read(written)?));
    }
    Ok(())
}

impl Whole for PlansSnapshot {
    const BUCKET: &'static str = PLANS_BUCKET;
    const CALLED: &'static str = "what acting remembers";

    fn apply(&mut self, written: &Written) {
        let prefix = subject::kv_all(PLANS_BUCKET);
        let text = written.subject.strip_prefix(prefix.trim_end_matches('>')).unwrap_or(&written.subject);
        let outcome = match PlansKey::parse(text) {
            Some(key) => self.set(key, written),
            None if written.is_delete() => Ok(()),
            None => Err(format!("{text} is no key of {PLANS_BUCKET}")),
        };
        match outcome {
            Ok(()) => drop(self.quarantined.remove(text)),
            Err(reason) => drop(self.quarantined.insert(text.to_owned(), reason)),
        }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    fn stale(&self) -> Option<&Stale> {
        self.stale.as_ref()
    }

    fn set_stale(&mut self, stale: Option<Stale>) {
        self.stale = stale;
    }
}
