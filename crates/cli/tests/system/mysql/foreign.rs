//! What a MySQL tree can lead its server to, beside its tree: by its dictionary, by its log of unfinished statements, by
//! settings that are kept in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use pando_testkit::{Mysql, MysqlProduction, sql_through, wait_until};

use super::{Side, Stand};
use crate::mysql_family::foreign::{Watch, anybodys, exported, forged, nothing_left, somewhere, taken};
use crate::mysql_family::{self, url};

/// Keeps settings in the tree that would lead out of it.
const KEPT: &str = "SET PERSIST general_log_file = 'OUT/general.log'; SET PERSIST general_log = ON; \
                    SET PERSIST slow_query_log_file = 'OUT/slow.log'";

#[test]
fn m14_a_strangers_tree_leads_its_server_nowhere_else() {
    let place = somewhere();
    let out = place.path();
    let known = format!("innodb_directories={}", out.display());
    let Some(daemon) = Mysql::daemon() else { return };
    let mut stand = Stand::over(daemon, MysqlProduction::start(&[&known]));
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    let dir = tempfile::TempDir::new().unwrap();
    let good = exported(&stand, dir.path());
    let archive = dir.path().join("bad.tar");
    let import = ["import", archive.to_str().unwrap(), "bad"];
    let away = |statement: &str| statement.replace("OUT", &out.display().to_string());

    // Production dies in the middle of a statement: its log says that the table's file is to be removed, which is
    // another's by then.
    stand.production.sql(&away(KEPT));
    let socket = stand.production.socket();
    let victim = out.join("blog/victim.ibd");
    std::thread::scope(|scope| {
        let making = away("CREATE TABLE blog.victim (n INT) DATA DIRECTORY 'OUT' SELECT SLEEP(1000) AS n");
        scope.spawn(move || sql_through::<Mysql>(&socket, "root", &making));
        assert!(wait_until(Duration::from_secs(20), || victim.exists()), "{}", stand.production.log());
        // What it wrote until now is in its files: a redo log that names what is not in the tree would end its server.
        stand.production.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0");
        assert!(wait_until(Duration::from_secs(60), || is_flushed(&stand)), "{}", stand.production.log());
        stand.production.kill();
    });
    let unfinished = dir.path().join("unfinished");
    taken(&stand.production.data(), &unfinished);
    fs::write(unfinished.join("mysqld.my"), "{\"components\": \"file://component_keyring_file\"}").unwrap();
    fs::write(&victim, "somebody's own").unwrap();
    anybodys(out);
    let watch = Watch::over(&[out, &out.join("blog")]);
    forged(&good, &unfinished, &archive);
    // Of that its dictionary has nothing, so it is served; what it tried to remove is there.
    let view = stand.json(&import);
    let kept = "SELECT n, @@secure_file_priv = 'NULL', @@general_log, @@general_log_file LIKE '/tmp/pando-out%', \
                @@slow_query_log_file LIKE '/tmp/pando-out%' FROM note";
    assert_eq!(mysql_family::at::<Mysql>(&url(&view), kept), "1\t1\t0\t0\t0");
    let tree = Path::new(view["sources"]["db"]["path"].as_str().unwrap()).to_owned();
    assert!(["mysqld-auto.cnf", "mysqld.my"].iter().all(|name| !tree.join(name).exists()));
    let key = |tree: &Path| fs::read(tree.join("server-key.pem")).unwrap();
    assert_ne!(key(&tree), key(&unfinished), "whoever sent it knows its key");
    stand.json(&["rm", "bad"]);
    nothing_left(&stand);
    assert_eq!((fs::read_to_string(&victim).unwrap().as_str(), watch.seen()), ("somebody's own", Vec::new()));
    // A server that is not confined does remove it.
    stand.production.resume();
    assert!(!victim.exists() && watch.seen().iter().any(|one| one.contains("victim.ibd")));

    // A dictionary that names files of every kind elsewhere.
    stand.production.sql(&away(
        "CREATE TABLE away (n INT) DATA DIRECTORY 'OUT'; INSERT INTO away VALUES (1); \
         CREATE TABLESPACE gen ADD DATAFILE 'OUT/gen.ibd'; CREATE TABLE g (n INT) TABLESPACE gen; \
         INSERT INTO g VALUES (1); CREATE UNDO TABLESPACE und ADD DATAFILE 'OUT/und.ibu'; \
         CREATE TABLE parts (n INT) PARTITION BY RANGE (n) (PARTITION p VALUES LESS THAN (9) DATA DIRECTORY 'OUT')",
    ));
    stand.production.stop();
    let files = ["blog/away.ibd", "gen.ibd", "und.ibu", "blog/parts#p#p.ibd"].map(|name| out.join(name));
    let all = || files.each_ref().map(|file| (fs::read(file).unwrap(), fs::metadata(file).unwrap().mtime_nsec()));
    anybodys(out);
    let before = all();
    watch.seen();
    taken(&stand.production.data(), &dir.path().join("named"));
    forged(&good, &dir.path().join("named"), &archive);
    let refused = stand.fails(4, &import);
    assert!(refused.contains("outside of their tree") && refused.contains("/tmp/pando-out-"), "{refused}");
    nothing_left(&stand);
    assert!(all() == before && watch.seen().is_empty(), "{:?}", watch.seen());
    // Where they are known, and not refused, they are opened to write.
    stand.production.resume();
    stand.production.stop();
    let seen = watch.seen();
    assert!(files.iter().all(|file| seen.iter().any(|one| one.contains(&name(file)))), "{seen:?}");
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn is_flushed(stand: &Stand) -> bool {
    let status = stand.production.sql("SHOW ENGINE INNODB STATUS");
    let number = |of: &str| status.lines().find_map(|line| line.strip_prefix(of)?.trim().parse::<u64>().ok());
    let (written, flushed) = (number("Log sequence number"), number("Last checkpoint at"));
    written.is_some() && written == flushed
}
