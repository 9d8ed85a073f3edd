//! Names of WAL segments and timelines: `xlog_internal.h`, `timeline.c`.

use std::fmt;

use pando_model::Lsn;

/// `wal_segment_size`: a power of two from 1 MB to 1 GB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// Checks a number of bytes.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
    /// The number of the segment that holds this position.
    pub fn segno(self, lsn: Lsn) -> u64 {
        lsn.0 / self.0
    }
    /// Where a segment begins.
    pub fn start(self, segno: u64) -> Lsn {
        Lsn(segno.saturating_mul(self.0))
    }
    /// Segments for each value of the middle eight digits of a name.
    fn per_id(self) -> u64 {
        (1 << 32) / self.0
    }
}

/// A WAL segment: timeline and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The number, counted from the beginning of the log.
    pub segno: u64,
    /// The timeline it was written on.
    pub tli: u32,
}

impl SegmentName {
    /// The file's name, without suffix.
    pub fn file(self, size: SegmentSize) -> String {
        format!("{:08X}{:08X}{:08X}", self.tli, self.segno / size.per_id(), self.segno % size.per_id())
    }
    /// Reads a file's name, without suffix.
    pub fn parse(name: &str, size: SegmentSize) -> Option<Self> {
        if !looks_like_segment(name) {
            return None;
        }
        let part = |at: usize| u64::from_str_radix(name.get(at..at + 8)?, 16).ok();
        let (tli, high, low) = (part(0)?, part(8)?, part(16)?);
        (low < size.per_id()).then_some(Self { segno: high * size.per_id() + low, tli: u32::try_from(tli).ok()? })
    }
}

/// Whether this is the form of a segment's name, whatever the segment size.
pub(super) fn looks_like_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// The timeline whose history has this file name.
pub(super) fn history_of(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".history")?;
    let hex = stem.len() == 8 && stem.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    hex.then(|| u32::from_str_radix(stem, 16).ok()).flatten()
}

/// Which timeline is valid where, on the way to one timeline.
///
/// Entries ascend; the one that counts for a position is the last whose beginning is at or before it, as in
/// `tliOfPointInHistory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    begins: Vec<(u32, Lsn)>,
}

impl History {
    /// A timeline that nothing is known about.
    pub fn alone(tli: u32) -> Self {
        Self { begins: vec![(tli, Lsn(0))] }
    }

    /// Reads the content of `<tli>.history`. Lines that are none are left out, as PostgreSQL's comments are.
    pub fn parse(tli: u32, text: &str) -> Self {
        let mut begins = Vec::new();
        let mut begin = Lsn(0);
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let parent = fields.next().and_then(|field| field.parse::<u32>().ok()).filter(|parent| *parent < tli);
            let switch = fields.next().and_then(|field| field.parse::<Lsn>().ok());
            if let (Some(parent), Some(switch)) = (parent, switch) {
                begins.push((parent, begin));
                begin = switch;
            }
        }
        begins.push((tli, begin));
        Self { begins }
    }

    /// The timeline this leads to.
    pub fn tli(&self) -> u32 {
        self.begins.last().map_or(0, |(tli, _)| *tli)
    }

    /// The timeline that wrote this position.
    pub fn owner(&self, lsn: Lsn) -> u32 {
        self.begins.iter().rev().find(|(_, begin)| *begin <= lsn).map_or(self.tli(), |(tli, _)| *tli)
    }

    /// The timeline in the name of the segment to read: the newest that has begun in it or before, as in
    /// `XLogFileReadAnyTLI`. It begins with a copy of its parent's bytes up to the switch.
    pub fn of_segment(&self, segno: u64, size: SegmentSize) -> u32 {
        let mut newest_first = self.begins.iter().rev();
        newest_first.find(|(_, begin)| size.segno(*begin) <= segno).map_or(self.tli(), |(tli, _)| *tli)
    }

    /// Whether the state at this end of a record, reached on that timeline, lies on the way.
    /// Timeline 0 stands for "not known" and fits.
    pub fn contains(&self, tli: u32, lsn: Lsn) -> bool {
        let Some(at) = self.begins.iter().position(|(known, _)| *known == tli) else { return tli == 0 };
        let end = self.begins.get(at + 1).map_or(Lsn(u64::MAX), |(_, begin)| *begin);
        lsn <= end
    }

    /// The timelines on the way, oldest first.
    pub fn timelines(&self) -> impl Iterator<Item = u32> + '_ {
        self.begins.iter().map(|(tli, _)| *tli)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (tli, begin)) in self.begins.iter().enumerate() {
            write!(f, "{}{tli} from {begin}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl History {
    /// Where the timeline this leads to begins.
    pub fn begin(&self) -> Lsn {
        self.begins.last().map_or(Lsn(0), |(_, begin)| *begin)
    }
}
