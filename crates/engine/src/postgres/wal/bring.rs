//! Writes the log between two places into a `pg_wal` directory.
//!
//! What is brought in ends with the record of the point asked for: behind it there are only zeros. So a
//! recovery can end at that record or before it, but never behind it, whatever its settings say; and a server
//! that has nothing at all to replay (its restartpoint is that record) needs no target to stop right there.
//! Nothing is synced: a clone's profile decides what its data is worth.
//!
//! What the tree's own server received whole before its snapshot is left where it is, shared with the snapshot: a
//! replay that begins minutes before it needs only what came behind it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;

use pando_host::plain::{self, Dir};
use pando_host::{Account, durable};
use pando_model::Lsn;

use super::epoch::{Epoch, Path, io_error};
use super::page::Header;
use super::segment::{History, SegmentName, SegmentSize, history_of};
use super::source::Input;
use super::store::Store;
use crate::{EngineError, Point};

/// What [`bring`](Plan::carry_out) will write; made under the log's lock, carried out without it.
pub(super) struct Plan {
    store: Store,
    size: SegmentSize,
    /// The way that names the files.
    names: History,
    histories: Vec<String>,
    segments: Vec<Wanted>,
    /// The end of the last record.
    end: Lsn,
}

/// A segment to be written.
struct Wanted {
    name: SegmentName,
    /// Whose bytes it gets: its own, or those of the timeline that went on in it, where its own are gone.
    source: SegmentName,
    indexed: bool,
}

impl Epoch {
    /// Plans to bring in what lies from `from` to the end of the record at `to`.
    pub fn plan(&self, from: Lsn, to: &Point) -> Result<Plan, EngineError> {
        let nowhere = || EngineError::Invalid(format!("the log does not hold {} on timeline {}", to.lsn, to.timeline));
        let path: Path = self.paths().find(|path| path.history.contains(to.timeline, to.lsn)).ok_or_else(nowhere)?;
        let size = path.size;
        let mut end = None;
        self.decode(&path, size.segno(to.lsn), |record| {
            if record.start >= to.lsn {
                end = (record.start == to.lsn).then_some(record.end);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        let end = end.ok_or_else(nowhere)?;
        let names = self.history(to.timeline);
        let mut histories = self.store.history_files().map_err(io_error("listing the timelines of the log"))?;
        histories.retain(|(tli, _)| names.timelines().any(|known| known == *tli));
        let last = size.segno(Lsn(end.0.saturating_sub(1)));
        let segments = (size.segno(from)..=last).map(|segno| {
            let name = SegmentName { segno, tli: names.of_segment(segno, size) };
            let source = if self.holds(name) { name } else { path.name(segno) };
            Wanted { name, source, indexed: self.indexed(source) }
        });
        let segments: Vec<Wanted> = segments.collect();
        if let Some(missing) = segments.iter().find(|wanted| !self.holds(wanted.source)) {
            let name = missing.source.file(size);
            return Err(EngineError::Invalid(format!("segment {name} is not in the log, which {} needs", to.lsn)));
        }
        Ok(Plan {
            store: self.store.clone(),
            size,
            segments,
            names,
            histories: histories.into_iter().map(|(_, file)| file).collect(),
            end,
        })
    }
}

impl Plan {
    /// Writes the files that the tree lacks. The bytes written.
    pub fn carry_out(&self, into: &FilePath, account: Option<&Account>) -> Result<u64, EngineError> {
        self.write_all(into, account).map_err(io_error(format!("bringing the log into {}", into.display())))
    }

    fn write_all(&self, into: &FilePath, account: Option<&Account>) -> io::Result<u64> {
        self.clear(into)?;
        for file in &self.histories {
            let mut source = plain::open(&self.store.live().join(file))?;
            io::copy(&mut source, &mut plain::create(&into.join(file), account)?)?;
        }
        let mut bytes = 0;
        for (number, wanted) in self.segments.iter().enumerate() {
            if self.is_whole(into, wanted, self.segments.get(number + 1))? {
                continue;
            }
            let Some(input) = self.store.open(wanted.source, self.size, wanted.indexed)? else {
                let text = format!("segment {} is not in the log", wanted.source.file(self.size));
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            };
            let target = plain::create(&into.join(wanted.name.file(self.size)), account)?;
            bytes += self.write(input, wanted.name.segno, target)?;
        }
        Ok(bytes)
    }

    /// Whether the tree's server had this segment from its beginning to its end: it went on to the next one of the
    /// same timeline. (Its files are always new ones: `wal_recycle` is off.)
    fn is_whole(&self, into: &FilePath, wanted: &Wanted, next: Option<&Wanted>) -> io::Result<bool> {
        let Some(next) = next.filter(|next| next.name.tli == wanted.name.tli) else { return Ok(false) };
        Ok(self.is_begun(into, wanted.name)? && self.is_begun(into, next.name)?)
    }

    fn is_begun(&self, into: &FilePath, name: SegmentName) -> io::Result<bool> {
        let file = match plain::open(&into.join(name.file(self.size))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != self.size.bytes() {
            return Ok(false);
        }
        let mut page = [0; 40];
        file.read_exact_at(&mut page, 0)?;
        Ok(Header::parse(&page, self.size.start(name.segno).0, self.size).is_ok())
    }

    fn write(&self, input: Input, segno: u64, mut target: File) -> io::Result<u64> {
        let start = self.size.start(segno).0;
        let wanted = (self.end.0 - start.min(self.end.0)).min(self.size.bytes());
        let copied = match input {
            // A copy of files is left to the kernel.
            Input::Plain(file) => io::copy(&mut file.take(wanted), &mut target)?,
            Input::Packed(decoder) => io::copy(&mut decoder.take(wanted), &mut target)?,
        };
        if copied < wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a segment of the log is too short"));
        }
        target.set_len(self.size.bytes())?;
        Ok(copied)
    }

    /// Removes what would stand beside or behind what is brought in: the tree's own later segments.
    fn clear(&self, into: &FilePath) -> io::Result<()> {
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else { return Ok(()) };
        let held = Dir::open(into)?;
        for entry in fs::read_dir(held.path())? {
            let entry = entry?;
            let file = entry.file_name().into_string().unwrap_or_default();
            let stem = file.strip_suffix(".partial").unwrap_or(&file);
            let Some(name) = SegmentName::parse(stem, self.size) else { continue };
            let other_way = name.segno >= first.name.segno && name.tli != self.names.of_segment(name.segno, self.size);
            if name.segno > last.name.segno || other_way || stem != file {
                durable::remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The timelines whose history lies in a directory.
pub(super) fn has_history(dir: &FilePath) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if history_of(&entry?.file_name().to_string_lossy()).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
