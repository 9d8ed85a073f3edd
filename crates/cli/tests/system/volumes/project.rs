//! A Compose project that Pando brings up on a clone, stops and starts around what it does to the data, and takes away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, tools, wait_until};
use serde_json::json;

use super::docker::word;
use super::driver::{Driver, fresh_socket};
use crate::any_second::{ROWS, table};
use crate::stand::Stand;

/// A project's file as `compose init` wrote it for this driver, with the application that a person adds.
pub fn written(stand: &Stand, dir: &Path, driver: &Driver, image: &str) -> PathBuf {
    let place = dir.to_str().unwrap();
    stand.json(&["compose", "init", "shop", place]);
    let said = stand.fails(4, &["compose", "init", "shop", place]);
    assert!(said.contains("is there already"), "{said}");
    let file = dir.join("compose.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("image: {image}\n")), "{text}");
    assert!(
        text.contains("DB_URL: postgres://pando:${PASSWORD}@db/postgres") && text.contains("files:/srv/files"),
        "{text}"
    );
    let web = format!(
        "  web:\n    image: {image}\n    command: sleep infinity\n    init: true\n    depends_on:\n      db:\n        \
         condition: service_healthy\n    volumes:\n      - files:/srv/files\n\nvolumes:\n"
    );
    let text = text.replace("driver: pando\n", &format!("driver: {}\n", word(driver)));
    fs::write(
        &file,
        text.replace("volumes:\n  db:", &format!("{web}  db:")).replace("\n\nvolumes:\n  web:", "\n\n  web:"),
    )
    .unwrap();
    file
}

/// The same for any app: the application is what stands there in comments, in an image of its own.
pub fn filled_in(daemon: &Daemon, app: &str, dir: &Path, driver: &Driver, image: &str) -> PathBuf {
    daemon.pando_json(&["compose", "init", app, dir.to_str().unwrap()]);
    let file = dir.join("compose.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("driver: pando\n", &format!("driver: {}\n", word(driver)));
    let (before, rest) = text.split_once("  # The application itself.\n").expect("a place for the application");
    let lines = rest.lines().map(|line| line.strip_prefix("  # ").map_or(line.to_owned(), |line| format!("  {line}")));
    // Nothing is published here: each project's network is its own.
    let lines = lines.filter(|line| !line.starts_with("    ports:") && !line.contains("127.0.0.1:8080:80"));
    let rest: String = lines.map(|line| line + "\n").collect();
    let runs = format!("    image: {image}\n    command: sleep infinity\n    init: true\n");
    let own = format!("    image: {app}:latest\n");
    assert!(rest.contains(&own), "{rest}");
    fs::write(&file, before.to_owned() + &rest.replace(&own, &runs)).unwrap();
    file
}

#[test]
fn a_project_is_brought_up_on_a_clone_and_stopped_for_what_is_done_to_it() {
    if !tools::require("docker-compose") {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("project"));
    let host = docker.host();
    let env = [("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap()), ("DOCKER_HOST", host.as_str())];
    let Some(stand) = Stand::with_env(&env) else { return };
    table(&stand.production);
    stand.production.psql("INSERT INTO mark VALUES (1)");
    fs::write(stand.files().join("page"), "one").unwrap();
    stand.link_both(&[]);
    let image = docker.image(Image::Postgres);
    let dir = tempfile::tempdir().unwrap();
    let file = written(&stand, dir.path(), &driver, &image);
    let path = file.to_str().unwrap();

    let view = stand.json(&["clone", "shop", "pro1", "--compose", path]);
    assert_eq!(view["volumes"], json!({ "pro1_db": "db", "pro1_files": "files" }), "{view}");
    assert_eq!((&view["compose"], &view["profile"]), (&json!(path), &json!("durable")));
    let env_file = fs::read_to_string(dir.path().join(".env")).unwrap();
    let password = view["sources"]["db"]["password"].as_str().unwrap();
    assert!(env_file.contains(&format!("PASSWORD={password}\n")), "the clone's password is the file's");
    let ask = |sql: &str| docker.output(&["exec", "pro1_db_1", "psql", "-U", "pando", "-d", "postgres", "-AtXc", sql]);
    let rows = || String::from_utf8_lossy(&ask(ROWS).stdout).trim().replace('\n', " ");
    let page = || {
        String::from_utf8_lossy(&docker.output(&["exec", "pro1_web_1", "cat", "/srv/files/page"]).stdout).into_owned()
    };
    let shows = |rows_then: &str, page_then: &str| {
        let there = || rows() == rows_then && page() == page_then;
        assert!(wait_until(Duration::from_secs(30), there), "{} {}: {}", rows(), page(), docker.run(&["ps", "-a"]));
    };
    shows("1", "one");
    // Its units are the containers: that they run is what is shown, and `stop` and `start` are theirs.
    let seen = || {
        let (show, list) = (stand.json(&["show", "pro1"]), stand.json(&["ls"]));
        let row = list["clones"].as_array().unwrap().iter().find(|row| row["name"] == "pro1").unwrap().clone();
        assert_eq!((&show["state"], &show["used_by"]), (&row["state"], &row["used_by"]), "{show} {row}");
        (row["state"].as_str().unwrap().to_owned(), row["used_by"].as_array().map_or(0, Vec::len))
    };
    assert_eq!(seen(), ("running".to_owned(), 2));
    let users = stand.json(&["show", "pro1"])["used_by"].to_string();
    assert!(users.contains(&docker.run(&["inspect", "-f", "{{.Id}}", "pro1_db_1"])[..12]), "{users}");
    assert_eq!(stand.json(&["stop", "pro1"])["state"], "stopped");
    assert_eq!((seen(), docker.run(&["ps", "-q"])), (("stopped".to_owned(), 0), String::new()));
    assert_eq!(stand.json(&["start", "pro1"])["state"], "running");
    shows("1", "one");
    assert_eq!(seen(), ("running".to_owned(), 2));
    stand.fails(4, &["clone", "shop", "pro1", "--compose", path]);

    // Refreshed under the running project; a rewind and an undo are the same verb.
    stand.production.psql("INSERT INTO mark VALUES (2)");
    fs::write(stand.files().join("page"), "two").unwrap();
    stand.json(&["refresh", "pro1@now"]);
    shows("1 2", "two");
    assert!(ask("INSERT INTO mark VALUES (10)").status.success());
    assert_eq!(driver.status("pro1_db")["mismatch"], json!(null), "the project's clone decides the moment");

    // A service that was stopped stays so. What another container uses is not taken away, and the project goes on.
    docker.run(&["stop", "pro1_web_1"]);
    docker.run(&["run", "-d", "--init", "--name", "other", "-v", "pro1_files:/srv/files", &image, "sleep", "infinity"]);
    let said = stand.fails(4, &["refresh", "pro1@now"]);
    assert!(said.contains("in use by container"), "{said}");
    assert!(wait_until(Duration::from_secs(30), || rows() == "1 2 10"), "{}", docker.run(&["ps", "-a"]));
    docker.run(&["rm", "-fv", "other"]);
    stand.json(&["refresh", "pro1@now"]);
    assert!(wait_until(Duration::from_secs(30), || rows() == "1 2"), "{}", docker.run(&["ps", "-a"]));
    assert_eq!(docker.run(&["ps", "-q", "--filter", "name=pro1_web_1"]), "");

    // Compose never makes a volume anew because its options have changed, and the data stays what it is.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("${AT:-latest}", "-1s")).unwrap();
    let mut compose = docker.command("docker-compose");
    let output = compose.current_dir(dir.path()).args(["-p", "pro1", "up", "-d"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("at"), "{said}");
    fs::write(&file, text).unwrap();
    assert_eq!((rows().as_str(), driver.names()), ("1 2", vec!["pro1_db".to_owned(), "pro1_files".to_owned()]));

    // One that cannot come up leaves nothing.
    let bad = dir.path().join("bad.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&bad, text.replace("    init: true\n", "    ports: [\"192.0.2.1:80:80\"]\n")).unwrap();
    let said = stand.fails(1, &["clone", "shop", "pro2", "--compose", bad.to_str().unwrap()]);
    assert!(said.contains("starting the project pro2"), "{said}");
    assert_eq!(docker.run(&["ps", "-aq", "--filter", "name=pro2"]), "");
    stand.fails(3, &["show", "pro2"]);
    assert_eq!(driver.names(), ["pro1_db", "pro1_files"]);

    stand.json(&["rm", "pro1"]);
    assert_eq!((docker.run(&["ps", "-aq"]), docker.run(&["volume", "ls", "-q"])), (String::new(), String::new()));
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
