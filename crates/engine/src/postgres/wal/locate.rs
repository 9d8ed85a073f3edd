//! Finds the record that stands for a moment.
//!
//! The candidates are the records that end at or after `from`: the first of them is the one whose end *is*
//! `from` (or the first that starts behind it, at the very beginning of the log), so recovery that stops
//! after any of them has reached consistency, and there is always a record to stop at, on an idle server
//! too (T-1, T-5).
//!
//! Time: the first candidate commit or abort later than T ends the search, whatever follows it (T-4,
//! `recoveryStopsBefore`); the answer is the last commit or abort before it, or the first candidate when there is
//! none. A PREPARE counts as a commit does: it is acknowledged, and a clone has it in `pg_prepared_xacts`. The index
//! says in which segment either lies; at most two are decoded, with the beginning of the next one when their last
//! record goes on there.

use std::ops::ControlFlow;

use jiff::Timestamp;
use pando_model::Lsn;

use super::epoch::{Epoch, Path, io_error};
use super::index::Entry;
use super::record::{Reader, Record, Step};
use super::source::SegmentPages;
use crate::{EngineError, Point, Want};

impl Epoch {
    /// The point that `want` names, not before `from`. The epoch must have been refreshed.
    pub fn locate(&self, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        let Some(path) = self.paths().find(|path| path.history.contains(from.timeline, from.lsn)) else {
            return Ok(None);
        };
        let Some(search) = Search::new(self, &path, from) else { return Ok(None) };
        let found = match want {
            Want::Time(time) => search.by_time(time)?,
            Want::Lsn(lsn) if lsn > search.end() => None,
            Want::Lsn(lsn) => search.by_lsn(lsn)?,
            Want::End => search.by_lsn(Lsn(u64::MAX))?,
        };
        Ok(found.map(|(lsn, time)| Point {
            epoch: from.epoch,
            timeline: path.history.owner(lsn),
            lsn,
            time: time.or(from.time),
        }))
    }

    /// Reads the records that start in one segment of a path, to its end or the end of the path.
    pub fn decode(
        &self,
        path: &Path,
        segno: u64,
        mut each: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let (start, end) = (path.size.start(segno), path.size.start(segno + 1).min(path.end()));
        let mut pages = SegmentPages::new(path.size, |segno| self.open(path.name(segno), path.size));
        let mut reader = Reader::at_segment(segno, path.size);
        while reader.position() < end {
            match reader.step(&mut pages).map_err(io_error(format!("reading the log from {start}")))? {
                Step::Record(record) if record.start >= end => break,
                Step::Record(record) => {
                    if each(record).is_break() {
                        break;
                    }
                }
                Step::Stop(stop) => {
                    let name = path.name(segno).file(path.size);
                    let text = format!("segment {name} of the log cannot be read at {}: {}", stop.at, stop.why);
                    return Err(EngineError::Invalid(text));
                }
            }
        }
        Ok(())
    }
}

/// A record's start, and the time of the last transaction at or before it.
type Found = Option<(Lsn, Option<Timestamp>)>;

/// What the candidates of one segment come to.
#[derive(Default)]
struct Scan {
    first: Found,
    last: Found,
    /// The last commit or abort.
    commit: Found,
    /// The time of the last one before the candidates.
    before: Option<Timestamp>,
    /// Whether the end of the search was met.
    ended: bool,
}

/// The unbroken run of segments that begins where `from` lies.
struct Search<'a> {
    epoch: &'a Epoch,
    path: &'a Path,
    from: &'a Point,
    /// The segment in which the first candidate starts.
    head: &'a Entry,
    tail: Vec<&'a Entry>,
    /// The last commit or abort before it.
    earlier: Option<(Lsn, Timestamp)>,
    /// Whether the log goes on behind a gap.
    broken: bool,
}

impl<'a> Search<'a> {
    /// `None`: the log does not hold `from`.
    fn new(epoch: &'a Epoch, path: &'a Path, from: &'a Point) -> Option<Self> {
        let reaches = |entry: &Entry| entry.last.is_some_and(|(_, end)| end >= from.lsn);
        let at = path.entries.iter().position(reaches)?;
        let (head, rest) = path.entries.get(at..)?.split_first()?;
        // Where nothing lies before it, the run must not begin behind `from`.
        let before = at.checked_sub(1).and_then(|before| path.entries.get(before));
        let joined = before.is_some_and(|before| before.name.segno + 1 == head.name.segno);
        if !joined && path.size.start(head.name.segno) > from.lsn {
            return None;
        }
        let follows = |(one, next): &(u64, &Entry)| *one == next.name.segno;
        let tail: Vec<&Entry> = (head.name.segno + 1..).zip(rest).take_while(follows).map(|(_, entry)| entry).collect();
        let broken = tail.len() < rest.len();
        let earlier = path.entries.iter().take(at).rev().find_map(|entry| entry.last_commit);
        Some(Self { epoch, path, from, head, tail, earlier, broken })
    }

    fn scan(&self, entry: &Entry, ends: impl Fn(&Record) -> bool) -> Result<Scan, EngineError> {
        let (mut scan, mut time) = (Scan::default(), None);
        self.epoch.decode(self.path, entry.name.segno, |record| {
            let candidate = record.end >= self.from.lsn;
            if !candidate {
                scan.before = record.kind.stop_time().or(scan.before);
            }
            if candidate && ends(&record) {
                scan.ended = true;
                return ControlFlow::Break(());
            }
            time = record.kind.stop_time().or(time);
            if candidate {
                scan.last = Some((record.start, time));
                scan.first = scan.first.or(scan.last);
                scan.commit = if record.kind.stop_time().is_some() { scan.last } else { scan.commit };
            }
            ControlFlow::Continue(())
        })?;
        Ok(scan)
    }

    fn by_time(&self, wanted: Timestamp) -> Result<Found, EngineError> {
        let ends = |record: &Record| record.kind.stop_time().is_some_and(|time| time > wanted);
        let ends_in = |entry: &Entry| entry.max_time.is_some_and(|time| time > wanted);
        let mut head = None;
        let mut held = self.earlier.map(|(_, time)| time);
        if ends_in(self.head) {
            let scan = self.scan(self.head, ends)?;
            held = scan.before.or(held);
            head = Some(scan);
        } else if self.head.last_commit.is_some() {
            held = None;
        }
        if self.from.time.or(held).is_some_and(|time| time > wanted) {
            // The state at `from` is later than that already.
            return Ok(None);
        }
        if let Some(scan) = head.as_ref().filter(|scan| scan.ended) {
            return Ok(scan.commit.or(scan.first));
        }
        let end = self.tail.iter().position(|entry| ends_in(entry));
        if end.is_none() && self.broken {
            // Between the last commit and the gap nothing is known of what was committed (T-13).
            return Ok(None);
        }
        let (before, last) = self.tail.split_at(end.unwrap_or(self.tail.len()));
        if let Some(entry) = last.first().filter(|_| end.is_some()) {
            let found = self.scan(entry, ends)?.commit;
            if found.is_some() {
                return Ok(found);
            }
        }
        if let Some((lsn, time)) = before.iter().rev().find_map(|entry| entry.last_commit) {
            return Ok(Some((lsn, Some(time))));
        }
        let scan = head.map_or_else(|| self.scan(self.head, ends), Ok)?;
        Ok(scan.commit.or(scan.first))
    }

    /// The last candidate that starts at or before a position.
    fn by_lsn(&self, wanted: Lsn) -> Result<Found, EngineError> {
        let ends = |record: &Record| record.start > wanted;
        let held = |entry: &&&Entry| entry.first.is_some_and(|first| first <= wanted);
        let Some(at) = self.tail.iter().rposition(|entry| held(&entry)) else {
            return Ok(self.scan(self.head, ends)?.last);
        };
        let Some(entry) = self.tail.get(at) else { return Ok(None) };
        let earlier = self.tail.iter().take(at).rev().chain([&self.head]).find_map(|entry| entry.last_commit);
        let earlier = earlier.map(|(_, time)| time);
        let found = match entry.last {
            Some((start, _)) if start <= wanted => Some((start, entry.last_commit.map(|(_, time)| time))),
            _ => self.scan(entry, ends)?.last,
        };
        Ok(found.map(|(lsn, time)| (lsn, time.or(earlier))))
    }

    /// The end of the unbroken run.
    fn end(&self) -> Lsn {
        let entries = self.tail.iter().rev().chain([&self.head]);
        entries.filter_map(|entry| entry.last).map(|(_, end)| end).next().unwrap_or_default()
    }
}

impl Epoch {
    /// The number of the segment in which the first candidate for a point starts.
    pub fn first_needed(&self, point: &Point) -> Option<u64> {
        let path = self.paths().find(|path| path.history.contains(point.timeline, point.lsn))?;
        Search::new(self, &path, point).map(|search| search.head.name.segno)
    }
}
