//! What may not leave home does not, whatever the request, the rules, the aliases and the world are.

use super::lab::{asked, backend, body, later, now, question, settings, who, with, world};
use nhi_decide::route::{
    Alias, BackendSettings, BackendWorld, Selector, Settings, World, decide, judge_request, judges, mistakes,
    read,
};
use nhi_model::{
    ai::{BackendKind, Model, Privacy},
    gpu::Light,
};
use proptest::prelude::*;
use serde_json::json;

#[test]
fn the_strictest_of_request_alias_caller_and_project_counts() {
    let settings = with(
        "[caller.aider]\nprivacy = \"no-training\"\n[project.diary]\nprivacy = \"home\"\n[alias.open]\n",
    );
    let world = world(&settings);
    let privacy = |model: &str, nhi: serde_json::Value| {
        let mut request = question(model, "hi");
        request.insert("nhi".to_owned(), nhi);
        read(&request, &"aider".parse().unwrap(), &settings).unwrap().privacy
    };
    assert_eq!(privacy("open", json!({})), Privacy::NoTraining);
    assert_eq!(privacy("open", json!({"privacy": "any"})), Privacy::NoTraining);
    assert_eq!(privacy("open", json!({"privacy": "home"})), Privacy::Home);
    assert_eq!(privacy("open", json!({"project": "diary"})), Privacy::Home);
    assert_eq!(privacy("private", json!({"privacy": "any"})), Privacy::Home);
    assert_eq!(who(&asked(&settings, &world, &question("private", "hi"))), ["pc", "nas"]);
}

#[test]
fn private_stays_home_whatever_order_somebody_gives_it() {
    let settings = with("[alias.private]\norder = [\"nas\", \"*\"]\n[alias.local]\norder = [\"groq\"]\n");
    let world = world(&settings);
    assert_eq!(who(&asked(&settings, &world, &question("private", "hi"))), ["nas", "pc"]);
    // The control: `local` is an order and no more.
    assert_eq!(who(&asked(&settings, &world, &question("local", "hi"))), ["groq"]);
}

#[test]
fn a_project_nobody_knows_is_refused_where_another_may_not_leave() {
    let of = |file: &str, project: &str| {
        let mut request = question("auto", "hi");
        request.insert("nhi".to_owned(), json!({"project": project}));
        read(&request, &"aider".parse().unwrap(), &with(file)).map_err(|error| error.to_string())
    };
    let strict = "[project.diary]\nprivacy = \"home\"\n[project.garden]\n";
    let error = of(strict, "dairy").unwrap_err();
    assert!(error.starts_with("nhi.project: ") && error.ends_with("did you mean diary?"), "{error}");
    assert!(of(strict, "zzz").unwrap_err().contains("leave it out"));
    assert_eq!(of(strict, "diary").unwrap().privacy, Privacy::Home);
    assert_eq!(of(strict, "garden").unwrap().privacy, Privacy::Any);
    // The control: where no project is kept from leaving, a name is only a name.
    assert_eq!(of("[project.garden]\n", "dairy").unwrap().privacy, Privacy::Any);
}

#[test]
fn ollamas_clouds_are_elsewhere_through_every_door() {
    let mut settings = settings();
    for kind in BackendKind::ALL {
        for (model, home) in [("kimi-k2:1t-cloud", false), ("glm-4.6:Cloud", false), ("cloudy:8b", true)] {
            let mut one = BackendSettings::new("one", kind, "http://127.0.0.1:11434/v1");
            one.home = true;
            settings.backends = vec![one];
            let mut world = world(&settings);
            backend(&mut world, "one").models = vec![Model { name: model.to_owned(), ..Model::default() }];
            let decision = asked(&settings, &world, &question("private", "hi"));
            assert_eq!(who(&decision) == ["one"], home, "{kind:?} {model}");
        }
    }
}

#[test]
fn an_ollama_model_is_home_only_when_its_server_said_where_it_runs() {
    let settings = settings();
    let mut world = world(&settings);
    let request = question("private", "hi");
    backend(&mut world, "pc").models.clear();
    assert_eq!(who(&asked(&settings, &world, &request)), ["nas"]);
    // A server that says it passes the model on is believed, whatever the file says.
    let told = Model { name: "qwen2.5:14b".to_owned(), elsewhere: true, ..Model::default() };
    backend(&mut world, "pc").models = vec![told.clone()];
    assert_eq!(who(&asked(&settings, &world, &request)), ["nas"]);
    backend(&mut world, "pc").models = vec![Model { elsewhere: false, ..told }];
    assert_eq!(who(&asked(&settings, &world, &request)), ["pc", "nas"]);
    // The same for what may be seen, and not kept, elsewhere.
    let mut untrained = question("local", "hi");
    untrained.insert("nhi".to_owned(), json!({ "privacy": "no-training" }));
    assert_eq!(who(&asked(&settings, &world, &untrained)), ["pc", "nas"]);
    backend(&mut world, "pc").models.clear();
    assert_eq!(who(&asked(&settings, &world, &untrained)), ["nas"]);
}

#[test]
fn a_judge_sees_no_more_than_a_backend_may() {
    let judge =
        "[judge]\nmodels = [\"groq/llama-3.3-70b-versatile\", \"nas/smollm\"]\n[alias.mine]\norder = [\"*\"]";
    let settings = with(judge);
    let asked = |settings: &Settings, world: &World, request: serde_json::Value| {
        let ask = read(&body(request), &"aider".parse().unwrap(), settings).unwrap();
        let picks = judges(now(), settings, world, &ask).into_iter();
        picks.map(|pick| (pick.choice.provider.clone(), judge_request(&pick, &ask))).collect::<Vec<_>>()
    };
    let names = |model: &str, nhi: serde_json::Value| {
        let messages = json!([{"role": "user", "content": "Dear diary"}]);
        let request = json!({"model": model, "nhi": nhi, "messages": messages, "tools": [{"type": "x"}]});
        let rows = asked(&settings, &world(&settings), request).into_iter();
        rows.map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("auto", json!({})), ["groq", "nas"], "in this order, and also where tools are needed");
    assert_eq!(names("auto", json!({"privacy": "home"})), ["nas"]);
    // Nothing depends on it, or there is no time for it.
    for (model, nhi) in [
        ("private", json!({})),
        ("coding", json!({})),
        ("mine", json!({})),
        ("nas/smollm", json!({})),
        ("auto", json!({"priority": "autocomplete"})),
    ] {
        assert_eq!(names(model, nhi), [""; 0], "{model}");
    }
    let mut gone = world(&settings);
    backend(&mut gone, "groq").health.cooling_until = Some(later(60));
    assert!(
        asked(&with(""), &world(&settings), json!({"messages": [{"role": "user", "content": "x"}]}))
            .is_empty()
    );
    let long = format!("{}secret", "x".repeat(600));
    let request = json!({"messages": [{"role": "user", "content": long}], "temperature": 2, "max_tokens": 9});
    let rows = asked(&settings, &gone, request.clone());
    assert_eq!(
        rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["nas"],
        "the other one rests"
    );
    let sent = &asked(&settings, &world(&settings), request)[0].1;
    assert!(!sent["messages"].to_string().contains("secret"), "it reads the head alone");
    assert_eq!((&sent["model"], &sent["temperature"]), (&json!("llama-3.3-70b-versatile"), &json!(0)));
}

#[test]
fn a_cloud_is_not_at_home_because_somebody_wrote_so() {
    let check = |url: &str, ok: bool| {
        let mut one = BackendSettings::new("one", BackendKind::Openai, url);
        one.home = true;
        let settings = Settings { backends: vec![one], ..Settings::default() };
        assert_eq!(mistakes(&settings).is_empty(), ok, "{url}: {:?}", mistakes(&settings));
    };
    check("http://127.0.0.1:11434", true);
    check("http://192.168.1.9:8080/v1", true);
    check("http://[fd00::1]:8080/v1", true);
    check("http://nas:8080/v1", true);
    check("http://notgroq.com.lan/v1", true);
    check("https://api.groq.com/openai/v1", false);
    check("https://GROQ.com/", false);
    check("https://8.8.8.8/v1", false);
    check("https://nas@api.groq.com/v1", false);
}

fn any_backend(name: &'static str) -> impl Strategy<Value = (BackendSettings, BackendWorld)> {
    let kind = proptest::sample::select(BackendKind::ALL.to_vec());
    let names = vec!["a:3b", "b:70b", "c-cloud", "d:cloud", "e"];
    let models = proptest::collection::vec((proptest::sample::select(names), any::<bool>()), 0..4);
    let light =
        proptest::sample::select(vec![None, Some(Light::Green), Some(Light::Yellow), Some(Light::Red)]);
    let privacy = proptest::sample::select(vec![Privacy::Any, Privacy::NoTraining, Privacy::Home]);
    (kind, any::<[bool; 4]>(), models.clone(), models, light, privacy).prop_map(
        move |(kind, [home, gpu, has_key, busy], listed, told, light, privacy)| {
            let mut settings = BackendSettings::new(name, kind, "http://192.168.1.9/v1");
            (settings.home, settings.privacy) = (home, privacy);
            settings.gpu = gpu.then(|| "pc".to_owned());
            let model = |(name, elsewhere): &(&str, bool)| Model {
                name: (*name).to_owned(),
                elsewhere: *elsewhere,
                ..Model::default()
            };
            settings.models = listed
                .iter()
                .map(|row| nhi_decide::route::ModelSettings {
                    elsewhere: row.1,
                    ..nhi_decide::route::ModelSettings::named(row.0)
                })
                .collect();
            let world = BackendWorld {
                has_key,
                light: light.map(Ok),
                models: told.iter().map(model).collect(),
                running: u32::from(busy),
                ..BackendWorld::default()
            };
            (settings, world)
        },
    )
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let words =
        vec!["*", "@home", "@gpu", "@cloud", "@free", "one", "two", "three/b:70b", "two/c-cloud", "one/e"];
    proptest::sample::select(words).prop_map(|word| word.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No input makes a request that may not leave home choose a backend elsewhere, or a model that is passed on.
    #[test]
    fn home_is_absolute(
        one in any_backend("one"), two in any_backend("two"), three in any_backend("three"),
        rule in proptest::collection::vec(any_selector(), 0..4),
        order in proptest::collection::vec(any_selector(), 0..4),
        asked in proptest::sample::select(
            vec!["auto", "private", "local", "mine", "a:3b", "b:70b", "c-cloud", "one/d:cloud", "two/e", "three/zzz", ""],
        ),
        by in 0_u8..5, bulk in any::<bool>(),
    ) {
        let mut settings = Settings::default();
        let mut world = World::default();
        for (backend, known) in [one, two, three] {
            world.backends.insert(backend.name.clone(), known);
            settings.backends.push(backend);
        }
        settings.rules.coding.clone_from(&rule);
        settings.rules.simple = rule;
        let alias = Alias { order, ..Alias::default() };
        for name in ["mine", "local", "private"] {
            settings.aliases.insert(name.to_owned(), alias.clone());
        }
        let mut nhi = json!({"priority": if bulk { "bulk" } else { "chat" }});
        match by {
            0 => nhi["privacy"] = "home".into(),
            1 => {
                settings.projects.insert("p".to_owned(), toml::from_str("privacy = \"home\"").unwrap());
                nhi["project"] = "p".into();
            }
            2 => {
                settings.callers.insert("*".to_owned(), toml::from_str("privacy = \"home\"").unwrap());
            }
            3 => settings.aliases.values_mut().for_each(|alias| alias.privacy = Privacy::Home),
            _ => {}
        }
        let asked = match by {
            3 => "mine",
            4 => "private",
            _ => asked,
        };
        let request = body(json!({"model": asked, "nhi": nhi, "messages": [{"role": "user", "content": "hi"}]}));
        let ask = read(&request, &"aider".parse().unwrap(), &settings).unwrap();
        prop_assert_eq!(ask.privacy, Privacy::Home);
        let decision = decide(now(), &settings, &world, &ask);
        for pick in &decision.picks {
            let backend = settings.backends.iter().find(|row| row.name == pick.choice.provider).unwrap();
            prop_assert!(backend.home && pick.home, "{:?}", pick);
            let name = &pick.choice.model;
            prop_assert!(!backend.models.iter().any(|model| model.name == *name && model.elsewhere), "{:?}", pick);
            let mut told = world.backends[&backend.name].models.iter().filter(|model| model.name == *name);
            prop_assert!(told.clone().all(|model| !model.elsewhere), "{:?}", pick);
            prop_assert!(!name.ends_with("cloud"), "{:?}", pick);
            prop_assert!(backend.kind != BackendKind::Ollama || told.next().is_some(), "{:?}", pick);
        }
        // Each is chosen or lost, none both.
        for lost in &decision.routed.lost {
            let chosen = decision.picks.iter().any(|pick| {
                pick.choice.provider == lost.provider && pick.choice.model == lost.model
            });
            let twice = settings.backends.iter().any(|row| {
                row.name == lost.provider
                    && (row.models.iter().filter(|model| model.name == lost.model).count() > 1
                        || world.backends[&row.name].models.iter().filter(|model| model.name == lost.model).count() > 1)
            });
            prop_assert!(!chosen || twice, "{:?}", lost);
        }
    }
}
