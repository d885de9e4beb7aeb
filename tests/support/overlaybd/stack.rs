//! Layers upon each other, and the disk that they make.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::Layer;
use super::rules::{Rule, Violation};

const MAX_LAYERS: usize = 255;
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";
const SECTOR: u64 = 512;

/// Layers that keep the rules together, bottom first.
pub struct Stack<'a> {
    layers: Vec<&'a Layer>,
}

/// Where some sectors are: up to which one, in which layer, from which sector of it on.
#[derive(Debug, Clone, Copy)]
struct Place {
    end: u64,
    layer: usize,
    moffset: u64,
}

impl<'a> Stack<'a> {
    /// These layers as a stack.
    pub fn new(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Self, Violation> {
        let stack = Self::of_one_disk(layers)?;
        let mut below = "";
        for (number, layer) in stack.layers.iter().enumerate() {
            let parent = match layer.lsmt.parent.as_str() {
                NO_UUID => "",
                parent => parent,
            };
            Rule::StackParent.when(
                parent == below,
                format!("layer {number} names {parent:?}, and {below:?} is below it"),
            )?;
            below = &layer.lsmt.uuid;
        }
        Ok(stack)
    }

    /// The same, for layers that do not say what they are stacked upon.
    pub fn of_one_disk(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Self, Violation> {
        let layers: Vec<&Layer> = layers.into_iter().collect();
        let count = layers.len();
        Rule::StackHeight.when((1..=MAX_LAYERS).contains(&count), count)?;
        let size = layers[0].virtual_size();
        for (number, layer) in layers.iter().enumerate() {
            Rule::StackSize.when(
                layer.virtual_size() == size,
                format!("layer {number} has {}, not {size}", layer.virtual_size()),
            )?;
        }
        Ok(Self { layers })
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.layers[0].virtual_size()
    }

    /// The topmost data of each sector that has some.
    fn merged(&self) -> BTreeMap<u64, Place> {
        let mut places: BTreeMap<u64, Place> = BTreeMap::new();
        for (layer, mappings) in self.layers.iter().map(|it| it.mappings()).enumerate() {
            for mapping in mappings {
                cut(&mut places, mapping.offset, mapping.end());
                if !mapping.zeroed {
                    let place = Place {
                        end: mapping.end(),
                        layer,
                        moffset: mapping.moffset,
                    };
                    places.insert(mapping.offset, place);
                }
            }
        }
        places
    }

    /// Writes the disk to an empty file, with holes where no data is.
    pub fn write(&self, file: &File) -> Result<(), Violation> {
        file.set_len(self.size()).unwrap();
        for (start, place) in self.merged() {
            let zfile = &self.layers[place.layer].zfile;
            let (mut at, mut from) = (start * SECTOR, place.moffset * SECTOR);
            while at < place.end * SECTOR {
                let len = (place.end * SECTOR - at).min(1 << 20);
                let data = zfile.read(from, usize::try_from(len).unwrap())?;
                file.write_all_at(&data, at).unwrap();
                at += len;
                from += len;
            }
        }
        Ok(())
    }
}

/// Makes room for sectors: what lies there is gone, what sticks out stays.
fn cut(places: &mut BTreeMap<u64, Place>, start: u64, end: u64) {
    let first = places.range(..start).next_back();
    let from = match first {
        Some((first, place)) if place.end > start => *first,
        _ => start,
    };
    let hit: Vec<u64> = places.range(from..end).map(|(start, _)| *start).collect();
    for at in hit {
        let place = places.remove(&at).unwrap();
        if at < start {
            let head = Place {
                end: start,
                ..place
            };
            places.insert(at, head);
        }
        if place.end > end {
            let tail = Place {
                moffset: place.moffset + end - at,
                ..place
            };
            places.insert(end, tail);
        }
    }
}
