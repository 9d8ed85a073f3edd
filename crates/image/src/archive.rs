//! The archive of `export`, written and read as a stream: the manifest first, the trees of all sources below
//! `data/SOURCE`, and last the digest of everything before it.
//!
//! ```text
//! pando-manifest.json   what it is (manifest.rs)
//! data/db/ …            one tree per source, in the order of their names
//! pando-digest.json     sha256 of all bytes before this entry, and how much there was
//! ```
//!
//! What is read is believed only as far as it was checked; the digest says that it is whole, not who wrote it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pando_model::{EngineKind, Name};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::tar::{Entry, Kind, Reader, Refusal, Writer, shown};
use crate::tree::walk;
use crate::unpack::{Owning, Unpacking};
use crate::{ImageError, Manifest};

/// The name of the first entry.
pub const MANIFEST: &str = "pando-manifest.json";
/// The name of the last.
pub const TRAILER: &str = "pando-digest.json";

const MOST_MANIFEST: u64 = 1 << 20;

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Entries of the trees.
    pub entries: u64,
    /// Bytes of data, holes left out.
    pub bytes: u64,
    /// Sockets, fifos and devices, which do not travel.
    pub skipped: u64,
    /// Symbolic links that lead out of their tree.
    pub outward: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    sha256: String,
    entries: u64,
    bytes: u64,
}

/// Counts a tree without reading its data.
pub fn count(root: &Path, counted: &mut Counted) -> Result<(), ImageError> {
    let skipped = walk(root, "data", &mut |entry, _| {
        counted.entries += 1;
        counted.bytes += entry.data_len();
        counted.outward += u64::from(entry.kind == Kind::Symlink && leads_out(b"data", &entry));
        Ok(())
    })?;
    counted.skipped += skipped;
    Ok(())
}

/// An archive being written.
pub struct Writing<W: Write> {
    tar: Writer<Digesting<W>>,
    counted: Counted,
}

impl<W: Write> Writing<W> {
    /// Begins with the manifest.
    pub fn begin(out: W, manifest: &Manifest) -> Result<Self, ImageError> {
        let mut tar = Writer::new(Digesting::new(out));
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| ImageError::Stream(error.into()))?;
        small(&mut tar, MANIFEST, &text).map_err(ImageError::Stream)?;
        Ok(Self { tar, counted: Counted::default() })
    }

    /// Writes a source's tree. `progress` hears how many bytes of data went out since the beginning.
    pub fn tree(&mut self, source: &Name, root: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), ImageError> {
        let (tar, counted) = (&mut self.tar, &mut self.counted);
        let mut buffer = vec![0; 1 << 18];
        walk(root, &format!("data/{source}"), &mut |entry, file| {
            tar.head(&entry).map_err(ImageError::Stream)?;
            counted.entries += 1;
            if let Some(file) = file {
                copy(tar, &entry, file, &mut buffer, |more| {
                    counted.bytes += more;
                    progress(counted.bytes);
                })?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Ends with the digest. Answers it, and what was written.
    pub fn finish(mut self) -> Result<(String, Counted), ImageError> {
        let sha256 = self.tar.inner().map_err(ImageError::Stream)?.so_far();
        let trailer = Trailer { sha256, entries: self.counted.entries, bytes: self.counted.bytes };
        let text = serde_json::to_vec_pretty(&trailer).map_err(|error| ImageError::Stream(error.into()))?;
        small(&mut self.tar, TRAILER, &text).map_err(ImageError::Stream)?;
        self.tar.finish().map_err(ImageError::Stream)?;
        Ok((trailer.sha256, self.counted))
    }
}

fn small<W: Write>(tar: &mut Writer<W>, path: &str, text: &[u8]) -> io::Result<()> {
    tar.head(&Entry::file(path, 0o644, text.len() as u64))?;
    tar.data(text)
}

/// Copies a file's data, piece by piece.
pub(crate) fn copy<W: Write>(
    tar: &mut Writer<W>,
    entry: &Entry,
    file: &File,
    buffer: &mut [u8],
    mut more: impl FnMut(u64),
) -> Result<(), ImageError> {
    let whole = [crate::tar::Extent { offset: 0, length: entry.size }];
    for extent in entry.extents.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..most).unwrap_or_default();
            let got = file.read_at(part, at).map_err(ImageError::io("reading", entry.shown()))?;
            if got == 0 {
                return Err(ImageError::Unfit(format!("{} got shorter while it was read", entry.shown())));
            }
            tar.data(part.get(..got).unwrap_or_default()).map_err(ImageError::Stream)?;
            at += got as u64;
            more(got as u64);
        }
    }
    Ok(())
}

/// What an archive may ask of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that may be used.
    pub room: u64,
    /// Whether symbolic links of directories may lead out of them.
    pub outward_links: bool,
}

/// An archive whose manifest was read.
pub struct Received<R: Read> {
    /// What it says.
    pub manifest: Manifest,
    tar: Reader<Digesting<R>>,
}

impl From<Refusal> for ImageError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stream(error) => Self::Stream(error),
            Refusal::Entry(why) => Self::Refused(why),
        }
    }
}

/// Reads the beginning of an archive.
pub fn read_manifest<R: Read>(from: R) -> Result<Received<R>, ImageError> {
    let mut tar = Reader::new(Digesting::new(from));
    let first = tar.next_entry()?;
    if first.is_none_or(|entry| entry.path != MANIFEST.as_bytes() || !is_plain(&entry)) {
        return Err(ImageError::refused(format!("it does not begin with {MANIFEST}")));
    }
    let manifest = Manifest::read(&tar.whole(MOST_MANIFEST)?)?;
    Ok(Received { manifest, tar })
}

fn is_plain(entry: &Entry) -> bool {
    entry.kind == Kind::File && entry.extents.is_none() && entry.xattrs.is_empty()
}

/// Unpacks the rest of an archive: each source into `into/SOURCE`. `owning` says whose a kind's files become.
pub fn unpack<R: Read>(
    received: Received<R>,
    into: &Path,
    limits: Limits,
    owning: &dyn Fn(EngineKind) -> Owning,
    progress: &mut dyn FnMut(u64),
) -> Result<Counted, ImageError> {
    let Received { manifest, mut tar } = received;
    // An entry costs room too, however small it is.
    let wanted = manifest.bytes.saturating_add(manifest.entries.saturating_mul(1024));
    if wanted > limits.room {
        return Err(ImageError::Unfit(format!("it needs {} MB, and {} MB are free", wanted >> 20, limits.room >> 20)));
    }
    let mut unpacking = Unpacking::new(into)?;
    let mut counted = Counted::default();
    let mut seen = BTreeSet::new();
    loop {
        tar.settle()?;
        let before = tar.inner().so_far();
        let Some(entry) = tar.next_entry()? else {
            return Err(ImageError::refused(format!("it does not end with {TRAILER}")));
        };
        if entry.path == TRAILER.as_bytes() {
            finish(&mut tar, &entry, &before, counted)?;
            break;
        }
        let (source, path) = below_data(&entry.path)?;
        let (name, engine) = manifest
            .sources
            .iter()
            .find(|(name, _)| name.as_str().as_bytes() == source)
            .map(|(name, source)| (name, source.engine))
            .ok_or_else(|| ImageError::refused(format!("{} belongs to no source of it", entry.shown())))?;
        seen.insert(name);
        check_links(source, &entry, engine == EngineKind::Files && limits.outward_links)?;
        counted.entries += 1;
        counted.bytes = counted.bytes.saturating_add(entry.data_len());
        if counted.entries > manifest.entries || counted.bytes > manifest.bytes {
            return Err(ImageError::refused("it holds more than its manifest says"));
        }
        let (path, target) = (path.to_vec(), entry.target.get(5..).unwrap_or_default().to_vec());
        unpacking.put(&path, &target, entry, owning(engine), &mut |buffer| Ok(tar.read(buffer)?))?;
        progress(counted.bytes);
    }
    if let Some(missing) = manifest.sources.keys().find(|name| !seen.contains(name)) {
        return Err(ImageError::refused(format!("the source {missing} is not in it")));
    }
    if (counted.entries, counted.bytes) != (manifest.entries, manifest.bytes) {
        return Err(ImageError::refused("it holds less than its manifest says"));
    }
    unpacking.finish()?;
    Ok(counted)
}

/// The last entry: the digest of what came before it.
fn finish<R: Read>(
    tar: &mut Reader<Digesting<R>>,
    entry: &Entry,
    before: &str,
    counted: Counted,
) -> Result<(), ImageError> {
    let text = tar.whole(4096)?;
    let trailer: Trailer = serde_json::from_slice(&text)
        .map_err(|error| ImageError::refused(format!("its digest cannot be read: {error}")))?;
    if !is_plain(entry) || trailer.sha256 != before {
        return Err(ImageError::refused("its digest does not fit: it was damaged or changed on the way"));
    }
    if (trailer.entries, trailer.bytes) != (counted.entries, counted.bytes) {
        return Err(ImageError::refused("it counts itself wrongly"));
    }
    if tar.next_entry()?.is_some() {
        return Err(ImageError::refused("something follows behind its digest"));
    }
    Ok(())
}

/// `data/SOURCE/…` taken apart: the source, and the path below `data/`.
fn below_data(path: &[u8]) -> Result<(&[u8], &[u8]), ImageError> {
    let below = path.strip_prefix(b"data/".as_slice());
    let below = below.ok_or_else(|| ImageError::refused(format!("{} has no place in it", shown(path))))?;
    let source = below.split(|byte| *byte == b'/').next().unwrap_or_default();
    Ok((source, below))
}

/// A link that leads out of its source is refused; so is a hard link to nothing that came before.
fn check_links(source: &[u8], entry: &Entry, outward: bool) -> Result<(), ImageError> {
    let root = [b"data/", source].concat();
    let out = match entry.kind {
        Kind::Symlink => !outward && leads_out(&root, entry),
        Kind::HardLink => {
            let inside = entry.target.strip_prefix(root.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
            inside.is_none_or(|rest| rest.split(|byte| *byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")))
        }
        Kind::File | Kind::Directory => false,
    };
    if out {
        let why = format!("{} leads out of it, to {}", entry.shown(), shown(&entry.target));
        return Err(ImageError::refused(why));
    }
    if entry.path == root && entry.kind != Kind::Directory {
        return Err(ImageError::refused(format!("{} is not a directory", entry.shown())));
    }
    Ok(())
}

/// Whether a symbolic link leads out of the tree at `root`. One that climbs after it has gone down counts as
/// one: through another link it could come out anywhere.
fn leads_out(root: &[u8], entry: &Entry) -> bool {
    if entry.target.first() == Some(&b'/') {
        return true;
    }
    let depth = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
    // How many directories lie between the link and the root.
    let mut left = depth(&entry.path).saturating_sub(depth(root) + 1);
    let mut down = false;
    for part in entry.target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down || left == 0 => return true,
            b".." => left -= 1,
            _ => down = true,
        }
    }
    false
}

/// A stream that knows the digest of what went through it.
struct Digesting<S> {
    stream: S,
    digest: Context,
}

impl<S> Digesting<S> {
    fn new(stream: S) -> Self {
        Self { stream, digest: Context::new(&SHA256) }
    }

    fn so_far(&self) -> String {
        hex(self.digest.clone().finish().as_ref())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<S: Read> Read for Digesting<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.digest.update(buffer.get(..got).unwrap_or_default());
        Ok(got)
    }
}

impl<S: Write> Write for Digesting<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let put = self.stream.write(bytes)?;
        self.digest.update(bytes.get(..put).unwrap_or_default());
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
