//! Where the bytes of a disk are said to be, against what readers read for them.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::blob::{DiskPlaces, Holder, LayerBlob, Region, Stack};
use overlaybd_proxy::format::block::{BlockDevice, FileDevice, SharedDevice};
use overlaybd_proxy::lazy::{Contents, ImageFilesystem, Owner};

/// A blob that remembers which of its bytes were read.
struct Watched {
    device: FileDevice,
    reads: parking_lot::Mutex<Vec<Range<u64>>>,
}

impl BlockDevice for Watched {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + buf.len() as u64;
        self.reads.lock().push(range);
        self.device.read_at(offset, buf)
    }
}

impl Watched {
    fn open(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            device: FileDevice::open(path).unwrap(),
            reads: parking_lot::Mutex::default(),
        })
    }

    fn take(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.reads.lock())
    }
}

/// An image of which all blobs are watched: a layer's own first, then its target.
struct Image {
    stack: Arc<Stack>,
    blobs: Vec<[Option<Arc<Watched>>; 2]>,
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

impl Image {
    fn native(directory: &str) -> Self {
        let names = (0..3).map(|n| golden(&format!("{directory}/{n}.obd")));
        let blobs: Vec<_> = names.map(|path| Watched::open(&path)).collect();
        let open = |blob: &Arc<Watched>| {
            let device: SharedDevice = Arc::<Watched>::clone(blob);
            Arc::new(LayerBlob::open(device).unwrap())
        };
        let stack = Arc::new(Stack::new(blobs.iter().map(open).collect()).unwrap());
        let blobs = blobs.into_iter().map(|blob| [Some(blob), None]).collect();
        Self { stack, blobs }
    }

    fn take(&self) -> Vec<(usize, Holder, Range<u64>)> {
        let mut all = Vec::new();
        for (layer, blobs) in self.blobs.iter().enumerate() {
            for (blob, holder) in blobs.iter().zip([Holder::Blob, Holder::Target]) {
                let reads = blob.as_ref().map(|blob| blob.take());
                all.extend(
                    reads
                        .into_iter()
                        .flatten()
                        .map(|range| (layer, holder, range)),
                );
            }
        }
        all
    }

    /// Each read of the disk reads what it is said to read, and nothing else; and what was read is
    /// said to be for it.
    fn check(&self) {
        let places = DiskPlaces::new(Arc::clone(&self.stack)).unwrap();
        let data: Vec<_> = self.stack.visible(0..self.stack.size());
        assert!(data.len() > 10);
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below.max(1)
        };
        for _ in 0..400 {
            let at = &data[usize::try_from(next(data.len() as u64)).unwrap()].disk;
            let start = at.start + next(at.end - at.start);
            let disk = start..(start + 1 + next(200_000)).min(self.stack.size());
            let said = places.stored(disk.clone()).unwrap();
            self.take();
            let mut bytes = vec![0; usize::try_from(disk.end - disk.start).unwrap()];
            self.stack.read_at(disk.start, &mut bytes).unwrap();
            for (layer, holder, read) in self.take() {
                let is_said = said.iter().any(|(l, h, range)| {
                    (*l, *h) == (layer, holder)
                        && range.start <= read.start
                        && read.end <= range.end
                });
                assert!(
                    is_said,
                    "{disk:?} reads {read:?} of layer {layer}: {said:?}"
                );
            }
            for (layer, holder, range) in said {
                assert!(range.start < range.end);
                let back = places.disk(layer, holder, range.clone()).unwrap();
                let is_back = back
                    .iter()
                    .any(|it| it.start < disk.end && disk.start < it.end);
                assert!(
                    is_back,
                    "{range:?} of layer {layer} is not for {disk:?}: {back:?}"
                );
                // And for nothing that is stored elsewhere.
                for it in back {
                    let ends = [it.start..it.start + 1, it.end - 1..it.end];
                    for byte in ends {
                        let stored = places.stored(byte.clone()).unwrap();
                        let touches = stored.iter().any(|(l, h, other)| {
                            (*l, *h) == (layer, holder)
                                && other.start < range.end
                                && range.start < other.end
                        });
                        assert!(touches, "{byte:?} is not in {range:?}: {stored:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_read_of_the_disk_reads_the_bytes_of_blobs_that_are_said_to_hold_it() {
    for directory in ["lz4-4", "lz4-64", "zstd-16"] {
        Image::native(directory).check();
    }
}

#[test]
fn what_opens_a_layer_is_outside_of_its_data() {
    let image = Image::native("lz4-4");
    let blob = image.blobs[0][0].as_ref().unwrap();
    let layer = &image.stack.layers()[0];
    let regions = layer.regions().unwrap();
    let kinds: Vec<_> = regions.iter().map(|(region, _)| *region).collect();
    assert_eq!(
        kinds,
        [Region::Headers, Region::LsmtIndex, Region::ZFileIndex]
    );
    // Opening it reads them, and all that it reads is in them.
    for read in blob.take() {
        let inside = regions
            .iter()
            .any(|(_, it)| it.start <= read.start && read.end <= it.end);
        assert!(inside, "{read:?}: {regions:?}");
    }
    assert_eq!(regions[2].1.end, blob.size() - trailer(blob.size()));
}

/// What the tar has behind the `ZFile`: two blocks, and up to a whole one.
fn trailer(size: u64) -> u64 {
    let file = golden("lz4-4/0.obd");
    let bytes = std::fs::read(file).unwrap();
    let text = String::from_utf8_lossy(&bytes[512..1024]).into_owned();
    let zfile: u64 = text
        .split_once("size=")
        .unwrap()
        .1
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    size - 1536 - zfile
}

#[test]
fn files_are_found_by_the_bytes_of_the_disk() {
    let image = Image::native("lz4-4");
    let device: SharedDevice = Arc::<Stack>::clone(&image.stack);
    let filesystem = ImageFilesystem::open(device).unwrap();
    let all = Contents::find(&filesystem, &[0..image.stack.size()]).unwrap();
    assert!(all.files().len() > 3);
    for file in all.files().iter().filter(|file| !file.disk.is_empty()) {
        // What is read at the file's place is the file's.
        let place = &file.disk[0];
        let some = Contents::find(&filesystem, std::slice::from_ref(place)).unwrap();
        assert_eq!(some.files(), std::slice::from_ref(file));
        let owners = some.owners(place.clone());
        assert_eq!(owners, [(place.clone(), Owner::File(file))]);
        let (mut by_path, mut by_place) = (vec![0; 16], vec![0; 16]);
        let mut ino = filesystem.root();
        for name in file.path.split(|byte| *byte == b'/').skip(1) {
            ino = filesystem.lookup(ino, name).unwrap().unwrap();
        }
        let open = filesystem.open_file(ino).unwrap();
        let length = filesystem.read(&open, 0, &mut by_path).unwrap();
        image.stack.read_at(place.start, &mut by_place).unwrap();
        if open.extents[0].logical_block == 0 {
            assert_eq!(by_path[..length], by_place[..length]);
        }
    }
    let superblock = all.owners(0..4096);
    assert!(
        matches!(superblock[..], [(_, Owner::Table(_))]),
        "{superblock:?}"
    );
}
