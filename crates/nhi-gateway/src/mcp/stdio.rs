//! The same server for a program that started this one and speaks over standard input and output: one caller, whose own
//! connection to the mesh is given. It writes nothing else to standard output.

use super::{
    ask::Asker,
    server::{Desk, Server},
};
use crate::catalog::Catalog;
use nhi_bus::{connect::Bus, cx::Cx};
use rmcp::service::{ServerInitializeError, serve_server};

/// Why it ended otherwise than by the client's going.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The client did not begin as MCP wants it.
    #[error("speak MCP on standard input; start it from an MCP client")]
    Begin(#[source] Box<ServerInitializeError>),
    /// The server's task died.
    #[error("speak MCP on standard input")]
    Died(#[source] tokio::task::JoinError),
}

/// Serves until standard input ends or `cx` stops.
///
/// # Errors
/// [`StdioError`]
pub async fn stdio(cx: &Cx, bus: Bus) -> Result<(), StdioError> {
    let catalog = Catalog::start(cx, bus.clone());
    let desk = Desk::new(cx.clone(), catalog);
    let server = Server::new(desk, Some(Asker { bus, _caller: None, trace: None }));
    let running = tokio::select! {
        running = serve_server(server, (tokio::io::stdin(), tokio::io::stdout())) => running,
        () = cx.cancelled() => return Ok(()),
    };
    let running = match running {
        Ok(running) => running,
        // Whoever looked and went has not failed.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(StdioError::Begin(Box::new(error))),
    };
    let stop = running.cancellation_token();
    tokio::select! {
        ended = running.waiting() => ended.map(drop).map_err(StdioError::Died),
        () = cx.cancelled() => {
            stop.cancel();
            Ok(())
        }
    }
}
