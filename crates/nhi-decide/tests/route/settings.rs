//! `[ai]` as it is written: what reads, what is a mistake, and that the shipped policy is Neural-Home v3's.

use super::lab::{FILE, settings, with};
use nhi_decide::{
    manifest,
    route::{ProjectSettings, Rules, Selector, Settings, aliases, backends, mistakes, of_manifest},
};
use nhi_model::ai::Privacy;
use std::collections::BTreeSet;

#[test]
fn the_example_has_no_mistake_and_nothing_is_needed() {
    assert_eq!(mistakes(&settings()), []);
    assert_eq!(mistakes(&Settings::default()), []);
    assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
}

#[test]
fn a_judge_is_a_model_that_is_configured() {
    let check = |judge: &str, key: &str, word: &str| {
        let told = mistakes(&with(&format!("[judge]\n{judge}")));
        assert!(told.len() == 1 && told[0].key == key && told[0].what.contains(word), "{judge}: {told:?}");
    };
    check("models = [\"pd/small\"]", "ai.judge.models", "\"pc\"");
    check("models = [\"@home\"]", "ai.judge.models", "<backend>/<model>");
    check("deadline_ms = 60000", "ai.judge.deadline_ms", "between");
    assert_eq!(mistakes(&with("[judge]\nmodels = [\"pc/qwen2.5:3b\"]")), []);
    // A cloud that is there as soon as its key is.
    let shipped = "[judge]\nmodels = [\"groq/llama-3.3-70b-versatile\"]";
    assert_eq!(mistakes(&toml::from_str(shipped).unwrap()), []);
}

#[test]
fn unknown_keys_are_errors_everywhere() {
    for text in [
        "colour = 1",
        "[[backend]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\ncolour = 1",
        "[[backend]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\nmodels = [{ name = \"m\", colour = 1 }]",
        "[[backend]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\n\
         quotas = [{ what = \"requests\", per = \"day\", limit = 1, colour = 1 }]",
        "[alias.a]\ncolour = 1",
        "[rules]\ncolour = 1",
        "[caller.a]\ncolour = 1",
        "[project.a]\ncolour = 1",
        "[budget]\ncolour = 1",
        "[score]\ncolour = 1",
        "[guard]\ncolour = 1",
        "[judge]\ncolour = 1",
    ] {
        let error = toml::from_str::<Settings>(text).unwrap_err().to_string();
        assert!(error.contains("colour"), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_meant_is_told_with_its_key() {
    let check = |more: &str, key: &str, word: &str| {
        let settings: Settings = toml::from_str(&format!("{FILE}\n{more}")).unwrap();
        let found = mistakes(&settings);
        assert!(found.iter().any(|row| row.key == key && row.what.contains(word)), "{more}: {found:?}");
    };
    let backend =
        |more: &str| format!("[[backend]]\nname = \"b\"\nkind = \"openai\"\nurl = \"http://b\"\n{more}");
    check("[[backend]]\nname = \"pc\"\nkind = \"openai\"\nurl = \"http://b\"", "ai.backend[5].name", "twice");
    check(
        "[[backend]]\nname = \"a/b\"\nkind = \"openai\"\nurl = \"http://b\"",
        "ai.backend[5].name",
        "no name",
    );
    check("[[backend]]\nname = \"b\"\nkind = \"openai\"\nurl = \"ftp://b\"", "ai.backend[5].url", "http");
    check(&backend("privacy = \"home\""), "ai.backend[5].privacy", "home = true");
    check(&backend("fingerprint = \"aa:bb\""), "ai.backend[5].fingerprint", "64 hex digits");
    check(&backend("quality = 11.0"), "ai.backend[5].quality", "between");
    let quota = "{ what = \"requests\", per = \"day\", limit = 1 }";
    check(&backend(&format!("quotas = [{quota}, {quota}]")), "ai.backend[5].quotas", "twice");
    let zone = quota.replace(" }", ", zone = \"Rome\" }");
    check(&backend(&format!("quotas = [{zone}]")), "ai.backend[5].quotas", "Europe/Rome");
    check("[rules]\ncoding = [\"qroq\"]", "ai.rules.coding", "\"groq\"");
    check("[alias]\nmine = [\"qroq/m\"]", "ai.alias.mine", "\"groq\"");
    check("[caller.a]\nbackends = [\"qroq\"]", "ai.caller.a.backends", "\"groq\"");
    check("[project.a]\nbackends = [\"qroq\"]", "ai.project.a.backends", "\"groq\"");
    check("[guard]\ndefault = \"none\"", "ai.guard.default", "alias");
}

#[test]
fn selectors_and_times_are_read_or_refused() {
    for text in ["*", "@home", "@gpu", "@cloud", "@free", "groq", "groq/meta-llama/llama-4"] {
        assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
    }
    let named = Selector::Model("groq".to_owned(), "meta-llama/llama-4".to_owned());
    assert_eq!("groq/meta-llama/llama-4".parse(), Ok(named));
    for text in ["", "@", "@homes"] {
        assert!(text.parse::<Selector>().is_err(), "{text:?}");
    }
    for (text, ok) in
        [("00:01", true), ("23:59", true), ("24:00", false), ("1:00", false), ("+1:00", false), ("", false)]
    {
        assert_eq!(text.parse::<nhi_decide::quota::DayTime>().is_ok(), ok, "{text:?}");
    }
}

#[test]
fn a_file_is_written_back_as_it_was_read() {
    let settings = with("[alias]\nmine = [\"@home\"]\n[budget]\ndollars_a_day = 5.0\n");
    let text = toml::to_string(&settings).unwrap();
    assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
}

#[test]
fn the_shipped_policy_is_neural_home_v3s() {
    let words = |order: &[Selector]| order.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rules = Rules::default();
    assert_eq!(words(&rules.coding), ["@home", "qwen_cloud", "*"]);
    assert_eq!(words(&rules.simple), ["groq", "gemini-flash", "*"]);
    assert!((rules.small_billions - 8.0).abs() < f64::EPSILON);
    let score = Settings::default().score;
    assert_eq!(
        [score.quota, score.latency, score.quality, score.low, score.latency_ms_max],
        [0.5, 0.3, 0.2, 0.3, 5_000.0]
    );
    assert_eq!(Settings::default().guard.first_token_s, 40);
    let names: Vec<String> = aliases().into_keys().collect();
    assert_eq!(names, ["auto", "coding", "fast", "local", "private"]);
    let all: Vec<String> = backends(|_| true).into_iter().map(|backend| backend.name).collect();
    assert_eq!(all, ["qwen_cloud", "gemini-flash", "groq"]);
    let one: Vec<String> =
        backends(|key| key == "GROQ_API_KEY").into_iter().map(|backend| backend.name).collect();
    assert_eq!(one, ["groq"]);
    let shipped = Settings { backends: backends(|_| true), ..Settings::default() };
    assert_eq!(mistakes(&shipped), []);
    assert!(shipped.backends.iter().all(|backend| !backend.home));
}

fn project(privacy: Privacy, backends: &[&str], dollars_a_day: Option<f64>) -> ProjectSettings {
    let backends = backends.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    ProjectSettings { backends, privacy, dollars_a_day }
}

#[test]
fn a_manifest_says_what_its_project_may() {
    let check = |file: &str, text: &str, expect: ProjectSettings| {
        let read = manifest::parse("garden", "/p/garden", file, text.as_bytes()).unwrap();
        assert_eq!(of_manifest(&read), expect, "{text}");
    };
    let nothing = project(Privacy::Any, &[], None);
    check("project_manifest.md", "# PROGETTO: Garden\n**Stato:** live\n", nothing.clone());
    check("project_manifest.yaml", "name: Garden\n", nothing);
    let all = project(Privacy::Home, &["nas", "pc"], Some(1.5));
    check(
        "project_manifest.md",
        "# PROGETTO: Garden\n- **AI privacy:** home\n**AI backends:** pc, `nas`\n**AI dollars a day:** $1.5\n",
        all.clone(),
    );
    check(
        "project_manifest.yaml",
        "name: Garden\nai:\n  privacy: home\n  backends: [pc, nas]\n  dollars_a_day: 1.5\n",
        all,
    );
    // A word that is none keeps everything at home; a list of nobody is nobody.
    check(
        "project_manifest.yaml",
        "name: Garden\nai: { privacy: secret, backends: 7, dollars_a_day: much }\n",
        project(Privacy::Home, &[""], Some(0.0)),
    );
}

#[test]
fn of_file_and_manifest_the_stricter_counts() {
    let one = project(Privacy::Any, &["pc", "groq"], Some(2.0));
    let none = project(Privacy::Any, &[], None);
    assert_eq!(one.and(&none), one);
    assert_eq!(none.and(&one), one);
    let other = project(Privacy::Home, &["groq", "nas"], Some(3.0));
    assert_eq!(one.and(&other), project(Privacy::Home, &["groq"], Some(2.0)));
    assert_eq!(one.and(&project(Privacy::Any, &["nas"], None)), project(Privacy::Any, &[""], Some(2.0)));
}
