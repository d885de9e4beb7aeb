//! Images as people name them when they ask what the proxy does with them.

use std::str::FromStr;

use crate::oci::Tag;
use crate::oci::mirrored_name::MirroredName;
use crate::server::explain::ImageQuestion;

impl FromStr for ImageQuestion {
    type Err = String;

    /// Reads `[HOST/]REPOSITORY[:TAG]`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("the digest decides: what it names is served, converted or not".to_owned());
        }
        let end = text.rfind('/').map_or(0, |slash| slash.saturating_add(1));
        let (place, name) = text.split_at_checked(end).unwrap_or((text, ""));
        let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
        if tag.contains(['*', '?']) {
            return Err("one tag is expected, not a pattern".to_owned());
        }
        let tag: Result<Tag, _> = tag.parse();
        let tag = tag.map_err(|error| error.to_string())?;
        let MirroredName { host, repo, .. } = format!("{place}{name}").parse()?;
        Ok(Self {
            host,
            repository: repo,
            tag,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_asked_about_by_its_name() {
        for (text, host, repository, tag) in [
            ("redis", None, "redis", "latest"),
            ("team/app:1_obd", None, "team/app", "1_obd"),
            ("docker.io/redis:7", Some("docker.io"), "library/redis", "7"),
            ("localhost:5000/x", Some("localhost:5000"), "x", "latest"),
        ] {
            let question: ImageQuestion = text.parse().unwrap();
            assert_eq!(question.host.as_deref(), host, "{text}");
            assert_eq!(question.repository.as_str(), repository, "{text}");
            assert_eq!(question.tag.as_str(), tag, "{text}");
        }
        for wrong in ["", "A", "x:", "x:*", "x@sha256:0", "-x.io/y", "/", "x/"] {
            assert!(wrong.parse::<ImageQuestion>().is_err(), "{wrong}");
        }
    }
}
