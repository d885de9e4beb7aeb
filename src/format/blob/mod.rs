//! A layer blob: `tar( pax header, overlaybd.commit = ZFile( LSMT ) )`, read and written, and that
//! of a `TurboOCI` layer.

mod export;
mod layer;
mod lsmt_writer;
mod stack;
mod tar_header;
mod turbo;
mod turbo_writer;
mod wrapping;
mod writer;

pub use crate::format::zfile::{Algorithm, BlockSize, CompressPool, Finished};
pub use export::export;
pub use layer::{BlobError, LayerBlob, Refusal, Summary};
pub use lsmt_writer::{LayerSpec, WriterError};
pub use stack::{MAX_LAYERS, Stack, StackError};
pub use turbo::{PackedTurbo, TurboError, TurboParts, UnpackedTurbo, pack_turbo, unpack_turbo};
pub use turbo_writer::TurboWriter;
pub use writer::{FinishedBlob, LayerWriter, WrittenBlob};
