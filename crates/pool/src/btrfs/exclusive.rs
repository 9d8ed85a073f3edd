//! Exact exclusive bytes without quota groups: reads the extent records of every subvolume's tree and
//! looks which extents occur in one subvolume only. Counts data as it lies on disk (compressed), not
//! metadata. See docs/design/2026-11-21-exclusive-bytes.md.
//!
//! Memory is bounded: extents are counted in so many passes that one pass holds at most [`PER_PASS`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::is_refusal;
use crate::PoolError;
use crate::accountant::Exclusive;
use crate::ioctl::{Item, read_u64, search_items};
use crate::layout::{Layout, failed};

const PER_PASS: u64 = 2_000_000;
const EXTENT_DATA: u32 = 108;
/// Offsets in `btrfs_file_extent_item`.
const KIND: usize = 20;
const DISK_BYTENR: usize = 21;
const DISK_NUM_BYTES: usize = 29;
const INLINE: u8 = 0;
/// In place of the number of a subvolume: several hold the extent.
const SHARED: u32 = u32::MAX;

/// Whether this process may read the trees.
pub(super) fn may_search(root: &Path) -> Result<bool, PoolError> {
    let dir = File::open(root).map_err(failed("opening", root))?;
    match search_items(dir.as_fd(), |_| false) {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(failed("reading the trees of", root)(error)),
    }
}

/// Counts everything in the pool once.
pub(super) fn count(layout: &Layout, stop: &AtomicBool) -> Result<Exclusive, PoolError> {
    let there = layout.inventory(|_| true, super::is_subvolume)?;
    let mut paths: Vec<PathBuf> = there.volumes.iter().map(|id| layout.volume(id)).collect();
    paths.extend(there.snapshots.iter().map(|id| layout.snapshot(id)));
    let bytes = count_subvolumes(&paths, stop)?;
    let (volumes, snapshots) = bytes.split_at(there.volumes.len());
    Ok(Exclusive {
        volumes: there.volumes.into_iter().zip(volumes.iter().copied()).collect(),
        snapshots: there.snapshots.into_iter().zip(snapshots.iter().copied()).collect(),
    })
}

fn count_subvolumes(paths: &[PathBuf], stop: &AtomicBool) -> Result<Vec<u64>, PoolError> {
    let (mut bytes, mut passes, mut pass) = (vec![0; paths.len()], 1, 0);
    while pass < passes {
        let mut holders: HashMap<u64, (u32, u64)> = HashMap::new();
        let mut overflow = false;
        for (number, path) in (0_u32..).zip(paths) {
            let scanned = scan(path, stop, |start, len| {
                if (start / 4096) % passes == pass {
                    note(&mut holders, number, start, len);
                }
                overflow = passes < 1024 && holders.len() as u64 > PER_PASS;
                !overflow
            });
            match scanned {
                // Removed since the inventory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                scanned => scanned.map_err(failed("reading the tree of", path))?,
            }
            if overflow || stop.load(Ordering::Relaxed) {
                break;
            }
        }
        if overflow {
            (bytes, passes, pass) = (vec![0; paths.len()], passes * 4, 0);
            continue;
        }
        for (holder, len) in holders.into_values() {
            if let Some(sum) = bytes.get_mut(holder as usize) {
                *sum += len;
            }
        }
        pass += 1;
    }
    Ok(bytes)
}

fn note(holders: &mut HashMap<u64, (u32, u64)>, subvolume: u32, start: u64, len: u64) {
    match holders.entry(start) {
        Entry::Vacant(place) => {
            place.insert((subvolume, len));
        }
        Entry::Occupied(mut known) if known.get().0 != subvolume => known.get_mut().0 = SHARED,
        Entry::Occupied(_) => {}
    }
}

fn scan(path: &Path, stop: &AtomicBool, mut each: impl FnMut(u64, u64) -> bool) -> io::Result<()> {
    let subvolume = File::open(path)?;
    search_items(subvolume.as_fd(), |item| match extent(item) {
        Some((start, len)) => each(start, len) && !stop.load(Ordering::Relaxed),
        None => true,
    })
}

/// Where on disk the extent of a file lies, and how long it is there. Holes and inline data have none.
fn extent(item: &Item<'_>) -> Option<(u64, u64)> {
    if item.kind != EXTENT_DATA || *item.data.get(KIND)? == INLINE {
        return None;
    }
    let (start, len) = (read_u64(item.data, DISK_BYTENR), read_u64(item.data, DISK_NUM_BYTES));
    (start != 0).then_some((start, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_that_two_subvolumes_hold_is_nobodys() {
        let mut holders = HashMap::new();
        for (subvolume, start) in [(0, 4096), (0, 4096), (1, 8192), (0, 8192), (1, 12288)] {
            note(&mut holders, subvolume, start, 4096);
        }
        assert_eq!(holders[&4096].0, 0);
        assert_eq!(holders[&8192].0, SHARED);
        assert_eq!(holders[&12288].0, 1);
    }

    #[test]
    fn holes_and_inline_data_have_no_extent() {
        let item = |kind: u8, start: u64| {
            let mut data = vec![0; 53];
            data[KIND] = kind;
            data[DISK_BYTENR..DISK_BYTENR + 8].copy_from_slice(&start.to_le_bytes());
            data[DISK_NUM_BYTES..DISK_NUM_BYTES + 8].copy_from_slice(&4096_u64.to_le_bytes());
            data
        };
        let read = |data: &[u8]| extent(&Item { kind: EXTENT_DATA, data });
        assert_eq!(read(&item(1, 65536)), Some((65536, 4096)));
        assert_eq!(read(&item(1, 0)), None);
        assert_eq!(read(&item(0, 65536)), None);
        assert_eq!(read(&[0; 4]), None);
    }
}
