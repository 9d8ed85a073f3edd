//! Pages out of segments, plain or compressed, opened one after another as a reader goes on.
//!
//! Forward only and buffered: what is in the buffer is not looked at again, so a source over a file that is
//! being written is made anew for each look.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use pando_model::Lsn;

use super::page::PAGE;
use super::record::Pages;
use super::segment::SegmentSize;

const CHUNK: usize = 256 * 1024;

/// The bytes of one segment.
pub enum Input {
    /// As PostgreSQL wrote it.
    Plain(File),
    /// Compressed.
    Packed(Box<zstd::Decoder<'static, BufReader<File>>>),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Packed(decoder) => decoder.read(buffer),
        }
    }
}

impl Input {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.seek(SeekFrom::Current(bytes.cast_signed())).map(|_| ()),
            Self::Packed(decoder) => io::copy(&mut decoder.take(bytes), &mut io::sink()).map(|_| ()),
        }
    }
}

/// Pages of the segments that `open` finds.
pub struct SegmentPages<F> {
    open: F,
    size: SegmentSize,
    /// The open segment, and where its next byte belongs.
    input: Option<(u64, Input, u64)>,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<F: FnMut(u64) -> io::Result<Option<Input>>> SegmentPages<F> {
    /// Pages of segments of this size; `open` finds one by its number.
    pub fn new(size: SegmentSize, open: F) -> Self {
        Self { open, size, input: None, buffer: Vec::new(), buffer_at: 0 }
    }

    fn buffered(&self, at: u64) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(at.checked_sub(self.buffer_at)?).ok()?;
        let to = from.checked_add(usize::try_from(PAGE).ok()?)?;
        (to <= self.buffer.len()).then_some(from..to)
    }

    /// Fills the buffer from `at` on, as far as the segment goes. Whether there was anything.
    fn fill(&mut self, at: u64) -> io::Result<bool> {
        let segno = self.size.segno(Lsn(at));
        if !matches!(&self.input, Some((open, _, next)) if *open == segno && *next <= at) {
            self.input = (self.open)(segno)?.map(|input| (segno, input, self.size.start(segno).0));
        }
        self.buffer.clear();
        self.buffer_at = at;
        let Some((_, input, next)) = &mut self.input else { return Ok(false) };
        if *next < at {
            input.skip(at - *next)?;
            *next = at;
        }
        let rest = self.size.start(segno + 1).0 - at;
        let wanted = usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK);
        input.take(wanted as u64).read_to_end(&mut self.buffer)?;
        *next += self.buffer.len() as u64;
        Ok(!self.buffer.is_empty())
    }
}

impl<F: FnMut(u64) -> io::Result<Option<Input>>> Pages for SegmentPages<F> {
    fn page(&mut self, at: Lsn) -> io::Result<Option<&[u8]>> {
        if self.buffered(at.0).is_none() && !self.fill(at.0)? {
            return Ok(None);
        }
        Ok(self.buffered(at.0).and_then(|range| self.buffer.get(range)))
    }
}
