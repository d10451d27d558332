//! Other gateways before the fault wall, as processes of their own: the same simulated backends with the same faults, asked for
//! an OpenAI chat, plain and streamed, with a healthy second backend behind. Prints two tables as Markdown. What Neural-Home
//! does there is asserted by `tests/interop/wall.rs`; its column is what that test demands.
//!
//! `cargo run -p nhi-tests --example wall_peers`; with names (`litellm portkey tensorzero vllm-router`) only those. It needs
//! Python 3.10 or newer with venv, and Node.js 20 with npm for Portkey; what is missing is installed at pinned versions below
//! `target/tmp/ai-peers` (or `NHI_PEERS`), about 900 MB.

#![expect(clippy::print_stdout, reason = "it prints its tables")]

#[path = "../../tests/interop/wall/cases.rs"]
mod cases;
#[path = "../../tests/interop/wall/fronts.rs"]
#[expect(dead_code, reason = "only one front is asked here")]
mod fronts;
mod products;
mod seen;
#[path = "../../tests/interop/wall/wire.rs"]
mod wire;

use self::{
    cases::{Case, First, Outcome, cases},
    fronts::Front,
    products::{Product, Started},
    seen::Seen,
};
use anyhow::{Context as _, Result, ensure};
use nhi_model::ai::BackendKind;
use nhi_sim::models::{self, Fault, ModelSettings, Options, Running, answer_text};
use nhi_tests::measure::{Table, machine, note};
use std::{collections::BTreeMap, net::TcpListener, time::Duration};

/// Longest that a client waits for one answer; the products' own limits are [`products::PATIENCE`], where they have some.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Between two tokens: a cut comes after what was sent before it was read.
const TOKENS_PER_S: f64 = 66.0;
/// Tokens of a whole answer.
const TOKENS: u32 = 60;
/// The name of every simulated model.
pub(crate) const MODEL: &str = "m";

/// A row: a faulty backend for plain requests and one for streams, so that what a product learned from one is nothing to the
/// other.
struct Row {
    case: Case,
    plain: Server,
    stream: Server,
}

/// A backend, if it is one.
struct Server {
    url: String,
    running: Option<Running>,
}

impl Server {
    async fn of(case: &Case, elsewhere: &Running) -> Result<Self> {
        let model = ModelSettings { tokens_per_s: TOKENS_PER_S, ..ModelSettings::named(MODEL) };
        let running = models::serve(Options::local(case.provider, vec![model])).await?;
        let url = match &case.first {
            First::Does(faults) => {
                faults.iter().for_each(|fault| _ = running.set_fault(fault.clone()));
                running.url.clone()
            }
            First::Redirects => {
                running.set_fault(Fault::Redirect { to: format!("{}/v1/chat/completions", elsewhere.url) });
                running.url.clone()
            }
            First::Closed => {
                let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
                return Ok(Self { url: format!("http://{free}"), running: None });
            }
            First::Nowhere => {
                return Ok(Self { url: "http://nobody.invalid:11434".to_owned(), running: None });
            }
        };
        Ok(Self { url, running: Some(running) })
    }

    fn asked(&self) -> u64 {
        self.running.as_ref().map_or(1, asked_for)
    }
}

/// Requests for text.
fn asked_for(server: &Running) -> u64 {
    server.counts().by_model.values().sum()
}

/// All that stands behind the products.
struct Wall {
    rows: Vec<Row>,
    second: Running,
    elsewhere: Running,
}

impl Wall {
    async fn open() -> Result<Self> {
        let paced = || ModelSettings { tokens_per_s: TOKENS_PER_S, ..ModelSettings::named(MODEL) };
        let serve =
            |model: ModelSettings| models::serve(Options::local(models::Provider::Llamacpp, vec![model]));
        let (second, elsewhere) = (serve(paced()).await?, serve(paced()).await?);
        let mut rows = Vec::new();
        // Anthropic's, Google's and Ollama's own APIs are no part of what all of these products speak.
        for case in cases().into_iter().filter(|case| case.kind == BackendKind::Openai) {
            let (plain, stream) =
                (Server::of(&case, &elsewhere).await?, Server::of(&case, &elsewhere).await?);
            rows.push(Row { case, plain, stream });
        }
        Ok(Self { rows, second, elsewhere })
    }

    /// Asks a product one cell.
    async fn ask(&self, product: &Started, row: usize, stream: bool) -> Result<Seen> {
        let case = &self.rows[row].case;
        if product.is_absent {
            return Ok(Seen::Absent);
        }
        let server = if stream { &self.rows[row].stream } else { &self.rows[row].plain };
        let question = format!("What is behind {} at {}?", case.name, product.name());
        let (_, mut body) = Front::Chat.request(MODEL, &question, stream);
        let (first, elsewhere) = (server.asked(), asked_for(&self.elsewhere));
        let mut second = asked_for(&self.second);
        // Who spreads its requests may begin with the other one.
        let mut came = wire::Came::default();
        for _ in 0..3 {
            second = asked_for(&self.second);
            let asked = product.request(row, stream, &server.url, &self.second.url, &mut body)?;
            let headers: Vec<(&str, &str)> = asked.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            came = wire::post(asked.addr, &asked.path, &headers, &body.to_string(), ANSWER_MAX).await;
            if server.running.is_none() || server.asked() > first {
                break;
            }
        }
        let has_second = asked_for(&self.second) > second;
        let has_followed = asked_for(&self.elsewhere) > elsewhere;
        Ok(seen::of(stream, &came, &answer_text(&question, TOKENS), has_second, has_followed))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let products: Vec<Product> = Product::ALL
        .into_iter()
        .filter(|p| named.is_empty() || named.contains(&p.name().to_owned()))
        .collect();
    ensure!(!products.is_empty(), "{named:?} are none of litellm, portkey, tensorzero, vllm-router");
    let mut seen: BTreeMap<(&str, usize, bool), Seen> = BTreeMap::new();
    for product in &products {
        note(&format!("{} {}", product.name(), product.version()));
        product.install().await.with_context(|| format!("installing {}", product.name()))?;
        // Fresh backends for each, so that their counters are its own.
        let wall = Wall::open().await?;
        let routes = wall.rows.iter().map(|row| (row.plain.url.clone(), row.stream.url.clone())).collect();
        let mut started = product.start(routes, &wall.second.url).await?;
        for row in 0..wall.rows.len() {
            for stream in [false, true] {
                if wall.rows[row].case.is_heavy && stream {
                    continue;
                }
                started.renew(row, stream).await?;
                let what = wall.ask(&started, row, stream).await?;
                note(&format!(
                    "{}, {}: {what}",
                    wall.rows[row].case.name,
                    if stream { "streamed" } else { "plain" }
                ));
                seen.insert((product.name(), row, stream), what);
            }
        }
    }
    println!("{}\n", machine());
    for stream in [false, true] {
        println!("{}\n", table(&products, &seen, stream));
    }
    Ok(())
}

/// Rows of faults, columns of products.
fn table(products: &[Product], seen: &BTreeMap<(&str, usize, bool), Seen>, stream: bool) -> Table {
    let form = if stream { "streamed" } else { "plain" };
    let mut head = vec![form.to_owned(), "Neural-Home".to_owned()];
    head.extend(products.iter().map(|p| format!("{} {}", p.name(), p.version())));
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = cases().into_iter().filter(|case| case.kind == BackendKind::Openai);
    for (row, case) in rows.enumerate() {
        let ours = if stream { case.stream[0] } else { case.plain[0] };
        let told = products
            .iter()
            .map(|p| seen.get(&(p.name(), row, stream)).map_or("not asked".to_owned(), ToString::to_string));
        table.row([case.name.to_owned(), ours_told(ours)].into_iter().chain(told));
    }
    let lies = products.iter().map(|p| {
        let mut all = seen
            .iter()
            .filter(|((name, _, form), seen)| *name == p.name() && *form == stream && seen.is_lie());
        format!("{}", all.by_ref().count())
    });
    table.row(["taken for an answer".to_owned(), "0".to_owned()].into_iter().chain(lies));
    table
}

fn ours_told(outcome: Outcome) -> String {
    match outcome {
        Outcome::Untouched => "whole".to_owned(),
        Outcome::Unseen => "whole, by the second".to_owned(),
        Outcome::Continued => "whole, ended by the second".to_owned(),
        Outcome::Refused(status) => format!("error {status}"),
        Outcome::Longer => "whole".to_owned(),
        Outcome::Unreached => "error 503 or 504".to_owned(),
        Outcome::Limited => "cut by its limit, said so".to_owned(),
        Outcome::Broken => "part, error".to_owned(),
    }
}
