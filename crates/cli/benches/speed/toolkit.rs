//! A toolkit's source, by the example for etcd: the link, and clones at the newest moment beside a bare `etcd` on the
//! same tree.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pando_model::{PoolSnapshotId, VolumeId};
use pando_pool::PoolDriver;
use pando_testkit::{Daemon, Etcd, Seed, etcdctl, example_toolkit, free_port};

use super::bare::snapshots;
use super::rig::{self, Table};

/// All rows, for a production of so many megabytes.
pub fn measure(table: &mut Table, megabytes: u32, rounds: usize) {
    let production = Etcd::start().expect("etcd (apt-get install etcd-server etcd-client)");
    fill(&production, megabytes);
    let daemon = rig::daemon();
    install(&daemon);
    let url = format!("keys={}", production.url("etcd"));
    let (linking, _) = rig::timed(|| daemon.pando_json(&["link", "shop", &url]));
    let tree = snapshots(&daemon).pop().and_then(|one| one.prepared.or(one.raw)).expect("a snapshot");
    let mut floor = Floor { pool: pando_pool::btrfs::open(&daemon.home().join("pool")).expect("the pool"), next: 0 };
    let (mut wall, mut beside) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (took, _) = rig::timed(|| daemon.pando_json(&["clone", "shop", "c"]));
        let bare = floor.run(&tree);
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            beside.push(rig::ms(bare));
        }
        rig::remove(&daemon, "c");
    }
    table.row(
        &format!("etcd, by a toolkit: clone `@latest`, {megabytes} MB: command begun to query answered"),
        &rig::spread(&wall),
        &format!("snapshot + `etcd` + query: {}", rig::spread(&beside)),
        &rig::ratio(&wall, &beside),
        "",
    );
    table.row(
        &format!("etcd, by a toolkit: link, {megabytes} MB: until the first clone can be made"),
        &format!("{:.1} s", linking.as_secs_f64()),
        "",
        "",
        "",
    );
}

/// Values of a hundred kilobytes, none like another.
fn fill(production: &Etcd, megabytes: u32) {
    let mut seed = Seed::new(7);
    for key in 0..megabytes * 10 {
        let value: String = (0..100_000 / 16).map(|_| format!("{:016x}", seed.draw())).collect();
        production.put(&format!("key:{key}"), &value);
    }
}

fn install(daemon: &Daemon) {
    let toolkit = daemon.home().join("toolkits/etcd");
    fs::create_dir_all(toolkit.parent().expect("a directory")).expect("a directory");
    fs::copy(example_toolkit(), &toolkit).expect("the example");
    for path in [toolkit.parent().expect("a directory"), &toolkit] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("opening it");
    }
}

/// The floor: a snapshot, `etcd` on it as the toolkit would start it, one query.
struct Floor {
    pool: Box<dyn PoolDriver>,
    next: u32,
}

impl Floor {
    fn run(&mut self, tree: &PoolSnapshotId) -> Duration {
        self.next += 1;
        let volume = VolumeId::from_parts(3, self.next);
        let begun = Instant::now();
        self.pool.clone_volume(tree, &volume).expect("a snapshot");
        let cloned = begun.elapsed();
        let took = cloned + serve(&self.pool.volume_path(&volume).join("keys/data"));
        self.pool.destroy_volume(&volume).expect("destroying the floor's volume");
        took
    }
}

fn serve(data: &Path) -> Duration {
    let noted = fs::read_to_string(data.join("pando.json")).expect("what the toolkit noted");
    let noted: serde_json::Value = serde_json::from_str(&noted).expect("JSON");
    let root = noted["root"].as_str().expect("a password");
    let run = tempfile::tempdir().expect("a directory");
    let address = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{address}");
    let begun = Instant::now();
    let mut server = Command::new("etcd")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", "unix://peer:0"])
        .args(["--heartbeat-interval", "10", "--election-timeout", "50", "--log-level", "warn", "--logger", "zap"])
        .args(["--bcrypt-cost", "4", "--unsafe-no-fsync"])
        .current_dir(run.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting etcd");
    loop {
        assert!(server.try_wait().expect("the server").is_none(), "the floor's server ended");
        if TcpStream::connect(&address).is_ok()
            && etcdctl(&url, Some(("root", root)), &["get", "key:0"]).status.success()
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed();
    let _ = server.kill();
    let _ = server.wait();
    took
}
