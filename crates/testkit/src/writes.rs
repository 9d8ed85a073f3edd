//! Files that remember: what a daemon told the kernel of some of its files, in order. From that they can be made as a
//! crash of the machine would have left them, without a file system in between: whatever was synced, and of the rest
//! any writes, in any order, torn. A file system may promise more than that, none less; but what one does wrong
//! itself only [`RecordedDisk`](crate::RecordedDisk) finds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::seed::Seed;
use crate::tools;

const SECTOR: usize = 512;
const HEAD: usize = 24;

/// Listens to a daemon that is started with [`Writes::env`].
#[derive(Debug)]
pub struct Writes {
    dir: TempDir,
    prefix: PathBuf,
    before: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug)]
enum Told {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
    Sync,
    Gone,
}

impl Told {
    fn happen(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(content, *at, bytes),
            Self::Length(length) => content.resize(*length, 0),
            Self::Sync | Self::Gone => {}
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A file: what is on the disk for certain, and what was done since.
#[derive(Debug, Default)]
struct Remembered {
    /// `None`: not even the file is.
    synced: Option<Vec<u8>>,
    since: Vec<Told>,
    /// The file that had the name before: its removal may not have reached the disk.
    former: Option<Vec<u8>>,
}

impl Remembered {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Sync => {
                let content = self.synced.get_or_insert_default();
                self.since.drain(..).for_each(|told| told.happen(content));
                self.former = None;
            }
            Told::Gone => {
                let former = self.synced.take();
                *self = Self { former, ..Self::default() };
            }
            told => self.since.push(told),
        }
    }

    /// What a crash leaves of it.
    fn crash(&self, seed: &mut Seed) -> Option<Vec<u8>> {
        if self.synced.is_none() && seed.once_in(2) {
            return self.former.clone();
        }
        let mut content = self.synced.clone().unwrap_or_default();
        let mut flying: Vec<&Told> = self.since.iter().collect();
        // In any order; half of them not at all; some in part.
        for place in (1..flying.len()).rev() {
            flying.swap(place, seed.index(place + 1));
        }
        for told in flying.into_iter().filter(|_| seed.once_in(2)).collect::<Vec<_>>() {
            match told {
                Told::Write { at, bytes } if seed.once_in(3) => {
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        if seed.once_in(2) {
                            put(&mut content, at + number * SECTOR, sector);
                        }
                    }
                }
                told => told.happen(&mut content),
            }
        }
        Some(content)
    }
}

/// All that was told, gone through once, from the beginning to the end.
#[derive(Debug)]
pub struct Past {
    /// Where each record ends in the log, whose file, what.
    records: Vec<(u64, String, Told)>,
    heard: usize,
    files: BTreeMap<String, Remembered>,
}

impl Writes {
    /// Compiles what is loaded. `prefix`: of the paths of the files to listen to, whose daemon does not run now.
    /// `None` where there is no C compiler, by the rule of [`tools`].
    ///
    /// # Panics
    /// When it does not compile, or the files cannot be read.
    pub fn of(prefix: &Path) -> Option<Self> {
        if !tools::require("cc") {
            return None;
        }
        let dir = TempDir::new().expect("a temporary directory");
        let source = dir.path().join("writes.c");
        fs::write(&source, include_str!("writes.c")).expect("writing C");
        let library = dir.path().join("writes.so").display().to_string();
        tools::run("cc", &["-shared", "-fPIC", "-O1", "-o", &library, &source.display().to_string(), "-ldl"]);
        let start = prefix.file_name().expect("a prefix with a name").to_string_lossy().into_owned();
        let before = fs::read_dir(prefix.parent().expect("a prefix in a directory")).expect("listing a directory");
        let before = before.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            (name.starts_with(&start) && counts(&name)).then(|| (name, fs::read(entry.path()).expect("reading a file")))
        });
        Some(Self { before: before.collect(), prefix: prefix.to_owned(), dir })
    }

    /// The environment of the daemon.
    pub fn env(&self) -> [(&'static str, String); 3] {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        [
            ("LD_PRELOAD", path("writes.so")),
            ("PANDO_WRITES", path("log")),
            ("PANDO_WRITES_OF", self.prefix.display().to_string()),
        ]
    }

    /// How much was told so far: what has happened by now lies before every larger number.
    pub fn now(&self) -> u64 {
        fs::metadata(self.dir.path().join("log")).map_or(0, |meta| meta.len())
    }

    /// What was told.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn past(self) -> Past {
        let log = fs::read(self.dir.path().join("log")).expect("reading the log of writes");
        let number = |at: usize, size: usize| {
            let bytes = log[at..at + size].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            usize::try_from(bytes).expect("a number of this machine")
        };
        let (mut records, mut at) = (Vec::new(), 0);
        // A daemon that was killed may have left half a record, of something that nobody was told is done.
        while at + HEAD <= log.len() {
            let (kind, name, place, size) = (number(at, 4), number(at + 4, 4), number(at + 8, 8), number(at + 16, 8));
            let bytes = at + HEAD + name;
            let end = bytes + if kind == 1 { size } else { 0 };
            if end > log.len() {
                break;
            }
            let told = match kind {
                1 => Told::Write { at: place, bytes: log[bytes..end].to_vec() },
                2 => Told::Length(place),
                3 => Told::Sync,
                4 => Told::Gone,
                other => panic!("no kind of record: {other}"),
            };
            let name = String::from_utf8_lossy(&log[at + HEAD..bytes]).into_owned();
            if counts(&name) {
                records.push((end as u64, name, told));
            }
            at = end;
        }
        let synced = |content| Remembered { synced: Some(content), ..Remembered::default() };
        Past { records, heard: 0, files: self.before.into_iter().map(|(name, old)| (name, synced(old))).collect() }
    }
}

/// SQLite's shared memory is none of the disk's business: whoever opens the file first makes it anew.
fn counts(name: &str) -> bool {
    !name.ends_with("-shm")
}

impl Past {
    /// How many things were told.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many syncs came back.
    pub fn syncs(&self) -> usize {
        self.records.iter().filter(|(_, _, told)| matches!(told, Told::Sync)).count()
    }

    /// Writes the files into an empty directory as a crash behind the first `count` things would have left them;
    /// answers up to which of [`Writes::now`] everything had happened. Counts must not go back.
    ///
    /// # Panics
    /// When they do, or the files cannot be written.
    pub fn crash(&mut self, count: usize, seed: &mut Seed, into: &Path) -> u64 {
        assert!(count >= self.heard, "crashes must not go back");
        while self.heard < count {
            let (_, name, told) = &mut self.records[self.heard];
            self.files.entry(name.clone()).or_default().hear(std::mem::replace(told, Told::Sync));
            self.heard += 1;
        }
        for (name, file) in &self.files {
            if let Some(content) = file.crash(seed) {
                fs::write(into.join(name), content).expect("writing a crashed file");
            }
        }
        self.heard.checked_sub(1).map_or(0, |last| self.records[last].0)
    }
}
