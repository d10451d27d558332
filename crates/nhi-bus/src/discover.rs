//! Finds the services that are there: asks all at once for names (`$SRV.INFO`), and each name by itself for what it
//! offers (`$SRV.INFO.<name>`), which the server lets nobody else hear.
//!
//! What it returns is what services say about themselves: good for offering their endpoints, no ground for trust.
//! An answer that is no description is ignored and counted; one without our metadata is a service of somebody else;
//! one that is too large is cut, and says so in `problems`.
//!
//! Anybody may answer the general question with as many names as they like, so who is asked by name has an order: the
//! built-in services, those known before, every identity that is a service (it is heard under its own name alone, so
//! each has one place), and then the other names, some each round and the longest waiting first ([`Turns`]).

mod read;
mod round;
mod stats;
mod turns;

pub use self::{
    round::DiscoverError,
    stats::{EndpointStats, InstanceStats, stats},
    turns::Turns,
};

use self::{
    read::{read, read_presence},
    round::Round,
    turns::NEWCOMERS_MAX,
};
use crate::{
    call::{Timeout, call_within},
    connect::Bus,
};
use nhi_model::{
    call::{AuthList, AuthListed, Effect},
    identity::{IdentityName, Role},
    rights,
    subject::{self, Verb},
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Services listed at most: a home has a dozen.
const SERVICES_MAX: usize = 1_024;
/// Instances of one service listed at most, so that one that answers under many ids crowds out nobody.
const INSTANCES_MAX: usize = 32;
/// Claims to one name that nobody confirmed, listed at most.
const UNCONFIRMED_MAX: usize = 2;
/// How long the list of identities may take: without it there still are the names that services give.
const IDENTITIES_WITHIN: Duration = Duration::from_millis(500);

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
    /// What of its description was left out or cut, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A JSON Schema, an object, as its service wrote it: as text it takes a tenth of what it takes read. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaText(Arc<str>);

impl SchemaText {
    /// `None` when it is no JSON object.
    fn parse(text: &str) -> Option<Self> {
        let schema: Value = serde_json::from_str(text).ok()?;
        schema.is_object().then(|| Self(text.into()))
    }

    /// What it says.
    pub fn read(&self) -> Value {
        serde_json::from_str(&self.0).expect("it is only kept when it could be read")
    }
}

impl Serialize for SchemaText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.read().serialize(serializer)
    }
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
    pub request_schema: Option<SchemaText>,
    /// JSON Schema of the answer, when it gives one.
    pub response_schema: Option<SchemaText>,
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
        self.route().map(|(service, endpoint)| subject::call(service, endpoint, caller))
    }

    /// Service and endpoint as they are called, which may differ from the endpoint's name; `None` when it is not
    /// called in the mesh's way.
    pub fn route(&self) -> Option<(&str, &str)> {
        self.route.as_ref().map(|(service, endpoint)| (service.as_str(), endpoint.as_str()))
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
    /// Services that were asked by their name and neither answered nor are known to be gone.
    pub silent: BTreeSet<String>,
    /// Names and ids that somebody gave who is not heard under that name.
    pub unconfirmed: BTreeSet<(String, String)>,
}

/// One answer to the roll call. Anybody may give any, so it only tells that it is worth looking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Presence {
    /// Name of the service.
    pub name: String,
    /// The instance.
    pub id: String,
    /// Its version.
    pub version: String,
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
    survey_again(bus, wait, &BTreeSet::new(), &mut Turns::default()).await
}

/// The same; services that are known already are asked by their names, so that one that is late is told from one
/// that is gone. Names there was no time for wait in `turns` for the next survey.
///
/// # Errors
/// [`DiscoverError`]
pub async fn survey_again(
    bus: &Bus,
    wait: Duration,
    known: &BTreeSet<String>,
    turns: &mut Turns,
) -> Result<Survey, DiscoverError> {
    let mut round = Round::open(bus, Verb::Info, wait).await?;
    round.ask(None).await?;
    let mut named: Vec<String> = rights::SERVICES.iter().map(|name| (*name).to_owned()).collect();
    named.extend(known.iter().cloned());
    ask_named(&mut round, named).await?;
    ask_named(&mut round, services_by_identity(bus, IDENTITIES_WITHIN.min(wait / 2)).await).await?;
    let mut newcomers = 0;
    for name in turns.take() {
        if round.is_new(&name) {
            round.ask(Some(&name)).await?;
            newcomers += 1;
        }
    }
    let (mut services, mut ignored) = (BTreeMap::new(), 0);
    let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut instances: BTreeMap<String, usize> = BTreeMap::new();
    while services.len() < SERVICES_MAX {
        let Some((asked, payload)) = round.next().await? else { break };
        match (read(&payload), asked) {
            (Some(info), Some(name)) if info.name == name => {
                let count = instances.entry(name).or_default();
                *count += 1;
                if *count <= INSTANCES_MAX {
                    drop(services.insert((info.name.clone(), info.id.clone()), info));
                }
            }
            (Some(info), None) => {
                if round.is_new(&info.name) && newcomers < NEWCOMERS_MAX {
                    round.ask(Some(&info.name)).await?;
                    newcomers += 1;
                } else if round.is_new(&info.name) {
                    turns.wait(&info.name);
                }
                // Said to the general question it is a name to ask for, and nothing else.
                if claims.len() < SERVICES_MAX {
                    let ids = claims.entry(info.name).or_default();
                    if ids.len() < INSTANCES_MAX {
                        ids.insert(info.id);
                    }
                }
            }
            (Some(_) | None, _) => ignored += 1,
        }
    }
    if ignored > 0 {
        tracing::debug!("some answers to discovery describe no service");
    }
    let silent = round.silent();
    let unconfirmed = unconfirmed(claims, |name| silent.contains(name) || !round.was_asked(name), &services);
    Ok(Survey { services: services.into_values().collect(), ignored, silent, unconfirmed })
}

/// Asks those that nobody can invent. There is room for newcomers after them.
async fn ask_named(round: &mut Round<'_>, names: Vec<String>) -> Result<(), DiscoverError> {
    for name in names {
        if round.questions() + NEWCOMERS_MAX < round::QUESTIONS_MAX && round.is_new(&name) {
            round.ask(Some(&name)).await?;
        }
    }
    Ok(())
}

/// The identities that are services, each of which answers under its own name and no other; none when nobody tells.
async fn services_by_identity(bus: &Bus, within: Duration) -> Vec<String> {
    let listed: Result<AuthListed, _> =
        call_within(bus, "auth", "list", &AuthList {}, Timeout::of(within)).await;
    let identities = listed.map(|listed| listed.identities).unwrap_or_else(|error| {
        tracing::debug!(err = %error, "identities are not known");
        Vec::new()
    });
    let services = identities.into_iter().filter(|identity| identity.role == Some(Role::Service));
    services.map(|identity| identity.name.to_string()).collect()
}

/// Claims to names that were asked for, made by others than who answers under them.
fn unconfirmed(
    claims: BTreeMap<String, BTreeSet<String>>,
    is_open: impl Fn(&str) -> bool,
    services: &BTreeMap<(String, String), ServiceInfo>,
) -> BTreeSet<(String, String)> {
    let mut unconfirmed = BTreeSet::new();
    for (name, ids) in claims.into_iter().filter(|(name, _)| !is_open(name)) {
        let others =
            ids.into_iter().map(|id| (name.clone(), id)).filter(|claim| !services.contains_key(claim));
        unconfirmed.extend(others.take(UNCONFIRMED_MAX));
    }
    unconfirmed
}

/// Who says `$SRV.PING` back: small answers that show whether a survey would find something else than the one before.
///
/// # Errors
/// [`DiscoverError`]
pub async fn roll_call(bus: &Bus, wait: Duration) -> Result<BTreeSet<Presence>, DiscoverError> {
    let mut round = Round::open(bus, Verb::Ping, wait).await?;
    round.ask(None).await?;
    let mut present = BTreeSet::new();
    while present.len() < SERVICES_MAX {
        let Some((_, payload)) = round.next().await? else { break };
        present.extend(read_presence(&payload));
    }
    Ok(present)
}
