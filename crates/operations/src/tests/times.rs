//! Moments: what each second of a simulated production shows, and which seconds are refused.
//!
//! ```text
//! 10:00:00 linked (0)   :10 commits 1   :21 commits 2, snapshot at :22   :33 commits 3   10:01:34 last heard of
//! then production's log is lost; 50 is committed in the gap; a new first copy at 10:03:14
//! ```

use jiff::Timestamp;
use pando_engine::Link;
use pando_model::{AppState, ErrorKind, Moment, Problem, RangeView, SnapshotId};

use super::agree::complaints;
use super::kit::{Kit, go, name, request, shop, time};
use crate::fault::Fault;
use crate::follow::look_after_clones;
use crate::journal::run_now;
use crate::moments::{self, Plan};
use crate::verbs::prepare::Prepare;
use crate::verbs::{clone, link};

fn before_the_gap(files: bool) -> Kit {
    let kit = Kit::new();
    kit.link(files);
    kit.commit(2);
    kit.snapshot("shop");
    kit.commit(3);
    kit.clock.advance(time("2026-11-21T10:01:34Z").duration_since(kit.world.now()));
    kit.pulse();
    kit
}

fn with_gap() -> Kit {
    let kit = before_the_gap(false);
    kit.engine.set_link(Link::Lost("the log is gone".to_owned()));
    kit.pass(50);
    kit.engine.commit(50);
    kit.pass(50);
    kit.pulse();
    kit.engine.set_link(Link::Following);
    kit.keep();
    assert_eq!(kit.app("shop").state, AppState::Following);
    kit.pass(10);
    kit.pulse();
    kit
}

fn at(clock: &str) -> Timestamp {
    time(&format!("2026-11-21T{clock}Z"))
}

fn resolve(kit: &Kit, moment: &Moment) -> Result<Plan, Problem> {
    moments::resolve(&kit.run(), &kit.owner("shop"), moment).map_err(Fault::into_problem)
}

/// What a clone of that second shows.
fn shown(kit: &Kit, clock: &str) -> String {
    let clone = format!("c{}", clock.replace([':', '.'], ""));
    let asked = at(clock).to_string();
    let wanted = request("shop", Some(&asked), &clone);
    go(&kit.world, &[&clone], |world| clone::Clone::new(world, wanted)).unwrap();
    assert_eq!(kit.there(&clone).moment, at(clock));
    kit.state_of(&clone)
}

fn refusal(kit: &Kit, clock: &str) -> String {
    let problem = resolve(kit, &Moment::At(at(clock))).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    problem.hint.unwrap()
}

#[test]
fn every_second_of_a_timeline_shows_the_last_commit_before_it() {
    let kit = with_gap();
    for (clock, value) in [
        ("10:00:00", "0"),   // the first
        ("10:00:09", "0"),   // the last before a commit
        ("10:00:10", "1"),   // the commit's own
        ("10:00:15.5", "1"), // between two snapshots
        ("10:00:21", "2"),   // before the snapshot that is nearest
        ("10:00:22", "2"),   // the snapshot's own
        ("10:00:33", "3"),   // behind it
        ("10:01:00", "3"),   // nothing was committed for long
        ("10:01:34", "3"),   // the end of a range
        ("10:03:14", "50"),  // the beginning of the next
        ("10:03:24", "50"),  // now
    ] {
        assert_eq!(shown(&kit, clock), value, "{clock}");
    }
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn ranges_are_what_can_be_asked_for() {
    let kit = with_gap();
    let range = |from: &str, to: &str| RangeView { from: at(from), to: at(to) };
    let found = moments::ranges(&kit.world, &kit.owner("shop")).unwrap();
    let expected = [range("10:00:00", "10:01:34"), range("10:03:14", "10:03:24")];
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

#[test]
fn what_cannot_be_served_is_refused_with_the_nearest_that_can() {
    let kit = with_gap();
    for (clock, hint) in [
        ("09:59:59", "the first moment that can be served is 2026-11-21T10:00:00Z"),
        ("10:01:35", "the nearest moments that can be served are 2026-11-21T10:01:34Z and 2026-11-21T10:03:14Z"),
        ("10:03:13", "the nearest moments that can be served are 2026-11-21T10:01:34Z and 2026-11-21T10:03:14Z"),
        ("10:03:25", "the last moment that can be served is 2026-11-21T10:03:24Z"),
        ("11:00:00", "the last moment that can be served is 2026-11-21T10:03:24Z"),
    ] {
        assert_eq!(refusal(&kit, clock), hint, "{clock}");
    }
}

#[test]
fn while_production_is_away_only_what_was_received_is_served() {
    let kit = before_the_gap(false);
    kit.engine.set_link(Link::Disconnected("no route".to_owned()));
    kit.pass(60);
    kit.pulse();
    assert_eq!(shown(&kit, "10:01:34"), "3");
    assert_eq!(refusal(&kit, "10:02:00"), "the last moment that can be served is 2026-11-21T10:01:34Z");
    let problem = resolve(&kit, &Moment::Now).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    assert!(resolve(&kit, &Moment::Latest).is_ok());
}

#[test]
fn a_clones_own_files_are_those_that_it_had_by_then() {
    let kit = Kit::new();
    let mut files = shop(true);
    files.sources.remove(0);
    go(&kit.world, &["shop"], |world| link::Link::new(world, files)).unwrap();
    kit.make_clone("shop", "dev", true);
    kit.pass(9);
    kit.snapshot("dev");
    kit.pass(20);
    let skew = |clock: &str| {
        let plan = moments::resolve(&kit.run(), &kit.owner("dev"), &Moment::At(at(clock))).unwrap();
        plan.sources[&name("files")].skew.unwrap()
    };
    // The snapshots are of :00 and of :09.
    assert_eq!((skew("10:00:08"), skew("10:00:09"), skew("10:00:29")), (-8.0, 0.0, -20.0));
    assert_eq!(skew("09:59:58"), 2.0, "there is none before");
    assert_eq!(kit.snapshots("dev").len(), 2, "one of now would lack what was removed");
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn what_a_clone_has_named_needs_no_log_and_a_mirrors_snapshot_does() {
    let kit = before_the_gap(false);
    kit.make_clone("shop", "dev", true);
    kit.bookmark("dev", "then", None);
    kit.snapshot("shop");
    for of in ["dev", "shop"] {
        let mut newest = kit.snapshots(of).pop().unwrap();
        // As after a time: it would be rolled forward by a log that was trimmed.
        let mark = &mut newest.sources.get_mut(&name("db")).unwrap().mark;
        (mark["rolls"], mark["from"]["epoch"]) = (true.into(), 77.into());
        kit.world.catalog.note(&newest).unwrap();
    }
    let kept = kit.snapshots("dev").pop().unwrap();
    let plan = moments::resolve(&kit.run(), &kit.owner("dev"), &Moment::Bookmark(name("then"))).unwrap();
    let db = &plan.sources[&name("db")];
    assert_eq!((plan.snapshot, &db.tree, db.to.is_none()), (Some(kept.id), &kept.sources[&name("db")].tree, true));
    let lost = kit.snapshots("shop").pop().unwrap();
    let problem = resolve(&kit, &Moment::Snapshot(lost.id)).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    assert!(problem.message.contains("is not kept any more"), "{problem}");
}

#[test]
fn other_words_for_moments() {
    let kit = before_the_gap(false);
    let newest = kit.snapshots("shop").pop().unwrap();
    let ago = Moment::Ago(jiff::SignedDuration::from_secs(60));
    assert_eq!(resolve(&kit, &ago).unwrap().moment, at("10:00:34"));
    assert_eq!(resolve(&kit, &Moment::Now).unwrap().moment, at("10:01:34"));
    assert_eq!(resolve(&kit, &Moment::Snapshot(newest.id.clone())).unwrap().moment, newest.moment);
    // Only the first snapshot is prepared: it starts at once.
    assert_eq!(resolve(&kit, &Moment::Latest).unwrap().moment, at("10:00:00"));
    kit.keep();
    assert_eq!(resolve(&kit, &Moment::Latest).unwrap().snapshot, kit.snapshots("shop").pop().map(|one| one.id));
    let second = resolve(&kit, &"lsn:0/2".parse().unwrap()).unwrap();
    assert_eq!(second.moment, at("10:00:21"));
    for word in ["lsn:0/99", "gtid:0-1-2"] {
        assert_eq!(resolve(&kit, &word.parse().unwrap()).unwrap_err().kind, ErrorKind::Refused, "{word}");
    }
    for word in ["nothing", "snap-0123456789abcdef"] {
        assert_eq!(resolve(&kit, &word.parse().unwrap()).unwrap_err().kind, ErrorKind::NotFound, "{word}");
    }
}

#[test]
fn the_latest_of_a_recording_clone_is_its_newest_snapshot_though_a_bookmark_has_prepared_an_older_one() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", true);
    let dev = || kit.owner("dev");
    let first = Moment::Snapshot(kit.snapshots("dev").remove(0).id);
    let plan = moments::resolve(&kit.run(), &dev(), &first).unwrap();
    let (millis, random) = kit.world.id();
    let id = SnapshotId::from_parts(millis, random);
    // What a bookmark of a moment between snapshots makes.
    run_now(&kit.world, Prepare::new(&kit.world, &dev(), plan, id).unwrap()).unwrap();
    kit.pass(60);
    kit.snapshot("dev");
    let newest = || kit.snapshots("dev").pop().map(|one| one.id);
    assert_eq!(moments::resolve(&kit.run(), &dev(), &Moment::Latest).unwrap().snapshot, newest());
    // No bookmark pins it any more: it goes when it is old.
    kit.pass(100 * 86_400);
    kit.snapshot("dev");
    look_after_clones(&kit.world);
    assert_eq!(kit.snapshots("dev").len(), 1);
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn files_are_taken_from_the_moment_or_after_it_and_the_skew_is_said() {
    let kit = before_the_gap(true);
    let skew = |plan: &Plan, source: &str| plan.sources[&name(source)].skew.unwrap();
    // There is a later state of the files: that of the snapshot at :22.
    let plan = resolve(&kit, &Moment::At(at("10:00:15"))).unwrap();
    assert_eq!((skew(&plan, "db"), skew(&plan, "files")), (0.0, 7.0));
    assert_ne!(plan.sources[&name("db")].tree, plan.sources[&name("files")].tree);
    // There is none: they are synced now.
    let count = kit.snapshots("shop").len();
    let plan = resolve(&kit, &Moment::At(at("10:01:00"))).unwrap();
    assert_eq!((skew(&plan, "db"), skew(&plan, "files"), kit.snapshots("shop").len()), (0.0, 34.0, count + 1));
    // They cannot be synced: the last state.
    kit.pass(60);
    kit.pulse();
    kit.runtime.fail_next("run_once");
    let plan = resolve(&kit, &Moment::At(at("10:02:00"))).unwrap();
    assert_eq!((skew(&plan, "db"), skew(&plan, "files")), (0.0, -26.0));
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn the_latest_is_what_was_taken_last_also_where_productions_clock_was_set_back() {
    let kit = Kit::new();
    kit.link(false);
    kit.commit(2);
    kit.snapshot("shop");
    kit.keep();
    // Production's clock was ahead by then: its moments lie behind those to come.
    for mut record in kit.snapshots("shop") {
        record.moment += jiff::SignedDuration::from_secs(300);
        kit.world.catalog.note(&record).unwrap();
    }
    kit.commit(3);
    kit.snapshot("shop");
    kit.keep();
    let last = |kit: &Kit| kit.snapshots("shop").into_iter().max_by_key(|one| one.taken_at).unwrap();
    assert!(last(&kit).prepared.is_some() && last(&kit).moment < kit.snapshots("shop").pop().unwrap().moment);
    assert_eq!(resolve(&kit, &Moment::Latest).unwrap().snapshot, Some(last(&kit).id));
    kit.make_clone("shop", "dev", false);
    assert_eq!(kit.state_of("dev"), "3");
    // What a bookmark makes of an older moment is not taken last.
    let taken = last(&kit).id;
    kit.bookmark("shop", "then", Some("2026-11-21T10:00:12Z"));
    assert_ne!(last(&kit).id, taken);
    assert_eq!(resolve(&kit, &Moment::Latest).unwrap().snapshot, Some(taken));
    kit.pass(1);
    kit.keep();
    assert_eq!(complaints(&kit), Vec::<String>::new());
}
