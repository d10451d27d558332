//! `GET /mesh`: the catalog for people and programs, with how the services have fared. It is asked for as the caller,
//! so that who may not ask for services is not told of them here.

use super::Offered;
use crate::{
    App, mesh, pages,
    reply::{self, Failure},
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header, request::Parts},
    response::Response,
};
use flate2::Compression;
use nhi_bus::discover::{self, DiscoverError, EndpointInfo, EndpointStats, InstanceStats, SchemaText};
use nhi_model::{
    call::Effect,
    fault::{Fault, FaultCode},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long the counts are waited for.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Page<'c> {
    services: Vec<Row<'c>>,
    problems: &'c [String],
}

#[derive(Serialize)]
struct Row<'c> {
    name: &'c str,
    version: &'c str,
    description: &'c str,
    instances: &'c [String],
    endpoints: Vec<EndpointRow<'c>>,
    problems: &'c [String],
    /// Only of endpoints whose instances tell.
    stats: BTreeMap<&'c str, StatsRow>,
}

#[derive(Serialize)]
struct EndpointRow<'c> {
    name: &'c str,
    /// Where to call it; absent when it is not called in the mesh's way.
    path: Option<String>,
    subject: &'c str,
    effect: Effect,
    description: &'c str,
    request_schema: &'c Option<SchemaText>,
    response_schema: &'c Option<SchemaText>,
    stream: bool,
}

#[derive(Serialize)]
struct StatsRow {
    requests: u64,
    errors: u64,
    /// Absent before the first request.
    #[serde(skip_serializing_if = "Option::is_none")]
    processing_ms_avg: Option<f64>,
}

/// Answers `GET /mesh`.
pub(crate) async fn page(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    match look(&app, &parts).await {
        Ok(body) => smaller(&parts.headers, body),
        Err(failure) => reply::failure(failure),
    }
}

/// Schemas are long and much alike: a quarter is left of them, and a page on a phone waits for that alone.
fn smaller(headers: &HeaderMap, body: Vec<u8>) -> Response {
    let is_packed = pages::takes_gzip(headers);
    let body = if is_packed { pages::gzip(&body, Compression::fast()) } else { body };
    let mut response = reply::json(StatusCode::OK, body);
    let out = response.headers_mut();
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_packed {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn look(app: &App, parts: &Parts) -> Result<Vec<u8>, Failure> {
    let visitor = mesh::authenticate(app, parts).await?;
    app.catalog.looked().await;
    let services = app.catalog.services();
    let names = services.iter().map(|offered| offered.name.clone()).collect();
    let stats = discover::stats(&visitor.caller.bus, &names, WAIT).await.map_err(|error| refused(&error))?;
    let problems = app.catalog.problems();
    let services = services.iter().map(|offered| row(offered, &stats)).collect();
    Ok(serde_json::to_vec(&Page { services, problems: &problems })
        .expect("it is text, numbers and JSON values"))
}

fn refused(error: &DiscoverError) -> Fault {
    match error {
        DiscoverError::Disconnected => {
            Fault::new(FaultCode::Unavailable, "the mesh is not connected", "try again in a moment")
        }
        DiscoverError::Refused => {
            let message = "this identity may not ask for services";
            Fault::new(FaultCode::Forbidden, message, "use the identity of a person or of an AI agent")
        }
    }
}

fn row<'c>(offered: &'c Offered, stats: &[InstanceStats]) -> Row<'c> {
    let of_it = |stats: &&InstanceStats| stats.name == offered.name && offered.instances.contains(&stats.id);
    let stats: Vec<&InstanceStats> = stats.iter().filter(of_it).collect();
    let told = |info: &'c EndpointInfo| {
        let counts: Vec<&EndpointStats> = stats.iter().filter_map(|s| s.endpoints.get(&info.name)).collect();
        (!counts.is_empty()).then(|| (info.name.as_str(), sum(&counts)))
    };
    Row {
        name: &offered.name,
        version: &offered.version,
        description: &offered.description,
        instances: &offered.instances,
        endpoints: offered.endpoints.iter().map(endpoint_row).collect(),
        problems: &offered.problems,
        stats: offered.endpoints.iter().filter_map(told).collect(),
    }
}

fn endpoint_row(info: &EndpointInfo) -> EndpointRow<'_> {
    EndpointRow {
        name: &info.name,
        path: info.route().map(|(service, endpoint)| format!("/mesh/{service}/{endpoint}")),
        subject: &info.subject,
        effect: info.effect,
        description: &info.description,
        request_schema: &info.request_schema,
        response_schema: &info.response_schema,
        stream: info.stream,
    }
}

fn sum(counts: &[&EndpointStats]) -> StatsRow {
    let add = |sum: u64, count: u64| sum.saturating_add(count);
    let requests = counts.iter().map(|c| c.requests).fold(0, add);
    let errors = counts.iter().map(|c| c.errors).fold(0, add);
    let total_ms: f64 = counts.iter().map(|c| c.processing_ms).sum();
    #[expect(clippy::cast_precision_loss, reason = "an average needs no more digits")]
    let processing_ms_avg = (requests > 0).then(|| total_ms / requests as f64);
    StatsRow { requests, errors, processing_ms_avg }
}
