//! TLS in front: certificate and key, read again when the files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::server::config::{ClientCertificates, TlsConfig};
use crate::server::files::Watched;

/// Certificate, key and the authority of clients, as they are now.
pub(in crate::server) struct Tls {
    config: TlsConfig,
    current: RwLock<Arc<rustls::ServerConfig>>,
    watched: Mutex<Watched>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A text that says which file is wrong, and how.
    pub fn open(config: &TlsConfig) -> Result<Self, String> {
        let mut paths = vec![config.certificate.clone(), config.key.clone()];
        if let ClientCertificates::Optional(path) | ClientCertificates::Required(path) =
            &config.clients
        {
            paths.push(path.clone());
        }
        // Looked at first: what changes while it is read is read again.
        let watched = Watched::new(paths);
        Ok(Self {
            current: RwLock::new(load(config)?),
            config: config.clone(),
            watched: Mutex::new(watched),
        })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read();
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Reads the files again if they changed. Files that cannot be used change nothing.
    pub fn refresh(&self) {
        let mut watched = self.watched.lock();
        if watched.have_changed() {
            drop(watched);
            self.reload();
        }
    }

    /// Reads the files again. Files that cannot be used change nothing.
    pub fn reload(&self) {
        match load(&self.config) {
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

fn load(config: &TlsConfig) -> Result<Arc<rustls::ServerConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| format!("{}: no private key: {error}", config.key.display()))?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = |path: &PathBuf, is_required: bool| {
        let mut roots = RootCertStore::empty();
        for certificate in self::certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        if !is_required {
            verifier = verifier.allow_unauthenticated();
        }
        let built = verifier.build();
        built.map_err(|error| format!("{}: {error}", path.display()))
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
            format!("{certificate} and {key}: {error}")
        })?;
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(made))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{shown}: no certificate: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{shown}: there is no certificate in it"));
    }
    Ok(certificates)
}
