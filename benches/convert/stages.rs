//! Each stage of a conversion alone, one after the other, on one core's worth of threads.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overlaybd_proxy::convert::apply::apply;
use overlaybd_proxy::convert::inflate::inflate;
use overlaybd_proxy::format::blob::{Algorithm, BlockSize, CompressPool, LayerBlob};
use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, FileDevice, check_range};
use overlaybd_proxy::format::ext4::{Filesystem, FormatOptions};
use overlaybd_proxy::format::prefetch::DataOrder;
use overlaybd_proxy::format::tar::TarReader;
use overlaybd_proxy::format::zfile::ZFileWriter;
use overlaybd_proxy::oci::{Digest, Hasher};

use crate::data::Image;
use crate::meter::measure;

/// A stage's name, the bytes that go in, and its CPU time.
#[derive(Debug, Clone)]
pub struct Stage {
    pub name: &'static str,
    pub bytes: u64,
    pub cpu: Duration,
    /// Whether several cores can share it.
    pub splits: bool,
}

const CHUNK: usize = 1 << 20;

/// Reads `input` to its end in chunks.
fn each_chunk(mut input: impl Read, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match input.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(bytes);
        }
        take(&buffer[..filled]);
        bytes += filled as u64;
    }
}

fn hashing(input: impl Read) -> io::Result<u64> {
    let mut hasher = Hasher::like(&Digest::of(b""));
    let bytes = each_chunk(input, |chunk| hasher.update(chunk))?;
    std::hint::black_box(hasher.finish());
    Ok(bytes)
}

/// A disk whose data goes nowhere; what was written reads as zero.
struct Nowhere(u64);

impl BlockDevice for Nowhere {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.0, offset, buf.len() as u64)?;
        buf.fill(0);
        Ok(())
    }
}

impl BlockDeviceMut for Nowhere {
    fn write_at(&mut self, _: u64, data: &[u8]) -> io::Result<()> {
        std::hint::black_box(data);
        Ok(())
    }
    fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn discard_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn inflated(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut head = [0; 8];
    File::open(path)?.read_exact_at(&mut head, 0)?;
    inflate(&head, BufReader::with_capacity(CHUNK, File::open(path)?))
}

/// The stages measured so far. What reading the prepared input takes is taken off each.
struct Table {
    stages: Vec<Stage>,
}

impl Table {
    fn stage(
        &mut self,
        name: &'static str,
        splits: bool,
        reading: Duration,
        inputs: &[PathBuf],
        mut work: impl FnMut(&Path) -> io::Result<u64>,
    ) -> io::Result<Duration> {
        let (bytes, cost) = measure(|| inputs.iter().map(|path| work(path)).sum());
        let bytes: io::Result<u64> = bytes;
        self.stages.push(Stage {
            name,
            bytes: bytes?,
            cpu: cost.cpu.saturating_sub(reading),
            splits,
        });
        Ok(cost.cpu)
    }
}

fn hashing_file(path: &Path) -> io::Result<u64> {
    hashing(File::open(path)?)
}

fn reading_file(path: &Path) -> io::Result<u64> {
    each_chunk(File::open(path)?, |_| ())
}

/// Measures every stage over all layers of `image`; `blobs` are what they were converted to.
pub fn measure_all(
    image: &Image,
    blobs: &[PathBuf],
    scratch: &Path,
    algorithm: Algorithm,
) -> io::Result<Vec<Stage>> {
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.path.clone())
        .collect();
    // The tars and the blobs are laid ready, so that each stage is measured alone.
    let mut tars = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        let tar = scratch.join(format!("{n}.tar"));
        io::copy(&mut inflated(layer)?, &mut File::create(&tar)?)?;
        tars.push(tar);
    }
    let none = Duration::ZERO;
    let mut table = Table { stages: Vec::new() };
    let of_layer = table.stage("fetch: read the layer", false, none, &layers, reading_file)?;
    table.stage("digest", false, of_layer, &layers, hashing_file)?;
    table.stage("inflate", false, of_layer, &layers, |layer| {
        each_chunk(inflated(layer)?, |_| ())
    })?;
    let (read, of_tar) = measure(|| tars.iter().map(|tar| reading_file(tar)).sum());
    let read: io::Result<u64> = read;
    read?;
    table.stage("diff id", false, of_tar.cpu, &tars, hashing_file)?;
    let disk = Nowhere(64 << 30);
    let formatted = Filesystem::format(disk, &FormatOptions::default());
    let mut filesystem = formatted.map_err(io::Error::other)?;
    table.stage("untar, place", false, of_tar.cpu, &tars, |tar| {
        let bytes = tar.metadata()?.len();
        let input = BufReader::with_capacity(CHUNK, File::open(tar)?);
        apply(
            &mut filesystem,
            &mut TarReader::new(input),
            &DataOrder::default(),
        )
        .map_err(io::Error::other)?;
        Ok(bytes)
    })?;
    // A layer with data that does not fit into 64 KiB blocks has got smaller ones.
    let mut block_sizes = Vec::new();
    for blob in blobs {
        let device = FileDevice::open(blob)?;
        let blob = LayerBlob::open(Arc::new(device)).map_err(io::Error::other)?;
        block_sizes.push(blob.zfile().block_size);
    }
    let mut block_sizes = block_sizes.into_iter();
    table.stage("compress, checksum", true, of_tar.cpu, &tars, |tar| {
        let block_size = block_sizes.next().unwrap_or(BlockSize::KIB_4);
        let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
        let pool = CompressPool::new(1)?;
        let mut writer = ZFileWriter::new(nowhere, 0, algorithm, block_size, pool);
        let mut failed = None;
        let bytes = each_chunk(File::open(tar)?, |chunk| {
            if let Err(error) = writer.write(chunk) {
                failed.get_or_insert(error);
            }
        })?;
        failed.map_or(Ok(bytes), Err)
    })?;
    let (read, of_blob) = measure(|| blobs.iter().map(|blob| reading_file(blob)).sum());
    let read: io::Result<u64> = read;
    read?;
    table.stage("write the blob", false, of_blob.cpu, blobs, |blob| {
        let out = File::create(scratch.join("written.blob"))?;
        let mut at = 0;
        let mut failed = None;
        let bytes = each_chunk(File::open(blob)?, |chunk| {
            if let Err(error) = out.write_all_at(chunk, at) {
                failed.get_or_insert(error);
            }
            at += chunk.len() as u64;
        })?;
        failed.map_or(Ok(bytes), Err)
    })?;
    table.stage("digest of the blob", false, none, blobs, hashing_file)?;
    Ok(table.stages)
}

fn stages_cpu(stages: &[Stage]) -> Duration {
    stages.iter().map(|stage| stage.cpu).sum()
}

/// The least time for all of it on `cores` cores: all CPU time shared out, or the slowest
/// stage that cannot be.
pub fn floor(stages: &[Stage], cores: usize) -> Duration {
    let all = stages_cpu(stages).div_f64(cores.max(1) as f64);
    let single = stages
        .iter()
        .filter(|stage| !stage.splits)
        .map(|stage| stage.cpu);
    single.max().unwrap_or_default().max(all)
}
