//! MySQL as production: the tests it shares with MariaDB (`mysql_family`), and its own.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{Daemon, Docker, Image, MariadbProduction, Mysql, MysqlProduction, mariadb_at, tools, wait_until};

use crate::mysql_family::{self, Side, shared_tests, url};
use crate::stand::{PANDO, entries};

mod copy;
mod foreign;

type Stand = mysql_family::Stand<Mysql>;

impl Side for Mysql {
    fn daemon_with(env: &[(&str, &str)]) -> Option<Daemon> {
        let there = tools::require_root() && tools::require("mkfs.btrfs") && tools::require("mariadb");
        let prefix = (there && tools::require_mysql()).then(tools::mysql)??.display().to_string();
        Some(Daemon::start_with(Path::new(PANDO), &[env, &[("PANDO_MYSQL", &prefix)]].concat()))
    }

    const EXACT: bool = true;

    /// Compressed, with a tag, in two phases.
    fn own_way(round: i64, row: &str) -> Option<String> {
        match round {
            5 => Some(format!("SET SESSION binlog_transaction_compression = ON; {row}")),
            8 => Some(format!("SET SESSION gtid_next = 'AUTOMATIC:tag'; {row}")),
            11 => Some(format!("XA START 'x'; {row}; XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'")),
            _ => None,
        }
    }

    const RESET: &'static str = "RESET BINARY LOGS AND GTIDS";
    const OF_A_REPLICA: &'static [&'static str] =
        &["SHOW REPLICA STATUS", "SELECT @@gtid_executed", "SELECT host FROM mysql.slave_master_info"];
    const IDENTITY: &'static str = "SELECT @@server_uuid";
    const ACCOUNTS: (&'static str, &'static [(&'static str, &'static str)]) =
        ("ALTER USER app@'%' IDENTIFIED BY 'app-second' RETAIN CURRENT PASSWORD", &[("app", "app-second")]);
    fn in_other_ways(production: &MysqlProduction) -> String {
        let known = production.sql(
            "SELECT plugin_name FROM information_schema.plugins WHERE plugin_type = 'AUTHENTICATION' AND plugin_status = \
             'ACTIVE' AND plugin_name IN ('mysql_native_password', 'sha256_password')",
        );
        let account = |plugin: &str| format!("CREATE USER '{plugin}' IDENTIFIED WITH {plugin} BY 'other-secret'");
        known.lines().map(account).chain(["DO 0".to_owned()]).collect::<Vec<_>>().join("; ")
    }

    const MORE_VERIFIERS: &'static str = "SELECT RIGHT(user_attributes ->> '$.additional_password', 40) FROM mysql.user \
        WHERE JSON_CONTAINS_PATH(user_attributes, 'one', '$.additional_password')";
    const IMAGE: Image = Image::Mysql;
    const CLIENT: &'static str = "mysql";
    const LAYERS_OF_NEXT: usize = 1;
    const KEPT: [&'static str; 2] = [
        "SELECT user FROM mysql.user WHERE authentication_string <> '' AND authentication_string NOT LIKE \
         '%THISISACOMBINATION%' OR JSON_CONTAINS_PATH(user_attributes, 'one', '$.additional_password')",
        "SELECT user FROM mysql.user WHERE user = 'readers'",
    ];
}

shared_tests!(Mysql);

#[test]
fn m08_without_numbers_of_transactions_what_gives_them_is_said() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE");
    let refused = stand.fails(1, &["link", "blog", &stand.source()]);
    assert!(refused.contains("SET PERSIST gtid_mode = ON;"), "{refused}");
    stand.production.sql("SET GLOBAL gtid_mode = ON");
    stand.link(&[]);
    stand.end(&[]);
}

#[test]
fn a_clone_lives_in_a_container() {
    let there = tools::require_mysql() && tools::require("mkfs.btrfs");
    let Some(prefix) = there.then(tools::mysql).flatten() else { return };
    let Some(docker) = Docker::start() else { return };
    let image = docker.image(Image::Mysql);
    let env = [("PANDO_MYSQL", prefix.display().to_string()), ("DOCKER_HOST", docker.host())];
    let daemon = Daemon::start_with(Path::new(PANDO), &env.each_ref().map(|(name, value)| (*name, value.as_str())));
    let stand = Stand::over(daemon, MysqlProduction::start_in("Europe/Berlin", &[]));
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&[]);
    let url = stand.copy("blog@now", "dev", &["--runtime", "docker", "--record"]);
    // Also there it is in the zone of production's machine.
    const SUMMER: &str = "SELECT FROM_UNIXTIME(1720000000)";
    assert_eq!(mysql_family::at::<Mysql>(&url, SUMMER), stand.production.sql(SUMMER));
    let notes = || mysql_family::at::<Mysql>(&url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    assert_eq!(notes(), "1");
    let container = stand.json(&["show", "dev"])["sources"]["db"]["container"].clone();
    assert!(container["image"].as_str().is_some_and(|used| used.contains(&image)), "{container}");
    mysql_family::at::<Mysql>(&url, "INSERT INTO note VALUES (2)");
    sleep(Duration::from_millis(300));
    let before = Timestamp::now();
    sleep(Duration::from_millis(300));
    mysql_family::at::<Mysql>(&url, "DELETE FROM note");
    stand.json(&["rewind", &format!("dev@{before}")]);
    assert_eq!(notes(), "1,2");
    stand.json(&["stop", "dev"]);
    stand.json(&["start", "dev"]);
    assert_eq!(notes(), "1,2");
    // A server of another series does not get to the data.
    let refused = stand.fails(4, &["clone", "blog", "other", "--runtime", "docker", "--image", "db=mariadb:10.11"]);
    assert!(refused.contains("mariadb:10.11"), "{refused}");
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

#[test]
fn m16_killed_while_a_tree_is_made_anew_nothing_of_it_is_left() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&[]);
    let archive = stand.daemon.home().with_file_name("blog.tar");
    let export = ["export", "blog@now", "--output", archive.to_str().unwrap()];
    let prefix = tools::mysql().unwrap().display().to_string();
    let volumes = stand.daemon.home().join("pool/volumes");
    for point in ["export.renew.before", "renew.program", "export.renew.after"] {
        stand.daemon.set_env(&[("PANDO_MYSQL", &prefix), ("PANDO_FAILPOINTS", &format!("{point}=kill"))]);
        stand.daemon.restart();
        assert!(!stand.daemon.pando(&export).status.success());
        assert!(stand.daemon.wait_dead(Duration::from_secs(60)), "{point} was not passed: {}", stand.daemon.log());
        stand.daemon.set_env(&[("PANDO_MYSQL", &prefix)]);
        stand.daemon.resume();
        let only_mirror = || entries(&volumes).len() == 1;
        assert!(wait_until(Duration::from_secs(20), only_mirror), "{point}: {:?}", entries(&volumes));
        assert!(!archive.exists(), "{point}");
    }
    stand.state("following", 30);
    // What cannot be said as statements is not left out, but named.
    let url = stand.copy("blog@now", "dev", &[]);
    mysql_family::at::<Mysql>(&url, "CREATE VIEW hollow AS SELECT n FROM note; DROP TABLE note");
    let refused = stand.fails(1, &["export", "dev", "--output", archive.to_str().unwrap()]);
    assert!(refused.contains("making db anew failed") && refused.contains("hollow"), "{refused}");
    assert!(!archive.exists());
    mysql_family::at::<Mysql>(&url, "DROP VIEW hollow");
    stand.json(&["export", "dev", "--output", archive.to_str().unwrap()]);
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

#[test]
fn an_address_of_mysql_that_is_of_mariadb_is_served_by_mariadb() {
    let there = tools::require("mariadbd") && tools::require("mariadb-install-db");
    let Some(daemon) = Mysql::daemon().filter(|_| there) else { return };
    let production = MariadbProduction::start(&[]);
    production.sql("CREATE TABLE note (n INT); INSERT INTO note VALUES (4)");
    let source = production.url().replace("mariadb://", "mysql://");
    daemon.pando_json(&["link", "blog", &source]);
    let view = daemon.pando_json(&["clone", "blog", "dev"]);
    assert_eq!(view["sources"]["db"]["engine"], "mariadb", "{view}");
    assert!(mariadb_at(&url(&view), "SELECT VERSION()").unwrap().contains("MariaDB"));
    daemon.pando_json(&["rm", "dev"]);
    daemon.pando_json(&["unlink", "blog"]);
}
