//! The index: one small entry for each segment taken in, appended to a file and kept in memory.
//!
//! # Crash consistency
//! An entry is appended in one write and synced; each carries a checksum. A torn last entry is as if it had
//! not been written: the segment is still in `live/` and is taken in again, over the same names. Before the
//! next append the torn bytes are cut off. Dropping entries rewrites the file atomically. Two-week indexes
//! are about 9 MB: they are read once, and after that only what was appended by somebody else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use jiff::Timestamp;
use pando_host::durable;
use pando_model::Lsn;

use super::page::{u32_at, u64_at};
use super::record::Record;
use super::segment::SegmentName;

const ENTRY: usize = 96;
const NO_TIME: i64 = i64::MIN;

/// What is known of one segment: of the records that *start* in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: SegmentName,
    /// Start of its first record. None: it holds only the middle of a long one.
    pub first: Option<Lsn>,
    /// Start and end of its last record.
    pub last: Option<(Lsn, Lsn)>,
    /// Time of its first commit or abort.
    pub first_time: Option<Timestamp>,
    /// The latest time of its commits and aborts: clocks can be set back (T-4).
    pub max_time: Option<Timestamp>,
    /// Its last commit or abort, in the order of the log.
    pub last_commit: Option<(Lsn, Timestamp)>,
    pub raw_bytes: u32,
    pub packed_bytes: u32,
}

impl Entry {
    pub fn new(name: SegmentName) -> Self {
        Self {
            name,
            first: None,
            last: None,
            first_time: None,
            max_time: None,
            last_commit: None,
            raw_bytes: 0,
            packed_bytes: 0,
        }
    }

    pub fn add(&mut self, record: &Record) {
        self.first.get_or_insert(record.start);
        self.last = Some((record.start, record.end));
        if let Some(time) = record.kind.stop_time() {
            self.first_time.get_or_insert(time);
            self.max_time = self.max_time.max(Some(time));
            self.last_commit = Some((record.start, time));
        }
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&self.name.tli.to_le_bytes());
        put(&self.raw_bytes.to_le_bytes());
        put(&self.name.segno.to_le_bytes());
        put(&self.first.unwrap_or_default().0.to_le_bytes());
        put(&self.last.unwrap_or_default().0.0.to_le_bytes());
        put(&self.last.unwrap_or_default().1.0.to_le_bytes());
        put(&micros(self.first_time).to_le_bytes());
        put(&micros(self.max_time).to_le_bytes());
        put(&self.last_commit.map_or(0, |(lsn, _)| lsn.0).to_le_bytes());
        put(&micros(self.last_commit.map(|(_, time)| time)).to_le_bytes());
        put(&self.packed_bytes.to_le_bytes());
        put(&[0; 12]);
        let sum = crc32c::crc32c(bytes.get(..ENTRY - 4).unwrap_or_default());
        if let Some(place) = bytes.get_mut(ENTRY - 4..) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if Some(crc32c::crc32c(bytes.get(..ENTRY - 4)?)) != u32_at(bytes, ENTRY - 4) {
            return None;
        }
        let lsn = |at| u64_at(bytes, at).filter(|lsn| *lsn != 0).map(Lsn);
        let time = |at| {
            let micros = u64_at(bytes, at)?.cast_signed();
            (micros != NO_TIME).then(|| Timestamp::from_microsecond(micros).ok()).flatten()
        };
        Some(Self {
            name: SegmentName { tli: u32_at(bytes, 0)?, segno: u64_at(bytes, 8)? },
            first: lsn(16),
            last: lsn(24).zip(lsn(32)),
            first_time: time(40),
            max_time: time(48),
            last_commit: lsn(56).zip(time(64)),
            raw_bytes: u32_at(bytes, 4)?,
            packed_bytes: u32_at(bytes, 72)?,
        })
    }
}

fn micros(time: Option<Timestamp>) -> i64 {
    time.map_or(NO_TIME, Timestamp::as_microsecond)
}

/// The entries of one epoch, sorted by number, then timeline.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    entries: Vec<Entry>,
    /// How far the file was read.
    seen: u64,
    /// The file that was read, held open: so its inode number cannot be another file's.
    held: Option<File>,
}

impl Index {
    /// An index on this file, which need not exist. Nothing is read yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path, entries: Vec::new(), seen: 0, held: None }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn contains(&self, name: SegmentName) -> bool {
        self.entries.binary_search_by_key(&name, |entry| entry.name).is_ok()
    }

    /// Reads what has been added since the last look.
    pub fn refresh(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (self.entries, self.seen, self.held) = (Vec::new(), 0, None);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let held = self.held.as_ref().map(File::metadata).transpose()?.map(|held| held.ino());
        if held != Some(meta.ino()) || meta.len() < self.seen {
            (self.entries, self.seen) = (Vec::new(), 0);
            self.held = Some(file.try_clone()?);
        }
        if meta.len() < self.seen + ENTRY as u64 {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.seen))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        for entry in bytes.chunks_exact(ENTRY).map_while(Entry::decode) {
            self.entries.push(entry);
            self.seen += ENTRY as u64;
        }
        self.entries.sort_by_key(|entry| entry.name);
        self.entries.dedup_by_key(|entry| entry.name);
        Ok(())
    }

    /// Adds an entry, durable on return. The index must have been refreshed.
    pub fn append(&mut self, entry: Entry) -> io::Result<()> {
        let fresh = !self.path.exists();
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() > self.seen {
            file.set_len(self.seen)?;
        }
        file.seek(SeekFrom::Start(self.seen))?;
        file.write_all(&entry.encode())?;
        file.sync_data()?;
        if fresh {
            durable::sync_parent(&self.path)?;
        }
        self.seen += ENTRY as u64;
        self.held.get_or_insert(file);
        match self.entries.binary_search_by_key(&entry.name, |known| known.name) {
            Ok(at) => self.entries[at] = entry,
            Err(at) => self.entries.insert(at, entry),
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn write_for_tests(path: &std::path::Path, entries: &[Entry]) {
        std::fs::write(path, entries.iter().flat_map(Entry::encode).collect::<Vec<u8>>()).unwrap();
    }

    /// Drops the entries that `keep` refuses, durable on return.
    pub fn retain(&mut self, keep: impl Fn(&Entry) -> bool) -> io::Result<()> {
        if self.entries.iter().all(&keep) {
            return Ok(());
        }
        let kept: Vec<Entry> = self.entries.iter().copied().filter(keep).collect();
        let bytes: Vec<u8> = kept.iter().flat_map(Entry::encode).collect();
        durable::write_atomic(&self.path, &bytes, 0o600)?;
        self.seen = bytes.len() as u64;
        self.held = Some(File::open(&self.path)?);
        self.entries = kept;
        Ok(())
    }
}
