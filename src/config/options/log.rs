//! Options of the log.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::required;
use crate::config::{ConfigErrors, Text};

/// What is logged.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// What is logged: error, warn, info, debug, trace, or directives such as
    /// overlaybd_proxy=debug,hyper=warn
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<Text>,
    /// How it is logged, on standard error: text or json
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<Text>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug)]
pub struct LogConfig {
    /// Which events.
    pub filter: EnvFilter,
    /// In which form.
    pub format: LogFormat,
}

impl LogOptions {
    /// The log's settings.
    pub fn config(&self, errors: &mut ConfigErrors) -> Option<LogConfig> {
        let filter = required(errors, "log-level", self.log_level.as_ref(), |text| {
            let wrong = |what: &str, why: &dyn std::fmt::Display| {
                format!(
                    "{what:?} is no level: error, warn, info, debug, trace or off is expected, \
                     or directives such as overlaybd_proxy=debug{why}"
                )
            };
            // A word alone would be taken for a part of the program, and silence all others.
            let is_level = |word: &str| {
                word.parse::<tracing_subscriber::filter::LevelFilter>()
                    .is_ok()
            };
            let mut words = text.split(',').map(str::trim);
            if let Some(word) = words.find(|word| !word.contains(['=', '[']) && !is_level(word)) {
                return Err(wrong(word, &""));
            }
            text.parse::<EnvFilter>()
                .map_err(|error| wrong(text, &format!(" ({error})")))
        });
        let format = required(
            errors,
            "log-format",
            self.log_format.as_ref(),
            |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err(format!("{text:?} is neither text nor json")),
            },
        );
        Some(LogConfig {
            filter: filter?,
            format: format?,
        })
    }
}
