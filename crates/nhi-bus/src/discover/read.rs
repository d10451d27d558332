//! Reads what services answer to discovery, from any implementation of ADR-32, and keeps of it what is bounded and
//! plain. It asks nobody.

use super::{EndpointInfo, Presence, SchemaText, ServiceInfo};
use crate::service::is_name;
use nhi_model::{call::Effect, rights, subject};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest answer that is read: several times the largest of ours.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Endpoints of one service listed at most.
const ENDPOINTS_MAX: usize = 512;
/// Longest description that is kept: a page of text.
const DESCRIPTION_CHARS_MAX: usize = 4_000;
/// Largest schema that is kept, bytes of JSON: the largest of ours has less than half of it.
const SCHEMA_BYTES_MAX: usize = 128 * 1024;
/// Longest version that is kept.
const VERSION_CHARS_MAX: usize = 64;
/// Problems of one service told at most.
const PROBLEMS_MAX: usize = 16;
/// How much of a name that is none is repeated.
const SHOWN_CHARS_MAX: usize = 40;

/// The answer to INFO.
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

/// Who answered to PING.
pub(super) fn read_presence(payload: &[u8]) -> Option<Presence> {
    let Answer { name, id, version, .. } = read_answer(payload)?;
    Some(Presence { name, id, version: plain(&version.unwrap_or_default(), VERSION_CHARS_MAX) })
}

fn read_answer(payload: &[u8]) -> Option<Answer> {
    let fits = payload.len() <= ANSWER_BYTES_MAX;
    let answer: Answer = fits.then(|| serde_json::from_slice(payload).ok()).flatten()?;
    (is_name(&answer.name) && is_name(&answer.id)).then_some(answer)
}

/// What a service offers.
pub(super) fn read(payload: &[u8]) -> Option<ServiceInfo> {
    let answer = read_answer(payload)?;
    let mut problems = Vec::new();
    let description = described("the service", &answer.description.unwrap_or_default(), &mut problems);
    let offered = answer.endpoints.unwrap_or_default();
    if offered.len() > ENDPOINTS_MAX {
        problems.push(format!("of {} endpoints the first {ENDPOINTS_MAX} are offered", offered.len()));
    }
    let offered = offered.into_iter().take(ENDPOINTS_MAX);
    let mut endpoints: Vec<EndpointInfo> =
        offered.filter_map(|endpoint| read_endpoint(&answer.name, endpoint, &mut problems)).collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    endpoints.dedup_by(|a, b| {
        let is_twice = a.name == b.name;
        if is_twice {
            problems.push(format!("endpoint {} is described twice; the first counts", a.name));
        }
        is_twice
    });
    problems.truncate(PROBLEMS_MAX);
    Some(ServiceInfo {
        name: answer.name,
        id: answer.id,
        version: plain(&answer.version.unwrap_or_default(), VERSION_CHARS_MAX),
        description,
        endpoints,
        problems,
    })
}

fn read_endpoint(
    service: &str,
    endpoint: AnswerEndpoint,
    problems: &mut Vec<String>,
) -> Option<EndpointInfo> {
    if !is_name(&endpoint.name) {
        let shown = plain(&endpoint.name, SHOWN_CHARS_MAX);
        problems
            .push(format!("an endpoint is left out: {shown:?} is no name of letters, digits, `-` and `_`"));
        return None;
    }
    let own = own_endpoint(service, &endpoint.subject);
    if own.as_deref() == Some(rights::FLOW) {
        problems.push(format!(
            "{} is left out: whoever may call one endpoint may speak to nhi.{service}.{}.*",
            endpoint.name,
            rights::FLOW
        ));
        return None;
    }
    let route = own.map(|own| (service.to_owned(), own));
    let name = endpoint.name;
    let metadata = endpoint.metadata.unwrap_or_default();
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    let mut schema = |key: &str| {
        let text = text(key)?;
        if text.len() > SCHEMA_BYTES_MAX {
            problems.push(format!(
                "the {key} of {name} is left out: it has {} bytes, {SCHEMA_BYTES_MAX} are read",
                text.len()
            ));
            return None;
        }
        let schema = SchemaText::parse(text);
        if schema.is_none() {
            problems.push(format!("the {key} of {name} is left out: it is no JSON object"));
        }
        schema
    };
    let (request_schema, response_schema) = (schema("request_schema"), schema("response_schema"));
    let stated = text("effect").and_then(|word| serde_json::from_value(Value::from(word)).ok());
    // What a built-in endpoint does is known; a forged description must not make it look harmless.
    let known = rights::ENDPOINTS.iter().find(|e| e.service == service && e.endpoint == name);
    if route.is_none() {
        problems.push(format!("{name} cannot be called: its subject is not nhi.{service}.<endpoint>.*"));
    }
    Some(EndpointInfo {
        effect: known.map(|e| e.effect).or(stated).unwrap_or(Effect::Danger),
        description: described(&name, text("description").unwrap_or_default(), problems),
        request_schema,
        response_schema,
        stream: text("stream") == Some("true"),
        route,
        subject: plain(&endpoint.subject, 2 * DESCRIPTION_CHARS_MAX),
        name,
    })
}

/// A description that is not too long, without what would move a terminal's cursor.
fn described(whose: &str, text: &str, problems: &mut Vec<String>) -> String {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        problems.push(format!("the description of {whose} is cut after {DESCRIPTION_CHARS_MAX} characters"));
    }
    plain(text, DESCRIPTION_CHARS_MAX)
}

fn plain(text: &str, chars_max: usize) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).take(chars_max).collect()
}

/// The endpoint in `nhi.<service>.<endpoint>.*`; `None` for any other subject.
fn own_endpoint(service: &str, subject: &str) -> Option<String> {
    let name = subject.split('.').nth(2).filter(|name| is_name(name))?;
    (subject == subject::endpoint(service, name)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::identity::IdentityName;
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
                {"name": "melt", "subject": "nhi.kettle.flow.*"},
            ],
        }))
        .unwrap();
        let me = IdentityName::parse("aider").unwrap();
        let boil = info.endpoint("boil").unwrap();
        assert_eq!((boil.effect, boil.stream, &boil.request_schema), (Effect::Danger, false, &None));
        assert_eq!(boil.subject_for(&me).as_deref(), Some("nhi.kettle.boil.aider"));
        assert_eq!(boil.route(), Some(("kettle", "boil")));
        assert_eq!(info.endpoint("old").unwrap().subject_for(&me), None);
        assert!(info.endpoint("melt").is_none(), "a grant of any one endpoint would open it");
        assert_eq!(info.problems.len(), 2, "{:?}", info.problems);
        assert!(info.problems[1].starts_with("melt is left out"), "{:?}", info.problems);
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

    #[test]
    fn what_is_huge_or_misleading_is_cut_and_told() {
        let long = "x".repeat(DESCRIPTION_CHARS_MAX + 1);
        let schema = json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}).to_string();
        let endpoint = |name: &str, metadata: Value| json!({"name": name, "subject": format!("nhi.kettle.{name}.*"), "metadata": metadata});
        let info = check(&json!({
            "name": "kettle", "id": "A1", "version": "9".repeat(1_000), "description": "\u{1b}[2Jcalm\r\n",
            "endpoints": [
                endpoint("boil", json!({"description": long, "request_schema": schema})),
                endpoint("boil", json!({"effect": "read"})),
                endpoint("a.b", json!({})),
                endpoint("pour", json!({"response_schema": "{}"})),
            ],
        }))
        .unwrap();
        let names: Vec<&str> = info.endpoints.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["boil", "pour"]);
        assert_eq!((info.description.as_str(), info.version.len()), ("[2Jcalm\n", VERSION_CHARS_MAX));
        let boil = &info.endpoints[0];
        assert_eq!((boil.description.len(), boil.effect), (DESCRIPTION_CHARS_MAX, Effect::Danger));
        assert_eq!(
            (&boil.request_schema, &info.endpoints[1].response_schema),
            (&None, &SchemaText::parse("{}"))
        );
        assert_eq!(info.problems.len(), 4, "{:?}", info.problems);
        let huge = json!({"name": "kettle", "id": "A1", "description": "x".repeat(ANSWER_BYTES_MAX)});
        assert!(check(&huge).is_none());
    }
}
