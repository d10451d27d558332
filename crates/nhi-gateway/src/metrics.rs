//! `/metrics` in Prometheus' text format: the gateway's own counters for everybody, and the numbers of the lab, of acting
//! and of AI for identities that may read the state. They are computed from records and answers when somebody asks, with
//! the gateway's own identity, at most every two seconds for all who ask. It keeps no history and guesses nothing.

mod family;
mod lab;
mod page;
mod work;

use self::{
    family::{Family, Scope},
    lab::{Lab, seconds},
    page::{Labels, Page, Spread},
};
use crate::{App, health, mesh, reply};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Request, StatusCode, header},
    response::Response,
};
use nhi_bus::{
    call::{CallError, Timeout, call_within},
    connect::Bus,
};
use nhi_model::{
    Timestamp,
    act::{ActList, ActListed},
    ai::{AiJobs, AiJobsListed, AiUsage, AiUsed},
    call::{StateGet, StateGot},
    fault::{Fault, FaultCode},
    gpu::{GpuGet, GpuGot},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// How long the lab's numbers are repeated: anybody with a key may ask as often as they like.
const REPEATED: Duration = Duration::from_secs(2);
/// How long a service may take to answer; after that its numbers are missing.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Pages of the state that are read: a megabyte each, some ten thousand records.
const PAGES_MAX: usize = 64;
/// Open plans that are counted: as many as the service lists.
const PLANS_MAX: u32 = 500;

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
/// Bounds of the answers' durations, milliseconds: a call takes one to ten, a model seconds.
const BOUNDS_MS: [u64; 9] = [5, 10, 25, 50, 100, 250, 1_000, 5_000, 30_000];

/// The counters since start, and the numbers of the last scrape.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Timestamp,
    answered: [AtomicU64; CLASSES.len()],
    refused: AtomicU64,
    /// By what paths are counted as.
    durations: Mutex<BTreeMap<&'static str, Durations>>,
    last: Mutex<Option<(Instant, Page)>>,
    looking: Semaphore,
}

#[derive(Clone, Debug, Default)]
struct Durations {
    counts: [u64; BOUNDS_MS.len()],
    count: u64,
    sum_ms: f64,
}

/// What a path is counted as: as many words as stand here, whatever is asked for.
pub(crate) fn route(path: &str) -> &'static str {
    match path {
        "/healthz" | "/readyz" => "health",
        "/metrics" => "/metrics",
        "/openapi.json" => "/openapi.json",
        "/session" => "/session",
        "/events" => "/events",
        "/mcp" => "/mcp",
        "/mesh" => "/mesh",
        path if path.starts_with("/mesh/") => "/mesh/*",
        path if ["/v1/", "/v1beta/", "/api/"].iter().any(|door| path.starts_with(door)) => "models",
        _ => "other",
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Timestamp::now(),
            answered: Default::default(),
            refused: AtomicU64::default(),
            durations: Mutex::default(),
            last: Mutex::default(),
            looking: Semaphore::new(1),
        }
    }
}

impl Metrics {
    /// An answer was given.
    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(2);
        if let Some(counter) = self.answered.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long the head of an answer took. `path` is of [`route`].
    pub(crate) fn took(&self, path: &'static str, duration: Duration) {
        let ms = duration.as_secs_f64() * 1_000.0;
        let place = BOUNDS_MS.iter().position(|bound| ms <= *bound as f64);
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = durations.entry(path).or_default();
        if let Some(count) = place.and_then(|place| mine.counts.get_mut(place)) {
            *count += 1;
        }
        mine.count += 1;
        mine.sum_ms += ms;
    }

    /// A request was refused by its head.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The gateway's own numbers.
    fn own(&self, connections: usize, is_linked: bool) -> Page {
        let mut page = Page::default();
        page.set(Family::Build, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.set(Family::Started, &[], self.started.as_second());
        for (class, counter) in CLASSES.iter().zip(&self.answered) {
            page.set(Family::Answers, &[("code", class)], counter.load(Ordering::Relaxed));
        }
        page.set(Family::Refused, &[], self.refused.load(Ordering::Relaxed));
        let bounds = BOUNDS_MS.map(seconds);
        for (path, durations) in &*self.durations.lock().unwrap_or_else(PoisonError::into_inner) {
            let Durations { counts, count, sum_ms } = durations;
            let spread = Spread { bounds: &bounds, counts, count: *count, sum: sum_ms / 1_000.0 };
            page.spread(Family::Durations, &[("path", path)], &spread);
        }
        page.set(Family::Connections, &[], connections);
        page.flag(Family::Linked, &[], is_linked);
        page
    }

    /// The lab's numbers, at most [`REPEATED`] old. Who asks while somebody looks gets what that one finds.
    async fn lab(&self, own: &Bus) -> Page {
        if let Some(page) = self.remembered() {
            return page;
        }
        let _turn = self.looking.acquire().await.expect("the semaphore is never closed");
        if let Some(page) = self.remembered() {
            return page;
        }
        let at = Instant::now();
        let page = look(own).await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, page.clone()));
        page
    }

    fn remembered(&self) -> Option<Page> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < REPEATED).map(|(_, page)| page.clone())
    }
}

/// `GET /metrics`
pub(crate) async fn scrape(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let mut page = app.metrics.own(app.connections.len(), app.health.is_linked());
    page.set(Family::Listeners, &[], app.events.len());
    let (parts, _) = request.into_parts();
    if !mesh::is_somebody(&parts) {
        let note = "# What follows is the gateway's own. The lab's numbers need the key of an identity that may read \
                    the state: Authorization: Bearer SU...\n";
        return answer(format!("{note}{}", page.text(&[Scope::Own])));
    }
    let readable = async {
        let visitor = mesh::authenticate(&app, &parts).await?;
        may_read(&visitor.caller.bus).await.map_err(|error| error.to_fault())
    };
    if let Err(fault) = readable.await {
        return reply::failure(fault);
    }
    page.join(app.metrics.lab(app.health.bus()).await);
    page.join(app.offered());
    let dropped = page.dropped;
    page.set(Family::Dropped, &[], dropped);
    answer(page.text(&[Scope::Own, Scope::Lab]))
}

impl App {
    /// The mesh as the gateway sees it.
    fn offered(&self) -> Page {
        let mut page = Page::default();
        let (services, mut problems) = (self.catalog.services(), self.catalog.problems().len());
        for offered in &*services {
            problems += offered.problems.len();
            let labels: Labels<'_> = &[("service", &offered.name), ("version", &offered.version)];
            page.set(Family::Instances, labels, offered.instances.len());
            page.set(Family::Endpoints, labels, offered.endpoints.len());
        }
        page.set(Family::CatalogProblems, &[], problems);
        page
    }
}

fn answer(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether nats-server lets a caller read the state: it is asked, nothing is decided here.
async fn may_read(caller: &Bus) -> Result<(), CallError> {
    match health::keeper(caller, ANSWER_MAX).await {
        // Whoever keeps the state may be away; that says nothing about the caller.
        Ok(_) | Err(CallError::NobodyAnswers { .. }) => Ok(()),
        Err(error) if error.status() == FaultCode::Timeout.status() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Asks all at once. A service that does not answer is told, and its numbers are missing.
async fn look(own: &Bus) -> Page {
    let plans = ActList { open: true, limit: Some(PLANS_MAX), ..ActList::default() };
    let (all, today) = (GpuGet::default(), AiUsage::default());
    let (lab, acting, gpus, usage, jobs) = tokio::join!(
        state(own),
        ask::<_, ActListed>(own, "act", "list", &plans),
        ask::<_, GpuGot>(own, "gpu", "get", &all),
        ask::<_, AiUsed>(own, "ai", "usage", &today),
        ask::<_, AiJobsListed>(own, "ai", "jobs", &AiJobs {}),
    );
    let mut page = Page::default();
    for (source, answer) in [
        ("state.get", lab),
        ("act.list", acting.map(|listed| work::acting(&listed))),
        ("gpu.get", gpus.map(|got| work::gpus(&got))),
        ("ai.usage", usage.map(|used| work::usage(&used))),
        ("ai.jobs", jobs.map(|listed| work::jobs(&listed))),
    ] {
        page.flag(Family::Asked, &[("source", source)], answer.is_ok());
        match answer {
            Ok(more) => page.join(more),
            Err(error) => tracing::debug!(err = %error, "a source of metrics did not answer"),
        }
    }
    page
}

/// All records that have numbers, page by page.
async fn state(own: &Bus) -> Result<Page, CallError> {
    let select: Vec<String> = lab::SECTIONS.iter().map(|section| section.as_str().to_owned()).collect();
    let (mut lab, mut cursor) = (Lab::default(), None);
    for _ in 0..PAGES_MAX {
        let question = StateGet { select: select.clone(), live: true, cursor, ..StateGet::default() };
        let got: StateGot = ask(own, "state", "get", &question).await?;
        for (key, record) in &got.records {
            lab.add(key, record);
        }
        cursor = got.next;
        if cursor.is_none() {
            return Ok(lab.page(got.revision, &got.sources));
        }
    }
    let message = format!("the state has more than {PAGES_MAX} pages");
    let fault = Fault::new(FaultCode::TooLarge, message, "ask state.get for what you need");
    let (subject, status) = ("state.get".to_owned(), fault.status());
    Err(CallError::Fault { subject, fault: Box::new(fault), status })
}

async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
    bus: &Bus,
    service: &str,
    endpoint: &str,
    question: &Q,
) -> Result<A, CallError> {
    call_within(bus, service, endpoint, question, Timeout::of(ANSWER_MAX)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_time() {
        let metrics = Metrics::default();
        for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY]
        {
            metrics.answered(status);
        }
        metrics.refused();
        metrics.took(route("/healthz"), Duration::from_millis(7));
        metrics.took(route("/healthz"), Duration::from_secs(60));
        let text = metrics.own(3, true).text(&[Scope::Own]);
        for line in [
            "nhi_gateway_requests_total{code=\"2xx\"} 1",
            "nhi_gateway_requests_total{code=\"4xx\"} 2",
            "nhi_gateway_requests_total{code=\"5xx\"} 1",
            "nhi_gateway_refused_total 1",
            "nhi_gateway_connections 3",
            "nhi_gateway_linked 1",
            "nhi_gateway_request_duration_seconds_bucket{path=\"health\",le=\"0.005\"} 0",
            "nhi_gateway_request_duration_seconds_bucket{path=\"health\",le=\"0.01\"} 1",
            "nhi_gateway_request_duration_seconds_bucket{path=\"health\",le=\"+Inf\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
