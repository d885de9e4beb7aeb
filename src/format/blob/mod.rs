//! A layer blob: `tar( pax header, overlaybd.commit = ZFile( LSMT ) )`, read and written, and that
//! of a `TurboOCI` layer.

mod acceleration;
mod export;
mod layer;
mod lsmt_writer;
mod places;
mod spool;
mod stack;
mod tar_header;
mod turbo;
mod turbo_writer;
mod wrapping;
mod writer;

pub use crate::format::zfile::{Algorithm, BlockSize, CompressPool, Finished};
pub use acceleration::{AccelerationError, pack_trace, unpack_trace};
pub use export::export;
pub use layer::{BlobError, LayerBlob, Place, Refusal, Region, Summary};
pub use lsmt_writer::{LayerSpec, WriterError};
pub use places::{DiskPlaces, Holder};
pub use spool::{MAX_SPOOLED_BYTES, MakeSpoolFile, SPOOL_MEMORY_BYTES, SpoolFile};
pub use stack::{Located, MAX_LAYERS, Stack, StackError, Visible};
pub use turbo::{PackedTurbo, TurboError, TurboParts, UnpackedTurbo, pack_turbo, unpack_turbo};
pub use turbo_writer::TurboWriter;
pub use writer::{FinishedBlob, LayerWriter, WrittenBlob};
