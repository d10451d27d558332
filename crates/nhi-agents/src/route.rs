//! The router: serves `ai`. Each request goes to the backend that `nhi_decide::route` names, and to the next when that one
//! fails; a stream goes on where its backend broke off. Any number of routers share the work, the quotas and the ledger.
//!
//! It decides nothing about who answers, keeps no conversation, and writes no prompt anywhere.

mod desk;
mod gate;
mod jobs;
mod journey;
mod pool;
mod records;
mod stream;

pub use nhi_llm::Key;

use self::{desk::Desk, pool::Pool, records::Records};
use crate::{
    bodies::{ChatBody, EitherBody, EmbedAnswer, EmbedBody},
    book::{Book, Counts},
    jobs::{Queue, Worker},
    wake::Waker,
};
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    jobs::JobsError,
    keys::Seed,
    service::{Limits, Running, Service, ServiceError, Spec},
    usage::Usage,
    view::{LiveView, View, ViewError},
};
use nhi_decide::route::Settings;
use nhi_model::{
    ai::{
        AiJobs, AiJobsListed, AiModels, AiModelsAsk, AiResult, AiSubmit, AiSubmitted, AiUsage, AiUsed, Job,
        Routed,
    },
    call::Effect,
};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// Streams and answers one router works on, and those that wait for that. More is for another router.
const CHAT: Limits = Limits { running: 512, waiting: 512, each_caller: 256 };

/// What a router needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// `[ai]`, checked.
    pub settings: Settings,
    /// Keys by the backend's name; one that is missing keeps its backend out.
    pub keys: BTreeMap<String, Key>,
    /// The router's own seed: a machine's relay knows its requests by it.
    pub seed: Seed,
    /// How many routers may share the quotas while their store is away.
    pub workers: u32,
}

/// A running router.
#[derive(Debug)]
pub struct Handle {
    service: Running,
    jobs: Cx,
    pool: Arc<Pool>,
}

impl Handle {
    /// Takes no new requests and ends those it has.
    pub async fn stop(self) {
        self.jobs.close().await;
        self.service.stop().await;
    }

    /// Backends it is configured with.
    pub fn backends(&self) -> usize {
        self.pool.len()
    }
}

/// Why the router did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be followed.
    #[error("follow the state for the router")]
    View(#[from] ViewError),
    /// The jobs cannot be followed.
    #[error("follow the jobs for the router")]
    Jobs(#[from] JobsError),
    /// The service cannot be offered.
    #[error("offer the router's service")]
    Service(#[from] ServiceError),
}

/// Starts the router and the service `ai`. What a backend answers, or that it does not, never keeps it from starting.
///
/// # Errors
/// [`Error`].
pub async fn run(cx: &Cx, bus: Bus, options: Options) -> Result<Handle, Error> {
    let view = View::open(cx, &bus).await?;
    let live = LiveView::open(cx, &bus).await?;
    let usage = Usage::open(cx, &bus);
    let settings = Arc::new(options.settings);
    let pool = Arc::new(Pool::new(settings.clone(), options.keys, options.seed, view.clone(), live));
    let counts = Counts::new(usage, options.workers);
    let book = Book::start(cx, &bus, counts.clone());
    Records::start(cx, &bus, view, &pool, &counts, &book);
    let waker = Waker::new(&settings);
    let desk =
        Arc::new(Desk { settings, pool: pool.clone(), counts, book, waker, running: Mutex::default() });
    let jobs = cx.child();
    let worker = Worker::start(&jobs, Queue::open(&jobs, &bus).await?, jobs::hands(&desk));
    let service = waiting(service(&desk), &desk, &worker).start(cx, &bus).await?;
    Ok(Handle { service, jobs, pool })
}

fn service(desk: &Arc<Desk>) -> Service {
    let spec = |endpoint, effect, description, stream| Spec { endpoint, effect, description, stream };
    let chat = spec(
        "chat",
        Effect::Write,
        "Answer a conversation: an OpenAI chat.completions body, in frames when it has \"stream\": true. `model` is an \
         alias (auto, coding, fast, local, private), a model's name or <backend>/<model>; `nhi` may hold privacy, \
         priority and project.",
        true,
    );
    let embed = spec("embed", Effect::Write, "Embed texts: an OpenAI embeddings body.", false);
    let models =
        spec("models", Effect::Read, "What can be asked for, and whether somebody can answer now.", false);
    let route = spec(
        "route",
        Effect::Read,
        "What would happen with a body of chat or embed: who would be asked, and why nobody else. Nobody is asked.",
        false,
    );
    let usage = spec("usage", Effect::Read, "What was used, and what is left of each quota.", false);
    let service =
        Service::new("ai", env!("CARGO_PKG_VERSION"), "Answers AI requests, at home or in a cloud.");
    let [chatting, embedding, listing, explaining, summing] = std::array::from_fn(|_| desk.clone());
    service
        .limits(CHAT)
        .streaming::<ChatBody, Map<String, Value>, _>(chat, move |caller, ChatBody(body), frames| {
            let desk = chatting.clone();
            async move { desk.chat(caller, body, frames).await }
        })
        .endpoint::<EmbedBody, EmbedAnswer, _>(embed, move |caller, EmbedBody(body)| {
            let desk = embedding.clone();
            async move { desk.embed(caller, body).await.map(EmbedAnswer) }
        })
        .limits(Limits::ORDINARY)
        .endpoint::<AiModelsAsk, AiModels, _>(models, move |caller, _| {
            let desk = listing.clone();
            async move { Ok(desk.models(&caller)) }
        })
        .endpoint::<EitherBody, Routed, _>(route, move |caller, EitherBody(body)| {
            let desk = explaining.clone();
            async move { desk.route(&caller, &body) }
        })
        .endpoint::<AiUsage, AiUsed, _>(usage, move |_, ask| {
            let desk = summing.clone();
            async move { desk.usage(&ask).await }
        })
}

fn waiting(service: Service, desk: &Arc<Desk>, worker: &Worker) -> Service {
    let spec = |endpoint, effect, description| Spec { endpoint, effect, description, stream: false };
    let submit = spec(
        "submit",
        Effect::Write,
        "Take a body of chat that can wait: answered as soon as somebody can, also when that is tomorrow.",
    );
    let result = spec("result", Effect::Write, "How far a job is; its answer, for 24 hours.");
    let jobs = spec("jobs", Effect::Read, "The caller's jobs, newest first.");
    let (desk, [taking, telling, listing]) = (desk.clone(), std::array::from_fn(|_| worker.clone()));
    service
        .endpoint::<AiSubmit, AiSubmitted, _>(submit, move |caller, ask| {
            let (desk, worker) = (desk.clone(), taking.clone());
            async move { jobs::submit(&desk, &worker, caller, ask).await }
        })
        .endpoint::<AiResult, Job, _>(result, move |caller, ask| {
            let worker = telling.clone();
            async move { worker.queue().result(&caller.name, &ask.job, &worker.waits()).await }
        })
        .endpoint::<AiJobs, AiJobsListed, _>(jobs, move |caller, _| {
            let worker = listing.clone();
            async move { Ok(worker.queue().list(&caller.name, &worker.waits())) }
        })
}
