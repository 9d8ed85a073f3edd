//! A tree, or what of it changed, as a layer: in a fixed order, owned by the server's account, as old as time, so
//! that the same content gives the same digest. A directory of files keeps its owners and times (in seconds), which are
//! part of its content. Files are written whole, holes as zeros: not every engine unpacks
//! holes, and gzip makes nothing of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use ring::digest::{Context, SHA256};

use super::gzip::Packer;
use super::state::{Change, relative, relative_path};
use super::{BlobWriter, GZIP, Layer};
use crate::ImageError;
use crate::archive::{copy, hex};
use crate::tar::{Entry, Kind, Writer};
use crate::tree::walk;

/// Where a tree lies in an image, and whose it is there.
#[derive(Debug, Clone)]
pub struct Place {
    /// An absolute path; `/` is the whole of an image that has nothing below.
    pub path: String,
    /// User and group of the server's account; without it everything keeps its own, and its time.
    pub owner: Option<(u32, u32)>,
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
    let packed = Packer::new(BlobWriter::new(dir, "layer")?);
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
        let below = within(at, &path);
        if below.is_empty() {
            return Ok(());
        }
        let (uid, gid) = place.owner.unwrap_or((found.uid, found.gid));
        let mut made = entry(below, found.kind, (found.mode, uid, gid));
        if place.owner.is_none() {
            made.mtime = (found.mtime.0, 0);
        }
        made.target = match found.kind {
            Kind::HardLink => within(at, &relative_path(&found.target)?).into_bytes(),
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
        let mark = entry(within(&within(at, up), &format!(".wh.{name}")), Kind::File, (0o644, 0, 0));
        tar.head(&mark).map_err(ImageError::Stream)?;
    }
    let Summed { to, digest } = tar.finish().map_err(ImageError::Stream)?;
    let blob = to.finish().map_err(ImageError::Stream)?.finish(GZIP)?;
    Ok(Layer { blob, diff_id: format!("sha256:{}", hex(digest.finish().as_ref())) })
}

/// One path below another, either of which may be empty.
fn within(up: &str, path: &str) -> String {
    let slash = if up.is_empty() || path.is_empty() { "" } else { "/" };
    format!("{up}{slash}{path}")
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
        Place { path: "/var/lib/x/data".to_owned(), owner: Some((999, 998)), above }
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
        let look = || TreeState::of(tree.path(), false, &mut |_| {}).unwrap();
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

    #[test]
    fn a_directory_keeps_its_owners_and_times_and_may_be_all_of_an_image() {
        let (tree, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(tree.path().join("sub")).unwrap();
        let file = tree.path().join("sub/a");
        fs::write(&file, "one").unwrap();
        for (path, mode) in [(tree.path().join("sub"), 0o755), (file.clone(), 0o640)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(77, 5);
            fs::File::open(&path).unwrap().set_modified(at).unwrap();
        }
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let place = Place { path: "/".to_owned(), owner: None, above: BTreeMap::new() };
        let look = || TreeState::of(tree.path(), true, &mut |_| {}).unwrap();
        let write = |change: &Change| write_layer(tree.path(), &place, change, dir.path(), &mut |_| {}).unwrap();
        let before = look();
        let whole = write(&before.since(None));
        let sub = format!("sub/ 755 {uid}:{gid} 0 77");
        assert_eq!(listed(dir.path(), &whole), [sub, format!("sub/a 640 {uid}:{gid} 3 77")]);
        fs::remove_dir_all(tree.path().join("sub")).unwrap();
        let gone = write(&look().since(Some(&before)));
        assert_eq!(listed(dir.path(), &gone), [".wh.sub 644 0:0 0 0"]);
    }
}
