//! A streamed answer as OpenAI's chunks. It resumes nothing: the first error is the last thing it says.

use crate::{
    body::{Body, BodyError},
    decoder::{Decoder, Fault, Step},
    error::{Kind, LlmError},
    http::Http,
    lines::{Broken, Event},
    ndjson, openai, sse,
};
use reqwest::{Response, header::CONTENT_TYPE};
use serde_json::{Map, Value};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long the end of a body may come after the end of the answer. It mostly lies in the buffer already, and taking it
/// lets the connection serve the next request; a server that leaves its body open costs no more than this.
const TAIL_WAIT: Duration = Duration::from_millis(20);

/// How long figures of usage may come after the last word.
const USAGE_WAIT: Duration = Duration::from_secs(5);

/// How an answer is cut into events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Sse,
    Ndjson,
}

/// A streamed answer. Dropping it closes the connection to the backend.
pub struct Chunks(Box<Inner>);

struct Inner {
    http: Arc<Http>,
    /// `None` when no more is read; the connection is closed or back in the pool then.
    body: Option<Body>,
    parser: Parser,
    decoder: Decoder,
    events: VecDeque<Event>,
    ready: VecDeque<Map<String, Value>>,
    /// Told after what is ready.
    error: Option<LlmError>,
    deadline: Instant,
    begun: bool,
    /// All is told; only the end of the body is missing.
    told: bool,
}

enum Parser {
    Sse(sse::Parser),
    Ndjson(ndjson::Parser),
    /// The backend did not stream although it was asked to.
    Whole(Vec<u8>),
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("backend", &self.0.http.endpoint.name).finish_non_exhaustive()
    }
}

impl Chunks {
    pub(crate) fn new(
        http: Arc<Http>,
        response: Response,
        framing: Framing,
        decoder: Decoder,
        deadline: Instant,
    ) -> Result<Self, LlmError> {
        let bytes_max = http.endpoint.options.answer_bytes_max;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let parser = match (kind.as_str(), framing) {
            ("text/html" | "application/xhtml+xml", _) => {
                return Err(
                    http.error(Kind::Garbage, "it answers with a web page; its url is probably wrong")
                );
            }
            ("application/json", Framing::Sse) => Parser::Whole(Vec::new()),
            (_, Framing::Sse) => Parser::Sse(sse::Parser::new(bytes_max)),
            (_, Framing::Ndjson) => Parser::Ndjson(ndjson::Parser::new(bytes_max)),
        };
        let body = Some(Body::new(response, bytes_max));
        Ok(Self(Box::new(Inner {
            http,
            body,
            parser,
            decoder,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            error: None,
            deadline,
            begun: false,
            told: false,
        })))
    }

    /// The next chunk; `None` after the last one, or after an error. An answer of which all is told ends with a chunk
    /// that has a `finish_reason`, one with `usage` may follow; anything less ends with an error. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Map<String, Value>, LlmError>> {
        let inner = &mut self.0;
        loop {
            if let Some(chunk) = inner.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if let Some(event) = inner.events.pop_front() {
                inner.take(&event);
                continue;
            }
            if let Some(error) = inner.error.take() {
                inner.body = None;
                return Some(Err(error));
            }
            let body = inner.body.as_mut()?;
            match body.next(inner.deadline).await {
                Ok(Some(_)) if inner.told => {}
                _ if inner.told => inner.body = None,
                Ok(Some(bytes)) => inner.bytes(&bytes),
                Ok(None) => inner.end(),
                Err(error) => inner.broken(error),
            }
        }
    }
}

impl Inner {
    fn bytes(&mut self, bytes: &[u8]) {
        let parsed = match &mut self.parser {
            Parser::Sse(parser) => parser.push(bytes, &mut self.events),
            Parser::Ndjson(parser) => parser.push(bytes, &mut self.events),
            Parser::Whole(whole) => {
                whole.extend_from_slice(bytes);
                Ok(())
            }
        };
        self.parsed(parsed);
    }

    fn parsed(&mut self, parsed: Result<(), Broken>) {
        let kind = match parsed {
            Ok(()) => return,
            Err(Broken::TooLarge { .. }) => Kind::TooLarge,
            Err(Broken::NotText) => Kind::Garbage,
        };
        let what = parsed.map_or_else(|broken| format!("it sent {broken}"), |()| String::new());
        self.body = None;
        self.error = Some(self.http.error(kind, &what));
    }

    fn take(&mut self, event: &Event) {
        match self.decoder.take(event, &mut self.ready) {
            Ok(Step::More) => {
                self.begun = true;
                let wait = self.http.endpoint.options.stall;
                let finished = self.decoder.finished();
                self.deadline = Instant::now() + if finished { wait.min(USAGE_WAIT) } else { wait };
            }
            Ok(Step::Done) => self.done(),
            Err(fault) => self.fault(fault),
        }
    }

    fn done(&mut self) {
        self.events.clear();
        self.error = None;
        self.told = true;
        self.deadline = Instant::now() + TAIL_WAIT;
    }

    /// The bytes are over.
    fn end(&mut self) {
        self.body = None;
        let parsed = match &mut self.parser {
            Parser::Sse(parser) => parser.finish(&mut self.events),
            Parser::Ndjson(parser) => parser.finish(&mut self.events),
            Parser::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                match self.http.object(&bytes) {
                    Ok(answer) => match self.decoder.whole(answer) {
                        Ok(answer) => self.ready.extend(openai::chunks_of(answer)),
                        Err(fault) => self.fault(fault),
                    },
                    Err(error) => self.error = Some(error),
                }
                return;
            }
        };
        self.parsed(parsed);
        while let Some(event) = self.events.pop_front() {
            match self.decoder.take(&event, &mut self.ready) {
                Ok(Step::More) => {}
                Ok(Step::Done) => return self.done(),
                // What the last bytes left open may be half an event.
                Err(Fault::Garbage(_)) if self.events.is_empty() => {
                    return self.fault(Fault::Cut("it ended within an event"));
                }
                Err(fault) => return self.fault(fault),
            }
        }
        if let Err(fault) = self.decoder.end(&mut self.ready) {
            self.fault(fault);
        }
    }

    fn broken(&mut self, error: BodyError) {
        self.body = None;
        // Nothing is missing, only the polite end.
        if matches!(error, BodyError::Broken(_) | BodyError::Late)
            && self.decoder.end(&mut self.ready).is_ok()
        {
            return;
        }
        let late = if self.begun { Kind::Stalled } else { Kind::Timeout };
        self.error = Some(self.http.broken(error, late));
    }

    fn fault(&mut self, fault: Fault) {
        self.body = None;
        self.events.clear();
        self.error = Some(self.http.fault(fault));
    }
}
