//! Whole stacks: what `compose init` writes for MariaDB, Redis and files is really started; and a project's data of several
//! kinds goes to another machine as one archive and runs there in containers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, MariadbProduction, RedisProduction, tools, wait_until};
use serde_json::Value;

use super::driver::{Driver, fresh_socket};
use super::project::filled_in;
use crate::any_second::{ROWS, table};
use crate::stand::{PANDO, Stand, entries};

/// What a command printed inside a container; empty when it failed.
fn inside(docker: &Docker, container: &str, args: &[&str]) -> String {
    let output = docker.output(&[&["exec", container], args].concat());
    String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ")
}

/// Waits until a command inside a container prints this.
fn says(docker: &Docker, container: &str, args: &[&str], expected: &str) {
    let there = || inside(docker, container, args) == expected;
    let logs = || String::from_utf8_lossy(&docker.output(&["logs", container]).stderr).into_owned();
    assert!(
        wait_until(Duration::from_secs(60), there),
        "{args:?}: {:?}\n{}",
        docker.output(&[&["exec", container], args].concat()),
        logs()
    );
}

fn password(dir: &Path) -> String {
    let env = fs::read_to_string(dir.join(".env")).unwrap();
    env.lines().find_map(|line| line.strip_prefix("PASSWORD=")).unwrap().to_owned()
}

const BLOG: [&str; 5] = ["mariadb", "-N", "-e", "SELECT GROUP_CONCAT(n ORDER BY n) FROM mark", "blog"];
const CART: [&str; 4] = ["redis-cli", "--no-auth-warning", "GET", "cart"];

#[test]
fn what_compose_init_writes_for_mariadb_redis_and_files_is_started() {
    let programs = ["mariadbd", "redis-server", "mkfs.btrfs", "rsync", "docker-compose"];
    if !programs.iter().all(|program| tools::require(program)) {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("init"));
    let host = docker.host();
    let env = [("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap()), ("DOCKER_HOST", host.as_str())];
    let daemon = Daemon::start_with(Path::new(PANDO), &env);
    let (blog, cache) = (MariadbProduction::start(&[]), RedisProduction::start(&[]));
    let files = tempfile::tempdir().unwrap();
    blog.sql("CREATE TABLE mark (n INT PRIMARY KEY); INSERT INTO mark VALUES (1)");
    cache.client().run(&["SET", "cart", "one"]);
    fs::write(files.path().join("page"), "one").unwrap();
    let urls = [
        format!("my={}", blog.url()),
        format!("q={}", cache.url(0)),
        format!("files=file://{}", files.path().display()),
    ];
    daemon.pando_json(&["link", "stack", &urls[0], &urls[1], &urls[2]]);

    let images = (docker.image(Image::Mariadb), docker.image(Image::Redis));
    let dir = tempfile::tempdir().unwrap();
    let file = filled_in(&daemon, "stack", dir.path(), &driver, &images.0);
    let text = fs::read_to_string(&file).unwrap();
    for line in [
        format!("    image: {}\n", images.0),
        format!("    image: {}\n", images.1),
        "    command: --defaults-extra-file=/var/lib/mysql/pando.cnf\n".to_owned(),
        "    command: redis-server /data/pando.conf\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    let view = daemon.pando_json(&["clone", "stack", "dev", "--compose", file.to_str().unwrap()]);
    assert_eq!(view["state"], "running", "{view}");
    // The application waited until both were healthy, as the file says; it has their addresses and the one password.
    for container in ["dev_my_1", "dev_q_1"] {
        assert_eq!(docker.run(&["inspect", "-f", "{{.State.Health.Status}}", container]), "healthy");
    }
    let secret = password(dir.path());
    let told = |name: &str| inside(&docker, "dev_stack_1", &["sh", "-c", &format!("echo ${name}")]);
    assert_eq!(told("MY_URL"), format!("mysql://pando:{secret}@my/blog"));
    assert_eq!(told("Q_URL"), format!("redis://pando:{secret}@q/0"));
    let shows = |rows: &str, cart: &str, page: &str| {
        says(&docker, "dev_my_1", &BLOG, rows);
        says(&docker, "dev_q_1", &CART, cart);
        says(&docker, "dev_stack_1", &["cat", "/srv/files/page"], page);
    };
    shows("1", "one", "one");
    let login = format!("-p{secret}");
    let by_network = ["mariadb", "-h", "my", "-upando", &login, "-N", "-e", BLOG[3], "blog"];
    assert_eq!(inside(&docker, "dev_stack_1", &by_network), "1");
    let uri = ["redis-cli", "--no-auth-warning", "-h", "q", "--user", "pando", "--pass", &secret, "GET", "cart"];
    assert_eq!(inside(&docker, "dev_q_1", &uri), "one");

    // It is theirs to write to, keeps what was written, and is refreshed as a whole.
    inside(&docker, "dev_my_1", &["mariadb", "-e", "INSERT INTO mark VALUES (10)", "blog"]);
    inside(&docker, "dev_q_1", &["redis-cli", "SET", "cart", "mine"]);
    inside(&docker, "dev_stack_1", &["sh", "-c", "echo mine > /srv/files/page"]);
    daemon.pando_json(&["stop", "dev"]);
    daemon.pando_json(&["start", "dev"]);
    shows("1,10", "mine", "mine");
    blog.sql("INSERT INTO mark VALUES (2)");
    cache.client().run(&["SET", "cart", "two"]);
    fs::write(files.path().join("page"), "two").unwrap();
    daemon.pando_json(&["refresh", "dev@now"]);
    shows("1,2", "two", "two");
    daemon.pando_json(&["undo", "dev"]);
    shows("1,10", "mine", "mine");

    daemon.pando_json(&["rm", "dev"]);
    assert_eq!((docker.run(&["ps", "-aq"]), docker.run(&["volume", "ls", "-q"])), (String::new(), String::new()));
    drop(docker);
    daemon.pando_json(&["unlink", "stack"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", daemon.log());
}

/// An image whose server runs as another account than the official one's, under the official name: data that it has had is
/// nobody's here.
fn with_other_account(docker: &Docker, image: &str, account: &str, place: &str) {
    let change = format!(
        "sed -i 's/^{account}:x:999:999:/{account}:x:4242:4242:/' /etc/passwd && \
         sed -i 's/^{account}:x:999:/{account}:x:4242:/' /etc/group && chown -R 4242:4242 {place}"
    );
    docker.build(&format!("FROM {image}\nRUN {change}\n"), image);
}

#[test]
fn a_stack_in_containers_is_archived_and_runs_in_containers_under_another_home() {
    if !["redis-server", "docker-compose"].iter().all(|program| tools::require(program)) {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("here"));
    let host = docker.host();
    let Some(stand) = Stand::with_env(&[("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap()), ("DOCKER_HOST", &host)])
    else {
        return;
    };
    let cache = RedisProduction::start(&[]);
    table(&stand.production);
    stand.production.psql("INSERT INTO mark VALUES (1)");
    cache.client().run(&["SET", "cart", "one"]);
    fs::write(stand.files().join("page"), "one").unwrap();
    stand.link_both(&[&format!("q={}", cache.url(0))]);
    let images = (docker.image(Image::Postgres), docker.image(Image::Redis));
    with_other_account(&docker, &images.0, "postgres", "/var/lib/postgresql /run/postgresql");
    with_other_account(&docker, &images.1, "redis", "/data");
    let dir = tempfile::tempdir().unwrap();
    let file = filled_in(&stand.daemon, "shop", dir.path(), &driver, &images.0);
    stand.json(&["clone", "shop", "dev1", "--compose", file.to_str().unwrap()]);

    let rows = ["psql", "-U", "pando", "-d", "postgres", "-AtXc", ROWS];
    let shows = |docker: &Docker, numbers: &str, cart: &str, page: &str| {
        says(docker, "dev1_db_1", &rows, numbers);
        says(docker, "dev1_q_1", &CART, cart);
        says(docker, "dev1_shop_1", &["cat", "/srv/files/page"], page);
    };
    shows(&docker, "1", "one", "one");
    let write = |docker: &Docker, n: u32, text: &str| {
        let insert = format!("INSERT INTO mark VALUES ({n})");
        inside(docker, "dev1_db_1", &["psql", "-U", "pando", "-d", "postgres", "-AtXc", &insert]);
        inside(docker, "dev1_q_1", &["redis-cli", "SET", "cart", text]);
        inside(docker, "dev1_shop_1", &["sh", "-c", &format!("echo {text} > /srv/files/page")]);
    };
    write(&docker, 10, "mine");
    shows(&docker, "1 10", "mine", "mine");
    let uid = |source: &str| {
        let place = stand.json(&["show", "dev1"])["sources"][source]["path"].as_str().unwrap().to_owned();
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(place).unwrap())
    };
    assert_eq!((uid("db"), uid("q")), (4242, 4242), "the containers have made it their own");

    stand.json(&["stop", "dev1"]);
    stand.json(&["start", "dev1"]);
    shows(&docker, "1 10", "mine", "mine");

    // Out while it runs, as one instant of all of it; nobody's password with it.
    let archive = dir.path().join("stack.tar");
    let told = stand.json(&["export", "dev1", "--output", archive.to_str().unwrap()]);
    assert_eq!(told["state"], "done", "{told}");
    shows(&docker, "1 10", "mine", "mine");
    let secret = password(dir.path());
    let found = std::process::Command::new("grep").args(["-aqF", &secret]).arg(&archive).status().unwrap();
    assert_eq!(found.code(), Some(1), "the clone's password went out");
    // Here everything goes: what comes has the archive, the project's file and its .env.
    stand.json(&["rm", "dev1"]);
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);

    let Some(docker) = Docker::start() else { return };
    let there = Driver(fresh_socket("there"));
    let host = docker.host();
    let env = [("PANDO_VOLUME_PLUGIN", there.0.to_str().unwrap()), ("DOCKER_HOST", host.as_str())];
    let daemon = Daemon::start_with(Path::new(PANDO), &env);
    docker.image(Image::Postgres);
    docker.image(Image::Redis);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&super::docker::word(&driver), &super::docker::word(&there))).unwrap();
    let view: Value = daemon.pando_json(&["import", archive.to_str().unwrap(), "shop"]);
    assert_eq!((&view["state"], &view["app"]), (&"running".into(), &"shop".into()), "{view}");
    let view = daemon.pando_json(&["clone", "shop", "dev1", "--compose", file.to_str().unwrap()]);
    assert_eq!((view["state"].as_str(), view["parent"].as_str()), (Some("running"), Some("shop")), "{view}");
    shows(&docker, "1 10", "mine", "mine");
    // It lives: it is written to, and set back as a whole.
    daemon.pando_json(&["bookmark", "dev1", "arrived"]);
    write(&docker, 11, "changed");
    shows(&docker, "1 10 11", "changed", "changed");
    daemon.pando_json(&["rewind", "dev1@arrived"]);
    shows(&docker, "1 10", "mine", "mine");

    daemon.pando_json(&["rm", "dev1"]);
    daemon.pando_json(&["rm", "shop"]);
    assert_eq!((docker.run(&["ps", "-aq"]), docker.run(&["volume", "ls", "-q"])), (String::new(), String::new()));
    assert_eq!(daemon.pando_json(&["ls"]), serde_json::json!({"apps": [], "clones": []}));
    assert_eq!(entries(&daemon.home().join("pool/volumes")), Vec::<String>::new());
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", daemon.log());
}
