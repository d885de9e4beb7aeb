//! Digests, and the two kinds of them that must never be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A content digest, `algorithm:hex`, as OCI image-spec `descriptor.md` § Digests defines it.
///
/// Only `sha256` and `sha512` are taken, in lower case; anything else is an error,
/// so that a digest can be used as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

/// Why a text is not a valid digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: sha256:<64 hex digits> or sha512:<128 hex digits> is expected")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of `bytes`, by SHA-256.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The digest with these SHA-256 bytes.
    #[must_use]
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self(["sha256:", &hex(&hash)].concat().into())
    }

    /// The digest of `bytes` by this digest's algorithm: equal to it if they are what it names.
    #[must_use]
    pub fn of_same_kind(&self, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::like(self);
        hasher.update(bytes);
        hasher.finish()
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm, `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }

    /// The hash as lower-case hex digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

/// Hashes bytes as they come, by the algorithm of the digest that they should have.
pub struct Hasher(Hash);

enum Hash {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// A hasher whose result can be compared with `expected`.
    #[must_use]
    pub fn like(expected: &Digest) -> Self {
        Self(if expected.algorithm() == "sha512" {
            Hash::Sha512(Box::default())
        } else {
            Hash::Sha256(sha2::Sha256::new())
        })
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all that came.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            Hash::Sha256(hash) => Digest::from_sha256(hash.finalize().into()),
            Hash::Sha512(hash) => Digest(["sha512:", &hex(&hash.finalize())].concat().into()),
        }
    }
}

fn hex(hash: &[u8]) -> String {
    let mut text = String::with_capacity(2 * hash.len());
    for byte in hash {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let length = match text.split_once(':') {
            Some(("sha256", _)) => 7 + 64,
            Some(("sha512", _)) => 7 + 128,
            _ => return Err(InvalidDigest(text.chars().take(160).collect())),
        };
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == length && text.as_bytes()[7..].iter().all(is_hex) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidDigest(text.chars().take(160).collect()))
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of a layer's uncompressed tar (OCI image-spec `config.md` § Layer `DiffID`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers (OCI image-spec `config.md` § Layer `ChainID`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain that is just this layer.
    #[must_use]
    pub fn first(layer: &DiffId) -> Self {
        Self(layer.0.clone())
    }

    /// This chain with one more layer on top.
    #[must_use]
    pub fn next(&self, layer: &DiffId) -> Self {
        Self(Digest::of(format!("{} {}", self.0, layer.0).as_bytes()))
    }

    /// The chain-ids of every prefix of `diff_ids`, bottom first.
    #[must_use]
    pub fn chain(diff_ids: &[DiffId]) -> Vec<Self> {
        let mut chains: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next = match chains.last() {
                None => Self::first(diff_id),
                Some(below) => below.next(diff_id),
            };
            chains.push(next);
        }
        chains
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_lower_case_hex_of_a_known_algorithm() {
        let good = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().hex(), "0f".repeat(32));
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:00112233445566778899aabbccddeeff",
            &good.to_uppercase(),
            &good[..70],
            &format!("{good}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chain_id_of_one_layer_is_its_diff_id() {
        let diff_ids: Vec<DiffId> = (0..2u8).map(|n| DiffId(Digest::of(&[n]))).collect();
        let chain = ChainId::chain(&diff_ids);
        assert_eq!(chain[0].0, diff_ids[0].0);
        let text = format!("{} {}", diff_ids[0], diff_ids[1]);
        assert_eq!(chain[1].0, Digest::of(text.as_bytes()));
    }
}
