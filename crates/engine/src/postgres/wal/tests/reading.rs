//! The reader: whole logs, torn ones, wrong ones, and noise.

use std::io;

use pando_model::Lsn;
use proptest::prelude::*;

use super::forge::{Forge, PAGE, at};
use crate::postgres::wal::record::main_data;
use crate::postgres::wal::{Kind, Pages, Reader, Record, SegmentSize, Step};

/// Pages out of memory; behind the end there are zeros for a while, then nothing.
struct Memory<'a> {
    base: u64,
    bytes: &'a [u8],
    page: Vec<u8>,
}

impl<'a> Memory<'a> {
    fn new(base: u64, bytes: &'a [u8]) -> Self {
        Self { base, bytes, page: Vec::new() }
    }
}

impl Pages for Memory<'_> {
    fn page(&mut self, lsn: Lsn) -> io::Result<Option<&[u8]>> {
        let from = usize::try_from(lsn.0 - self.base).unwrap();
        if from > self.bytes.len() + 2 * PAGE {
            return Ok(None);
        }
        self.page = self.bytes.get(from..).unwrap_or_default().iter().copied().take(PAGE).collect();
        self.page.resize(PAGE, 0);
        Ok(Some(&self.page))
    }
}

fn read(reader: &mut Reader, bytes: &[u8]) -> Vec<Record> {
    let mut pages = Memory::new(3 << 20, bytes);
    let mut records = Vec::new();
    while let Step::Record(record) = reader.step(&mut pages).unwrap() {
        records.push(record);
    }
    records
}

fn reader() -> Reader {
    Reader::at_segment(3, SegmentSize::new(1 << 20).unwrap())
}

fn borders(records: &[Record]) -> Vec<(Lsn, Lsn)> {
    records.iter().map(|record| (record.start, record.end)).collect()
}

/// A bit of everything: short, long, longer than a segment, switch, crash.
fn sample() -> Forge {
    let mut forge = Forge::new(3);
    forge.commit(at(1), 0);
    forge.other(100);
    forge.commit(at(2), 30_000);
    forge.torn();
    forge.put(0, 0xD0, &[0; 16], None);
    forge.commit(at(1), 5);
    forge.switch();
    forge.other(2 << 20);
    forge.commit(at(3), 0);
    forge
}

#[test]
fn what_was_written_is_read() {
    let forge = sample();
    let records = read(&mut reader(), forge.all());
    let expected: Vec<_> = forge.records.iter().map(|(start, end, _)| (*start, *end)).collect();
    assert_eq!(borders(&records), expected);
    let times: Vec<_> = records.iter().filter_map(|record| record.kind.stop_time()).collect();
    assert_eq!(times, [at(1), at(2), at(1), at(3)]);
}

#[test]
fn every_kind_is_told() {
    let mut forge = Forge::new(3);
    let time = at(5);
    let micros = (time.as_microsecond() - 946_684_800_000_000).to_le_bytes();
    for info in [0x00, 0x20, 0x30, 0xC0, 0x50, 0x60] {
        forge.put(1, info, &micros, None);
    }
    forge.put(1, 0x10, &[&[0; 16], &micros[..]].concat(), None);
    let mut checkpoint = 77_u64.to_le_bytes().to_vec();
    checkpoint.extend([4, 0, 0, 0, 3, 0, 0, 0]);
    for info in [0x00, 0x10, 0x60, 0x90, 0x70] {
        forge.put(0, info, &checkpoint, None);
    }
    let kinds: Vec<_> = read(&mut reader(), forge.all()).iter().map(|record| record.kind).collect();
    let checkpoint = |shutdown| Kind::Checkpoint { redo: Lsn(77), tli: 4, shutdown };
    let (other, commit, abort) = (Kind::Other, Kind::Commit { time }, Kind::Abort { time });
    assert_eq!(
        kinds,
        [
            commit,
            abort,
            Kind::CommitPrepared { time },
            Kind::AbortPrepared { time },
            other,
            other,
            Kind::Prepare { time },
            checkpoint(true),
            checkpoint(false),
            Kind::ParameterChange,
            Kind::EndOfRecovery { tli: 4 },
            other
        ]
    );
}

#[test]
fn reading_begins_behind_a_record_that_began_earlier() {
    let forge = sample();
    let size = SegmentSize::new(1 << 20).unwrap();
    for segno in 3..=6 {
        let mut pages = Memory::new(3 << 20, forge.all());
        let mut reader = Reader::at_segment(segno, size);
        let first = match reader.step(&mut pages).unwrap() {
            Step::Record(record) => Some(record.start),
            Step::Stop(_) => None,
        };
        let expected = forge.records.iter().map(|record| record.0).find(|start| *start >= size.start(segno));
        assert_eq!(first, expected, "segment {segno}");
    }
}

#[test]
fn a_time_in_a_form_unknown_is_never_passed_over() {
    let mut forge = Forge::new(3);
    forge.other(8);
    forge.put(1, 0, &[1, 2, 3], None);
    forge.commit(at(1), 0);
    assert_eq!(read(&mut reader(), forge.all()).len(), 1);
}

#[test]
fn the_main_data_lies_behind_blocks_and_images() {
    // An image with a hole, compressed; the same relation again; an origin; a top-level transaction.
    for (version, flags) in [(14, 0x03), (15, 0x05), (18, 0x11)] {
        let mut data = vec![0, 0x30, 2, 0, 4, 0, 0, 0, flags, 9, 9];
        data.extend([7; 16]);
        data.extend([1, 0x80 | 0x20, 3, 0, 1, 2, 3, 4, 253, 5, 5, 252, 1, 1, 1, 1, 255, 2]);
        data.extend([1, 1, 2, 2, 2, 2, 3, 3, 3, 0xAB, 0xCD]);
        assert_eq!(main_data(&data, version), Some([0xAB, 0xCD].as_slice()), "version {version}");
    }
    assert_eq!(main_data(&[0, 0, 0], 15), None);
    assert_eq!(main_data(&[255, 200, 1], 15), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    /// However the bytes arrive, the same records come out, once each.
    #[test]
    fn bytes_may_arrive_in_any_pieces(cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..20)) {
        let forge = sample();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(forge.all().len())).collect();
        cuts.push(forge.all().len());
        cuts.sort_unstable();
        let (mut reader, mut records) = (reader(), Vec::new());
        for cut in cuts {
            records.extend(read(&mut reader, &forge.all()[..cut]));
        }
        prop_assert_eq!(records, read(&mut self::reader(), forge.all()));
    }

    /// A wrong bit ends the log before it, or was in padding; it never makes a record up.
    #[test]
    fn a_wrong_bit_makes_nothing_up(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let forge = sample();
        let mut bytes = forge.all().to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let (truth, seen) = (read(&mut reader(), forge.all()), read(&mut reader(), &bytes));
        prop_assert!(truth.starts_with(&seen), "{} of {}", seen.len(), truth.len());
    }

    #[test]
    fn noise_is_no_log(noise in prop::collection::vec(any::<u8>(), 0..3 * PAGE), real in any::<bool>()) {
        let mut bytes = noise;
        if real {
            // Noise behind a good header gets further.
            let forge = sample();
            let keep = 40.min(bytes.len());
            bytes[..keep].copy_from_slice(&forge.all()[..keep]);
        }
        prop_assert_eq!(read(&mut reader(), &bytes), []);
        for version in 13..=18 {
            let _ = main_data(&bytes, version);
        }
    }

    #[test]
    fn noise_in_headers_is_no_data(noise in prop::collection::vec(prop_oneof![0..40_u8, 250..=255_u8], 0..200)) {
        for version in 13..=18 {
            let _ = main_data(&noise, version);
        }
    }
}
