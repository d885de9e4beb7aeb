//! The directory of a store that does not outlive the command.

use std::path::Path;

use anyhow::Context as _;
use tempfile::TempDir;

use super::progress::Terminal;
use crate::registry::{TemporaryDirectory, Upstream};

/// A directory that is removed when this is dropped.
pub enum Temporary {
    /// Where the user or the system has such directories.
    Usual(TempDir),
    /// In or beside the layout that is written, which then shares its files.
    OfLayout(TemporaryDirectory),
}

impl Temporary {
    /// A directory in `parent`; without that in `destination` if that is a layout, or beside it if
    /// that is an archive; else, and where none can be made there, where the system has them.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(parent: Option<&Path>, destination: Option<&Upstream>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("overlaybd-convert-");
        let beside = || destination.map_or(Ok(None), Upstream::temporary_directory);
        let made = match parent {
            Some(parent) => std::fs::create_dir_all(parent)
                .and_then(|()| builder.tempdir_in(parent))
                .map(Self::Usual),
            None => match beside() {
                Ok(Some(directory)) => Ok(Self::OfLayout(directory)),
                Ok(None) | Err(_) => builder.tempdir().map(Self::Usual),
            },
        };
        made.context(
            "no directory for temporary data can be made: --dir or --data-dir names another",
        )
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Usual(directory) => directory.path(),
            Self::OfLayout(directory) => directory.path(),
        }
    }

    /// Itself; `None` if it is kept, which the user is told.
    pub fn kept_if(self, is_kept: bool, terminal: &Terminal) -> Option<Self> {
        match self {
            Self::Usual(directory) if is_kept => {
                let path = directory.keep();
                terminal.tell(format_args!("temporary data stays in {}", path.display()));
                None
            }
            temporary => Some(temporary),
        }
    }
}
