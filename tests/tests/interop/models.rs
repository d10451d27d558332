//! The doors for AI programs as those programs' own libraries meet them: openai, anthropic, ollama and google-genai against
//! the gateway, with a router and a model server behind it; once with a model that is simulated, once with llama.cpp and a real
//! one, a second time with one that is made on the spot.

use crate::peer::{self, Peer};
use nhi_agents::{route, state};
use nhi_bus::{
    cx::Cx,
    store::{StoreSettings, provision},
};
use nhi_decide::route::{BackendSettings, Settings};
use nhi_gateway::{Options, Running};
use nhi_model::{
    ai::{BackendKind, ModelRow},
    identity::Role,
};
use nhi_sim::models::{self, ModelSettings, Provider, answer_text};
use nhi_testkit::{Nats, wait_for};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, time::Duration};
use tokio::process::Command;

/// Longest that all libraries together may take.
const CLIENTS_MAX: Duration = Duration::from_secs(240);
const QUESTION: &str = "Tell me about the sea.";
/// Tokens of an answer.
const TOKENS: u32 = 48;
/// Tokens of an answer of the real model, which two processors have to work out.
const REAL_TOKENS: u32 = 16;

/// A gateway and a router before backends.
pub(crate) struct House {
    pub(crate) cx: Cx,
    pub(crate) nats: Nats,
    pub(crate) addr: SocketAddr,
}

impl House {
    /// Before one backend, whose models are known.
    async fn open(backend: BackendSettings) -> Self {
        let house = Self::with(Settings { backends: vec![backend], ..Settings::default() }).await;
        house.knows_its_models().await;
        house
    }

    /// Before the backends of these settings.
    pub(crate) async fn with(settings: Settings) -> Self {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        provision(&nats.connect(&cx, "home").await, &StoreSettings { replicas: 1 }).await.unwrap();
        nats.add("aider", Role::Agent).await;
        // The gateway asks the keeper whose a credential is.
        let options = state::Options { registry: nats.dir() };
        state::run(&cx, nats.connect(&cx, "state").await, options).await.unwrap();
        let options =
            route::Options { settings, keys: BTreeMap::new(), seed: nats.seed("route"), workers: 1 };
        route::run(&cx, nats.connect(&cx, "route").await, options).await.unwrap();
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            target: nats.target(),
            bus: nats.connect(&cx, "gateway").await,
            tls: None,
        };
        let Running { addr } = nhi_gateway::run(&cx, options).await.unwrap();
        Self { cx, nats, addr }
    }

    /// What an AI program is given: the key of an agent.
    pub(crate) fn key(&self) -> String {
        self.nats.seed("aider").expose().to_owned()
    }

    async fn knows_its_models(&self) {
        let aider = self.nats.connect(&self.cx, "aider").await;
        wait_for("the models of the backend", Duration::from_secs(30), async || {
            let asked = nhi_model::ai::AiModelsAsk {};
            let listed =
                nhi_bus::call::call::<_, nhi_model::ai::AiModels>(&aider, "ai", "models", &asked).await;
            let rows = listed.map(|listed| listed.models).map_err(|error| error.to_string())?;
            let is_known = |row: &ModelRow| row.model.as_ref().is_some_and(|m| m.context_tokens.is_some());
            if rows.iter().any(is_known) { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    }

    /// What each library tells, by its name.
    async fn clients(&self, tokens: u32, tools: &str) -> BTreeMap<String, Facts> {
        let mut command = Command::from(
            peer::python("clients.txt").await.script(&peer::scripts().join("model_clients.py")),
        );
        command.env("NHI_URL", format!("http://{}", self.addr)).env("NHI_KEY", self.key());
        command.env("NHI_MODEL", "auto").env("NHI_QUESTION", QUESTION).env("NHI_TOOLS", tools);
        command.env("NHI_TOKENS", tokens.to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended =
            tokio::time::timeout(CLIENTS_MAX, command.output()).await.expect("it ends in time").unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        assert!(ended.status.success(), "{told}\n{}", String::from_utf8_lossy(&ended.stderr));
        let facts = told.lines().map(|line| serde_json::from_str::<Facts>(line).unwrap());
        facts.map(|facts| (facts.library.clone(), facts)).collect()
    }
}

/// What a library got.
#[derive(Debug, Deserialize)]
struct Facts {
    library: String,
    whole: String,
    streamed: String,
    pieces: u32,
    finish: String,
    tokens: [u32; 2],
    #[serde(default)]
    models: Vec<String>,
    refused: Option<String>,
    tool: Option<String>,
    #[serde(flatten)]
    _rest: BTreeMap<String, Value>,
}

const LIBRARIES: [&str; 5] = ["anthropic", "google", "ollama", "openai", "responses"];

#[tokio::test]
async fn every_library_is_answered_in_its_own_words() {
    let model = ModelSettings { tools: true, context_tokens: 8192, ..ModelSettings::named("small") };
    let server = models::serve(models::Options::local(Provider::Llamacpp, vec![model])).await.unwrap();
    let url = format!("{}/v1", server.url);
    let backend = BackendSettings { home: true, ..BackendSettings::new("pc", BackendKind::Openai, url) };
    let house = House::open(backend).await;
    let told = house.clients(TOKENS, "yes").await;
    assert_eq!(told.keys().map(String::as_str).collect::<Vec<_>>(), LIBRARIES);
    let expected = answer_text(QUESTION, TOKENS);
    for facts in told.values() {
        assert_eq!((&facts.whole, &facts.streamed), (&expected, &expected), "{facts:?}");
        assert!(facts.pieces > 5, "{facts:?}");
        assert_eq!(facts.tokens[0], facts.tokens[1], "{facts:?}");
        if facts.library != "responses" {
            assert_eq!(facts.tool.as_deref(), Some("weather"), "{facts:?}");
            assert!(facts.refused.as_ref().is_some_and(|text| text.contains("no-such-model")), "{facts:?}");
        }
        if ["openai", "anthropic", "ollama"].contains(&facts.library.as_str()) {
            assert!(facts.models.iter().any(|name| name == "auto"), "{facts:?}");
        }
    }
    assert_eq!(server.counts().in_flight, 0);
    house.cx.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_real_model_answers_through_every_door() {
    through_every_door(&[]).await;
}

#[tokio::test]
async fn a_model_made_on_the_spot_answers_through_every_door() {
    through_every_door(&["tiny"]).await;
}

/// Asks llama.cpp's server, started so, through every door.
async fn through_every_door(arguments: &[&str]) {
    #[derive(Deserialize)]
    struct Started {
        url: String,
    }
    let mut llama = Peer::start_with("llama_server.py", "models.txt", arguments).await;
    let Started { url } = llama.hear().await;
    let backend = BackendSettings {
        home: true,
        ..BackendSettings::new("llama", BackendKind::Openai, format!("{url}/v1"))
    };
    let house = House::open(backend).await;
    let told = house.clients(REAL_TOKENS, "no").await;
    assert_eq!(told.keys().map(String::as_str).collect::<Vec<_>>(), LIBRARIES);
    for facts in told.values() {
        // Without chance the same model says the same, whichever door it is asked through.
        assert_eq!(
            (&facts.whole, &facts.streamed),
            (&told["openai"].whole, &told["openai"].whole),
            "{told:?}"
        );
        assert!(facts.whole.len() > 20 && facts.pieces > 5, "{facts:?}");
        assert!(
            ["length", "max_tokens", "MAX_TOKENS", "incomplete"].contains(&facts.finish.as_str()),
            "{facts:?}"
        );
    }
    house.cx.close().await;
}
