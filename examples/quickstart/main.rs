//! A complete pull without a network or any other program:
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! makes a small image in an OCI layout, starts the proxy in front of it, pulls the image once
//! unconverted and once in overlaybd format, and reads the converted filesystem.

mod client;
mod demo;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use overlaybd_proxy::convert::image::ImageStyle;
use overlaybd_proxy::convert::layer::{Algorithm, BlockSize, Format, LayerBlob, Settings};
use overlaybd_proxy::convert::{Converter, ConverterConfig, Others, Platforms};
use overlaybd_proxy::format::blob::Stack;
use overlaybd_proxy::format::block::{FileDevice, ReadOnly};
use overlaybd_proxy::format::ext4::{FileType, Filesystem, Ino};
use overlaybd_proxy::oci::{Digest, Platform};
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::{
    Access, Balancers, Limits, OnTimeout, Server, ServerConfig, UpstreamChoice, UpstreamEntry,
};
use overlaybd_proxy::store::{CacheSize, IndexConfig, Store, StoreConfig};
use serde_json::Value;

use client::Client;

type Outcome<T = ()> = anyhow::Result<T>;

#[tokio::main]
async fn main() -> Outcome {
    let scratch = tempfile::tempdir()?;

    println!("1. An ordinary image in an OCI layout\n");
    let images = scratch.path().join("images");
    demo::image(&images)?;
    println!("   demo:latest in {}", images.display());

    println!("\n2. The proxy in front of it\n");
    let server = proxy(&images, &scratch.path().join("data")).await?;
    let address = server.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    println!("   the same as: overlaybd-proxy serve --upstream oci:DIR --listen {address}");

    let client = Client::new(&format!("http://{address}/v2/demo"));
    println!("\n3. demo:latest passes through as it is\n");
    let plain = client.manifest("latest").await?;
    show(&plain);

    println!("\n4. demo:latest_obd is converted by the first request\n");
    let begin = Instant::now();
    let converted = client.manifest("latest_obd").await?;
    println!("   converted and answered in {}", took(begin));
    show(&converted);
    let begin = Instant::now();
    client.manifest("latest_obd").await?;
    println!(
        "   the second request is answered from the cache in {}",
        took(begin)
    );

    println!("\n5. Its layers are pulled and their digests verified\n");
    let blobs = pull_layers(&client, &converted, scratch.path()).await?;

    println!("\n6. The root directory of the disk that the layers make up\n");
    let top = tokio::task::spawn_blocking(move || look_into(&blobs)).await??;
    println!("\n   etc/motd says: {}", top.trim_end());
    ensure!(top == demo::MOTD, "etc/motd is not the image's");

    let _ = stop.send(());
    ensure!(serving.await?, "requests were cut off");
    println!(
        "\nDone. To run it in front of Docker Hub:\n\n   \
         cargo run --release -- serve\n   \
         skopeo inspect --tls-verify=false docker://127.0.0.1:8480/library/redis:latest_obd\n"
    );
    Ok(())
}

/// A proxy on a free port of this machine.
async fn proxy(images: &Path, data_dir: &Path) -> Outcome<Server> {
    let store = Store::open(StoreConfig {
        data_dir: data_dir.to_owned(),
        index: IndexConfig::Sqlite,
        cache_size: CacheSize::Unbounded,
        keep: Duration::from_hours(1),
        objects: None,
    })
    .await?;
    let converter = Converter::new(
        store,
        ConverterConfig {
            settings: Settings {
                algorithm: Algorithm::Lz4,
                block_size: BlockSize::KIB_4,
                virtual_size: 64 << 30,
                max_layer_size: 1 << 30,
                threads: std::thread::available_parallelism()?.get(),
                format: Format::Native,
                prefetch: None,
            },
            others: Others::Stay,
            platforms: Platforms::Some(vec![Platform::host()]),
            style: ImageStyle::default(),
            conversions: 2,
            memory: 512 << 20,
            max_queue: 4096,
            timeout: std::time::Duration::from_hours(1),
            trust_foreign_layers: false,
            lease_ttl: Duration::from_secs(30),
            push: None,
        },
    )?;
    let config = ServerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        listen_overlaybd: None,
        admin: None,
        tls: None,
        http2: true,
        h2c: false,
        upstreams: vec![UpstreamEntry {
            upstream: Upstream::layout(images)?,
            choice: UpstreamChoice::default(),
        }],
        suffix: "_obd".to_owned(),
        turbo: None,
        merged_suffix: "_merged".to_owned(),
        list_referrers: true,
        p2p_hosts: Vec::new(),
        prefer_upstream_tags: false,
        hold: Duration::from_secs(25),
        on_timeout: OnTimeout::Wait,
        access: Access::PassThrough,
        auth_cache_ttl: Duration::from_secs(15),
        stale_if_error: Duration::ZERO,
        failure_ttl: Duration::from_mins(5),
        url_ttl: Duration::from_mins(10),
        blob_redirect: None,
        url_key_file: None,
        admin_token_file: None,
        notification_secret_file: None,
        webhooks: Vec::new(),
        webhook_secret_file: None,
        source_cache: None,
        read_only: true,
        allow_anonymous_push: false,
        follow_redirects: false,
        convert_on_pull: Vec::new(),
        learn_window: None,
        learned_lists: std::path::PathBuf::new(),
        policy: Vec::new(),
        balancers: Balancers::default(),
        limits: Limits::default(),
    };
    Ok(Server::bind(config, converter).await?)
}

fn took(begin: Instant) -> String {
    format!("{:.1} ms", begin.elapsed().as_secs_f64() * 1000.0)
}

/// A manifest's layers, a line each.
fn show(manifest: &Value) {
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        println!(
            "   {:>9} bytes  {:.19}…  {}",
            layer["size"].as_u64().unwrap_or_default(),
            text(&layer["digest"]),
            text(&layer["mediaType"]),
        );
        for (name, value) in layer["annotations"].as_object().into_iter().flatten() {
            println!("                    {name} = {:.24}", text(value));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn pull_layers(
    client: &Client,
    manifest: &Value,
    directory: &Path,
) -> Outcome<Vec<Arc<LayerBlob>>> {
    let mut blobs = Vec::new();
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let digest: Digest = text(&layer["digest"]).parse()?;
        let bytes = client.blob(&digest).await?;
        ensure!(Digest::of(&bytes) == digest, "{digest}: other bytes came");
        println!(
            "   {:.19}…  {} bytes, verified",
            digest.as_str(),
            bytes.len()
        );
        let path = directory.join(digest.hex());
        std::fs::write(&path, &bytes)?;
        blobs.push(Arc::new(LayerBlob::open(Arc::new(FileDevice::open(
            &path,
        )?))?));
    }
    ensure!(!blobs.is_empty(), "the converted image has no layers");
    Ok(blobs)
}

/// Lists the root directory, and gives the content of `etc/motd`.
fn look_into(blobs: &[Arc<LayerBlob>]) -> Outcome<String> {
    let stack = Stack::new(blobs.to_vec())?;
    let mut filesystem = Filesystem::open(ReadOnly::new(stack))?;
    let root = filesystem.root();
    for entry in filesystem.entries(root)? {
        let metadata = filesystem.metadata(entry.ino)?;
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let line = match metadata.file_type {
            FileType::Directory => format!("{name}/"),
            FileType::Symlink => {
                let target = filesystem.read_link(entry.ino)?;
                format!("{name} -> {}", String::from_utf8_lossy(&target))
            }
            _ => name,
        };
        println!(
            "   {:04o} {:>4}:{:<4} {:>9}  {line}",
            metadata.mode & 0o7777,
            metadata.uid,
            metadata.gid,
            metadata.size
        );
    }
    let motd = find(&mut filesystem, &["etc", "motd"])?;
    let size = filesystem.metadata(motd)?.size;
    let mut content = vec![0; usize::try_from(size)?];
    filesystem.read_file(motd, 0, &mut content)?;
    Ok(String::from_utf8(content)?)
}

fn find(filesystem: &mut Filesystem<ReadOnly<Stack>>, path: &[&str]) -> Outcome<Ino> {
    let mut ino = filesystem.root();
    for name in path {
        let entry = filesystem.lookup(ino, name.as_bytes())?;
        ino = entry.with_context(|| format!("no {name}"))?.ino;
    }
    Ok(ino)
}
