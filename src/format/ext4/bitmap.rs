//! Bits of a bitmap block, lowest bit of a byte first.

use super::error::{Result, narrow};

/// The first bit of this value in `from..to`; `to` when there is none.
pub(super) fn find(bits: &[u8], from: usize, to: usize, value: bool) -> usize {
    let mut at = from;
    while at < to {
        // Eight bytes a step where all of them count.
        if at.is_multiple_of(64)
            && to - at >= 64
            && let Some(word) = bits.get(at / 8..at / 8 + 8)
        {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_le_bytes(bytes) ^ if value { 0 } else { !0 };
            if word == 0 {
                at += 64;
                continue;
            }
            return at + word.trailing_zeros() as usize;
        }
        if is_set(bits, at) == value {
            return at;
        }
        at += 1;
    }
    to
}

pub(super) fn is_set(bits: &[u8], bit: usize) -> bool {
    bits.get(bit / 8)
        .is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

/// Sets or clears `from..to`; whether all of them were the opposite before.
pub(super) fn put(bits: &mut [u8], from: usize, to: usize, value: bool) -> bool {
    if find(bits, from, to, value) != to {
        return false;
    }
    fill(bits, from, to, value);
    true
}

/// Sets or clears `from..to`.
pub(super) fn fill(bits: &mut [u8], from: usize, to: usize, value: bool) {
    let mut at = from;
    while at < to {
        let Some(byte) = bits.get_mut(at / 8) else {
            return;
        };
        let step = if at.is_multiple_of(8) && to - at >= 8 {
            *byte = if value { 0xff } else { 0 };
            8
        } else {
            let mask = 1 << (at % 8);
            if value {
                *byte |= mask;
            } else {
                *byte &= !mask;
            }
            1
        };
        at += step;
    }
}

/// How many of the first `count` bits are clear.
pub(super) fn count_clear(bits: &[u8], count: usize) -> Result<u32> {
    let whole = (count / 8).min(bits.len());
    let set: u32 = bits[..whole].iter().map(|byte| byte.count_ones()).sum();
    let rest = (whole * 8..count).filter(|bit| is_set(bits, *bit)).count();
    narrow(count - rest - set as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bitmap_operations_equal_those_on_single_bits(
            bytes in prop::collection::vec(prop::sample::select(vec![0, 0xff, 0x10, 0x7f]), 64),
            from in 0..512_usize,
            length in 0..512_usize,
            value: bool,
        ) {
            let to = (from + length).min(512);
            let expected = (from..to).find(|bit| is_set(&bytes, *bit) == value).unwrap_or(to);
            prop_assert_eq!(find(&bytes, from, to, value), expected);
            let clear = (0..to).filter(|bit| !is_set(&bytes, *bit)).count();
            prop_assert_eq!(count_clear(&bytes, to).unwrap() as usize, clear);
            let mut filled = bytes.clone();
            let all = put(&mut filled, from, to, value);
            prop_assert_eq!(all, expected == to);
            for bit in 0..512 {
                let inside = all && (from..to).contains(&bit);
                prop_assert_eq!(is_set(&filled, bit), if inside { value } else { is_set(&bytes, bit) });
            }
        }
    }
}
