//! The memory of zstd windows: most layers need little, `zstd --long` up to 512 MiB.

use super::error::LayerError;
use super::memory::{MemoryBudget, MemoryPermit};

/// Bytes of the largest usual window: `zstd -19` and `BuildKit` have no larger one.
const USUAL_WINDOW_BYTES: u64 = 8 << 20;

/// Bytes of the window that a layer of this media type is likely to have. The type may be
/// wrong.
pub(super) fn likely(media_type: &str) -> u64 {
    if media_type.contains("zstd") {
        USUAL_WINDOW_BYTES
    } else {
        0
    }
}

/// The memory for the windows of one layer.
#[derive(Debug, Default)]
pub struct Windows {
    /// Bytes that the layer has a permit for.
    permitted: u64,
    /// The budget for larger windows; without it there is no limit.
    memory: Option<MemoryBudget>,
    more: Option<(u64, MemoryPermit)>,
}

impl Windows {
    /// Windows without a limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// `permitted` bytes, and what is free of `memory` at once: a thread that holds a permit never
    /// waits for another.
    #[must_use]
    pub(super) fn within(permitted: u64, memory: MemoryBudget) -> Self {
        Self {
            permitted,
            memory: Some(memory),
            more: None,
        }
    }

    /// Acquires the memory for a window, replacing that of the one before.
    pub(super) fn grant(&mut self, window: u64) -> Result<(), LayerError> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let more = self.more.as_ref().map_or(0, |(bytes, _)| *bytes);
        if window <= self.permitted.saturating_add(more) {
            return Ok(());
        }
        self.more = None;
        let needed = window.saturating_sub(self.permitted);
        match memory.try_acquire_all(needed) {
            Some(permit) => {
                self.more = Some((needed, permit));
                Ok(())
            }
            None => Err(LayerError::Window {
                window,
                memory: memory.total(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_over_the_initial_permit_take_memory_from_the_budget() {
        let memory = MemoryBudget::new(16 << 20);
        let mut windows = Windows::within(4 << 20, memory.clone());
        windows.grant(4 << 20).unwrap();
        assert_eq!(memory.used(), 0);
        windows.grant(10 << 20).unwrap();
        assert_eq!(memory.used(), 6 << 20);
        windows.grant(5 << 20).unwrap();
        assert_eq!(memory.used(), 6 << 20);
        let other = memory.try_acquire(8 << 20);
        let error = windows.grant(13 << 20).unwrap_err();
        assert!(error.to_string().contains("--memory"), "{error}");
        drop(other);
        windows.grant(20 << 20).unwrap();
        assert_eq!(memory.used(), 16 << 20);
        assert!(windows.grant(21 << 20).is_err());
        drop(windows);
        assert_eq!(memory.used(), 0);
        Windows::unlimited().grant(u64::MAX).unwrap();
    }
}
