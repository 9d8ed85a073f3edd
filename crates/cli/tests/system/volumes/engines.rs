//! MariaDB and Redis in volumes: served by containers of the official images' kind, as they were at a moment, cut off
//! production, by the clone's password; snapshotted while they run, refreshed while they do not.

use std::path::Path;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use pando_testkit::{Daemon, Docker, Image, MariadbProduction, RedisProduction, tools, wait_until};

use super::docker::{mounted, word};
use super::driver::{Driver, fresh_socket};
use crate::stand::PANDO;

/// Runs a program inside a container; what it printed, or what went wrong.
fn inside(docker: &Docker, container: &str, args: &[&str]) -> Result<String, String> {
    let output = docker.output(&[&["exec", container], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn sql(docker: &Docker, container: &str, sql: &str) -> Result<String, String> {
    inside(docker, container, &["mariadb", "-N", "-B", "-e", sql, "blog"])
}

/// The same by the network, with a password.
fn sql_by(docker: &Docker, who: (&str, &str), ask: &str) -> Result<String, String> {
    let (user, password) = (format!("-u{}", who.0), format!("-p{}", who.1));
    inside(docker, "db", &["mariadb", "-h", "db", &user, &password, "-N", "-B", "-e", ask, "blog"])
}

fn redis(docker: &Docker, container: &str, args: &[&str]) -> Result<String, String> {
    inside(docker, container, &[&["redis-cli"], args].concat())
}

fn up(docker: &Docker, container: &str, ready: &[&str]) {
    let answers = || inside(docker, container, ready).is_ok_and(|said| !said.contains("LOADING"));
    assert!(wait_until(Duration::from_secs(60), answers), "{}", docker.run(&["logs", container]));
}

const ROWS: &str = "SELECT GROUP_CONCAT(n ORDER BY n) FROM mark";
const PING: [&str; 4] = ["mariadb", "-e", "SELECT 1", "blog"];

#[test]
fn m02_m16_r07_mariadb_and_redis_are_served_by_containers() {
    if !["mariadbd", "redis-server", "mkfs.btrfs"].iter().all(|tool| tools::require(tool)) {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("engines"));
    let daemon = Daemon::start_with(Path::new(PANDO), &[("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap())]);
    let (production, cache) = (MariadbProduction::start(&["sql_mode=ANSI_QUOTES"]), RedisProduction::start(&[]));
    production.sql(
        "CREATE TABLE mark (n INT PRIMARY KEY); INSERT INTO mark VALUES (1); \
         CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON *.* TO app@'%'",
    );
    cache.client().run(&["SET", "cart", "one"]);
    let (db, q) = (format!("db={}", production.url()), format!("q={}", cache.url(0)));
    daemon.pando_json(&["link", "stack", &db, &q]);
    let first = Timestamp::now().round(Unit::Second).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    production.sql("INSERT INTO mark VALUES (2)");
    cache.client().run(&["SET", "cart", "two"]);

    // Two projects: the newest state, and one that has to be replayed.
    let name = word(&driver);
    docker.run(&["network", "create", "net"]);
    let images = (docker.image(Image::Mariadb), docker.image(Image::Redis));
    let run = |container: &str, volume: &str, at: &str, source: &str, options: &[&str], command: &[&str]| {
        let path = if source == "db" { "/var/lib/mysql" } else { "/data" };
        let image = if source == "db" { &images.0 } else { &images.1 };
        let mount = format!(
            "type=volume,source={volume},target={path},volume-driver={name},volume-opt=from=stack,\
             volume-opt=source={source},volume-opt=at={at},volume-opt=password=opensesame"
        );
        let start = ["run", "-d", "--name", container, "--network", "net", "--mount", &mount];
        docker.run(&[&start, options, &[image.as_str()], command].concat());
        path
    };
    run("db", "dev1_db", "now", "db", &[], &["--defaults-extra-file=/var/lib/mysql/pando.cnf"]);
    run("old", "dev2_db", &first.to_string(), "db", &[], &[]);
    run("plain", "dev2_q", &first.to_string(), "q", &[], &[]);
    docker.run(&["volume", "create", "-d", &name, "-o", "from=stack", "-o", "source=q", "-o", "at=now", "dev1_q"]);
    let conf = ["redis-server", "/data/pando.conf"];
    docker.run(&[&["run", "-d", "--name", "cart", "-v", "dev1_q:/data", &images.1], &conf[..]].concat());
    up(&docker, "db", &PING);
    up(&docker, "old", &PING);
    assert_eq!((sql(&docker, "db", ROWS), sql(&docker, "old", ROWS)), (Ok("1,2".to_owned()), Ok("1".to_owned())));
    up(&docker, "cart", &["redis-cli", "--pass", "opensesame", "ping"]);
    up(&docker, "plain", &["redis-cli", "ping"]);
    let cart = |container: &str, more: &[&str]| redis(&docker, container, &[more, &["GET", "cart"]].concat());
    assert_eq!(cart("plain", &[]), Ok("one".to_owned()), "without its settings there is no password");
    let pass = ["--no-auth-warning", "--pass", "opensesame"];
    assert_eq!(cart("cart", &pass), Ok("two".to_owned()));
    assert!(cart("cart", &[]).is_ok_and(|said| said.contains("NOAUTH")), "{:?}", cart("cart", &[]));

    // Nobody of production comes in, nor Pando's own account; nothing leads back.
    assert_eq!(sql_by(&docker, ("pando", "opensesame"), ROWS), Ok("1,2".to_owned()));
    for (user, password) in [("app", "app-secret"), ("rep", "prod-secret"), ("pando_keeper", "")] {
        assert!(sql_by(&docker, (user, password), ROWS).is_err(), "{user}");
    }
    assert_eq!(sql(&docker, "db", "SHOW ALL SLAVES STATUS"), Ok(String::new()));
    assert_eq!(sql(&docker, "db", "SELECT COUNT(*) FROM mysql.user WHERE user = 'pando_keeper'"), Ok("0".to_owned()));
    let settings = sql(&docker, "db", "SELECT @@sql_mode, @@event_scheduler");
    assert_eq!(settings, Ok("ANSI_QUOTES\tOFF".to_owned()), "production's mode, and no events");
    assert_eq!(
        redis(&docker, "cart", &[&pass[..], &["CONFIG", "GET", "appendonly"]].concat()),
        Ok("appendonly\nyes".into())
    );

    // Bookmarked while they run, changed, stopped in their own ways, rewound: data of both at one instant.
    sql(&docker, "db", "INSERT INTO mark VALUES (10)").unwrap();
    redis(&docker, "cart", &[&pass[..], &["SET", "cart", "mine"]].concat()).unwrap();
    daemon.pando_json(&["bookmark", "dev1", "here"]);
    sql(&docker, "db", "DELETE FROM mark").unwrap();
    redis(&docker, "cart", &[&pass[..], &["FLUSHALL"]].concat()).unwrap();
    redis(&docker, "plain", &["SET", "cart", "saved"]).unwrap();
    let place = mounted(&docker, "cart", "/data");
    docker.run(&["stop", "db", "cart", "plain"]);
    daemon.pando_json(&["rewind", "dev1@here"]);
    docker.run(&["start", "db", "cart", "plain"]);
    up(&docker, "db", &PING);
    up(&docker, "cart", &["redis-cli", "--pass", "opensesame", "ping"]);
    up(&docker, "plain", &["redis-cli", "ping"]);
    assert_eq!((sql(&docker, "db", ROWS), cart("cart", &pass)), (Ok("1,2,10".to_owned()), Ok("mine".to_owned())));
    assert_eq!(cart("plain", &[]), Ok("saved".to_owned()), "what a server without an append-only file saved");
    assert_ne!(mounted(&docker, "cart", "/data"), place);

    // Production's newest, with the same password.
    production.sql("INSERT INTO mark VALUES (3)");
    cache.client().run(&["SET", "cart", "three"]);
    docker.run(&["stop", "db", "cart"]);
    daemon.pando_json(&["refresh", "dev1@now"]);
    docker.run(&["start", "db", "cart"]);
    up(&docker, "db", &PING);
    up(&docker, "cart", &["redis-cli", "--pass", "opensesame", "ping"]);
    assert_eq!(sql_by(&docker, ("pando", "opensesame"), ROWS), Ok("1,2,3".to_owned()));
    assert_eq!(cart("cart", &pass), Ok("three".to_owned()));

    docker.run(&["rm", "-f", "db", "cart", "plain", "old"]);
    docker.run(&["volume", "rm", "dev1_db", "dev1_q", "dev2_db", "dev2_q"]);
    drop(docker);
    daemon.pando_json(&["unlink", "stack"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", daemon.log());
}
