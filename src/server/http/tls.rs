//! TLS in front: certificate and key, read again when the files change.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::registry::{self, pem};
use crate::server::config::{ClientCertificates, TlsConfig};
use crate::server::files::Watched;

/// What HTTP/2 is called in the handshake (RFC 9113 § 3.2).
pub(in crate::server) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// A file that TLS needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate.
    Certificate,
    /// Its private key.
    Key,
    /// The authority of client certificates.
    ClientAuthority,
}

/// Which file cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct TlsError {
    /// The file. A certificate and a key that do not belong together: the key.
    pub file: TlsFile,
    detail: String,
}

/// Certificate, key and the authority of clients, as they are now.
pub(in crate::server) struct Tls {
    config: TlsConfig,
    http2: bool,
    current: RwLock<Arc<rustls::ServerConfig>>,
    watched: Watched,
}

impl Tls {
    /// Reads the files; `http2` says whether HTTP/2 is offered.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn open(config: &TlsConfig, http2: bool) -> Result<Self, TlsError> {
        let mut paths = vec![config.certificate.clone(), config.key.clone()];
        if let ClientCertificates::Optional(path) | ClientCertificates::Required(path) =
            &config.clients
        {
            paths.push(path.clone());
        }
        // Looked at first: what changes while it is read is read again.
        let watched = Watched::new(paths);
        Ok(Self {
            current: RwLock::new(load(config, http2)?),
            http2,
            config: config.clone(),
            watched,
        })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read();
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Reads the files again if they changed. Files that cannot be used change nothing.
    pub fn refresh(&self) {
        if self.watched.have_changed() {
            self.reload();
        }
    }

    /// Reads the files again. Files that cannot be used change nothing.
    pub fn reload(&self) {
        match load(&self.config, self.http2) {
            Ok(config) => {
                tracing::info!(
                    certificate = %self.config.certificate.display(),
                    "read the certificate and key again"
                );
                *self.current.write() = config;
            }
            Err(error) => tracing::error!(%error, "certificate and key stay as they were"),
        }
    }
}

fn load(config: &TlsConfig, http2: bool) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let wrong = |file, detail| TlsError { file, detail };
    let of = |file| move |error: registry::Error| wrong(file, error.to_string());
    let certificates = pem::certificates(&config.certificate).map_err(of(TlsFile::Certificate))?;
    let key = pem::private_key(&config.key).map_err(of(TlsFile::Key))?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(TlsFile::Certificate, error.to_string()))?;
    let verifier = |path: &PathBuf, is_required: bool| {
        let mut roots = RootCertStore::empty();
        pem::add_roots(&mut roots, path).map_err(of(TlsFile::ClientAuthority))?;
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        if !is_required {
            verifier = verifier.allow_unauthenticated();
        }
        let built = verifier.build();
        built.map_err(|error| {
            let detail = format!("{}: {error}", path.display());
            wrong(TlsFile::ClientAuthority, detail)
        })
    };
    let builder = match &config.clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Optional(path) => {
            builder.with_client_cert_verifier(verifier(path, false)?)
        }
        ClientCertificates::Required(path) => {
            builder.with_client_cert_verifier(verifier(path, true)?)
        }
    };
    let mut made = builder
        .with_single_cert(certificates, key)
        .map_err(|error| {
            let (certificate, key) = (config.certificate.display(), config.key.display());
            let detail = format!("{certificate} and {key}: {error}");
            wrong(TlsFile::Key, detail)
        })?;
    if http2 {
        made.alpn_protocols.push(H2.to_vec());
    }
    made.alpn_protocols.push(HTTP_1_1.to_vec());
    Ok(Arc::new(made))
}
