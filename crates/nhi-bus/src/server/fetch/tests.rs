//! Unpacking and checking with archives made here; and the real wheel into an empty cache, as on a fresh machine.

use super::*;
use crate::server::locate::{Fetch, Locate, locate_reporting};
use std::sync::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

#[test]
fn a_file_with_another_digest_is_not_used() {
    let pinned = Pinned { file: "x.tar.gz", sha256: "00" };
    assert!(matches!(check(pinned, b"x"), Err(RouteError::WrongDigest { .. })));
    let sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    assert!(check(Pinned { file: "x.tar.gz", sha256 }, b"x").is_ok());
}

fn tar_gz(member: &str, content: &[u8]) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(gz);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, member, content).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn the_program_is_taken_out_of_the_archive() {
    let file = "nats-server-v9-linux-amd64.tar.gz";
    let good = tar_gz("nats-server-v9-linux-amd64/nats-server", b"program");
    assert_eq!(unpack_archive(file, &good).unwrap(), b"program");
    let other = tar_gz("nats-server-v9-linux-amd64/README.md", b"text");
    assert!(matches!(unpack_archive(file, &other), Err(RouteError::NoMember { .. })));
    assert!(unpack_archive(file, &good[..good.len() / 2]).is_err());
    assert!(unpack_archive(file, b"no archive").is_err());
}

/// Answers one connection after the other with what is given, and says which paths were asked for.
async fn serve(listener: TcpListener, answers: Vec<Vec<u8>>) -> Vec<String> {
    let mut asked = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        asked.push(String::from_utf8_lossy(&head[..count]).split(' ').nth(1).unwrap().to_owned());
        stream.write_all(&answer).await.unwrap();
    }
    asked
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Releases are served from another address than they are asked for at.
#[tokio::test]
async fn the_archive_comes_through_a_redirect_and_an_error_page_does_not() {
    let archive = Pinned { file: "nats-server-v9-linux-amd64.tar.gz", sha256: "" };
    let packed = tar_gz("nats-server-v9-linux-amd64/nats-server", &[7; 300_000]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answers = vec![
        answer(&format!("302 Found\r\nlocation: {base}/elsewhere"), b""),
        answer("200 OK", &packed),
        answer("404 Not Found", b"<html>"),
    ];
    let last = Mutex::new(None);
    let seen = |progress| *last.lock().unwrap() = Some(progress);
    let fetches = async {
        let fetched = download(&format!("{base}/release"), archive, &seen).await.unwrap();
        let refused = download(&format!("{base}/missing"), archive, &seen).await.unwrap_err();
        (fetched, refused)
    };
    let (asked, (fetched, refused)) = tokio::join!(serve(listener, answers), fetches);
    assert_eq!(asked, ["/release", "/elsewhere", "/missing"]);
    assert_eq!(unpack_archive(archive.file, &fetched).unwrap(), [7; 300_000]);
    assert!(matches!(refused, RouteError::Http { .. }), "{refused}");
    let bytes = packed.len() as u64;
    assert_eq!(*last.lock().unwrap(), Some(Progress::Downloaded { bytes, bytes_total: Some(bytes) }));
}

#[test]
fn an_install_is_what_the_record_says() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("nats-server");
    install(&program, b"one").unwrap();
    install(&program, b"two").unwrap();
    assert_eq!(fs::read(&program).unwrap(), b"two");
    let record = fs::read_to_string(record_file(&program)).unwrap();
    assert_eq!(record.trim(), hex(&Sha256::digest(b"two")));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
}

/// The way a fresh machine goes. Two at once: one fetches, both get the same program.
#[tokio::test]
async fn an_empty_cache_is_filled_once() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = Locate { named: None, path: None, cache: Some(dir.path().to_owned()), fetch: Fetch::Pinned };
    let seen = Mutex::new(Vec::new());
    let report = |progress: Progress| seen.lock().unwrap().push(progress);
    let (one, two) = tokio::join!(locate_reporting(&wanted, &report), locate_reporting(&wanted, &report));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!(one.version, VERSION);
    let seen = seen.lock().unwrap();
    let installs = seen.iter().filter(|p| matches!(p, Progress::Installed(_))).count();
    assert_eq!(installs, 1, "{seen:?}");
    assert!(seen.contains(&Progress::Waiting), "{seen:?}");
}
