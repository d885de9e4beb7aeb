//! What users run: whole processes, from an image where it is to one where it is wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use overlaybd_proxy::convert::layer::{Algorithm, BlockSize};

use crate::Failure;
use crate::beside::{Binary, Runs, Sample, same_layers, settle, turns};
use crate::client::{Blobs, Client};
use crate::data::Image;
use crate::meter::Cost;
use crate::process::{Server, Usage, command, run};
use crate::registry::{self, MISSING, Registry};
use crate::{layout, options::Options, stages};

/// The repository that images lie in.
const REPO: &str = "bench/image";

/// The options for one kind of blob.
pub fn settings(algorithm: Algorithm, block_size: BlockSize) -> [String; 4] {
    let (algorithm, block_size) = (algorithm.to_string(), block_size.to_string());
    [
        "--algorithm".to_owned(),
        algorithm,
        "--bs".to_owned(),
        block_size,
    ]
}

/// Measures the ways of use that are wanted, in each form.
pub fn measure(
    options: &Options,
    image: &Image,
    binaries: &[Binary],
    scratch: &Path,
) -> Result<(), Failure> {
    println!(
        "\n# Processes, from begin to end\n\n{} layers, {:.1} MB compressed, {:.1} MB of tar; {} rounds",
        image.layers.len(),
        image.compressed_bytes() as f64 / 1e6,
        image.tar_bytes() as f64 / 1e6,
        options.rounds
    );
    let registries = registries(options, image, scratch)?;
    for (algorithm, block_size) in &options.algorithms {
        let settings = &settings(*algorithm, *block_size);
        let mut form = Form {
            name: format!("{algorithm}, {block_size} KiB blocks"),
            rounds: options.rounds,
            binaries,
            scratch,
            known: vec![None; binaries.len()],
        };
        if options.wants("layout") {
            let kept = scratch.join("converted");
            // What was made before goes before all is settled.
            let clear = || drop(fs::remove_dir_all(&kept));
            form.measure("layout to layout", clear, |binary| {
                layout_to_layout(binary, image, settings, &kept, scratch)
            })?;
            if binaries.len() == 1 {
                beside_stages(image, &kept, *algorithm, scratch)?;
            }
            fs::remove_dir_all(&kept)?;
        }
        let Some((program, source)) = &registries else {
            continue;
        };
        if options.wants("registry") {
            form.measure(
                "registry to registry",
                || (),
                |binary| {
                    let target = Registry::start(program, &scratch.join("target"))?;
                    registry_to_registry(binary, &source.host, &target.host, settings, scratch)
                },
            )?;
        }
        if options.wants("serve") {
            form.measure(
                "first pull through serve",
                || (),
                |binary| first_pull(binary, &source.host, settings, scratch),
            )?;
        }
    }
    Ok(())
}

/// The registries' program, and a registry that has the image; `None` where it is not needed or
/// not installed.
fn registries(
    options: &Options,
    image: &Image,
    scratch: &Path,
) -> Result<Option<(PathBuf, Registry)>, Failure> {
    if !options.wants("registry") && !options.wants("serve") {
        return Ok(None);
    }
    let Some(program) = registry::program() else {
        println!("\nSKIPPED: from registry to registry, and serve: {MISSING}");
        return Ok(None);
    };
    let source = Registry::start(&program, &scratch.join("source"))?;
    source.push(image, REPO)?;
    Ok(Some((program, source)))
}

/// Blobs of one kind, and what is known of them.
struct Form<'a> {
    name: String,
    rounds: usize,
    binaries: &'a [Binary],
    scratch: &'a Path,
    /// What each binary made of the image, whichever way it went.
    known: Vec<Option<Blobs>>,
}

impl Form<'_> {
    /// Runs the binaries in turn, and prints the table of it.
    fn measure(
        &mut self,
        title: &str,
        clear: impl Fn(),
        one: impl Fn(&Binary) -> Result<Sample, Failure>,
    ) -> Result<(), Failure> {
        let mut runs = Runs::new(self.binaries);
        for round in 0..self.rounds {
            for binary in turns(self.binaries.len(), round) {
                clear();
                settle(self.scratch)?;
                let sample = one(&self.binaries[binary])?;
                let known = self.known[binary].get_or_insert_with(|| sample.blobs.clone());
                same_layers(&self.binaries[binary], known, &sample.blobs)?;
                runs.push(binary, sample);
            }
        }
        println!("\n## {title}: {}\n", self.name);
        runs.print();
        Ok(())
    }
}

fn convert(
    binary: &Binary,
    settings: &[String],
    from: &str,
    to: &str,
    scratch: &Path,
) -> Result<Usage, Failure> {
    let arguments = ["convert", "--quiet"].into_iter();
    let settings = settings.iter().map(String::as_str);
    let arguments: Vec<_> = arguments.chain(settings).chain([from, to]).collect();
    run(&binary.path, &arguments, scratch)
}

fn layout_to_layout(
    binary: &Binary,
    image: &Image,
    settings: &[String],
    to: &Path,
    scratch: &Path,
) -> Result<Sample, Failure> {
    let from = format!("oci:{}:{}", image.layout.display(), image.tag);
    let target = format!("oci:{}:converted", to.display());
    let usage = convert(binary, settings, &from, &target, scratch)?;
    let blobs = layout::blobs(to, "converted")?;
    Ok(Sample { usage, blobs })
}

/// The target is a registry of its own for each run: one that has a blob already, in whichever
/// repository, need not write it again.
fn registry_to_registry(
    binary: &Binary,
    source: &str,
    target: &str,
    settings: &[String],
    scratch: &Path,
) -> Result<Sample, Failure> {
    let from = format!("{source}/{REPO}:latest");
    let to = format!("{target}/{REPO}:latest_obd");
    let usage = convert(binary, settings, &from, &to, scratch)?;
    let manifest = Client::connect(target)?.manifest(REPO, "latest_obd")?;
    let blobs = Blobs::of_manifest(&manifest)?;
    Ok(Sample { usage, blobs })
}

/// Starts `serve` before a registry, with an empty data directory; with where it listens, and the
/// address for metrics.
pub fn serve(
    binary: &Binary,
    upstream: &str,
    settings: &[String],
    data: &Path,
) -> Result<(Server, [String; 2]), Failure> {
    fs::create_dir_all(data)?;
    let none = data.join("none.toml");
    fs::write(&none, "")?;
    let mut command = command(&binary.path, data);
    command
        .arg("serve")
        .arg("--config")
        .arg(none)
        .args(settings);
    command.args(["--upstream", &format!("http://{upstream}")]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(data.join("data"));
    let mut server = Server::start(command, &data.join("log"))?;
    let mut address = |said: &str| {
        server.wait_for(|server| {
            let log = server.log();
            let (_, rest) = log.split_once(said)?;
            let end = rest.find(['\n', ' ', '"'])?;
            Some(rest[..end].to_owned())
        })
    };
    let addresses = [
        address("listening on http://")?,
        address("admin on http://")?,
    ];
    Ok((server, addresses))
}

fn first_pull(
    binary: &Binary,
    source: &str,
    settings: &[String],
    scratch: &Path,
) -> Result<Sample, Failure> {
    let data = scratch.join("serve");
    let (server, [address, _]) = serve(binary, source, settings, &data)?;
    let mut client = Client::connect(&address)?;
    let (cpu, begin) = (server.cpu()?, Instant::now());
    let pulled = client.pull(REPO, "latest_obd");
    let wall = begin.elapsed();
    let blobs = pulled.map_err(|error| format!("{error}: {}", server.log()))?;
    let usage = Usage {
        cost: Cost {
            wall,
            cpu: server.cpu()?.saturating_sub(cpu),
        },
        peak: server.peak()?,
    };
    server.stop();
    fs::remove_dir_all(&data)?;
    Ok(Sample { usage, blobs })
}

/// What the stages of this conversion allow, where no other binary is there to compare with.
fn beside_stages(
    image: &Image,
    converted: &Path,
    algorithm: Algorithm,
    scratch: &Path,
) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let layers = layout::blobs(converted, "converted")?.layers;
    let path = |digest: &str| {
        converted
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    };
    let paths: Vec<_> = layers.iter().map(|layer| path(&layer.digest)).collect();
    let stages = stages::measure_all(image, &paths, scratch, algorithm)?;
    let cpu: f64 = stages.iter().map(|stage| stage.cpu().as_secs_f64()).sum();
    println!(
        "| floor of the stages on {cores} cores | {:.3} s | | {cpu:.2} | | |",
        stages::floor(&stages, cores).as_secs_f64()
    );
    Ok(())
}
