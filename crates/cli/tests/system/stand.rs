//! What every test here stands on: a production, a directory of files, a daemon, and the questions that are
//! asked at the end of each: is the log quiet, does `doctor` know of strangers, does a process go on.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pando_testkit::{Daemon, Production, ProductionOptions, tools, wait_until};
use postgres::{Client, NoTls, SimpleQueryMessage};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const PANDO: &str = env!("CARGO_BIN_EXE_pando");

/// A production with files beside it, and a Pando that may follow it.
pub struct Stand {
    pub daemon: Daemon,
    pub production: Production,
    files: TempDir,
}

/// A production whose slots are bounded, as Pando advises.
pub fn bounded() -> ProductionOptions {
    with(&["max_slot_wal_keep_size = '1GB'"])
}

/// The same with more settings; later ones win.
pub fn with(conf: &[&str]) -> ProductionOptions {
    let usual = ["max_slot_wal_keep_size = '1GB'", "autovacuum = off"];
    let conf = usual.iter().chain(conf).map(|line| (*line).to_owned()).collect();
    ProductionOptions { conf, ..ProductionOptions::default() }
}

/// A production of the newest version installed, by the rule of [`tools`].
pub fn production(options: ProductionOptions) -> Option<Production> {
    (tools::require_root() && tools::require("initdb") && tools::require("mkfs.btrfs") && tools::require("rsync"))
        .then(tools::newest_postgres)
        .flatten()
        .map(|bin| Production::start(&bin, options))
}

impl Stand {
    /// The usual one. `None` where a tool is missing.
    pub fn new() -> Option<Self> {
        Self::of(bounded())
    }

    /// One whose daemon has more in its environment.
    pub fn with_env(env: &[(&str, &str)]) -> Option<Self> {
        let production = production(bounded())?;
        let daemon = Daemon::start_with(Path::new(PANDO), env);
        Some(Self { daemon, production, files: TempDir::new().unwrap() })
    }

    /// One with another production.
    pub fn of(options: ProductionOptions) -> Option<Self> {
        Self::of_with(options, &[])
    }

    /// The same, with more environment for the daemon.
    pub fn of_with(options: ProductionOptions, env: &[(&str, &str)]) -> Option<Self> {
        let production = production(options)?;
        Some(Self::over(Daemon::start_with(Path::new(PANDO), env), production))
    }

    /// One of parts that a test made itself.
    pub fn over(daemon: Daemon, production: Production) -> Self {
        Self { daemon, production, files: TempDir::new().unwrap() }
    }

    /// Links production's database `postgres` as `shop`.
    pub fn link(&self, more: &[&str]) -> Value {
        let url = format!("db={}", self.production.url("postgres"));
        self.json(&[&["link", "shop", &url], more].concat())
    }

    /// Links database and files as `shop`.
    pub fn link_both(&self, more: &[&str]) -> Value {
        let files = format!("files=file://{}", self.files().display());
        self.link(&[&[files.as_str()], more].concat())
    }

    /// Production's directory.
    pub fn files(&self) -> PathBuf {
        self.files.path().to_owned()
    }

    /// Runs a command that must work, and reads its JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    /// Makes a clone.
    pub fn copy(&self, target: &str, name: &str) -> Copy {
        self.copy_with(target, name, &[])
    }

    /// Makes a clone, with options.
    pub fn copy_with(&self, target: &str, name: &str, more: &[&str]) -> Copy {
        let view = self.json(&[&["clone", target, name], more].concat());
        assert_eq!(view["state"], "running", "{view}");
        Copy(view)
    }

    /// A clone as it is now.
    pub fn show(&self, name: &str) -> Copy {
        Copy(self.json(&["show", name]))
    }

    /// The state of a clone.
    pub fn copy_state(&self, name: &str) -> String {
        self.json(&["show", name])["state"].as_str().unwrap().to_owned()
    }

    /// Runs a command that must fail with this exit code, and hands back what it says: one line, perhaps
    /// causes, perhaps a hint; never a panic, never production's password.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        said(&self.daemon.pando(args), code, args)
    }

    /// The end of a test: nothing was left behind, and nothing went wrong that was not announced.
    pub fn end(self, announced: &[&str]) {
        self.nothing_strange();
        let alarms = self.daemon.alarms(announced);
        assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", self.daemon.log());
        let home = self.daemon.home();
        let run = pando_daemon::run_dir(&home.canonicalize().unwrap());
        drop(self);
        assert!(!home.exists(), "{} is left behind", home.display());
        assert!(!run.exists(), "{} is left behind", run.display());
    }

    /// `doctor` finds nothing that nobody knows of, and no operation that is stuck.
    pub fn nothing_strange(&self) {
        let doctor = self.json(&["doctor"]);
        let wrong = |item: &&Value| item["what"] == "strangers" || item["level"] == "problem";
        let found: Vec<&Value> = doctor["items"].as_array().unwrap().iter().filter(wrong).collect();
        assert!(found.is_empty(), "{found:#?}\n{}", self.daemon.log());
    }

    /// After everything is unlinked: no process, no volume, no log, no slot.
    pub fn nothing_left(&self) {
        self.nothing_strange();
        assert_eq!(self.json(&["ls"]), serde_json::json!({"apps": [], "clones": []}));
        let home = self.daemon.home();
        for dir in ["pool/volumes", "pool/snapshots", "log", "clones"] {
            // What is destroyed is gone from its place at once, from the disk a little later.
            let empty = || std::fs::read_dir(home.join(dir)).map_or(0, Iterator::count) == 0;
            assert!(wait_until(Duration::from_secs(10), empty), "{dir}: {:?}", entries(&home.join(dir)));
        }
        let run = pando_daemon::run_dir(&home.canonicalize().unwrap());
        assert_eq!(entries(&run), Vec::<String>::new(), "sockets of nobody in {}", run.display());
        // An engine that is killed between making a container and starting it forgets that one. What is left waits for its
        // start for ever; no program of the clone ever ran in it.
        let left = || {
            let mut lines = self.daemon.command_lines();
            lines.retain(|line| !line.contains(": runc init "));
            lines
        };
        assert!(wait_until(Duration::from_secs(5), || left().len() <= 1), "{:#?}", left());
        assert_eq!(self.production.psql("SELECT slot_name FROM pg_replication_slots WHERE slot_name ~ 'pando'"), "");
    }

    /// The events, newest last.
    pub fn events(&self) -> String {
        String::from_utf8_lossy(&self.daemon.pando(&["events", "--json"]).stdout).into_owned()
    }

    /// Waits until the mirror is in a state, and says so.
    pub fn wait_state(&self, state: &str, at_most: u64) {
        let there = || self.json(&["show", "shop"])["state"] == state;
        assert!(
            wait_until(Duration::from_secs(at_most), there),
            "not {state}: {}\n{}",
            self.json(&["show", "shop"]),
            self.daemon.log()
        );
    }
}

/// What a command said that had to fail.
pub fn said(output: &Output, code: i32, args: &[&str]) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?} printed data: {output:?}");
    let errors = text.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{args:?}: {text}");
    for never in ["panicked", "prod-secret", "Os {", "Error {"] {
        assert!(!text.contains(never), "{args:?}: {text}");
    }
    text
}

/// The names in a directory.
pub fn entries(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Runs SQL at an address; rows as `psql -At` shows them.
pub fn sql_at(url: &str, sql: &str) -> Result<String, postgres::Error> {
    rows(&mut Client::connect(url, NoTls)?, sql)
}

/// Runs SQL on a connection; rows as `psql -At` shows them.
pub fn rows(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|i| row.get(i).unwrap_or("")).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    Ok(client.simple_query(sql)?.into_iter().filter_map(row).collect::<Vec<_>>().join("\n"))
}

/// A flag that is raised when this goes, also when a test fails: threads that look at it end.
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A clone, as `clone --json` showed it.
pub struct Copy(pub Value);

impl Copy {
    /// The database's address.
    pub fn url(&self) -> &str {
        self.0["sources"]["db"]["url"].as_str().unwrap()
    }

    /// The password in it.
    pub fn password(&self) -> String {
        let (_, rest) = self.url().split_once("://").unwrap();
        rest.split_once('@').unwrap().0.split_once(':').unwrap().1.to_owned()
    }

    /// The database's port.
    pub fn port(&self) -> u16 {
        self.0["sources"]["db"]["port"].as_u64().unwrap().try_into().unwrap()
    }

    /// The directory of a source.
    pub fn path(&self, source: &str) -> PathBuf {
        PathBuf::from(self.0["sources"][source]["path"].as_str().unwrap())
    }

    /// Runs SQL on it.
    pub fn sql(&self, sql: &str) -> String {
        sql_at(self.url(), sql).unwrap_or_else(|error| panic!("{sql} on {}: {error:?}", self.0))
    }

    /// The server's process.
    pub fn postmaster(&self) -> u32 {
        let pid = std::fs::read_to_string(self.path("db").join("postmaster.pid")).unwrap();
        pid.lines().next().unwrap().trim().parse().unwrap()
    }
}
