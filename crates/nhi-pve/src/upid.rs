//! The name of a task, as Proxmox gives it. It says who began what, where and when; not how it ends.

use std::{fmt, str::FromStr};

/// Longer than any UPID: a node's name has 63 characters at most, a token's whole id 64 and a few.
const BYTES_MAX: usize = 512;

/// `UPID:node:pid:pstart:starttime:type:id:user:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upid {
    /// The node it runs on.
    pub node: String,
    /// Process id of its worker.
    pub pid: u32,
    /// Start of that process, clock ticks since the node booted.
    pub pstart: u64,
    /// When it began by that node's clock, seconds since 1970 UTC.
    pub started: u64,
    /// Type (`qmstart`, `vzdump`, …).
    pub kind: String,
    /// What it is about: mostly a vmid; "" for a job over several guests.
    pub id: String,
    /// Who began it (`user@realm` or `user@realm!token`).
    pub user: String,
    text: String,
}

/// A text is no UPID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?} as the id of a task")]
pub struct BadUpid {
    /// The text, cut to 80 characters.
    pub text: String,
}

impl Upid {
    /// The guest it is about; `None` when it is about none, or several.
    pub fn vmid(&self) -> Option<u32> {
        self.id.parse().ok()
    }

    /// As Proxmox wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let parts: Vec<&str> = text.split(':').collect();
        let ["UPID", node, pid, pstart, started, kind, id, user, ""] = parts[..] else { return None };
        let is_whole = |word: &str| !word.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/');
        if !is_node(node) || kind.is_empty() || user.is_empty() || ![kind, id, user].into_iter().all(is_whole)
        {
            return None;
        }
        Some(Self {
            node: node.to_owned(),
            pid: hex(pid, &[8])?.try_into().ok()?,
            pstart: hex(pstart, &[8, 9])?,
            started: hex(started, &[8])?,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
            text: text.to_owned(),
        })
    }
}

impl FromStr for Upid {
    type Err = BadUpid;

    fn from_str(text: &str) -> Result<Self, BadUpid> {
        Self::read(text).ok_or_else(|| BadUpid { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

fn is_node(text: &str) -> bool {
    let ends_well = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn hex(text: &str, lengths: &[usize]) -> Option<u64> {
    let is_hex = lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_is_read_and_written_back() {
        let text = "UPID:pve-1:0000A1B2:123456789:6740F0A1:qmstart:105:nh-act@pve!mesh:";
        let upid: Upid = text.parse().unwrap();
        assert_eq!((upid.node.as_str(), upid.kind.as_str(), upid.vmid()), ("pve-1", "qmstart", Some(105)));
        assert_eq!((upid.pid, upid.pstart, upid.started), (0xa1b2, 0x1_2345_6789, 0x6740_f0a1));
        assert_eq!((upid.user.as_str(), upid.to_string().as_str()), ("nh-act@pve!mesh", text));
        let several: Upid = "UPID:a:00000001:00000001:00000001:vzdump::root@pam:".parse().unwrap();
        assert_eq!((several.id.as_str(), several.vmid()), ("", None));
    }

    #[test]
    fn what_is_no_upid_is_refused() {
        let good = "UPID:a:00000001:00000001:00000001:qmstart:105:u@pve:";
        assert!(good.parse::<Upid>().is_ok());
        for bad in [
            "",
            "OK",
            "UPID:a:00000001:00000001:00000001:qmstart:105:u@pve",
            "UPID:a:00000001:00000001:00000001:qmstart:105:u@pve:x",
            "UPID:a/b:00000001:00000001:00000001:qmstart:105:u@pve:",
            "UPID:-a:00000001:00000001:00000001:qmstart:105:u@pve:",
            "UPID:a:1:00000001:00000001:qmstart:105:u@pve:",
            "UPID:a:00000001:00000001:+0000001:qmstart:105:u@pve:",
            "UPID:a:00000001:00000001:00000001:qm/../start:105:u@pve:",
            "UPID:a:00000001:00000001:00000001:qmstart:1 5:u@pve:",
            "UPID:a:00000001:00000001:00000001:qmstart:105::",
            "UPID:a:00000001:00000001:00000001:qmstart:105:u@pve:\n",
        ] {
            assert!(bad.parse::<Upid>().is_err(), "{bad:?}");
        }
        assert_eq!("x".repeat(9999).parse::<Upid>().unwrap_err().text.len(), 80);
    }
}
