//! The log of a Redis mirror or recording clone: what its server appended to its increments, as one stream that
//! goes on across rewrites (R-3), with an index from time to place.
//!
//! ```text
//! LOG/epoch-000001/ head.json    which tree it was written by, its increments and where each begins in the stream
//!                   index        (microseconds, place): what lies before the place was written before the time
//!                   reach        up to which time it was complete, at the last look
//!                   0000000000000000.aof …   the stream, in files named after the place they begin at
//! ```
//!
//! Places count bytes, and grow for ever: an epoch begins behind the end of the one before it. A rewrite that
//! was asked for goes on in a second increment beside the first, for all to see in the manifest: there the
//! stream goes on too. An increment that appears in any other way stands on a new copy of production, and begins
//! an epoch.
//!
//! # Crash consistency
//! The stream is synced first, then a record of the index says how far it goes, synced too: what lies behind the
//! last record was never promised and is written again from the server's own file. A record whose sync has failed is
//! taken back: it counts only once it was written anew. See `reach.rs` for `reach`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pando_host::durable::{remove_tree_if_there, sync_dir, write_atomic};
use pando_host::{Clock, SystemClock};
use pando_model::Lsn;
use serde::{Deserialize, Serialize};

use super::aof::{self, Manifest};
use super::io;
use crate::reach::Reach;
use crate::{EngineError, Point, Stretch, Want};

/// A file of the stream is closed when it is so large.
const SEGMENT: u64 = 32 << 20;
/// What is done when something goes wrong with `reach`.
const REACH: &str = "keeping how far a log is complete";
/// So much is read at once.
const CHUNK: usize = 4 << 20;
const RECORD: u64 = 16;

/// In a tree: what its server's increments are to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Its own name: another start of a mirror, or another state of a clone, has another one.
    pub name: String,
    /// Increments up to this number are none of this log's.
    pub after: u64,
    /// So many bytes of the first increment came with the tree.
    pub from: u64,
}

/// An increment, in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Increment {
    /// Its number.
    pub seq: u64,
    /// Where its first byte lies in the stream.
    pub start: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    tree: String,
    /// The first place that can be stopped at.
    first: u64,
    increments: Vec<Increment>,
    /// How many keys there were at the last look (R-6).
    keys: u64,
}

/// What one look brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The end of the log.
    pub end: u64,
    /// When its end was looked at: a moment to ask for it by.
    pub at: Timestamp,
    /// Whether something came.
    pub changed: bool,
    /// An epoch began with production copied anew under a running mirror; so many keys there were before.
    pub copied_anew: Option<u64>,
    /// Bytes in the server's present increment.
    pub increment: u64,
    /// Whether there are files that nobody needs any more.
    pub history: bool,
    /// Whether the server's two newest increments are one stream: a rewrite is under way.
    pub rewriting: bool,
}

/// One owner's log.
pub struct AofLog {
    dir: PathBuf,
    /// Up to which time, in microseconds, epochs were complete.
    reached: Mutex<BTreeMap<u32, Reach<1>>>,
    /// How a file is synced; tests let it fail.
    sync_file: fn(&File) -> std::io::Result<()>,
}

struct Epoch {
    number: u32,
    dir: PathBuf,
    head: Head,
    sync_file: fn(&File) -> std::io::Result<()>,
}

impl Epoch {
    fn read(
        dir: PathBuf,
        number: u32,
        sync_file: fn(&File) -> std::io::Result<()>,
    ) -> Result<Option<Self>, EngineError> {
        // An epoch without a head was never used.
        let text = match fs::read(dir.join("head.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("reading a log")(error)),
        };
        let head = serde_json::from_slice(&text)
            .map_err(|error| EngineError::Invalid(format!("the head of a log cannot be read: {error}")))?;
        Ok(Some(Self { number, dir, head, sync_file }))
    }

    fn save(&self) -> Result<(), EngineError> {
        let text = serde_json::to_vec(&self.head).unwrap_or_default();
        write_atomic(&self.dir.join("head.json"), &text, 0o600).map_err(io("writing the head of a log"))
    }

    /// The record with that number: time and place.
    fn record(file: &File, number: u64) -> Result<(i64, u64), EngineError> {
        let mut bytes = [0; RECORD as usize];
        file.read_exact_at(&mut bytes, number * RECORD).map_err(io("reading a log's index"))?;
        let [time, place] = [0, 8].map(|at| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            eight
        });
        Ok((i64::from_le_bytes(time), u64::from_le_bytes(place)))
    }

    fn index(&self) -> Result<(File, u64), EngineError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(self.dir.join("index"))
            .map_err(io("opening a log's index"))?;
        let length = file.metadata().map_err(io("opening a log's index"))?.len();
        Ok((file, length / RECORD))
    }

    fn last(&self) -> Result<Option<(i64, u64)>, EngineError> {
        let (file, count) = self.index()?;
        count.checked_sub(1).map(|last| Self::record(&file, last)).transpose()
    }

    /// Where the stream ends.
    fn end(&self) -> Result<u64, EngineError> {
        let start = self.head.increments.first().map_or(self.head.first, |first| first.start);
        Ok(self.last()?.map_or(start, |(_, place)| place))
    }

    /// How many records, from the first one on, fit.
    fn count(&self, fits: impl Fn(i64, u64) -> bool) -> Result<u64, EngineError> {
        let (file, count) = self.index()?;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let (time, place) = Self::record(&file, middle)?;
            if fits(time, place) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The last record that fits.
    fn find(&self, fits: impl Fn(i64, u64) -> bool) -> Result<Option<(i64, u64)>, EngineError> {
        let found = self.count(fits)?;
        let (file, _) = self.index()?;
        found.checked_sub(1).map(|last| Self::record(&file, last)).transpose()
    }

    /// The files of the stream, by their first place.
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>, EngineError> {
        let mut found: Vec<_> = fs::read_dir(&self.dir)
            .map_err(io("reading a log"))?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let start = u64::from_str_radix(name.strip_suffix(".aof")?, 16).ok()?;
                Some((start, entry.path()))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Appends to the stream at `end` and makes it durable, then says so in the index.
    fn append(&self, end: u64, bytes: &[u8], records: &[(i64, u64)]) -> Result<(), EngineError> {
        let action = "writing a log";
        if !bytes.is_empty() {
            let last = self.segments()?.pop().filter(|(start, _)| *start <= end && end - start < SEGMENT);
            let fresh = last.is_none();
            let (start, path) = last.unwrap_or_else(|| (end, self.dir.join(format!("{end:016x}.aof"))));
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io(action))?;
            // What lies behind the end was never promised.
            file.set_len(end - start).map_err(io(action))?;
            file.write_all_at(bytes, end - start).map_err(io(action))?;
            (self.sync_file)(&file).map_err(io(action))?;
            if fresh && let Err(error) = sync_dir(&self.dir) {
                // Else the next look would take its name for durable.
                let _ = fs::remove_file(&path);
                return Err(io(action)(error));
            }
        }
        let (mut index, count) = self.index()?;
        index.set_len(count * RECORD).map_err(io(action))?;
        let mut latest = count.checked_sub(1).map(|last| Self::record(&index, last)).transpose()?;
        let mut out = Vec::new();
        for (time, place) in records {
            // The machine's clock may have been set back: the index never goes back.
            let time = latest.map_or(*time, |(known, _)| known.max(*time));
            if latest != Some((time, *place)) {
                out.extend_from_slice(&time.to_le_bytes());
                out.extend_from_slice(&place.to_le_bytes());
                latest = Some((time, *place));
            }
        }
        let kept = index.write_all(&out).and_then(|()| (self.sync_file)(&index));
        if kept.is_err() {
            // It would be found by the next look, and never be synced.
            let _ = index.set_len(count * RECORD);
        }
        kept.map_err(io(action))
    }

    fn stretch(&self, reach: &mut Reach<1>) -> Result<Stretch, EngineError> {
        reach.settle(self.sync_file).map_err(io(REACH))?;
        let reached = reach.said().map_err(io(REACH))?;
        let last = self.last()?;
        let commit = last.and_then(|(time, _)| Timestamp::from_microsecond(time).ok());
        let through = commit.max(reached.and_then(|[micros]| Timestamp::from_microsecond(micros).ok()));
        let kept = self.segments()?.first().map_or(0, |(start, _)| *start);
        Ok(Stretch { epoch: self.number, first: Lsn(self.head.first.max(kept)), last: Lsn(self.end()?), through })
    }
}

impl AofLog {
    /// The log in a directory, which is made by the first epoch.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), reached: Mutex::default(), sync_file: File::sync_data }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u32, Reach<1>>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epochs(&self) -> Result<Vec<Epoch>, EngineError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("reading a log")(error)),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("epoch-")?.parse().ok());
            if let Some(number) = number
                && let Some(epoch) = Epoch::read(entry.path(), number, self.sync_file)?
            {
                found.push(epoch);
            }
        }
        found.sort_by_key(|epoch| epoch.number);
        Ok(found)
    }

    fn epoch(&self, number: u32) -> Result<Option<Epoch>, EngineError> {
        Epoch::read(self.dir.join(format!("epoch-{number:06}")), number, self.sync_file)
    }

    fn begin(&self, tree: &Tree, seq: u64, keys: u64) -> Result<Epoch, EngineError> {
        let last = self.epochs()?.pop();
        let start = last.as_ref().map(Epoch::end).transpose()?.map_or(0, |end| end + 1);
        let number = last.map_or(1, |last| last.number + 1);
        let dir = self.dir.join(format!("epoch-{number:06}"));
        fs::create_dir_all(&dir).map_err(io("beginning a log"))?;
        let first = start + if seq == tree.after + 1 { tree.from } else { 0 };
        let head = Head { tree: tree.name.clone(), first, increments: vec![Increment { seq, start }], keys };
        let epoch = Epoch { number, dir, head, sync_file: self.sync_file };
        epoch.save()?;
        sync_dir(&self.dir).map_err(io("beginning a log"))?;
        Ok(epoch)
    }

    /// Takes in what the server in `data` has appended since. `settled`: its increments stand on a copy that is
    /// whole and followed, so that an epoch may begin. `keys`: how many there are now.
    ///
    /// What it finds is asked for by the time at which the end of the file was looked at: whoever asks for a moment
    /// sees nothing that was written after it. `asked` is for a server that was paused at that time: what it wrote
    /// by then is in its files, and is to be seen at that time.
    pub fn advance(
        &self,
        data: &Path,
        tree: &Tree,
        asked: Option<Timestamp>,
        settled: bool,
        keys: Option<u64>,
    ) -> Result<Advance, EngineError> {
        let _lock = self.locked();
        let mut at = SystemClock.now();
        let none =
            Advance { end: 0, at, changed: false, copied_anew: None, increment: 0, history: false, rewriting: false };
        let Some(manifest) = Manifest::read(data)? else { return Ok(none) };
        let mut copied_anew = None;
        let mut changed = false;
        let known = self.epochs()?.pop();
        let same = known.as_ref().is_some_and(|epoch| epoch.head.tree == tree.name);
        let mut epoch = match known.filter(|_| same) {
            Some(epoch) => epoch,
            None => match manifest.increments().map(|part| part.seq).find(|seq| *seq > tree.after) {
                Some(seq) if settled => {
                    changed = true;
                    self.begin(tree, seq, keys.unwrap_or(0))?
                }
                _ => return Ok(none),
            },
        };
        loop {
            let whole = Self::take(&epoch, data, &manifest, asked, &mut at, &mut changed)?;
            let seq = epoch.head.increments.last().map_or(0, |one| one.seq);
            let Some(next) =
                manifest.0.iter().filter(|part| part.is_increment() && part.seq > seq).min_by_key(|p| p.seq)
            else {
                break;
            };
            // Both still needed: one stream, of which the first part is complete.
            let goes_on = whole && manifest.increments().any(|part| part.seq == seq) && next.kind == aof::Kind::Incr;
            if goes_on {
                let start = epoch.end()?;
                epoch.head.increments.push(Increment { seq: next.seq, start });
                epoch.save()?;
            } else if settled {
                copied_anew = Some(epoch.head.keys);
                changed = true;
                let newest = manifest.increments().map(|part| part.seq).find(|other| *other > seq);
                epoch = self.begin(tree, newest.unwrap_or(next.seq), keys.unwrap_or(0))?;
            } else {
                break;
            }
        }
        if let Some(keys) = keys.filter(|keys| settled && *keys != epoch.head.keys && copied_anew.is_none()) {
            // Worth a write only where it tells something: R-6 asks about halves.
            if keys.abs_diff(epoch.head.keys) > epoch.head.keys / 16 {
                epoch.head.keys = keys;
                epoch.save()?;
            }
        }
        let end = epoch.end()?;
        let start = epoch.head.increments.last().map_or(0, |one| one.start);
        Ok(Advance {
            end,
            at,
            changed,
            copied_anew,
            increment: end.saturating_sub(start),
            history: manifest.0.iter().any(|part| part.kind == aof::Kind::History),
            rewriting: manifest.increments().count() > 1,
        })
    }

    /// Takes in the rest of the epoch's last increment. Answers whether nothing is left of it.
    fn take(
        epoch: &Epoch,
        data: &Path,
        manifest: &Manifest,
        asked: Option<Timestamp>,
        at: &mut Timestamp,
        changed: &mut bool,
    ) -> Result<bool, EngineError> {
        let Some(last) = epoch.head.increments.last().copied() else { return Ok(false) };
        let Some(part) = manifest.increment(last.seq) else { return Ok(false) };
        let mut end = epoch.end()?;
        let mut file = match pando_host::plain::open(&aof::file(data, part)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io("reading an AOF file")(error)),
        };
        let length = file.metadata().map_err(io("reading an AOF file"))?.len();
        *at = SystemClock.now();
        let known_by = asked.unwrap_or(*at);
        if length < end - last.start {
            // A crash of the machine took bytes that the log has: what is appended now stands elsewhere.
            return Ok(false);
        }
        file.seek(SeekFrom::Start(end - last.start)).map_err(io("reading an AOF file"))?;
        // What comes meanwhile is for the next look.
        let mut file = file.take(length - (end - last.start));
        let mut waiting: Vec<u8> = Vec::new();
        let first = epoch.head.first;
        let mut fresh = epoch.last()?.is_none();
        loop {
            let before = waiting.len();
            (&mut file).take(CHUNK.max(before) as u64).read_to_end(&mut waiting).map_err(io("reading an AOF file"))?;
            let read = waiting.len() > before;
            let mut records = Vec::new();
            let scan = aof::scan(&waiting, |second, at| {
                let place = end + at as u64;
                if place >= first {
                    records.push((second.saturating_mul(1_000_000), place));
                }
            });
            if scan.broken {
                return Err(EngineError::Invalid(format!(
                    "{} is damaged at byte {}",
                    part.name,
                    end - last.start + scan.whole as u64
                )));
            }
            if scan.whole > 0 || fresh {
                let to = end + scan.whole as u64;
                if to >= first {
                    records.push((known_by.as_microsecond(), to));
                }
                epoch.append(end, waiting.get(..scan.whole).unwrap_or_default(), &records)?;
                *changed |= scan.whole > 0;
                fresh = false;
                end = to;
                waiting.drain(..scan.whole);
            }
            if !read {
                return Ok(waiting.is_empty());
            }
        }
    }

    /// Notes up to which time the log is complete.
    pub fn note_through(&self, through: Timestamp) -> Result<(), EngineError> {
        let mut reached = self.locked();
        let Some(epoch) = self.epochs()?.pop() else { return Ok(()) };
        let reach = reached.entry(epoch.number).or_insert_with(|| Reach::at(&epoch.dir));
        let micros = through.as_microsecond();
        // Of two that looked at once the later one counts.
        if reach.said().map_err(io(REACH))?.is_some_and(|[noted]| micros <= noted) {
            return Ok(());
        }
        reach.note([micros]).map_err(io(REACH))
    }

    /// The number of the newest epoch, if a tree writes it.
    pub fn current(&self, tree: &Tree) -> Result<Option<u32>, EngineError> {
        Ok(self.epochs()?.pop().filter(|epoch| epoch.head.tree == tree.name).map(|epoch| epoch.number))
    }

    /// The increments of an epoch, and the first place that can be stopped at.
    pub fn increments(&self, epoch: u32) -> Result<(Vec<Increment>, u64), EngineError> {
        let missing = || EngineError::Invalid("the log of that moment is not kept any more".to_owned());
        let epoch = self.epoch(epoch)?.ok_or_else(missing)?;
        Ok((epoch.head.increments, epoch.head.first))
    }

    /// The earliest time at which a place was known to be complete.
    pub fn time_of(&self, epoch: u32, place: u64) -> Result<Option<Timestamp>, EngineError> {
        let Some(epoch) = self.epoch(epoch)? else { return Ok(None) };
        let before = epoch.count(|_, known| known < place)?;
        let (file, count) = epoch.index()?;
        let found = (before < count).then(|| Epoch::record(&file, before)).transpose()?;
        Ok(found.and_then(|(time, _)| Timestamp::from_microsecond(time).ok()))
    }

    /// The stretches there are. Who is shown a second takes it for a promise: it is durable.
    pub fn stretches(&self) -> Result<Vec<Stretch>, EngineError> {
        let mut reached = self.locked();
        let stretch =
            |epoch: &Epoch| epoch.stretch(reached.entry(epoch.number).or_insert_with(|| Reach::at(&epoch.dir)));
        self.epochs()?.iter().map(stretch).collect()
    }

    /// The point that stands for what is wanted.
    pub fn locate(&self, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        let _lock = self.locked();
        let Some(epoch) = self.epoch(from.epoch)? else { return Ok(None) };
        let found = match want {
            Want::Time(time) => {
                let micros = time.as_microsecond();
                epoch.find(|known, _| known <= micros)?.map(|(_, place)| (place, Some(time)))
            }
            Want::Lsn(lsn) if lsn.0 > epoch.end()? => None,
            Want::Lsn(lsn) => match epoch.find(|_, known| known <= lsn.0)? {
                Some((time, place)) => {
                    let mut bytes = Vec::new();
                    copy(&epoch, place, lsn.0, &mut bytes)?;
                    let whole = aof::scan(&bytes, |_, _| {}).whole as u64;
                    Some((place + whole, Timestamp::from_microsecond(time).ok()))
                }
                None => None,
            },
            Want::End => epoch.last()?.map(|(time, place)| (place, Timestamp::from_microsecond(time).ok())),
        };
        Ok(found.filter(|(place, _)| *place >= from.lsn.0).map(|(place, time)| Point {
            epoch: from.epoch,
            timeline: 0,
            lsn: Lsn(place),
            time,
        }))
    }

    /// Writes the stream from one place to another.
    pub fn copy(&self, epoch: u32, from: u64, to: u64, out: &mut impl Write) -> Result<(), EngineError> {
        let epoch = self.epoch(epoch)?.ok_or_else(|| EngineError::Invalid("the log is gone".to_owned()))?;
        copy(&epoch, from, to, out)
    }

    /// Drops what lies before a point.
    pub fn trim(&self, before: &Point) -> Result<(), EngineError> {
        let mut reached = self.locked();
        for epoch in self.epochs()? {
            if epoch.number < before.epoch {
                reached.remove(&epoch.number);
                remove_tree_if_there(&epoch.dir).map_err(io("trimming a log"))?;
            } else if epoch.number == before.epoch {
                let segments = epoch.segments()?;
                for ((_, path), (next, _)) in segments.iter().zip(segments.iter().skip(1)) {
                    if *next <= before.lsn.0 {
                        fs::remove_file(path).map_err(io("trimming a log"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn copy(epoch: &Epoch, from: u64, to: u64, out: &mut impl Write) -> Result<(), EngineError> {
    let mut at = from;
    let segments = epoch.segments()?;
    for (index, (start, path)) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
        if at >= to || next <= at {
            continue;
        }
        if *start > at {
            break;
        }
        let mut file = File::open(path).map_err(io("reading a log"))?;
        file.seek(SeekFrom::Start(at - start)).map_err(io("reading a log"))?;
        at += std::io::copy(&mut file.take(to.min(next) - at), out).map_err(io("copying a log"))?;
    }
    if at < to {
        return Err(EngineError::Invalid(format!("the log lacks what lies between {} and {}", Lsn(at), Lsn(to))));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
