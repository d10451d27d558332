//! Events of a stream to OpenAI's chunks, for each kind of backend. It opens nothing and waits for nothing.

use crate::{anthropic, completion, error::Kind, gemini, lines::Event, ollama, openai};
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Done,
}

/// Why something is no part of a request or an answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The backend tells an error.
    Told(Value),
    /// It is nothing that this kind of backend says.
    Garbage(&'static str),
    /// The end came before the end.
    Cut(&'static str),
    /// The request cannot be said in the backend's words.
    Refused(Kind, String),
}

/// What one answer was so far.
#[derive(Debug)]
pub(crate) enum Decoder {
    Openai(openai::Decoder),
    Ollama(ollama::Decoder),
    Gemini(gemini::Decoder),
    Anthropic(anthropic::Decoder),
}

impl Decoder {
    /// Adds the chunks of one event.
    pub(crate) fn take(
        &mut self,
        event: &Event,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        match self {
            Self::Openai(decoder) => decoder.take(event, chunks),
            Self::Ollama(decoder) => decoder.take(event, chunks),
            Self::Gemini(decoder) => decoder.take(event, chunks),
            Self::Anthropic(decoder) => decoder.take(event, chunks),
        }
    }

    /// Whether the answer is at its end when the bytes are; adds what was kept for it.
    pub(crate) fn end(&self, chunks: &mut VecDeque<Map<String, Value>>) -> Result<(), Fault> {
        match self {
            Self::Openai(decoder) => decoder.end(),
            Self::Ollama(decoder) => decoder.end(),
            Self::Gemini(decoder) => decoder.end(chunks),
            Self::Anthropic(decoder) => decoder.end(),
        }
    }

    /// Whether its last word was said; figures may follow.
    pub(crate) fn finished(&self) -> bool {
        match self {
            Self::Openai(decoder) => decoder.end().is_ok(),
            Self::Ollama(decoder) => decoder.end().is_ok(),
            Self::Gemini(decoder) => decoder.finished(),
            Self::Anthropic(decoder) => decoder.end().is_ok(),
        }
    }

    /// Reads a whole answer, as it comes without `stream`.
    pub(crate) fn whole(&mut self, answer: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
        let mut chunks = VecDeque::new();
        match self {
            Self::Openai(_) => return openai::answer(answer),
            Self::Ollama(decoder) => {
                decoder.line(answer, &mut chunks)?;
                decoder.end()?;
            }
            Self::Gemini(decoder) => {
                decoder.said(&answer, &mut chunks)?;
                decoder.end(&mut chunks)?;
            }
            Self::Anthropic(decoder) => decoder.whole(&answer, &mut chunks)?,
        }
        Ok(completion::assembled(chunks))
    }
}
