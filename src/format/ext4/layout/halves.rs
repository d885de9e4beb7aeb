//! Numbers whose low and high parts are stored apart.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::transmute;

/// A number of 32 bits from two of 16.
pub(crate) fn join16(low: U16, high: U16) -> u32 {
    u32::from(low.get()) | u32::from(high.get()) << 16
}

/// A number of 64 bits from two of 32.
pub(crate) fn join32(low: U32, high: U32) -> u64 {
    u64::from(low.get()) | u64::from(high.get()) << 32
}

/// A number of 48 bits, a block's.
pub(crate) fn join48(low: U32, high: U16) -> u64 {
    u64::from(low.get()) | u64::from(high.get()) << 32
}

/// The low and the high half of a number.
pub(crate) fn split16(value: u32) -> (U16, U16) {
    let [low, high]: [U16; 2] = transmute!(U32::new(value));
    (low, high)
}

/// The low and the high half of a number.
pub(crate) fn split32(value: u64) -> (U32, U32) {
    let [low, high]: [U32; 2] = transmute!(U64::new(value));
    (low, high)
}

/// The low 32 bits of a number, and the 16 above them.
pub(crate) fn split48(value: u64) -> (U32, U16) {
    let (low, high) = split32(value);
    (low, split16(high.get()).0)
}
