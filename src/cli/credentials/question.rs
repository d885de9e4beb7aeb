//! What is asked: the address of a blob.

use crate::oci::reference::{Scheme, is_host};
use crate::oci::{ImageReference, RepoName};

/// Longest address, in bytes.
const MAX_ADDRESS: usize = 4096;

/// The repository that a blob is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// As it is written in the address: overlaybd looks for this name in the answer.
    pub host: String,
    /// The repository, if the address has one.
    pub repo: Option<String>,
}

impl Question {
    /// By a blob's address, `https://HOST/v2/REPO/blobs/DIGEST`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_address(address: &str) -> Result<Self, String> {
        if address.len() > MAX_ADDRESS {
            return Err(format!("the address has more than {MAX_ADDRESS} bytes"));
        }
        let (Some(_), rest) = Scheme::split(address) else {
            return Err("https://HOST/v2/REPO/blobs/DIGEST is expected".to_owned());
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_host(&host.to_ascii_lowercase()) {
            return Err("there is no HOST or HOST:PORT behind the scheme".to_owned());
        }
        let repo = path.strip_prefix("v2/").and_then(|path| {
            let (repo, _) = path.rsplit_once("/blobs/")?;
            repo.parse::<RepoName>().ok()
        });
        Ok(Self {
            host: host.to_owned(),
            repo: repo.map(|repo| repo.to_string()),
        })
    }

    /// By an image's name or a blob's address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_image_or_address(text: &str) -> Result<Self, String> {
        if text.contains("/blobs/") {
            return Self::of_address(text);
        }
        match text.parse::<ImageReference>() {
            Ok(ImageReference::Registry(image)) => Ok(Self {
                host: image.host,
                repo: Some(image.repo.to_string()),
            }),
            Ok(ImageReference::Layout(_)) => Err("a directory has no credentials".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// For people.
    pub fn place(&self) -> String {
        match &self.repo {
            Some(repo) => format!("{}/{repo}", self.host),
            None => self.host.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_the_repository_are_taken_from_a_blobs_address() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (address, host, repo) in [
            (
                "https://r.example:5000/v2/team/app/blobs/",
                "r.example:5000",
                Some("team/app"),
            ),
            (
                "http://R.example/v2/a/blobs/b/blobs/",
                "R.example",
                Some("a/blobs/b"),
            ),
            ("https://[::1]:5000/v2/x/blobs/", "[::1]:5000", Some("x")),
            ("https://cdn.example/data/", "cdn.example", None),
        ] {
            let found = Question::of_address(&format!("{address}{digest}?a=b")).unwrap();
            assert_eq!((found.host.as_str(), found.repo.as_deref()), (host, repo));
        }
        for wrong in [
            "",
            "r.example/v2/x/blobs/y",
            "https://",
            "https://me:x@h/v2/x/blobs/y",
        ] {
            assert!(Question::of_address(wrong).is_err(), "{wrong}");
        }
        let long = format!("https://h/v2/{}", "a".repeat(MAX_ADDRESS));
        assert!(Question::of_address(&long).is_err());
    }
}
