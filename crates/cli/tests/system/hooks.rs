//! Hooks, edits and `apply` on the real daemon: real commands run as the account that owns nothing, real files and a
//! real database are stitched, and whatever fails leaves the clone as it was, with the hook's words in the error.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_testkit::wait_until;
use serde_json::Value;
use tempfile::TempDir;

use crate::stand::{Stand, entries, sql_at};

const DBCONFIG: &str = "<?xml version=\"1.0\"?>\r\n<!-- production -->\n<config>\n  <url>jdbc:prod</url><!-- here -->\n  <pool size='20'/>\n</config>\n";
const YAML: &str = "production:\n  host: db.prod # the old one\n  port: 5432\n";

/// The hook of all points: notes that it ran, as whom and with what, and fails or waits when it is told to.
const HOOK: &str = r#"#!/bin/sh
dir=${0%/*}
cat > "$dir/notes/$PANDO_HOOK_POINT.json"
id -un > "$dir/notes/account"
echo "$PANDO_HOOK_POINT $PANDO_OWNER_NAME" >> "$dir/notes/ran"
if [ -e "$dir/notes/fail-$PANDO_HOOK_POINT" ]; then
    echo "$PANDO_HOOK_POINT has no luck with $PANDO_DB_PASSWORD" >&2
    exit 7
fi
if [ -e "$dir/notes/wait-$PANDO_HOOK_POINT" ]; then
    echo "waiting"
    setsid sleep 1000 & echo $! > "$dir/notes/child"
    sleep 1000
fi
"#;

struct Rig {
    stand: Stand,
    dir: TempDir,
}

impl Rig {
    /// A production with configuration files, a hook at every point.
    fn new() -> Option<Self> {
        let stand = Stand::new()?;
        stand
            .production
            .psql("CREATE TABLE mark (n int); CREATE TABLE site (url text); INSERT INTO site VALUES ('https://prod')");
        let files = stand.files();
        fs::create_dir(files.join("conf")).unwrap();
        for (name, text) in
            [("conf/dbconfig.xml", DBCONFIG), ("database.yml", YAML), ("app.env", "# e\nURL=prod\n"), (".lock", "1")]
        {
            fs::write(files.join(name), text).unwrap();
        }
        fs::set_permissions(files.join("conf/dbconfig.xml"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(files.join("conf/dbconfig.xml"), Some(12345), Some(23456)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", files.join("out.env")).unwrap();
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("notes")).unwrap();
        fs::set_permissions(dir.path().join("notes"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("hook"), HOOK).unwrap();
        fs::set_permissions(dir.path().join("hook"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { stand, dir })
    }

    fn note(&self, name: &str) -> PathBuf {
        self.dir.path().join("notes").join(name)
    }

    fn ran(&self) -> Vec<String> {
        let file = self.note("ran");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines().map(str::to_owned).collect()
    }

    /// The file that describes the app, with something more at its end.
    fn file(&self, more: &str) -> String {
        fs::write(self.dir.path().join("url"), format!("{}\n", self.stand.production.url("postgres"))).unwrap();
        let points = [
            "post-ingest",
            "configure-clone",
            "pre-refresh",
            "post-refresh",
            "pre-rewind",
            "post-rewind",
            "pre-start",
            "post-start",
            "pre-stop",
            "post-stop",
            "pre-destroy",
            "post-promote",
        ];
        let hook = self.dir.path().join("hook");
        let hooks: String =
            points.iter().map(|at| format!("[[hooks]]\nat = \"{at}\"\nrun = [\"{}\"]\n", hook.display())).collect();
        let text = format!(
            r#"app = "shop"
[[sources]]
name = "db"
url = "${{file:url}}"
[[sources]]
name = "files"
url = "file://{}"
[policy]
snapshot_every_seconds = 3600
[[edits]]
set = "files/conf/dbconfig.xml"
path = "/config/url"
value = "jdbc:postgresql://{{{{db.host}}}}:{{{{db.port}}}}/{{{{db.database}}}}"
[[edits]]
set = "files/database.yml"
path = "/production/port"
value = "{{{{db.port}}}}"
[[edits]]
replace = "files/app.env"
pattern = "URL=.*"
with = "URL={{{{db.url}}}}"
[[edits]]
remove = "files/.lock"
[[edits]]
write = "files/conf/clone.env"
text = "NAME={{{{clone.name}}}}\n"
mode = "0644"
[[edits]]
sql = "UPDATE site SET url = 'http://{{{{db.host}}}}:{{{{db.port}}}}/{{{{clone.name}}}}'"
{hooks}{more}"#,
            self.stand.files().display()
        );
        let path = self.dir.path().join("app.toml");
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// Makes the hook of a point fail in an operation, which is undone: its words are in the error, without secrets,
    /// and everything is as it was.
    fn fails(&self, point: &str, args: &[&str], password: &str) {
        let stand = &self.stand;
        let snapshots = || {
            // For `@now` a snapshot of the app is taken, which stays: it is the app's.
            let counts = |name: &&str| *name == "dev" || !args.contains(&"dev@now");
            let of = |name: &str| {
                let all = stand.json(&["timeline", name])["snapshots"].clone();
                let told = |one: &Value| format!("{} taken {}", one["id"], one["taken_at"]);
                all.as_array().unwrap().iter().map(told).collect::<Vec<_>>()
            };
            ["shop", "dev"].into_iter().filter(counts).flat_map(of).collect::<Vec<_>>()
        };
        let rest = || (stand.json(&["ls"])["clones"].as_array().unwrap().len(), self.state("dev"));
        let before = (snapshots(), rest());
        fs::write(self.note(&format!("fail-{point}")), "").unwrap();
        let said = stand.fails(1, args);
        fs::remove_file(self.note(&format!("fail-{point}"))).unwrap();
        // An app has no password.
        let secret = if args[1] == "shop" && args[0] == "snapshot" { "" } else { " ***" };
        let line = format!("it printed: {point} has no luck with{secret}");
        assert!(said.contains(&format!("({point})")) && said.contains("exit code 7") && said.contains(&line), "{said}");
        assert!(!said.contains(password), "{said}");
        let mut after = snapshots();
        if ["refresh", "rewind", "promote"].contains(&args[0]) && !point.starts_with("pre-") {
            // What it records from now on can be asked for, too: the heartbeat takes a snapshot for that.
            let begun = || snapshots().len() > before.0.len();
            assert!(wait_until(Duration::from_secs(20), begun), "{args:?} without {point}");
            after.retain(|one| before.0.contains(one));
        }
        assert_eq!((after, rest()), before, "{args:?} without {point}");
        stand.nothing_strange();
    }

    /// What a clone holds, whole.
    fn state(&self, name: &str) -> String {
        let copy = self.stand.show(name);
        let files = copy.path("files");
        let text = |file: &str| fs::read_to_string(files.join(file)).unwrap();
        let rows = sql_at(copy.url(), "SELECT string_agg(n::text, ',' ORDER BY n) FROM mark; SELECT url FROM site");
        let rows = if copy.0["state"] == "running" { rows.unwrap() } else { "stopped".to_owned() };
        let all =
            [rows, text("conf/dbconfig.xml"), text("database.yml"), text("app.env"), format!("{:?}", entries(&files))];
        format!(
            "{} {} {} {}\n{}",
            copy.0["state"],
            copy.0["moment"],
            copy.url(),
            files.canonicalize().unwrap().display(),
            all.join("\n")
        )
    }
}

#[test]
fn a_clone_is_stitched_and_stays_so() {
    let Some(rig) = Rig::new() else { return };
    let stand = &rig.stand;
    let file = rig.file("");
    let plan = stand.json(&["apply", &file, "--dry-run"]);
    assert!(
        plan["links"] == true && plan.to_string().contains("configure-clone: set files/conf/dbconfig.xml /config/url"),
        "{plan}"
    );
    assert_eq!(stand.json(&["ls"])["apps"], serde_json::json!([]));
    stand.json(&["apply", &file]);
    assert_eq!(rig.ran(), ["post-ingest shop"]);
    assert_eq!(stand.json(&["apply", &file, "--dry-run"])["changes"], serde_json::json!([]));
    stand.json(&["apply", &file]);
    assert_eq!(rig.ran(), Vec::<String>::new());

    let copy = stand.copy("shop", "dev");
    assert_eq!(rig.ran(), ["configure-clone dev"]);
    let (files, port) = (copy.path("files"), copy.port());
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap();
    assert_eq!(
        read("conf/dbconfig.xml"),
        DBCONFIG.replace("jdbc:prod", &format!("jdbc:postgresql://127.0.0.1:{port}/postgres"))
    );
    assert_eq!(read("database.yml"), YAML.replace("5432", &port.to_string()));
    assert_eq!(read("app.env"), format!("# e\nURL={}\n", copy.url()));
    assert_eq!(read("conf/clone.env"), "NAME=dev\n");
    assert!(!files.join(".lock").exists());
    let meta = fs::metadata(files.join("conf/dbconfig.xml")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12345, 23456, 0o640));
    assert_eq!(copy.sql("SELECT url FROM site"), format!("http://127.0.0.1:{port}/dev"));
    assert_eq!(fs::read_to_string(rig.note("account")).unwrap(), "pando-hook\n");
    let facts: Value = serde_json::from_str(&fs::read_to_string(rig.note("configure-clone.json")).unwrap()).unwrap();
    let db = &facts["sources"]["db"];
    assert_eq!(
        (db["url"].as_str(), db["port"].as_str()),
        (Some(copy.url()), Some(port.to_string().as_str())),
        "{facts}"
    );
    assert_eq!(facts["sources"]["files"]["path"].as_str(), files.to_str());
    assert_eq!(facts["clone"]["name"], "dev");
    assert!(!facts.to_string().contains("prod-secret"), "{facts}");

    // A refresh and a clone of the clone are stitched anew.
    stand.production.psql("INSERT INTO mark VALUES (1); UPDATE site SET url = 'https://prod2'");
    stand.json(&["refresh", "dev@now"]);
    assert_eq!(rig.ran(), ["pre-refresh dev", "configure-clone dev", "post-refresh dev"]);
    assert_eq!(stand.show("dev").sql("SELECT url FROM site"), format!("http://127.0.0.1:{port}/dev"));
    let child = stand.copy("dev", "child");
    let config = fs::read_to_string(child.path("files").join("conf/dbconfig.xml")).unwrap();
    assert!(config.contains(&format!(":{}/", child.port())) && !config.contains(&format!(":{port}/")), "{config}");
    assert_eq!(fs::read_to_string(child.path("files").join("app.env")).unwrap(), format!("# e\nURL={}\n", child.url()));

    // Production was never touched.
    assert_eq!(fs::read_to_string(stand.files().join("conf/dbconfig.xml")).unwrap(), DBCONFIG);
    assert_eq!(stand.production.psql("SELECT url FROM site"), "https://prod2");
    for name in ["child", "dev"] {
        stand.json(&["rm", name]);
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    rig.stand.end(&[]);
}

#[test]
fn a_failing_hook_undoes_its_operation_and_says_what_it_printed() {
    let Some(rig) = Rig::new() else { return };
    let stand = &rig.stand;
    let snapshots: String = ["pre-snapshot", "post-snapshot"]
        .iter()
        .map(|at| format!("[[hooks]]\nat = \"{at}\"\nrun = [\"{}\"]\n", rig.dir.path().join("hook").display()))
        .collect();
    let file = rig.file(&snapshots);
    fs::write(rig.note("fail-post-ingest"), "").unwrap();
    let said = stand.fails(1, &["apply", &file]);
    assert!(
        said.contains("the hook hook (post-ingest) of shop failed")
            && said.contains("it printed: post-ingest has no luck"),
        "{said}"
    );
    stand.nothing_left();
    fs::remove_file(rig.note("fail-post-ingest")).unwrap();
    stand.json(&["apply", &file]);
    let copy = stand.copy_with("shop", "dev", &["--record"]);
    copy.sql("INSERT INTO mark VALUES (100)");
    stand.json(&["bookmark", "dev", "then"]);
    stand.production.psql("INSERT INTO mark VALUES (1)");

    // Each point in each operation that comes by it.
    let table: [(&str, &[&str]); 18] = [
        ("configure-clone", &["clone", "shop", "fresh"]),
        ("configure-clone", &["clone", "dev", "fresh"]),
        ("pre-snapshot", &["clone", "dev@now", "fresh"]),
        ("pre-refresh", &["refresh", "dev@now"]),
        ("configure-clone", &["refresh", "dev@now"]),
        ("post-refresh", &["refresh", "dev@now"]),
        ("pre-rewind", &["rewind", "dev@then"]),
        ("configure-clone", &["rewind", "dev@then"]),
        ("post-rewind", &["rewind", "dev@then"]),
        ("pre-snapshot", &["snapshot", "dev"]),
        ("post-snapshot", &["snapshot", "dev"]),
        ("pre-snapshot", &["snapshot", "shop"]),
        ("post-snapshot", &["snapshot", "shop"]),
        ("post-snapshot", &["bookmark", "dev", "other"]),
        ("pre-stop", &["stop", "dev"]),
        ("post-stop", &["stop", "dev"]),
        ("post-promote", &["promote", "dev"]),
        ("pre-destroy", &["rm", "dev"]),
    ];
    for (point, args) in table {
        rig.fails(point, args, &copy.password());
    }
    stand.json(&["stop", "dev"]);
    for point in ["pre-start", "post-start"] {
        rig.fails(point, &["start", "dev"], &copy.password());
    }
    stand.json(&["start", "dev"]);
    assert_eq!(stand.show("dev").sql("SELECT string_agg(n::text, ',') FROM mark"), "100");

    // It is rewound to a second behind all that, though no snapshot was due.
    let copy = stand.show("dev");
    let reaches = |at: Timestamp| {
        let ranges = stand.json(&["timeline", "dev"])["ranges"].clone();
        let to = |range: &Value| range["to"].as_str().unwrap().parse::<Timestamp>().unwrap();
        ranges.as_array().unwrap().iter().any(|range| to(range) > at)
    };
    fs::write(rig.note("fail-post-refresh"), "").unwrap();
    stand.fails(1, &["refresh", "dev"]);
    fs::remove_file(rig.note("fail-post-refresh")).unwrap();
    let failed = Timestamp::now();
    assert!(wait_until(Duration::from_secs(20), || reaches(failed)), "{}", stand.json(&["timeline", "dev"]));
    copy.sql("INSERT INTO mark VALUES (101)");
    let moment = Timestamp::now() + SignedDuration::from_millis(500);
    assert!(wait_until(Duration::from_secs(20), || reaches(moment)), "{}", stand.json(&["timeline", "dev"]));
    copy.sql("DELETE FROM mark");
    stand.json(&["rewind", &format!("dev@{moment}")]);
    assert_eq!(stand.show("dev").sql("SELECT string_agg(n::text, ',') FROM mark"), "100,101");

    // An edit that finds nothing, and statements that the server refuses.
    let edit = "[[edits]]\nset = \"files/conf/dbconfig.xml\"\npath = \"/config/nothing\"\nvalue = \"x\"\n";
    stand.json(&["apply", &rig.file(edit)]);
    let said = stand.fails(1, &["refresh", "dev"]);
    assert!(said.contains("files/conf/dbconfig.xml: /config/nothing is not there"), "{said}");
    let edit = "[[edits]]\nset = \"files/out.env\"\npath = \"X\"\nvalue = \"x\"\n";
    stand.json(&["apply", &rig.file(edit)]);
    let said = stand.fails(1, &["clone", "shop", "fresh"]);
    assert!(said.contains("a link leads out"), "{said}");
    stand.json(&["apply", &rig.file("[[edits]]\nsql = \"UPDATE nowhere SET x = 1\"\n")]);
    let said = stand.fails(1, &["clone", "shop", "fresh"]);
    assert!(said.contains("relation \"nowhere\" does not exist"), "{said}");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    rig.stand.end(&["the heartbeat", "nowhere"]);
}

#[test]
fn a_hook_that_takes_too_long_is_killed_with_all_it_started_and_none_is_somebody_else() {
    let Some(rig) = Rig::new() else { return };
    let stand = &rig.stand;
    let program = rig.dir.path().join("hook");
    let hook = |more: &str| {
        format!("[[hooks]]\nat = \"configure-clone\"\nname = \"slow\"\nrun = [\"{}\"]\n{more}", program.display())
    };
    let file = rig.file("");
    let text = fs::read_to_string(&file).unwrap();
    let head = text.split("[[hooks]]").next().unwrap().to_owned();
    let with = |more: &str| {
        fs::write(&file, format!("{head}{}", hook(more))).unwrap();
        file.clone()
    };
    let started = rig.note("child");
    fs::write(rig.note("wait-configure-clone"), "").unwrap();
    stand.json(&["apply", &with("timeout_seconds = 2\n")]);
    let said = stand.fails(1, &["clone", "shop", "fresh"]);
    assert!(
        said.contains("the hook slow")
            && said.contains("longer than 2 s and was killed")
            && said.contains("it printed: waiting"),
        "{said}"
    );
    let gone = || {
        let pid = fs::read_to_string(&started).unwrap();
        !Path::new(&format!("/proc/{}", pid.trim())).exists()
    };
    assert!(wait_until(Duration::from_secs(5), gone), "what the hook has started goes on");
    stand.fails(3, &["show", "fresh"]);

    // The daemon dies while a hook runs: the next one ends the hook and undoes the clone.
    stand.json(&["apply", &with("")]);
    fs::remove_file(&started).unwrap();
    stand.json(&["clone", "shop", "fresh", "--detach"]);
    assert!(wait_until(Duration::from_secs(30), || started.exists()), "{}", stand.daemon.log());
    let mut rig = rig;
    rig.stand.daemon.kill9();
    rig.stand.daemon.resume();
    let stand = &rig.stand;
    assert!(wait_until(Duration::from_secs(5), gone), "what the hook has started goes on");
    let undone = || stand.daemon.pando(&["show", "fresh"]).status.code() == Some(3);
    assert!(wait_until(Duration::from_secs(20), undone), "{}", stand.daemon.log());
    fs::remove_file(rig.note("wait-configure-clone")).unwrap();

    // Nobody becomes somebody else unless the machine's owner says so.
    let said = stand.fails(4, &["apply", &with("account = \"root\"\n")]);
    assert!(said.contains("may not run as root") && said.contains("hook-accounts"), "{said}");
    fs::write(stand.daemon.home().join("hook-accounts"), "nobody\nroot\n").unwrap();
    fs::remove_file(rig.note("account")).unwrap();
    stand.json(&["apply", &with("account = \"nobody\"\n")]);
    stand.json(&["clone", "shop", "fresh"]);
    assert_eq!(fs::read_to_string(rig.note("account")).unwrap(), "nobody\n");
    for bad in ["acount = \"root\"\n", "timeout_seconds = \"5\"\n", "env = { A = \"${NOT_SET_ANYWHERE}\" }\n"] {
        stand.fails(2, &["apply", &with(bad)]);
    }
    let said = stand.fails(2, &["apply", &with("acount = \"root\"\n")]);
    assert!(said.contains("unknown key acount") && said.contains("did you mean account?"), "{said}");
    stand.json(&["rm", "fresh"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    rig.stand.end(&["the heartbeat"]);
}
