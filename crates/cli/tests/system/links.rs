//! Links that a user of a clone puts where the daemon writes, with the rights of the clone's server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use pando_testkit::{RedisClient, RedisProduction, tools};

use crate::stand::Stand;

#[test]
fn a_link_in_the_place_of_a_clones_file_leads_the_daemon_nowhere() {
    let Some(stand) = Stand::new().filter(|_| tools::require("redis-server") && tools::require("setpriv")) else {
        return;
    };
    let redis = RedisProduction::start(&[]);
    stand.json(&["link", "cache", &format!("q={}", redis.url(0)), "--snapshot-every", "1h"]);
    let secret = stand.files().join("secret");
    fs::write(&secret, "root's own").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    let view = stand.json(&["clone", "cache", "r1", "--record"]);
    let mut client = RedisClient::connect(view["sources"]["q"]["url"].as_str().unwrap());
    client.run(&["SET", "a", "1"]);
    let dir = format!("{}/appendonlydir", view["sources"]["q"]["path"].as_str().unwrap());
    // What the clone's server can do that somebody has taken over: on the disk its files are the account's.
    let account = fs::metadata(&dir).unwrap();
    let ids = [format!("--reuid={}", account.uid()), format!("--regid={}", account.gid()), "--clear-groups".to_owned()];
    let run = |script: &str| {
        let done = Command::new("setpriv").args(&ids).args(["sh", "-ec", script]).current_dir(&dir).status().unwrap();
        assert!(done.success(), "{script}: {done}");
    };
    run(&format!("f=$(ls *.incr.aof) && mv $f moved && ln -s {} $f", secret.display()));
    let snapshot = stand.daemon.pando(&["snapshot", "r1"]);
    client.run(&["SET", "a", "2"]);
    std::thread::sleep(Duration::from_millis(1500));
    let cloned = stand.daemon.pando(&["clone", "r1@-1s", "r2"]);

    assert_eq!(fs::read_to_string(&secret).unwrap(), "root's own");
    let said: String = [&snapshot, &cloned].map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).concat();
    assert!(!cloned.status.success() && said.contains("is a link, where a file is due"), "{said}");
    run("f=$(ls *.incr.aof) && mv moved $f");
    stand.json(&["snapshot", "r1"]);
    let again = stand.json(&["clone", "r1", "r2"]);
    let mut client = RedisClient::connect(again["sources"]["q"]["url"].as_str().unwrap());
    assert_eq!(client.run(&["GET", "a"]), "2");
    stand.end(&["is a link, where a file is due"]);
}
