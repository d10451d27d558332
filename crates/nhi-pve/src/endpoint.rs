//! Where Proxmox is and with what token: parsed once, trusted afterwards. It opens nothing.

use crate::trust::Trust;
use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};
use url::Host;

/// Proxmox's own port.
const PORT: u16 = 8006;
/// Far beyond any token Proxmox makes (36 characters), far below a header line's limit of 8 KiB.
const SECRET_BYTES_MAX: usize = 1024;

/// One cluster or stand-alone host and how to read it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its API addresses, the preferred one first; the others are asked when one cannot speak for the cluster.
    pub(crate) addresses: Vec<Address>,
    pub(crate) token: ApiToken,
    pub(crate) trust: Trust,
    /// Limits; change before making a reader.
    pub limits: Limits,
    /// Where the nodes' API listens whose addresses the cluster tells. Proxmox has no setting for it; tests do.
    pub node_port: u16,
}

impl Endpoint {
    /// One or several addresses of the same cluster.
    pub fn new(addresses: Vec<Address>, token: ApiToken, trust: Trust) -> Result<Self, EndpointError> {
        let mut seen = BTreeSet::new();
        let addresses: Vec<Address> =
            addresses.into_iter().filter(|address| seen.insert(address.to_string())).collect();
        if addresses.is_empty() {
            return Err(EndpointError::NoAddress);
        }
        Ok(Self { addresses, token, trust, limits: Limits::STANDARD, node_port: PORT })
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Its token; `Debug` does not show the secret.
    pub fn token(&self) -> &ApiToken {
        &self.token
    }

    /// The same place, trusted alike, with another token.
    #[must_use]
    pub fn with_token(self, token: ApiToken) -> Self {
        Self { token, ..self }
    }
}

/// The limits of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may be idle before it is not used again. Proxmox closes after 5.0 s.
    pub pool_idle: Duration,
    /// How many idle connections are kept.
    pub pool_connections_max: usize,
    /// How long connecting to one address may take, TLS included.
    pub connect: Duration,
    /// The same for an address that the cluster told. This machine may have no way to it, and there are many.
    pub connect_learned: Duration,
    /// How long a call may take once it is its turn. Proxmox itself gives up on another node after 30 s.
    pub deadline: Duration,
    /// How long a call waits for its turn among the others.
    pub turn: Duration,
    /// Largest answer, bytes. 500 guests are 161 kB.
    pub body_bytes_max: usize,
    /// How long nothing is sent after a 401. Each refused try costs the node three seconds.
    pub unauthorized: Duration,
    /// Calls in flight in all. Proxmox takes 500 connections, and people use it too.
    pub in_flight_max: usize,
    /// Calls that need a privileged worker, in flight per node. A node has three, and its web interface needs one.
    pub protected_max: usize,
}

impl Limits {
    /// What suits every cluster we know.
    pub const STANDARD: Self = Self {
        pool_idle: Duration::from_secs(4),
        pool_connections_max: 32,
        connect: Duration::from_secs(5),
        connect_learned: Duration::from_secs(3),
        deadline: Duration::from_secs(35),
        turn: Duration::from_secs(120),
        body_bytes_max: 32 * 1024 * 1024,
        unauthorized: Duration::from_secs(60),
        in_flight_max: 32,
        protected_max: 2,
    };
}

/// `http` or `https`; the former only to this machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Where an API answers: a host, `host:port` or a URL. The port is 8006 unless one is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
}

impl Address {
    /// Parses a list separated by commas or white space (`PROXMOX_HOST=pve1,pve2:8006`).
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EndpointError> {
        let words =
            text.split(|char: char| char == ',' || char.is_whitespace()).filter(|word| !word.is_empty());
        let addresses = words.map(Self::from_str).collect::<Result<Vec<Self>, EndpointError>>()?;
        if addresses.is_empty() { Err(EndpointError::NoAddress) } else { Ok(addresses) }
    }

    /// The host without port, as a certificate names it.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }
}

impl FromStr for Address {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, _)) => {
                return Err(EndpointError::Scheme { scheme: scheme.escape_debug().to_string() });
            }
        };
        // Before anything is put into an error: what stands before the @ may be a password.
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let bad = |reason| EndpointError::Address { text: text.escape_debug().to_string(), reason };
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if !matches!(path.trim_end_matches('/'), "" | "/api2" | "/api2/json") {
            return Err(bad("only the root of a server can be the API, so nothing may follow the port"));
        }
        let (host, port) =
            split_port(authority).ok_or_else(|| bad("the port must be a number from 1 to 65535"))?;
        // Bare, as addresses are mostly written.
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let host = Host::parse(&host).map_err(|_| bad("that is no host name and no address"))?;
        let address = Self { scheme, host, port: port.unwrap_or(PORT) };
        if scheme == Scheme::Http && !address.is_loopback() {
            return Err(EndpointError::Plain { host: address.host() });
        }
        Ok(address)
    }
}

/// Host and port of `host`, `host:1`, `[::1]`, `[::1]:1` and bare `::1`; `None` when the port is no port.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let colon = match (authority.rfind(']'), authority.rfind(':')) {
        (Some(bracket), Some(colon)) if colon > bracket => Some(colon),
        (Some(_), _) => None,
        // More than one colon without brackets: an IPv6 address without a port.
        (None, Some(colon)) if authority.find(':') == Some(colon) => Some(colon),
        (None, _) => None,
    };
    match colon {
        Some(colon) => {
            let port = authority[colon + 1..].parse().ok().filter(|port| *port != 0)?;
            Some((&authority[..colon], Some(port)))
        }
        None => Some((authority, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(formatter, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// An API token. Its `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    id: String,
    secret: String,
}

impl ApiToken {
    /// From the whole id (`user@realm!id`) and its secret.
    pub fn parse(id: &str, secret: &str) -> Result<Self, EndpointError> {
        let id = id.trim();
        let secret = secret.trim();
        let bad = || EndpointError::TokenId { id: id.escape_debug().to_string() };
        let (user, name) = id.split_once('!').ok_or_else(bad)?;
        let (account, realm) = user.rsplit_once('@').ok_or_else(bad)?;
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        let is_plain = |word: &str| is_word(word) && !word.contains(['=', '!', ':', '/', '@']);
        if !(is_word(account) && !account.contains(['=', '!', ':', '/']) && is_plain(realm) && is_plain(name))
        {
            return Err(bad());
        }
        if secret.is_empty() {
            return Err(EndpointError::SecretMissing { id: id.to_owned() });
        }
        if secret.len() > SECRET_BYTES_MAX || !is_word(secret) || secret.contains(['=', '!']) {
            return Err(EndpointError::SecretShape { id: id.to_owned() });
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// From the keys of Neural-Home v3: `PROXMOX_USER` (`user@realm`) and `PROXMOX_TOKEN_ID`, which is `id` or the
    /// whole `user@realm!id`; the latter wins.
    pub fn from_parts(user: Option<&str>, token_id: &str, secret: &str) -> Result<Self, EndpointError> {
        if token_id.contains('!') {
            return Self::parse(token_id, secret);
        }
        match user.map(str::trim).filter(|user| !user.is_empty()) {
            Some(user) => Self::parse(&format!("{user}!{}", token_id.trim()), secret),
            None => Err(EndpointError::TokenId { id: token_id.escape_debug().to_string() }),
        }
    }

    /// The id (`user@realm!id`), which is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("PVEAPIToken={}={}", self.id, self.secret)
    }

    /// The text without the secret, should a server echo it.
    pub(crate) fn redact(&self, text: &str) -> String {
        // A secret of a few characters would tear holes into every sentence, and is none.
        if self.secret.len() < 8 { text.to_owned() } else { text.replace(&self.secret, "[secret]") }
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A setting is wrong. No message contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No address at all.
    #[error("find an address of Proxmox: set PROXMOX_HOST to a host, host:port or URL")]
    NoAddress,
    /// An unknown scheme.
    #[error("use scheme \"{scheme}\" for Proxmox: write https://HOST:8006")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// User or password in the address.
    #[error(
        "take a user or password from the address of Proxmox: give a token (PROXMOX_TOKEN_ID, PROXMOX_SECRET_KEY)"
    )]
    Credentials,
    /// Something else is wrong with the address.
    #[error("read \"{text}\" as the address of Proxmox: {reason}")]
    Address {
        /// The address as given.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Plain HTTP to another machine.
    #[error("send a token to {host} over plain http, where anyone could read it: write https://{host}:8006")]
    Plain {
        /// The host.
        host: String,
    },
    /// The token id is not `user@realm!id`.
    #[error("read \"{id}\" as a token id: write user@realm!id, or give PROXMOX_USER=user@realm beside it")]
    TokenId {
        /// The id as given.
        id: String,
    },
    /// No secret.
    #[error(
        "find the secret of token {id}: set PROXMOX_SECRET_KEY (Proxmox shows it once, when the token is made)"
    )]
    SecretMissing {
        /// The token.
        id: String,
    },
    /// The secret cannot be one.
    #[error(
        "use the secret of token {id}: it must be the value alone, without spaces and without the id before it"
    )]
    SecretShape {
        /// The token.
        id: String,
    },
}

#[cfg(test)]
mod tests;
