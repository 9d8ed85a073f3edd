//! What following costs: the mirror's lag under a steady load, and production's throughput with and without.
//!
//! Production and pgbench are kept on one core, Pando on the other ones: two machines in small. Without that
//! the figure would show that one machine has only so many cores.

use std::time::Duration;

use pando_testkit::{Production, tools};

use super::rig::{self, Table};

fn tps(output: &str) -> f64 {
    let line = output.lines().find(|line| line.starts_with("tps =")).expect("pgbench's tps");
    line.split_whitespace().nth(2).and_then(|word| word.parse().ok()).expect("a number")
}

/// Keeps a process and its present threads on some cores; what it starts later inherits them.
fn pin(pid: u32, cores: &str) {
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

fn pgbench(production: &Production, seconds: u32) -> f64 {
    let args = ["-c", "4", "-T", &seconds.to_string(), "--no-vacuum"];
    let command = rig::pgbench_command(production, &args);
    let mut pinned = std::process::Command::new("taskset");
    pinned.args(["-c", "0"]).arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    let output = pinned.output().expect("starting pgbench");
    assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    tps(&String::from_utf8_lossy(&output.stdout))
}

/// Pairs of runs with and without a linked Pando.
pub fn measure(table: &mut Table, scale: u32, seconds: u32) {
    let production = rig::production(scale, &[]);
    pin_production(&production);
    pgbench(&production, 5);
    let mut without = vec![pgbench(&production, seconds), pgbench(&production, seconds)];
    let daemon = rig::daemon();
    for pid in daemon.processes() {
        pin(pid, "1-255");
    }
    rig::link(&daemon, &production, &["--snapshot-every", "1m"]);
    let mut with = Vec::new();
    let mut lags = Vec::new();
    for _ in 0..2 {
        let sampling = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut seen = Vec::new();
                while sampling.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Some(lag) = daemon.pando_json(&["ls"])["apps"][0]["lag_seconds"].as_f64() {
                        seen.push(lag * 1000.0);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                seen
            });
            with.push(pgbench(&production, seconds));
            sampling.store(false, std::sync::atomic::Ordering::Relaxed);
            lags.extend(sampler.join().expect("the sampler"));
        });
    }
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    drop(daemon);
    without.push(pgbench(&production, seconds));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    table.row(
        "production's tps while Pando follows, pgbench with 4 clients, durable",
        &format!("{:.0}", mean(&with)),
        &format!("without Pando: {:.0}", mean(&without)),
        &format!("{:.2}", mean(&with) / mean(&without)),
        "≥ 0.95",
    );
    table.row(
        &format!("lag of the timeline under that load, {} looks", lags.len()),
        &format!("p50 {:.0} ms, p99 {:.0} ms", rig::percentile(&lags, 0.5), rig::percentile(&lags, 0.99)),
        "",
        "",
        "p99 ≤ 1 s",
    );
}
