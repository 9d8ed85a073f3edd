//! What the user of a clone reaches by its server: it is a superuser there, runs programs, and may look around.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::{RedisProduction, tools, wait_until};
use tempfile::TempDir;

use crate::stand::{Copy, Stand};

/// What a program says that the clone's server runs.
fn program(copy: &Copy, script: &str) -> String {
    copy.sql("DROP TABLE IF EXISTS said");
    copy.sql("CREATE TABLE said (number serial, line text)");
    copy.sql(&format!(
        "COPY said (line) FROM PROGRAM $$ {{ {script}; }} 2>&1 || true $$ (FORMAT csv, DELIMITER E'\\x01')"
    ));
    copy.sql("SELECT line FROM said ORDER BY number")
}

/// Whose a process is, and where it works.
fn user(pid: u32) -> u32 {
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

fn postmaster(data: &Path) -> u32 {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().trim().parse().unwrap()
}

/// The directory of a server's sockets.
fn sockets(data: &Path) -> PathBuf {
    PathBuf::from(fs::read_to_string(data.join("postmaster.pid")).unwrap().lines().nth(4).unwrap().trim())
}

/// What asks a server by its socket.
fn asks(data: &Path, user: &str) -> String {
    let psql = tools::newest_postgres().unwrap().join("psql");
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let port = text.lines().nth(3).unwrap();
    format!("{} -h {} -p {port} -U {user} -d postgres -Atc 'SELECT 7'", psql.display(), sockets(data).display())
}

#[test]
fn whoever_has_a_clone_reaches_no_other_clone_and_no_mirror() {
    let Some(stand) = Stand::new().filter(|_| tools::require("redis-server")) else { return };
    let redis = RedisProduction::start(&[]);
    stand.link(&["--snapshot-every", "1h"]);
    stand.json(&["link", "cache", &format!("q={}", redis.url(0)), "--snapshot-every", "1h"]);
    let connections = |of: u32| {
        let open = fs::read_dir(format!("/proc/{of}/fd")).unwrap().flatten();
        open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with("socket:"))).count()
    };
    let before = connections(stand.daemon.pid());
    let one = stand.copy("shop", "one");
    let two = stand.copy_with("shop", "two", &["--record"]);
    stand.json(&["clone", "cache", "c"]);

    // Each has a number of its own, and the mirror the account's.
    let home = stand.daemon.home().canonicalize().unwrap();
    let mirrors: Vec<PathBuf> = fs::read_dir(home.join("pool/volumes"))
        .unwrap()
        .map(|volume| volume.unwrap().path().join("db"))
        .filter(|data| data.join("standby.signal").exists())
        .collect();
    let [mirror] = &mirrors[..] else { panic!("{mirrors:?}") };
    let [mine, others, account] = [one.postmaster(), two.postmaster(), postmaster(mirror)].map(user);
    assert_eq!(BTreeSet::from([mine, others, account, 0]).len(), 4, "{mine} {others} {account}");
    assert_eq!(program(&one, "id -u; id -G"), format!("{mine}\n{mine}"));
    let doctor = stand.json(&["doctor"]);
    let said = doctor["items"].as_array().unwrap().iter().find(|item| item["what"] == "account").unwrap();
    assert_eq!(said["level"], "ok", "{said}");

    // Of all that Pando has it reads, enters and changes what is its own; it knows every name, though it could not list them.
    let run = pando_daemon::run_dir(&home);
    let list = TempDir::new().unwrap();
    fs::set_permissions(list.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let places = [home.display().to_string(), run.display().to_string()];
    let all =
        tools::run("find", &[&places[0], &places[1], "(", "-type", "f", "-o", "-type", "s", "-o", "-type", "d", ")"]);
    assert!(
        all.lines().any(|path| path.ends_with("/passfile")) && all.lines().any(|path| path.ends_with("/secret.key"))
    );
    fs::write(list.path().join("paths"), &all).unwrap();
    let reached = "[ -f \"$p\" -a -r \"$p\" -o -w \"$p\" ] && echo \"$p\"";
    let found = program(&one, &format!("while read -r p; do {reached}; done < {}/paths", list.path().display()));
    let own = [one.path("db").canonicalize().unwrap(), sockets(&one.path("db"))];
    let (inside, outside): (Vec<&str>, Vec<&str>) =
        found.lines().partition(|path| own.iter().any(|dir| Path::new(path).starts_with(dir)));
    assert!(inside.iter().any(|path| path.ends_with("PG_VERSION")) && inside.len() > 100, "{found}");
    // The mark of a pool says nothing.
    let strange: Vec<&&str> = outside.iter().filter(|path| !path.ends_with("/pool/.pando-pool")).collect();
    assert!(strange.is_empty(), "{strange:#?}");

    // The sockets, signals, and environments of the others.
    for data in [&two.path("db"), mirror] {
        let asked = program(&one, &asks(data, "postgres"));
        assert!(asked.contains("Permission denied"), "{asked}");
        let pid = postmaster(data);
        let told = program(&one, &format!("kill -INT {pid}; cat /proc/{pid}/environ"));
        assert!(told.contains("not permitted") && told.contains("Permission denied"), "{told}");
    }
    let mine = program(&one, &asks(&one.path("db"), "pando"));
    assert_eq!(mine, "7", "its own socket is open to it");

    // On the disk all is the account's: clones go on from each other's trees, a stopped one starts, and none is left behind.
    for path in ["PG_VERSION", "base", "postgresql.conf", "postmaster.pid"] {
        assert_eq!(fs::metadata(one.path("db").join(path)).unwrap().uid(), account, "{path}");
    }
    one.sql("CREATE TABLE mine AS SELECT 5 AS x");
    let three = stand.copy("one", "three");
    assert_eq!(three.sql("SELECT x FROM mine"), "5");
    let user_of_one = user(one.postmaster());
    stand.json(&["stop", "one"]);
    stand.json(&["start", "one"]);
    assert_eq!(user(stand.show("one").postmaster()), user_of_one);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = table.lines().filter(|line| line.contains(home.to_str().unwrap())).count();
    assert_eq!(mounts, 1, "the pool, and nothing else: {table}");
    for name in ["three", "two", "one", "c"] {
        stand.json(&["rm", name]);
    }
    // A connection to a server that has gone keeps what it was confined to, and with that its volume.
    let closed = || connections(stand.daemon.pid()) <= before;
    assert!(wait_until(Duration::from_secs(10), closed), "{before} before, {} now", connections(stand.daemon.pid()));
    let mode = fs::metadata(&home).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o711);
    stand.end(&[]);
}
