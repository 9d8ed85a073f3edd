//! MySQL, of the installation that `PANDO_MYSQL` names.

use pando_testkit::{Mysql, tools};

use super::mysql_family::{self, Bench};
use super::rig::Table;

impl Bench for Mysql {
    const NAME: &'static str = "MySQL";
    const CONF: &'static [&'static str] = &[
        "innodb_redo_log_capacity=512M",
        "innodb_flush_method=fsync",
        "innodb_doublewrite=ON",
        "plugin-load-add=mysql_clone.so",
    ];
    const FIRST: &'static str = "SET cte_max_recursion_depth = 4294967295; ";
    const NUMBERS: &'static str = "WITH RECURSIVE numbers (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < ROWS) \
         SELECT COLUMNS FROM numbers";
    const BARE: &'static [&'static str] = &["--mysqlx=OFF", "--secure-file-priv=NULL"];
    const SLAP: &'static str = "mysqlslap";
    const COPY: (&'static str, &'static str) = ("by production's clone plugin", "?clone-plugin=none");
}

/// Copies: the first, `@latest`, any second. Nothing where it is not installed.
pub fn measure(table: &mut Table, megabytes: u32, rounds: usize, seconds: u32) {
    if tools::mysql().is_some() {
        let production = mysql_family::production::<Mysql>(megabytes);
        mysql_family::measure(table, &production, rounds, seconds, || ());
    }
}

/// What following costs. Nothing where it is not installed.
pub fn load(table: &mut Table, megabytes: u32, seconds: u32) {
    if tools::mysql().is_some() {
        mysql_family::load::<Mysql>(table, megabytes, seconds);
    }
}
