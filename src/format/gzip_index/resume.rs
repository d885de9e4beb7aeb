//! Deflate data from a block in the middle.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY,
    TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress_with_limit};

use super::layout::{WINDOW, Window};

/// Most bytes that one step makes.
const STEP: usize = 32 << 10;

/// Why a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// All input is used up.
    Input,
    /// As much output as was asked for, or as a step makes.
    Output,
    /// The end of a block that is not the last one.
    Boundary,
    /// The end of the data.
    End,
    /// This is no deflate data.
    Damaged,
}

/// A decoder that began at a block. Two buffers of 32 KiB and tables of 11 KiB.
pub(super) struct Resumed {
    decoder: Box<DecompressorOxide>,
    /// The window, then what the last step made.
    buffer: Box<[u8]>,
    /// Where output ends.
    end: usize,
}

impl Resumed {
    /// A decoder of the block that begins in the highest `bits` (0 to 7) bits of the byte
    /// `shared` and goes on in what the first step is given.
    pub(super) fn new(window: &Window, bits: u8, shared: u8) -> Self {
        let state = BlockBoundaryState {
            num_bits: bits,
            bit_buf: if bits == 0 { 0 } else { shared >> (8 - bits) },
            ..BlockBoundaryState::default()
        };
        let mut buffer = vec![0; WINDOW + STEP].into_boxed_slice();
        buffer[..WINDOW].copy_from_slice(window);
        Self {
            decoder: Box::new(DecompressorOxide::from_block_boundary_state(&state)),
            buffer,
            end: WINDOW,
        }
    }

    /// Decodes at most `limit` bytes from `input`, and to the end of a block at most. Returns
    /// how much input was used, the output, and why it ended.
    pub(super) fn step(&mut self, input: &[u8], limit: usize) -> (usize, &[u8], Stop) {
        if self.end == self.buffer.len() {
            self.buffer.copy_within(self.end - WINDOW.., 0);
            self.end = WINDOW;
        }
        let (status, used, made) = decompress_with_limit(
            &mut self.decoder,
            input,
            &mut self.buffer,
            self.end,
            limit,
            TINFL_FLAG_HAS_MORE_INPUT
                | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY
                | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
        );
        let output = self.end..self.end + made;
        self.end = output.end;
        let stop = match status {
            TINFLStatus::NeedsMoreInput => Stop::Input,
            TINFLStatus::HasMoreOutput => Stop::Output,
            TINFLStatus::BlockBoundary => Stop::Boundary,
            TINFLStatus::Done => Stop::End,
            _ => Stop::Damaged,
        };
        (used, &self.buffer[output], stop)
    }

    /// How many bits of the last used byte belong to the next block, if the last step ended with
    /// [`Stop::Boundary`].
    pub(super) fn bits(&self) -> Option<u8> {
        Some(self.decoder.block_boundary_state()?.num_bits)
    }
}

impl std::fmt::Debug for Resumed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resumed").finish_non_exhaustive()
    }
}
