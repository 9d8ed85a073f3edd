//! MySQL in volumes: served by a container of the official image's kind, as it was at a moment, cut off production, by
//! the clone's password; snapshotted while it runs, refreshed while it does not.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{Daemon, Docker, Image, MysqlProduction, tools, wait_until};

use super::docker::word;
use super::driver::{Driver, fresh_socket};
use crate::stand::PANDO;

const ROWS: &str = "SELECT GROUP_CONCAT(n ORDER BY n) FROM mark";

/// Runs SQL inside a container as a user, by its network or by its socket.
fn sql(docker: &Docker, who: (&str, &str), container: &str, ask: &str) -> Result<String, String> {
    let password = format!("MYSQL_PWD={}", who.1);
    let host = if container == "old" { "--protocol=socket" } else { "--host=127.0.0.1" };
    let user = format!("--user={}", who.0);
    let client = ["exec", "-e", &password, container, "mysql", host, &user, "-N", "-B", "-e", ask, "blog"];
    let output = docker.output(&client);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn m02_m16_mysql_is_served_by_containers() {
    let there = tools::require_mysql() && tools::require("mkfs.btrfs");
    let Some(prefix) = there.then(tools::mysql).flatten() else { return };
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("mysql"));
    let (plugin, prefix) = (driver.0.to_str().unwrap(), prefix.display().to_string());
    let daemon =
        Daemon::start_with(Path::new(PANDO), &[("PANDO_VOLUME_PLUGIN", plugin), ("PANDO_MYSQL", prefix.as_str())]);
    let production = MysqlProduction::start(&["sql_mode=ANSI_QUOTES"]);
    production.sql(
        "CREATE TABLE mark (n INT PRIMARY KEY); INSERT INTO mark VALUES (1); \
         CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON *.* TO app@'%'",
    );
    daemon.pando_json(&["link", "stack", &format!("db={}", production.url())]);
    sleep(Duration::from_millis(500));
    let first = Timestamp::now();
    sleep(Duration::from_millis(500));
    production.sql("INSERT INTO mark VALUES (2)");

    // The newest state, and one that has to be replayed.
    let (name, image) = (word(&driver), docker.image(Image::Mysql));
    let run = |container: &str, volume: &str, at: &str| {
        let mount = format!(
            "type=volume,source={volume},target=/var/lib/mysql,volume-driver={name},volume-opt=from=stack,\
             volume-opt=at={at},volume-opt=password=opensesame"
        );
        let start = ["run", "-d", "--name", container, "--mount", &mount, &image];
        docker.run(&[&start[..], &["--defaults-extra-file=/var/lib/mysql/pando.cnf"]].concat());
    };
    run("db", "dev1_db", "now");
    run("old", "dev2_db", &first.to_string());
    let pando = ("pando", "opensesame");
    let up = |container: &str| {
        let answers = || sql(&docker, pando, container, "SELECT 1").is_ok();
        let log = || String::from_utf8_lossy(&docker.output(&["logs", container]).stderr).into_owned();
        assert!(wait_until(Duration::from_secs(60), answers), "{}", log());
    };
    up("db");
    up("old");
    assert_eq!(sql(&docker, pando, "db", ROWS), Ok("1,2".to_owned()));
    assert_eq!(sql(&docker, pando, "old", ROWS), Ok("1".to_owned()));

    // Nobody of production comes in, nor Pando's own account; nothing leads back.
    for who in [("app", "app-secret"), ("rep", "prod-secret"), ("pando_keeper", ""), ("root", "")] {
        for container in ["db", "old"] {
            assert!(sql(&docker, who, container, ROWS).is_err(), "{who:?}");
        }
    }
    let asked = |ask: &str| sql(&docker, pando, "db", ask);
    assert_eq!(asked("SHOW REPLICA STATUS"), Ok(String::new()));
    assert_eq!(asked("SELECT COUNT(*) FROM mysql.user WHERE user = 'pando_keeper'"), Ok("0".to_owned()));
    assert_eq!(asked("SELECT @@sql_mode, @@event_scheduler"), Ok("ANSI_QUOTES\tOFF".to_owned()));

    // Bookmarked while it runs, changed, stopped, rewound; then production's newest, with the same password.
    asked("INSERT INTO mark VALUES (10)").unwrap();
    daemon.pando_json(&["bookmark", "dev1", "here"]);
    asked("DELETE FROM mark").unwrap();
    docker.run(&["stop", "db"]);
    daemon.pando_json(&["rewind", "dev1@here"]);
    docker.run(&["start", "db"]);
    up("db");
    assert_eq!(asked(ROWS), Ok("1,2,10".to_owned()));
    production.sql("INSERT INTO mark VALUES (3)");
    docker.run(&["stop", "db"]);
    daemon.pando_json(&["refresh", "dev1@now"]);
    docker.run(&["start", "db"]);
    up("db");
    assert_eq!(asked(ROWS), Ok("1,2,3".to_owned()));

    // What begins a Compose project on it.
    let place = tempfile::tempdir().unwrap();
    daemon.pando_json(&["compose", "init", "stack", place.path().to_str().unwrap()]);
    let text = std::fs::read_to_string(place.path().join("compose.yaml")).unwrap();
    assert!(text.contains("image: mysql:") && text.contains("MYSQL_PWD: ${PASSWORD}"), "{text}");

    docker.run(&["rm", "-f", "db", "old"]);
    docker.run(&["volume", "rm", "dev1_db", "dev2_db"]);
    daemon.pando_json(&["unlink", "stack"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "unannounced: {alarms:#?}");
}
