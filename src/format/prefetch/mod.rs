//! What is prefetched when a container starts: lists of paths, most wanted first, the order that
//! they give to a layer's data, and traces. Source: containerd/overlaybd `src/prefetch.cpp`.

mod list;
mod order;
mod raw;
mod trace;
mod usual;

pub use list::{InvalidList, MAX_LINE_BYTES, MAX_LIST_BYTES, PrefetchList};
pub use order::DataOrder;
pub use trace::{
    InvalidTrace, MAX_COUNT, MAX_RECORDS, MAX_TRACE_BYTES, Record, Trace, is_read_by_overlaybd,
    records_to_bytes,
};
