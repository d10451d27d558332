//! `nhi mcp`: MCP over standard input and output, for a program that starts a command. The server is the gateway's own;
//! its one caller is the identity of `--as`, over that identity's own connection.

use crate::{
    exit::{Ending, Exit, Failure},
    mesh::Mesh,
};

/// Serves until standard input ends.
///
/// # Errors
/// When what comes in is not MCP.
pub(crate) async fn run(mesh: &Mesh) -> Result<(), Failure> {
    nhi_gateway::stdio(&mesh.cx, mesh.bus.clone()).await.ending(Exit::Failed)
}

/// Whoever starts it for a program says whose rights the program shall have: not by accident the owner's.
///
/// # Errors
/// [`Exit::Usage`] without `--as`.
pub(crate) fn named(as_name: Option<&str>) -> Result<(), Failure> {
    if as_name.is_some() {
        return Ok(());
    }
    let sentence = "nhi mcp needs --as NAME, the identity the program shall have; \
                    `nhi auth add NAME --role agent` makes one";
    Err(Failure::new(Exit::Usage, sentence.to_owned()))
}
