//! Pulls of small images through `serve`, where it is not bytes that take the time.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::Failure;
use crate::beside::{Binary, median, quantile, ratios, settle, turns};
use crate::client::{Blobs, Client};
use crate::data;
use crate::options::Options;
use crate::registry::{self, MISSING, Registry};
use crate::users::{serve, settings};

/// Compressed bytes of an image.
const SIZE: u64 = 3_000_000;
/// In the order in which an image is pulled; nothing is remembered when the first one begins.
const PULLS: [(&str, &str); 3] = [
    ("first pull", "latest_obd"),
    ("warm pull", "latest_obd"),
    ("plain pull", "latest"),
];

/// Milliseconds of each image that a binary was asked for.
#[derive(Default)]
struct Times {
    pulls: [Vec<f64>; PULLS.len()],
    /// How long the server says that a request waited for the conversion.
    conversions: Vec<f64>,
    blobs: Option<Blobs>,
}

impl Times {
    /// Of the first image.
    fn layer_bytes(&self) -> f64 {
        self.blobs
            .as_ref()
            .map_or(f64::NAN, |blobs| blobs.bytes() as f64)
    }
}

/// One image pulled in all ways.
fn pull(repo: &str, [address, admin]: &[String; 2], times: &mut Times) -> Result<Blobs, Failure> {
    let mut converted = None;
    let waited = waited(admin)?;
    for ((_, tag), times_of_pull) in PULLS.iter().zip(&mut times.pulls) {
        let begin = Instant::now();
        let blobs = Client::connect(address)?.pull(repo, tag)?;
        times_of_pull.push(begin.elapsed().as_secs_f64() * 1e3);
        if converted.is_none() {
            // Nobody has waited yet where the server tells nothing before.
            let now = self::waited(admin)?;
            let conversion = now.map(|now| (now - waited.unwrap_or(0.0)) * 1e3);
            times.conversions.extend(conversion);
            converted = Some(blobs);
        }
    }
    converted.ok_or_else(|| "nothing was pulled".into())
}

/// Seconds that requests waited for conversions so far, where the server tells it.
fn waited(admin: &str) -> Result<Option<f64>, Failure> {
    let text = Client::connect(admin)?.get("/metrics")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let sums = text
        .lines()
        .filter(|line| line.starts_with("overlaybd_proxy_conversion_wait_seconds_sum"));
    let sums = sums.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(sums.fold(None, |all, one| Some(all.unwrap_or(0.0) + one)))
}

/// Pulls `--pulls` images through each binary in turn, in each form.
pub fn measure(options: &Options, binaries: &[Binary], scratch: &Path) -> Result<(), Failure> {
    let Some(program) = registry::program() else {
        println!("\nSKIPPED: small images: {MISSING}");
        return Ok(());
    };
    let images = data::small_images(&scratch.join("small-images"), SIZE, options.pulls)?;
    let registry = Registry::start(&program, &scratch.join("small-registry"))?;
    let repo = |n: usize| format!("bench/small-{n}");
    for (n, image) in images.iter().enumerate() {
        registry.push(image, &repo(n))?;
    }
    for (algorithm, block_size) in &options.algorithms {
        let settings = settings(*algorithm, *block_size);
        let data = |n: usize| scratch.join(format!("small-serve-{n}"));
        let mut servers = Vec::new();
        for (n, binary) in binaries.iter().enumerate() {
            servers.push(serve(binary, &registry.host, &settings, &data(n))?);
        }
        let mut times: Vec<Times> = binaries.iter().map(|_| Times::default()).collect();
        for n in 0..images.len() {
            for binary in turns(binaries.len(), n) {
                settle(scratch)?;
                let (server, addresses) = &servers[binary];
                let pulled = pull(&repo(n), addresses, &mut times[binary]);
                let blobs = pulled.map_err(|error| format!("{error}: {}", server.log()))?;
                times[binary].blobs.get_or_insert(blobs);
            }
        }
        println!(
            "\n## {} images of one layer, {:.1} MB compressed, {:.1} MB of tar, each: {algorithm}, {block_size} KiB blocks\n",
            images.len(),
            images[0].compressed_bytes() as f64 / 1e6,
            images[0].tar_bytes() as f64 / 1e6,
        );
        print(binaries, &times);
        for (n, (server, _)) in servers.into_iter().enumerate() {
            server.stop();
            fs::remove_dir_all(data(n))?;
        }
    }
    Ok(())
}

/// What is printed of a binary, each with the milliseconds for each image.
fn figures(times: &Times) -> Vec<(&'static str, Vec<f64>)> {
    let less = |from: &[f64], what: &[f64]| from.iter().zip(what).map(|(a, b)| a - b).collect();
    let mut figures: Vec<_> = PULLS
        .iter()
        .zip(&times.pulls)
        .map(|((name, _), times)| (*name, times.clone()))
        .collect();
    let [first, _, plain] = &times.pulls;
    figures.push(("first - plain", less(first, plain)));
    if times.conversions.len() == first.len() {
        figures.push((
            "of it waiting for the conversion",
            times.conversions.clone(),
        ));
        figures.push(("first - waiting", less(first, &times.conversions)));
    }
    figures
}

fn print(binaries: &[Binary], times: &[Times]) {
    println!("| ms | binary | p50 | p99 |");
    println!("|---|---|---|---|");
    let all: Vec<_> = times.iter().map(figures).collect();
    for (n, (name, here)) in all[0].iter().enumerate() {
        let of_binary = |figures: &[(&str, Vec<f64>)]| figures.get(n).map(|(_, ms)| ms.clone());
        for (binary, figures) in binaries.iter().zip(&all) {
            let Some(ms) = of_binary(figures) else {
                continue;
            };
            println!(
                "| {name} | {} | {:.2} | {:.2} |",
                binary.name,
                median(&ms),
                quantile(&ms, 0.99)
            );
        }
        // A difference may be next to nothing: its ratio says nothing.
        if let Some(beside) = all.get(1).and_then(|figures| of_binary(figures))
            && n < PULLS.len()
        {
            println!(
                "| {name} | **here / beside** | {:.3} | {:.3} |",
                median(&ratios(here, &beside)),
                quantile(here, 0.99) / quantile(&beside, 0.99)
            );
        }
    }
    let bytes: Vec<_> = times.iter().map(Times::layer_bytes).collect();
    if let [here, beside] = bytes[..] {
        println!(
            "\nlayers of the first image, here / beside: {:.4}",
            here / beside
        );
    }
}
