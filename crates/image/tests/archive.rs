//! What goes in comes out, to the nanosecond; and sixty archives that must not: each is refused, and nothing
//! appears outside of the directory it was to be unpacked into.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use pando_image::tar::{Entry, Extent, Kind, Writer};
use pando_image::{Counted, FORMAT, ImageError, Limits, Manifest, Owning, SourceEntry, Writing};
use pando_model::EngineKind;
use ring::digest::{SHA256, digest};
use rustix::fs::XattrFlags;

const LIMITS: Limits = Limits { room: 64 << 20, outward_links: false };

fn manifest(counted: Counted) -> Manifest {
    let source = SourceEntry {
        engine: EngineKind::Files,
        version: None,
        moment: None,
        position: None,
        notes: Vec::new(),
        url: "file:///exported".parse().unwrap(),
        facts: serde_json::Value::Null,
    };
    Manifest {
        format: FORMAT,
        pando: "0".to_owned(),
        app: "shop".parse().unwrap(),
        name: "shop".parse().unwrap(),
        moment: "2026-11-21T10:00:00Z".parse().unwrap(),
        asked: "latest".to_owned(),
        written_at: "2026-11-21T10:00:00Z".parse().unwrap(),
        masked: false,
        arch: "x86_64".to_owned(),
        libc: None,
        entries: counted.entries,
        bytes: counted.bytes,
        digest: "sha256".to_owned(),
        sources: BTreeMap::from([("files".parse().unwrap(), source)]),
    }
}

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
    assert_eq!(was.len(), 13);
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

/// An archive by hand: a good manifest, what `fill` writes, a digest that fits.
fn forged(counted: (u64, u64), fill: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let counted = Counted { entries: counted.0, bytes: counted.1, ..Counted::default() };
    forged_with(&manifest(counted), counted, fill)
}

fn forged_with(manifest: &Manifest, counted: Counted, fill: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    small(&mut tar, "pando-manifest.json", &serde_json::to_vec(manifest).unwrap());
    fill(&mut tar);
    end(tar, counted)
}

fn small(tar: &mut Writer<Vec<u8>>, path: &str, text: &[u8]) {
    tar.head(&Entry::file(path, 0o644, text.len() as u64)).unwrap();
    tar.data(text).unwrap();
}

fn end(mut tar: Writer<Vec<u8>>, counted: Counted) -> Vec<u8> {
    let so_far = tar.inner().unwrap();
    let sum: String = digest(&SHA256, so_far).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = serde_json::json!({"sha256": sum, "entries": counted.entries, "bytes": counted.bytes}).to_string();
    small(&mut tar, "pando-digest.json", text.as_bytes());
    tar.finish().unwrap()
}

fn of(kind: Kind, path: &str, target: &str) -> Entry {
    Entry { kind, target: target.as_bytes().to_vec(), mode: 0o755, ..Entry::file(path, 0o644, 0) }
}

fn root(tar: &mut Writer<Vec<u8>>) {
    tar.head(&of(Kind::Directory, "data/files", "")).unwrap();
}

/// One entry behind the root.
fn one(entry: Entry) -> Vec<u8> {
    let length = entry.data_len();
    forged((2, length), |tar| {
        root(tar);
        tar.head(&entry).unwrap();
        tar.data(&vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
    })
}

fn file(path: &str) -> Vec<u8> {
    one(Entry::file(path, 0o644, 1))
}

fn link(kind: Kind, target: &str) -> Vec<u8> {
    one(of(kind, "data/files/link", target))
}

/// A good archive with one file, changed somewhere: the head of the file is found by its name.
fn bent(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut archive = forged((2, 5), |tar| {
        root(tar);
        small(tar, "data/files/name", b"12345");
    });
    let at = archive.windows(15).position(|window| window == b"data/files/name").unwrap();
    change(&mut archive[at..]);
    let sum: u32 = archive[at..at + 512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    redigest(archive)
}

/// A good archive with PAX records of our own before its one file.
fn with_records(records: &[u8]) -> Vec<u8> {
    let mut archive = forged((2, 5), |tar| {
        root(tar);
        tar.head(&Entry { mtime: (1, 1), ..Entry::file("data/files/name", 0o644, 5) }).unwrap();
        tar.data(b"12345").unwrap();
    });
    let at = archive.windows(12).position(|window| window == b"PaxHeaders/0").unwrap();
    archive[at + 512..at + 1024].fill(0);
    archive[at + 512..at + 512 + records.len()].copy_from_slice(records);
    archive[at + 124..at + 136].copy_from_slice(format!("{:011o}\0", records.len()).as_bytes());
    let sum: u32 = archive[at..at + 512]
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    redigest(archive)
}

/// Makes the digest fit again, so that nothing but what was changed is wrong.
fn redigest(mut archive: Vec<u8>) -> Vec<u8> {
    let at = archive.windows(17).position(|window| window == b"pando-digest.json").unwrap();
    let sum: String = digest(&SHA256, &archive[..at]).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = at + archive[at..].windows(6).position(|window| window == b"sha256").unwrap() + 9;
    archive[text..text + 64].copy_from_slice(sum.as_bytes());
    archive
}

fn sparse(size: u64, extents: &[(u64, u64)]) -> Vec<u8> {
    let extents = extents.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect();
    one(Entry { size, extents: Some(extents), ..Entry::file("data/files/sparse", 0o644, 0) })
}

fn said(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value = serde_json::to_value(manifest(Counted { entries: 1, ..Counted::default() })).unwrap();
    change(&mut value);
    let mut tar = Writer::new(Vec::new());
    small(&mut tar, "pando-manifest.json", value.to_string().as_bytes());
    root(&mut tar);
    end(tar, Counted { entries: 1, ..Counted::default() })
}

fn record(text: &str) -> Vec<u8> {
    let length = text.len() + 4;
    assert!((10..100).contains(&length));
    format!("{length} {text}\n").into_bytes()
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let good = || {
        forged((2, 5), |tar| {
            root(tar);
            small(tar, "data/files/name", b"12345");
        })
    };
    let cut = |at: usize| good()[..at].to_vec();
    let count = |entries, bytes| Counted { entries, bytes, ..Counted::default() };
    let kind = |byte: u8| bent(|head| head[156] = byte);
    let long = |length: usize| file(&format!("data/files/{}", "a/".repeat(length / 2) + "a"));
    let mut all = vec![
        ("climbs", file("data/files/../../evil")),
        ("climbs at the end", file("data/files/..")),
        ("climbs before", file("../evil")),
        ("climbs between", file("data/files/a/../../b")),
        ("absolute", file("/tmp/pando-evil")),
        ("absolute twice", file("//tmp/pando-evil")),
        ("a dot", file("data/files/./a")),
        ("an empty part", file("data/files//a")),
        ("another source", file("data/other/a")),
        ("no source", file("data/files2")),
        ("outside of data", file("etc/passwd")),
        ("the root as a file", forged((1, 1), |tar| small(tar, "data/files", b"x"))),
        ("the root as a link", forged((1, 0), |tar| tar.head(&of(Kind::Symlink, "data/files", "/etc")).unwrap())),
        ("a character device", kind(b'3')),
        ("a block device", kind(b'4')),
        ("a fifo", kind(b'6')),
        ("a contiguous file", kind(b'7')),
        ("GNU's long name", kind(b'L')),
        ("GNU's old sparse", kind(b'S')),
        ("global records", kind(b'g')),
        ("an unknown kind", kind(b'Z')),
        ("the kind of v7", kind(0)),
        ("a directory with data", kind(b'5')),
        (
            "a link with data",
            bent(|head| {
                head[156] = b'2';
                head[157] = b'a'
            }),
        ),
        ("a file with a target", bent(|head| head[157] = b'a')),
        ("a link out", link(Kind::Symlink, "../../etc")),
        ("an absolute link", link(Kind::Symlink, "/etc/shadow")),
        ("a link that goes down and up", link(Kind::Symlink, "a/../../../etc")),
        ("a link just above", link(Kind::Symlink, "..")),
        ("a hard link out", link(Kind::HardLink, "/etc/passwd")),
        ("a hard link that climbs", link(Kind::HardLink, "data/files/../../../etc/passwd")),
        ("a hard link to another source", link(Kind::HardLink, "data/other/x")),
        ("a hard link to nothing", link(Kind::HardLink, "data/files/nothing")),
        ("a hard link to a directory", link(Kind::HardLink, "data/files")),
        (
            "a hard link through a link",
            forged((4, 0), |tar| {
                root(tar);
                tar.head(&of(Kind::Directory, "data/files/d", "")).unwrap();
                tar.head(&of(Kind::Symlink, "data/files/l", "d")).unwrap();
                tar.head(&of(Kind::HardLink, "data/files/h", "data/files/l")).unwrap();
            }),
        ),
        (
            "a file through a link",
            forged((4, 1), |tar| {
                root(tar);
                tar.head(&of(Kind::Directory, "data/files/d", "")).unwrap();
                tar.head(&of(Kind::Symlink, "data/files/l", "d")).unwrap();
                small(tar, "data/files/l/evil", b"x");
            }),
        ),
        (
            "a file in a file",
            forged((3, 2), |tar| {
                root(tar);
                small(tar, "data/files/a", b"x");
                small(tar, "data/files/a/b", b"x");
            }),
        ),
        (
            "a file twice",
            forged((3, 2), |tar| {
                root(tar);
                small(tar, "data/files/a", b"x");
                small(tar, "data/files/a", b"y");
            }),
        ),
        (
            "a directory twice",
            forged((2, 0), |tar| {
                root(tar);
                root(tar);
            }),
        ),
        (
            "a file over a link",
            forged((3, 1), |tar| {
                root(tar);
                tar.head(&of(Kind::Symlink, "data/files/a", "b")).unwrap();
                small(tar, "data/files/a", b"x");
            }),
        ),
        ("no parent", file("data/files/no/parent")),
        ("a name of 256", file(&format!("data/files/{}", "n".repeat(256)))),
        ("a path of 5000", long(5000)),
        ("a depth of 2000", long(4000)),
        (
            "more than it says",
            forged((2, 0), |tar| {
                root(tar);
                small(tar, "data/files/a", b"more");
            }),
        ),
        (
            "more entries than it says",
            forged((1, 0), |tar| {
                root(tar);
                small(tar, "data/files/a", b"");
            }),
        ),
        ("fewer entries than it says", forged((3, 0), root)),
        ("a bomb", said(|value| value["bytes"] = (1_u64 << 40).into())),
        ("a bomb of entries", said(|value| value["entries"] = 40_000_000.into())),
        ("numbers out of reach", said(|value| value["entries"] = u64::MAX.into())),
        ("a sparse bomb", sparse(1 << 50, &[(0, 1)])),
        ("holes that overlap", sparse(100, &[(0, 10), (5, 10)])),
        ("holes behind the end", sparse(10, &[(5, 10)])),
        ("holes around the world", sparse(10, &[(u64::MAX, 2)])),
    ];
    all.extend([
        ("a PAX size that differs", with_records(&record("size=500"))),
        ("a PAX size of zero", with_records(&record("size=00"))),
        ("a PAX size below zero", with_records(&record("size=-5"))),
        ("a PAX size with a sign", with_records(&record("size=+5"))),
        ("a PAX size twice", with_records(&[record("size=5"), record("size=5")].concat())),
        ("a PAX size that hides the plain one", {
            let mut archive = with_records(&record("size=5"));
            let at = archive.windows(16).position(|window| window == b"data/files/name\0").unwrap();
            archive[at + 124..at + 136].copy_from_slice(b"00000000000\0");
            let sum: u32 = archive[at..at + 512]
                .iter()
                .enumerate()
                .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
                .sum();
            archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            redigest(archive)
        }),
        ("a PAX size out of reach", with_records(&record("size=99999999999999999999"))),
        ("PAX records too long for themselves", with_records(b"99 path=data/files/x\n")),
        ("PAX records too short", with_records(b"5 path=x\n")),
        ("PAX records without an end", with_records(b"20 path=data/files/xx")),
        ("a PAX path that climbs", with_records(&record("path=data/files/../../x"))),
        ("a PAX path that is absolute", with_records(&record("path=/tmp/pando-evil"))),
        ("a PAX path with a zero byte", with_records(&record("path=data/files/a\0b"))),
        ("a PAX record of an unknown kind", with_records(&record("GNU.volume.label=x"))),
        ("an attribute of the system", with_records(&record("SCHILY.xattr.security.selinux=x"))),
        ("half of a sparse head", with_records(&record("GNU.sparse.major=1"))),
        ("a time that is none", with_records(&record("mtime=1e99999"))),
        ("an owner that means leave it", with_records(&record("uid=4294967295"))),
        ("a wrong sum", {
            let mut a = good();
            let at = a.len() / 2 / 512 * 512;
            a[1024 + 5] ^= 1;
            a[at] ^= 1;
            a
        }),
        ("a size in base 256", bent(|head| head[124] = 0x80)),
        ("old GNU magic", bent(|head| head[257..265].copy_from_slice(b"ustar  \0"))),
        ("a prefix", bent(|head| head[345] = b'a')),
        ("padding with something in it", {
            let mut a = good();
            let at = a.windows(5).position(|w| w == b"12345").unwrap();
            a[at + 6] = 1;
            redigest(a)
        }),
        ("one byte changed", {
            let mut a = good();
            let at = a.windows(5).position(|w| w == b"12345").unwrap();
            a[at] = b'9';
            a
        }),
        ("nothing at all", Vec::new()),
        ("a cut in the manifest", cut(700)),
        ("a cut before the digest", {
            let a = good();
            let at = a.windows(17).position(|w| w == b"pando-digest.json").unwrap();
            a[..at].to_vec()
        }),
        ("a cut before the end", {
            let a = good();
            a[..a.len() - 600].to_vec()
        }),
        ("no digest", {
            let mut tar = Writer::new(Vec::new());
            small(&mut tar, "pando-manifest.json", &serde_json::to_vec(&manifest(count(1, 0))).unwrap());
            root(&mut tar);
            tar.finish().unwrap()
        }),
        ("another digest", {
            let mut tar = Writer::new(Vec::new());
            small(&mut tar, "pando-manifest.json", &serde_json::to_vec(&manifest(count(1, 0))).unwrap());
            root(&mut tar);
            small(&mut tar, "pando-digest.json", br#"{"sha256":"00","entries":1,"bytes":0}"#);
            tar.finish().unwrap()
        }),
        ("something behind the end", {
            let mut a = good();
            a.extend([1; 512]);
            a
        }),
        ("a second archive behind the end", {
            let a = good();
            [a.clone(), a].concat()
        }),
        ("no manifest", {
            let mut tar = Writer::new(Vec::new());
            root(&mut tar);
            end(tar, count(1, 0))
        }),
        ("a manifest that is a link", {
            let mut tar = Writer::new(Vec::new());
            tar.head(&of(Kind::Symlink, "pando-manifest.json", "x")).unwrap();
            root(&mut tar);
            end(tar, count(1, 0))
        }),
        (
            "a manifest twice",
            forged((2, 2), |tar| {
                root(tar);
                small(tar, "pando-manifest.json", b"{}")
            }),
        ),
        ("a manifest of another format", said(|value| value["format"] = 2.into())),
        ("a manifest that says too much", said(|value| value["more"] = 1.into())),
        ("a manifest without sources", said(|value| value["sources"] = serde_json::json!({}))),
        (
            "a source that climbs",
            said(|value| {
                let source = value["sources"]["files"].take();
                value["sources"] = serde_json::json!({"../x": source})
            }),
        ),
        (
            "a source that is not there",
            said(|value| {
                let source = value["sources"]["files"].clone();
                value["sources"]["more"] = source
            }),
        ),
        ("a source that is none", said(|value| value["sources"]["files"]["engine"] = "oracle".into())),
        (
            "a source that contradicts itself",
            said(|value| value["sources"]["files"]["url"]["engine"] = "postgres".into()),
        ),
        ("a source with a password", said(|value| value["sources"]["files"]["url"]["password"] = "x".into())),
    ]);
    all
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
