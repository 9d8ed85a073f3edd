//! Files of directories that another account writes to, opened so that no link leads anywhere else: root would follow
//! one to any file of the machine, also where it was put there between a look and an opening.
//!
//! Neither a file nor the directory it lies in may be a link; what lies above those is Pando's own. Where a user names a path of
//! any depth in a tree, [`crate::Beneath`] is the way.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, open as open_at_once, openat, unlinkat};
use rustix::io::Errno;

use crate::account::Account;

/// A directory that is no link, held open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} is {what}", path.display()))
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Dir {
    /// Opens one.
    pub fn open(path: &Path) -> io::Result<Self> {
        match open_at_once(path, DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Self(dir)),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(invalid(path, "a link, or no directory")),
            Err(error) => Err(error.into()),
        }
    }

    /// One below it, no link on the way.
    pub fn below(&self, path: &Path) -> io::Result<Self> {
        let mut dir = self.0.try_clone()?;
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(invalid(path, "no place in a directory")) };
            dir = match openat(&dir, name, DIRECTORY, Mode::empty()) {
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(invalid(path, "a link, or no directory")),
                opened => opened?,
            };
        }
        Ok(Self(dir))
    }

    /// What leads to this very directory as long as it is held, whatever its name leads to by now.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Opens a file in it that is there, to be read and changed.
    pub fn edit(&self, name: &OsStr) -> io::Result<File> {
        self.regular(name, OFlags::RDWR)
    }

    fn regular(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        // Without NONBLOCK a pipe would be waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(invalid(Path::new(name), "a link, where a file is due")),
            opened => File::from(opened?),
        };
        if file.metadata()?.is_file() { Ok(file) } else { Err(invalid(Path::new(name), "no regular file")) }
    }

    /// Changes its mode.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Gives what is in it by that name to an account: a link itself, not what it leads to.
    pub fn give_entry(&self, name: &OsStr, account: &Account) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        Ok(chownat(&self.0, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives it to an account.
    pub fn give(&self, account: &Account) -> io::Result<()> {
        Ok(fchown(&self.0, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?)
    }
}

/// The directory that a file lies in, and its name there.
fn place(path: &Path) -> io::Result<(Dir, &OsStr)> {
    let name = path.file_name().ok_or_else(|| invalid(path, "no name of a file"))?;
    Ok((Dir::open(path.parent().unwrap_or(path))?, name))
}

/// Opens a file to be read.
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = place(path)?;
    dir.regular(name, OFlags::RDONLY)
}

/// Opens a file that is there to be read and changed.
pub fn edit(path: &Path) -> io::Result<File> {
    let (dir, name) = place(path)?;
    dir.edit(name)
}

/// What a file holds.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text that a file holds.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// A new file in the place of what was there, private to an account: never written through into something that shares
/// its blocks or its inode.
pub fn create(path: &Path, account: Option<&Account>) -> io::Result<File> {
    let (dir, name) = place(path)?;
    match unlinkat(&dir.0, name, AtFlags::empty()) {
        Err(error) if error != Errno::NOENT => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&dir.0, name, flags, Mode::RUSR | Mode::WUSR)?;
    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    if let Some(account) = account.filter(|_| Account::is_root()) {
        fchown(&file, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?;
    }
    Ok(file.into())
}

/// Gives a file, a directory or a link to an account.
pub fn give(path: &Path, account: &Account) -> io::Result<()> {
    let (dir, name) = place(path)?;
    dir.give_entry(name, account)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn neither_a_file_nor_its_directory_is_a_link() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        for place in [&outside, &tree] {
            fs::create_dir(place)?;
            fs::write(place.join("file"), "secret")?;
        }
        symlink(outside.join("file"), tree.join("link"))?;
        symlink(&outside, tree.join("dir"))?;
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("pipe"), Mode::RUSR | Mode::WUSR)?;
        assert_eq!(read_text(&tree.join("file"))?, "secret");
        assert_eq!(open(&tree.join("none")).map_err(|error| error.kind()).err(), Some(io::ErrorKind::NotFound));
        for name in ["link", "dir/file", "pipe", "dir"] {
            let path = tree.join(name);
            for opened in [open(&path), edit(&path)] {
                let error = opened.expect_err(name).to_string();
                assert!(error.contains(" is a link, ") || error.contains(" is no regular file"), "{error}");
            }
        }
        assert!(create(&tree.join("dir/file"), None).is_err() && Dir::open(&tree.join("dir")).is_err());
        assert!(
            Dir::open(&tree)?.below(Path::new("dir")).is_err() && Dir::open(&tree)?.below(Path::new("..")).is_err()
        );
        io::Write::write_all(&mut create(&tree.join("link"), None)?, b"own")?;
        assert_eq!(fs::read_to_string(tree.join("link"))?, "own");
        assert_eq!(fs::symlink_metadata(tree.join("link"))?.permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(outside.join("file"))?, "secret");
        Ok(())
    }

    #[test]
    fn a_directory_that_is_held_stays_the_same_one() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("a"))?;
        let held = Dir::open(dir.path())?.below(Path::new("a"))?;
        fs::rename(dir.path().join("a"), dir.path().join("b"))?;
        symlink("/etc", dir.path().join("a"))?;
        fs::write(held.path().join("file"), "x")?;
        assert!(dir.path().join("b/file").is_file());
        Ok(())
    }
}
