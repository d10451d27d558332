//! The dashboard's files, built before and part of this program. They are public: what a page shows it asks for with a
//! session of its own. Nothing is read from a disk while it runs.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use include_dir::{Dir, include_dir};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt, io::Write as _, sync::OnceLock};

/// What `npm run build` made; it is committed, so that nobody needs Node to build this.
static DIST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../dashboard/dist");

const INDEX: &str = "index.html";
/// Scripts, styles and data of our own alone; nothing inline, nothing from elsewhere, in no frame.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// First parts of paths that programs use: there an unknown one is an error in JSON and never the index.
const PROGRAMS: &[&str] = &[
    ".well-known",
    "api",
    "assets",
    "events",
    "healthz",
    "mcp",
    "mesh",
    "metrics",
    "openapi.json",
    "readyz",
    "session",
    "v1",
    "v1beta",
];

/// All files, made ready when the first is asked for.
#[derive(Default)]
pub(crate) struct Pages(OnceLock<BTreeMap<String, Page>>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

struct Page {
    kind: HeaderValue,
    /// Whether its name changes with what is in it.
    is_hashed: bool,
    plain: Variant,
    /// When it is smaller.
    gzip: Option<Variant>,
}

struct Variant {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Variant {
    fn new(bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes);
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag =
            HeaderValue::try_from(format!("\"{digits}\"")).expect("it is quotes and hexadecimal digits");
        Self { bytes, etag }
    }
}

impl Pages {
    /// The file at a path, or the index for a browser that is at a path of the pages' own; `None` otherwise.
    pub(crate) fn find(&self, parts: &Parts) -> Option<Response> {
        let Parts { method, uri, headers, .. } = parts;
        if *method != Method::GET && *method != Method::HEAD {
            return None;
        }
        let pages = self.0.get_or_init(|| made_ready(&DIST));
        let name = uri.path().trim_start_matches('/');
        let named = pages.get(if name.is_empty() { INDEX } else { name });
        let page = named.or_else(|| pages.get(INDEX).filter(|_| is_for_people(uri, headers)))?;
        Some(answer(page, method, headers))
    }
}

fn made_ready(dir: &'static Dir<'static>) -> BTreeMap<String, Page> {
    let mut pages = BTreeMap::new();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        dirs.extend(dir.dirs());
        for file in dir.files() {
            if let Some(name) = file.path().to_str() {
                // The names are paths of the machine that built this.
                pages.insert(name.replace('\\', "/"), page(name, file.contents()));
            }
        }
    }
    pages
}

fn page(name: &str, contents: &'static [u8]) -> Page {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let kind = match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let packed = gzip(contents, Compression::best());
    Page {
        kind: HeaderValue::from_static(kind),
        is_hashed: is_hashed(name),
        plain: Variant::new(Bytes::from_static(contents)),
        gzip: (packed.len() < contents.len()).then(|| Variant::new(packed.into())),
    }
}

/// The same, smaller.
pub(crate) fn gzip(contents: &[u8], how: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), how);
    encoder.write_all(contents).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// `assets/<name>-<eight or more of letters, digits, `-`, `_`>.<extension>`, as the build names what may be kept for ever.
fn is_hashed(name: &str) -> bool {
    let Some((stem, _)) = name.strip_prefix("assets/").and_then(|name| name.rsplit_once('.')) else {
        return false;
    };
    let hash = stem.get(stem.len().saturating_sub(9)..).unwrap_or_default();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    hash.len() == 9 && hash.starts_with('-') && hash.bytes().all(is_plain)
}

/// Whether a browser asks for a page, at a path that no program uses.
fn is_for_people(uri: &Uri, headers: &HeaderMap) -> bool {
    let first = uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    !PROGRAMS.contains(&first) && accept.split(',').any(|kind| kind.trim().starts_with("text/html"))
}

fn answer(page: &Page, method: &Method, headers: &HeaderMap) -> Response {
    let variant = page.gzip.as_ref().filter(|_| takes_gzip(headers)).unwrap_or(&page.plain);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tag = variant.etag.to_str().unwrap_or_default();
    let is_known = known
        .flat_map(|tags| tags.split(','))
        .map(|known| known.trim().trim_start_matches("W/"))
        .any(|known| known == tag || known == "*");
    let is_sent = *method == Method::GET && !is_known;
    let mut response = Response::new(if is_sent { variant.bytes.clone().into() } else { Body::empty() });
    let out = response.headers_mut();
    let fixed = |text: &'static str| HeaderValue::from_static(text);
    out.insert(header::ETAG, variant.etag.clone());
    out.insert(header::VARY, fixed("accept-encoding"));
    let kept = if page.is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    out.insert(header::CACHE_CONTROL, fixed(kept));
    out.insert(header::CONTENT_SECURITY_POLICY, fixed(CONTENT_POLICY));
    out.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    out.insert(header::REFERRER_POLICY, fixed("no-referrer"));
    out.insert(OPENER_POLICY, fixed("same-origin"));
    out.insert(RESOURCE_POLICY, fixed("same-origin"));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    out.insert(header::CONTENT_TYPE, page.kind.clone());
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(variant.bytes.len()));
    if variant.etag != page.plain.etag {
        out.insert(header::CONTENT_ENCODING, fixed("gzip"));
    }
    response
}

/// Whether whoever asks reads gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_refused = weight.split_once('=').is_some_and(|(_, weight)| weight.trim().parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Response> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Pages::default().find(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_names_with_a_hash_are_kept_for_ever() {
        for (name, is) in [
            ("assets/index-B3kF_9xQ.js", true),
            ("assets/index-B3kF-9xQ.css", true),
            ("assets/index.js", false),
            ("assets/in-dex.js", false),
            ("index.html", false),
            ("favicon-12345678.svg", false),
            ("assets/é.js", false),
        ] {
            assert_eq!(is_hashed(name), is, "{name}");
        }
    }

    #[test]
    fn the_index_is_for_browsers_alone() {
        let html = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
        assert!(ask("GET", "/", &[]).is_some() && ask("HEAD", "/index.html", &[]).is_some());
        assert!(ask("GET", "/guests/100", &html).is_some());
        for (method, path, headers) in [
            ("POST", "/", &html[..]),
            ("GET", "/guests/100", &[]),
            ("GET", "/mesh/state", &html),
            ("GET", "/assets/gone-12345678.js", &html),
            ("GET", "/../Cargo.toml", &[]),
        ] {
            assert!(ask(method, path, headers).is_none(), "{method} {path}");
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let whole = ask("GET", "/", &[("accept-encoding", "br, gzip")]).unwrap();
        assert_eq!(whole.headers()["content-encoding"], "gzip");
        let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
        let plain = ask("GET", "/", &[("accept-encoding", "gzip;q=0")]).unwrap();
        assert!(
            !plain.headers().contains_key("content-encoding") && plain.headers()["etag"] != etag.as_str()
        );
        let again = ask("GET", "/", &[("accept-encoding", "gzip"), ("if-none-match", &etag)]).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let other = ask("GET", "/", &[("accept-encoding", "gzip"), ("if-none-match", "\"0\"")]).unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }
}
