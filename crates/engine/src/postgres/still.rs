//! Makes a cleanly stopped tree the same bytes each time that it is made of the same tree by the same statements. What
//! a run of the server writes differently is little: caches that it makes anew, statistics, and when it was stopped, which
//! stands in the control file and in the last checkpoint's record. Log before that record is read by nobody any more.
//!
//! Nothing is assumed about a layout that is not found as expected: sums, places and contents are compared first, and
//! a tree where they do not fit is left as it is, and is still a good tree.
//!
//! # Crash consistency
//! None is needed: the tree belongs to an operation, and is made again when that one is undone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};
use jiff::Timestamp;
use pando_host::plain::{self, Dir};

use super::control::Control;
use crate::EngineError;

/// Bytes of a page, of the log's as of the control file's.
const PAGE: usize = 8192;
/// Heads of a log segment's first page, and of any other.
const LONG_HEAD: u64 = 40;
const SHORT_HEAD: u64 = 24;
/// Head of a record, and of its data where that is short.
const RECORD: usize = 24;
const DATA: usize = 2;
/// `CheckPoint` of PostgreSQL 13 to 18, and where in it stands when it was.
const CHECKPOINT: usize = 88;
const TIME: usize = 64;
/// In the control file: its layout, when it was written, which checkpoint, and a copy of that.
const VERSION_AT: usize = 8;
const WRITTEN_AT: usize = 24;
const WHICH_AT: usize = 32;
const COPY_AT: usize = 40;
/// Those layouts that were looked at: PostgreSQL 13 to 17, and 18.
const VERSIONS: [u32; 2] = [1300, 1800];

fn failed(source: io::Error) -> EngineError {
    EngineError::Io { action: "making a stopped tree the same each time".to_owned(), source }
}

/// Takes out what a server makes anew, and sets the time of its stop. Says whether all of it was as expected.
pub fn settle(data: &Path, control: &Control, time: Timestamp) -> Result<bool, EngineError> {
    forget(data)?;
    let segment = data.join("pg_wal").join(control.checkpoint_segment());
    let log = plain::edit(&segment).map_err(failed)?;
    let state = plain::edit(&data.join("global/pg_control")).map_err(failed)?;
    stop_at(&state, &log, control, time.as_second()).map_err(failed)
}

/// Takes out what a server makes anew: caches of catalogs, which hold addresses of memory; statistics of use, with the
/// texts of statements; marks of the archive.
pub fn forget(data: &Path) -> Result<(), EngineError> {
    forget_all(data).map_err(failed)
}

fn forget_all(data: &Path) -> io::Result<()> {
    let tree = Dir::open(data)?;
    let mut databases = vec![PathBuf::from("global")];
    for entry in fs::read_dir(data.join("base"))? {
        databases.push(Path::new("base").join(entry?.file_name()));
    }
    for dir in databases {
        pando_host::durable::remove_if_there(&tree.below(&dir)?.path().join("pg_internal.init"))?;
    }
    for dir in ["pg_stat", "pg_wal/archive_status"] {
        let dir = match tree.below(Path::new(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            held => held?,
        };
        for entry in fs::read_dir(dir.path())? {
            fs::remove_file(entry?.path())?;
        }
    }
    Ok(())
}

fn stop_at(state: &File, log: &File, control: &Control, time: i64) -> io::Result<bool> {
    let mut page = vec![0; PAGE];
    state.read_exact_at(&mut page, 0)?;
    let Some(sum_at) = sum_of(&page).filter(|_| is_known(&page, control)) else { return Ok(false) };
    let at = control.checkpoint.0 % control.segment.max(1);
    let places = places(at, RECORD + DATA + CHECKPOINT);
    let mut record = vec![0; places.len()];
    for (byte, place) in record.iter_mut().zip(&places) {
        log.read_exact_at(std::slice::from_mut(byte), *place)?;
    }
    let copy = page.get(COPY_AT..COPY_AT + CHECKPOINT);
    if !is_shutdown(&record) || record.get(RECORD + DATA..) != copy {
        return Ok(false);
    }
    put(&mut record, RECORD + DATA + TIME, &time.to_le_bytes());
    let sum = record_sum(&record);
    put(&mut record, RECORD - 4, &sum.to_le_bytes());
    blank(log, at, &places)?;
    for (byte, place) in record.iter().zip(&places) {
        log.write_all_at(std::slice::from_ref(byte), *place)?;
    }
    put(&mut page, WRITTEN_AT, &time.to_le_bytes());
    put(&mut page, COPY_AT + TIME, &time.to_le_bytes());
    let sum = crc32c(page.get(..sum_at).unwrap_or_default());
    put(&mut page, sum_at, &sum.to_le_bytes());
    state.write_all_at(&page, 0)?;
    Ok(true)
}

/// Where the sum over all before it stands in a control file.
fn sum_of(page: &[u8]) -> Option<usize> {
    let all = (200..512).step_by(4);
    let mut found = all.filter(|at| page.get(..*at).map(crc32c) == u32_at(page, *at));
    found.next().filter(|_| found.next().is_none())
}

/// Whether it is a control file of a layout that is known, of a server that was stopped by its last checkpoint.
fn is_known(page: &[u8], control: &Control) -> bool {
    let version = u32_at(page, VERSION_AT).is_some_and(|version| VERSIONS.contains(&version));
    let here = Some(control.checkpoint.0);
    version && u64_at(page, WHICH_AT) == here && u64_at(page, COPY_AT) == here
}

/// Whether it is a whole record of a checkpoint by which a server was stopped.
fn is_shutdown(record: &[u8]) -> bool {
    let length = u32_at(record, 0) == u32::try_from(record.len()).ok();
    // The manager of the log itself, its first kind of record, and data of a length that fits one byte.
    let kind = matches!(record.get(16..18), Some(&[info, 0]) if info & 0xf0 == 0);
    let data = record.get(RECORD..RECORD + DATA) == Some(&[255, CHECKPOINT as u8]);
    length && kind && data && u32_at(record, RECORD - 4) == Some(record_sum(record))
}

/// The sum of a record: of its data, then of its head up to the sum.
fn record_sum(record: &[u8]) -> u32 {
    let (head, data) = (record.get(..RECORD - 4), record.get(RECORD..));
    crc32c_append(crc32c(data.unwrap_or_default()), head.unwrap_or_default())
}

/// Where the bytes of a record stand in its segment: it may go over to the next page, behind that one's head.
fn places(from: u64, length: usize) -> Vec<u64> {
    let mut at = from;
    let mut found = Vec::with_capacity(length);
    while found.len() < length {
        if at.is_multiple_of(PAGE as u64) {
            at += if at == 0 { LONG_HEAD } else { SHORT_HEAD };
        }
        found.push(at);
        at += 1;
    }
    found
}

/// Writes zeros over all of a segment but the heads of its first page and of the pages that the record is in.
fn blank(log: &File, at: u64, places: &[u64]) -> io::Result<()> {
    let length = log.metadata()?.len();
    let page = PAGE as u64;
    let first = at / page * page;
    let last = places.last().map_or(first, |last| last / page * page);
    let mut keep = vec![(0, LONG_HEAD)];
    keep.extend((first..=last).step_by(PAGE).filter(|start| *start > 0).map(|start| (start, start + SHORT_HEAD)));
    let mut done = 0;
    for (start, end) in keep.into_iter().chain([(length, length)]) {
        zero(log, done, start)?;
        done = end;
    }
    Ok(())
}

/// Writes zeros over a part of a file, as a hole where the file system has holes.
pub fn zero(log: &File, from: u64, to: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    if from >= to {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(log, flags, from, to - from).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; 1 << 16];
    let mut at = from;
    while at < to {
        let part = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
        log.write_all_at(zeros.get(..part).unwrap_or_default(), at)?;
        at += part as u64;
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_goes_over_to_the_next_page_behind_its_head() {
        assert_eq!(places(40, 2), [40, 41]);
        assert_eq!(places(8190, 3), [8190, 8191, 8192 + 24]);
        assert_eq!(places(0, 1), [40]);
    }

    #[test]
    fn what_is_not_as_expected_is_left_as_it_is() {
        assert_eq!(sum_of(&[0; 8192]), None, "no sum, or any number of them");
        assert!(!is_shutdown(&[0; RECORD + DATA + CHECKPOINT]));
        let mut record = vec![0; RECORD + DATA + CHECKPOINT];
        put(&mut record, 0, &114_u32.to_le_bytes());
        put(&mut record, RECORD, &[255, 88]);
        let sum = record_sum(&record);
        put(&mut record, RECORD - 4, &sum.to_le_bytes());
        assert!(is_shutdown(&record));
        record[RECORD + DATA + TIME] ^= 1;
        assert!(!is_shutdown(&record), "its sum is of another time");
    }
}
