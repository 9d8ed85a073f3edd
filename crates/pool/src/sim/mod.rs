//! A pool for tests: plain copies in a directory, and switches to make the next call fail, to fill the
//! pool, and to die in the middle of making a volume.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use pando_model::{PoolSnapshotId, VolumeId};
use rustix::io::Errno;

use crate::layout::Layout;
use crate::tree::{Strategy, TreePool};
use crate::{Capabilities, Ensured, Inventory, PoolDriver, PoolError, Removed, Room, Usage};

/// A simulated pool.
pub struct SimPool {
    tree: TreePool,
    fail_next: AtomicBool,
    die_next: AtomicBool,
    full: AtomicBool,
}

impl SimPool {
    /// Opens, or makes, a simulated pool below `root`.
    pub fn open(root: &Path) -> Result<Self, PoolError> {
        // It says what the best real driver says, so that callers are tested on the path they will take.
        // Whoever tests with it writes nothing while a snapshot is taken.
        Self::with_capabilities(
            root,
            Capabilities {
                driver: "sim",
                atomic_snapshot: true,
                shares_blocks: true,
                constant_time: true,
                exact_exclusive: true,
            },
        )
    }

    /// The same, with other answers to what it can do.
    pub fn with_capabilities(root: &Path, capabilities: Capabilities) -> Result<Self, PoolError> {
        Layout::new(root).create()?;
        Ok(Self {
            tree: TreePool::open(root, capabilities, Strategy::Copy)?,
            fail_next: AtomicBool::new(false),
            die_next: AtomicBool::new(false),
            full: AtomicBool::new(false),
        })
    }

    /// The next mutation fails before it does anything.
    pub fn fail_next(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    /// The next making of a volume fails half done, and leaves what a crash would leave.
    pub fn die_halfway_next(&self) {
        self.die_next.store(true, Ordering::SeqCst);
    }

    /// From now on the pool is full, or no longer.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn may(&self, path: PathBuf) -> Result<(), PoolError> {
        if self.fail_next.swap(false, Ordering::SeqCst) {
            let source = io::Error::other("told to fail");
            return Err(PoolError::Io { action: "simulating", path, source });
        }
        Ok(())
    }

    fn may_make(&self, path: PathBuf) -> Result<(), PoolError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(PoolError::Full(Errno::NOSPC.into()));
        }
        self.may(path)
    }

    fn may_make_volume(&self, volume: &VolumeId) -> Result<(), PoolError> {
        let path = self.volume_path(volume);
        self.may_make(path.clone())?;
        if self.die_next.swap(false, Ordering::SeqCst) {
            self.tree.leave_half_made(volume)?;
            let source = io::Error::other("told to die halfway");
            return Err(PoolError::Io { action: "simulating", path, source });
        }
        Ok(())
    }
}

impl PoolDriver for SimPool {
    fn capabilities(&self) -> Capabilities {
        self.tree.capabilities()
    }

    fn inventory(&self) -> Result<Inventory, PoolError> {
        self.tree.inventory()
    }

    fn create_volume(&self, volume: &VolumeId) -> Result<Ensured, PoolError> {
        self.may_make_volume(volume)?;
        self.tree.create_volume(volume)
    }

    fn snapshot(&self, volume: &VolumeId, snapshot: &PoolSnapshotId) -> Result<Ensured, PoolError> {
        self.may_make(self.snapshot_path(snapshot))?;
        self.tree.snapshot(volume, snapshot)
    }

    fn clone_volume(&self, snapshot: &PoolSnapshotId, volume: &VolumeId) -> Result<Ensured, PoolError> {
        self.may_make_volume(volume)?;
        self.tree.clone_volume(snapshot, volume)
    }

    fn destroy_volume(&self, volume: &VolumeId) -> Result<Removed, PoolError> {
        self.may(self.volume_path(volume))?;
        self.tree.destroy_volume(volume)
    }

    fn destroy_snapshot(&self, snapshot: &PoolSnapshotId) -> Result<Removed, PoolError> {
        self.may(self.snapshot_path(snapshot))?;
        self.tree.destroy_snapshot(snapshot)
    }

    fn volume_path(&self, volume: &VolumeId) -> PathBuf {
        self.tree.volume_path(volume)
    }

    fn snapshot_path(&self, snapshot: &PoolSnapshotId) -> PathBuf {
        self.tree.snapshot_path(snapshot)
    }

    fn room(&self) -> Result<Room, PoolError> {
        let room = self.tree.room()?;
        let full = self.full.load(Ordering::SeqCst);
        Ok(if full { Room { free_bytes: 0, ..room } } else { room })
    }

    fn usage(&self) -> Result<Usage, PoolError> {
        let Room { total_bytes, free_bytes } = self.room()?;
        Ok(Usage { total_bytes, free_bytes, ..self.tree.usage()? })
    }

    fn root(&self) -> &Path {
        self.tree.root()
    }
}
