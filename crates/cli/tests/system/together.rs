//! One app of four kinds of source, PostgreSQL, MariaDB, Redis and a directory, each written as fast as it goes: a
//! clone at a random second shows in each what that source's own oracle says, and how far it is off; one of `@now`
//! lacks nothing that was acknowledged before it was asked for; a fenced one is one instant of all of them.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use pando_testkit::{MariadbProduction, RedisClient, RedisProduction, Seed, mariadb_at, tools};
use serde_json::Value;

use crate::any_second::{Oracle, ROWS, table};
use crate::stand::{Raised, Stand, sql_at};

/// What a clone of Redis may lack before its moment, on a busy machine.
const REDIS_SLACK: SignedDuration = SignedDuration::from_millis(1300);

/// The two productions beside that of the stand.
struct Others {
    blog: MariadbProduction,
    cache: RedisProduction,
}

/// What each was given, and when.
#[derive(Default)]
struct Oracles {
    db: Oracle,
    blog: Oracle,
    cache: Oracle,
}

fn link() -> Option<(Stand, Others)> {
    let there = ["mariadbd", "mariadb", "mariadb-install-db", "redis-server"].iter().all(|tool| tools::require(tool));
    let stand = there.then(Stand::new).flatten()?;
    table(&stand.production);
    let others = Others { blog: MariadbProduction::start(&[]), cache: RedisProduction::start(&[]) };
    others.blog.sql("CREATE TABLE mark (n BIGINT PRIMARY KEY)");
    let (blog, cache) = (format!("blog={}", others.blog.url()), format!("cache={}", others.cache.url(0)));
    stand.link_both(&[&blog, &cache, "--snapshot-every", "4s"]);
    Some((stand, others))
}

/// Writes into all of them at once for some time: a file and the row that names it, a row, an item of a list.
fn load(stand: &Stand, others: &Others, oracles: &mut Oracles, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let going = || !over.load(Ordering::Relaxed);
    let Oracles { db, blog, cache } = oracles;
    std::thread::scope(|scope| {
        let ends = Raised(&over);
        scope.spawn(move || {
            let (files, mut client) = (stand.files(), stand.production.client("postgres"));
            while going() {
                db.commit(&mut client, |n| {
                    fs::write(files.join(format!("file-{n}")), n.to_string()).unwrap();
                    format!("INSERT INTO mark VALUES ({n}, 'file-{n}')")
                });
                sleep(Duration::from_millis(25));
            }
        });
        scope.spawn(move || {
            while going() {
                blog.commit_by(|n| drop(others.blog.sql(&format!("INSERT INTO mark VALUES ({n})"))));
                sleep(Duration::from_millis(25));
            }
        });
        scope.spawn(move || {
            let mut client = others.cache.client();
            while going() {
                cache.commit_by(|n| drop(client.run(&["RPUSH", "mark", &n.to_string()])));
                sleep(Duration::from_millis(5));
            }
        });
        work();
        drop(ends);
    });
}

fn url<'a>(view: &'a Value, source: &str) -> &'a str {
    view["sources"][source]["url"].as_str().unwrap_or_else(|| panic!("{source} of {view}"))
}

/// What a clone shows: rows, rows, items, names of files.
fn shown(view: &Value) -> [String; 4] {
    let files = fs::read_dir(view["sources"]["files"]["path"].as_str().unwrap()).unwrap().flatten();
    let number = |name: &str| name.strip_prefix("file-").and_then(|number| number.parse::<u64>().ok());
    let mut files: Vec<u64> = files.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    files.sort_unstable();
    [
        sql_at(url(view, "db"), ROWS).unwrap(),
        mariadb_at(url(view, "blog"), ROWS).unwrap(),
        RedisClient::connect(url(view, "cache")).run(&["LRANGE", "mark", "0", "-1"]),
        files.iter().map(u64::to_string).collect::<Vec<_>>().join("\n"),
    ]
}

fn check(oracles: &Oracles, moment: Timestamp, view: &Value) {
    let [db, blog, cache, files] = shown(view);
    oracles.db.check(moment, &db);
    // MariaDB's log knows whole seconds: those are exact.
    let whole = moment.subsec_nanosecond() == 0;
    oracles.blog.check_within(moment, if whole { SignedDuration::ZERO } else { SignedDuration::from_secs(1) }, &blog);
    oracles.cache.check_within(moment, REDIS_SLACK, &cache);
    for source in ["db", "blog", "cache"] {
        assert_eq!(view["sources"][source]["skew_seconds"], 0.0, "{source} of {view}");
    }
    // Files have no log: they are of the first state behind the moment, and by how much is said.
    let skew = view["sources"]["files"]["skew_seconds"].as_f64().unwrap();
    assert!((0.0..30.0).contains(&skew), "{view}");
    let at: Timestamp = view["sources"]["files"]["moment"].as_str().unwrap().parse().unwrap();
    assert!((at.duration_since(moment).as_secs_f64() - skew).abs() < 0.01, "{view}");
    let (shown, rows) = (files.lines().count(), db.lines().count());
    assert!(shown >= rows && files.starts_with(&db), "a row names a file that is not there: {db}\n{files}");
    oracles.db.check_between(at, at + SignedDuration::from_secs(5), &files);
}

/// Whatever was acknowledged before the request is there, in each of them.
fn now_is_not_before_the_request(oracles: &Oracles, asked: Timestamp, view: &Value) {
    let moment: Timestamp = view["moment"].as_str().unwrap().parse().unwrap();
    assert!(moment >= asked, "{moment} is before the request at {asked}");
    for (oracle, shown) in [&oracles.db, &oracles.blog, &oracles.cache].into_iter().zip(shown(view)) {
        oracle.check_between(asked, Timestamp::now(), &shown);
    }
}

#[test]
fn ten_random_seconds_of_four_kinds_of_source_are_what_each_oracle_says() {
    let Some((stand, others)) = link() else { return };
    let mut seed = Seed::from_env("PANDO_SEED", 31);
    let mut oracles = Oracles::default();
    let mut made = Vec::new();
    load(&stand, &others, &mut oracles, || {
        for turn in 0..2 {
            sleep(Duration::from_secs(4));
            let asked = Timestamp::now();
            made.push((asked, stand.json(&["clone", "shop@now", &format!("now{turn}")])));
        }
        sleep(Duration::from_secs(2));
    });
    for (asked, view) in &made {
        now_is_not_before_the_request(&oracles, *asked, view);
        stand.json(&["rm", view["name"].as_str().unwrap()]);
    }
    // All of them wrote all the time; only the last snapshot may come later.
    let spans = [oracles.db.span(), oracles.blog.span(), oracles.cache.span()];
    let from = spans.iter().map(|span| span.0).max().unwrap();
    let to = spans.iter().map(|span| span.1).min().unwrap();
    let length = u64::try_from(to.as_microsecond() - from.as_microsecond()).unwrap();
    let mut most: f64 = 0.0;
    for turn in 0..10 {
        let mut moment = from + SignedDuration::from_micros(i64::try_from(seed.below(length)).unwrap());
        if turn % 2 == 0 {
            moment = moment.round(Unit::Second).unwrap().clamp(from, to);
        }
        let view = if turn == 0 {
            stand.json(&["clone", &format!("shop@{moment}"), "dev"])
        } else {
            stand.json(&["refresh", &format!("dev@{moment}")]);
            stand.json(&["show", "dev"])
        };
        assert_eq!(view["moment"], moment.to_string(), "{seed}");
        check(&oracles, moment, &view);
        most = most.max(view["sources"]["files"]["skew_seconds"].as_f64().unwrap());
    }
    let (db, blog, cache) = (oracles.db.count(), oracles.blog.count(), oracles.cache.count());
    eprintln!(
        "10 moments of {db}, {blog} and {cache} commits, none wrong; files at most {most:.1} s behind their rows"
    );
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn a_fence_cuts_four_kinds_of_source_at_one_instant() {
    let Some((stand, others)) = link() else { return };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Raised(&over);
        scope.spawn(|| {
            // An application that writes one after the other: at no instant is any of them ahead of the one before it.
            let (files, mut client, mut cache) =
                (stand.files(), stand.production.client("postgres"), others.cache.client());
            for n in 1_u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                client.batch_execute(&format!("INSERT INTO mark VALUES ({n}, NULL)")).unwrap();
                others.blog.sql(&format!("INSERT INTO mark VALUES ({n})"));
                // A fence may stand for longer than the client waits.
                cache.send(&["RPUSH", "mark", &n.to_string()]).unwrap();
                assert!((0..6).any(|_| cache.answer().is_ok()), "production's Redis is held for ever");
                fs::write(files.join(format!("file-{n}")), n.to_string()).unwrap();
            }
        });
        sleep(Duration::from_secs(1));
        for turn in 0..3 {
            let view = stand.json(&["clone", "shop@now", "cut", "--fence=30s"]);
            let counts = shown(&view).map(|lines| lines.lines().count());
            let [db, blog, cache, files] = counts;
            assert!(
                db >= blog && blog >= cache && cache >= files && files + 1 >= db && files > 5,
                "{turn}: {counts:?}"
            );
            for source in ["db", "blog", "cache", "files"] {
                assert_eq!(view["sources"][source]["skew_seconds"], 0.0, "{source} of {view}");
            }
            stand.json(&["rm", "cut"]);
        }
    });
    // Nothing of it is left on any of them.
    others.blog.sql("INSERT INTO mark VALUES (-1)");
    others.cache.run(&["SET", "free", "1"]);
    stand.production.psql("INSERT INTO mark VALUES (-1)");
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
