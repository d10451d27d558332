//! A day in the house by a clock of its own: two gaming sessions, four agents, clouds with small quotas. No request is
//! lost, none goes against its privacy, no quota or budget is exceeded as its provider counts, and the player never shares
//! the GPU.

use super::lab::{FILE, backend, question, world};
use jiff::SignedDuration;
use nhi_decide::{
    quota::{Per, Quota},
    route::{Ask, Happened, Loaded, Pick, Settings, World, after, begin, decide, read},
    semaphore::{CardSight, Memory, Sight, Thresholds, Unavailable, step},
};
use nhi_model::{
    Timestamp,
    ai::{LostWhy, Privacy},
    gpu::Light,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const TICK_S: i64 = 10;
const DAY_S: i64 = 24 * 3600;
/// When somebody plays, seconds of the day.
const GAMES: [(i64, i64); 2] = [(45_010, 47_700), (64_810, 79_200)];
/// How long an answer takes.
const ANSWER_S: i64 = 20;

fn at(second: i64) -> Timestamp {
    "2026-07-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
}

fn plays(second: i64) -> bool {
    GAMES.iter().any(|(from, to)| (*from..*to).contains(&second))
}

fn house() -> Settings {
    let file = FILE
        .replace(
            "models = [\"llama-3.3",
            "quotas = [{ what = \"requests\", per = \"minute\", limit = 3 }, { what = \"requests\", per = \"day\", limit = 150 }]\nmodels = [\"llama-3.3",
        )
        .replace(
            "quality = 8.0",
            "quality = 8.0\nquotas = [{ what = \"requests\", per = \"day\", limit = 60, zone = \"America/Los_Angeles\" }]",
        );
    let mut settings: Settings = toml::from_str(&format!("{file}\n[budget]\ndollars_a_day = 0.2\n")).unwrap();
    // What must stay home has the GPU alone, and waits for it.
    settings.backends.retain(|row| row.name != "nas");
    settings
}

#[derive(Clone)]
struct Request {
    ask: Ask,
    since: i64,
    /// Cut off so often.
    cuts: u32,
}

struct House {
    settings: Settings,
    world: World,
    light: Memory,
    waiting: Vec<Request>,
    running: Vec<(Request, Pick, i64)>,
    /// As the provider itself counts: when, and how many tokens.
    asked: BTreeMap<String, Vec<i64>>,
    answered: BTreeMap<String, u32>,
    born: u32,
    cuts: u32,
    waited_s_max: i64,
}

impl House {
    fn new() -> Self {
        let settings = house();
        let world = world(&settings);
        Self {
            settings,
            world,
            light: Memory::new(at(0)),
            waiting: Vec::new(),
            running: Vec::new(),
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            born: 0,
            cuts: 0,
            waited_s_max: 0,
        }
    }

    fn bear(&mut self, now: i64, caller: &str, model: &str, text: &str, nhi: serde_json::Value) {
        let mut request = question(model, text);
        request.insert("nhi".to_owned(), nhi);
        let ask = read(&request, &caller.parse().unwrap(), &self.settings).unwrap();
        self.waiting.push(Request { ask, since: now, cuts: 0 });
        self.born += 1;
    }

    /// The agents' day.
    fn agents(&mut self, now: i64) {
        let hour = now / 3600;
        if (8..20).contains(&hour) && now % 120 == 0 {
            self.bear(now, "aider", "auto", "write a python function that sorts", json!({}));
        }
        if (9..12).contains(&hour) && now % 30 == 0 {
            self.bear(now, "editor", "fast", "fn main() {", json!({"priority": "autocomplete"}));
        }
        if now % 600 == 0 {
            self.bear(now, "diary", "private", "what did I write yesterday", json!({}));
        }
        if now % 900 == 0 {
            self.bear(now, "batch", "auto", "sum this up for me, all of it", json!({"priority": "bulk"}));
        }
    }

    fn sense(&mut self, now: i64) {
        let ours = self.running.iter().filter(|(_, pick, _)| pick.gpu.is_some()).count();
        let game = plays(now);
        let sight = Sight {
            game: game.then(|| "Dota 2".to_owned()),
            idle_ms: Some(if game { 0 } else { 3_600_000 }),
            cards: vec![CardSight {
                utilization_percent: Some(if game || ours > 0 { 97 } else { 2 }),
                memory_used_bytes: Some(if ours > 0 { 10 << 30 } else { 1 << 30 }),
                memory_ours_bytes: Some(if ours > 0 { 9 << 30 } else { 0 }),
                temperature_c: Some(if game || ours > 0 { 74 } else { 40 }),
                ..CardSight::default()
            }],
            running: u32::try_from(ours).unwrap(),
            ..Sight::default()
        };
        self.light = step(at(now), &Thresholds::default(), &sight, &self.light);
        let pc = backend(&mut self.world, "pc");
        pc.light = Some(match self.light.light {
            Light::Red => {
                Err(Unavailable { why: LostWhy::GpuTaken, text: self.light.text.clone(), until: None })
            }
            light => Ok(light),
        });
        if self.light.light == Light::Red {
            pc.loaded.clear();
            let (cut, rest) =
                std::mem::take(&mut self.running).into_iter().partition(|(_, pick, _)| pick.gpu.is_some());
            self.running = rest;
            let cut: Vec<(Request, Pick, i64)> = cut;
            self.cuts += u32::try_from(cut.len()).unwrap();
            self.waiting
                .extend(cut.into_iter().map(|(request, ..)| Request { cuts: request.cuts + 1, ..request }));
        }
    }

    fn finish(&mut self, now: i64) {
        let (done, rest) =
            std::mem::take(&mut self.running).into_iter().partition(|(_, _, until)| *until <= now);
        self.running = rest;
        let done: Vec<(Request, Pick, i64)> = done;
        for (request, pick, _) in done {
            *self.answered.entry(request.ask.caller.to_string()).or_default() += 1;
            self.waited_s_max = self.waited_s_max.max(now - request.since);
            let settings =
                self.settings.backends.iter().find(|row| row.name == pick.choice.provider).unwrap();
            let health = &mut backend(&mut self.world, &pick.choice.provider).health;
            after(at(now), health, settings, &pick.choice.model, &Happened::Answered { first_token_ms: 400 });
        }
    }

    fn serve(&mut self, now: i64) {
        self.waiting.sort_by_key(|request| (request.ask.priority, request.since));
        // All requests of one caller are alike: where one found nobody, the next need not look.
        let mut without: BTreeSet<String> = BTreeSet::new();
        for request in std::mem::take(&mut self.waiting) {
            if without.contains(request.ask.caller.as_str()) {
                self.waiting.push(request);
                continue;
            }
            for name in ["pc", "groq", "gemini-flash", "qwen_cloud"] {
                let running = self.running.iter().filter(|(_, pick, _)| pick.choice.provider == name).count();
                backend(&mut self.world, name).running = u32::try_from(running).unwrap();
            }
            let decision = decide(at(now), &self.settings, &self.world, &request.ask);
            let free = |pick: &Pick| {
                let settings =
                    self.settings.backends.iter().find(|row| row.name == pick.choice.provider).unwrap();
                self.world.backends[&pick.choice.provider].running < settings.parallel()
            };
            let Some(pick) = decision.picks.into_iter().find(free) else {
                without.insert(request.ask.caller.to_string());
                self.waiting.push(request);
                continue;
            };
            self.ask(now, request, pick);
        }
    }

    fn ask(&mut self, now: i64, request: Request, pick: Pick) {
        let name = pick.choice.provider.clone();
        assert!(request.ask.privacy != Privacy::Home || pick.home, "{} went to {name}", request.ask.caller);
        let settings = self.settings.backends.iter().find(|row| row.name == name).unwrap();
        let known = backend(&mut self.world, &name);
        begin(at(now), &mut known.health, &pick.choice.model);
        for quota in &settings.quotas {
            let meter = known.meters.entry(quota.key()).or_default();
            meter.reserve(quota, at(now), quota.amount(pick.tokens)).unwrap();
        }
        if pick.gpu.is_some() {
            known.loaded = vec![Loaded { name: pick.choice.model.clone(), context_tokens: pick.num_ctx }];
        }
        self.world.dollars_today += pick.dollars;
        self.asked.entry(name).or_default().push(now);
        self.running.push((request, pick, now + ANSWER_S));
    }

    fn run(&mut self) {
        let mut now = 0;
        while now < DAY_S || !(self.waiting.is_empty() && self.running.is_empty()) {
            assert!(now < DAY_S + 3600, "{} requests never end", self.waiting.len() + self.running.len());
            self.finish(now);
            if now < DAY_S {
                self.agents(now);
            }
            self.sense(now);
            self.serve(now);
            let ours = self.running.iter().any(|(_, pick, _)| pick.gpu.is_some());
            assert!(!(plays(now) && ours), "the player shares the GPU at {now}");
            now += TICK_S;
        }
    }
}

/// The most requests that any window of this quota has, as its provider counts.
fn most(quota: &Quota, asked: &[i64]) -> usize {
    match quota.per {
        Per::Minute => {
            let within =
                |start: i64| asked.iter().filter(|other| (start..start + 60).contains(*other)).count();
            asked.iter().map(|start| within(*start)).max().unwrap_or(0)
        }
        Per::Day => {
            let mut days: BTreeMap<Timestamp, usize> = BTreeMap::new();
            asked.iter().for_each(|second| *days.entry(quota.window(at(*second)).slot).or_default() += 1);
            days.into_values().max().unwrap_or(0)
        }
    }
}

#[test]
fn a_day_in_the_house() {
    let mut house = House::new();
    house.run();
    assert_eq!(house.answered.values().sum::<u32>(), house.born, "{:?}", house.answered);
    assert_eq!(house.answered.keys().collect::<Vec<_>>(), ["aider", "batch", "diary", "editor"]);
    let mut tight = BTreeSet::new();
    for settings in &house.settings.backends {
        let asked = house.asked.get(&settings.name).map(Vec::as_slice).unwrap_or_default();
        for quota in &settings.quotas {
            let most = most(quota, asked);
            assert!(
                most as u64 <= quota.limit,
                "{}: {most} of {} {}",
                settings.name,
                quota.limit,
                quota.words()
            );
            if most as u64 == quota.limit {
                tight.insert(settings.name.as_str());
            }
        }
    }
    assert!(house.world.dollars_today <= 0.2, "{}", house.world.dollars_today);
    // Controls: the day was hard enough to mean something.
    assert!(tight.contains("groq"), "a quota was used up: {tight:?}");
    assert!(house.cuts > 0, "a game cut an answer");
    assert!(house.asked.len() == 4, "all were asked: {:?}", house.asked.keys());
    assert!(
        house.waited_s_max >= GAMES[1].1 - GAMES[1].0 - 600,
        "who may not leave home waited for the game's end"
    );
}
