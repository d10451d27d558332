//! Finds the services that are there: asks all at once for names (`$SRV.INFO`), and each name by itself for what it
//! offers (`$SRV.INFO.<name>`), which the server lets nobody else hear.
//!
//! What it returns is what services say about themselves: good for offering their endpoints, no ground for trust.
//! An answer that is no description is ignored and counted; one without our metadata is a service of somebody else.

use crate::{
    connect::{Bus, PublishError},
    service::is_name,
};
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use nhi_model::{
    call::Effect,
    identity::IdentityName,
    rights,
    subject::{self, Verb},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// Answers come together; when none has come for this long, the rest is not coming.
const QUIET_MS: u64 = 150;
/// Services listed at most: a home has a dozen.
const SERVICES_MAX: usize = 1_024;
/// Services asked by name at most: more than a mesh has identities.
const QUESTIONS_MAX: usize = 300;
/// Endpoints of one service listed at most.
const ENDPOINTS_MAX: usize = 512;

/// A service that answered, one of perhaps several instances.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// The instance.
    pub id: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// What it offers, by name.
    pub endpoints: Vec<EndpointInfo>,
}

/// One endpoint of a service that answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointInfo {
    /// Its name.
    pub name: String,
    /// What it listens on; the last token of ours is `*`.
    pub subject: String,
    /// What it does to the lab; `danger` when it does not say.
    pub effect: Effect,
    /// What it is for.
    pub description: String,
    /// JSON Schema of the request, when it gives one.
    pub request_schema: Option<Value>,
    /// JSON Schema of the answer, when it gives one.
    pub response_schema: Option<Value>,
    /// Whether it may answer in frames.
    pub stream: bool,
    /// Service and endpoint to call, when it is called in the mesh's way.
    #[serde(skip)]
    route: Option<(String, String)>,
}

impl EndpointInfo {
    /// The subject `caller` publishes to; `None` when the endpoint is not called in the mesh's way.
    ///
    /// Only a subject of the service's own name counts: one that describes itself with another's would have its
    /// callers call that other with their rights.
    pub fn subject_for(&self, caller: &IdentityName) -> Option<String> {
        self.route.as_ref().map(|(service, endpoint)| subject::call(service, endpoint, caller))
    }
}

impl ServiceInfo {
    /// An endpoint by its name.
    pub fn endpoint(&self, name: &str) -> Option<&EndpointInfo> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

/// All that came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Services by name and instance.
    pub services: Vec<ServiceInfo>,
    /// Answers that were no description of a service.
    pub ignored: u32,
}

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The link is down.
    #[error("ask for services: the mesh is not connected; try again when it is")]
    Disconnected,
    /// The identity may not ask.
    #[error("ask for services: the server refuses it to this identity; machines of the edge only report")]
    Refused,
}

/// The services that answer within `wait`; returns earlier when no more answers come.
///
/// # Errors
/// [`DiscoverError`]; that nobody answers is an empty list.
pub async fn discover(bus: &Bus, wait: Duration) -> Result<Vec<ServiceInfo>, DiscoverError> {
    survey(bus, wait).await.map(|survey| survey.services)
}

/// The same, with the number of answers that were not understood.
///
/// # Errors
/// [`DiscoverError`]
pub async fn survey(bus: &Bus, wait: Duration) -> Result<Survey, DiscoverError> {
    if !bus.is_up() {
        return Err(DiscoverError::Disconnected);
    }
    let mut losses = bus.losses();
    let mut refused = Box::pin(bus.refused(&Verb::Info.subject()));
    let prefix = subject::inbox(bus.me(), Uuid::new_v4().simple());
    let listening = bus.client().subscribe(format!("{prefix}.*")).await;
    let mut answers = listening.map_err(|_| DiscoverError::Disconnected)?;
    let mut questions = Questions { prefix, asked: BTreeMap::new(), open: BTreeSet::new() };
    questions.ask(bus, None).await?;
    for service in rights::SERVICES {
        questions.ask(bus, Some(service)).await?;
    }
    let deadline = Instant::now() + wait;
    let mut until = deadline;
    let (mut services, mut ignored) = (BTreeMap::new(), 0);
    while services.len() < SERVICES_MAX {
        let answer = tokio::select! {
            biased;
            answer = timeout_at(until, answers.next()) => answer,
            () = &mut refused => return Err(DiscoverError::Refused),
            _ = losses.changed() => return Err(DiscoverError::Disconnected),
        };
        let Ok(Some(message)) = answer else { break };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            questions.open.remove(message.subject.as_str());
            if questions.open.is_empty() {
                break;
            }
            continue;
        }
        match (read(&message.payload), questions.asked.get(message.subject.as_str())) {
            (Some(info), Some(Some(name))) if info.name == *name => {
                drop(services.insert((info.name.clone(), info.id.clone()), info));
            }
            (Some(info), Some(None)) if questions.is_new(&info.name) => {
                questions.ask(bus, Some(&info.name)).await?;
            }
            // Said again to the general question, or in the name of one that is asked by itself.
            (Some(_), Some(None)) => {}
            (Some(_) | None, _) => ignored += 1,
        }
        until = deadline.min(Instant::now() + Duration::from_millis(QUIET_MS));
    }
    if ignored > 0 {
        tracing::debug!("some answers to discovery describe no service");
    }
    Ok(Survey { services: services.into_values().collect(), ignored })
}

/// The questions of one survey. Each has a reply subject of its own that cannot be guessed: who answers one cannot
/// answer another.
struct Questions {
    prefix: String,
    /// By reply subject: the service that was asked, nothing for all.
    asked: BTreeMap<String, Option<String>>,
    /// Those of them that somebody may still answer.
    open: BTreeSet<String>,
}

impl Questions {
    /// Asks one service by its name, or all. Only the service itself hears what is asked by its name, so only that
    /// answer is believed; from the answers of all, just the names are taken.
    async fn ask(&mut self, bus: &Bus, name: Option<&str>) -> Result<(), DiscoverError> {
        let all = Verb::Info.subject();
        let question = name.map_or_else(|| all.clone(), |name| format!("{all}.{name}"));
        let reply = format!("{}.{}", self.prefix, Uuid::new_v4().simple());
        let sent = bus.send(&question, Some(&reply), HeaderMap::new(), Bytes::new()).await;
        sent.map_err(|error| match error {
            PublishError::Disconnected { .. }
            | PublishError::TooLarge { .. }
            | PublishError::BadSubject { .. } => DiscoverError::Disconnected,
        })?;
        self.open.insert(reply.clone());
        self.asked.insert(reply, name.map(str::to_owned));
        Ok(())
    }

    fn is_new(&self, name: &str) -> bool {
        self.asked.len() < QUESTIONS_MAX && !self.asked.values().flatten().any(|asked| asked == name)
    }
}

/// The answer to INFO as it may come from any implementation of ADR-32.
#[derive(Deserialize)]
struct Answer {
    name: String,
    id: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<AnswerEndpoint>>,
}

#[derive(Deserialize)]
struct AnswerEndpoint {
    name: String,
    subject: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, Value>>,
}

fn read(payload: &[u8]) -> Option<ServiceInfo> {
    let answer: Answer = serde_json::from_slice(payload).ok()?;
    if !is_name(&answer.name) || !is_name(&answer.id) {
        return None;
    }
    let offered = answer.endpoints.unwrap_or_default().into_iter().take(ENDPOINTS_MAX);
    let mut endpoints: Vec<EndpointInfo> =
        offered.filter_map(|endpoint| read_endpoint(&answer.name, endpoint)).collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    endpoints.dedup_by(|a, b| a.name == b.name);
    Some(ServiceInfo {
        name: answer.name,
        id: answer.id,
        version: answer.version.unwrap_or_default(),
        description: answer.description.unwrap_or_default(),
        endpoints,
    })
}

fn read_endpoint(service: &str, endpoint: AnswerEndpoint) -> Option<EndpointInfo> {
    if !is_name(&endpoint.name) {
        return None;
    }
    let metadata = endpoint.metadata.unwrap_or_default();
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let schema =
        |name: &str| text(name).and_then(|text| serde_json::from_str(text).ok()).filter(Value::is_object);
    let stated = text("effect").and_then(|word| serde_json::from_value(Value::from(word)).ok());
    // What a built-in endpoint does is known; a forged description must not make it look harmless.
    let known = rights::ENDPOINTS.iter().find(|e| e.service == service && e.endpoint == endpoint.name);
    Some(EndpointInfo {
        effect: known.map(|e| e.effect).or(stated).unwrap_or(Effect::Danger),
        description: text("description").unwrap_or_default().to_owned(),
        request_schema: schema("request_schema"),
        response_schema: schema("response_schema"),
        stream: text("stream") == Some("true"),
        route: own_endpoint(service, &endpoint.subject).map(|own| (service.to_owned(), own)),
        name: endpoint.name,
        subject: endpoint.subject,
    })
}

/// The endpoint in `nhi.<service>.<endpoint>.*`; `None` for any other subject.
fn own_endpoint(service: &str, subject: &str) -> Option<String> {
    let name = subject.split('.').nth(2).filter(|name| is_name(name))?;
    (subject == subject::endpoint(service, name)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(answer: &Value) -> Option<ServiceInfo> {
        read(answer.to_string().as_bytes())
    }

    #[test]
    fn a_foreign_service_without_our_metadata_is_tolerated() {
        let info = check(&json!({
            "type": "io.nats.micro.v1.info_response", "name": "kettle", "id": "A1", "version": "1.0.0",
            "metadata": null, "unknown": 1,
            "endpoints": [
                {"name": "boil", "subject": "nhi.kettle.boil.*", "queue_group": "q", "metadata": null},
                {"name": "old", "subject": "kettle.old"},
            ],
        }))
        .unwrap();
        let me = IdentityName::parse("aider").unwrap();
        let boil = info.endpoint("boil").unwrap();
        assert_eq!((boil.effect, boil.stream, &boil.request_schema), (Effect::Danger, false, &None));
        assert_eq!(boil.subject_for(&me).as_deref(), Some("nhi.kettle.boil.aider"));
        assert_eq!(info.endpoint("old").unwrap().subject_for(&me), None);
    }

    #[test]
    fn a_service_cannot_borrow_the_rights_of_its_callers() {
        for subject in
            ["nhi.act.approve.*", "nhi.*.approve.*", "nhi.kettle.*", "nhi.kettle.a.b.*", "nhi.kettle.>", "*"]
        {
            let info = check(&json!({
                "name": "kettle", "id": "A1", "endpoints": [{"name": "boil", "subject": subject}],
            }))
            .unwrap();
            let me = IdentityName::parse("owner").unwrap();
            assert_eq!(info.endpoints[0].subject_for(&me), None, "{subject}");
        }
        let forged = check(&json!({
            "name": "act", "id": "A1",
            "endpoints": [{"name": "apply", "subject": "nhi.act.apply.*", "metadata": {"effect": "read"}}],
        }))
        .unwrap();
        assert_eq!(forged.endpoints[0].effect, Effect::Danger);
    }

    #[test]
    fn garbage_is_no_service() {
        for bad in [
            json!(null),
            json!([]),
            json!({"name": "a"}),
            json!({"name": "a b", "id": "x"}),
            json!({"name": "a", "id": ""}),
        ] {
            assert!(check(&bad).is_none(), "{bad}");
        }
        let odd = check(&json!({
            "name": "a", "id": "x",
            "endpoints": [{"name": "e", "subject": "nhi.a.e.*", "metadata": {"effect": 7, "request_schema": "{", "stream": true}}],
        }))
        .unwrap();
        assert_eq!((odd.endpoints[0].effect, &odd.endpoints[0].request_schema), (Effect::Danger, &None));
    }
}
