//! Images of a Redis: made again they are the same bytes, and the next one adds what came since. Of a clone neither
//! holds, for what a clone has overwritten must not be in its image.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{Daemon, Docker, Image, RedisClient, RedisProduction, tools, wait_until};
use serde_json::Value;

use crate::stand::PANDO;

/// Builds an image that no engine gets, with a password of ours.
fn build(daemon: &Daemon, what: &str, reference: &str) -> Value {
    let secret = daemon.home().with_file_name("image-password");
    std::fs::write(&secret, "only for tests\n").unwrap();
    let made = ["image", "build", what, reference, "--no-load", "--password-file", secret.to_str().unwrap()];
    let made = daemon.pando_json(&made);
    std::fs::remove_file(&secret).unwrap();
    made
}

/// Forgets an image with its record, makes it again, and answers what it is then.
fn again(daemon: &Daemon, what: &str, reference: &str) -> Value {
    daemon.pando_json(&["image", "rm", reference]);
    let made = build(daemon, what, reference);
    assert_eq!(made["build"]["built"], true, "it was not found, but made: {made}");
    made["digest"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Whether a text stands in any layer that is kept.
fn holds(daemon: &Daemon, text: &str) -> bool {
    let look = "for blob in \"$1\"/*; do gzip -dcq \"$blob\" 2>/dev/null | grep -aqF -e \"$2\" && exit 0; done; exit 1";
    let mut shell = Command::new("sh");
    shell.args(["-c", look, "sh"]).arg(daemon.home().join("images/blobs/sha256")).arg(text);
    shell.status().unwrap().success()
}

#[test]
fn a_redis_image_is_the_same_bytes_made_again_and_the_next_adds_what_came_since() {
    if !tools::require_root() || !tools::require("redis-server") || !tools::require("mkfs.btrfs") {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    docker.image(Image::Redis);
    let production = RedisProduction::start(&[]);
    let mut client = production.client();
    // What gzip cannot make small, so that sizes of layers mean something.
    let noise = tools::run("openssl", &["rand", "-base64", "3000"]);
    (0..2000).for_each(|key| drop(client.run(&["SET", &format!("old:{key}"), &format!("{key}{noise}")])));
    let mut daemon = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", &docker.host())]);
    daemon.pando_json(&["link", "shop", &format!("q={}", production.url(0))]);
    client.run(&["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('one', function() return 1 end)"]);
    client.run(&["MULTI"]);
    client.run(&["SET", "new", "yes"]);
    client.run(&["SET", "gone", "soon", "PX", "1500"]);
    client.run(&["SET", "stays", "long", "EX", "100000"]);
    client.run(&["EXEC"]);
    client.run(&["ACL", "SETUSER", "web", "on", ">prod-secret-web", "~*", "+@all"]);

    let then = daemon.pando_json(&["snapshot", "shop"])["result"]["moment"].as_str().unwrap().to_owned();
    let then = format!("shop@{then}");
    let first = build(&daemon, &then, "shop:then");
    assert_eq!(again(&daemon, &then, "shop:then"), first["digest"]);
    // Once the snapshot is prepared, its image is made of what it was prepared of.
    let prepared = || {
        let timeline = daemon.pando_json(&["timeline", "shop"]);
        timeline["snapshots"].as_array().unwrap().last().unwrap()["prepared"] == true
    };
    assert!(wait_until(Duration::from_secs(120), prepared), "{}", daemon.log());
    assert_eq!(again(&daemon, &then, "shop:then"), first["digest"]);
    daemon.pando_json(&["bookmark", &then, "ci"]);
    assert_eq!(again(&daemon, "shop@ci", "shop:then"), first["digest"]);

    // A second in between, on another snapshot than before, and after a restart of the daemon.
    (0..50).for_each(|key| drop(client.run(&["SET", &format!("more:{key}"), "x"])));
    std::thread::sleep(Duration::from_millis(1500));
    let between = format!("shop@{}", Timestamp::now());
    std::thread::sleep(Duration::from_millis(1500));
    client.run(&["SET", "later", "still"]);
    let second = build(&daemon, &between, "shop:next");
    daemon.pando_json(&["snapshot", "shop"]);
    let whole = number(&first["new_bytes"]);
    for made in [&second, &build(&daemon, "shop@now", "shop:now")] {
        let (new, changed) = (number(&made["new_bytes"]), number(&made["changed_bytes"]));
        assert!(new < whole / 100 && changed <= 64 << 10, "{made}\n{first}");
    }
    ["shop:now", "shop:next"].iter().for_each(|name| drop(daemon.pando_json(&["image", "rm", name])));
    daemon.stop();
    daemon.resume();
    assert_eq!(again(&daemon, &then, "shop:then"), first["digest"]);
    let once_more = build(&daemon, &between, "shop:next");
    assert_eq!((&once_more["build"]["built"], &once_more["digest"]), (&true.into(), &second["digest"]));

    // What runs of it has it all, in both layers, and asks for the image's own password.
    let made = daemon.pando_json(&["image", "build", &between, "shop:next", "--load"]);
    docker.run(&["run", "-d", "--network", "none", "--name", "next", "shop:next"]);
    let password = made["password"].as_str().unwrap();
    let asked = ["exec", "next", "redis-cli", "--user", "pando", "--pass", password, "--no-auth-warning"];
    let ask = |words: &[&str]| docker.run(&[&asked[..], words].concat());
    let up = wait_until(Duration::from_secs(60), || docker.output(&[&asked[..], &["PING"]].concat()).status.success());
    assert!(up, "{}", docker.run(&["logs", "next"]));
    assert!(wait_until(Duration::from_secs(20), || ask(&["PING"]) == "PONG"));
    assert_eq!((ask(&["GET", "new"]), ask(&["GET", "more:49"])), ("yes".to_owned(), "x".to_owned()));
    assert_eq!((ask(&["GET", "gone"]), ask(&["GET", "later"])), (String::new(), String::new()));
    assert!(ask(&["TTL", "stays"]).parse::<u32>().unwrap() > 90_000);
    assert_eq!(ask(&["FCALL", "one", "0"]), "1");
    assert_eq!(ask(&["SET", "mine", "1"]), "OK");
    assert!(!docker.run(&["exec", "next", "sh", "-c", "cat /data/pando.conf"]).contains("user web"));
    let files = docker.run(&["exec", "next", "ls", "-A", "/data"]);
    assert_eq!(files, "appendonlydir\npando.conf", "no second dump, of another time");
    // It is started again on what it wrote.
    docker.run(&["restart", "next"]);
    assert!(wait_until(Duration::from_secs(60), || {
        docker.output(&[&asked[..], &["GET", "mine"]].concat()).stdout.starts_with(b"1")
    }));

    // A clone's image has nothing of what was overwritten in it.
    client.run(&["SET", "private", "customer-address"]);
    let view = daemon.pando_json(&["clone", "shop@now", "dev"]);
    let mut dev = RedisClient::connect(view["sources"]["q"]["url"].as_str().unwrap());
    dev.run(&["SET", "private", "nobody"]);
    daemon.pando_json(&["image", "rm", "shop:then"]);
    daemon.pando_json(&["image", "rm", "shop:next"]);
    build(&daemon, "dev", "dev:1");
    assert!(holds(&daemon, "nobody") && !holds(&daemon, "customer-address"));
    daemon.pando_json(&["image", "rm", "dev:1"]);
    build(&daemon, "shop@now", "shop:1");
    assert!(holds(&daemon, "customer-address") && !holds(&daemon, "prod-secret"));
    daemon.pando_json(&["rm", "dev"]);
    daemon.pando_json(&["unlink", "shop"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}

#[test]
fn where_more_came_behind_a_base_than_it_holds_the_image_has_one_base() {
    if !tools::require_root() || !tools::require("redis-server") || !tools::require("mkfs.btrfs") {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    docker.image(Image::Redis);
    let production = RedisProduction::start(&[]);
    let mut client = production.client();
    let daemon = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", &docker.host())]);
    daemon.pando_json(&["link", "shop", &format!("q={}", production.url(0))]);
    let large = "x".repeat(1 << 20);
    (0..20).for_each(|_| drop(client.run(&["SET", "one", &large])));
    let made = build(&daemon, "shop@now", "shop:1");
    assert!(number(&made["data_bytes"]) < 2 << 20, "{made}");
    daemon.pando_json(&["unlink", "shop"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}
