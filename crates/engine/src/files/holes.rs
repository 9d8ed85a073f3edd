//! Holes of files that appear or grow after the first copy.
//!
//! rsync's `--sparse` makes holes, but in a file that it updates in place it writes every run of zeros again,
//! and those blocks are no longer shared with the snapshots: of a 64 MB file with a third of zeros, one changed
//! byte costs 21 MB. Without it no hole is ever made. So only the first copy uses it; later ones find files
//! with holes already here, at their length and all hole, and write in place what is not zero.
//!
//! That needs a look at production's files, so by ssh the holes of new files are filled.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use pando_host::plain::Dir;
use rustix::fs::{OFlags, SeekFrom};

/// Smaller savings are not worth a look.
const WORTH: u64 = 1 << 20;

/// Prepares the mirror for the files with holes of production that it does not have yet, or shorter. Whoever owns a
/// directory may put a link in its place meanwhile: those of the mirror are held.
///
/// Production changes while this looks; what cannot be read there is left to rsync to complain about.
pub fn reserve(mirror: &Path, production: &Path) -> io::Result<()> {
    reserve_in(&Dir::open(mirror)?, Path::new(""), production)
}

fn reserve_in(mirror: &Dir, at: &Path, production: &Path) -> io::Result<()> {
    let Some(there) = fs::symlink_metadata(production).ok().filter(Metadata::is_dir) else { return Ok(()) };
    let held = mirror.below(at)?;
    let here = fs::metadata(held.path())?;
    let mut inner = Vec::new();
    for entry in fs::read_dir(held.path())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            inner.push(entry.file_name());
        } else if kind.is_file() && missing_blocks(&entry.metadata()?) >= WORTH {
            lengthen(&held, &entry.file_name(), &production.join(entry.file_name()))?;
        }
    }
    drop(held);
    // A directory gets a new time with each new name, and rsync gives the mirror's the same time.
    if (here.mtime(), here.mtime_nsec()) != (there.mtime(), there.mtime_nsec()) {
        add_new(mirror, at, production)?;
    }
    inner.iter().try_for_each(|name| reserve_in(mirror, &at.join(name), &production.join(name)))
}

/// Files with holes below `production` whose names the mirror lacks.
fn add_new(mirror: &Dir, at: &Path, production: &Path) -> io::Result<()> {
    let held = mirror.below(at)?;
    let mut inner = Vec::new();
    for entry in fs::read_dir(production).into_iter().flatten().flatten() {
        let (here, there) = (held.path().join(entry.file_name()), entry.path());
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_dir() || kind.is_file()) || fs::symlink_metadata(&here).is_ok() {
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&here)?;
            inner.push(entry.file_name());
        } else if let Some(found) = entry.metadata().ok().filter(|found| is_holey(&there, found)) {
            set(&OpenOptions::new().write(true).create_new(true).mode(0o600).open(&here)?, &found)?;
        }
    }
    drop(held);
    inner.iter().try_for_each(|name| add_new(mirror, &at.join(name), &production.join(name)))
}

fn lengthen(dir: &Dir, name: &OsStr, there: &Path) -> io::Result<()> {
    let Some(found) = fs::symlink_metadata(there).ok().filter(Metadata::is_file) else { return Ok(()) };
    if found.len() > fs::symlink_metadata(dir.path().join(name))?.len() {
        set(&dir.edit(name)?, &found)?;
    }
    Ok(())
}

/// Gives a file the length of production's, and a time that production's has not and never gets.
fn set(file: &File, production: &Metadata) -> io::Result<()> {
    file.set_len(production.len())?;
    // With production's time it would pass for a finished copy: with one of the same tick of the kernel's
    // clock, and with 0, which reproducible builds and ostree give to all they write.
    let before = production.modified()?.checked_sub(Duration::from_nanos(1));
    file.set_modified(before.ok_or(io::ErrorKind::InvalidData)?)
}

fn missing_blocks(found: &Metadata) -> u64 {
    found.len().saturating_sub(found.blocks().saturating_mul(512))
}

/// Compressed files have few blocks, too; only the file system knows where there is a hole.
fn is_holey(path: &Path, found: &Metadata) -> bool {
    let first_hole = || {
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        rustix::fs::seek(&file, SeekFrom::Hole(0)).ok()
    };
    missing_blocks(found) >= WORTH && first_hole().is_some_and(|hole| hole < found.len())
}
