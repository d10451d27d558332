//! The certificate the gateway serves with: read from its files, and read again when they change, because the mesh's
//! own authority renews it. It makes no certificates.

use nhi_bus::{cx::Cx, server::ServerTls};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    },
};

/// How often the files are looked at: a certificate is renewed a month before its end.
const LOOK: Duration = Duration::from_secs(60);

/// Why a certificate cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no usable PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Certificate and key do not make a pair.
    #[error("{} and its key cannot be served with", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// Greets clients with the certificate that is in force.
#[derive(Clone)]
pub(crate) struct Certificate(watch::Receiver<Arc<ServerConfig>>);

impl Certificate {
    /// Reads the files, and goes on looking at them until `cx` stops. One that cannot be read later stays unused: the
    /// old certificate serves on.
    pub(crate) async fn open(cx: &Cx, files: ServerTls) -> Result<Self, CertificateError> {
        let mut seen = modified(&files).await;
        let (current, shown) = watch::channel(load(&files).await?);
        let stop = cx.clone();
        cx.spawn("gateway.certificate", async move {
            let mut pace = tokio::time::interval(LOOK);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = pace.tick() => {}
                }
                let now = modified(&files).await;
                if now == seen {
                    continue;
                }
                match load(&files).await {
                    Ok(config) => {
                        current.send_replace(config);
                        seen = now;
                        tracing::info!("certificate renewed");
                    }
                    Err(error) => tracing::warn!(err = %error, "certificate not renewed"),
                }
            }
        });
        Ok(Self(shown))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.borrow().clone())
    }
}

/// When the files were last written, as far as that can be told.
async fn modified(files: &ServerTls) -> [Option<SystemTime>; 2] {
    let at = async |path: &Path| tokio::fs::metadata(path).await.ok()?.modified().ok();
    [at(&files.cert_file).await, at(&files.key_file).await]
}

async fn load(files: &ServerTls) -> Result<Arc<ServerConfig>, CertificateError> {
    let read = async |path: &Path| {
        let read = tokio::fs::read(path).await;
        read.map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
    };
    let not_pem = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::NotPem { path, source }
    };
    let certificates = read(&files.cert_file).await?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
    let certificates = certificates.map_err(not_pem(&files.cert_file))?;
    let key =
        PrivateKeyDer::from_pem_slice(&read(&files.key_file).await?).map_err(not_pem(&files.key_file))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, key));
    let path = files.cert_file.clone();
    config.map(Arc::new).map_err(|source| CertificateError::Unusable { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::tls::server_named;
    use nhi_model::Timestamp;
    use std::{collections::BTreeSet, fs};

    fn renew(dir: &Path, name: &str) -> ServerTls {
        server_named(dir, &BTreeSet::from([name.to_owned()]), Timestamp::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
        let (cx, folder) = (Cx::new(), tempfile::tempdir().unwrap());
        let files = renew(folder.path(), "one.lan");
        let mut certificate = Certificate::open(&cx, files.clone()).await.unwrap();
        let first = certificate.0.borrow_and_update().clone();

        let good = fs::read(&files.cert_file).unwrap();
        fs::write(&files.cert_file, "no PEM").unwrap();
        let unchanged = tokio::time::timeout(10 * LOOK, certificate.0.changed()).await;
        assert!(unchanged.is_err() && Arc::ptr_eq(&first, &certificate.0.borrow()), "the old one serves on");

        fs::write(&files.cert_file, good).unwrap();
        renew(folder.path(), "two.lan");
        tokio::time::timeout(10 * LOOK, certificate.0.changed()).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&first, &certificate.0.borrow()));
        cx.close().await;
    }

    #[tokio::test]
    async fn what_is_no_certificate_is_named() {
        let (cx, folder) = (Cx::new(), tempfile::tempdir().unwrap());
        let files = renew(folder.path(), "one.lan");
        let open = async |files: ServerTls| Certificate::open(&cx, files).await.err().unwrap();
        let missing = ServerTls { cert_file: folder.path().join("nowhere.pem"), ..files.clone() };
        assert!(matches!(open(missing).await, CertificateError::Unreadable { .. }));
        let swapped = ServerTls { key_file: files.cert_file.clone(), ..files.clone() };
        assert!(matches!(open(swapped).await, CertificateError::NotPem { .. }));
        let foreign = tempfile::tempdir().unwrap();
        let mixed = ServerTls { key_file: renew(foreign.path(), "one.lan").key_file, ..files };
        assert!(matches!(open(mixed).await, CertificateError::Unusable { .. }));
    }
}
