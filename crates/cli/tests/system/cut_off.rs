//! Clones of every kind of server in a network of their own. Seen from production's side none of their processes ever comes
//! to it; and when there is no way to production any more, everything that clones do goes on. Meanwhile secrets that
//! were planted are looked for: in command lines, logs, events, the catalog, and in files that others may read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use pando_testkit::{Daemon, MariadbProduction, Network, Production, RedisProduction, tools};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::others;
use crate::proxy::Proxy;
use crate::sanitised::{command_lines, files_below, holds};
use crate::stand::{Copy, PANDO, Raised, bounded, production};

/// Passwords of production that no test says aloud.
const CANARIES: [&str; 3] = ["quiet-canary-pg", "quiet-canary-my", "quiet-canary-q"];

struct World {
    daemon: Daemon,
    lines: [Proxy; 3],
    _pg: Production,
    _my: MariadbProduction,
    _q: RedisProduction,
    net: Network,
}

impl World {
    fn new() -> Option<Self> {
        let there =
            ["mariadbd", "mariadb-install-db", "mariadb", "redis-server"].iter().all(|tool| tools::require(tool));
        let net = Network::new().filter(|_| there)?;
        let (pg, my, q) = (production(bounded())?, MariadbProduction::start(&[]), RedisProduction::start(&[]));
        let [one, two, three] = CANARIES;
        pg.psql(&format!("CREATE ROLE quiet SUPERUSER REPLICATION LOGIN PASSWORD '{one}'"));
        pg.psql("CREATE TABLE mark AS SELECT 1 AS n");
        my.sql(&format!(
            "CREATE USER quiet@'%' IDENTIFIED BY '{two}'; GRANT ALL ON *.* TO quiet@'%' WITH GRANT OPTION"
        ));
        my.sql(others::TABLES);
        q.client().run(&["ACL", "SETUSER", "quiet", "on", &format!(">{three}"), "~*", "&*", "+@all"]);
        q.client().run(&["MSET", "count", "0", "again", "0"]);
        let lines = [pg.port(), my.port(), q.port()].map(|port| Proxy::on(&net.outside(), port));
        let daemon = Daemon::start(&net.inside(Path::new(PANDO)));
        Some(Self { daemon, lines, _pg: pg, _my: my, _q: q, net })
    }

    /// Links with addresses on stdin, as one does whose passwords must not show.
    fn link(&self) {
        let [pg, my, q] = self.lines.each_ref().map(Proxy::place);
        let [one, two, three] = CANARIES;
        let mut link = Command::new(PANDO);
        link.args(["link", "shop", "-", "--snapshot-every", "2s"]).env("PANDO_HOME", self.daemon.home());
        let mut link = link.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let text = format!(
            "db=postgres://quiet:{one}@{pg}/postgres\nmy=mariadb://quiet:{two}@{my}/blog\nq=redis://quiet:{three}@{q}/0\n"
        );
        link.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = link.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success() && !CANARIES.iter().any(|canary| said.contains(canary)), "{said}");
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn guests(&self) -> [usize; 3] {
        self.lines.each_ref().map(Proxy::guests)
    }

    /// Writes on a clone, and asks whether all of it is there.
    fn used(&self, view: &Value) {
        self.net.enter(|| {
            let copy = Copy(view.clone());
            copy.sql("CREATE TABLE own AS SELECT generate_series(1, 20000) AS n");
            copy.sql("CHECKPOINT");
            others::begin(view);
            others::add(view, 1);
            assert!(others::whole(view), "{view}");
        });
    }
}

/// The processes of clones: those that work in one of their trees, or name it.
pub fn belongs(pid: u32, trees: &[PathBuf]) -> bool {
    let at = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned();
    trees.iter().any(|tree| at.starts_with(tree) || line.contains(&*tree.to_string_lossy()))
}

fn trees(view: &Value) -> Vec<PathBuf> {
    let sources = view["sources"].as_object().unwrap();
    sources.values().map(|source| PathBuf::from(source["path"].as_str().unwrap()).canonicalize().unwrap()).collect()
}

#[test]
fn t17_m02_r07_no_process_of_a_clone_comes_to_production_and_none_needs_a_way_there() {
    let Some(mut world) = World::new() else { return };
    let stop = AtomicBool::new(false);
    let (lines, views) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| command_lines(&stop));
        let _ended = Raised(&stop);
        world.link();
        let views = [
            world.json(&["clone", "shop", "one", "--profile", "durable", "--record"]),
            world.json(&["clone", "shop@now", "two"]),
        ];
        views.iter().for_each(|view| world.used(view));
        stop.store(true, Ordering::Relaxed);
        (watch.join().unwrap(), views)
    });

    // Whatever else runs is killed; what comes to production now comes from a clone.
    let all: Vec<PathBuf> = views.iter().flat_map(trees).collect();
    world.daemon.kill9();
    let left: Vec<u32> = world.daemon.processes().into_iter().filter(|pid| belongs(*pid, &all)).collect();
    for pid in world.daemon.processes().into_iter().filter(|pid| !left.contains(pid)) {
        let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
    }
    let named = |name: &str| {
        let comm = |pid: &&u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().starts_with(name);
        left.iter().filter(comm).count()
    };
    assert!(named("postgres") >= 2 && named("mariadbd") == 2 && named("redis-server") == 2, "{left:?}");
    sleep(Duration::from_millis(500));
    let before = world.guests();
    assert!(before.iter().all(|guests| *guests > 0), "{before:?}: nobody has ever come");
    for view in &views {
        world.net.enter(|| {
            let copy = Copy(view.clone());
            copy.sql("INSERT INTO own SELECT generate_series(1, 20000)");
            copy.sql("SELECT pg_switch_wal()");
            others::add(view, 2);
        });
    }
    sleep(Duration::from_secs(4));
    assert_eq!(world.guests(), before, "a clone has come to production");

    // There is no way to production any more.
    world.net.cut();
    world.daemon.resume();
    let moment = world.json(&["timeline", "shop"])["ranges"].as_array().unwrap().last().unwrap()["to"].clone();
    world.used(&world.json(&["clone", "shop", "three"]));
    world.used(&world.json(&["clone", &format!("shop@{}", moment.as_str().unwrap()), "four"]));
    world.json(&["refresh", "two"]);
    world.used(&world.json(&["show", "two"]));
    world.json(&["stop", "one"]);
    world.json(&["start", "one"]);
    world.json(&["refresh", "one"]);
    world.json(&["undo", "one"]);
    let one = world.json(&["show", "one"]);
    world.net.enter(|| assert_eq!(others::counts(&one).map(|(_, count)| count), [2, 2]));
    let refused = world.daemon.pando(&["clone", "shop@now", "never"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("present state cannot be reached"), "{said}");
    assert_eq!(world.guests(), before);
    secrets_are_kept(&world, &lines, &views);
    world.json(&["rm", "one", "two", "three", "four"]);
}

fn secrets_are_kept(world: &World, lines: &std::collections::BTreeSet<String>, views: &[Value]) {
    let password = |view: &Value, source: &str| {
        let url = view["sources"][source]["url"].as_str().unwrap();
        url.rsplit_once('@').unwrap().0.rsplit_once(':').unwrap().1.to_owned()
    };
    let own = views.iter().flat_map(|view| ["db", "my", "q"].map(|source| password(view, source)));
    let canaries = CANARIES.map(str::to_owned);
    let secrets: Vec<String> = canaries.iter().cloned().chain(own).collect();
    let guilty: Vec<&String> = lines.iter().filter(|line| secrets.iter().any(|one| line.contains(one))).collect();
    assert!(guilty.is_empty(), "{guilty:#?}");
    assert!(lines.iter().any(|line| line.contains("pg_basebackup")), "the watch saw nothing");
    let home = world.daemon.home();
    let mut all = Vec::new();
    files_below(&home, &mut all);
    let ours = |path: &&PathBuf| !["pool", "pool.img", "log"].iter().any(|one| path.starts_with(home.join(one)));
    let kept: Vec<&PathBuf> = all.iter().filter(ours).filter(|path| holds(path, &secrets)).collect();
    assert!(kept.is_empty(), "secrets at rest: {kept:#?}");
    files_below(&pando_daemon::run_dir(&home.canonicalize().unwrap()), &mut all);
    let open = |path: &&PathBuf| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o007 != 0);
    let open: Vec<&PathBuf> = all.iter().filter(open).filter(|path| holds(path, &secrets)).collect();
    assert!(open.is_empty(), "secrets open to all: {open:#?}");
    let asked = [&["events", "--json"][..], &["ops", "--json"], &["show", "shop", "--json"], &["doctor", "--json"]];
    let logs = ["shop", "one", "two"].map(|name| ["logs", name, "--json"]);
    for args in asked.into_iter().chain(logs.iter().map(|args| &args[..])) {
        let said = String::from_utf8_lossy(&world.daemon.pando(args).stdout).into_owned();
        let told = canaries.iter().find(|secret| said.contains(secret.as_str()));
        assert_eq!(told, None, "{args:?}: {said}");
    }
    let log = world.daemon.log();
    let told = secrets.iter().find(|secret| log.contains(secret.as_str()));
    assert_eq!(told, None, "{log}");
}
