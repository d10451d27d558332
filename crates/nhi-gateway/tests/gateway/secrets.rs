//! A seed is nowhere but in the request and in the caller's connection: not in logs, not in answers.

use crate::house::House;
use nhi_bus::keys::Seed;
use std::{
    io,
    sync::{Arc, Mutex},
};
use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;

/// Everything that is logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn seeds_are_never_logged_nor_answered() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    // Two of them, because with one alone tracing asks the thread of whoever comes first to a place in the code, and
    // other tests run in threads without one.
    let (_second, subscriber) = (Dispatch::new(tracing_subscriber::registry()), Dispatch::new(subscriber));
    let guard = tracing::dispatcher::set_default(&subscriber);
    let house = House::open().await;
    let (owner, stranger) = (house.seed("owner"), Seed::generate());
    let mut answers = Vec::new();
    for seed in [owner.as_str(), stranger.expose(), &format!("{owner}x")] {
        let bearer = format!("Bearer {seed}");
        for path in ["/mesh/kettle/tell", "/mesh/kettle/refuse", "/mesh/toaster/toast", "/nowhere", "/readyz"]
        {
            answers.push(house.send("POST", path, &[("Authorization", &bearer)], "{}").await);
            answers.push(house.send("POST", &format!("{path}?key={seed}"), &[], "{}").await);
            let evil =
                format!("POST {path}?key={seed} HTTP/1.1\r\nHost: evil.example\r\nX-Api-Key: {seed}\r\n\r\n");
            answers.push(house.raw(&evil).await);
        }
    }
    house.close().await;
    drop(guard);
    let text = log.text();
    assert!(
        text.contains("caller connected") && text.contains("request refused by its head"),
        "the log is heard:\n{text}"
    );
    for secret in [owner.as_str(), stranger.expose()] {
        assert!(!text.contains(secret), "a seed is in the log");
        assert!(!answers.iter().any(|a| a.head.contains(&secret.to_lowercase()) || a.body.contains(secret)));
        // Not a part of one either.
        assert!(!text.contains(&secret[..20]), "a part of a seed is in the log");
    }
    assert!(answers.iter().any(|a| a.status == 200) && answers.iter().any(|a| a.status == 401));
}
