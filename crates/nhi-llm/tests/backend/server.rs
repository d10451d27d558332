//! A small real HTTP/1.1 server that says what a test wants, byte by byte, and sees when the other side goes away.

use nhi_llm::{Backend, Endpoint, Hints, Key, LlmError, Options, Reply};
use nhi_model::ai::BackendKind;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

/// What is sent, in this order; after the last piece the connection waits for the next request.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Nothing, until the other side goes away.
    Silence,
    /// The connection is closed.
    Cut,
}

type Script = Arc<dyn Fn(&Seen) -> Vec<Piece> + Send + Sync>;

pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    gone: watch::Receiver<u32>,
    connections: watch::Receiver<u32>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Vec<Piece> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (gone_tell, gone) = watch::channel(0);
        let (connections_tell, connections) = watch::channel(0);
        let script: Script = Arc::new(script);
        let mut tasks = JoinSet::new();
        let log = seen.clone();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections_tell.send_modify(|count| *count += 1);
                served.spawn(serve(stream, script.clone(), log.clone(), gone_tell.clone()));
            }
        });
        Self { port, seen, gone, connections, _tasks: tasks }
    }

    /// Each request is answered with this.
    pub(crate) async fn saying(pieces: Vec<Piece>) -> Self {
        Self::start(move |_| pieces.clone()).await
    }

    pub(crate) fn endpoint(&self, kind: BackendKind) -> Endpoint {
        let options = Options {
            first_byte: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            whole: Duration::from_secs(10),
            ..Options::USUAL
        };
        Endpoint {
            name: "there".to_owned(),
            kind,
            url: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
            key: Some(Key::new("sk-very-secret".to_owned())),
            headers: BTreeMap::new(),
            fingerprint: None,
            signer: None,
            options,
        }
    }

    pub(crate) fn backend(&self, kind: BackendKind) -> Backend {
        Backend::new(self.endpoint(kind)).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> u32 {
        *self.connections.borrow()
    }

    /// Waits until so many clients went away in the middle.
    pub(crate) async fn gone(&mut self, count: u32) {
        let waited = tokio::time::timeout(Duration::from_secs(5), self.gone.wait_for(|gone| *gone >= count));
        waited.await.expect("the backend never learned that nobody listens").unwrap();
    }
}

async fn serve(mut stream: TcpStream, script: Script, log: Arc<Mutex<Vec<Seen>>>, gone: watch::Sender<u32>) {
    stream.set_nodelay(true).unwrap();
    while let Some(request) = read(&mut stream).await {
        let pieces = script(&request);
        log.lock().unwrap().push(request);
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        gone.send_modify(|count| *count += 1);
                        return;
                    }
                }
                Piece::Silence => {
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
                    gone.send_modify(|count| *count += 1);
                    return;
                }
                Piece::Cut => return,
            }
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&bytes[head_end + 4..]).unwrap_or(Value::Null);
    Some(Seen { line, headers, body })
}

/// A whole answer.
pub(crate) fn whole(status: &str, headers: &str, body: &str) -> Vec<Piece> {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    vec![Piece::Bytes(text.into_bytes())]
}

/// The head of a streamed answer and these pieces; without its end.
pub(crate) fn open(content_type: &str, pieces: &[&str]) -> Vec<Piece> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut said = vec![Piece::Bytes(head.into_bytes())];
    said.extend(
        pieces.iter().map(|piece| Piece::Bytes(format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes())),
    );
    said
}

/// The same with its end.
pub(crate) fn streamed(content_type: &str, pieces: &[&str]) -> Vec<Piece> {
    let mut said = open(content_type, pieces);
    said.push(Piece::Bytes(b"0\r\n\r\n".to_vec()));
    said
}

/// A body of a request.
pub(crate) fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// The whole answer to a request that does not stream.
pub(crate) async fn ask(backend: &Backend, request: Value, hints: &Hints) -> Result<Value, LlmError> {
    match backend.chat(map(request), hints).await? {
        Reply::Whole(answer) => Ok(Value::Object(answer)),
        Reply::Stream(chunks) => panic!("{chunks:?} is no whole answer"),
    }
}

/// All chunks, and how it ended.
pub(crate) async fn stream(
    backend: &Backend,
    request: Value,
    hints: &Hints,
) -> (Vec<Value>, Result<(), LlmError>) {
    let mut request = map(request);
    request.insert("stream".to_owned(), true.into());
    let mut chunks = match backend.chat(request, hints).await {
        Ok(Reply::Stream(chunks)) => chunks,
        Ok(Reply::Whole(answer)) => panic!("{answer:?} is no stream"),
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut got = Vec::new();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => got.push(Value::Object(chunk)),
            Err(error) => {
                assert!(chunks.next().await.is_none(), "something came after an error");
                return (got, Err(error));
            }
        }
    }
    (got, Ok(()))
}

/// The text of these chunks.
pub(crate) fn text(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/content")?.as_str()).collect()
}

/// The reason in the last chunk that has one.
pub(crate) fn finish(chunks: &[Value]) -> Option<String> {
    let mut reasons = chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/finish_reason")?.as_str());
    reasons.next_back().map(str::to_owned)
}
