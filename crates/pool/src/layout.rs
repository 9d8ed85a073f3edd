//! Where things lie below a pool's root, and what a name there means. Shared by every driver.
//!
//! ```text
//! ROOT/.pando-pool            marker: "this is the pool", so that an unmounted mount point is not taken for one
//! ROOT/volumes/vol-…          whole volumes
//! ROOT/snapshots/tree-…       whole snapshots
//! ROOT/*/.new-ID              being made; after a crash: half made
//! ROOT/*/.old-ID-N            being deleted; whoever opens the pool deletes what is left of them
//! ```
//!
//! Invariant: a name that is an id stands for a whole tree. Trees that need time to be made get their id
//! by one rename at the end, and lose it by one rename at the beginning of their removal.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pando_host::durable::{sync_dir, write_atomic};
use pando_model::{PoolSnapshotId, VolumeId};
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use crate::{Inventory, PoolError};

/// The file that tells a pool from an empty directory.
pub(crate) const MARKER: &str = ".pando-pool";

/// The directories of one pool.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub root: PathBuf,
    pub volumes: PathBuf,
    pub snapshots: PathBuf,
}

/// Whether set-uid programs are such on a pool's file system.
pub fn minds_set_uid(root: &Path) -> bool {
    rustix::fs::statvfs(root).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::NOSUID))
}

/// The directory that all snapshots of a pool are in.
pub fn snapshots_of(root: &Path) -> PathBuf {
    Layout::new(root).snapshots
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), volumes: root.join("volumes"), snapshots: root.join("snapshots") }
    }

    /// Makes the directories and, last, the marker.
    pub fn create(&self) -> Result<(), PoolError> {
        for dir in [&self.root, &self.volumes, &self.snapshots] {
            make_dir(dir).map_err(failed("making", dir))?;
        }
        let marker = self.root.join(MARKER);
        if !marker.exists() {
            write_atomic(&marker, b"1\n", 0o644).map_err(failed("marking", &marker))?;
        }
        sync_dir(&self.root).map_err(failed("syncing", &self.root))
    }

    /// Refuses a root without the marker.
    pub fn require(&self) -> Result<(), PoolError> {
        match self.root.join(MARKER).try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(PoolError::Unfit {
                path: self.root.clone(),
                why: "there is no pool here; if it lies on a file system of its own, is that mounted?".to_owned(),
            }),
            Err(source) => Err(failed("looking for", &self.root)(source)),
        }
    }

    pub fn volume(&self, volume: &VolumeId) -> PathBuf {
        self.volumes.join(volume.as_str())
    }

    pub fn snapshot(&self, snapshot: &PoolSnapshotId) -> PathBuf {
        self.snapshots.join(snapshot.as_str())
    }

    /// What there is. `busy` are names that the driver itself is working on now; `whole` says whether a
    /// directory that bears an id is what the driver makes.
    pub fn inventory(
        &self,
        busy: impl Fn(&OsStr) -> bool,
        whole: impl Fn(&Path) -> bool,
    ) -> Result<Inventory, PoolError> {
        let mut strangers = Vec::new();
        let mut found = |dir: &Path, parse: &mut dyn FnMut(&str) -> bool| -> Result<(), PoolError> {
            for name in names(dir)? {
                let known = name.to_str().is_some_and(|text| whole(&dir.join(text)) && parse(text));
                // Asked last whether it is there: what was being worked on may be done by now. Names are
                // busy before they appear, and are not until after they are gone.
                if !known && !busy(&name) && is_there(&dir.join(&name))? {
                    let dir = dir.file_name().unwrap_or_default().to_string_lossy();
                    strangers.push(format!("{dir}/{}", name.to_string_lossy()));
                }
            }
            Ok(())
        };
        let (mut volumes, mut snapshots) = (Vec::new(), Vec::new());
        found(&self.volumes, &mut |text| keep(text, &mut volumes))?;
        found(&self.snapshots, &mut |text| keep(text, &mut snapshots))?;
        Ok(Inventory { volumes, snapshots, strangers })
    }
}

fn keep<T: FromStr>(text: &str, into: &mut Vec<T>) -> bool {
    text.parse().map(|id| into.push(id)).is_ok()
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Result<Vec<OsString>, PoolError> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = read().map_err(failed("reading", dir))?;
    names.sort();
    Ok(names)
}

/// Makes a directory that everyone may pass through, whatever the umask.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_dir(dir.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(error)?)?;
            make_dir(dir)
        }
        Err(error) => Err(error),
    }
}

/// The name under which a tree is made.
pub(crate) fn new_name(id: &str) -> String {
    format!(".new-{id}")
}

/// Whether there is anything of that name.
pub(crate) fn is_there(path: &Path) -> Result<bool, PoolError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking for", path)(error)),
    }
}

/// Words for an I/O error; a full disk or quota gets its own.
pub(crate) fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> PoolError {
    let path = path.to_owned();
    move |error| {
        let source = error.into();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => PoolError::Full(source),
            _ => PoolError::Io { action, path, source },
        }
    }
}
