//! Hashes of names in indexed directories (kernel, `fs/ext4/hash.c`).

use super::error::{Error, Result};

/// The hash function of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hasher {
    kind: Kind,
    /// Bytes over 127 count as negative numbers.
    is_signed: bool,
    seed: [u32; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Legacy,
    HalfMd4,
    Tea,
}

/// What MD4 starts from, where the filesystem has no seed.
const DEFAULT_SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
const TEA_DELTA: u32 = 0x9e37_79b9;
/// The hash that stands for a directory's end, which no name can have (`EXT4_HTREE_EOF_32BIT`).
const END: u32 = 0xffff_fffe;

impl Hasher {
    /// By the version that a directory's index names; `is_signed` and `seed` are the
    /// superblock's.
    pub(super) fn new(version: u8, is_signed: bool, seed: [u32; 4]) -> Result<Self> {
        let (kind, is_signed) = match version {
            0 => (Kind::Legacy, is_signed),
            1 => (Kind::HalfMd4, is_signed),
            2 => (Kind::Tea, is_signed),
            3 => (Kind::Legacy, false),
            4 => (Kind::HalfMd4, false),
            5 => (Kind::Tea, false),
            _ => {
                return Err(Error::Unsupported(format!(
                    "a directory with hashes of version {version}"
                )));
            }
        };
        let seed = if seed == [0; 4] { DEFAULT_SEED } else { seed };
        Ok(Self {
            kind,
            is_signed,
            seed,
        })
    }

    /// The hash of a name; its lowest bit is clear.
    pub(super) fn hash(&self, name: &[u8]) -> u32 {
        let hash = match self.kind {
            Kind::Legacy => self.legacy(name),
            Kind::HalfMd4 => {
                let mut state = self.seed;
                for start in (0..name.len()).step_by(32) {
                    half_md4(&mut state, &self.words::<8>(&name[start..]));
                }
                state[1]
            }
            Kind::Tea => {
                let mut state = self.seed;
                for start in (0..name.len()).step_by(16) {
                    tea(&mut state, &self.words::<4>(&name[start..]));
                }
                state[0]
            }
        } & !1;
        if hash == END { END - 2 } else { hash }
    }

    fn value(&self, byte: u8) -> u32 {
        if self.is_signed {
            i32::from(byte.cast_signed()).cast_unsigned()
        } else {
            u32::from(byte)
        }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut hash, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for byte in name {
            let product = self.value(*byte).wrapping_mul(7_152_373);
            let mut next = before.wrapping_add(hash ^ product);
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            before = hash;
            hash = next;
        }
        hash << 1
    }

    /// A name's bytes as words, filled up with its length.
    fn words<const N: usize>(&self, name: &[u8]) -> [u32; N] {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let mut pad = length | length << 8;
        pad |= pad << 16;
        let mut words = [pad; N];
        let taken = &name[..name.len().min(N * 4)];
        for (word, bytes) in words.iter_mut().zip(taken.chunks(4)) {
            *word = bytes
                .iter()
                .fold(pad, |word, byte| self.value(*byte).wrapping_add(word << 8));
        }
        words
    }
}

fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let choose = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let parity = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let mut round =
        |f: &dyn Fn(u32, u32, u32) -> u32, constant: u32, order: [usize; 8], shifts: [u32; 4]| {
            for (step, word) in order.into_iter().enumerate() {
                let mixed = a
                    .wrapping_add(f(b, c, d))
                    .wrapping_add(words[word])
                    .wrapping_add(constant)
                    .rotate_left(shifts[step % 4]);
                (a, b, c, d) = (d, mixed, b, c);
            }
        };
    round(&choose, 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]);
    round(
        &majority,
        0x5a82_7999,
        [1, 3, 5, 7, 0, 2, 4, 6],
        [3, 5, 9, 13],
    );
    round(
        &parity,
        0x6ed9_eba1,
        [3, 7, 2, 6, 1, 5, 0, 4],
        [3, 9, 11, 15],
    );
    for (word, mixed) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(mixed);
    }
}

fn tea(state: &mut [u32; 4], words: &[u32; 4]) {
    let [mut b0, mut b1, ..] = *state;
    let [a, b, c, d] = *words;
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(TEA_DELTA);
        b0 = b0.wrapping_add(
            (b1 << 4).wrapping_add(a) ^ b1.wrapping_add(sum) ^ (b1 >> 5).wrapping_add(b),
        );
        b1 = b1.wrapping_add(
            (b0 << 4).wrapping_add(c) ^ b0.wrapping_add(sum) ^ (b0 >> 5).wrapping_add(d),
        );
    }
    state[0] = state[0].wrapping_add(b0);
    state[1] = state[1].wrapping_add(b1);
}
