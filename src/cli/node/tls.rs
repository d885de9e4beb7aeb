//! Certificates: what a server shows, and whether a node trusts it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// How long before its end a certificate is worth a warning.
pub const SOON: Duration = Duration::from_hours(14 * 24);

/// The certificates of a PEM text.
///
/// # Errors
/// What is wrong with it.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("it is no PEM: {error}"))
}

/// A client's certificate and key, which must belong together.
///
/// # Errors
/// What is wrong with them.
pub fn identity(certificate: &[u8], key: &[u8]) -> Result<Identity, String> {
    let chain = certificates(certificate)?;
    if chain.is_empty() {
        return Err("there is no certificate in it (PEM is expected)".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("its key cannot be read: {error}"))?;
    let kept = key.clone_key();
    let pair = CertifiedKey::from_der(chain.clone(), key, &aws_lc_rs::default_provider());
    pair.map_err(|error| format!("it does not belong to its key: {error}"))?;
    Ok(Identity { chain, key: kept })
}

/// A client's certificate.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The roots in PEM texts. Odd ones are left out, as others do.
pub fn roots(texts: &[Vec<u8>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for text in texts {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(text).flatten());
    }
    roots
}

/// What a server showed.
#[derive(Debug, Default)]
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
}

/// Why a certificate is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// Nobody who is trusted vouches for it.
    Issuer,
    /// It is for other names.
    Name,
    /// Its time is over.
    Expired,
    /// Its time has not come, by this machine's clock.
    NotYet,
    /// Something else.
    Other,
}

impl Shown {
    /// Whether the handshake did not come that far.
    pub fn is_nothing(&self) -> bool {
        self.chain.is_empty()
    }

    /// Whether it is trusted, `later` from now.
    ///
    /// # Errors
    /// Why not, and what the verifier says.
    pub fn verify(
        &self,
        roots: &RootCertStore,
        name: &ServerName<'_>,
        later: Duration,
    ) -> Result<(), (Distrust, String)> {
        let other = |text: String| (Distrust::Other, text);
        let Some((leaf, rest)) = self.chain.split_first() else {
            return Err(other("no certificate was shown".to_owned()));
        };
        // The name first: a verifier stops at the first fault, and this one is the server's.
        let parsed = ParsedCertificate::try_from(leaf).map_err(|error| other(error.to_string()))?;
        verify_server_name(&parsed, name).map_err(|error| (Distrust::Name, error.to_string()))?;
        if roots.is_empty() {
            return Err((Distrust::Issuer, "no authority is trusted".to_owned()));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider)
                .build()
                .map_err(|error| other(error.to_string()))?;
        let now = UnixTime::now().as_secs() + later.as_secs();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        match verifier.verify_server_cert(leaf, rest, name, &[], now) {
            Ok(_) => Ok(()),
            Err(error) => {
                let kind = match &error {
                    rustls::Error::InvalidCertificate(error) => match error {
                        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                            Distrust::Issuer
                        }
                        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                            Distrust::Expired
                        }
                        CertificateError::NotValidYet
                        | CertificateError::NotValidYetContext { .. } => Distrust::NotYet,
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. } => Distrust::Name,
                        _ => Distrust::Other,
                    },
                    _ => Distrust::Other,
                };
                Err((kind, error.to_string()))
            }
        }
    }
}

/// Settings with which any server can be spoken to, and where its certificates come to be.
///
/// # Errors
/// Where the identity cannot be used.
pub fn any_server(
    identity: Option<&Identity>,
) -> Result<(Arc<ClientConfig>, Arc<Mutex<Shown>>), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown: Arc<Mutex<Shown>> = Arc::default();
    let verifier = Recorder {
        provider: Arc::clone(&provider),
        shown: Arc::clone(&shown),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok((with_identity(builder, identity)?, shown))
}

/// Settings that trust these roots only.
///
/// # Errors
/// Where the identity cannot be used.
pub fn trusting(
    roots: RootCertStore,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    with_identity(builder, identity)
}

fn with_identity(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, String> {
    let config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| error.to_string())?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Takes any certificate and keeps it, to be verified in several ways.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    shown: Arc<Mutex<Shown>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(rest);
        self.shown.lock().chain = chain.map(|one| one.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
