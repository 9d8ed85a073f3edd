//! Files of a tree that others have written in: opened so that no link in it leads out of it, whatever it says.
//!
//! Files are changed in place: owner, mode, access list, attributes and hard links stay as they are. The kernel
//! resolves the path (`openat2`, Linux 5.6), so nothing can be put in its way between a look and an opening.
//!
//! # Crash consistency
//! A crash in the middle leaves a file half written. Only trees that are thrown away then are changed here: those
//! of a clone in the making.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, open, openat2, unlinkat};

use crate::account::Account;

/// No file of settings is larger.
const LARGEST: u64 = 16 << 20;

/// A directory that is not left.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

impl Beneath {
    /// The directory `root`, which is no link itself.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self { root: open(root, flags, Mode::empty())? })
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, within).map_err(|error| match error {
            rustix::io::Errno::XDEV => invalid("a link leads out of the clone's directory"),
            other => other.into(),
        })
    }

    fn regular(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        // Without NONBLOCK a pipe would be waited for.
        let file = File::from(self.resolve(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(invalid("this is no regular file"));
        }
        if meta.len() > LARGEST {
            return Err(invalid("this file is too large to be one of settings"));
        }
        Ok(file)
    }

    /// What a file holds.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.regular(path, OFlags::RDONLY)?.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Gives a file that is there other content.
    pub fn rewrite(&self, path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
        fill(&mut self.regular(path, OFlags::RDWR)?, content, sync)
    }

    /// Writes a file. One that is there keeps its owner and mode; a new one belongs to its directory's owner.
    pub fn write(&self, path: &Path, content: &[u8], mode: u32, sync: bool) -> io::Result<()> {
        match self.rewrite(path, content, sync) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(self.resolve(path, flags, Mode::from_raw_mode(mode & 0o777))?);
        if Account::is_root() {
            let (dir, _) = self.parent(path)?;
            let meta = File::from(dir).metadata()?;
            fchown(&file, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        fill(&mut file, content, sync)
    }

    /// Takes a file away; that it was not there is no error. A link goes, not what it points to.
    pub fn remove(&self, path: &Path) -> io::Result<bool> {
        let (dir, name) = self.parent(path)?;
        match unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(rustix::io::Errno::ISDIR) => Err(invalid("this is a directory")),
            Err(error) => Err(error.into()),
        }
    }

    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a std::ffi::OsStr)> {
        let name = path.file_name().ok_or_else(|| invalid("this names no file"))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((self.resolve(dir, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?, name))
    }
}

fn fill(file: &mut File, content: &[u8], sync: bool) -> io::Result<()> {
    file.rewind()?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    if sync { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_keeps_its_mode_and_no_link_leads_out() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (outside, root) = (dir.path().join("outside"), dir.path().join("root"));
        fs::write(&outside, "secret")?;
        fs::create_dir_all(root.join("conf"))?;
        fs::write(root.join("conf/a"), "long content")?;
        fs::set_permissions(root.join("conf/a"), fs::Permissions::from_mode(0o640))?;
        symlink("../outside", root.join("up"))?;
        symlink(&outside, root.join("absolute"))?;
        symlink(dir.path(), root.join("dir"))?;
        symlink("conf/a", root.join("within"))?;
        let tree = Beneath::open(&root)?;

        assert_eq!(tree.read(Path::new("within"))?, b"long content");
        tree.rewrite(Path::new("within"), b"short", true)?;
        assert_eq!(fs::read_to_string(root.join("conf/a"))?, "short");
        assert_eq!(fs::metadata(root.join("conf/a"))?.permissions().mode() & 0o777, 0o640);
        tree.write(Path::new("conf/new"), b"x", 0o604, false)?;
        assert_eq!(fs::metadata(root.join("conf/new"))?.permissions().mode() & 0o777, 0o604);

        for path in ["up", "absolute", "dir/outside", "../outside", "/etc/passwd", "conf/../../outside"] {
            let path = Path::new(path);
            for outcome in
                [tree.read(path).map(drop), tree.write(path, b"x", 0o600, false), tree.rewrite(path, b"x", false)]
            {
                assert!(outcome.is_err(), "{}", path.display());
            }
        }
        assert!(tree.remove(Path::new("dir/outside")).is_err());
        assert!(tree.remove(Path::new("up"))? && !tree.remove(Path::new("up"))?);
        assert!(tree.remove(Path::new("conf")).is_err() && tree.read(Path::new("conf")).is_err());
        assert_eq!(fs::read_to_string(outside)?, "secret");
        Ok(())
    }
}
