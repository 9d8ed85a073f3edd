//! What foreign programs print, with anything changed in it: read or refused, never more.

use proptest::prelude::*;

use super::{control, install, mirror};
use crate::files;

/// What the programs really print.
const PRINTED: [&str; 7] = [
    "pg_control version number:            1300\nDatabase cluster state:               shut down\nLatest checkpoint location:           0/2000028\nLatest checkpoint's REDO location:    0/2000028\nLatest checkpoint's REDO WAL file:    000000010000000000000002\nLatest checkpoint's TimeLineID:       1\nMinimum recovery ending location:     0/0\nmax_connections setting:              100\nBytes per WAL segment:                16777216\n",
    "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
    "rsync  version 3.2.7  protocol version 31\n",
    "  24567/98304 kB (24%), 0/1 tablespace\r  98304/98304 kB (100%), 1/1 tablespace\n",
    "      1,234,567  45%   12.34MB/s    0:00:12 (xfr#3, to-chk=5/10)\n",
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
        let _ = control::parse(&text);
        let _ = install::parse_version(&text);
        let _ = mirror::diagnose(&text);
        for (done, total) in [mirror::progress(&text), files::progress(&text)].into_iter().flatten() {
            prop_assert!(total.is_none_or(|total| total > 0 || done == 0), "{text:?}: {done} of {total:?}");
        }
        let _ = files::first_error(&text);
        let _ = files::parse_version(&text);
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
