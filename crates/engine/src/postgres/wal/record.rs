//! Reads WAL records out of pages: finds their borders, checks them, and says what recovery cares about.
//!
//! Invariants: a record is yielded only when PostgreSQL's own reader (`xlogreader.c`) would accept it: its
//! pages fit, its CRC is right, and it names the record before it. Where that fails the reader stops and
//! stays: the next call tries again from the start of the same record, so bytes that arrive later, and torn
//! reads of a file being written, need no special case. Nothing in the bytes can make it panic or allocate
//! more than has been read.
//!
//! ```text
//! unsynced ──(skip the end of a record begun before)──▶ at the start of a record ──┬─▶ Record, go on behind it
//!                                                          ▲───────────────────────┴─▶ Stop, stay
//! ```

use std::io;

use jiff::Timestamp;
use pando_model::Lsn;

use super::page::{Header, PAGE, u32_at, u64_at};
use super::segment::SegmentSize;

const HEADER: usize = 24;
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Where pages come from. Asked for ascending addresses, except that a stopped reader begins again.
pub trait Pages {
    /// The page of 8192 bytes at this address; `None`: not there (yet).
    fn page(&mut self, at: Lsn) -> io::Result<Option<&[u8]>>;
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where it starts; what `recovery_target_lsn` is compared with.
    pub start: Lsn,
    /// Where it ends, aligned; behind a segment switch the end of the segment.
    pub end: Lsn,
    /// What it is.
    pub kind: Kind,
}

/// What a record is, as far as recovery to a moment cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A transaction committed.
    Commit {
        /// When, by production's clock.
        time: Timestamp,
    },
    /// A transaction was given up.
    Abort {
        /// When.
        time: Timestamp,
    },
    /// A transaction was prepared: from then on it is there, whatever becomes of it, and of the server.
    Prepare {
        /// When.
        time: Timestamp,
    },
    /// A prepared transaction committed.
    CommitPrepared {
        /// When.
        time: Timestamp,
    },
    /// A prepared transaction was given up.
    AbortPrepared {
        /// When.
        time: Timestamp,
    },
    /// A checkpoint.
    Checkpoint {
        /// Where replay after a crash begins.
        redo: Lsn,
        /// Its timeline.
        tli: u32,
        /// The server was shut down by it.
        shutdown: bool,
    },
    /// A server was promoted.
    EndOfRecovery {
        /// The new timeline.
        tli: u32,
    },
    /// Settings that a standby must match have changed (T-11).
    ParameterChange,
    /// Anything else.
    Other,
}

impl Kind {
    /// The time that a moment is compared with. Commits and aborts have one, as for `recovery_target_time` (T-2,
    /// `getRecordTimestamp` and `recoveryStopsBefore` in `xlogrecovery.c`). So does the PREPARE of a two-phase
    /// commit, which PostgreSQL's own target passes by: what was acknowledged by it is part of the moment.
    pub fn stop_time(&self) -> Option<Timestamp> {
        match self {
            Self::Commit { time }
            | Self::Abort { time }
            | Self::Prepare { time }
            | Self::CommitPrepared { time }
            | Self::AbortPrepared { time } => Some(*time),
            _ => None,
        }
    }
}

/// What a call of [`Reader::step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next record.
    Record(Record),
    /// No complete record is there.
    Stop(Stop),
}

/// Where and why a reader stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The page that was missing or did not fit.
    pub at: Lsn,
    /// In words. Whether it is the end of what was written or damage depends on what `at` belongs to.
    pub why: &'static str,
}

/// Reads records one after another.
#[derive(Debug, Clone)]
pub struct Reader {
    size: SegmentSize,
    /// The end of the record before; while not synced the page to look at.
    next: u64,
    synced: bool,
    previous: Option<Lsn>,
    scratch: Vec<u8>,
}

enum Pass {
    Record(Record),
    Stop(u64, &'static str),
    /// The record was given up by a crash; go on at this page.
    Overwritten(u64),
}

impl Reader {
    /// A reader that begins with the first record that starts in a segment.
    pub fn at_segment(segno: u64, size: SegmentSize) -> Self {
        Self { size, next: size.start(segno).0, synced: false, previous: None, scratch: Vec::new() }
    }

    /// Everything before this is read: the end of the last record, or where the search for the first stands.
    pub fn position(&self) -> Lsn {
        Lsn(self.next)
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// When the pages cannot be read. What they hold is never an error, only a [`Stop`].
    pub fn step(&mut self, pages: &mut impl Pages) -> io::Result<Step> {
        loop {
            let pass = if self.synced { self.read(pages)? } else { self.sync(pages)? };
            match pass {
                Some(Pass::Record(record)) => {
                    self.previous = Some(record.start);
                    self.next = record.end.0;
                    return Ok(Step::Record(record));
                }
                Some(Pass::Stop(at, why)) => return Ok(Step::Stop(Stop { at: Lsn(at), why })),
                Some(Pass::Overwritten(page)) => self.next = page,
                None => {}
            }
        }
    }

    /// Skips the rest of a record that began earlier (`XLogFindNextRecord`).
    fn sync(&mut self, pages: &mut impl Pages) -> io::Result<Option<Pass>> {
        let at = self.next;
        let Some(page) = pages.page(Lsn(at))? else { return Ok(Some(Pass::Stop(at, "the page is not there"))) };
        let header = match Header::parse(page, at, self.size) {
            Ok(header) => header,
            Err(why) => return Ok(Some(Pass::Stop(at, why))),
        };
        let rest = align(u64::from(header.remaining.unwrap_or(0)));
        if rest >= PAGE - header.length {
            self.next = at + PAGE;
        } else {
            self.next = at + header.length + rest;
            self.synced = true;
        }
        Ok(None)
    }

    fn read(&mut self, pages: &mut impl Pages) -> io::Result<Option<Pass>> {
        let first = self.next - self.next % PAGE;
        let Some(page) = pages.page(Lsn(first))? else { return Ok(Some(Pass::Stop(first, "the page is not there"))) };
        let header = match Header::parse(page, first, self.size) {
            Ok(header) => header,
            Err(why) => return Ok(Some(Pass::Stop(first, why))),
        };
        let start = if self.next == first {
            if header.remaining.is_some() {
                return Ok(Some(Pass::Stop(first, "the page goes on with a record that did not begin")));
            }
            first + header.length
        } else {
            self.next
        };
        let body = usize::try_from(start - first).ok().and_then(|from| page.get(from..)).unwrap_or_default();
        let length = u32_at(body, 0).unwrap_or(0) as usize;
        if length < HEADER {
            let why = if length == 0 { "nothing is written here yet" } else { "a record has an impossible length" };
            return Ok(Some(Pass::Stop(first, why)));
        }
        if !self.follows(body, start) {
            return Ok(Some(Pass::Stop(first, "a record does not follow the one before it")));
        }
        if let Some(whole) = body.get(..length) {
            return Ok(Some(self.judge(whole, start, start + align(length as u64), header.version, first)));
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(body);
        self.read_across(pages, start, length, first, header.version).map(Some)
    }

    /// Puts together a record that goes on over page borders (the same steps as `XLogDecodeNextRecord`).
    fn read_across(
        &mut self,
        pages: &mut impl Pages,
        start: u64,
        length: usize,
        first: u64,
        version: u32,
    ) -> io::Result<Pass> {
        let mut at = first;
        loop {
            at += PAGE;
            let Some(page) = pages.page(Lsn(at))? else { return Ok(Pass::Stop(at, "the page is not there")) };
            let header = match Header::parse(page, at, self.size) {
                Ok(header) => header,
                Err(why) => return Ok(Pass::Stop(at, why)),
            };
            if header.overwrites {
                return Ok(Pass::Overwritten(at));
            }
            let missing = length - self.scratch.len();
            if header.remaining.map(|bytes| bytes as usize) != Some(missing) {
                return Ok(Pass::Stop(at, "the page does not go on with the record"));
            }
            let body = page.get(header.length as usize..).unwrap_or_default();
            self.scratch.extend_from_slice(body.get(..missing).unwrap_or(body));
            if !self.follows(&self.scratch, start) {
                return Ok(Pass::Stop(at, "a record does not follow the one before it"));
            }
            if self.scratch.len() == length {
                let end = at + header.length + align(missing as u64);
                let whole = std::mem::take(&mut self.scratch);
                let pass = self.judge(&whole, start, end, version, at);
                self.scratch = whole;
                // One record of hundreds of megabytes must not cost that memory for ever.
                self.scratch.clear();
                self.scratch.shrink_to(1 << 20);
                return Ok(pass);
            }
        }
    }

    /// Whether `xl_prev` is right, as far as it can be seen.
    fn follows(&self, record: &[u8], start: u64) -> bool {
        match (u64_at(record, 8), self.previous) {
            (Some(named), Some(previous)) => named == previous.0,
            (Some(named), None) => named < start,
            (None, _) => true,
        }
    }

    fn judge(&self, record: &[u8], start: u64, end: u64, version: u32, last_page: u64) -> Pass {
        let (Some(head), Some(data), Some(crc)) = (record.get(..HEADER - 4), record.get(HEADER..), u32_at(record, 20))
        else {
            return Pass::Stop(last_page, "a record is cut short");
        };
        // The CRC covers the data first and the header, without itself, last (`ValidXLogRecord`).
        if crc32c::crc32c_append(crc32c::crc32c(data), head) != crc {
            return Pass::Stop(last_page, "a record has a wrong checksum");
        }
        let (info, manager) = (record.get(16).copied().unwrap_or(0), record.get(17).copied().unwrap_or(0));
        // The rest of a segment behind a switch is empty (`XLOG_SWITCH` in `XLogDecodeNextRecord`).
        let end = if manager == RM_XLOG && info & 0xF0 == 0x40 { end.next_multiple_of(self.size.bytes()) } else { end };
        match kind(manager, info, data, version) {
            Some(kind) => Pass::Record(Record { start: Lsn(start), end: Lsn(end), kind }),
            None => Pass::Stop(last_page, "a record is not in the form of this version of PostgreSQL"),
        }
    }
}

fn align(length: u64) -> u64 {
    length.next_multiple_of(8)
}

/// `None`: a record that must hold a time or position does not. Then nothing behind it can be trusted.
fn kind(manager: u8, info: u8, data: &[u8], version: u32) -> Option<Kind> {
    let time_at = |at| u64_at(main_data(data, version)?, at).map(|bits| timestamp(bits.cast_signed()));
    let time = || time_at(0);
    Some(match (manager, info) {
        // The operation is in XLOG_XACT_OPMASK (`xact.h`).
        (RM_XACT, info) => match info & 0x70 {
            0x00 => Kind::Commit { time: time()? },
            // `prepared_at` of `xl_xact_prepare`.
            0x10 => Kind::Prepare { time: time_at(16)? },
            0x20 => Kind::Abort { time: time()? },
            0x30 => Kind::CommitPrepared { time: time()? },
            0x40 => Kind::AbortPrepared { time: time()? },
            _ => Kind::Other,
        },
        // `pg_control.h`.
        (RM_XLOG, info) => match info & 0xF0 {
            operation @ (0x00 | 0x10) => {
                let body = main_data(data, version)?;
                let (redo, tli) = (Lsn(u64_at(body, 0)?), u32_at(body, 8)?);
                Kind::Checkpoint { redo, tli, shutdown: operation == 0 }
            }
            0x60 => Kind::ParameterChange,
            0x90 => Kind::EndOfRecovery { tli: u32_at(main_data(data, version)?, 8)? },
            _ => Kind::Other,
        },
        _ => Kind::Other,
    })
}

fn timestamp(micros: i64) -> Timestamp {
    let bound = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    micros.checked_add(EPOCH_2000).and_then(|unix| Timestamp::from_microsecond(unix).ok()).unwrap_or(bound)
}

/// Finds the main data behind the headers of blocks and images (`DecodeXLogRecord`, `xlogrecord.h`).
pub(super) fn main_data(data: &[u8], version: u32) -> Option<&[u8]> {
    let mut at = 0_usize;
    // Loops at most once for each byte: every turn takes at least one.
    loop {
        let id = *data.get(at)?;
        at += 1;
        match id {
            255 => return tail(data, usize::from(*data.get(at)?), at + 1),
            254 => return tail(data, u32_at(data, at)? as usize, at + 4),
            // Replication origin; top-level transaction.
            253 => at += 2,
            252 => at += 4,
            0..=32 => {
                let flags = *data.get(at)?;
                at += 3;
                if flags & 0x10 != 0 {
                    let image = *data.get(at + 4)?;
                    let compressed = if version < 15 { image & 0x02 != 0 } else { image & 0x1C != 0 };
                    at += if image & 0x01 != 0 && compressed { 7 } else { 5 };
                }
                at += if flags & 0x80 != 0 { 4 } else { 16 };
            }
            _ => return None,
        }
    }
}

/// The main data stands at the very end, behind the headers and the data of the blocks.
fn tail(data: &[u8], length: usize, headers: usize) -> Option<&[u8]> {
    data.len().checked_sub(length).filter(|from| *from >= headers).and_then(|from| data.get(from..))
}
