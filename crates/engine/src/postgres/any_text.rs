//! What foreign programs print, with anything changed in it: read or refused, never more.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use pando_testkit::{Production, ProductionOptions, tools};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::install::Installations;
use super::{control, install, mirror};
use crate::files;

/// What the programs really print.
const PRINTED: [&str; 7] = [
    "pg_control version number:            1300\nDatabase cluster state:               shut down\nLatest checkpoint location:           0/2000028\nLatest checkpoint's REDO location:    0/2000028\nLatest checkpoint's REDO WAL file:    000000010000000000000002\nLatest checkpoint's TimeLineID:       1\nMinimum recovery ending location:     0/0\nMin recovery ending loc's timeline:   0\nmax_connections setting:              100\nBytes per WAL segment:                16777216\n",
    "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
    "rsync  version 3.2.7  protocol version 31\n",
    "  24567/98304 kB (24%), 0/1 tablespace\r  98304/98304 kB (100%), 1/1 tablespace\n",
    "      1234567  45%   12.34MB/s    0:00:12 (xfr#3, to-chk=5/10)\n",
    "FATAL:  could not start WAL streaming: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n",
    "rsync: [sender] opendir \"/srv\" failed: Permission denied (13)\nrsync error: some files could not be transferred (code 23)\n",
];

fn printed() -> impl Strategy<Value = String> {
    let change = (any::<usize>(), 0_usize..30, proptest::collection::vec(any::<char>(), 0..6));
    (0..PRINTED.len(), proptest::collection::vec(change, 0..4)).prop_map(|(which, changes)| {
        let mut chars: Vec<char> = PRINTED[which].chars().collect();
        for (at, less, more) in changes {
            let at = at % (chars.len() + 1);
            let end = (at + less).min(chars.len());
            chars.splice(at..end, more);
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_programs_print_is_read_or_refused(text in printed()) {
        if let Some(control) = control::parse(&text) {
            prop_assert_eq!(control.checkpoint_segment().len(), 24, "{:?}", control);
        }
        let _ = install::parse_version(&text);
        let _ = mirror::diagnose(&text);
        for (done, total) in [mirror::progress(&text), files::progress(&text)].into_iter().flatten() {
            prop_assert!(total.is_none_or(|total| total > 0 || done == 0), "{text:?}: {done} of {total:?}");
        }
        let _ = files::first_error(&text);
        let _ = files::parse_version(&text);
    }
}

#[test]
fn the_text_that_is_changed_is_one_that_is_read() {
    assert!(control::parse(PRINTED[0]).is_some());
    assert!(install::parse_version(PRINTED[1]).is_some() && files::parse_version(PRINTED[2]).is_some());
    assert!(mirror::progress(PRINTED[3]).is_some() && files::progress(PRINTED[4]).is_some());
    assert!(mirror::diagnose(PRINTED[5]).is_some() && files::first_error(PRINTED[6]).is_some());
}

/// A control file with anything changed in it, through the real `pg_controldata`.
#[test]
fn any_bytes_are_a_control_file_or_refused() {
    let Some(bin) = tools::require("initdb").then(tools::newest_postgres).flatten() else { return };
    let mut production = Production::start(&bin, ProductionOptions::default());
    production.stop();
    let whole = fs::read(production.data().join("global/pg_control")).unwrap();
    let installations = Installations::find(&[bin]);
    let installation = installations.newest().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("global")).unwrap();
    let file = dir.path().join("global/pg_control");
    fs::write(&file, &whole).unwrap();
    assert_eq!(control::read(installation, None, dir.path()).unwrap().state, "shut down");
    // What matters is in its first 300 bytes.
    let change = (0_usize..400, proptest::collection::vec(any::<u8>(), 1..9));
    let changes = (proptest::collection::vec(change, 1..6), proptest::option::weighted(0.2, 0_usize..8192));
    // Each starts a program.
    let cases = if std::env::var_os("PANDO_CASES").is_some() { 5_000 } else { 100 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&changes, |(changes, cut)| {
        let mut bytes = whole.clone();
        for (at, fresh) in changes {
            bytes[at..at + fresh.len()].copy_from_slice(&fresh);
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fs::write(&file, &bytes).unwrap();
        if let Ok(control) = control::read(installation, None, dir.path()) {
            prop_assert_eq!(control.checkpoint_segment().len(), 24, "{:?}", control);
        }
        Ok(())
    });
    assert!(tried.is_ok(), "{tried:?}");
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
