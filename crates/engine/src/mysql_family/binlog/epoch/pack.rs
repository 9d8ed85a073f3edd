//! Compressing the files of a stretch.
//!
//! # Crash consistency
//! Packing writes `.zst` and `.idx` beside, syncs and renames them, the index last: with it the packed file counts.
//! Only then the plain file is emptied and unlinked. A crash in between leaves a plain file beside its packed
//! one, which the next opening removes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use pando_host::{durable, plain};

use super::super::dialect::{Dialect, Position as _};
use super::{Epoch, LIVE, Summary, names};

impl<D: Dialect> Epoch<D> {
    /// Compresses what has been read whole and what the server is done with.
    pub(super) fn pack(&mut self, passed: Option<u64>) -> io::Result<()> {
        // What began in a file and goes on in the next one is read from there again by the next daemon.
        let before = self.head.open.unwrap_or(self.head.number);
        let ready: Vec<u64> = self
            .segments
            .iter()
            .filter(|(number, segment)| !segment.packed && **number < before)
            .map(|(number, _)| *number)
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let mut live = BTreeMap::new();
        for name in names(&self.dir.join("live"))? {
            let number: Option<u64> =
                name.strip_prefix(LIVE).and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.parse().ok());
            if let (Some(number), Ok(meta)) = (number, fs::metadata(self.dir.join("live").join(&name))) {
                live.insert(meta.ino(), number);
            }
        }
        for number in ready {
            let meta = fs::metadata(self.segment(number))?;
            let held = live.get(&meta.ino()).is_some_and(|live| passed.is_none_or(|passed| *live >= passed));
            if held {
                break;
            }
            self.pack_one(number)?;
        }
        Ok(())
    }

    fn pack_one(&mut self, number: u64) -> io::Result<()> {
        let plain = self.segment(number);
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        let mut position = self.begin.clone();
        let groups = std::mem::take(&mut segment.groups);
        let mut packed = zstd::Encoder::new(Vec::new(), 3)?;
        packed.include_checksum(true)?;
        io::copy(&mut plain::open(&plain)?, &mut packed)?;
        durable::write_atomic(&plain.with_extension("zst"), &packed.finish()?, 0o600)?;
        // The position behind this file: the one before it, and its own transactions.
        if let Some((before, _)) = self.segments.range(..number).next_back() {
            position = self.summary(*before)?.position;
        }
        for group in &groups {
            position.take(&group.gtid);
        }
        let summary = Summary { first: groups.first().cloned(), last: groups.last().cloned(), position };
        let mut index = serde_json::to_vec(&summary)?;
        index.push(b'\n');
        index.extend(zstd::encode_all(serde_json::to_vec(&groups)?.as_slice(), 3)?);
        durable::write_atomic(&plain.with_extension("idx"), &index, 0o600)?;
        let ends = summary.first.into_iter().chain(summary.last).collect();
        if let Some(segment) = self.segments.get_mut(&number) {
            (segment.packed, segment.groups) = (true, ends);
        }
        self.release(number)
    }

    /// Gives the room of a packed file back. The server may still know its name, and has read it.
    pub(super) fn release(&self, number: u64) -> io::Result<()> {
        let plain = self.segment(number);
        match plain::edit(&plain) {
            Ok(file) => file.set_len(0)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        durable::remove_if_there(&plain).map(drop)
    }
}
