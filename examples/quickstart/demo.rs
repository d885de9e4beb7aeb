//! A small image: two gzipped layers in an OCI image layout.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use overlaybd_proxy::oci::{Digest, Platform};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// What `etc/motd` says in the image; its lower layer says something else.
pub const MOTD: &str = "the upper layer's word\n";

/// When everything in the image was made, in seconds since 1970.
const TIME: u64 = 1_700_000_000;

/// Writes `demo:latest` as a layout into `directory`.
pub fn image(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory.join("blobs/sha256"))?;
    let tars = [lower()?, upper()?];
    let mut layers = Vec::new();
    for tar in &tars {
        let layer = gzip(tar)?;
        layers.push(put(
            directory,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &layer,
        )?);
    }
    let platform = Platform::host();
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Cmd": ["/bin/hello"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config_type = "application/vnd.oci.image.config.v1+json";
    let config = put(directory, config_type, &serde_json::to_vec(&config)?)?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": layers,
    });
    let mut entry = put(directory, manifest_type, &serde_json::to_vec(&manifest)?)?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "demo:latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), index.to_string())?;
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

/// Stores a blob and describes it.
fn put(directory: &Path, media_type: &str, bytes: &[u8]) -> anyhow::Result<Value> {
    let digest = Digest::of(bytes);
    fs::write(directory.join("blobs/sha256").join(digest.hex()), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()}))
}

fn gzip(tar: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(tar)?;
    Ok(encoder.finish()?)
}

/// A root filesystem in small: directories, a link, a program, a few thousand lines.
fn lower() -> anyhow::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for directory in ["etc/", "tmp/", "usr/", "usr/bin/", "usr/share/"] {
        add(&mut tar, EntryType::Directory, directory, 0o755, b"")?;
    }
    let mut link = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut link, "bin", "usr/bin")?;
    let script = b"#!/bin/sh\necho hello\n";
    add(&mut tar, EntryType::Regular, "usr/bin/hello", 0o755, script)?;
    add(
        &mut tar,
        EntryType::Regular,
        "etc/motd",
        0o644,
        b"the lower layer's word\n",
    )?;
    add(
        &mut tar,
        EntryType::Regular,
        "tmp/rubbish",
        0o644,
        b"to be removed\n",
    )?;
    let lines: Vec<_> = (0..200_000).map(|n| format!("line {n}\n")).collect();
    let lines = lines.concat();
    add(
        &mut tar,
        EntryType::Regular,
        "usr/share/lines",
        0o644,
        lines.as_bytes(),
    )?;
    Ok(tar.into_inner()?)
}

/// Changes a file, removes one, adds one.
fn upper() -> anyhow::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    add(
        &mut tar,
        EntryType::Regular,
        "etc/motd",
        0o644,
        MOTD.as_bytes(),
    )?;
    add(&mut tar, EntryType::Regular, "tmp/.wh.rubbish", 0o644, b"")?;
    add(
        &mut tar,
        EntryType::Regular,
        "greeting",
        0o644,
        b"good day\n",
    )?;
    Ok(tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(size as u64);
    header
}

fn add(
    tar: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    data: &[u8],
) -> anyhow::Result<()> {
    tar.append_data(&mut header(kind, mode, data.len()), path, data)?;
    Ok(())
}
