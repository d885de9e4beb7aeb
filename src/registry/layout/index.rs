//! `index.json`: what images a layout holds, read and edited.
//! Source: OCI image-spec `image-layout.md` § index.json file, `image-index.md`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::naming::{Fit, Name};
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Digest, RepoName, Tag};

/// Most bytes of an `index.json` that are read.
pub(super) const MAX_INDEX: u64 = 64 << 20;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The manifests that a layout lists.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
}

/// A manifest that a layout lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    /// In bytes; some tools leave it out.
    pub(super) size: Option<u64>,
    names: Vec<Name>,
    /// It has no name at all, not even an invalid one.
    is_unnamed: bool,
    /// It is listed as an artifact of some type.
    is_artifact: bool,
}

/// A manifest to be listed.
#[derive(Debug, Clone)]
pub(super) struct NewEntry {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) artifact_type: Option<String>,
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    size: Option<u64>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<Value>,
    #[serde(default)]
    annotations: Option<Map<String, Value>>,
}

fn document(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Index {
    /// Reads an `index.json`. An entry that cannot be used does not take the others with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut document = document(bytes)?;
        let listed = match document.remove("manifests") {
            Some(Value::Array(listed)) => listed,
            // Go writes an empty list as null.
            Some(Value::Null) => Vec::new(),
            _ => return Err("it has no list of `manifests`".to_owned()),
        };
        let mut entries = Vec::with_capacity(listed.len());
        for value in listed {
            match RawEntry::deserialize(value) {
                Ok(raw) => entries.push(Entry::from(raw)),
                Err(error) => tracing::warn!(%error, "a manifest of an OCI layout is left out"),
            }
        }
        // What copying to `oci:DIR`, without a tag, makes.
        let mut unnamed = entries.iter_mut().filter(|entry| entry.is_unnamed);
        if let (Some(only), None) = (unnamed.next(), unnamed.next()) {
            only.names.push(Name::Plain(Tag::default_tag()));
        }
        Ok(Self { entries })
    }

    /// The manifest that has this tag in this repository.
    pub(super) fn find(&self, repo: &RepoName, tag: &Tag) -> Option<&Entry> {
        let fits = self.entries.iter().filter_map(|entry| {
            let fit = entry.fits(repo).filter(|(_, known)| *known == tag);
            // A name that is written comes before the one that is only supposed.
            let fit = fit.map(|(fit, _)| (fit, entry.is_unnamed)).min();
            fit.map(|fit| (fit, entry))
        });
        let found = fits.min_by_key(|(fit, _)| *fit).map(|(_, entry)| entry);
        // `oci:DIR` means the image that is in there, whatever it is called.
        let is_any = *repo == RepoName::layout() && *tag == Tag::default_tag();
        found.or_else(|| self.only().filter(|_| is_any))
    }

    /// The image, if there is just one.
    fn only(&self) -> Option<&Entry> {
        let mut images = self.entries.iter().filter(|entry| !entry.is_artifact);
        let first = images.next()?;
        images
            .all(|entry| entry.digest == first.digest)
            .then_some(first)
    }

    /// The entry of the manifest with this digest.
    pub(super) fn by_digest(&self, digest: &Digest) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.digest == *digest)
    }

    /// The tags of a repository, in order.
    pub(super) fn tags(&self, repo: &RepoName) -> BTreeSet<Tag> {
        let names = self.entries.iter().flat_map(|entry| entry.fits(repo));
        names.map(|(_, tag)| tag.clone()).collect()
    }

    /// The repositories, in order.
    pub(super) fn repos(&self) -> BTreeSet<RepoName> {
        let names = self.entries.iter().flat_map(|entry| &entry.names);
        names.map(Name::listed).collect()
    }
}

impl Entry {
    fn fits<'a>(&'a self, repo: &'a RepoName) -> impl Iterator<Item = (Fit, &'a Tag)> {
        // Where there is a full name, the tag beside it is of that repository only; all
        // tags can be requested in the layout's own.
        let has_full = self
            .names
            .iter()
            .any(|name| matches!(name, Name::Full { .. }));
        let only_full = has_full && *repo != RepoName::layout();
        self.names.iter().filter_map(move |name| {
            let fit = name.fit(repo)?;
            (fit != Fit::Plain || !only_full).then_some((fit, name.tag()))
        })
    }
}

impl From<RawEntry> for Entry {
    fn from(raw: RawEntry) -> Self {
        let annotations = raw.annotations.unwrap_or_default();
        let text = |key: &str| annotations.get(key).and_then(Value::as_str);
        let texts = [text(REF_NAME), text(CONTAINERD_NAME)];
        Self {
            media_type: raw.media_type,
            digest: raw.digest,
            size: raw.size,
            names: texts
                .iter()
                .flatten()
                .filter_map(|text| Name::parse(text))
                .collect(),
            is_unnamed: texts == [None; 2] && raw.artifact_type.is_none(),
            is_artifact: raw.artifact_type.is_some(),
        }
    }
}

/// An `index.json` of no images.
pub(super) fn empty() -> Vec<u8> {
    let text = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    text.to_string().into_bytes()
}

/// An `index.json` with one more manifest, under its name instead of whichever had it; all
/// else stays as it is. `None` if nothing is to be changed.
pub(super) fn with_entry(bytes: &[u8], new: &NewEntry) -> Result<Option<Vec<u8>>, String> {
    let mut document = document(bytes)?;
    let listed = document.entry("manifests").or_insert(Value::Null);
    if listed.is_null() {
        *listed = Value::Array(Vec::new());
    }
    let listed = listed.as_array_mut().ok_or("its `manifests` are no list")?;

    let name_of = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
    let is_new = |entry: &Value| entry["digest"].as_str() == Some(new.digest.as_str());
    if listed
        .iter()
        .any(|entry| is_new(entry) && (new.name.is_none() || name_of(entry) == new.name))
    {
        return Ok(None);
    }
    let mut entry = json!({
        "mediaType": new.media_type,
        "digest": new.digest,
        "size": new.size,
    });
    if let Some(artifact_type) = &new.artifact_type {
        entry["artifactType"] = json!(artifact_type);
    }
    if let Some(name) = &new.name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    let place = listed.iter().position(|old| match name_of(old) {
        // Listed without a name until now, for its subject's sake.
        None => is_new(old),
        name => name == new.name,
    });
    match place.and_then(|place| listed.get_mut(place)) {
        Some(old) => *old = entry,
        None => listed.push(entry),
    }
    serde_json::to_vec(&document)
        .map(Some)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &str, annotations: &str) -> String {
        let digest = Digest::of(content.as_bytes());
        format!(r#"{{"mediaType":"m","digest":"{digest}","size":1,"annotations":{annotations}}}"#)
    }

    fn index(entries: &[String]) -> Index {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        Index::parse(text.as_bytes()).unwrap()
    }

    fn found(index: &Index, repo: &str, tag: &str) -> Option<Digest> {
        let (repo, tag) = (repo.parse().unwrap(), tag.parse().unwrap());
        index.find(&repo, &tag).map(|entry| entry.digest.clone())
    }

    fn named(name: &str) -> String {
        format!(r#"{{"{REF_NAME}":"{name}"}}"#)
    }

    #[test]
    fn a_full_name_wins_over_a_plain_tag() {
        let index = index(&[
            entry("plain", &named("latest")),
            entry("hosted", &named("r.io/demo:latest")),
            entry("demo", &named("demo:latest")),
        ]);
        let of = |content: &str| Some(Digest::of(content.as_bytes()));
        assert_eq!(found(&index, "demo", "latest"), of("demo"));
        assert_eq!(found(&index, "r.io/demo", "latest"), of("hosted"));
        assert_eq!(found(&index, "layout", "latest"), of("plain"));
        assert_eq!(found(&index, "other", "latest"), of("plain"));
        assert_eq!(found(&index, "demo", "1"), None);
        let repos: Vec<String> = index.repos().iter().map(ToString::to_string).collect();
        assert_eq!(repos, ["demo", "layout"]);
    }

    #[test]
    fn containerds_name_has_the_repository_of_a_tag() {
        let both = |repo: &str| {
            format!(r#"{{"{REF_NAME}":"1","{CONTAINERD_NAME}":"docker.io/library/{repo}:1"}}"#)
        };
        let index = index(&[entry("a", &both("a")), entry("b", &both("b"))]);
        assert_eq!(found(&index, "b", "1"), Some(Digest::of(b"b")));
        assert_eq!(found(&index, "library/a", "1"), Some(Digest::of(b"a")));
        assert_eq!(found(&index, "c", "1"), None);
        assert_eq!(found(&index, "layout", "1"), Some(Digest::of(b"a")));
    }

    #[test]
    fn a_single_manifest_without_a_name_is_latest() {
        let alone = index(&[entry("x", "null"), entry("y", &named("1"))]);
        assert_eq!(found(&alone, "any", "latest"), Some(Digest::of(b"x")));
        let two = index(&[entry("x", "{}"), entry("y", "{}")]);
        assert_eq!(found(&two, "any", "latest"), None);
        let written = index(&[entry("x", "{}"), entry("y", &named("latest"))]);
        assert_eq!(found(&written, "any", "latest"), Some(Digest::of(b"y")));
    }

    #[test]
    fn editing_keeps_unknown_fields() {
        let text = format!(
            r#"{{"schemaVersion":2,"x-more":[1],"manifests":[{},{}]}}"#,
            entry("old", &named("demo:1")),
            entry("other", r#"{"k":"v"}"#),
        );
        let new = NewEntry {
            media_type: "m".into(),
            digest: Digest::of(b"new"),
            size: 3,
            artifact_type: None,
            name: Some("demo:1".into()),
        };
        let once = with_entry(text.as_bytes(), &new).unwrap().unwrap();
        let document: Value = serde_json::from_slice(&once).unwrap();
        assert_eq!(document["x-more"], json!([1]));
        assert_eq!(document["manifests"][1]["annotations"]["k"], "v");
        assert_eq!(document["manifests"][0]["digest"], json!(new.digest));
        assert_eq!(document["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(with_entry(&once, &new).unwrap(), None);
    }

    #[test]
    fn an_invalid_index_is_an_error_and_an_invalid_entry_is_ignored() {
        for bad in ["", "[]", "{}", r#"{"manifests":{}}"#, r#"{"manifests":[]"#] {
            assert!(Index::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let some = index(&[r#"{"digest":"md5:00","size":1}"#.into(), entry("x", "{}")]);
        assert_eq!(some.entries.len(), 1);
        assert!(index(&[]).entries.is_empty());
    }
}
