//! A tree, or what of it changed, as a layer: in a fixed order, owned by the server's account, as old as time, so
//! that the same content gives the same digest. Files are written whole, holes as zeros: not every engine unpacks
//! holes, and gzip makes nothing of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};

use super::state::{Change, relative, relative_path};
use super::{BlobWriter, GZIP, Layer};
use crate::ImageError;
use crate::archive::{copy, hex};
use crate::tar::{Entry, Kind, Writer};
use crate::tree::walk;

/// Where a tree lies in an image, and whose it is there.
#[derive(Debug, Clone)]
pub struct Place {
    /// An absolute path.
    pub path: String,
    /// User and group of the server's account.
    pub owner: (u32, u32),
    /// Mode and owners of directories that the image has already; a layer that names what is below must repeat them.
    pub above: BTreeMap<String, (u32, u32, u32)>,
}

/// Writes what a change names of a tree as one layer into a directory of work.
pub fn write_layer(
    root: &Path,
    place: &Place,
    change: &Change,
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Layer, ImageError> {
    let packed = GzEncoder::new(BlobWriter::new(dir, "layer")?, Compression::fast());
    let mut tar = Writer::new(Summed { to: packed, digest: Context::new(&SHA256) });
    let at = place.path.trim_matches('/');
    for (end, _) in at.match_indices('/') {
        let up = at.get(..end).unwrap_or_default();
        let about = place.above.get(up).copied().unwrap_or((0o755, 0, 0));
        tar.head(&entry(up.to_owned(), Kind::Directory, about)).map_err(ImageError::Stream)?;
    }
    let mut buffer = vec![0; 1 << 18];
    let mut written = 0;
    walk(root, ".", &mut |found, file| {
        let path = relative(&found)?;
        if !change.put.contains(&path) {
            return Ok(());
        }
        let below = if path.is_empty() { at.to_owned() } else { format!("{at}/{path}") };
        let mut made = entry(below, found.kind, (found.mode, place.owner.0, place.owner.1));
        made.target = match found.kind {
            Kind::HardLink => format!("{at}/{}", relative_path(&found.target)?).into_bytes(),
            _ => found.target.clone(),
        };
        made.size = found.size;
        tar.head(&made).map_err(ImageError::Stream)?;
        if let Some(file) = file {
            copy(&mut tar, &made, file, &mut buffer, |more| {
                written += more;
                progress(written);
            })?;
        }
        Ok(())
    })?;
    for gone in &change.gone {
        let (up, name) = gone.rsplit_once('/').unwrap_or(("", gone));
        let below = if up.is_empty() { at.to_owned() } else { format!("{at}/{up}") };
        let mark = entry(format!("{below}/.wh.{name}"), Kind::File, (0o644, 0, 0));
        tar.head(&mark).map_err(ImageError::Stream)?;
    }
    let Summed { to, digest } = tar.finish().map_err(ImageError::Stream)?;
    let blob = to.finish().map_err(ImageError::Stream)?.finish(GZIP)?;
    Ok(Layer { blob, diff_id: format!("sha256:{}", hex(digest.finish().as_ref())) })
}

fn entry(path: String, kind: Kind, (mode, uid, gid): (u32, u32, u32)) -> Entry {
    Entry { kind, uid, gid, ..Entry::file(&path, mode, 0) }
}

struct Summed<W> {
    to: W,
    digest: Context,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let put = self.to.write(bytes)?;
        self.digest.update(bytes.get(..put).unwrap_or_default());
        Ok(put)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::oci::TreeState;

    fn place() -> Place {
        let above = BTreeMap::from([("var/lib/x".to_owned(), (0o1777, 5, 6))]);
        Place { path: "/var/lib/x/data".to_owned(), owner: (999, 998), above }
    }

    fn listed(dir: &Path, layer: &Layer) -> Vec<String> {
        let path = dir.join(layer.blob.digest.strip_prefix("sha256:").unwrap());
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(path).unwrap()));
        let one = |entry: tar::Entry<'_, _>| {
            let (head, path) = (entry.header(), entry.path().unwrap().display().to_string());
            let owner = (head.uid().unwrap(), head.gid().unwrap());
            format!(
                "{path} {:o} {}:{} {} {}",
                head.mode().unwrap(),
                owner.0,
                owner.1,
                entry.size(),
                head.mtime().unwrap()
            )
        };
        tar.entries().unwrap().map(|entry| one(entry.unwrap())).collect()
    }

    #[test]
    fn a_layer_holds_what_changed_and_is_the_same_each_time() {
        let (tree, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| tree.path().join(name);
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(at("base")).unwrap();
        fs::write(at("base/1"), "one").unwrap();
        fs::write(at("base/2"), "two").unwrap();
        for path in [at("base"), at("base/1"), at("base/2")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let write = |change: &Change| write_layer(tree.path(), &place(), change, dir.path(), &mut |_| {}).unwrap();
        let look = || TreeState::of(tree.path(), &mut |_| {}).unwrap();
        let before = look();
        let whole = write(&before.since(None));
        assert_eq!(whole, write(&look().since(None)));
        assert_eq!(
            listed(dir.path(), &whole),
            [
                "var/ 755 0:0 0 0",
                "var/lib/ 755 0:0 0 0",
                "var/lib/x/ 1777 5:6 0 0",
                "var/lib/x/data/ 700 999:998 0 0",
                "var/lib/x/data/base/ 700 999:998 0 0",
                "var/lib/x/data/base/1 700 999:998 3 0",
                "var/lib/x/data/base/2 700 999:998 3 0",
            ]
        );
        fs::write(at("base/1"), "other").unwrap();
        fs::remove_file(at("base/2")).unwrap();
        let more = write(&look().since(Some(&before)));
        assert_eq!(
            listed(dir.path(), &more)[4..],
            [
                "var/lib/x/data/base/ 700 999:998 0 0",
                "var/lib/x/data/base/1 700 999:998 5 0",
                "var/lib/x/data/base/.wh.2 644 0:0 0 0",
            ]
        );
    }
}
