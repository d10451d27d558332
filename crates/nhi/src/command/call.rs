//! `nhi call`: any endpoint of any service, from discovery. No service is known here by name.

use crate::{
    cli::Call,
    exit::{Ending, Exit, Failure},
    mesh::{Mesh, call_failure, discover_failure},
    out,
};
use anyhow::Context;
use nhi_bus::{
    call::{self, Call as RemoteCall, Frame, Timeout},
    discover::{DiscoverError, EndpointInfo, SchemaText, ServiceInfo, discover},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{self, Read},
    time::Duration,
};

/// How long discovery listens for services; local ones answer within a few milliseconds.
const DISCOVERY: Duration = Duration::from_millis(800);

/// Runs `nhi call`.
///
/// # Errors
/// [`Exit::NotFound`] when discovery does not show the endpoint, else the call's failure.
pub(crate) async fn run(mesh: &Mesh, command: Call, as_json: bool) -> Result<(), Failure> {
    let services =
        match (discover(&mesh.bus, DISCOVERY).await, command.service.as_ref(), command.endpoint.as_ref()) {
            // A machine of the edge may call what it may call, and ask for nothing else.
            (Err(DiscoverError::Refused), Some(service), Some(endpoint)) => {
                return plain(mesh, service, endpoint, command.request, command.timeout).await;
            }
            (services, _, _) => services.map_err(discover_failure)?,
        };
    let Some(service) = command.service else {
        list(&services, as_json);
        return Ok(());
    };
    let found: Vec<&ServiceInfo> = services.iter().filter(|s| s.name == service).collect();
    if found.is_empty() {
        return Err(unknown("service", &service, services.iter().map(|s| s.name.as_str())));
    }
    let endpoints: BTreeMap<&str, &EndpointInfo> =
        found.iter().flat_map(|s| &s.endpoints).map(|e| (e.name.as_str(), e)).collect();
    let Some(endpoint) = command.endpoint else {
        describe(&service, &endpoints, as_json);
        return Ok(());
    };
    let Some(info) = endpoints.get(endpoint.as_str()) else {
        return Err(unknown("endpoint", &endpoint, endpoints.keys().copied()));
    };
    let body = request_body(command.request)?;
    let timeout = Timeout::of(Duration::from_secs(command.timeout));
    let asked =
        RemoteCall::new(&mesh.bus, &service, &endpoint, body.into()).map_err(call_failure)?.timeout(timeout);
    if info.stream {
        return stream(mesh, asked, as_json).await;
    }
    show(&asked.send(&mesh.bus).await.map_err(call_failure)?);
    Ok(())
}

/// A call of an endpoint that nobody described.
async fn plain(
    mesh: &Mesh,
    service: &str,
    endpoint: &str,
    request: Option<String>,
    seconds: u64,
) -> Result<(), Failure> {
    let body = request_body(request)?;
    let asked = RemoteCall::new(&mesh.bus, service, endpoint, body.into())
        .map_err(call_failure)?
        .timeout(Timeout::of(Duration::from_secs(seconds)));
    show(&asked.send(&mesh.bus).await.map_err(call_failure)?);
    Ok(())
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    let sentence = if known.is_empty() {
        format!("no service answers discovery, so there is no {what} {name:?}: look at `nhi status`")
    } else {
        format!("discovery shows no {what} {name:?}; it shows {}", known.join(", "))
    };
    Failure::new(Exit::NotFound, out::safe(&sentence))
}

fn request_body(text: Option<String>) -> Result<Vec<u8>, Failure> {
    let text = match text.as_deref() {
        None => "{}".to_owned(),
        Some("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("read the request").ending(Exit::Usage)?;
            text
        }
        Some(text) => text.to_owned(),
    };
    let _: Value = serde_json::from_str(&text).context("the request is not JSON").ending(Exit::Usage)?;
    Ok(text.into_bytes())
}

/// The answer as JSON when it is, else as text; false when nobody reads any more.
fn show(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => out::told(&format!("{value:#}")),
        Err(_) => out::told(&String::from_utf8_lossy(bytes)),
    }
}

/// Frames as they come: for programs a line each.
async fn stream(mesh: &Mesh, asked: RemoteCall, as_json: bool) -> Result<(), Failure> {
    let line = |bytes: &[u8]| match serde_json::from_slice::<Value>(bytes) {
        Ok(value) if as_json => out::told(&value.to_string()),
        Ok(_) | Err(_) => show(bytes),
    };
    let mut frames = call::stream(&mesh.bus, asked).await.map_err(call_failure)?;
    while let Some(frame) = frames.next().await {
        match frame.map_err(call_failure)? {
            Frame::Part(bytes) | Frame::Whole(bytes) if !line(&bytes) => break,
            Frame::Part(_) | Frame::Whole(_) => {}
        }
    }
    Ok(())
}

fn list(services: &[ServiceInfo], as_json: bool) {
    if as_json {
        return out::json(&services);
    }
    if services.is_empty() {
        return out::note("no service answers discovery: look at `nhi status`");
    }
    let mut rows: BTreeMap<(String, String), [String; 4]> = BTreeMap::new();
    for service in services {
        for endpoint in &service.endpoints {
            rows.insert(
                (service.name.clone(), endpoint.name.clone()),
                [
                    service.name.clone(),
                    endpoint.name.clone(),
                    endpoint.effect.as_str().to_owned(),
                    endpoint.description.clone(),
                ],
            );
        }
    }
    out::table(["SERVICE", "ENDPOINT", "EFFECT", "DESCRIPTION"], rows.into_values());
}

fn describe(service: &str, endpoints: &BTreeMap<&str, &EndpointInfo>, as_json: bool) {
    if as_json {
        return out::json(&endpoints.values().collect::<Vec<_>>());
    }
    for (name, endpoint) in endpoints {
        out::line(&format!(
            "{service} {name}  [{}]  {}",
            endpoint.effect.as_str(),
            out::safe(&endpoint.description)
        ));
        let schema = endpoint.request_schema.as_ref().map(SchemaText::read);
        for field in fields(schema.as_ref()) {
            out::line(&format!("    {field}"));
        }
    }
}

/// The request's fields in a line each, from its schema.
fn fields(schema: Option<&Value>) -> Vec<String> {
    let Some(properties) = schema.and_then(|s| s.get("properties")).and_then(Value::as_object) else {
        return Vec::new();
    };
    let required: Vec<&str> = schema
        .and_then(|s| s.get("required"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let field = |(name, schema): (&String, &Value)| {
        let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let mark = if required.contains(&name.as_str()) { "" } else { "?" };
        out::safe(&format!("{name}{mark}  {text}"))
    };
    properties.iter().map(field).collect()
}
