//! The writer: heads, data, padding, end.

use std::io::{self, Write};

use super::{BLOCK, Entry, Extent, Kind, key};

/// Writes an archive, head by head.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes of data that the last head still wants.
    owed: u64,
    padding: usize,
}

/// The largest number in eleven octal digits.
const MOST_OCTAL: u64 = 0o77_777_777_777;
/// The largest owner in seven.
const MOST_OWNER: u32 = 0o7_777_777;

impl<W: Write> Writer<W> {
    /// A writer to `out`.
    pub fn new(out: W) -> Self {
        Self { out, owed: 0, padding: 0 }
    }

    /// Writes a head. [`Entry::data_len`] bytes must follow by [`Self::data`].
    pub fn head(&mut self, entry: &Entry) -> io::Result<()> {
        self.close()?;
        let map = entry.extents.as_ref().map(|extents| sparse_map(extents, entry.size));
        let size = map.as_ref().map_or(0, |map| map.len() as u64) + entry.data_len();
        let records = pax(entry, size);
        if !records.is_empty() {
            let mut head = Header::new(b'x', 0o644, records.len() as u64);
            head.name(b"PaxHeaders/0");
            self.out.write_all(&head.sealed())?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.out.write_all(&plain(entry, size).sealed())?;
        if let Some(map) = map {
            self.out.write_all(&map)?;
        }
        self.owed = entry.data_len();
        self.padding = padding(size);
        Ok(())
    }

    /// Writes data of the last head.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.owed.checked_sub(bytes.len() as u64);
        self.owed = left.ok_or_else(|| io::Error::other("more data than its head said"))?;
        self.out.write_all(bytes)
    }

    /// Writes the end of the archive, and hands back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.close()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// What it writes to. Whoever writes there by hand must do so between entries.
    pub fn inner(&mut self) -> io::Result<&mut W> {
        self.close()?;
        Ok(&mut self.out)
    }

    fn close(&mut self) -> io::Result<()> {
        if self.owed > 0 {
            return Err(io::Error::other("less data than its head said"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.out.write_all(&[0; BLOCK][..padding])
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding(length)])
    }
}

fn padding(length: u64) -> usize {
    let over = (length % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// The map before a sparse file's data: how many pieces, then where each begins and how long it is. GNU's tar
/// learns of a hole at the end by an empty piece behind it.
fn sparse_map(extents: &[Extent], size: u64) -> Vec<u8> {
    let reached = extents.last().map_or(0, |last| last.offset.saturating_add(last.length));
    let end = (reached < size).then_some(Extent { offset: size, length: 0 });
    let mut text = format!("{}\n", extents.len() + usize::from(end.is_some()));
    for extent in extents.iter().chain(&end) {
        text.push_str(&format!("{}\n{}\n", extent.offset, extent.length));
    }
    let mut map = text.into_bytes();
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// What does not fit into a plain head, as PAX records.
fn pax(entry: &Entry, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    let name = stored_name(entry);
    if let Some(path) = entry.extents.as_ref().map(|_| &entry.path) {
        add(key::SPARSE_MAJOR.as_bytes(), b"1");
        add(key::SPARSE_MINOR.as_bytes(), b"0");
        add(key::SPARSE_NAME.as_bytes(), path);
        add(key::SPARSE_SIZE.as_bytes(), entry.size.to_string().as_bytes());
    }
    if name.len() > 100 {
        add(key::PATH.as_bytes(), &name);
    }
    if entry.target.len() > 100 {
        add(key::LINKPATH.as_bytes(), &entry.target);
    }
    if size > MOST_OCTAL {
        add(key::SIZE.as_bytes(), size.to_string().as_bytes());
    }
    if entry.uid > MOST_OWNER {
        add(key::UID.as_bytes(), entry.uid.to_string().as_bytes());
    }
    if entry.gid > MOST_OWNER {
        add(key::GID.as_bytes(), entry.gid.to_string().as_bytes());
    }
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || !fits(seconds) {
        add(key::MTIME.as_bytes(), time(seconds, nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[key::XATTR.as_bytes(), name].concat(), value);
    }
    records
}

fn fits(seconds: i64) -> bool {
    u64::try_from(seconds).is_ok_and(|seconds| seconds <= MOST_OCTAL)
}

/// Seconds with nine digits behind the point. A time before 1970 counts its fraction away from zero.
fn time(seconds: i64, nanos: u32) -> String {
    match (seconds, nanos) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanos:09}"),
        (..0, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend(format!("{length} ").into_bytes());
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// The name in the head; of a sparse file one that those who do not know the format see.
fn stored_name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.clone();
    match (entry.kind, &entry.extents) {
        (Kind::Directory, _) => name.push(b'/'),
        (_, Some(_)) => {
            let base = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            name.splice(base..base, *b"GNUSparseFile.0/");
        }
        _ => {}
    }
    name
}

fn plain(entry: &Entry, size: u64) -> Header {
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Directory => b'5',
    };
    let mut head = Header::new(kind, entry.mode & 0o7777, if size > MOST_OCTAL { 0 } else { size });
    head.name(&stored_name(entry));
    head.put(108, 8, if entry.uid > MOST_OWNER { 0 } else { u64::from(entry.uid) });
    head.put(116, 8, if entry.gid > MOST_OWNER { 0 } else { u64::from(entry.gid) });
    head.put(136, 12, u64::try_from(entry.mtime.0).ok().filter(|at| *at <= MOST_OCTAL).unwrap_or(0));
    let target = entry.target.get(..100.min(entry.target.len())).unwrap_or_default();
    head.bytes(157, target);
    head
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: u8, mode: u32, size: u64) -> Self {
        let mut head = Self([0; BLOCK]);
        head.put(100, 8, u64::from(mode));
        head.put(108, 8, 0);
        head.put(116, 8, 0);
        head.put(124, 12, size);
        head.put(136, 12, 0);
        head.bytes(156, &[kind]);
        head.bytes(257, b"ustar\x0000");
        head
    }

    fn name(&mut self, name: &[u8]) {
        self.bytes(0, name.get(..100.min(name.len())).unwrap_or_default());
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        if let Some(field) = self.0.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    /// An octal number that fills its field up to one zero byte.
    fn put(&mut self, at: usize, width: usize, value: u64) {
        let text = format!("{value:0>width$o}\0", width = width - 1);
        self.bytes(at, text.as_bytes());
    }

    fn sealed(mut self) -> [u8; BLOCK] {
        self.bytes(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.bytes(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_counts_itself() {
        for length in [1, 5, 90, 91, 92, 93, 94, 95, 989, 990, 991] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; length]);
            let text = String::from_utf8(records).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len(), "{length}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        assert_eq!(time(12, 5), "12.000000005");
        assert_eq!(time(-1, 750_000_000), "-0.250000000");
        assert_eq!(time(-3, 500_000_000), "-2.500000000");
        assert_eq!(time(-3, 0), "-3");
    }
}
