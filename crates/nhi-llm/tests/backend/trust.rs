//! Which certificate is believed, and that nothing is unpacked.

use crate::server::{Server, ask, whole};
use nhi_llm::{Backend, Endpoint, Hints, Kind};
use nhi_model::ai::BackendKind;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// A server with a certificate that nobody signed; its port and the certificate's fingerprint.
async fn secure(tasks: &mut JoinSet<()>) -> (u16, [u8; 32]) {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
    let fingerprint: [u8; 32] = Sha256::digest(made.cert.der()).into();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let body = "{\"data\":[]}";
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, fingerprint)
}

#[tokio::test]
async fn the_pinned_certificate_alone_is_believed() {
    let mut tasks = JoinSet::new();
    let (port, fingerprint) = secure(&mut tasks).await;
    let plain = Server::saying(Vec::new()).await;
    let url = format!("https://127.0.0.1:{port}").parse().unwrap();
    let unpinned = Endpoint { url, ..plain.endpoint(BackendKind::Openai) };
    let models = async |fingerprint| {
        let endpoint = Endpoint { fingerprint, ..unpinned.clone() };
        Backend::new(endpoint)?.models().await
    };
    assert_eq!(models(Some(fingerprint)).await.unwrap(), []);
    let other = models(Some([7; 32])).await.unwrap_err();
    assert_eq!(other.kind, Kind::Connect);
    assert!(other.message.contains("pinned is 0707"), "{other}");
    // Without a pin a certificate that nobody signed is not believed; a machine without authorities says so earlier.
    let nobody = models(None).await.unwrap_err();
    assert!(matches!(nobody.kind, Kind::Connect | Kind::Unsupported), "{nobody}");
}

#[tokio::test]
async fn what_comes_packed_is_not_unpacked() {
    let server = Server::saying(whole("200 OK", "content-encoding: gzip\r\n", "\u{1f}packed")).await;
    let request = json!({ "model": "m", "messages": [] });
    let backend = server.backend(BackendKind::Openai);
    let error = ask(&backend, request, &Hints::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Garbage);
    assert!(!server.seen()[0].headers.contains_key("accept-encoding"), "it asked for it");
}
