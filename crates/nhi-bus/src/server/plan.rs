//! What our nats-server is started with: where it listens and where its files are.
//!
//! It holds no identities: those stand in a file of their own that [`crate::accounts`] renders.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// JetStream in memory, bytes: `nhi-live` holds a few gauges a record.
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// JetStream on disk, bytes: years of a home lab's facts, and well below any disk it runs on.
const STORE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// The server's certificate and key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
}

/// An address beyond loopback was to be opened without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nats-server may listen on {address} only with TLS: identities would cross the network in the clear")]
pub struct NeedsTls {
    /// The address.
    pub address: SocketAddr,
}

/// Where the server listens. It cannot be made for an address beyond loopback without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    address: SocketAddr,
    tls: Option<ServerTls>,
}

impl Listen {
    /// Loopback; port 0 means any free one.
    pub const fn loopback(port: u16) -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), tls: None }
    }

    /// An address without TLS.
    ///
    /// # Errors
    /// [`NeedsTls`] when it is not loopback.
    pub fn plain(address: SocketAddr) -> Result<Self, NeedsTls> {
        if address.ip().is_loopback() {
            return Ok(Self { address, tls: None });
        }
        Err(NeedsTls { address })
    }

    /// An address with TLS.
    pub const fn with_tls(address: SocketAddr, tls: ServerTls) -> Self {
        Self { address, tls: Some(tls) }
    }

    /// The address; port 0 means any free one.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Certificate and key, when it speaks TLS.
    pub const fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// The URL by which this machine reaches the server at the port it has.
    pub fn url(&self, port: u16) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let scheme = if self.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}", SocketAddr::new(ip, port))
    }
}

/// Where the files of our nats-server are, all below `.nhi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    dir: PathBuf,
}

impl ServerFiles {
    /// The files below `dir` (`.nhi`).
    ///
    /// # Errors
    /// When the current directory is gone, so that `dir` has no absolute path, or its path is not UTF-8, which a
    /// configuration file cannot say.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        if dir.to_str().is_none() {
            let why = format!("the path {} is not UTF-8: choose another --dir", dir.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { dir })
    }

    /// `.nhi`
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `.nhi/nats-server.conf`, rendered at every start; nobody edits it.
    pub fn config(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// `.nhi/accounts.conf`, which the one above includes; rendered at every change of identities.
    pub fn accounts(&self) -> PathBuf {
        self.dir.join("accounts.conf")
    }

    /// `.nhi/jetstream`
    pub fn store(&self) -> PathBuf {
        self.dir.join("jetstream")
    }

    /// `.nhi/run`
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// `.nhi/run/nats-server.pid`
    pub fn pid(&self) -> PathBuf {
        self.run().join("nats-server.pid")
    }

    /// `.nhi/logs/nats-server.log`
    pub fn log(&self) -> PathBuf {
        self.dir.join("logs").join("nats-server.log")
    }
}

/// All that a nats-server of ours is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Its files.
    pub files: ServerFiles,
    /// Where it listens.
    pub listen: Listen,
    /// JetStream in memory, bytes.
    pub memory_bytes_max: u64,
    /// JetStream on disk, bytes.
    pub store_bytes_max: u64,
}

impl ServerPlan {
    /// A server whose files are below `dir` (`.nhi`), with the usual limits.
    ///
    /// # Errors
    /// As [`ServerFiles::new`].
    pub fn new(dir: &Path, listen: Listen) -> io::Result<Self> {
        Ok(Self {
            files: ServerFiles::new(dir)?,
            listen,
            memory_bytes_max: MEMORY_BYTES_MAX,
            store_bytes_max: STORE_BYTES_MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_there_is_no_plain_listener() {
        for loopback in ["127.0.0.1:4222", "127.5.0.1:0", "[::1]:4222"] {
            assert!(Listen::plain(loopback.parse().unwrap()).is_ok(), "{loopback}");
        }
        for open in ["0.0.0.0:4222", "192.168.1.5:4222", "[::]:4222"] {
            let address = open.parse().unwrap();
            assert_eq!(Listen::plain(address), Err(NeedsTls { address }), "{open}");
        }
    }

    #[test]
    fn the_url_is_one_this_machine_can_use() {
        let tls = ServerTls { cert_file: "c".into(), key_file: "k".into() };
        let everywhere = Listen::with_tls("0.0.0.0:4222".parse().unwrap(), tls);
        assert_eq!(everywhere.url(4222), "tls://127.0.0.1:4222");
        assert_eq!(Listen::loopback(0).url(4333), "nats://127.0.0.1:4333");
    }
}
