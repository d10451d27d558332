//! A real model's answer that goes on at another server: two llama.cpp servers with the same small model, the first of which is
//! killed at random tokens, or stands on a gaming PC whose light turns red there. At temperature 0 the text has to be the one
//! nobody interrupted, character for character.
//!
//! The small model is slow and speaks English; a tiny one that is made on the spot is fast, so that it is cut more often.
//!
//! A server reads many tokens at once with other arithmetic than it writes one: where two words are almost equally likely the
//! other one may win, even when the very tokens are handed over. So the text is compared between servers that read one token
//! at a time. How long the gap is, ordinary servers tell, which have never heard of the conversation.

mod between;
mod pc;

use self::{
    between::Between,
    pc::{HOST, Pc},
};
use crate::{models::House, peer::Peer};
use nhi_bus::{
    call::{Call, Frame, Timeout, stream},
    connect::Bus,
};
use nhi_decide::route::{Alias, BackendSettings, Guard, ModelSettings as Configured, Selector, Settings};
use nhi_model::ai::{BackendKind, Continues};
use nhi_tests::measure::{note, percentile, told};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Tokens of an answer.
const TOKENS: u32 = 32;
/// Cuts in every run, and with `NHI_FULL=1`; `NHI_CUTS` says another number.
const CUTS: usize = 3;
/// The same of the tiny model.
const CUTS_TINY: usize = 60;
const CUTS_FULL: usize = 200;
/// How often a long run tells how far it is.
const CUTS_TOLD: usize = 10;
/// Longest until the next token: two processors work for several tests.
const TOKEN_MAX: Duration = Duration::from_secs(180);
/// Longest until the next server is asked. What a relay lets end although the light is red may take half a minute.
const ROUTED_MAX: Duration = Duration::from_secs(15);
const MODEL: &str = "smollm2";
/// Prose, a list, code, figures: what is made of tokens in different ways. A question in whose answer the model makes up words
/// is not among them: it writes those in other tokens than its own reader makes of them, and then no text is what it was.
const QUESTIONS: [&str; 5] = [
    "Tell me about the sea.",
    "List five animals with one fact each.",
    "Write a Python function that adds two numbers.",
    "What is 17 times 23? Explain step by step.",
    "Why is the sky blue?",
];

/// An answer as it was read.
#[derive(Debug, Default)]
struct Read {
    text: String,
    finish: String,
    /// How many characters were there, and when.
    times: Vec<(usize, Instant)>,
    seams: Vec<usize>,
}

impl Read {
    /// When the last character before the seam came, and the first one behind it.
    fn around_the_seam(&self) -> Option<(Instant, Instant)> {
        let seam = *self.seams.first()?;
        let behind = self.times.iter().position(|(chars, _)| *chars > seam)?;
        Some((self.times[behind.checked_sub(1)?].1, self.times[behind].1))
    }
}

async fn ask(bus: &Bus, alias: &str, question: &str) -> Read {
    let body = json!({"model": alias, "messages": [{"role": "user", "content": question}], "stream": true,
                      "temperature": 0, "max_tokens": TOKENS});
    let call = Call::new(bus, "ai", "chat", serde_json::to_vec(&body).unwrap().into()).unwrap();
    let mut frames = stream(bus, call.timeout(Timeout::LONGEST)).await.unwrap();
    let mut read = Read::default();
    while let Some(next) = tokio::time::timeout(TOKEN_MAX, frames.next()).await.expect("a token in time") {
        let Frame::Part(payload) = next.unwrap_or_else(|error| panic!("{alias}: {error}: {read:?}")) else {
            panic!("a whole answer to a stream");
        };
        let chunk: Value = serde_json::from_slice(&payload).unwrap();
        let content = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if !content.is_empty() {
            read.text.push_str(content);
            read.times.push((read.text.chars().count(), Instant::now()));
        }
        if let Some(finish) = chunk["choices"][0]["finish_reason"].as_str() {
            finish.clone_into(&mut read.finish);
        }
        if let Some(seams) = chunk["nhi"]["seams"].as_array() {
            let place = |seam: &Value| usize::try_from(seam["at"].as_u64().unwrap()).unwrap();
            read.seams = seams.iter().map(place).collect();
        }
    }
    read
}

/// How an answer is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Its server is killed.
    Killed,
    /// The light of its machine turns red, because somebody locks it; the machine's relay cuts what runs.
    Preempted,
}

impl How {
    const fn of(cut: usize) -> Self {
        if cut.is_multiple_of(2) { Self::Killed } else { Self::Preempted }
    }
}

/// Each server that is killed is a backend of its own, so that none is left alone for what became of another one. A machine
/// that is preempted is not.
fn settings(first: SocketAddr, second: SocketAddr, cuts: usize) -> Settings {
    let backend = |name: &str, server: SocketAddr| BackendSettings {
        home: true,
        models: vec![Configured {
            context_tokens: Some(2_048),
            // A yellow light lets small models through.
            billions: Some(0.135),
            ..Configured::named(MODEL)
        }],
        continues: Some(Continues::Prefill),
        ..BackendSettings::new(name.to_owned(), BackendKind::Openai, format!("http://{server}/v1"))
    };
    let alias = |order: &[&str]| Alias {
        order: order.iter().map(|name| Selector::Backend((*name).to_owned())).collect(),
        ..Alias::default()
    };
    // Twice: a server may close the connection that was kept for the next request just as that comes.
    let mut backends = Vec::from(["whole", "again"].map(|name| backend(name, second)));
    let mut aliases = BTreeMap::from([("uncut".to_owned(), alias(&["whole", "again"]))]);
    // It is reached through its machine's relay.
    backends.push(BackendSettings { gpu: Some(HOST.to_owned()), ..backend(HOST, first) });
    for cut in 0..cuts {
        let name = match How::of(cut) {
            How::Killed => format!("first-{cut}"),
            How::Preempted => HOST.to_owned(),
        };
        aliases.insert(format!("cut-{cut}"), alias(&[&name, "whole", "again"]));
        if How::of(cut) == How::Killed {
            backends.push(backend(&name, first));
        }
    }
    Settings {
        backends,
        aliases,
        guard: Guard { first_token_s: 180, stall_s: 180, deadline_s: 900, ..Guard::default() },
        ..Settings::default()
    }
}

/// Numbers that are the same in every run.
fn numbers() -> impl Iterator<Item = u64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    })
}

async fn server(arguments: &[&str]) -> (Peer, SocketAddr) {
    #[derive(Deserialize)]
    struct Started {
        url: String,
    }
    let mut llama = Peer::start_with("llama_server.py", "models.txt", arguments).await;
    let Started { url } = llama.hear().await;
    (llama, url.trim_start_matches("http://").parse().unwrap())
}

/// Two servers, a machine one of them stands on, and the mesh they answer for.
struct Scene<'a> {
    arguments: &'a [&'a str],
    house: House,
    caller: Bus,
    first: Option<Peer>,
    pc: Pc,
    before_first: Between,
    before_second: Between,
    _second: Peer,
}

impl<'a> Scene<'a> {
    async fn open(cuts: usize, arguments: &'a [&'a str]) -> Self {
        let ((first, first_addr), (second, second_addr)) = (server(arguments).await, server(arguments).await);
        let (before_first, before_second) =
            (Between::open(first_addr).await, Between::open(second_addr).await);
        let house = House::with(settings(before_first.addr, before_second.addr, cuts)).await;
        let pc = Pc::open(&house, before_first.addr).await;
        let caller = house.nats.connect(&house.cx, "aider").await;
        Self {
            arguments,
            house,
            caller,
            first: Some(first),
            pc,
            before_first,
            before_second,
            _second: second,
        }
    }

    /// Asks, and cuts the answer behind so many of its pieces.
    async fn cut(&mut self, cut: usize, question: &str, at: u32) -> Cut {
        let (alias, how) = (format!("cut-{cut}"), How::of(cut));
        if self.first.is_none() {
            let (first, addr) = server(self.arguments).await;
            self.before_first.leads_to(addr);
            self.first = Some(first);
        }
        match how {
            How::Killed => self.before_first.stop_at(at),
            How::Preempted => {
                self.pc.unlock(&alias).await;
                self.before_first.hold_at(at);
            }
        }
        let _before = self.before_second.take_asked();
        let end = async {
            self.before_first.reached().await;
            match how {
                How::Killed => drop(self.first.take()),
                How::Preempted => self.pc.lock().await,
            }
        };
        let (read, ()) = tokio::join!(ask(&self.caller, &alias, question), end);
        assert_eq!(read.seams.len(), 1, "{question} {how:?} at {at}: {read:?}");
        let (last, next) = read.around_the_seam().expect("it goes on behind the seam");
        let asked = self.before_second.take_asked().expect("the second server was asked");
        assert!(asked - last < ROUTED_MAX, "{question} {how:?} at {at}: {:?}", asked - last);
        Cut { how, gap: next - last, routed: asked - last, text: read.text, seams: read.seams }
    }
}

/// An answer that was cut.
struct Cut {
    how: How,
    /// From the last character before the seam to the first one behind it, as the caller sees it.
    gap: Duration,
    /// What of it went by until the second server was asked.
    routed: Duration,
    text: String,
    seams: Vec<usize>,
}

/// What became of answers that were cut.
#[derive(Default)]
struct Tally {
    cuts: Vec<Cut>,
    /// Those that are not the uncut one.
    others: Vec<String>,
}

/// Cuts answers at random tokens.
async fn cut(cuts: usize, arguments: &[&str]) -> Tally {
    let mut scene = Scene::open(cuts, arguments).await;
    let questions = &QUESTIONS[..QUESTIONS.len().min(cuts.div_ceil(2))];
    let (mut tally, mut random, mut uncut) = (Tally::default(), numbers(), Vec::new());
    // All of them before any is cut: the second server has another conversation in mind when it takes one up.
    for question in questions {
        let read = ask(&scene.caller, "uncut", question).await;
        assert!(read.text.len() > 20, "{read:?}");
        uncut.push(read.text);
    }
    for number in 0..cuts {
        let at = u32::try_from(random.next().unwrap() % u64::from(TOKENS - 2)).unwrap() + 1;
        let (question, whole) = (questions[number % questions.len()], &uncut[number % questions.len()]);
        let cut = scene.cut(number, question, at).await;
        if cut.text != *whole {
            let (how, text, seams) = (cut.how, &cut.text, &cut.seams);
            tally.others.push(format!("{question} {how:?} at {at}:\n  {whole:?}\n  {text:?} {seams:?}"));
        }
        tally.cuts.push(cut);
        if (number + 1) % CUTS_TOLD == 0 {
            tally.tell("so far");
        }
    }
    scene.house.cx.close().await;
    tally
}

impl Tally {
    fn tell(&self, what: &str) {
        let cuts = self.cuts.len();
        let same = cuts - self.others.len();
        let figures = |of: fn(&Cut) -> Duration, how: Option<How>| {
            let those = self.cuts.iter().filter(|cut| how.is_none_or(|how| cut.how == how));
            let times: Vec<Duration> = those.map(of).collect();
            format!("p50 {}, p99 {}", told(percentile(&times, 50)), told(percentile(&times, 99)))
        };
        let gap = figures(|cut| cut.gap, None);
        note(&format!("{what}: {same} of {cuts} answers are the uncut one; gap {gap}"));
        for how in [How::Killed, How::Preempted] {
            let (gap, routed) = (figures(|cut| cut.gap, Some(how)), figures(|cut| cut.routed, Some(how)));
            note(&format!("  {how:?}: gap {gap}; until the second server was asked {routed}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_answer_goes_on_as_if_nobody_had_cut_it() {
    let is_full = std::env::var_os("NHI_FULL").is_some_and(|full| full == "1");
    let wanted: Option<usize> = std::env::var("NHI_CUTS").ok().and_then(|cuts| cuts.parse().ok());
    let number = |usual| wanted.unwrap_or(if is_full { CUTS_FULL } else { usual });
    for (cuts, model) in [(number(CUTS_TINY), "tiny"), (number(CUTS), "small")] {
        let tally = cut(cuts, &["1", model]).await;
        tally.tell(&format!("the {model} model, the same arithmetic"));
        assert!(tally.others.is_empty(), "{} of {cuts}:\n{}", tally.others.len(), tally.others.join("\n"));
        if is_full {
            cut(cuts, &[model, "forgetful"]).await.tell(&format!("the {model} model, as servers are"));
        }
    }
}
