//! The router's part in requests that can wait: what may be submitted, who would answer now, and the answer, got as
//! anybody's is. The queue itself is [`crate::jobs`].

use super::{
    desk::{Desk, read},
    journey::Journey,
};
use crate::jobs::{Hands, Ready, Worker};
use futures::FutureExt;
use nhi_bus::service::Caller;
use nhi_decide::{
    route::{Ask, route, told},
    weave::Json,
};
use nhi_model::{
    Timestamp,
    ai::{AiSubmit, AiSubmitted, ORIGIN_FIELD},
    fault::{Fault, FaultCode},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(super) fn hands(desk: &Arc<Desk>) -> Hands {
    let [reading, seeing, answering] = std::array::from_fn(|_| desk.clone());
    Hands {
        read: Arc::new(move |caller, body| read(&reading.rules(body), caller, body)),
        see: Arc::new(move |now, ask| see(&seeing, now, ask)),
        answer: Arc::new(move |caller, body| plain(answering.clone(), caller, body).boxed()),
        deadline: Duration::from_secs(desk.settings.guard.deadline_s.into()),
    }
}

async fn plain(desk: Arc<Desk>, caller: Caller, body: Json) -> Result<Json, Fault> {
    let settings = desk.rules(&body);
    let ask = read(&settings, &caller.name, &body)?;
    Journey::begin(&desk, &caller, settings, ask, body).await?.whole().await
}

/// Who would answer now. The journey decides again, with what then holds.
fn see(desk: &Desk, now: Timestamp, ask: &Ask) -> Result<Ready, String> {
    let world = desk.world(now, ask);
    let routed = route(now, &desk.rules_of(ask.project.as_deref()), &world, ask);
    desk.waker.wake(now, ask, &routed);
    let Some(first) = routed.order.first() else { return Err(told(&routed)) };
    let settings = desk.pool.configured(&first.provider);
    let backend = world.backends.get(&first.provider);
    let (Some(settings), Some(backend)) = (settings, backend) else { return Err(told(&routed)) };
    let is_loaded = settings.gpu.is_none() || backend.loaded.iter().any(|loaded| loaded.name == first.model);
    let running = backend.running;
    let (backend, model) = (first.provider.clone(), first.model.clone());
    Ok(Ready { backend, model, is_loaded, running, parallel: settings.parallel() })
}

pub(super) async fn submit(
    desk: &Desk,
    worker: &Worker,
    caller: Caller,
    submitted: AiSubmit,
) -> Result<AiSubmitted, Fault> {
    let bad = |message: &str, hint: &str| Fault::new(FaultCode::BadRequest, message, hint);
    let mut body: Json = submitted.request.into_iter().collect();
    if body.remove("stream").is_some_and(|stream| stream == Value::Bool(true)) {
        return Err(bad("stream: a job is answered in one piece", "leave it out, or ask ai.chat"));
    }
    let wishes = body.entry(ORIGIN_FIELD).or_insert_with(|| json!({}));
    if let Some(wishes) = wishes.as_object_mut() {
        wishes.entry("priority").or_insert_with(|| json!("bulk"));
    }
    let settings = desk.rules(&body);
    let ask = read(&settings, &caller.name, &body)?;
    if ask.needs.embeds {
        return Err(bad("messages: is missing", "ask ai.embed for vectors"));
    }
    let now = Timestamp::now();
    let world = desk.world(now, &ask);
    let routed = route(now, &settings, &world, &ask);
    let passing = [FaultCode::Unavailable, FaultCode::TooMany];
    if routed.order.is_empty() {
        let refusal = desk.refusal(&settings, &world, &ask, &routed);
        if !passing.iter().any(|code| code.as_str() == refusal.code) {
            return Err(refusal);
        }
    }
    let priority = submitted.priority.unwrap_or_default();
    let job = worker.queue().submit(&caller, &ask.asked, priority, &body).await?;
    Ok(AiSubmitted { job })
}
