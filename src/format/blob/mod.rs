//! A layer blob: `tar( pax header, overlaybd.commit = ZFile( LSMT ) )`, read and written.

mod export;
mod layer;
mod stack;
mod tar_header;
mod wrapping;
mod writer;

pub use crate::format::zfile::{Algorithm, BlockSize, CompressPool};
pub use export::export;
pub use layer::{BlobError, LayerBlob, Refusal, Summary};
pub use stack::{MAX_LAYERS, Stack, StackError};
pub use writer::{FinishedBlob, LayerSpec, LayerWriter, WriterError, WrittenBlob};
