//! Taking in: every state that a crash can leave on disk, gaps, damage, timelines.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pando_model::Lsn;

use super::forge::{Forge, at};
use crate::postgres::wal::index::Index;
use crate::postgres::wal::{Progress, WalLog};
use crate::{Point, Want};

/// Leaves a state as a crash would.
type Spoil = fn(&Bench);

struct Bench {
    dir: tempfile::TempDir,
    log: WalLog,
    forge: Forge,
    second: i64,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = WalLog::open(&dir.path().join("log")).unwrap();
        assert_eq!((log.current_epoch(), log.begin_epoch(None).unwrap()), (None, 1));
        Self { dir, log, forge: Forge::new(3), second: 0 }
    }
    fn live(&self) -> PathBuf {
        self.log.live_dir(1)
    }
    fn segments(&self) -> PathBuf {
        self.live().with_file_name("segments")
    }
    fn index(&self) -> PathBuf {
        self.live().with_file_name("index")
    }
    /// Fills segments 3 to 6, and begins 7.
    fn filled() -> Self {
        let mut this = Self::new();
        this.forge.fill_to(7, &mut this.second);
        this.forge.commit(at(10_000), 0);
        this.forge.write(&this.live(), 3..=7);
        this
    }
    /// Pando is started anew.
    fn restart(&mut self) {
        self.log = WalLog::open(&self.dir.path().join("log")).unwrap();
    }
    fn from(&self) -> Point {
        Point { epoch: 1, timeline: 1, lsn: self.forge.records[0].0, time: None }
    }
    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    /// The log is whole: end, index, files, and every byte.
    fn whole(&self) {
        let progress = self.log.advance().unwrap();
        assert_eq!((progress.end, progress.timeline, progress.last_commit), (self.forge.end(), 1, Some(at(10_000))));
        let mut index = Index::at(self.index());
        index.refresh().unwrap();
        assert_eq!(index.entries().iter().map(|entry| entry.name.segno).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(fs::metadata(self.index()).unwrap().len(), 4 * 96);
        let packed: Vec<_> = (3..=6).map(|segno| format!("{}.zst", self.forge.name(segno))).collect();
        assert_eq!(Self::names(&self.segments()), packed);
        assert_eq!(Self::names(&self.live()), [self.forge.name(6), format!("{}.partial", self.forge.name(7))]);
        let into = tempfile::tempdir().unwrap();
        let to = self.log.locate(1, &self.from(), Want::End).unwrap().unwrap();
        self.log.bring(1, self.from().lsn, &to, into.path(), None).unwrap();
        for segno in 3..=7 {
            assert!(fs::read(into.path().join(self.forge.name(segno))).unwrap() == self.forge.segment(segno));
        }
        assert!(!self.log.advance().unwrap().changed);
    }
}

#[test]
fn a_log_is_taken_in_step_by_step() {
    let mut bench = Bench::new();
    assert_eq!(bench.log.advance().unwrap(), Progress::default());
    let whole = Bench::filled();
    for segno in 3..=7 {
        whole.forge.write(&bench.live(), [segno]);
        assert!(bench.log.advance().unwrap().changed);
    }
    bench.forge = whole.forge.clone();
    bench.whole();
    bench.restart();
    bench.whole();
}

#[test]
fn every_state_a_crash_leaves_is_mended() {
    let states: [(&str, Spoil); 6] = [
        ("a temporary file", |bench| {
            fs::write(bench.segments().join(format!(".{}.zst.tmp", bench.forge.name(4))), "torn").unwrap();
        }),
        ("packed, not indexed", |bench| {
            fs::write(bench.segments().join(format!("{}.zst", bench.forge.name(3))), "from before").unwrap();
        }),
        ("indexed, not removed", |bench| {
            bench.log.advance().unwrap();
            bench.forge.write(&bench.live(), 3..=5);
        }),
        ("a torn entry", |bench| {
            bench.log.advance().unwrap();
            let bytes = fs::read(bench.index()).unwrap();
            fs::write(bench.index(), &bytes[..2 * 96 + 17]).unwrap();
            fs::remove_file(bench.segments().join(format!("{}.zst", bench.forge.name(6)))).unwrap();
            bench.forge.write(&bench.live(), 5..=6);
        }),
        ("no entry at all", |bench| {
            bench.log.advance().unwrap();
            fs::remove_file(bench.index()).unwrap();
            bench.forge.write(&bench.live(), 3..=6);
        }),
        ("no meta data", |bench| {
            bench.log.advance().unwrap();
            fs::remove_file(bench.live().with_file_name("meta.json")).unwrap();
        }),
    ];
    for (state, make) in states {
        let mut bench = Bench::filled();
        make(&bench);
        bench.restart();
        bench.log.advance().unwrap_or_else(|error| panic!("{state}: {error:?}"));
        bench.whole();
    }
}

#[test]
fn a_record_over_the_end_of_a_segment_holds_it_back() {
    let mut bench = Bench::new();
    bench.forge.fill_to(4, &mut bench.second);
    let border = bench.forge.records.last().unwrap().1;
    let room = usize::try_from(bench.forge.size.start(5).0 - border.0).unwrap();
    let (start, end) = bench.forge.commit(at(500), room);
    bench.forge.commit(at(501), 0);
    // Segment 4 is complete; of segment 5 nothing has come.
    bench.forge.write(&bench.live(), 3..=4);
    assert_eq!(bench.log.advance().unwrap().end, border);
    assert_eq!(Bench::names(&bench.segments()).len(), 1);
    assert_eq!(Bench::names(&bench.live()).len(), 1, "{:?}", Bench::names(&bench.live()));
    bench.forge.write(&bench.live(), [5]);
    assert_eq!(bench.log.advance().unwrap().end, bench.forge.end());
    assert_eq!(Bench::names(&bench.segments()).len(), 2);
    for _ in 0..2 {
        let found = bench.log.locate(1, &bench.from(), Want::Time(at(500))).unwrap().unwrap();
        assert_eq!((found.lsn, found.time), (start, Some(at(500))));
        bench.restart();
    }
    // Brought in to its end, in the next segment; and no further.
    let into = tempfile::tempdir().unwrap();
    let to = Point { lsn: start, ..bench.from() };
    bench.log.bring(1, bench.from().lsn, &to, into.path(), None).unwrap();
    let last = fs::read(into.path().join(bench.forge.name(5))).unwrap();
    let cut = usize::try_from(end.0 - bench.forge.size.start(5).0).unwrap();
    assert!(last[..cut] == bench.forge.segment(5)[..cut] && last[cut..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_a_tree_received_whole_stays_and_the_rest_is_brought() {
    let bench = Bench::filled();
    bench.log.advance().unwrap();
    let to = bench.log.locate(1, &bench.from(), Want::End).unwrap().unwrap();
    let tree = tempfile::tempdir().unwrap();
    let path = |segno| tree.path().join(bench.forge.name(segno));
    // The tree's server was in the midst of 5, and had made 6 ready.
    bench.forge.write(tree.path(), 3..=5);
    let half = bench.forge.segment(5).len() / 2;
    let begun = [&bench.forge.segment(5)[..half], &vec![0; half][..]].concat();
    fs::write(path(5), begun).unwrap();
    fs::write(path(6), vec![0; half * 2]).unwrap();
    let kept = fs::metadata(path(4)).unwrap().ino();
    let bytes = bench.log.bring(1, bench.from().lsn, &to, tree.path(), None).unwrap();
    for segno in 3..=7 {
        assert!(fs::read(path(segno)).unwrap() == bench.forge.segment(segno), "{segno}");
    }
    assert_eq!(fs::metadata(path(4)).unwrap().ino(), kept);
    assert!(bytes < 3 * bench.forge.size.bytes(), "{bytes}");
    // One that is cut short, or belongs to another place, is none.
    fs::write(path(3), "short").unwrap();
    fs::copy(path(6), path(4)).unwrap();
    bench.log.bring(1, bench.from().lsn, &to, tree.path(), None).unwrap();
    for segno in 3..=7 {
        assert!(fs::read(path(segno)).unwrap() == bench.forge.segment(segno), "{segno}");
    }
}

#[test]
fn t13_no_second_inside_a_gap_is_offered() {
    let mut bench = Bench::filled();
    fs::remove_file(bench.live().join(bench.forge.name(5))).unwrap();
    for _ in 0..2 {
        let end = bench.log.advance().unwrap().end;
        assert_eq!(end, bench.forge.end());
        let stretches = bench.log.stretches().unwrap();
        assert_eq!(stretches.len(), 2);
        let through = stretches[0].through.unwrap();
        let before = through - jiff::SignedDuration::from_secs(1);
        let find = |time| bench.log.locate(1, &bench.from(), Want::Time(time)).unwrap();
        assert!(find(before).is_some_and(|point| point.time == Some(before)));
        assert_eq!(find(through), None);
        assert_eq!(find(at(10_000)), None);
        let behind = Point { lsn: stretches[1].first, ..bench.from() };
        assert!(bench.log.locate(1, &behind, Want::Time(at(10_000))).unwrap().is_some());
        let inside = Point { lsn: bench.forge.size.start(5), ..bench.from() };
        assert_eq!(bench.log.locate(1, &inside, Want::End).unwrap(), None);
        bench.restart();
    }
}

/// After a failed sync the kernel may have dropped what it could not write, and the next sync succeeds all the same.
#[test]
fn a_failed_sync_is_no_success_until_what_it_covered_was_written_anew() {
    let mut bench = Bench::filled();
    bench.log.advance().unwrap();
    let partial = bench.live().join(format!("{}.partial", bench.forge.name(7)));
    let mark = bench.live().with_file_name("unsynced");
    let before = fs::read(&partial).unwrap();
    bench.forge.commit(at(10_001), 0);
    bench.forge.write(&bench.live(), [7]);
    bench.log.sync_by(1, |_| Err(std::io::Error::from_raw_os_error(5)));
    for _ in 0..2 {
        bench.log.advance().unwrap_err();
        bench.log.stretches().unwrap_err();
    }
    // The disk is well again, but what it was told meanwhile is gone.
    bench.log.sync_by(1, std::fs::File::sync_data);
    let whole = fs::read(&partial).unwrap();
    fs::write(&partial, &before).unwrap();
    bench.log.advance().unwrap_err();
    bench.log.stretches().unwrap_err();
    assert!(mark.exists());
    // It is still there: written anew, synced, shown. The next daemon knows of it, too.
    fs::write(&partial, &whole).unwrap();
    bench.restart();
    assert_eq!(bench.log.advance().unwrap().last_commit, Some(at(10_001)));
    assert!(fs::read(&partial).unwrap() == whole && !mark.exists());
    assert_eq!(bench.log.stretches().unwrap()[0].through, Some(at(10_001)));
}

#[test]
fn t26_damage_ends_the_log_and_what_lies_before_it_stays() {
    let mut bench = Bench::filled();
    let mut bytes = bench.forge.segment(5);
    bytes[500_000] ^= 1;
    fs::write(bench.live().join(bench.forge.name(5)), bytes).unwrap();
    for _ in 0..2 {
        let error = bench.log.advance().unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(&bench.forge.name(5)), "{error}");
        assert_eq!(Bench::names(&bench.segments()).len(), 2);
        assert_eq!(bench.log.locate(1, &bench.from(), Want::Time(at(20))).unwrap().unwrap().time, Some(at(20)));
        bench.restart();
    }
}

#[test]
fn t06_a_new_timeline_hides_nothing_until_it_has_caught_up() {
    let mut bench = Bench::new();
    bench.forge.fill_to(4, &mut bench.second);
    bench.forge.commit(at(600), 0);
    let switch = bench.forge.end();
    let mut child = bench.forge.fork(2);
    // What production's lost half wrote behind the switch.
    bench.forge.commit(at(700), 0);
    bench.forge.write(&bench.live(), 3..=4);
    let lost = bench.log.advance().unwrap();
    assert_eq!((lost.timeline, lost.last_commit), (1, Some(at(700))));
    fs::write(bench.live().join("00000002.history"), format!("1\t{switch}\tno recovery target specified\n")).unwrap();
    fs::write(bench.live().join(format!("{}.partial", child.name(4))), vec![0; 1 << 20]).unwrap();
    let find = |bench: &Bench, time| bench.log.locate(1, &bench.from(), Want::Time(time)).unwrap().unwrap();
    assert_eq!(bench.log.advance().unwrap().last_commit, Some(at(700)));
    assert_eq!(find(&bench, at(650)).time, Some(at(600)));
    child.put(0, 0x90, &[0; 16], None);
    child.commit(at(800), 0);
    child.write(&bench.live(), [4]);
    for _ in 0..2 {
        let progress = bench.log.advance().unwrap();
        assert_eq!((progress.timeline, progress.last_commit, progress.end), (2, Some(at(800)), child.end()));
        let (old, new) = (find(&bench, at(750)), find(&bench, at(900)));
        assert_eq!((old.timeline, old.time, new.timeline, new.time), (1, Some(at(600)), 2, Some(at(800))));
        // A snapshot of the lost half still finds its own way.
        let lost_from = Point { lsn: lost.end, ..bench.from() };
        assert_eq!(bench.log.locate(1, &lost_from, Want::End).unwrap().unwrap().time, Some(at(700)));
        // Files of a tree's own other timelines, and later ones, give way.
        let into = tempfile::tempdir().unwrap();
        for stray in [child.name(4), bench.forge.name(9), format!("{}.partial", bench.forge.name(3))] {
            fs::write(into.path().join(stray), "stray").unwrap();
        }
        bench.log.bring(1, bench.from().lsn, &old, into.path(), None).unwrap();
        assert_eq!(Bench::names(into.path()), [bench.forge.name(3), bench.forge.name(4)]);
        bench.log.bring(1, bench.from().lsn, &new, into.path(), None).unwrap();
        assert_eq!(Bench::names(into.path()), [bench.forge.name(3), "00000002.history".into(), child.name(4)]);
        bench.restart();
    }
    // The old timeline's rest is out of the way of FindStreamingStart.
    assert!(!bench.live().join(format!("{}.partial", bench.forge.name(4))).exists());
    let missing = bench.log.bring(1, Lsn(0), &bench.from(), bench.dir.path(), None).unwrap_err();
    assert!(missing.to_string().contains("is not in the log"), "{missing}");
}
