//! The options of the reference's standalone converter that have no place in `SRC DST`:
//! a repository with an input and an output tag (accelerated-container-image
//! `cmd/convertor/main.go`).

use anyhow::Context as _;

use crate::config::ConfigErrors;

/// The options of the reference's standalone converter.
#[derive(clap::Args, Default)]
pub struct StandaloneOptions {
    /// Repository of source and result, instead of SRC and DST
    #[arg(short, long, value_name = "HOST/REPO", hide_short_help = true)]
    #[arg(conflicts_with_all = ["source", "destination"], help_heading = STANDALONE)]
    repository: Option<String>,
    /// Tag of the source in --repository
    #[arg(short, long, value_name = "TAG", hide_short_help = true)]
    #[arg(requires = "repository", help_heading = STANDALONE)]
    input_tag: Option<String>,
    /// Digest of the source in --repository
    #[arg(short = 'g', long, value_name = "DIGEST", hide_short_help = true)]
    #[arg(requires = "repository", conflicts_with = "input_tag", help_heading = STANDALONE)]
    input_digest: Option<String>,
    /// Tag of the result in --repository
    #[arg(
        short,
        long,
        value_name = "TAG",
        hide_short_help = true,
        alias = "overlaybd"
    )]
    #[arg(requires = "repository", help_heading = STANDALONE)]
    output_tag: Option<String>,
    /// Kind of the database: mysql
    #[arg(long, hide = true)]
    db_type: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    mkfs: Option<bool>,
    #[arg(long, hide = true)]
    disable_sparse: bool,
    #[arg(long, hide = true)]
    reserve: bool,
    /// Tag of the result in TurboOCI form in --repository, besides or instead of --output-tag
    #[arg(
        long = "turboOCI",
        value_name = "TAG",
        alias = "fastoci",
        hide_short_help = true
    )]
    #[arg(requires = "repository", help_heading = STANDALONE)]
    turbo_oci: Option<String>,
    #[arg(long, hide = true)]
    verbose: bool,
}

const STANDALONE: &str = "In the form of the standalone converter";

impl StandaloneOptions {
    /// The source and the destination that these name, if they do.
    pub fn images(&self, is_turbo: bool) -> anyhow::Result<Option<(String, Option<String>)>> {
        let Some(repository) = &self.repository else {
            return Ok(None);
        };
        let source = match (&self.input_tag, &self.input_digest) {
            (Some(tag), _) => format!("{repository}:{tag}"),
            (None, Some(digest)) => format!("{repository}@{digest}"),
            (None, None) => {
                return Err(usage("--repository needs --input-tag or --input-digest"))
                    .context("the source is not named");
            }
        };
        let turbo = self.turbo_oci.as_ref().filter(|_| is_turbo);
        let destination = turbo.or(self.output_tag.as_ref());
        Ok(Some((
            source,
            destination.map(|tag| format!("{repository}:{tag}")),
        )))
    }

    /// Whether each result that is asked for is a TurboOCI image; `turbo`: the only one is. The
    /// native one is last: it is made of the tars that the other one inflated.
    pub fn forms(&self, turbo: bool) -> Vec<bool> {
        match (&self.turbo_oci, &self.output_tag) {
            (Some(_), Some(_)) => vec![true, false],
            (Some(_), None) => vec![true],
            (None, _) => vec![turbo],
        }
    }

    /// Whether temporary data stays.
    pub fn keeps_temporary_data(&self) -> bool {
        self.reserve
    }

    /// Whether more is logged.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Tells what cannot be done, and logs what has no meaning here.
    pub fn check(&self, errors: &mut ConfigErrors) {
        if let Some(kind) = self
            .db_type
            .as_deref()
            .filter(|kind| !matches!(*kind, "" | "mysql"))
        {
            errors.add("db-type", format!("{kind:?} is not supported: mysql is"));
        }
        if self.mkfs == Some(false) {
            errors.add(
                "mkfs",
                "the bottom layer always brings its filesystem: leave it out",
            );
        }
        if self.turbo_oci.is_some() && self.repository.is_none() {
            errors.add(
                "turboOCI",
                "names a tag in --repository: name that, or say --turbo beside SRC and DST",
            );
        }
        if self.disable_sparse {
            tracing::info!("--disable-sparse has no meaning here: no sparse file is used");
        }
    }
}

/// A mistake in the command line.
pub fn usage(text: &str) -> ConfigErrors {
    let mut errors = ConfigErrors::default();
    errors.add_line(text);
    errors
}
