//! A directory tree as entries: sorted by name, a directory before what is in it. Walks by directory handles
//! and follows no link. Sockets, fifos and devices are left out and counted.
//!
//! Invariant: the same tree gives the same entries in the same order, whatever file system it lies on.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::ImageError;
use crate::tar::{Entry, Extent, Kind, MOST_PATH};

/// More pieces than this are not worth their map: the file is written whole.
const MOST_EXTENTS: usize = 100_000;

/// What is done with each entry; a file comes with its open handle.
pub(crate) type Visit<'a> = dyn FnMut(Entry, Option<&File>) -> Result<(), ImageError> + 'a;

/// Walks `root`, which becomes the entry `prefix`. Answers how many things were left out.
pub(crate) fn walk(root: &Path, prefix: &str, visit: &mut Visit<'_>) -> Result<u64, ImageError> {
    let top = open_dir(CWD, root).map_err(ImageError::io("reading", root))?;
    let mut walk = Walk { shown: root.to_owned(), links: HashMap::new(), skipped: 0, visit };
    walk.directory(&top, prefix.as_bytes().to_vec())?;
    Ok(walk.skipped)
}

struct Walk<'a, 'b> {
    /// Where it is, for errors.
    shown: PathBuf,
    /// The first name of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    skipped: u64,
    visit: &'a mut Visit<'b>,
}

impl Walk<'_, '_> {
    fn fail<T>(&self, result: rustix::io::Result<T>) -> Result<T, ImageError> {
        result.map_err(|errno| ImageError::io("reading", &self.shown)(errno.into()))
    }

    fn directory(&mut self, dir: &OwnedFd, path: Vec<u8>) -> Result<(), ImageError> {
        let stat = self.fail(rfs::fstat(dir))?;
        let mut entry = entry(path, Kind::Directory, &stat);
        entry.xattrs = self.fail(xattrs(dir))?;
        let path = entry.path.clone();
        (self.visit)(entry, None)?;
        for name in self.fail(names(dir))? {
            self.shown.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.one(dir, &name, [path.as_slice(), b"/", name.to_bytes()].concat())?;
            self.shown.pop();
        }
        Ok(())
    }

    fn one(&mut self, dir: &OwnedFd, name: &CStr, path: Vec<u8>) -> Result<(), ImageError> {
        if path.len() > MOST_PATH {
            return Err(ImageError::Unfit(format!("the path {} is too long to travel", self.shown.display())));
        }
        let stat = self.fail(rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = self.fail(open_dir(dir, name).map_err(|error| errno(&error)))?;
                self.directory(&inner, path)
            }
            FileType::RegularFile => self.file(dir, name, path, &stat),
            FileType::Symlink => {
                let target = self.fail(rfs::readlinkat(dir, name, Vec::new()))?;
                let mut entry = entry(path, Kind::Symlink, &stat);
                entry.target = target.into_bytes();
                (self.visit)(entry, None)
            }
            _ => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: &CStr, path: Vec<u8>, stat: &Stat) -> Result<(), ImageError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let mut entry = entry(path, Kind::HardLink, stat);
                entry.target.clone_from(first);
                return (self.visit)(entry, None);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(self.fail(rfs::openat(dir, name, flags, Mode::empty()))?);
        let mut entry = entry(path, Kind::File, stat);
        entry.size = u64::try_from(stat.st_size).unwrap_or(0);
        entry.xattrs = self.fail(xattrs(&file))?;
        if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < entry.size {
            entry.extents = self.fail(extents(&file, entry.size))?;
        }
        (self.visit)(entry, Some(&file))
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn entry(path: Vec<u8>, kind: Kind, stat: &Stat) -> Entry {
    Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        target: Vec::new(),
        xattrs: Vec::new(),
        size: 0,
        extents: None,
    }
}

/// What of a file is data; nothing where it has no holes worth a map.
fn extents(file: &File, size: u64) -> rustix::io::Result<Option<Vec<Extent>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rfs::seek(file, rfs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rfs::seek(file, rfs::SeekFrom::Hole(start))?.min(size);
        found.push(Extent { offset: start, length: end.saturating_sub(start) });
        at = end.max(start + 1);
    }
    let whole = found.first().is_some_and(|first| first.offset == 0 && first.length >= size);
    Ok((!whole && found.len() <= MOST_EXTENTS).then_some(found))
}

pub(crate) fn open_dir<P: rustix::path::Arg>(dir: impl AsFd, path: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rfs::openat(dir, path, flags, Mode::empty())?)
}

fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The attributes that mean something on another machine, sorted.
fn xattrs(file: &impl AsFd) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 1 << 16];
    let length = match rfs::flistxattr(file, &mut *list) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    list.truncate(length);
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| travels(name)) {
        let Ok(text) = CString::new(name) else { continue };
        let mut value = vec![0; 1 << 16];
        let length = rfs::fgetxattr(file, &*text, &mut *value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

fn travels(name: &[u8]) -> bool {
    let overlay = name.starts_with(b"trusted.overlay.");
    let known: [&[u8]; 4] = [b"user.", b"system.posix_acl_", b"security.capability", b"trusted."];
    !overlay && known.iter().any(|start| name.starts_with(start))
}
