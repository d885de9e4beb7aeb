//! The files that the server reads at its start.

use std::path::Path;

use super::ServerOptions;
use crate::config::options::existing_file;
use crate::config::{ConfigErrors, Text};
use crate::server::{TlsFile, usable};

impl ServerOptions {
    /// Reads the files of users, secrets, keys and certificates as the server does at its start.
    /// One that is not there is a mistake of [`config`](Self::config).
    pub fn read_files(&self, errors: &mut ConfigErrors) {
        type Read = fn(&Path) -> Result<(), String>;
        let files: [(&str, Option<&Text>, Read); 5] = [
            ("htpasswd", self.htpasswd.as_ref(), usable::users_file),
            (
                "admin-token-file",
                self.admin_token_file.as_ref(),
                usable::secret_file,
            ),
            (
                "notification-secret-file",
                self.notification_secret_file.as_ref(),
                usable::secret_file,
            ),
            (
                "webhook-secret-file",
                self.webhook_secret_file.as_ref(),
                usable::secret_file,
            ),
            (
                "url-key-file",
                self.url_key_file.as_ref(),
                usable::url_key_file,
            ),
        ];
        for (name, file, read) in files {
            if let Some(path) = file.and_then(|file| existing_file(file.as_str()).ok()) {
                errors.take(name, read(&path));
            }
        }
        let tls = self.tls(&mut ConfigErrors::default());
        if let Some(Err(error)) = tls.map(|tls| usable::tls_files(&tls)) {
            let name = match error.file {
                TlsFile::Certificate => "tls-cert",
                TlsFile::Key => "tls-key",
                TlsFile::ClientAuthority => "tls-client-ca",
            };
            errors.add(name, error);
        }
    }
}
