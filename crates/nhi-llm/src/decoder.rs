//! Events of a stream to OpenAI's chunks, for each kind of backend. It opens nothing and waits for nothing.

use crate::{lines::Event, openai};
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Done,
}

/// Why an event is not part of an answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The backend tells an error.
    Told(Value),
    /// It is no event of that kind of backend.
    Garbage(&'static str),
    /// The end came before the end.
    Cut(&'static str),
}

/// What one answer was so far.
#[derive(Debug)]
pub(crate) enum Decoder {
    Openai(openai::Decoder),
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
        }
    }

    /// Whether the answer is at its end when the bytes are.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        match self {
            Self::Openai(decoder) => decoder.end(),
        }
    }

    /// Reads a whole answer, as it comes without `stream`.
    pub(crate) fn whole(&self, answer: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
        match self {
            Self::Openai(_) => openai::answer(answer),
        }
    }
}
