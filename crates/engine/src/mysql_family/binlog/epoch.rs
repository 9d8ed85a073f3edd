//! One unbroken stretch of the log: the files that a server writes are linked under names of our own, read as they
//! grow, and compressed when the server is done with them.
//!
//! ```text
//! live/log.000003  ═ the same file ═  segments/0000000007        plain, while the server may still write or read it
//!                                     segments/0000000007.zst    packed: the server's name is empty or gone
//!                                     segments/0000000007.idx    its transactions
//! ```
//!
//! A file in `live/` with one name and any content is new. A server that begins anew may remove its names; ours
//! stay. What it then asks of production again comes a second time, and counts once: transactions have numbers. Where a
//! server may set them back, a number that was had is looked for in the log; if it never came, comes again behind what is
//! new, or is of another transaction (`again.rs`), nobody can tell any more what a position means: the stretch ends there.
//!
//! # Crash consistency
//! See `pack.rs` for packing. After a failed sync the kernel may have dropped what it could not write, and the
//! next one succeeds all the same: a file `unsynced` says so, also to the next daemon, until all that was read has been
//! checked, written anew and synced. `reach` keeps the last look at production, also while nothing is committed.

mod pack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use pando_host::{durable, plain};
use serde::{Deserialize, Serialize};

use super::again::{Print, Printing};
use super::dialect::{Dialect, Groups as _, Position as _};
use super::event::{MAGIC, Place, Reader};
use super::index::{Group, Post};
use super::relay::Relay;
use crate::reach::Reach;

/// What the server's files are called.
pub const LIVE: &str = "log";

/// What is kept of an epoch besides its files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Meta<P> {
    /// Where it begins.
    pub begin: P,
    /// Whether its server writes what it does itself: nothing of that comes twice.
    #[serde(default)]
    pub own: bool,
}

/// What the index of a packed file says first.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Summary<G, P> {
    first: Option<Group<G>>,
    last: Option<Group<G>>,
    position: P,
}

/// A file of the log.
#[derive(Debug)]
struct Segment<D: Dialect> {
    packed: bool,
    /// Of a packed one only the first and the last.
    groups: Vec<Group<D::Gtid>>,
    /// What the log had come to before it, once it is read.
    before: Option<D::Position>,
}

impl<D: Dialect> Segment<D> {
    fn plain() -> Self {
        Self { packed: false, groups: Vec::new(), before: None }
    }
}

/// A reader at the end of the newest file.
#[derive(Debug, Default)]
struct Head<R> {
    number: u64,
    at: u64,
    groups: R,
    reader: Reader,
    when_synced: u64,
    /// Whether there was something new in the file.
    is_new: bool,
    printing: Printing,
    /// The file in which the open transaction began, while there is one.
    open: Option<u64>,
}

/// One unbroken stretch.
#[derive(Debug)]
pub struct Epoch<D: Dialect> {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it has come to.
    pub position: D::Position,
    /// Looks at production, oldest first.
    pub posts: Vec<Post>,
    /// The transaction that ended it, whose number its server had given before, or had passed.
    pub ended: Option<D::Gtid>,
    begin: D::Position,
    own: bool,
    segments: BTreeMap<u64, Segment<D>>,
    head: Head<D::Groups>,
    /// While something comes again: the numbers in the files from one on.
    again: (u64, BTreeMap<D::Gtid, Print>),
    /// Whether something was read that no `advance` has told of.
    untold: bool,
    /// Whether the last post is not on disk: nothing was committed since the one before.
    idle: bool,
    /// The last look, as the numbers of a post.
    reach: Reach<3>,
    /// How a file is synced; tests let it fail.
    pub(super) sync_file: fn(&File) -> io::Result<()>,
}

/// A place in the log as a number: file and byte.
pub fn place(number: u64, byte: u64) -> u64 {
    number << 32 | byte
}

/// The file of a place.
pub fn file_of(place: u64) -> u64 {
    place >> 32
}

impl<D: Dialect> Epoch<D> {
    /// Makes an epoch's directories.
    pub fn make(dir: &Path, meta: &Meta<D::Position>) -> io::Result<()> {
        fs::create_dir_all(dir.join("live"))?;
        fs::create_dir_all(dir.join("segments"))?;
        let meta = serde_json::to_vec(meta)?;
        durable::write_atomic(&dir.join("meta.json"), &meta, 0o600)
    }

    /// Opens an epoch: packed files by their summaries, plain ones are read anew.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        let meta: Meta<D::Position> = serde_json::from_slice(&fs::read(dir.join("meta.json"))?)?;
        let mut epoch = Self {
            position: meta.begin.clone(),
            ended: None,
            begin: meta.begin,
            own: meta.own,
            posts: read_posts(&dir.join("posts"))?,
            segments: BTreeMap::new(),
            head: Head::default(),
            again: (u64::MAX, BTreeMap::new()),
            untold: false,
            idle: false,
            reach: Reach::at(&dir),
            sync_file: File::sync_data,
            dir,
        };
        epoch.recall()?;
        for name in names(&epoch.dir.join("segments"))? {
            let (stem, kind) = name.split_once('.').unwrap_or((&name, ""));
            let Ok(number) = stem.parse::<u64>() else { continue };
            match kind {
                "idx" => {
                    let summary = epoch.summary(number)?;
                    let groups = summary.first.into_iter().chain(summary.last).collect();
                    // Names come in order, so the last summary's position stays.
                    let before = Some(std::mem::replace(&mut epoch.position, summary.position));
                    epoch.segments.insert(number, Segment { packed: true, groups, before });
                    epoch.release(number)?;
                }
                "" => {
                    epoch.segments.entry(number).or_insert(Segment::plain());
                }
                _ => {}
            }
        }
        let plain = epoch.segments.iter().find(|(_, segment)| !segment.packed).map(|(number, _)| *number);
        epoch.head.number = plain.unwrap_or_else(|| epoch.segments.keys().last().map_or(1, |last| last + 1));
        Ok(epoch)
    }

    /// The last look, where `posts` does not have it: nothing was committed since the one before, or a crash took it.
    fn recall(&mut self) -> io::Result<()> {
        let Some([micros, within, behind]) = self.reach.said()? else { return Ok(()) };
        let post = Post { micros, within: within.cast_unsigned(), behind: behind.cast_unsigned() };
        match self.posts.last() {
            Some(last) if last.micros >= post.micros || last.within > post.within => Ok(()),
            Some(last) if last.is_where(&post) => {
                self.posts.push(post);
                self.idle = true;
                Ok(())
            }
            // What was committed before it would else count as committed by the next look only.
            _ => self.keep_post(post),
        }
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.dir.join("segments").join(format!("{number:010}"))
    }

    /// Where the log begins.
    pub fn first(&self) -> u64 {
        place(self.segments.keys().next().copied().unwrap_or(1), 4)
    }

    /// Where the last transaction ends.
    pub fn last(&self) -> u64 {
        self.segments.values().rev().find_map(|segment| segment.groups.last()).map_or(self.first(), |last| last.end)
    }

    /// The time of the last transaction, in microseconds: all before that second is there.
    pub fn through(&self) -> Option<i64> {
        let last = self.segments.values().rev().find_map(|segment| segment.groups.last());
        let of_log = last.map(D::complete_to);
        of_log.max(self.posts.last().map(|post| post.micros))
    }

    /// Takes in what the server has written. Whether there was anything. `passed`: the server's own number of
    /// the file it reads; those before it are done with.
    pub fn advance(&mut self, passed: Option<u64>) -> io::Result<bool> {
        self.adopt()?;
        let changed = self.read_on()? | std::mem::take(&mut self.untold);
        self.sync()?;
        self.pack(passed)?;
        Ok(changed)
    }

    /// Gives new files a name of our own.
    pub fn adopt(&mut self) -> io::Result<()> {
        let mut live: Vec<(u64, PathBuf)> = names(&self.dir.join("live"))?
            .into_iter()
            .filter_map(|name| {
                let number = name.strip_prefix(LIVE)?.strip_prefix('.')?.parse().ok()?;
                Some((number, self.dir.join("live").join(name)))
            })
            .collect();
        live.sort();
        for (_, path) in live {
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !meta.is_file() || meta.nlink() > 1 || meta.len() == 0 {
                continue;
            }
            let number = self.segments.keys().last().map_or(1, |last| last + 1);
            match fs::hard_link(&path, self.segment(number)) {
                Ok(()) => durable::sync_parent(&self.segment(number))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            self.segments.insert(number, Segment::plain());
        }
        Ok(())
    }

    /// Reads all that is whole.
    fn read_on(&mut self) -> io::Result<bool> {
        let mut changed = false;
        while self.ended.is_none()
            && let Some(segment) = self.segments.get_mut(&self.head.number)
        {
            segment.before.get_or_insert_with(|| self.position.clone());
            let path = self.dir.join("segments").join(format!("{:010}", self.head.number));
            let mut file = plain::open(&path)?;
            if self.head.at == 0 && begins(&mut file)? {
                self.head.at = MAGIC.len() as u64;
            }
            io::Seek::seek(&mut file, io::SeekFrom::Start(self.head.at))?;
            let mut from = BufReader::with_capacity(1 << 18, file);
            while self.head.at > 0
                && let Some(event) = self.head.reader.next(&mut from)?
            {
                let number = self.head.number;
                let at = self.head.at + event.bytes.len() as u64;
                let belongs = self.head.groups.place(&event);
                if matches!(belongs, Place::Begins(_)) {
                    self.head.open = Some(number);
                    self.head.printing.begin();
                }
                if belongs != Place::Outside {
                    self.head.printing.event(&event, &self.head.reader);
                } else if event.is_format() {
                    self.head.printing.described(&event, self.head.at == MAGIC.len() as u64);
                }
                if let Place::Ends(gtid) = belongs {
                    self.head.open = None;
                    let print = if D::ASCENDS || self.own { Print::default() } else { self.head.printing.print };
                    if self.own || !self.position.holds(&gtid) {
                        self.position.take(&gtid);
                        let (end, when) = (place(number, at), self.head.groups.when(&event));
                        let group = Group { end, when, gtid, print };
                        self.segments.entry(number).or_insert(Segment::plain()).groups.push(group);
                        (self.head.is_new, self.again) = (true, (u64::MAX, BTreeMap::new()));
                        changed = true;
                    } else if !D::ASCENDS && (self.head.is_new || !self.has(&gtid, print)?) {
                        self.ended = Some(gtid);
                        return Ok(changed);
                    }
                }
                self.head.at = at;
            }
            // What a file lacks at its end when there is a next one, it will never get.
            let next = self.segments.range(self.head.number + 1..).next().map(|(number, _)| *number);
            let Some(next) = next else { break };
            self.sync()?;
            let Head { groups, printing, open, .. } = std::mem::take(&mut self.head);
            self.head = Head { number: next, groups, printing, open, ..Head::default() };
        }
        Ok(changed)
    }

    /// Whether a transaction is in the log; what comes again is nearly always in its newest files.
    fn has(&mut self, gtid: &D::Gtid, print: Print) -> io::Result<bool> {
        loop {
            if let Some(had) = self.again.1.get(gtid) {
                return Ok(print.is_again(*had));
            }
            let Some((number, segment)) = self.segments.range(..self.again.0).next_back() else { return Ok(false) };
            let groups = self.groups_of(*number, segment)?;
            self.again.0 = *number;
            self.again.1.extend(groups.into_iter().map(|group| (group.gtid, group.print)));
        }
    }

    /// What is reported is durable.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.head.at <= self.head.when_synced {
            return Ok(());
        }
        let mark = self.dir.join("unsynced");
        if mark.exists() {
            self.write_anew()?;
        }
        if let Err(error) = (self.sync_file)(&plain::open(&self.segment(self.head.number))?) {
            // For the next daemon; a crash of the machine takes what was not synced in any case.
            fs::write(mark, "")?;
            return Err(error);
        }
        durable::remove_if_there(&mark)?;
        self.head.when_synced = self.head.at;
        Ok(())
    }

    /// All that there is is known, and durable, and so is the last look.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.head.at == 0 {
            // Just opened: what the daemon before has shown lies in files that this one has not read yet.
            self.untold |= self.read_on()?;
        }
        self.sync()?;
        let settled = self.reach.settle(self.sync_file);
        if settled.is_err() && std::mem::take(&mut self.idle) {
            self.posts.pop();
        }
        settled
    }

    /// Writes again what a failed sync covered, if it can still be read as it was.
    fn write_anew(&self) -> io::Result<()> {
        let file = plain::edit(&self.segment(self.head.number))?;
        let mut from = BufReader::with_capacity(1 << 18, &file);
        from.read_exact(&mut [0; 4])?;
        file.write_all_at(&MAGIC, 0)?;
        let (mut at, mut reader) = (4, Reader::default());
        while at < self.head.at
            && let Some(event) = reader.next(&mut from)?
        {
            file.write_all_at(&event.bytes, at)?;
            at += event.bytes.len() as u64;
        }
        if at == self.head.at { Ok(()) } else { Err(io::Error::other("what a failed sync covered is lost")) }
    }

    fn summary(&self, number: u64) -> io::Result<Summary<D::Gtid, D::Position>> {
        let bytes = fs::read(self.segment(number).with_extension("idx"))?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(serde_json::from_slice(line)?)
    }

    /// The transactions of the files from the one of a place on.
    pub fn groups_from(&self, from: u64) -> io::Result<Vec<Group<D::Gtid>>> {
        let mut all = Vec::new();
        for (number, segment) in self.segments.range(file_of(from)..) {
            all.extend(self.groups_of(*number, segment)?);
        }
        all.retain(|group| group.end > from);
        Ok(all)
    }

    fn groups_of(&self, number: u64, segment: &Segment<D>) -> io::Result<Vec<Group<D::Gtid>>> {
        if !segment.packed {
            return Ok(segment.groups.clone());
        }
        let bytes = fs::read(self.segment(number).with_extension("idx"))?;
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
        Ok(serde_json::from_slice(&zstd::decode_all(bytes.get(line..).unwrap_or_default())?)?)
    }

    /// The last place where everything before it lies at or before a position.
    pub fn place_of(&self, position: &D::Position) -> io::Result<u64> {
        // The newest files first: it is nearly always there.
        let (mut from, mut groups) = (self.first(), Vec::new());
        for (number, segment) in self.segments.iter().rev() {
            groups.splice(..0, self.groups_of(*number, segment)?);
            let here = numbers(&groups);
            let inside = position.among(&here).first() == Some(&true);
            if inside && segment.before.as_ref().is_some_and(|before| position.begins_in(before, &here)) {
                from = place(*number, 4);
                break;
            }
        }
        let inside = position.among(&numbers(&groups)).into_iter().take_while(|inside| *inside).count();
        Ok(inside.checked_sub(1).and_then(|last| groups.get(last)).map_or(from, |last| last.end))
    }

    /// Where our name for one of the server's files is.
    pub fn number_of(&self, live: &str) -> io::Result<Option<u64>> {
        let inode = fs::metadata(self.dir.join("live").join(live))?.ino();
        let plain = self.segments.iter().rev().filter(|(_, segment)| !segment.packed);
        for (number, _) in plain {
            if fs::metadata(self.segment(*number))?.ino() == inode {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }

    /// Opens a file of the log.
    fn input(&self, number: u64) -> io::Result<Box<dyn Read>> {
        let packed = self.segments.get(&number).is_some_and(|segment| segment.packed);
        Ok(if packed {
            Box::new(BufReader::new(zstd::Decoder::new(File::open(self.segment(number).with_extension("zst"))?)?))
        } else {
            Box::new(BufReader::with_capacity(1 << 18, plain::open(&self.segment(number))?))
        })
    }

    /// Writes what lies between two places as one relay log: each transaction once, those that `known` holds left
    /// out. The position it leads to; `None` when there is nothing.
    pub fn copy_out(&self, from: u64, to: u64, known: &D::Position, path: &Path) -> io::Result<Option<D::Position>> {
        let mut all = self.groups_from(from)?;
        all.retain(|group| group.end <= to);
        let inside = known.among(&numbers(&all));
        let lacks = all.iter().zip(inside).filter(|(_, inside)| !inside);
        let lacks: BTreeSet<u64> = lacks.map(|(group, _)| group.end).collect();
        let mut copy = Relay::<D>::create(path, known)?;
        let mut groups = D::Groups::default();
        for number in self.segments.range(file_of(from)..=file_of(to)).map(|(number, _)| *number) {
            let mut input = self.input(number)?;
            if !begins(&mut input)? {
                continue;
            }
            let (mut at, mut reader) = (MAGIC.len() as u64, Reader::default());
            while place(number, at) < to
                && let Some(event) = reader.next(&mut input)?
            {
                at += event.bytes.len() as u64;
                let (belongs, here) = (groups.place(&event), place(number, at));
                let wanted = if matches!(belongs, Place::Ends(_)) { lacks.contains(&here) } else { here > from };
                copy.event(&event, &belongs, wanted)?;
            }
        }
        copy.finish()
    }

    /// Adds a look at production. While nothing is committed only the first and the last of them tell anything.
    pub fn add_post(&mut self, post: Post) -> io::Result<()> {
        self.sync()?;
        let last = self.posts.last().copied();
        if last.is_some_and(|last| last.micros >= post.micros || last.within > post.within) {
            return Ok(());
        }
        self.reach.note([post.micros, post.within.cast_signed(), post.behind.cast_signed()])?;
        let Some(last) = last else { return self.keep_post(post) };
        if last.is_where(&post) {
            if self.idle {
                self.posts.pop();
            }
            self.idle = true;
            self.posts.push(post);
            return Ok(());
        }
        if std::mem::take(&mut self.idle) {
            self.posts.pop();
            self.keep_post(last)?;
        }
        self.keep_post(post)
    }

    fn keep_post(&mut self, post: Post) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("posts"))?;
        let mut line = serde_json::to_vec(&post)?;
        line.push(b'\n');
        file.write_all(&line)?;
        self.posts.push(post);
        Ok(())
    }

    /// Drops files before a place.
    pub fn trim(&mut self, before: u64) -> io::Result<()> {
        let old: Vec<u64> = self.segments.range(..file_of(before)).map(|(number, _)| *number).collect();
        for number in old {
            let plain = self.segment(number);
            // The index goes last: a file without one would be read as plain.
            for path in [plain.with_extension("zst"), plain.clone(), plain.with_extension("idx")] {
                durable::remove_if_there(&path)?;
            }
            self.segments.remove(&number);
        }
        Ok(())
    }
}

fn numbers<G>(groups: &[Group<G>]) -> Vec<&G> {
    groups.iter().map(|group| &group.gtid).collect()
}

/// Whether a file begins as those of the log do: of one that was not synced, a crash of the machine may leave nothing.
fn begins(file: &mut impl Read) -> io::Result<bool> {
    let mut magic = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == MAGIC)
}

/// The looks in a file. Half a line that a crash has left is cut off: the next one would be appended to it.
fn read_posts(path: &Path) -> io::Result<Vec<Post>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        File::options().write(true).open(path)?.set_len(whole as u64)?;
    }
    let lines = bytes[..whole].split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
