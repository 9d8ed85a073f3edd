//! A unit's log: one file that its processes append to, kept within a bound, read from its end.
//!
//! # Crash consistency
//! Trimming cuts the file to nothing and appends its last part again; the writers go on because they append
//! too. What a unit writes in the microseconds between the reading and the cut is lost, and after a crash
//! right after the cut so is the rest: it is a log for people, and no data.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pando_host::Account;

/// A log longer than this is cut.
pub const LIMIT: u64 = 10_000_000;
/// What is kept of it.
pub const KEEP: u64 = 2_000_000;
/// At most so much of a log is ever shown.
const SHOWN: u64 = 1 << 20;

/// Opens a log for a new process. It belongs to the unit's account, which may open `/dev/stderr` anew.
pub fn open(path: &Path, account: Option<&Account>) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if let Some(account) = account.filter(|_| Account::is_root()) {
        let (owner, group) = (rustix::fs::Uid::from_raw(account.uid), rustix::fs::Gid::from_raw(account.gid));
        rustix::fs::fchown(&file, Some(owner), Some(group))?;
    }
    Ok(file)
}

/// How long a log is now; 0 when there is none.
pub fn length(path: &Path) -> u64 {
    path.metadata().map(|meta| meta.len()).unwrap_or(0)
}

/// The last lines of a log, from no earlier than `from`.
pub fn tail(path: &Path, from: u64, lines: usize) -> io::Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    // A log that is shorter than it was has been trimmed meanwhile.
    let from = if from > length { 0 } else { from };
    let bytes = end_of(file, from.max(length.saturating_sub(SHOWN)))?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let mut shown = all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n");
    if !shown.is_empty() {
        shown.push('\n');
    }
    Ok(shown)
}

/// Cuts a log that has grown beyond its bound.
pub fn trim(path: &Path) -> io::Result<()> {
    let length = length(path);
    if length <= LIMIT {
        return Ok(());
    }
    let mut kept = end_of(File::open(path)?, length - KEEP)?;
    let line = kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    kept.drain(..line);
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.set_len(0)?;
    file.write_all(&kept)
}

/// What stands behind `from`. Bounded: a writer may be faster than this reader.
fn end_of(mut file: File, from: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
