//! What production has set, or has from its machine, and what would show other results without it (M-14).

use pando_testkit::{FamilyProduction, free_port};

use super::{Side, Stand, at};

/// In summer, in winter, and twice in the hour that Berlin has twice.
const STAMPS: &str = "INSERT INTO stamp VALUES (1, FROM_UNIXTIME(1720000000)), (2, FROM_UNIXTIME(1704000000)), \
                      (3, FROM_UNIXTIME(1729989000)), (4, FROM_UNIXTIME(1729992600))";
const SHOWN: &str = "SELECT n, at, UNIX_TIMESTAMP(at) FROM stamp ORDER BY n; SELECT n, at, UNIX_TIMESTAMP(at) FROM wall \
                     ORDER BY n; SELECT TIMESTAMPDIFF(MINUTE, UTC_TIMESTAMP(), NOW()), @@time_zone";

fn make_stamps<M: Side>(production: &FamilyProduction<M>) {
    production.sql(&format!(
        "CREATE TABLE stamp (n INT PRIMARY KEY, at TIMESTAMP NULL); {STAMPS}; \
         CREATE TABLE wall (n INT PRIMARY KEY, at DATETIME); \
         INSERT INTO wall VALUES (1, '2024-07-03 12:00:00'), (2, '2024-01-03 12:00:00')"
    ));
}

/// What converts hours of the wall to moments and back is done by the mirror anew.
const CONVERTS: &str = "ALTER TABLE stamp MODIFY at DATETIME; ALTER TABLE wall MODIFY at TIMESTAMP NULL";

pub fn zone_of_the_machine<M: Side>(zone: &str) {
    let Some(daemon) = M::daemon() else { return };
    let stand = Stand::<M>::over(daemon, FamilyProduction::start_in(zone, &[]));
    make_stamps(&stand.production);
    stand.link(&[]);
    let before = stand.production.sql(SHOWN);
    assert_eq!(at::<M>(&stand.copy("blog@now", "before", &[]), SHOWN), before);
    stand.production.sql(CONVERTS);
    let after = stand.production.sql(SHOWN);
    assert!(after.ends_with("SYSTEM"), "{after}");
    let url = stand.copy("blog@now", "after", &["--record"]);
    assert_eq!(at::<M>(&url, SHOWN), after);
    // What it does itself is done again in the same zone.
    at::<M>(&url, "ALTER TABLE wall MODIFY at DATETIME");
    let own = at::<M>(&url, SHOWN);
    stand.json(&["stop", "after"]);
    stand.json(&["start", "after"]);
    assert_eq!(at::<M>(&url, SHOWN), own);
    assert_eq!(at::<M>(&stand.copy("after@now", "child", &[]), SHOWN), own);
    stand.json(&["rm", "child"]);
    stand.json(&["rm", "before", "after"]);
    stand.end(&[]);
}

pub fn zone_by_name<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    stand.production.sql(
        "INSERT INTO mysql.time_zone (Use_leap_seconds) VALUES ('N'); SET @zone = LAST_INSERT_ID(); \
         INSERT INTO mysql.time_zone_name VALUES ('Europe/Berlin', @zone); \
         INSERT INTO mysql.time_zone_transition_type VALUES (@zone, 0, 3600, 0, 'CET'), (@zone, 1, 7200, 1, 'CEST'); \
         INSERT INTO mysql.time_zone_transition VALUES (@zone, 1711846800, 1), (@zone, 1729990800, 0); \
         SET GLOBAL time_zone = 'Europe/Berlin'",
    );
    make_stamps(&stand.production);
    stand.link(&[]);
    stand.production.sql(CONVERTS);
    let shown = stand.production.sql(SHOWN);
    assert!(shown.ends_with("Europe/Berlin"), "{shown}");
    assert_eq!(at::<M>(&stand.copy("blog@now", "dev", &[]), SHOWN), shown);
    // A tree that is made anew for its journey is filled before it knows any zone.
    let archive = stand.daemon.home().with_file_name("blog.tar").display().to_string();
    stand.json(&["export", "dev", "--output", &archive]);
    stand.json(&["import", &archive, "came"]);
    assert_eq!(at::<M>(&super::url(&stand.json(&["show", "came"])), SHOWN), shown);
    stand.json(&["rm", "dev", "came"]);
    stand.end(&[]);
}

/// Words of two letters are found, texts are cut, numbers and weeks and months are said in other ways.
const SET: [&str; 14] = [
    "innodb_ft_min_token_size=2",
    "innodb_ft_max_token_size=20",
    "ft_min_word_len=2",
    "group_concat_max_len=7",
    "transaction_isolation=READ-COMMITTED",
    "div_precision_increment=9",
    "default_week_format=3",
    "lc_time_names=de_DE",
    "innodb_strict_mode=OFF",
    "auto_increment_increment=10",
    "auto_increment_offset=3",
    "max_sort_length=64",
    "max_heap_table_size=32M",
    "max_sp_recursion_depth=5",
];
const ANSWERS: &str = "SELECT n FROM page WHERE MATCH (text) AGAINST ('ox') ORDER BY n; \
    SELECT n FROM old WHERE MATCH (text) AGAINST ('ox' IN BOOLEAN MODE) ORDER BY n; \
    SELECT GROUP_CONCAT(text ORDER BY n) FROM page; SELECT 1 / 7, WEEK('2024-12-31'), DATE_FORMAT('2024-10-01', '%M'); \
    SHOW GLOBAL VARIABLES WHERE variable_name IN ('transaction_isolation', 'tx_isolation', 'innodb_strict_mode', \
    'auto_increment_increment', 'auto_increment_offset', 'max_sort_length', 'max_heap_table_size', \
    'max_sp_recursion_depth', 'ft_min_word_len', 'innodb_ft_max_token_size')";

pub fn of_answers<M: Side>() {
    let Some(stand) = Stand::<M>::with(&SET) else { return };
    // Where InnoDB is strict, the first copy's server would not make this one.
    stand.production.sql(
        "CREATE TABLE page (n INT PRIMARY KEY AUTO_INCREMENT, text VARCHAR(99), FULLTEXT (text)) KEY_BLOCK_SIZE=9; \
         CREATE TABLE old (n INT PRIMARY KEY, text VARCHAR(99), FULLTEXT (text)) ENGINE=MyISAM; \
         CREATE TABLE heap (text CHAR(250) CHARACTER SET latin1) ENGINE=MEMORY; \
         INSERT INTO page (text) VALUES ('an ox'), ('a cat'); INSERT INTO old VALUES (1, 'an ox'), (2, 'a cat'), (3, 'a')",
    );
    stand.link(&[]);
    // More than a server takes by itself in one such table.
    stand.production.sql(
        "INSERT INTO page (text) VALUES ('ox and cow'); INSERT INTO old VALUES (4, 'ox and cow'); \
         INSERT INTO heap WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300) \
         SELECT REPEAT('x', 250) FROM n a, n b",
    );
    let answers = stand.production.sql(ANSWERS);
    for said in ["3\n23\n1\n4\n", "an ox,a", "0.14285714", "Oktober", "READ-COMMITTED"] {
        assert!(answers.contains(said), "{said}: {answers}");
    }
    let url = stand.copy("blog@now", "dev", &[]);
    assert_eq!(at::<M>(&url, ANSWERS), answers);
    stand.state("following", 30);
    at::<M>(&url, "INSERT INTO page (text) VALUES ('one more ox')");
    assert_eq!(at::<M>(&url, "SELECT MAX(n) FROM page"), "33");
    // What a user sets counts.
    let url = stand.copy("blog@now", "other", &["--set", "group_concat_max_len=9"]);
    assert_eq!(at::<M>(&url, "SELECT @@group_concat_max_len, @@div_precision_increment"), "9\t9");
    stand.json(&["rm", "dev", "other"]);
    stand.end(&[]);
}

/// What is wrong with an address is said in one line, with what helps, and nothing is left.
pub fn wrong_addresses<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    stand.production.sql("SET NAMES utf8mb4; CREATE DATABASE `blög'1`");
    let (good, port) = (stand.production.url(), format!(":{}/", stand.production.port()));
    for (url, signs) in [
        (good.replace("prod-secret", "wrong-one"), ["Access denied for user 'rep'", "check the user and password"]),
        (good.replace("/blog", "/blg"), ["production has no database \"blg\"", "databases: blog, blög'1"]),
        (good.replace(&port, &format!(":{}/", free_port())), ["Can't connect to", "check host and port"]),
        (good.replace("127.0.0.1", "nowhere.invalid"), ["server host 'nowhere.invalid'", "check the host's name"]),
    ] {
        let said = stand.fails(1, &["link", "blog", &format!("db={url}")]);
        for sign in signs.iter().chain(&["hint: "]) {
            assert!(said.contains(sign), "{sign}: {said}");
        }
        assert!(said.lines().count() <= 4 && !said.contains("wrong-one") && !said.contains("prod-secret"), "{said}");
        assert_eq!(stand.json(&["ls"])["apps"].as_array().map_or(0, Vec::len), 0);
    }
    stand.json(&["link", "blog", &format!("db={}", good.replace("/blog", "/bl%C3%B6g'1"))]);
    stand.end(&[]);
}
