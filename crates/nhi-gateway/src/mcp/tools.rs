//! The tools there are for somebody: built-in endpoints in groups, all others each by itself, as discovery shows them and
//! the caller's rights allow. It calls nobody; that a tool is listed gives no right, and nats-server judges each call.

use super::{
    check,
    groups::{self, GROUPS, Group, Way},
    schema::{self, Object},
};
use crate::catalog::Offered;
use nhi_bus::discover::EndpointInfo;
use nhi_model::{
    call::{Effect, IdentityInfo},
    identity::Role,
    rights::{self, Grant},
};
use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// The field that says which endpoint of a group is meant.
pub(crate) const ACTION: &str = "action";
/// Longest name of a tool: what the model providers allow.
const NAME_CHARS_MAX: usize = 64;
/// Longest description of somebody else's endpoint, characters. It is read by models: no room for a speech.
const DESCRIPTION_CHARS_MAX: usize = 240;
/// Tools listed at most: no client shows more to its model.
const TOOLS_MAX: usize = 256;

/// What a caller may do, as far as the list goes.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    /// Absent for the mesh's own identities, which may call everything inside HOME.
    role: Option<Role>,
    grants: Vec<Grant>,
}

impl Rights {
    pub(crate) fn of(info: &IdentityInfo) -> Self {
        let grants = info.grants.iter().filter_map(|text| Grant::parse(text).ok()).collect();
        Self { role: info.role, grants }
    }

    /// Those of whoever may do everything: for finding out what a name means, whoever says it.
    pub(crate) const fn all() -> Self {
        Self { role: None, grants: Vec::new() }
    }

    pub(crate) fn may(&self, service: &str, endpoint: &str) -> bool {
        self.role.is_none_or(|role| rights::may_call(role, &self.grants, service, endpoint))
    }
}

/// One endpoint behind a tool.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) service: String,
    pub(crate) endpoint: String,
    pub(crate) request: Option<Value>,
    pub(crate) streams: bool,
    effect: Effect,
    response: Option<Value>,
}

/// One tool and what is behind it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) tool: Tool,
    pub(crate) way: Way,
    /// Not empty.
    pub(crate) members: Vec<Member>,
    /// Whether the arguments say which of the members is meant.
    pub(crate) chooses: bool,
    /// Whether the request is what the field `body` holds.
    pub(crate) wrapped: bool,
}

/// All tools of somebody with these rights, in a stable order.
pub(crate) fn offers(services: &[Offered], rights: &Rights) -> Vec<Offer> {
    let known = newest(services);
    let open: BTreeMap<(&str, &str), Member> = known
        .into_iter()
        .filter(|((service, endpoint), _)| {
            !groups::is_never(service, endpoint) && rights.may(service, endpoint)
        })
        .collect();
    let mut taken: BTreeSet<String> = GROUPS.iter().map(|group| group.tool.to_owned()).collect();
    let mut offers: Vec<Offer> = GROUPS.iter().filter_map(|group| grouped(group, &open)).collect();
    let single = open.iter().filter(|((service, endpoint), _)| !groups::is_grouped(service, endpoint));
    // Built-in ones first: nobody else takes their names.
    let (own, others): (Vec<_>, Vec<_>) =
        single.partition(|((service, _), _)| rights::SERVICES.contains(service));
    for (_, member) in own.into_iter().chain(others) {
        let name = [
            format!("{}_{}", member.service, member.endpoint),
            format!("{}__{}", member.service, member.endpoint),
        ];
        let name = name.map(short).into_iter().find(|name| !taken.contains(name));
        if let Some(name) = name.filter(|_| offers.len() < TOOLS_MAX) {
            taken.insert(name.clone());
            offers.push(alone(name, member.clone(), services));
        }
    }
    offers
}

/// The endpoints by the names they are called by, each of the newest version that has it.
fn newest(services: &[Offered]) -> BTreeMap<(&str, &str), Member> {
    let mut known = BTreeMap::new();
    // Versions of one service stand in order, the newest last.
    for info in services.iter().flat_map(|offered| &offered.endpoints) {
        if let Some((service, endpoint)) = info.route() {
            known.insert((service, endpoint), member(service, endpoint, info));
        }
    }
    known
}

fn member(service: &str, endpoint: &str, info: &EndpointInfo) -> Member {
    Member {
        service: service.to_owned(),
        endpoint: endpoint.to_owned(),
        request: info.request_schema.clone(),
        response: info.response_schema.clone(),
        effect: info.effect,
        streams: info.stream,
    }
}

fn grouped(group: &Group, open: &BTreeMap<(&str, &str), Member>) -> Option<Offer> {
    let found = group.endpoints.iter().filter_map(|endpoint| open.get(&(group.service, *endpoint)).cloned());
    let members: Vec<Member> = found.collect();
    let first = members.first()?;
    let input = match (group.way, group.endpoints) {
        (Way::Chat, _) => chat(),
        (way, [_]) => with_extras(way, schema::input(first.request.as_ref()).schema),
        (_, _) => {
            let inputs =
                members.iter().map(|m| (m.endpoint.as_str(), schema::input(m.request.as_ref()).schema));
            schema::choice(ACTION, &inputs.collect::<Vec<_>>())
        }
    };
    let tool = Tool::new(group.tool, group.description, input).with_title(group.title);
    let tool = tool.with_raw_output_schema(answer(group, first).into());
    let tool = tool.with_annotations(annotations(&members, false));
    Some(Offer { tool, way: group.way, members, chooses: group.endpoints.len() > 1, wrapped: false })
}

/// What the way adds to the request's own fields.
fn with_extras(way: Way, mut input: Object) -> Object {
    if way == Way::Apply
        && let Some(properties) = input.get_mut("properties").and_then(Value::as_object_mut)
    {
        let wait = json!({"type": "boolean", "description": "false: return as soon as it was taken"});
        properties.insert("wait".to_owned(), wait);
    }
    input
}

/// What the tool gives: the first level of one answer. Of several, or one told in short, only that it is an object; the
/// rest would cost more than it helps.
fn answer(group: &Group, first: &Member) -> Object {
    let is_whole = matches!(group.way, Way::Plain | Way::State) && group.endpoints.len() == 1;
    let schema = if is_whole { schema::output(first.response.as_ref()) } else { None };
    schema.unwrap_or_else(|| Object::from_iter([("type".to_owned(), "object".into())]))
}

/// The body of `ai.chat` in as far as a model needs it; the endpoint takes all of OpenAI's.
fn chat() -> Object {
    let message = json!({"type": "object", "required": ["role", "content"], "properties": {
        "role": {"type": "string", "enum": ["system", "user", "assistant"]}, "content": {"type": "string"},
    }});
    let schema = json!({"type": "object", "required": ["messages"], "properties": {
        "messages": {"type": "array", "items": message},
        "model": {"type": "string", "description": "a name of ai_info models; auto when absent"},
        "max_tokens": {"type": "integer"},
        "temperature": {"type": "number"},
    }});
    schema.as_object().cloned().unwrap_or_default()
}

fn alone(name: String, member: Member, services: &[Offered]) -> Offer {
    let input = schema::input(member.request.as_ref());
    let is_ours = rights::SERVICES.contains(&member.service.as_str());
    let text = described(&member, services);
    let mut tool = Tool::new(name, text, input.schema).with_title(title(&member));
    if !member.streams
        && let Some(schema) = schema::output(member.response.as_ref())
    {
        tool = tool.with_raw_output_schema(schema.into());
    }
    let tool = tool.with_annotations(annotations(std::slice::from_ref(&member), !is_ours));
    Offer { tool, way: Way::Plain, wrapped: input.wrapped, chooses: false, members: vec![member] }
}

fn title(member: &Member) -> String {
    let words = format!("{} {}", member.service, member.endpoint).replace(['-', '_'], " ");
    let mut chars = words.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", chars.as_str())
}

/// What the service says of its endpoint, on one line, and that it is the service that says so.
fn described(member: &Member, services: &[Offered]) -> String {
    let of_name = services.iter().rev().filter(|offered| offered.name == member.service);
    let mut infos = of_name.flat_map(|offered| offered.endpoints.iter().map(move |info| (offered, info)));
    let found = infos.find(|(_, info)| info.route() == Some((&member.service, &member.endpoint)));
    let Some((offered, info)) = found else { return String::new() };
    let own = schema::line(&info.description, DESCRIPTION_CHARS_MAX);
    if rights::SERVICES.contains(&member.service.as_str()) {
        return own;
    }
    let own = if own.is_empty() { format!("Endpoint {}.", member.endpoint) } else { own };
    format!("{own} [service {} {}]", member.service, schema::line(&offered.version, 24)).trim_end().to_owned()
}

fn annotations(members: &[Member], open_world: bool) -> ToolAnnotations {
    let worst = members.iter().map(|member| member.effect).max().unwrap_or(Effect::Danger);
    ToolAnnotations::new()
        .read_only(worst == Effect::Read)
        .destructive(worst == Effect::Danger)
        .open_world(open_world)
}

/// The name itself, or its beginning with a number that tells it from others.
fn short(name: String) -> String {
    if name.len() <= NAME_CHARS_MAX {
        return name;
    }
    let digest = Sha256::digest(&name);
    let mut out: String = name.chars().take(NAME_CHARS_MAX - 9).collect();
    out.push('_');
    for byte in digest.iter().take(4) {
        write!(out, "{byte:02x}").expect("writing to a String never fails");
    }
    out
}

/// What to say to whoever names a tool that there is not.
pub(crate) fn unknown(name: &str, offers: &[Offer]) -> String {
    let shown = schema::line(name, NAME_CHARS_MAX);
    let near = check::near(name, offers.iter().map(|offer| offer.tool.name.as_ref()));
    if near.is_empty() {
        return format!("unknown tool: {shown}; tools/list shows what there is now");
    }
    format!("unknown tool: {shown}; did you mean {}?", near.join(" or "))
}
