//! Roles and rights: which role may call which endpoint. Allow lists only; nats-server enforces them, from a
//! configuration rendered from what stands here.

use crate::{
    call::Effect,
    identity::{IdentityName, Role},
    subject,
};

/// One built-in endpoint and who may call it beside the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Service.
    pub service: &'static str,
    /// Endpoint.
    pub endpoint: &'static str,
    /// What it does to the lab.
    pub effect: Effect,
    /// Roles that may call it although its effect is not `read`; viewers and all above them read.
    pub also: &'static [Role],
}

const fn read(service: &'static str, endpoint: &'static str) -> Endpoint {
    Endpoint { service, endpoint, effect: Effect::Read, also: &[] }
}

const fn write(service: &'static str, endpoint: &'static str, also: &'static [Role]) -> Endpoint {
    Endpoint { service, endpoint, effect: Effect::Write, also }
}

const fn danger(service: &'static str, endpoint: &'static str, also: &'static [Role]) -> Endpoint {
    Endpoint { service, endpoint, effect: Effect::Danger, also }
}

const AGENTS: &[Role] = &[Role::Agent, Role::Operator];
const OPERATORS: &[Role] = &[Role::Operator];

/// The built-in endpoints. One that is not here is open to owner and operator, to others by grant.
pub const ENDPOINTS: &[Endpoint] = &[
    read("state", "get"),
    read("state", "diff"),
    read("state", "history"),
    write("state", "report", &[Role::Edge]),
    read("scan", "now"),
    read("scan", "status"),
    write("act", "plan", AGENTS),
    read("act", "get"),
    read("act", "list"),
    danger("act", "apply", AGENTS),
    write("act", "run", AGENTS),
    write("act", "flow", AGENTS),
    danger("act", "confirm", OPERATORS),
    write("act", "cancel", AGENTS),
    write("act", "hold", AGENTS),
    write("act", "release", AGENTS),
    danger("act", "approve", OPERATORS),
    write("act", "reject", OPERATORS),
    write("act", "freeze", OPERATORS),
    danger("act", "thaw", OPERATORS),
    write("ai", "chat", AGENTS),
    write("ai", "flow", AGENTS),
    write("ai", "embed", AGENTS),
    read("ai", "models"),
    read("ai", "route"),
    write("ai", "submit", AGENTS),
    write("ai", "result", AGENTS),
    read("ai", "jobs"),
    read("ai", "usage"),
    read("gpu", "get"),
    write("gpu", "lock", OPERATORS),
    write("gpu", "unlock", OPERATORS),
    read("audit", "list"),
    read("audit", "verify"),
    read("auth", "whoami"),
    read("auth", "list"),
];

/// Where callers speak to the streams they have asked a service for: each to its own alone.
pub const FLOW: &str = "flow";

/// Services whose endpoints are all in the table.
pub const SERVICES: &[&str] = &["state", "scan", "act", "ai", "gpu", "audit", "auth"];

/// A grant beyond the role: a whole service or one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Service.
    pub service: String,
    /// Endpoint; `None` means all of the service.
    pub endpoint: Option<String>,
}

impl Grant {
    /// Whether it opens an endpoint. Whoever may ask for a stream may speak to it.
    pub fn opens(&self, service: &str, endpoint: &str) -> bool {
        let is_opened = |one: &str| one == endpoint || endpoint == FLOW;
        self.service == service && self.endpoint.as_deref().is_none_or(is_opened)
    }

    /// The subjects of what it opens.
    fn subjects(&self, me: &IdentityName) -> Vec<String> {
        let endpoints = self.endpoint.as_deref().map_or_else(|| vec!["*"], |endpoint| vec![endpoint, FLOW]);
        endpoints.into_iter().map(|endpoint| subject::call(&self.service, endpoint, me)).collect()
    }

    /// Parses `SERVICE` or `SERVICE.ENDPOINT`.
    ///
    /// # Errors
    /// One sentence saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let word = |t: &str| {
            !t.is_empty()
                && t.len() <= 64
                && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let (service, endpoint) = match text.split_once('.') {
            Some((service, endpoint)) => (service, Some(endpoint)),
            None => (text, None),
        };
        if word(service) && endpoint.is_none_or(word) {
            return Ok(Self { service: service.to_owned(), endpoint: endpoint.map(str::to_owned) });
        }
        Err(format!("grant {text:?} is not SERVICE or SERVICE.ENDPOINT"))
    }

    /// The grant as written.
    pub fn text(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("{}.{endpoint}", self.service),
            None => self.service.clone(),
        }
    }
}

/// Whether a role, with its grants, may call an endpoint.
pub fn may_call(role: Role, grants: &[Grant], service: &str, endpoint: &str) -> bool {
    if grants.iter().any(|grant| grant.opens(service, endpoint)) {
        return role.has_own_account() && role != Role::Edge;
    }
    let known = ENDPOINTS.iter().find(|e| e.service == service && e.endpoint == endpoint);
    match (role, known) {
        (Role::Owner, _) => true,
        (Role::Service, _) => false,
        (Role::Edge, known) => known.is_some_and(|e| e.also.contains(&Role::Edge)),
        (Role::Operator, None) => !SERVICES.contains(&service),
        (Role::Viewer | Role::Agent, None) => false,
        (role, Some(e)) => e.effect == Effect::Read || e.also.contains(&role),
    }
}

/// The subjects an identity outside HOME may publish its calls to: an allow list for nats-server.
///
/// An operator also reaches services that are not built in; `known` names those that are registered.
pub fn call_subjects(role: Role, grants: &[Grant], known: &[IdentityName], me: &IdentityName) -> Vec<String> {
    if role == Role::Owner {
        return vec![subject::calls_of(me)];
    }
    let mut subjects: Vec<String> = ENDPOINTS
        .iter()
        .filter(|e| may_call(role, &[], e.service, e.endpoint))
        .map(|e| subject::call(e.service, e.endpoint, me))
        .collect();
    if role == Role::Operator {
        subjects.extend(known.iter().map(|service| subject::call(service.as_str(), "*", me)));
    }
    if role.has_own_account() && role != Role::Edge {
        subjects.extend(grants.iter().flat_map(|grant| grant.subjects(me)));
    }
    subjects.sort();
    subjects.dedup();
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_may_what_the_design_says() {
        let can = |role, what: &str| {
            let (service, endpoint) = what.split_once('.').unwrap();
            may_call(role, &[], service, endpoint)
        };
        assert!(can(Role::Viewer, "state.get") && !can(Role::Viewer, "act.plan"));
        assert!(can(Role::Agent, "act.apply") && !can(Role::Agent, "act.approve"));
        assert!(can(Role::Agent, "ai.chat") && !can(Role::Agent, "gpu.lock"));
        assert!(can(Role::Operator, "act.approve") && !can(Role::Operator, "state.report"));
        assert!(can(Role::Operator, "kettle.boil") && !can(Role::Agent, "kettle.boil"));
        assert!(can(Role::Owner, "kettle.boil") && can(Role::Owner, "act.thaw"));
        assert!(can(Role::Edge, "state.report") && !can(Role::Edge, "state.get"));
        assert!(!can(Role::Service, "state.get"));
    }

    #[test]
    fn a_grant_opens_just_what_it_names() {
        let grant = Grant::parse("kettle.boil").unwrap();
        assert!(may_call(Role::Agent, std::slice::from_ref(&grant), "kettle", "boil"));
        assert!(!may_call(Role::Agent, std::slice::from_ref(&grant), "kettle", "descale"));
        assert!(!may_call(Role::Agent, std::slice::from_ref(&grant), "toaster", FLOW));
        assert!(!may_call(Role::Edge, &[grant], "kettle", "boil"));
        for bad in ["", ".", "a.", ".b", "a.b.c", "a b", "a.*", "a.>"] {
            assert!(Grant::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_grant_of_one_endpoint_also_lets_its_caller_speak_to_what_it_asked_for() {
        let (me, grant) = (IdentityName::parse("wall").unwrap(), Grant::parse("kettle.pour").unwrap());
        let without = call_subjects(Role::Viewer, &[], &[], &me);
        let mut with = call_subjects(Role::Viewer, std::slice::from_ref(&grant), &[], &me);
        with.retain(|subject| !without.contains(subject));
        assert_eq!(with, ["nhi.kettle.flow.wall", "nhi.kettle.pour.wall"]);
        assert!(may_call(Role::Viewer, &[grant], "kettle", FLOW));
    }

    #[test]
    fn subjects_carry_only_the_own_name() {
        let me = IdentityName::parse("aider").unwrap();
        for role in [Role::Viewer, Role::Agent, Role::Operator, Role::Owner, Role::Edge] {
            for subject in call_subjects(role, &[], &[], &me) {
                assert!(subject.starts_with("nhi.") && subject.ends_with(".aider"), "{subject}");
            }
        }
    }
}
