//! Lists of referrers: by the API, or under the fallback tag.
//! Source: OCI distribution-spec § Listing Referrers, § Referrers Tag Schema.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};
use url::Url;

use super::endpoint::Endpoint;
use super::{Need, Registry, repeated};
use crate::oci::media_type::{OCI_INDEX, essence};
use crate::oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag};
use crate::registry::{Authorization, Error};

/// Most pages of one list.
const MAX_PAGES: usize = 1_000;
/// Most referrers of one manifest.
const MAX_REFERRERS: usize = 100_000;
/// So often a fallback list is written when others write it at the same time.
const MAX_WRITES: u32 = 8;

/// The tag under which the referrers of `subject` are listed without the API.
pub(crate) fn fallback_tag(subject: &Digest) -> Result<Selector, Error> {
    let hex: String = subject.hex().chars().take(64).collect();
    let tag: Tag = format!("{}-{hex}", subject.algorithm())
        .parse()
        .map_err(|error| Error::Configuration(format!("{error}")))?;
    Ok(Selector::Tag(tag))
}

/// The manifest whose referrers are listed under a tag, if it is such a tag. Of digests that do not
/// fit into a tag, it does not say which.
pub(crate) fn subject_of(tag: &Tag) -> Option<Digest> {
    let hex = tag.as_str().strip_prefix("sha256-")?;
    format!("sha256:{hex}").parse().ok()
}

fn descriptors(place: &str, bytes: &[u8]) -> Result<Vec<Descriptor>, Error> {
    match Manifest::parse(OCI_INDEX, bytes) {
        Ok(Manifest::Index(index)) => Ok(index.manifests),
        Ok(Manifest::Image(_)) => Err(Error::invalid(place, "an image is no list of referrers")),
        Err(error) => Err(Error::invalid(place, error.to_string())),
    }
}

impl Endpoint {
    /// The list by the API; `None` if the upstream does not have it.
    async fn api_referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
        authorization: &Authorization,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let mut url: Url = self.url(&format!("{repo}/referrers/{subject}"));
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut()
                .append_pair("artifactType", artifact_type);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(OCI_INDEX));
        let mut found = Vec::new();
        for page in 0..MAX_PAGES {
            let place = super::dialer::place(&http::Method::GET, &url);
            let asked = repeated(self, || {
                self.page(url.clone(), repo, headers.clone(), authorization)
            })
            .await;
            let (bytes, next) = match asked {
                Ok(answer) => answer,
                Err(
                    Error::NotFound { .. }
                    | Error::Upstream {
                        status: 400 | 405 | 406 | 501,
                        ..
                    },
                ) if page == 0 => return Ok(None),
                Err(error) => return Err(error),
            };
            found.extend(descriptors(&place, &bytes)?);
            if found.len() > MAX_REFERRERS {
                let detail = format!("more than {MAX_REFERRERS} referrers");
                return Err(Error::invalid(&place, detail));
            }
            match next {
                Some(next) => url = next,
                None => return Ok(Some(found)),
            }
        }
        let place = super::dialer::place(&http::Method::GET, &url);
        Err(Error::invalid(
            &place,
            format!("more than {MAX_PAGES} pages"),
        ))
    }
}

impl Registry {
    pub(in crate::registry) async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
        authorization: &Authorization,
    ) -> Result<Vec<Descriptor>, Error> {
        let by_api = self
            .first(Need::Resolve, authorization, |endpoint| async move {
                let found = endpoint.api_referrers(repo, subject, artifact_type, authorization);
                Ok(found.await?)
            })
            .await?;
        let mut found = match by_api {
            Some(found) => found,
            None => self.tagged_referrers(repo, subject, authorization).await?,
        };
        // The API may leave the choice to us, the tag always does.
        if let Some(wanted) = artifact_type {
            found.retain(|one| one.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    async fn tagged_referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        authorization: &Authorization,
    ) -> Result<Vec<Descriptor>, Error> {
        let tag = fallback_tag(subject)?;
        match self.manifest(repo, &tag, authorization).await {
            Ok(list) => descriptors(&format!("{repo}:{tag}"), &list.bytes),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds a manifest to its subject's list under the fallback tag, if it has a subject.
    pub(super) async fn list_referrer(
        &self,
        repo: &RepoName,
        media_type: &str,
        bytes: &Bytes,
        authorization: &Authorization,
    ) -> Result<(), Error> {
        let Some((subject, entry)) = referrer(media_type, bytes) else {
            return Ok(());
        };
        let tag = fallback_tag(&subject)?;
        let place = format!("{repo}:{tag}");
        // Nothing keeps other processes from writing between our reading and our writing,
        // so the list is read once more behind it. This does not catch every such case, and
        // the specification has nothing better.
        let lock = self.0.listings.of(repo, tag.to_string());
        let _listing = lock.lock().await;
        for writes in 0..=MAX_WRITES {
            let before = match self.written_manifest(repo, &tag, authorization).await {
                Ok(list) => Some(list.bytes),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            let Some(list) = with_entry(&place, before.as_deref(), &entry)? else {
                return Ok(());
            };
            if writes == MAX_WRITES {
                break;
            }
            if writes > 0 {
                let wait = rand::random_range(20..200) * u64::from(writes);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            self.store_manifest(repo, &tag, OCI_INDEX, &list.into(), authorization)
                .await?;
        }
        Err(Error::invalid(
            &place,
            "the list of referrers is being changed by others all the time",
        ))
    }
}

/// The subject of a manifest, and the entry for it in the subject's list.
pub(crate) fn referrer(media_type: &str, bytes: &[u8]) -> Option<(Digest, Value)> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let subject = manifest.get("subject")?.get("digest")?.as_str()?;
    let subject: Digest = subject.parse().ok()?;
    let mut entry = json!({
        "mediaType": essence(media_type),
        "digest": Digest::of(bytes).as_str(),
        "size": bytes.len(),
    });
    let text = |value: Option<&Value>| {
        value
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let artifact_type = text(manifest.get("artifactType"))
        .or_else(|| text(manifest.get("config").and_then(|c| c.get("mediaType"))));
    if let Some(artifact_type) = artifact_type {
        entry["artifactType"] = Value::String(artifact_type);
    }
    if let Some(annotations) = manifest
        .get("annotations")
        .filter(|value| value.is_object())
    {
        entry["annotations"] = annotations.clone();
    }
    Some((subject, entry))
}

/// The list with the entry, what else is in it kept; `None` if the entry is there.
fn with_entry(place: &str, before: Option<&[u8]>, entry: &Value) -> Result<Option<Vec<u8>>, Error> {
    let mut list = match before {
        None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
        Some(bytes) => {
            // Whatever else has the tag must not be overwritten.
            descriptors(place, bytes)?;
            serde_json::from_slice(bytes)
                .map_err(|error| Error::invalid(place, error.to_string()))?
        }
    };
    if list.get("manifests").is_none_or(Value::is_null) {
        list["manifests"] = Value::Array(Vec::new());
    }
    let Some(entries) = list.get_mut("manifests").and_then(Value::as_array_mut) else {
        return Err(Error::invalid(place, "`manifests` is no list"));
    };
    if entries
        .iter()
        .any(|one| one.get("digest") == entry.get("digest"))
    {
        return Ok(None);
    }
    entries.push(entry.clone());
    serde_json::to_vec(&list)
        .map(Some)
        .map_err(|error| Error::invalid(place, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type::{OCI_CONFIG, OCI_MANIFEST};

    #[test]
    fn the_fallback_tag_is_the_digest_cut_to_fit() {
        let subject = Digest::of(b"");
        let tag = fallback_tag(&subject).unwrap().to_string();
        assert_eq!(tag, format!("sha256-{}", subject.hex()));
        let long: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        let tag = fallback_tag(&long).unwrap().to_string();
        assert_eq!(tag, format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn a_fallback_tag_names_its_subject() {
        let subject = Digest::of(b"x");
        let Selector::Tag(tag) = fallback_tag(&subject).unwrap() else {
            panic!("not a tag");
        };
        assert_eq!(subject_of(&tag), Some(subject.clone()));
        let hex = subject.hex();
        for other in [
            format!("sha256-{hex}.sig"),
            format!("sha512-{hex}"),
            format!("sha256-{}", &hex[1..]),
            format!("sha256-{}", hex.to_uppercase()),
        ] {
            assert_eq!(subject_of(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn an_entry_has_the_artifacts_type_and_annotations() {
        let subject = Digest::of(b"subject");
        let text = format!(
            r#"{{"config":{{"mediaType":"{OCI_CONFIG}"}},"annotations":{{"a":"b"}},
                "subject":{{"digest":"{subject}"}}}}"#
        );
        let (found, entry) = referrer(OCI_MANIFEST, text.as_bytes()).unwrap();
        assert_eq!(found, subject);
        assert_eq!(entry["artifactType"], OCI_CONFIG);
        assert_eq!(entry["annotations"]["a"], "b");
        assert_eq!(entry["size"], text.len());
        assert!(referrer(OCI_MANIFEST, b"{}").is_none());
    }

    #[test]
    fn adding_to_a_list_keeps_its_entries() {
        let digest = Digest::of(b"x");
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": digest.as_str(), "size": 1});
        let before = br#"{"schemaVersion":2,"x":1,"manifests":null}"#;
        let list = with_entry("p", Some(before), &entry).unwrap().unwrap();
        let value: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(value["x"], 1);
        assert_eq!(with_entry("p", Some(&list), &entry).unwrap(), None);
        assert!(with_entry("p", Some(b"[]"), &entry).is_err());
    }
}
