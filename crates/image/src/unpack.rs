//! Entries into a directory, never outside of it: every path is walked from the directory's own handle, no
//! link is followed on the way, and nothing that is there is replaced.
//!
//! # Crash consistency
//! What is made here is made durable by the caller, once, when all is there. Until then it lies in a volume
//! that an undone operation destroys.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pando_host::Account;
use rustix::fs::{self as rfs, AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::ImageError;
use crate::tar::{Entry, Kind, shown};
use crate::tree::open_dir;

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owning {
    /// Whose they were, by number.
    Kept,
    /// This user's and group's.
    Given(u32, u32),
}

/// A directory that entries are put into.
pub(crate) struct Unpacking {
    top: OwnedFd,
    root: bool,
    /// Directories get their mode and times last: else nothing could be put into a read-only one.
    directories: Vec<(Entry, Owning)>,
    parent: Option<(Vec<u8>, OwnedFd)>,
}

/// Fills `buffer` with the entry's data; 0 at its end.
pub(crate) type Data<'a> = dyn FnMut(&mut [u8]) -> Result<usize, ImageError> + 'a;

impl Unpacking {
    pub(crate) fn new(into: &Path) -> Result<Self, ImageError> {
        let top = open_dir(CWD, into).map_err(ImageError::io("opening", into))?;
        Ok(Self { top, root: Account::is_root(), directories: Vec::new(), parent: None })
    }

    /// Makes one entry. `path` is where it goes; `target` that of a hard link.
    pub(crate) fn put(
        &mut self,
        path: &[u8],
        target: &[u8],
        entry: Entry,
        owning: Owning,
        data: &mut Data<'_>,
    ) -> Result<(), ImageError> {
        let (dir, name) = split(path);
        self.enter(dir).map_err(|error| failed(path, error))?;
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let made = match entry.kind {
            Kind::Directory => {
                rfs::mkdirat(parent, name, Mode::RWXU).map_err(|errno| failed(path, errno.into()))?;
                self.directories.push((Entry { path: path.to_vec(), ..entry }, owning));
                return Ok(());
            }
            Kind::Symlink => self.symlink(parent, name, &entry, owning),
            Kind::HardLink => self.link(parent, name, target),
            Kind::File => return self.file(parent, path, &entry, owning, data),
        };
        made.map_err(|error| failed(path, error))
    }

    /// Opens the parent of what comes next.
    fn enter(&mut self, dir: &[u8]) -> io::Result<()> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != dir) {
            let opened = beneath(&self.top, dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.parent = Some((dir.to_vec(), opened));
        }
        Ok(())
    }

    fn symlink(&self, parent: &OwnedFd, name: &[u8], entry: &Entry, owning: Owning) -> io::Result<()> {
        rfs::symlinkat(&*entry.target, parent, name)?;
        let (uid, gid) = owner(entry, owning);
        tolerate(rfs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW), !self.root)?;
        Ok(rfs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn link(&self, parent: &OwnedFd, name: &[u8], target: &[u8]) -> io::Result<()> {
        let first = beneath(&self.top, target, OFlags::PATH | OFlags::NOFOLLOW)?;
        let kind = rfs::FileType::from_raw_mode(rfs::fstat(&first)?.st_mode);
        if kind != rfs::FileType::RegularFile {
            return Err(io::Error::other("a hard link to what is no file"));
        }
        // By the handle that was looked at, not by its path once more.
        let path = format!("/proc/self/fd/{}", first.as_raw_fd());
        Ok(rfs::linkat(CWD, path, parent, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    fn file(
        &self,
        parent: &OwnedFd,
        path: &[u8],
        entry: &Entry,
        owning: Owning,
        data: &mut Data<'_>,
    ) -> Result<(), ImageError> {
        let (_, name) = split(path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rfs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(|errno| failed(path, errno.into()))?);
        let io = |error| ImageError::io("writing", Path::new(std::ffi::OsStr::from_bytes(path)))(error);
        let whole = [crate::tar::Extent { offset: 0, length: entry.size }];
        let extents = entry.extents.as_deref().unwrap_or(&whole);
        let mut buffer = vec![0; 1 << 18];
        for extent in extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.length);
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let Some(part) = buffer.get_mut(..most) else { break };
                let got = data(part)?;
                if got == 0 {
                    return Err(ImageError::refused(format!("{} ends too early", shown(path))));
                }
                file.write_all_at(part.get(..got).unwrap_or_default(), at).map_err(io)?;
                at += got as u64;
            }
        }
        if entry.extents.is_some() {
            file.set_len(entry.size).map_err(io)?;
        }
        dress(&file, entry, owning, self.root).map_err(io)
    }

    /// Gives the directories what is theirs, the deepest first.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        self.parent = None;
        while let Some((entry, owning)) = self.directories.pop() {
            let dir = beneath(&self.top, &entry.path, OFlags::RDONLY | OFlags::DIRECTORY);
            let dir = dir.map_err(|error| failed(&entry.path, error))?;
            dress(&dir, &entry, owning, self.root).map_err(|error| failed(&entry.path, error))?;
        }
        Ok(())
    }
}

fn failed(path: &[u8], error: io::Error) -> ImageError {
    let strange =
        [Errno::EXIST, Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::NAMETOOLONG, Errno::ISDIR];
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => ImageError::refused(format!("{} is in it twice", shown(path))),
        Some(errno) if strange.contains(&errno) => {
            ImageError::refused(format!("{} does not fit what came before it", shown(path)))
        }
        None => ImageError::refused(format!("{}: {error}", shown(path))),
        _ => ImageError::io("writing", Path::new(std::ffi::OsStr::from_bytes(path)))(error),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b".", path),
    }
}

/// Opens what lies below a directory, without following any link.
fn beneath(top: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rfs::openat2(top, path, flags | OFlags::CLOEXEC, Mode::empty(), within)?)
}

fn owner(entry: &Entry, owning: Owning) -> (Uid, Gid) {
    match owning {
        Owning::Kept => (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)),
        Owning::Given(uid, gid) => (Uid::from_raw(uid), Gid::from_raw(gid)),
    }
}

/// Owner, attributes, mode and times; in this order, because each may change what comes after it.
fn dress(file: &impl AsFd, entry: &Entry, owning: Owning, root: bool) -> io::Result<()> {
    let (uid, gid) = owner(entry, owning);
    tolerate(rfs::fchown(file, Some(uid), Some(gid)), !root)?;
    for (name, value) in &entry.xattrs {
        let anybody = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
        let set = rfs::fsetxattr(file, &**name, value, XattrFlags::empty());
        tolerate(set, !root && !anybody)?;
    }
    rfs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    Ok(rfs::futimens(file, &times(entry))?)
}

/// Only root can give files away, and only root can set what belongs to the system.
fn tolerate(result: rustix::io::Result<()>, may_lack_the_right: bool) -> io::Result<()> {
    match result {
        Err(Errno::PERM) if may_lack_the_right => Ok(()),
        result => Ok(result?),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let at = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: at, last_modification: at }
}
