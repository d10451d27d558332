//! A running lab and a client that speaks HTTP/1.1 over TLS byte by byte, so that a test sees what is really
//! sent. It follows no redirect, retries nothing, hides nothing.

use nhi_sim::{LabOptions, Running, TokenSecret, serve};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) struct Lab {
    pub(crate) running: Running,
    connector: TlsConnector,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

impl Lab {
    /// A demo home that answers failed logins at once.
    pub(crate) async fn start() -> Self {
        Self::with(LabOptions { auth_delay_ms: 0, task_ms: 10, ..LabOptions::demo() }).await
    }

    pub(crate) async fn with(options: LabOptions) -> Self {
        let running = serve(options).await.expect("a lab starts");
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(running.ca_pem.as_bytes()).expect("an authority");
        roots.add(authority).expect("it can be trusted");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { running, connector: TlsConnector::from(Arc::new(config)) }
    }

    /// One request on a connection of its own, as the acting token; `None` when there is no answer.
    pub(crate) async fn send(&self, method: &str, path: &str, form: &str) -> Option<Answer> {
        let mut client = Client::connect(self).await?;
        client.request(method, path, form).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await.expect("an answer")
    }

    /// Status and JSON of a call of the control endpoint.
    pub(crate) async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.control_with(method, path, "", &body).await;
        (answer.status, answer.json())
    }

    /// The same with more header lines.
    pub(crate) async fn control_with(&self, method: &str, path: &str, lines: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let address = self.running.control_url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: lab\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        read(&mut stream).await.expect("an answer")
    }

    /// One reading request as the scanning token.
    pub(crate) async fn get_as_scanner(&self, path: &str) -> Answer {
        let mut client = Client::connect(self).await.expect("a connection");
        client.authorization = authorization(&self.running.scan_token);
        client.get(path).await
    }
}

fn authorization(token: &TokenSecret) -> String {
    format!("Authorization: PVEAPIToken={}={}\r\n", token.id, token.secret)
}

pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    authorization: String,
}

impl Client {
    pub(crate) async fn connect(lab: &Lab) -> Option<Self> {
        Self::connect_to(lab, &lab.running.url).await
    }

    pub(crate) async fn connect_to(lab: &Lab, url: &str) -> Option<Self> {
        let address = url.trim_start_matches("https://");
        let tcp = TcpStream::connect(address).await.ok()?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let stream = lab.connector.connect(name, tcp).await.ok()?;
        let token = &lab.running.act_token;
        Some(Self {
            stream,
            authorization: format!("Authorization: PVEAPIToken={}={}\r\n", token.id, token.secret),
        })
    }

    /// The protocol that was negotiated.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    pub(crate) async fn request(&mut self, method: &str, path: &str, form: &str) -> Option<Answer> {
        let body = if form.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len())
        };
        let head = format!(
            "{method} /api2/json{path} HTTP/1.1\r\nHost: lab\r\n{}{body}\r\n{form}",
            self.authorization
        );
        self.raw(&head).await
    }

    pub(crate) async fn get(mut self, path: &str) -> Answer {
        self.request("GET", path, "").await.expect("an answer")
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) async fn raw(&mut self, text: &str) -> Option<Answer> {
        self.stream.write_all(text.as_bytes()).await.ok()?;
        self.stream.flush().await.ok()?;
        read(&mut self.stream).await
    }

    /// A head with the token, the given lines, and nothing after.
    pub(crate) async fn raw_with_token(&mut self, start: &str, lines: &str, body: &str) -> Option<Answer> {
        let text = format!("{start} HTTP/1.1\r\nHost: lab\r\n{}{lines}\r\n{body}", self.authorization);
        self.raw(&text).await
    }

    /// Waits until the server closes; gives the bytes that came before.
    pub(crate) async fn closed(&mut self) -> usize {
        let mut rest = Vec::new();
        // An abrupt end is an end too.
        self.stream.read_to_end(&mut rest).await.unwrap_or(0)
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut start = lines.next()?.splitn(3, ' ');
    let status = start.nth(1)?.parse().ok()?;
    let reason = start.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await.unwrap_or(0) == 0 {
            break;
        }
    }
    Some(Answer { status, reason, headers, body })
}
