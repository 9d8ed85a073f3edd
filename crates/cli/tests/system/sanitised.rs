//! A clone is cut off production, and secrets stay where they belong.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use pando_testkit::{Production, ProductionOptions, wait_until};

use crate::stand::{Copy, PANDO, Raised, Stand, bounded, sql_at, with};

const APP_PASSWORD: &str = "app-secret-1";
const PROD_PASSWORD: &str = "prod-secret";
const QUIET: &str = "never-an-argument";

/// Everything that may reach out from a copy: an archive, a subscription, slots, another server's address, a
/// foreign server, and users with passwords.
fn dangerous(production: &Production, archive: &Path) {
    fs::set_permissions(archive, fs::Permissions::from_mode(0o777)).unwrap();
    let port = production.port();
    let conninfo = format!("host=127.0.0.1 port={port} user=boss password={PROD_PASSWORD}");
    production.psql("CREATE DATABASE other");
    production.psql_in("other", "CREATE TABLE news (n int PRIMARY KEY)");
    production.psql_in("other", "CREATE PUBLICATION news FOR TABLE news");
    production.psql_in("other", "SELECT pg_create_logical_replication_slot('news', 'pgoutput')");
    for statement in [
        "CREATE TABLE news (n int PRIMARY KEY)",
        "SELECT pg_create_physical_replication_slot('standby_1', true)",
        &format!("CREATE ROLE app LOGIN PASSWORD '{APP_PASSWORD}'"),
        &format!(
            "CREATE SUBSCRIPTION news CONNECTION '{conninfo} dbname=other' PUBLICATION news WITH (create_slot = false)"
        ),
        "CREATE FOREIGN DATA WRAPPER elsewhere",
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere OPTIONS (host 'production')",
        &format!("CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'boss', password '{PROD_PASSWORD}')"),
        &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"),
        &format!("ALTER SYSTEM SET archive_command = 'cp %p {}/%f'", archive.display()),
        "SELECT pg_reload_conf()",
    ] {
        production.psql(statement);
    }
}

/// Connections over TCP that production has seen since it was started.
fn arrivals(production: &Production) -> usize {
    production.log().lines().filter(|line| line.contains("connection received: host=127.0.0.1")).count()
}

/// Who is connected to production, but for the test itself.
fn guests(production: &Production) -> String {
    production.psql(
        "SELECT pid, usename, application_name, backend_type FROM pg_stat_activity \
         WHERE client_addr IS NOT NULL ORDER BY pid",
    )
}

/// The addresses that listen on a port, in the kernel's hexadecimal.
fn listeners(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let suffix = format!(":{port:04X}");
    let listening = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let lines = tables.iter().flat_map(|table| table.lines());
    lines.filter(listening).filter_map(local).filter(|address| address.ends_with(&suffix)).collect()
}

fn is_cut_off(copy: &Copy) {
    let data = copy.path("db");
    for file in ["standby.signal", "recovery.signal", "backup_label", "postgresql.auto.conf"] {
        let text = fs::read_to_string(data.join(file)).unwrap_or_default();
        assert!(!data.join(file).exists() || !text.contains("conninfo"), "{file}: {text}");
    }
    for file in ["postgresql.conf", "pg_hba.conf"] {
        assert!(!fs::read_to_string(data.join(file)).unwrap().contains(PROD_PASSWORD), "{file}");
    }
    let is = |sql: &str, wanted: &str| assert_eq!(copy.sql(sql), wanted, "{sql}");
    is("SELECT subenabled, subconninfo, coalesce(subslotname, '-') FROM pg_subscription", "f||-");
    is("SELECT count(*) FROM pg_replication_slots", "0");
    is("SHOW archive_mode", "off");
    is("SHOW primary_conninfo", "");
    is("SHOW max_logical_replication_workers", "0");
    is("SELECT pg_is_in_recovery()", "f");
    is("SELECT coalesce(umoptions::text, '-') FROM pg_user_mappings", "-");
    is("SELECT string_agg(rolname, ',') FROM pg_authid WHERE rolpassword IS NOT NULL", "pando");
    is("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical%'", "0");
    // Neither production's passwords nor another clone's door.
    let port = copy.port();
    for who in [
        format!("boss:{PROD_PASSWORD}"),
        format!("app:{APP_PASSWORD}"),
        format!("pando:{PROD_PASSWORD}"),
        "boss".into(),
    ] {
        assert!(sql_at(&format!("postgres://{who}@127.0.0.1:{port}/postgres"), "SELECT 1").is_err(), "{who} gets in");
    }
    assert_eq!(listeners(port), [format!("0100007F:{port:04X}")]);
}

#[test]
fn t07_t10_t16_t17_a_clone_is_cut_off_production_and_never_speaks_to_it() {
    let archive = tempfile::TempDir::new().unwrap();
    let conf = ["wal_level = logical", "archive_mode = on", "archive_command = 'true'", "log_connections = on"];
    let Some(stand) = Stand::of(with(&conf)) else { return };
    dangerous(&stand.production, archive.path());
    // Its own subscription comes to it too, for each table once: not in the midst of what is counted.
    let settled = || stand.production.psql("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel") == "t";
    assert!(wait_until(Duration::from_secs(60), settled), "{}", stand.production.log());
    stand.link(&["--snapshot-every", "3s"]);
    stand.production.psql("INSERT INTO news VALUES (1)");

    // A prepared one, and one that is rolled forward; both live for a while under production's eyes.
    let rolled = stand.copy("shop@now", "rolled");
    let (before, who) = (arrivals(&stand.production), guests(&stand.production));
    let prepared = stand.copy("shop@latest", "prepared");
    for copy in [&prepared, &rolled] {
        is_cut_off(copy);
        copy.sql("CREATE TABLE mine AS SELECT generate_series(1, 20000) AS n");
        copy.sql("SELECT pg_switch_wal()");
        copy.sql("CHECKPOINT");
    }
    sleep(Duration::from_secs(3));
    assert_eq!(guests(&stand.production), who);
    assert_eq!(arrivals(&stand.production), before, "{}", stand.production.log());

    // One base makes many timelines 2 (T-7): none of them may reach production's archive.
    stand.production.psql("SELECT pg_switch_wal()");
    sleep(Duration::from_secs(1));
    let archived = crate::stand::entries(archive.path());
    assert!(!archived.is_empty() && archived.iter().all(|name| name.starts_with("00000001")), "{archived:?}");
    assert_ne!(prepared.password(), rolled.password());
    assert!(sql_at(&prepared.url().replace(&prepared.password(), &rolled.password()), "SELECT 1").is_err());
    stand.end(&[]);
}

/// Every command line that was seen on this machine while it looked.
pub fn command_lines(stop: &AtomicBool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            if let Ok(line) = fs::read(process.path().join("cmdline")) {
                seen.insert(String::from_utf8_lossy(&line).into_owned());
            }
        }
        sleep(Duration::from_millis(2));
    }
    seen
}

pub fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

pub fn holds(path: &Path, secrets: &[String]) -> bool {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 64 << 20) {
        // A whole pool: whoever may read that may read everything.
        return true;
    }
    let bytes = fs::read(path).unwrap_or_default();
    secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
}

/// Links with the address on stdin, as one does whose password must not show.
fn link_quietly(stand: &Stand) {
    let mut link = Command::new(PANDO);
    link.args(["link", "shop", "-", "--snapshot-every", "3s"]).env("PANDO_HOME", stand.daemon.home());
    let mut link = link.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(link.stdin.take().unwrap(), "db={}", stand.production.url("postgres")).unwrap();
    let output = link.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success() && !said.contains(QUIET), "{said}");
}

#[test]
fn secrets_show_in_no_log_no_argument_no_open_file_and_not_in_the_catalog() {
    // One of its own: other tests pass theirs as an argument.
    let Some(stand) = Stand::of(ProductionOptions { password: QUIET.into(), ..bounded() }) else { return };
    let stop = AtomicBool::new(false);
    let (secrets, lines, copies) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| command_lines(&stop));
        let _ended = Raised(&stop);
        link_quietly(&stand);
        let one = stand.copy("shop", "one");
        let two = stand.copy_with("shop@now", "two", &["--record"]);
        stand.json(&["refresh", "one"]);
        // Somebody tries a wrong password: the server's log has it then, but never the right one.
        assert!(sql_at(&one.url().replace(&one.password(), "guess"), "SELECT 1").is_err());
        stop.store(true, Ordering::Relaxed);
        let secrets = vec![QUIET.to_owned(), one.password(), two.password()];
        (secrets, watch.join().unwrap(), [one, two])
    });
    let guilty: Vec<&String> = lines.iter().filter(|line| secrets.iter().any(|one| line.contains(one))).collect();
    assert!(guilty.is_empty(), "{guilty:#?}");
    assert!(lines.iter().any(|line| line.contains("pg_basebackup")), "the watch saw nothing");

    // Only pool and log may hold what production's own files hold; nothing that others can open, any secret.
    let home = stand.daemon.home();
    let run = Path::new(copies[0].0["sources"]["db"]["socket_dir"].as_str().unwrap()).parent().unwrap().to_owned();
    let mut all = Vec::new();
    files_below(&home, &mut all);
    let ours = |path: &&PathBuf| !["pool", "pool.img", "log"].iter().any(|one| path.starts_with(home.join(one)));
    let kept: Vec<&PathBuf> = all.iter().filter(ours).filter(|path| holds(path, &secrets)).collect();
    assert!(kept.is_empty(), "secrets at rest: {kept:#?}");
    files_below(&run, &mut all);
    let open = |path: &&PathBuf| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0);
    let open: Vec<&PathBuf> = all.iter().filter(open).filter(|path| holds(path, &secrets)).collect();
    assert!(open.is_empty(), "secrets open to all: {open:#?}");
    let key = fs::metadata(home.join("secret.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(key, 0o600);
    for secret in &secrets {
        assert!(!stand.daemon.log().contains(secret.as_str()));
    }
    for args in [&["events", "--json"][..], &["ops", "--json"], &["logs", "shop", "--json"], &["logs", "one", "--json"]]
    {
        let said = String::from_utf8_lossy(&stand.daemon.pando(args).stdout).into_owned();
        assert!(!said.contains(QUIET), "{args:?}: {said}");
    }
    assert!(!stand.json(&["show", "shop"]).to_string().contains(QUIET));
    stand.end(&[]);
}

const MAPPED: &str = "mapped-secret-7";

#[test]
fn t16_databases_that_nobody_may_enter_are_cut_off_too_and_stay_closed() {
    let Some(stand) = Stand::of(with(&["max_prepared_transactions = 5"])) else { return };
    let production = &stand.production;
    for database in ["hidden", "half", "ruin"] {
        production.psql(&format!("CREATE DATABASE {database}"));
    }
    for database in ["hidden", "half", "ruin", "template1"] {
        production.psql_in(database, "CREATE FOREIGN DATA WRAPPER elsewhere");
        production.psql_in(database, "CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere");
        let mapping = format!("CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (password '{MAPPED}')");
        production.psql_in(database, &mapping);
    }
    production.psql("ALTER DATABASE hidden ALLOW_CONNECTIONS false");
    // As a crash in the middle of a cut leaves one that was closed.
    production.psql("ALTER DATABASE half SET pando.opened = on");
    // As a DROP DATABASE leaves one that was interrupted.
    production.psql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'ruin'");
    stand.link(&["--snapshot-every", "1h"]);

    for (moment, name) in [("shop@latest", "prepared"), ("shop@now", "rolled")] {
        let copy = stand.copy(moment, name);
        let open = copy.sql("SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE datallowconn");
        let shut = copy.sql("SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE NOT datallowconn");
        assert_eq!((open.as_str(), shut.as_str()), ("postgres,template1", "half,hidden,template0"), "{name}");
        assert_eq!(copy.sql("SELECT count(*) FROM pg_db_role_setting"), "0");
        copy.sql("ALTER DATABASE hidden ALLOW_CONNECTIONS true");
        let inside = copy.url().replace("/postgres", "/hidden");
        let mapping = sql_at(&inside, "SELECT coalesce(umoptions::text, '-') FROM pg_user_mappings").unwrap();
        assert_eq!(mapping, "-", "{name}");
    }
    let archive = tempfile::TempDir::new().unwrap();
    let to = archive.path().join("shop.tar");
    stand.json(&["export", "shop@now", "--output", to.to_str().unwrap()]);
    let archived = fs::read(&to).unwrap();
    assert!(archived.len() > 1 << 20);
    assert!(!archived.windows(MAPPED.len()).any(|window| window == MAPPED.as_bytes()), "a password has left");

    // One that waits for what does not end is told so.
    production.psql("CREATE ROLE pando PASSWORD 'x'");
    production.psql("BEGIN; ALTER ROLE pando CONNECTION LIMIT 50; PREPARE TRANSACTION 'xa1'");
    let told = stand.fails(4, &["clone", "shop@now", "never"]);
    assert!(told.contains("pg_prepared_xacts"), "{told}");
    production.psql("ROLLBACK PREPARED 'xa1'");
    stand.copy("shop@now", "again");
    stand.end(&["pg_prepared_xacts"]);
}

/// What production has dropped or changed stays in its pages, in statistics and in the log: not in what leaves.
#[test]
fn t16_no_archive_holds_what_production_has_dropped() {
    let Some(stand) = Stand::new() else { return };
    let production = &stand.production;
    production.psql("CREATE DATABASE second");
    for database in ["postgres", "second"] {
        production.psql_in(database, "CREATE FOREIGN DATA WRAPPER elsewhere");
        production.psql_in(
            database,
            "CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere OPTIONS (key 'secret-of-a-server')",
        );
    }
    let map = |database: &str, password: &str| {
        let mapping = format!("CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (password '{password}')");
        production.psql_in(database, &mapping);
    };
    let drop = |database: &str| production.psql_in(database, "DROP USER MAPPING FOR PUBLIC SERVER elsewhere");
    let verifier = || production.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
    // Before the first copy: in its pages only.
    map("postgres", "secret-of-before");
    production.psql("CREATE ROLE app LOGIN PASSWORD 'one'");
    let mut secrets = vec![verifier()];
    production.psql("ANALYZE pg_user_mapping, pg_authid");
    production.psql("ALTER ROLE app PASSWORD 'two'");
    secrets.push(verifier());
    drop("postgres");
    stand.link(&["--snapshot-every", "1h"]);
    // While it is followed: in the log, too, up to its very end.
    map("second", "secret-of-then");
    production.psql_in("second", "ANALYZE pg_user_mapping");
    drop("second");
    production.psql_in("second", "ALTER SERVER elsewhere OPTIONS (DROP key)");
    production.psql("ALTER SERVER elsewhere OPTIONS (DROP key)");
    stand.json(&["snapshot", "shop"]);
    map("second", "secret-of-now");
    production.psql("ALTER ROLE app PASSWORD 'three'");
    secrets.push(verifier());
    assert!(secrets.iter().all(|secret| secret.starts_with("SCRAM-SHA-256")), "{secrets:?}");
    secrets.extend(["a-server", "before", "then", "now"].map(|of| format!("secret-of-{of}")));

    let left = archived_secrets(&stand, &["shop@now", "shop@latest"], &secrets);
    assert!(left.is_empty(), "{left:#?}");
    stand.end(&[]);
}

/// Those of the secrets that the bytes of an archive hold, for each moment.
fn archived_secrets(stand: &Stand, moments: &[&str], secrets: &[String]) -> Vec<String> {
    let dir = tempfile::TempDir::new().unwrap();
    let to = dir.path().join("shop.tar");
    let mut left = Vec::new();
    for moment in moments {
        stand.json(&["export", moment, "--output", to.to_str().unwrap()]);
        let archived = fs::read(&to).unwrap();
        assert!(archived.len() > 1 << 20);
        let held = |secret: &&String| archived.windows(secret.len()).any(|window| window == secret.as_bytes());
        left.extend(secrets.iter().filter(held).map(|secret| format!("{moment}: {secret}")));
        fs::remove_file(&to).unwrap();
    }
    left
}

/// It keeps the rows that were cut off in the files, whatever is written anew.
#[test]
fn t16_what_holds_a_prepared_transaction_does_not_leave() {
    let Some(stand) = Stand::of(with(&["max_prepared_transactions = 5"])) else { return };
    let production = &stand.production;
    production.psql("CREATE TABLE paid (n int); CREATE ROLE app LOGIN PASSWORD 'one'");
    let secret = production.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
    stand.link(&["--snapshot-every", "1h"]);
    production.psql("BEGIN; INSERT INTO paid VALUES (1); PREPARE TRANSACTION 'order-1'");
    let dir = tempfile::TempDir::new().unwrap();
    let to = dir.path().join("shop.tar");
    let told = stand.fails(4, &["export", "shop@now", "--output", to.to_str().unwrap()]);
    assert!(told.contains("pg_prepared_xacts"), "{told}");
    let copy = stand.copy("shop@now", "copy");
    copy.sql("ROLLBACK PREPARED 'order-1'");
    assert_eq!(archived_secrets(&stand, &["copy@now", "shop@latest"], &[secret]), Vec::<String>::new());
    stand.json(&["rm", "copy"]);
    stand.end(&["pg_prepared_xacts"]);
}
