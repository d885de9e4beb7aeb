//! OCI image layouts on the disk, written and read without the program.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::image::{Blob, Sealed};
use super::sha256;

/// A layout directory.
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// A new, empty layout.
    pub fn create(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self {
            path: path.to_owned(),
        };
        layout.write_index(&[]);
        layout
    }

    /// A layout that another program wrote.
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write_index(&self, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(self.path.join("index.json"), index.to_string()).unwrap();
    }

    /// The entries of its `index.json`.
    pub fn entries(&self) -> Vec<Value> {
        let index = fs::read(self.path.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        index["manifests"].as_array().unwrap().clone()
    }

    pub fn put(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        digest
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.path.join("blobs/sha256").join(hex)
    }

    /// A blob, which must be what its name says.
    #[track_caller]
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let bytes = fs::read(self.blob_path(digest)).unwrap();
        assert_eq!(sha256(&bytes), digest);
        bytes
    }

    #[track_caller]
    pub fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.blob(digest)).unwrap()
    }

    /// Stores an image and gives it a tag.
    pub fn add(&self, tag: &str, image: &Sealed) {
        self.store(image);
        let manifest = Blob {
            media_type: image.media_type.clone(),
            bytes: image.manifest.clone(),
        };
        self.tag(tag, &manifest);
    }

    /// Stores an image without a tag, for an index.
    pub fn store(&self, image: &Sealed) {
        for blob in &image.blobs {
            self.put(&blob.bytes);
        }
        self.put(&image.manifest);
    }

    /// Stores a manifest or index and gives it a tag.
    pub fn tag(&self, tag: &str, document: &Blob) {
        self.put(&document.bytes);
        let mut entry = document.descriptor();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let mut entries = self.entries();
        entries.push(entry);
        self.write_index(&entries);
    }

    /// The manifest of a tag that another program wrote, or of the only entry there is.
    #[track_caller]
    pub fn manifest(&self, tag: &str) -> Value {
        let entries = self.entries();
        let tagged = entries
            .iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .unwrap_or_else(|| panic!("no {tag} in {entries:?}"));
        self.json(tagged["digest"].as_str().unwrap())
    }
}
