//! Somebody with a key of their own who asks the actuator, as any client of the mesh does. It starts no actuator.

use crate::Nats;
use nhi_bus::{
    call::{Call, CallError, Frame, stream},
    connect::Bus,
    cx::Cx,
};
use nhi_model::{
    act::{ActApplied, ActApply, ActApprove, ActGot, ActPlan, ActPlanned, ActRun, RunFrame},
    fault::Fault,
    identity::Role,
    plan::PlanRecord,
    run::Run,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Somebody who asks. A call that fails for another reason than the actuator's word fails the test.
#[derive(Debug)]
pub struct Person {
    bus: Bus,
}

/// A request for a plan of an intent, written as a client would.
///
/// # Panics
/// When it is no intent.
pub fn wish(intent: Value) -> ActPlan {
    let intent = serde_json::from_value(intent).expect("the test names an intent");
    ActPlan { intent, reason: None, rehearse: false, undo_unless_confirmed_minutes: None }
}

impl Person {
    /// Adds an identity and connects as it.
    pub async fn join(nats: &Nats, cx: &Cx, name: &str, role: Role) -> Self {
        nats.add(name, role).await;
        Self { bus: nats.connect(cx, name).await }
    }

    /// Calls an endpoint of `act`.
    ///
    /// # Errors
    /// The actuator's own fault.
    pub async fn call<A: DeserializeOwned>(
        &self,
        endpoint: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<A, Box<Fault>> {
        match self.ready(endpoint, request).send(&self.bus).await {
            Ok(answer) => Ok(serde_json::from_slice(&answer).expect("the answer has the endpoint's shape")),
            Err(CallError::Fault { fault, .. }) => Err(fault),
            Err(error) => panic!("act.{endpoint}: {error}"),
        }
    }

    fn ready(&self, endpoint: &str, request: &impl Serialize) -> Call {
        let body = serde_json::to_vec(request).expect("a request is JSON");
        Call::new(&self.bus, "act", endpoint, body.into()).expect("act has endpoints with names")
    }

    /// Asks for a plan.
    ///
    /// # Errors
    /// The refusal.
    pub async fn plan(&self, intent: Value) -> Result<PlanRecord, Box<Fault>> {
        self.ask(&wish(intent)).await
    }

    /// Asks for a plan on terms of one's own.
    ///
    /// # Errors
    /// The refusal.
    pub async fn ask(&self, wish: &ActPlan) -> Result<PlanRecord, Box<Fault>> {
        self.call::<ActPlanned>("plan", wish).await.map(|planned| planned.record)
    }

    /// Applies a plan by its digest, with the guest's name where it is asked for.
    ///
    /// # Errors
    /// The refusal.
    pub async fn apply(&self, record: &PlanRecord, name: Option<&str>) -> Result<ActApplied, Box<Fault>> {
        let (plan, digest) = (record.plan.id.clone(), record.plan.digest().clone());
        self.call("apply", &ActApply { plan, digest, name: name.map(str::to_owned) }).await
    }

    /// Says yes to a plan by its digest, with the guest's name where it is asked for.
    ///
    /// # Errors
    /// The refusal.
    pub async fn approve(&self, record: &PlanRecord, name: Option<&str>) -> Result<ActGot, Box<Fault>> {
        let (plan, digest) = (record.plan.id.clone(), record.plan.digest().clone());
        self.call("approve", &ActApprove { plan, digest, name: name.map(str::to_owned) }).await
    }

    /// Follows a run to its end.
    pub async fn end(&self, applied: &ActApplied) -> Run {
        let call = self.ready("run", &ActRun { run: applied.run.clone() });
        let mut frames = stream(&self.bus, call).await.expect("a run can be followed");
        let mut last = None;
        while let Some(frame) = frames.next().await {
            let (Frame::Part(bytes) | Frame::Whole(bytes)) = frame.expect("frames come to their end");
            let frame: RunFrame = serde_json::from_slice(&bytes).expect("a frame has its shape");
            last = Some(frame.run);
        }
        last.expect("a run has frames")
    }

    /// Plans and carries out what needs nobody else's yes, and returns how it ended.
    ///
    /// # Errors
    /// The refusal.
    pub async fn carry_out(&self, intent: Value) -> Result<Run, Box<Fault>> {
        let record = self.plan(intent).await?;
        let applied = self.apply(&record, None).await?;
        Ok(self.end(&applied).await)
    }
}
