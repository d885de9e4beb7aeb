//! Where settings come from: the command line, the environment, the file, or a default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The TOML file.
    File(PathBuf),
    /// An environment variable.
    Environment,
    /// The command line.
    Flag,
}

impl Origin {
    /// How whoever set an option knows it: its flag, its variable, or its key and the file.
    #[must_use]
    pub fn name(&self, key: &str) -> String {
        match self {
            Self::File(path) => format!("`{key}` in {}", path.display()),
            Self::Environment => environment_variable(key),
            Self::Flag | Self::Default => format!("--{key}"),
        }
    }
}

/// The environment variable of a key.
#[must_use]
pub fn environment_variable(key: &str) -> String {
    let name = key.to_ascii_uppercase().replace('-', "_");
    format!("OVERLAYBD_PROXY_{name}")
}

/// Which options were given on the command line or in the environment, with those of
/// the subcommands.
pub fn origins(matches: &ArgMatches) -> BTreeMap<String, Origin> {
    let mut found: BTreeMap<String, Origin> = matches
        .subcommand()
        .map(|(_, matches)| origins(matches))
        .unwrap_or_default();
    for id in matches.ids() {
        let origin = match matches.value_source(id.as_str()) {
            Some(clap::parser::ValueSource::CommandLine) => Origin::Flag,
            Some(clap::parser::ValueSource::EnvVariable) => Origin::Environment,
            _ => continue,
        };
        found.insert(id.as_str().replace('_', "-"), origin);
    }
    found
}
