//! What goes in comes out, to the nanosecond; and more than a hundred archives that must not: each is refused, and nothing
//! appears outside of the directory it was to be unpacked into.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod hostile;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use pando_image::tar::Kind;
use pando_image::{Counted, ImageError, Limits, Owning, Writing};
use ring::digest::{SHA256, digest};
use rustix::fs::XattrFlags;

use hostile::{forged, hostile, link, manifest, of, root, small};

const LIMITS: Limits = Limits { room: 64 << 20, outward_links: false };
fn pack(root: &Path) -> Vec<u8> {
    let mut counted = Counted::default();
    pando_image::count(root, &mut counted).unwrap();
    let mut archive = Vec::new();
    let mut writing = Writing::begin(&mut archive, &manifest(counted)).unwrap();
    writing.tree(&"files".parse().unwrap(), root, &mut |_| {}).unwrap();
    writing.finish().unwrap();
    archive
}

fn unpack(archive: &[u8], into: &Path, limits: Limits) -> Result<Counted, ImageError> {
    let received = pando_image::read_manifest(archive)?;
    pando_image::unpack(received, into, limits, &|_| Owning::Kept, &mut |_| {})
}

/// Everything that a tree shows, by path.
fn look(root: &Path, below: &Path, seen: &mut BTreeMap<String, String>) {
    let path = root.join(below);
    let meta = fs::symlink_metadata(&path).unwrap();
    let content = match meta.file_type() {
        kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
        kind if kind.is_file() => format!("{:?}", digest(&SHA256, &fs::read(&path).unwrap())),
        _ => String::new(),
    };
    let mut value = vec![0; 100];
    let xattr = rustix::fs::lgetxattr(&path, "user.note", &mut *value).unwrap_or(0);
    let text = format!(
        "{:o} {}:{} {}.{} links {} xattr {:?} {content}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        if meta.is_dir() { 0 } else { meta.nlink() },
        &value[..xattr],
    );
    seen.insert(below.display().to_string(), text);
    if meta.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            look(root, &below.join(entry.unwrap().file_name()), seen);
        }
    }
}

fn shown(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    look(root, Path::new(""), &mut seen);
    seen
}

/// A tree with everything that travels.
fn rich(root: &Path) {
    fs::create_dir_all(root.join("sub/deeper")).unwrap();
    fs::write(root.join("plain"), "text").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::hard_link(root.join("plain"), root.join("sub/second name")).unwrap();
    symlink("../plain", root.join("sub/up")).unwrap();
    symlink("sub/deeper", root.join("down")).unwrap();
    fs::write(root.join("x".repeat(255)), "long").unwrap();
    fs::write(root.join("sub").join("ü".repeat(100)), "wide").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "no text").unwrap();
    let holes = File::create(root.join("holes")).unwrap();
    holes.set_len(50 << 20).unwrap();
    holes.write_all_at(b"one", 0).unwrap();
    holes.write_all_at(b"two", 20 << 20).unwrap();
    File::create(root.join("all hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(root.join("sub/noted"), "noted").unwrap();
    rustix::fs::setxattr(root.join("sub/noted"), "user.note", b"\x00=\n", XattrFlags::empty()).unwrap();
    fs::set_permissions(root.join("sub/noted"), fs::Permissions::from_mode(0o4751)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(root.join("empty"), Some(1234), Some(4_000_000_000)).unwrap();
    }
    let time = rustix::fs::Timespec { tv_sec: -77, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, root.join("plain"), &times, rustix::fs::AtFlags::empty()).unwrap();
    fs::set_permissions(root.join("sub/deeper"), fs::Permissions::from_mode(0o500)).unwrap();
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("into"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&into).unwrap();
    rich(&from);
    let archive = pack(&from);
    assert!(archive.len() < 200_000, "{} bytes: the holes were written out", archive.len());
    assert_eq!(archive, pack(&from), "the same tree gave another archive");
    unpack(&archive, &into, LIMITS).unwrap();
    let (mut was, mut is) = (shown(&from), shown(&into.join("files")));
    assert_eq!(was.len(), 14);
    // A mode of a link means nothing.
    for tree in [&mut was, &mut is] {
        tree.retain(|_, text| !text.is_empty());
    }
    assert_eq!(was, is);
    assert!(fs::metadata(into.join("files/holes")).unwrap().blocks() < 2000);
}

#[test]
fn other_programs_read_it() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let (from, into) = (dir.path().join("from"), dir.path().join("into"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&into).unwrap();
    rich(&from);
    let file = dir.path().join("a.tar");
    fs::write(&file, pack(&from)).unwrap();
    let tar = pando_host::Tool::find("tar", "tar").unwrap();
    let absolute = fs::canonicalize(dir.path()).unwrap();
    let command = tar.command().args(["--extract", "--xattrs", "--same-permissions", "--directory"]);
    command.arg(absolute.join("into")).arg("--file").arg(absolute.join("a.tar")).run().unwrap();
    let (was, is) = (shown(&from), shown(&into.join("data/files")));
    assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
    for path in ["plain", "holes", "sub/second name", "sub/noted"] {
        assert_eq!(was[path], is[path], "{path}");
    }
}
#[test]
fn hostile_archives_are_refused_and_nothing_appears_outside() {
    let all = hostile();
    assert!(all.len() >= 60, "{}", all.len());
    for (name, archive) in &all {
        let dir = tempfile::tempdir_in(".").unwrap();
        let into = dir.path().join("in/staging");
        fs::create_dir_all(&into).unwrap();
        match unpack(archive, &into, LIMITS) {
            Err(ImageError::Refused(_) | ImageError::Unfit(_)) => {}
            other => panic!("{name}: {other:?}"),
        }
        let outside = [dir.path(), &dir.path().join("in")].map(|dir| fs::read_dir(dir).unwrap().count());
        assert_eq!(outside, [1, 1], "{name} left something outside");
        assert!(!Path::new("/tmp/pando-evil").exists(), "{name}");
        for entry in fs::read_dir(&into).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "files", "{name}");
        }
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let good = forged((2, 5), |tar| {
        root(tar);
        small(tar, "data/files/name", b"12345");
    });
    let dir = tempfile::tempdir_in(".").unwrap();
    unpack(&good, &{ made(&dir, "good") }, LIMITS).unwrap();
    // Behind the digest only zeros follow.
    let digest = good.windows(17).position(|window| window == b"pando-digest.json").unwrap();
    let end = digest + 1024;
    for at in (0..end).step_by(64).chain([1, end - 1]) {
        let into = made(&dir, &at.to_string());
        let outcome = unpack(&good[..at], &into, LIMITS);
        assert!(matches!(outcome, Err(ImageError::Refused(_))), "cut at {at}: {outcome:?}");
    }
}

fn made(dir: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn links_that_lead_out_are_taken_when_asked_and_never_followed() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let archive = link(Kind::Symlink, "/etc/shadow");
    unpack(&archive, dir.path(), Limits { outward_links: true, ..LIMITS }).unwrap();
    assert_eq!(fs::read_link(dir.path().join("files/link")).unwrap(), Path::new("/etc/shadow"));
    let dir = tempfile::tempdir_in(".").unwrap();
    let through = forged((3, 1), |tar| {
        root(tar);
        tar.head(&of(Kind::Symlink, "data/files/l", "/tmp")).unwrap();
        small(tar, "data/files/l/pando-evil", b"x");
    });
    assert!(unpack(&through, dir.path(), Limits { outward_links: true, ..LIMITS }).is_err());
    assert!(!Path::new("/tmp/pando-evil").exists());
}
