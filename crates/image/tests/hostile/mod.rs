//! Archives that must not be taken, made by hand: a good manifest and a digest that fits, so that nothing but the one
//! thing that each is named after is wrong. They are unpacked by `archive.rs` here, and sent to a daemon by the tests of
//! the whole system.

use std::collections::BTreeMap;

use pando_image::tar::{Entry, Extent, Kind, Writer};
use pando_image::{Counted, FORMAT, Manifest, SourceEntry};
use pando_model::EngineKind;
use ring::digest::{SHA256, digest};

pub fn manifest(counted: Counted) -> Manifest {
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

/// An archive by hand: a good manifest, what `fill` writes, a digest that fits.
pub fn forged(counted: (u64, u64), fill: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let counted = Counted { entries: counted.0, bytes: counted.1, ..Counted::default() };
    forged_with(&manifest(counted), counted, fill)
}

fn forged_with(manifest: &Manifest, counted: Counted, fill: impl FnOnce(&mut Writer<Vec<u8>>)) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    small(&mut tar, "pando-manifest.json", &serde_json::to_vec(manifest).unwrap());
    fill(&mut tar);
    end(tar, counted)
}

pub fn small(tar: &mut Writer<Vec<u8>>, path: &str, text: &[u8]) {
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

pub fn of(kind: Kind, path: &str, target: &str) -> Entry {
    Entry { kind, target: target.as_bytes().to_vec(), mode: 0o755, ..Entry::file(path, 0o644, 0) }
}

pub fn root(tar: &mut Writer<Vec<u8>>) {
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

pub fn link(kind: Kind, target: &str) -> Vec<u8> {
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
    resum(&mut archive[at..at + 512]);
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
    resum(&mut archive[at..at + 512]);
    redigest(archive)
}

/// Makes the sum of a head fit again.
fn resum(head: &mut [u8]) {
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
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
pub fn hostile() -> Vec<(&'static str, Vec<u8>)> {
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
            resum(&mut archive[at..at + 512]);
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
        ("a size below zero", bent(|head| head[124..136].copy_from_slice(b"-0000000005\0"))),
        ("a size below zero in base 256", bent(|head| head[124..136].fill(0xff))),
        ("an owner below zero", bent(|head| head[108..116].copy_from_slice(b"-000001\0"))),
        ("a PAX owner below zero", with_records(&record("uid=-1"))),
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
        ("a compressed archive", [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &good()[10..]].concat()),
        ("an archive compressed otherwise", [&[0x28, 0xb5, 0x2f, 0xfd][..], &good()[4..]].concat()),
        ("zeros without an end", vec![0; 4 << 20]),
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
        ("a manifest larger than any", {
            let mut text = serde_json::to_vec(&manifest(count(1, 0))).unwrap();
            text.resize(2 << 20, b' ');
            let mut tar = Writer::new(Vec::new());
            small(&mut tar, "pando-manifest.json", &text);
            root(&mut tar);
            end(tar, count(1, 0))
        }),
        ("a manifest that claims to be larger than any", {
            let mut a = good();
            a[124..136].copy_from_slice(b"77777777777\0");
            resum(&mut a[..512]);
            redigest(a)
        }),
        ("a manifest that is no text", {
            let mut tar = Writer::new(Vec::new());
            small(&mut tar, "pando-manifest.json", b"{\"format\": 1, \"app\": \"\xff\xfe\"}");
            root(&mut tar);
            end(tar, count(1, 0))
        }),
        ("a source whose name is no text", {
            let entry = Entry { path: b"data/\xff\xfe/a".to_vec(), ..Entry::file("", 0o644, 1) };
            one(entry)
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
