//! Finds the seed a request carries, wherever its dialect puts it. It does not know whose it is.
//!
//! The seed is copied out of the head into memory that is wiped; the head itself belongs to the HTTP library and goes
//! with the request. Nothing here, its errors included, repeats what was sent.

use axum::http::{HeaderMap, Uri, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nhi_bus::keys::Seed;
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Longest credential that is looked at; a seed has 58 characters, a Basic header some more.
const CREDENTIAL_BYTES_MAX: usize = 512;

/// Why a request has no usable credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("the request carries no credential")]
    Missing,
    #[error("the credential is not an identity's key")]
    Malformed,
}

/// The seed in `Authorization` (Bearer, or the password of Basic), `x-api-key`, `x-goog-api-key` or `?key=`: the first
/// of these that is there counts.
pub(crate) fn find(headers: &HeaderMap, uri: &Uri) -> Result<Seed, CredentialError> {
    let header = |name: &str| headers.get(name).map(|value| value.as_bytes());
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        return from_authorization(value.as_bytes());
    }
    let in_query = || uri.query()?.split('&').find_map(|pair| pair.strip_prefix("key=")).map(str::as_bytes);
    let bytes = header("x-api-key").or_else(|| header("x-goog-api-key")).or_else(in_query);
    parse(bytes.ok_or(CredentialError::Missing)?)
}

fn from_authorization(value: &[u8]) -> Result<Seed, CredentialError> {
    let space = value.iter().position(|b| *b == b' ').ok_or(CredentialError::Malformed)?;
    let (scheme, rest) = (&value[..space], value[space + 1..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return parse(rest);
    }
    if !scheme.eq_ignore_ascii_case(b"basic") || rest.len() > CREDENTIAL_BYTES_MAX {
        return Err(CredentialError::Malformed);
    }
    let pair = Zeroizing::new(STANDARD.decode(rest).map_err(|_| CredentialError::Malformed)?);
    let colon = pair.iter().position(|b| *b == b':').ok_or(CredentialError::Malformed)?;
    parse(&pair[colon + 1..])
}

fn parse(bytes: &[u8]) -> Result<Seed, CredentialError> {
    if bytes.len() > CREDENTIAL_BYTES_MAX {
        return Err(CredentialError::Malformed);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| CredentialError::Malformed)?;
    Seed::parse(text).map_err(|_| CredentialError::Malformed)
}

/// What a connection is found by: SHA-256 of the seed. Compared in constant time, never shown.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(seed: &Seed) -> Self {
        Self(Sha256::digest(seed.expose()).into())
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn check(target: &str, headers: &[(&str, &str)]) -> Result<String, CredentialError> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        find(&parts.headers, &parts.uri).map(|seed| seed.public_key())
    }

    #[test]
    fn the_seed_is_found_in_every_dialect() {
        let (seed, other) = (Seed::generate(), Seed::generate());
        let (text, key) = (seed.expose(), seed.public_key());
        let basic = |pair: String| format!("basic {}", STANDARD.encode(pair));
        let query = format!("/x?alt=sse&key={text}&n=1");
        for (target, headers) in [
            ("/", vec![("authorization", format!("Bearer {text}"))]),
            ("/", vec![("authorization", format!("bearer   {text} "))]),
            ("/", vec![("authorization", basic(format!("anybody:{text}")))]),
            ("/", vec![("authorization", basic(format!(":{text}")))]),
            ("/", vec![("x-api-key", text.to_owned()), ("x-goog-api-key", other.expose().to_owned())]),
            ("/", vec![("x-goog-api-key", text.to_owned())]),
            (query.as_str(), vec![]),
            (query.replace(text, other.expose()).as_str(), vec![("x-api-key", text.to_owned())]),
        ] {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            assert_eq!(
                check(target, &headers),
                Ok(key.clone()),
                "{target} {:?}",
                headers.first().map(|h| h.0)
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(check("/", &[]), Err(CredentialError::Missing));
        assert_eq!(check("/?other=1", &[]), Err(CredentialError::Missing));
        let long = format!("Basic {}", "A".repeat(4 * CREDENTIAL_BYTES_MAX));
        for bad in
            ["", "Bearer", "Bearer ", "Bearer sk-1234", "Digest x", "Basic !!!", "Basic YWJj", long.as_str()]
        {
            assert_eq!(check("/", &[("authorization", bad)]), Err(CredentialError::Malformed), "{bad}");
        }
        assert_eq!(check("/?key=", &[]), Err(CredentialError::Malformed));
        let seed = Seed::generate();
        let public = [("authorization", format!("Bearer {}", seed.public_key()))];
        assert_eq!(check("/", &[(public[0].0, public[0].1.as_str())]), Err(CredentialError::Malformed));
        let target = format!("/?key={}", seed.expose());
        assert_eq!(
            check(&target, &[("authorization", "Bearer x")]),
            Err(CredentialError::Malformed),
            "the first counts"
        );
    }

    #[test]
    fn fingerprints_tell_seeds_apart_and_hide() {
        let (one, two) = (Seed::generate(), Seed::generate());
        assert!(Fingerprint::of(&one) == Fingerprint::of(&one.clone()));
        assert!(Fingerprint::of(&one) != Fingerprint::of(&two));
        assert_eq!(format!("{:?}", Fingerprint::of(&one)), "Fingerprint(hidden)");
    }
}
