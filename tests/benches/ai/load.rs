//! The load: a closed loop over so many connections, or requests at fixed times (an open loop, where waiting shows). An
//! answer that is not whole ends the bench: figures of errors would be fast.

use crate::{mock::PIECES, ways::Way};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use nhi_tests::measure::percentile;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinSet};

/// Longest that one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What one request took.
#[derive(Clone, Debug)]
struct Shot {
    /// To the first byte of the answer's body.
    first: Duration,
    whole: Duration,
    /// Between the arrivals of two parts of the body.
    gaps: Vec<Duration>,
}

/// What a run measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) first_p50: Duration,
    pub(crate) first_p99: Duration,
    pub(crate) gap_p99: Duration,
    pub(crate) per_second: f64,
}

impl Figures {
    fn of(shots: &[Shot], elapsed: Duration) -> Self {
        let whole: Vec<Duration> = shots.iter().map(|shot| shot.whole).collect();
        let first: Vec<Duration> = shots.iter().map(|shot| shot.first).collect();
        let gaps: Vec<Duration> = shots.iter().flat_map(|shot| shot.gaps.iter().copied()).collect();
        #[expect(clippy::cast_precision_loss, reason = "at most some hundred thousand")]
        let per_second = shots.len() as f64 / elapsed.as_secs_f64();
        Self {
            p50: percentile(&whole, 50),
            p99: percentile(&whole, 99),
            first_p50: percentile(&first, 50),
            first_p99: percentile(&first, 99),
            gap_p99: percentile(&gaps, 99),
            per_second,
        }
    }
}

/// So many requests over so many connections, each sending its next when the last is answered.
pub(crate) async fn closed(way: &Way, connections: u32, requests: u32, streamed: bool) -> Result<Figures> {
    let left = AtomicU32::new(requests);
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut client = Client::connect(way, streamed).await?;
        client.shoot().await.with_context(|| format!("the first answer of {}", way.name))?;
        clients.push(client);
    }
    let began = Instant::now();
    let work = clients.into_iter().map(|mut client| {
        let left = &left;
        async move {
            let mut shots = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                shots.push(client.shoot().await.with_context(|| format!("an answer of {}", way.name))?);
            }
            anyhow::Ok(shots)
        }
    });
    let shots = try_join_all(work).await?.concat();
    Ok(Figures::of(&shots, began.elapsed()))
}

/// Requests at fixed times, whatever becomes of the earlier ones; counted from when each was due.
pub(crate) async fn open(way: &Way, per_second: u32, seconds: u32) -> Result<Figures> {
    const LANES: u32 = 64;
    let mut clients = Vec::new();
    for _ in 0..LANES {
        let mut client = Client::connect(way, false).await?;
        client.shoot().await?;
        clients.push(client);
    }
    let (pause, began) = (Duration::from_secs(1) / per_second, tokio::time::Instant::now());
    let next = AtomicU32::new(0);
    let work = clients.into_iter().map(|mut client| {
        let next = &next;
        async move {
            let mut shots = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= per_second * seconds {
                    return anyhow::Ok(shots);
                }
                let due = began + pause * number;
                // Nothing is waited for but time itself.
                let _ = tokio::time::timeout_at(due, std::future::pending::<()>()).await;
                let mut shot = client.shoot().await?;
                shot.whole = due.elapsed();
                shots.push(shot);
            }
        }
    });
    let shots = try_join_all(work).await?.concat();
    Ok(Figures::of(&shots, began.elapsed()))
}

/// A connection kept open.
struct Client<'w> {
    way: &'w Way,
    sender: http1::SendRequest<Full<Bytes>>,
    streamed: bool,
    body: Bytes,
    _driver: JoinSet<()>,
}

impl<'w> Client<'w> {
    async fn connect(way: &'w Way, streamed: bool) -> Result<Self> {
        let socket = TcpStream::connect(&way.address).await;
        let socket = socket.with_context(|| format!("connecting to {} at {}", way.name, way.address))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its end is seen by whoever sends.
            let _ = connection.await;
        });
        let flag = if streamed { ",\"stream\":true" } else { "" };
        let question = "Say so many words. ".repeat(20);
        let body = format!(
            "{{\"model\":{:?},\"messages\":[{{\"role\":\"user\",\"content\":{question:?}}}]{flag}}}",
            way.model
        );
        Ok(Self { way, sender, streamed, body: Bytes::from(body), _driver: driver })
    }

    async fn shoot(&mut self) -> Result<Shot> {
        tokio::time::timeout(ANSWER_MAX, self.ask()).await.context("no whole answer in time")?
    }

    async fn ask(&mut self) -> Result<Shot> {
        let mut request = Request::post(&self.way.path).header(header::HOST, &self.way.address);
        request = request.header(header::CONTENT_TYPE, "application/json");
        for (name, value) in &self.way.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body.clone()))?;
        self.sender.ready().await?;
        let began = Instant::now();
        let response = self.sender.send_request(request).await?;
        self.read(response, began).await
    }

    async fn read(&self, response: Response<Incoming>, began: Instant) -> Result<Shot> {
        let (status, mut body) = (response.status(), response.into_body());
        let (mut shot, mut last) =
            (Shot { first: Duration::ZERO, whole: Duration::ZERO, gaps: Vec::new() }, None);
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            let now = Instant::now();
            match last.replace(now) {
                None => shot.first = now - began,
                Some(before) => shot.gaps.push(now - before),
            }
            text.extend_from_slice(&data);
        }
        shot.whole = began.elapsed();
        let text = String::from_utf8_lossy(&text);
        ensure!(status.is_success(), "{status}: {}", text.chars().take(400).collect::<String>());
        let (words, wanted) =
            (text.matches("word ").count(), if self.streamed { PIECES as usize } else { 100 });
        ensure!(words == wanted, "{words} words of {wanted}: {}", text.chars().take(400).collect::<String>());
        ensure!(!self.streamed || text.contains("[DONE]"), "a stream without an end");
        Ok(shot)
    }
}
