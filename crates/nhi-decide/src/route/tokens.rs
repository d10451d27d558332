//! Estimates tokens without any model's vocabulary, rather too many than too few: what is reckoned too short is cut off
//! silently by some servers. It counts nothing that was sent.

use serde_json::{Map, Value};

/// Tokens of an image: a large one's price at the providers that tell.
const IMAGE_TOKENS: u32 = 1_100;
/// Tokens around each message.
const MESSAGE_TOKENS: u32 = 5;

/// Tokens of a text.
pub fn estimate(text: &str) -> u32 {
    let mut tokens = 0_u32;
    let mut run = Run { sort: Sort::Blank, length: 0 };
    for c in text.chars() {
        let sort = Sort::of(c);
        if sort == run.sort {
            run.length = run.length.saturating_add(1);
        } else {
            tokens = tokens.saturating_add(run.tokens());
            run = Run { sort, length: 1 };
        }
    }
    tokens.saturating_add(run.tokens())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    Letters,
    Digits,
    Blank,
    Signs,
    /// Letters of other scripts: one or two tokens each.
    Other,
}

impl Sort {
    fn of(c: char) -> Self {
        match c {
            'a'..='z' | 'A'..='Z' => Self::Letters,
            '0'..='9' => Self::Digits,
            c if c.is_whitespace() => Self::Blank,
            c if c.is_ascii() => Self::Signs,
            _ => Self::Other,
        }
    }
}

struct Run {
    sort: Sort,
    length: u32,
}

impl Run {
    fn tokens(&self) -> u32 {
        match self.sort {
            // A word of six letters is mostly one token; names in code are cut about every five.
            Sort::Letters => self.length.div_ceil(6),
            // Some vocabularies have each digit by itself.
            Sort::Digits => self.length,
            // A single blank belongs to the next word; indentation comes in pieces.
            Sort::Blank => (self.length / 2).min(1 + self.length / 16),
            Sort::Signs => self.length.div_ceil(2),
            Sort::Other => self.length,
        }
    }
}

/// Tokens of a whole request: messages or input, and the tools it offers.
pub(super) fn of_body(body: &Map<String, Value>) -> u32 {
    let mut sum = 0_u32;
    for (name, value) in body {
        let tokens = match (name.as_str(), value) {
            ("messages", Value::Array(messages)) => messages.iter().fold(0_u32, |sum, message| {
                sum.saturating_add(MESSAGE_TOKENS).saturating_add(of_value(message))
            }),
            ("input" | "tools" | "functions" | "response_format", value) => of_value(value),
            _ => 0,
        };
        sum = sum.saturating_add(tokens);
    }
    sum
}

fn of_value(value: &Value) -> u32 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(number) => u32::try_from(number.to_string().len()).unwrap_or(u32::MAX),
        Value::String(text) => estimate(text),
        Value::Array(list) => list.iter().fold(0, |sum, value| sum.saturating_add(of_value(value))),
        Value::Object(object) => {
            let kind = object.get("type").and_then(Value::as_str);
            if matches!(kind, Some("image_url" | "image" | "input_image")) {
                return IMAGE_TOKENS;
            }
            object.iter().fold(0, |sum, (name, value)| {
                sum.saturating_add(estimate(name)).saturating_add(1).saturating_add(of_value(value))
            })
        }
    }
}
