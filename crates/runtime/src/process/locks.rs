//! Lock files that a server has left behind: files that begin with the id of its process, such as PostgreSQL's
//! `postmaster.pid`.
//!
//! A server that finds one refuses to start as long as any process of its account has that id. After a crash of the
//! machine that is easily the server of another clone, and for ever so; where process 1 reaps nobody, or late, it is
//! the killed server's own zombie. Only whoever knows that no process of the unit is left can tell, so the runtime
//! takes the file away before it starts the server. One thing it cannot know: a server that somebody has started
//! there by hand. That one works in the very directory; its lock stays, and the server says why it refuses.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use pando_host::{plain, process};

use crate::UnitSpec;

/// A decimal process id and the end of its line.
const FIRST_LINE: u64 = 16;

/// Takes away the locks of a unit of which no process is left.
pub fn clear(unit: &UnitSpec) -> io::Result<()> {
    for lock in &unit.locks {
        match fs::symlink_metadata(lock) {
            // Not a file of the server's making: it says itself what it thinks of it.
            Ok(meta) if !meta.is_file() => continue,
            Ok(_) if is_held(lock, &unit.dir)? => continue,
            Ok(_) => fs::remove_file(lock)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the process that a lock names lives and works in the unit's directory.
fn is_held(lock: &Path, dir: &Path) -> io::Result<bool> {
    let mut text = Vec::new();
    plain::open(lock)?.take(FIRST_LINE).read_to_end(&mut text)?;
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A negative id is that of a server in single-user mode.
    let id = std::str::from_utf8(first).ok().and_then(|text| text.trim().trim_start_matches('-').parse().ok());
    let Some(id) = id else { return Ok(false) };
    let lives = process::stat(id).is_some_and(|stat| !stat.has_ended());
    Ok(lives && process::directory(id).is_some_and(|at| same(&at, dir)))
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || other.canonicalize().is_ok_and(|other| one == other)
}

#[cfg(test)]
mod any_bytes;
