//! What to do about a failed conversion, as the README's Troubleshooting says.

use super::apply::{ApplyError, Problem};
use super::error::{ConvertError, LayerError};
use crate::format::ext4;
use crate::registry::Error;
use crate::store::Shortage;

impl ConvertError {
    /// What an operator can do about it, where there is something to say that the error does not.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self.shortage() {
            Some(Shortage::Space) => {
                return Some("the disk of --data-dir is full: free some, or lower --cache-size");
            }
            Some(Shortage::Files) => {
                return Some("raise the limit of open files (LimitNOFILE=, ulimit -n)");
            }
            None => {}
        }
        match self.cause() {
            Self::NoPlatform { .. } => {
                Some("the source lacks this platform: --platform, or --platform all")
            }
            Self::NotImage { .. } | Self::NotLinux { .. } => {
                Some("there is nothing to convert: pull it without the suffix")
            }
            Self::QueueFull(_) => Some("--max-queue images wait already; ask again later"),
            Self::Upstream(Error::Refused { .. }) => Some(
                "the registry redirects, or its token server is, at a private address: allow the \
                 host if it is meant to be",
            ),
            Self::Layer { cause, .. } => cause.remedy(),
            _ => None,
        }
    }
}

impl LayerError {
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Digest { .. } => Some(
                "the layer is damaged in the registry, or by a proxy or cache on the way; it was \
                 asked for twice",
            ),
            Self::DiffId { .. } => Some(
                "the image is broken or lies: push it again with a tool that writes its config \
                 from its layers",
            ),
            Self::Window { .. } => {
                Some("raise --memory as the message says, or compress the layer without --long")
            }
            Self::Filesystem(error)
            | Self::Apply(ApplyError::Entry {
                problem: Problem::Filesystem(error),
                ..
            }) => of_filesystem(error),
            _ => None,
        }
    }
}

fn of_filesystem(error: &ext4::Error) -> Option<&'static str> {
    matches!(
        error,
        ext4::Error::NoSpace { .. } | ext4::Error::NoInodes { .. }
    )
    .then_some(
        "the image is larger than its virtual disk: raise --vsize (other blobs come of that)",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::oci::{DiffId, Digest};

    fn of_layer(cause: LayerError) -> ConvertError {
        ConvertError::Layer {
            layer: Digest::of(b"layer"),
            cause: Arc::new(cause),
        }
    }

    #[test]
    fn each_remedy_is_what_troubleshooting_says() {
        let readme = include_str!("../../README.md");
        let table = readme.split("## Troubleshooting").nth(1).unwrap();
        let table = table.split("\n## ").next().unwrap().replace('`', "");
        let digest = || Digest::of(b"x");
        let window = LayerError::Window {
            window: 1,
            memory: 2,
        };
        let expected = DiffId(digest());
        for error in [
            of_layer(LayerError::DiffId {
                expected,
                actual: digest(),
            }),
            of_layer(LayerError::Digest {
                expected: digest(),
                actual: digest(),
            }),
            of_layer(window),
            of_layer(LayerError::Filesystem(ext4::Error::NoSpace { disk: 1 })),
            of_layer(LayerError::Output(std::io::ErrorKind::StorageFull.into())),
            ConvertError::QueueFull(1),
            ConvertError::NoPlatform {
                index: digest(),
                wanted: String::new(),
                available: String::new(),
            },
            ConvertError::NotImage {
                manifest: digest(),
                kind: String::new(),
            },
        ] {
            let remedy = error.remedy().unwrap();
            assert!(table.contains(remedy), "{error}: {remedy}");
        }
        assert_eq!(ConvertError::Interrupted.remedy(), None);
    }
}
