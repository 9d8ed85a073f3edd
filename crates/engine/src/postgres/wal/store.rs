//! The files of one epoch: where each segment is, and how it gets from `live/` to `segments/`.
//!
//! A segment moves forward only: `live/NAME.partial`, `live/NAME`, `segments/NAME.zst`. So a search that goes
//! the same way, once round, finds it even while it moves.
//!
//! # Crash consistency
//! [`Store::pack`] writes `segments/.NAME.zst.tmp`, syncs it, renames it and syncs the directory; the file
//! counts only once its entry is in the index. What may leak is a temporary file, which the next attempt at
//! the same name replaces, or a `.zst` without entry, which it replaces too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pando_host::{durable, plain};

use super::page::{Birthmark, PAGE};
use super::segment::{History, SegmentName, SegmentSize, history_of, looks_like_segment};
use super::source::Input;

/// A segment that `pg_receivewal` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LiveFile {
    pub name: SegmentName,
    pub partial: bool,
}

/// The directories of one epoch.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub dir: PathBuf,
}

impl Store {
    pub fn live(&self) -> PathBuf {
        self.dir.join("live")
    }
    pub fn segments(&self) -> PathBuf {
        self.dir.join("segments")
    }
    pub fn packed(&self, file: &str) -> PathBuf {
        self.segments().join(format!("{file}.zst"))
    }
    pub fn live_path(&self, file: LiveFile, size: SegmentSize) -> PathBuf {
        self.live().join(format!("{}{}", file.name.file(size), if file.partial { ".partial" } else { "" }))
    }

    fn live_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.live())? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// What the first written segment in `live/` says about the cluster.
    pub fn birthmark(&self) -> io::Result<Option<Birthmark>> {
        let mut names = self.live_names()?;
        names.sort();
        for name in names {
            if looks_like_segment(name.strip_suffix(".partial").unwrap_or(&name)) {
                let mut page = Vec::new();
                match plain::open(&self.live().join(&name)) {
                    Ok(file) => file.take(PAGE).read_to_end(&mut page)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                if let Some(mark) = Birthmark::read(&page) {
                    return Ok(Some(mark));
                }
            }
        }
        Ok(None)
    }

    /// The segments in `live/`, in order. Of a segment that is there twice only the complete one.
    pub fn live_files(&self, size: SegmentSize) -> io::Result<Vec<LiveFile>> {
        let mut files: Vec<LiveFile> = self
            .live_names()?
            .iter()
            .filter_map(|file| {
                let (stem, partial) = file.strip_suffix(".partial").map_or((file.as_str(), false), |stem| (stem, true));
                Some(LiveFile { name: SegmentName::parse(stem, size)?, partial })
            })
            .collect();
        files.sort();
        files.dedup_by_key(|file| file.name);
        Ok(files)
    }

    /// The history of a timeline, if `pg_receivewal` has fetched it.
    pub fn history(&self, tli: u32) -> io::Result<History> {
        match plain::read_text(&self.live().join(format!("{tli:08X}.history"))) {
            Ok(text) => Ok(History::parse(tli, &text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::alone(tli)),
            Err(error) => Err(error),
        }
    }

    /// The names of all history files.
    pub fn history_files(&self) -> io::Result<Vec<(u32, String)>> {
        Ok(self.live_names()?.into_iter().filter_map(|name| Some((history_of(&name)?, name))).collect())
    }

    /// Opens a segment, wherever it is. Only a packed one that is in the index counts before a live one.
    pub fn open(&self, name: SegmentName, size: SegmentSize, indexed: bool) -> io::Result<Option<Input>> {
        let file = name.file(size);
        if indexed && let Some(packed) = self.open_packed(&file)? {
            return Ok(Some(packed));
        }
        for partial in [false, true, false] {
            match plain::open(&self.live_path(LiveFile { name, partial }, size)) {
                Ok(file) => return Ok(Some(Input::Plain(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.open_packed(&file)
    }

    fn open_packed(&self, file: &str) -> io::Result<Option<Input>> {
        match File::open(self.packed(file)) {
            Ok(file) => Ok(Some(Input::Packed(Box::new(zstd::Decoder::new(file)?)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Compresses a live segment into `segments/`, durable on return. The bytes before and after.
    pub fn pack(&self, file: LiveFile, size: SegmentSize) -> io::Result<(u64, u64)> {
        let name = file.name.file(size);
        let temporary = self.segments().join(format!(".{name}.zst.tmp"));
        let mut source = plain::open(&self.live_path(file, size))?;
        let raw = source.metadata()?.len();
        let target = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        let mut encoder = zstd::Encoder::new(target, 1)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(raw))?;
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let read = source.read(&mut chunk)?;
            match chunk.get(..read) {
                None | Some([]) => break,
                Some(bytes) => encoder.write_all(bytes)?,
            }
        }
        let target = encoder.finish()?;
        target.sync_all()?;
        let packed = target.metadata()?.len();
        let path = self.packed(&name);
        fs::rename(&temporary, &path)?;
        durable::sync_parent(&path)?;
        Ok((raw, packed))
    }

    /// Removes what lies in `segments/` and `keep` refuses, leftovers of crashes included.
    pub fn drop_packed(&self, size: SegmentSize, keep: impl Fn(SegmentName) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.segments())? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let stem = name.trim_start_matches('.').trim_end_matches(".tmp").trim_end_matches(".zst");
            if SegmentName::parse(stem, size).is_some_and(|name| !keep(name)) {
                durable::remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Bytes that a directory's files take on disk.
pub(super) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        sum += match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path())?,
            Ok(meta) => meta.blocks() * 512,
            // It moved on while we were looking.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(sum)
}
