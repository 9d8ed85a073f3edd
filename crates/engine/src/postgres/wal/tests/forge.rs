//! Forges WAL as PostgreSQL 15 would write it, so that tests can have records anywhere they like.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use pando_model::Lsn;

use crate::postgres::wal::{SegmentName, SegmentSize};

pub const PAGE: usize = 8192;
const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;

/// A log being written, from the start of a segment on.
#[derive(Clone)]
pub struct Forge {
    pub size: SegmentSize,
    pub tli: u32,
    base: usize,
    bytes: Vec<u8>,
    previous: u64,
    overwrites: bool,
    /// Start, end and time of every record.
    pub records: Vec<(Lsn, Lsn, Option<Timestamp>)>,
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

impl Forge {
    pub fn new(segno: u64) -> Self {
        let size = SegmentSize::new(1 << 20).unwrap();
        let base = usize::try_from(size.start(segno).0).unwrap();
        Self {
            size,
            tli: 1,
            base,
            bytes: Vec::new(),
            previous: size.start(segno).0 - 40,
            overwrites: false,
            records: Vec::new(),
        }
    }

    pub fn end(&self) -> Lsn {
        Lsn((self.base + self.bytes.len()) as u64)
    }

    fn header(&mut self, remaining: usize) {
        let address = self.base + self.bytes.len();
        let long = address.is_multiple_of(1 << 20);
        let mut flags = if remaining > 0 { CONTRECORD } else { 0 };
        flags |= if long { LONG } else { 0 };
        flags |= if std::mem::take(&mut self.overwrites) { OVERWRITE } else { 0 };
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.tli.to_le_bytes());
        self.bytes.extend((address as u64).to_le_bytes());
        self.bytes.extend(u32::try_from(remaining).unwrap().to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(7_u64.to_le_bytes());
            self.bytes.extend((1_u32 << 20).to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    pub fn put(&mut self, manager: u8, info: u8, main: &[u8], time: Option<Timestamp>) -> (Lsn, Lsn) {
        let mut data = vec![254];
        data.extend(u32::try_from(main.len()).unwrap().to_le_bytes());
        data.extend(main);
        let mut record = Vec::new();
        record.extend(u32::try_from(24 + data.len()).unwrap().to_le_bytes());
        record.extend(9_u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
        record.extend(crc.to_le_bytes());
        record.extend(data);
        if self.bytes.len().is_multiple_of(PAGE) {
            self.header(0);
        }
        let start = self.end();
        let mut rest = record.as_slice();
        loop {
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
            self.header(rest.len());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        if (manager, info) == (0, 0x40) {
            // A switch: only page headers, which nobody reads, and zeros up to the end of the segment.
            self.bytes.resize(self.bytes.len().next_multiple_of(1 << 20), 0);
        }
        self.previous = start.0;
        self.records.push((start, self.end(), time));
        (start, self.end())
    }

    pub fn commit(&mut self, time: Timestamp, filler: usize) -> (Lsn, Lsn) {
        let micros = time.as_microsecond() - 946_684_800_000_000;
        let mut main = micros.to_le_bytes().to_vec();
        main.resize(8 + filler, 0x5A);
        self.put(1, 0x80, &main, Some(time))
    }

    pub fn other(&mut self, filler: usize) -> (Lsn, Lsn) {
        self.put(10, 0, &vec![0xA5; filler], None)
    }

    pub fn switch(&mut self) -> (Lsn, Lsn) {
        self.put(0, 0x40, &[], None)
    }

    /// A crash in the middle of a long record: its first page was written, then the server started again.
    pub fn torn(&mut self) {
        let previous = self.previous;
        let (start, _) = self.other(3 * PAGE);
        self.records.pop();
        self.bytes.truncate((usize::try_from(start.0).unwrap() - self.base).next_multiple_of(PAGE));
        (self.previous, self.overwrites) = (previous, true);
    }

    /// Commits of a second each until the segment with this number is begun.
    pub fn fill_to(&mut self, segno: u64, second: &mut i64) {
        while self.size.segno(self.end()) < segno {
            *second += 1;
            self.commit(at(*second), 3000);
            self.other(20_000);
        }
    }

    /// A new timeline from here on.
    pub fn fork(&self, tli: u32) -> Self {
        Self { tli, ..self.clone() }
    }

    /// One segment, filled with zeros behind the end.
    pub fn segment(&self, segno: u64) -> Vec<u8> {
        let from = usize::try_from(self.size.start(segno).0).unwrap() - self.base;
        let mut bytes = self.bytes.get(from..).unwrap_or_default().to_vec();
        bytes.resize(1 << 20, 0);
        bytes
    }

    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    pub fn name(&self, segno: u64) -> String {
        SegmentName { segno, tli: self.tli }.file(self.size)
    }

    /// Writes segments as pg_receivewal would: complete ones, and the last one as `.partial`.
    pub fn write(&self, live: &Path, segnos: impl IntoIterator<Item = u64>) {
        for segno in segnos {
            let partial = self.size.segno(self.end()) <= segno;
            let name = format!("{}{}", self.name(segno), if partial { ".partial" } else { "" });
            if !partial {
                let _ = fs::remove_file(live.join(format!("{name}.partial")));
            }
            fs::write(live.join(name), self.segment(segno)).unwrap();
        }
    }
}
