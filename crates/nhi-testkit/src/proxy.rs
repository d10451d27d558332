//! A TCP path between a client and a server that can be cut, slowed down, or made deaf.
//!
//! It knows no protocol.

use nhi_bus::cx::Cx;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

/// What is read at once; small, so that a fault hits in the middle of something.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the path does to what goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Each chunk is held back so long, in both directions.
    Delay(Duration),
    /// Connections stay open and new ones are taken, but nothing arrives; it does once this is over.
    HalfOpen,
}

/// A running proxy. It ends with its context, or when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    _cx: CancelOnDrop,
}

struct CancelOnDrop(Cx);

impl std::fmt::Debug for CancelOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cx")
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Proxy {
    /// Listens on any free port of the loopback, for connections to `to`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(cx: &Cx, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, seen) = watch::channel(Fault::Pass);
        let cx = cx.child();
        let accepting = cx.clone();
        cx.spawn("proxy", async move {
            loop {
                tokio::select! {
                    taken = listener.accept() => if let Ok((client, _)) = taken {
                        let seen = seen.clone();
                        let connection = accepting.child();
                        connection.clone().spawn("proxied connection", async move {
                            tokio::select! {
                                () = pass(client, to, seen) => {}
                                () = connection.cancelled() => {}
                            }
                        });
                    },
                    () = accepting.cancelled() => return,
                }
            }
        });
        Ok(Self { address, fault, _cx: CancelOnDrop(cx) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for a NATS client.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Changes what the path does, for open connections too.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// One connection, both ways, until one side closes it or the path is cut.
async fn pass(client: TcpStream, to: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut cut = fault.clone();
    if *cut.borrow_and_update() == Fault::Cut {
        return;
    }
    // A server that is not there is, to the client, a connection that closes.
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, fault.clone()) => {}
        () = pump(from_server, to_client, fault) => {}
        // An error means that the proxy is gone, which is a cut as well.
        _ = cut.wait_for(|fault| *fault == Fault::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fault: watch::Receiver<Fault>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if fault.wait_for(|fault| *fault != Fault::HalfOpen).await.is_err() {
            return;
        }
        let delay = match *fault.borrow() {
            Fault::Delay(delay) => delay,
            Fault::Pass | Fault::Cut | Fault::HalfOpen => Duration::ZERO,
        };
        sleep(delay).await;
        if to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    const SOON: Duration = Duration::from_millis(100);

    async fn echo(cx: &Cx) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = cx.clone();
        cx.spawn("echo", async move {
            loop {
                let (stream, _) = tokio::select! {
                    taken = listener.accept() => taken.unwrap(),
                    () = inner.cancelled() => return,
                };
                inner.spawn("echo connection", async move {
                    let (mut from, mut to) = stream.into_split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        let cx = Cx::new();
        let proxy = Proxy::start(&cx, echo(&cx).await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), b'x');

        proxy.set(Fault::Delay(SOON));
        let before = Instant::now();
        ask(&mut stream).await.unwrap();
        assert!(before.elapsed() >= 2 * SOON, "both ways");

        proxy.set(Fault::HalfOpen);
        assert!(timeout(SOON, ask(&mut stream)).await.is_err(), "nothing arrives");
        proxy.set(Fault::Pass);
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "now it does");

        proxy.set(Fault::Cut);
        assert!(ask(&mut stream).await.is_err());
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut other).await.is_err());
        proxy.set(Fault::Pass);
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut other).await.unwrap(), b'x');
        drop((proxy, stream, other));
        cx.close().await;
    }
}
