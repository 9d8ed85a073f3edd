//! A tree with everything in it that a copy can lose, and a description that shows it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, CWD, FileType, Mode, XattrFlags};

/// user:1234 may read and write; version 2 of the kernel's form, little-endian.
fn acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [(0x01, 6, NOBODY), (0x02, 6, 1234), (0x04, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(rights));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

/// Fills a directory.
pub(super) fn grow(root: &Path) {
    let root_user = rustix::process::geteuid().is_root();
    names_and_files(root);
    deep(root);
    links(root);
    attributes(root);
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&[7; 5000], 32 << 20).unwrap();
    rfs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let closed = root.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("in"), "x").unwrap();
    if root_user {
        std::os::unix::fs::chown(root.join("plain-3"), Some(4321), Some(8765)).unwrap();
        std::os::unix::fs::chown(&closed, Some(4321), Some(8765)).unwrap();
        std::os::unix::fs::lchown(root.join("dangling"), Some(4321), Some(8765)).unwrap();
    }
    fs::set_permissions(root.join("plain-3"), Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o2510)).unwrap();
    let stamp = rfs::Timespec { tv_sec: 981_173_106, tv_nsec: 123_456_789 };
    let times = rfs::Timestamps { last_access: stamp, last_modification: stamp };
    for name in ["plain-1", "closed", "dangling", "fifo", "dir"] {
        rfs::utimensat(CWD, root.join(name), &times, rfs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn names_and_files(root: &Path) {
    for number in 0..200_usize {
        fs::write(root.join(format!("plain-{number}")), vec![b'x'; number * 37]).unwrap();
    }
    fs::create_dir(root.join("dir")).unwrap();
    for name in [b"not utf-8 \xff\xfe".as_slice(), b"two\nlines", b"-rf *", b" ", b"'\"$HOME\\", &[b'n'; 255]] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
        fs::write(root.join("dir").join(OsStr::from_bytes(name)), "inner").unwrap();
    }
}

fn deep(root: &Path) {
    let mut path = root.join("deep");
    for _ in 0..60 {
        fs::create_dir(&path).unwrap();
        path.push("level");
    }
    fs::write(path.with_file_name("bottom"), "here").unwrap();
}

fn links(root: &Path) {
    symlink("plain-1", root.join("link")).unwrap();
    symlink("/no/such/place", root.join("dangling")).unwrap();
    symlink("dir", root.join("link-to-dir")).unwrap();
    fs::hard_link(root.join("plain-2"), root.join("dir/second name")).unwrap();
    fs::hard_link(root.join("plain-2"), root.join("third name")).unwrap();
}

fn attributes(root: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        rfs::lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("plain-5", "user.pando.binary", &[0, 255, 10]);
    set("plain-5", "user.empty", b"");
    set("plain-6", "user.long", &[b'v'; 2000]);
    set("dir", "user.on-a-directory", b"yes");
    set("plain-7", "system.posix_acl_access", &acl());
    set("dir", "system.posix_acl_default", &acl());
}

/// Everything about every entry that must be kept, by its path.
pub(super) fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut entries = BTreeMap::new();
    visit(root, root, &mut entries);
    entries
}

fn visit(root: &Path, path: &Path, entries: &mut BTreeMap<PathBuf, String>) {
    let found = fs::symlink_metadata(path).unwrap();
    let kind = found.file_type();
    let content = if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        file(path, &found)
    };
    // The root's times change when a snapshot is taken of it by some drivers' own bookkeeping.
    let times = (found.mtime(), found.mtime_nsec());
    let text = format!(
        "mode {:o} owner {}:{} times {times:?} xattrs {:?} {content}",
        found.mode(),
        found.uid(),
        found.gid(),
        xattrs(path)
    );
    entries.insert(path.strip_prefix(root).unwrap().to_owned(), text);
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            visit(root, &entry.unwrap().path(), entries);
        }
    }
}

fn file(path: &Path, found: &fs::Metadata) -> String {
    let bytes = fs::read(path).unwrap();
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(1_000_003).wrapping_add(u64::from(*byte)));
    let sparse = found.len() > 1 << 20 && found.blocks() * 512 < found.len() / 2;
    let names = found.nlink();
    format!("file of {} bytes, {names} names, sum {sum:x}, sparse {sparse}", found.len())
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65536];
    let len = rfs::llistxattr(path, list.as_mut_slice()).unwrap_or(0);
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rfs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..len].to_vec())
        })
        .collect()
}
