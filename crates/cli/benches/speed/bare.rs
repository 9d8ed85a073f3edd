//! The floor: what the file system and PostgreSQL take by themselves, with no Pando in between.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pando_catalog::{Catalog, SnapshotRecord};
use pando_host::Account;
use pando_model::{PoolSnapshotId, VolumeId};
use pando_pool::PoolDriver;
use pando_testkit::{Daemon, Docker, free_port};
use postgres::NoTls;

/// The daemon's pool, opened beside it.
pub struct Floor {
    pool: Box<dyn PoolDriver>,
    bin: PathBuf,
    account: Option<Account>,
    next: u32,
}

impl Floor {
    /// The pool of a daemon.
    pub fn new(daemon: &Daemon, bin: &Path) -> Self {
        let pool = pando_pool::btrfs::open(&daemon.home().join("pool")).expect("the daemon's pool");
        let account = Account::named("pando").ok().flatten().filter(|_| Account::is_root());
        Self { pool, bin: bin.to_owned(), account, next: 0 }
    }

    /// Snapshot of a tree, `postgres` on it, one query. Answers how long it took; `conf` is appended first
    /// (not measured: it could have been there).
    pub fn run(&mut self, tree: &PoolSnapshotId, conf: &[String], prepare: impl Fn(&Path)) -> Duration {
        self.next += 1;
        let volume = VolumeId::from_parts(1, self.next);
        let sockets = tempfile::Builder::new().prefix("floor-").tempdir_in("/tmp").expect("a directory");
        if let Some(account) = &self.account {
            std::os::unix::fs::chown(sockets.path(), Some(account.uid), Some(account.gid)).expect("chown");
        }
        let begun = Instant::now();
        self.pool.clone_volume(tree, &volume).expect("a snapshot");
        let cloned = begun.elapsed();
        let data = self.pool.volume_path(&volume).join("db");
        prepare(&data);
        let port = free_port();
        let log = sockets.path().join("log");
        let begun = Instant::now();
        let mut server = self.spawn(&data, sockets.path(), port, conf);
        let mut config = postgres::Config::new();
        config.host_path(sockets.path()).port(port).user("boss").dbname("shop");
        let socket = sockets.path().join(format!(".s.PGSQL.{port}"));
        loop {
            if server.try_wait().expect("the server").is_some() {
                panic!("the floor's server ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            if socket.exists()
                && let Ok(mut client) = config.connect(NoTls)
                && client.simple_query("SELECT count(*) FROM pgbench_branches WHERE NOT pg_is_in_recovery()").is_ok()
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = cloned + begun.elapsed();
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::QUIT);
        let _ = server.wait();
        self.pool.destroy_volume(&volume).expect("destroying the floor's volume");
        took
    }

    /// Snapshot of a tree, `docker run` of an image on it, one query. Answers how long it took.
    pub fn run_in(&mut self, docker: &Docker, image: &str, tree: &PoolSnapshotId) -> Duration {
        self.next += 1;
        let volume = VolumeId::from_parts(1, self.next);
        let sockets = tempfile::Builder::new().prefix("floor-").tempdir_in("/tmp").expect("a directory");
        let account = self.account.as_ref().expect("the account that servers run as");
        std::os::unix::fs::chown(sockets.path(), Some(account.uid), Some(account.gid)).expect("chown");
        let port = free_port();
        let (run, number) = (sockets.path().display().to_string(), port.to_string());
        let mut config = postgres::Config::new();
        config.host_path(sockets.path()).port(port).user("boss").dbname("shop");
        let socket = sockets.path().join(format!(".s.PGSQL.{port}"));
        let begun = Instant::now();
        self.pool.clone_volume(tree, &volume).expect("a snapshot");
        let data = self.pool.volume_path(&volume).join("db").display().to_string();
        let (user, here, there) =
            (format!("{}:{}", account.uid, account.gid), format!("{data}:{data}"), format!("{run}:{run}"));
        let words = ["run", "--detach", "--network", "host", "--user", &user, "--volume", &here, "--volume", &there];
        let server = ["--entrypoint", "postgres", image, "-D", &data, "-c", "fsync=off", "-c", "full_page_writes=off"];
        let listens = [format!("unix_socket_directories={run}"), format!("port={number}")];
        let listens = ["-c", &listens[0], "-c", &listens[1]];
        let id = docker.run(&[&words[..], &server, &listens].concat());
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if socket.exists()
                && let Ok(mut client) = config.connect(NoTls)
                && client.simple_query("SELECT count(*) FROM pgbench_branches WHERE NOT pg_is_in_recovery()").is_ok()
            {
                break;
            }
            assert!(Instant::now() < deadline, "the floor's server: {}", docker.run(&["logs", &id]));
            std::thread::sleep(Duration::from_millis(2));
        }
        let took = begun.elapsed();
        docker.run(&["rm", "--force", "--volumes", &id]);
        self.pool.destroy_volume(&volume).expect("destroying the floor's volume");
        took
    }

    fn spawn(&self, data: &Path, sockets: &Path, port: u16, conf: &[String]) -> Child {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(data).arg("-c").arg(format!("unix_socket_directories={}", sockets.display())).args([
            "-c",
            &format!("port={port}"),
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
        ]);
        for setting in conf {
            command.args(["-c", setting]);
        }
        command.current_dir("/").env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        let log = std::fs::File::create(sockets.join("log")).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command.spawn().expect("starting postgres")
    }
}

/// The snapshots of the app, oldest first.
pub fn snapshots(daemon: &Daemon) -> Vec<SnapshotRecord> {
    let catalog = Catalog::open(&daemon.home().join("catalog.db")).expect("the daemon's catalog");
    let mut all: Vec<SnapshotRecord> = catalog.all().expect("the snapshots");
    all.retain(|snapshot| snapshot.complete);
    all.sort_by_key(|snapshot| snapshot.moment);
    all
}
