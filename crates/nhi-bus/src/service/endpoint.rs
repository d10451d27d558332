//! One endpoint: takes requests from its queue subscription, holds those that must wait, and works on a bounded
//! number at a time. Its own task never waits for a handler.

use super::{
    Limits, Offer,
    drops::Drops,
    flow::{Flow, Wanted},
    intake::Intake,
    reply::Reply,
    request::{Request, Unfit, read},
    stats::{Counts, Stats},
    traced::Traced,
    work::{Handler, work},
};
use crate::{
    call::flow::{CREDIT, READS, is_spoken},
    connect::Bus,
    cx::Cx,
};
use async_nats::{Message, Subscriber};
use futures::StreamExt;
use jiff::Timestamp;
use nhi_model::{
    fault::{Fault, FaultCode},
    identity::IdentityName,
    subject,
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Bytes of requests that wait: their number alone would not bound the memory.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long handlers may go on after the service was told to stop. Less than the context waits.
const STOP_SECONDS_MAX: u64 = 15;

pub(super) struct Endpoint {
    service: String,
    name: &'static str,
    limits: Limits,
    handler: Handler,
    bus: Bus,
    drops: Drops,
    /// Of a service whose callers may say something about what they have asked for.
    flow: Option<Flow>,
    /// Whether this endpoint may answer in frames.
    streams: bool,
    stats: Stats,
}

/// Requests that are here and not answered.
#[derive(Default)]
struct Load {
    waiting: VecDeque<Request>,
    waiting_bytes: usize,
    running: JoinSet<IdentityName>,
    by_caller: BTreeMap<IdentityName, usize>,
}

impl Load {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Why one more would be too many.
    fn refuses(&self, request: &Request, limits: Limits) -> Option<&'static str> {
        let of_caller = self.by_caller.get(&request.caller.name).copied().unwrap_or(0);
        let is_full = self.waiting.len() >= limits.waiting
            || self.waiting_bytes + request.body.len() > WAITING_BYTES_MAX;
        match () {
            () if of_caller >= limits.each_caller => {
                Some("too many requests of this caller are not answered yet")
            }
            () if self.running.len() >= limits.running && is_full => Some("too many requests wait here"),
            () => None,
        }
    }

    fn admit(&mut self, request: Request) {
        *self.by_caller.entry(request.caller.name.clone()).or_default() += 1;
        self.waiting_bytes += request.body.len();
        self.waiting.push_back(request);
    }

    fn next(&mut self) -> Option<Request> {
        let request = self.waiting.pop_front()?;
        self.waiting_bytes -= request.body.len();
        Some(request)
    }

    fn finished(&mut self, caller: &IdentityName) {
        let left = self.by_caller.get_mut(caller).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            self.by_caller.remove(caller);
        }
    }
}

impl Endpoint {
    pub(super) fn new(service: &str, offer: &Offer, bus: Bus, drops: Drops, flow: Option<Flow>) -> Self {
        Self {
            service: service.to_owned(),
            name: offer.spec.endpoint,
            limits: offer.limits,
            handler: offer.handler.clone(),
            bus,
            drops,
            flow,
            streams: offer.streams,
            stats: Stats::default(),
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn subject(&self) -> String {
        subject::endpoint(&self.service, self.name)
    }

    pub(super) fn counts(&self) -> Counts {
        self.stats.counts()
    }

    /// Serves until `cx` stops, then answers everything that has arrived.
    pub(super) async fn serve(self: Arc<Self>, mut requests: Subscriber, cx: Cx) {
        let _taking = self.flow.as_ref().map(Flow::taking);
        let mut load = Load::default();
        let abandon = CancellationToken::new();
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(message) => self.take(message, &mut load).await,
                    None => break,
                },
                Some(finished) = load.running.join_next() => settle(&mut load, finished),
                () = cx.cancelled() => break,
            }
            self.start_waiting(&mut load, &abandon);
        }
        self.drain(requests, load, abandon).await;
    }

    /// The other instances get what comes from now on; what the server has sent here is answered here.
    async fn drain(self: Arc<Self>, requests: Subscriber, mut load: Load, abandon: CancellationToken) {
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        let mut losses = self.bus.losses();
        // Without a link nothing can arrive and nothing can be drained.
        let mut intake = match self.bus.is_up() {
            true => Intake::close(&self.bus, requests).await,
            false => None,
        };
        while intake.is_some() || !load.is_empty() {
            let is_open = intake.is_some();
            let next = async {
                match &mut intake {
                    Some(intake) => intake.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                request = next => match request {
                    Some(message) => self.take(message, &mut load).await,
                    None => intake = None,
                },
                Some(finished) = load.running.join_next() => settle(&mut load, finished),
                _ = losses.changed(), if is_open => intake = None,
                () = sleep_until(deadline), if !abandon.is_cancelled() => {
                    tracing::warn!(agent = self.service, "handlers did not end in time and were dropped");
                    intake = None;
                    abandon.cancel();
                }
            }
            self.start_waiting(&mut load, &abandon);
        }
    }

    async fn take(&self, message: Message, load: &mut Load) {
        match read(&self.service, self.name, &message, Timestamp::now()) {
            Ok(mut request) => match load.refuses(&request, self.limits) {
                None => {
                    request.wanted =
                        self.flow.as_ref().and_then(|flow| self.wanted(flow, &message, &request));
                    load.admit(request);
                }
                Some(reason) => {
                    let fault = Fault::new(FaultCode::TooMany, reason, "wait a second and try again")
                        .with("retry_after_s", 1);
                    self.refuse(request.reply, fault).await;
                }
            },
            Err(Unfit::Answer { reply, fault }) => self.refuse(reply, fault).await,
            Err(Unfit::Drop(reason)) => {
                self.stats.drop_one();
                self.drops.report(self.name, &message, reason);
            }
        }
    }

    /// Whether, and what, its caller may say about a request. One that is answered once is remembered only to show life.
    fn wanted(&self, flow: &Flow, message: &Message, request: &Request) -> Option<Wanted> {
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
        let life = header(READS).map(|_| request.reply.as_str());
        match self.streams {
            true => Some(flow.stream(&request.caller, life, header(CREDIT), is_spoken(&self.service))),
            false => life.map(|life| flow.once(&request.caller, life)),
        }
    }

    async fn refuse(&self, reply: String, fault: Fault) {
        let mishap = Reply::new(self.bus.clone(), reply).fault(fault).await;
        self.stats.record(Duration::ZERO, mishap);
    }

    fn start_waiting(self: &Arc<Self>, load: &mut Load, abandon: &CancellationToken) {
        while load.running.len() < self.limits.running {
            let Some(request) = load.next() else { return };
            let (endpoint, abandon) = (self.clone(), abandon.clone());
            load.running.spawn(async move {
                let (started, caller) = (Instant::now(), request.caller.name.clone());
                let traced = Traced::begin(&endpoint.bus, &endpoint.service, endpoint.name, &request);
                let span = traced.log_span();
                let mishap = work(&endpoint.handler, &endpoint.bus, request, &abandon).instrument(span).await;
                traced.end(&endpoint.bus, mishap.is_some());
                endpoint.stats.record(started.elapsed(), mishap);
                caller
            });
        }
    }
}

/// A handler's panic is caught where it happens; one that arrives here is ours, and ends the process.
fn settle(load: &mut Load, finished: Result<IdentityName, tokio::task::JoinError>) {
    match finished {
        Ok(caller) => load.finished(&caller),
        Err(error) => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
