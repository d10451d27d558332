//! The mesh's own certificate authority and the server's certificate, in `.nhi/tls/`.
//!
//! It is made on first use, when something listens beyond loopback. It opens no connection; how another machine
//! comes to believe it is [`crate::enrol`]. A public authority is not wanted here: a home has no public name, and
//! who trusts this one trusts nothing else by it.

use crate::{
    private::{self, Lock, PrivateError},
    server::{ServerTls, locate::hex},
};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

/// How long the authority is good for. Replacing it means that every machine joins again.
const AUTHORITY_YEARS: i64 = 20;
/// How long a server's certificate is good for.
const SERVER_DAYS: i64 = 365;
/// With less than this left a certificate is made anew.
const RENEW_DAYS: i64 = 30;
/// Certificates begin this early, for machines whose clock is behind.
const EARLY_DAYS: i64 = 2;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority is not this machine's.
    #[error(
        "{} has no private key beside it: this machine has joined a mesh and cannot be its server; use another --dir",
        path.display()
    )]
    JoinedElsewhere {
        /// The authority's certificate.
        path: PathBuf,
    },
    /// The authority's files are damaged.
    #[error(
        "{} is damaged ({why}): put it back from a backup, or move the directory away and let every machine join again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name cannot stand in a certificate.
    #[error("cannot make a certificate for {name:?}: it is no host name and no address")]
    BadName {
        /// The name.
        name: String,
    },
    /// The cryptography failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

/// `<dir>/ca.pem`: the authority's certificate, which is no secret.
pub fn ca_file(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}

fn ca_key_file(dir: &Path) -> PathBuf {
    dir.join("ca.key")
}

/// Whether the authority is this machine's own: its key is there, so its certificates are made here.
pub fn is_own(dir: &Path) -> bool {
    ca_key_file(dir).exists()
}

/// Certificate and key for a server that listens at `ip`: what is there, or made anew when it is missing, has less
/// than 30 days left, or does not name what this machine is called now. Call it again each day; after a reload the
/// server presents the new one.
///
/// # Errors
/// [`TlsError`], with the remedy where there is one.
pub fn server(dir: &Path, ip: IpAddr, now: Timestamp) -> Result<ServerTls, TlsError> {
    server_named(dir, &names_at(ip), now)
}

/// The same for given names: host names and addresses.
///
/// # Errors
/// As [`server`].
pub fn server_named(dir: &Path, names: &BTreeSet<String>, now: Timestamp) -> Result<ServerTls, TlsError> {
    private::ensure_dir(dir)?;
    let _lock = Lock::acquire(&dir.join("lock"))?;
    let authority = Authority::ensure(dir, now)?;
    let files = ServerTls { cert_file: dir.join("server.pem"), key_file: dir.join("server.key") };
    if authority.still_good(&files, names, now) {
        return Ok(files);
    }
    let key = KeyPair::generate()?;
    let certificate = authority.sign(names, &key, now)?;
    // The key first: nats-server refuses a reload with a pair that does not fit, and keeps what it has.
    private::write(&files.key_file, key.serialize_pem().as_bytes())?;
    private::write(&files.cert_file, (certificate + &authority.pem).as_bytes())?;
    tracing::info!(?names, "made the server's certificate");
    Ok(files)
}

/// SHA-256 of the authority's certificate in lower-case hex, for `nhi join --ca-sha256`; nothing when there is no
/// authority, because nothing listens beyond loopback.
///
/// # Errors
/// [`TlsError`] when the file is damaged.
pub fn ca_sha256(dir: &Path) -> Result<Option<String>, TlsError> {
    sha256_of(&ca_file(dir))
}

/// The same of an authority in any file.
///
/// # Errors
/// As [`ca_sha256`].
pub fn sha256_of(path: &Path) -> Result<Option<String>, TlsError> {
    match read(path)? {
        Some(text) => Ok(Some(hex(&Sha256::digest(certificate(path, &text)?)))),
        None => Ok(None),
    }
}

/// A certificate as a PEM file holds it.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(certificate);
    // PEM lines have 64 characters; base64 is ASCII, so any cut is between characters.
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// What a server that listens at `ip` may be called: this machine, by name and by address.
pub fn names_at(ip: IpAddr) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    if let Some(host) = host_name() {
        // `.local` is what other machines in a home find it by without a DNS server.
        if !host.contains('.') {
            names.insert(format!("{host}.local"));
        }
        names.insert(host);
    }
    if ip.is_unspecified() {
        // Addresses that only mean something to others; nothing is sent by choosing a route.
        let far = [
            SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)),
            SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
        ];
        names.extend(far.into_iter().filter_map(own_address_towards).map(|ip| ip.to_string()));
    } else {
        names.insert(ip.to_string());
    }
    names
}

fn own_address_towards(far: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if far.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// This machine's name, when it can stand in a certificate.
#[cfg(unix)]
pub fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_ascii_lowercase();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (!name.is_empty() && name.chars().all(good)).then_some(name)
}

/// This machine's name, when it can stand in a certificate.
#[cfg(not(unix))]
pub fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().map(|name| name.to_ascii_lowercase())
}

/// The mesh's authority, able to sign.
struct Authority {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn ensure(dir: &Path, now: Timestamp) -> Result<Self, TlsError> {
        let (path, key_path) = (ca_file(dir), ca_key_file(dir));
        match (read(&path)?, read(&key_path)?) {
            (Some(pem), Some(key)) => Self::load(&path, pem, &key_path, &key),
            (Some(_), None) => Err(TlsError::JoinedElsewhere { path }),
            // A key without a certificate is what a crash between the two writes leaves.
            (None, _) => Self::make(dir, now),
        }
    }

    fn load(path: &Path, pem: String, key_path: &Path, key: &str) -> Result<Self, TlsError> {
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |error: rcgen::Error| TlsError::Damaged { path, why: error.to_string() }
        };
        let der = certificate(path, &pem)?.to_vec();
        let key = KeyPair::from_pem(key).map_err(damaged(key_path))?;
        let (_, parsed) = parse_x509_certificate(&der)
            .map_err(|error| TlsError::Damaged { path: path.to_owned(), why: error.to_string() })?;
        // Signed with another key, what it signs would be refused by every machine, and nobody would say why.
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            let why = format!("it does not belong to the key in {}", key_path.display());
            return Err(TlsError::Damaged { path: path.to_owned(), why });
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(damaged(path))?;
        Ok(Self { pem, der, issuer })
    }

    fn make(dir: &Path, now: Timestamp) -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, "Neural-Home authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lasting(&mut params, now, Span::new().years(AUTHORITY_YEARS));
        let certificate = params.self_signed(&key)?;
        private::write(&ca_key_file(dir), key.serialize_pem().as_bytes())?;
        private::write(&ca_file(dir), certificate.pem().as_bytes())?;
        tracing::info!(path = %ca_file(dir).display(), "made the mesh's certificate authority");
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Ok(Self { pem, der, issuer: Issuer::new(params, key) })
    }

    fn sign(&self, names: &BTreeSet<String>, key: &KeyPair, now: Timestamp) -> Result<String, TlsError> {
        if let Some(bad) = names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
            return Err(TlsError::BadName { name: bad.clone() });
        }
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "Neural-Home nats-server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        lasting(&mut params, now, Span::new().days(SERVER_DAYS));
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Whether the server's files can stay: readable, ours, naming everything, and good for a while.
    fn still_good(&self, files: &ServerTls, names: &BTreeSet<String>, now: Timestamp) -> bool {
        let Ok(chain) = CertificateDer::pem_file_iter(&files.cert_file) else { return false };
        let Ok(chain) = chain.collect::<Result<Vec<_>, _>>() else { return false };
        let [own, authority] = chain.as_slice() else { return false };
        let key = fs::read_to_string(&files.key_file).ok().and_then(|text| KeyPair::from_pem(&text).ok());
        let (Some(key), Ok((_, parsed))) = (key, parse_x509_certificate(own)) else { return false };
        let left_s = parsed.validity().not_after.timestamp() - now.as_second();
        authority.as_ref() == self.der.as_slice()
            && parsed.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(&key)
            && names.is_subset(&names_in(&parsed))
            && left_s >= RENEW_DAYS * 24 * 60 * 60
    }
}

/// The host names and addresses a certificate is for.
fn names_in(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = bytes.try_into().ok();
    let sixteen: Option<[u8; 16]> = bytes.try_into().ok();
    four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from))
}

/// From midnight to midnight: days are as exact as rcgen lets us say without its time library.
fn lasting(params: &mut CertificateParams, now: Timestamp, span: Span) {
    let ymd = |date: Date| (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs());
    let today = now.to_zoned(TimeZone::UTC).date();
    let (year, month, day) = ymd(today.saturating_sub(Span::new().days(EARLY_DAYS)));
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = ymd(today.saturating_add(span));
    params.not_after = date_time_ymd(year, month, day);
}

fn read(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read { path: path.to_owned(), source }),
    }
}

/// The first certificate in a PEM text.
fn certificate(path: &Path, text: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|error| TlsError::Damaged { path: path.to_owned(), why: error.to_string() })
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
