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

/// The parts of this program that log, as the targets of directives name them.
const PARTS: [&str; 13] = [
    "access",
    "check",
    "cli",
    "config",
    "convert",
    "format",
    "lazy",
    "oci",
    "panics",
    "registry",
    "server",
    "store",
    "telemetry",
];

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

/// `TARGET` of `TARGET[SPAN]=LEVEL`.
fn target_of(directive: &str) -> &str {
    directive.split(['=', '[']).next().unwrap_or_default()
}

/// What is wrong with a target that is meant to be this program, or a part of it: what it names
/// does not log, and silences all that does.
fn mistyped(target: &str) -> Option<String> {
    const PROGRAM: &str = "overlaybd_proxy";
    let mut parts = target.split("::");
    let program = parts.next().unwrap_or_default();
    let likened = program.to_ascii_lowercase().replace('-', "_");
    if program != PROGRAM && strsim::damerau_levenshtein(&likened, PROGRAM) <= 3 {
        return Some(format!(
            "nothing logs as {program:?}: did you mean {PROGRAM}?"
        ));
    }
    let part = parts.next().filter(|_| program == PROGRAM)?;
    (!PARTS.contains(&part)).then(|| {
        let parts = PARTS.join(", ");
        format!("nothing logs as {target:?}: the parts of {PROGRAM} are {parts}")
    })
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
            if let Some(word) =
                words_of(text).find(|word| !word.contains(['=', '[']) && !is_level(word))
            {
                return Err(wrong(word, &""));
            }
            if let Some(why) = words_of(text).find_map(|word| mistyped(target_of(word))) {
                return Err(why);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_target_is_a_mistake() {
        for wrong in [
            "overlaybd-proxy",
            "overlaybd_prox",
            "Overlaybd_Proxy",
            "overlaybdproxy",
            "overlaybd_proxy::acces",
        ] {
            assert!(mistyped(wrong).is_some(), "{wrong}");
        }
        for right in [
            "overlaybd_proxy",
            "overlaybd_proxy::access",
            "overlaybd_proxy::convert::converter",
            "hyper",
            "rustls",
            "",
        ] {
            assert_eq!(mistyped(right), None);
        }
    }

    #[test]
    fn the_parts_are_those_that_there_are() {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for entry in std::fs::read_dir(src).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.trim_end_matches(".rs");
            assert!(
                // What writes numbers for people logs nothing.
                matches!(name, "lib" | "main" | "secret_file" | "sizes") || PARTS.contains(&name),
                "{name}"
            );
        }
    }
}
