//! The pass a router shows to a PC's relay: signed with the router's own key, good for one request, for a minute. It
//! keeps no list of passes that were shown; who checks them does.

use crate::keys::Seed;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use nkeys::{KeyPair, KeyPairType};
use uuid::Uuid;

/// How far the clocks of both sides may differ, and how long a pass may be on its way: one that is older, or newer, is
/// refused, so what was shown has to be remembered for twice as long.
pub const PASS_SECONDS_MAX: u32 = 60;
/// Longest pass: a key of 56 characters, a second, a nonce, a signature of 86.
const PASS_CHARS_MAX: usize = 300;
/// Longest nonce.
const NONCE_CHARS_MAX: usize = 64;

/// A pass that is sound. Whether its key is allowed, and whether it was shown before, is not said yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The public key that signed it.
    pub key: String,
    /// What makes it different from all others.
    pub nonce: String,
}

/// Why something is no pass for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPass {
    /// It is not written as one.
    #[error("the pass is not KEY SECONDS NONCE SIGNATURE")]
    Malformed,
    /// It is from another minute.
    #[error("the pass is older or newer than {PASS_SECONDS_MAX} s; do the clocks of both machines agree?")]
    Expired,
    /// It is for another request, or forged.
    #[error("the pass is not signed for this request")]
    Forged,
}

/// Makes the pass for one request to one machine: `<public key> <unix seconds> <nonce> <signature>`. The path is what
/// stands in the request's first line, the question behind it included.
pub fn issue(seed: &Seed, host: &str, method: &str, path: &str, now: Timestamp) -> String {
    let (seconds, nonce) = (now.as_second(), Uuid::new_v4().simple().to_string());
    let signature = seed.sign(&signed(host, method, path, seconds, &nonce));
    format!("{} {seconds} {nonce} {signature}", seed.public_key())
}

/// Checks the pass of one request to a machine. One that was shown to another machine is none here.
///
/// # Errors
/// [`BadPass`]
pub fn check(pass: &str, host: &str, method: &str, path: &str, now: Timestamp) -> Result<Pass, BadPass> {
    let parts: Vec<&str> = pass.split(' ').collect();
    let &[key, seconds, nonce, signature] = &parts[..] else { return Err(BadPass::Malformed) };
    if pass.len() > PASS_CHARS_MAX || nonce.is_empty() || nonce.len() > NONCE_CHARS_MAX {
        return Err(BadPass::Malformed);
    }
    let seconds: i64 = seconds.parse().map_err(|_| BadPass::Malformed)?;
    let at = Timestamp::from_second(seconds).map_err(|_| BadPass::Malformed)?;
    let pair = KeyPair::from_public_key(key).map_err(|_| BadPass::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadPass::Malformed)?;
    if pair.key_pair_type() != KeyPairType::User {
        return Err(BadPass::Malformed);
    }
    if now.duration_since(at).abs() > SignedDuration::from_secs(PASS_SECONDS_MAX.into()) {
        return Err(BadPass::Expired);
    }
    let signed = signed(host, method, path, seconds, nonce);
    pair.verify(signed.as_bytes(), &signature).map_err(|_| BadPass::Forged)?;
    Ok(Pass { key: key.to_owned(), nonce: nonce.to_owned() })
}

fn signed(host: &str, method: &str, path: &str, seconds: i64, nonce: &str) -> String {
    format!("{host} {method} {path} {seconds} {nonce}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_for_one_request_of_one_minute() {
        let (seed, now) = (Seed::generate(), "2026-07-01T12:00:00Z".parse::<Timestamp>().unwrap());
        let pass = issue(&seed, "pc", "POST", "/api/chat", now);
        let later = |seconds| now + SignedDuration::from_secs(seconds);
        let shown = check(&pass, "pc", "POST", "/api/chat", later(59)).unwrap();
        assert_eq!(shown.key, seed.public_key());
        assert_ne!(issue(&seed, "pc", "POST", "/api/chat", now), pass, "no two are alike");
        assert_eq!(check(&pass, "pc", "POST", "/api/pull", now), Err(BadPass::Forged));
        assert_eq!(
            check(&pass, "laptop", "POST", "/api/chat", now),
            Err(BadPass::Forged),
            "it is for one machine"
        );
        assert_eq!(check(&pass, "pc", "GET", "/api/chat", now), Err(BadPass::Forged));
        assert_eq!(check(&pass, "pc", "POST", "/api/chat", later(61)), Err(BadPass::Expired));
        assert_eq!(check(&pass, "pc", "POST", "/api/chat", later(-61)), Err(BadPass::Expired));
        let other = Seed::generate().public_key();
        let stolen = pass.replace(&seed.public_key(), &other);
        assert_eq!(check(&stolen, "pc", "POST", "/api/chat", now), Err(BadPass::Forged));
        for bad in ["", "a b c d", "a b c", &pass.replace(' ', "  "), &format!("{pass} x")] {
            assert_eq!(check(bad, "pc", "POST", "/api/chat", now), Err(BadPass::Malformed), "{bad:?}");
        }
    }
}
