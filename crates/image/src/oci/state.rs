//! A tree as an image holds it, file by file, and what two of them differ in. A layer takes a changed file in whole;
//! how much of it really changed is counted in blocks, so that both can be told.
//!
//! Invariant: the same content gives the same state, wherever and whenever it lies. Times and owners are no part of
//! a server's: in an image everything belongs to the server's account, and is as old as time. Of a directory of files
//! they are: web servers tell by times what browsers have, and applications by owners what they may write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::ImageError;
use crate::archive::hex;
use crate::tar::{Entry, Kind};
use crate::tree::walk;

/// What is told apart inside of a file.
const BLOCK: usize = 1 << 16;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    mode: u32,
    /// Owner, group and modification time in seconds, where they count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whose: Option<(u32, u32, i64)>,
    /// Of a file: its length, its digest, and a sum of each block in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<(u64, String, String)>,
    /// Of a link: where it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Of a second name: the first, and the digest of what both name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    same: Option<(String, String)>,
}

/// A tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeState {
    items: BTreeMap<String, Item>,
}

/// What a tree has that another has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// What is new or other, and the directories above it.
    pub put: BTreeSet<String>,
    /// What went; of a directory that went only itself.
    pub gone: BTreeSet<String>,
    /// Bytes of the files that are new or other.
    pub file_bytes: u64,
    /// Bytes of the blocks of them that are.
    pub changed_bytes: u64,
}

impl TreeState {
    /// Reads a whole tree. `whose`: owners and times count. `progress` hears how many bytes were read.
    pub fn of(root: &Path, whose: bool, progress: &mut dyn FnMut(u64)) -> Result<Self, ImageError> {
        let mut items: BTreeMap<String, Item> = BTreeMap::new();
        let mut read = 0;
        let mut buffer = vec![0; BLOCK];
        walk(root, ".", &mut |entry, file| {
            let path = relative(&entry)?;
            if path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
                return Err(ImageError::Unfit(format!("{} would be taken for a deletion in an image", entry.shown())));
            }
            let owners = whose.then_some((entry.uid, entry.gid, entry.mtime.0));
            let mut item = Item { mode: entry.mode, whose: owners, file: None, link: None, same: None };
            match (entry.kind, file) {
                (Kind::Symlink, _) => item.link = Some(String::from_utf8_lossy(&entry.target).into_owned()),
                (Kind::HardLink, _) => {
                    let first = relative_path(&entry.target)?;
                    let named = items.get(&first).and_then(|item: &Item| item.file.as_ref());
                    item.same = named.map(|(_, digest, _)| (first, digest.clone()));
                }
                (Kind::File, Some(file)) => {
                    item.file = Some(sums(file, &entry, &mut buffer)?);
                    read += entry.size;
                    progress(read);
                }
                _ => {}
            }
            items.insert(path, item);
            Ok(())
        })?;
        Ok(Self { items })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.items.values().filter_map(|item| item.file.as_ref()).map(|(size, ..)| size).sum()
    }

    /// What is not as in `before`; everything, where there is none.
    pub fn since(&self, before: Option<&Self>) -> Change {
        let nothing = Self::default();
        let before = before.unwrap_or(&nothing);
        let mut change = Change::default();
        for (path, item) in &self.items {
            let former = before.items.get(path);
            if former == Some(item) {
                continue;
            }
            if let Some((size, _, blocks)) = &item.file {
                change.file_bytes += size;
                let known = former.and_then(|former| former.file.as_ref()).map_or("", |(_, _, blocks)| blocks.as_str());
                change.changed_bytes += changed(blocks, known, *size);
            }
            above(path, &mut change.put);
            change.put.insert(path.clone());
            // Two names are one file only inside of one layer.
            if let Some((first, _)) = &item.same {
                above(first, &mut change.put);
                change.put.insert(first.clone());
            }
        }
        for path in before.items.keys().filter(|path| !self.items.contains_key(*path)) {
            let up = path.rsplit_once('/').map_or("", |(up, _)| up);
            if !change.gone.contains(up) && self.items.contains_key(up) {
                above(path, &mut change.put);
                change.gone.insert(path.clone());
            }
        }
        change
    }
}

/// Bytes of all files of a tree, holes included, as layers have them; nothing is read.
pub fn tree_bytes(root: &Path) -> Result<u64, ImageError> {
    let mut bytes = 0;
    walk(root, ".", &mut |entry, _| {
        bytes += entry.size;
        Ok(())
    })?;
    Ok(bytes)
}

/// The largest files of a tree, by path and bytes, the largest first.
pub fn largest_files(root: &Path, most: usize) -> Result<Vec<(String, u64)>, ImageError> {
    let mut found = Vec::new();
    walk(root, ".", &mut |entry, file| {
        if file.is_some() {
            found.push((relative(&entry)?, entry.size));
        }
        Ok(())
    })?;
    found.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    found.truncate(most);
    Ok(found)
}

/// The directories above a path, down from the tree's own.
fn above(path: &str, into: &mut BTreeSet<String>) {
    if path.is_empty() {
        return;
    }
    into.insert(String::new());
    for (at, _) in path.match_indices('/') {
        into.insert(path.get(..at).unwrap_or_default().to_owned());
    }
}

/// An entry's path below the tree, which is itself the empty one.
pub(super) fn relative(entry: &Entry) -> Result<String, ImageError> {
    relative_path(&entry.path)
}

/// The same of a path alone.
pub(super) fn relative_path(path: &[u8]) -> Result<String, ImageError> {
    let path = std::str::from_utf8(path).map_err(|_| {
        ImageError::Unfit(format!("the name {} is no text, as images want it", crate::tar::shown(path)))
    })?;
    Ok(path.strip_prefix("./").unwrap_or(if path == "." { "" } else { path }).to_owned())
}

fn sums(file: &File, entry: &Entry, buffer: &mut [u8]) -> Result<(u64, String, String), ImageError> {
    let mut whole = Context::new(&SHA256);
    let mut blocks = String::new();
    let mut at = 0;
    while at < entry.size {
        let most = usize::try_from(entry.size - at).unwrap_or(usize::MAX).min(BLOCK);
        let part = buffer.get_mut(..most).unwrap_or_default();
        file.read_exact_at(part, at).map_err(ImageError::io("reading", entry.shown()))?;
        whole.update(part);
        blocks.push_str(&format!("{:08x}", crc32c::crc32c(part)));
        at += most as u64;
    }
    Ok((entry.size, hex(whole.finish().as_ref()), blocks))
}

/// How many bytes of a file are in blocks that were not the same before.
fn changed(blocks: &str, before: &str, size: u64) -> u64 {
    let sums = |text: &str| text.as_bytes().chunks(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let known = sums(before);
    let other = sums(blocks).iter().enumerate().filter(|(at, sum)| known.get(*at) != Some(sum)).count();
    (other as u64 * BLOCK as u64).min(size)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn state(root: &Path) -> TreeState {
        TreeState::of(root, false, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_change_is_told_by_file_and_by_block() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("base/1")).unwrap();
        fs::create_dir_all(at("old/deep")).unwrap();
        fs::write(at("base/1/table"), vec![7; 10 * BLOCK + 5]).unwrap();
        fs::write(at("base/1/same"), "same").unwrap();
        fs::write(at("old/deep/file"), "x").unwrap();
        let before = state(dir.path());
        assert_eq!(before, state(dir.path()), "whatever the time is");
        assert_eq!(before.since(Some(&before)), Change::default());
        // Only where owners and times count is one that was merely touched another.
        let whose = |root: &Path| TreeState::of(root, true, &mut |_| {}).unwrap();
        let dated = whose(dir.path());
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
        File::options().append(true).open(at("base/1/same")).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(before, state(dir.path()));
        assert!(whose(dir.path()).since(Some(&dated)).put.contains("base/1/same"));
        assert_eq!(largest_files(dir.path(), 1).unwrap(), [("base/1/table".to_owned(), 10 * BLOCK as u64 + 5)]);
        let first = before.since(None);
        assert_eq!((first.file_bytes, first.changed_bytes), (before.bytes(), before.bytes()));
        assert_eq!(tree_bytes(dir.path()).unwrap(), before.bytes());
        assert!(first.put.contains("") && first.put.contains("base/1/same") && first.gone.is_empty());

        let mut table = fs::read(at("base/1/table")).unwrap();
        table[3 * BLOCK] = 8;
        fs::write(at("base/1/table"), &table).unwrap();
        fs::remove_dir_all(at("old")).unwrap();
        fs::write(at("base/new"), "12").unwrap();
        let change = state(dir.path()).since(Some(&before));
        assert_eq!(change.file_bytes, table.len() as u64 + 2, "a file goes in whole");
        assert_eq!(change.changed_bytes, BLOCK as u64 + 2);
        let put: Vec<&str> = change.put.iter().map(String::as_str).collect();
        assert_eq!(put, ["", "base", "base/1", "base/1/table", "base/new"]);
        assert_eq!(change.gone.iter().collect::<Vec<_>>(), ["old"], "not what was in it");
        fs::write(at(".wh.twin"), "").unwrap();
        assert!(TreeState::of(dir.path(), false, &mut |_| {}).is_err(), "a layer would delete by it");
        fs::remove_file(at(".wh.twin")).unwrap();
        // A second name goes where the first does, and a change of the one is a change of both.
        fs::hard_link(at("base/1/same"), at("twin")).unwrap();
        let linked = state(dir.path());
        let change = linked.since(Some(&before));
        assert!(change.put.contains("twin") && change.put.contains("base/1/same"), "{change:?}");
        fs::write(at("twin"), "both").unwrap();
        let change = state(dir.path()).since(Some(&linked));
        assert!(change.put.contains("twin") && change.put.contains("base/1/same"), "{change:?}");
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<TreeState>(&text).unwrap(), before);
    }
}
