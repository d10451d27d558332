//! Whether somebody looks at the screen from elsewhere: established connections to the ports of remote desktops, as
//! Linux lists them. It opens no socket.

use std::{collections::BTreeSet, fs, path::Path};

/// `01`: established.
const ESTABLISHED: &str = "01";

/// The local port of such a connection.
pub(crate) fn connected(proc: &Path, ports: &BTreeSet<u16>) -> Option<u16> {
    ["net/tcp", "net/tcp6"].into_iter().find_map(|table| {
        let table = fs::read_to_string(proc.join(table)).ok()?;
        table.lines().skip(1).filter_map(established).find(|port| ports.contains(port))
    })
}

/// `0: 0100007F:170C 0100007F:D2F4 01 …`: the local port of an established connection.
fn established(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (state == ESTABLISHED).then_some(port)
}
