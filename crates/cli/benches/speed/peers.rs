//! How others get a copy of the same data: dump and restore, a base backup, a template, pgBackRest to a time.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pando_host::Account;
use pando_testkit::{Production, tools, wait_until};

use super::rig::{self, Table};

/// All peers on one production.
pub fn measure(table: &mut Table, scale: u32) {
    let repository = tempfile::Builder::new().prefix("pgbackrest-").tempdir_in("/tmp").expect("a directory");
    give(repository.path());
    let conf = repository.path().join("pgbackrest.conf");
    let push = format!("archive_command = 'pgbackrest --config={} --stanza=shop archive-push %p'", conf.display());
    let production = rig::production(scale, &["archive_mode = on", push.as_str(), "fsync = off"]);
    let bytes = rig::size(rig::bytes(&production));
    let base = ["-h", &production.sockets().to_string_lossy(), "-p", &production.port().to_string(), "-U", "boss"]
        .map(str::to_owned);
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    let mut peer = |what: &str, took: Duration| {
        table.row(&format!("peer: {what}, {bytes}"), "", &format!("{:.1} s", took.as_secs_f64()), "", "");
    };
    let dump = repository.path().join("dump");
    let (took, ()) = rig::timed(|| {
        run(
            production.bin(),
            "pg_dump",
            &[&base[..], &["-Fd", "-j2", "-Z1", "-f", &dump.to_string_lossy(), "shop"]].concat(),
        );
        production.psql("CREATE DATABASE restored");
        run(production.bin(), "pg_restore", &[&base[..], &["-j2", "-d", "restored", &dump.to_string_lossy()]].concat());
    });
    peer("`pg_dump -j2` and `pg_restore -j2`", took);
    production.psql("DROP DATABASE restored");
    let (took, _) = rig::timed(|| production.psql("CREATE DATABASE copied TEMPLATE shop"));
    peer("`CREATE DATABASE … TEMPLATE` (nobody may be connected)", took);
    production.psql("DROP DATABASE copied");
    let target = repository.path().join("basebackup");
    let (took, ()) = rig::timed(|| {
        run(
            production.bin(),
            "pg_basebackup",
            &[&base[..], &["-D", &target.to_string_lossy(), "-X", "stream", "-c", "fast", "--no-sync"]].concat(),
        );
        serve_until_answer(&production, &target);
    });
    peer("`pg_basebackup`, start, first query", took);
    if tools::find("pgbackrest").is_some() {
        let took = pgbackrest(&production, repository.path(), &conf);
        peer("`pgbackrest restore` to a time, recovery, first query (its backup not counted)", took);
    }
}

fn account() -> Option<Account> {
    Account::named("postgres").ok().flatten().filter(|_| Account::is_root())
}

fn give(path: &Path) {
    if let Some(account) = account() {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).expect("chown");
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/tmp").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

fn run(bin: &Path, program: &str, args: &[&str]) {
    let output = command(&bin.join(program)).args(args).output().expect("starting a peer");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server on a copy of production and waits until it answers and takes writes.
fn serve_until_answer(production: &Production, data: &Path) {
    let port = pando_testkit::free_port();
    let mut server = command(&production.bin().join("postgres"))
        .arg("-D")
        .arg(data)
        .args(["-c", &format!("port={port}"), "-c", "archive_mode=off"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting postgres");
    let mut config = postgres::Config::new();
    config.host_path(production.sockets()).port(port).user("boss").dbname("shop");
    let answers = wait_until(Duration::from_secs(300), || {
        config
            .connect(postgres::NoTls)
            .is_ok_and(|mut client| client.query_one("SELECT NOT pg_is_in_recovery()", &[]).is_ok_and(|row| row.get(0)))
    });
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::QUIT);
    let _ = server.wait();
    assert!(answers, "a peer's server did not answer");
}

fn pgbackrest(production: &Production, repository: &Path, conf: &Path) -> Duration {
    let restored = repository.join("restored");
    let text = format!(
        "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nspool-path={}\nstart-fast=y\nprocess-max=2\n\
         compress-type=lz4\nlog-level-console=warn\nlog-level-file=off\n\
         [shop]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=boss\n",
        repository.join("repo").display(),
        repository.display(),
        repository.join("lock").display(),
        repository.display(),
        production.data().display(),
        production.port(),
        production.sockets().display(),
    );
    std::fs::write(conf, text).expect("pgbackrest.conf");
    let bin = Path::new("/usr/bin");
    let config = format!("--config={}", conf.display());
    run(bin, "pgbackrest", &[&config, "--stanza=shop", "stanza-create"]);
    run(bin, "pgbackrest", &[&config, "--stanza=shop", "--type=full", "backup"]);
    rig::pgbench(production, &["-c", "2", "-T", "20", "-R", "300", "--no-vacuum"]);
    let moment = production.psql("SELECT to_char(now() - interval '2 s', 'YYYY-MM-DD HH24:MI:SSOF')");
    production.psql("SELECT pg_switch_wal()");
    std::thread::sleep(Duration::from_secs(3));
    std::fs::create_dir(&restored).expect("a directory");
    give(&restored);
    std::fs::set_permissions(&restored, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("chmod");
    let target = format!("--pg1-path={}", restored.display());
    let until = format!("--target={moment}");
    let (took, ()) = rig::timed(|| {
        run(
            bin,
            "pgbackrest",
            &[&config, "--stanza=shop", &target, "--type=time", &until, "--target-action=promote", "restore"],
        );
        serve_until_answer(production, &restored);
    });
    took
}
