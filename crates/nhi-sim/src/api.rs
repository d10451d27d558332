//! The API as calls and answers: finds the method, asks who may, checks parameters, runs it. It knows no
//! sockets; the transport's own rules are in [`crate::server`].

mod access;
mod agent;
mod backup;
mod build;
mod cluster;
mod config;
mod guest;
mod ha;
mod migrate;
mod node;
mod pool;
mod power;
mod resources;
pub(crate) mod route;
mod schema;
mod snapshot;
mod storage;
mod task;

use crate::lab::{
    Lab, PveVersion,
    guest::{Guest, Kind},
    login::{Credentials, Who},
};
use route::{Check, Route};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Parameters as the transport read them; a repeated form key is an array.
pub type Params = BTreeMap<String, Value>;

/// A request after the transport.
#[derive(Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, `PUT`, `DELETE`.
    pub method: &'a str,
    /// The decoded path below `/api2/json`.
    pub path: &'a str,
    /// Parameters of query and body.
    pub params: Params,
    /// Who it says it is.
    pub credentials: &'a Credentials,
    /// The node that was asked.
    pub via: &'a str,
}

/// An answer before the transport.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status, 595 and its like included.
    pub status: u16,
    /// Reason phrase; empty for the usual one.
    pub reason: String,
    /// The JSON body; `None` is an empty body without a type.
    pub body: Option<Value>,
    /// How long it takes besides the usual.
    pub delay_ms: u64,
    /// It is a failed login, which the transport delays.
    pub is_refused_login: bool,
    /// The method that answered: its path with the braces.
    pub route: Option<&'static str>,
    /// The guest in the path.
    pub vmid: Option<u32>,
}

/// What a method gives.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) data: Value,
    pub(crate) total: Option<u64>,
    pub(crate) delay_ms: u64,
}

impl From<Value> for Reply {
    fn from(data: Value) -> Self {
        Self { data, total: None, delay_ms: 0 }
    }
}

pub(crate) type Outcome = Result<Reply, ApiError>;

/// Why a method refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) errors: BTreeMap<String, String>,
    pub(crate) delay_ms: u64,
}

impl ApiError {
    /// PVE's `die`: everything that is not a parameter or a right is a 500.
    pub(crate) fn die(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into(), errors: BTreeMap::new(), delay_ms: 0 }
    }

    pub(crate) fn status(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: BTreeMap::new(), delay_ms: 0 }
    }

    pub(crate) fn parameters(errors: BTreeMap<String, String>) -> Self {
        Self { status: 400, message: "Parameter verification failed.".to_owned(), errors, delay_ms: 0 }
    }

    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self::parameters(BTreeMap::from([(name.to_owned(), message.into())]))
    }

    pub(crate) fn permission(path: &str, privileges: &[&str]) -> Self {
        Self::status(403, format!("Permission check failed ({path}, {})", privileges.join("|")))
    }

    pub(crate) fn permission_bare() -> Self {
        Self::status(403, "Permission check failed")
    }
}

impl From<String> for ApiError {
    fn from(message: String) -> Self {
        Self::die(message)
    }
}

/// A call that found its method.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) who: Who,
    pub(crate) via: &'a str,
    pub(crate) vars: BTreeMap<&'static str, String>,
    pub(crate) params: Params,
}

impl Call<'_> {
    /// A part of the path.
    pub(crate) fn var(&self, name: &str) -> &str {
        self.vars.get(name).map_or("", String::as_str)
    }

    /// The node in the path; `localhost` is the one that was asked.
    pub(crate) fn node(&self) -> &str {
        match self.var("node") {
            "localhost" => self.via,
            name => name,
        }
    }

    /// The guest in the path.
    pub(crate) fn vmid(&self) -> u32 {
        self.var("vmid").parse().unwrap_or(0)
    }

    /// A parameter as text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name).and_then(Value::as_str)
    }

    /// A boolean parameter; absent is false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(schema::is_true)
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A comma-separated list, or a repeated key.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let split = |text: &str| -> Vec<String> {
            text.split([',', ';', ' ']).filter(|one| !one.is_empty()).map(str::to_owned).collect()
        };
        match self.params.get(name) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).flat_map(split).collect(),
            Some(Value::String(text)) => split(text),
            _ => Vec::new(),
        }
    }
}

impl Lab {
    /// Answers a request. Time has to be advanced before.
    pub fn serve(&mut self, request: Request<'_>) -> Answer {
        let writes = request.method != "GET";
        let found = route::find(request.method, request.path);
        let is_open = found.as_ref().is_some_and(|(route, _)| matches!(route.check, Check::World));
        let who = match self.authenticate(request.credentials, writes) {
            Ok(who) => who,
            Err(_) if is_open => Who { id: String::new() },
            Err(reason) => {
                return Answer {
                    status: 401,
                    reason,
                    body: None,
                    delay_ms: 0,
                    is_refused_login: true,
                    route: found.map(|(route, _)| route.path),
                    vmid: None,
                };
            }
        };
        let Some((route, vars)) = found else {
            let message = format!("Method '{} {}' not implemented", request.method, request.path);
            return self.failure(&ApiError::status(501, message), None, None);
        };
        let vmid = vars.get("vmid").and_then(|text| text.parse().ok());
        let call = Call { who, via: request.via, vars, params: request.params };
        match self.run(route, call) {
            Ok(reply) => {
                let mut body = Map::from_iter([("data".to_owned(), reply.data)]);
                if let Some(total) = reply.total {
                    body.insert("total".to_owned(), json!(total));
                }
                Answer {
                    status: 200,
                    reason: String::new(),
                    body: Some(Value::Object(body)),
                    delay_ms: reply.delay_ms,
                    is_refused_login: false,
                    route: Some(route.path),
                    vmid,
                }
            }
            Err(error) => self.failure(&error, Some(route.path), vmid),
        }
    }

    fn run(&mut self, route: &'static Route, mut call: Call<'_>) -> Outcome {
        if call.who.is_token() && !route.takes_tokens {
            let message = format!(
                "Permission check failed (URI '{}' not available with API token, need proper ticket.)",
                route.path
            );
            return Err(ApiError::status(403, message));
        }
        self.check_rights(route, &call)?;
        if route.is_proxied {
            let node = call.node().to_owned();
            if !self.nodes.contains_key(&node) {
                return Err(ApiError::die(format!(
                    "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
                )));
            }
            if node != call.via
                && let Some(code) = self.unreachable_code(&node)
            {
                return Err(ApiError::status(code, unreachable_reason(code)));
            }
        }
        schema::check(route, &call.vars, &mut call.params)?;
        if route.method != "GET" && route.needs_quorum && !self.is_quorate() {
            return Err(ApiError::die("cluster not ready - no quorum?"));
        }
        (route.run)(self, &call)
    }

    fn failure(&self, error: &ApiError, route: Option<&'static str>, vmid: Option<u32>) -> Answer {
        let mut body = Map::from_iter([("data".to_owned(), Value::Null)]);
        if !error.errors.is_empty() {
            body.insert("errors".to_owned(), json!(error.errors));
        }
        if self.version >= PveVersion::V9_1 {
            body.insert("message".to_owned(), json!(format!("{}\n", error.message)));
        }
        Answer {
            status: error.status,
            reason: error.message.clone(),
            // What AnyEvent could not fetch has no body.
            body: (error.status < 595).then_some(Value::Object(body)),
            delay_ms: error.delay_ms,
            is_refused_login: error.status == 401,
            route,
            vmid,
        }
    }

    fn check_rights(&self, route: &Route, call: &Call<'_>) -> Result<(), ApiError> {
        let fill = |template: &str| -> String {
            template
                .split('/')
                .map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                    Some("node") => call.node().to_owned(),
                    Some(name) => call
                        .vars
                        .get(name)
                        .cloned()
                        .or_else(|| call.text(name).map(str::to_owned))
                        .unwrap_or_default(),
                    None => part.to_owned(),
                })
                .collect::<Vec<_>>()
                .join("/")
        };
        match &route.check {
            Check::World | Check::Anyone => Ok(()),
            Check::All(path, privileges) => {
                let path = fill(path);
                let missing = privileges.iter().find(|name| !self.may(&call.who.id, &path, &[name]));
                missing.map_or(Ok(()), |name| Err(ApiError::permission(&path, &[name])))
            }
            Check::AnyOf(path, privileges) => self.require_any(&call.who, &fill(path), privileges),
        }
    }

    /// One of these privileges, or 403.
    pub(crate) fn require_any(&self, who: &Who, path: &str, any_of: &[&str]) -> Result<(), ApiError> {
        if self.may(&who.id, path, any_of) { Ok(()) } else { Err(ApiError::permission(path, any_of)) }
    }

    /// The guest whose configuration file is on this node.
    pub(crate) fn guest_at(&self, node: &str, kind: Kind, vmid: u32) -> Result<&Guest, ApiError> {
        self.guests.get(&vmid).filter(|guest| guest.node == node && guest.kind == kind).ok_or_else(|| {
            let folder = kind.folder();
            ApiError::die(format!("Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist"))
        })
    }
}

fn unreachable_reason(code: u16) -> &'static str {
    match code {
        595 => "No route to host",
        596 => "Connection timed out",
        597 => "Broken pipe",
        _ => "Too many redirections",
    }
}
