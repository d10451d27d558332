//! One HTTP request and all that comes of it, with whether the answer came to the end its own head announced: what a strict
//! client sees. No library stands between, because each of them forgives something.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Came {
    /// 0 where not even a head came.
    pub(crate) status: u16,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is all the head announced.
    pub(crate) is_whole: bool,
    /// Whether it was given up after the limit of time.
    pub(crate) is_late: bool,
}

impl Came {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text; what is no UTF-8 is seen.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Posts JSON, and reads until the other side closes or the time is over.
pub(crate) async fn post(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    most: Duration,
) -> Came {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n");
    head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let Ok(mut stream) = TcpStream::connect(addr).await else { return Came::default() };
    let mut bytes = Vec::new();
    let exchange = async {
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
        stream.read_to_end(&mut bytes).await
    };
    let ended = timeout(most, exchange).await;
    let is_late = ended.is_err();
    Came { is_late, ..read(&bytes, matches!(ended, Ok(Ok(_)))) }
}

fn read(bytes: &[u8], is_closed: bool) -> Came {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Came::default() };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let rest = &bytes[end + 4..];
    let is_chunked = headers.get("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
    let announced = headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
    let (body, is_whole) = match announced {
        _ if is_chunked => unchunked(rest),
        Some(length) => (rest.to_vec(), rest.len() == length),
        None => (rest.to_vec(), is_closed),
    };
    Came { status, headers, body, is_whole, is_late: false }
}

/// The chunks put together, and whether the last one came.
fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let Ok(size) = size else { return (body, false) };
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        if rest.len() < size + 2 {
            return (body, false);
        }
        rest = &rest[size + 2..];
    }
    (body, false)
}
