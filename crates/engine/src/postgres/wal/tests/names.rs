//! Names of segments, and timelines.

use pando_model::Lsn;

use crate::postgres::wal::{History, SegmentName, SegmentSize};

#[test]
fn names_depend_on_the_segment_size() {
    for (megabytes, lsn, name) in [
        (16, "0/1000000", "000000010000000000000001"),
        (16, "1/FF000000", "0000000100000001000000FF"),
        (1, "1/FFF00000", "000000010000000100000FFF"),
        (1024, "2/C0000000", "000000010000000200000003"),
    ] {
        let size = SegmentSize::new(megabytes << 20).unwrap();
        let segno = size.segno(lsn.parse::<Lsn>().unwrap());
        let segment = SegmentName { segno, tli: 1 };
        assert_eq!(segment.file(size), name);
        assert_eq!(SegmentName::parse(name, size), Some(segment));
    }
    let size = SegmentSize::new(1 << 30).unwrap();
    for bad in
        ["000000010000000000000004", "00000001000000000000000", "00000001000000000000000g", "00000001000000000000000a"]
    {
        assert_eq!(SegmentName::parse(bad, size), None, "{bad}");
    }
    assert!([0, 1 << 19, 3 << 20, 1 << 31].into_iter().all(|bytes| SegmentSize::new(bytes).is_none()));
}

#[test]
fn a_history_says_which_timeline_is_valid_where() {
    let size = SegmentSize::new(1 << 20).unwrap();
    let history = History::parse(5, "1\t0/300010\tno recovery target specified\n\n# a remark\n2\t0/500000\treason\n");
    assert_eq!(history.timelines().collect::<Vec<_>>(), [1, 2, 5]);
    assert_eq!([0, 0x30_0008, 0x30_0010, 0x4f_ffff, 0x50_0000].map(|lsn| history.owner(Lsn(lsn))), [1, 1, 2, 2, 5]);
    assert_eq!([2, 3, 4, 5].map(|segno| history.of_segment(segno, size)), [1, 2, 2, 5]);
    assert!(history.contains(1, Lsn(0x30_0010)) && !history.contains(1, Lsn(0x30_0018)));
    assert!(history.contains(0, Lsn(1)) && !history.contains(3, Lsn(1)) && history.contains(5, Lsn(u64::MAX)));
    assert_eq!(History::alone(7).owner(Lsn(9)), 7);
    assert_eq!(History::parse(2, "nonsense\n2\t0/1\tself"), History::alone(2));
    assert_eq!(history.to_string(), "1 from 0/0, 2 from 0/300010, 5 from 0/500000");
}
