//! The hashes of the audit log. Pure.
//!
//! An entry's hash is that of its text with an empty `hash`. Verifying works on the text as it stands, not on what
//! this program would write: a newer program's fields count too, and numbers are not rounded on the way.

use nhi_model::{audit::AuditEntry, call::AuditVerified};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// Sets an entry's hash, and gives the text to store.
pub(super) fn seal(entry: &mut AuditEntry) -> Vec<u8> {
    entry.hash = String::new();
    entry.hash = hash_of(&serialise(entry));
    serialise(entry)
}

/// What the next entry carries as `prev`: the entry's hash, or that of the text when it is no entry.
pub(super) fn link(text: &[u8]) -> String {
    parse(text).map_or_else(|| hash_of(text), |links| links.hash.into_owned())
}

/// The two fields every entry of every version has.
#[derive(Deserialize)]
struct Links<'a> {
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow)]
    hash: Cow<'a, str>,
}

fn parse(text: &[u8]) -> Option<Links<'_>> {
    serde_json::from_slice(text).ok()
}

fn serialise(entry: &AuditEntry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry of JSON values serialises")
}

fn hash_of(text: &[u8]) -> String {
    String::from_utf8(hex(&Sha256::digest(text)).to_vec()).expect("digits are text")
}

/// In lower case.
fn hex(hash: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [b'0'; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(hash) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    out
}

/// Whether a text has the hash it says: that of the text with an empty `hash`, which is its last field. A text that
/// does not end as ours do has not.
fn is_sealed(text: &[u8], hash: &str) -> bool {
    let (start, end) = (b"\"hash\":\"", b"\"}");
    let before = text
        .strip_suffix(end)
        .and_then(|text| text.strip_suffix(hash.as_bytes()))
        .filter(|text| text.ends_with(start));
    let Some(before) = before else { return false };
    let mut hasher = Sha256::new();
    hasher.update(before);
    hasher.update(end);
    hex(&hasher.finalize())[..] == *hash.as_bytes()
}

/// A log while it is read.
#[derive(Debug, Default)]
pub(super) struct Chain {
    entries: u64,
    sequence: u64,
    head: String,
    fault: Option<String>,
}

impl Chain {
    /// How many entries were taken.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes the next entry. The first fault is kept.
    pub(super) fn take(&mut self, sequence: u64, text: &[u8]) {
        let links = parse(text);
        if self.fault.is_none() {
            self.fault = self.judge(sequence, text, links.as_ref());
        }
        self.entries += 1;
        self.sequence = sequence;
        self.head.clear();
        match links {
            Some(links) => self.head.push_str(&links.hash),
            None => self.head.push_str(&hash_of(text)),
        }
    }

    fn judge(&self, sequence: u64, text: &[u8], links: Option<&Links<'_>>) -> Option<String> {
        let expected = self.sequence + 1;
        if sequence != expected {
            return Some(format!("entries {expected} to {} are missing", sequence.saturating_sub(1)));
        }
        let Some(Links { prev, hash }) = links else {
            return Some(format!("entry {sequence} is not an audit entry"));
        };
        if !is_sealed(text, hash) {
            return Some(format!("entry {sequence} was changed: its hash is another's"));
        }
        if *prev != self.head {
            return Some(format!("entry {sequence} does not follow the one before it"));
        }
        None
    }

    /// What was found, when the log was said to end at a sequence.
    pub(super) fn verdict(self, end: u64) -> AuditVerified {
        let missing =
            (self.sequence < end).then(|| format!("entries {} to {end} are missing", self.sequence + 1));
        let fault = self.fault.or(missing);
        AuditVerified { entries: self.entries, intact: fault.is_none(), fault, head: self.head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::{audit::AuditKind, identity};
    use serde_json::json;

    /// Sequence and text of each entry.
    type Entries = Vec<(u64, Vec<u8>)>;

    /// A log of three entries.
    fn log() -> Vec<Vec<u8>> {
        let mut prev = String::new();
        let mut texts = Vec::new();
        for number in 0..3 {
            let mut entry = AuditEntry {
                v: 1,
                at: "2026-01-02T03:04:05Z".parse().unwrap(),
                agent: identity::home(),
                kind: AuditKind::AuthAdded,
                actor: None,
                details: [("ratio".to_owned(), json!(0.1 + f64::from(number)))].into(),
                prev,
                hash: String::new(),
            };
            texts.push(seal(&mut entry));
            prev = entry.hash;
        }
        texts
    }

    fn verdict(entries: &[(u64, Vec<u8>)], end: u64) -> Option<String> {
        let mut chain = Chain::default();
        for (sequence, text) in entries {
            chain.take(*sequence, text);
        }
        let verdict = chain.verdict(end);
        assert_eq!(verdict.intact, verdict.fault.is_none());
        verdict.fault
    }

    fn numbered(log: Vec<Vec<u8>>) -> Entries {
        (1..).zip(log).collect()
    }

    #[test]
    fn a_whole_log_is_intact() {
        assert_eq!(verdict(&numbered(log()), 3), None);
        assert_eq!(verdict(&[], 0), None);
    }

    #[test]
    fn each_fault_is_found() {
        let check = |spoil: &dyn Fn(&mut Entries), expect: &str| {
            let mut entries = numbered(log());
            spoil(&mut entries);
            let fault = verdict(&entries, 3).unwrap_or_default();
            assert!(fault.contains(expect), "{fault:?} instead of {expect:?}");
        };
        let edit = |text: &mut Vec<u8>, from: &str, to: &str| {
            let edited = String::from_utf8(text.clone()).unwrap().replacen(from, to, 1);
            assert_ne!(edited.as_bytes(), &text[..]);
            *text = edited.into_bytes();
        };
        check(&|entries| edit(&mut entries[1].1, "auth.added", "auth.revoked"), "entry 2 was changed");
        check(&|entries| edit(&mut entries[1].1, "\"v\":1", "\"v\": 1"), "entry 2 was changed");
        check(&|entries| drop(entries.remove(1)), "entries 2 to 2 are missing");
        check(&|entries| drop(entries.remove(0)), "entries 1 to 1 are missing");
        check(&|entries| drop(entries.pop()), "entries 3 to 3 are missing");
        check(&|entries| entries[1].1 = b"{}".to_vec(), "entry 2 is not an audit entry");
        // A fork: a second entry that follows the first one.
        check(&|entries| entries[2].1 = entries[1].1.clone(), "entry 3 does not follow");
        // Sealed anew by somebody who knows how: the next one tells.
        let reseal = |entries: &mut Entries| {
            let mut entry: AuditEntry = serde_json::from_slice(&entries[1].1).unwrap();
            entry.agent = identity::owner();
            entries[1].1 = seal(&mut entry);
        };
        check(&reseal, "entry 3 does not follow");
    }
}
