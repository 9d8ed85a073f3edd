//! Clones whose servers run in containers: one beside a snapshot and `docker run` of the same image on the same
//! tree, and twenty at once beside twenty that are processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, Production};

use super::bare::{Floor, snapshots};
use super::rig::{self, Table};

/// One size.
pub fn measure(table: &mut Table, scale: u32, rounds: usize, many: usize) {
    let docker = Docker::start().expect("a Docker engine (scripts/setup bench)");
    let image = docker.image(Image::Postgres);
    let production: Production = rig::production(scale, &["fsync = off"]);
    let label = rig::size(rig::bytes(&production));
    let daemon = rig::daemon_with(&[("DOCKER_HOST", &docker.host())]);
    rig::link(&daemon, &production, &["--snapshot-every", "1h"]);
    let prepared = snapshots(&daemon).into_iter().rev().find_map(|one| one.prepared).expect("a prepared snapshot");
    let mut floor = Floor::new(&daemon, production.bin());
    let (mut wall, mut inside, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let name = format!("c{round}");
        let line = ["clone", "shop", &name, "--runtime", "docker", "--memory", "1G"];
        let (took, shown) = rig::timed(|| daemon.pando_json(&line));
        rig::remove(&daemon, &name);
        let beside = floor.run_in(&docker, &image, &prepared);
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            inside.push(shown["timing"]["ready_ms"].as_f64().expect("a time"));
            bare.push(rig::ms(beside));
        }
    }
    table.row(
        &format!("clone `@latest` in a container, {label}: command begun to query answered"),
        &rig::spread(&wall),
        &format!("snapshot + `docker run` + query: {}", rig::spread(&bare)),
        &rig::ratio(&wall, &bare),
        "≤ 1.2",
    );
    table.row("the same, inside the daemon", &rig::spread(&inside), "", &rig::ratio(&inside, &bare), "");
    let contained = all_at_once(&daemon, many, &["--runtime", "docker", "--memory", "1G"], |name| {
        let shown = daemon.pando_json(&["show", name]);
        let id = shown["sources"]["db"]["container"]["id"].as_str().expect("a container").to_owned();
        let first = docker.run(&["inspect", "-f", "{{.State.Pid}}", &id]).parse().expect("a process");
        // With what keeps it for the engine.
        parents().get(&first).copied().expect("its keeper")
    });
    let plain = all_at_once(&daemon, many, &[], |name| {
        let shown = daemon.pando_json(&["show", name]);
        let data = Path::new(shown["sources"]["db"]["path"].as_str().expect("a path")).join("postmaster.pid");
        let text = fs::read_to_string(data).expect("the server's process");
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("the server's process")
    });
    table.row(
        &format!("{many} clones in {many} containers, one after the other: until the last has answered, {label}"),
        &format!("{:.1} s", contained.seconds),
        &format!("as processes: {:.1} s", plain.seconds),
        &format!("{:.2}", contained.seconds / plain.seconds),
        "",
    );
    table.row(
        "their memory, shared pages counted once, with the engine's keepers",
        &format!("{:.0} MB", contained.memory),
        &format!("as processes: {:.0} MB", plain.memory),
        &format!("{:.2}", contained.memory / plain.memory),
        "",
    );
    table.row(
        "their own bytes on disk",
        &format!("{:.1} MB", contained.bytes),
        &format!("as processes: {:.1} MB", plain.bytes),
        "",
        "",
    );
}

/// What many clones took, and take.
struct Taken {
    seconds: f64,
    memory: f64,
    bytes: f64,
}

fn all_at_once(daemon: &Daemon, many: usize, more: &[&str], first: impl Fn(&str) -> u32) -> Taken {
    let names: Vec<String> = (0..many).map(|number| format!("m{number}")).collect();
    let (took, ()) = rig::timed(|| {
        for name in &names {
            daemon.pando_json(&[&["clone", "shop", name], more].concat());
        }
    });
    let memory = names.iter().map(|name| memory(first(name))).sum();
    // The pool counts some seconds behind.
    std::thread::sleep(Duration::from_secs(8));
    let bytes = |name: &String| daemon.pando_json(&["show", name])["unique_bytes"].as_f64().unwrap_or(f64::NAN);
    let bytes = names.iter().map(bytes).sum::<f64>() / 1e6;
    for name in &names {
        rig::remove(daemon, name);
    }
    Taken { seconds: took.as_secs_f64(), memory, bytes }
}

/// Each process and its parent.
fn parents() -> BTreeMap<u32, u32> {
    let one = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((pid, stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?))
    };
    fs::read_dir("/proc").expect("processes").flatten().filter_map(one).collect()
}

/// Megabytes of a process and all that stem from it; a page that several share counts for each in part.
fn memory(first: u32) -> f64 {
    let parents = parents();
    let stems = |mut pid: u32| loop {
        if pid == first {
            return true;
        }
        match parents.get(&pid) {
            Some(parent) => pid = *parent,
            None => return false,
        }
    };
    let kilobytes = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
    };
    parents.keys().filter(|pid| stems(**pid)).map(kilobytes).sum::<f64>() / 1024.0
}
