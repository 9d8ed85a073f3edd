//! The process runtime and a real PostgreSQL server, whose children are hard to keep together: each is a
//! session of its own and has overwritten its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;

use pando_host::{Account, Tool, ToolCommand};

use super::*;

const PORT: &str = "5432";

/// A fresh cluster and the unit that serves it.
struct Server {
    bin: PathBuf,
    root: tempfile::TempDir,
    account: Option<Account>,
}

/// The newest PostgreSQL of this machine. Without one the test fails in CI, and says so elsewhere.
fn server() -> Result<Option<Server>, Box<dyn std::error::Error>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    let Some(bin) = found.pop() else {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is missing: apt-get install postgresql");
        skipped("PostgreSQL is not installed");
        return Ok(None);
    };
    // Root cannot run a server: it takes an account that cannot do anything else.
    let account = if Account::is_root() {
        let named = ["postgres", "nobody"].into_iter().find_map(|name| Account::named(name).ok().flatten());
        Some(named.ok_or("an unprivileged account")?)
    } else {
        None
    };
    let root = tempfile::Builder::new().prefix("pg").tempdir()?;
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755))?;
    if let Some(account) = &account {
        std::os::unix::fs::chown(root.path(), Some(account.uid), Some(account.gid))?;
    }
    let server = Server { bin, root, account };
    let initdb = server.tool("initdb").args(["--no-sync", "--auth=trust", "--username=postgres", "-D"]);
    initdb.arg(server.data()).run()?;
    Ok(Some(server))
}

#[allow(clippy::print_stderr, reason = "who runs the tests must see what was not tested")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

impl Server {
    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn socket_lock(&self) -> PathBuf {
        self.root.path().join(format!(".s.PGSQL.{PORT}.lock"))
    }

    fn tool(&self, name: &str) -> ToolCommand {
        Tool::at(self.bin.join(name)).command().account(self.account.as_ref())
    }

    fn unit(&self) -> UnitSpec {
        let mut unit = spec("/bin/true", &[]);
        unit.program = self.bin.join("postgres");
        unit.args = ["-D", &self.data().to_string_lossy(), "-k", &self.root.path().to_string_lossy(), "-p", PORT]
            .into_iter()
            .chain(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "update_process_title=off"])
            .map(str::to_owned)
            .collect();
        unit.env = BTreeMap::from([("PGDATESTYLE".into(), "ISO".into())]);
        unit.account = self.account.clone();
        unit.dir = self.data();
        unit.locks = vec![self.data().join("postmaster.pid"), self.socket_lock()];
        unit.stop_signal = StopSignal::Int;
        unit.stop_grace_ms = 60_000;
        unit
    }

    fn psql(&self, query: &str) -> ToolCommand {
        self.tool("psql").args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", PORT, "-h"]).args([
            self.root.path().as_os_str(),
            "-c".as_ref(),
            query.as_ref(),
            "postgres".as_ref(),
        ])
    }

    fn answers(&self) -> bool {
        self.psql("SELECT 1").run().is_ok()
    }

    /// Name, length and time of change of every file: what a snapshot would see change.
    fn files(&self) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
        let mut seen = Vec::new();
        let mut dirs = vec![self.data()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                    Ok(meta) => seen.push((entry.path(), meta.len(), meta.modified().expect("Linux has it"))),
                    Err(_) => {}
                }
            }
        }
        seen.sort();
        seen
    }

    /// Starts a loop that writes through a connection of its own, until the server goes.
    fn write_without_end(&self) -> io::Result<Child> {
        self.psql("CREATE TABLE IF NOT EXISTS t (i bigint)").run().map_err(io::Error::other)?;
        let endless = "DO $$ BEGIN LOOP INSERT INTO t VALUES (1); COMMIT; END LOOP; END $$";
        self.psql(endless).build().stderr(std::process::Stdio::null()).spawn()
    }
}

#[test]
fn a_server_starts_is_paused_adopted_and_stopped() -> Checked {
    let Some(server) = server()? else { return Ok(()) };
    let bench = Bench::new()?;
    let unit = server.unit();
    assert_eq!(bench.runtime.ensure_running(&unit)?, Ensured::Created);
    until("it answers", || server.answers());
    let UnitState::Running { pid } = bench.runtime.state(&unit.id)? else { return Err("it runs".into()) };
    assert_eq!(bench.runtime.inventory()?, vec![unit.id.clone()]);

    let mut writer = server.write_without_end()?;
    until("the backends are seen", || members(&bench.runtime, &unit.id).is_ok_and(|members| members >= 5));
    let sessions = process::list()?.into_iter().filter(|stat| stat.parent == pid && stat.session == stat.id.pid);
    assert!(sessions.count() >= 4, "each child is a session of its own");

    for _ in 0..20 {
        bench.runtime.pause(&unit.id)?;
        let files = server.files();
        nap(50);
        assert_eq!(server.files(), files, "it wrote while paused");
        bench.runtime.resume(&unit.id)?;
        until("it writes again", || server.files() != files);
    }

    // The daemon dies while the server stands still; the next one lets it go on.
    bench.runtime.pause(&unit.id)?;
    let next = bench.next_daemon()?;
    assert_eq!(next.state(&unit.id)?, UnitState::Running { pid });
    assert_eq!(next.ensure_running(&unit)?, Ensured::AlreadyThere);
    assert!(server.answers());
    next.reload(&unit.id)?;
    let told = || next.log_tail(&unit.id, 50).is_ok_and(|log| log.contains("received SIGHUP"));
    until("it has been told to reload", told);

    assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);
    assert!(!server.data().join("postmaster.pid").exists(), "it went in good order");
    assert!(next.log_tail(&unit.id, 50)?.contains("received fast shutdown request"));
    assert_eq!(members(&next, &unit.id)?, 0);
    writer.wait()?;
    Ok(())
}

#[test]
fn a_killed_postmaster_leaves_no_backend() -> Checked {
    let Some(server) = server()? else { return Ok(()) };
    let bench = Bench::new()?;
    let unit = server.unit();
    for round in 0..4 {
        bench.runtime.ensure_running(&unit)?;
        until("it answers", || server.answers());
        let mut writer = server.write_without_end()?;
        until("the backends are seen", || members(&bench.runtime, &unit.id).is_ok_and(|members| members >= 5));
        let UnitState::Running { pid } = bench.runtime.state(&unit.id)? else { return Err("it runs".into()) };
        let postmaster = process::stat(pid).ok_or("it runs")?;
        // Stopped backends do not notice that their postmaster is dead: they are still there as orphans.
        let children = process::list()?.into_iter().filter(|stat| stat.parent == pid);
        let children: Vec<Process> = children.filter_map(|stat| Process::open(stat.id)).collect();
        if round % 2 == 1 {
            children.iter().try_for_each(|child| child.signal(Signal::STOP))?;
        }
        Process::open(postmaster.id).ok_or("it runs")?.signal(Signal::KILL)?;
        match round {
            // A daemon that knows nothing must find the orphans by their log.
            0 | 1 => {
                let next = bench.next_daemon()?;
                ended(&next, &unit.id)?;
                if round == 1 {
                    assert!(members(&next, &unit.id)? >= 5, "orphans without environment are found");
                    assert_eq!(next.inventory()?, vec![unit.id.clone()]);
                }
                next.ensure_gone_by(&unit.id, StopSignal::Quit, Duration::from_millis(500))?;
                assert_eq!(next.state(&unit.id)?, UnitState::Gone);
            }
            // A new start clears them away by itself: it could not use their shared memory's cluster else.
            _ => {
                ended(&bench.runtime, &unit.id)?;
                assert_eq!(bench.runtime.ensure_running(&unit)?, Ensured::Created);
                until("it answers", || server.answers());
                bench.runtime.ensure_gone(&unit.id)?;
            }
        }
        assert!(children.iter().all(|child| !child.is_alive()), "round {round}");
        assert_eq!(members(&bench.runtime, &unit.id)?, 0);
        writer.wait()?;
    }
    Ok(())
}

#[test]
fn a_server_that_is_killed_whole_is_gone_at_once() -> Checked {
    let Some(server) = server()? else { return Ok(()) };
    let bench = Bench::new()?;
    let unit = server.unit();
    bench.runtime.ensure_running(&unit)?;
    until("it answers", || server.answers());
    let mut writer = server.write_without_end()?;
    nap(100);
    let begun = now();
    assert_eq!(bench.runtime.ensure_gone_by(&unit.id, StopSignal::Kill, Duration::ZERO)?, Removed::Deleted);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let files = server.files();
    nap(50);
    assert_eq!(server.files(), files);
    writer.wait()?;
    Ok(())
}

/// After a crash of the machine a killed server's lock names whoever has its process id by then: another server of
/// the same account, say. One that was started by hand keeps its lock.
#[test]
fn t10_the_lock_of_a_killed_server_keeps_nobody_out() -> Checked {
    let Some(server) = server()? else { return Ok(()) };
    let bench = Bench::new()?;
    let unit = server.unit();
    bench.runtime.ensure_running(&unit)?;
    until("it answers", || server.answers());
    let pid_file = server.data().join("postmaster.pid");
    bench.runtime.ensure_gone_by(&unit.id, StopSignal::Kill, Duration::ZERO)?;
    let mut other = Tool::at("/bin/sleep").command().arg("600").account(server.account.as_ref()).build().spawn()?;
    for lock in [&pid_file, &server.socket_lock()] {
        let left = std::fs::read_to_string(lock)?;
        let rest = left.split_once('\n').ok_or("it has lines")?.1;
        std::fs::write(lock, format!("{}\n{rest}", other.id()))?;
    }
    bench.runtime.ensure_running(&unit)?;
    until("it answers", || server.answers());
    assert!(bench.runtime.ensure_gone(&unit.id)? == Removed::Deleted && !pid_file.exists());

    let mut by_hand = server.tool("postgres").args(&unit.args).dir(server.data()).build().spawn()?;
    until("it answers", || server.answers());
    bench.runtime.ensure_running(&unit)?;
    ended(&bench.runtime, &unit.id)?;
    assert!(bench.runtime.log_tail(&unit.id, 20)?.contains("already exists"));
    assert!(server.answers(), "it goes on");
    for child in [&mut other, &mut by_hand] {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}
