//! The tools there are for somebody: built-in endpoints in groups, all others each by itself, as discovery shows them and
//! the caller's rights allow. It calls nobody; that a tool is listed gives no right, and nats-server judges each call.

use super::{
    check,
    groups::{self, GROUPS, Group, Way},
    schema::{self, Input, Object},
};
use crate::catalog::{Offered, newest};
use nhi_bus::discover::{EndpointInfo, SchemaText};
use nhi_model::{
    ai::ORIGIN_FIELD,
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
    sync::{Arc, OnceLock},
};

/// The field that says which endpoint of a group is meant.
pub(crate) const ACTION: &str = "action";
/// The field in which a person types the name of what is to be destroyed: never a tool's.
pub(crate) const TYPED: &str = "name";
/// Longest name of a tool: what the model providers allow.
const NAME_CHARS_MAX: usize = 64;
/// Longest description of somebody else's endpoint, characters. It is read by models: no room for a speech.
const DESCRIPTION_CHARS_MAX: usize = 240;
/// Tools listed at most: no client shows more to its model.
const TOOLS_MAX: usize = 256;
/// Tools of one service of somebody else listed at most, so that one crowds out nobody. All of them can be called.
const EACH_MAX: usize = 24;

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
    request: Option<SchemaText>,
    pub(crate) streams: bool,
    effect: Effect,
    response: Option<SchemaText>,
    /// What a model is told about it.
    text: String,
    /// Its schemas made small, once somebody wants them.
    small: Arc<OnceLock<Small>>,
    /// What a request is held against, once there is one.
    whole: Arc<OnceLock<Option<Value>>>,
}

#[derive(Debug)]
struct Small {
    input: Input,
    output: Option<Object>,
}

/// The same offer, whoever makes it: which instances there are does not count.
impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        let Self { service, endpoint, request, streams, effect, response, text, small: _, whole: _ } = self;
        (service, endpoint, streams, effect, text)
            == (&other.service, &other.endpoint, &other.streams, &other.effect, &other.text)
            && *request == other.request
            && *response == other.response
    }
}

impl Member {
    fn of(offered: &Offered, service: &str, endpoint: &str, info: &EndpointInfo) -> Self {
        Self {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            request: info.request_schema.clone(),
            response: info.response_schema.clone(),
            effect: info.effect,
            streams: info.stream,
            text: described(offered, service, endpoint, info),
            small: Arc::default(),
            whole: Arc::default(),
        }
    }

    /// What is wrong with a request, by the service's own schema.
    pub(crate) fn wrong(&self, request: &Value) -> Option<String> {
        let schema = self.whole.get_or_init(|| self.request.as_ref().map(SchemaText::read));
        check::wrong(schema.as_ref()?, request)
    }

    fn small(&self) -> &Small {
        self.small.get_or_init(|| Small {
            input: schema::input(self.request.as_ref().map(SchemaText::read).as_ref()),
            output: schema::output(self.response.as_ref().map(SchemaText::read).as_ref()),
        })
    }

    fn is_ours(&self) -> bool {
        rights::SERVICES.contains(&self.service.as_str())
    }
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

/// All there is to make tools of, and what each tool that is no group is called, whoever asks.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Shelf {
    members: BTreeMap<(String, String), Member>,
    /// Built-in ones first: nobody else takes their names.
    alone: Vec<(String, Member)>,
}

impl Shelf {
    pub(crate) fn new(services: &[Offered]) -> Self {
        let open = newest(services).into_iter().filter(|((s, e), _)| !groups::is_never(s, e));
        let members: BTreeMap<(String, String), Member> = open
            .map(|((service, endpoint), (offered, info))| {
                let member = Member::of(offered, service, endpoint, info);
                ((service.to_owned(), endpoint.to_owned()), member)
            })
            .collect();
        let single = members.values().filter(|m: &&Member| !groups::is_grouped(&m.service, &m.endpoint));
        let (own, others): (Vec<&Member>, Vec<&Member>) = single.partition(|member| member.is_ours());
        let mut taken: BTreeSet<String> = GROUPS.iter().map(|group| group.tool.to_owned()).collect();
        let mut alone = Vec::new();
        for member in own.into_iter().chain(others) {
            let names = [
                format!("{}_{}", member.service, member.endpoint),
                format!("{}__{}", member.service, member.endpoint),
            ];
            if let Some(name) = names.map(short).into_iter().find(|name| !taken.contains(name)) {
                taken.insert(name.clone());
                alone.push((name, member.clone()));
            }
        }
        Self { members, alone }
    }

    /// The tools that somebody with these rights is shown, in a stable order.
    pub(crate) fn offers(&self, rights: &Rights) -> Vec<Offer> {
        let mut offers: Vec<Offer> =
            GROUPS.iter().filter_map(|group| grouped(group, &self.members, rights)).collect();
        let open = self.alone.iter().filter(|(_, member)| rights.may(&member.service, &member.endpoint));
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        // The last one shown of each service, for telling that there are more.
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, member) in open {
            let count = counts.entry(&member.service).or_default();
            *count += 1;
            if offers.len() < TOOLS_MAX && (member.is_ours() || *count <= EACH_MAX) {
                last.insert(&member.service, offers.len());
                offers.push(alone(name, member));
            }
        }
        for (service, at) in last {
            let more = counts.get(service).map_or(0, |count| count.saturating_sub(EACH_MAX));
            if more > 0 && !rights::SERVICES.contains(&service) {
                let tool = &mut offers[at].tool;
                let own = tool.description.take().unwrap_or_default();
                tool.description = Some(format!("{own} [{more} more endpoints of it are not listed]").into());
            }
        }
        offers
    }

    /// What a name means, whoever says it: whether the caller may is nats-server's to say.
    pub(crate) fn find(&self, name: &str) -> Option<Offer> {
        if let Some(group) = GROUPS.iter().find(|group| group.tool == name) {
            return grouped(group, &self.members, &Rights::all());
        }
        let (name, member) = self.alone.iter().find(|(known, _)| known == name)?;
        Some(alone(name, member))
    }
}

fn grouped(group: &Group, known: &BTreeMap<(String, String), Member>, rights: &Rights) -> Option<Offer> {
    let mut members: Vec<Member> = Vec::new();
    for endpoint in group.endpoints.iter().filter(|endpoint| rights.may(group.service, endpoint)) {
        members.extend(known.get(&(group.service.to_owned(), (*endpoint).to_owned())).cloned());
    }
    let first = members.first()?;
    let input = match (group.way, group.endpoints) {
        (Way::Chat, _) => chat(),
        (way, [_]) => with_extras(way, first.small().input.schema.clone()),
        (_, _) => {
            let inputs = members.iter().map(|m| (m.endpoint.as_str(), m.small().input.schema.clone()));
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
        // The name of what is destroyed is typed by a person, elsewhere.
        properties.remove(TYPED);
    }
    input
}

/// What the tool gives: the first level of one answer. Of several, or one told in short, only that it is an object; the
/// rest would cost more than it helps.
fn answer(group: &Group, first: &Member) -> Object {
    let is_whole = matches!(group.way, Way::Plain | Way::State) && group.endpoints.len() == 1;
    let schema = if is_whole { first.small().output.clone() } else { None };
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

fn alone(name: &str, member: &Member) -> Offer {
    let Small { input, output } = member.small();
    let mut takes = input.schema.clone();
    let fields = takes.get_mut("properties").and_then(Value::as_object_mut);
    if let Some(fields) = fields.filter(|_| member.is_ours()) {
        // As in `chat`: what OpenAI's format has no word for stands in the whole schema.
        fields.remove(ORIGIN_FIELD);
    }
    let mut tool = Tool::new(name.to_owned(), member.text.clone(), takes).with_title(title(member));
    if let Some(schema) = output.clone().filter(|_| !member.streams) {
        tool = tool.with_raw_output_schema(schema.into());
    }
    let tool = tool.with_annotations(annotations(std::slice::from_ref(member), !member.is_ours()));
    Offer { tool, way: Way::Plain, wrapped: input.wrapped, chooses: false, members: vec![member.clone()] }
}

fn title(member: &Member) -> String {
    let words = format!("{} {}", member.service, member.endpoint).replace(['-', '_'], " ");
    let mut chars = words.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", chars.as_str())
}

/// What the service says of its endpoint, on one line, and that it is the service that says so.
fn described(offered: &Offered, service: &str, endpoint: &str, info: &EndpointInfo) -> String {
    let own = schema::line(&info.description, DESCRIPTION_CHARS_MAX);
    if rights::SERVICES.contains(&service) {
        return own;
    }
    let own = if own.is_empty() { format!("Endpoint {endpoint}.") } else { own };
    format!("{own} [service {service} {}]", schema::line(&offered.version, 24)).trim_end().to_owned()
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
