//! The private engine and its images: what other tests stand on has to stand.

#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, reason = "a test")]

use std::time::Duration;

use pando_testkit::{Docker, Image, wait_until};

#[test]
fn a_server_of_the_test_image_behaves_like_the_official_one_and_nothing_stays() {
    let Some(mut docker) = Docker::start_with(&["--live-restore"]) else { return };
    let image = docker.image(Image::Postgres);
    assert_eq!(docker.image(Image::Postgres), image, "it is there now");
    docker.run(&["network", "create", "net"]);
    docker.run(&["run", "-d", "--name", "db", "--network", "net", "-e", "POSTGRES_PASSWORD=secret", &image]);
    let asked = [
        "exec",
        "db",
        "psql",
        "-U",
        "postgres",
        "-h",
        "db",
        "-AtXc",
        "SELECT 6 * 7, current_setting('data_directory')",
    ];
    let asked: Vec<&str> = [&["exec", "-e", "PGPASSWORD=secret"], &asked[1..]].concat();
    assert!(
        wait_until(Duration::from_secs(30), || docker.output(&asked).status.success()),
        "{}",
        docker.run(&["logs", "db"])
    );
    assert_eq!(docker.run(&asked), "42|/var/lib/postgresql/data");
    assert_eq!(docker.run(&["exec", "db", "stat", "-c", "%u", "/proc/1"]), "999");

    docker.kill9();
    docker.resume();
    assert_eq!(docker.run(&asked), "42|/var/lib/postgresql/data", "live-restore keeps containers");
    let dir = docker.dir().to_owned();
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", "db"]);
    drop(docker);
    assert!(!dir.exists());
    assert!(std::fs::read_link(format!("/proc/{pid}/exe")).is_err(), "at most a zombie");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

/// Waits until a command succeeds; answers what it printed.
fn at_last(docker: &Docker, container: &str, args: &[&str]) -> String {
    let answers = wait_until(Duration::from_secs(60), || docker.output(args).status.success());
    assert!(answers, "{args:?}: {}", docker.run(&["logs", container]));
    docker.run(args)
}

#[test]
fn mariadb_and_redis_have_the_official_interfaces_too() {
    let Some(docker) = Docker::start() else { return };
    let image = docker.image(Image::Mariadb);
    let env = ["-e", "MARIADB_ROOT_PASSWORD=it's", "-e", "MYSQL_DATABASE=blog", "-e", "MARIADB_USER=ann"];
    let run = ["run", "-d", "--network", "none", "--name", "my", "-e", "MARIADB_PASSWORD=own"];
    docker.run(&[&run[..], &env, &[&image, "--performance-schema=OFF"]].concat());
    let client = ["exec", "-e", "MYSQL_PWD=own", "my", "mariadb", "-h127.0.0.1", "-uann", "blog", "-NBe"];
    let asked = [&client[..], &["CREATE OR REPLACE TABLE t AS SELECT 42 n; SELECT n, @@datadir FROM t"]].concat();
    assert_eq!(at_last(&docker, "my", &asked), "42\t/var/lib/mysql/");
    assert_eq!(docker.run(&["exec", "my", "stat", "-c", "%u", "/proc/1", "/var/lib/mysql/mysql"]), "999\n999");
    // With data there the environment asks for nothing any more.
    docker.run(&["run", "-d", "--network", "none", "--name", "again", "--volumes-from", "my", &image, "--version"]);
    assert_eq!(docker.run(&["wait", "again"]), "0", "{}", docker.run(&["logs", "again"]));
    docker.run(&["restart", "--time", "30", "my"]);
    assert_eq!(at_last(&docker, "my", &[&client[..], &["SELECT n FROM t"]].concat()), "42");

    let image = docker.image(Image::Redis);
    docker.run(&["run", "-d", "--network", "none", "--name", "re", &image, "--appendonly", "yes"]);
    at_last(&docker, "re", &["exec", "re", "redis-cli", "SET", "n", "42"]);
    docker.run(&["restart", "--time", "30", "re"]);
    assert_eq!(at_last(&docker, "re", &["exec", "re", "redis-cli", "GET", "n"]), "42");
    assert_eq!(docker.run(&["exec", "re", "stat", "-c", "%u", "/proc/1", "/data/appendonlydir"]), "999\n999");
}
