//! Production restarts, crashes, fails over, is cut off, or has dropped what the mirror needed.

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pando_testkit::{Production, RedisProduction, wait_until};

use crate::any_second::{Oracle, ROWS, row, table};
use crate::proxy::Proxy;
use crate::stand::{PANDO, Stand, bounded, sql_at, with};

/// Commits some rows, and answers a moment in the middle of them.
fn some(oracle: &mut Oracle, production: &Production) -> Timestamp {
    let mut client = production.client("postgres");
    let mut middle = Timestamp::now();
    for number in 0..16 {
        oracle.commit(&mut client, row);
        sleep(Duration::from_millis(60));
        if number == 8 {
            middle = Timestamp::now();
            sleep(Duration::from_millis(60));
        }
    }
    middle
}

/// Waits until a clone of this very moment holds all rows.
fn caught_up(stand: &Stand, oracle: &Oracle, name: &str) {
    let up = || stand.daemon.pando(&["clone", "shop@now", name]).status.success();
    assert!(wait_until(Duration::from_secs(60), up), "{}\n{}", stand.events(), stand.daemon.log());
    oracle.check(Timestamp::now(), &stand.show(name).sql(ROWS));
    stand.json(&["rm", name]);
    stand.wait_state("following", 30);
}

#[test]
fn t06_t13_a_restart_a_crash_a_cut_line_and_a_failover_both_timelines_are_right() {
    let Some(mut stand) = Stand::of(bounded()) else { return };
    table(&stand.production);
    let proxy = Proxy::new(stand.production.port());
    stand.json(&["link", "shop", &proxy.url(), "--snapshot-every", "3s"]);
    let mut oracle = Oracle::default();
    let mut moments = vec![some(&mut oracle, &stand.production)];

    stand.production.restart();
    moments.push(some(&mut oracle, &stand.production));
    stand.production.kill();
    stand.production.resume();
    moments.push(some(&mut oracle, &stand.production));
    caught_up(&stand, &oracle, "after-crash");

    // It says good-bye and goes, but nobody hangs up.
    proxy.keep_lines(true);
    stand.production.restart();
    moments.push(some(&mut oracle, &stand.production));
    caught_up(&stand, &oracle, "after-silence");
    assert!(stand.events().contains("nothing came on it"), "{}", stand.events());
    proxy.keep_lines(false);

    // Cut off under load; production is told nothing, and goes on.
    proxy.cut();
    for _ in 0..8 {
        moments.push(some(&mut oracle, &stand.production));
    }
    stand.wait_state("disconnected", 30);
    let said = stand.fails(1, &["clone", "shop@now", "blind"]);
    assert!(said.contains("production's present state cannot be reached"), "{said}");
    assert!(said.contains("hint: `pando show shop` says why"), "{said}");
    stand.copy("shop", "meanwhile");
    stand.json(&["rm", "meanwhile"]);
    proxy.lead_to(stand.production.port());
    caught_up(&stand, &oracle, "after-cut");

    // A failover: the address moves to a promoted standby.
    let second = stand.production.standby(bounded());
    moments.push(some(&mut oracle, &stand.production));
    let end = stand.production.psql("SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    assert!(wait_until(Duration::from_secs(20), || second.psql(&replayed) == "t"));
    stand.production.stop();
    second.promote();
    proxy.lead_to(second.port());
    moments.push(some(&mut oracle, &second));
    caught_up(&stand, &oracle, "after-failover");
    moments.push(some(&mut oracle, &second));
    caught_up(&stand, &oracle, "later");

    let copy = stand.copy("shop", "past");
    for moment in [0, 1, 2, 5, 8, 11, 12, 13].map(|index| moments[index]) {
        stand.json(&["refresh", &format!("past@{moment}")]);
        oracle.check(moment, &copy.sql(ROWS));
    }
    let ranges = stand.json(&["timeline", "shop"])["ranges"].clone();
    assert_eq!(ranges.as_array().unwrap().len(), 1, "nothing was lost, so there is no gap: {ranges}");
    stand.json(&["rm", "past"]);
    stand.json(&["unlink", "shop"]);
    let slots = second.psql("SELECT slot_name FROM pg_replication_slots");
    assert_eq!(slots, "");
    stand.end(&[]);
}

#[test]
fn t11_production_raises_max_connections_and_the_mirror_follows() {
    let Some(mut stand) = Stand::new() else { return };
    table(&stand.production);
    stand.link(&["--snapshot-every", "3s"]);
    let mut oracle = Oracle::default();
    let before = some(&mut oracle, &stand.production);
    stand.production.psql("ALTER SYSTEM SET max_connections = 250");
    stand.production.psql("ALTER SYSTEM SET max_worker_processes = 20");
    stand.production.restart();
    let after = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "raised");
    for (moment, name) in [(before, "before"), (after, "after")] {
        oracle.check(moment, &stand.copy(&format!("shop@{moment}"), name).sql(ROWS));
    }
    stand.end(&[]);
}

/// Kills the daemon and everything it runs.
fn blackout(stand: &mut Stand) {
    stand.daemon.kill9();
    stand.daemon.kill_units();
}

#[test]
fn t12_t13_a_lost_slot_makes_a_gap_that_is_shown_and_never_offered() {
    let mut options = with(&["max_slot_wal_keep_size = '2MB'", "max_wal_size = '4MB'", "min_wal_size = '2MB'"]);
    options.initdb = vec!["--wal-segsize=1".into()];
    let Some(mut stand) = Stand::of(options) else { return };
    table(&stand.production);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let before = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "before-gap");

    blackout(&mut stand);
    let lost = || {
        stand
            .production
            .psql("CREATE TABLE IF NOT EXISTS big AS SELECT repeat('x', 800) FROM generate_series(1, 20000)");
        stand.production.psql("DROP TABLE big");
        stand.production.psql("CHECKPOINT");
        stand.production.psql("SELECT wal_status FROM pg_replication_slots") == "lost"
    };
    assert!(wait_until(Duration::from_secs(60), lost), "{}", stand.production.log());
    let within = some(&mut oracle, &stand.production);
    stand.production.psql("SELECT pg_switch_wal()");
    sleep(Duration::from_secs(1));
    stand.daemon.resume();
    let ranges = || stand.json(&["timeline", "shop"])["ranges"].as_array().unwrap().clone();
    assert!(wait_until(Duration::from_secs(60), || ranges().len() == 2), "{:?}\n{}", ranges(), stand.daemon.log());
    let after = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "after-gap");

    let ranges = ranges();
    let at = |range: usize, side: &str| ranges[range][side].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(at(0, "from") < before && before < at(0, "to") && at(0, "to") < within, "{ranges:?}");
    assert!(within < at(1, "from") && at(1, "from") < after, "{ranges:?}");
    for (moment, name) in [(before, "old"), (after, "new")] {
        oracle.check(moment, &stand.copy(&format!("shop@{moment}"), name).sql(ROWS));
    }
    // Refused, with a neighbour on either side; both work.
    let refused = stand.fails(4, &["clone", &format!("shop@{within}"), "never"]);
    let named = refused.split_once("can be served are ").unwrap().1.lines().next().unwrap();
    let (left, right) = named.split_once(" and ").unwrap();
    for (moment, name) in [(left, "left"), (right, "right")] {
        let copy = stand.copy(&format!("shop@{moment}"), name);
        oracle.check(moment.parse().unwrap(), &copy.sql(ROWS));
    }
    let close = at(1, "from") - SignedDuration::from_millis(1);
    stand.fails(4, &["clone", &format!("shop@{close}"), "never"]);
    assert!(stand.events().contains("mirror-rebased"));
    stand.end(&[]);
}

#[test]
fn t09_a_tablespace_made_on_production_stops_the_mirror_and_touches_nothing() {
    let Some(stand) = Stand::of(bounded()) else { return };
    table(&stand.production);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let before = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "before");

    // Where the mirror, on the same machine, would find the same directory.
    let place = stand.production.sockets().join("tablespace");
    stand.production.psql(&format!("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; mkdir {}'", place.display()));
    stand.production.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    stand.production.psql("CREATE TABLE far (n int) TABLESPACE fast");
    stand.production.psql("INSERT INTO far VALUES (7)");
    let problem = || stand.json(&["show", "shop"])["problem"].as_str().unwrap_or_default().to_owned();
    assert!(wait_until(Duration::from_secs(60), || problem().contains("tablespace")), "{}", stand.events());
    oracle.check(before, &stand.copy(&format!("shop@{before}"), "older").sql(ROWS));
    assert_eq!(stand.production.psql("SELECT n FROM far"), "7");
    // It is tried again, later each time, and told once.
    let tries = || {
        let ops = stand.json(&["ops"]);
        ops.as_array().unwrap().iter().filter(|one| one["verb"] == "rebase" && one["state"] == "failed").count()
    };
    assert!(wait_until(Duration::from_secs(60), || tries() == 3), "{}", stand.daemon.log());
    assert!(
        problem().contains("could not be made: ") && problem().contains("; it is tried again at 20"),
        "{}",
        problem()
    );
    sleep(Duration::from_secs(6));
    assert_eq!(tries(), 3, "{}", stand.events());
    assert_eq!(stand.events().matches("rebase shop failed: ").count(), 1, "{}", stand.events());

    stand.production.psql("DROP TABLE far");
    stand.production.psql("DROP TABLESPACE fast");
    let after = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "after");
    let last = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "last");
    assert!(after < last);
    oracle.check(last, &stand.copy(&format!("shop@{last}"), "newer").sql(ROWS));
    // A clone cannot leave its volume either.
    let refused = sql_at(stand.show("newer").url(), &format!("CREATE TABLESPACE out LOCATION '{}'", place.display()));
    assert!(refused.is_err_and(|error| error.as_db_error().is_some()));
    stand.end(&["rebase", "tablespace"]);
}

#[test]
fn a_daemon_that_is_told_to_stop_does_not_wait_for_a_production_that_is_silent() {
    if !pando_testkit::tools::require("redis-server") {
        return;
    }
    let Some(mut stand) = Stand::new() else { return };
    let cache = RedisProduction::start(&[]);
    let (line, cached) = (Proxy::new(stand.production.port()), Proxy::new(cache.port()));
    let files = format!("files=file://{}", stand.files().display());
    let redis = format!("q={}", cache.url(0).replace(&cache.port().to_string(), &cached.port().to_string()));
    stand.json(&["link", "shop", &line.url(), &files]);
    stand.json(&["link", "cache", &redis]);
    stand.copy("shop", "dev");
    line.stall_after(1);
    cached.stall_after(1);
    let url = line.url();
    let asks: [&[&str]; 3] =
        [&["clone", "shop@now", "late"], &["clone", "cache@now", "later"], &["link", "other", &url]];
    let mut asking: Vec<Child> = asks
        .iter()
        .map(|ask| Command::new(PANDO).args(*ask).env("PANDO_HOME", stand.daemon.home()).spawn().unwrap())
        .collect();
    let running = |stand: &Stand| {
        let ops = stand.json(&["ops"]);
        let mut begun = ops.as_array().unwrap().iter().filter(|one| one["state"] == "running");
        begun.by_ref().filter(|one| one["verb"] == "clone" || one["verb"] == "link").count()
    };
    assert!(
        wait_until(Duration::from_secs(20), || running(&stand) == 3 && line.has_stalled()),
        "{}",
        stand.json(&["ops"])
    );
    sleep(Duration::from_secs(1));
    assert_eq!(running(&stand), 3, "they still wait");
    let begun = Instant::now();
    stand.daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}\n{}", begun.elapsed(), stand.daemon.log());
    for one in &mut asking {
        assert!(!one.wait().unwrap().success());
    }

    // Production is silent still; nothing of what was asked for is there.
    let begun = Instant::now();
    stand.daemon.resume();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}\n{}", begun.elapsed(), stand.daemon.log());
    let clones = stand.json(&["ls"])["clones"].clone();
    assert_eq!((running(&stand), clones.as_array().unwrap().len(), &clones[0]["name"]), (0, 1, &"dev".into()));
    stand.fails(3, &["show", "other"]);
    stand.nothing_strange();
    line.lead_to(stand.production.port());
    cached.lead_to(cache.port());
    stand.wait_state("following", 60);
    stand.copy("shop@now", "late");
    for clone in ["late", "dev"] {
        stand.json(&["rm", clone]);
    }
    stand.json(&["unlink", "cache"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// Production's password is changed: everybody is told why the mirror does not follow, and what to do; with the new one it
/// goes on where it stopped.
#[test]
fn a_changed_password_of_production_is_told_and_the_new_one_is_taken() {
    let Some(stand) = Stand::new() else { return };
    let production = &stand.production;
    table(production);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let before = some(&mut oracle, production);
    caught_up(&stand, &oracle, "before");
    let slot = production.psql("SELECT slot_name FROM pg_replication_slots");

    production.psql("ALTER ROLE boss PASSWORD 'rotated-1'");
    production.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
    let meanwhile = some(&mut oracle, production);
    stand.wait_state("disconnected", 30);
    // Whenever one looks, also between two questions to production.
    let refused = "password authentication failed for user";
    assert!(wait_until(Duration::from_secs(20), || stand.json(&["show", "shop"]).to_string().contains(refused)));
    for _ in 0..12 {
        let shown = stand.json(&["show", "shop"]);
        assert!(shown["problem"].as_str().unwrap().contains(refused), "{shown}");
        assert!(shown["hint"].as_str().unwrap().contains("pando apply"), "{shown}");
        sleep(Duration::from_millis(300));
    }
    let people = String::from_utf8(stand.daemon.pando(&["show", "shop"]).stdout).unwrap();
    assert!(people.contains(refused) && people.contains("pando apply FILE.toml"), "{people}");
    let doctor = stand.daemon.pando(&["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1), "something is to be done");
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let told = doctor["items"].as_array().unwrap().iter().find(|item| item["what"] == "mirrors").unwrap().clone();
    assert!(told["found"].as_str().unwrap().contains(refused), "{doctor}");
    assert!(told["level"] == "problem" && told["fix"].as_str().unwrap().contains("pando apply"), "{doctor}");
    // Somebody has taken the slot away, too.
    production.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");

    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("shop.toml");
    let url = production.url("postgres").replace("prod-secret", "${NEW}");
    assert!(url.contains("${NEW}"), "{url}");
    let text = |password: &str| {
        let url = url.replace("${NEW}", password);
        format!("app = \"shop\"\n[[sources]]\nname = \"db\"\nurl = \"{url}\"\n[policy]\nsnapshot_every_seconds = 2\n")
    };
    std::fs::write(&file, text("rotated-1")).unwrap();
    stand.json(&["apply", &file.display().to_string()]);
    stand.wait_state("following", 30);
    let shown = stand.json(&["show", "shop"]);
    assert!(shown["problem"].is_null() && shown["hint"].is_null(), "{shown}");
    assert_eq!(production.psql("SELECT slot_name FROM pg_replication_slots"), slot);
    let after = some(&mut oracle, production);
    caught_up(&stand, &oracle, "after");
    for (moment, name) in [(before, "one"), (meanwhile, "two"), (after, "three")] {
        oracle.check(moment, &stand.copy(&format!("shop@{moment}"), name).sql(ROWS));
    }
    assert_eq!(stand.json(&["timeline", "shop"])["ranges"].as_array().unwrap().len(), 1, "nothing was lost");
    stand.end(&[]);
}

/// What production is set to after it was linked is in clones once its file is applied again, from that moment on; the slot
/// that it did not allow before is made.
#[test]
fn what_production_has_changed_of_itself_is_learned_by_apply() {
    let Some(mut stand) = Stand::of(with(&["max_slot_wal_keep_size = -1", "TimeZone = 'UTC'"])) else { return };
    table(&stand.production);
    let linked = stand.link(&["--snapshot-every", "1h"]);
    assert!(linked.to_string().contains("does not bound replication slots"), "{linked}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE active";
    assert_eq!(stand.production.psql(slots), "0");
    let mut oracle = Oracle::default();
    let before = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "before");
    for set in ["max_slot_wal_keep_size = '1GB'", "TimeZone = 'Asia/Tokyo'"] {
        stand.production.psql(&format!("ALTER SYSTEM SET {set}"));
    }
    stand.production.psql("SELECT pg_reload_conf()");

    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("shop.toml");
    let url = stand.production.url("postgres");
    let apply = |stand: &Stand, every: u32| {
        let source = format!("[[sources]]\nname = \"db\"\nurl = \"{url}\"\n");
        std::fs::write(&file, format!("app = \"shop\"\n{source}[policy]\nsnapshot_every_seconds = {every}\n")).unwrap();
        stand.json(&["apply", &file.display().to_string()]);
    };
    let mirror = |stand: &Stand| {
        let path = stand.json(&["show", "shop"])["sources"]["db"]["path"].as_str().unwrap().to_owned();
        let pid = std::fs::read_to_string(format!("{path}/postmaster.pid")).unwrap();
        pid.lines().next().unwrap().to_owned()
    };
    apply(&stand, 3600);
    let shown = stand.json(&["show", "shop"]);
    assert_eq!(shown["state"], "following");
    assert!(!shown.to_string().contains("does not bound replication slots"), "{shown}");
    assert!(wait_until(Duration::from_secs(20), || stand.production.psql(slots) == "1"), "{}", stand.daemon.log());
    let after = some(&mut oracle, &stand.production);
    caught_up(&stand, &oracle, "after");
    for (moment, name, zone) in [(before, "then", "UTC"), (after, "now", "Asia/Tokyo")] {
        let copy = stand.copy(&format!("shop@{moment}"), name);
        oracle.check(moment, &copy.sql(ROWS));
        assert_eq!(copy.sql("SHOW TimeZone"), zone, "{name}");
    }
    // Nothing new: the mirror is left alone; and where production cannot be asked, the app is changed all the same.
    let server = mirror(&stand);
    apply(&stand, 3600);
    stand.production.stop();
    apply(&stand, 1800);
    assert_eq!(mirror(&stand), server);
    assert_eq!(stand.json(&["show", "shop"])["policy"]["snapshot_every_seconds"], 1800);
    stand.production.resume();
    caught_up(&stand, &oracle, "later");
    assert_eq!(stand.json(&["timeline", "shop"])["ranges"].as_array().unwrap().len(), 1);
    for name in ["then", "now"] {
        stand.json(&["rm", name]);
    }
    stand.json(&["unlink", "shop"]);
    // The slot, too, goes from production.
    stand.nothing_left();
    stand.end(&[]);
}
