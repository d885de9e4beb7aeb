//! The memory of zstd windows: most layers need little, `zstd --long` up to 512 MiB.

use super::layer::LayerError;
use super::memory::{Memory, Share};

/// The window of what is compressed as usual: `zstd -19` and `BuildKit` have no larger one.
const USUAL: u64 = 8 << 20;

/// Bytes of the window that a layer of this media type is likely to have. The type may be
/// wrong.
pub(super) fn likely(media_type: &str) -> u64 {
    if media_type.contains("zstd") {
        USUAL
    } else {
        0
    }
}

/// What the windows of one layer may take.
#[derive(Debug, Default)]
pub struct Windows {
    /// Bytes that are accounted for.
    paid: u64,
    /// Where more is taken from; without it there is no limit.
    memory: Option<Memory>,
    more: Option<(u64, Share)>,
}

impl Windows {
    /// Whatever is asked for.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// `paid` bytes, which are accounted for, and what `memory` has besides at once: whoever
    /// holds a share never waits for another.
    #[must_use]
    pub(super) fn within(paid: u64, memory: Memory) -> Self {
        Self {
            paid,
            memory: Some(memory),
            more: None,
        }
    }

    /// Takes the memory for a window, in place of one before.
    pub(super) fn grant(&mut self, window: u64) -> Result<(), LayerError> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let more = self.more.as_ref().map_or(0, |(bytes, _)| *bytes);
        if window <= self.paid.saturating_add(more) {
            return Ok(());
        }
        self.more = None;
        let needed = window.saturating_sub(self.paid);
        match memory.try_take_all(needed) {
            Some(share) => {
                self.more = Some((needed, share));
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
    fn windows_are_paid_for_or_taken_from_the_budget_at_once() {
        let memory = Memory::new(16 << 20);
        let mut windows = Windows::within(4 << 20, memory.clone());
        windows.grant(4 << 20).unwrap();
        assert_eq!(memory.used(), 0);
        windows.grant(10 << 20).unwrap();
        assert_eq!(memory.used(), 6 << 20);
        windows.grant(5 << 20).unwrap();
        assert_eq!(memory.used(), 6 << 20);
        let other = memory.try_take(8 << 20);
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
