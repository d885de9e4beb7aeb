//! How the program ends.

use std::io;

use super::admin::AdminError;
use crate::config::ConfigErrors;
use crate::convert::{ConvertError, Fault};
use crate::format::blob::TurboError;
use crate::format::block::Damaged;
use crate::format::gzip_index::GzipIndexError;
use crate::format::{blob, ext4};
use crate::lazy::{LayerError, OpenError, ReadError};
use crate::registry;
use crate::server::{ServerError, Unexplained};

/// How the program ends: its exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// All went well.
    Ok = 0,
    /// Something on this machine failed: disk, database, address.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The image or blob is broken, or cannot be converted.
    Image = 3,
    /// A registry gave no usable answer, or a proxy that was asked.
    Registry = 4,
    /// Some of several images, blobs or jobs failed.
    Partly = 5,
    /// Requests were cut off when the time to finish them was over.
    CutOff = 6,
    /// A check found differences.
    Different = 7,
    /// Interrupted by SIGINT.
    Interrupted = 130,
    /// Ended by a second SIGTERM.
    Terminated = 143,
}

/// What `--help` says of exit codes.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
    0  all went well
    1  something on this machine failed (disk, database, address) or is set up wrong (node check)
    2  the command line or the configuration is wrong
    3  the image or blob is broken, or cannot be converted
    4  a registry, or the proxy that was asked, gave no usable answer
    5  some of several images, blobs or jobs failed
    6  requests were cut off when the time to finish them was over
    7  a check found differences
  130  interrupted by SIGINT
  143  ended by a second SIGTERM";

/// Ends the process with this status, and at once: no handler of a library runs (`exit(3)`).
/// AWS-LC's frees what its random numbers come from, and aborts the process when another thread
/// begins a TLS handshake after that (`tree_jitter_free_global_drbg`).
pub fn end(status: ExitStatus) -> ! {
    signal_hook::low_level::exit(i32::from(status as u8))
}

/// Ends the process at once with the status of a command that it ran.
pub fn end_as(code: u8) -> ! {
    signal_hook::low_level::exit(code.into())
}

impl ExitStatus {
    /// The status by the cause of an error.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_cause)
            .unwrap_or(Self::Failed)
    }

    /// The status of several things that were done one after the other: so many succeeded, and this one
    /// failed first.
    #[must_use]
    pub fn of_several(succeeded: usize, failed: Option<&anyhow::Error>) -> Self {
        match failed {
            None => Self::Ok,
            Some(_) if succeeded > 0 => Self::Partly,
            Some(error) => Self::of(error),
        }
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if cause.is::<ConfigErrors>() {
            return Some(Self::Usage);
        }
        if let Some(error) = cause.downcast_ref::<ServerError>() {
            return Some(match error {
                ServerError::Configuration(_) => Self::Usage,
                ServerError::Listen { .. } => Self::Failed,
            });
        }
        if let Some(error) = cause.downcast_ref::<AdminError>() {
            return Some(error.status());
        }
        if let Some(error) = cause.downcast_ref::<Unexplained>() {
            return Some(match error {
                Unexplained::NoUpstream(_) => Self::Usage,
                Unexplained::Upstream(error) => Self::of_registry(error),
                Unexplained::Size(error) => Self::of_conversion(error),
            });
        }
        if let Some(error) = cause.downcast_ref::<ConvertError>() {
            return Some(Self::of_conversion(error));
        }
        if let Some(error) = cause.downcast_ref::<registry::Error>() {
            return Some(Self::of_registry(error));
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return Self::of_read(error);
        }
        if let Some(error) = cause.downcast_ref::<OpenError>() {
            return Some(match error {
                OpenError::Layer { source, .. } => Self::of_layer(source),
                OpenError::Stack(_) => Self::Image,
                OpenError::Thread(_) => Self::Failed,
            });
        }
        if let Some(error) = cause.downcast_ref::<LayerError>() {
            return Some(Self::of_layer(error));
        }
        if let Some(error) = cause.downcast_ref::<blob::BlobError>() {
            return Some(Self::of_blob(error));
        }
        let is_damaged = cause.downcast_ref::<ext4::Error>().is_some_and(|error| {
            use ext4::Error::{Corrupt, NotExt4, Unsupported};
            matches!(error, NotExt4(_) | Unsupported(_) | Corrupt(_))
        });
        let is_image = is_damaged
            || cause.is::<blob::StackError>()
            || cause.is::<crate::oci::ManifestError>()
            || cause.is::<super::platforms::LacksPlatform>()
            || cause.is::<super::image::NotConverted>();
        is_image.then_some(Self::Image)
    }

    fn of_conversion(error: &ConvertError) -> Self {
        match (error.fault(), error) {
            (_, ConvertError::Upstream(error)) => Self::of_registry(error),
            (Fault::Image, _) => Self::Image,
            (Fault::Upstream, _) => Self::Registry,
            (Fault::Local, _) => Self::Failed,
        }
    }

    /// The status of a read that failed, if the error says whose fault it was.
    fn of_read(error: &io::Error) -> Option<Self> {
        let mut cause = error.get_ref()?;
        // An error of one disk may be in that of another over it.
        while let Some(within) = cause.downcast_ref::<io::Error>() {
            cause = within.get_ref()?;
        }
        if cause.is::<Damaged>() {
            return Some(Self::Image);
        }
        let read = cause.downcast_ref::<ReadError>()?;
        Some(match read.upstream() {
            Some(error) => Self::of_registry(error),
            None if read.is_ending() => Self::Failed,
            None => Self::Registry,
        })
    }

    fn of_layer(error: &LayerError) -> Self {
        let read = match error {
            LayerError::Blob(error) => return Self::of_blob(error),
            LayerError::Io(error)
            | LayerError::Turbo(TurboError::Io(error))
            | LayerError::Index(GzipIndexError::Io(error)) => error,
            LayerError::Turbo(_) | LayerError::Index(_) => {
                return Self::of_source(error).unwrap_or(Self::Image);
            }
        };
        Self::of_read(read).unwrap_or(Self::Failed)
    }

    fn of_blob(error: &blob::BlobError) -> Self {
        match error {
            blob::BlobError::Io(error) => Self::of_read(error).unwrap_or(Self::Failed),
            // What says that it is damaged may be that it could not be read.
            error => Self::of_source(error).unwrap_or(Self::Image),
        }
    }

    /// The status by a failed read among the causes of an error.
    fn of_source(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let causes = std::iter::successors(error.source(), |error| error.source());
        causes
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .find_map(Self::of_read)
    }

    fn of_registry(error: &registry::Error) -> Self {
        match error {
            registry::Error::Configuration(_) => Self::Usage,
            registry::Error::Io { .. } => Self::Failed,
            _ => Self::Registry,
        }
    }
}

/// An error with its causes, one a line, none twice.
#[must_use]
pub fn describe(error: &anyhow::Error) -> String {
    joined(format!("error: {error}"), error, "\n  because: ")
}

/// An error with its causes in one line, none twice.
#[must_use]
pub fn in_one_line(error: &anyhow::Error) -> String {
    joined(error.to_string(), error, ": ")
}

fn joined(mut text: String, error: &anyhow::Error, between: &str) -> String {
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(between);
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_exit_status_follows_from_the_cause_of_an_error() {
        let registry = registry::Error::Invalid {
            place: "GET x".to_owned(),
            detail: "nonsense".to_owned(),
        };
        let broken = blob::BlobError::Wrapping("no tar".to_owned());
        let no_filesystem = ext4::Error::NotExt4("zeros".to_owned());
        for (error, status) in [
            (anyhow::anyhow!("disk"), ExitStatus::Failed),
            (ConfigErrors::default().into(), ExitStatus::Usage),
            (registry.clone().into(), ExitStatus::Registry),
            (ConvertError::from(registry).into(), ExitStatus::Registry),
            (ConvertError::Interrupted.into(), ExitStatus::Failed),
            (broken.into(), ExitStatus::Image),
            (no_filesystem.into(), ExitStatus::Image),
        ] {
            let wrapped = Err::<(), _>(error).context("while working").unwrap_err();
            assert_eq!(ExitStatus::of(&wrapped), status, "{wrapped:?}");
        }
    }

    #[test]
    fn each_cause_is_printed_once() {
        let error = anyhow::anyhow!("the disk is full")
            .context("writing failed: the disk is full")
            .context("converting x");
        let text = describe(&error);
        assert_eq!(
            text,
            "error: converting x\n  because: writing failed: the disk is full"
        );
        assert_eq!(
            in_one_line(&error),
            "converting x: writing failed: the disk is full"
        );
    }

    #[test]
    fn every_code_is_listed() {
        for status in [
            ExitStatus::Ok,
            ExitStatus::Failed,
            ExitStatus::Usage,
            ExitStatus::Image,
            ExitStatus::Registry,
            ExitStatus::Partly,
            ExitStatus::CutOff,
            ExitStatus::Different,
            ExitStatus::Interrupted,
            ExitStatus::Terminated,
        ] {
            let code = format!("{:>5}  ", status as u8);
            assert!(EXIT_CODES.contains(&code), "{status:?}");
        }
    }
}
