//! Images to convert, as OCI layouts: of this machine's own files, and made up ones.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use overlaybd_proxy::oci::{Digest, Hasher};
use serde_json::json;

/// A layer in a layout.
#[derive(Debug, Clone)]
pub struct Layer {
    pub digest: Digest,
    pub diff_id: Digest,
    pub size: u64,
    /// Bytes of its tar.
    pub tar: u64,
    pub path: PathBuf,
}

/// An image in a layout directory.
#[derive(Debug, Clone)]
pub struct Image {
    pub layout: PathBuf,
    pub tag: String,
    pub layers: Vec<Layer>,
    pub config: Digest,
    pub manifest: Digest,
}

impl Image {
    pub fn tar_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.tar).sum()
    }
    pub fn compressed_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// Hashes and counts what is written on.
pub struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::like(&Digest::of(b"")),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub type Tar<'a> = tar::Builder<Hashing<GzEncoder<Hashing<BufWriter<&'a File>>>>>;

/// An image being made in a layout.
pub struct Builder {
    layout: PathBuf,
    layers: Vec<Layer>,
}

impl Builder {
    pub fn new(layout: &Path) -> io::Result<Self> {
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        Ok(Self {
            layout: layout.to_owned(),
            layers: Vec::new(),
        })
    }

    /// A layer of what `fill` puts into its tar, gzipped at level 6.
    pub fn layer(&mut self, fill: impl FnOnce(&mut Tar<'_>) -> io::Result<()>) -> io::Result<()> {
        let temp = self.layout.join("layer.tmp");
        let file = File::create(&temp)?;
        let gzip = GzEncoder::new(Hashing::new(BufWriter::new(&file)), Compression::new(6));
        let mut tar = tar::Builder::new(Hashing::new(gzip));
        fill(&mut tar)?;
        let hashed = tar.into_inner()?;
        let (diff_id, tar_bytes) = (hashed.hasher.finish(), hashed.bytes);
        let mut compressed = hashed.inner.finish()?;
        compressed.flush()?;
        let digest = compressed.hasher.finish();
        let path = self.layout.join("blobs/sha256").join(digest.hex());
        fs::rename(&temp, &path)?;
        self.layers.push(Layer {
            size: compressed.bytes,
            tar: tar_bytes,
            digest,
            diff_id,
            path,
        });
        Ok(())
    }

    fn put(&self, value: &serde_json::Value) -> io::Result<(Digest, usize)> {
        let bytes = serde_json::to_vec(value)?;
        let digest = Digest::of(&bytes);
        fs::write(self.layout.join("blobs/sha256").join(digest.hex()), &bytes)?;
        Ok((digest, bytes.len()))
    }

    /// Writes config, manifest and index.
    pub fn finish(self) -> io::Result<Image> {
        let diff_ids: Vec<_> = self
            .layers
            .iter()
            .map(|layer| layer.diff_id.as_str())
            .collect();
        let (config, size) = self.put(&json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))?;
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": layer.digest.as_str(), "size": layer.size,
                })
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let (manifest, size) = self.put(&json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.as_str(), "size": size,
            },
            "layers": layers,
        }))?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": media_type, "digest": manifest.as_str(), "size": size,
                "annotations": { "org.opencontainers.image.ref.name": "latest" },
            }],
        });
        fs::write(
            self.layout.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        fs::write(self.layout.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(Image {
            layout: self.layout,
            tag: "latest".to_owned(),
            layers: self.layers,
            config,
            manifest,
        })
    }
}

/// Files of this machine in a stable order, directories before what is in them.
struct Files(VecDeque<PathBuf>);

impl Iterator for Files {
    type Item = PathBuf;

    fn next(&mut self) -> Option<PathBuf> {
        let path = self.0.pop_front()?;
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            let mut below: Vec<PathBuf> = fs::read_dir(&path)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            below.sort_unstable();
            for path in below.into_iter().rev() {
                self.0.push_front(path);
            }
        }
        Some(path)
    }
}

/// Three layers of `/usr/lib` and `/usr/share`, of at least `least` bytes together; files are
/// taken once more, under another name, where the machine has too few.
pub fn system_image(layout: &Path, least: u64) -> io::Result<Image> {
    let mut builder = Builder::new(layout)?;
    let roots = || {
        Files(
            ["/usr/lib", "/usr/share"]
                .iter()
                .map(PathBuf::from)
                .collect(),
        )
    };
    let (mut files, mut round) = (roots(), 0);
    for _ in 0..3 {
        builder.layer(|tar| {
            tar.follow_symlinks(false);
            let mut bytes = 0;
            while bytes < least.div_ceil(3) {
                let Some(path) = files.next() else {
                    (files, round) = (roots(), round + 1);
                    continue;
                };
                let below = path.strip_prefix("/").unwrap_or(&path);
                let name = match round {
                    0 => below.to_owned(),
                    round => Path::new(&format!("again-{round}")).join(below),
                };
                bytes += 512
                    + fs::symlink_metadata(&path).map_or(0, |metadata| {
                        if metadata.is_file() {
                            metadata.len()
                        } else {
                            0
                        }
                    });
                // What cannot be read is not part of it.
                let _ = tar.append_path_with_name(&path, &name);
            }
            Ok(())
        })?;
    }
    builder.finish()
}

fn header(size: u64, directory: bool) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(if directory { 0o755 } else { 0o644 });
    header.set_mtime(1_700_000_000);
    if directory {
        header.set_entry_type(tar::EntryType::Directory);
    }
    header
}

/// Images of one layer each, of about `size` bytes compressed: files of `/usr/lib` that are the
/// same in all of them, below one file that is only in this one.
pub fn small_images(scratch: &Path, size: u64, count: u32) -> io::Result<Vec<Image>> {
    const LARGEST: u64 = 256 << 10;
    let mut images = Vec::new();
    for n in 0..count {
        let mut builder = Builder::new(&scratch.join(n.to_string()))?;
        builder.layer(|tar| {
            tar.follow_symlinks(false);
            let text = format!("image {n}\n");
            let mut header = header(text.len() as u64, false);
            tar.append_data(&mut header, "etc/image", text.as_bytes())?;
            let files = Files([PathBuf::from("/usr/lib")].into());
            for path in files {
                let small = fs::symlink_metadata(&path)
                    .is_ok_and(|metadata| metadata.is_dir() || metadata.len() <= LARGEST);
                if small {
                    let name = path.strip_prefix("/").unwrap_or(&path);
                    let _ = tar.append_path_with_name(&path, name);
                }
                if tar.get_ref().inner.get_ref().bytes >= size {
                    break;
                }
            }
            Ok(())
        })?;
        images.push(builder.finish()?);
    }
    Ok(images)
}

/// One layer of `count` small files, as `node_modules` has them.
pub fn small_files(layout: &Path, count: u32) -> io::Result<Image> {
    let mut builder = Builder::new(layout)?;
    builder.layer(|tar| {
        for n in 0..count {
            if n % 20 == 0 {
                let name = format!("node_modules/package-{}/lib/", n / 20);
                tar.append_data(&mut header(0, true), name, io::empty())?;
            }
            let text = format!("module.exports = {n};\n").repeat(1 + n as usize % 90);
            let name = format!("node_modules/package-{}/lib/file-{n}.js", n / 20);
            let mut header = header(text.len() as u64, false);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        Ok(())
    })?;
    builder.finish()
}

/// Layers of a few files each.
pub fn many_layers(layout: &Path, count: u32) -> io::Result<Image> {
    let mut builder = Builder::new(layout)?;
    for n in 0..count {
        builder.layer(|tar| {
            for file in 0..5 {
                let text = format!("layer {n}, file {file}\n");
                let mut header = header(text.len() as u64, false);
                tar.append_data(&mut header, format!("srv/{n}/{file}"), text.as_bytes())?;
            }
            Ok(())
        })?;
    }
    builder.finish()
}

/// Bytes that compress to about a half, made as they are read.
struct Text {
    left: u64,
    state: u64,
}

impl Read for Text {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        for byte in &mut buf[..count] {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = b'a' + (self.state >> 60) as u8;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// One layer with one file of `size` bytes.
pub fn big_file(layout: &Path, size: u64) -> io::Result<Image> {
    let mut builder = Builder::new(layout)?;
    builder.layer(|tar| {
        let data = Text {
            left: size,
            state: 1,
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        tar.append_data(&mut header, "big", data)
    })?;
    builder.finish()
}

/// `below` with one more layer, of a file of `size` bytes on top.
pub fn one_more_layer(below: &Image, layout: &Path, size: u64) -> io::Result<Image> {
    let mut builder = Builder::new(layout)?;
    for layer in &below.layers {
        let path = layout.join("blobs/sha256").join(layer.digest.hex());
        if fs::hard_link(&layer.path, &path).is_err() {
            fs::copy(&layer.path, &path)?;
        }
        builder.layers.push(Layer {
            path,
            ..layer.clone()
        });
    }
    builder.layer(|tar| {
        let data = Text {
            left: size,
            state: 7,
        };
        tar.append_data(&mut header(size, false), "usr/share/one-more", data)
    })?;
    builder.finish()
}
