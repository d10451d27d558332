//! Each reason why a backend is not asked, next to a control that it would be, and what the caller is told when nobody
//! is left.

use super::lab::{asked, backend, body, later, now, order, question, settings, who, why, with, world};
use nhi_decide::{
    route::{Decision, Happened, RefusalKind, Settings, World, after, is_passing, refusal},
    semaphore::Unavailable,
};
use nhi_model::{ai::LostWhy, gpu::Light};
use serde_json::{Map, Value, json};
use std::time::Duration;

const GROQ: (&str, &str) = ("groq", "llama-3.3-70b-versatile");
const PC: (&str, &str) = ("pc", "qwen2.5:14b");
const QWEN: (&str, &str) = ("qwen_cloud", "qwen-max");

/// It is asked without the change and lost with it.
fn check(
    settings: &Settings,
    request: &Map<String, Value>,
    (provider, model): (&str, &str),
    change: impl Fn(&mut World),
    expect: LostWhy,
) -> Decision {
    let mut world = world(settings);
    let control = asked(settings, &world, request);
    assert!(who(&control).contains(&provider), "{provider} is not asked anyway: {:?}", control.routed.lost);
    change(&mut world);
    let decision = asked(settings, &world, request);
    assert_eq!(why(&decision, provider, model), Some(expect), "{:?}", decision.routed);
    assert!(!order(&decision).contains(&format!("{provider}/{model}")));
    decision
}

fn until(decision: &Decision, provider: &str) -> Option<nhi_model::Timestamp> {
    decision.routed.lost.iter().find(|lost| lost.provider == provider)?.until
}

#[test]
fn not_asked() {
    let settings = settings();
    let decision = asked(&settings, &world(&settings), &question("qwen-max", "hi"));
    assert_eq!(who(&decision), ["qwen_cloud"]);
    assert_eq!(why(&decision, "groq", ""), Some(LostWhy::NotAsked));
    assert_eq!(decision.routed.lost.len(), 4);
}

#[test]
fn unable() {
    let settings = settings();
    let world = world(&settings);
    let mut tools = question("auto", "hi");
    assert!(who(&asked(&settings, &world, &tools)).contains(&"nas"));
    tools.insert("tools".to_owned(), json!([{"type": "function", "function": {"name": "look"}}]));
    let decision = asked(&settings, &world, &tools);
    assert_eq!(why(&decision, "nas", "smollm"), Some(LostWhy::Unable));
    assert!(who(&decision).contains(&"pc"), "what is not told is tried");
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:,"}}]}]});
    let decision = asked(&settings, &world, &body(image));
    assert_eq!(who(&decision), ["gemini-flash"]);
    assert_eq!(why(&decision, GROQ.0, GROQ.1), Some(LostWhy::Unable));
    // Whoever asks for it by name may know better, unless it was said that it cannot.
    let named = |model: &str| {
        let image =
            json!({"model": model, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]});
        asked(&settings, &world, &body(image)).picks.len()
    };
    assert_eq!((named("qwen-max"), named("gemini-2.0-flash")), (1, 1));
    let embed = body(json!({"model": "auto", "input": ["a", "b"]}));
    let decision = asked(&settings, &world, &embed);
    assert!(who(&decision).is_empty() && decision.routed.lost.iter().all(|lost| lost.why == LostWhy::Unable));
    let gone = |world: &mut World| {
        backend(world, "groq").health.missing.insert(GROQ.1.to_owned(), later(60));
    };
    let decision = check(&settings, &question("auto", "hi"), GROQ, gone, LostWhy::Unable);
    assert_eq!(until(&decision, "groq"), Some(later(60)));
}

#[test]
fn private() {
    let settings = settings();
    let world = world(&settings);
    let mut request = question("auto", "hi");
    request.insert("nhi".to_owned(), json!({"privacy": "no-training"}));
    let decision = asked(&settings, &world, &request);
    assert_eq!(why(&decision, QWEN.0, QWEN.1), Some(LostWhy::Private));
    assert!(who(&decision).contains(&"groq") && who(&decision).contains(&"pc"));
    assert_eq!(why(&decision, "pc", "gpt-oss:120b-cloud"), Some(LostWhy::Private));
    request.insert("nhi".to_owned(), json!({"privacy": "home"}));
    let decision = asked(&settings, &world, &request);
    assert_eq!(who(&decision), ["pc", "nas"]);
    assert_eq!(why(&decision, GROQ.0, GROQ.1), Some(LostWhy::Private));
}

#[test]
fn not_allowed() {
    let settings = with(
        "[caller.aider]\nbackends = [\"pc\", \"groq\"]\nrequests_a_minute = 3\nparallel = 2\ntokens_a_day = 5000\n\
         [project.garden]\nbackends = [\"pc\"]\n",
    );
    let request = question("auto", "hi");
    let decision = asked(&settings, &world(&settings), &request);
    assert_eq!(who(&decision), ["groq", "pc"]);
    assert_eq!(why(&decision, QWEN.0, QWEN.1), Some(LostWhy::NotAllowed));
    let mut project = request.clone();
    project.insert("nhi".to_owned(), json!({"project": "garden"}));
    assert_eq!(who(&asked(&settings, &world(&settings), &project)), ["pc"]);
    check(&settings, &request, GROQ, |world| world.caller.running = 2, LostWhy::NotAllowed);
    let caller = &settings.callers["aider"];
    let (requests, tokens) = (caller.requests_quota().unwrap(), caller.tokens_quota().unwrap());
    let often = |world: &mut World| {
        for _ in 0..3 {
            world.caller.requests.reserve(&requests, now(), 1).unwrap();
        }
    };
    let decision = check(&settings, &request, GROQ, often, LostWhy::NotAllowed);
    assert_eq!(decision.routed.again_at, Some(later(70)));
    let much = |world: &mut World| {
        world.caller.tokens.reserve(&tokens, now(), 4500).unwrap();
    };
    check(&settings, &request, GROQ, much, LostWhy::NotAllowed);
}

#[test]
fn gpu_taken_and_unknown() {
    let settings = settings();
    let request = question("coding", "hi");
    check(&settings, &request, PC, |world| backend(world, "pc").light = None, LostWhy::GpuUnknown);
    for why in [LostWhy::GpuTaken, LostWhy::GpuUnknown] {
        let no = Unavailable { why, text: "the game Dota 2 runs".to_owned(), until: Some(later(60)) };
        let taken = |world: &mut World| backend(world, "pc").light = Some(Err(no.clone()));
        let decision = check(&settings, &request, PC, taken, why);
        let lost = decision.routed.lost.iter().find(|lost| lost.provider == "pc").unwrap();
        assert_eq!((lost.text.as_str(), lost.until), ("gaming-pc: the game Dota 2 runs", Some(later(60))));
    }
    let red = |world: &mut World| backend(world, "pc").light = Some(Ok(Light::Red));
    check(&settings, &request, PC, red, LostWhy::GpuTaken);
}

#[test]
fn quota() {
    let limits = r#"quotas = [{ what = "requests", per = "day", limit = 2 }, { what = "tokens", per = "minute", limit = 3000 }]"#;
    let file = super::lab::FILE.replace("models = [\"llama-3.3", &format!("{limits}\nmodels = [\"llama-3.3"));
    let settings: Settings = toml::from_str(&file).unwrap();
    let quotas = settings.backends[2].quotas.clone();
    let request = question("auto", "hi");
    let take = |index: usize, amount: u64| {
        let quota = quotas[index].clone();
        move |world: &mut World| {
            let meter = backend(world, "groq").meters.entry(quota.key()).or_default();
            meter.reserve(&quota, now(), amount).unwrap();
        }
    };
    let decision = check(&settings, &request, GROQ, take(0, 2), LostWhy::Quota);
    assert_eq!(until(&decision, "groq"), Some("2026-07-02T00:00:00Z".parse().unwrap()));
    let decision = check(&settings, &request, GROQ, take(1, 2500), LostWhy::Quota);
    assert_eq!(until(&decision, "groq"), Some(later(70)));
    // The last one is still given.
    let mut world = world(&settings);
    take(0, 1)(&mut world);
    assert_eq!(who(&asked(&settings, &world, &request))[0], "groq");
}

#[test]
fn cooling() {
    let settings = settings();
    let cool = |seconds| {
        move |world: &mut World| {
            let health = &mut backend(world, "groq").health;
            health.cooling_until = Some(later(seconds));
            health.cooling_text = "groq said that it was asked too often".to_owned();
        }
    };
    let decision = check(&settings, &question("auto", "hi"), GROQ, cool(1), LostWhy::Cooling);
    assert_eq!(until(&decision, "groq"), Some(later(1)));
    let mut world = world(&settings);
    cool(0)(&mut world);
    assert_eq!(who(&asked(&settings, &world, &question("auto", "hi")))[0], "groq");
}

#[test]
fn broken() {
    let settings = settings();
    let open = |world: &mut World| {
        let breaker = &mut backend(world, "groq").health.breaker;
        (breaker.failures, breaker.open_until) = (5, Some(later(30)));
    };
    let decision = check(&settings, &question("auto", "hi"), GROQ, open, LostWhy::Broken);
    assert_eq!(until(&decision, "groq"), Some(later(30)));
}

#[test]
fn what_one_model_did_is_held_against_that_one_alone() {
    let settings = settings();
    let (large, small) = (question("qwen2.5:14b", "hi"), question("qwen2.5:3b", "hi"));
    let held = |change: &dyn Fn(&mut World)| {
        let mut world = world(&settings);
        change(&mut world);
        let why = |request, model| why(&asked(&settings, &world, request), "pc", model);
        (why(&large, "qwen2.5:14b"), why(&small, "qwen2.5:3b"))
    };
    let limited = |world: &mut World| {
        backend(world, "pc").health.pause("qwen2.5:14b", later(9), "pc has too much to do".to_owned());
    };
    let tell = |world: &mut World, happened: &Happened| {
        let pc = settings.backends.iter().find(|backend| backend.name == "pc").unwrap();
        for _ in 0..5 {
            after(now(), &mut backend(world, "pc").health, pc, "qwen2.5:14b", happened);
        }
    };
    let text = || "it failed".to_owned();
    assert_eq!(held(&limited), (Some(LostWhy::Cooling), None));
    assert_eq!(held(&|world| tell(world, &Happened::Failed { text: text() })), (Some(LostWhy::Broken), None));
    // The control: a backend that is not there has no model.
    let gone = held(&|world| tell(world, &Happened::Unreachable { text: text() }));
    assert_eq!(gone, (Some(LostWhy::Broken), Some(LostWhy::Broken)));
    let refused = held(&|world| tell(world, &Happened::KeyRefused));
    assert_eq!(refused, (Some(LostWhy::NoKey), Some(LostWhy::NoKey)));
}

#[test]
fn nobody_is_held_for_a_breaker_that_just_opened() {
    let settings = settings();
    let request = question("smollm", "hi");
    let passes = |change: &dyn Fn(&mut World)| {
        let mut world = world(&settings);
        change(&mut world);
        let decision = asked(&settings, &world, &request);
        assert!(decision.picks.is_empty() && decision.routed.again_at.is_some(), "{:?}", decision.routed);
        is_passing(&decision.routed, now(), Duration::from_secs(30))
    };
    let open = |seconds| {
        move |world: &mut World| backend(world, "nas").health.breaker.open_until = Some(later(seconds))
    };
    let cool = |seconds| {
        move |world: &mut World| {
            backend(world, "nas").health.pause("smollm", later(seconds), "busy".to_owned())
        }
    };
    assert_eq!((passes(&open(30)), passes(&open(29)), passes(&open(10))), (false, false, false));
    assert!(passes(&open(2)), "it lets one try in a moment");
    assert_eq!((passes(&cool(29)), passes(&cool(31))), (true, false));
}

#[test]
fn full() {
    let settings = settings();
    let wait = |waiting| {
        move |world: &mut World| (backend(world, "pc").running, backend(world, "pc").waiting) = (1, waiting)
    };
    check(&settings, &question("coding", "hi"), PC, wait(8), LostWhy::Full);
    let mut world = world(&settings);
    wait(7)(&mut world);
    assert!(who(&asked(&settings, &world, &question("coding", "hi"))).contains(&"pc"));
}

#[test]
fn budget() {
    let settings = with("[budget]\ndollars_a_day = 1.0\n[caller.aider]\ndollars_a_day = 0.5\n");
    let request = question("auto", "hi");
    // 1,024 tokens of an answer at 6.4 dollars a million, and next to nothing for the prompt.
    check(&settings, &request, QWEN, |world| world.dollars_today = 0.994, LostWhy::Budget);
    check(&settings, &request, QWEN, |world| world.caller.dollars_today = 0.494, LostWhy::Budget);
    check(&settings, &request, QWEN, |world| world.dollars_today = f64::NAN, LostWhy::Budget);
    let mut world = world(&settings);
    (world.dollars_today, world.caller.dollars_today) = (0.9934, 0.4934);
    assert!(who(&asked(&settings, &world, &request)).contains(&"qwen_cloud"));
    let dear = with("[budget]\ndollars_a_request = 0.001\n");
    let decision = asked(&dear, &world, &request);
    assert_eq!(why(&decision, QWEN.0, QWEN.1), Some(LostWhy::Budget));
    assert_eq!(decision.routed.order.len(), 4, "what costs nothing is asked");
}

#[test]
fn no_key() {
    let settings = settings();
    let request = question("auto", "hi");
    check(&settings, &request, GROQ, |world| backend(world, "groq").has_key = false, LostWhy::NoKey);
    let refused = |world: &mut World| backend(world, "groq").health.key_refused_until = Some(later(9));
    let decision = check(&settings, &request, GROQ, refused, LostWhy::NoKey);
    assert_eq!(until(&decision, "groq"), Some(later(9)));
    assert!(!decision.routed.lost.iter().any(|lost| lost.provider == "pc" && lost.why == LostWhy::NoKey));
}

fn refused(
    settings: &Settings,
    world: &World,
    request: &Map<String, Value>,
) -> Option<(RefusalKind, String)> {
    let ask = nhi_decide::route::read(request, &"aider".parse().unwrap(), settings).unwrap();
    let routed = nhi_decide::route::route(now(), settings, world, &ask);
    refusal(settings, world, &ask, &routed).map(|refusal| (refusal.kind, refusal.text))
}

#[test]
fn nobody_left_is_told_in_a_sentence_that_helps() {
    let settings = settings();
    let mut world = world(&settings);
    assert_eq!(refused(&settings, &world, &question("auto", "hi")), None);
    let (kind, text) = refused(&settings, &world, &question("qwen-mx", "hi")).unwrap();
    assert_eq!(kind, RefusalKind::UnknownModel);
    assert!(text.contains("did you mean qwen-max"), "{text}");
    let (kind, text) = refused(&settings, &world, &question("zzz", "hi")).unwrap();
    assert_eq!(kind, RefusalKind::UnknownModel);
    assert!(text.contains("\"auto\""), "{text}");
    let none = Settings::default();
    let (kind, text) = refused(&none, &World::default(), &question("auto", "hi")).unwrap();
    assert_eq!(kind, RefusalKind::Unavailable);
    assert!(text.contains("[[ai.backend]]"), "{text}");
    // Home is taken, and the request may not leave it: it can be asked again, which is nearer to an answer than a no.
    backend(&mut world, "pc").light = None;
    backend(&mut world, "nas").health.breaker.open_until = Some(later(30));
    let (kind, text) = refused(&settings, &world, &question("private", "hi")).unwrap();
    assert_eq!(kind, RefusalKind::Unavailable);
    assert!(text.starts_with("nobody can answer: "), "{text}");
}
