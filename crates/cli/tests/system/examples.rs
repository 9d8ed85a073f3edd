//! The examples are run as a reader would run them, with the binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use pando_testkit::{Docker, Image, tools};

use crate::stand::PANDO;

/// Runs an example's one command, and hands back what it said.
fn run(example: &str) -> String {
    said_by(&mut Command::new(place(example).join("run")))
}

fn place(example: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("examples").join(example)
}

fn said_by(command: &mut Command) -> String {
    let output = command.arg(PANDO).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn a_jira_is_cloned_at_two_moments() {
    let tools = ["initdb", "python3", "rsync", "mkfs.btrfs"];
    if !tools::require_root() || !tools.into_iter().all(tools::require) {
        return;
    }
    let said = run("jira");
    for line in [
        "its home is locked: True",
        "\"baseUrl\": \"http://before.jira.example\"",
        "\"baseUrl\": \"http://after.jira.example\"",
        "GRO-2  Count the stems  (note.txt: attached to GRO-2)",
        "production was not touched",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
}

/// A database, a Redis and directories of one application, at one second.
#[test]
fn a_rails_application_is_cloned_at_two_moments() {
    let tools = ["initdb", "redis-server", "python3", "rsync", "mkfs.btrfs"];
    if !tools::require_root() || !tools.into_iter().all(tools::require) {
        return;
    }
    let said = run("rails");
    for line in [
        "before: {\"posts\": [\"aspen\"], \"uploads\": {\"aspen\": \"a picture of aspen\"}, \"jobs\": [\"resize aspen\"]",
        "\"jobs\": [\"resize aspen\", \"resize birch\"], \"counter\": 2",
        "redis: redis, off by 0.0 s",
        "production was not touched",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
}

#[test]
fn a_wordpress_is_cloned_at_two_moments() {
    let tools = ["mariadbd", "php", "curl", "rsync", "mkfs.btrfs"];
    if !tools::require_root() || !tools.into_iter().all(tools::require) {
        return;
    }
    let said = run("wordpress");
    for (clone, word, post) in [
        ("dev1", "shows", "A second stem"),
        ("dev1", "knows nothing of", "A third stem"),
        ("dev2", "shows", "A third stem"),
        ("production", "knows nothing of", "Only in dev1"),
    ] {
        let is = |line: &str| {
            line.contains(&format!("http://{clone}.localhost")) && line.ends_with(&format!("{word}: {post}"))
        };
        assert!(said.lines().any(is), "{clone} {word} {post}: {said}");
    }
    assert!(said.ends_with("wordpress: all as it should be\n"), "{said}");
}

/// The same as containers: two Compose projects, of which one is refreshed while the other goes on.
#[test]
fn a_wordpress_runs_as_two_compose_projects() {
    let tools = ["mariadbd", "php", "curl", "rsync", "mkfs.btrfs", "docker-compose"];
    if !tools::require_root() || !tools.into_iter().all(tools::require) {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let mut example = Command::new(place("wordpress").join("run-compose"));
    example.env("DOCKER_HOST", docker.host()).env("MARIADB_IMAGE", docker.image(Image::Mariadb));
    // Other engines of this machine have drivers of that name, too.
    example.env("PANDO_DRIVER", format!("pando-wordpress-{}", std::process::id()));
    let said = said_by(&mut example);
    for line in [
        "dev1: http://localhost:PORT/ shows: A third stem",
        "dev2: http://localhost:PORT/ shows: A second stem",
        "dev2: http://localhost:PORT/ knows nothing of: A third stem",
        "dev1: http://localhost:PORT/ shows: A fourth stem",
        "dev2: http://localhost:PORT/ knows nothing of: A fourth stem",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    assert!(said.ends_with("wordpress: all as it should be\n"), "{said}");
}
