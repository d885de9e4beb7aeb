//! What all commands share: the file, the log, and where settings came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ArgMatches;

use super::log;
use super::progress::Terminal;
use crate::config::options::{LogOptions, RegistryOptions};
use crate::config::{ConfigErrors, DEFAULT_PATH, Origin, Sources, origins};
use crate::convert::FAILURE_TARGET;

/// What all commands share.
pub struct Context {
    named: Option<PathBuf>,
    log: LogOptions,
    origins: BTreeMap<String, Origin>,
    /// Options that were written under another of their names.
    aliases: BTreeMap<String, String>,
}

impl Context {
    pub(super) fn new(
        named: Option<PathBuf>,
        log: LogOptions,
        matches: &ArgMatches,
        aliases: BTreeMap<String, String>,
    ) -> Self {
        Self {
            named: named.filter(|path| !path.as_os_str().is_empty()),
            log,
            origins: origins(matches),
            aliases,
        }
    }

    /// Whether an option was written on the command line.
    pub(super) fn is_flag(&self, key: &str) -> bool {
        self.origins.get(key) == Some(&Origin::Flag)
    }

    /// The settings of a command that works like the service: the default file counts.
    pub(super) fn service(&self) -> (Sources, ConfigErrors) {
        let default = Path::new(DEFAULT_PATH);
        let default = default.exists().then_some(default);
        self.read(self.named.as_deref().or(default))
    }

    /// The settings of a command that anyone may run for themselves: only a file that was
    /// named counts.
    pub(super) fn personal(&self) -> (Sources, ConfigErrors) {
        self.read(self.named.as_deref())
    }

    fn read(&self, file: Option<&Path>) -> (Sources, ConfigErrors) {
        let (sources, mut errors) = Sources::read(file, self.origins.clone());
        for (name, written) in &self.aliases {
            errors.call(name, written);
        }
        (sources, errors)
    }

    /// The log's options, with those of the file.
    pub(super) fn log_options(
        &self,
        sources: &mut Sources,
        errors: &mut ConfigErrors,
    ) -> LogOptions {
        sources.effective(&self.log, errors)
    }

    /// Starts the log as it is configured, with lines of a certain kind added; for a person
    /// at a terminal it says warnings only, unless more is asked for.
    pub(super) fn start_log(
        &self,
        sources: &mut Sources,
        errors: &mut ConfigErrors,
        terminal: &Terminal,
        extra: &[&str],
    ) {
        let mut options = self.log_options(sources, errors);
        if *sources.origin("log-level") == Origin::Default {
            // Commands print why an image failed themselves.
            options.log_level = Some(format!("warn,{FAILURE_TARGET}=off").into());
        }
        if let Some(level) = &options.log_level {
            let directives = std::iter::once(level.as_str()).chain(extra.iter().copied());
            options.log_level = Some(directives.collect::<Vec<_>>().join(",").into());
        }
        if let Some(config) = options.config(errors) {
            // It is never changed here.
            let _ = log::start(config, terminal.clone());
        }
    }
}

/// How a password comes in that must not be on the command line.
#[derive(clap::Args, Default)]
pub struct PasswordFlag {
    /// Read the password of --user from standard input
    #[arg(long, help_heading = "Registries", conflicts_with = "password_file")]
    password_stdin: bool,
}

impl PasswordFlag {
    /// Completes `--user NAME`, if the password is to be read.
    pub(super) fn apply(
        &self,
        options: &mut RegistryOptions,
        errors: &mut ConfigErrors,
    ) -> anyhow::Result<()> {
        if let Some(password) = self.read()? {
            options.set_password(&password, errors);
        }
        Ok(())
    }

    /// Reads the password, if it is to be read. There is only one to be read.
    pub(super) fn read(&self) -> anyhow::Result<Option<String>> {
        if !self.password_stdin {
            return Ok(None);
        }
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .context("the password cannot be read from standard input")?;
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Whether the password is read from standard input.
    pub(super) fn is_set(&self) -> bool {
        self.password_stdin
    }
}
