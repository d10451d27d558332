//! What stands between a model server and whoever asks it: it lets pieces of an answer through until a place, and sees when the
//! server is asked. It breaks no connection by itself: who lets an answer end there kills the server, or locks its machine.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

/// How a piece of an answer begins.
const PIECE: &[u8] = b"\"content\":\"";
const CHAT: &[u8] = b"POST ";

pub(super) struct Between {
    pub(super) addr: SocketAddr,
    way: Arc<Way>,
    _tasks: JoinSet<()>,
}

struct Way {
    to: Mutex<SocketAddr>,
    /// Pieces of an answer until nothing comes through any more; 0: all do.
    pieces: AtomicU32,
    /// Whether it is the caller who has to go then: that the server ends is not seen.
    is_held: AtomicBool,
    reached: Notify,
    asked: Mutex<Option<Instant>>,
}

impl Between {
    pub(super) async fn open(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let way = Arc::new(Way {
            to: Mutex::new(to),
            pieces: AtomicU32::new(0),
            is_held: AtomicBool::new(false),
            reached: Notify::new(),
            asked: Mutex::new(None),
        });
        let (mut tasks, own) = (JoinSet::new(), Arc::clone(&way));
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                open.spawn(pass(near, Arc::clone(&own)));
            }
        });
        Self { addr, way, _tasks: tasks }
    }

    /// The server was started anew, elsewhere.
    pub(super) fn leads_to(&self, to: SocketAddr) {
        *self.way.to.lock().unwrap() = to;
    }

    /// Of the next answer so many pieces come through, until the server is gone.
    pub(super) fn stop_at(&self, pieces: u32) {
        self.way.is_held.store(false, Ordering::SeqCst);
        self.way.pieces.store(pieces, Ordering::SeqCst);
    }

    /// The same until the caller is gone. A fast server has ended its answer by then, and closed the connection.
    pub(super) fn hold_at(&self, pieces: u32) {
        self.way.is_held.store(true, Ordering::SeqCst);
        self.way.pieces.store(pieces, Ordering::SeqCst);
    }

    /// Waits until they have come through.
    pub(super) async fn reached(&self) {
        self.way.reached.notified().await;
    }

    /// When an answer was first asked for since this was asked last.
    pub(super) fn take_asked(&self) -> Option<Instant> {
        self.way.asked.lock().unwrap().take()
    }
}

async fn pass(mut near: TcpStream, way: Arc<Way>) {
    let to = *way.to.lock().unwrap();
    let Ok(mut far) = TcpStream::connect(to).await else { return };
    let (mut asked, mut told) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    // What is on its way when a server is killed is lost with it.
    let (mut is_lost, mut is_over) = (false, false);
    loop {
        tokio::select! {
            read = near.read(&mut asked) => {
                let Ok(bytes @ 1..) = read else { return };
                if asked[..bytes].starts_with(CHAT) {
                    way.asked.lock().unwrap().get_or_insert_with(Instant::now);
                }
                if far.write_all(&asked[..bytes]).await.is_err() {
                    return;
                }
            }
            read = far.read(&mut told), if !is_over => {
                let Ok(bytes @ 1..) = read else {
                    is_over = is_lost && way.is_held.load(Ordering::SeqCst);
                    if is_over { continue } else { return }
                };
                if is_lost {
                    continue;
                }
                let last = last_piece(&told[..bytes], &way.pieces);
                if near.write_all(&told[..last.unwrap_or(bytes)]).await.is_err() {
                    return;
                }
                if last.is_some() {
                    is_lost = true;
                    way.reached.notify_one();
                }
            }
        }
    }
}

/// Where the last piece that comes through ends, where it is among these bytes.
fn last_piece(bytes: &[u8], pieces: &AtomicU32) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = bytes[at..].windows(PIECE.len()).position(|window| window == PIECE) {
        at += next + PIECE.len();
        if pieces.load(Ordering::SeqCst) > 0 && pieces.fetch_sub(1, Ordering::SeqCst) == 1 {
            let rest = &bytes[at..];
            let end = rest.windows(2).position(|window| window == b"\n\n").map_or(rest.len(), |end| end + 2);
            return Some(at + end);
        }
    }
    None
}
