//! What the chaos goes on in: a production of each kind, a Pando that knows them as three apps, and the questions
//! that a clone of each is asked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::{
    Daemon, Docker, MariadbProduction, RedisClient, RedisProduction, Seed, mariadb_at, tools, wait_until,
};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::Value;

use crate::stand::{PANDO, Stand, bounded, production, sql_at};

/// What a clone holds: the number last written there, none when fresh.
pub type Held = Option<u64>;

/// A kind of production; each is an app of one source, `db`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Postgres,
    Mariadb,
    Redis,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Mariadb, Self::Redis];

    /// Its app.
    pub const fn app(self) -> &'static str {
        match self {
            Self::Postgres => "shop",
            Self::Mariadb => "blog",
            Self::Redis => "cache",
        }
    }

    /// Writes a number into a clone, in one transaction.
    pub fn write(self, url: &str, number: u64) -> Result<(), String> {
        match self {
            Self::Postgres => {
                let sql = format!("CREATE TABLE IF NOT EXISTS own (n bigint); INSERT INTO own VALUES ({number})");
                sql_at(url, &sql).map(drop).map_err(|error| format!("{error:?}"))
            }
            Self::Mariadb => mariadb_at(
                url,
                &format!(
                    "CREATE TABLE IF NOT EXISTS own (id INT AUTO_INCREMENT PRIMARY KEY, n BIGINT); \
                     INSERT INTO own (n) VALUES ({number})"
                ),
            )
            .map(drop),
            Self::Redis => ask(url, &["SET", "own", &number.to_string()]).map(drop),
        }
    }

    /// What a clone holds; an error while it does not answer.
    pub fn read(self, url: &str) -> Result<Held, String> {
        let number = match self {
            Self::Postgres => {
                let there = "SELECT CASE WHEN to_regclass('own') IS NULL THEN 'none' ELSE 'some' END";
                let sql = |text: &str| sql_at(url, text).map_err(|error| format!("{error:?}"));
                if sql(there)? == "none" {
                    return Ok(None);
                }
                sql("SELECT n FROM own ORDER BY ctid DESC LIMIT 1")?
            }
            Self::Mariadb => {
                let there = "SELECT COUNT(*) FROM information_schema.tables \
                             WHERE table_schema = DATABASE() AND table_name = 'own'";
                if mariadb_at(url, there)?.trim() == "0" {
                    return Ok(None);
                }
                mariadb_at(url, "SELECT n FROM own ORDER BY id DESC LIMIT 1")?
            }
            Self::Redis => ask(url, &["GET", "own"])?,
        };
        // A table that nothing was committed in yet, or no such key.
        if number.is_empty() || number == "(nil)" {
            return Ok(None);
        }
        number.trim().parse().map(Some).map_err(|_| format!("{number:?} was never written"))
    }

    /// Production's own number, as a clone shows it.
    pub fn mark(self, url: &str) -> Result<String, String> {
        match self {
            Self::Postgres => sql_at(url, "SELECT max(n) FROM mark").map_err(|error| format!("{error:?}")),
            Self::Mariadb => mariadb_at(url, "SELECT MAX(n) FROM mark").map(|text| text.trim().to_owned()),
            Self::Redis => ask(url, &["GET", "mark"]),
        }
    }
}

fn ask(url: &str, words: &[&str]) -> Result<String, String> {
    RedisClient::try_connect(url)?.ask(words)
}

/// The productions and Pando.
pub struct World {
    pub stand: Stand,
    maria: MariadbProduction,
    redis: RedisProduction,
    /// More words for each clone of an app.
    pub more: &'static [&'static str],
}

impl World {
    /// All of it, linked. With an engine clones of apps live in its containers.
    pub fn start(docker: Option<&Docker>) -> Option<Self> {
        let programs = ["mariadbd", "mariadb-install-db", "mariadb", "redis-server"];
        let there = programs.iter().all(|program| tools::require(program));
        let postgres = production(bounded()).filter(|_| there)?;
        let host = docker.map(Docker::host);
        let env: Vec<(&str, &str)> = host.iter().map(|host| ("DOCKER_HOST", host.as_str())).collect();
        let made = Self {
            stand: Stand::over(Daemon::start_with(Path::new(PANDO), &env), postgres),
            maria: MariadbProduction::start(&[]),
            // One without a file of its own is empty when it comes back.
            redis: RedisProduction::start(&["appendonly yes"]),
            more: if docker.is_some() { &["--runtime", "docker", "--memory", "300M"] } else { &[] },
        };
        made.stand.json(&["init", "--size", "3G"]);
        made.stand.production.psql("CREATE TABLE mark AS SELECT 0 AS n");
        made.maria.sql("CREATE TABLE mark AS SELECT 0 AS n");
        made.redis.run(&["SET", "mark", "0"]);
        for kind in Kind::ALL {
            let url = format!("db={}", made.url(kind));
            made.stand.json(&["link", kind.app(), &url, "--snapshot-every", "2s"]);
        }
        Some(made)
    }

    fn url(&self, kind: Kind) -> String {
        match kind {
            Kind::Postgres => self.stand.production.url("postgres"),
            Kind::Mariadb => self.maria.url(),
            Kind::Redis => self.redis.url(0),
        }
    }

    /// A production goes, in good order or not.
    pub fn falls(&mut self, kind: Kind, killed: bool) {
        match (kind, killed) {
            (Kind::Postgres, true) => self.stand.production.kill(),
            (Kind::Postgres, false) => self.stand.production.stop(),
            (Kind::Mariadb, true) => self.maria.kill(),
            (Kind::Mariadb, false) => self.maria.stop(),
            (Kind::Redis, true) => self.redis.kill(),
            (Kind::Redis, false) => self.redis.stop(),
        }
    }

    /// It is there again.
    pub fn comes_back(&mut self, kind: Kind) {
        match kind {
            Kind::Postgres => self.stand.production.resume(),
            Kind::Mariadb => self.maria.resume(),
            Kind::Redis => self.redis.resume(),
        }
    }

    /// What a clone holds; it is started if it does not run.
    pub fn held(&self, kind: Kind, name: &str, told: &str) -> Held {
        let mut last = Err("never asked".to_owned());
        let there = wait_until(Duration::from_secs(90), || {
            let view = self.stand.show(name).0;
            if view["state"] != "running" {
                self.stand.daemon.pando(&["start", name]);
            }
            let url = view["sources"]["db"]["url"].as_str();
            last = url.map_or(Err("it has no address".to_owned()), |url| kind.read(url));
            last.is_ok()
        });
        assert!(there, "{name} does not answer ({last:?}): {told}\n{}", self.logs(name));
        last.unwrap()
    }

    /// What a clone's server and the daemon said.
    pub fn logs(&self, name: &str) -> String {
        let server = self.stand.daemon.pando(&["logs", name]);
        format!("{}\n{}", self.stand.daemon.log(), String::from_utf8_lossy(&server.stdout))
    }

    /// Waits until every mirror follows and nothing is under way, and then finds nothing strange.
    pub fn calm(&self, told: &str) {
        let behind = || {
            let listed = self.stand.json(&["ls"]);
            let all = listed["apps"].as_array().cloned().unwrap();
            all.into_iter().filter(|app| app["state"] != "following").collect::<Vec<_>>()
        };
        let following = wait_until(Duration::from_secs(120), || behind().is_empty());
        assert!(following, "{:?} do not follow: {told}\n{}", behind(), self.stand.daemon.log());
        let open = || {
            let all = self.stand.json(&["ops"]);
            let list = all.as_array().or_else(|| all["operations"].as_array()).cloned().unwrap();
            let ended = |op: &Value| ["done", "failed"].contains(&op["state"].as_str().unwrap());
            list.into_iter().filter(|op| !ended(op)).collect::<Vec<_>>()
        };
        // What an engine's death has left half done is tried again twice a minute.
        let quiet = wait_until(Duration::from_secs(120), || open().is_empty());
        assert!(quiet, "{:?} do not end: {told}\n{}", open(), self.stand.daemon.log());
        // An engine, or room, that has just come back is seen at the next look.
        let wrong = |item: &Value| item["what"] == "strangers" || item["level"] == "problem";
        let well = || !self.stand.json(&["doctor"])["items"].as_array().unwrap().iter().any(wrong);
        wait_until(Duration::from_secs(30), well);
        self.stand.nothing_strange();
    }

    /// Fills the pool, nearly or to the last block, for a moment.
    pub fn fill_the_pool(&self, seed: &mut Seed) {
        let pool = self.pool();
        let path = pool.join("ballast");
        let room = statvfs(&pool).unwrap();
        let (free, total) = (room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize);
        // Below a tenth nothing new is made; a fiftieth is room for what runs.
        let wanted = if seed.once_in(2) { free.saturating_sub(total / 50) } else { total };
        let file = File::create(&path).unwrap();
        let (mut at, mut piece) = (0, 64 << 20);
        while at < wanted && piece >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), at, piece) {
                Ok(()) => at += piece,
                Err(_) => piece /= 4,
            }
        }
        std::thread::sleep(Duration::from_millis(500 + seed.below(2500)));
        drop(file);
        std::fs::remove_file(&path).unwrap();
        tools::run("sync", &["-f", &pool.display().to_string()]);
    }

    fn pool(&self) -> PathBuf {
        self.stand.daemon.home().join("pool")
    }

    /// After all of it each mirror follows again, and shows what its production committed last.
    pub fn follows_again(&self, told: &str) {
        self.stand.production.psql("INSERT INTO mark VALUES (7)");
        self.maria.sql("INSERT INTO mark VALUES (7)");
        self.redis.run(&["SET", "mark", "7"]);
        for kind in Kind::ALL {
            let (from, name) = (format!("{}@now", kind.app()), format!("last-{}", kind.app()));
            let mut said = String::new();
            let made = wait_until(Duration::from_secs(90), || {
                let output = self.stand.daemon.pando(&["clone", &from, &name]);
                said = String::from_utf8_lossy(&output.stderr).into_owned();
                output.status.success()
            });
            assert!(made, "{kind:?} is not followed again: {said}\n{told}\n{}", self.stand.daemon.log());
            assert_eq!(kind.mark(self.stand.show(&name).url()).as_deref(), Ok("7"), "{kind:?}: {told}");
            self.stand.json(&["rm", &name]);
        }
    }
}
