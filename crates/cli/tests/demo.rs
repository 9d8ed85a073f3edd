//! The whole demo, small: it finds nothing wrong with itself and leaves nothing behind, also when it is interrupted,
//! and when it was killed and is ended later.

#![allow(missing_docs, clippy::expect_used, clippy::disallowed_types, reason = "a test of processes")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pando_testkit::tools::{find, require, run};
use rustix::process::{Pid, Signal, kill_process};

/// A place for demos; whoever runs servers must be able to pass it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("pando-demos-").tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("opened");
    dir
}

fn demo(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pando"));
    command.args(["demo", "--size", "30M", "--dir"]).arg(dir).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A demo under way, at the chapter that begins with these words.
fn demo_at(dir: &Path, chapter: &str) -> Child {
    let mut child = demo(dir, &[]).spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(chapter)), "the demo never came to {chapter:?}");
    // Somebody must go on reading.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("sent");
}

/// Everything on this machine that has to do with a directory.
fn left(dir: &Path) -> Vec<String> {
    let text = dir.to_string_lossy().into_owned();
    let mut found: Vec<String> = Vec::new();
    found.extend(fs::read_dir(dir).expect("listed").flatten().map(|entry| format!("{:?}", entry.path())));
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    found.extend(mounts.lines().filter(|line| line.contains(&text)).map(str::to_owned));
    if find("losetup").is_some() {
        let loops = run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
        found.extend(loops.lines().filter(|line| line.contains(&text)).map(str::to_owned));
    }
    for entry in fs::read_dir("/proc").expect("listed").flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd: PathBuf| cwd.starts_with(dir));
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if inside || arguments.contains(&text) {
            found.push(format!("{:?} {arguments}", entry.file_name()));
        }
    }
    found
}

fn tools() -> bool {
    require("initdb") && require("rsync")
}

#[test]
fn the_demo_shows_what_it_says_and_leaves_nothing() {
    if !tools() {
        return;
    }
    let dir = place();
    let output = demo(dir.path(), &["--json"]).output().expect("ran");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for figure in ["link_ms", "clone_ann_ms", "clone_ben_ms", "clone_cleo_ms", "rewind_ms", "refresh_ms"] {
        assert!(figures[figure].is_u64(), "{figure}: {figures}");
    }
    assert_eq!(told.matches("exactly production's of that moment").count(), 5, "{told}");
    assert!(told.contains("DROP TABLE") && told.contains("Try next:"), "{told}");
    assert!(!told.contains(" WARN ") && !told.contains(" ERROR "), "{told}");
    assert_eq!(left(dir.path()), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !tools() {
        return;
    }
    let dir = place();
    for (chapter, signal) in [("2. ", Signal::INT), ("4. ", Signal::TERM)] {
        let mut child = demo_at(dir.path(), chapter);
        send(&child, signal);
        let code = child.wait().expect("ended").code();
        let mut told = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut told).expect("read");
        assert_eq!(code, Some(130), "{told}");
        assert_eq!(left(dir.path()), Vec::<String>::new(), "{told}");
    }
}

#[test]
fn a_killed_demo_is_ended_later() {
    if !tools() {
        return;
    }
    let dir = place();
    let mut child = demo_at(dir.path(), "clone shop@now");
    send(&child, Signal::KILL);
    child.wait().expect("ended");
    let demos: Vec<PathBuf> = fs::read_dir(dir.path()).expect("listed").flatten().map(|entry| entry.path()).collect();
    assert_eq!(demos.len(), 1);
    let end = |demo: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pando"));
        command.args(["demo", "--end"]).arg(demo).output().expect("ran")
    };
    let ended = end(&demos[0]);
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(left(dir.path()), Vec::<String>::new());
    assert_eq!(end(&demos[0]).status.code(), Some(3));
}
