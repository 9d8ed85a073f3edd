//! What following costs: the mirror's lag under a steady load, and production's throughput with and without.
//!
//! Two machines in small: production and pgbench are kept on one core and on the disk, Pando on the other
//! cores and in memory. Without that the figure would show that one machine has only so many cores and one
//! disk. Production is durable (`fsync` on). What replication costs by itself is measured beside it, on a bare
//! standby that is kept as Pando's mirror is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pando_testkit::{Daemon, Production, ProductionOptions, tools};

use super::rig::{self, Table};

/// A number behind a word in what pgbench prints.
fn figure(output: &str, word: &str) -> f64 {
    let rest = output.lines().find_map(|line| line.strip_prefix(word)).expect("a line of pgbench");
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Keeps a process and its present threads on some cores; what it starts later inherits them.
pub fn pin(pid: u32, cores: &str) {
    let _ = tools::output(std::path::Path::new("taskset"), &["-a", "-p", "-c", cores, &pid.to_string()]);
}

fn pin_production(production: &Production) {
    let pid = production.pid().expect("production runs");
    pin(pid, "0");
    let children = tools::output(std::path::Path::new("pgrep"), &["-P", &pid.to_string()]);
    for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
        pin(child.parse().unwrap_or(pid), "0");
    }
}

/// Transactions a second, and their mean latency in milliseconds. `rate`: how many are begun a second, at most.
fn pgbench(production: &Production, seconds: u32, rate: Option<f64>) -> (f64, f64) {
    let (seconds, rate) = (seconds.to_string(), rate.map(|rate| format!("{rate:.0}")));
    let mut args = vec!["-c", "4", "-T", &seconds, "--no-vacuum"];
    args.extend(rate.iter().flat_map(|rate| ["--rate", rate.as_str()]));
    let command = rig::pgbench_command(production, &args);
    let mut pinned = std::process::Command::new("taskset");
    pinned.args(["-c", "0"]).arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    let output = pinned.output().expect("starting pgbench");
    assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    (figure(&text, "tps = "), figure(&text, "latency average = "))
}

/// Runs without anything, with a linked Pando, and with a bare standby, each between runs without.
pub fn measure(table: &mut Table, scale: u32, seconds: u32) {
    let production = rig::production(scale, &["fsync = on"]);
    // This program, and with it the commands that look at the lag, keeps off production's core too.
    pin(std::process::id(), "1-255");
    pin_production(&production);
    pgbench(&production, 5, None);
    let full = || pgbench(&production, seconds, None).0;
    let mut without = vec![full()];
    let rate = without[0] / 2.0;
    let steady = || pgbench(&production, seconds, Some(rate));
    let calm = steady();

    let memory = tempfile::Builder::new().prefix("pando-bench-").tempdir_in("/dev/shm").expect("a folder in memory");
    std::fs::set_permissions(memory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("its mode");
    let daemon = rig::daemon_on(&memory.path().join("home"));
    for pid in daemon.processes() {
        pin(pid, "1-255");
    }
    rig::link(&daemon, &production, &["--snapshot-every", "1m"]);
    let (first, mut lags) = sampled(&daemon, full);
    let (second, seen) = sampled(&daemon, full);
    lags.extend(seen);
    let with = [first, second];
    let (calm_with, calm_lags) = sampled(&daemon, steady);
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    drop(daemon);
    without.push(full());

    let standby = production.standby(ProductionOptions::default());
    pin(standby.pid().expect("the standby runs"), "1-255");
    let bare = [full(), full()];
    drop(standby);
    without.push(full());

    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let share = |values: &[f64]| format!("{:.2}", mean(values) / mean(&without));
    table.row(
        "production's tps while Pando follows, pgbench with 4 clients at full speed on one core, durable",
        &format!("{:.0}", mean(&with)),
        &format!("without: {:.0} ({}); with a bare standby: {:.0}", mean(&without), runs(&without), mean(&bare)),
        &format!("{} (bare standby: {})", share(&with), share(&bare)),
        "≥ 0.95",
    );
    table.row(
        &format!("the same at a steady {rate:.0} transactions a second, half of what it can do: tps, mean latency"),
        &format!("{:.0}, {:.2} ms", calm_with.0, calm_with.1),
        &format!("without: {:.0}, {:.2} ms", calm.0, calm.1),
        &format!("{:.2}, {:.2}", calm_with.0 / calm.0, calm_with.1 / calm.1),
        "tps ≥ 0.95",
    );
    let lag_row = |table: &mut Table, what: &str, lags: &[f64]| {
        table.row(
            &format!("lag of the timeline at {what}, {} looks", lags.len()),
            &format!("p50 {:.0} ms, p99 {:.0} ms", rig::percentile(lags, 0.5), rig::percentile(lags, 0.99)),
            "",
            "",
            "p99 ≤ 1 s",
        );
    };
    lag_row(table, "full speed", &lags);
    lag_row(table, "the steady rate", &calm_lags);
}

/// Single runs, as shown.
pub fn runs(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ")
}

/// Does something, and looks at the lag all the time.
pub fn sampled<T>(daemon: &Daemon, work: impl FnOnce() -> T) -> (T, Vec<f64>) {
    let sampling = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut seen = Vec::new();
            while sampling.load(Ordering::Relaxed) {
                if let Some(lag) = daemon.pando_json(&["ls"])["apps"][0]["lag_seconds"].as_f64() {
                    seen.push(lag * 1000.0);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            seen
        });
        let answer = work();
        sampling.store(false, Ordering::Relaxed);
        (answer, sampler.join().expect("the sampler"))
    })
}
