//! A real model's answer that goes on at another server: two llama.cpp servers with the same small model, the first of which is
//! cut off, or killed, at random tokens. At temperature 0 the text has to be the one nobody interrupted, character for
//! character.
//!
//! The small model is slow and speaks English; a tiny one that is made on the spot is fast, so that it is cut more often.
//!
//! A server reads many tokens at once with other arithmetic than it writes one: where two words are almost equally likely the
//! other one may win, even when the very tokens are handed over. So the text is compared between servers that read one token
//! at a time. How long the gap is, ordinary servers tell.

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
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
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

/// A server that can be cut off: what stands between it and whoever asks.
struct Between {
    addr: SocketAddr,
    cut: Arc<Cut>,
    _tasks: JoinSet<()>,
}

/// Where it is cut.
#[derive(Debug, Default)]
struct Cut {
    /// Pieces of an answer until then; 0: never.
    pieces: AtomicU32,
    reached: Notify,
}

impl Between {
    async fn open(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let cut: Arc<Cut> = Arc::default();
        let (mut tasks, own) = (JoinSet::new(), Arc::clone(&cut));
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                open.spawn(pass(near, to, Arc::clone(&own)));
            }
        });
        Self { addr, cut, _tasks: tasks }
    }
}

/// Passes bytes on until the piece behind the last one that may go.
async fn pass(mut near: TcpStream, to: SocketAddr, cut: Arc<Cut>) {
    let Ok(mut far) = TcpStream::connect(to).await else { return };
    let (mut asked, mut told) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            read = near.read(&mut asked) => match read {
                Ok(bytes @ 1..) if far.write_all(&asked[..bytes]).await.is_ok() => {}
                _ => return,
            },
            read = far.read(&mut told) => {
                let Ok(bytes @ 1..) = read else { return };
                let (end, is_last) = until_cut(&told[..bytes], &cut);
                if near.write_all(&told[..end]).await.is_err() || is_last {
                    return;
                }
            }
        }
    }
}

/// How many of these bytes go, and whether they are the last.
fn until_cut(bytes: &[u8], cut: &Cut) -> (usize, bool) {
    const PIECE: &[u8] = b"\"content\":\"";
    let mut at = 0;
    while let Some(next) = bytes[at..].windows(PIECE.len()).position(|window| window == PIECE) {
        at += next + PIECE.len();
        if cut.pieces.load(Ordering::SeqCst) > 0 && cut.pieces.fetch_sub(1, Ordering::SeqCst) == 1 {
            cut.reached.notify_one();
            let rest = &bytes[at..];
            let end = rest.windows(2).position(|window| window == b"\n\n").map_or(rest.len(), |end| end + 2);
            return (at + end, true);
        }
    }
    (bytes.len(), false)
}

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
    /// From the last character before the seam to the first one behind it.
    fn gap(&self) -> Option<Duration> {
        let seam = *self.seams.first()?;
        let behind = self.times.iter().position(|(chars, _)| *chars > seam)?;
        Some(self.times[behind].1 - self.times[behind.checked_sub(1)?].1)
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

/// Each cut has backends of its own, so that none is left alone for what it did before.
fn settings(first: SocketAddr, second: &str, cuts: usize) -> Settings {
    let backend = |name: String, url: String| BackendSettings {
        home: true,
        models: vec![Configured { context_tokens: Some(2_048), ..Configured::named(MODEL) }],
        continues: Some(Continues::Prefill),
        ..BackendSettings::new(name, BackendKind::Openai, url)
    };
    // Twice: a server may close the connection that was kept for the next request just as that comes.
    let again = || ["whole", "again"].map(|name| backend(name.to_owned(), format!("{second}/v1")));
    let mut backends = Vec::from(again());
    let mut aliases = BTreeMap::new();
    let alias = |order: &[&str]| Alias {
        order: order.iter().map(|name| Selector::Backend((*name).to_owned())).collect(),
        ..Alias::default()
    };
    aliases.insert("uncut".to_owned(), alias(&["whole", "again"]));
    for cut in 0..cuts {
        let name = format!("first-{cut}");
        backends.push(backend(name.clone(), format!("http://{first}/v1")));
        aliases.insert(format!("cut-{cut}"), alias(&[&name, "whole", "again"]));
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

async fn server(arguments: &[&str]) -> (Peer, String) {
    #[derive(Deserialize)]
    struct Started {
        url: String,
    }
    let mut llama = Peer::start_with("llama_server.py", "models.txt", arguments).await;
    let Started { url } = llama.hear().await;
    (llama, url)
}

/// What became of answers that were cut.
#[derive(Debug, Default)]
struct Tally {
    gaps: Vec<Duration>,
    /// Those that are not the uncut one.
    others: Vec<String>,
}

/// Cuts answers at random tokens, the last by killing its server.
async fn cut(cuts: usize, arguments: &[&str]) -> Tally {
    let ((first, first_url), (_second, second_url)) = (server(arguments).await, server(arguments).await);
    let between = Between::open(first_url.trim_start_matches("http://").parse().unwrap()).await;
    let house = House::with(settings(between.addr, &second_url, cuts)).await;
    let bus = house.nats.connect(&house.cx, "aider").await;
    let mut uncut: BTreeMap<&str, String> = BTreeMap::new();
    let (mut tally, mut random, mut first) = (Tally::default(), numbers(), Some(first));
    for number in 0..cuts {
        let is_last = number + 1 == cuts;
        let question = QUESTIONS[number % QUESTIONS.len().min(cuts.div_ceil(2))];
        if !uncut.contains_key(question) {
            let read = ask(&bus, "uncut", question).await;
            assert!(read.text.len() > 20, "{read:?}");
            uncut.insert(question, read.text);
        }
        let at = u32::try_from(random.next().unwrap() % u64::from(TOKENS - 2)).unwrap() + 1;
        between.cut.pieces.store(at, Ordering::SeqCst);
        let kill = async {
            between.cut.reached.notified().await;
            // What is on its way when a server is killed is lost with it: a fast one may have said all by then.
            if is_last {
                drop(first.take());
            }
        };
        let alias = format!("cut-{number}");
        let mut asked = Box::pin(ask(&bus, &alias, question));
        let read = tokio::select! {
            read = &mut asked => read,
            () = kill => asked.await,
        };
        assert_eq!(read.seams.len(), 1, "{question} cut at {at}: {read:?}");
        tally.gaps.extend(read.gap());
        if (number + 1) % CUTS_TOLD == 0 {
            tally.tell("so far");
        }
        let whole = &uncut[question];
        if read.text != *whole {
            tally
                .others
                .push(format!("{question} cut at {at}:\n  {whole:?}\n  {:?} {:?}", read.text, read.seams));
        }
    }
    house.cx.close().await;
    tally
}

impl Tally {
    fn tell(&self, what: &str) {
        let (cuts, gaps) = (self.gaps.len(), &self.gaps);
        let (half, most) = (told(percentile(gaps, 50)), told(percentile(gaps, 99)));
        let same = cuts - self.others.len();
        note(&format!("{what}: {same} of {cuts} answers are the uncut one; gap p50 {half}, p99 {most}"));
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
        assert_eq!(tally.gaps.len(), cuts, "each was cut once");
        assert!(tally.others.is_empty(), "{} of {cuts}:\n{}", tally.others.len(), tally.others.join("\n"));
        if is_full {
            cut(cuts, &[model]).await.tell(&format!("the {model} model, as servers are"));
        }
    }
}
