//! CRC-32C as `ZFile` and ext4 use it: the register, without inversions.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C register after `data`, started from `init`, neither inverted.
/// Polynomial: Castagnoli, reflected (overlaybd `zfile/crc32`, the kernel's `crc32c()`).
#[must_use]
pub fn crc32c(init: u32, data: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(init));
    digest.update(data);
    // The library returns 32 significant bits, inverted as iSCSI has them.
    let [a, b, c, d, ..] = digest.finalize().to_le_bytes();
    !u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitwise(init: u32, data: &[u8]) -> u32 {
        data.iter().fold(init, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
            })
        })
    }

    #[test]
    fn the_register_equals_that_of_the_bitwise_definition() {
        let data: Vec<u8> = (0..5000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for init in [0, 100_007, !0] {
            for len in [0, 1, 7, 8, 63, 512, 4096, 5000] {
                assert_eq!(
                    crc32c(init, &data[..len]),
                    bitwise(init, &data[..len]),
                    "{init} {len}"
                );
            }
        }
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
