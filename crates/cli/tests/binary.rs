//! The binary itself, without a daemon: help, completions, manual pages, and what it says when it cannot go on.

#![allow(missing_docs, clippy::expect_used, reason = "a test")]

use std::path::Path;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

#[allow(clippy::disallowed_types, reason = "what is tested here is a process")]
fn pando(home: &Path, args: &[&str]) -> Ran {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pando"))
        .args(args)
        .env("PANDO_HOME", home)
        .env_remove("PANDO_HOST")
        .env_remove("PANDO_TOKEN")
        .output()
        .expect("started");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("dir")
}

#[test]
fn wrong_usage_is_one_line_and_a_hint_with_code_2() {
    let home = dir();
    let long = "n".repeat(300);
    let lines: [&[&str]; 14] = [
        &["clone", "../x", "a"],
        &["clone", "shop", &long],
        &["clone", &long, "a"],
        &["clone", "shop@2026-13-01", "a"],
        &["clone", "shop@-2x", "a"],
        &["clone", "shop", "a", "--profile", "eternal"],
        &["rewind", "dev1"],
        &["lease", "dev1"],
        &["lease", "dev1", "--for", "8h", "--forever"],
        &["link", "shop"],
        &["link", "shop", "oracle://u:hunter2@h/db"],
        &["init", "--size", "lots"],
        &["--host", "ftp://h", "ls"],
        &["nonsense"],
    ];
    for line in lines {
        let ran = pando(home.path(), line);
        assert_eq!(ran.code, 2, "{line:?}: {}", ran.stderr);
        let said: Vec<&str> = ran.stderr.lines().collect();
        assert!(said.len() == 2 && said[0].starts_with("error: "), "{line:?}: {}", ran.stderr);
        assert!(said[1].starts_with("  hint: "), "{line:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2") && !ran.stderr.contains(&long), "{line:?}");
        assert!(ran.stdout.is_empty());
    }
}

#[test]
fn without_a_daemon_the_command_that_starts_it_is_named() {
    let home = dir();
    for line in [&["ls"][..], &["clone", "shop@10:15", "a"], &["rm", "a", "b"], &["rewind", "a@-1h"], &["events"]] {
        let ran = pando(home.path(), line);
        assert_eq!(ran.code, 1, "{line:?}");
        let socket = home.path().join("run/pando.sock");
        assert!(
            ran.stderr.starts_with(&format!("error: no pando daemon answers at {}\n", socket.display())),
            "{line:?}"
        );
        assert!(ran.stderr.contains("  hint: pando serve\n"), "{line:?}");
    }
    let elsewhere = pando(home.path(), &["--host", "http://127.0.0.1:9", "doctor"]);
    assert_eq!(elsewhere.code, 1);
    assert!(elsewhere.stderr.contains("no pando daemon answers at http://127.0.0.1:9"), "{}", elsewhere.stderr);
}

#[test]
fn with_json_the_last_line_of_stderr_is_the_problem() {
    let home = dir();
    for (line, kind) in [(&["ls", "--json"][..], "failed"), (&["--json", "clone", "shop"], "usage")] {
        let ran = pando(home.path(), line);
        let last = ran.stderr.lines().last().unwrap_or_default();
        let problem: serde_json::Value = serde_json::from_str(last).expect("JSON");
        assert_eq!(problem["kind"], kind);
        assert!(problem["title"].is_string() && problem["hint"].is_string());
    }
}

#[test]
fn help_and_version_are_answers() {
    let home = dir();
    let help = pando(home.path(), &["--help"]);
    assert_eq!(help.code, 0);
    for word in ["serve", "clone", "rewind", "Exit codes: 0 done"] {
        assert!(help.stdout.contains(word), "{word}");
    }
    assert_eq!(pando(home.path(), &["help", "clone"]).code, 0);
    assert!(pando(home.path(), &["--version"]).stdout.starts_with("pando "));
    let bare = pando(home.path(), &[]);
    assert_eq!((bare.code, bare.stdout.as_str()), (2, ""));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let home = dir();
    for shell in ["bash", "zsh", "fish"] {
        let ran = pando(home.path(), &["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("rewind"), "{shell}: {}", ran.stderr);
    }
    let pages = home.path().join("man/man1");
    let ran = pando(home.path(), &["man", &pages.to_string_lossy()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for page in ["pando.1", "pando-clone.1", "pando-rewind.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    assert_eq!(pando(home.path(), &["man", "/proc/nowhere"]).code, 1);
}
