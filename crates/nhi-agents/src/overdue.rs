//! The alerts about runs that are due to be taken back and cannot be yet. It takes nothing back; the actuator does.

use crate::alerts::{self, Problem};
use nhi_bus::{connect::Bus, plans::PlansSnapshot, store, view::View};
use nhi_decide::switch::is_armed;
use nhi_model::{Timestamp, alert::Severity, envelope::OpId, identity::Agent, run::RunId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What the ids of these alerts begin with; the run follows.
const UNDO: &str = "undo-";

/// An alert is there from the first failure until the switch of its run is not armed any more. What cannot be written
/// is the next call's.
pub(crate) async fn tell(bus: &Bus, view: &View, kept: &PlansSnapshot, troubles: &BTreeMap<RunId, String>) {
    let problem = |(id, text): (&RunId, &String)| {
        let plan = id.plan();
        let summary = format!("{plan} was not confirmed in time and cannot be taken back yet: {text}");
        let hint = format!("It is tried again. To keep what it did: nhi plan confirm {plan}.");
        (format!("{UNDO}{id}"), Problem { severity: Severity::Critical, summary, hint, about: None })
    };
    let wanted = troubles.iter().map(problem).collect();
    // Another actuator may know more of one that is armed still.
    let is_over = |id: &str| {
        let run = id.strip_prefix(UNDO).and_then(|run| RunId::parse(run).ok());
        run.is_some_and(|run| !kept.runs.get(&run).is_some_and(|row| is_armed(&row.value)))
    };
    let now = Timestamp::now();
    let changes = alerts::changes(&view.read(), Agent::Act, is_over, &wanted, now);
    if changes.is_empty() {
        return;
    }
    if let Err(error) = store::commit(bus, &OpId(Uuid::now_v7().to_string()), now, &changes).await {
        tracing::debug!(agent = "act", err = %error, "alert about a run that is due not written");
    }
}
