//! The tars of an image that is converted to both formats: made by the conversion to `TurboOCI`, which
//! needs the compressed layers, and read by the native one.

use std::io::Read;

use parking_lot::Mutex;

use super::tars::{KeptTars, PendingTar};
use crate::convert::input::TarCopy;
use crate::convert::layer::Format;
use crate::convert::plan::Step;
use crate::store::BlobStore;

/// The tars of one image's layers. They take disk until this is dropped.
#[derive(Default)]
pub(in super::super) struct SharedTars(Mutex<KeptTars>);

impl SharedTars {
    /// A writer for the tar of a layer, if a conversion to this format makes it.
    pub(super) fn copy(&self, format: Format, blobs: &BlobStore) -> Option<(TarCopy, PendingTar)> {
        match format {
            Format::Native => None,
            Format::Turbo(_) => Some(self.0.lock().copy(blobs)),
        }
    }

    /// The tar of a layer, if a conversion to this format can do with it.
    pub(super) fn tar(&self, format: Format, step: &Step) -> Option<Box<dyn Read + Send>> {
        match format {
            Format::Native => self.0.lock().tar(step),
            Format::Turbo(_) => None,
        }
    }

    /// Keeps the tar of a layer that was applied, so that it is verified.
    pub(super) fn keep(&self, step: &Step, tar: &PendingTar) {
        self.0.lock().keep(step, tar);
    }
}
