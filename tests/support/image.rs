//! Images made by hand: any packing, any manifest kind, and any lie.

use std::io::Write as _;

use serde_json::{Value, json};

use super::sha256;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    /// Several gzip members after each other, as parallel compressors write them.
    GzipMembers,
    Zstd,
}

/// Whose media types an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Oci,
    Docker,
}

pub fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => gzip(tar),
        Packing::GzipMembers => tar.chunks(tar.len() / 3 + 1).flat_map(gzip).collect(),
        Packing::Zstd => zstd::encode_all(tar, 3).unwrap(),
    }
}

fn layer_type(packing: Packing, flavour: Flavour) -> &'static str {
    match (flavour, packing) {
        (Flavour::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
        (Flavour::Oci, Packing::Gzip | Packing::GzipMembers) => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        (Flavour::Oci, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (Flavour::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
        (Flavour::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
}

/// A blob and what a descriptor says of it.
#[derive(Debug, Clone)]
pub struct Blob {
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.bytes.len(),
        })
    }
}

/// An image whose documents can still be changed.
#[derive(Debug, Clone)]
pub struct Image {
    pub layers: Vec<Blob>,
    pub config: Value,
    /// All but its `config`, which [`Image::seal`] fills in.
    pub manifest: Value,
    flavour: Flavour,
}

/// An image as it is pushed.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Config and layers.
    pub blobs: Vec<Blob>,
    pub manifest: Vec<u8>,
    pub media_type: String,
}

impl Image {
    /// An honest image of these tars, bottom first.
    pub fn new(flavour: Flavour, tars: &[(&[u8], Packing)]) -> Self {
        let layers: Vec<_> = tars
            .iter()
            .map(|(tar, packing)| Blob {
                media_type: layer_type(*packing, flavour).to_owned(),
                bytes: pack(tar, *packing),
            })
            .collect();
        let diff_ids: Vec<_> = tars.iter().map(|(tar, _)| sha256(tar)).collect();
        let history: Vec<_> = diff_ids
            .iter()
            .map(|_| json!({"created": "2024-01-01T00:00:00Z", "created_by": "made for a test"}))
            .collect();
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/demo"], "Labels": {"kept": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type(flavour),
            "config": {},
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Self {
            layers,
            config,
            manifest,
            flavour,
        }
    }

    /// A gzipped OCI image.
    pub fn gzip(tars: &[Vec<u8>]) -> Self {
        let tars: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
        Self::new(Flavour::Oci, &tars)
    }

    /// Sets the platform that the config names.
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.config["os"] = json!(os);
        self.config["architecture"] = json!(architecture);
        self
    }

    /// Writes the documents down.
    pub fn seal(&self) -> Sealed {
        let config = Blob {
            media_type: match self.flavour {
                Flavour::Oci => OCI_CONFIG.to_owned(),
                Flavour::Docker => DOCKER_CONFIG.to_owned(),
            },
            bytes: serde_json::to_vec(&self.config).unwrap(),
        };
        let mut manifest = self.manifest.clone();
        manifest["config"] = config.descriptor();
        let mut blobs = vec![config];
        blobs.extend(self.layers.iter().cloned());
        Sealed {
            blobs,
            manifest: serde_json::to_vec(&manifest).unwrap(),
            media_type: manifest_type(self.flavour).to_owned(),
        }
    }
}

fn manifest_type(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Oci => OCI_MANIFEST,
        Flavour::Docker => DOCKER_MANIFEST,
    }
}

impl Sealed {
    pub fn digest(&self) -> String {
        sha256(&self.manifest)
    }

    /// Its entry in an index.
    pub fn entry(&self, os: &str, architecture: &str) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest(),
            "size": self.manifest.len(),
            "platform": {"os": os, "architecture": architecture},
        })
    }

    /// What `BuildKit` adds to an index for the image `subject`: no image, but an in-toto
    /// statement in an image's clothes.
    pub fn attestation(subject: &Self) -> (Self, Value) {
        let statement = Blob {
            media_type: "application/vnd.in-toto+json".to_owned(),
            bytes: br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#.to_vec(),
        };
        let image = Image {
            config: json!({
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [statement.digest()]},
            }),
            manifest: json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {},
                "layers": [statement.descriptor()],
            }),
            layers: vec![statement],
            flavour: Flavour::Oci,
        };
        let sealed = image.seal();
        let mut entry = sealed.entry("unknown", "unknown");
        entry["annotations"] = json!({
            "vnd.docker.reference.digest": subject.digest(),
            "vnd.docker.reference.type": "attestation-manifest",
        });
        (sealed, entry)
    }
}

/// An index of these entries.
pub fn index(flavour: Flavour, entries: &[Value]) -> Blob {
    let media_type = match flavour {
        Flavour::Oci => OCI_INDEX,
        Flavour::Docker => DOCKER_LIST,
    };
    let document = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    Blob {
        media_type: media_type.to_owned(),
        bytes: serde_json::to_vec(&document).unwrap(),
    }
}

/// The digests of the layers that a manifest lists, bottom first.
pub fn layer_digests(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}
