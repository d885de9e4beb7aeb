//! The settings of a running `serve`, read again (SIGHUP).

use anyhow::Context as _;

use super::context::{Context, PasswordFlag};
use super::exit::describe;
use super::log::LogLevel;
use crate::config::{ConfigErrors, ServeConfig, ServeOptions, Sources};
use crate::convert::Converter;
use crate::server::Reloader;

/// The settings that hold from now on; changes of all others are logged.
const RELOADED: [&str; 29] = [
    "allow-downgrade",
    "allow-host",
    "attempts",
    "cert-dir",
    "client-rate",
    "connect-timeout",
    "docker-config",
    "egress-proxy",
    "forwarded-headers",
    "hosts-dir",
    "log-level",
    "max-manifest-size",
    "password-file",
    "plain-http",
    "policy",
    "proxy-protocol",
    "push-user",
    "refresh",
    "response-timeout",
    "skip-verify",
    "system-roots",
    "trusted-proxy",
    "upload-chunk",
    "upstream",
    "upstream-ca",
    "upstream-cert",
    "upstream-http2",
    "upstream-key",
    "user",
];

/// Where the settings come from.
pub(super) struct Settings {
    options: ServeOptions,
    context: Context,
    /// What was read from standard input, once.
    password: Option<String>,
}

impl Settings {
    pub(super) fn new(
        options: ServeOptions,
        context: Context,
        password: &PasswordFlag,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            options,
            context,
            password: password.read()?,
        })
    }

    /// Reads them for the first time, and the files that the server reads by itself from then on.
    ///
    /// # Errors
    /// All mistakes.
    pub(super) fn read_with_files(&self) -> anyhow::Result<(ServeConfig, Sources)> {
        self.read_and(ServeOptions::read_files)
    }

    /// Reads them again. What the server reads by itself is left to it: a certificate that cannot be
    /// used now keeps no other setting from being taken over.
    ///
    /// # Errors
    /// All mistakes.
    fn read(&self) -> anyhow::Result<(ServeConfig, Sources)> {
        self.read_and(|_, _| {})
    }

    fn read_and(
        &self,
        files: impl FnOnce(&ServeOptions, &mut ConfigErrors),
    ) -> anyhow::Result<(ServeConfig, Sources)> {
        let (mut sources, mut errors) = self.context.service();
        let mut options = self.options.effective(&mut sources, &mut errors);
        if let Some(password) = &self.password {
            options.registry.set_password(password, &mut errors);
        }
        let log = self.context.log_options(&mut sources, &mut errors);
        files(&options, &mut errors);
        Ok((options.config(&log, errors)?, sources))
    }
}

/// What takes the settings over while it runs.
pub(super) struct Running {
    pub(super) settings: Settings,
    /// The settings that it was started with.
    pub(super) sources: Sources,
    pub(super) level: LogLevel,
    pub(super) server: Reloader,
    pub(super) converter: Converter,
}

impl Running {
    /// Reads everything again that can be read again. What cannot be used is logged, with where
    /// it is, and what held before stays. Asks the disk: not for async threads.
    pub(super) fn reload(&self) {
        self.server.read_files();
        match self.settings.read().and_then(|fresh| self.take_over(fresh)) {
            Ok(()) => tracing::info!("reloaded"),
            Err(error) => tracing::error!(
                error = describe(&error),
                "not reloaded: the settings stay as they were"
            ),
        }
    }

    fn take_over(&self, (fresh, sources): (ServeConfig, Sources)) -> anyhow::Result<()> {
        self.server
            .take_over_upstreams(&fresh.server)
            .map_err(anyhow::Error::msg)?;
        if let (Some(old), Some(new)) = (
            self.converter.push_registry(),
            fresh.converter.push.and_then(|push| push.upstream),
        ) && !old.take_over(&new)
        {
            anyhow::bail!("--push-repo names another registry: restart to use it");
        }
        self.server.take_over_policy(&fresh.server);
        self.server.take_over_clients(&fresh.server);
        self.server.forget_failures();
        self.level
            .set(fresh.log.filter)
            .context("the log's level cannot be changed")?;
        let mut others = self.sources.differences(&sources);
        others.retain(|key| !RELOADED.contains(&key.as_str()));
        if !others.is_empty() {
            let settings = others.join(", ");
            tracing::warn!(settings, "changed, and not used before a restart");
        }
        Ok(())
    }
}
