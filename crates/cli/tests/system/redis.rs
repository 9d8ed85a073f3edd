//! Redis: production followed by a replica of ours, any second of it cloned, and what happens when production
//! goes, comes back, or comes back empty.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_testkit::{Daemon, RedisClient, RedisProduction, tools, wait_until};
use serde_json::Value;

use crate::stand::{PANDO, Raised, said};

/// What a clone may lack before its moment: a third of a second, and on a busy machine the second that the file notes.
const SLACK: SignedDuration = SignedDuration::from_millis(1300);

/// A Redis production, and a Pando that may follow it.
struct Cache {
    daemon: Daemon,
    production: RedisProduction,
}

impl Cache {
    fn new(conf: &[&str]) -> Option<Self> {
        let can = tools::require_root() && tools::require("redis-server") && tools::require("mkfs.btrfs");
        can.then(|| Self { production: RedisProduction::start(conf), daemon: Daemon::start(Path::new(PANDO)) })
    }

    fn link(&self, more: &[&str]) {
        let url = format!("q={}", self.production.url(0));
        self.json(&[&["link", "cache", &url], more].concat());
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn copy(&self, target: &str, name: &str, more: &[&str]) -> RedisClient {
        client(&self.json(&[&["clone", target, name], more].concat()))
    }

    /// The ranges that any second can be asked for of.
    fn ranges(&self) -> Vec<(Timestamp, Timestamp)> {
        self.ranges_of("cache")
    }

    fn ranges_of(&self, name: &str) -> Vec<(Timestamp, Timestamp)> {
        let timeline = self.json(&["timeline", name]);
        let time = |value: &Value| value.as_str().unwrap().parse().unwrap();
        timeline["ranges"].as_array().unwrap().iter().map(|one| (time(&one["from"]), time(&one["to"]))).collect()
    }

    /// Waits until the timeline reaches a time.
    fn reaches(&self, time: Timestamp) {
        let there = || self.ranges().last().is_some_and(|(_, to)| *to >= time);
        assert!(wait_until(Duration::from_secs(30), there), "{:?} {}\n{}", self.ranges(), time, self.daemon.log());
    }

    fn wait_state(&self, state: &str) {
        let there = || self.json(&["show", "cache"])["state"] == state;
        assert!(wait_until(Duration::from_secs(30), there), "{}", self.json(&["show", "cache"]));
    }

    fn end(self, announced: &[&str]) {
        let doctor = self.json(&["doctor"]);
        let wrong = |item: &&Value| item["what"] == "strangers" || item["level"] == "problem";
        let found: Vec<&Value> = doctor["items"].as_array().unwrap().iter().filter(wrong).collect();
        assert!(found.is_empty(), "{found:#?}");
        let alarms = self.daemon.alarms(announced);
        assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", self.daemon.log());
    }
}

fn client(view: &Value) -> RedisClient {
    assert_eq!(view["state"], "running", "{view}");
    RedisClient::connect(view["sources"]["q"]["url"].as_str().unwrap())
}

fn ago(millis: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_millis(millis)
}

#[test]
fn a_redis_is_linked_cloned_changed_rewound_and_removed() {
    let Some(cache) = Cache::new(&[]) else { return };
    let mut production = cache.production.client();
    production.run(&["SET", "name", "one"]);
    cache.link(&[]);
    production.run(&["SET", "name", "two"]);

    // What was written before `@now` was asked for is there, and production never hears of a clone.
    let mut dev = cache.copy("cache@now", "dev", &["--record", "--set", "maxmemory=64mb"]);
    assert_eq!(dev.run(&["GET", "name"]), "two");
    assert_eq!(dev.run(&["CONFIG", "GET", "maxmemory"]), "maxmemory\n67108864");
    assert_eq!(dev.run(&["ACL", "WHOAMI"]), "pando");
    dev.run(&["SET", "name", "mine"]);
    std::thread::sleep(Duration::from_millis(1500));
    let mine = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1500));
    dev.run(&["FLUSHALL"]);
    assert_eq!(production.run(&["GET", "name"]), "two");

    let now = |word: &str| client(&cache.json(&["show", word]));
    cache.json(&["rewind", &format!("dev@{mine}")]);
    assert_eq!(now("dev").run(&["GET", "name"]), "mine");
    cache.json(&["undo", "dev"]);
    assert_eq!(now("dev").run(&["DBSIZE"]), "0");
    production.run(&["SET", "name", "three"]);
    cache.json(&["refresh", "dev@now"]);
    assert_eq!(now("dev").run(&["GET", "name"]), "three");

    // A stop keeps what was written, with the same password; a copy of the clone has its own.
    now("dev").run(&["SET", "kept", "yes"]);
    let url = cache.json(&["show", "dev"])["sources"]["q"]["url"].clone();
    cache.json(&["stop", "dev"]);
    cache.json(&["start", "dev"]);
    assert_eq!(cache.json(&["show", "dev"])["sources"]["q"]["url"], url);
    assert_eq!(now("dev").run(&["GET", "kept"]), "yes");
    let begun = Timestamp::now();
    let recorded = || cache.ranges_of("dev").last().is_some_and(|(_, to)| *to >= begun);
    assert!(wait_until(Duration::from_secs(20), recorded), "{:?}", cache.ranges_of("dev"));
    assert_eq!(cache.copy("dev@now", "twig", &[]).run(&["GET", "kept"]), "yes");

    let refused = ["clone", "cache", "bad", "--set", "replicaof=127.0.0.1 6379"];
    assert!(said(&cache.daemon.pando(&refused), 4, &refused).contains("belongs to Pando"));
    cache.json(&["rm", "twig"]);
    cache.json(&["rm", "dev"]);
    cache.json(&["unlink", "cache"]);
    let idle = || cache.daemon.processes().len() <= 1;
    assert!(wait_until(Duration::from_secs(5), idle), "{:?}", cache.daemon.processes());
    assert!(wait_until(Duration::from_secs(5), || cache
        .production
        .run(&["INFO", "replication"])
        .contains("connected_slaves:0")));
    cache.end(&[]);
}

#[test]
fn r08_a_valkey_is_followed_by_a_valkey_of_its_version() {
    let program = std::env::var("PANDO_REDIS").unwrap_or_default();
    let dirs = program.split(':').filter(|dir| !dir.is_empty());
    let found = dirs.map(|dir| Path::new(dir).join("bin/valkey-server")).find(|program| program.exists());
    let Some(program) = found else {
        tools::skip("a Valkey of another Debian release (scripts/matrix install valkey-8)");
        return;
    };
    if !tools::require_root() || !tools::require("mkfs.btrfs") {
        return;
    }
    let production = RedisProduction::start_with(&program, &[]);
    // Without its own server there is only Redis 7.0, which cannot read what this one writes.
    let plain = Daemon::start(Path::new(PANDO));
    let url = format!("q={}", production.url(0).replace("redis:", "valkey:"));
    let link = ["link", "cache", &url];
    assert!(said(&plain.pando(&link), 1, &link).contains("the servers of this machine cannot read its data"));
    drop(plain);
    let dir = program.ancestors().nth(2).unwrap().display().to_string();
    let daemon = Daemon::start_with(Path::new(PANDO), &[("PANDO_REDIS", &dir)]);
    let cache = Cache { daemon, production };
    assert!(cache.json(&link).to_string().contains("following"));
    let mut production = cache.production.client();
    for key in ["a", "b"] {
        production.run(&["HSET", key, "field", "value"]);
        production.run(&["EXPIRE", key, "1000"]);
    }
    std::thread::sleep(Duration::from_millis(800));
    let moment = Timestamp::now();
    cache.reaches(moment);
    production.run(&["FLUSHALL"]);
    let mut past = cache.copy(&format!("cache@{moment}"), "past", &["--set", "redis.ttl=alive"]);
    assert_eq!((past.run(&["DBSIZE"]), past.run(&["HGET", "b", "field"])), ("2".to_owned(), "value".to_owned()));
    assert!(past.run(&["INFO", "server"]).contains("server_name:valkey"));
    assert_eq!(cache.copy("cache@now", "now", &[]).run(&["DBSIZE"]), "0");
    cache.end(&[]);
}

/// What a clone at a time must show: the number that was written last before it, give or take what the timeline
/// promises.
struct Oracle(Vec<(Timestamp, u64)>);

impl Oracle {
    fn last_before(&self, time: Timestamp) -> u64 {
        self.0.iter().take_while(|(at, _)| *at <= time).last().map_or(0, |(_, number)| *number)
    }
}

/// Counts in production until told to stop, three keys at a time in one transaction.
fn count(production: &RedisProduction, stop: &AtomicBool, from: u64) -> Oracle {
    let mut client = production.client();
    let mut seen = Vec::new();
    let mut number = from;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let text = number.to_string();
        client.run(&["MULTI"]);
        client.run(&["SET", "count", &text]);
        client.run(&["SET", &format!("part:{}", number % 50), &text]);
        client.run(&["SET", "again", &text]);
        client.run(&["EXEC"]);
        seen.push((Timestamp::now(), number));
        std::thread::sleep(Duration::from_micros(500));
    }
    Oracle(seen)
}

#[test]
fn r01_ten_random_seconds_under_load_are_what_the_oracle_says() {
    let Some(cache) = Cache::new(&[]) else { return };
    cache.link(&["--snapshot-every", "3s"]);
    let stop = AtomicBool::new(false);
    let (begun, oracle) = std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        let counter = scope.spawn(|| count(&cache.production, &stop, 0));
        std::thread::sleep(Duration::from_millis(500));
        let begun = Timestamp::now();
        std::thread::sleep(Duration::from_secs(9));
        stop.store(true, Ordering::Relaxed);
        (begun, counter.join().unwrap())
    });
    cache.reaches(Timestamp::now());
    for index in 0..10_i64 {
        // Spread over the whole time, never on the beat of anything.
        let time = begun + SignedDuration::from_millis(350 + index * 833 + (index * 7919) % 400);
        let mut clone = cache.copy(&format!("cache@{time}"), &format!("at-{index}"), &[]);
        let shown: u64 = clone.run(&["GET", "count"]).parse().unwrap();
        let (least, most) = (
            oracle.last_before(time - SLACK),
            // One more may have been on its way.
            oracle.last_before(time) + 1,
        );
        assert!((least..=most).contains(&shown), "{time}: {shown}, not {least}..{most}");
        // A transaction is there as a whole.
        assert_eq!(clone.run(&["GET", "again"]), shown.to_string());
        assert_eq!(clone.run(&["GET", &format!("part:{}", shown % 50)]), shown.to_string());
        cache.json(&["rm", &format!("at-{index}")]);
    }
    // A second in which nothing happened can be asked for, and shows the last that happened.
    std::thread::sleep(Duration::from_millis(1200));
    let mut idle = cache.copy(&format!("cache@{}", ago(300)), "idle", &[]);
    assert_eq!(idle.run(&["GET", "count"]), oracle.0.last().unwrap().1.to_string());
    cache.end(&[]);
}

#[test]
fn r06_production_that_comes_back_empty_leaves_the_older_moments_alone() {
    let Some(mut cache) = Cache::new(&[]) else { return };
    let mut production = cache.production.client();
    for index in 0..200 {
        production.run(&["SET", &format!("key:{index}"), "x"]);
    }
    cache.link(&[]);
    production.run(&["SET", "last", "words"]);
    std::thread::sleep(Duration::from_millis(1000));
    let before = Timestamp::now();
    cache.reaches(before);
    std::thread::sleep(Duration::from_millis(300));

    cache.production.kill();
    cache.wait_state("disconnected");
    let refused = ["clone", "cache@now", "no"];
    assert!(said(&cache.daemon.pando(&refused), 4, &refused).contains("not following production"));
    cache.production.resume();
    cache.production.run(&["SET", "fresh", "start"]);
    let events = || String::from_utf8_lossy(&cache.daemon.pando(&["events", "--json"]).stdout).into_owned();
    assert!(wait_until(Duration::from_secs(40), || events().contains("mirror-rebased")), "{}", cache.daemon.log());
    assert!(events().contains("had about 200"), "{}", events());
    cache.wait_state("following");

    let mut old = cache.copy(&format!("cache@{before}"), "old", &[]);
    assert_eq!((old.run(&["DBSIZE"]), old.run(&["GET", "last"])), ("201".to_owned(), "words".to_owned()));
    let mut new = cache.copy("cache@now", "new", &[]);
    assert_eq!((new.run(&["DBSIZE"]), new.run(&["GET", "fresh"])), ("1".to_owned(), "start".to_owned()));
    assert_eq!(cache.ranges().len(), 2, "the gap is shown: {:?}", cache.ranges());
    cache.end(&[]);
}

#[test]
fn r02_keys_whose_time_has_run_out_are_offered_alive() {
    let Some(cache) = Cache::new(&[]) else { return };
    let mut production = cache.production.client();
    let all: [&[&str]; 8] = [
        &["SET", "forever", "1"],
        &["SET", "before", "the link", "PX", "9000"],
        &["RPUSH", "list", "a", "b"],
        &["HSET", "hash", "f", "v"],
        &["ZADD", "zset", "1.5", "m"],
        &["SADD", "set", "x", "7"],
        &["XADD", "stream", "*", "f", "v"],
        &["XGROUP", "CREATE", "stream", "group", "0"],
    ];
    for words in all {
        production.run(words);
    }
    production.run(&["XREADGROUP", "GROUP", "group", "me", "STREAMS", "stream", ">"]);
    production.run(&["SET", "big", &"abcdefgh".repeat(9000)]);
    for key in ["list", "hash", "zset", "set", "stream", "big"] {
        production.run(&["PEXPIRE", key, "9000"]);
    }
    cache.link(&[]);
    production.run(&["SET", "behind", "it", "EX", "9"]);
    std::thread::sleep(Duration::from_millis(1200));
    let moment = Timestamp::now();
    cache.reaches(moment);
    assert!(wait_until(Duration::from_secs(30), || production.run(&["DBSIZE"]) == "1"), "production's keys expire");

    let at = format!("cache@{moment}");
    assert_eq!(cache.copy(&at, "as-is", &[]).run(&["DBSIZE"]), "1");
    let mut alive = cache.copy(&at, "alive", &["--set", "redis.ttl=alive"]);
    assert_eq!(alive.run(&["DBSIZE"]), "9", "{}", alive.run(&["KEYS", "*"]));
    for key in ["before", "behind", "list", "hash", "zset", "set", "stream", "big"] {
        let left: i64 = alive.run(&["PTTL", key]).parse().unwrap();
        assert!((1..9000).contains(&left), "{key}: {left} ms");
    }
    assert_eq!(alive.run(&["PTTL", "forever"]), "-1");
    assert_eq!(alive.run(&["LRANGE", "list", "0", "-1"]), "a\nb");
    // They do expire, in their own time; and the newest prepared snapshot holds them, too.
    assert!(wait_until(Duration::from_secs(20), || alive.run(&["DBSIZE"]) == "1"));
    let first = cache.json(&["timeline", "cache"])["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let mut prepared = cache.copy(&format!("cache@{first}"), "prepared", &["--set", "ttl=alive"]);
    assert!(prepared.run(&["KEYS", "*"]).contains("before"));
    cache.end(&[]);
}

#[test]
fn r03_a_restart_of_production_and_of_the_mirror_begins_a_stretch_and_loses_nothing() {
    let Some(mut cache) = Cache::new(&["appendonly yes", "appendfsync always"]) else { return };
    cache.production.run(&["SET", "a", "1"]);
    cache.link(&["--snapshot-every", "1h"]);
    cache.production.run(&["SET", "a", "2"]);
    std::thread::sleep(Duration::from_millis(1000));
    let first = Timestamp::now();
    cache.reaches(first);

    cache.production.stop();
    cache.production.resume();
    cache.production.run(&["SET", "a", "3"]);
    let two = || cache.ranges().len() == 2;
    assert!(wait_until(Duration::from_secs(30), two), "{:?}\n{}", cache.ranges(), cache.daemon.log());
    std::thread::sleep(Duration::from_millis(1000));
    let second = Timestamp::now();
    cache.reaches(second);

    let is_server = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("redis-server"))
    };
    let server = cache.daemon.processes().into_iter().find(is_server).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let three = || cache.ranges().len() == 3;
    assert!(wait_until(Duration::from_secs(30), three), "{:?}\n{}", cache.ranges(), cache.daemon.log());
    cache.production.run(&["SET", "a", "4"]);

    for (moment, value) in [(first.to_string(), "2"), (second.to_string(), "3"), ("now".to_owned(), "4")] {
        let mut clone = cache.copy(&format!("cache@{moment}"), "at", &[]);
        assert_eq!(clone.run(&["GET", "a"]), value, "{moment}");
        cache.json(&["rm", "at"]);
    }
    cache.end(&[]);
}

#[test]
fn r04_a_rewrite_of_the_mirror_is_one_stream_and_a_snapshot_in_it_is_whole() {
    let Some(cache) = Cache::new(&[]) else { return };
    cache.link(&["--snapshot-every", "1h"]);
    let mut production = cache.production.client();
    production.run(&["SET", "a", "before"]);
    std::thread::sleep(Duration::from_millis(700));
    let before = Timestamp::now();
    std::thread::sleep(Duration::from_millis(700));
    // Enough for a rewrite: more than 64 MB in the increment.
    let megabyte = "x".repeat(1 << 20);
    for index in 0..72 {
        production.run(&["SET", &format!("big:{}", index % 8), &megabyte]);
        production.run(&["SET", "a", &index.to_string()]);
    }
    for _ in 0..4 {
        cache.json(&["snapshot", "cache"]);
    }
    let taken = cache.json(&["timeline", "cache"])["snapshots"].as_array().unwrap().clone();
    let manifests = || -> String {
        let pool = cache.daemon.home().join("pool/volumes");
        let volumes = std::fs::read_dir(pool).unwrap().flatten();
        let read = |one: std::fs::DirEntry| {
            std::fs::read_to_string(one.path().join("q/appendonlydir/appendonly.aof.manifest")).ok()
        };
        volumes.filter_map(read).collect()
    };
    let rewritten = || manifests().contains("appendonly.aof.3.base.rdb") && !manifests().contains("type h");
    assert!(wait_until(Duration::from_secs(30), rewritten), "{}\n{}", manifests(), cache.daemon.log());
    production.run(&["SET", "a", "after"]);
    std::thread::sleep(Duration::from_millis(700));
    let after = Timestamp::now();
    cache.reaches(after);
    assert_eq!(cache.ranges().len(), 1, "{:?}", cache.ranges());
    cache.json(&["snapshot", "cache"]);
    for (moment, value) in [(before, "before"), (after, "after")] {
        assert_eq!(cache.copy(&format!("cache@{moment}"), "at", &[]).run(&["GET", "a"]), value);
        cache.json(&["rm", "at"]);
    }
    // The first is of the link, before anything was written.
    let moment = |one: &Value| one["moment"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let taken: Vec<&Value> = taken.iter().filter(|one| moment(one) > before).collect();
    assert_eq!(taken.len(), 4);
    for snapshot in taken {
        let id = snapshot["id"].as_str().unwrap();
        let mut clone = cache.copy(&format!("cache@{id}"), "at", &[]);
        assert_eq!(clone.run(&["STRLEN", "big:7"]), (1 << 20).to_string());
        cache.json(&["rm", "at"]);
    }
    cache.end(&[]);
}

#[test]
fn r05_an_end_torn_by_a_crash_is_dropped_and_told() {
    let Some(cache) = Cache::new(&[]) else { return };
    cache.link(&[]);
    let mut dev = cache.copy("cache", "dev", &[]);
    dev.run(&["SET", "whole", "1"]);
    cache.json(&["stop", "dev"]);
    let view = cache.json(&["show", "dev"]);
    let dir = Path::new(view["sources"]["q"]["path"].as_str().unwrap()).join("appendonlydir");
    let increment =
        |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.ends_with(".incr.aof"));
    let path = std::fs::read_dir(&dir).unwrap().flatten().find(increment).unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$4\r\ntorn\r\n$9\r\nun");
    std::fs::write(&path, &bytes).unwrap();
    cache.json(&["start", "dev"]);
    let mut dev = client(&cache.json(&["show", "dev"]));
    assert_eq!((dev.run(&["DBSIZE"]), dev.run(&["GET", "whole"])), ("1".to_owned(), "1".to_owned()));
    assert!(cache.daemon.log().contains("dropped=29"), "{}", cache.daemon.log());

    // Damage in the middle is no end: nothing is dropped in silence.
    cache.json(&["stop", "dev"]);
    let mut bytes = std::fs::read(&path).unwrap();
    let length = bytes.len();
    bytes[length - 20] = b'!';
    bytes[length - 30..length - 25].copy_from_slice(b"#####");
    std::fs::write(&path, &bytes).unwrap();
    let refused = ["start", "dev"];
    assert!(said(&cache.daemon.pando(&refused), 4, &refused).contains("is damaged at byte"));
    cache.end(&["AOF file was dropped"]);
}

#[test]
fn r07_a_clone_knows_nothing_of_production() {
    let Some(cache) = Cache::new(&["maxmemory 200mb", "maxmemory-policy allkeys-lru"]) else { return };
    cache.link(&[]);
    let view = cache.json(&["clone", "cache", "dev"]);
    let mut dev = client(&view);
    assert!(dev.run(&["INFO", "replication"]).contains("role:master"));
    for name in ["masterauth", "masteruser", "replicaof"] {
        assert_eq!(dev.run(&["CONFIG", "GET", name]), format!("{name}\n"));
    }
    assert_eq!(dev.run(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nallkeys-lru");
    assert_eq!(dev.run(&["CONFIG", "GET", "bind"]), "bind\n127.0.0.1");
    // Neither production's password nor none opens it; a name is not needed.
    let port = view["sources"]["q"]["port"].as_u64().unwrap();
    assert!(RedisClient::try_connect(&format!("redis://:prod-secret@127.0.0.1:{port}/0")).is_err());
    let url = view["sources"]["q"]["url"].as_str().unwrap();
    let password = url.split_once("pando:").unwrap().1.split_once('@').unwrap().0;
    assert!(RedisClient::try_connect(&format!("redis://:{password}@127.0.0.1:{port}/0")).is_ok());
    // No password of production's in any tree, in arguments, or in the log; none of the clone's in its tree.
    let grep = tools::find("grep").unwrap();
    let holds = |secret: &str, dir: &Path| {
        let found = std::process::Command::new(&grep).args(["-rlF", "-e", secret]).arg(dir).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    for dir in ["pool/volumes", "pool/snapshots", "log"] {
        assert_eq!(holds("prod-secret", &cache.daemon.home().join(dir)), "", "{dir}");
        assert_eq!(holds(password, &cache.daemon.home().join(dir)), "", "{dir}");
    }
    assert!(!cache.daemon.log().contains("prod-secret"));
    for pid in cache.daemon.processes() {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.contains("prod-secret") && !line.contains(password), "{line}");
    }
    cache.end(&[]);
}

#[test]
fn r08_what_cannot_be_followed_is_said_before_anything_is_made() {
    let Some(cache) = Cache::new(&["cluster-enabled yes"]) else { return };
    let url = format!("q={}", cache.production.url(0));
    let link = ["link", "cache", &url];
    assert!(said(&cache.daemon.pando(&link), 1, &link).contains("a node of a cluster"));
    drop(cache);

    let Some(cache) = Cache::new(&[]) else { return };
    cache.production.run(&["ACL", "SETUSER", "low", "on", ">prod-secret", "~*", "+info", "+ping", "+acl"]);
    let url = format!("q=redis://low:prod-secret@127.0.0.1:{}/0", cache.production.port());
    let link = ["link", "cache", &url];
    let text = said(&cache.daemon.pando(&link), 1, &link);
    assert!(text.contains("psync") && text.contains("ACL SETUSER low +info +psync +replconf +ping"), "{text}");
    let encrypted = ["link", "cache", "rediss://cache1/0"];
    assert!(said(&cache.daemon.pando(&encrypted), 2, &encrypted).contains("lead it through a tunnel"));
    // What the hint says is enough; a fence asks for one thing more, and says so.
    cache.production.run(&["ACL", "SETUSER", "low", "-acl", "+psync", "+replconf"]);
    cache.json(&link);
    let fence = ["snapshot", "cache", "--fence"];
    let text = said(&cache.daemon.pando(&fence), 4, &fence);
    assert!(text.contains("client|pause") && text.contains("+client|pause +client|unpause"), "{text}");
    cache.production.run(&["ACL", "SETUSER", "low", "+client|pause", "+client|unpause"]);
    cache.json(&fence);
    cache.end(&[]);
}

#[test]
fn a_fence_cuts_keys_and_files_at_one_instant_and_falls_by_itself() {
    let Some(mut cache) = Cache::new(&[]) else { return };
    let files = tempfile::TempDir::new().unwrap();
    for n in 0..2000 {
        std::fs::write(files.path().join(format!("old-{n}")), "x").unwrap();
    }
    cache.link(&[&format!("files=file://{}", files.path().display()), "--snapshot-every", "1h"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raised = Raised(&over);
        scope.spawn(|| {
            // An application: each key with its file.
            let mut client = cache.production.client();
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                client.run(&["RPUSH", "rows", &n.to_string()]);
                std::fs::write(files.path().join(format!("row-{n}")), "").unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        std::thread::sleep(Duration::from_millis(500));
        for turn in 0..3 {
            let view = cache.json(&["clone", "cache@now", "cut", "--fence=20s"]);
            let rows: usize = client(&view).run(&["LLEN", "rows"]).parse().unwrap();
            let made = std::fs::read_dir(view["sources"]["files"]["path"].as_str().unwrap()).unwrap().flatten();
            let made = made.filter(|entry| entry.file_name().to_string_lossy().starts_with("row-")).count();
            assert!(rows > 20 && (made == rows || made + 1 == rows), "{turn}: {rows} keys, {made} files");
            assert_eq!(view["sources"]["files"]["skew_seconds"], 0.0, "{view}");
            cache.json(&["rm", "cut"]);
        }
    });
    // The daemon dies behind a fence: production ends it.
    cache.daemon.stop();
    cache.daemon.set_env(&[("PANDO_FAILPOINTS", "snapshot.sync.fenced=kill")]);
    cache.daemon.resume();
    let _ = cache.daemon.pando(&["snapshot", "cache", "--fence=4s"]);
    let begun = std::time::Instant::now();
    cache.production.run(&["SET", "a", "1"]);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    cache.daemon.kill9();
    cache.daemon.set_env(&[]);
    cache.daemon.resume();
    cache.end(&["the heartbeat"]);
}

#[test]
fn r09_what_the_timeline_shows_survives_a_kill_of_the_mirror_and_its_daemon() {
    let Some(mut cache) = Cache::new(&[]) else { return };
    cache.link(&["--snapshot-every", "1h"]);
    let stop = AtomicBool::new(false);
    let (oracle, promised) = std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        let counter = scope.spawn(|| count(&cache.production, &stop, 0));
        std::thread::sleep(Duration::from_secs(2));
        let (_, promised) = *cache.ranges().last().unwrap();
        // Neither gets to write anything down; production goes on.
        let servers: Vec<u32> = cache.daemon.processes();
        for pid in servers {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        stop.store(true, Ordering::Relaxed);
        (counter.join().unwrap(), promised)
    });
    cache.daemon.kill9();
    cache.daemon.resume();
    let mut clone = cache.copy(&format!("cache@{promised}"), "at", &[]);
    let shown: u64 = clone.run(&["GET", "count"]).parse().unwrap();
    let least = oracle.last_before(promised - SLACK);
    assert!(shown >= least && least > 100, "{promised}: {shown}, not {least}");
    // What was written while nothing followed is a gap, not a guess.
    cache.reaches(Timestamp::now());
    assert_eq!(cache.ranges().len(), 2, "{:?}", cache.ranges());
    assert_eq!(cache.copy("cache@now", "now", &[]).run(&["GET", "count"]), oracle.0.last().unwrap().1.to_string());
    cache.end(&["the heartbeat"]);
}
