//! How fast images are converted, and how fast they could be on this machine.
//!
//! ```sh
//! cargo bench --bench convert -- [--quick] [--size MB] [--algorithm lz4|zstd] [--bs KIB]
//!     [--image LAYOUT[:TAG]] [--beside BINARY] [--rounds N] [--pulls N]
//!     [--only stages|turbo|memory|small-files|many-layers|incremental|layout|registry|serve|small]
//! ```
//!
//! The first six subjects of `--only` are of the converter as a library, the other four of what
//! users run:
//!
//! - `layout`: `convert` from a layout to one that is new each time;
//! - `registry`: `convert` from a registry to one that is empty each time;
//! - `serve`: the first pull of an image's converted form through `serve`, whose data directory is
//!   empty, from the first request to the last byte;
//! - `small`: pulls of `--pulls` images of 3 MB through `serve`: each for the first time, again,
//!   and in its plain form.
//!
//! With `--beside BINARY` these four run another build too, the two in turn, and print the
//! ratios: of `--rounds` pairs the median. BINARY is a build of the same profile (`cargo build
//! --profile bench`); the library's subjects are then left out. In the first three each binary must
//! make the same layers each time. Of fewer than 100 pulls, p99 is the slowest. The registries are Debian's docker-registry, on loopback; what needs it is skipped where it is
//! missing. The image is of this machine's own files, of `--size` MB of tar, or that of `--image`.
//!
//! Nothing is compared with a stored number: every ratio is of two figures of this run. `taskset
//! -c 0 cargo bench …` limits it all to one core, servers included, `-c 0,1` to two. How a single
//! layer would do on other numbers of cores is computed of the stages: `stages::of_one_layer`.
#![allow(missing_docs, clippy::pedantic)]

mod beside;
mod client;
mod data;
mod layout;
mod meter;
mod options;
mod process;
mod registry;
mod small;
mod stages;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overlaybd_proxy::convert::image::ImageStyle;
use overlaybd_proxy::convert::layer::{Algorithm, BlockSize, Format, Settings, TurboSettings};
use overlaybd_proxy::convert::{
    ConvertedImage, Converter, ConverterConfig, Others, Platforms, Source,
};
use overlaybd_proxy::oci::RepoName;
use overlaybd_proxy::registry::{Authorization, Upstream};
use overlaybd_proxy::store::{CacheSize, IndexConfig, Store, StoreConfig};

use data::Image;
use meter::{Cost, measure, peak, reset_peak};
use options::Options;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(process::MEASURE) {
        return process::measure_one(arguments);
    }
    let options = Options::of_arguments()?;
    let scratch = scratch()?;
    // The files go even if an error ends it.
    let measured = measure_all(&options, &scratch);
    let removed = std::fs::remove_dir_all(&scratch);
    measured?;
    Ok(removed?)
}

fn measure_all(options: &Options, scratch: &Path) -> Result<(), Failure> {
    let wanted = |name: &str| options.wants(name);
    let any_wanted = |names: &[&str]| names.iter().any(|name| options.wants(name));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores; every figure is of this run");
    let of_library = any_wanted(&["stages", "turbo", "incremental"]);
    let of_programs = any_wanted(&["layout", "registry", "serve"]);
    let binaries = beside::binaries(options.beside.as_deref());
    if of_library || of_programs {
        let image = image(options, scratch)?;
        for (algorithm, block_size) in &options.algorithms {
            if wanted("stages") {
                stages_and_pipeline(&image, scratch, *algorithm, *block_size, cores)?;
            }
        }
        if wanted("turbo") {
            turbo(&image, scratch, cores)?;
        }
        if wanted("incremental") {
            incremental(&image, scratch)?;
        }
        if of_programs {
            users::measure(options, &image, &binaries, scratch)?;
        }
    }
    if wanted("small") {
        small::measure(options, &binaries, scratch)?;
    }
    if wanted("memory") {
        let size = if options.quick { 300 << 20 } else { 3 << 30 };
        let image = data::big_file(&scratch.join("big"), size)?;
        let run = convert(
            &image,
            &scratch.join("big-store"),
            Algorithm::Lz4,
            BlockSize::KIB_4,
        )?;
        println!("\n## One file of {} MB in a layer\n", size >> 20);
        println!(
            "peak memory {} MB, {}",
            run.peak >> 20,
            rate(image.tar_bytes(), run.cost.wall)
        );
    }
    if wanted("small-files") {
        let count = if options.quick { 10_000 } else { 100_000 };
        let image = data::small_files(&scratch.join("small"), count)?;
        let run = convert(
            &image,
            &scratch.join("small-store"),
            Algorithm::Lz4,
            BlockSize::KIB_4,
        )?;
        println!("\n## {count} small files in a layer\n");
        println!(
            "{:.0} files a second ({:.2} s wall, {:.2} s CPU), peak memory {} MB",
            f64::from(count) / run.cost.wall.as_secs_f64(),
            run.cost.wall.as_secs_f64(),
            run.cost.cpu.as_secs_f64(),
            run.peak >> 20
        );
    }
    if wanted("many-layers") {
        let image = data::many_layers(&scratch.join("many"), 60)?;
        let run = convert(
            &image,
            &scratch.join("many-store"),
            Algorithm::Lz4,
            BlockSize::KIB_4,
        )?;
        println!("\n## 60 layers of five files each\n");
        println!(
            "{:.1} ms a layer ({:.2} s wall, {:.2} s CPU)",
            run.cost.wall.as_secs_f64() * 1000.0 / 60.0,
            run.cost.wall.as_secs_f64(),
            run.cost.cpu.as_secs_f64()
        );
    }
    Ok(())
}

/// The image that is asked for, or one of this machine's files.
fn image(options: &Options, scratch: &Path) -> Result<Image, Failure> {
    if let Some(name) = &options.image {
        return layout::open(name);
    }
    let megabytes = options.megabytes;
    println!("making an image of /usr/lib and /usr/share, {megabytes} MB");
    Ok(data::system_image(
        &scratch.join("system"),
        megabytes << 20,
    )?)
}

/// A directory of this run's own, beside what cargo builds.
fn scratch() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
        PathBuf::from,
    );
    let scratch = base.join(format!("convert-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

/// One conversion, from a layout into an empty store.
struct Run {
    cost: Cost,
    peak: u64,
    image: Arc<ConvertedImage>,
    store: PathBuf,
}

impl Run {
    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.store.join("blobs/sha256").join(&hex[..2]).join(hex)
    }
}

fn convert(
    image: &Image,
    store: &Path,
    algorithm: Algorithm,
    block_size: BlockSize,
) -> Result<Run, Failure> {
    convert_to(image, store, algorithm, block_size, Format::Native)
}

fn convert_to(
    image: &Image,
    store: &Path,
    algorithm: Algorithm,
    block_size: BlockSize,
    format: Format,
) -> Result<Run, Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    reset_peak();
    let (converted, cost) = measure(|| {
        runtime.block_on(async {
            let store = open(store).await?;
            convert_into(image, store, algorithm, block_size, format).await
        })
    });
    Ok(Run {
        cost,
        peak: peak(),
        image: converted?,
        store: store.to_owned(),
    })
}

async fn open(store: &Path) -> Result<Store, Failure> {
    let config = StoreConfig {
        data_dir: store.to_owned(),
        index: IndexConfig::Sqlite,
        cache_size: CacheSize::Unbounded,
        keep: Duration::from_secs(3600),
        objects: None,
    };
    Ok(Store::open(config).await?)
}

async fn convert_into(
    image: &Image,
    store: Store,
    algorithm: Algorithm,
    block_size: BlockSize,
    format: Format,
) -> Result<Arc<ConvertedImage>, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let config = ConverterConfig {
        settings: Settings {
            algorithm,
            block_size,
            virtual_size: 64 << 30,
            max_layer_size: u64::MAX,
            threads,
            format,
            prefetch: None,
        },
        platforms: Platforms::All,
        others: Others::Stay,
        style: ImageStyle::default(),
        conversions: 2,
        memory: 512 << 20,
        max_queue: 4096,
        timeout: Duration::from_hours(1),
        trust_foreign_layers: false,
        lease_ttl: Duration::from_secs(30),
        push: None,
    };
    let source = Source {
        upstream: Upstream::layout(&image.layout)?,
        repo: RepoName::layout(),
        authorization: Authorization::Own,
    };
    let converter = Converter::new(store, config)?;
    Ok(converter.convert(&source, &image.manifest, None).await?)
}

fn rate(bytes: u64, time: Duration) -> String {
    format!(
        "{:.0} MB/s",
        bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
    )
}

fn stages_and_pipeline(
    image: &Image,
    scratch: &Path,
    algorithm: Algorithm,
    block_size: BlockSize,
    cores: usize,
) -> Result<(), Failure> {
    let store = scratch.join(format!("store-{algorithm}-{block_size}"));
    let run = convert(image, &store, algorithm, block_size)?;
    let (mut blobs, mut converted) = (Vec::new(), 0);
    for one in &run.image.manifests {
        for layer in &one.layers {
            blobs.push(run.blob_path(layer.digest.as_str()));
            converted += layer.size.unwrap_or_default();
        }
    }
    let stages = stages::measure_all(image, &blobs, scratch, algorithm)?;
    let floor = stages::floor(&stages, cores);
    println!("\n## {algorithm}, {block_size} KiB blocks\n");
    println!(
        "{} layers, {:.0} MB compressed, {:.0} MB of tar, {:.0} MB converted\n",
        image.layers.len(),
        image.compressed_bytes() as f64 / 1e6,
        image.tar_bytes() as f64 / 1e6,
        converted as f64 / 1e6,
    );
    println!("| stage, alone | MB | MB/s on one core | CPU s |");
    println!("|---|---|---|---|");
    for stage in &stages {
        println!(
            "| {} | {:.0} | {} | {:.2} |",
            stage.name,
            stage.bytes() as f64 / 1e6,
            rate(stage.bytes(), stage.cpu()).trim_end_matches(" MB/s"),
            stage.cpu().as_secs_f64()
        );
    }
    println!(
        "| **floor on {cores} cores** | | | {:.2} |",
        floor.as_secs_f64()
    );
    println!(
        "\npipeline: {:.2} s wall, {:.2} s CPU, peak memory {} MB: {:.2} × the floor, {} of tar",
        run.cost.wall.as_secs_f64(),
        run.cost.cpu.as_secs_f64(),
        run.peak >> 20,
        run.cost.wall.as_secs_f64() / floor.as_secs_f64().max(1e-9),
        rate(image.tar_bytes(), run.cost.wall),
    );
    other_cores(image, &stages);
    std::fs::remove_dir_all(&store)?;
    Ok(())
}

/// What the stages allow for the largest layer, had the machine so many cores.
fn other_cores(image: &Image, stages: &[stages::Stage]) {
    let layers = image.layers.iter().enumerate();
    let Some((n, layer)) = layers.max_by_key(|(_, layer)| layer.tar) else {
        return;
    };
    println!(
        "\nthe largest layer alone, {:.0} MB of tar, as the stages allow it:\n",
        layer.tar as f64 / 1e6
    );
    println!("| cores | s | MB/s of tar |");
    println!("|---|---|---|");
    for cores in [1, 2, 4, 8, 16] {
        let time = stages::of_one_layer(stages, n, cores);
        println!(
            "| {cores} | {:.2} | {} |",
            time.as_secs_f64(),
            rate(layer.tar, time).trim_end_matches(" MB/s")
        );
    }
}

/// TurboOCI beside native LZ4 with 4 KiB, each three times in turn; the median counts.
fn turbo(image: &Image, scratch: &Path, cores: usize) -> Result<(), Failure> {
    let inlines = [("all data", 0), ("files over 4 KiB", 4096)];
    let (algorithm, block_size) = (Algorithm::Lz4, BlockSize::KIB_4);
    let mut stages = stages::measure_all(image, &[], scratch, algorithm)?;
    // Nothing else is needed: no data is compressed or written.
    stages.retain(|stage| {
        [
            "fetch: read the layer",
            "digest",
            "inflate",
            "diff id",
            "untar, place",
        ]
        .contains(&stage.name)
    });
    let floor = stages::floor(&stages, cores);
    let mut native = Vec::new();
    let mut turbo: Vec<Vec<Run>> = vec![Vec::new(), Vec::new()];
    for round in 0..3 {
        let store = |name: &str| scratch.join(format!("{name}-{round}"));
        native.push(convert(image, &store("native"), algorithm, block_size)?);
        for (runs, (_, max_stored_file)) in turbo.iter_mut().zip(inlines) {
            let format = Format::Turbo(TurboSettings {
                max_stored_file,
                max_gap: 4 << 20,
            });
            let store = store(&format!("turbo-{max_stored_file}"));
            runs.push(convert_to(image, &store, algorithm, block_size, format)?);
        }
    }
    let median = |runs: &[Run]| {
        let mut times: Vec<Duration> = runs.iter().map(|run| run.cost.wall).collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let most = |runs: &[Run]| runs.iter().map(|run| run.peak).max().unwrap_or(0) >> 20;
    let beside = median(&native);
    println!(
        "\n## TurboOCI beside native (LZ4, 4 KiB): {:.2} s, peak {} MB\n",
        beside.as_secs_f64(),
        most(&native)
    );
    println!(
        "| left in the tar | wall | / native | / its floor | peak | layers | of the compressed |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (runs, (name, _)) in turbo.iter().zip(inlines) {
        let wall = median(runs);
        let bytes: u64 = runs[0]
            .image
            .manifests
            .iter()
            .flat_map(|one| one.layers.iter().filter_map(|layer| layer.size))
            .sum();
        println!(
            "| {name} | {:.2} s | {:.2} | {:.2} | {} MB | {:.1} MB | {:.2} % |",
            wall.as_secs_f64(),
            wall.as_secs_f64() / beside.as_secs_f64(),
            wall.as_secs_f64() / floor.as_secs_f64().max(1e-9),
            most(runs),
            bytes as f64 / 1e6,
            100.0 * bytes as f64 / image.compressed_bytes() as f64,
        );
    }
    Ok(())
}

/// One small layer on top of an image that was converted before.
fn incremental(image: &Image, scratch: &Path) -> Result<(), Failure> {
    let directory = scratch.join("store-incremental");
    let runtime = tokio::runtime::Runtime::new()?;
    // One process, as the proxy is: what it made itself it need not verify.
    let store = runtime.block_on(open(&directory))?;
    let convert = |image| {
        let converting = convert_into(
            image,
            store.clone(),
            Algorithm::Lz4,
            BlockSize::KIB_4,
            Format::Native,
        );
        runtime.block_on(converting)
    };
    let whole = convert(image)?;
    let layout = scratch.join("one-more");
    let more = data::one_more_layer(image, &layout, 1 << 20)?;
    let before = read_bytes();
    let (converted, cost) = measure(|| convert(&more));
    converted?;
    let read = read_bytes().saturating_sub(before);
    let lower: u64 = whole
        .manifests
        .iter()
        .flat_map(|one| &one.layers)
        .map(|layer| layer.size.unwrap_or_default())
        .sum();
    println!(
        "\n## 1 MB on top of a converted image of {:.0} MB\n",
        image.tar_bytes() as f64 / 1e6
    );
    println!(
        "{:.3} s wall, {:.3} s CPU; everything that was read comes to {:.2} % of the lower blobs ({:.1} of {:.0} MB)",
        cost.wall.as_secs_f64(),
        cost.cpu.as_secs_f64(),
        read as f64 * 100.0 / lower as f64,
        read as f64 / 1e6,
        lower as f64 / 1e6,
    );
    Ok(())
}

/// Bytes that this process asked the system to read so far.
fn read_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|line| line.parse().ok()).unwrap_or(0)
}
