//! What the PostgreSQL engine finds on a real production before it links it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use pando_engine::Engine;
use pando_engine::postgres::{Installations, PostgresEngine};
use pando_testkit::{Production, ProductionOptions, tools};

#[test]
fn t15_extensions_that_are_not_here_are_named() {
    let Some(bin) = tools::newest_postgres() else {
        tools::skip("a PostgreSQL server");
        return;
    };
    let production = Production::start(&bin, ProductionOptions::default());
    let engine = PostgresEngine::new(Installations::find(&[]), None);
    let missing = || {
        let preflight = engine.preflight(&production.url("postgres").parse().unwrap()).unwrap();
        let finding = preflight.findings.into_iter().find(|finding| finding.what.contains("extensions"));
        assert!(finding.as_ref().is_none_or(|finding| !finding.fatal));
        finding.map(|finding| finding.what)
    };
    assert_eq!(missing(), None);
    // An extension of another machine, as the catalog of production would show it.
    production.psql("SET allow_system_table_mods = on; UPDATE pg_extension SET extname = 'postgis_far_away'");
    assert!(missing().is_some_and(|what| what.contains("postgis_far_away")));
}

#[test]
fn t14_a_production_that_sorts_by_another_library_or_locale_is_named() {
    let Some(bin) = tools::newest_postgres() else {
        tools::skip("a PostgreSQL server");
        return;
    };
    let production = Production::start(&bin, ProductionOptions::default());
    let engine = PostgresEngine::new(Installations::find(&[]), None);
    let findings = || -> Vec<(String, bool)> {
        let preflight = engine.preflight(&production.url("postgres").parse().unwrap()).unwrap();
        let told = preflight.findings.into_iter().map(|finding| (finding.what, finding.fatal));
        told.filter(|(what, _)| what.contains("sorts texts") || what.contains("the locale")).collect()
    };
    // By bytes: no library is asked.
    assert_eq!(findings(), []);
    // A database of a machine with other locales and an older C library, as its own catalog would show it.
    production.psql("CREATE DATABASE far TEMPLATE template0");
    production.psql(
        "SET allow_system_table_mods = on; UPDATE pg_database SET datcollate = 'xx_YY.UTF-8' WHERE datname = 'far'",
    );
    production.psql(
        "CREATE OR REPLACE FUNCTION pg_catalog.pg_collation_actual_version(oid) RETURNS text LANGUAGE sql AS \
         $$ SELECT '2.17' $$",
    );
    let found = findings();
    assert!(found.iter().any(|(what, fatal)| what.contains("xx_YY.UTF-8") && *fatal), "{found:?}");
    assert!(found.iter().any(|(what, fatal)| what.contains("glibc 2.17") && !fatal), "{found:?}");
}

#[test]
fn t15_libraries_of_sessions_that_are_not_here_are_named() {
    let Some(bin) = tools::newest_postgres() else {
        tools::skip("a PostgreSQL server");
        return;
    };
    let production = Production::start(&bin, ProductionOptions::default());
    let engine = PostgresEngine::new(Installations::find(&[]), None);
    let notes = || engine.preflight(&production.url("postgres").parse().unwrap()).unwrap().notes.join("\n");
    production.psql("CREATE ROLE app");
    production.psql("CREATE DATABASE shop");
    production.psql("ALTER DATABASE shop SET session_preload_libraries = 'auto_explain'");
    assert!(!notes().contains("clones refuse"), "{}", notes());
    production.psql("ALTER ROLE app SET session_preload_libraries = 'auto_explain', far_away");
    production.psql("ALTER ROLE app IN DATABASE shop SET local_preload_libraries = 'far_plugin'");
    let named = "clones refuse them: far_away (session_preload_libraries), far_plugin (local_preload_libraries);";
    assert!(notes().contains(named), "{}", notes());
}
