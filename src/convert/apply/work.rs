//! How much looking up a layer may cost: what it takes is the names' choice, not their number's.

use super::Problem;

/// Steps that each layer has.
const AT_START: u64 = 1 << 20;
/// Steps that each of its entries adds. Layers as they are built need one or two.
const PER_ENTRY: u64 = 64;

/// Steps of a path that are followed, and names that are looked through.
#[derive(Debug)]
pub(super) struct Work {
    left: u64,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { left: AT_START }
    }

    /// An entry more.
    pub(super) fn add_entry(&mut self) {
        self.left = self.left.saturating_add(PER_ENTRY);
    }

    /// Takes so many steps.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Problem> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Problem::TooMuchWork {
                at_start: AT_START,
                per_entry: PER_ENTRY,
            }),
        }
    }
}
