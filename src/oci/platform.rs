//! The machine that an image is for.
//! Source: OCI image-spec `image-index.md` § platform; the shorthand is containerd's.

use std::fmt;
use std::str::FromStr;

/// An operating system, an architecture and its variant, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`; empty where there is none.
    pub variant: String,
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a platform: OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT is expected, as in linux/arm64"
)]
pub struct InvalidPlatform(String);

impl Platform {
    /// A platform with its names brought to their usual form: `x86_64` is `amd64`,
    /// `aarch64` and `arm64/v8` are `arm64`, `arm` without a variant is `arm/v7`.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (architecture, variant) = match (lower(architecture).as_str(), lower(variant).as_str())
        {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64", variant) => ("amd64".to_owned(), variant.to_owned()),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64".to_owned(), String::new()),
            ("aarch64", variant) => ("arm64".to_owned(), variant.to_owned()),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386".to_owned(), String::new()),
            ("armhf", _) | ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) | ("arm", "6") => ("arm".to_owned(), "v6".to_owned()),
            ("arm", "5") => ("arm".to_owned(), "v5".to_owned()),
            (architecture, variant) => (architecture.to_owned(), variant.to_owned()),
        };
        Self {
            os: lower(os),
            architecture,
            variant,
        }
    }

    /// The platform that this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    /// Whether an image for `self` matches `wanted`.
    ///
    /// If `wanted` has no variant, any variant matches.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_empty() || self.variant == wanted.variant)
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_word) => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] if parts.iter().all(is_word) => {
                Ok(Self::new(os, architecture, variant))
            }
            _ => Err(InvalidPlatform(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_machine_are_one_platform() {
        for (one, other) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64/v8"),
            ("Linux/ARM", "linux/arm/v7"),
        ] {
            assert_eq!(one.parse::<Platform>(), other.parse());
        }
        assert_ne!("linux/arm/v6".parse::<Platform>(), "linux/arm".parse());
    }

    #[test]
    fn any_variant_matches_if_none_is_wanted() {
        let v3 = Platform::new("linux", "amd64", "v3");
        let plain = Platform::new("linux", "amd64", "");
        assert!(v3.satisfies(&plain));
        assert!(!plain.satisfies(&v3));
    }

    #[test]
    fn a_platform_has_two_or_three_parts() {
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
