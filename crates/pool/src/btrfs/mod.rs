//! The driver for btrfs: a volume is a subvolume, a snapshot is a read-only one. Everything goes through
//! ioctls, because a process per call would cost more than the call.
//!
//! Needs root, or a mount with `user_subvol_rm_allowed`, to remove in constant time. Without either a
//! subvolume is renamed, emptied and removed behind, like a directory.
//!
//! # Crash consistency
//! Nothing is ever half made: each ioctl is one transaction. The one that makes a snapshot or a clone
//! writes back what the files have in memory and commits before it returns. Those that make an empty
//! subvolume or remove one do not: the driver commits before it answers, else a new volume could be gone,
//! or a removed one there again, after a crash of the machine. A commit takes about a millisecond when
//! idle, some under load. Bytes are freed behind by the kernel's cleaner, which goes on after a crash, and is
//! hurried where room is short.
//! A test crashes after each kind of call.

mod cleaner;
mod exclusive;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pando_model::{PoolSnapshotId, VolumeId};
use rustix::io::Errno;

use self::cleaner::Cleaner;
use crate::accountant::Accountant;
use crate::ioctl;
use crate::layout::{Layout, failed, is_there};
use crate::tree::{self, Reaper, Strategy};
use crate::{Capabilities, Ensured, Inventory, PoolDriver, PoolError, Removed, Room, Usage};

/// The inode number of every subvolume's root directory.
const SUBVOLUME_ROOT: u64 = 256;
const MAGIC: i64 = 0x9123_683e;

struct BtrfsPool {
    layout: Layout,
    exact: bool,
    reaper: Reaper,
    cleaner: Cleaner,
    accountant: Accountant,
}

/// Opens a pool of subvolumes.
pub fn open(root: &Path) -> Result<Box<dyn PoolDriver>, PoolError> {
    let layout = Layout::new(root);
    layout.require()?;
    if !is_btrfs(root)? {
        return Err(PoolError::Unfit { path: root.to_owned(), why: "it is not on btrfs".to_owned() });
    }
    let reaper = Reaper::start(&layout)?;
    let exact = exclusive::may_search(root)?;
    let counted = layout.clone();
    let accountant = Accountant::new(move |stop| {
        if exact { exclusive::count(&counted, stop) } else { tree::count(&counted, Strategy::Share, stop) }
    });
    let cleaner = Cleaner::new(root);
    Ok(Box::new(BtrfsPool { layout, exact, reaper, cleaner, accountant }))
}

/// Whether the path lies on btrfs.
pub fn is_btrfs(path: &Path) -> Result<bool, PoolError> {
    let stat = rustix::fs::statfs(path).map_err(failed("looking at the file system of", path))?;
    Ok(stat.f_type == MAGIC)
}

/// What this process may do with subvolumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Make them, and remove them at once.
    Full,
    /// Make them, and remove them only file by file.
    SlowRemoval,
    /// Not even make them.
    None,
}

/// Tries it out in a directory on btrfs.
pub fn rights_in(dir: &Path) -> Result<Rights, PoolError> {
    let name = format!(".probe-{}", std::process::id());
    let copy = format!("{name}-snapshot");
    let parent = File::open(dir).map_err(failed("opening", dir))?;
    let make = || -> io::Result<()> {
        ioctl::subvolume_create(parent.as_fd(), OsStr::new(&name))?;
        let source = File::open(dir.join(&name))?;
        ioctl::snapshot_create(parent.as_fd(), OsStr::new(&copy), source.as_fd(), true)
    };
    let made = make().is_ok();
    let mut rights = if made { Rights::Full } else { Rights::None };
    for name in [&copy, &name] {
        let path = dir.join(name);
        match remove(&parent, &path) {
            Err(error) if is_refusal(&error) => {
                fs::remove_dir(&path).map_err(failed("removing", &path))?;
                rights = if made { Rights::SlowRemoval } else { Rights::None };
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &path)(error)),
            _ => {}
        }
    }
    Ok(rights)
}

/// Removes a subvolume at once. Without rights over everything a read-only one must first be made
/// writable; what is refused all the same is left writable, to be removed file by file.
fn remove(parent: &File, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    match ioctl::subvolume_destroy(parent.as_fd(), name) {
        Err(error) if is_refusal(&error) => {
            allow_writing(path)?;
            ioctl::subvolume_destroy(parent.as_fd(), name)
        }
        removed => removed,
    }
}

fn allow_writing(subvolume: &Path) -> io::Result<()> {
    ioctl::subvolume_set_read_only(File::open(subvolume)?.as_fd(), false)
}

fn is_subvolume(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.ino() == SUBVOLUME_ROOT)
}

/// The kernel applies the umask to a new subvolume, and does not commit it (since 6.5).
fn settle(path: &Path) -> io::Result<()> {
    let dir = File::open(path)?;
    dir.set_permissions(Permissions::from_mode(0o755))?;
    ioctl::commit(dir.as_fd())
}

/// A directory to make something in, open, and the name to make there.
fn place(path: &Path) -> Result<(File, &OsStr), PoolError> {
    let parent = path.parent().unwrap_or(path);
    Ok((File::open(parent).map_err(failed("opening", parent))?, path.file_name().unwrap_or_default()))
}

impl BtrfsPool {
    fn branch(&self, action: &'static str, from: &Path, to: &Path, read_only: bool) -> Result<Ensured, PoolError> {
        let (parent, name) = place(to)?;
        let source = File::open(from).map_err(failed("opening", from))?;
        match ioctl::snapshot_create(parent.as_fd(), name, source.as_fd(), read_only) {
            Ok(()) => Ok(Ensured::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Ensured::AlreadyThere),
            Err(error) => Err(failed(action, to)(error)),
        }
    }

    fn destroy(&self, path: &Path) -> Result<Removed, PoolError> {
        let (parent, _) = place(path)?;
        let removed = match remove(&parent, path) {
            Ok(()) => Removed::Deleted,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Removed::AlreadyGone,
            Err(error) if is_refusal(&error) && self.reaper.retire(path)? => Removed::Deleted,
            Err(error) => return Err(failed("destroying", path)(error)),
        };
        // What is gone already may have been removed by a call that died before it came to this line.
        ioctl::commit(parent.as_fd()).map_err(failed("committing", path))?;
        self.cleaner.removed();
        Ok(removed)
    }
}

impl PoolDriver for BtrfsPool {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            driver: "btrfs",
            atomic_snapshot: true,
            shares_blocks: true,
            constant_time: true,
            exact_exclusive: self.exact,
        }
    }

    fn inventory(&self) -> Result<Inventory, PoolError> {
        self.layout.inventory(|name| self.reaper.is_pending(name), is_subvolume)
    }

    fn create_volume(&self, volume: &VolumeId) -> Result<Ensured, PoolError> {
        let path = self.volume_path(volume);
        let (parent, name) = place(&path)?;
        let made = match ioctl::subvolume_create(parent.as_fd(), name) {
            Ok(()) => Ensured::Created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ensured::AlreadyThere,
            Err(error) => return Err(failed("making volume", &path)(error)),
        };
        let empty = || fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        // An earlier call may have died before it came to this line.
        if made == Ensured::Created || empty() {
            settle(&path).map_err(failed("committing", &path))?;
        }
        Ok(made)
    }

    fn snapshot(&self, volume: &VolumeId, snapshot: &PoolSnapshotId) -> Result<Ensured, PoolError> {
        let (from, to) = (self.volume_path(volume), self.snapshot_path(snapshot));
        if is_there(&to)? {
            return Ok(Ensured::AlreadyThere);
        }
        if !is_there(&from)? {
            return Err(PoolError::NoVolume(volume.clone()));
        }
        self.branch("snapshotting", &from, &to, true)
    }

    fn clone_volume(&self, snapshot: &PoolSnapshotId, volume: &VolumeId) -> Result<Ensured, PoolError> {
        let (from, to) = (self.snapshot_path(snapshot), self.volume_path(volume));
        if is_there(&to)? {
            return Ok(Ensured::AlreadyThere);
        }
        if !is_there(&from)? {
            return Err(PoolError::NoSnapshot(snapshot.clone()));
        }
        self.branch("cloning", &from, &to, false)
    }

    fn destroy_volume(&self, volume: &VolumeId) -> Result<Removed, PoolError> {
        self.destroy(&self.volume_path(volume))
    }

    fn destroy_snapshot(&self, snapshot: &PoolSnapshotId) -> Result<Removed, PoolError> {
        self.destroy(&self.snapshot_path(snapshot))
    }

    fn volume_path(&self, volume: &VolumeId) -> PathBuf {
        self.layout.volume(volume)
    }

    fn snapshot_path(&self, snapshot: &PoolSnapshotId) -> PathBuf {
        self.layout.snapshot(snapshot)
    }

    fn room(&self) -> Result<Room, PoolError> {
        tree::space(&self.layout.root)
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

/// Whether the kernel refused for want of rights. ROFS: to a user, a read-only snapshot.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::ACCESS | Errno::ROFS))
}
