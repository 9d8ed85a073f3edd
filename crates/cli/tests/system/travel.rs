//! An app or clone goes to another home as an archive, and lives there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, MariadbProduction, RedisClient, RedisProduction, mariadb_at, wait_until};

use serde_json::Value;

use crate::stand::{Copy, PANDO, Stand, entries, said, sql_at};

fn export(stand: &Stand, target: &str, to: &Path) -> Value {
    let to = to.to_str().unwrap();
    stand.json(&["export", target, "--output", to])
}

fn nothing_there(daemon: &Daemon) {
    for dir in ["pool/volumes", "pool/snapshots", "clones"] {
        assert_eq!(entries(&daemon.home().join(dir)), Vec::<String>::new(), "{dir}");
    }
    let doctor = daemon.pando_json(&["doctor"]);
    assert!(!doctor.to_string().contains("strangers"), "{doctor}");
}

#[test]
fn a_moment_goes_to_another_home_and_lives_there() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE note (id int PRIMARY KEY, text text)");
    stand.production.psql("INSERT INTO note SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    stand.production.psql("CREATE ROLE web LOGIN PASSWORD 'prod-secret-web'");
    std::fs::create_dir(stand.files().join("sub")).unwrap();
    std::fs::write(stand.files().join("sub/attachment"), "of 20000").unwrap();
    stand.link_both(&[]);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("shop.tar");
    let then = stand.json(&["snapshot", "shop"])["result"]["moment"].as_str().unwrap().to_owned();
    stand.production.psql("DELETE FROM note WHERE id > 5");
    let told = export(&stand, &format!("shop@{then}"), &file);
    let archive = std::fs::read(&file).unwrap();
    assert_eq!(told["state"], "done", "{told}");
    assert!(!archive.windows(11).any(|window| window == b"prod-secret"), "a password went out");
    let manifest = tar_manifest(&file);
    assert_eq!(
        (manifest["app"].as_str(), manifest["sources"]["db"]["engine"].as_str()),
        (Some("shop"), Some("postgres"))
    );
    assert_eq!(manifest["masked"], false);
    stand.nothing_strange();

    let there = Daemon::start(Path::new(PANDO));
    let view = there.pando_json(&["import", file.to_str().unwrap(), "home2"]);
    let copy = Copy(view);
    assert_eq!((copy.0["state"].as_str(), copy.0["app"].as_str()), (Some("running"), Some("shop")));
    assert_eq!(copy.sql("SELECT count(*), count(DISTINCT text) FROM note"), "20000|20000");
    assert_eq!(std::fs::read_to_string(copy.path("files").join("sub/attachment")).unwrap(), "of 20000");
    assert!(
        sql_at(&copy.url().replace(&format!("pando:{}", copy.password()), "web:prod-secret-web"), "SELECT 1").is_err()
    );
    // A clone like any other: snapshotted, cloned, stopped, started, rewound.
    let kept = there.pando_json(&["snapshot", "home2"])["result"]["snapshot"].as_str().unwrap().to_owned();
    copy.sql("DELETE FROM note");
    let child = Copy(there.pando_json(&["clone", &format!("home2@{kept}"), "child"]));
    assert_eq!(child.sql("SELECT count(*) FROM note"), "20000");
    there.pando_json(&["stop", "home2"]);
    there.pando_json(&["start", "home2"]);
    assert_eq!(copy.sql("SELECT count(*) FROM note"), "0");
    there.pando_json(&["rewind", &format!("home2@{kept}")]);
    assert_eq!(copy.sql("SELECT count(*) FROM note"), "20000");
    let refused = said(&there.pando(&["refresh", "home2"]), 4, &["refresh"]);
    assert!(refused.contains("no production"), "{refused}");
    said(&there.pando(&["import", file.to_str().unwrap(), "home2"]), 4, &["import"]);

    // What it has become goes on, through a pipe.
    copy.sql("INSERT INTO note VALUES (0, 'made here')");
    let mut out = command(&there, &["export", "home2"]).stdout(Stdio::piped()).spawn().unwrap();
    let back =
        command(&stand.daemon, &["--json", "import", "-", "back"]).stdin(out.stdout.take().unwrap()).output().unwrap();
    assert!(out.wait().unwrap().success());
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    let back = Copy(serde_json::from_slice(&back.stdout).unwrap());
    assert_eq!(
        back.sql("SELECT count(*), min(text) FROM note WHERE id = 0 OR id > 5"),
        "19996|".to_owned() + &back.sql("SELECT min(text) FROM note WHERE id = 0 OR id > 5")
    );
    assert_eq!(back.sql("SELECT text FROM note WHERE id = 0"), "made here");
    stand.json(&["rm", "back"]);
    there.pando_json(&["rm", "child"]);
    there.pando_json(&["rm", "home2"]);
    nothing_there(&there);
    assert_eq!(there.pando_json(&["ls"]), serde_json::json!({"apps": [], "clones": []}));
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn what_is_not_whole_or_does_not_fit_is_refused_in_one_line() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE note AS SELECT 1 AS id");
    stand.link(&[]);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("shop.tar");
    export(&stand, "shop", &file);
    let good = std::fs::read(&file).unwrap();
    let there = Daemon::start(Path::new(PANDO));
    let refused = |name: &str, archive: &[u8], word: &str| {
        let path = dir.path().join("bad.tar");
        File::create(&path).unwrap().write_all(archive).unwrap();
        let text = said(&there.pando(&["import", path.to_str().unwrap(), "bad"]), 4, &[name]);
        assert!(text.contains(word), "{name}: {text}");
        nothing_there(&there);
    };
    refused("half", &good[..good.len() / 2], "ends too early");
    let mut changed = good.clone();
    let middle = changed.len() / 2 / 8192 * 8192 + 4000;
    changed[middle] ^= 1;
    refused("changed", &changed, "refused");
    let text = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bent = good.clone();
        bent[at..at + from.len()].copy_from_slice(to.as_bytes());
        bent
    };
    let major = tar_manifest(&file)["sources"]["db"]["facts"]["major"].as_u64().unwrap();
    refused("version", &text(&format!("\"major\": {major}"), "\"major\": 99"), "99");
    refused(
        "machine",
        &text(
            &format!("\"arch\": \"{}\"", std::env::consts::ARCH),
            &format!("\"arch\": \"{}\"", "z".repeat(std::env::consts::ARCH.len())),
        ),
        "zzz",
    );
    refused("nothing", b"", "ends too early");
    refused("text", &b"this is no archive".repeat(100), "refused");
    stand.fails(4, &["export", "shop@2001-01-01"]);
    stand.fails(3, &["export", "nobody"]);
    let nowhere = dir.path().join("nowhere/shop.tar").display().to_string();
    let text = stand.fails(1, &["export", "shop", "--output", &nowhere]);
    assert!(text.contains(&format!("{nowhere} could not be written")), "{text}");
    stand.json(&["clone", "shop", "dev"]);
    let text = stand.fails(4, &["rewind", "dev@-1s"]);
    assert!(text.contains("keeps no log") && text.contains("--record"), "{text}");
    stand.json(&["rm", "dev"]);
    // Whoever goes away in the middle leaves nothing.
    let mut out = command(&stand.daemon, &["export", "shop"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(out.stdout.take());
    assert!(!out.wait().unwrap().success());
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn more_than_sixty_hostile_archives_are_refused_and_nothing_of_them_stays() {
    if !pando_testkit::tools::require_root() || !pando_testkit::tools::require("mkfs.btrfs") {
        return;
    }
    let there = Daemon::start(Path::new(PANDO));
    let dir = tempfile::TempDir::new().unwrap();
    let all = crate::hostile::hostile();
    assert!(all.len() >= 60, "{}", all.len());
    let path = dir.path().join("bad.tar");
    for (name, archive) in &all {
        std::fs::write(&path, archive).unwrap();
        let said = said(&there.pando(&["import", path.to_str().unwrap(), "bad"]), 4, &[name]);
        // "refused", or that there is no room for what it promises.
        assert!(said.contains("refused") || said.contains("are free"), "{name}: {said}");
        for dir in ["pool/volumes", "pool/snapshots", "clones"] {
            assert_eq!(entries(&there.home().join(dir)), Vec::<String>::new(), "{name}: {dir}");
        }
    }
    assert!(!Path::new("/tmp/pando-evil").exists());
    assert_eq!(there.pando_json(&["ls"]), serde_json::json!({"apps": [], "clones": []}));
    assert_eq!(entries(dir.path()), ["bad.tar"]);
    nothing_there(&there);
    let alarms = there.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}

/// A MariaDB and a Redis with a directory beside them.
#[test]
fn all_databases_travel_together_and_leave_their_passwords_behind() {
    let programs = ["mariadbd", "mariadb-install-db", "mariadb", "redis-server", "mkfs.btrfs", "rsync"];
    if !pando_testkit::tools::require_root() || !programs.iter().all(|name| pando_testkit::tools::require(name)) {
        return;
    }
    let (blog, cache) = (MariadbProduction::start(&[]), RedisProduction::start(&[]));
    let files = tempfile::TempDir::new().unwrap();
    std::fs::write(files.path().join("upload"), "one").unwrap();
    blog.sql(
        "CREATE TABLE blog.t AS SELECT seq AS n FROM seq_1_to_3000; CREATE USER web IDENTIFIED BY 'prod-secret-web'",
    );
    cache.client().run(&["MSET", "n", "3000", "other", "x"]);
    cache.client().run(&["SET", "short", "x", "EX", "5000"]);
    let here = Daemon::start(Path::new(PANDO));
    let urls = [
        format!("my={}", blog.url()),
        format!("q={}", cache.url(0)),
        format!("files=file://{}", files.path().display()),
    ];
    here.pando_json(&["link", "shop", &urls[0], &urls[1], &urls[2]]);
    let then = here.pando_json(&["snapshot", "shop"])["result"]["moment"].as_str().unwrap().to_owned();
    blog.sql("DELETE FROM blog.t");
    cache.client().run(&["FLUSHALL"]);
    std::fs::write(files.path().join("upload"), "two").unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("shop.tar");
    here.pando_json(&["export", &format!("shop@{then}"), "--output", file.to_str().unwrap()]);
    let archive = std::fs::read(&file).unwrap();
    let hashes = blog.sql(
        "SELECT DISTINCT SUBSTRING(authentication_string, 2) FROM mysql.user WHERE authentication_string LIKE '*%'",
    );
    assert!(hashes.lines().count() >= 2, "{hashes}");
    for secret in hashes.lines().chain(["prod-secret"]) {
        let found = Command::new("grep").args(["-aiqF", secret]).arg(&file).status().unwrap();
        assert_eq!(found.code(), Some(1), "production's {secret} went out");
    }

    // Another home starts it, of which the first knows nothing.
    let there = Daemon::start(Path::new(PANDO));
    let view = there.pando_json(&["import", file.to_str().unwrap(), "home2"]);
    let url = |source: &str| view["sources"][source]["url"].as_str().unwrap();
    assert_eq!((&view["state"], &view["app"]), (&"running".into(), &"shop".into()));
    let count = |expected: &str| {
        assert_eq!(mariadb_at(url("my"), "SELECT COUNT(*) FROM t").unwrap().trim(), expected);
    };
    count("3000");
    let mut redis = RedisClient::connect(url("q"));
    assert_eq!(redis.run(&["MGET", "n", "other"]), "3000\nx");
    assert!(redis.run(&["TTL", "short"]).parse::<i64>().unwrap() > 1000);
    let upload = Path::new(view["sources"]["files"]["path"].as_str().unwrap()).join("upload");
    assert_eq!(std::fs::read_to_string(&upload).unwrap(), "one");
    let port = url("my").rsplit_once(':').unwrap().1.split('/').next().unwrap();
    for who in ["web:prod-secret-web", "rep:prod-secret"] {
        assert!(mariadb_at(&format!("mariadb://{who}@127.0.0.1:{port}/blog"), "SELECT 1").is_err(), "{who}");
    }
    // It is a clone like any other, and travels on.
    let kept = there.pando_json(&["snapshot", "home2"])["result"]["snapshot"].as_str().unwrap().to_owned();
    mariadb_at(url("my"), "DELETE FROM t WHERE n > 7").unwrap();
    redis.run(&["SET", "n", "7"]);
    there.pando_json(&["export", "home2", "--output", file.to_str().unwrap()]);
    there.pando_json(&["rewind", &format!("home2@{kept}")]);
    count("3000");
    let back = here.pando_json(&["import", file.to_str().unwrap(), "back"]);
    let url = |source: &str| back["sources"][source]["url"].as_str().unwrap();
    assert_eq!(mariadb_at(url("my"), "SELECT COUNT(*) FROM t").unwrap().trim(), "7");
    assert_eq!(RedisClient::connect(url("q")).run(&["GET", "n"]), "7");

    // What an archive says of its sources is looked at before anything is written.
    let bent = |from: &str, to: &str| {
        let at = archive.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bent = archive.clone();
        bent[at..at + from.len()].copy_from_slice(to.as_bytes());
        let path = dir.path().join("bent.tar");
        std::fs::write(&path, bent).unwrap();
        said(&there.pando(&["import", path.to_str().unwrap(), "bad"]), 4, &[to])
    };
    let told = bent("\"sql_mode\": \"STRICT_TRANS_TABLES", "\"sql_mode\": \"STRICT\\nRANS_TABLES");
    assert!(told.contains("is no setting"), "{told}");
    let told = bent("\"maxmemory\": ", "\"loadmodul\": ");
    assert!(told.contains("is no setting of a clone"), "{told}");
    there.pando_json(&["rm", "home2"]);
    nothing_there(&there);
    here.pando_json(&["rm", "back"]);
    here.pando_json(&["unlink", "shop"]);
    nothing_there(&here);
    for daemon in [&here, &there] {
        let alarms = daemon.alarms(&[]);
        assert!(alarms.is_empty(), "{alarms:#?}");
    }
}

#[test]
fn a_volume_and_a_containers_directory_are_adopted() {
    let Some(docker) = Docker::start() else { return };
    if !pando_testkit::tools::require("rsync") || !pando_testkit::tools::require("mkfs.btrfs") {
        return;
    }
    let daemon = Daemon::start(Path::new(PANDO));
    let image = docker.image(Image::Postgres);
    docker.run(&["volume", "create", "uploads"]);
    let mount = "type=volume,source=uploads,target=/srv/data";
    let base = ["run", "--detach", "--network", "none", "--name", "web", "--mount", mount, "--entrypoint", "/bin/sh"];
    docker.run(&[&base[..], &[&image, "-c", "mkdir /srv/data/sub; echo one > /srv/data/sub/a; sleep 1000"]].concat());
    assert!(pando_testkit::wait_until(std::time::Duration::from_secs(20), || {
        docker.output(&["exec", "web", "cat", "/srv/data/sub/a"]).stdout == b"one\n"
    }));
    let adopt = |args: &[&str]| {
        let host = docker.host();
        command(&daemon, &[&["--json", "adopt"], args].concat()).env("DOCKER_HOST", host).output().unwrap()
    };
    for (args, file) in [(["one", "up=uploads"], "sub/a"), (["two", "up=web:/srv/data/sub"], "a")] {
        let linked = adopt(&args);
        assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
        let copy = Copy(daemon.pando_json(&["clone", args[0], &format!("of-{}", args[0])]));
        assert_eq!(std::fs::read_to_string(copy.path("up").join(file)).unwrap(), "one\n");
    }
    // It goes on: what the container writes is seen by the next clone.
    docker.run(&["exec", "web", "/bin/sh", "-c", "echo two > /srv/data/sub/a"]);
    let copy = Copy(daemon.pando_json(&["clone", "one@now", "later"]));
    assert_eq!(std::fs::read_to_string(copy.path("up").join("sub/a")).unwrap(), "two\n");
    assert!(said(&adopt(&["no", "nothing"]), 3, &["adopt"]).contains("no volume nothing"));
    assert!(said(&adopt(&["no", "web:/etc"]), 4, &["adopt"]).contains("lies in no volume"));
    docker.run(&["exec", "web", "/bin/sh", "-c", "echo 15 > /srv/data/PG_VERSION"]);
    assert!(said(&adopt(&["no", "uploads"]), 4, &["adopt"]).contains("postgres://"));
}

/// Waits until the operation is at that step.
fn wait_step(stand: &Stand, verb: &str, step: &str) {
    let begun = |one: &Value| one["name"] == step && one["state"] == "begun";
    let there = || {
        let ops = stand.json(&["ops"]);
        let mut running = ops.as_array().unwrap().iter().filter(|one| one["verb"] == verb && one["state"] == "running");
        running.any(|one| one["steps"].as_array().unwrap().iter().any(begun))
    };
    assert!(wait_until(Duration::from_secs(60), there), "{}", stand.json(&["ops"]));
}

#[test]
fn what_an_archive_or_an_image_is_made_of_stays_until_it_is_made() {
    let points = "export.prepare.before=delay:3000;export.stream.before=delay:3000;image-build.pack.before=delay:3000";
    let Some(stand) = Stand::with_env(&[("PANDO_FAILPOINTS", points)]) else { return };
    stand.production.psql("CREATE TABLE note AS SELECT generate_series(1, 3000) AS id");
    std::fs::write(stand.files().join("logo"), "png").unwrap();
    stand.link_both(&[]);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("dev.tar");
    let exports = |of: &str, to: &Path| {
        command(&stand.daemon, &["export", of, "--output", to.to_str().unwrap()]).spawn().unwrap()
    };
    stand.copy("shop", "dev");
    let mut export = exports("dev", &file);
    for step in ["prepare", "stream"] {
        wait_step(&stand, "export", step);
        let said = stand.fails(4, &["rm", "dev"]);
        assert!(said.contains("dev is busy: export is running (op-") && said.contains("hint: wait for it"), "{said}");
        stand.json(&["lease", "dev", "--for", "1s"]);
    }
    assert!(export.wait().unwrap().success());
    let gone = || stand.daemon.pando(&["show", "dev"]).status.code() == Some(3);
    assert!(wait_until(Duration::from_secs(60), gone), "{}", stand.daemon.log());
    let events = stand.events();
    assert!(events.contains("lease-waits") && events.contains("dev is busy: export is running"), "{events}");
    let back = Copy(stand.json(&["import", file.to_str().unwrap(), "back"]));
    assert_eq!(back.sql("SELECT count(*) FROM note"), "3000");

    let mut build = command(&stand.daemon, &["image", "build", "back", "back:1", "--source", "files", "--no-load"]);
    let mut build = build.stdout(Stdio::null()).spawn().unwrap();
    wait_step(&stand, "image-build", "pack");
    let said = stand.fails(4, &["rm", "back"]);
    assert!(said.contains("back is busy: image-build is running (op-"), "{said}");
    assert!(build.wait().unwrap().success());
    stand.json(&["rm", "back"]);

    // An app stays, too; and what is not whole does not, however the program that writes it ends.
    let mut export = exports("shop", &file.with_extension("2"));
    wait_step(&stand, "export", "stream");
    let said = stand.fails(4, &["unlink", "shop"]);
    assert!(said.contains("shop is busy: export is running (op-"), "{said}");
    let said = stand.fails(4, &["export", "shop", "--output", file.with_extension("2").to_str().unwrap()]);
    assert!(said.contains("dev.2.part is there already"), "{said}");
    Command::new("kill").arg(export.id().to_string()).status().unwrap();
    assert_eq!(export.wait().unwrap().code(), Some(143));
    assert_eq!(entries(dir.path()), ["dev.tar"]);
    stand.end(&[]);
}

fn command(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(PANDO);
    command.args(args).env("PANDO_HOME", daemon.home()).env_remove("PANDO_HOST");
    command
}

/// The manifest, as tar shows it.
fn tar_manifest(file: &Path) -> Value {
    let out = Command::new("tar").arg("-xOf").arg(file).arg("pando-manifest.json").output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}
