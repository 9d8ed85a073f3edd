//! A MariaDB and a Redis beside PostgreSQL, in one app: their loads, what they have committed and when, and the same
//! questions to a clone of them. Their sources are `my` and `q`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_testkit::{MariadbProduction, RedisClient, RedisProduction, mariadb_at, tools};
use serde_json::Value;

use crate::any_second::Oracle;
use crate::proxy::Proxy;

/// The tables that [`whole`] asks of.
pub const TABLES: &str = "CREATE TABLE mark (n BIGINT PRIMARY KEY); CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL); \
     INSERT INTO account SELECT seq, 0 FROM seq_1_to_50";

/// Two productions behind lines that can be cut.
pub struct Others {
    maria: MariadbProduction,
    redis: RedisProduction,
    lines: [Proxy; 2],
}

/// What was committed, and when.
#[derive(Default)]
pub struct Seen {
    rows: Oracle,
    counts: Vec<(Timestamp, u64)>,
}

impl Others {
    /// Starts both, with a table whose sum is nought.
    pub fn start() -> Option<Self> {
        let there =
            ["mariadbd", "mariadb-install-db", "mariadb", "redis-server"].iter().all(|tool| tools::require(tool));
        if !there {
            return None;
        }
        let (maria, redis) = (MariadbProduction::start(&[]), RedisProduction::start(&[]));
        maria.sql(TABLES);
        redis.client().run(&["MSET", "count", "0", "again", "0"]);
        let lines = [Proxy::new(maria.port()), Proxy::new(redis.port())];
        Some(Self { maria, redis, lines })
    }

    /// What to link.
    pub fn urls(&self) -> [String; 2] {
        let [maria, redis] = self.lines.each_ref().map(Proxy::port);
        [
            format!("my=mariadb://rep:prod-secret@127.0.0.1:{maria}/blog"),
            format!("q=redis://:prod-secret@127.0.0.1:{redis}/0"),
        ]
    }

    /// Cuts the lines.
    pub fn cut(&self) {
        self.lines.iter().for_each(Proxy::cut);
    }

    /// Leads them back.
    pub fn lead_back(&self) {
        self.lines[0].lead_to(self.maria.port());
        self.lines[1].lead_to(self.redis.port());
    }

    /// Writes until told to stop: moves between accounts, and pairs of keys.
    pub fn write(&self, seen: &mut Seen, stop: &AtomicBool) {
        let mut client = self.redis.client();
        for count in 1_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (one, other) = (count % 50 + 1, count * 7 % 50 + 1);
            seen.rows.commit_by(|number| {
                self.maria.sql(&format!(
                    "BEGIN; UPDATE account SET n = n - 3 WHERE id = {one}; \
                     UPDATE account SET n = n + 3 WHERE id = {other}; INSERT INTO mark VALUES ({number}); COMMIT"
                ));
            });
            let text = count.to_string();
            for words in [&["MULTI"][..], &["SET", "count", &text], &["SET", "again", &text], &["EXEC"]] {
                client.run(words);
            }
            seen.counts.push((Timestamp::now(), count));
            sleep(Duration::from_millis(40));
        }
    }
}

impl Seen {
    /// A clone of a moment shows what was committed by then. A MariaDB knows whole seconds, a Redis the last third.
    pub fn check(&self, moment: Timestamp, view: &Value, told: &str) {
        self.rows.check_within(moment, SignedDuration::from_secs(1), &maria(view, "SELECT n FROM mark ORDER BY n"));
        let before = |time: Timestamp| {
            self.counts.iter().take_while(|(at, _)| *at <= time).last().map_or(0, |(_, count)| *count)
        };
        let shown: u64 = redis(view).run(&["GET", "count"]).parse().unwrap();
        // On a disk that remembers, looks at a server can be seconds apart.
        let least = before(moment - SignedDuration::from_secs(5));
        // A commit in the last instant may not have been noted yet by who made it.
        let most = before(moment + SignedDuration::from_millis(100)) + 1;
        assert!((least..=most).contains(&shown), "{moment}: {shown}, not {least}..={most}: {told}");
        assert!(whole(view), "{told}");
    }
}

fn url<'a>(view: &'a Value, source: &str) -> &'a str {
    view["sources"][source]["url"].as_str().unwrap_or_else(|| panic!("{view}"))
}

fn maria(view: &Value, sql: &str) -> String {
    mariadb_at(url(view, "my"), sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn redis(view: &Value) -> RedisClient {
    RedisClient::connect(url(view, "q"))
}

/// Whether both answer.
pub fn answer(view: &Value) -> bool {
    let there = |source: &str| view["sources"][source]["url"].is_string();
    there("my")
        && there("q")
        && mariadb_at(url(view, "my"), "SELECT 1").is_ok()
        && RedisClient::try_connect(url(view, "q")).is_ok()
}

/// Whether every transaction is there as a whole.
pub fn whole(view: &Value) -> bool {
    let mut client = redis(view);
    maria(view, "SELECT SUM(n) FROM account") == "0"
        && maria(view, "CHECK TABLE mark, account").matches("OK").count() == 2
        && client.run(&["GET", "count"]) == client.run(&["GET", "again"])
}

/// A place for rows of the clone's own.
pub fn begin(view: &Value) {
    maria(view, "CREATE TABLE own (n INT)");
}

/// Commits one.
pub fn add(view: &Value, count: usize) {
    maria(view, &format!("INSERT INTO own VALUES ({count})"));
    redis(view).run(&["RPUSH", "own", &count.to_string()]);
}

/// How many there are.
pub fn counts(view: &Value) -> [(&'static str, usize); 2] {
    [
        ("MariaDB", maria(view, "SELECT COUNT(*) FROM own").parse().unwrap()),
        ("Redis", redis(view).run(&["LLEN", "own"]).parse().unwrap()),
    ]
}
