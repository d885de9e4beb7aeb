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

/// Which thread does a stage of a layer's conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Takes the layer from where it is, and inflates it.
    Inflate,
    /// Hashes the compressed bytes.
    Digest,
    /// Hashes the tar.
    DiffId,
    /// Reads the tar, places it in the filesystem and writes the blob.
    Apply,
    /// As many as there are cores compress.
    Any,
    /// Hashes the blob once all of it is known: its front is written last.
    Seal,
}

/// A stage: its name, the bytes that go in and its CPU time, of each layer.
#[derive(Debug, Clone)]
pub struct Stage {
    pub name: &'static str,
    pub thread: Thread,
    pub layers: Vec<(u64, Duration)>,
}

impl Stage {
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|(bytes, _)| bytes).sum()
    }
    pub fn cpu(&self) -> Duration {
        self.layers.iter().map(|(_, cpu)| cpu).sum()
    }
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
    /// Measures a stage; with the CPU time of each layer, reading included.
    fn stage(
        &mut self,
        name: &'static str,
        thread: Thread,
        reading: &[Duration],
        inputs: &[PathBuf],
        work: impl FnMut(&Path) -> io::Result<u64>,
    ) -> io::Result<Vec<Duration>> {
        let costs = each(inputs, work)?;
        let reading = reading
            .iter()
            .copied()
            .chain(std::iter::repeat(Duration::ZERO));
        let layers = costs.iter().zip(reading);
        let layers = layers.map(|((bytes, cpu), reading)| (*bytes, cpu.saturating_sub(reading)));
        self.stages.push(Stage {
            name,
            thread,
            layers: layers.collect(),
        });
        Ok(costs.into_iter().map(|(_, cpu)| cpu).collect())
    }
}

/// The bytes of each input, and what `work` took for it.
fn each(
    inputs: &[PathBuf],
    mut work: impl FnMut(&Path) -> io::Result<u64>,
) -> io::Result<Vec<(u64, Duration)>> {
    let measured = inputs.iter().map(|path| {
        let (bytes, cost) = measure(|| work(path));
        Ok((bytes?, cost.cpu))
    });
    measured.collect()
}

/// What reading each of these takes.
fn reading(inputs: &[PathBuf]) -> io::Result<Vec<Duration>> {
    let costs = each(inputs, reading_file)?;
    Ok(costs.into_iter().map(|(_, cpu)| cpu).collect())
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
    let mut table = Table { stages: Vec::new() };
    let of_layer = table.stage(
        "fetch: read the layer",
        Thread::Inflate,
        &[],
        &layers,
        reading_file,
    )?;
    table.stage("digest", Thread::Digest, &of_layer, &layers, hashing_file)?;
    table.stage("inflate", Thread::Inflate, &of_layer, &layers, |layer| {
        each_chunk(inflated(layer)?, |_| ())
    })?;
    let of_tar = reading(&tars)?;
    table.stage("diff id", Thread::DiffId, &of_tar, &tars, hashing_file)?;
    let disk = Nowhere(64 << 30);
    let formatted = Filesystem::format(disk, &FormatOptions::default());
    let mut filesystem = formatted.map_err(io::Error::other)?;
    table.stage("untar, place", Thread::Apply, &of_tar, &tars, |tar| {
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
    table.stage("compress, checksum", Thread::Any, &of_tar, &tars, |tar| {
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
    let of_blob = reading(blobs)?;
    table.stage("write the blob", Thread::Apply, &of_blob, blobs, |blob| {
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
    table.stage("digest of the blob", Thread::Seal, &[], blobs, hashing_file)?;
    Ok(table.stages)
}

/// The least time for all of it on `cores` cores: all CPU time shared out, or the slowest
/// stage that cannot be.
pub fn floor(stages: &[Stage], cores: usize) -> Duration {
    let all: Duration = stages.iter().map(Stage::cpu).sum();
    let single = stages
        .iter()
        .filter(|stage| stage.thread != Thread::Any)
        .map(Stage::cpu);
    let all = all.div_f64(cores.max(1) as f64);
    single.max().unwrap_or_default().max(all)
}

/// What the stages allow for one layer alone on `cores` cores, by Amdahl's law.
///
/// The stages of a layer overlap, each [`Thread`] with the others. So until the last byte of the
/// blob is written it takes the longest that any one thread works, or all of their CPU time shared
/// out over the cores, whichever is more. The digest of the blob comes after that and is one
/// thread's work: nothing of the same layer overlaps it. Waiting for disks and networks, and the
/// sharing of caches and memory between cores, are not in it.
pub fn of_one_layer(stages: &[Stage], layer: usize, cores: usize) -> Duration {
    let cpu = |thread: Option<Thread>| -> Duration {
        let of_thread = stages
            .iter()
            .filter(|stage| thread.is_none_or(|thread| stage.thread == thread));
        of_thread
            .filter_map(|stage| stage.layers.get(layer))
            .map(|(_, cpu)| cpu)
            .sum()
    };
    let tail = cpu(Some(Thread::Seal));
    let shared = (cpu(None) - tail).div_f64(cores.max(1) as f64);
    let single = [
        Thread::Inflate,
        Thread::Digest,
        Thread::DiffId,
        Thread::Apply,
    ];
    let longest = single.map(|thread| cpu(Some(thread))).into_iter().max();
    longest.unwrap_or_default().max(shared) + tail
}
