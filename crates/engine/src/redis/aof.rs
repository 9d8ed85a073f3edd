//! Redis' append-only file: a manifest that names a base and increments, and increments made of commands with
//! a note of the time before the first command of each second.
//!
//! Only places between commands, and outside of transactions, are places to stop at: a load that ends anywhere
//! else drops what it began.

use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The directory of the files, in a tree.
pub const DIR: &str = "appendonlydir";
const MANIFEST: &str = "appendonly.aof.manifest";

/// What a file of a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The whole data at one instant.
    Base,
    /// What came behind it.
    Incr,
    /// Not needed for a load any more.
    History,
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its number among those of its kind.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
}

impl Part {
    /// Whether it is, or was, an increment.
    pub fn is_increment(&self) -> bool {
        self.name.ends_with(".incr.aof")
    }
}

/// The files that make up a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(pub Vec<Part>);

impl Manifest {
    /// Reads a tree's manifest. None: the server has not written one yet.
    pub fn read(data: &Path) -> Result<Option<Self>, EngineError> {
        match pando_host::plain::read_text(&Self::path(data)) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EngineError::Io { action: "reading the list of AOF files".to_owned(), source }),
        }
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        let bad = || EngineError::Invalid("the list of AOF files makes no sense".to_owned());
        let part = |line: &str| -> Option<Part> {
            let mut words = line.split(' ');
            let mut part = Part { name: String::new(), seq: 0, kind: Kind::Base };
            while let (Some(key), Some(value)) = (words.next(), words.next()) {
                match key {
                    "file" => value.clone_into(&mut part.name),
                    "seq" => part.seq = value.parse().ok()?,
                    "type" => {
                        part.kind = match value {
                            "b" => Kind::Base,
                            "i" => Kind::Incr,
                            "h" => Kind::History,
                            _ => return None,
                        }
                    }
                    _ => {}
                }
            }
            (!part.name.is_empty() && !part.name.contains('/')).then_some(part)
        };
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| part(line).ok_or_else(bad))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The increments, oldest first.
    pub fn increments(&self) -> impl DoubleEndedIterator<Item = &Part> {
        self.0.iter().filter(|part| part.kind == Kind::Incr)
    }

    /// An increment by its number, still needed or not.
    pub fn increment(&self, seq: u64) -> Option<&Part> {
        self.0.iter().find(|part| part.is_increment() && part.seq == seq)
    }

    /// The highest number of an increment.
    pub fn newest(&self) -> u64 {
        self.0.iter().filter(|part| part.is_increment()).map(|part| part.seq).max().unwrap_or(0)
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, part| {
            let kind = match part.kind {
                Kind::Base => 'b',
                Kind::Incr => 'i',
                Kind::History => 'h',
            };
            let _ = writeln!(text, "file {} seq {} type {kind}", part.name, part.seq);
            text
        })
    }

    /// Where a tree's manifest lies.
    pub fn path(data: &Path) -> PathBuf {
        data.join(DIR).join(MANIFEST)
    }
}

/// Where a part of a tree lies.
pub fn file(data: &Path, part: &Part) -> PathBuf {
    data.join(DIR).join(&part.name)
}

/// What stands at a place of an increment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// From here on it is this second, by the clock of the server that wrote it.
    Time(i64),
    /// A command.
    Command,
}

/// What stands there is neither a command nor a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    const LONGEST: usize = 1024;
    let end = bytes.iter().take(LONGEST).position(|byte| *byte == b'\n');
    match end {
        Some(end) => match bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
            Some(line) => Ok(Some((line, end + 1))),
            None => Err(Broken),
        },
        None if bytes.len() < LONGEST => Ok(None),
        None => Err(Broken),
    }
}

fn number(text: &[u8]) -> Result<usize, Broken> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Broken)
}

/// Reads what stands at the beginning of `bytes`: its length, and where a command's words lie. None: more
/// bytes are needed to tell.
pub fn item(bytes: &[u8], words: &mut Vec<Range<usize>>) -> Result<Option<(usize, Item)>, Broken> {
    words.clear();
    let Some((head, mut at)) = line(bytes)? else { return Ok(None) };
    match head.split_first() {
        Some((b'#', note)) => {
            let time = note.strip_prefix(b"TS:").map(number).transpose()?;
            let time = time.map_or(0, |time| i64::try_from(time).unwrap_or(0));
            Ok(Some((at, Item::Time(time))))
        }
        Some((b'*', count)) => {
            for _ in 0..number(count)? {
                let Some((head, length)) = line(bytes.get(at..).unwrap_or_default())? else { return Ok(None) };
                at += length;
                let size = head.strip_prefix(b"$").ok_or(Broken).and_then(number)?;
                let end = at.checked_add(size).ok_or(Broken)?;
                match bytes.get(end..end + 2) {
                    Some(b"\r\n") => {}
                    Some(_) => return Err(Broken),
                    None => return Ok(None),
                }
                words.push(at..end);
                at = end + 2;
            }
            Ok(Some((at, Item::Command)))
        }
        _ => Err(Broken),
    }
}

/// How far a stretch of commands can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Up to here it is whole, and no transaction is open.
    pub whole: usize,
    /// Whether what follows is damaged, not only unfinished.
    pub broken: bool,
}

/// Walks over commands. `seen` is told of each second that begins, and where.
pub fn scan(bytes: &[u8], mut seen: impl FnMut(i64, usize)) -> Scan {
    let mut words = Vec::new();
    let (mut at, mut whole, mut inside) = (0, 0, false);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Scan { whole, broken: false };
        }
        let (length, item) = match item(rest, &mut words) {
            Ok(Some(found)) => found,
            Ok(None) => return Scan { whole, broken: false },
            Err(Broken) => return Scan { whole, broken: true },
        };
        match item {
            Item::Time(second) if !inside => seen(second, at),
            Item::Time(_) => {}
            Item::Command => {
                let first = words.first().and_then(|word| rest.get(word.clone())).unwrap_or_default();
                if first.eq_ignore_ascii_case(b"MULTI") {
                    inside = true;
                } else if first.eq_ignore_ascii_case(b"EXEC") || first.eq_ignore_ascii_case(b"DISCARD") {
                    inside = false;
                }
            }
        }
        at += length;
        if !inside {
            whole = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n";

    #[test]
    fn a_manifest_is_read_and_written() {
        let text = "file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.incr.aof seq 1 type h\nfile appendonly.aof.2.incr.aof seq 2 type i\n";
        let manifest = Manifest::parse(text).expect("read");
        assert_eq!(manifest.text(), text);
        assert_eq!((manifest.newest(), manifest.increments().count()), (2, 1));
        assert!(Manifest::parse("file ../x seq 1 type b\n").is_err());
        assert!(Manifest::parse("file x seq 1 type q\n").is_err());
    }

    #[test]
    fn every_cut_of_a_stream_ends_at_a_whole_command_outside_of_transactions() {
        let mut bytes = b"#TS:1795235836\r\n".to_vec();
        bytes.extend_from_slice(SET);
        bytes.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
        bytes.extend_from_slice(SET);
        bytes.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        let places = [0, 16, 16 + SET.len(), bytes.len()];
        for cut in 0..=bytes.len() {
            let scan = scan(&bytes[..cut], |_, _| {});
            assert!(!scan.broken, "{cut}");
            assert_eq!(Some(&scan.whole), places.iter().rev().find(|place| **place <= cut), "{cut}");
        }
    }

    #[test]
    fn r05_damage_is_told_from_an_unfinished_end() {
        let mut bytes = SET.to_vec();
        bytes.extend_from_slice(b"*3\r\n$3\r\nSET\r\n\0\0\0\0\n");
        let found = scan(&bytes, |_, _| {});
        assert_eq!(found, Scan { whole: SET.len(), broken: true });
    }
}
