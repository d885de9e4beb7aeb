//! `ZFile`: a file compressed block by block, readable at random.
//! Source: containerd/overlaybd `docs/specs/zfile.md` and `src/overlaybd/zfile/zfile.cpp`.

mod codec;
mod error;
mod layout;
mod offsets;
mod pool;
mod raw;
mod reader;
mod refusal;
mod write_behind;
mod writer;

pub use codec::{Algorithm, BlockSize, InvalidSetting};
pub use error::ZFileError;
pub use layout::{Geometry, LayoutError};
pub use pool::CompressPool;
pub use reader::ZFileReader;
pub use refusal::UnreadableBlock;
pub use write_behind::WriteBehind;
pub use writer::{Finished, ZFileWriter};
