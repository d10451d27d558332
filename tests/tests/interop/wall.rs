//! The fault wall: everything that goes wrong at backends, asked through every front, plain and streamed, with a healthy
//! backend behind it and without one. What has to become of each cell stands in [`cases`]; whatever could be taken for a whole
//! answer and is none fails the test.

mod cases;
mod fronts;
mod wire;

use self::{
    cases::{Case, First, Outcome, cases},
    fronts::Front,
    wire::{Came, post},
};
use crate::models::House;
use futures::{StreamExt as _, stream};
use nhi_decide::route::{Alias, BackendSettings, Guard, ModelSettings as Configured, Selector, Settings};
use nhi_model::ai::{BackendKind, Continues};
use nhi_sim::models::{self, Fault, ModelSettings, Options, Provider, Running, answer_text};
use nhi_testkit::wait_for;
use std::{collections::BTreeMap, net::TcpListener, time::Duration};

/// Rows that run at once: each has a house of its own.
const ROWS_AT_ONCE: usize = 4;
/// Longest that a client waits for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest until a backend is free of a request that is over.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// Tokens of a whole answer.
const TOKENS: u32 = 60;
const MODEL: &str = "m";

/// One request of a row.
#[derive(Clone, Copy, Debug)]
struct Cell {
    front: Front,
    stream: bool,
    has_second: bool,
}

impl Cell {
    fn all() -> Vec<Self> {
        let cell = |front: Front, stream, has_second| {
            front.has(stream).then_some(Self { front, stream, has_second })
        };
        let both = [true, false];
        let ways = both.iter().flat_map(|stream| both.iter().map(move |second| (*stream, *second)));
        ways.flat_map(|(stream, second)| {
            Front::ALL.into_iter().filter_map(move |front| cell(front, stream, second))
        })
        .collect()
    }

    /// The alias that names its backends.
    fn name(self) -> String {
        let (form, second) =
            (if self.stream { "stream" } else { "plain" }, if self.has_second { "two" } else { "one" });
        format!("{:?}-{form}-{second}", self.front).to_lowercase()
    }

    fn wanted(self, case: &Case) -> Outcome {
        let outcomes = if self.stream { case.stream } else { case.plain };
        outcomes[usize::from(!self.has_second)]
    }
}

/// The servers of a row.
struct Row {
    case: Case,
    first: Running,
    second: Running,
    elsewhere: Running,
    house: House,
}

fn is_full() -> bool {
    std::env::var_os("NHI_FULL").is_some_and(|full| full == "1")
}

/// The cells of a row. One that moves gigabytes through every front is asked through one of them, unless all of it is wanted.
fn cells(case: &Case) -> Vec<Cell> {
    let is_light = |cell: &Cell| !case.is_heavy || is_full() || cell.front == Front::Chat || !cell.stream;
    Cell::all().into_iter().filter(is_light).collect()
}

impl Row {
    async fn open(case: Case, cells: &[Cell]) -> Self {
        // With gaps between tokens: what was sent before a cut has been read then.
        let paced = ModelSettings { tokens_per_s: 1_000.0, ..ModelSettings::named(MODEL) };
        let server =
            async |provider, model| models::serve(Options::local(provider, vec![model])).await.unwrap();
        let healthy = async || server(Provider::Llamacpp, ModelSettings::named(MODEL)).await;
        let (first, second, elsewhere) =
            (server(case.provider, paced).await, healthy().await, healthy().await);
        let url = match &case.first {
            First::Does(faults) => {
                faults.iter().for_each(|fault| _ = first.set_fault(fault.clone()));
                first.url.clone()
            }
            First::Redirects => {
                first.set_fault(Fault::Redirect { to: format!("{}/v1/chat/completions", elsewhere.url) });
                first.url.clone()
            }
            First::Closed => {
                let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
                format!("http://{free}")
            }
            First::Nowhere => "http://nobody.invalid:11434".to_owned(),
        };
        let house = House::with(settings(&case, cells, &url, &second.url)).await;
        Self { case, first, second, elsewhere, house }
    }

    /// Asks, and tells what is wrong with what came; nothing when it is as it has to be.
    async fn ask(&self, cell: Cell) -> Option<String> {
        let question = format!("What is behind {} and {}?", self.case.name, cell.name());
        let (path, body) = cell.front.request(&cell.name(), &question, cell.stream);
        let bearer = format!("Bearer {}", self.house.key());
        let headers = [("Authorization", bearer.as_str())];
        let came = post(self.house.addr, &path, &headers, &body.to_string(), ANSWER_MAX).await;
        let wrong = judge(cell, cell.wanted(&self.case), &came, &answer_text(&question, TOKENS));
        let shown: String =
            came.text().chars().rev().take(700).collect::<Vec<_>>().into_iter().rev().collect();
        wrong.err().map(|wrong| {
            format!("{} / {}: {wrong}\n  {} … {shown}", self.case.name, cell.name(), came.status)
        })
    }

    async fn close(self) {
        assert_eq!(self.elsewhere.counts().by_path.len(), 0, "{}: nobody follows a redirect", self.case.name);
        self.house.cx.close().await;
    }
}

/// Each cell has backends of its own, so that what one learns about them is nothing to the others.
fn settings(case: &Case, cells: &[Cell], first: &str, second: &str) -> Settings {
    let models = vec![Configured { context_tokens: Some(32_768), ..Configured::named(MODEL) }];
    let backend = |name: String, kind: BackendKind, url: &str| BackendSettings {
        home: true,
        models: models.clone(),
        continues: Some(Continues::Prefill),
        parallel: Some(16),
        ..BackendSettings::new(name, kind, url)
    };
    let (mut backends, mut aliases) = (Vec::new(), BTreeMap::new());
    for cell in cells {
        let name = cell.name();
        let mut order = vec![format!("first-{name}")];
        backends.push(backend(order[0].clone(), case.kind, first));
        if cell.has_second {
            order.push(format!("second-{name}"));
            backends.push(backend(order[1].clone(), BackendKind::Openai, second));
        }
        let order = order.into_iter().map(Selector::Backend).collect();
        aliases.insert(name, Alias { order, ..Alias::default() });
    }
    let guard = Guard { first_token_s: 4, stall_s: 3, deadline_s: 12, wait_s: 2, ..Guard::default() };
    Settings { backends, aliases, guard, ..Settings::default() }
}

/// Holds an answer against what is wanted of it.
fn judge(cell: Cell, wanted: Outcome, came: &Came, expected: &str) -> Result<(), String> {
    let said = cell.front.read(cell.stream, came);
    let is_ended = cell.front.is_ended(cell.stream, &said);
    let check =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{wanted:?}: {what}: {said:?}")) };
    check(!came.is_late, "no end in time")?;
    check(said.odd.is_empty(), "this is not the dialect")?;
    let seams = said.origin["seams"].as_array().map_or(0, Vec::len);
    let provider = said.origin["provider"].as_str().unwrap_or_default();
    match wanted {
        Outcome::Untouched | Outcome::Unseen | Outcome::Continued => {
            check(came.status == 200 && is_ended && came.is_whole, "no good end")?;
            check(said.text == expected, "another text")?;
            let is_first = wanted != Outcome::Unseen;
            check(provider.starts_with(if is_first { "first-" } else { "second-" }), "somebody else")?;
            check(came.header("x-nhi-provider") == provider, "the header names somebody else")?;
            check(seams == usize::from(wanted == Outcome::Continued), "other seams")?;
            let failed = said.origin["failed"][0]["provider"].as_str().unwrap_or_default();
            check(failed.starts_with("first-") == (wanted != Outcome::Untouched), "no word of the failure")
        }
        Outcome::Refused(status) => {
            check(came.status == status, "another status")?;
            check(said.error.is_some() && said.text.is_empty() && said.marks.is_empty(), "no plain error")?;
            check(came.is_whole, "half an error")?;
            let has_pause = came.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0);
            check(status != 429 || has_pause, "no Retry-After")
        }
        Outcome::Unreached => {
            check(matches!(came.status, 503 | 504), "another status")?;
            check(said.error.is_some() && said.text.is_empty() && said.marks.is_empty(), "no plain error")
        }
        Outcome::Limited | Outcome::Longer => {
            check(came.status == 200 && is_ended && came.is_whole, "no good end")?;
            check(
                cell.front.is_limited(&said) == (wanted == Outcome::Limited),
                "another reason for its end",
            )?;
            check(said.text.starts_with(expected) && said.text.len() > expected.len(), "another text")
        }
        Outcome::Broken => {
            check(came.status == 200 && said.error.is_some(), "no error in the stream")?;
            check(said.marks.is_empty(), "it can be taken for an end")?;
            check(came.is_whole != cell.front.breaks_off(), "another end of its connection")?;
            let is_head = expected.starts_with(&said.text) || said.text.starts_with(expected);
            check(is_head && !said.text.is_empty(), "another text")
        }
    }
}

/// Every cell of a row at once, and what is wrong with them.
async fn row(case: Case) -> (usize, Vec<String>) {
    let cells = cells(&case);
    let row = Row::open(case, &cells).await;
    let at_once = if row.case.is_heavy { 2 } else { cells.len() };
    let asked = stream::iter(cells.iter().map(|cell| row.ask(*cell))).buffer_unordered(at_once);
    let mut wrong: Vec<String> = asked.filter_map(|wrong| async { wrong }).collect().await;
    let name = row.case.name;
    for server in [&row.first, &row.second] {
        wait_for("the backend to be free again", RELEASE_MAX, async || server.counts().in_flight == 0).await;
    }
    let (first, second) = (asked_for(&row.first), asked_for(&row.second));
    // No storm: who failed is asked once, who goes on once. Who closes a connection that was kept is asked once more.
    let times = if name == "closed without an answer" { 2 } else { 1 };
    if first > times * cells.len() || second > cells.iter().filter(|cell| cell.has_second).count() {
        wrong.push(format!("{name}: asked too often: {first} and {second}"));
    }
    row.close().await;
    (cells.len(), wrong)
}

/// Requests for text.
fn asked_for(server: &Running) -> usize {
    let counts = server.counts().by_model;
    usize::try_from(counts.values().sum::<u64>()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_a_backend_looks_like_an_answer() {
    let only = std::env::var("NHI_WALL").unwrap_or_default();
    let rows = cases().into_iter().filter(|case| case.name.contains(&only));
    let done: Vec<(usize, Vec<String>)> =
        stream::iter(rows.map(row)).buffer_unordered(ROWS_AT_ONCE).collect().await;
    let cells: usize = done.iter().map(|(cells, _)| cells).sum();
    println!("{} faults, {cells} cells", done.len());
    let wrong: Vec<String> = done.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 25, "{cells} cells");
}

/// The control: what the wall is there to find is found.
#[test]
fn the_wall_finds_what_looks_like_an_answer() {
    let cell = Cell { front: Front::Chat, stream: true, has_second: false };
    let came = |body: &str, is_whole: bool| Came {
        status: 200,
        headers: [("content-type".to_owned(), "text/event-stream".to_owned())].into(),
        body: body.as_bytes().to_vec(),
        is_whole,
        is_late: false,
    };
    let piece = r#"data: {"choices":[{"delta":{"content":"Hel"},"finish_reason":null}]}"#;
    let end = r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let error =
        r#"data: {"error":{"message":"the backend broke off","type":"server_error","code":"unavailable"}}"#;
    let wrong =
        |body: String, is_whole: bool| judge(cell, Outcome::Broken, &came(&body, is_whole), "Hello").is_err();
    assert!(!wrong(format!("{piece}\n\n{error}\n\n"), false), "as it has to be");
    assert!(wrong(format!("{piece}\n\n{error}\n\n"), true), "a polite end after the error");
    assert!(wrong(format!("{piece}\n\n{error}\n\ndata: [DONE]\n\n"), false), "[DONE] after the error");
    assert!(wrong(format!("{piece}\n\n"), false), "a cut without a word");
    assert!(wrong(format!("{piece}\n\n{end}\n\ndata: [DONE]\n\n"), true), "a silent truncation");
    assert!(wrong(format!("{piece}\n\n{{\n\n{error}\n\n"), true), "garbage");
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hel\"}";
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\
        \"error\":{\"code\":\"unavailable\",\"message\":\"the backend broke off\"}}}";
    let responses = Cell { front: Front::Responses, ..cell };
    let wrong = |body: String, is_whole: bool| {
        judge(responses, Outcome::Broken, &came(&body, is_whole), "Hello").is_err()
    };
    assert!(!wrong(format!("{delta}\n\n{failed}\n\n"), true), "as it has to be");
    assert!(wrong(format!("{delta}\n\n{failed}\n\n"), false), "a reason that is thrown away");
    assert!(wrong(format!("{delta}\n\n"), true), "a polite end without a word");
    let whole = format!("{piece}\n\n{end}\n\ndata: [DONE]\n\n");
    let unseen = judge(cell, Outcome::Unseen, &came(&whole, true), "Hello");
    assert!(unseen.is_err_and(|what| what.contains("another text")));
}
