//! What a MariaDB tree can lead its server to: its redo log names files, wherever they lie, and what it says of them is
//! applied to them.

use std::fs;

use pando_testkit::MariadbProduction;

use super::{Mariadb, Side, Stand};
use crate::mysql_family::foreign::{Watch, anybodys, exported, forged, nothing_left, somewhere, taken};

#[test]
fn m14_a_strangers_log_changes_no_file_outside_of_its_tree() {
    let Some(daemon) = Mariadb::daemon() else { return };
    let place = somewhere();
    let out = place.path();
    let mut stand = Stand::over(daemon, MariadbProduction::start(&["innodb_flush_log_at_trx_commit=1"]));
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY)");
    let dir = tempfile::TempDir::new().unwrap();
    let good = exported(&stand, dir.path());
    stand.production.sql(&format!(
        "CREATE TABLE away (n INT) ENGINE=InnoDB DATA DIRECTORY='{}'; INSERT INTO away SELECT seq FROM seq_1_to_100000",
        out.display()
    ));
    stand.production.kill();
    let archive = dir.path().join("bad.tar");
    taken(&stand.production.data(), &dir.path().join("tree"));
    forged(&good, &dir.path().join("tree"), &archive);
    anybodys(out);
    let (file, watch) = (out.join("blog/away.ibd"), Watch::over(&[out, &out.join("blog")]));
    let before = fs::read(&file).unwrap();
    let refused = stand.fails(1, &["import", archive.to_str().unwrap(), "bad"]);
    assert!(refused.contains("ended before it answered") && refused.contains("away.ibd"), "{refused}");
    nothing_left(&stand);
    assert!(fs::read(&file).unwrap() == before && watch.seen().is_empty(), "{:?}", watch.seen());
    // A server that is not confined applies it.
    stand.production.resume();
    stand.production.stop();
    assert!(fs::read(&file).unwrap() != before && !watch.seen().is_empty());
}
