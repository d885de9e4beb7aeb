//! Who may come in: TLS, and users.

use super::ServerOptions;
use crate::config::ConfigErrors;
use crate::config::options::{existing_file, optional};
use crate::server::{Access, ClientCertificates, TlsConfig};

impl ServerOptions {
    pub(super) fn tls(&self, errors: &mut ConfigErrors) -> Option<TlsConfig> {
        let certificate = optional(errors, "tls-cert", self.tls_cert.as_ref(), existing_file);
        let key = optional(errors, "tls-key", self.tls_key.as_ref(), existing_file);
        let authority = self.tls_client_ca.as_ref();
        let authority = optional(errors, "tls-client-ca", authority, existing_file);
        let is_required = optional(
            errors,
            "tls-client-auth",
            self.tls_client_auth.as_ref(),
            |text| match text {
                "required" => Ok(true),
                "optional" => Ok(false),
                _ => Err(format!("{text:?} is neither optional nor required")),
            },
        );
        let pair = (self.tls_cert.is_some(), self.tls_key.is_some());
        match pair {
            (true, false) => errors.add("tls-key", "the key of --tls-cert is needed"),
            (false, true) => errors.add("tls-cert", "the certificate of --tls-key is needed"),
            (false, false) if self.tls_client_ca.is_some() => errors.add(
                "tls-client-ca",
                "client certificates need TLS: set --tls-cert and --tls-key",
            ),
            _ => {}
        }
        if self.tls_client_auth.is_some() && self.tls_client_ca.is_none() {
            errors.add(
                "tls-client-auth",
                "--tls-client-ca says whose certificates are good, and is needed",
            );
        }
        let clients = match (authority, is_required) {
            (None, _) => ClientCertificates::Ignored,
            (Some(authority), Some(false)) => ClientCertificates::Optional(authority),
            (Some(authority), _) => ClientCertificates::Required(authority),
        };
        Some(TlsConfig {
            certificate: certificate?,
            key: key?,
            clients,
        })
    }

    pub(super) fn access(&self, errors: &mut ConfigErrors) -> Access {
        let htpasswd = optional(errors, "htpasswd", self.htpasswd.as_ref(), existing_file);
        let own = self.own_credentials.as_ref();
        let own = optional(errors, "own-credentials", own, crate::config::boolean);
        if own == Some(false) && self.htpasswd.is_some() {
            errors.add(
                "own-credentials",
                "a client's password cannot be both the proxy's (--htpasswd) and the upstream's: \
                 leave one out",
            );
        }
        if own == Some(true) || self.htpasswd.is_some() {
            Access::Own { htpasswd }
        } else {
            Access::PassThrough
        }
    }
}
