//! What a simulated model says: a row of word pieces that depends on the question alone, so that two servers say
//! the same and a test can compare a text that was cut and taken up elsewhere with the whole one. Pure.

use sha2::{Digest as _, Sha256};

/// How an answer may begin.
const OPENINGS: [&str; 8] = ["The", "A", "Every", "Some", "No", "This", "Über", "One"];
/// The pieces that follow. Some end no word, some are longer than a byte a character, some must be escaped in
/// JSON: what breaks careless readers is in every longer answer.
const PIECES: [&str; 64] = [
    " lamp",
    " river",
    " cable",
    " node",
    " cloud",
    " window",
    " disk",
    " garden",
    " engine",
    " signal",
    " stone",
    " paper",
    " clock",
    " bridge",
    " radio",
    " coffee",
    " winter",
    " harbour",
    " copper",
    " mirror",
    " ladder",
    " silver",
    " kettle",
    " forest",
    " carries",
    " follows",
    " opens",
    " turns",
    " holds",
    " measures",
    " quietly",
    " slowly",
    " often",
    " never",
    " under",
    " over",
    " between",
    " without",
    " the",
    " the",
    " a",
    " and",
    " while",
    " because",
    "ing",
    "ed",
    "er",
    "s",
    "ly",
    ",",
    ".",
    ";",
    " –",
    " «über»",
    " naïve",
    " 日本",
    "語",
    " 🙂",
    "\n",
    " \"so",
    "\"",
    " \\",
    " 42",
    " x<y",
];

/// The pieces of one answer, without an end.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    seed: u64,
    next: u64,
}

impl Words {
    /// The answer to this question.
    pub(crate) fn of(question: &str) -> Self {
        let digest = Sha256::digest(question.as_bytes());
        let first: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
        Self { seed: u64::from_le_bytes(first), next: 0 }
    }

    fn number(&self, index: u64) -> u64 {
        // splitmix64: the same everywhere, and each piece can be had without those before it.
        let mut mixed = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Iterator for Words {
    type Item = &'static str;

    fn next(&mut self) -> Option<&'static str> {
        let number = self.number(self.next);
        let list: &[&'static str] = if self.next == 0 { &OPENINGS } else { &PIECES };
        self.next += 1;
        Some(list[usize::try_from(number % list.len() as u64).expect("less than the list's length")])
    }
}

/// In what form an answer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text.
    Text,
    /// A JSON object.
    Json,
}

/// A whole answer of so many tokens.
pub(crate) fn whole(question: &str, form: Form, tokens: u32) -> Vec<String> {
    let words = Words::of(question);
    match form {
        Form::Text => words.take(tokens as usize).map(str::to_owned).collect(),
        Form::Json => {
            let inner = tokens.saturating_sub(2).max(1) as usize;
            let escaped = words.take(inner).map(|piece| {
                let quoted = serde_json::Value::from(piece).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            });
            std::iter::once("{\"answer\": \"".to_owned())
                .chain(escaped)
                .chain(std::iter::once("\"}".to_owned()))
                .collect()
        }
    }
}

/// What is left of an answer after `head`. A head that is not its beginning is taken up all the same, as a model
/// would: with other words, and again the same ones every time.
pub(crate) fn rest(question: &str, form: Form, tokens: u32, head: &str) -> Vec<String> {
    let mut left = head;
    let mut rest = Vec::new();
    for piece in whole(question, form, tokens) {
        if left.is_empty() {
            rest.push(piece);
        } else if let Some(after) = left.strip_prefix(piece.as_str()) {
            left = after;
        } else if let Some(end) = piece.strip_prefix(left) {
            left = "";
            rest.push(end.to_owned());
        } else {
            break;
        }
    }
    if left.is_empty() {
        return rest;
    }
    whole(&format!("{question}\n{head}"), Form::Text, tokens)
}

/// The text of a whole answer.
pub(crate) fn answer(question: &str, tokens: u32) -> String {
    whole(question, Form::Text, tokens).concat()
}

/// About how many tokens a text of a prompt has. Four bytes each, as the usual estimate goes.
pub(crate) fn tokens_of(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(4)).unwrap_or(u32::MAX)
}

/// A vector of length one that depends on the text alone; equal texts are equal, others are far apart.
pub(crate) fn vector(text: &str, dimensions: u32) -> Vec<f64> {
    let words = Words::of(text);
    // The upper 32 bits, from -1 to 1: exact in an f64.
    let raw: Vec<f64> = (0..u64::from(dimensions))
        .map(|index| f64::from((words.number(index) >> 32) as u32) / f64::from(u32::MAX) * 2.0 - 1.0)
        .collect();
    let length = raw.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.into_iter().map(|value| value / length).collect()
}
