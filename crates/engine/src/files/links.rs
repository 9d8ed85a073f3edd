//! Hard links in a mirror that is written in place.
//!
//! rsync writes in place through every name of an inode. When production replaces one of two hard-linked
//! names by a new file, the mirror's two names are still one inode, and the new content would appear under
//! both: the other file is silently wrong, and the next copy turns the mistake around. So before every copy
//! each inode keeps one name only; rsync links the others again (`--hard-links`) without sending a byte,
//! where production still has them linked.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pando_host::plain::Dir;

/// Removes all names but one of every hard-linked file below `root`. Returns how many were removed.
pub fn loosen(root: &Path) -> io::Result<u64> {
    let mut kept = HashSet::new();
    let mut removed = 0;
    let root = Dir::open(root)?;
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        // Held: whoever owns a directory may put a link in its place meanwhile.
        let held = root.below(&dir)?;
        for entry in fs::read_dir(held.path())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push(dir.join(entry.file_name()));
            } else if kind.is_file() {
                let found = entry.metadata()?;
                if found.nlink() > 1 && !kept.insert((found.dev(), found.ino())) {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}
