//! Rootless Podman: engine and daemon are an ordinary user's, and so is the data. Containers of clones, images, and
//! volumes for containers of the user's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::{Daemon, FsKind, Image, LoopFs, Podman, Production, tools, wait_until};
use serde_json::Value;

use crate::stand::{Copy, PANDO, bounded, production, said, sql_at};
use crate::unprivileged::pando_as;

/// An ordinary user's Pando over a production, with an engine of the same user's.
struct Own {
    daemon: Daemon,
    podman: Podman,
    production: Production,
    uid: u32,
    /// The driver's name in the engine.
    driver: String,
    filesystem: LoopFs,
    _program: tempfile::TempDir,
}

impl Own {
    fn new(kind: FsKind) -> Option<Self> {
        let (ids, production) = (tools::somebody(), production(bounded())?);
        let filesystem = LoopFs::new(kind, 2500)?;
        if kind == FsKind::Btrfs {
            tools::run("mount", &["-o", "remount,user_subvol_rm_allowed", &filesystem.path().display().to_string()]);
        }
        chown(filesystem.path(), Some(ids.0), Some(ids.1)).unwrap();
        fs::set_permissions(filesystem.path().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = tempfile::Builder::new().prefix("pando-bin-").tempdir_in("/tmp").unwrap();
        let driver = format!("rl{}", std::process::id());
        let socket = filesystem.path().join(format!("{driver}.sock"));
        let podman = Podman::start_as(ids, &[(&driver, &socket)])?;
        podman.image(Image::Postgres);
        let env = [("DOCKER_HOST", podman.host()), ("PANDO_VOLUME_PLUGIN", socket.display().to_string())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        let program_path: PathBuf = pando_as(program.path(), ids);
        let daemon = Daemon::start_on_with(&program_path, &filesystem.path().join("home"), &env);
        daemon.pando_json(&["init"]);
        production.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
        daemon.pando_json(&["link", "shop", &format!("db={}", production.url("postgres"))]);
        Some(Self { daemon, podman, production, uid: ids.0, driver, filesystem, _program: program })
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn copy(&self, args: &[&str]) -> Copy {
        Copy(self.json(&[&["clone"], args].concat()))
    }

    fn fails(&self, args: &[&str]) -> String {
        said(&self.daemon.pando(args), 4, args)
    }

    /// What `doctor` says of one thing.
    fn doctor(&self, what: &str) -> Vec<Value> {
        let items = self.json(&["doctor"])["items"].as_array().unwrap().clone();
        items.into_iter().filter(|item| item["what"] == what).collect()
    }

    /// The process of a clone's server: the child of its container's first.
    fn server(&self, clone: &str) -> String {
        let view = self.json(&["show", clone]);
        let id = view["sources"]["db"]["container"]["id"].as_str().unwrap_or_else(|| panic!("{view}"));
        let first = self.podman.run(&["inspect", "-f", "{{.State.Pid}}", id]);
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        children.split_whitespace().next().unwrap().to_owned()
    }

    /// Asks a container's server, when it is there.
    fn ask(&self, container: &str, password: &str, sql: &str) -> String {
        let password = format!("PGPASSWORD={password}");
        let line = ["exec", "--env", &password, container, "psql", "-h", "127.0.0.1", "-U", "pando"];
        let line = [&line[..], &["-d", "postgres", "-AtXc", sql]].concat();
        let up = wait_until(Duration::from_secs(60), || self.podman.output(&line).status.success());
        assert!(up, "{:?}\n{:?}", self.podman.output(&line), self.podman.output(&["logs", "--tail", "20", container]));
        self.podman.run(&line)
    }

    /// Makes a volume, which asks for the password `opensesame`.
    fn volume(&self, name: &str) {
        let line = ["volume", "create", "--driver", &self.driver, "-o", "from=shop", "-o", "password=opensesame", name];
        self.podman.run(&line);
    }

    /// Runs a container of the official image on a volume.
    fn run(&self, name: &str, volume: &str, more: &[&str]) {
        let mount = format!("{volume}:/var/lib/postgresql/data");
        let line = ["run", "-d", "--network", "none", "--name", name, "-v", &mount];
        self.podman.run(&[&line[..], more, &[&self.podman.image(Image::Postgres)]].concat());
    }

    fn end(self) {
        self.json(&["unlink", "shop"]);
        assert_eq!(self.doctor("strangers"), Vec::<Value>::new());
        assert_eq!(self.podman.run(&["ps", "--all", "--quiet"]), "");
        assert_eq!(self.daemon.alarms(&[]), Vec::<String>::new(), "{}", self.daemon.log());
    }
}

#[test]
fn a_clone_lives_in_a_container_of_an_ordinary_users_podman() {
    let Some(mut own) = Own::new(FsKind::Xfs) else { return };
    let copy = own.copy(&["shop", "dev", "--runtime", "docker", "--record"]);
    assert_eq!((copy.sql("SELECT count(*) FROM t"), &copy.0["runtime"]), ("1000".to_owned(), &"docker".into()));
    // Its server is that user, as the data is, and can do nothing else.
    let status = fs::read_to_string(format!("/proc/{}/status", own.server("dev"))).unwrap();
    for line in [&format!("Uid:\t{0}\t{0}\t{0}\t{0}", own.uid), "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(fs::metadata(copy.path("db")).unwrap().uid(), own.uid, "nothing was chowned");

    copy.sql("CREATE TABLE mine AS SELECT 1 AS n");
    let moment = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    copy.sql("DROP TABLE mine");
    own.json(&["rewind", &format!("dev@{moment}")]);
    assert_eq!(copy.sql("SELECT n FROM mine"), "1");
    let second = own.copy(&["dev@now", "twin"]);
    assert_eq!((second.sql("SELECT n FROM mine"), &second.0["runtime"]), ("1".to_owned(), &"docker".into()));
    own.production.psql("INSERT INTO t VALUES (0)");
    own.json(&["refresh", "dev@now"]);
    assert_eq!(copy.sql("SELECT count(*), to_regclass('mine') IS NULL FROM t"), "1001|t");
    own.json(&["stop", "dev"]);
    assert!(sql_at(copy.url(), "SELECT 1").is_err());
    own.json(&["start", "dev"]);
    // Neither the engine's service nor the daemon is needed for it to run.
    own.podman.kill9();
    own.daemon.kill9();
    assert_eq!(copy.sql("SELECT count(*) FROM t"), "1001");
    own.podman.resume();
    own.daemon.resume();
    assert_eq!(own.json(&["show", "dev"])["state"], "running");

    // Limits are held where that user has control groups, else they are refused, never ignored.
    let engine = own.doctor("containers")[0]["found"].as_str().unwrap().to_owned();
    assert!(engine.contains("Podman") && engine.contains("it is rootless"), "{engine}");
    let limited = ["clone", "shop", "small", "--runtime", "docker", "--memory", "512M"];
    if engine.contains("cannot limit memory") {
        assert!(own.fails(&limited).contains("cannot limit memory"));
    } else {
        assert_eq!(own.json(&limited)["sources"]["db"]["container"]["memory_bytes"], 512 << 20);
        own.json(&["rm", "small"]);
    }

    // An image, and a container of it that knows nothing of Pando.
    let made = own.json(&["image", "build", "dev", "shop-db:1"]);
    assert_eq!(made["build"]["loaded"], true, "{made}");
    own.podman.run(&["run", "-d", "--network", "none", "--name", "of-image", "shop-db:1"]);
    assert_eq!(own.ask("of-image", made["password"].as_str().unwrap(), "SELECT count(*) FROM t"), "1001");
    own.podman.run(&["rm", "--force", "of-image"]);
    own.json(&["image", "rm", "shop-db:1"]);
    // A daemon that is root has data of an account that is nobody in there.
    let root = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", &own.podman.host())]);
    root.pando_json(&["link", "other", &format!("db={}", own.production.url("postgres"))]);
    let refused = ["clone", "other", "no", "--runtime", "docker"];
    assert!(said(&root.pando(&refused), 4, &refused).contains("is rootless, and this daemon is root"));
    root.pando_json(&["unlink", "other"]);
    drop(root);
    own.json(&["rm", "twin"]);
    own.json(&["rm", "dev"]);
    own.end();
}

#[test]
fn t23_a_volume_belongs_to_the_user_where_the_containers_account_is_the_users() {
    let Some(own) = Own::new(FsKind::Xfs) else { return };
    let podman = &own.podman;
    // The account of the official image is this user's.
    own.volume("v1");
    own.run("c1", "v1", &["--userns", "keep-id:uid=999,gid=999"]);
    assert_eq!(own.ask("c1", "opensesame", "SELECT count(*) FROM t"), "1000");
    let tree = own.daemon.home().join("clones/v1/db");
    assert_eq!(fs::metadata(&tree).unwrap().uid(), own.uid);
    assert!(own.fails(&["refresh", "v1"]).contains("v1 is in use by"));
    own.production.psql("INSERT INTO t VALUES (0)");
    podman.run(&["stop", "c1"]);
    own.json(&["refresh", "v1@now"]);
    podman.run(&["start", "c1"]);
    assert_eq!(own.ask("c1", "opensesame", "SELECT count(*) FROM t"), "1001");
    podman.run(&["rm", "--force", "c1"]);
    podman.run(&["volume", "rm", "v1"]);

    // Another one takes it, and nobody but that engine can give it back: that is said before anything is lost.
    own.volume("v2");
    own.run("c2", "v2", &[]);
    assert_eq!(own.ask("c2", "opensesame", "SELECT count(*) FROM t"), "1000");
    podman.run(&["rm", "--force", "--time", "20", "c2"]);
    for verb in ["snapshot", "refresh", "rm"] {
        let refused = own.fails(&[verb, "v2"]);
        assert!(refused.contains("a container made it its own") && refused.contains("keep-id"), "{refused}");
    }
    let tree = fs::read_link(own.daemon.home().join("clones/v2/db")).unwrap();
    assert!(tree.starts_with(own.filesystem.path()), "{tree:?}");
    podman.run(&["unshare", "chown", "-R", "0:0", tree.to_str().unwrap()]);
    own.json(&["refresh", "v2@now"]);
    podman.run(&["volume", "rm", "v2"]);
    own.end();
}

#[test]
fn t23_on_btrfs_what_a_container_has_made_its_own_is_taken_away_whole() {
    let Some(own) = Own::new(FsKind::Btrfs) else { return };
    own.volume("v3");
    own.run("c3", "v3", &[]);
    assert_eq!(own.ask("c3", "opensesame", "SELECT count(*) FROM t"), "1000");
    own.podman.run(&["rm", "--force", "--time", "20", "c3"]);
    for line in [&["snapshot", "v3"][..], &["clone", "v3", "child"]] {
        let refused = own.fails(line);
        assert!(refused.contains("a container made it its own"), "{refused}");
    }
    own.json(&["refresh", "v3"]);
    own.podman.run(&["volume", "rm", "v3"]);
    own.end();
}
