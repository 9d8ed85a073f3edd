//! A production that is set up in an unusual way, and a clone of it that is whole, small and kept to itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use pando_testkit::{ProductionOptions, tools, wait_until};

use crate::stand::{Copy, Stand, sql_at, with};

/// pg_wal elsewhere, group access, small segments, checksums, and memory for a large machine.
fn odd(wal: &std::path::Path) -> ProductionOptions {
    let mut options = with(&["shared_buffers = '300MB'", "max_connections = 40", "archive_timeout = 0"]);
    options.initdb = ["--wal-segsize=2", "--data-checksums", "--allow-group-access"].map(str::to_owned).to_vec();
    options.initdb.push(format!("--waldir={}", wal.display()));
    options
}

fn is(copy: &Copy, sql: &str, wanted: &str) {
    assert_eq!(copy.sql(sql), wanted, "{sql}");
}

/// Waits until every snapshot of the timeline is prepared.
fn all_prepared(stand: &Stand) {
    let prepared = || {
        let timeline = stand.json(&["timeline", "shop"]);
        timeline["snapshots"].as_array().unwrap().iter().all(|one| one["prepared"] == true)
    };
    assert!(
        wait_until(Duration::from_secs(120), prepared),
        "{}\n{}",
        stand.json(&["timeline", "shop"]),
        stand.daemon.log()
    );
}

#[test]
fn t08_t18_t19_t20_t22_t23_t25_an_odd_production_has_clones_like_any_other() {
    // Made by the server's own account, below a folder that anybody may write to.
    let wal = tempfile::Builder::new().prefix("pando-wal-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(wal.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let Some(stand) = Stand::of(odd(&wal.path().join("wal"))) else { return };
    let production = &stand.production;
    production.psql("CREATE TABLE kept (n int PRIMARY KEY, text text)");
    production.psql("INSERT INTO kept SELECT n, repeat('k', 300) FROM generate_series(1, 20000) n");
    production.psql("CREATE UNLOGGED TABLE cache AS SELECT generate_series(1, 10) AS n");
    production.psql("CREATE SEQUENCE numbers; SELECT nextval('numbers')");
    production.psql("CREATE EXTENSION amcheck");
    assert!(production.data().join("pg_wal").is_symlink());
    let app = stand.link(&["--snapshot-every", "1h"]);
    let notes = app.to_string();
    assert!(notes.contains("1 unlogged tables are empty in clones"), "{notes}");

    // T-19: whatever was committed before the command is in a clone of `now`, however far replay was behind.
    for round in 0..5 {
        production.psql(&format!("UPDATE kept SET text = 'round {round}'"));
        let copy = stand.copy("shop@now", &format!("now{round}"));
        is(&copy, &format!("SELECT count(*) FROM kept WHERE text = 'round {round}'"), "20000");
        stand.json(&["rm", &format!("now{round}")]);
    }

    let copy = stand.copy("shop@now", "copy");
    let data = copy.path("db");
    // T-8: all of it is inside the volume.
    assert!(data.join("pg_wal").is_dir() && !data.join("pg_wal").is_symlink());
    assert_eq!(fs::read_dir(data.join("pg_tblspc")).unwrap().count(), 0);
    // T-18.
    is(&copy, "SELECT count(*) FROM cache", "0");
    assert!(copy.sql("SELECT nextval('numbers')").parse::<u32>().unwrap() >= 2);
    // T-23: what the server wants of its directory, and nobody else may look in.
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o700);
    // T-25: fitted to a clone, but for what the log demands (T-11).
    assert!(
        copy.sql("SELECT setting::int FROM pg_settings WHERE name = 'shared_buffers'").parse::<u32>().unwrap() < 16384
    );
    is(&copy, "SHOW max_connections", "40");
    is(&copy, "SHOW huge_pages", "off");
    is(&copy, "SHOW wal_segment_size", "2MB");
    // T-20: every page and every index is whole.
    is(&copy, "SHOW data_checksums", "on");
    let checked =
        Command::new(production.bin().join("pg_amcheck")).args(["--heapallindexed", copy.url()]).output().unwrap();
    assert!(
        checked.status.success(),
        "{} {}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    stand.json(&["stop", "copy"]);
    let sums = Command::new(production.bin().join("pg_checksums")).arg("--check").arg(&data).output().unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stderr));
    // T-22: Pando asked production for no switch of segments: what lies there is what was written.
    assert_eq!(production.psql("SELECT count(*) FROM pg_stat_archiver WHERE archived_count > 0"), "0");
    stand.json(&["rm", "copy"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn a_production_with_many_origins_and_without_a_database_of_the_usual_name_has_clones() {
    let Some(stand) = Stand::of(with(&["max_replication_slots = 40"])) else { return };
    let production = &stand.production;
    production.psql("CREATE DATABASE shop");
    production.psql_in("shop", "DROP DATABASE postgres");
    // As many subscriptions have them: half of them before the first copy, half while it is followed.
    let origins = |from: u32| {
        let all = format!("generate_series({from}, {}) n", from + 14);
        production.psql_in("shop", &format!("SELECT count(pg_replication_origin_create('o' || n)) FROM {all}"));
        production.psql_in("shop", &format!("SELECT count(pg_replication_origin_advance('o' || n, '0/5')) FROM {all}"));
        // A clone ends at a commit.
        production.psql_in("shop", &format!("CREATE TABLE later{from} ()"));
    };
    origins(1);
    stand.json(&["link", "shop", &format!("db={}", production.url("shop")), "--snapshot-every", "1h"]);
    origins(101);
    let copy = stand.copy_with("shop@now", "copy", &["--record"]);
    is(&copy, "SELECT count(*) FROM pg_replication_origin_status", "30");
    copy.sql("CREATE TABLE own (n int)");
    stand.json(&["snapshot", "copy"]);
    // Pando looks at its log all the time, and is in nobody's way.
    copy.sql("CREATE DATABASE fresh");
    let fresh = copy.url().replace("/shop", "/fresh");
    sql_at(&fresh, "DROP DATABASE shop").unwrap();
    sql_at(&fresh, "CREATE DATABASE shop").unwrap();
    stand.copy("shop", "plain");
    assert_eq!(stand.json(&["promote", "plain"])["record"], true);
    stand.end(&[]);
}

#[test]
fn a_production_whose_usual_database_is_closed_has_clones() {
    let Some(stand) = Stand::new() else { return };
    let production = &stand.production;
    production.psql("CREATE DATABASE shop");
    production.psql_in("shop", "CREATE TABLE kept AS SELECT 7 AS n");
    production.psql_in("shop", "ALTER DATABASE postgres ALLOW_CONNECTIONS false");
    stand.json(&["link", "shop", &format!("db={}", production.url("shop")), "--snapshot-every", "1h"]);
    let copy = stand.copy_with("shop@now", "copy", &["--record"]);
    is(&copy, "SELECT n FROM kept", "7");
    is(&copy, "SELECT datallowconn FROM pg_database WHERE datname = 'postgres'", "f");
    copy.sql("CREATE TABLE own (n int)");
    let empty = copy.sql("SELECT pg_current_wal_lsn()");
    copy.sql("INSERT INTO own VALUES (1)");
    stand.json(&["snapshot", "copy"]);
    stand.copy("copy@now", "second");
    // Without the database that was linked, too, Pando finds its way in.
    copy.sql("CREATE DATABASE fresh");
    sql_at(&copy.url().replace("/shop", "/fresh"), "DROP DATABASE shop").unwrap();
    stand.json(&["stop", "copy"]);
    stand.json(&["start", "copy"]);
    assert_eq!(stand.copy_state("copy"), "running");
    stand.json(&["rewind", &format!("copy@lsn:{empty}")]);
    is(&stand.show("copy"), "SELECT count(*) FROM own", "0");
    stand.end(&[]);
}

/// Settings of a database and of a role are for production's users: those of a clone get them, Pando's own sessions in
/// mirror and clones do not fail by them.
#[test]
fn what_production_set_for_its_databases_is_for_its_users() {
    let Some(bin) = tools::newest_postgres() else {
        tools::skip("a PostgreSQL server");
        return;
    };
    // A library that production alone has.
    let far = tempfile::Builder::new().prefix("pando-far-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(far.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(bin.with_file_name("lib").join("auto_explain.so"), far.path().join("far_away.so")).unwrap();
    let path = format!("dynamic_library_path = '{}:$libdir'", far.path().display());
    let Some(stand) = Stand::of(with(&[&path])) else { return };
    let production = &stand.production;
    production.psql("CREATE TABLE kept AS SELECT 1 AS n; CREATE SCHEMA evil");
    // Found before PostgreSQL's own by whoever asks for the bare name.
    production
        .psql("CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'");
    stand.link(&["--snapshot-every", "1h"]);
    for set in [
        "DATABASE postgres SET search_path = evil, pg_catalog, public",
        "DATABASE postgres SET default_transaction_isolation = 'serializable'",
        "DATABASE postgres SET idle_in_transaction_session_timeout = '2s'",
        "DATABASE postgres SET lock_timeout = '3s'",
        "ROLE boss SET idle_session_timeout = '1s'",
        "ROLE boss SET statement_timeout = '9s'",
        "DATABASE postgres SET session_preload_libraries = 'far_away'",
        "DATABASE postgres SET default_transaction_read_only = on",
    ] {
        production.psql(&format!("ALTER {set}"));
    }
    // From a moment that is recovered for it, and from a snapshot that is prepared.
    let copy = stand.copy("shop@now", "now");
    stand.json(&["snapshot", "shop"]);
    all_prepared(&stand);
    let latest = stand.copy("shop", "latest");
    for copy in [&copy, &latest] {
        // Production's library is not here, and its users' sessions ask for it; Pando's superuser may do without.
        let refused = sql_at(copy.url(), "SELECT 1").map_err(|error| format!("{error:?}"));
        assert!(refused.as_ref().is_err_and(|why| why.contains("far_away")), "{refused:?}");
        let url = format!("{}?options=-c%20session_preload_libraries=", copy.url());
        let shown = |name: &str| sql_at(&url, &format!("SHOW {name}")).unwrap();
        assert_eq!(shown("default_transaction_read_only"), "on");
        assert_eq!(shown("default_transaction_isolation"), "serializable");
        assert_eq!(shown("lock_timeout"), "3s");
        assert_eq!(shown("search_path"), "evil, pg_catalog, public");
        assert_eq!(sql_at(&url, "SELECT n FROM kept").unwrap(), "1");
    }
    for name in ["now", "latest"] {
        stand.json(&["rm", name]);
    }
    // The mirror was asked all the time.
    assert_eq!(stand.json(&["show", "shop"])["state"], "following");
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// A two-phase commit: what was prepared is acknowledged, though no commit stands behind it in the log.
#[test]
fn what_production_has_prepared_is_in_clones() {
    let Some(stand) = Stand::of(with(&["max_prepared_transactions = 5"])) else { return };
    let production = &stand.production;
    production.psql("CREATE TABLE paid (n int)");
    stand.link(&["--snapshot-every", "1h"]);
    production.psql("BEGIN; INSERT INTO paid VALUES (1); PREPARE TRANSACTION 'order-1'");
    let now = stand.copy("shop@now", "now");
    let second =
        production.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    stand.json(&["snapshot", "shop"]);
    all_prepared(&stand);
    let latest = stand.copy("shop@latest", "latest");
    // Behind that second it is prepared no more.
    production.psql("COMMIT PREPARED 'order-1'");
    let later = stand.copy("shop@now", "later");
    let then = stand.copy(&format!("shop@{second}"), "then");
    let prepared = "SELECT coalesce(string_agg(gid, ','), '') FROM pg_prepared_xacts";
    for copy in [&now, &latest, &then] {
        is(copy, prepared, "order-1");
        is(copy, "SELECT count(*) FROM paid", "0");
        // It can be ended in the clone as in production.
        copy.sql("COMMIT PREPARED 'order-1'");
        is(copy, "SELECT n FROM paid", "1");
    }
    is(&later, prepared, "");
    is(&later, "SELECT n FROM paid", "1");
    for name in ["now", "latest", "later", "then"] {
        stand.json(&["rm", name]);
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// The same statement comes to the same in a clone: what production is set to, the linking role is not.
#[test]
fn the_results_of_statements_are_production_s() {
    let known = Command::new("locale").arg("-a").output().unwrap().stdout;
    let german = String::from_utf8(known).unwrap().lines().any(|name| name == "de_DE.utf8");
    let locales = ["lc_monetary", "lc_numeric", "lc_time"]
        .map(|name| format!("{name} = '{}'", if german { "de_DE.utf8" } else { "C.UTF-8" }));
    let set = [
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "default_text_search_config = 'pg_catalog.german'",
        "timezone_abbreviations = 'Australia'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "extra_float_digits = -3",
        "standard_conforming_strings = off",
        "transform_null_equals = on",
        "array_nulls = off",
        "quote_all_identifiers = on",
        "xmlbinary = 'hex'",
        "pg_trgm.similarity_threshold = 0.9",
        "session_preload_libraries = 'auto_explain'",
    ];
    let Some(stand) = Stand::of(with(&set.into_iter().chain(locales.iter().map(String::as_str)).collect::<Vec<_>>()))
    else {
        return;
    };
    let production = &stand.production;
    production.psql("CREATE TABLE kept AS SELECT timestamptz '2026-03-01 12:00 EST' AS at, 0.1::float8 + 0.2 AS n");
    production.psql("CREATE EXTENSION pg_trgm");
    production.psql("ALTER ROLE boss SET TimeZone = 'America/Lima'");
    stand.link(&["--snapshot-every", "1h"]);
    all_prepared(&stand);
    // As a role of which nothing is set.
    production.psql("CREATE ROLE plain SUPERUSER LOGIN PASSWORD 'plain'");
    let plain = production.url("postgres").replace("boss:prod-secret", "plain:plain");
    for moment in ["shop@latest", "shop@now"] {
        let name = moment.rsplit('@').next().unwrap();
        let copy = stand.copy(moment, name);
        for sql in [
            "SELECT at, n, at - timestamptz '2026-01-01 00:00+00', to_char(at, 'TMMonth'), at::text::timestamptz = at FROM kept",
            "SELECT timestamptz '2026-03-01 12:00 EST', to_char(12345.67, '99G999D99'), 12345::money",
            "SELECT NULL = NULL, '{NULL}'::text[], 'a\\134b', '\\\\001'::bytea",
            "SELECT to_tsvector('die Katzen'), 'word' % 'words', pg_get_expr(adbin, adrelid) FROM pg_attrdef UNION ALL SELECT to_tsvector('x'), 'a' % 'b', 'y'",
            "SELECT name, setting FROM pg_settings WHERE name ~ '^(lc_(mon|num|tim)|default_tra|xml|session_pre|quote_|TimeZ|standard_c)' ORDER BY name",
        ] {
            assert_eq!(copy.sql(sql), sql_at(&plain, sql).unwrap(), "{moment}: {sql}");
        }
        is(&copy, "SHOW TimeZone", "Asia/Tokyo");
        stand.json(&["rm", name]);
    }
    assert_eq!(stand.json(&["show", "shop"])["state"], "following");
    stand.end(&[]);
}
