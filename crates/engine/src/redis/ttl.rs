//! Keys that expire, at a moment of the past. An expiry is a time on the wall, so in a clone of yesterday
//! every key with a TTL of an hour is gone. On request (`--set redis.ttl=alive`) all expiries of a tree are moved by
//! the time that has passed since its moment: keys have left what they had left then.
//!
//! This is done in the files, in place, before the server loads them: a base is walked over as Redis' loader would
//! (expiries have a fixed width; its checksum is set to "none"), an increment is made of commands. Costs one look
//! at every byte.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pando_host::plain;

use super::aof::{self, Item, Kind, Manifest};
use super::io as failed;
use crate::EngineError;

/// Moves all expiries of a tree by so many milliseconds. Answers how many there were.
pub fn shift(data: &Path, manifest: &Manifest, millis: i64) -> Result<usize, EngineError> {
    let mut count = 0;
    for part in manifest.0.iter().filter(|part| part.kind != Kind::History) {
        let path = aof::file(data, part);
        let action = failed("moving the expiry of keys");
        let file = plain::edit(&path).map_err(&action)?;
        let patches = if part.is_increment() {
            let mut bytes = Vec::new();
            (&file).read_to_end(&mut bytes).map_err(&action)?;
            increment(&bytes, millis)
        } else {
            base(file.try_clone().map_err(&action)?, millis).map_err(|source| EngineError::Io {
                action: format!("the expiry of keys in {} cannot be moved", part.name),
                source,
            })?
        };
        count += patches.len();
        for (at, bytes) in patches {
            file.write_all_at(&bytes, at).map_err(&action)?;
        }
    }
    Ok(count)
}

type Patch = (u64, Vec<u8>);

/// The new expiries in an increment.
pub(super) fn increment(bytes: &[u8], millis: i64) -> Vec<Patch> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let (mut at, mut patches) = (0, Vec::new());
    while let Ok(Some((length, item))) = aof::item(bytes.get(at..).unwrap_or_default(), &mut words) {
        if item == Item::Command
            && let Some((word, unit)) = expiry(|index| bytes.get(shifted(words.get(index)?, at)))
            && let Some(place) = words.get(word).map(|word| shifted(word, at))
            && let Some(fresh) = moved(bytes.get(place.clone()).unwrap_or_default(), millis / unit)
        {
            patches.push((place.start as u64, fresh));
        }
        at += length;
    }
    patches
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Which word of a command is an expiry, and how many milliseconds its unit has. The append-only file knows only
/// times on the wall: relative ones are translated before they are written.
fn expiry<'a>(word: impl Fn(usize) -> Option<&'a [u8]>) -> Option<(usize, i64)> {
    let is = |index: usize, text: &str| word(index).is_some_and(|word| word.eq_ignore_ascii_case(text.as_bytes()));
    let option = |from: usize| {
        (from..).take_while(|index| word(*index).is_some()).find_map(|index| {
            [("PXAT", 1), ("EXAT", 1000)]
                .into_iter()
                .find_map(|(text, unit)| is(index, text).then_some((index + 1, unit)))
        })
    };
    if is(0, "PEXPIREAT") || is(0, "HPEXPIREAT") {
        Some((2, 1))
    } else if is(0, "EXPIREAT") || is(0, "HEXPIREAT") {
        Some((2, 1000))
    } else if is(0, "SET") {
        option(3)
    } else if is(0, "GETEX") {
        option(2)
    } else if is(0, "RESTORE") && !is(2, "0") {
        (4..).take_while(|index| word(*index).is_some()).any(|index| is(index, "ABSTTL")).then_some((2, 1))
    } else {
        None
    }
}

/// A number moved, if it keeps its width: a time of this century does.
fn moved(text: &[u8], by: i64) -> Option<Vec<u8>> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let fresh = number.checked_add(by)?.to_string().into_bytes();
    (fresh.len() == text.len()).then_some(fresh)
}

/// A base being walked over.
struct Walk {
    file: BufReader<File>,
    at: u64,
}

/// Either a length, or a value that is encoded in another way, with so many bytes behind it.
enum Length {
    Plain(u64),
    Encoded(u64),
}

fn nonsense(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Walk {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.file.seek_relative(i64::try_from(bytes).map_err(|_| nonsense("a length makes no sense"))?)?;
        self.at += bytes;
        Ok(())
    }

    fn length_or_encoding(&mut self) -> io::Result<Length> {
        let first = self.byte()?;
        Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(u64::from(first & 63)),
            (1, _) => Length::Plain(u64::from(first & 63) << 8 | u64::from(self.byte()?)),
            (2, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(self.take()?))),
            (2, 0x81) => Length::Plain(u64::from_be_bytes(self.take()?)),
            (3, 0xc0..=0xc2) => Length::Encoded(1 << (first & 3)),
            (3, 0xc3) => {
                let compressed = self.length()?;
                self.length()?;
                Length::Encoded(compressed)
            }
            _ => return Err(nonsense(format!("a length makes no sense at byte {}", self.at))),
        })
    }

    fn length(&mut self) -> io::Result<u64> {
        match self.length_or_encoding()? {
            Length::Plain(length) => Ok(length),
            Length::Encoded(_) => Err(nonsense(format!("a length makes no sense at byte {}", self.at))),
        }
    }

    fn string(&mut self) -> io::Result<()> {
        match self.length_or_encoding()? {
            Length::Plain(length) | Length::Encoded(length) => self.skip(length),
        }
    }

    fn strings(&mut self, count: u64) -> io::Result<()> {
        (0..count).try_for_each(|_| self.string())
    }

    fn lengths(&mut self, count: u64) -> io::Result<()> {
        (0..count).try_for_each(|_| self.length().map(drop))
    }

    /// A value, by the numbers of Redis' `rdb.h`.
    fn value(&mut self, kind: u8) -> io::Result<()> {
        match kind {
            // A text, and what is packed into one.
            0 | 9..=13 | 16 | 17 | 20 => self.string(),
            1 | 2 | 14 => {
                let count = self.length()?;
                self.strings(count)
            }
            3 => {
                for _ in 0..self.length()? {
                    self.string()?;
                    match self.byte()? {
                        253..=255 => {}
                        digits => self.skip(u64::from(digits))?,
                    }
                }
                Ok(())
            }
            4 => {
                let count = self.length()?;
                self.strings(count * 2)
            }
            5 => {
                for _ in 0..self.length()? {
                    self.string()?;
                    self.skip(8)?;
                }
                Ok(())
            }
            18 => {
                for _ in 0..self.length()? {
                    self.length()?;
                    self.string()?;
                }
                Ok(())
            }
            15 | 19 | 21 => self.stream(kind),
            _ => Err(nonsense(format!("a value of kind {kind} (of a module, or of a later version) is not known"))),
        }
    }

    fn stream(&mut self, kind: u8) -> io::Result<()> {
        let nodes = self.length()?;
        self.strings(nodes * 2)?;
        self.lengths(if kind >= 19 { 8 } else { 3 })?;
        for _ in 0..self.length()? {
            self.string()?;
            self.lengths(if kind >= 19 { 3 } else { 2 })?;
            for _ in 0..self.length()? {
                self.skip(16 + 8)?;
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.string()?;
                self.skip(if kind >= 21 { 16 } else { 8 })?;
                let pending = self.length()?;
                self.skip(pending * 16)?;
            }
        }
        Ok(())
    }
}

/// The new expiries in a base, and its checksum switched off.
fn base(file: File, millis: i64) -> io::Result<Vec<Patch>> {
    let mut walk = Walk { file: BufReader::with_capacity(1 << 20, file), at: 0 };
    if walk.take::<5>()? != *b"REDIS" {
        return Err(nonsense("this is no Redis database"));
    }
    walk.skip(4)?;
    let mut patches = Vec::new();
    loop {
        let at = walk.at + 1;
        match walk.byte()? {
            255 => {
                patches.push((at, vec![0; 8]));
                return Ok(patches);
            }
            252 => {
                let expiry = i64::from_le_bytes(walk.take()?).saturating_add(millis);
                patches.push((at, expiry.to_le_bytes().to_vec()));
            }
            253 => {
                let expiry = i64::from(i32::from_le_bytes(walk.take()?)) + millis / 1000;
                let expiry = i32::try_from(expiry).unwrap_or(i32::MAX);
                patches.push((at, expiry.to_le_bytes().to_vec()));
            }
            254 | 248 => walk.lengths(1)?,
            251 => walk.lengths(2)?,
            244 => walk.lengths(3)?,
            250 => walk.strings(2)?,
            245 => walk.string()?,
            249 => walk.skip(1)?,
            kind @ 0..=242 => {
                walk.string()?;
                walk.value(kind)?;
            }
            other => {
                return Err(nonsense(format!(
                    "a part of kind {other} (of a module, or of a later version) is not known"
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r02_only_expiries_of_commands_are_moved() {
        let command = |words: &[&str]| {
            let parts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
            format!("*{}\r\n{parts}", words.len())
        };
        let text = [
            command(&["SET", "PXAT", "PXAT"]),
            command(&["SET", "k", "1795235836000", "PXAT", "1795235836000"]),
            command(&["PEXPIREAT", "1795235836000", "1795235836000", "NX"]),
            command(&["RPUSH", "PEXPIREAT", "1795235836000"]),
        ]
        .concat();
        let patches = increment(text.as_bytes(), 1500);
        let mut bytes = text.clone().into_bytes();
        for (at, fresh) in patches {
            let at = usize::try_from(at).expect("a place");
            bytes[at..at + fresh.len()].copy_from_slice(&fresh);
        }
        let wanted = text
            .replace("PXAT\r\n$13\r\n1795235836000", "PXAT\r\n$13\r\n1795235837500")
            .replace("1795235836000\r\n$2\r\nNX", "1795235837500\r\n$2\r\nNX");
        assert_eq!(String::from_utf8_lossy(&bytes), wanted);
    }
}
