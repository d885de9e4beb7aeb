//! Layers that an image has more than once: the tar is kept until the last of them is applied.

use std::collections::HashMap;
use std::io::Read;

use super::tars::{KeptTars, Key, PendingTar, key};
use crate::convert::input::TarCopy;
use crate::convert::plan::Step;
use crate::store::BlobStore;

/// The repeated layers of one image.
#[derive(Default)]
pub(super) struct Repeats {
    /// The last position of each repeated layer.
    last: HashMap<Key, usize>,
    tars: KeptTars,
}

impl Repeats {
    pub(super) fn of(steps: &[Step]) -> Self {
        let mut positions: HashMap<Key, Vec<usize>> = HashMap::new();
        for (position, step) in steps.iter().enumerate() {
            positions.entry(key(step)).or_default().push(position);
        }
        let repeated = positions
            .into_iter()
            .filter(|(_, positions)| positions.len() > 1);
        let last = repeated.filter_map(|(key, positions)| Some((key, *positions.last()?)));
        Self {
            last: last.collect(),
            tars: KeptTars::default(),
        }
    }

    /// Whether the layer is a repeated one.
    pub(super) fn has(&self, step: &Step) -> bool {
        self.last.contains_key(&key(step))
    }

    /// A writer for the tar of the layer at `position`, if the layer is repeated above it.
    pub(super) fn copy(
        &self,
        step: &Step,
        position: usize,
        blobs: &BlobStore,
    ) -> Option<(TarCopy, PendingTar)> {
        let last = self.last.get(&key(step))?;
        (*last > position).then(|| self.tars.copy(blobs))
    }

    /// The tar of a layer that was verified before, to be read instead of fetching it.
    pub(super) fn tar(&self, step: &Step) -> Option<Box<dyn Read + Send>> {
        self.tars.tar(step)
    }

    /// Keeps the tar of a layer that was applied, so that it is verified.
    pub(super) fn keep(&mut self, step: &Step, tar: &PendingTar) {
        self.tars.keep(step, tar);
    }

    /// Drops the tar of the layer at `position`, which was applied, if this was its last use.
    pub(super) fn applied(&mut self, step: &Step, position: usize) {
        if self
            .last
            .get(&key(step))
            .is_some_and(|last| *last <= position)
        {
            self.tars.drop_tar(step);
        }
    }
}
