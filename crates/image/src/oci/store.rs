//! Blobs on disk, each under its digest, in OCI's layout: `blobs/sha256/HEX`. What is in the making lies in a
//! directory of its own below `work/`, named by whoever makes it.
//!
//! # Crash consistency
//! A blob has its name only when it is whole and synced, so what has a name can be believed. What a crash leaves in
//! `work/` belongs to an operation that is undone by name. A blob that no record names is garbage that the next sweep
//! takes; a record is written before its blobs come in, so that a sweep at the same time knows them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use pando_host::durable;
use ring::digest::{Context, SHA256};

use super::{Descriptor, hex_of};
use crate::ImageError;

/// Where the blobs of one home are.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store in a directory, which is made when something comes in.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let hex = hex_of(digest).ok_or_else(|| ImageError::Unfit(format!("{digest:?} is no digest")))?;
        Ok(self.blobs().join(hex))
    }

    /// Whether a blob is there.
    pub fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.is_file())
    }

    /// A small blob.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest)?;
        fs::read(&path).map_err(ImageError::io("reading", path))
    }

    /// A directory for what is in the making. One that a former try has left is emptied.
    pub fn work(&self, name: &str) -> Result<PathBuf, ImageError> {
        let dir = self.root.join("work").join(name);
        self.drop_work(name)?;
        fs::create_dir_all(&dir).map_err(ImageError::io("making", dir.clone()))?;
        Ok(dir)
    }

    /// Takes away what is in the making.
    pub fn drop_work(&self, name: &str) -> Result<(), ImageError> {
        let dir = self.root.join("work").join(name);
        durable::remove_tree_if_there(&dir).map(drop).map_err(ImageError::io("removing", dir))
    }

    /// Takes blobs in from a directory of work. Those that are there already are left where they are.
    pub fn adopt<'a>(&self, work: &Path, digests: impl Iterator<Item = &'a str>) -> Result<(), ImageError> {
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(ImageError::io("making", blobs.clone()))?;
        for digest in digests {
            let path = self.path(digest)?;
            let made = work.join(path.file_name().unwrap_or_default());
            if made.exists() {
                fs::rename(&made, &path).map_err(ImageError::io("naming", path))?;
            } else if !path.exists() {
                return Err(ImageError::Unfit(format!("the blob {digest} of an image is missing")));
            }
        }
        durable::sync_dir(&blobs).map_err(ImageError::io("syncing", blobs))
    }

    /// Removes every blob that is not to be kept.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<(), ImageError> {
        for digest in self.list()?.into_iter().filter(|digest| !keep.contains(digest)) {
            let path = self.path(&digest)?;
            durable::remove_if_there(&path).map_err(ImageError::io("removing", path))?;
        }
        Ok(())
    }

    /// All blobs.
    pub fn list(&self) -> Result<Vec<String>, ImageError> {
        let dir = self.blobs();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(ImageError::io("reading", dir))?,
        };
        let digest = |entry: fs::DirEntry| format!("sha256:{}", entry.file_name().to_string_lossy());
        Ok(entries.flatten().map(digest).filter(|digest| hex_of(digest).is_some()).collect())
    }
}

/// Writes one blob into a directory of work; it gets its name when it is whole.
pub struct BlobWriter {
    dir: PathBuf,
    hidden: PathBuf,
    file: BufWriter<File>,
    digest: Context,
    size: u64,
}

impl BlobWriter {
    /// Begins one. `word` tells it from others that are written at the same time.
    pub fn new(dir: &Path, word: &str) -> Result<Self, ImageError> {
        let hidden = dir.join(format!(".{word}"));
        let file = File::create(&hidden).map_err(ImageError::io("making", hidden.clone()))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { dir: dir.to_owned(), hidden, file, digest: Context::new(&SHA256), size: 0 })
    }

    /// Ends it, synced and under its name.
    pub fn finish(self, media_type: &str) -> Result<Descriptor, ImageError> {
        let hex = crate::archive::hex(self.digest.finish().as_ref());
        let sync = self.file.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        sync.map_err(ImageError::io("writing", self.hidden.clone()))?;
        fs::rename(&self.hidden, self.dir.join(&hex)).map_err(ImageError::io("naming", self.hidden))?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest: format!("sha256:{hex}"), size: self.size })
    }

    /// A small blob at once.
    pub fn whole(dir: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ImageError> {
        let mut writer = Self::new(dir, "small")?;
        writer.write_all(bytes).map_err(ImageError::io("writing", dir))?;
        writer.finish(media_type)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let put = self.file.write(bytes)?;
        self.digest.update(bytes.get(..put).unwrap_or_default());
        self.size += put as u64;
        Ok(put)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_whole_and_what_nobody_names_is_swept() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::at(dir.path().join("images"));
        let work = store.work("one")?;
        let (a, b) = (BlobWriter::whole(&work, "text", b"a")?, BlobWriter::whole(&work, "text", b"b")?);
        assert_eq!(a.digest, super::super::digest_of(b"a"));
        assert!(!store.has(&a.digest));
        store.adopt(&work, [a.digest.as_str(), b.digest.as_str()].into_iter())?;
        store.adopt(&work, [a.digest.as_str()].into_iter())?;
        assert!(store.adopt(&work, [super::super::digest_of(b"c").as_str()].into_iter()).is_err());
        assert_eq!(store.read(&b.digest)?, b"b");
        store.sweep(&BTreeSet::from([a.digest.clone()]))?;
        assert_eq!(store.list()?, [a.digest]);
        store.drop_work("one")?;
        assert!(!work.exists() && store.path("sha256:../../etc/passwd").is_err());
        Ok(())
    }
}
