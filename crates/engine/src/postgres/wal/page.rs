//! WAL page headers (PostgreSQL's `xlog_internal.h`), version 13 to 18.
//!
//! A header is believed only when everything about it fits: known magic, its own address, a long header
//! exactly at the start of a segment. So recycled, torn and foreign pages all look alike: not there (yet).

use pando_model::Lsn;

use super::segment::SegmentSize;

/// Bytes of a WAL page. Other values need a PostgreSQL built for them; such a server is refused.
pub(super) const PAGE: u64 = 8192;
const SHORT: usize = 24;
const LONG: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// The major version of PostgreSQL that writes pages with this magic (`XLOG_PAGE_MAGIC`).
pub fn version_of_magic(magic: u16) -> Option<u32> {
    match magic {
        0xD106 => Some(13),
        0xD10D => Some(14),
        0xD110 => Some(15),
        0xD113 => Some(16),
        0xD116 => Some(17),
        0xD118 => Some(18),
        _ => None,
    }
}

/// A page header that fits its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The version of PostgreSQL that wrote it.
    pub version: u32,
    /// Its length.
    pub length: u64,
    /// Bytes of a record begun on an earlier page that are still to come, from here on.
    pub remaining: Option<u32>,
    /// The record begun on an earlier page was given up: after a crash its end was missing.
    pub overwrites: bool,
}

/// Why a page is not what was expected there.
pub(super) type Misfit = &'static str;

impl Header {
    /// Reads the header of the page at `at`.
    pub fn parse(page: &[u8], at: u64, size: SegmentSize) -> Result<Self, Misfit> {
        let magic = u16_at(page, 0).ok_or("the page is cut short")?;
        if magic == 0 {
            return Err("nothing is written here yet");
        }
        let version = version_of_magic(magic).ok_or("the page header has an unknown magic number")?;
        let flags = u16_at(page, 2).ok_or("the page is cut short")?;
        if flags & !ALL_FLAGS != 0 {
            return Err("the page header has unknown flags");
        }
        if u64_at(page, 8) != Some(at) {
            return Err("the page header belongs to another place");
        }
        let long = flags & LONG_HEADER != 0;
        if long != at.is_multiple_of(size.bytes()) {
            return Err("the page header has the wrong length");
        }
        if long && (u32_at(page, 32), u32_at(page, 36)) != (u32::try_from(size.bytes()).ok(), Some(8192)) {
            return Err("the segment has another size, or another page size");
        }
        let remaining = u32_at(page, 16).ok_or("the page is cut short")?;
        Ok(Self {
            version,
            length: if long { LONG as u64 } else { SHORT as u64 },
            remaining: (flags & FIRST_IS_CONTRECORD != 0).then_some(remaining),
            overwrites: flags & FIRST_IS_OVERWRITE_CONTRECORD != 0,
        })
    }
}

/// What the long header at the start of a segment says about the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Birthmark {
    /// Its system identifier.
    pub system: u64,
    /// Its segment size.
    pub size: SegmentSize,
    /// The version of PostgreSQL that wrote it.
    pub version: u32,
    /// Where the segment begins.
    pub at: Lsn,
}

impl Birthmark {
    /// Reads the first page of a segment; `None` while it is not written, or is none.
    pub fn read(page: &[u8]) -> Option<Self> {
        let version = version_of_magic(u16_at(page, 0)?)?;
        let size = SegmentSize::new(u64::from(u32_at(page, 32)?))?;
        let at = u64_at(page, 8)?;
        Header::parse(page, at, size).ok()?;
        Some(Self { system: u64_at(page, 24)?, size, version, at: Lsn(at) })
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}
