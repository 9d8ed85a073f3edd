//! A binary log with anything changed in it: read or refused, never more, and never past its end.

use proptest::prelude::*;

use super::dialect::{Groups as _, Position as _};
use super::event::{Place, Reader};
use crate::mariadb::log::Position;
use crate::mariadb::log::groups::Groups;
use crate::mariadb::log::groups::forge::{format, query, transaction};

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_events_or_refused(
        changes in proptest::collection::vec((any::<usize>(), 0_usize..8, proptest::collection::vec(any::<u8>(), 0..8)), 0..5),
    ) {
        let mut bytes = [format(), transaction(100, 10), query(101, "CREATE TABLE t (n INT)"), transaction(102, 11)].concat();
        for (at, less, more) in changes {
            let at = at % (bytes.len() + 1);
            let end = (at + less).min(bytes.len());
            bytes.splice(at..end, more);
        }
        let (mut from, mut read, mut groups, mut position) =
            (bytes.as_slice(), 0, Groups::default(), "0-7-9".parse::<Position>().unwrap());
        let mut reader = Reader::default();
        while let Ok(Some(event)) = reader.next(&mut from) {
            read += event.bytes.len();
            let _ = (event.statement(), event.body(), event.when(), event.is_format());
            if let Place::Ends(gtid) = groups.place(&event) {
                position.take(&gtid);
            }
            prop_assert!(read <= bytes.len());
        }
        prop_assert!(position.to_string().parse::<Position>().is_ok());
    }

    #[test]
    fn any_text_is_a_position_or_refused(text in "[0-9,-]{0,30}|.{0,20}") {
        if let Ok(position) = text.parse::<Position>() {
            prop_assert_eq!(position.to_string().parse::<Position>().unwrap().to_string(), position.to_string());
        }
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
