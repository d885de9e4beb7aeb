//! A TurboOCI image: its layers verified, and read as one disk with and without the original
//! layers that the data is in.

use std::collections::HashMap;
use std::io::{self, BufReader, Read as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use super::annotations::{check_blob, check_target, is_turbo_layer};
use super::blobs::{native_layer, parents, refusals};
use super::bytes::damaged;
use super::decompress::Packing;
use super::fetch::Blobs;
use super::file_range::FileRange;
use super::gzip_points;
use super::original::Original;
use super::report::{Damaged, finding};
use super::tree::Tree;
use super::turbo_files::TurboFiles;
use crate::format::blob::{LayerBlob, Stack};
use crate::format::block::{BlockDevice, FileDevice};
use crate::format::gzip_index::GzipIndex;
use crate::oci::{Descriptor, DiffId, Digest, ImageManifest};

/// The tag of a mapping to the target.
const TARGET: u8 = 1;
const SECTOR: u64 = 512;

/// An image and the digests of the tars in its layers.
pub(super) struct Image<'a> {
    pub(super) blobs: &'a Blobs,
    pub(super) manifest: &'a ImageManifest,
    pub(super) diff_ids: &'a [DiffId],
}

impl Image<'_> {
    fn layers(&self) -> impl Iterator<Item = (&Descriptor, &DiffId)> {
        self.manifest.layers.iter().zip(self.diff_ids)
    }
}

/// The root filesystems of the source and of the TurboOCI image made of it. `None` if a layer is
/// damaged; all layers are read nevertheless, and `problems` says what is wrong with each.
pub(super) fn trees(
    source: &Image<'_>,
    converted: &Image<'_>,
    problems: &mut Vec<String>,
) -> anyhow::Result<Option<(Tree, Tree)>> {
    let (count, expected) = (
        converted.manifest.layers.len(),
        source.manifest.layers.len(),
    );
    if count != expected || converted.diff_ids.len() != count {
        let diff_ids = converted.diff_ids.len();
        problems.push(format!(
            "it has {count} layers and {diff_ids} diff ids, and the source has {expected} layers: \
             each layer of a TurboOCI image is made of one of the source's"
        ));
        return Ok(None);
    }
    let mut originals = Originals::new(source);
    let data = Arc::new(Data::default());
    let mut tree = Tree::bare();
    let mut layers: Vec<Arc<LayerBlob>> = Vec::new();
    let mut below: Option<&Descriptor> = None;
    for (number, (original, layer)) in source.layers().zip(converted.layers()).enumerate() {
        let original = original_layer(&mut originals, original, number, &mut tree);
        let original = match original.context("the source") {
            Ok(original) => original,
            Err(error) => {
                problems.push(finding(error)?);
                return Ok(None);
            }
        };
        let (descriptor, _) = layer;
        check_blob(descriptor, problems);
        let opened = if is_turbo_layer(descriptor) {
            if converted
                .manifest
                .layers
                .first()
                .is_some_and(|bottom| !is_turbo_layer(bottom))
            {
                problems.push(format!(
                    "layer {}: it is a TurboOCI layer upon a native one, and nodes cannot stack \
                     these",
                    descriptor.digest
                ));
            }
            turbo_layer(converted.blobs, layer, &original, &data, problems)
        } else {
            native_layer(converted.blobs, descriptor)
        };
        match opened {
            Ok(blob) => {
                refusals(&blob, descriptor, problems);
                let below = below.map(|layer| &layer.digest);
                parents(&blob, descriptor, below, layers.last(), problems);
                layers.push(Arc::new(blob));
            }
            Err(error) => problems.push(finding(error)?),
        }
        below = Some(descriptor);
    }
    if layers.len() != count {
        return Ok(None);
    }
    let stack = Stack::new(layers)?;
    data.is_there.store(false, Ordering::Relaxed);
    if let Err(error) = Tree::structure(&stack) {
        let error = anyhow::Error::from(error).context("the filesystem without its data");
        problems.push(finding(error)?);
    }
    data.is_there.store(true, Ordering::Relaxed);
    let found = Tree::from_filesystem(stack).context("the converted root filesystem")?;
    Ok(Some((tree, found)))
}

/// The source's layers, each fetched once: empty ones often are there twice.
struct Originals<'a> {
    blobs: &'a Blobs,
    layers: HashMap<(Digest, DiffId), Again>,
}

/// A layer that is still to come.
#[derive(Default)]
struct Again {
    times: usize,
    fetched: Option<Rc<Original>>,
}

impl<'a> Originals<'a> {
    fn new(source: &Image<'a>) -> Self {
        let mut layers: HashMap<_, Again> = HashMap::new();
        for (layer, diff_id) in source.layers() {
            let key = (layer.digest.clone(), diff_id.clone());
            layers.entry(key).or_default().times += 1;
        }
        Self {
            blobs: source.blobs,
            layers,
        }
    }

    fn get(&mut self, layer: &Descriptor, diff_id: &DiffId) -> anyhow::Result<Rc<Original>> {
        let key = (layer.digest.clone(), diff_id.clone());
        let again = self.layers.entry(key).or_default();
        let original = match again.fetched.take() {
            Some(original) => original,
            None => Rc::new(Original::fetch(self.blobs, layer, diff_id)?),
        };
        again.times = again.times.saturating_sub(1);
        if again.times > 0 {
            again.fetched = Some(Rc::clone(&original));
        }
        Ok(original)
    }
}

/// Fetches a layer of the source and puts it on the source's root filesystem.
fn original_layer(
    originals: &mut Originals<'_>,
    (layer, diff_id): (&Descriptor, &DiffId),
    number: usize,
    tree: &mut Tree,
) -> anyhow::Result<Rc<Original>> {
    let original = originals.get(layer, diff_id)?;
    let tar = FileRange::from(&original.tar, 0).take(original.tar_size);
    tree.add_layer(number, BufReader::with_capacity(1 << 18, tar))?;
    Ok(original)
}

/// A TurboOCI layer over its original one.
fn turbo_layer(
    blobs: &Blobs,
    (layer, diff_id): (&Descriptor, &DiffId),
    original: &Original,
    data: &Arc<Data>,
    problems: &mut Vec<String>,
) -> anyhow::Result<LayerBlob> {
    check_target(layer, &original.digest, original.packing, problems);
    let name = || format!("layer {}", layer.digest);
    let mut add = |text| problems.push(format!("{}: {text}", name()));
    let mut files = TurboFiles::default();
    blobs
        .untar(layer, diff_id, |tar| files.take(tar))
        .with_context(name)?;
    let is_gzip = original.packing == Packing::Gzip;
    files.problems(is_gzip).into_iter().for_each(&mut add);
    if let Some(index) = files.index.filter(|_| is_gzip) {
        let index = GzipIndex::open(Arc::new(FileDevice::new(index)?));
        match index {
            Ok(index) => {
                let wrong = gzip_points::problems(&index, original)?;
                wrong.into_iter().for_each(&mut add);
            }
            Err(error) => add(error.to_string()),
        }
    }
    let meta = files
        .meta
        .ok_or_else(|| Damaged("there is nothing in it that could be read".to_owned()));
    let meta = FileDevice::new(meta.with_context(name)?)?;
    let target = Target {
        tar: FileDevice::new(original.tar.try_clone()?)?,
        data: Arc::clone(data),
    };
    // Both are local copies: what cannot be read of them is damaged.
    let open = || -> Result<LayerBlob, Damaged> {
        let blob = LayerBlob::open_turbo(Arc::new(meta), Arc::new(target))
            .map_err(|error| Damaged(error.to_string()))?;
        blob.verify().map_err(|error| Damaged(error.to_string()))?;
        Ok(blob)
    };
    let blob = open().with_context(name)?;
    if let Some(text) = outside(&blob, original.tar_size) {
        add(text);
    }
    Ok(blob)
}

/// The mappings that lead out of the target.
fn outside(blob: &LayerBlob, tar_size: u64) -> Option<String> {
    let sectors = tar_size.div_ceil(SECTOR);
    let mut outside = blob.mappings().iter().filter(|mapping| {
        let end = mapping.moffset.saturating_add(mapping.length);
        mapping.tag == TARGET && !mapping.zeroed && end > sectors
    });
    let first = outside.next()?;
    let more = outside.count();
    Some(format!(
        "{} of its mappings point outside of the {sectors} sectors of the original layer's tar, \
         the first of them {first}",
        more.saturating_add(1)
    ))
}

/// Whether the original layers can be read.
#[derive(Default)]
struct Data {
    is_there: AtomicBool,
}

/// The tar of an original layer.
struct Target {
    tar: FileDevice,
    data: Arc<Data>,
}

impl BlockDevice for Target {
    fn size(&self) -> u64 {
        self.tar.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.data.is_there.load(Ordering::Relaxed) {
            return self.tar.read_at(offset, buf);
        }
        Err(damaged(format!(
            "this is at byte {offset} of an original layer's tar, and nodes have to mount the \
             image and list its files without reading any data"
        )))
    }
}
