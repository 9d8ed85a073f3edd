//! The copy-on-write storage of one node. Knows volumes (writable trees) and snapshots (read-only trees),
//! nothing of databases.
//!
//! Callers give ids, never paths; names on disk are the ids, so that what there is can be compared with
//! what the catalog means by a set difference. Calls block; one worker per pool makes the mutations. Each
//! mutation may be repeated: it answers whether it had anything to do.

mod accountant;
pub mod btrfs;
pub mod conformance;
pub mod copy;
mod image;
mod init;
mod ioctl;
mod layout;
mod open;
pub mod reflink;
pub mod sim;
mod tree;

pub use init::{choose, create, discard};
pub use layout::{minds_set_uid, snapshots_of};
pub use open::{DriverKind, ImageConfig, PoolConfig, open};
pub use sim::SimPool;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::ToolError;
use pando_model::{PoolSnapshotId, VolumeId};
use thiserror::Error;

/// What making something came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was made now.
    Created,
    /// It was there before.
    AlreadyThere,
}

/// What removing something came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was removed now.
    Deleted,
    /// It was not there.
    AlreadyGone,
}

/// What a driver can do, each with the question it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's word: `btrfs`, `reflink`, `copy`, `sim`.
    pub driver: &'static str,
    /// Does a snapshot show one instant even while the tree is being written? If not, writers must be
    /// paused around it.
    pub atomic_snapshot: bool,
    /// Do unchanged blocks of a clone cost nothing?
    pub shares_blocks: bool,
    /// Does making a snapshot or clone take the same time however many files and bytes there are?
    pub constant_time: bool,
    /// Are the exclusive bytes in [`Usage`] exact (else an estimate)?
    pub exact_exclusive: bool,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Volumes, whole.
    pub volumes: Vec<VolumeId>,
    /// Snapshots, whole.
    pub snapshots: Vec<PoolSnapshotId>,
    /// Names in the pool that are neither, and half-made things left by a crash.
    pub strangers: Vec<String>,
}

/// How full the pool is, and who holds what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that a write can still get (for btrfs: data space that can be allocated).
    pub free_bytes: u64,
    /// Bytes that only this volume holds.
    pub volumes: BTreeMap<VolumeId, u64>,
    /// Bytes that only this snapshot holds.
    pub snapshots: BTreeMap<PoolSnapshotId, u64>,
}

/// How full the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that a write can still get.
    pub free_bytes: u64,
}

/// Why a call did not do its work.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The volume is not there.
    #[error("volume {0} is not in the pool")]
    NoVolume(VolumeId),
    /// The snapshot is not there.
    #[error("snapshot {0} is not in the pool")]
    NoSnapshot(PoolSnapshotId),
    /// No space left.
    #[error("the pool is full")]
    Full(#[source] std::io::Error),
    /// A file or ioctl failed.
    #[error("{action} {path}")]
    Io {
        /// What was being done: `making volume`, `destroying snapshot`, …
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A foreign program failed.
    #[error("{action}")]
    Tool {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: ToolError,
    },
    /// The place cannot be a pool.
    #[error("{path} cannot hold a pool: {why}")]
    Unfit {
        /// Where.
        path: PathBuf,
        /// Why, and what would help.
        why: String,
    },
}

/// The storage of one node.
///
/// Contract (held by [`conformance`] on every driver):
/// - a mutation repeated is a mutation done once, and says so;
/// - what is half made when the process dies is not in `volumes` or `snapshots` of [`Inventory`], and is
///   cleaned by the next call with the same id;
/// - a snapshot never changes, whatever happens to the volume it came from;
/// - parents may go before their children, in any order;
/// - owner, mode, times, links, xattrs, ACLs and holes of the tree are kept by snapshot and clone;
/// - a volume's root directory is made with mode 0755 and belongs to the caller.
pub trait PoolDriver: Send + Sync {
    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;
    /// What there is.
    fn inventory(&self) -> Result<Inventory, PoolError>;
    /// Makes an empty volume.
    fn create_volume(&self, volume: &VolumeId) -> Result<Ensured, PoolError>;
    /// Freezes the state of a volume.
    fn snapshot(&self, volume: &VolumeId, snapshot: &PoolSnapshotId) -> Result<Ensured, PoolError>;
    /// Makes a volume from a snapshot.
    fn clone_volume(&self, snapshot: &PoolSnapshotId, volume: &VolumeId) -> Result<Ensured, PoolError>;
    /// Removes a volume. Bytes may be freed behind.
    fn destroy_volume(&self, volume: &VolumeId) -> Result<Removed, PoolError>;
    /// Removes a snapshot. Bytes may be freed behind.
    fn destroy_snapshot(&self, snapshot: &PoolSnapshotId) -> Result<Removed, PoolError>;
    /// Where a volume's tree is (whether or not it exists).
    fn volume_path(&self, volume: &VolumeId) -> PathBuf;
    /// Where a snapshot's tree is (whether or not it exists).
    fn snapshot_path(&self, snapshot: &PoolSnapshotId) -> PathBuf;
    /// How full it is, at once.
    fn room(&self) -> Result<Room, PoolError>;
    /// How full it is, and who holds what. Exclusive bytes may be some seconds old where finding them takes long.
    fn usage(&self) -> Result<Usage, PoolError>;
    /// Where the pool lies.
    fn root(&self) -> &Path;
}
