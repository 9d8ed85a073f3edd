//! Holes of files that appear or grow after the first copy.
//!
//! rsync's `--sparse` makes holes, but in a file that it updates in place it writes every run of zeros again,
//! and those blocks are no longer shared with the snapshots: of a 64 MB file with a third of zeros, one changed
//! byte costs 21 MB. Without it no hole is ever made. So only the first copy uses it; later ones find files
//! with holes already here, at their length and all hole, and write in place what is not zero.
//!
//! That needs a look at production's files, so by ssh the holes of new files are filled.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};

/// Smaller savings are not worth a look.
const WORTH: u64 = 1 << 20;

/// Prepares the mirror for the files with holes of production that it does not have yet, or shorter.
///
/// Production changes while this looks; what cannot be read there is left to rsync to complain about.
pub fn reserve(mirror: &Path, production: &Path) -> io::Result<()> {
    let Some(there) = fs::symlink_metadata(production).ok().filter(Metadata::is_dir) else { return Ok(()) };
    let here = fs::symlink_metadata(mirror)?;
    for entry in fs::read_dir(mirror)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            reserve(&entry.path(), &production.join(entry.file_name()))?;
        } else if kind.is_file() && missing_blocks(&entry.metadata()?) >= WORTH {
            lengthen(&entry.path(), &production.join(entry.file_name()))?;
        }
    }
    // A directory gets a new time with each new name, and rsync gives the mirror's the same time.
    if (here.mtime(), here.mtime_nsec()) != (there.mtime(), there.mtime_nsec()) {
        add_new(mirror, production)?;
    }
    Ok(())
}

/// Files with holes below `production` whose names the mirror lacks.
fn add_new(mirror: &Path, production: &Path) -> io::Result<()> {
    for entry in fs::read_dir(production).into_iter().flatten().flatten() {
        let (here, there) = (mirror.join(entry.file_name()), entry.path());
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_dir() || kind.is_file()) || fs::symlink_metadata(&here).is_ok() {
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&here)?;
            add_new(&here, &there)?;
        } else if let Some(length) = entry.metadata().ok().and_then(|found| length_if_holey(&there, &found)) {
            set(&OpenOptions::new().write(true).create_new(true).mode(0o600).open(&here)?, length)?;
        }
    }
    Ok(())
}

fn lengthen(here: &Path, there: &Path) -> io::Result<()> {
    let length = fs::symlink_metadata(there).ok().filter(Metadata::is_file).map_or(0, |found| found.len());
    if length > fs::symlink_metadata(here)?.len() {
        set(&OpenOptions::new().write(true).open(here)?, length)?;
    }
    Ok(())
}

fn set(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    // Made in the same tick of the kernel's clock as production's, it would pass for a finished copy.
    file.set_modified(std::time::UNIX_EPOCH)
}

fn missing_blocks(found: &Metadata) -> u64 {
    found.len().saturating_sub(found.blocks().saturating_mul(512))
}

/// Compressed files have few blocks, too; only the file system knows where there is a hole.
fn length_if_holey(path: &Path, found: &Metadata) -> Option<u64> {
    if missing_blocks(found) < WORTH {
        return None;
    }
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let hole = rustix::fs::seek(&file, SeekFrom::Hole(0)).ok()?;
    (hole < found.len()).then_some(found.len())
}
