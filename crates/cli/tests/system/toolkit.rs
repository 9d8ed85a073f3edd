//! A server that Pando does not know, by the worked example of a toolkit: a real etcd is linked, cloned,
//! refreshed, rewound and removed, alone and beside a database.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pando_testkit::{Daemon, ETCD_SECRET, Etcd, etcdctl, example_toolkit, tools, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::sanitised::{command_lines, files_below, holds};
use crate::stand::{PANDO, Raised, Stand, said};

/// Puts a toolkit where the daemon of a home looks for it.
pub fn install(daemon: &Daemon, name: &str, from: &Path) {
    put(&daemon.home().join("toolkits"), name, from);
}

/// Puts an executable into a directory that others may pass.
fn put(dir: &Path, name: &str, from: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(from, dir.join(name)).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// One without a server.
fn notes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/toolkits/notes")
}

/// A key of a clone, asked at its address as its user would.
pub fn value(clone: &Value, source: &str, key: &str) -> String {
    let at = Address::of(clone, source);
    let said = at.ctl(&["get", key, "--print-value-only"]);
    assert!(said.status.success(), "{clone}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// A clone's address, taken apart.
pub struct Address {
    user: String,
    password: String,
    endpoint: String,
}

impl Address {
    pub fn of(clone: &Value, source: &str) -> Self {
        let url = clone["sources"][source]["url"].as_str().unwrap();
        let (user, rest) = url.strip_prefix("http://").unwrap().split_once(':').unwrap();
        let (password, address) = rest.split_once('@').unwrap();
        Self { user: user.to_owned(), password: password.to_owned(), endpoint: format!("http://{address}") }
    }

    pub fn ctl(&self, args: &[&str]) -> Output {
        etcdctl(&self.endpoint, Some((&self.user, &self.password)), args)
    }
}

#[test]
fn an_etcd_is_linked_cloned_refreshed_rewound_and_removed() {
    if !(tools::require_root() && tools::require("mkfs.btrfs")) {
        return;
    }
    let Some(mut production) = Etcd::start() else { return };
    let mut daemon = Daemon::start(Path::new(PANDO));
    production.put("color", "red");
    let url = production.url("etcd");
    let fails = |daemon: &Daemon, code: i32, args: &[&str]| said(&daemon.pando(args), code, args);

    // Not there yet; there, but open to others; there, and a wrong password.
    let missing = fails(&daemon, 4, &["link", "keys", &url]);
    assert!(missing.contains("there is no toolkit etcd"), "{missing}");
    install(&daemon, "etcd", &example_toolkit());
    let path = daemon.home().join("toolkits/etcd");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let open = fails(&daemon, 4, &["link", "keys", &url]);
    assert!(open.contains("chmod go-w"), "{open}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let unknown = fails(&daemon, 1, &["link", "keys", &url.replace(ETCD_SECRET, "prod-secret-wrong")]);
    assert!(unknown.contains("not with this password"), "{unknown}");

    let app = daemon.pando_json(&["link", "keys", &url, "--snapshot-every", "2s"]);
    assert_eq!(app["sources"]["etcd"]["engine"], "toolkit", "{app}");
    assert!(app["sources"]["etcd"]["version"].as_str().unwrap().starts_with("etcd 3"), "{app}");
    let first = daemon.pando_json(&["clone", "keys", "ann"]);
    assert_eq!((first["state"].as_str(), value(&first, "etcd", "color").as_str()), (Some("running"), "red"));
    // The first state at or after a moment, and how far it is off.
    let moment = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    production.put("color", "green");
    let second = daemon.pando_json(&["clone", &format!("keys@{moment}"), "ben"]);
    assert_eq!(value(&second, "etcd", "color"), "green");
    assert!(second["sources"]["etcd"]["skew_seconds"].as_f64().unwrap() >= 0.0, "{second}");

    // Nobody of production enters a clone, and a clone knows no production.
    let own = Address::of(&first, "etcd");
    let stranger = etcdctl(&own.endpoint, Some(("root", ETCD_SECRET)), &["get", "color"]);
    assert!(!stranger.status.success());
    assert!(!etcdctl(&own.endpoint, None, &["get", "color"]).status.success());
    for dir in ["toolkits", "log", "clones"] {
        let found = tools::output(Path::new("grep"), &["-r", ETCD_SECRET, daemon.home().join(dir).to_str().unwrap()]);
        assert!(found.stdout.is_empty(), "{found:?}");
    }

    // What is written in a clone is its own; it is refreshed, taken back, rewound.
    let put = own.ctl(&["put", "color", "mine"]);
    assert!(put.status.success(), "{put:?}");
    let snapshot = daemon.pando_json(&["snapshot", "ann"])["snapshot"].as_str().map(str::to_owned);
    let kept =
        snapshot.or_else(|| daemon.pando_json(&["timeline", "ann"])["snapshots"][0]["id"].as_str().map(str::to_owned));
    let refreshed = daemon.pando_json(&["refresh", "ann@now"]);
    assert_eq!(refreshed["sources"]["etcd"]["url"], first["sources"]["etcd"]["url"]);
    assert_eq!(value(&refreshed, "etcd", "color"), "green");
    assert_eq!(value(&daemon.pando_json(&["undo", "ann"]), "etcd", "color"), "mine");
    let rewound = daemon.pando_json(&["rewind", &format!("ann@{}", kept.unwrap())]);
    assert_eq!(value(&rewound, "etcd", "color"), "mine");

    // A change is noticed, a new snapshot is taken and prepared, and production's end is shown.
    production.put("color", "blue");
    let prepared = || {
        let newest = daemon.pando_json(&["timeline", "keys"])["snapshots"].as_array().unwrap().last().cloned();
        newest.is_some_and(|newest| newest["prepared"] == true)
            && value(&daemon.pando_json(&["refresh", "ben"]), "etcd", "color") == "blue"
    };
    assert!(wait_until(Duration::from_secs(40), prepared), "{}", daemon.log());
    production.stop();
    let away = || daemon.pando_json(&["show", "keys"])["state"] == "disconnected";
    assert!(wait_until(Duration::from_secs(30), away), "{}", daemon.log());
    production.resume();
    let back = || daemon.pando_json(&["show", "keys"])["state"] == "following";
    assert!(wait_until(Duration::from_secs(30), back), "{}", daemon.log());

    // Its server dies, and is started again; the daemon is killed, and finds everything again.
    let ben = daemon.pando_json(&["show", "ben"]);
    let port = format!("127.0.0.1:{}", ben["sources"]["etcd"]["port"]);
    let cmdline = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let server = daemon.processes().into_iter().find(|pid| cmdline(pid).contains(&port)).unwrap();
    rustix::process::kill_process(Pid::from_raw(server.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let answers = || Address::of(&ben, "etcd").ctl(&["get", "color"]).status.success();
    assert!(wait_until(Duration::from_secs(20), answers), "{}", daemon.log());
    daemon.kill9();
    daemon.resume();
    assert_eq!(value(&daemon.pando_json(&["show", "ben"]), "etcd", "color"), "blue");
    daemon.pando_json(&["stop", "ben"]);
    daemon.pando_json(&["start", "ben"]);
    assert_eq!(value(&daemon.pando_json(&["show", "ben"]), "etcd", "color"), "blue");

    for name in ["ann", "ben"] {
        daemon.pando_json(&["rm", name]);
    }
    daemon.pando_json(&["unlink", "keys"]);
    assert!(wait_until(Duration::from_secs(5), || daemon.processes().len() <= 1), "{:?}", daemon.processes());
    assert!(!daemon.log().contains(ETCD_SECRET));
    let alarms = daemon.alarms(&["the heartbeat of an app"]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}

#[test]
fn an_etcd_beside_a_database_shows_the_first_state_at_or_after_the_moment() {
    let Some(stand) = Stand::new() else { return };
    let Some(production) = Etcd::start() else { return };
    install(&stand.daemon, "etcd", &example_toolkit());
    stand.production.psql("CREATE TABLE mark (n int)");
    production.put("n", "0");
    let keys = format!("keys={}", production.url("etcd"));
    stand.link(&[&keys, "--snapshot-every", "1h"]);
    stand.production.psql("INSERT INTO mark VALUES (1)");
    production.put("n", "1");
    std::thread::sleep(Duration::from_millis(1100));
    let moment = jiff::Timestamp::now();
    stand.production.psql("INSERT INTO mark VALUES (2)");
    production.put("n", "2");
    let copy = stand.copy(&format!("shop@{moment}"), "dev");
    assert_eq!(copy.sql("SELECT max(n) FROM mark"), "1");
    assert_eq!(value(&copy.0, "keys", "n"), "2");
    assert!(copy.0["sources"]["keys"]["skew_seconds"].as_f64().unwrap() > 0.0, "{}", copy.0);
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// Secrets that no test says aloud: a password, and an option of a URL.
const QUIET: [&str; 2] = ["quiet-canary-etcd", "quiet-canary-token"];

/// Links with the address on stdin, as one does whose secrets must not show.
fn link_quietly(daemon: &Daemon, app: &str, url: &str) -> Output {
    let mut link = Command::new(PANDO);
    link.args(["link", app, "-", "--snapshot-every", "1h"]).env("PANDO_HOME", daemon.home());
    let mut link = link.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(link.stdin.take().unwrap(), "{url}").unwrap();
    link.wait_with_output().unwrap()
}

#[test]
fn secrets_of_toolkit_sources_show_in_no_log_no_argument_no_open_file_and_not_in_the_catalog() {
    if !(tools::require_root() && tools::require("mkfs.btrfs")) {
        return;
    }
    let Some(production) = Etcd::start() else { return };
    let [password, option] = QUIET;
    production.ctl_as(Some(ETCD_SECRET), &["user", "add", &format!("quiet:{password}")]);
    production.ctl_as(Some(ETCD_SECRET), &["user", "grant-role", "quiet", "root"]);
    let daemon = Daemon::start(Path::new(PANDO));
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (file, leaky) = (dir.path().join("file"), dir.path().join("leaky"));
    fs::write(&file, "one").unwrap();
    // One that says all it was told, and fails.
    let text = "#!/usr/bin/env python3\nimport sys\nif sys.argv[1] == 'identify':\n    \
                print('{\"protocol\": 1, \"title\": \"leaky\", \"version\": \"1\"}')\nelse:\n    sys.exit(sys.stdin.read())\n";
    fs::write(&leaky, text).unwrap();
    for (name, from) in [("etcd", example_toolkit()), ("notes", notes()), ("leaky", leaky)] {
        install(&daemon, name, &from);
    }
    let stop = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        let watch = scope.spawn(|| command_lines(&stop));
        let _ended = Raised(&stop);
        let urls = [
            ("keys", format!("toolkit+etcd://quiet:{password}@127.0.0.1:{}", production.port())),
            ("pad", format!("toolkit+notes://{}?token={option}", file.display())),
            ("never", format!("toolkit+leaky://quiet:{password}@nowhere/?api_token={option}")),
        ];
        for (app, url) in urls {
            let output = link_quietly(&daemon, app, &url);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.success(), app != "never", "{said}");
            assert!(!QUIET.iter().any(|secret| said.contains(secret)), "{said}");
        }
        daemon.pando_json(&["clone", "keys", "ann"]);
        daemon.pando_json(&["clone", "pad", "ben"]);
        production.put("color", "red");
        daemon.pando_json(&["refresh", "ann@now"]);
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    let secrets = QUIET.map(str::to_owned);
    let guilty: Vec<&String> = lines.iter().filter(|line| secrets.iter().any(|one| line.contains(one))).collect();
    assert!(guilty.is_empty(), "{guilty:#?}");
    assert!(lines.iter().any(|line| line.contains("toolkits/etcd")), "the watch saw nothing");
    let home = daemon.home();
    let found = || {
        let mut all = Vec::new();
        files_below(&home, &mut all);
        let big = |path: &PathBuf| path.ends_with("pool.img");
        all.into_iter().filter(|path| !big(path) && holds(path, &secrets)).collect::<Vec<PathBuf>>()
    };
    // A unit's own record, which only root can read, has them while it runs.
    assert!(wait_until(Duration::from_secs(10), || found().is_empty()), "secrets at rest: {:#?}", found());
    let logs = ["keys", "pad", "ann", "ben"].map(|name| ["logs", name, "--json"]);
    let asked = [&["events", "--json"][..], &["ops", "--json"], &["doctor", "--json"], &["ls", "--json"]];
    let shown = ["keys", "pad", "ann", "ben"].map(|name| ["show", name, "--json"]);
    for args in asked.into_iter().chain(logs.iter().chain(&shown).map(|args| &args[..])) {
        let output = daemon.pando(args);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!QUIET.iter().any(|secret| said.contains(secret)), "{args:?}: {said}");
    }
    assert!(!QUIET.iter().any(|secret| daemon.log().contains(secret)), "{}", daemon.log());
    for args in [["rm", "ann"], ["rm", "ben"], ["unlink", "keys"], ["unlink", "pad"]] {
        daemon.pando_json(&args);
    }
}

#[test]
fn the_test_kit_says_of_each_promise_whether_it_holds() {
    let Some(production) = Etcd::start() else { return };
    let run = |args: &[&str], stdin: &str| {
        let mut child = Command::new(PANDO)
            .args(["toolkit", "test"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "etcd", &example_toolkit());
    put(dir.path(), "notes", &notes());
    let path = dir.path().join("etcd");
    let path = path.to_str().unwrap();
    let whole = run(&[path, "-", "--json"], &production.url("any-name"));
    let said: Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert!(whole.status.success() && said["passed"] == true, "{said:#}");
    assert!(said["checks"].as_array().unwrap().len() > 50);
    // The production is another's: nobody there knows this password.
    let refused = run(&[path, &production.url("etcd").replace(ETCD_SECRET, "prod-secret-wrong")], "");
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("FAIL  preflight: this production can be linked"), "{text}");
    assert!(text.contains("FAIL  everything else") && !text.contains("prod-secret"), "{text}");
    assert_eq!(run(&[path, "postgres://u:prod-secret@h/d"], "").status.code(), Some(2));
    // One without a server.
    let production = dir.path().join("file");
    fs::write(&production, "notes").unwrap();
    let url = format!("toolkit+notes://{}", production.display());
    let notes = run(&[dir.path().join("notes").to_str().unwrap(), &url], "");
    let text = String::from_utf8_lossy(&notes.stdout).into_owned();
    assert!(notes.status.success() && text.contains("sanitise: with the clone's own user"), "{text}");
}

#[test]
fn a_toolkit_without_a_server_is_a_tree_that_is_cloned() {
    if !(tools::require_root() && tools::require("mkfs.btrfs") && tools::require("python3")) {
        return;
    }
    let mut daemon = Daemon::start(Path::new(PANDO));
    install(&daemon, "notes", &notes());
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let production = dir.path().join("file");
    let url = format!("toolkit+notes://{}", production.display());
    let missing = said(&daemon.pando(&["link", "pad", &url]), 1, &["link"]);
    assert!(missing.contains("cannot be read"), "{missing}");
    fs::write(&production, "one").unwrap();
    daemon.pando_json(&["link", "pad", &url, "--snapshot-every", "1h"]);
    let copy = daemon.pando_json(&["clone", "pad", "dev"]);
    let source = &copy["sources"]["notes"];
    assert!(source["url"].is_null() && source["port"].is_null(), "{copy}");
    let file = Path::new(source["path"].as_str().unwrap()).join("data/notes");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one");
    fs::write(&file, "mine").unwrap();
    fs::write(&production, "two").unwrap();
    daemon.pando_json(&["refresh", "dev@now"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    daemon.pando_json(&["undo", "dev"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    daemon.pando_json(&["stop", "dev"]);
    daemon.restart();
    daemon.pando_json(&["start", "dev"]);
    // Nobody takes it for a clone whose server has died.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.pando_json(&["show", "dev"])["state"], "running");
    daemon.pando_json(&["rm", "dev"]);
    daemon.pando_json(&["unlink", "pad"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
    assert!(!daemon.log().contains("server-restarted"), "{}", daemon.log());
}
