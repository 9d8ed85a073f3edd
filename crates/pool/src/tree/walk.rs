//! Copies a tree with everything a database or an application may have left in it: owner, mode, times,
//! symbolic and hard links, xattrs (POSIX ACLs among them), holes, fifos and device nodes. Sockets are
//! skipped: nobody listens behind a copied one.
//!
//! Walks by directory handles, so that neither a name that is not UTF-8, nor a path longer than PATH_MAX,
//! nor a symbolic link put in the way leads it astray. It holds two handles per level of depth.
//!
//! Invariant: what is copied never refers to the source afterwards except by shared blocks. Makes nothing
//! durable: the caller syncs the file system once, before it gives the tree its name.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pando_host::Account;
use rustix::fs::{
    self as rfs, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// How the bytes of a regular file get into its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// Share its blocks (FICLONE).
    Share,
    /// Copy its data, keep its holes.
    Copy,
}

/// A failure, with the path (below the source) that it struck.
#[derive(Debug)]
pub(crate) struct WalkError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Copies the tree `from` to `to`, which must not be there.
pub(crate) fn copy_tree(from: &Path, to: &Path, strategy: Strategy) -> Result<(), WalkError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| WalkError { path, source }
    };
    let source = open_dir(CWD, from).map_err(at(from))?;
    rfs::mkdir(to, Mode::RWXU).map_err(|errno| at(to)(errno.into()))?;
    let target = open_dir(CWD, to).map_err(at(to))?;
    let top = target.try_clone().map_err(at(to))?;
    let mut walk = Walk { strategy, root: Account::is_root(), top, links: HashMap::new(), path: from.to_owned() };
    walk.directory(source, target).map_err(|source| WalkError { path: walk.path, source })
}

struct Walk {
    strategy: Strategy,
    root: bool,
    /// The target's root directory: hard links are made relative to it.
    top: OwnedFd,
    /// Where the first name of each file with several names went, below `top`.
    links: HashMap<(u64, u64), PathBuf>,
    /// Where the walk is now, for errors; below the source.
    path: PathBuf,
}

/// One entry of a directory, seen from both sides.
struct Entry<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    name: &'a CStr,
    stat: Stat,
}

impl Walk {
    fn directory(&mut self, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let base = self.path.clone();
        self.entries(&from, &to, &base, Path::new(""))?;
        finish(&from, &to, self.root)
    }

    fn entries(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path, below: &Path) -> io::Result<()> {
        for name in read_names(from)? {
            let text = OsStr::from_bytes(name.to_bytes());
            self.path = path.join(text);
            let stat = rfs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let entry = Entry { from: from.as_fd(), to: to.as_fd(), name: &name, stat };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rfs::mkdirat(to, &name, Mode::RWXU)?;
                let (inner_from, inner_to) = (open_dir(from, &name)?, open_dir(to, &name)?);
                let inner = self.path.clone();
                self.entries(&inner_from, &inner_to, &inner, &below.join(text))?;
                self.path = inner;
                finish(&inner_from, &inner_to, self.root)?;
            } else {
                self.leaf(&entry, below.join(text))?;
            }
        }
        self.path = path.to_owned();
        Ok(())
    }

    fn leaf(&mut self, entry: &Entry<'_>, below: PathBuf) -> io::Result<()> {
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        if kind == FileType::Socket {
            return Ok(());
        }
        if entry.stat.st_nlink > 1 {
            match self.links.entry((entry.stat.st_dev, entry.stat.st_ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    return Ok(rfs::linkat(&self.top, first.get(), entry.to, entry.name, AtFlags::empty())?);
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(below);
                }
            }
        }
        match kind {
            FileType::RegularFile => return self.regular(entry),
            FileType::Symlink => {
                let target = rfs::readlinkat(entry.from, entry.name, Vec::new())?;
                rfs::symlinkat(target.as_c_str(), entry.to, entry.name)?;
            }
            kind => rfs::mknodat(entry.to, entry.name, kind, Mode::RUSR | Mode::WUSR, entry.stat.st_rdev)?,
        }
        self.dress_by_name(entry, kind)
    }

    fn regular(&self, entry: &Entry<'_>) -> io::Result<()> {
        let from = open_file(entry.from, entry.name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let to = File::from(rfs::openat(entry.to, entry.name, flags, Mode::RUSR | Mode::WUSR)?);
        match self.strategy {
            Strategy::Share => share(&from, &to)?,
            Strategy::Copy => copy_data(&from, &to, u64::try_from(entry.stat.st_size).unwrap_or(0))?,
        }
        finish(&from, &to, self.root)
    }

    /// Owner, xattrs, mode and times of what cannot be opened.
    fn dress_by_name(&self, entry: &Entry<'_>, kind: FileType) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.stat.st_uid), Gid::from_raw(entry.stat.st_gid));
        let owned = rfs::chownat(entry.to, entry.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        tolerate(owned, !self.root)?;
        let (from, to) = (by_handle(entry.from, entry.name), by_handle(entry.to, entry.name));
        for name in read_list(|buffer| rfs::llistxattr(&from, buffer))? {
            let value = read_value(|buffer| rfs::lgetxattr(&from, &*name, buffer))?;
            keep_xattr(&name, rfs::lsetxattr(&to, &*name, &value, XattrFlags::empty()), self.root)?;
        }
        if kind != FileType::Symlink {
            rfs::chmodat(entry.to, entry.name, Mode::from_raw_mode(entry.stat.st_mode), AtFlags::empty())?;
        }
        Ok(rfs::utimensat(entry.to, entry.name, &times(&entry.stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Owner, xattrs, mode and times. In this order: a change of owner clears set-user-id bits and file
/// capabilities, and an ACL writes to the mode. Times come last because everything else touches them, and
/// are those at the end of the walk, so that a directory keeps the ones it had before it was read.
fn finish(from: &impl AsFd, to: &impl AsFd, root: bool) -> io::Result<()> {
    let stat = rfs::fstat(from)?;
    tolerate(rfs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))), !root)?;
    for name in read_list(|buffer| rfs::flistxattr(from, buffer))? {
        let value = read_value(|buffer| rfs::fgetxattr(from, &*name, buffer))?;
        keep_xattr(&name, rfs::fsetxattr(to, &*name, &value, XattrFlags::empty()), root)?;
    }
    rfs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rfs::futimens(to, &times(&stat))?)
}

/// Only root can give files away, and only root can set attributes outside `user.` and the ACLs.
fn tolerate(result: rustix::io::Result<()>, may_lack_the_right: bool) -> io::Result<()> {
    match result {
        Err(Errno::PERM) if may_lack_the_right => Ok(()),
        result => Ok(result?),
    }
}

fn keep_xattr(name: &CStr, result: rustix::io::Result<()>, root: bool) -> io::Result<()> {
    let name = name.to_bytes();
    let for_everyone = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
    tolerate(result, !root && !for_everyone)
}

fn times(stat: &Stat) -> Timestamps {
    let stamp = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap_or(0) };
    Timestamps {
        last_access: stamp(stat.st_atime, stat.st_atime_nsec),
        last_modification: stamp(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn open_dir<P: rustix::path::Arg>(dir: impl AsFd, path: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rfs::openat(dir, path, flags, Mode::empty())?)
}

fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // NOATIME only for owners of the file; it saves a metadata write per file read.
    let opened = rfs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty())
        .or_else(|_| rfs::openat(dir, name, flags, Mode::empty()))?;
    Ok(File::from(opened))
}

/// The names in a directory, without `.` and `..`. Read before anything is done with them, because what
/// is done may change what is read.
pub(crate) fn read_names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// A path to something in an open directory, for the calls that have no `at` form.
fn by_handle(dir: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(OsStr::from_bytes(name.to_bytes()))
}

fn read_list(mut list: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<CString>> {
    let names = match read_value(&mut list) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).filter_map(|n| CString::new(n).ok()).collect())
}

fn read_value(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    // The kernel's limit for a value and for a list.
    const LIMIT: usize = 64 * 1024;
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LIMIT => buffer.resize(LIMIT, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn share(from: &File, to: &File) -> io::Result<()> {
    match rfs::ioctl_ficlone(to, from) {
        // btrfs shares only between files that agree about copy-on-write and checksums.
        Err(Errno::INVAL) => {
            let flags = rfs::ioctl_getflags(from)?;
            rfs::ioctl_setflags(to, rfs::ioctl_getflags(to)? | (flags & rfs::IFlags::NOCOW))?;
            Ok(rfs::ioctl_ficlone(to, from)?)
        }
        result => Ok(result?),
    }
}

fn copy_data(from: &File, to: &File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match rfs::seek(from, rfs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rfs::seek(from, rfs::SeekFrom::Hole(start))?;
        copy_range(from, to, start, end)?;
        at = end;
    }
    to.set_len(size)
}

fn copy_range(mut from: &File, mut to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rfs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            // The file got shorter while it was read.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                from.seek(SeekFrom::Start(read_at))?;
                to.seek(SeekFrom::Start(write_at))?;
                return copy_by_hand(from.take(end - read_at), to);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(mut from: impl Read, mut to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            len => to.write_all(buffer.get(..len).unwrap_or_default())?,
        }
    }
}
