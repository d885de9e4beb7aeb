//! The command line.

use std::path::PathBuf;

use overlaybd_proxy::convert::layer::{Algorithm, BlockSize};

use crate::Failure;

/// What one process does, or several beside each other.
const OF_PROGRAMS: [&str; 4] = ["layout", "registry", "serve", "small"];
/// What the converter does as a library.
const OF_LIBRARY: [&str; 6] = [
    "stages",
    "turbo",
    "memory",
    "small-files",
    "many-layers",
    "incremental",
];

/// What is measured, and of which image.
pub struct Options {
    pub megabytes: u64,
    pub algorithms: Vec<(Algorithm, BlockSize)>,
    pub quick: bool,
    /// The binary to compare with.
    pub beside: Option<PathBuf>,
    /// How often each binary converts.
    pub rounds: usize,
    /// How many small images are pulled.
    pub pulls: u32,
    /// `DIR[:TAG]` of an OCI layout.
    pub image: Option<String>,
    only: Option<String>,
}

impl Options {
    pub fn of_arguments() -> Result<Self, Failure> {
        let mut options = Self {
            megabytes: 1200,
            algorithms: Vec::new(),
            quick: false,
            beside: None,
            rounds: 4,
            pulls: 30,
            image: None,
            only: None,
        };
        let (mut algorithm, mut block_size) = (None, None);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => (options.quick, options.megabytes) = (true, 60),
                "--size" => options.megabytes = value()?.parse()?,
                "--algorithm" => algorithm = Some(value()?.parse::<Algorithm>()?),
                "--bs" => block_size = Some(value()?.parse::<BlockSize>()?),
                "--beside" => {
                    let binary = value()?;
                    let path = std::fs::canonicalize(&binary);
                    options.beside = Some(path.map_err(|error| format!("{binary}: {error}"))?);
                }
                "--rounds" => options.rounds = value()?.parse()?,
                "--pulls" => options.pulls = value()?.parse()?,
                "--image" => options.image = Some(value()?),
                "--only" => options.only = Some(value()?),
                other => return Err(format!("{other:?} is no option").into()),
            }
        }
        if options.rounds == 0 || options.pulls == 0 {
            return Err("--rounds and --pulls are at least 1".into());
        }
        if options.beside.is_some() && !options.rounds.is_multiple_of(2) {
            return Err("--rounds is even with --beside: each binary is first as often".into());
        }
        if let Some(only) = &options.only
            && !OF_PROGRAMS.contains(&only.as_str())
            && !OF_LIBRARY.contains(&only.as_str())
        {
            let known = [&OF_LIBRARY[..], &OF_PROGRAMS[..]].concat().join(", ");
            return Err(format!("--only {only}: one of {known} is expected").into());
        }
        let usual = [
            (Algorithm::Lz4, BlockSize::KIB_4),
            (Algorithm::Lz4, BlockSize::KIB_64),
            (Algorithm::Zstd, "16".parse()?),
        ];
        options.algorithms = match (algorithm, block_size) {
            (None, None) => usual.to_vec(),
            (algorithm, block_size) => vec![(
                algorithm.unwrap_or(Algorithm::Lz4),
                block_size.unwrap_or(BlockSize::KIB_4),
            )],
        };
        Ok(options)
    }

    /// Whether this subject is measured. Beside another binary these are the ones of programs,
    /// unless another is asked for.
    pub fn wants(&self, subject: &str) -> bool {
        match &self.only {
            Some(only) => only == subject,
            None => self.beside.is_none() || OF_PROGRAMS.contains(&subject),
        }
    }
}
