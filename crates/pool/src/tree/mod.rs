//! A pool of plain directories: volumes and snapshots are made by walking the tree they come from. The
//! body of the drivers `reflink`, `copy` and `sim`, which differ in how a file's bytes get across.
//!
//! Invariants: see [`crate::layout`]. One thread mutates; any thread may read.
//!
//! # Crash consistency
//! A tree is made under `.new-ID`, the file system is synced, the tree is renamed to its id, the directory
//! is synced. So an id that is listed after a crash of the machine stands for a whole tree with all its
//! bytes, and an answer was durable when it was given. The sync is of the whole file system, once: cheaper
//! than one per file, and where blocks are shared they were written when they were shared.
//! What may leak is one `.new-ID`, which the inventory names and the next call with that id deletes, and
//! `.old-ID-N` trees, which the next opening deletes. A removal is answered after its rename is durable.

mod measure;
mod remove;
mod walk;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use pando_host::durable::sync_parent;
use pando_model::{PoolSnapshotId, VolumeId};
use rustix::fs as rfs;

use crate::accountant::{Accountant, Exclusive};
use crate::layout::{Layout, failed, is_there, make_dir, new_name};
use crate::{Capabilities, Ensured, Inventory, PoolDriver, PoolError, Removed, Room, Usage};

pub(crate) use measure::exclusive_bytes;
pub(crate) use remove::{Reaper, remove_tree};
pub(crate) use walk::Strategy;

/// A pool of plain directories.
pub(crate) struct TreePool {
    layout: Layout,
    capabilities: Capabilities,
    strategy: Strategy,
    reaper: Reaper,
    accountant: Accountant,
    making: Mutex<BTreeSet<OsString>>,
}

impl TreePool {
    pub fn open(root: &Path, capabilities: Capabilities, strategy: Strategy) -> Result<Self, PoolError> {
        let layout = Layout::new(root);
        layout.require()?;
        let reaper = Reaper::start(&layout)?;
        let counted = layout.clone();
        let accountant = Accountant::new(move |stop| count(&counted, strategy, stop));
        Ok(Self { layout, capabilities, strategy, reaper, accountant, making: Mutex::default() })
    }

    /// Makes `target` by `fill`, which is given the name to make it under.
    fn make(&self, target: &Path, fill: impl FnOnce(&Path) -> Result<(), PoolError>) -> Result<Ensured, PoolError> {
        let unseen = target.with_file_name(new_name(&target.file_name().unwrap_or_default().to_string_lossy()));
        let name = unseen.file_name().unwrap_or_default().to_owned();
        self.making.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let made = self.make_unseen(target, &unseen, fill);
        if made.is_err() && remove_tree(&unseen, &AtomicBool::new(false)).is_err() {
            tracing::warn!(path = %unseen.display(), "a half-made tree stays until the next call with its id");
        }
        self.making.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        made
    }

    fn make_unseen(
        &self,
        target: &Path,
        unseen: &Path,
        fill: impl FnOnce(&Path) -> Result<(), PoolError>,
    ) -> Result<Ensured, PoolError> {
        remove_tree(unseen, &AtomicBool::new(false)).map_err(failed("removing half-made", unseen))?;
        if is_there(target)? {
            // The call that named it may have died before it came to its last line.
            sync_parent(target).map_err(failed("syncing", target))?;
            return Ok(Ensured::AlreadyThere);
        }
        fill(unseen)?;
        let dir = File::open(&self.layout.root).map_err(failed("opening", &self.layout.root))?;
        rfs::syncfs(&dir).map_err(failed("syncing", &self.layout.root))?;
        fs::rename(unseen, target).map_err(failed("naming", target))?;
        sync_parent(target).map_err(failed("syncing", target))?;
        Ok(Ensured::Created)
    }

    fn copy(&self, action: &'static str, from: &Path, to: &Path) -> Result<(), PoolError> {
        walk::copy_tree(from, to, self.strategy).map_err(|error| failed(action, &error.path)(error.source))
    }

    fn retire(&self, path: &Path) -> Result<Removed, PoolError> {
        let half = path.with_file_name(new_name(&path.file_name().unwrap_or_default().to_string_lossy()));
        remove_tree(&half, &AtomicBool::new(false)).map_err(failed("removing half-made", &half))?;
        let was_there = self.reaper.retire(path)?;
        // As well if it was not: the call that took its name may have died before it came to this line.
        sync_parent(path).map_err(failed("syncing", path))?;
        Ok(if was_there { Removed::Deleted } else { Removed::AlreadyGone })
    }

    /// Leaves a volume as a crash in the middle of making it would, for the simulation.
    pub fn leave_half_made(&self, volume: &VolumeId) -> Result<(), PoolError> {
        let unseen = self.layout.volumes.join(new_name(volume.as_str()));
        make_dir(&unseen).map_err(failed("making", &unseen))
    }
}

impl PoolDriver for TreePool {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn inventory(&self) -> Result<Inventory, PoolError> {
        let making = |name: &OsStr| self.making.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        self.layout.inventory(|name| making(name) || self.reaper.is_pending(name), Path::is_dir)
    }

    fn create_volume(&self, volume: &VolumeId) -> Result<Ensured, PoolError> {
        self.make(&self.volume_path(volume), |unseen| make_dir(unseen).map_err(failed("making volume", unseen)))
    }

    fn snapshot(&self, volume: &VolumeId, snapshot: &PoolSnapshotId) -> Result<Ensured, PoolError> {
        let (from, to) = (self.volume_path(volume), self.snapshot_path(snapshot));
        self.make(&to, |unseen| {
            if !is_there(&from)? {
                return Err(PoolError::NoVolume(volume.clone()));
            }
            self.copy("snapshotting", &from, unseen)
        })
    }

    fn clone_volume(&self, snapshot: &PoolSnapshotId, volume: &VolumeId) -> Result<Ensured, PoolError> {
        let (from, to) = (self.snapshot_path(snapshot), self.volume_path(volume));
        self.make(&to, |unseen| {
            if !is_there(&from)? {
                return Err(PoolError::NoSnapshot(snapshot.clone()));
            }
            self.copy("cloning", &from, unseen)
        })
    }

    fn destroy_volume(&self, volume: &VolumeId) -> Result<Removed, PoolError> {
        self.retire(&self.volume_path(volume))
    }

    fn destroy_snapshot(&self, snapshot: &PoolSnapshotId) -> Result<Removed, PoolError> {
        self.retire(&self.snapshot_path(snapshot))
    }

    fn volume_path(&self, volume: &VolumeId) -> PathBuf {
        self.layout.volume(volume)
    }

    fn snapshot_path(&self, snapshot: &PoolSnapshotId) -> PathBuf {
        self.layout.snapshot(snapshot)
    }

    fn room(&self) -> Result<Room, PoolError> {
        space(&self.layout.root)
    }

    fn usage(&self) -> Result<Usage, PoolError> {
        let Room { total_bytes, free_bytes } = self.room()?;
        let mut usage = Usage { total_bytes, free_bytes, ..Usage::default() };
        self.accountant.fill(&mut usage, &self.inventory()?);
        Ok(usage)
    }

    fn root(&self) -> &Path {
        &self.layout.root
    }
}

/// What the file system says about its space.
pub(crate) fn space(root: &Path) -> Result<Room, PoolError> {
    let stat = rfs::statvfs(root).map_err(failed("measuring", root))?;
    Ok(Room {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Counts every tree by walking it.
pub(crate) fn count(layout: &Layout, strategy: Strategy, stop: &AtomicBool) -> Result<Exclusive, PoolError> {
    let there = layout.inventory(|_| true, Path::is_dir)?;
    let bytes = |path: PathBuf| match exclusive_bytes(&path, strategy, stop) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        counted => counted.map_err(failed("measuring", &path)),
    };
    let mut exclusive = Exclusive::default();
    for id in there.volumes {
        exclusive.volumes.insert(id.clone(), bytes(layout.volume(&id))?);
    }
    for id in there.snapshots {
        exclusive.snapshots.insert(id.clone(), bytes(layout.snapshot(&id))?);
    }
    Ok(exclusive)
}
