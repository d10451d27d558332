//! Typed services: endpoints that describe themselves, spoken over the NATS micro service protocol (ADR-32) on plain
//! queue subscriptions.
//!
//! The library's own service API is not used: it answers any reply subject, sends empty error bodies and loses
//! requests on stop. This one answers only what may be answered, gives every request exactly one terminal answer, and
//! drains. It makes no decision about who may call: nats-server does, and the caller's name in the subject is proof.

mod drops;
mod endpoint;
mod flow;
mod frames;
mod intake;
mod reply;
mod request;
mod stats;
mod traced;
mod verbs;
mod work;

pub use self::{
    drops::{DropReason, Dropped},
    frames::{Ending, FrameError, Frames},
    request::Caller,
};

use self::{
    drops::Drops,
    endpoint::Endpoint,
    flow::Flow,
    work::{Handler, Incoming, Outcome, decode, encode},
};
use crate::{
    call::flow as caller_flow,
    connect::{Bus, ConnectError, Refusal},
    cx::Cx,
};
use futures::FutureExt;
use nhi_model::{
    call::Effect,
    fault::Fault,
    rights,
    subject::{self, QUEUE},
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt, future::Future, sync::Arc, time::Duration};
use tokio::sync::broadcast;
use uuid::Uuid;

/// Longest name of a service or endpoint: it is a subject token.
const NAME_CHARS_MAX: usize = 64;
/// Room left in a message for what the server and the client add.
const SLACK_BYTES: usize = 4 * 1024;
/// How long after the echo a refused subscription may still be reported: the client tells by another task.
const REFUSAL_MS_MAX: u64 = 20;

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name, the second token of the subject.
    pub endpoint: &'static str,
    /// What it does to the lab.
    pub effect: Effect,
    /// For people and for AI agents: what it is for.
    pub description: &'static str,
    /// Whether it may answer in frames: then its handler is given to [`Service::streaming`].
    pub stream: bool,
}

/// How much an endpoint takes on. More is answered with 429 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests worked on at a time.
    pub running: usize,
    /// Requests that wait for that.
    pub waiting: usize,
    /// Requests of one caller, running and waiting: one identity cannot take all.
    pub each_caller: usize,
}

impl Limits {
    /// For an endpoint whose handler waits more than it computes.
    pub const ORDINARY: Self = Self { running: 64, waiting: 512, each_caller: 384 };
    /// For an endpoint that does one thing at a time.
    pub const SINGLE: Self = Self { running: 1, waiting: 64, each_caller: 32 };
}

/// A service that was not started.
pub struct Service {
    name: String,
    version: String,
    description: String,
    limits: Limits,
    endpoints: Vec<Offer>,
    on_drop: Option<Arc<dyn Fn(Dropped) + Send + Sync>>,
}

/// An endpoint that was not started.
struct Offer {
    spec: Spec,
    limits: Limits,
    streams: bool,
    request_schema: String,
    response_schema: String,
    handler: Handler,
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The service contradicts itself or the wire contract; a mistake in the program.
    #[error("start service {service}: {reason}")]
    Malformed {
        /// The service.
        service: String,
        /// What is wrong.
        reason: String,
    },
    /// Its description is larger than a message, which would kill discovery without a word.
    #[error(
        "start service {service}: its description has {size} bytes, {limit} fit into an answer of $SRV.INFO; \
         shorten the schemas or divide the service"
    )]
    InfoTooLarge {
        /// The service.
        service: String,
        /// Size of the answer, bytes.
        size: usize,
        /// What fits, bytes.
        limit: usize,
    },
    /// The server does not let this identity serve.
    #[error(
        "start service {service}: the server lets {me} not subscribe {subject}; `nhi auth list` shows its rights"
    )]
    Refused {
        /// The service.
        service: String,
        /// Who wanted to serve.
        me: String,
        /// What it wanted to subscribe.
        subject: String,
    },
    /// The connection is closed.
    #[error("start service {service}: the connection to the mesh is closed")]
    Closed {
        /// The service.
        service: String,
    },
    /// Nothing came back through the connection.
    #[error("start service {service}")]
    NotReady {
        /// The service.
        service: String,
        /// Why.
        source: ConnectError,
    },
}

impl Service {
    /// A service without endpoints.
    pub fn new(name: impl Into<String>, version: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            description: description.into(),
            limits: Limits::ORDINARY,
            endpoints: Vec::new(),
            on_drop: None,
        }
    }

    /// Sets what the endpoints added from here on take on.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Also tells `hook` of each message that was dropped. It must not block.
    #[must_use]
    pub fn on_drop(mut self, hook: Arc<dyn Fn(Dropped) + Send + Sync>) -> Self {
        self.on_drop = Some(hook);
        self
    }

    /// Adds an endpoint with one answer a request.
    ///
    /// The handler is dropped at its next `await` when the caller's deadline passes; work that must not be cut is
    /// started in a task of its own. If it panics, the caller gets an `internal` fault and the service lives.
    #[must_use]
    pub fn endpoint<Req, Resp, Work>(
        self,
        spec: Spec,
        handler: impl Fn(Caller, Req) -> Work + Send + Sync + 'static,
    ) -> Self
    where
        Req: DeserializeOwned + JsonSchema + Send + 'static,
        Resp: Serialize + JsonSchema + Send + 'static,
        Work: Future<Output = Result<Resp, Fault>> + Send + 'static,
    {
        let (handler, takes_object) = (Arc::new(handler), takes_object::<Req>());
        let erased: Handler = Arc::new(move |incoming: Incoming| {
            let handler = handler.clone();
            async move {
                let request = decode::<Req>(&incoming.body, takes_object)?;
                let response = handler(incoming.caller, request).await?;
                encode(&response).map(Outcome::Whole)
            }
            .boxed()
        });
        self.offer::<Req, Resp>(spec, false, erased)
    }

    /// Adds an endpoint that may answer in frames. `Frame` is what one frame carries.
    ///
    /// The deadline of the caller counts until the stream is opened by its first frame or by [`Frames::open`]; from
    /// then on it runs until the handler ends, with a sign of life every 15 s. When the caller cancels, the handler is
    /// dropped at its next `await`.
    #[must_use]
    pub fn streaming<Req, Frame, Work>(
        self,
        spec: Spec,
        handler: impl Fn(Caller, Req, Frames) -> Work + Send + Sync + 'static,
    ) -> Self
    where
        Req: DeserializeOwned + JsonSchema + Send + 'static,
        Frame: JsonSchema,
        Work: Future<Output = Result<Ending, Fault>> + Send + 'static,
    {
        let (handler, takes_object) = (Arc::new(handler), takes_object::<Req>());
        let erased: Handler = Arc::new(move |incoming: Incoming| {
            let handler = handler.clone();
            async move {
                let request = decode::<Req>(&incoming.body, takes_object)?;
                match handler(incoming.caller, request, incoming.frames).await? {
                    Ending::Done => Ok(Outcome::Done),
                    Ending::Whole(body) => Ok(Outcome::Whole(body)),
                }
            }
            .boxed()
        });
        self.offer::<Req, Frame>(spec, true, erased)
    }

    fn offer<Req: JsonSchema, Resp: JsonSchema>(
        mut self,
        spec: Spec,
        streams: bool,
        handler: Handler,
    ) -> Self {
        let response = SchemaSettings::draft2020_12().for_serialize();
        let text = |schema: &schemars::Schema| schema.as_value().to_string();
        self.endpoints.push(Offer {
            spec,
            limits: self.limits,
            streams,
            request_schema: text(&request_schema::<Req>()),
            response_schema: text(&response.into_generator().into_root_schema_for::<Resp>()),
            handler,
        });
        self
    }

    /// Starts it, and returns when requests arrive. It stops, draining, with `cx` or by [`Running::stop`].
    ///
    /// # Errors
    /// [`ServiceError`]; nothing is left running then.
    pub async fn start(self, cx: &Cx, bus: &Bus) -> Result<Running, ServiceError> {
        self.check()?;
        let cx = cx.child();
        let service = self.name.clone();
        let failed = |error| {
            cx.cancel();
            error
        };
        let closed = |_| ServiceError::Closed { service: service.clone() };
        let mut refusals = bus.refusals();
        let drops = Drops::new(&cx, bus, &service, self.on_drop.clone());
        let streams = self.endpoints.iter().any(|offer| offer.streams);
        let flow = streams.then(Flow::new);
        let endpoints: Vec<Arc<Endpoint>> = self
            .endpoints
            .iter()
            .map(|offer| endpoint(&service, offer, bus, &drops, flow.as_ref()))
            .collect();
        let id = Uuid::new_v4().simple().to_string();
        let identity = verbs::Identity {
            name: self.name,
            id: id.clone(),
            version: self.version,
            metadata: BTreeMap::from([("agent".to_owned(), bus.me().to_string())]),
        };
        let described: Vec<_> = self.endpoints.iter().map(|offer| verbs::describe(&service, offer)).collect();
        let verbs = verbs::Verbs::new(identity, &self.description, &described, endpoints.clone(), drops);
        let (size, limit) = (verbs.info_bytes(), bus.payload_bytes_max().saturating_sub(SLACK_BYTES));
        if size > limit {
            return Err(failed(ServiceError::InfoTooLarge { service, size, limit }));
        }
        let mut subjects = Vec::new();
        for endpoint in &endpoints {
            let subject = endpoint.subject();
            let requests = bus.client().queue_subscribe(subject.clone(), QUEUE.to_owned()).await;
            let requests = requests.map_err(|error| failed(closed(error)))?;
            subjects.push(subject);
            cx.spawn("endpoint", endpoint.clone().serve(requests, cx.clone()));
        }
        if let Some(flow) = flow.filter(|_| caller_flow::is_spoken(&service)) {
            let subject = subject::endpoint(&service, caller_flow::ENDPOINT);
            // Outside the queue group: nobody knows which instance works on the request.
            let words = bus.client().subscribe(subject.clone()).await;
            let words = words.map_err(|error| failed(closed(error)))?;
            subjects.push(subject);
            cx.spawn("flow", flow.serve(bus.clone(), service.clone(), words, cx.clone()));
        }
        let questions = verbs.subscribe(bus).await.map_err(|error| failed(closed(error)))?;
        subjects.extend(questions.iter().map(|(_, subject, _)| subject.clone()));
        cx.spawn("discovery", verbs.serve(questions, bus.clone(), cx.clone()));
        bus.ready()
            .await
            .map_err(|source| failed(ServiceError::NotReady { service: service.clone(), source }))?;
        if let Some(subject) = refused(&mut refusals, &subjects).await {
            let me = bus.me().to_string();
            return Err(failed(ServiceError::Refused { service, me, subject }));
        }
        cx.spawn("service-rights", watch_rights(refusals, subjects, cx.clone()));
        Ok(Running { name: service, id, cx, bus: bus.clone() })
    }

    /// Finds mistakes of the program before anything is subscribed.
    fn check(&self) -> Result<(), ServiceError> {
        let malformed = |reason: String| Err(ServiceError::Malformed { service: self.name.clone(), reason });
        if !is_name(&self.name) {
            return malformed(format!("the name is not [A-Za-z0-9_-]{{1,{NAME_CHARS_MAX}}}"));
        }
        if self.version.split(['.', '-', '+']).take(3).filter(|part| part.parse::<u64>().is_ok()).count() != 3
        {
            return malformed(format!("version {:?} is not MAJOR.MINOR.PATCH", self.version));
        }
        for (index, offer) in self.endpoints.iter().enumerate() {
            let name = offer.spec.endpoint;
            if !is_name(name) {
                return malformed(format!("endpoint {name:?} is not [A-Za-z0-9_-]{{1,{NAME_CHARS_MAX}}}"));
            }
            if self.endpoints[..index].iter().any(|other| other.spec.endpoint == name) {
                return malformed(format!("endpoint {name} is there twice"));
            }
            if name == caller_flow::ENDPOINT {
                return malformed(format!("{name} is where callers speak to their streams"));
            }
            if offer.limits.running == 0 {
                return malformed(format!("endpoint {name} may work on nothing"));
            }
            if offer.spec.stream != offer.streams {
                return malformed(format!("endpoint {name} must say whether it streams as its handler does"));
            }
            // Who may call is rendered from that table; an endpoint beside it could be called by nobody.
            let known = rights::ENDPOINTS.iter().find(|e| e.service == self.name && e.endpoint == name);
            if rights::SERVICES.contains(&self.name.as_str())
                && known.map(|e| e.effect) != Some(offer.spec.effect)
            {
                return malformed(format!("endpoint {name} is not so in nhi_model::rights::ENDPOINTS"));
            }
        }
        Ok(())
    }
}

fn request_schema<Req: JsonSchema>() -> schemars::Schema {
    SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<Req>()
}

/// Whether a request is an object by its schema. What reads it would take a list of the fields' values as well.
fn takes_object<Req: JsonSchema>() -> bool {
    request_schema::<Req>().get("type").is_some_and(|kind| kind == "object")
}

fn endpoint(service: &str, offer: &Offer, bus: &Bus, drops: &Drops, flow: Option<&Flow>) -> Arc<Endpoint> {
    Arc::new(Endpoint::new(service, offer, bus.clone(), drops.clone(), flow.cloned()))
}

/// Which of the subscriptions the server has refused.
async fn refused(refusals: &mut broadcast::Receiver<Refusal>, subjects: &[String]) -> Option<String> {
    let find = async {
        loop {
            match refusals.recv().await {
                Ok(Refusal::Subscribe(subject)) if subjects.contains(&subject) => return Some(subject),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    };
    tokio::time::timeout(Duration::from_millis(REFUSAL_MS_MAX), find).await.ok().flatten()
}

/// After a reconnect the subscriptions are made again, perhaps with fewer rights: a deaf service must not stay unseen.
async fn watch_rights(mut refusals: broadcast::Receiver<Refusal>, subjects: Vec<String>, cx: Cx) {
    loop {
        let refusal = tokio::select! {
            refusal = refusals.recv() => refusal,
            () = cx.cancelled() => return,
        };
        match refusal {
            Ok(Refusal::Subscribe(subject)) if subjects.contains(&subject) => {
                tracing::error!(key = subject, "server refuses a subscription of this service now");
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Whether a text can be one token of a subject and a name in the micro service protocol.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !text.is_empty() && text.len() <= NAME_CHARS_MAX && text.bytes().all(allowed)
}

/// A service that runs. Dropping this changes nothing: the service stops with its context.
pub struct Running {
    name: String,
    id: String,
    cx: Cx,
    bus: Bus,
}

impl Running {
    /// The instance's id, as discovery shows it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes no new requests, answers all that have arrived, and returns when the server has the answers.
    pub async fn stop(self) {
        self.cx.close().await;
        if self.bus.is_up()
            && let Err(error) = self.bus.ready().await
        {
            tracing::debug!(err = %error, agent = self.name, "service stopped without a last echo");
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<&str> = self.endpoints.iter().map(|offer| offer.spec.endpoint).collect();
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}
