//! SIGKILL in the middle of what replaces or removes: rewind, undo, rm, unlink. At named places, where it is
//! known which way recovery must go, and at places that a seed has drawn, where either is right but nothing
//! between.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_testkit::Seed;

use crate::crashes::{arm, struck};
use crate::stand::{Copy, Stand, sql_at};

const COUNT: &str = "SELECT count(*) FROM mark";

/// A recording clone with three rows at a moment, and five now.
fn recording(stand: &Stand) -> (Copy, Timestamp) {
    let copy = stand.copy_with("shop", "dev", &["--record"]);
    copy.sql("INSERT INTO mark SELECT generate_series(1, 3)");
    std::thread::sleep(Duration::from_millis(50));
    let moment = Timestamp::now();
    std::thread::sleep(Duration::from_millis(50));
    copy.sql("INSERT INTO mark SELECT generate_series(4, 5)");
    (copy, moment)
}

/// Runs a line and kills the daemon after a while; however that ends, there is a daemon afterwards.
fn killed_after(stand: &mut Stand, line: &[&str], delay: Duration) {
    std::thread::scope(|scope| {
        let daemon = &stand.daemon;
        let running = scope.spawn(move || daemon.pando(line));
        std::thread::sleep(delay);
        daemon.strike();
        let _ = running.join();
    });
    stand.daemon.kill9();
    stand.daemon.resume();
}

#[test]
fn kill_9_in_the_middle_of_a_rewind_or_an_undo_the_clone_has_one_state_or_the_other() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "60s"]);
    let (copy, moment) = recording(&stand);
    let (url, target) = (copy.url().to_owned(), format!("dev@{moment}"));
    for (point, shown) in [("volume.after", "5"), ("stop.marked", "5"), ("swap.named", "5"), ("clear.before", "3")] {
        let point = format!("refresh.{point}");
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["rewind", &target]).status.success());
        struck(&mut stand, &point);
        assert_eq!(stand.show("dev").0["state"], "running", "{point}");
        let found = sql_at(&url, COUNT).unwrap_or_else(|error| panic!("{point}: {error}\n{}", stand.daemon.log()));
        assert_eq!(found, shown, "{point}");
        stand.nothing_strange();
    }
    // It has three now, and five is what `undo` brings back.
    for (point, shown) in [("stop.after", "3"), ("start.after", "3"), ("swap.after", "3"), ("clear.before", "5")] {
        let point = format!("refresh.{point}");
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["undo", "dev"]).status.success());
        struck(&mut stand, &point);
        let view = stand.show("dev").0;
        assert_eq!(view["state"], "running", "undo, {point}: {view}\n{}", stand.daemon.log());
        assert_eq!(sql_at(&url, COUNT).unwrap(), shown, "undo, {point}");
        stand.nothing_strange();
    }
    stand.json(&["undo", "dev"]);
    assert_eq!(sql_at(&url, COUNT).unwrap(), "3");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn kill_9_in_the_middle_of_rm_or_unlink_it_is_all_there_or_all_gone() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link_both(&["--snapshot-every", "60s"]);
    for (point, there) in
        [("mark.after", true), ("stop.before", false), ("destroy.volumes", false), ("forget.before", false)]
    {
        if stand.daemon.pando(&["show", "dev"]).status.code() == Some(3) {
            stand.copy_with("shop", "dev", &["--record"]);
        }
        let point = format!("rm.{point}");
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["rm", "dev"]).status.success());
        struck(&mut stand, &point);
        if there {
            assert_eq!(stand.show("dev").sql(COUNT), "0", "{point}");
        } else {
            stand.fails(3, &["show", "dev"]);
            assert!(!stand.daemon.home().join("clones/dev").exists(), "{point}");
        }
        stand.nothing_strange();
    }
    for (point, there) in
        [("mark.after", true), ("stop.before", false), ("destroy.volume", false), ("forget.before", false)]
    {
        if stand.daemon.pando(&["show", "shop"]).status.code() == Some(3) {
            stand.link_both(&["--snapshot-every", "60s"]);
        }
        let point = format!("unlink.{point}");
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["unlink", "shop"]).status.success());
        struck(&mut stand, &point);
        if there {
            stand.wait_state("following", 20);
            stand.copy("shop", "dev");
            stand.json(&["rm", "dev"]);
        } else {
            stand.nothing_left();
        }
    }
    stand.end(&[]);
}

#[test]
fn kill_9_at_any_time_of_a_rewind_an_undo_an_rm_or_an_unlink_leaves_one_state_or_the_other() {
    let Some(mut stand) = Stand::new() else { return };
    let mut seed = Seed::from_env("PANDO_SEED", 20_261_121);
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "60s"]);
    let (copy, moment) = recording(&stand);
    let (url, target) = (copy.url().to_owned(), format!("dev@{moment}"));
    // How long it takes when nobody disturbs it, so that the blows fall all over it.
    let begun = Instant::now();
    stand.json(&["rewind", &target]);
    let whole = begun.elapsed();
    for line in [["rewind", target.as_str()], ["undo", "dev"], ["rewind", target.as_str()], ["undo", "dev"]] {
        killed_after(&mut stand, &line, whole.mul_f64(seed.fraction()));
        assert_eq!(stand.show("dev").0["state"], "running", "{line:?}, {seed}");
        let shown = sql_at(&url, COUNT).unwrap();
        assert!(["3", "5"].contains(&shown.as_str()), "{line:?}: {shown}, {seed}");
        stand.nothing_strange();
    }
    for round in 0..3 {
        let name = format!("gone{round}");
        let copy = stand.copy("shop", &name);
        killed_after(&mut stand, &["rm", &name], Duration::from_millis(seed.below(150)));
        match stand.daemon.pando(&["show", &name]).status.code() {
            Some(0) => assert_eq!(copy.sql(COUNT), "0", "{seed}"),
            code => assert_eq!(code, Some(3), "{seed}"),
        }
        stand.nothing_strange();
    }
    for name in ["dev", "gone0", "gone1", "gone2"] {
        stand.daemon.pando(&["rm", name]);
    }
    for _ in 0..3 {
        killed_after(&mut stand, &["unlink", "shop"], Duration::from_millis(seed.below(400)));
        stand.nothing_strange();
        if stand.daemon.pando(&["show", "shop"]).status.success() {
            stand.wait_state("following", 20);
        } else {
            stand.nothing_left();
            stand.link(&[]);
        }
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
