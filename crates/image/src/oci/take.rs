//! Layers of others, taken in as they are: what is compressed stays as it is, what is not is compressed. While a
//! layer goes through, what is in it is looked at, so that no container has to run to find out whether a server
//! image suits some data: accounts, directories, libraries, the C library.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::gzip::Packer;
use super::{BlobWriter, GZIP, Layer, ZSTD};
use crate::ImageError;
use crate::archive::hex;

/// So much of a file is looked into.
const MOST_LOOKED: u64 = 16 << 20;

/// What one layer holds, as far as somebody asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerScan(Facts);

/// What an image holds, as far as somebody asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The text of `/etc/passwd`.
    pub passwd: Option<String>,
    /// The C library: `glibc 2.36`, `musl`.
    pub libc: Option<String>,
    /// Paths of libraries and of PostgreSQL's control files.
    pub files: Vec<String>,
    /// Mode and owners of directories that servers have their data below.
    pub directories: BTreeMap<String, (u32, u32, u32)>,
}

impl Facts {
    /// The facts of layers from the bottom up: what is above wins.
    pub fn of(layers: impl Iterator<Item = LayerScan>) -> Self {
        layers.fold(Self::default(), |below, LayerScan(above)| Self {
            passwd: above.passwd.or(below.passwd),
            libc: above.libc.or(below.libc),
            files: [below.files, above.files].concat(),
            directories: below.directories.into_iter().chain(above.directories).collect(),
        })
    }

    /// User and group of an account.
    pub fn account(&self, name: &str) -> Option<(u32, u32)> {
        let line = |line: &str| {
            let mut fields = line.split(':');
            let found = (fields.next()? == name).then(|| (fields.nth(1), fields.next()));
            let (uid, gid) = found?;
            Some((uid?.parse().ok()?, gid?.parse().ok()?))
        };
        self.passwd.as_deref()?.lines().find_map(line)
    }
}

/// Takes a layer into a directory of work.
pub(super) fn take(from: &mut dyn Read, dir: &Path) -> Result<(Layer, LayerScan), ImageError> {
    let mut head = Vec::new();
    from.take(4).read_to_end(&mut head).map_err(ImageError::Stream)?;
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    let zstd = head == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = Cursor::new(head).chain(from);
    let mut out = BlobWriter::new(dir, "layer")?;
    let (diff_id, scan, media_type) = if gzip || zstd {
        let mut raw = Copying { from: whole, to: &mut out };
        let (diff_id, scan) = if gzip {
            look(MultiGzDecoder::new(&mut raw), io::sink())?
        } else {
            look(zstd::stream::read::Decoder::new(&mut raw).map_err(ImageError::Stream)?, io::sink())?
        };
        io::copy(&mut raw, &mut io::sink()).map_err(ImageError::Stream)?;
        (diff_id, scan, if gzip { GZIP } else { ZSTD })
    } else {
        let mut packed = Packer::new(&mut out);
        let (diff_id, scan) = look(whole, &mut packed)?;
        packed.finish().map_err(ImageError::Stream)?;
        (diff_id, scan, GZIP)
    };
    Ok((Layer { blob: out.finish(media_type)?, diff_id }, scan))
}

/// Reads an unpacked layer to its end, and copies it. Answers its digest, and what is in it.
fn look(from: impl Read, to: impl Write) -> Result<(String, LayerScan), ImageError> {
    let mut plain = Hashing { from: Copying { from, to }, digest: Context::new(&SHA256) };
    let mut archive = tar::Archive::new(&mut plain);
    let mut facts = Facts::default();
    for entry in archive.entries().map_err(ImageError::Stream)? {
        note(&mut entry.map_err(ImageError::Stream)?, &mut facts).map_err(ImageError::Stream)?;
    }
    // An archive ends before its file does.
    io::copy(&mut plain, &mut io::sink()).map_err(ImageError::Stream)?;
    Ok((format!("sha256:{}", hex(plain.digest.finish().as_ref())), LayerScan(facts)))
}

fn note(entry: &mut tar::Entry<'_, impl Read>, facts: &mut Facts) -> io::Result<()> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let path = path.trim_start_matches("./").trim_matches('/').to_owned();
    let name = path.rsplit('/').next().unwrap_or_default();
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        // Deep ones hold programs, and there are thousands of them.
        if path.matches('/').count() < 5 && !path.starts_with("usr/") {
            let head = entry.header();
            let owner = |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).unwrap_or(0);
            let about = (head.mode()? & 0o7777, owner(head.uid()), owner(head.gid()));
            facts.directories.insert(path, about);
        }
        return Ok(());
    }
    if name.starts_with("ld-musl-") {
        facts.libc = Some("musl".to_owned());
    }
    let library = name.ends_with(".so") || name.ends_with(".control");
    if library && path.contains("postgresql") {
        facts.files.push(format!("/{path}"));
    }
    if !kind.is_file() {
        return Ok(());
    }
    if path == "etc/passwd" {
        let mut text = String::new();
        entry.take(1 << 20).read_to_string(&mut text)?;
        facts.passwd = Some(text);
    } else if name == "libc.so.6" || (name.starts_with("libc-2.") && name.ends_with(".so")) {
        let mut bytes = Vec::new();
        entry.take(MOST_LOOKED).read_to_end(&mut bytes)?;
        facts.libc = glibc(&bytes).or(facts.libc.take());
    }
    Ok(())
}

/// "GNU C Library (Debian GLIBC 2.36-9+deb12u13) stable release version 2.36."
fn glibc(library: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b" release version ";
    let at = library.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let rest = library.get(at..at + 12)?;
    let version: String =
        rest.iter().map(|byte| char::from(*byte)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    Some(format!("glibc {}", version.trim_end_matches('.')))
}

struct Copying<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Copying<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.to.write_all(buffer.get(..got).unwrap_or_default())?;
        Ok(got)
    }
}

struct Hashing<R> {
    from: R,
    digest: Context,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.digest.update(buffer.get(..got).unwrap_or_default());
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// A layer of others, with what is looked for.
    pub(crate) fn layer() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |path: &str, kind: tar::EntryType, bytes: &[u8]| {
            let mut head = tar::Header::new_gnu();
            head.set_entry_type(kind);
            head.set_mode(0o1777);
            head.set_uid(999);
            head.set_size(bytes.len() as u64);
            tar.append_data(&mut head, path, bytes).unwrap();
        };
        put("./var/lib/postgresql/", tar::EntryType::Directory, b"");
        put("etc/passwd", tar::EntryType::Regular, b"root:x:0:0::/:/bin/sh\npostgres:x:999:998::/:/bin/sh\n");
        put("usr/lib/libc.so.6", tar::EntryType::Regular, b"GNU C Library stable release version 2.36.\nCopyright");
        put("usr/lib/postgresql/15/lib/pg_cron.so", tar::EntryType::Regular, b"ELF");
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_layer_is_the_same_however_it_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let plain = layer();
        let mut gz = GzEncoder::new(Vec::new(), Compression::best());
        gz.write_all(&plain).unwrap();
        let (gz, zst) = (gz.finish().unwrap(), zstd::encode_all(&*plain, 1).unwrap());
        let of = |bytes: &[u8]| take(&mut &*bytes, dir.path()).unwrap();
        let (one, facts) = of(&plain);
        for (packed, media_type) in [(&gz, GZIP), (&zst, ZSTD)] {
            let (other, same) = of(packed);
            assert_eq!((&other.diff_id, &same), (&one.diff_id, &facts));
            assert_eq!(other.blob.media_type, media_type);
            assert_eq!(other.blob.digest, super::super::digest_of(packed), "it stays as it is");
        }
        assert_eq!(one.diff_id, super::super::digest_of(&plain));
        assert_eq!(of(&plain), (one, facts.clone()), "the same bytes again");
        let facts = Facts::of([LayerScan::default(), facts].into_iter());
        assert_eq!(facts.account("postgres"), Some((999, 998)));
        assert_eq!(facts.account("redis"), None);
        assert_eq!(facts.libc.as_deref(), Some("glibc 2.36"));
        assert_eq!(facts.files, ["/usr/lib/postgresql/15/lib/pg_cron.so"]);
        assert_eq!(facts.directories["var/lib/postgresql"], (0o1777, 999, 0));
    }

    #[test]
    fn what_is_above_wins() {
        let with = |passwd: &str| LayerScan(Facts { passwd: Some(passwd.to_owned()), ..Facts::default() });
        let facts = Facts::of([with("a:x:1:1"), LayerScan::default(), with("a:x:2:3")].into_iter());
        assert_eq!(facts.account("a"), Some((2, 3)));
    }
}
