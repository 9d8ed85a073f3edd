//! The walls of the house: who may use whom, what may come in from outside, how a file looks. The arrows are
//! those of ARCHITECTURE.md; a new one is a decision and is made here first.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_types, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and all that it may use outside of tests.
const ARROWS: [(&str, &[&str]); 14] = [
    // The engine for `toolkit test` alone, which needs no daemon.
    ("pando", &["pando-api", "pando-daemon", "pando-engine", "pando-host", "pando-model"]),
    ("pando-daemon", &["pando-api", "pando-host", "pando-model", "pando-operations"]),
    (
        "pando-operations",
        &[
            "pando-catalog",
            "pando-edit",
            "pando-engine",
            "pando-host",
            "pando-image",
            "pando-model",
            "pando-pool",
            "pando-runtime",
            "pando-vault",
        ],
    ),
    ("pando-edit", &["pando-model"]),
    ("pando-pool", &["pando-host", "pando-model"]),
    ("pando-engine", &["pando-host", "pando-model"]),
    ("pando-runtime", &["pando-host", "pando-model"]),
    ("pando-image", &["pando-host", "pando-model"]),
    ("pando-vault", &["pando-host", "pando-model"]),
    ("pando-catalog", &["pando-host", "pando-model"]),
    ("pando-api", &["pando-model"]),
    ("pando-host", &["pando-model"]),
    ("pando-model", &[]),
    ("pando-testkit", &[]),
];

/// What never comes in: a second TLS or crypto library, what needs C tools beyond a compiler, what is dead.
const BANNED: [&str; 10] = [
    "openssl-sys",
    "openssl",
    "native-tls",
    "aws-lc-sys",
    "aws-lc-rs",
    "bindgen",
    "cmake",
    "sqlx",
    "bincode",
    "serde_yaml",
];

/// The budget of crates, our own and foreign, for all platforms.
const MOST_CRATES: usize = 400;

/// Lines at which a file is certainly two.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn packages() -> Vec<Value> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let arrows: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let packages = packages();
    assert!(packages.len() > 5);
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} has no place in the house: give it one here"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let in_tests_only = dependency["kind"].as_str() == Some("dev");
            let ours = used == "pando" || used.starts_with("pando-");
            assert!(!ours || in_tests_only || allowed.contains(used), "{name} may not use {used}");
        }
    }
}

#[test]
fn what_comes_in_from_outside_stays_within_its_budget_and_off_the_list() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"')))
        .collect();
    assert!((20..=MOST_CRATES).contains(&names.len()), "{} crates, {MOST_CRATES} are the budget", names.len());
    for banned in BANNED {
        assert!(!names.contains(&banned), "{banned} came in; `cargo tree --invert {banned}` says through whom");
    }
    let foreign =
        lock.lines().filter(|line| line.starts_with("source = ") && !line.starts_with("source = \"registry+"));
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&str>::new(), "only crates of the registry");
}

#[test]
fn every_file_says_what_it_answers_for_and_is_no_longer_than_one_thing() {
    let mut waiting = vec![root().join("crates")];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//! "), "{} has no header", path.display());
            let lines = text.lines().count();
            assert!(lines <= MOST_LINES, "{} has {lines} lines: it is more than one thing", path.display());
            seen += 1;
        }
    }
    assert!(seen > 30);
}

#[test]
fn nothing_asks_for_a_container_that_may_do_everything() {
    // Put together here, or this file would be the first to be found.
    let word = "privileged";
    let asks = [format!("--{word}"), format!("{word}:true"), format!("{word}=true")];
    let mut waiting = vec![root()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || ["target", ".git", "node_modules"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            for line in text.lines() {
                let plain: String = line.chars().filter(|c| !matches!(c, '"' | '\'' | ' ' | '\\')).collect();
                let found = asks.iter().find(|ask| plain.to_lowercase().contains(*ask));
                assert!(found.is_none(), "{}: {line}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 100);
}
