//! What production has set, or has from its machine, and what would show other results without it (M-14).

use pando_testkit::FamilyProduction;

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
