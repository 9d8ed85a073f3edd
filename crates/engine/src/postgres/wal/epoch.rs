//! One epoch of the log: what is known of it, and how segments are taken in.
//!
//! Invariants: a segment is in the index only when every record that starts in it was read and checked, up
//! to the end of the last one, which may lie in the next segment; the exception is the end of a timeline
//! that was left (failover) and the edge of a gap, where nothing more can come. What is not in the index is
//! read from `live/` and summed up in memory, in the same form.
//!
//! # Crash consistency
//! A segment goes from `live/` in four steps, each of which may be the last before a crash: packed
//! (temporary), packed (in place), indexed, removed from `live/`. Before "indexed" everything is done again
//! from `live/`; after it only the removal is. Nothing is removed from `live/` that is not in the index, and
//! the newest complete segment never: `pg_receivewal` finds where to go on from the highest name in its
//! directory (`FindStreamingStart` in `pg_receivewal.c`; the tests that kill it hold this).
//!
//! After a failed sync the kernel may have dropped what it could not write, and the next one succeeds all the same. So
//! a file `unsynced` says, also to the next daemon, that nothing may be shown until all that was read has been
//! checked, written anew and synced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use pando_host::{durable, plain};
use pando_model::Lsn;
use serde::{Deserialize, Serialize};

use super::index::{Entry, Index};
use super::record::{Reader, Step, Stop};
use super::segment::{History, SegmentName, SegmentSize};
use super::source::{Input, SegmentPages};
use super::store::{LiveFile, Store};
use crate::EngineError;
use crate::reach::Reach;

/// What is fixed for an epoch, kept in `meta.json` so that it is known when `live/` is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    segment_bytes: u64,
    system: u64,
    version: u32,
}

/// The reading end of one timeline: its segments that are not in the index.
#[derive(Debug)]
struct Head {
    reader: Reader,
    /// Sums of the segments so far, the first one of the run first.
    open: Vec<Entry>,
    stop: Option<Stop>,
}

/// One epoch.
#[derive(Debug)]
pub(super) struct Epoch {
    pub store: Store,
    index: Index,
    meta: Option<Meta>,
    heads: BTreeMap<u32, Head>,
    live: Vec<LiveFile>,
    histories: BTreeMap<u32, History>,
    /// Until when it is complete, in microseconds of production's clock, behind the end of the log then.
    pub reach: Reach<2>,
    /// Up to here the file being written was synced by us.
    synced: Lsn,
    /// How a file is synced; tests let it fail.
    pub(super) sync_file: fn(&File) -> io::Result<()>,
}

/// A way through the log to one timeline.
#[derive(Debug)]
pub(super) struct Path {
    pub history: History,
    pub size: SegmentSize,
    /// By number, without duplicates; gaps are possible.
    pub entries: Vec<Entry>,
}

impl Path {
    /// The end of the last record.
    pub fn end(&self) -> Lsn {
        self.entries.iter().rev().find_map(|entry| entry.last).map_or(Lsn(0), |(_, end)| end)
    }
    /// The name of the segment with this number.
    pub fn name(&self, segno: u64) -> SegmentName {
        SegmentName { segno, tli: self.history.of_segment(segno, self.size) }
    }
}

pub(super) fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> EngineError {
    let action = action.into();
    move |source| EngineError::Io { action, source }
}

impl Head {
    fn at(name: SegmentName, size: SegmentSize) -> Self {
        Self { reader: Reader::at_segment(name.segno, size), open: vec![Entry::new(name)], stop: None }
    }

    /// The sum of a segment of this run.
    fn entry(&mut self, name: SegmentName) -> Option<&mut Entry> {
        let next = self.open.last().map_or(name.segno, |entry| entry.name.segno + 1);
        // A record of more than a segment: those in between hold no start of a record.
        self.open.extend((next..=name.segno).map(|segno| Entry::new(SegmentName { segno, ..name })));
        self.open.iter_mut().find(|entry| entry.name == name)
    }

    fn read_on(&mut self, store: &Store, tli: u32, size: SegmentSize) -> io::Result<()> {
        let mut pages = SegmentPages::new(size, |segno| store.open(SegmentName { segno, tli }, size, false));
        loop {
            match self.reader.step(&mut pages)? {
                Step::Record(record) => {
                    if let Some(entry) = self.entry(SegmentName { segno: size.segno(record.start), tli }) {
                        entry.add(&record);
                    }
                }
                Step::Stop(stop) => {
                    self.stop = Some(stop);
                    return Ok(());
                }
            }
        }
    }
}

impl Epoch {
    pub fn at(dir: PathBuf) -> Self {
        Self {
            index: Index::at(dir.join("index")),
            reach: Reach::at(&dir),
            store: Store { dir },
            meta: None,
            heads: BTreeMap::new(),
            live: Vec::new(),
            histories: BTreeMap::new(),
            synced: Lsn(0),
            sync_file: File::sync_data,
        }
    }

    pub fn size(&self) -> Option<SegmentSize> {
        SegmentSize::new(self.meta?.segment_bytes)
    }

    /// Looks at what is there. Changes nothing on disk.
    pub fn refresh(&mut self) -> Result<(), EngineError> {
        self.look().map_err(io_error(format!("reading the log in {}", self.store.dir.display())))
    }

    fn look(&mut self) -> io::Result<()> {
        if self.meta.is_none() {
            self.meta = self.read_meta()?;
        }
        let Some(size) = self.size() else { return Ok(()) };
        // A listing is no instant: a file renamed meanwhile may be missing in it. A second one tells.
        let mut before = self.store.live_files(size)?;
        loop {
            self.live = self.store.live_files(size)?;
            if self.live == before {
                break;
            }
            before.clone_from(&self.live);
        }
        // After the listing: what is no longer in it is in the index.
        self.index.refresh()?;
        let runs = self.runs();
        self.heads.retain(|tli, _| runs.contains_key(tli));
        for (tli, runs) in &runs {
            let Some(run) = runs.last() else { continue };
            let Some(first) = run.first() else { continue };
            let index = &self.index;
            let fits = |head: &Head| head.open.iter().any(|entry| entry.name == first.name);
            if !self.heads.get(tli).is_some_and(fits) {
                self.heads.insert(*tli, Head::at(first.name, size));
            }
            if let Some(head) = self.heads.get_mut(tli) {
                head.open.retain(|entry| !index.contains(entry.name));
                head.read_on(&self.store, *tli, size)?;
            }
        }
        self.histories.clear();
        for tli in self.live.iter().map(|file| file.name.tli).chain(self.index.entries().iter().map(|e| e.name.tli)) {
            if !self.histories.contains_key(&tli) {
                self.histories.insert(tli, self.store.history(tli)?);
            }
        }
        Ok(())
    }

    fn read_meta(&self) -> io::Result<Option<Meta>> {
        match fs::read(self.store.dir.join("meta.json")) {
            Ok(text) => return Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let mark = self.store.birthmark()?;
        Ok(mark.map(|mark| Meta { segment_bytes: mark.size.bytes(), system: mark.system, version: mark.version }))
    }

    /// The live segments that are not in the index: for each timeline its unbroken runs.
    fn runs(&self) -> BTreeMap<u32, Vec<Vec<LiveFile>>> {
        let mut runs: BTreeMap<u32, Vec<Vec<LiveFile>>> = BTreeMap::new();
        for file in self.live.iter().filter(|file| !self.index.contains(file.name)) {
            let of_tli = runs.entry(file.name.tli).or_default();
            match of_tli.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.name.segno + 1 == file.name.segno) => run.push(*file),
                _ => of_tli.push(vec![*file]),
            }
        }
        runs
    }

    /// Takes in what `pg_receivewal` has completed. The epoch must have been refreshed.
    pub fn take_in(&mut self) -> Result<(), EngineError> {
        let Some(size) = self.size() else { return Ok(()) };
        self.take_in_files(size).map_err(io_error(format!("taking the log in {} in", self.store.dir.display())))?;
        self.settle()?;
        self.damage(size)
    }

    fn take_in_files(&mut self, size: SegmentSize) -> io::Result<()> {
        let meta = self.store.dir.join("meta.json");
        if !meta.exists() {
            durable::write_atomic(&meta, &serde_json::to_vec(&self.meta)?, 0o600)?;
        }
        let mut cut_off = Vec::new();
        for (tli, mut runs) in self.runs() {
            runs.pop();
            for run in runs {
                let Some(first) = run.first() else { continue };
                let mut head = Head::at(first.name, size);
                head.read_on(&self.store, tli, size)?;
                for file in &run {
                    Self::take_in_file(&self.store, &mut self.index, &mut head, *file, size)?;
                }
                cut_off.extend(run);
            }
        }
        let newest = self.live.iter().filter(|file| !file.partial).max().copied();
        let top =
            self.live.iter().map(|file| file.name.tli).max().max(self.index.entries().iter().map(|e| e.name.tli).max());
        for file in self.live.clone() {
            // The server ended the timeline before the first segment of the next one was begun.
            let left = Some(file.name.tli) < top || cut_off.contains(&file);
            if !self.index.contains(file.name) {
                let Some(head) = self.heads.get_mut(&file.name.tli) else { continue };
                let passed = !file.partial && file.name.segno < size.segno(head.reader.position());
                if !passed && !left {
                    continue;
                }
                Self::take_in_file(&self.store, &mut self.index, head, file, size)?;
                head.open.retain(|entry| entry.name != file.name);
            }
            if Some(file) != newest && (left || !file.partial) {
                durable::remove_if_there(&self.store.live_path(file, size))?;
            }
        }
        Ok(())
    }

    fn take_in_file(
        store: &Store,
        index: &mut Index,
        head: &mut Head,
        file: LiveFile,
        size: SegmentSize,
    ) -> io::Result<()> {
        let Some(mut entry) = head.entry(file.name).copied() else { return Ok(()) };
        let (raw, packed) = store.pack(file, size)?;
        entry.raw_bytes = u32::try_from(raw).unwrap_or(u32::MAX);
        entry.packed_bytes = u32::try_from(packed).unwrap_or(u32::MAX);
        index.append(entry)
    }

    /// Makes durable what was read: to be called before anybody is told of it.
    pub fn settle(&mut self) -> Result<(), EngineError> {
        let Some(size) = self.size() else { return Ok(()) };
        self.sync_partial(size).map_err(io_error("making the received log durable"))
    }

    /// Makes durable what `reach` says: to be called before anybody is told of it.
    pub fn settle_reach(&mut self) -> Result<(), EngineError> {
        self.reach.settle(self.sync_file).map_err(io_error("making durable how far the log is complete"))
    }

    /// What is reported is durable, whatever `pg_receivewal` was told about syncing (T-21).
    fn sync_partial(&mut self, size: SegmentSize) -> io::Result<()> {
        let read = self.heads.values().map(|head| head.reader.position()).max().unwrap_or_default();
        if read <= self.synced {
            return Ok(());
        }
        let mark = self.store.dir.join("unsynced");
        let before = mark.exists();
        for file in self.live.iter().filter(|file| file.partial) {
            let path = self.store.live_path(*file, size);
            let open = match if before { plain::edit(&path) } else { plain::open(&path) } {
                Ok(open) => open,
                // Renamed: then pg_receivewal has synced it (close_walfile).
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if before {
                self.write_anew(*file, &open, size)?;
            }
            if let Err(error) = (self.sync_file)(&open) {
                // For the next daemon; a crash of the machine takes what was not synced in any case.
                fs::write(&mark, "")?;
                return Err(error);
            }
        }
        durable::remove_if_there(&mark)?;
        self.synced = read;
        Ok(())
    }

    /// Writes again what a failed sync of a file covered, if it can still be read as it was.
    fn write_anew(&self, file: LiveFile, open: &File, size: SegmentSize) -> io::Result<()> {
        let Some(head) = self.heads.get(&file.name.tli) else { return Ok(()) };
        let Some(first) = head.open.first() else { return Ok(()) };
        let mut again = Head::at(first.name, size);
        again.read_on(&self.store, file.name.tli, size)?;
        if again.reader.position() < head.reader.position() {
            return Err(io::Error::other("what a failed sync covered is lost"));
        }
        let read = head.reader.position().0.saturating_sub(size.start(file.name.segno).0).min(size.bytes());
        let mut bytes = vec![0; usize::try_from(read).unwrap_or(0)];
        open.read_exact_at(&mut bytes, 0)?;
        open.write_all_at(&bytes, 0)
    }

    /// Bytes that do not fit are the end of the log while they may still change; in a complete segment they
    /// are damage (T-26). What lies before them stays good.
    fn damage(&self, size: SegmentSize) -> Result<(), EngineError> {
        let Some((tli, head)) = self.heads.last_key_value() else { return Ok(()) };
        let Some(stop) = head.stop else { return Ok(()) };
        let name = SegmentName { segno: size.segno(stop.at), tli: *tli };
        if self.live.contains(&LiveFile { name, partial: false }) {
            return Err(EngineError::Invalid(format!(
                "the log is damaged at {} in segment {}: {}; it can be used up to {}",
                stop.at,
                name.file(size),
                stop.why,
                head.reader.position()
            )));
        }
        Ok(())
    }

    /// The timelines there are, newest first, each with the way to it. A timeline counts once the log has
    /// reached its beginning: before that its first segment hides what its parent's holds.
    pub fn paths(&self) -> impl Iterator<Item = Path> + '_ {
        self.histories.values().rev().filter_map(|history| {
            let path = self.path(history)?;
            let begin = history.begin();
            (path.entries.iter().any(|entry| entry.name.tli == history.tli()) && path.end() >= begin).then_some(path)
        })
    }

    /// The way to one timeline.
    pub fn path(&self, history: &History) -> Option<Path> {
        let size = self.size()?;
        let open = self.heads.values().flat_map(|head| &head.open);
        let on_the_way = |entry: &&Entry| history.of_segment(entry.name.segno, size) == entry.name.tli;
        let mut entries: Vec<Entry> = self.index.entries().iter().chain(open).filter(on_the_way).copied().collect();
        entries.sort_by_key(|entry| entry.name);
        Some(Path { history: history.clone(), size, entries })
    }

    /// Opens a segment of this epoch.
    pub fn open(&self, name: SegmentName, size: SegmentSize) -> io::Result<Option<Input>> {
        self.store.open(name, size, self.index.contains(name))
    }

    /// Whether a segment is in the index.
    pub fn indexed(&self, name: SegmentName) -> bool {
        self.index.contains(name)
    }

    /// Whether a segment is there, wherever.
    pub fn holds(&self, name: SegmentName) -> bool {
        self.indexed(name) || self.live.iter().any(|file| file.name == name)
    }

    /// The history of a timeline.
    pub fn history(&self, tli: u32) -> History {
        self.histories.get(&tli).cloned().unwrap_or_else(|| History::alone(tli))
    }

    /// Drops segments numbered below `segno`.
    pub fn trim(&mut self, segno: u64) -> Result<(), EngineError> {
        let Some(size) = self.size() else { return Ok(()) };
        self.index
            .retain(|entry| entry.name.segno >= segno)
            .and_then(|()| self.store.drop_packed(size, |name| name.segno >= segno))
            .map_err(io_error(format!("trimming the log in {}", self.store.dir.display())))
    }

    /// Removes what would keep `pg_receivewal` from going on: a `.partial` file that it was still filling
    /// with zeros when it died. It accepts only empty and full ones (`open_walfile` in `receivelog.c`) and
    /// fails at any other, however often it is started. Such a file holds nothing yet.
    pub fn mend(&self) -> Result<(), EngineError> {
        let mend = || {
            for entry in fs::read_dir(self.store.live())? {
                let entry = entry?;
                if entry.path().extension().is_some_and(|extension| extension == "partial") {
                    let bytes = entry.metadata()?.len();
                    let fits = self.size().is_some_and(|size| size.bytes() == bytes);
                    if bytes != 0 && !fits {
                        durable::remove_if_there(&entry.path())?;
                    }
                }
            }
            Ok(())
        };
        mend().map_err(io_error(format!("clearing {}", self.store.live().display())))
    }
}
