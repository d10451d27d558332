//! Keeps web pages of others away: the checks of `Host`, `Origin` and what browsers say about where a request comes
//! from. They look at the head of a request alone, before anything else does. They know nothing of credentials.
//!
//! A page that a browser loaded from elsewhere can send requests here in three ways: under a name that was made to
//! point here (DNS rebinding: `Host` tells), from a script (`Origin` tells), or by a form or an image (`Origin`,
//! `Sec-Fetch-Site` or the form's media type tell). Programs that are no browsers send none of these and pass.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority};
use std::{collections::BTreeSet, net::IpAddr};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Media types a form can send without asking first.
const FORM_TYPES: &[&str] = &["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
/// How much of a refused value is repeated.
const SHOWN_CHARS_MAX: usize = 64;

/// What may come in.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    hosts: BTreeSet<String>,
    origins: BTreeSet<String>,
    scheme: &'static str,
}

/// Where a request that passes comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A program, or a page of our own.
    Ours,
    /// A page of somebody else that was allowed in the configuration: its `Origin` as sent.
    Allowed(HeaderValue),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request names no host, or more than one")]
    UnclearHost,
    #[error("host {0:?} is not a name of this gateway")]
    ForeignHost(String),
    #[error("the request comes from a page of {0:?}")]
    ForeignOrigin(String),
    #[error("the request comes from a page of another site")]
    CrossSite,
    #[error("the body is a form's")]
    Form,
}

impl Refusal {
    /// What to do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::UnclearHost | Self::ForeignHost(_) => {
                "use localhost or the address it listens on, or add the name to `hosts` in [http] of nhi.toml"
            }
            Self::ForeignOrigin(_) | Self::CrossSite => {
                "add the page's origin to `origins` in [http] of nhi.toml"
            }
            Self::Form => "send JSON with the header Content-Type: application/json",
        }
    }
}

impl Guard {
    /// A guard that knows, beside loopback, these names and these pages.
    pub(crate) fn new(hosts: &[String], origins: &[String], has_tls: bool) -> Self {
        let lower = |texts: &[String]| {
            texts.iter().map(|t| t.trim_end_matches(['.', '/']).to_ascii_lowercase()).collect()
        };
        Self { hosts: lower(hosts), origins: lower(origins), scheme: if has_tls { "https" } else { "http" } }
    }

    /// `http` or `https`, as requests come in.
    pub(crate) const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Looks at the head of a request that came in on the address `local`.
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        local: IpAddr,
    ) -> Result<Origin, Refusal> {
        let host = named_host(uri, headers)?;
        if !self.is_own(&host, local) {
            return Err(Refusal::ForeignHost(shown(host.as_str())));
        }
        let origin = match only(headers, &header::ORIGIN) {
            Some(Some(origin)) => self.check_origin(origin, &host)?,
            Some(None) => return Err(Refusal::ForeignOrigin(String::new())),
            None => Origin::Ours,
        };
        let site = headers.get(&SEC_FETCH_SITE).map(|site| site.as_bytes());
        if origin == Origin::Ours && matches!(site, Some(b"cross-site" | b"same-site")) {
            return Err(Refusal::CrossSite);
        }
        let is_form = *method != Method::GET && *method != Method::HEAD && has_form_type(headers);
        let is_form = is_form && !has_key_header(headers);
        if is_form { Err(Refusal::Form) } else { Ok(origin) }
    }

    /// A name that cannot have been made to point here: loopback, what was configured, or the very address the
    /// connection came in on. An address cannot be rebound.
    fn is_own(&self, host: &Authority, local: IpAddr) -> bool {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let is_address = address.is_some_and(|a| a.is_loopback() || a == local);
        is_address || name == "localhost" || self.hosts.contains(&name)
    }

    /// Whether the origin is one of the configured pages or ourselves; an error when it is neither.
    fn check_origin(&self, told: &str, host: &Authority) -> Result<Origin, Refusal> {
        let origin = told.to_ascii_lowercase();
        if self.origins.contains(&origin)
            && let Ok(page) = told.parse()
        {
            return Ok(Origin::Allowed(page));
        }
        let own = format!("{}://{}", self.scheme, host.as_str().to_ascii_lowercase());
        if origin == own { Ok(Origin::Ours) } else { Err(Refusal::ForeignOrigin(shown(&origin))) }
    }
}

/// The one host a request names: in its target, in `Host`, or the same in both.
fn named_host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Refusal> {
    let header = match only(headers, &header::HOST) {
        Some(Some(text)) => Some(text.parse::<Authority>().map_err(|_| Refusal::ForeignHost(shown(text)))?),
        Some(None) => return Err(Refusal::UnclearHost),
        None => None,
    };
    let host = match (uri.authority(), header) {
        (None, Some(host)) => host,
        (Some(target), None) => target.clone(),
        (Some(target), Some(host)) if *target == host => host,
        (Some(_), Some(_)) | (None, None) => return Err(Refusal::UnclearHost),
    };
    if host.as_str().contains('@') { Err(Refusal::ForeignHost(shown(host.as_str()))) } else { Ok(host) }
}

/// The value of a header: `None` when it is absent, `Some(None)` when it is there twice or no text.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { None } else { first.to_str().ok() })
}

fn has_form_type(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        FORM_TYPES.contains(&kind.as_str())
    })
}

/// Whether a header carries a key that no form can send: a script would have to ask first. Programs such as curl call
/// any body a form's, and examples of other servers leave them at that.
fn has_key_header(headers: &HeaderMap) -> bool {
    let is_bearer = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"bearer ");
    headers.get(header::AUTHORIZATION).is_some_and(is_bearer)
        || ["x-api-key", "x-goog-api-key"].iter().any(|name| headers.contains_key(*name))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn verdict(target: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        origin(target, headers).map(drop)
    }

    fn origin(target: &str, headers: &[(&str, &str)]) -> Result<Origin, Refusal> {
        let guard = Guard::new(&["NHI.lan.".to_owned()], &["https://pages.example/".to_owned()], false);
        let mut request = Request::builder().method("POST").uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        guard.check(&parts.method, &parts.uri, &parts.headers, LOCAL)
    }

    #[test]
    fn only_own_names_pass() {
        for good in [
            "localhost",
            "LOCALHOST:8000",
            "localhost.",
            "127.0.0.1:8000",
            "[::1]:8000",
            "127.8.8.8",
            "192.0.2.7:1",
            "nhi.lan:8000",
        ] {
            assert_eq!(verdict("/", &[("host", good)]), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8",
            "10.0.0.1",
            "a@localhost",
            "evil.example@localhost",
            "localhost, evil.example",
            "0.0.0.0",
            "nhi.lan.evil",
        ] {
            assert!(matches!(verdict("/", &[("host", bad)]), Err(Refusal::ForeignHost(_))), "{bad}");
        }
        assert_eq!(verdict("/", &[]), Err(Refusal::UnclearHost));
        assert_eq!(
            verdict("/", &[("host", "localhost"), ("host", "evil.example")]),
            Err(Refusal::UnclearHost)
        );
    }

    #[test]
    fn a_target_with_a_host_must_agree_with_the_header() {
        assert_eq!(verdict("http://localhost/x", &[("host", "localhost")]), Ok(()));
        assert_eq!(verdict("http://localhost/x", &[]), Ok(()));
        assert_eq!(verdict("http://evil.example/x", &[("host", "localhost")]), Err(Refusal::UnclearHost));
        assert!(matches!(verdict("http://evil.example/x", &[]), Err(Refusal::ForeignHost(_))));
    }

    #[test]
    fn pages_of_others_are_kept_away() {
        let with = |name: &str, value: &str| verdict("/", &[("host", "localhost:8000"), (name, value)]);
        assert_eq!(with("origin", "http://localhost:8000"), Ok(()));
        assert_eq!(with("origin", "https://pages.example"), Ok(()));
        let page = |value: &'static str| origin("/", &[("host", "localhost"), ("origin", value)]);
        let sent = HeaderValue::from_static("https://Pages.example");
        assert_eq!(page("https://Pages.example"), Ok(Origin::Allowed(sent)), "repeated as it was sent");
        assert_eq!(page("http://localhost"), Ok(Origin::Ours));
        for bad in [
            "http://evil.example",
            "https://localhost:8000",
            "http://localhost:3000",
            "http://localhost",
            "null",
            "",
            "http://localhost:8000.evil.example",
            "https://pages.example.evil.example",
            "\u{e9}",
        ] {
            assert!(matches!(with("origin", bad), Err(Refusal::ForeignOrigin(_))), "{bad}");
        }
        assert_eq!(with("sec-fetch-site", "cross-site"), Err(Refusal::CrossSite));
        assert_eq!(with("sec-fetch-site", "same-site"), Err(Refusal::CrossSite));
        assert_eq!(with("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(with("sec-fetch-site", "none"), Ok(()));
        let allowed =
            [("host", "localhost"), ("origin", "https://pages.example"), ("sec-fetch-site", "cross-site")];
        assert_eq!(verdict("/", &allowed), Ok(()));
        let twice =
            [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")];
        assert!(matches!(verdict("/", &twice), Err(Refusal::ForeignOrigin(_))));
    }

    #[test]
    fn forms_are_no_requests() {
        let with = |kind: &str| verdict("/", &[("host", "localhost"), ("content-type", kind)]);
        for bad in
            ["text/plain", "Text/Plain; charset=utf-8", "multipart/form-data; boundary=x", FORM_TYPES[0]]
        {
            assert_eq!(with(bad), Err(Refusal::Form), "{bad}");
        }
        assert_eq!(with("application/json"), Ok(()));
        // A key in a header of its own is nothing a form can send; what a browser adds by itself is no such key.
        let keyed = |name: &str, value: &str| {
            verdict("/", &[("host", "localhost"), ("content-type", "text/plain"), (name, value)])
        };
        assert_eq!(keyed("authorization", "Bearer SUX"), Ok(()));
        assert_eq!(keyed("x-api-key", "SUX"), Ok(()));
        assert_eq!(keyed("authorization", "Basic eDp5"), Err(Refusal::Form));
        assert_eq!(keyed("cookie", "session=1"), Err(Refusal::Form));
    }
}
