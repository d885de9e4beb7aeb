//! Computes digests of data while it is copied, by the wanted algorithm.

use std::fmt::Write as _;

use sha2::Digest as _;

use crate::oci::Digest;

/// A digest being computed.
pub(super) enum Hash {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hash {
    /// By the algorithm of this digest.
    pub(super) fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self::Sha512(Box::default()),
            _ => Self::Sha256(sha2::Sha256::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// `algorithm:hex`.
    pub(super) fn finish(self) -> String {
        let (mut text, hash) = match self {
            Self::Sha256(hash) => ("sha256:".to_owned(), hash.finalize().to_vec()),
            Self::Sha512(hash) => ("sha512:".to_owned(), hash.finalize().to_vec()),
        };
        for byte in hash {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Of all these bytes.
    pub(super) fn of(digest: &Digest, bytes: &[u8]) -> String {
        let mut hash = Self::like(digest);
        hash.update(bytes);
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_compute_known_digests() {
        let empty = Digest::of(b"");
        assert_eq!(Hash::of(&empty, b""), empty.as_str());
        let long: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert_eq!(
            Hash::of(&long, b"abc"),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }
}
