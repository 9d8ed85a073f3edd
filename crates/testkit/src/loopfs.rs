//! A file system of its own in an image file, mounted for one test. Only root can mount.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::tools;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    /// XFS with reflinks. At least 300 MB.
    Xfs,
    /// btrfs.
    Btrfs,
    /// ext4: no sharing of blocks at all.
    Ext4,
}

impl FsKind {
    pub(crate) const fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
        }
    }
}

/// A mounted file system; unmounted and removed when dropped.
#[derive(Debug)]
pub struct LoopFs {
    // Holds image and mount point; removed after `drop` has unmounted.
    dir: TempDir,
}

impl LoopFs {
    /// Makes and mounts one; the image is sparse, so megabytes that nobody writes cost nothing. `None` where
    /// that is impossible, by the rule of [`tools`].
    pub fn new(kind: FsKind, megabytes: u64) -> Option<Self> {
        let (mkfs, flags) = kind.mkfs();
        if !tools::require_root() || !tools::require(mkfs) || !tools::require("mount") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("pando-fs-").tempdir_in("/tmp").expect("a temporary directory");
        let image = dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(megabytes << 20)).expect("making an image file");
        let image = image.to_str().expect("a temporary path in ASCII").to_owned();
        tools::run(mkfs, &[flags, &[image.as_str()]].concat());
        let made = Self { dir };
        fs::create_dir(made.path()).expect("making a mount point");
        let mounted = tools::output(Path::new("mount"), &["-o", "loop", &image, &made.path().display().to_string()]);
        if !mounted.status.success() {
            tools::skip(&format!("the right to mount ({})", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(made)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// Unmounts, lazily when somebody still sits in it. Nothing mounted there is no error.
pub(crate) fn unmount(path: &Path) {
    let path = path.display().to_string();
    if !tools::output(Path::new("umount"), &["--", &path]).status.success() {
        tools::output(Path::new("umount"), &["--lazy", "--", &path]);
    }
}
