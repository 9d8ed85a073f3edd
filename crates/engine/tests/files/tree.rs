//! The files engine on real directories with the real rsync: what is kept, what is shared, what is mended.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kit::{Kit, run};
use pando_engine::files::first_error;
use pando_engine::{Engine, EngineError, Link, Point, Verdict};
use pando_model::Lsn;
use pando_testkit::tools::{find, output, require, require_root, run as tool};
use pando_testkit::{FsKind, LoopFs};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_tree_is_copied_exactly() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    let (from, to) = (kit.production(), kit.mirror().to_owned());
    let names: [&[u8]; 6] = [b"plain", b"-dash", b"sp ace", b"new\nline", b"\xff\xfe", b"*[a]?"];
    for name in names {
        fs::write(from.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(from.join("dir")).unwrap();
    fs::set_permissions(from.join("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::set_permissions(from.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(from.join("plain"), from.join("dir/twin")).unwrap();
    symlink("/no/such/place", from.join("dangling")).unwrap();
    symlink("plain", from.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();

    kit.ingest();
    for name in names {
        assert_eq!(fs::read(to.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    assert_eq!(mode(&to.join("plain")), 0o640);
    assert_eq!(mode(&to.join("dir")), 0o2750);
    assert_eq!(fs::metadata(to.join("plain")).unwrap().ino(), fs::metadata(to.join("dir/twin")).unwrap().ino());
    assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/no/such/place"));
    assert!(fs::symlink_metadata(to.join("fifo")).is_ok());
    let times = |path: &Path| fs::metadata(path).map(|found| (found.mtime(), found.mtime_nsec())).unwrap();
    assert_eq!(times(&from.join("plain")), times(&to.join("plain")));

    fs::remove_file(from.join("sp ace")).unwrap();
    fs::remove_dir_all(from.join("dir")).unwrap();
    fs::write(from.join("dir"), "now a file").unwrap();
    fs::remove_file(from.join("link")).unwrap();
    fs::create_dir_all(from.join("link/deep")).unwrap();
    kit.sync();
    assert!(!to.join("sp ace").exists() && to.join("dir").is_file() && to.join("link/deep").is_dir());
}

#[test]
fn as_root_owners_acls_and_attributes_are_kept_and_devices_left_out() {
    let tools = ["rsync", "setfacl", "getfacl", "setfattr", "getfattr"];
    if !require_root() || !tools.iter().all(|name| require(name)) {
        return;
    }
    let kit = Kit::new();
    let (from, to) = (kit.production(), kit.mirror().to_owned());
    fs::write(from.join("f"), "x").unwrap();
    chown(from.join("f"), Some(12_345), Some(54_321)).unwrap();
    symlink("f", from.join("l")).unwrap();
    lchown(from.join("l"), Some(777), Some(778)).unwrap();
    let path = from.join("f").display().to_string();
    tool("setfacl", &["-m", "u:4242:r", &path]);
    for attribute in ["user.colour", "trusted.secret"] {
        tool("setfattr", &["-n", attribute, "-v", "blue", &path]);
    }
    let null = rustix::fs::makedev(1, 3);
    let char_device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, from.join("null"), char_device, 0o666.into(), null).unwrap();

    kit.ingest();
    let copy = to.join("f").display().to_string();
    let owner = |path: &Path| fs::symlink_metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!((owner(&to.join("f")), owner(&to.join("l"))), ((12_345, 54_321), (777, 778)));
    assert!(tool("getfacl", &["-cnp", &copy]).contains("user:4242:r--"));
    let attributes = tool("getfattr", &["-d", "-m", "-", "--absolute-names", &copy]);
    assert!(attributes.contains("user.colour") && attributes.contains("trusted.secret"), "{attributes}");
    assert!(!to.join("null").exists());

    // Also where there is nothing to copy, and of two names that are linked anew.
    fs::hard_link(from.join("f"), from.join("twin")).unwrap();
    for _ in 0..3 {
        kit.sync();
        assert!(tool("getfacl", &["-cnp", &copy]).contains("user:4242:r--"));
        assert_eq!(fs::metadata(to.join("f")).unwrap().ino(), fs::metadata(to.join("twin")).unwrap().ino());
    }

    // What is taken off production goes away here, too.
    tool("setfacl", &["-b", &path]);
    tool("setfattr", &["-x", "user.colour", &path]);
    kit.sync();
    assert!(!tool("getfacl", &["-cnp", &copy]).contains("4242"));
    assert!(!tool("getfattr", &["-d", "-m", "-", "--absolute-names", &copy]).contains("user.colour"));
}

#[test]
fn holes_stay_holes_when_copied_and_when_updated() {
    if !require("rsync") {
        return;
    }
    const GIB: u64 = 1 << 30;
    const UNIT: u64 = 64 << 20;
    let kit = Kit::new();
    let huge = File::create(kit.production().join("huge")).unwrap();
    huge.set_len(3 * GIB).unwrap();
    let file = File::create(kit.production().join("disk")).unwrap();
    file.set_len(3 * UNIT).unwrap();
    file.write_all_at(b"x", UNIT).unwrap();
    kit.ingest();
    let copy = kit.mirror().join("disk");
    for (name, length) in [("disk", 3 * UNIT), ("huge", 3 * GIB)] {
        let found = fs::metadata(kit.mirror().join(name)).unwrap();
        assert_eq!(found.len(), length);
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    }
    let found = fs::metadata(&copy).unwrap();

    file.write_all_at(b"y", 2 * UNIT).unwrap();
    kit.sync();
    let updated = fs::metadata(&copy).unwrap();
    assert!(updated.blocks() * 512 < 1 << 20, "{} blocks", updated.blocks());
    assert_eq!(updated.ino(), found.ino());
    let read = |path: &Path, at: u64| {
        let mut byte = [0; 1];
        File::open(path).unwrap().read_exact_at(&mut byte, at).unwrap();
        byte[0]
    };
    assert_eq!(read(&copy, 2 * UNIT), b'y');

    // One that grows, and new ones.
    file.set_len(4 * UNIT).unwrap();
    file.write_all_at(b"z", 3 * UNIT + 5).unwrap();
    fs::create_dir_all(kit.production().join("new/deep")).unwrap();
    for name in ["later", "new/deep/later"] {
        let later = File::create(kit.production().join(name)).unwrap();
        later.set_len(UNIT / 4).unwrap();
        later.write_all_at(b"l", 1 << 20).unwrap();
    }
    kit.sync();
    for (name, length, at, byte) in [
        ("disk", 4 * UNIT, 3 * UNIT + 5, b'z'),
        ("later", UNIT / 4, 1 << 20, b'l'),
        ("new/deep/later", UNIT / 4, 1 << 20, b'l'),
    ] {
        let copy = kit.mirror().join(name);
        let found = fs::metadata(&copy).unwrap();
        assert_eq!((found.len(), read(&copy, at)), (length, byte), "{name}");
        assert!(found.blocks() * 512 < 1 << 20, "{name}: {} blocks", found.blocks());
    }
}

#[test]
fn a_file_with_holes_is_copied_whatever_its_time() {
    if !require("rsync") {
        return;
    }
    const MIB: u64 = 1 << 20;
    let kit = Kit::new();
    let write = |name: &str, length: u64| {
        let file = File::options().create(true).truncate(false).write(true).open(kit.production().join(name)).unwrap();
        file.set_len(length).unwrap();
        file.write_all_at(b"HEAD", 0).unwrap();
        file.write_all_at(b"TAIL", length - 4).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write("grows", 2 * MIB);
    kit.ingest();
    write("grows", 4 * MIB);
    write("new", 4 * MIB);
    kit.sync();
    for name in ["grows", "new"] {
        assert!(fs::read(kit.production().join(name)).unwrap() == fs::read(kit.mirror().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn blocks_that_did_not_change_stay_shared_with_the_snapshot() {
    if !require("rsync") || !require("filefrag") {
        return;
    }
    let Some(fs) = LoopFs::new(FsKind::Xfs, 400) else { return };
    let dir = tempfile::tempdir().unwrap();
    let production = dir.path().join("production");
    fs::create_dir(&production).unwrap();
    let kit = Kit::at(dir, &format!("file://{}", production.display()), &fs.path().join("mirror"));
    // Every third page is all zero, as in databases.
    let page = |i: u64| if i.is_multiple_of(3) { vec![0; 8192] } else { i.to_le_bytes().repeat(1024) };
    let content: Vec<u8> = (0..2048).flat_map(page).collect();
    fs::write(production.join("big"), &content).unwrap();
    kit.ingest();
    let (copy, snapshot) = (kit.mirror().join("big"), fs.path().join("snapshot"));
    tool("cp", &["--reflink=always", &copy.display().to_string(), &snapshot.display().to_string()]);

    File::options().write(true).open(production.join("big")).unwrap().write_all_at(b"changed", 8 << 20).unwrap();
    kit.sync();
    assert_eq!(fs::read(&copy).unwrap(), fs::read(production.join("big")).unwrap());
    assert_eq!(fs::read(&snapshot).unwrap(), content);
    let map = tool("filefrag", &["-s", "-v", "-b4096", &copy.display().to_string()]);
    let length = |line: &str| line.split(':').nth(3).and_then(|blocks| blocks.trim().parse::<u64>().ok()).unwrap_or(0);
    let own: u64 = map
        .lines()
        .filter(|line| line.contains("..") && !["shared", "unwritten"].iter().any(|w| line.contains(w)))
        .map(length)
        .sum();
    assert!((1..=8).contains(&own), "{own} blocks of 4096 are no longer shared:\n{map}");
}

#[test]
fn a_file_written_twice_in_one_second_is_copied_twice() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    let file = kit.production().join("f");
    let second = std::time::SystemTime::now();
    let write = |text: &str, nanos: u64| {
        fs::write(&file, text).unwrap();
        let second = second.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(second, 0) + std::time::Duration::from_nanos(nanos);
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    };
    write("one", 1_000_000);
    kit.ingest();
    write("two", 2_000_000);
    kit.sync();
    assert_eq!(fs::read(kit.mirror().join("f")).unwrap(), b"two");
}

#[test]
fn a_hard_link_that_production_broke_does_not_spill_into_the_other_file() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    let (from, to) = (kit.production(), kit.mirror().to_owned());
    fs::write(from.join("a"), vec![b'a'; 100_000]).unwrap();
    for name in ["b", "c"] {
        fs::hard_link(from.join("a"), from.join(name)).unwrap();
    }
    kit.ingest();
    fs::write(from.join("new"), "another file").unwrap();
    fs::rename(from.join("new"), from.join("b")).unwrap();
    for _ in 0..2 {
        kit.sync();
        for name in ["a", "b", "c"] {
            assert_eq!(fs::read(from.join(name)).unwrap(), fs::read(to.join(name)).unwrap(), "{name}");
        }
        let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert!(inode("a") == inode("c") && inode("a") != inode("b"));
    }
}

#[test]
fn what_is_excluded_is_not_in_the_mirror_also_when_the_pattern_came_later() {
    if !require("rsync") {
        return;
    }
    let mut kit = Kit::new();
    fs::create_dir_all(kit.production().join("cache/deep")).unwrap();
    for name in ["keep", "a.tmp", "cache/deep/x", "-secret"] {
        fs::write(kit.production().join(name), "x").unwrap();
    }
    kit.source.exclude = vec!["*.tmp".into(), "/cache/".into(), String::new()];
    kit.ingest();
    assert!(kit.mirror().join("keep").exists() && kit.mirror().join("-secret").exists());
    assert!(!kit.mirror().join("a.tmp").exists() && !kit.mirror().join("cache").exists());
    kit.source.exclude.push("-secret".into());
    kit.sync();
    assert!(!kit.mirror().join("-secret").exists());
    assert!(kit.production().join("a.tmp").exists() && kit.production().join("-secret").exists());
}

/// Ends the writer also where an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn files_that_come_and_go_during_the_copy_are_no_failure() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    let stop = AtomicBool::new(false);
    let spool = kit.production().join("spool");
    fs::create_dir(&spool).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::create(kit.production().join("log")).unwrap();
            for round in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(spool.join(format!("m{}", round % 500)), vec![b'm'; 5000]).unwrap();
                let _ = fs::remove_file(spool.join(format!("m{}", (round + 250) % 500)));
                log.seek(SeekFrom::End(0)).and_then(|_| log.write_all(&[b'l'; 512])).unwrap();
            }
        });
        let _stop = Stop(&stop);
        kit.ingest();
        for _ in 0..10 {
            kit.sync();
        }
    });
    kit.sync();
    let difference = output(
        Path::new("diff"),
        &["-r", &kit.production().display().to_string(), &kit.mirror().display().to_string()],
    );
    assert!(difference.status.success());
}

#[test]
fn an_interrupted_copy_is_mended_by_the_next() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    for index in 0..40 {
        fs::write(kit.production().join(format!("f{index}")), vec![index; 1 << 20]).unwrap();
    }
    let plan = kit.engine.ingest(&kit.seat, &kit.source).unwrap();
    let mut child = Command::new(&plan.program).args(&plan.args).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(kit.mirror().join("stranger"), "not of production").unwrap();
    kit.ingest();
    for index in 0..40 {
        assert_eq!(fs::read(kit.mirror().join(format!("f{index}"))).unwrap(), vec![index; 1 << 20]);
    }
    assert!(!kit.mirror().join("stranger").exists());
}

#[test]
fn an_unreadable_file_fails_the_copy_and_is_named() {
    let (Some(_), true) = (find("setpriv"), require("rsync")) else { return };
    let kit = Kit::new();
    fs::write(kit.production().join("secret"), "x").unwrap();
    fs::set_permissions(kit.production().join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut plan = kit.plan();
    if rustix::process::geteuid().is_root() {
        for path in [kit.dir.path(), &kit.production()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        chown(kit.mirror(), Some(65_534), Some(65_534)).unwrap();
        let rsync = plan.program.display().to_string();
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", &rsync].map(str::to_owned);
        plan.args.retain(|arg| !arg.contains("attrs") && !arg.contains("acls") && !arg.contains("filter"));
        plan.args.splice(0..0, nobody);
        plan.program = find("setpriv").unwrap();
    }
    let output = run(&plan);
    assert_eq!(kit.verdict(&output), Verdict::Failed);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        first_error(&log).is_some_and(|line| line.contains("secret") && line.contains("Permission denied")),
        "{log}"
    );
}

#[test]
fn a_directory_that_holds_its_own_mirror_is_refused() {
    if !require("rsync") {
        return;
    }
    let mut kit = Kit::new();
    kit.seat.data = kit.production().join("home/volumes/v");
    assert!(matches!(kit.engine.ingest(&kit.seat, &kit.source), Err(EngineError::Invalid(_))));
}

#[test]
fn preflight_and_pulse_say_what_is_wrong_with_a_directory() {
    if !require("rsync") {
        return;
    }
    let kit = Kit::new();
    let looked = kit.engine.preflight(&kit.source.url).unwrap();
    assert!(looked.findings.is_empty() && looked.notes.len() == 2, "{looked:?}");
    assert_eq!(kit.engine.pulse(&kit.seat, &kit.source, true).unwrap().link, Link::Following);
    fs::remove_dir(kit.production()).unwrap();
    let looked = kit.engine.preflight(&kit.source.url).unwrap();
    assert!(looked.findings.iter().any(|finding| finding.fatal && finding.what.contains("production")));
    let pulse = kit.engine.pulse(&kit.seat, &kit.source, false).unwrap();
    assert!(matches!(pulse.link, Link::Disconnected(_)) && !pulse.changed && pulse.through.is_none());
    assert!(kit.engine.doctor().iter().any(|item| item.what.starts_with("rsync") && item.level == "ok"));
}

#[test]
fn a_mark_stands_for_the_time_just_before_the_copy() {
    let kit = Kit::new();
    let asked = "2026-11-21T10:00:00Z".parse().unwrap();
    let mark = kit.engine.mark(&kit.seat, &kit.seat, &kit.source, asked, false).unwrap();
    assert_eq!(mark.from, Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) });
    assert!(mark.at == asked && !mark.rolls);
    assert!(kit.engine.serve(&kit.seat, &kit.source).unwrap().is_none());
}
