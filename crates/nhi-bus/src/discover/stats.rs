//! How services that are known have fared, as they say themselves (`$SRV.STATS.<name>`). It adds nothing up.

use super::round::{DiscoverError, Round};
use crate::{connect::Bus, service::is_name};
use nhi_model::{rights, subject::Verb};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Endpoints of one instance read at most.
const ENDPOINTS_MAX: usize = 512;
/// Instances read at most.
const INSTANCES_MAX: usize = 1_024;

/// The counts of one instance since it started.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStats {
    /// Name of the service.
    pub name: String,
    /// The instance.
    pub id: String,
    /// By endpoint.
    pub endpoints: BTreeMap<String, EndpointStats>,
}

/// The counts of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EndpointStats {
    /// Requests it answered.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// How long all of them took, milliseconds.
    pub processing_ms: f64,
}

#[derive(Deserialize)]
struct Answer {
    name: String,
    id: String,
    #[serde(default)]
    endpoints: Option<Vec<AnswerEndpoint>>,
}

#[derive(Deserialize)]
struct AnswerEndpoint {
    name: String,
    #[serde(default)]
    num_requests: u64,
    #[serde(default)]
    num_errors: u64,
    /// Nanoseconds.
    #[serde(default)]
    processing_time: u64,
}

/// What these services say of themselves within `wait`.
///
/// # Errors
/// [`DiscoverError`]
pub async fn stats(
    bus: &Bus,
    services: &BTreeSet<String>,
    wait: Duration,
) -> Result<Vec<InstanceStats>, DiscoverError> {
    let mut round = Round::open(bus, Verb::Stats, wait).await?;
    // One question is always asked, so that who may not ask is told so.
    for service in services.iter().map(String::as_str).chain(rights::SERVICES.first().copied()) {
        if is_name(service) && round.is_new(service) {
            round.ask(Some(service)).await?;
        }
    }
    let mut found = BTreeMap::new();
    while found.len() < INSTANCES_MAX {
        let Some((asked, payload)) = round.next().await? else { break };
        if let Some(stats) = read(&payload).filter(|stats| asked.as_deref() == Some(&stats.name)) {
            found.insert((stats.name.clone(), stats.id.clone()), stats);
        }
    }
    Ok(found.into_values().collect())
}

fn read(payload: &[u8]) -> Option<InstanceStats> {
    let answer: Answer = serde_json::from_slice(payload).ok()?;
    let endpoints = answer.endpoints.unwrap_or_default().into_iter().take(ENDPOINTS_MAX);
    let endpoints = endpoints.filter(|endpoint| is_name(&endpoint.name)).map(|endpoint| {
        let AnswerEndpoint { name, num_requests, num_errors, processing_time } = endpoint;
        let processing_ms = Duration::from_nanos(processing_time).as_secs_f64() * 1_000.0;
        (name, EndpointStats { requests: num_requests, errors: num_errors, processing_ms })
    });
    Some(InstanceStats { endpoints: endpoints.collect(), name: answer.name, id: answer.id })
}
