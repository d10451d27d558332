//! What can be read without calling a tool: the sections of the state, plans, the lab on a page, the dependency graph and
//! the whole schemas of endpoints. What is of the lab is asked for with the caller's own rights; schemas are read from the
//! catalog, for any identity.

use super::ask::{self, Asker, RESULT_BYTES_MAX};
use crate::catalog::Catalog;
use jiff::tz::Offset;
use nhi_decide::render::{self, MirrorInput};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    act::{ActGot, ActListed},
    call::StateGot,
    envelope::{Live, Stored},
    fault::{Fault, FaultCode},
    key::{Key, Section},
};
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const JSON: &str = "application/json";
const STATE: &str = "nhi://state/";
const PLAN: &str = "nhi://plan/";
const SCHEMA: &str = "nhi://schema/";
const PLANS: &str = "nhi://plans";
const CONTEXT: &str = "nhi://context";
const GRAPH: &str = "nhi://graph";
/// Pages of the state that are put together: a lab has ten thousand records at most.
const PAGES_MAX: usize = 64;
/// How much of the state is read for the lab on a page, bytes: ten thousand records.
const LAB_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest URI that is looked at.
const URI_BYTES_MAX: usize = 512;

/// All that are always there.
pub(crate) fn list() -> Vec<Resource> {
    let fixed = [
        (
            CONTEXT,
            "context",
            "The lab on a page",
            "GLOBAL_CONTEXT: nodes, guests, projects and alerts as Markdown",
            "text/markdown",
        ),
        (GRAPH, "graph", "Dependency graph", "Which service needs which, and where it runs", JSON),
        (PLANS, "plans", "Open plans", "Plans that wait or are under way, newest first", JSON),
    ];
    let fixed = fixed.map(|(uri, name, title, text, kind)| {
        Resource::new(uri, name).with_title(title).with_description(text).with_mime_type(kind)
    });
    let sections = Section::ALL.into_iter().filter(|section| *section != Section::Graph).map(|section| {
        let word = section.as_str();
        Resource::new(format!("{STATE}{word}"), format!("state-{word}"))
            .with_title(format!("State: {word}"))
            .with_description(format!("All records of the section {word}"))
            .with_mime_type(JSON)
    });
    fixed.into_iter().chain(sections).collect()
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    [
        (
            "nhi://state/{select}",
            "state",
            "Records of the lab",
            "A section, a dotted prefix or a key, such as vm.home.105",
        ),
        ("nhi://plan/{plan}", "plan", "A plan", "One plan whole, with its run"),
        (
            "nhi://schema/{service}/{endpoint}",
            "schema",
            "Schemas of an endpoint",
            "Request and answer, whole",
        ),
    ]
    .into_iter()
    .map(|(uri, name, title, text)| {
        ResourceTemplate::new(uri, name).with_title(title).with_description(text).with_mime_type(JSON)
    })
    .collect()
}

/// Whether there can be something under the URI.
pub(crate) fn is_known(uri: &str) -> bool {
    let is_one = |tail: Option<&str>| tail.is_some_and(|tail| !tail.is_empty());
    let is_named = [CONTEXT, GRAPH, PLANS].contains(&uri);
    let is_under =
        is_one(uri.strip_prefix(STATE)) || is_one(uri.strip_prefix(PLAN)) || is_one(uri.strip_prefix(SCHEMA));
    uri.len() <= URI_BYTES_MAX && (is_named || is_under)
}

/// What has changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// Records of the state.
    State(Vec<Key>),
    /// A key of the plans' bucket.
    Plan(String),
    /// Nobody knows what.
    All,
}

/// Whether a change may be seen under the URI.
pub(crate) fn is_touched(uri: &str, change: &Change) -> bool {
    let (keys, plan) = match change {
        Change::All => return true,
        Change::State(keys) => (&keys[..], None),
        Change::Plan(key) => (&[][..], Some(key.as_str())),
    };
    if let Some(plan) = plan {
        let id = uri.strip_prefix(PLAN).map(|id| id.trim_start_matches("p-"));
        return uri == PLANS || id.is_some_and(|id| plan.ends_with(id));
    }
    match uri {
        CONTEXT => !keys.is_empty(),
        GRAPH => keys.iter().any(|key| key.section() == Section::Graph),
        _ => uri
            .strip_prefix(STATE)
            .is_some_and(|select| keys.iter().any(|key| is_selected(select, key.as_str()))),
    }
}

/// Whether a key lies under a prefix of whole tokens, `*` being any token.
fn is_selected(select: &str, key: &str) -> bool {
    let mut tokens = key.split('.');
    select.split('.').all(|wanted| tokens.next().is_some_and(|token| wanted == "*" || wanted == token))
}

/// Reads one.
pub(crate) async fn read(asker: &Asker, catalog: &Catalog, uri: &str) -> Result<ReadResourceResult, Fault> {
    if !is_known(uri) {
        return Err(unknown(uri));
    }
    if uri == CONTEXT {
        let text = context(asker).await?;
        return Ok(ReadResourceResult::new(vec![
            ResourceContents::text(text, uri).with_mime_type("text/markdown"),
        ]));
    }
    let value = if uri == PLANS {
        let listed: ActListed = asker.ask("act", "list", &json!({"open": true})).await?;
        serde_json::to_value(listed)
    } else if let Some(plan) = uri.strip_prefix(PLAN) {
        let got: ActGot = asker.ask("act", "get", &json!({ "plan": plan })).await?;
        serde_json::to_value(got)
    } else if let Some(names) = uri.strip_prefix(SCHEMA) {
        Ok(schema(catalog, names).ok_or_else(|| unknown(uri))?)
    } else {
        let select = if uri == GRAPH { "graph" } else { uri.strip_prefix(STATE).unwrap_or_default() };
        serde_json::to_value(state(asker, &[select], false, RESULT_BYTES_MAX).await?)
    };
    let value = value.map_err(|error| Fault::new(FaultCode::Internal, error.to_string(), ""))?;
    let text = value.to_string();
    if text.len() > RESULT_BYTES_MAX {
        return Err(ask::too_large(text.len()));
    }
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(JSON)]))
}

/// That there is none under this URI.
pub(crate) fn unknown(uri: &str) -> Fault {
    let uri = super::schema::line(uri, 120);
    let hint = "resources/list and resources/templates/list show what there is";
    Fault::new(FaultCode::NotFound, format!("there is no resource {uri}"), hint)
}

fn schema(catalog: &Catalog, names: &str) -> Option<Value> {
    let (service, endpoint) = names.split_once('/')?;
    let (offered, info) = catalog.endpoint(service, endpoint)?;
    Some(json!({
        "service": service, "endpoint": endpoint, "version": offered.version, "effect": info.effect,
        "description": info.description, "request": info.request_schema, "response": info.response_schema,
    }))
}

/// Records of one moment, or with `live` of now, all pages of them, as long as they have no more bytes than this.
async fn state(asker: &Asker, select: &[&str], live: bool, bytes_max: usize) -> Result<StateGot, Fault> {
    let select: Vec<&str> = select.iter().copied().filter(|select| !select.is_empty()).collect();
    let (mut request, mut bytes) = (json!({"select": select, "live": live}), 0);
    let mut whole: Option<StateGot> = None;
    for _ in 0..PAGES_MAX {
        let answer = asker.ask_raw("state", "get", &request).await?;
        bytes += answer.len();
        if bytes > bytes_max {
            return Err(ask::too_large(bytes));
        }
        let page: StateGot = ask::read("state", "get", &answer)?;
        let next = page.next.clone();
        let got = match whole.take() {
            Some(mut got) => {
                got.records.extend(page.records);
                got.next = page.next;
                got
            }
            None => page,
        };
        let Some(cursor) = next else { return Ok(got) };
        // Gauges are those of now: there is no moment to pin further pages to.
        request = match live {
            true => json!({"select": select, "live": live, "cursor": cursor}),
            false => json!({"select": select, "at": {"revision": got.revision}, "cursor": cursor}),
        };
        whole = Some(got);
    }
    whole.ok_or_else(|| ask::too_large(bytes))
}

/// A text that is not too long: its first lines, and that there were more.
fn cut(mut text: String) -> String {
    const CUT: &str = "\n(cut here: nhi://state/{section} has all of it)\n";
    if text.len() > RESULT_BYTES_MAX {
        // The end of a line is the end of a character as well.
        let most = &text.as_bytes()[..RESULT_BYTES_MAX - CUT.len()];
        let end = most.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

/// GLOBAL_CONTEXT.md as it is now, in UTC.
async fn context(asker: &Asker) -> Result<String, Fault> {
    let got = state(asker, &[], true, LAB_BYTES_MAX).await?;
    let mut records: BTreeMap<Key, Stored> = BTreeMap::new();
    let mut live: BTreeMap<Key, Live> = BTreeMap::new();
    for (key, record) in got.records {
        if let Some(gauges) = record.live {
            live.insert(key.clone(), gauges);
        }
        let stored = Stored {
            v: SCHEMA_VERSION,
            op: record.op,
            at: record.at,
            stale: record.stale,
            record: record.record,
        };
        records.insert(key, stored);
    }
    let rendered = render::render(&MirrorInput {
        now: Timestamp::now(),
        offset: Offset::UTC,
        revision: got.revision,
        scan_duration_ms: 0,
        generator: concat!("neural-home ", env!("CARGO_PKG_VERSION")),
        records: records.iter().collect(),
        stale: got.stale.as_ref(),
        live: &live,
    });
    Ok(cut(rendered.global_context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_what_shows_it() {
        let state = Change::State(vec![Key::parse("vm.home.105").unwrap()]);
        for (uri, touched) in [
            ("nhi://state/vm", true),
            ("nhi://state/vm.home", true),
            ("nhi://state/vm.home.105", true),
            ("nhi://state/vm.*.105", true),
            ("nhi://context", true),
            ("nhi://state/vm.home.10", false),
            ("nhi://state/v", false),
            ("nhi://state/lxc", false),
            ("nhi://graph", false),
            ("nhi://plans", false),
        ] {
            assert_eq!(is_touched(uri, &state), touched, "{uri}");
        }
        let plan = Change::Plan("run.r-0k3x9a".to_owned());
        assert!(is_touched("nhi://plan/p-0k3x9a", &plan) && is_touched("nhi://plans", &plan));
        assert!(!is_touched("nhi://plan/p-other1", &plan) && !is_touched("nhi://state/vm", &plan));
        assert!(is_touched("nhi://graph", &Change::All));
    }

    #[test]
    fn only_what_there_can_be_is_known() {
        for uri in list().into_iter().map(|resource| resource.uri) {
            assert!(is_known(&uri), "{uri}");
        }
        for uri in ["", "nhi://", "nhi://state/", "file:///etc/passwd", "nhi://contexts"] {
            assert!(!is_known(uri), "{uri}");
        }
    }
    #[test]
    fn a_long_text_ends_with_a_line_that_says_so() {
        let long = cut("ä line\n".repeat(RESULT_BYTES_MAX));
        assert!(long.len() <= RESULT_BYTES_MAX && long.contains("ä line\n(cut here"), "{}", long.len());
        assert_eq!(cut("short".to_owned()), "short", "the control");
    }
}
