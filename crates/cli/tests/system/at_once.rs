//! Many at once, and two for the same name.

use std::collections::BTreeSet;

use crate::stand::{Copy, Stand};

#[test]
fn ten_clones_at_once_and_of_two_with_one_name_exactly_one() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark AS SELECT 1 AS n");
    stand.link_both(&["--snapshot-every", "5s"]);
    let stand = &stand;
    let copies: Vec<Copy> = std::thread::scope(|scope| {
        let make = |number: usize| {
            let from = if number.is_multiple_of(2) { "shop" } else { "shop@now" };
            scope.spawn(move || stand.copy(from, &format!("dev{number}")))
        };
        let threads: Vec<_> = (0..10).map(make).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let urls: BTreeSet<&str> = copies.iter().map(Copy::url).collect();
    let passwords: BTreeSet<String> = copies.iter().map(Copy::password).collect();
    assert_eq!((urls.len(), passwords.len()), (10, 10));
    for (number, copy) in copies.iter().enumerate() {
        copy.sql(&format!("UPDATE mark SET n = {number}"));
    }
    for (number, copy) in copies.iter().enumerate() {
        assert_eq!(copy.sql("SELECT n FROM mark"), number.to_string());
    }

    let twins: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| stand.daemon.pando(&["clone", "shop", "twin"]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut codes: Vec<_> = twins.iter().map(|output| output.status.code()).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(4)], "{twins:?}");
    assert_eq!(stand.show("twin").sql("SELECT n FROM mark"), "1");

    let mut names: Vec<String> = (0..10).map(|number| format!("dev{number}")).collect();
    names.push("twin".into());
    let refused = stand.fails(4, &["unlink", "shop"]);
    assert!(names.iter().all(|name| refused.contains(name)), "{refused}");
    let rm: Vec<&str> = std::iter::once("rm").chain(names.iter().map(String::as_str)).collect();
    stand.json(&rm);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
}

#[test]
fn verbs_on_one_clone_at_once_leave_it_whole() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark AS SELECT 1 AS n");
    stand.link(&["--snapshot-every", "2s"]);
    let url = stand.copy("shop", "dev").url().to_owned();
    let lines: [&[&str]; 6] = [
        &["refresh", "dev"],
        &["stop", "dev"],
        &["start", "dev"],
        &["snapshot", "shop"],
        &["clone", "dev", "child"],
        &["refresh", "dev@now"],
    ];
    std::thread::scope(|scope| {
        for line in lines {
            let stand = &stand;
            scope.spawn(move || {
                let output = stand.daemon.pando(line);
                // Done, or refused because somebody else is at it; never failed.
                assert!(matches!(output.status.code(), Some(0 | 4)), "{line:?}: {output:?}\n{}", stand.daemon.log());
            });
        }
    });
    stand.json(&["start", "dev"]);
    assert_eq!(crate::stand::sql_at(&url, "SELECT n FROM mark").unwrap(), "1");
    stand.end(&[]);
}
