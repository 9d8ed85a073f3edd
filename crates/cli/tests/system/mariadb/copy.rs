//! The first copy: of files where production's can be reached, else a dump; under load, with what belongs to
//! production's server alone left out.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use pando_testkit::tools;

use super::{ROWS, Stand, at};
use crate::any_second::Oracle;
use crate::stand::Raised;

impl Stand {
    /// Links without a proxy: who listens is production itself.
    pub fn link_here(&self, query: &str, more: &[&str]) {
        let url = format!("db={}{query}", self.production.url());
        self.json(&[&["link", "blog", &url], more].concat());
    }

    /// What `show` notes of the source.
    pub fn notes(&self) -> String {
        self.json(&["show", "blog"])["sources"]["db"]["notes"].to_string()
    }
}

#[test]
fn m03_m04_the_first_copy_is_one_of_files_where_they_can_be_reached() {
    if !tools::require("mariadb-backup") {
        return;
    }
    let Some(stand) = Stand::with(&["symbolic-links=1", "plugin_maturity=alpha"]) else { return };
    let aside = tempfile::Builder::new().prefix("pando-aside-").tempdir_in("/tmp").unwrap();
    stand.production.sql(
        "CREATE TABLE mark (n BIGINT PRIMARY KEY, text VARCHAR(200)); CREATE TABLE counter (n INT); \
         INSERT INTO counter VALUES (0); CREATE TABLE plain (n BIGINT PRIMARY KEY) ENGINE=MyISAM; \
         CREATE TABLE aria (n BIGINT PRIMARY KEY) ENGINE=Aria; CREATE TABLE list (n BIGINT NOT NULL) ENGINE=CSV; \
         CREATE SEQUENCE steps; DO NEXTVAL(steps); CREATE VIEW seen AS SELECT n FROM mark; \
         INSERT INTO mysql.servers VALUES ('far', 'h', 'd', 'u', 'far-secret', 3306, '', 'mysql', ''); \
         SET GLOBAL gtid_slave_pos = '5-5-5'",
    );
    let mut oracle = Oracle::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        scope.spawn(|| super::write(&stand, &mut oracle, &stop));
        stand.link_here("", &["--snapshot-every", "2s"]);
        sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(stand.notes().contains("one of production's files in /tmp/pando-my-"), "{}", stand.notes());
    assert!(!stand.notes().contains("take no part in transactions"), "{}", stand.notes());
    let url = stand.copy("blog@now", "now", &[]);
    assert_eq!(at(&url, ROWS), stand.production.sql(ROWS));
    for table in ["counter", "plain", "aria", "list", "seen"] {
        let sql = format!("SELECT COUNT(*), SUM(n) FROM {table}");
        assert_eq!(at(&url, &sql), stand.production.sql(&sql), "{table}");
    }
    assert_eq!(at(&url, "CHECK TABLE mark, counter, plain, aria, list").matches("OK").count(), 5);
    assert_eq!(at(&url, "SELECT COUNT(*) FROM mysql.servers"), "0");
    let tree = stand.json(&["show", "now"])["sources"]["db"]["path"].as_str().unwrap().to_owned();
    let left = crate::stand::entries(tree.as_ref());
    assert!(
        !left
            .iter()
            .any(|name| ["xtrabackup_", "mariadb_backup_", "backup-my"].iter().any(|made| name.starts_with(made))),
        "{left:?}"
    );
    assert!(!stand.daemon.log().contains("prod-secret"));
    stand.json(&["rm", "now"]);
    stand.json(&["unlink", "blog"]);

    // A table that lies elsewhere: its file would be production's own. The first copy is a dump, and clones keep it inside.
    fs::set_permissions(aside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    stand.production.sql(&format!(
        "CREATE TABLE far (n INT) DATA DIRECTORY='{0}'; INSERT INTO far VALUES (1); \
         CREATE TABLE farther (n INT) ENGINE=MyISAM DATA DIRECTORY='{0}'; INSERT INTO farther VALUES (1)",
        aside.path().display()
    ));
    let before = files(aside.path());
    stand.link_here("", &["--snapshot-every", "2s"]);
    assert!(stand.notes().contains("the first copy is a dump"), "{}", stand.notes());
    stand.production.sql(&format!(
        "CREATE TABLE later (n INT) DATA DIRECTORY='{}'; INSERT INTO later VALUES (1); DROP TABLE later; \
         INSERT INTO far VALUES (2); INSERT INTO farther VALUES (2)",
        aside.path().display()
    ));
    let url = stand.copy("blog@now", "now", &[]);
    assert_eq!(at(&url, "SELECT (SELECT SUM(n) FROM far) + (SELECT SUM(n) FROM farther)"), "6");
    at(&url, "DELETE FROM far; DELETE FROM farther");
    assert_eq!(stand.production.sql("SELECT (SELECT SUM(n) FROM far) + (SELECT SUM(n) FROM farther)"), "6");
    assert_eq!(files(aside.path()), before);
    stand.json(&["rm", "now"]);
    stand.json(&["unlink", "blog"]);

    // A directory that the address names must be usable; and the files need not be wanted.
    let url = format!("db={}?datadir=/nowhere", stand.production.url());
    let refused = stand.fails(1, &["link", "blog", &url]);
    assert!(refused.contains("/nowhere") && refused.contains("datadir=none"), "{refused}");
    stand.link_here("?datadir=none", &[]);
    assert!(!stand.notes().contains("files"), "{}", stand.notes());
    stand.end(&[]);
}

/// Names of all files below a directory.
fn files(dir: &std::path::Path) -> Vec<String> {
    let mut all: Vec<String> = crate::stand::entries(dir)
        .into_iter()
        .flat_map(|name| {
            let path = dir.join(&name);
            if path.is_dir() { files(&path) } else { vec![name] }
        })
        .collect();
    all.sort();
    all
}
