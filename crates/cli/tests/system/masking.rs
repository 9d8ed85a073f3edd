//! Masking: what was masked is told by all that is made of it, and what it was before is in no byte that leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pando_image::oci::digest_of;
use pando_image::tar::{Entry, Writer};
use pando_testkit::{
    Daemon, Docker, Image, MariadbProduction, RedisClient, RedisProduction, mariadb_at, tools, wait_until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::crashes::{arm, struck};
use crate::stand::{PANDO, Stand, bounded, sql_at, with};

/// Customers whose addresses are in a table, in indexes, in statistics, in long values beside the table, in one that is
/// emptied, in a column that is dropped, and in a file.
const CUSTOMERS: &str = "
    CREATE TABLE customer (id int PRIMARY KEY, email text, letter text, more jsonb);
    ALTER TABLE customer ALTER COLUMN letter SET STORAGE EXTERNAL;
    CREATE INDEX ON customer (email);
    CREATE INDEX ON customer USING gin (more);
    CREATE STATISTICS common (mcv) ON email, id FROM customer;
    INSERT INTO customer SELECT i, 'qanary-' || i % 7 || '@secret.example', repeat('qanary-letter ', 500),
        jsonb_build_object('of', 'qanary-json' || i) FROM generate_series(1, 500) i;
    CREATE TABLE visit AS SELECT 'qanary-visit' || i % 5 AS who FROM generate_series(1, 300) i;
    CREATE TABLE old (id int, email text);
    INSERT INTO old SELECT i, 'qanary-old' || i FROM generate_series(1, 300) i;
    ANALYZE";

/// What masks them: an edit each of tables and of the file, and a hook.
const MASKS: &str = r#"
[[edits]]
masks = true
sql = "UPDATE customer SET email = 'm' || id || '@example.invalid', letter = '', more = '{}'; DELETE FROM visit; CHECKPOINT"

[[edits]]
masks = true
replace = "files/list.csv"
pattern = "qanary-[a-z]*"
with = "nobody"

[[hooks]]
masks = true
at = "configure-clone"
run = ["sh", "-c", "psql -qXd \"$PANDO_DB_URL\" -c 'ALTER TABLE old DROP COLUMN IF EXISTS email'"]
"#;

/// Where the canary is in files, also in those that are packed by gzip.
fn canaries(files: &[PathBuf]) -> String {
    assert!(!files.is_empty());
    let mut command = Command::new("zgrep");
    // Without a locale letters are bytes, which is many times as fast.
    command.env("LC_ALL", "C").args(["-aoF", "-m1", "qanary"]).args(files);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server's image in OCI's layout, without the server: an account, and what its environment says.
struct Base(TempDir);

impl Base {
    fn new(account: &str, env: &[String]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        let put = |bytes: &[u8]| {
            let digest = digest_of(bytes);
            fs::write(dir.path().join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
            json!({ "digest": digest, "size": bytes.len() })
        };
        let text = format!("root:x:0:0::/:/bin/sh\n{account}:x:999:999::/:/bin/sh\n");
        let mut tar = Writer::new(Vec::new());
        tar.head(&Entry::file("etc/passwd", 0o644, text.len() as u64)).unwrap();
        tar.data(text.as_bytes()).unwrap();
        let layer = tar.finish().unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": env },
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
        });
        let mut layer = put(&layer);
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        let config = put(config.to_string().as_bytes());
        let manifest = put(json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
        Self(dir)
    }

    fn name(&self) -> String {
        format!("oci:{}", self.0.path().display())
    }
}

/// Where the canary is in an image of a home: in its layers, its configuration and its manifest.
fn in_image(home: &Path, image: &Value) -> String {
    let blob = |digest: &Value| home.join("images/blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&image["digest"])).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| blob(&layer["digest"]));
    canaries(&layers.chain([blob(&manifest["config"]["digest"]), blob(&image["digest"])]).collect::<Vec<_>>())
}

/// A production with customers, linked as `shop` from a file.
struct Shop {
    stand: Stand,
    dir: TempDir,
}

impl Shop {
    fn new() -> Option<Self> {
        Some(Self::on(Stand::new()?))
    }

    fn on(stand: Stand) -> Self {
        stand.production.psql(CUSTOMERS);
        fs::write(stand.files().join("list.csv"), "1;qanary-file\n").unwrap();
        let shop = Self { stand, dir: TempDir::new().unwrap() };
        shop.apply("");
        shop
    }

    /// A server's image of its version.
    fn base(&self) -> Base {
        let version = self.stand.production.psql("SHOW server_version");
        let version = version.split_whitespace().next().unwrap().to_owned();
        Base::new("postgres", &[format!("PG_VERSION={version}-1"), "PGDATA=/data".to_owned()])
    }

    /// Describes the app, with something more.
    fn apply(&self, more: &str) {
        let (url, files) = (self.stand.production.url("postgres"), self.stand.files());
        let text = format!(
            "app = \"shop\"\n[[sources]]\nname = \"db\"\nurl = \"{url}\"\n[[sources]]\nname = \"files\"\n\
             url = \"file://{}\"\n{more}",
            files.display()
        );
        let file = self.dir.path().join("shop.toml");
        fs::write(&file, text).unwrap();
        self.stand.json(&["apply", file.to_str().unwrap()]);
    }

    fn masked(&self, clone: &str) -> bool {
        let row = |list: Value| list["clones"].as_array().unwrap().iter().find(|row| row["name"] == clone).cloned();
        let shown = self.stand.show(clone).0["masked"].as_bool().unwrap();
        assert_eq!(row(self.stand.json(&["ls"])).unwrap()["masked"], shown);
        shown
    }

    fn build(&self, base: &Base, target: &str, reference: &str, more: &[&str]) -> Value {
        let base = base.name();
        self.stand.json(&[&["image", "build", target, reference, "--no-load", "--base", &base], more].concat())
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        self.stand.daemon.home().join("images/blobs").join(digest.as_str().unwrap().replace(':', "/"))
    }

    fn read(&self, digest: &Value) -> Value {
        serde_json::from_slice(&fs::read(self.blob(digest)).unwrap()).unwrap()
    }

    /// The labels of an image.
    fn labels(&self, image: &Value) -> Value {
        self.read(&self.read(&image["digest"])["config"]["digest"])["config"]["Labels"].clone()
    }

    fn canaries(&self, image: &Value) -> String {
        in_image(&self.stand.daemon.home(), image)
    }

    fn export(&self, clone: &str) -> PathBuf {
        let to = self.dir.path().join(format!("{clone}.tar"));
        self.stand.json(&["export", clone, "--output", to.to_str().unwrap()]);
        to
    }
}

#[test]
fn what_is_made_of_a_masked_clone_says_so_and_holds_nothing_of_before() {
    let Some(shop) = Shop::new() else { return };
    let (stand, base) = (&shop.stand, shop.base());
    let build = |target: &str, reference: &str, more: &[&str]| shop.build(&base, target, reference, more);
    stand.copy("shop", "dev");
    // What is looked for is there where nothing was masked.
    let plain = build("dev", "shop-db:plain", &[]);
    assert_eq!((&plain["masked"], &shop.labels(&plain)["pando.masked"]), (&false.into(), &"false".into()));
    assert_ne!(shop.canaries(&plain), "");
    assert_ne!(canaries(&[shop.export("dev")]), "");

    shop.apply(MASKS);
    assert!(!shop.masked("dev"), "it was made before");
    stand.json(&["refresh", "dev"]);
    assert!(shop.masked("dev"));
    let email = "SELECT count(*) FROM customer WHERE email LIKE 'qanary%'";
    assert_eq!(stand.show("dev").sql(email), "0");
    stand.json(&["undo", "dev"]);
    assert!(!shop.masked("dev"));
    assert_eq!(stand.show("dev").sql(email), "500");
    stand.json(&["undo", "dev"]);
    assert!(shop.masked("dev"));
    let shown = String::from_utf8(stand.daemon.pando(&["show", "dev"]).stdout).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("data") && line.ends_with("masked")), "{shown}");

    let recording = stand.copy_with("shop", "recording", &["--record"]);

    // It goes on from one to another, also where nothing masks any more.
    stand.json(&["snapshot", "dev"]);
    let timeline = stand.json(&["timeline", "dev"]);
    assert_eq!(timeline["snapshots"].as_array().unwrap().last().unwrap()["masked"], true, "{timeline}");
    shop.apply("");
    stand.copy("dev", "child");
    assert!(shop.masked("child"));
    // So does a second of its own log.
    recording.sql("INSERT INTO customer VALUES (1000, 'new')");
    let rolled = stand.copy("recording@now", "rolled");
    assert_eq!(rolled.sql("SELECT email FROM customer WHERE id = 1000"), "new");
    assert!(shop.masked("rolled"));
    stand.json(&["rm", "rolled"]);
    stand.json(&["rm", "recording"]);

    let image = build("child", "shop-db:masked", &[]);
    assert_eq!((&image["masked"], &shop.labels(&image)["pando.masked"]), (&true.into(), &"true".into()));
    assert_eq!(image["data_layers"], 1, "it lies on nothing that was not masked: {image}");
    let list = build("child", "shop-files:masked", &["--source", "files", "--path", "/files"]);
    assert_eq!((&list["masked"], &list["data_layers"]), (&true.into(), &1.into()));
    for image in [&image, &list] {
        assert_eq!(shop.canaries(image), "", "it is in the image of {}", image["source"]);
    }

    let archive = shop.export("child");
    assert_eq!(canaries(std::slice::from_ref(&archive)), "");
    stand.json(&["import", archive.to_str().unwrap(), "back"]);
    assert!(shop.masked("back"));
    assert_eq!(stand.show("back").sql("SELECT count(*), count(DISTINCT email) FROM customer"), "500|500");
    stand.copy("back", "of-back");
    assert!(shop.masked("of-back"));
    for clones in [["of-back", "child"], ["back", "dev"]] {
        stand.json(&["rm", clones[0], clones[1]]);
    }
    shop.stand.end(&[]);
}

#[test]
fn nothing_of_before_is_in_what_leaves_of_mariadb_and_redis() {
    if !["mariadbd", "redis-server", "mkfs.btrfs"].iter().all(|tool| tools::require(tool)) || !tools::require_root() {
        return;
    }
    let (blog, cache) = (MariadbProduction::start(&[]), RedisProduction::start(&[]));
    blog.sql(
        "CREATE TABLE blog.post (id int PRIMARY KEY, who varchar(99), text longtext, KEY (who)); \
         INSERT INTO blog.post SELECT seq, CONCAT('qanary-', seq), REPEAT('qanary-text ', 2000) FROM seq_1_to_200; \
         CREATE TABLE blog.visit (who varchar(99)) ENGINE=Aria; INSERT INTO blog.visit SELECT who FROM blog.post",
    );
    for key in 0..200 {
        cache.run(&["SET", &format!("user:{key}"), &format!("qanary-{key}")]);
    }
    let daemon = Daemon::start(Path::new(PANDO));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("shop.toml");
    let text = format!(
        r#"app = "shop"
[[sources]]
name = "blog"
url = "{}"
[[sources]]
name = "cache"
url = "{}"
[[edits]]
masks = true
source = "blog"
sql = "UPDATE post SET who = CONCAT('m', id), text = ''; DELETE FROM visit"
[[hooks]]
masks = true
at = "configure-clone"
run = ["sh", "-c", "for key in $(seq 0 199); do echo SET user:$key m$key; done | redis-cli -u \"$PANDO_CACHE_URL\" >/dev/null"]
"#,
        blog.url(),
        cache.url(0),
    );
    fs::write(&file, text).unwrap();
    let json = |args: &[&str]| daemon.pando_json(args);
    json(&["apply", file.to_str().unwrap()]);
    let export = |name: &str| {
        let to = dir.path().join(format!("{name}.tar"));
        json(&["export", name, "--output", to.to_str().unwrap()]);
        to
    };
    assert_ne!(canaries(&[export("shop")]), "");
    assert_eq!(json(&["clone", "shop", "dev"])["masked"], true);
    let archive = export("dev");
    assert_eq!(canaries(std::slice::from_ref(&archive)), "", "the archive");
    let back = json(&["import", archive.to_str().unwrap(), "back"]);
    assert_eq!(back["masked"], true);
    let url = |source: &str| back["sources"][source]["url"].as_str().unwrap().to_owned();
    let asked = "SELECT COUNT(*), COUNT(DISTINCT who), (SELECT COUNT(*) FROM visit) FROM post";
    assert_eq!(mariadb_at(&url("blog"), asked).unwrap(), "200\t200\t0");
    let mut client = RedisClient::connect(&url("cache"));
    assert_eq!((client.run(&["DBSIZE"]), client.run(&["GET", "user:7"])), ("200".to_owned(), "m7".to_owned()));

    let version = blog.sql("SELECT VERSION()");
    let mariadb = Base::new("mysql", &[format!("MARIADB_VERSION=1:{}+x", version.split('-').next().unwrap())]);
    let info = cache.run(&["INFO", "server"]);
    let version = info.lines().find_map(|line| line.trim().strip_prefix("redis_version:")).unwrap();
    let redis = Base::new("redis", &[format!("REDIS_VERSION={version}")]);
    for (source, base) in [("blog", mariadb.name()), ("cache", redis.name())] {
        let build = |name: &str| {
            let reference = format!("{source}:{name}");
            json(&["image", "build", name, &reference, "--no-load", "--base", &base, "--source", source])
        };
        let (plain, masked) = (build("shop"), build("dev"));
        assert_eq!((&plain["masked"], &masked["masked"]), (&false.into(), &true.into()), "{source}");
        assert_ne!(in_image(&daemon.home(), &plain), "", "{source}: nothing that could be found");
        assert_eq!(in_image(&daemon.home(), &masked), "", "{source}");
    }
    json(&["rm", "back", "dev"]);
    json(&["unlink", "shop"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}

/// What an image of a masked production says, run by an engine.
fn customers(docker: &Docker, image: &Value) -> String {
    docker.run(&["run", "-d", "--network", "none", "--name", "masked", image["reference"].as_str().unwrap()]);
    let password = format!("PGPASSWORD={}", image["password"].as_str().unwrap());
    let asked = "SELECT count(*), count(*) FILTER (WHERE email LIKE 'm%@example.invalid') FROM customer";
    let client = ["psql", "-h", "127.0.0.1", "-U", "pando", "-d", "postgres", "-AtXc", asked];
    let asked = [&["exec", "masked", "env", &password], &client[..]].concat();
    let up = wait_until(Duration::from_secs(60), || docker.output(&asked).status.success());
    assert!(up, "{}", docker.run(&["logs", "masked"]));
    docker.run(&asked)
}

#[test]
fn one_command_masks_an_app_into_an_image_and_does_it_again() {
    let Some(docker) = Docker::start() else { return };
    docker.image(Image::Postgres);
    let Some(stand) = Stand::of_with(bounded(), &[("DOCKER_HOST", &docker.host())]) else { return };
    let shop = Shop::on(stand);
    let stand = &shop.stand;
    let build = ["image", "build", "shop", "shop-db:ci", "--source", "db", "--masked"];
    let refused = stand.fails(4, &build);
    assert!(refused.contains("nothing masks the data of shop") && refused.contains("masks = true"), "{refused}");
    shop.apply(&MASKS.replace("psql -qX", "exit 7; psql -qX"));
    let failed = stand.fails(1, &build);
    assert!(failed.contains("exit code 7"), "{failed}");
    assert_eq!(stand.json(&["ls"])["clones"], json!([]), "nothing of it is left");
    stand.nothing_strange();
    shop.apply(MASKS);

    let plain = stand.json(&["image", "build", "shop", "shop-db:plain", "--source", "db"]);
    assert!(plain["masked"] == false && !shop.canaries(&plain).is_empty(), "{plain}");
    let first = stand.json(&build);
    assert_eq!((&first["masked"], &first["name"], &first["data_layers"]), (&true.into(), &"shop".into(), &1.into()));
    assert_eq!(shop.canaries(&first), "");
    assert_eq!(customers(&docker, &first), "500|500");
    let label = docker.run(&["inspect", "-f", "{{index .Config.Labels \"pando.masked\"}}", "masked"]);
    assert_eq!(label, "true");
    // All that its container has, as it is while its server runs.
    let whole = shop.dir.path().join("container.tar");
    docker.run(&["export", "--output", whole.to_str().unwrap(), "masked"]);
    assert_eq!(canaries(std::slice::from_ref(&whole)), "");
    docker.run(&["rm", "--force", "masked"]);

    // What came since is masked too: nobody has to say it again.
    stand.production.psql(
        "INSERT INTO customer SELECT i, 'qanary-late' || i, 'qanary-late', '{}' FROM generate_series(501, 600) i",
    );
    let second = stand.json(&["image", "update", "shop-db:ci", "--at", "now"]);
    assert!(second["masked"] == true && second["digest"] != first["digest"], "{second}");
    assert_eq!(shop.canaries(&second), "");
    assert_eq!(customers(&docker, &second), "600|600");
    // A directory goes the same way.
    let list = ["image", "build", "shop", "shop-list:ci", "--source", "files", "--masked"];
    let list = stand.json(&list);
    assert!(list["masked"] == true && shop.canaries(&list).is_empty(), "{list}");
    assert_eq!(stand.json(&["ls"])["clones"], json!([]));
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    shop.stand.end(&["the hook sh"]);
}

#[test]
fn kill_9_while_an_app_is_masked_leaves_no_clone_of_it() {
    let Some(mut shop) = Shop::new() else { return };
    shop.apply(MASKS);
    let base = shop.base();
    let build =
        ["image", "build", "shop", "shop-db:ci", "--source", "db", "--masked", "--no-load", "--base", &base.name()]
            .map(str::to_owned);
    let build: Vec<&str> = build.iter().map(String::as_str).collect();
    let points = ["clone.make.admit", "image-build.mask.made", "renew.scrubbed", "image-build.pack.after"];
    for point in points {
        arm(&mut shop.stand, point);
        assert!(!shop.stand.daemon.pando(&build).status.success());
        struck(&mut shop.stand, point);
        assert_eq!(shop.stand.json(&["ls"])["clones"], json!([]), "{point}");
        assert_eq!(shop.stand.json(&["image", "ls"]), json!([]), "{point}");
        shop.stand.nothing_strange();
    }
    // Behind the point of no return it is done.
    arm(&mut shop.stand, "image-build.clear.before");
    assert!(!shop.stand.daemon.pando(&build).status.success());
    struck(&mut shop.stand, "image-build.clear.before");
    let image = shop.stand.json(&["image", "ls"])[0].clone();
    assert!(image["masked"] == true && shop.canaries(&image).is_empty(), "{image}");
    let listed = String::from_utf8(shop.stand.daemon.pando(&["image", "ls"]).stdout).unwrap();
    let words: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(listed.contains(" MASKED ") && words.contains(&"yes"), "{listed}");
    let gone = || shop.stand.json(&["ls"])["clones"] == json!([]);
    assert!(wait_until(Duration::from_secs(20), gone), "{}", shop.stand.json(&["ls"]));
    shop.stand.json(&["unlink", "shop"]);
    shop.stand.nothing_left();
    shop.stand.end(&[]);
}

#[test]
fn texts_of_statements_go_and_a_transaction_that_keeps_old_rows_is_refused() {
    let library = "shared_preload_libraries = 'pg_stat_statements'";
    let Some(stand) = Stand::of(with(&["max_prepared_transactions = 2", library])) else { return };
    let shop = Shop::on(stand);
    let stand = &shop.stand;
    shop.apply(MASKS);
    let dev = stand.copy("shop", "dev");
    dev.sql("DO $$ BEGIN PERFORM 'qanary-said'; END $$");
    stand.json(&["stop", "dev"]);
    let kept = dev.path("db").join("pg_stat/pg_stat_statements.stat");
    assert_ne!(canaries(&[kept]), "", "nothing that could go out");
    assert_eq!(canaries(&[shop.export("dev")]), "");

    stand.json(&["start", "dev"]);
    dev.sql("BEGIN; CREATE TABLE more (n int); PREPARE TRANSACTION 'left'");
    let to = shop.dir.path().join("refused.tar");
    let refused = stand.fails(4, &["export", "dev", "--output", to.to_str().unwrap()]);
    assert!(refused.contains("\"left\" is prepared") && refused.contains("ROLLBACK PREPARED"), "{refused}");
    stand.nothing_strange();
    dev.sql("ROLLBACK PREPARED 'left'");
    assert_eq!(canaries(&[shop.export("dev")]), "");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    shop.stand.end(&["is prepared and keeps"]);
}

/// A hook that masks waits until it is told to go on; so long the clone's own password, known from before, lets nobody in.
#[test]
fn nobody_comes_in_before_all_is_masked() {
    let Some(stand) = Stand::of(bounded()) else { return };
    stand.production.psql("CREATE TABLE customer AS SELECT 'qanary' AS email");
    let place = tempfile::Builder::new().prefix("pando-mask-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let [told, go, script] = ["told", "go", "mask"].map(|name| place.path().join(name));
    let lines = format!(
        "echo \"$PANDO_DB_URL\" > {told}.new; mv {told}.new {told}; until [ -e {go} ]; do sleep 0.1; done\n\
         psql -qXd \"$PANDO_DB_URL\" -c \"UPDATE customer SET email = 'nobody'\"\n",
        told = told.display(),
        go = go.display()
    );
    [(&script, lines.as_str()), (&go, "")].iter().for_each(|(file, text)| fs::write(file, text).unwrap());
    let file = place.path().join("shop.toml");
    let app = format!(
        "app = \"shop\"\n[[sources]]\nname = \"db\"\nurl = \"{}\"\n[[hooks]]\nmasks = true\nat = \"configure-clone\"\nrun = [\"sh\", \"{}\"]\n",
        stand.production.url("postgres"),
        script.display()
    );
    fs::write(&file, app).unwrap();
    stand.json(&["apply", file.to_str().unwrap()]);
    let view = stand.json(&["clone", "shop@latest", "dev", "--record"]);
    let url = view["sources"]["db"]["url"].as_str().unwrap().to_owned();
    let email = "SELECT email FROM customer";
    assert_eq!(sql_at(&url, email).unwrap(), "nobody");

    [&told, &go].into_iter().for_each(|file| fs::remove_file(file).unwrap());
    std::thread::scope(|scope| {
        let refreshed = scope.spawn(|| stand.json(&["refresh", "dev"]));
        assert!(wait_until(Duration::from_secs(60), || told.exists()), "{}", stand.daemon.log());
        let its_own = fs::read_to_string(&told).unwrap();
        assert_eq!(sql_at(its_own.trim(), email).unwrap(), "qanary", "who masks sees what there is");
        let refused = sql_at(&url, email).map_err(|error| format!("{error:?}"));
        assert!(refused.as_ref().is_err_and(|why| why.contains("password authentication failed")), "{refused:?}");
        fs::write(&go, "").unwrap();
        refreshed.join().unwrap();
        assert!(sql_at(its_own.trim(), email).is_err());
    });
    assert_eq!(sql_at(&url, email).unwrap(), "nobody");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
}
