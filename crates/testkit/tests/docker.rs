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
