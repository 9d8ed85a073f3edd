//! A MariaDB or MySQL that leaves its machine, as an archive and as an image: all that it holds comes along, and of
//! the passwords of production's accounts not one byte, also of those that are gone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pando_testkit::{Docker, FamilyProduction, ImageRegistry, sql_at, wait_until};

use super::{Side, Stand, at, second, url};
use crate::stand::entries;

/// Of every kind of thing one.
const THINGS: &str = "\
    CREATE TABLE author (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(99) CHARACTER SET utf8mb4, UNIQUE (name)); \
    CREATE TABLE post (id INT PRIMARY KEY, author INT, body TEXT, data LONGBLOB, at TIMESTAMP(6) NULL, size INT AS \
    (LENGTH(body)) VIRTUAL, FULLTEXT (body), FOREIGN KEY (author) REFERENCES author (id)); \
    CREATE TABLE plain (n INT) ENGINE=MyISAM; CREATE TABLE parts (n INT) PARTITION BY HASH (n) PARTITIONS 3; \
    INSERT INTO author (name) VALUES ('ann'), ('b\\'\"\\\\b'), ('δ🐼'), (NULL); \
    INSERT INTO post (id, author, body, data, at) WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s \
    WHERE n < 900) SELECT n, 1 + n % 3, REPEAT(CONCAT(SHA2(n, 256), ' '), 10), UNHEX(SHA2(n, 256)), FROM_UNIXTIME(n * 1000.25) FROM s; \
    UPDATE post SET data = REPEAT(CHAR(0, 39, 92, 10, 255), 300000) WHERE id = 7; \
    INSERT INTO plain VALUES (1), (2); INSERT INTO parts SELECT id FROM post; \
    CREATE VIEW short AS SELECT id, size FROM post WHERE id < 10; \
    CREATE PROCEDURE add_plain(x INT) INSERT INTO plain VALUES (x); \
    CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN 2 * x; \
    CREATE TRIGGER counts AFTER INSERT ON author FOR EACH ROW INSERT INTO parts VALUES (NEW.id); \
    CREATE EVENT tick ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO INSERT INTO plain VALUES (99); \
    CREATE DATABASE other; CREATE TABLE other.t (n INT); INSERT INTO other.t VALUES (5)";

/// What shows them.
const SHOWN: &[&str] = &[
    "SELECT id, HEX(name) FROM author ORDER BY id",
    "SELECT COUNT(*), SUM(CRC32(CONCAT_WS(',', id, author, body, HEX(data), at, size))) FROM post",
    "SELECT LENGTH(data), SHA2(data, 256) FROM post WHERE id = 7",
    "SELECT COUNT(*) FROM post WHERE MATCH (body) AGAINST (SHA2(5, 256))",
    "SELECT n FROM plain ORDER BY n",
    "SELECT COUNT(*), SUM(n) FROM parts PARTITION (p1)",
    "SELECT * FROM short ORDER BY id",
    "SELECT * FROM other.t",
    "SELECT twice(21)",
    "SELECT routine_name, routine_type, definer FROM information_schema.routines WHERE routine_schema = 'blog' ORDER BY 1",
    "SELECT trigger_name, action_statement, definer FROM information_schema.triggers WHERE trigger_schema = 'blog'",
    "SELECT event_name, event_definition, status FROM information_schema.events WHERE event_schema = 'blog'",
    "SELECT table_name, column_name, column_type, extra FROM information_schema.columns WHERE table_schema = 'blog' \
     ORDER BY 1, 2",
    "SELECT table_name, index_name, column_name, non_unique FROM information_schema.statistics \
     WHERE table_schema = 'blog' ORDER BY 1, 2, 3",
    "SELECT constraint_name, referenced_table_name FROM information_schema.referential_constraints \
     WHERE constraint_schema = 'blog'",
    "SELECT user, host FROM mysql.user WHERE user NOT IN ('pando', 'pando_keeper') ORDER BY 1, 2",
    "SELECT user, host, db, select_priv, drop_priv FROM mysql.db ORDER BY 1, 2, 3",
    "SELECT @@event_scheduler",
];

fn shown<M: Side>(url: &str) -> Vec<String> {
    SHOWN.iter().map(|sql| format!("{sql}\n{}", at::<M>(url, sql))).collect()
}

/// What proves the passwords of a server's accounts.
const VERIFIERS: &str = "SELECT RIGHT(authentication_string, 40) FROM mysql.user WHERE LENGTH(authentication_string) > 40 \
                         AND authentication_string NOT LIKE '%THISIS%'";

/// Makes accounts of production, and answers what proves their passwords: also of one that has a second password, of
/// one whose password is another since, and of one that is gone.
fn accounts<M: Side>(stand: &Stand<M>) -> Vec<String> {
    let mut found = Vec::new();
    let (more, _) = M::ACCOUNTS;
    for sql in [
        "CREATE USER app@'%' IDENTIFIED BY 'app-secret-1'; GRANT SELECT ON blog.* TO app@'%'; \
         CREATE USER gone@'%' IDENTIFIED BY 'gone-secret'",
        more,
        &M::in_other_ways(&stand.production),
        "ALTER USER app@'%' IDENTIFIED BY 'app-secret-3'; DROP USER gone@'%'",
    ] {
        stand.production.sql(sql);
        let shown = stand.production.sql(&format!("{VERIFIERS}; {}", M::MORE_VERIFIERS));
        found.extend(shown.lines().map(str::to_owned));
    }
    found.sort();
    found.dedup();
    assert!(found.len() >= 4 && found.iter().all(|one| one.len() == 40), "{found:?}");
    found
}

/// The passwords of those accounts, and of the one that the mirror comes by.
const PASSWORDS: [&str; 4] = ["app-secret", "gone-secret", "other-secret", "prod-secret"];

/// What of texts is in files, also in those that are packed by gzip.
fn found(texts: &[&str], files: &[PathBuf]) -> String {
    assert!(!files.is_empty());
    let texts = texts.iter().flat_map(|text| ["-e", text]);
    let mut command = Command::new("zgrep");
    // Without a locale letters are bytes, which is many times as fast.
    command.env("LC_ALL", "C").args(["-aiohF", "-m1"]).args(texts).args(files);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// That nothing which proves a password is in files, and no password.
fn are_clean(verifiers: &[String], files: &[PathBuf]) {
    let texts: Vec<&str> = verifiers.iter().map(String::as_str).chain(PASSWORDS).collect();
    assert_eq!(found(&texts, files), "", "it went out");
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let inside = entries(dir).into_iter().map(|name| dir.join(name));
    inside.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

pub fn travels<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    let Some(there) = M::daemon() else { return };
    stand.production.sql(THINGS);
    stand.link(&[]);
    // The rest comes by the log.
    let mut verifiers = accounts(&stand);
    stand.production.sql("INSERT INTO other.t VALUES (6)");
    let then = format!("blog@{}", second());
    stand.production.sql("DELETE FROM post; DROP TABLE plain");
    let expected = shown::<M>(&stand.copy(&then, "here", &[]));
    let mirror = files(&stand.daemon.home().join("pool/volumes"));
    let texts: Vec<&str> = verifiers.iter().map(String::as_str).collect();
    assert_ne!(found(&texts, &mirror), "", "nothing that could go out");

    let dir = tempfile::TempDir::new().unwrap();
    let archive = dir.path().join("blog.tar");
    let path = archive.to_str().unwrap();
    stand.json(&["export", &then, "--output", path]);
    are_clean(&verifiers, std::slice::from_ref(&archive));
    let view = there.pando_json(&["import", path, "home2"]);
    let away = url(&view);
    assert_eq!(shown::<M>(&away), expected);
    let place = away.rsplit_once('@').unwrap().1;
    for (user, password) in [("app", "app-secret-3"), ("rep", "prod-secret"), ("root", "")] {
        let refused = sql_at::<M>(&format!("{}://{user}:{password}@{place}", M::SCHEME), "SELECT 1");
        assert!(refused.is_err(), "{user} came in");
    }
    // It lives there: written to, stopped, started, cloned.
    at::<M>(&away, "INSERT INTO author (name) VALUES ('here'); CALL add_plain(77)");
    at::<M>(&away, "CREATE USER guest@'%' IDENTIFIED BY 'guest-secret'");
    verifiers.extend(at::<M>(&away, VERIFIERS).lines().map(str::to_owned));
    there.pando_json(&["stop", "home2"]);
    there.pando_json(&["start", "home2"]);
    let written = "SELECT (SELECT COUNT(*) FROM parts), (SELECT COUNT(*) FROM plain WHERE n = 77)";
    let child = url(&there.pando_json(&["clone", "home2", "child"]));
    assert_eq!(at::<M>(&child, written), "901\t1");
    there.pando_json(&["rm", "child"]);

    // And travels on, with what was done there.
    there.pando_json(&["export", "home2", "--output", path]);
    are_clean(&verifiers, std::slice::from_ref(&archive));
    let back = url(&stand.json(&["import", path, "back"]));
    assert_eq!(at::<M>(&back, written), "901\t1");
    assert_eq!(shown::<M>(&back)[1], expected[1]);

    // The newest state, which is prepared already.
    let moment = stand.json(&["snapshot", "blog"])["result"]["moment"].clone();
    let prepared = || {
        let timeline = stand.json(&["timeline", "blog"]);
        let snapshots = timeline["snapshots"].as_array().unwrap().clone();
        snapshots.iter().any(|one| one["moment"] == moment && one["prepared"] == true)
    };
    assert!(wait_until(Duration::from_secs(120), prepared), "{}", stand.json(&["timeline", "blog"]));
    stand.json(&["export", "blog", "--output", path]);
    are_clean(&verifiers, std::slice::from_ref(&archive));
    let newest = url(&there.pando_json(&["import", path, "newest"]));
    assert_eq!(at::<M>(&newest, "SELECT COUNT(*) FROM post; SELECT SUM(n) FROM other.t"), "0\n11");
    there.pando_json(&["rm", "newest", "home2"]);
    for dir in ["pool/volumes", "pool/snapshots", "clones"] {
        let empty = || entries(&there.home().join(dir)).is_empty();
        assert!(wait_until(Duration::from_secs(20), empty), "{dir}: {:?}", entries(&there.home().join(dir)));
    }
    let alarms = there.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
    stand.json(&["rm", "back", "here"]);
    stand.end(&[]);
}

/// Gives the app one edit, which masks.
pub fn mask<M: Side>(stand: &Stand<M>, statements: &str) {
    let source = stand.source();
    let (name, url) = source.split_once('=').unwrap();
    let text = format!(
        "app = \"blog\"\n[[sources]]\nname = \"{name}\"\nurl = \"{url}\"\n[[edits]]\nmasks = true\nsql = \"{statements}\"\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("blog.toml");
    std::fs::write(&file, text).unwrap();
    stand.json(&["apply", file.to_str().unwrap()]);
}

/// Exports a clone that is masked, and looks that a text which was masked is not in the archive.
pub fn leaves_nothing<M: Side>(stand: &Stand<M>, clone: &str, text: &str, archive: &Path) {
    assert_eq!(stand.json(&["show", clone])["masked"], true);
    let mirror = files(&stand.daemon.home().join("pool/volumes"));
    assert_ne!(found(&[text], &mirror), "", "nothing that could go out");
    stand.json(&["export", clone, "--output", archive.to_str().unwrap()]);
    assert_eq!(found(&[text], &[archive.to_owned()]), "", "it went out");
}

pub fn masked<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    stand.production.sql(THINGS);
    stand.production.sql(
        "INSERT INTO author (name) VALUES ('qanary-one'), ('qanary-two'); CREATE TABLE gone AS SELECT name FROM author; \
         INSERT INTO post (id, author, body) SELECT 1000 + id, NULL, REPEAT('qanary-body ', 50) FROM post WHERE id < 200",
    );
    stand.link(&[]);
    mask(
        &stand,
        "UPDATE author SET name = CONCAT('m', id); UPDATE post SET body = 'nothing' WHERE id > 1000; DELETE FROM gone",
    );
    let dev = stand.copy("blog@now", "dev", &[]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("dev.tar");
    leaves_nothing(&stand, "dev", "qanary", &archive);
    // What its server shows is all there.
    let back = stand.json(&["import", archive.to_str().unwrap(), "back"]);
    assert_eq!(back["masked"], true, "{back}");
    assert_eq!(shown::<M>(&url(&back)), shown::<M>(&dev));
    assert_eq!(at::<M>(&dev, "SELECT COUNT(*) FROM author WHERE name NOT LIKE 'm%'"), "0");
    stand.json(&["rm", "back", "dev"]);
    stand.end(&[]);
}

pub fn image<M: Side>() {
    let (Some(docker), Some(registry)) = (Docker::start(), ImageRegistry::start(false)) else { return };
    let Some(daemon) = M::daemon_with(&[("DOCKER_HOST", &docker.host())]) else { return };
    docker.image(M::IMAGE);
    let stand = Stand::<M>::over(daemon, FamilyProduction::start(&[]));
    stand.production.sql(THINGS);
    stand.link(&[]);
    let verifiers = accounts(&stand);
    let reference = format!("{}/team/blog:ci", registry.host());
    let first = stand.json(&["image", "push", "blog@now", &reference]);
    assert_eq!((&first["build"]["built"], &first["data_layers"]), (&true.into(), &1.into()), "{first}");
    let layers = || files(&stand.daemon.home().join("images/blobs"));
    are_clean(&verifiers, &layers());

    // An engine that has only Docker's own means.
    let Some(plain) = Docker::start() else { return };
    let rows = |container: &str, password: &str| {
        plain.run(&["pull", &reference]);
        plain.run(&["run", "-d", "--network", "none", "--name", container, &reference]);
        let password = format!("MYSQL_PWD={password}");
        let asked = "SELECT COUNT(*), SUM(size) FROM post; SELECT SUM(n) FROM other.t; SELECT twice(4)";
        let client = [M::CLIENT, "-h127.0.0.1", "-upando", "blog", "-NBe", asked];
        let ask = [&["exec", container, "env", &password], &client[..]].concat();
        let up = wait_until(Duration::from_secs(60), || plain.output(&ask).status.success());
        assert!(up, "{}", plain.run(&["logs", container]));
        assert_eq!(plain.run(&["inspect", "-f", "{{len .Mounts}}", container]), "0");
        plain.run(&ask)
    };
    let password = first["password"].as_str().unwrap();
    let (count, size) = (900, 900 * 65 * 10);
    assert_eq!(rows("one", password), format!("{count}\t{size}\n5\n8"));
    // All that a container has, as it is while its server runs.
    let whole = stand.daemon.home().with_file_name("container.tar");
    plain.run(&["export", "--output", whole.to_str().unwrap(), "one"]);
    are_clean(&verifiers, &[whole]);

    // One row more.
    stand.production.sql("INSERT INTO other.t VALUES (6)");
    let second = stand.json(&["image", "push", "blog@now", &reference]);
    assert_eq!(
        (&second["build"]["built"], &second["data_layers"]),
        (&true.into(), &M::LAYERS_OF_NEXT.into()),
        "{second}"
    );
    are_clean(&verifiers, &layers());
    assert_eq!(rows("two", second["password"].as_str().unwrap()), format!("{count}\t{size}\n11\n8"));
    stand.json(&["image", "rm", &reference]);
    stand.end(&[]);
}
