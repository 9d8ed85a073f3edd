//! A MySQL log with anything changed in it, and any text for a set of transactions: read or refused, and what was read
//! is what is written again.

use proptest::prelude::*;

use super::groups::Groups;
use super::groups::forge::{head, query, transaction};
use super::set::GtidSet;
use crate::mysql_family::binlog::dialect::{Groups as _, Position as _};
use crate::mysql_family::binlog::event::{Place, Reader};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_events_or_refused(
        changes in proptest::collection::vec((any::<usize>(), 0_usize..8, proptest::collection::vec(any::<u8>(), 0..8)), 0..5),
    ) {
        let mut bytes = [head(), transaction(10, 1), query("XA COMMIT X'78',X'',1"), transaction(11, 2)].concat();
        for (at, less, more) in changes {
            let at = at % (bytes.len() + 1);
            let end = (at + less).min(bytes.len());
            bytes.splice(at..end, more);
        }
        let (mut from, mut groups, mut set) = (bytes.as_slice(), Groups::default(), GtidSet::default());
        let mut reader = Reader::default();
        while let Ok(Some(event)) = reader.next(&mut from) {
            if let Place::Ends(gtid) = groups.place(&event) {
                set.take(&gtid);
                prop_assert!(set.holds(&gtid));
            }
        }
    }

    #[test]
    fn any_text_is_a_set_or_refused(text in "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(:(t:)?[0-9]{1,2}(-[0-9]{1,3})?){0,4},?){0,3}|.{0,40}") {
        if let Ok(set) = text.parse::<GtidSet>() {
            let again = set.to_string().parse::<GtidSet>();
            prop_assert!(again.is_ok_and(|again| again == set && again.reaches(&set)));
        }
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
