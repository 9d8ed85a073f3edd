//! The reader: one entry after the other from a stream, each checked before anybody sees it.

use std::io::{self, Read};

use super::{BLOCK, Entry, Extent, Kind, MOST_PATH, key, shown};

/// The most that PAX records of one entry may be: attributes of the kernel's largest size, several of them.
const MOST_RECORDS: u64 = 1 << 20;
/// The most pieces of one file.
const MOST_EXTENTS: u64 = 1 << 20;
/// The longest file.
const MOST_SIZE: u64 = 1 << 46;
/// What may stand behind the end: tar programs fill up to their record.
const MOST_TAIL: usize = 1 << 20;

/// Why an entry was not handed out.
#[derive(Debug)]
pub enum Refusal {
    /// The stream broke.
    Stream(io::Error),
    /// It is malformed, or not of the kinds that are read. One line.
    Entry(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Entry("it ends too early".to_owned()),
            _ => Self::Stream(error),
        }
    }
}

fn entry(why: impl Into<String>) -> Refusal {
    Refusal::Entry(why.into())
}

/// Reads an archive, entry by entry.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    left: u64,
    padding: usize,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// A reader of `from`.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0, ended: false }
    }

    /// What is read from. Between entries it stands at the next head.
    pub fn inner(&mut self) -> &mut R {
        &mut self.from
    }

    /// Skips what is left of the last entry, and stands at the next head.
    pub fn settle(&mut self) -> Result<(), Refusal> {
        let mut buffer = [0; 8192];
        while self.left > 0 {
            if self.read(&mut buffer)? == 0 {
                return Err(entry("it ends too early"));
            }
        }
        let mut rest = [0; BLOCK];
        let padding = std::mem::take(&mut self.padding);
        if let Some(rest) = rest.get_mut(..padding) {
            self.from.read_exact(rest)?;
            if rest.iter().any(|byte| *byte != 0) {
                return Err(entry("what fills up a block is not empty"));
            }
        }
        Ok(())
    }

    /// The next entry; none at the end, behind which nothing follows.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Refusal> {
        self.settle()?;
        if self.ended {
            return Ok(None);
        }
        let Some(head) = self.block()? else {
            self.end()?;
            return Ok(None);
        };
        if head.kind() != b'x' {
            return self.open(&head, Records::default()).map(Some);
        }
        let size = head.number(124, 12)?;
        if size == 0 || size > MOST_RECORDS {
            return Err(entry(format!("extended records of {size} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.from.read_exact(&mut bytes)?;
        let over = bytes.len() % BLOCK;
        self.padding = if over == 0 { 0 } else { BLOCK - over };
        self.settle()?;
        let records = Records::read(&bytes)?;
        let head = self.block()?.ok_or_else(|| entry("extended records of nothing"))?;
        self.open(&head, records).map(Some)
    }

    /// Data of the last entry; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        match self.from.read(buffer)? {
            0 => Err(entry("it ends too early")),
            got => {
                self.left -= got as u64;
                Ok(got)
            }
        }
    }

    /// All data of the last entry.
    pub fn whole(&mut self, most: u64) -> Result<Vec<u8>, Refusal> {
        if self.left > most {
            return Err(entry(format!("an entry of {} bytes where {most} are the most", self.left)));
        }
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or_default()];
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            at += self.read(rest)?;
        }
        Ok(bytes)
    }

    /// A head, or none where the archive ends.
    fn block(&mut self) -> Result<Option<Head>, Refusal> {
        let mut block = [0; BLOCK];
        self.from.read_exact(&mut block)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Head::check(block).map(Some)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        self.ended = true;
        let mut second = [0; BLOCK];
        self.from.read_exact(&mut second)?;
        let mut tail = 0;
        let mut buffer = [0; 8192];
        let mut clean = second.iter().all(|byte| *byte == 0);
        loop {
            match self.from.read(&mut buffer)? {
                0 => break,
                got => {
                    tail += got;
                    clean &= buffer.iter().take(got).all(|byte| *byte == 0);
                }
            }
            if !clean || tail > MOST_TAIL {
                break;
            }
        }
        if clean && tail <= MOST_TAIL { Ok(()) } else { Err(entry("something follows behind its end")) }
    }

    fn open(&mut self, head: &Head, mut records: Records) -> Result<Entry, Refusal> {
        let kind = head.entry_kind()?;
        let size = head.size(&mut records)?;
        let mut path = records.take_bytes(key::PATH).unwrap_or_else(|| head.text(0, 100).to_vec());
        let target = records.take_bytes(key::LINKPATH).unwrap_or_else(|| head.text(157, 100).to_vec());
        let links = matches!(kind, Kind::Symlink | Kind::HardLink);
        if kind != Kind::File && size != 0 {
            return Err(entry(format!("{} has data and is no file", shown(&path))));
        }
        if links == target.is_empty() {
            return Err(entry(format!("{} is a link to nothing, or no link with a target", shown(&path))));
        }
        if target.contains(&0) {
            return Err(entry(format!("{} has a zero byte in its target", shown(&path))));
        }
        if kind == Kind::Directory && path.last() == Some(&b'/') {
            path.pop();
        }
        let sparse = records.take_sparse(kind)?;
        if let Some((name, _)) = &sparse {
            path.clone_from(name);
        }
        check_path(&path)?;
        let mut made = Entry {
            path,
            kind,
            mode: u32::try_from(head.number(100, 8)?).ok().filter(|mode| *mode <= 0o7777).ok_or_else(bad_number)?,
            uid: records.take_owner(key::UID, head.number(108, 8)?)?,
            gid: records.take_owner(key::GID, head.number(116, 8)?)?,
            mtime: records.take_time(head.number(136, 12)?)?,
            target,
            xattrs: std::mem::take(&mut records.xattrs),
            size,
            extents: None,
        };
        records.nothing_left()?;
        self.left = size;
        let over = (size % BLOCK as u64) as usize;
        self.padding = if over == 0 { 0 } else { BLOCK - over };
        if let Some((_, real)) = sparse {
            let extents = self.sparse_map(real)?;
            made.size = real;
            made.extents = Some(extents);
            if made.data_len() != self.left {
                return Err(entry(format!("the holes of {} do not fit its data", made.shown())));
            }
        }
        Ok(made)
    }

    /// The map before a sparse file's data.
    fn sparse_map(&mut self, real: u64) -> Result<Vec<Extent>, Refusal> {
        let bad = || entry("a map of holes cannot be read");
        let mut block = Vec::new();
        let mut at = BLOCK;
        let mut number = |reader: &mut Self| -> Result<u64, Refusal> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    block = vec![0; BLOCK];
                    let mut filled = 0;
                    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                        match reader.read(rest)? {
                            0 => return Err(bad()),
                            got => filled += got,
                        }
                    }
                    at = 0;
                }
                let byte = block.get(at).copied().unwrap_or(0);
                at += 1;
                match byte {
                    b'\n' => return decimal(&digits).ok_or_else(bad),
                    b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                    _ => return Err(bad()),
                }
            }
        };
        let count = number(self)?;
        if count > MOST_EXTENTS {
            return Err(bad());
        }
        let mut extents = Vec::new();
        let mut reached = 0;
        for _ in 0..count {
            let extent = Extent { offset: number(self)?, length: number(self)? };
            let end = extent.offset.checked_add(extent.length).filter(|end| *end <= real).ok_or_else(bad)?;
            if extent.offset < reached {
                return Err(bad());
            }
            reached = end;
            extents.push(extent);
        }
        if block.get(at..).unwrap_or_default().iter().any(|byte| *byte != 0) {
            return Err(bad());
        }
        Ok(extents)
    }
}

fn bad_number() -> Refusal {
    entry("a number cannot be read")
}

/// A path that stays where it is put: relative, no empty parts, no `.` or `..`, no zero bytes, not too long.
fn check_path(path: &[u8]) -> Result<(), Refusal> {
    let why = if path.is_empty() {
        "is empty"
    } else if path.first() == Some(&b'/') {
        "is absolute"
    } else if path.len() > MOST_PATH {
        "is too long"
    } else if path.contains(&0) {
        "has a zero byte in it"
    } else if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        "climbs out with .."
    } else if path.split(|byte| *byte == b'/').any(|part| part.is_empty() || part == b".") {
        "has an empty part"
    } else if path.split(|byte| *byte == b'/').any(|part| part.len() > 255) {
        "has a name of more than 255 bytes"
    } else {
        return Ok(());
    };
    Err(entry(format!("the path {} {why}", shown(path))))
}

/// A plain decimal number.
fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// A head whose sum is right.
struct Head([u8; BLOCK]);

impl Head {
    fn check(block: [u8; BLOCK]) -> Result<Self, Refusal> {
        let head = Self(block);
        let sum = head.number(148, 8)?;
        let counted: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if sum != counted {
            return Err(entry("a head's sum is wrong"));
        }
        if head.field(257, 8) != b"ustar\x0000" {
            return Err(entry("a head is not of the kind ustar"));
        }
        if head.field(329, 16).iter().any(|byte| !matches!(byte, 0 | b'0'))
            || head.field(345, 167).iter().any(|byte| *byte != 0)
        {
            return Err(entry("a head has a prefix or device numbers"));
        }
        Ok(head)
    }

    fn field(&self, at: usize, width: usize) -> &[u8] {
        self.0.get(at..at + width).unwrap_or_default()
    }

    /// Up to the first zero byte.
    fn text(&self, at: usize, width: usize) -> &[u8] {
        self.field(at, width).split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.0.get(156).copied().unwrap_or(0)
    }

    fn entry_kind(&self) -> Result<Kind, Refusal> {
        let what = match self.kind() {
            b'0' => return Ok(Kind::File),
            b'1' => return Ok(Kind::HardLink),
            b'2' => return Ok(Kind::Symlink),
            b'5' => return Ok(Kind::Directory),
            b'3' | b'4' => "a device",
            b'6' => "a fifo",
            b'7' => "a contiguous file",
            b'x' | b'g' => "extended records out of place",
            b'L' | b'K' | b'S' | b'M' | b'V' | b'D' | b'N' => "an entry of GNU's old format",
            _ => "an entry of an unknown kind",
        };
        Err(entry(format!("{} is {what}", shown(self.text(0, 100)))))
    }

    /// Octal digits up to a zero byte or a blank.
    fn number(&self, at: usize, width: usize) -> Result<u64, Refusal> {
        let field = self.field(at, width);
        let digits = field.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        let rest = field.get(digits..).unwrap_or_default();
        if digits == 0 || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
            return Err(bad_number());
        }
        let digits = field.get(..digits).unwrap_or_default();
        u64::from_str_radix(std::str::from_utf8(digits).unwrap_or_default(), 8).map_err(|_| bad_number())
    }

    /// The size, which must be the same wherever it is said.
    fn size(&self, records: &mut Records) -> Result<u64, Refusal> {
        let plain = self.number(124, 12)?;
        let said = match records.take_bytes(key::SIZE) {
            None => plain,
            Some(text) => {
                let said = decimal(&text).ok_or_else(|| entry("an extended size cannot be read"))?;
                if plain != 0 && plain != said {
                    return Err(entry("two sizes of one entry differ"));
                }
                if plain == 0 && said <= 0o77_777_777_777 {
                    return Err(entry("an extended size hides a plain one"));
                }
                said
            }
        };
        if said > MOST_SIZE { Err(entry(format!("an entry of {said} bytes"))) } else { Ok(said) }
    }
}

/// The extended records of one entry.
#[derive(Default)]
struct Records {
    known: Vec<(String, Vec<u8>)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    fn read(mut bytes: &[u8]) -> Result<Self, Refusal> {
        let bad = || entry("extended records cannot be read");
        let mut records = Self::default();
        while !bytes.is_empty() {
            let blank = bytes.iter().take(9).position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length = bytes.get(..blank).and_then(decimal).and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| *length > blank + 2).ok_or_else(bad)?;
            let record = bytes.get(blank + 1..length).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (name, value) = record.split_at(equals);
            records.add(name, value.get(1..).unwrap_or_default())?;
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(records)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if let Some(name) = name.strip_prefix(key::XATTR.as_bytes()) {
            let good = ["user.", "system.posix_acl_", "security.capability", "trusted."];
            let fits = good.iter().any(|start| name.starts_with(start.as_bytes())) && name.len() <= 255;
            if !fits || name.contains(&0) || value.len() > 1 << 16 {
                return Err(entry(format!("the attribute {}", shown(name))));
            }
            if self.xattrs.iter().any(|(known, _)| known == name) {
                return Err(entry("an attribute is there twice"));
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        const KNOWN: [&str; 10] = [
            key::PATH,
            key::LINKPATH,
            key::SIZE,
            key::UID,
            key::GID,
            key::MTIME,
            key::SPARSE_MAJOR,
            key::SPARSE_MINOR,
            key::SPARSE_NAME,
            key::SPARSE_SIZE,
        ];
        let name = KNOWN.iter().find(|known| known.as_bytes() == name);
        let name = name.ok_or_else(|| entry("an extended record of an unknown kind"))?;
        if self.known.iter().any(|(known, _)| known == name) {
            return Err(entry("an extended record is there twice"));
        }
        self.known.push(((*name).to_owned(), value.to_vec()));
        Ok(())
    }

    fn take_bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.known.iter().position(|(known, _)| known == name)?;
        Some(self.known.swap_remove(at).1)
    }

    fn take_owner(&mut self, name: &str, plain: u64) -> Result<u32, Refusal> {
        let said = match self.take_bytes(name) {
            None => Some(plain),
            Some(text) => decimal(&text),
        };
        // The last one means "leave it as it is" to the kernel.
        said.and_then(|said| u32::try_from(said).ok()).filter(|said| *said != u32::MAX).ok_or_else(bad_number)
    }

    fn take_time(&mut self, plain: u64) -> Result<(i64, u32), Refusal> {
        let Some(text) = self.take_bytes(key::MTIME) else {
            return Ok((i64::try_from(plain).map_err(|_| bad_number())?, 0));
        };
        read_time(&text).ok_or_else(|| entry("a time cannot be read"))
    }

    /// The name and the whole size of a sparse file.
    fn take_sparse(&mut self, kind: Kind) -> Result<Option<(Vec<u8>, u64)>, Refusal> {
        let parts = [key::SPARSE_MAJOR, key::SPARSE_MINOR, key::SPARSE_NAME, key::SPARSE_SIZE];
        let [major, minor, name, size] = parts.map(|part| self.take_bytes(part));
        match (major, minor, name, size) {
            (None, None, None, None) => Ok(None),
            (Some(major), Some(minor), Some(name), Some(size))
                if major == b"1" && minor == b"0" && kind == Kind::File =>
            {
                let size = decimal(&size).filter(|size| *size <= MOST_SIZE);
                Ok(Some((name, size.ok_or_else(bad_number)?)))
            }
            _ => Err(entry("a file with holes of another format")),
        }
    }

    fn nothing_left(&self) -> Result<(), Refusal> {
        if self.known.is_empty() { Ok(()) } else { Err(entry("an extended record out of place")) }
    }
}

fn read_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (minus, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    Some(match (minus, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        assert_eq!(read_time(b"12.000000005"), Some((12, 5)));
        assert_eq!(read_time(b"-0.250000000"), Some((-1, 750_000_000)));
        assert_eq!(read_time(b"-3"), Some((-3, 0)));
        for bad in ["", "1.", "1.0000000001", "x", "1e9", "--1", "01"] {
            assert_eq!(read_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
