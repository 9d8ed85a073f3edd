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
