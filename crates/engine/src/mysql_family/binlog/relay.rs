//! A relay log in the making: transactions of the log, each one once and whole, as a server reads them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use pando_host::plain;

use super::dialect::{Dialect, Position as _};
use super::event::{Event, MAGIC, Place};

/// A relay log being written.
pub struct Relay<D: Dialect> {
    position: D::Position,
    out: BufWriter<File>,
    length: u64,
    /// The description in force, until it is written.
    format: Option<Vec<u8>>,
    /// How much of it is whole.
    whole: u64,
    any: bool,
    /// Whether anything was taken in.
    taken: bool,
}

impl<D: Dialect> Relay<D> {
    /// An empty one, for what has `known` already.
    pub fn create(path: &Path, known: &D::Position) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 18, plain::create(path, None)?);
        out.write_all(&MAGIC)?;
        let length = MAGIC.len() as u64;
        Ok(Self { position: known.clone(), out, length, format: None, whole: length, any: false, taken: false })
    }

    /// Takes in an event of the log, if its transaction is wanted: what begins may be, what ends is or is not. They come in
    /// order.
    pub fn event(&mut self, event: &Event, place: &Place<D::Gtid>, wanted: bool) -> io::Result<()> {
        if event.is_format() {
            self.format = Some(event.bytes.clone());
        }
        if Some(event.kind()) == D::HEAD
            && self.length == MAGIC.len() as u64
            && let Some(format) = self.format.clone()
        {
            self.put(&format)?;
            self.put(&event.bytes)?;
            self.whole = self.length;
        }
        let inside = match place {
            Place::Outside => return Ok(()),
            Place::Begins(_) => {
                // Whatever was open never ended.
                self.cut()?;
                self.any = wanted;
                self.any
            }
            Place::Inside | Place::Ends(_) => self.any,
        };
        if !inside {
            return Ok(());
        }
        if let (Place::Begins(_), Some(format)) = (place, self.format.take()) {
            self.put(&format)?;
            self.whole = self.length;
        }
        self.put(&event.bytes)?;
        if let Place::Ends(gtid) = place {
            self.any = false;
            if !wanted {
                return self.cut();
            }
            self.position.take(gtid);
            self.whole = self.length;
            self.taken = true;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.length > self.whole {
            self.out.flush()?;
            self.out.get_ref().set_len(self.whole)?;
            io::Seek::seek(self.out.get_mut(), io::SeekFrom::Start(self.whole))?;
            self.length = self.whole;
        }
        Ok(())
    }

    /// The position that it leads to; `None` when nothing was taken in.
    pub fn finish(mut self) -> io::Result<Option<D::Position>> {
        self.cut()?;
        self.out.flush()?;
        Ok(self.taken.then_some(self.position))
    }
}
