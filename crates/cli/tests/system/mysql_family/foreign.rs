//! Archives that a stranger made: the trees of real servers, packed as `pando export` would have packed them, whose
//! dictionaries and logs name files outside. Those must be what they were, and nobody may have opened them to write.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pando_image::{Counted, Manifest, Writing, count, read_manifest};
use rustix::fs::inotify;
use tempfile::TempDir;

use super::{Side, Stand};
use crate::stand::entries;

/// A directory that servers and everybody else may write to.
pub fn somewhere() -> TempDir {
    let place = tempfile::Builder::new().prefix("pando-out-").tempdir_in("/tmp").unwrap();
    anybodys(place.path());
    place
}

/// Whatever is there may be changed by any account: no mode keeps a server from it.
pub fn anybodys(path: &Path) {
    let is_dir = path.is_dir();
    fs::set_permissions(path, fs::Permissions::from_mode(if is_dir { 0o777 } else { 0o666 })).unwrap();
    entries(path).iter().for_each(|name| anybodys(&path.join(name)));
}

/// An archive of what production has; then production is nobody's any more.
pub fn exported<M: Side>(stand: &Stand<M>, into: &Path) -> PathBuf {
    let archive = into.join("good.tar");
    stand.link(&[]);
    stand.json(&["export", "blog@now", "--output", archive.to_str().unwrap()]);
    stand.json(&["unlink", "blog"]);
    archive
}

/// The same archive with another tree in it, of a server that does not run.
pub fn forged(good: &Path, tree: &Path, into: &Path) {
    let Manifest { sources, .. } = read(good);
    let source = sources.keys().next().unwrap();
    let mut counted = Counted::default();
    count(tree, &mut counted).unwrap();
    let manifest = Manifest { entries: counted.entries, bytes: counted.bytes, ..read(good) };
    let mut writing = Writing::begin(File::create(into).unwrap(), &manifest).unwrap();
    writing.tree(source, tree, &mut |_| {}).unwrap();
    writing.finish().unwrap();
}

fn read(archive: &Path) -> Manifest {
    read_manifest(BufReader::new(File::open(archive).unwrap())).unwrap().manifest
}

/// A copy of production's tree, without what an archive's reader refuses by its name.
pub fn taken(data: &Path, into: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(data).arg(into).status().unwrap();
    assert!(copied.success());
    for dir in entries(into).iter().map(|name| into.join(name)).filter(|path| path.is_dir()) {
        for name in entries(&dir).iter().filter(|name| name.ends_with(".isl")) {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

/// Sees what is done to files in directories.
pub struct Watch(OwnedFd);

impl Watch {
    pub fn over(dirs: &[&Path]) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let all = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE;
        for dir in dirs {
            inotify::add_watch(&watch, *dir, all).unwrap();
        }
        Self(watch)
    }

    /// What was done since the last time.
    pub fn seen(&self) -> Vec<String> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1 << 14];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut seen = Vec::new();
        while let Ok(event) = reader.next() {
            seen.push(format!("{:?} {:?}", event.file_name(), event.events()));
        }
        seen
    }
}

/// Nothing is left of an import that was refused.
pub fn nothing_left<M: Side>(stand: &Stand<M>) {
    for dir in ["pool/volumes", "pool/snapshots", "log", "clones"] {
        assert_eq!(entries(&stand.daemon.home().join(dir)), Vec::<String>::new(), "{dir}");
    }
    assert_eq!(stand.json(&["ls"]), serde_json::json!({"apps": [], "clones": []}));
    assert_eq!(stand.daemon.processes().len(), 1, "{:?}", stand.daemon.command_lines());
    let alarms = stand.daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}\n{}", stand.daemon.log());
}
