//! The transport's promises against a scripted server that speaks raw bytes. What answers mean is tested in the
//! crate itself.

#![expect(clippy::unwrap_used, reason = "a test says where it failed, its helpers too")]

mod addresses;
mod answers;
mod authorities;
mod calls;
mod connections;
mod environment;
mod learned;
mod refusals;
mod server;
mod turns;
mod writes;

use nhi_pve::{Address, ApiToken, Endpoint, Limits, Reader, Trust};
use server::{Server, Step};
use std::time::Duration;

const SECRET: &str = "0f6d1c52-5c1e-4b8e-9f0a-3c2d1e0f9a8b";

fn endpoint(addresses: &[String], trust: Trust) -> Endpoint {
    let addresses: Vec<Address> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Endpoint::new(addresses, ApiToken::parse("nh-scan@pve!mesh", SECRET).unwrap(), trust).unwrap()
}

/// A reader of one server over plain http, which is allowed to this machine itself.
fn reader(server: &Server) -> Reader {
    Reader::new(endpoint(&[server.url()], Trust::System)).unwrap()
}

fn reader_with(server: &Server, change: impl FnOnce(&mut Limits)) -> Reader {
    let mut endpoint = endpoint(&[server.url()], Trust::System);
    change(&mut endpoint.limits);
    Reader::new(endpoint).unwrap()
}

/// A whole answer as Proxmox sends it.
fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

fn version() -> Step {
    Step::Answer(answer(
        "200 OK",
        r#"{"data":{"version":"9.1.1","release":"9.1","repoid":"2a5fa54a8503f96d"}}"#,
    ))
}

fn list() -> Step {
    Step::Answer(answer("200 OK", r#"{"data":[]}"#))
}

/// Moves the clock; nothing waits.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
