//! What every measurement stands on: a production of a given size, a daemon with a btrfs pool, and the table.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pando_testkit::{Daemon, Production, ProductionOptions, tools};

/// Rows of the table that is printed at the end.
pub struct Table {
    quick: bool,
    rows: Vec<[String; 5]>,
}

impl Table {
    /// An empty table.
    pub fn new(quick: bool) -> Self {
        Self { quick, rows: Vec::new() }
    }

    /// Adds a row, and shows it at once.
    pub fn row(&mut self, what: &str, pando: &str, beside: &str, ratio: &str, aim: &str) {
        let row = [what, pando, beside, ratio, aim].map(str::to_owned);
        eprintln!("bench: {}", row.join(" | "));
        self.rows.push(row);
    }

    /// The whole table.
    pub fn text(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let mut text = String::from("# Speed and space, measured\n\n");
        text.push_str(
            "Written by `make bench`. A figure means something only beside its neighbour of the same run: the floor \
             (the same work without Pando) or a peer on the same data.\n\n",
        );
        text.push_str(&format!(
            "This run: {}, {cores} cores, pool = btrfs in an image file on the same disk as production{}.\n\n",
            std::env::consts::OS,
            if self.quick { ", quick (small data, few rounds)" } else { "" }
        ));
        text.push_str("| what | Pando | beside it | ratio | aim |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        text
    }
}

/// A production with pgbench's tables.
pub fn production(scale: u32, conf: &[&str]) -> Production {
    let bin = tools::newest_postgres().expect("a PostgreSQL server (scripts/setup bench)");
    let mut lines = vec!["shared_buffers = '256MB'", "max_wal_size = '4GB'", "max_slot_wal_keep_size = '8GB'"];
    lines.extend(conf);
    let options =
        ProductionOptions { conf: lines.into_iter().map(str::to_owned).collect(), ..ProductionOptions::default() };
    let production = Production::start(&bin, options);
    production.psql("CREATE DATABASE shop");
    pgbench(&production, &["--initialize", "--quiet", "--init-steps=dtGvp", "--scale", &scale.to_string()]);
    production.psql("CHECKPOINT");
    production
}

/// Runs pgbench on production and answers what it printed.
pub fn pgbench(production: &Production, args: &[&str]) -> String {
    let output = pgbench_command(production, args).output().expect("starting pgbench");
    assert!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// pgbench on production, to be started by the caller.
pub fn pgbench_command(production: &Production, args: &[&str]) -> Command {
    let mut command = Command::new(production.bin().join("pgbench"));
    command
        .args(["-h", &production.sockets().to_string_lossy(), "-p", &production.port().to_string(), "-U", "boss"])
        .args(args)
        .arg("shop")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A daemon with a pool.
pub fn daemon() -> Daemon {
    prepared(Daemon::start(Path::new(env!("CARGO_BIN_EXE_pando"))))
}

/// The same with more in its environment.
pub fn daemon_with(env: &[(&str, &str)]) -> Daemon {
    prepared(Daemon::start_with(Path::new(env!("CARGO_BIN_EXE_pando")), env))
}

/// The same on a home that is somewhere else.
pub fn daemon_on(home: &Path) -> Daemon {
    prepared(Daemon::start_on(Path::new(env!("CARGO_BIN_EXE_pando")), home))
}

/// Both.
pub fn daemon_on_with(home: &Path, env: &[(&str, &str)]) -> Daemon {
    prepared(Daemon::start_on_with(Path::new(env!("CARGO_BIN_EXE_pando")), home, env))
}

/// Makes a daemon's pool.
pub fn prepared(daemon: Daemon) -> Daemon {
    let output = daemon.pando(&["init", "--size", "45G"]);
    assert!(output.status.success(), "init: {}", String::from_utf8_lossy(&output.stderr));
    let pool = daemon.pando_json(&["du"]);
    assert_eq!(pool["driver"], "btrfs", "the bench needs root and a btrfs pool: {pool}");
    daemon
}

/// Links production as `shop`.
pub fn link(daemon: &Daemon, production: &Production, more: &[&str]) {
    let url = format!("db={}", production.url("shop"));
    daemon.pando_json(&[&["link", "shop", url.as_str()], more].concat());
}

/// Removes a clone.
pub fn remove(daemon: &Daemon, clone: &str) {
    let output = daemon.pando(&["rm", clone]);
    assert!(output.status.success(), "rm {clone}: {}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log());
}

/// Bytes of production's databases.
pub fn bytes(production: &Production) -> u64 {
    production.psql("SELECT sum(pg_database_size(oid))::bigint FROM pg_database").parse().expect("a number")
}

/// How long something takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let answer = work();
    (begun.elapsed(), answer)
}

/// The value below which a share of all values lies.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted[index.min(sorted.len() - 1)]
}

/// Milliseconds, as shown: median (least to most).
pub fn spread(values: &[f64]) -> String {
    format!("{:.0} ms ({:.0}–{:.0})", percentile(values, 0.5), percentile(values, 0.0), percentile(values, 1.0))
}

/// A ratio of medians, as shown.
pub fn ratio(pando: &[f64], beside: &[f64]) -> String {
    format!("{:.2}", percentile(pando, 0.5) / percentile(beside, 0.5))
}

/// Milliseconds of a duration.
pub fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{} MB", bytes >> 20)
    }
}
