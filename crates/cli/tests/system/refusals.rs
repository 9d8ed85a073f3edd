//! What cannot be done is said in one line with what helps, and leaves nothing behind.

use std::fs;
use std::path::Path;

use pando_testkit::{Daemon, ProductionOptions, RedisProduction, free_port, tools};

use crate::proxy::Proxy;
use crate::stand::{PANDO, Stand, production, said, sql_at, with};

#[test]
fn a_link_that_cannot_be_says_why_and_leaves_nothing() {
    let Some(stand) = Stand::new() else { return };
    let port = stand.production.port();
    stand.production.psql("CREATE ROLE plain LOGIN PASSWORD 'plain-secret'");
    let refused = |who: &str, port: u16, database: &str, signs: &[&str]| {
        let url = format!("postgres://{who}@127.0.0.1:{port}/{database}");
        let said = stand.fails(1, &["link", "shop", &url]);
        for sign in signs {
            assert!(said.contains(sign), "{sign}: {said}");
        }
        assert!(said.contains("hint: ") && !said.contains("plain-secret") && !said.contains("wrong-one"), "{said}");
        stand.nothing_left();
    };
    refused("boss:wrong-one", port, "postgres", &["password authentication failed", "check the user and password"]);
    refused("plain:plain-secret", port, "postgres", &["ALTER ROLE \"plain\" REPLICATION;"]);
    refused("boss:prod-secret", free_port(), "postgres", &["Connection refused"]);
    refused("boss:prod-secret", port, "nowhere", &["\"nowhere\" does not exist"]);
    let said = stand.fails(1, &["link", "shop", "postgres://boss:prod-secret@nowhere.invalid/postgres"]);
    assert!(said.contains("check the host's name"), "{said}");

    // Production lets in, but not for replication.
    let hba = stand.production.data().join("pg_hba.conf");
    let text = fs::read_to_string(&hba).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.contains("replication")).collect();
    fs::write(&hba, without.join("\n")).unwrap();
    stand.production.psql("SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));
    refused("boss:prod-secret", port, "postgres", &["pg_hba.conf", "host replication"]);
    fs::write(&hba, text).unwrap();
    stand.production.psql("SELECT pg_reload_conf()");

    // Too little log.
    let options = ProductionOptions { conf: with(&["wal_level = minimal", "max_wal_senders = 0"]).conf, ..with(&[]) };
    let poor = production(options).unwrap();
    let said = stand.fails(1, &["link", "shop", &poor.url("postgres")]);
    assert!(said.contains("wal_level is minimal") && said.contains("ALTER SYSTEM SET wal_level"), "{said}");

    let long = "n".repeat(300);
    for name in ["../x", "a b", &long, "", ".", "..", "a/b", "-x"] {
        assert_eq!(
            stand.daemon.pando(&["link", name, &stand.production.url("postgres")]).status.code(),
            Some(2),
            "{name}"
        );
        assert_eq!(stand.daemon.pando(&["clone", "shop", name]).status.code(), Some(2), "{name}");
    }
    let unknown: [&[&str]; 11] = [
        &["clone", "nobody", "a"],
        &["show", "nobody"],
        &["timeline", "nobody"],
        &["snapshot", "nobody"],
        &["refresh", "nobody"],
        &["rewind", "nobody@-5s"],
        &["undo", "nobody"],
        &["stop", "nobody"],
        &["rm", "nobody"],
        &["unlink", "nobody"],
        &["bookmark", "nobody", "b"],
    ];
    for args in unknown {
        stand.fails(3, args);
    }
    let absent = stand.files().join("absent");
    stand.fails(1, &["link", "shop", &format!("file://{}", absent.display())]);
    stand.nothing_left();

    // After all that, it works.
    stand.link(&[]);
    stand.fails(4, &["link", "shop", &stand.production.url("postgres")]);
    stand.fails(3, &["clone", "shop@no-such-bookmark", "a"]);
    stand.fails(3, &["clone", "shop@snap-0000000000000000", "a"]);
    stand.fails(3, &["unlink", "nobody"]);
    stand.nothing_strange();
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn t24_a_production_of_another_major_is_refused_in_one_line_and_leaves_nothing() {
    let Some(stand) = Stand::new() else { return };
    let here = stand.production.psql("SELECT current_setting('server_version_num')::int / 10000");
    let proxy = Proxy::new(stand.production.port());
    // The real server's own answer, but for its major version. 13 to 18 are known; not all are installed.
    let absent = (13..=18)
        .find(|major| !tools::all_postgres().iter().any(|bin| bin.to_string_lossy().contains(&format!("/{major}/"))));
    let absent = absent.map(|major| (major, "no server of that major version"));
    for (major, sign) in absent.into_iter().chain([(12, "Pando knows 13 to 18"), (99, "Pando knows 13 to 18")]) {
        proxy.rewrite(&format!("\"major\" : {here}"), &format!("\"major\" : {major}"));
        let said = stand.fails(1, &["link", "shop", &proxy.url()]);
        assert!(said.contains("production is PostgreSQL") && said.contains(sign), "{major}: {said}");
        assert!(
            sign != "no server of that major version" || said.contains(&format!("apt-get install postgresql-{major}")),
            "{said}"
        );
        stand.nothing_left();
    }
    stand.end(&[]);
}

#[test]
fn a_full_pool_makes_nothing_new_and_lets_running_clones_go_on() {
    let Some(stand) = Stand::new() else { return };
    stand.json(&["init", "--size", "600M"]);
    stand.link(&["--snapshot-every", "2s"]);
    let copy = stand.copy_with(
        "shop",
        "dev",
        &["--set", "max_wal_size=64MB", "--set", "wal_level=minimal", "--set", "max_wal_senders=0"],
    );
    let free = || {
        let du = stand.json(&["du"]);
        (du["free_bytes"].as_u64().unwrap(), du["total_bytes"].as_u64().unwrap())
    };
    copy.sql("CREATE TABLE fat (n text)");
    for _ in 0..120 {
        let (left, total) = free();
        if left < total / 11 {
            break;
        }
        copy.sql("INSERT INTO fat SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 8000) AS n, generate_series(1, 40) AS m GROUP BY n % 2000");
        copy.sql("CHECKPOINT");
        // A disposable clone syncs nothing, and what is not written yet is not counted.
        tools::run("sync", &["-f", &stand.daemon.home().join("pool").display().to_string()]);
    }
    let (left, total) = free();
    assert!(left < total / 10, "{left} of {total} are still free");
    let said = stand.fails(4, &["clone", "shop", "more"]);
    assert!(said.contains("nearly full") && said.contains("pando du"), "{said}");
    stand.fails(4, &["refresh", "dev"]);
    stand.fails(3, &["show", "more"]);
    assert_ne!(copy.sql("SELECT count(*) FROM fat"), "0");
    assert!(sql_at(copy.url(), "CREATE TABLE small AS SELECT 1 AS n").is_ok());
    // Room again: everything goes on by itself.
    stand.json(&["rm", "dev"]);
    let room = || stand.daemon.pando(&["clone", "shop", "more"]).status.success();
    // By itself btrfs gives a removed subvolume's room back at one of its commits, every 30 seconds.
    let begun = std::time::Instant::now();
    let there = pando_testkit::wait_until(std::time::Duration::from_secs(60), room);
    eprintln!("room again {:?} after rm", begun.elapsed());
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "room again only after {:?}", begun.elapsed());
    assert!(there, "{}\n{}\n{}", stand.json(&["du"]), stand.json(&["timeline", "shop"]), stand.daemon.log());
    stand.wait_state("following", 30);
    stand.end(&[]);
}

#[test]
fn what_is_wrong_with_an_address_of_redis_is_said_with_what_helps() {
    let can = tools::require_root() && tools::require("redis-server") && tools::require("mkfs.btrfs");
    let Some((daemon, production)) = can.then(|| (Daemon::start(Path::new(PANDO)), RedisProduction::start(&[]))) else {
        return;
    };
    let good = production.url(0);
    for (url, signs) in [
        (good.replace("prod-secret", "wrong-one"), ["WRONGPASS", "check the user and password in the URL"]),
        (good.replace(":prod-secret@", ""), ["NOAUTH", "put the password into the URL"]),
        (good.replace("127.0.0.1", "nowhere.invalid"), ["failed to lookup", "check the host's name in the URL"]),
    ] {
        let args = ["link", "cache", &url];
        let said = said(&daemon.pando(&args), 1, &args);
        for sign in signs.iter().chain(&["hint: "]) {
            assert!(said.contains(sign), "{sign}: {said}");
        }
        assert!(said.lines().count() <= 4 && !said.contains("wrong-one") && !said.contains("prod-secret"), "{said}");
    }
    // One that has none is given none.
    production.run(&["CONFIG", "SET", "requirepass", ""]);
    let args = ["link", "cache", &good];
    let said = said(&daemon.pando(&args), 1, &args);
    assert!(said.contains("leave it out of the URL") && !said.contains("prod-secret"), "{said}");
}
