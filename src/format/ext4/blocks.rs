//! The block allocator.

use std::ops::Range;

use super::bitmap;
use super::checksum::ChecksumKind;
use super::cursors::Purpose;
use super::error::{Error, Result, corrupt, narrow};
use super::layout::group_flags;
use super::volume::Volume;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Lengths in blocks that a run of free blocks must have to be taken, in the order in which
/// they are tried. The first is what one extent can hold.
const MIN_RUN_BLOCKS: [u64; 4] = [32_768, 1024, 32, 1];

/// Whether a search may skip groups of which the descriptor counts no free blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Trusted,
    Ignored,
}

/// A group's block bitmap, built if it was never written. A wrong count of free blocks in the
/// descriptor is corrected: some tools leave one.
fn group_bitmap<D: BlockDevice>(volume: &mut Volume<D>, number: u32) -> Result<&[u8]> {
    let geometry = *volume.geometry();
    let count = geometry.group_blocks(number) as usize;
    let group = *volume.group(number)?;
    let has_uninit = volume.superblock().checksums().has_uninit();
    if group.flags & group_flags::BLOCK_UNINIT != 0 && has_uninit {
        let start = geometry.group_start(number);
        let used = volume.system_zone().within(start, start + count as u64);
        let bits = volume.write_zeroed(group.block_bitmap, ChecksumKind::None)?;
        for range in used {
            let (from, to) = (narrow(range.start - start)?, narrow(range.end - start)?);
            bitmap::fill(bits, from, to, true);
        }
        bitmap::fill(bits, count, geometry.block_len() * 8, true);
        let group = volume.group_mut(number)?;
        group.flags &= !group_flags::BLOCK_UNINIT;
        group.bitmaps_changed = true;
        group.changed = true;
    }
    if !group.blocks_counted {
        let free = bitmap::count_clear(volume.read(group.block_bitmap)?, count)?;
        let group = volume.group_mut(number)?;
        group.changed |= group.free_blocks != free;
        group.free_blocks = free;
        group.blocks_counted = true;
    }
    volume.read(group.block_bitmap)
}

/// The first free run of `least` blocks in a range, at most `most` long.
fn find_run<D: BlockDevice>(
    volume: &mut Volume<D>,
    range: Range<u64>,
    least: u64,
    most: u64,
    counts: Counts,
) -> Result<Option<Range<u64>>> {
    let geometry = *volume.geometry();
    let (mut run_start, mut run_length) = (range.start, 0);
    let mut at = range.start;
    while at < range.end {
        let number = geometry.group_of(at)?;
        let start = geometry.group_start(number);
        let end = (start + u64::from(geometry.group_blocks(number))).min(range.end);
        if counts == Counts::Trusted && volume.group(number)?.free_blocks == 0 {
            if run_length >= least {
                break;
            }
            at = end;
            (run_start, run_length) = (at, 0);
            continue;
        }
        let bits = group_bitmap(volume, number)?;
        let end_bit = narrow(end - start)?;
        let mut bit: usize = narrow(at - start)?;
        while bit < end_bit {
            let used = bitmap::find(bits, bit, end_bit, true);
            run_length += (used - bit) as u64;
            if run_length >= most {
                return Ok(Some(run_start..run_start + most));
            }
            if used == end_bit {
                break;
            }
            if run_length >= least {
                return Ok(Some(run_start..run_start + run_length));
            }
            bit = bitmap::find(bits, used, end_bit, false);
            (run_start, run_length) = (start + bit as u64, 0);
        }
        at = end;
    }
    Ok((run_length >= least).then_some(run_start..run_start + run_length))
}

/// As [`find_run`], from where the last blocks were taken, and then from the start.
fn search<D: BlockDevice>(
    volume: &mut Volume<D>,
    purpose: Purpose,
    least: u64,
    most: u64,
    counts: Counts,
) -> Result<Option<Range<u64>>> {
    let geometry = *volume.geometry();
    let cursor = volume.cursors().block(purpose);
    let ahead = cursor..geometry.blocks;
    if let Some(run) = find_run(volume, ahead, least, most, counts)? {
        return Ok(Some(run));
    }
    let behind = geometry.first_block..cursor;
    find_run(volume, behind, least, most, counts)
}

/// Takes `count` blocks, in few runs: the longest that a search by [`MIN_RUN_BLOCKS`] finds.
pub(super) fn allocate<D: BlockDevice>(
    volume: &mut Volume<D>,
    count: u64,
    purpose: Purpose,
) -> Result<Vec<Range<u64>>> {
    let full = Error::NoSpace {
        disk: volume.geometry().size(),
    };
    if count > volume.geometry().blocks {
        return Err(full);
    }
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut left = count;
    let mut levels = MIN_RUN_BLOCKS.iter().copied();
    let mut level = levels.next().unwrap_or(1);
    while left > 0 {
        let found = search(volume, purpose, left.min(level), left, Counts::Trusted)?;
        let run = match found {
            Some(run) => run,
            None => match levels.by_ref().find(|next| *next < left || *next == 1) {
                Some(next) => {
                    level = next;
                    continue;
                }
                // Descriptors that count no free blocks may be wrong.
                None => match search(volume, purpose, 1, left, Counts::Ignored)? {
                    Some(run) => run,
                    None => return Err(full),
                },
            },
        };
        let length = run.end - run.start;
        mark(volume, run.start, length, true)?;
        volume.cursors_mut().set_block(purpose, run.end);
        left -= length;
        match runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => runs.push(run),
        }
    }
    Ok(runs)
}

/// Takes a block for metadata and fills it with zeros.
pub(super) fn allocate_metadata<D: BlockDevice>(
    volume: &mut Volume<D>,
    kind: ChecksumKind,
) -> Result<u64> {
    let runs = allocate(volume, 1, Purpose::Metadata)?;
    let Some(run) = runs.first() else {
        return corrupt("no block was allocated");
    };
    volume.write_zeroed(run.start, kind)?;
    Ok(run.start)
}

/// Marks blocks as used that are free, or the other way round.
fn mark<D: BlockDevice>(volume: &mut Volume<D>, start: u64, count: u64, used: bool) -> Result<()> {
    let geometry = *volume.geometry();
    if volume.system_zone().overlaps(start, count) {
        return corrupt(format!(
            "blocks {start} to {} hold the filesystem's own tables, and are {}",
            start + count,
            if used {
                "marked as free"
            } else {
                "also mapped by a file"
            }
        ));
    }
    let (mut at, end) = (start, start + count);
    while at < end {
        let number = geometry.group_of(at)?;
        let group_start = geometry.group_start(number);
        let stop = (group_start + u64::from(geometry.group_blocks(number))).min(end);
        group_bitmap(volume, number)?;
        let place = volume.group(number)?.block_bitmap;
        let bits = volume.write(place, ChecksumKind::None)?;
        let (from, to) = (narrow(at - group_start)?, narrow(stop - group_start)?);
        if !bitmap::put(bits, from, to, used) {
            return corrupt(format!(
                "some of the blocks {at} to {stop} are {} already",
                if used { "used" } else { "free" }
            ));
        }
        let length = narrow(stop - at)?;
        let group = volume.group_mut(number)?;
        group.free_blocks = if used {
            group.free_blocks.saturating_sub(length)
        } else {
            group.free_blocks.saturating_add(length)
        };
        group.bitmaps_changed = true;
        group.changed = true;
        at = stop;
    }
    Ok(())
}

/// Gives blocks back.
pub(super) fn free<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    start: u64,
    count: u64,
) -> Result<()> {
    volume.geometry().check("a file's blocks", start, count)?;
    mark(volume, start, count, false)?;
    volume.discard(start, count)
}
