//! Certificates and keys from PEM files.

use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Error;

/// The certificates of a file, of which there must be at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, "certificate", &error))?;
    if found.is_empty() {
        return Err(unusable(
            path,
            "there is no certificate in it (PEM is expected)",
        ));
    }
    Ok(found)
}

/// The private key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, "private key", &error))
}

/// Trusts the certificates of a file.
pub(crate) fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(path, &format!("it is no root that can be used: {error}")))?;
    }
    Ok(())
}

fn unreadable(path: &Path, what: &str, error: &pem::Error) -> Error {
    match error {
        pem::Error::Io(error) => Error::io(path, error),
        error => unusable(
            path,
            &format!("no {what} can be read (PEM is expected): {error}"),
        ),
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Configuration(format!("{}: {why}", path.display()))
}
