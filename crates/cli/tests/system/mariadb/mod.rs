//! MariaDB as production: the tests it shares with MySQL (`mysql_family`), and its own.

use std::path::Path;

use pando_testkit::{Daemon, Image, Mariadb, MariadbProduction, tools};

use crate::mysql_family::{self, ROWS, Side, second, shared_tests, url, write};
use crate::stand::PANDO;

mod copy;
mod foreign;
mod series;
mod traps;

type Stand = mysql_family::Stand<Mariadb>;

impl Side for Mariadb {
    fn daemon_with(env: &[(&str, &str)]) -> Option<Daemon> {
        let tools = ["mkfs.btrfs", "mariadbd", "mariadb-install-db", "mariadb"];
        let there = tools::require_root() && tools.iter().all(|tool| tools::require(tool));
        there.then(|| Daemon::start_with(Path::new(PANDO), env))
    }

    const EXACT: bool = false;

    fn own_way(_: i64, _: &str) -> Option<String> {
        None
    }

    const RESET: &'static str = "RESET MASTER";
    const OF_A_REPLICA: &'static [&'static str] = &["SHOW ALL SLAVES STATUS", "SELECT @@gtid_slave_pos"];
    const IDENTITY: &'static str = "SELECT @@server_id";
    const ACCOUNTS: (&'static str, &'static [(&'static str, &'static str)]) = ("DO 0", &[]);
    fn in_other_ways(_: &MariadbProduction) -> String {
        "DO 0".to_owned()
    }

    const MORE_VERIFIERS: &'static str = "DO 0";
    const IMAGE: Image = Image::Mariadb;
    const CLIENT: &'static str = "mariadb";
    const LAYERS_OF_NEXT: usize = 2;
    const KEPT: [&'static str; 2] = [
        "SELECT User FROM mysql.global_priv WHERE Priv LIKE '%*%' AND Priv NOT LIKE '%THISISNOT%'",
        "SELECT user FROM mysql.user WHERE user = 'readers' AND is_role = 'Y'",
    ];
}

fn at(url: &str, sql: &str) -> String {
    mysql_family::at::<Mariadb>(url, sql)
}

shared_tests!(Mariadb);
