//! Which reads of a disk the requests for its blobs were for.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;

use super::image::LayerPlace;
use super::traffic::Fetched;
use crate::format::blob::{DiskPlaces, Holder};
use crate::format::block::joined;
use crate::oci::Digest;

/// What requests were for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Causes {
    /// For each request the part of the disk for which a read was the first to need a byte of it;
    /// `None` where no read did.
    pub first: Vec<Option<Range<u64>>>,
    /// Bytes of blobs that hold what was read: compressed blocks as a whole, each once.
    pub needed: u64,
}

/// Finds for each request the first read of the disk that needed a byte of what it brought.
/// `reads` are ranges of the disk in bytes, in the order in which they were read, `layers` those
/// of the disk, bottom first.
///
/// # Errors
/// When a layer's mappings do not fit its blob.
pub fn causes(
    fetched: &[Fetched],
    reads: &[Range<u64>],
    places: &DiskPlaces,
    layers: &[LayerPlace],
) -> io::Result<Causes> {
    let mut first = vec![None; fetched.len()];
    let mut open = Open::default();
    for (number, request) in fetched.iter().enumerate() {
        open.add(request, number);
    }
    let mut needed: HashMap<&Digest, Vec<Range<u64>>> = HashMap::new();
    for read in reads {
        for (layer, holder, stored) in places.stored(read.clone())? {
            let Some(digest) = layers.get(layer).and_then(|place| blob(place, holder)) else {
                continue;
            };
            for number in open.take(digest, &stored) {
                let request = fetched.get(number).map(|request| &request.range);
                if let (Some(request), Some(first)) = (request, first.get_mut(number)) {
                    // A read may go over many files, of which it is those of this request.
                    let both = request.start.max(stored.start)..request.end.min(stored.end);
                    let mut parts = places.disk(layer, holder, both)?.into_iter();
                    let part = parts.find_map(|part| {
                        let part = part.start.max(read.start)..part.end.min(read.end);
                        (part.start < part.end).then_some(part)
                    });
                    *first = Some(part.unwrap_or_else(|| read.clone()));
                }
            }
            let ranges = needed.entry(digest).or_default();
            ranges.push(stored);
            // Programs read the same again and again.
            if ranges.len() > 2 * MANY {
                *ranges = joined(std::mem::take(ranges));
            }
        }
    }
    let length = |range: Range<u64>| range.end.saturating_sub(range.start);
    let needed = needed.into_values().flat_map(joined).map(length).sum();
    Ok(Causes { first, needed })
}

/// So many ranges are joined with each other now and then.
const MANY: usize = 1 << 16;

fn blob(layer: &LayerPlace, holder: Holder) -> Option<&Digest> {
    match holder {
        Holder::Blob => Some(&layer.blob.0),
        Holder::Target => layer.target.as_ref().map(|(digest, _)| digest),
    }
}

/// The requests that no read has needed yet.
#[derive(Default)]
struct Open<'a> {
    /// For each blob, by beginning: the end, and the numbers of the requests. A request that was
    /// made again is one more of the same range.
    blobs: HashMap<&'a Digest, BTreeMap<u64, (u64, Vec<usize>)>>,
    /// The length of the longest.
    longest: u64,
}

impl<'a> Open<'a> {
    fn add(&mut self, request: &'a Fetched, number: usize) {
        let Range { start, end } = request.range;
        let ranges = self.blobs.entry(&request.blob).or_default();
        let (reach, numbers) = ranges.entry(start).or_default();
        *reach = end.max(*reach);
        numbers.push(number);
        self.longest = self.longest.max(end.saturating_sub(start));
    }

    /// Takes out the requests that brought a byte of a range.
    fn take(&mut self, blob: &Digest, range: &Range<u64>) -> Vec<usize> {
        let Some(ranges) = self.blobs.get_mut(blob) else {
            return Vec::new();
        };
        let from = range.start.saturating_sub(self.longest);
        let starts: Vec<u64> = ranges
            .range(from..range.end)
            .filter(|(_, (end, _))| *end > range.start)
            .map(|(start, _)| *start)
            .collect();
        let taken = starts.iter().filter_map(|start| ranges.remove(start));
        taken.flat_map(|(_, numbers)| numbers).collect()
    }
}
