//! Bytes that a tree holds: all of its blocks, or those that no other file shares.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::walk::{Strategy, read_names};
use crate::ioctl::unshared_bytes;

/// Bytes that only the tree holds. Where trees share blocks this is an estimate: the kernel counts what is
/// shared inside the tree as shared, and compressed extents at their full length.
pub(crate) fn exclusive_bytes(tree: &Path, strategy: Strategy, stop: &AtomicBool) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rfs::openat(CWD, tree, flags, Mode::empty())?;
    Measure { strategy, stop, seen: HashSet::new() }.directory(&dir)
}

struct Measure<'a> {
    strategy: Strategy,
    stop: &'a AtomicBool,
    /// Files with several names that were counted.
    seen: HashSet<u64>,
}

impl Measure<'_> {
    fn directory(&mut self, dir: &OwnedFd) -> io::Result<u64> {
        let mut bytes = 0;
        for name in read_names(dir)? {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            bytes += match self.entry(dir, &name) {
                // Trees change while they are measured.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                counted => counted?,
            };
        }
        Ok(bytes)
    }

    fn entry(&mut self, dir: &OwnedFd, name: &std::ffi::CStr) -> io::Result<u64> {
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rfs::openat(dir, name, flags, Mode::empty())?;
                Ok(allocated + self.directory(&inner)?)
            }
            _ if stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) => Ok(0),
            FileType::RegularFile if self.strategy == Strategy::Share && allocated > 0 => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(rfs::openat(dir, name, flags, Mode::empty())?);
                match unshared_bytes(file.as_fd()) {
                    // No more than is there: preallocation beyond the end is listed too.
                    Ok(bytes) => Ok(bytes.min(allocated)),
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(allocated),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(allocated),
        }
    }
}
