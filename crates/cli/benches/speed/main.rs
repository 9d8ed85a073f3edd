//! `make bench`: how long clones take and what Pando costs production, each beside its bare floor or a peer
//! in the same run. Prints one table in Markdown; with `--write` it is put into docs/bench.md.
//!
//! `--quick` measures at 100 MB only, in a few minutes; `--only latest containers images seconds load peers
//! mariadb mariadb-load mysql mysql-load redis toolkit` some parts of it; the default takes half an hour. Needs root (a btrfs
//! pool in an image), PostgreSQL with pgbench, Docker, pgBackRest for its row, etcd for toolkits' rows, and `PANDO_MYSQL`
//! for MySQL's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a measuring program: it may panic, print, wait, and start programs as a user would"
)]

mod bare;
mod containers;
mod images;
mod latest;
mod load;
mod mariadb;
mod mysql;
mod mysql_family;
mod peers;
mod redis;
mod rig;
mod seconds;
mod toolkit;

use pando_testkit::Mariadb;
use rig::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if !has("--bench") && !has("--quick") {
        // `cargo test` builds and runs benches too: nothing is measured there.
        return;
    }
    let quick = has("--quick");
    let mut table = Table::new(quick);
    let main_scale = if quick { 7 } else { 100 };
    let wanted = |part: &str| !has("--only") || has(part);
    if wanted("latest") {
        latest::measure(&mut table, 7, 15);
        if !quick {
            latest::measure(&mut table, 100, 15);
            latest::measure(&mut table, 670, 10);
        }
    }
    if wanted("containers") {
        containers::measure(&mut table, main_scale, 15, 20);
    }
    if wanted("images") {
        images::measure(&mut table, main_scale);
    }
    if wanted("seconds") {
        seconds::measure(&mut table, main_scale, if quick { 10 } else { 50 });
    }
    if wanted("load") {
        load::measure(&mut table, main_scale, if quick { 10 } else { 30 });
    }
    if wanted("peers") {
        peers::measure(&mut table, main_scale);
    }
    if wanted("mariadb") {
        if quick {
            mariadb::measure(&mut table, 100, 5, 10);
        } else {
            mariadb::measure(&mut table, 1000, 15, 60);
        }
    }
    if wanted("mariadb-load") {
        mysql_family::load::<Mariadb>(&mut table, if quick { 20 } else { 500 }, if quick { 8 } else { 30 });
    }
    if wanted("mysql") {
        if quick {
            mysql::measure(&mut table, 100, 5, 10);
        } else {
            mysql::measure(&mut table, 1000, 15, 60);
        }
    }
    if wanted("mysql-load") {
        mysql::load(&mut table, if quick { 20 } else { 500 }, if quick { 8 } else { 30 });
    }
    if wanted("redis") {
        redis::measure(&mut table, if quick { 100 } else { 1000 }, if quick { 10 } else { 20 });
    }
    if wanted("toolkit") {
        toolkit::measure(&mut table, if quick { 20 } else { 200 }, if quick { 5 } else { 15 });
    }
    let text = table.text();
    println!("{text}");
    if has("--write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bench.md");
        std::fs::write(path, text).expect("writing docs/bench.md");
    }
}
