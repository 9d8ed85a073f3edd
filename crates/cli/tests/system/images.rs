//! Images with data in them: built at a moment, sent to a registry, run by an engine that knows nothing of Pando.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, ImageRegistry, MariadbProduction, RedisProduction, tools, wait_until};
use serde_json::Value;

use crate::stand::{PANDO, Stand, bounded, entries, said};

/// Runs a command of Pando's with a login in its environment.
fn logged_in(daemon: &Daemon, password: &str, args: &[&str]) -> Output {
    let mut command = Command::new(PANDO);
    command.arg("--json").args(args).env("PANDO_HOME", daemon.home()).env_remove("PANDO_HOST");
    command.env("PANDO_REGISTRY_USER", "ann").env("PANDO_REGISTRY_PASSWORD", password).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command in a container until it succeeds; what it printed.
fn answers(docker: &Docker, container: &str, args: &[&str]) -> String {
    let asked = [&["exec", container], args].concat();
    let up = wait_until(Duration::from_secs(60), || docker.output(&asked).status.success());
    assert!(up, "{args:?}: {}", docker.run(&["logs", container]));
    docker.run(&asked)
}

/// Runs an image as a user does, and asks its PostgreSQL by the network.
fn rows(docker: &Docker, container: &str, image: &str, password: &str) -> String {
    // What the official image wants at a first start, and ignores where there is data.
    let run = ["run", "-d", "--network", "none", "-e", "POSTGRES_PASSWORD=ignored", "--name", container, image];
    docker.run(&run);
    let asked = "SELECT count(*), count(DISTINCT text) FROM note";
    let client = ["psql", "-h", "127.0.0.1", "-U", "pando", "-d", "postgres", "-AtXc", asked];
    let password = format!("PGPASSWORD={password}");
    let found = answers(docker, container, &[&["env", &password], &client[..]].concat());
    let mounts = docker.run(&["inspect", "-f", "{{len .Mounts}}", container]);
    assert_eq!(mounts, "0", "no volume that the data would be copied into");
    found
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn an_image_is_built_sent_and_run_by_an_engine_that_knows_nothing_of_pando() {
    let (Some(docker), Some(registry)) = (Docker::start(), ImageRegistry::start(true)) else { return };
    docker.image(Image::Postgres);
    let Some(stand) = Stand::of_with(bounded(), &[("DOCKER_HOST", &docker.host())]) else { return };
    // Most of it stays as it is.
    stand.production.psql("CREATE TABLE archive AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i");
    stand.production.psql("CREATE TABLE note (id int PRIMARY KEY, text text)");
    stand.production.psql("INSERT INTO note SELECT i, md5(i::text) FROM generate_series(1, 5000) i");
    stand.production.psql("CREATE ROLE web LOGIN PASSWORD 'prod-secret-web'");
    stand.link_both(&[]);
    let then = stand.json(&["snapshot", "shop"])["result"]["moment"].as_str().unwrap().to_owned();
    // Of a prepared state, so that it is made of the same each time.
    let prepared = || {
        let timeline = stand.json(&["timeline", "shop"]);
        let snapshots = timeline["snapshots"].as_array().unwrap().clone();
        snapshots.iter().any(|one| one["moment"] == then.as_str() && one["prepared"] == true)
    };
    assert!(wait_until(Duration::from_secs(120), prepared), "{}", stand.json(&["timeline", "shop"]));
    let secret = stand.daemon.home().with_file_name("image-password");
    std::fs::write(&secret, "only for tests\n").unwrap();
    let then_again = format!("shop@{then}");
    let of_then = ["image", "build", &then_again, "shop-db:then", "--password-file", secret.to_str().unwrap()];
    let first = stand.json(&of_then);
    assert_eq!((&first["build"]["built"], &first["data_layers"]), (&true.into(), &1.into()), "{first}");
    let password = first["password"].as_str().unwrap();
    assert_eq!(rows(&docker, "then", "shop-db:then", password), "5000|5000");
    let production = ["env", "PGPASSWORD=prod-secret-web", "psql", "-h", "127.0.0.1", "-U", "web", "-d", "postgres"];
    assert!(!docker.output(&[&["exec", "then"], &production[..], &["-c", "SELECT 1"]].concat()).status.success());
    let labels: Value =
        serde_json::from_str(&docker.run(&["inspect", "-f", "{{json .Config.Labels}}", "then"])).unwrap();
    assert_eq!((&labels["pando.app"], &labels["pando.masked"]), (&"shop".into(), &"false".into()), "{labels}");
    assert_eq!(labels["pando.moment"], first["moment"]);
    let uid = docker.run(&["exec", "then", "stat", "-c", "%u", "/proc/1", "/var/lib/postgresql/data/PG_VERSION"]);
    assert_eq!(uid, "999\n999");

    // The same moment is the same image, whatever it is called and however it is asked for.
    let again = stand.json(&["image", "build", &format!("shop@{then}"), "other:1", "--no-load"]);
    assert_eq!((&again["digest"], &again["build"]["built"]), (&first["digest"], &false.into()), "{again}");

    // A registry that does not know us; then one that does.
    stand.production.psql("UPDATE note SET text = 'changed' WHERE id = 7");
    let reference = format!("{}/team/shop-db:ci", registry.host());
    let push = ["image", "push", "shop@now", &reference];
    let refused = said(&logged_in(&stand.daemon, "wrong", &push), 4, &push);
    assert!(refused.contains("docker login"), "{refused}");
    // It is built already.
    let second = json(&logged_in(&stand.daemon, "secret", &["image", "push", &reference]));
    assert_eq!(second["data_layers"], 2, "{second}");
    let (new, changed) = (number(&second["new_bytes"]), number(&second["changed_bytes"]));
    assert!(new < number(&first["new_bytes"]) / 2, "{new} new of {first}");
    assert!(changed <= number(&second["changed_file_bytes"]) && changed < number(&second["data_bytes"]), "{second}");

    // Another engine, which has only Docker's own means.
    let Some(plain) = Docker::start() else { return };
    plain.run(&["login", "--username", "ann", "--password", "secret", &registry.host()]);
    plain.run(&["pull", &reference]);
    let password = second["password"].as_str().unwrap();
    assert_eq!(rows(&plain, "ci", &reference, password), "5000|5000");
    plain.run(&["rm", "--force", "ci"]);

    // One command for CI: the newest state, the same password, and only what is new travels.
    stand.production.psql("DELETE FROM note WHERE id > 1000");
    stand.json(&["snapshot", "shop"]);
    let third = json(&logged_in(&stand.daemon, "secret", &["image", "update", &reference, "--at", "now"]));
    assert_eq!(third["password"], second["password"], "{third}");
    assert!(number(&third["push"]["sent_bytes"]) < number(&third["push"]["there_bytes"]), "{third}");
    plain.run(&["pull", &reference]);
    assert_eq!(rows(&plain, "ci", &reference, password), "1000|1000");

    // Over its budget: one line, with the largest table.
    let big = stand.fails(4, &["image", "build", "shop", "big:1", "--max-size", "1M"]);
    let line = big.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(line.contains("postgres.public.archive"), "{big}");
    stand.fails(3, &["image", "update", "nothing:1"]);
    let somewhere = ["image", "build", "shop", "files:1", "--source", "files", "--base", "shop-db:then"];
    assert!(stand.fails(2, &somewhere).contains("--path"));
    let listed = stand.json(&["image", "ls"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["reference"].as_str().unwrap()).collect();
    assert_eq!(names, [reference.as_str(), "other:1", "shop-db:then"]);
    for name in names {
        stand.json(&["image", "rm", name]);
    }
    for dir in ["blobs/sha256", "work"] {
        assert_eq!(entries(&stand.daemon.home().join("images").join(dir)), Vec::<String>::new(), "{dir}");
    }
    // Nothing of it is kept, and made again it is the same, byte for byte: digests are of all its bytes.
    let again = stand.json(&of_then);
    assert_eq!((&again["build"]["built"], &again["digest"]), (&true.into(), &first["digest"]), "{again}\n{first}");
    stand.json(&["image", "rm", "shop-db:then"]);
    std::fs::remove_file(&secret).unwrap();
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn mariadb_and_redis_are_images_too_without_any_engine() {
    if !["mariadbd", "redis-server", "mkfs.btrfs"].iter().all(|tool| tools::require(tool)) {
        return;
    }
    let (Some(docker), Some(registry)) = (Docker::start(), ImageRegistry::start(false)) else { return };
    let server = |image: Image, name: &str| {
        let reference = format!("{}/library/{name}:test", registry.host());
        docker.run(&["tag", &docker.image(image), &reference]);
        docker.run(&["push", &reference]);
        reference
    };
    let (mariadb, redis) = (server(Image::Mariadb, "mariadb"), server(Image::Redis, "redis"));
    let (production, cache) = (MariadbProduction::start(&[]), RedisProduction::start(&[]));
    production.sql("CREATE TABLE note (id INT PRIMARY KEY); INSERT INTO note SELECT seq FROM seq_1_to_5000");
    (0..200).for_each(|key| drop(cache.client().run(&["SET", &format!("key{key}"), "value"])));
    let daemon = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", "unix:///nobody/is/here.sock")]);
    // What the app's file names is built on where no other is named.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stack.toml");
    let source = |name: &str, url: &str, more: &str| format!("[[sources]]\nname = \"{name}\"\nurl = \"{url}\"\n{more}");
    let named = format!("image = \"{mariadb}\"\n");
    let text = source("db", &production.url(), &named) + &source("q", &cache.url(0), "");
    std::fs::write(&file, format!("app = \"stack\"\n{text}")).unwrap();
    daemon.pando_json(&["apply", file.to_str().unwrap()]);
    let several = said(&daemon.pando(&["image", "build", "stack", "x:1"]), 2, &["image build"]);
    assert!(several.contains("--source: db, q"), "{several}");
    let push = |source: &str, base: &str, how: &[&str]| {
        let reference = format!("{}/team/{source}:1", registry.host());
        let options = [&["--source", source, "--user", "app"], how].concat();
        let made = daemon.pando_json(&[&["image", "push", "stack@now", &reference], &options[..]].concat());
        assert_eq!(made["base"], base, "{made}");
        // The server image is in the same registry: its layers did not travel.
        assert_eq!(made["push"]["sent_blobs"], 2, "{made}");
        docker.run(&["run", "-d", "--network", "none", "--name", &format!("of-{source}"), &reference]);
        made["password"].as_str().unwrap().to_owned()
    };
    let password = push("db", &mariadb, &[]);
    let client = [&["env", &format!("MYSQL_PWD={password}"), "mariadb", "-h127.0.0.1", "-uapp", "blog"], &["-NBe"][..]];
    let asked = [&client.concat()[..], &["SELECT COUNT(*) FROM note"]].concat();
    assert_eq!(answers(&docker, "of-db", &asked), "5000");
    let password = push("q", &redis, &["--base", &redis]);
    let client = ["redis-cli", "--user", "app", "--pass", &password, "--no-auth-warning"];
    assert_eq!(answers(&docker, "of-q", &[&client[..], &["DBSIZE"]].concat()), "200");
    assert!(
        docker.run(&["exec", "of-q", "redis-cli", "DBSIZE"]).contains("NOAUTH"),
        "nobody comes in without a password"
    );
    daemon.pando_json(&["unlink", "stack"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}
