//! An MCP client by hand, so that what is on the wire is seen: JSON-RPC in POSTs, answers as events.

use crate::house::{Answer, House, SOON};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The protocol with sessions that most clients speak.
pub(crate) const WITH_SESSION: &str = "2025-11-25";
/// The one without.
pub(crate) const SESSIONLESS: &str = "2026-07-28";

/// One client and its session.
pub(crate) struct Client<'h> {
    house: &'h House,
    key: String,
    session: String,
}

/// What came back: the answer, and what was told before it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answer: Value,
    pub(crate) notes: Vec<Value>,
}

impl<'h> Client<'h> {
    pub(crate) async fn open(house: &'h House, who: &str) -> Self {
        Self::open_in(house, who, WITH_SESSION).await
    }

    /// A session in some version of the protocol.
    pub(crate) async fn open_in(house: &'h House, who: &str, version: &str) -> Self {
        let mut client = Self { house, key: format!("Bearer {}", house.seed(who)), session: String::new() };
        let params = json!({
            "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        });
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let answer = client.post(&body, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(messages(&answer)[0]["result"]["protocolVersion"], version, "{answer:?}");
        let session = answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
        client.session = session.trim().to_owned();
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        assert_eq!(client.post(&ready, &[]).await.status, 202);
        client
    }

    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// A POST with the client's own headers and these.
    pub(crate) async fn post(&self, body: &str, more: &[(&str, &str)]) -> Answer {
        let mut headers =
            vec![("Authorization", self.key.as_str()), ("Accept", "application/json, text/event-stream")];
        if !self.session.is_empty() {
            headers.push(("Mcp-Session-Id", &self.session));
        }
        headers.extend(more);
        self.house.send("POST", "/mcp", &headers, body).await
    }

    pub(crate) async fn request(&self, method: &str, params: Value) -> Told {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string();
        told(&self.post(&body, &[]).await)
    }

    /// The result of a request that succeeds.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let told = self.request(method, params).await;
        assert!(told.answer.get("result").is_some(), "{told:?}");
        told.answer["result"].clone()
    }

    pub(crate) async fn tools(&self) -> Vec<Value> {
        self.ask("tools/list", json!({})).await["tools"].as_array().unwrap().clone()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.tools().await.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The text of a call that is told to have failed.
    pub(crate) async fn failed(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// The stream on which the server speaks by itself.
    pub(crate) async fn listen(&self) -> Reading {
        let head = format!(
            "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nAccept: text/event-stream\r\n\
             Mcp-Session-Id: {}\r\n\r\n",
            self.key, self.session
        );
        Reading::open(self.house, &head).await
    }

    /// A request whose answer is read piece by piece.
    pub(crate) async fn begin(&self, body: &Value, more: &str) -> Reading {
        let body = body.to_string();
        let session =
            if more.is_empty() { format!("Mcp-Session-Id: {}\r\n", self.session) } else { more.to_owned() };
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        Reading::open(self.house, &head).await
    }
}

/// The last message is the answer.
pub(crate) fn told(answer: &Answer) -> Told {
    let mut notes = messages(answer);
    let last = notes.pop().unwrap_or_else(|| panic!("no message in {answer:?}"));
    Told { answer: last, notes }
}

/// What stands in an answer: one message as JSON, or several as events.
fn messages(answer: &Answer) -> Vec<Value> {
    if answer.head.contains("content-type: application/json") {
        return vec![answer.json()];
    }
    let lines = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// An answer that is being read.
pub(crate) struct Reading {
    stream: TcpStream,
    text: String,
}

impl Reading {
    async fn open(house: &House, head: &str) -> Self {
        let mut stream = TcpStream::connect(house.addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reading = Self { stream, text: String::new() };
        reading.until("\r\n\r\n").await;
        reading
    }

    /// Reads until the text is there.
    pub(crate) async fn until(&mut self, what: &str) -> &str {
        let reading = async {
            let mut bytes = [0; 4096];
            while !self.text.contains(what) {
                let count = self.stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "no {what:?} in {:?}", self.text);
                self.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        let read = tokio::time::timeout(SOON, reading).await;
        assert!(read.is_ok(), "no {what:?} yet in {:?}", self.text);
        &self.text
    }

    /// Reads until the other side ends the answer.
    pub(crate) async fn ended(&mut self) {
        self.until("\r\n0\r\n\r\n").await;
    }
}
