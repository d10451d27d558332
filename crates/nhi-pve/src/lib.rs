//! The Proxmox VE API in its own types: [`Reader`] reads with a read-only token, [`Operator`] acts with another.
//!
//! It does not decide what an answer means for the lab (nothing here says "gone" or "stopped"), keeps no
//! state of the lab, and follows nothing up.
//!
//! Invariants:
//! - a [`Reader`] cannot write: no method of it sends anything but a GET;
//! - an [`Operator`] sends a call that changes something once, to one address, on a connection that carried nothing
//!   before; another address is taken only while no connection was made, and nothing is ever sent again;
//! - only calls about one guest can be sent: none for a whole node, none that runs a command in a guest;
//! - of a call that is not known to be done it is said whether nothing was sent, Proxmox refused it, or it may have
//!   been taken ([`SendError`]); what somebody in between answered is never a refusal;
//! - no crate of ours is used here, and no clock of the wall is read;
//! - HTTP/1.1 only, no redirect is followed, no proxy is taken from the environment;
//! - a certificate is believed because it is pinned or signed by a known authority; there is no switch for less;
//! - an address that the cluster tells is asked only over a certificate that the pinned authority signed or the
//!   cluster told of that node, both over a believed connection, and only where those of the settings do not answer;
//! - a call asks each address at most once, and the next only where one cannot speak for the cluster (no connection,
//!   no Proxmox, 503, 401, or another node it cannot reach);
//! - only a GET on a reused connection is ever sent to the same address twice, and only once more;
//! - after a 401 nothing is sent to that address until the back-off is over or [`Reader::reset`] is called;
//! - at most [`Limits::protected_max`] calls that Proxmox runs in its three privileged workers are in flight per node;
//! - no answer, however odd, makes a parser panic; what it does not understand is kept and counted;
//! - a row that cannot be read is counted ([`Rows::unreadable`]), never dropped in silence: absence needs proof;
//! - a token's secret is never in a `Debug`, an error or a log.

pub mod cluster;
pub mod config;
pub mod endpoint;
pub mod error;
mod fields;
pub mod guest;
pub mod node;
mod operator;
mod reader;
mod rows;
mod transport;
pub mod trust;
mod upid;

pub use endpoint::{Address, ApiToken, Endpoint, EndpointError, Limits};
pub use error::{Kind, PveError};
pub use guest::GuestKind;
pub use operator::{Accepted, Operator, SendError, Write, WriteMethod};
pub use reader::{GuestNow, MigrateCheck, Reader, TaskNow, TaskQuery};
pub use rows::Rows;
pub use transport::AddressState;
pub use trust::{Fingerprint, Trust, TrustError, TrustedAs};
pub use upid::{BadUpid, Upid};

#[cfg(test)]
mod properties;
