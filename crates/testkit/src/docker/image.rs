//! Images for tests, made of the machine's own Debian packages: the programs, what they are linked with, a few
//! tools, and an entrypoint with the interface of the official image (environment, data path, user). Nothing is
//! pulled. An image is kept as a tar under `target/test-images`, named after what it was made of.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Docker;
use crate::tools;

/// A server as the official image has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// `postgres:MAJOR`, also named by its exact version: the newest server of this machine.
    Postgres,
    /// `mariadb:SERIES`, such as 10.11, also named by its exact version.
    Mariadb,
    /// `mysql:SERIES`, such as 9.7, also named by its exact version: what `scripts/matrix` brought.
    Mysql,
    /// `redis:SERIES`, such as 7.0, also named by its exact version.
    Redis,
}

/// What every image has besides its server.
const TOOLS: [&str; 31] = [
    "bash", "cat", "chmod", "chown", "cp", "date", "dirname", "echo", "env", "false", "find", "getent", "grep",
    "gunzip", "gzip", "head", "id", "ldd", "ls", "mkdir", "mv", "rm", "sed", "setpriv", "sh", "sleep", "stat", "tail",
    "timeout", "touch", "true",
];

/// What an image is made of.
struct Recipe {
    name: &'static str,
    major: String,
    version: String,
    /// Files and directories of this machine.
    content: Vec<PathBuf>,
    /// Parts of file names that are left out: big, and not needed to run.
    without: &'static [&'static str],
    entrypoint: &'static str,
    /// Files that no package has: path and text.
    written: &'static [(&'static str, &'static str)],
    /// Of the account, which has the same name as the group.
    account: (&'static str, u32),
    /// Directories that belong to the account.
    dirs: &'static [&'static str],
    /// As in a Dockerfile.
    settings: Vec<String>,
}

impl Image {
    fn recipe(self) -> Recipe {
        match self {
            Self::Postgres => postgres(),
            Self::Mariadb => mariadb(),
            Self::Mysql => mysql(),
            Self::Redis => redis(),
        }
    }

    pub(super) fn name_in(self, docker: &Docker) -> String {
        let recipe = self.recipe();
        let exact = format!("{}:{}", recipe.name, recipe.version);
        if !docker.output(&["image", "inspect", &exact]).status.success() {
            let tar = recipe.tar().display().to_string();
            let files = docker.run(&["import", &tar]);
            docker.build(&format!("FROM {files}\n{}\n", recipe.settings.join("\n")), &exact);
            docker.run(&["tag", &exact, &format!("{}:{}", recipe.name, recipe.major)]);
        }
        exact
    }
}

impl Image {
    pub(super) fn name_in_podman(self, podman: &super::Podman) -> String {
        let recipe = self.recipe();
        let exact = format!("{}:{}", recipe.name, recipe.version);
        // Where Docker would look for a name without a registry.
        let whole = format!("docker.io/library/{exact}");
        if !podman.output(&["image", "exists", &whole]).status.success() {
            // Whose Podman it is may not be able to open it.
            let tar = fs::File::open(recipe.tar()).expect("opening an image");
            let changes = recipe.settings.iter().flat_map(|line| ["--change", line]);
            let words: Vec<&str> = ["import"].into_iter().chain(changes).chain(["-", &whole]).collect();
            let output = podman.fed(&words, tar.into());
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        exact
    }
}

fn postgres() -> Recipe {
    let bin = tools::newest_postgres().expect("a PostgreSQL server (apt-get install postgresql)");
    let root = bin.parent().expect("the directory of a PostgreSQL server").to_owned();
    let major = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let version = tools::run(bin.join("postgres"), &["--version"]);
    let version = version.split_whitespace().nth(2).expect("a version of PostgreSQL").to_owned();
    let settings = [
        "ENTRYPOINT [\"docker-entrypoint.sh\"]".to_owned(),
        "CMD [\"postgres\"]".to_owned(),
        "STOPSIGNAL SIGINT".to_owned(),
        "EXPOSE 5432".to_owned(),
        "VOLUME /var/lib/postgresql/data".to_owned(),
        "ENV PGDATA=/var/lib/postgresql/data".to_owned(),
        format!("ENV PG_MAJOR={major} LANG=C.UTF-8"),
        format!(
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/{major}/bin"
        ),
    ];
    Recipe {
        name: "postgres",
        version,
        content: vec![root, format!("/usr/share/postgresql/{major}").into(), "/usr/share/zoneinfo".into()],
        major,
        without: &["llvmjit", "/bitcode/", "/man/", "/zoneinfo/right/"],
        entrypoint: include_str!("postgres.sh"),
        written: &[],
        account: ("postgres", 999),
        dirs: &["var/lib/postgresql", "var/lib/postgresql/data", "run/postgresql"],
        settings: settings.to_vec(),
    }
}

/// "mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for …"
fn mariadb() -> Recipe {
    let printed = tools::run("mariadbd", &["--version"]);
    let version = printed.split_whitespace().nth(2).and_then(|word| word.split('-').next());
    let version = version.expect("a version of MariaDB").to_owned();
    let programs = [
        "mariadbd",
        "mariadb",
        "mariadb-admin",
        "mariadb-dump",
        "mariadb-install-db",
        "my_print_defaults",
        "resolveip",
        "basename",
        "hostname",
        "uname",
        "tr",
    ];
    Recipe {
        name: "mariadb",
        major: series(&version),
        settings: vec![
            "ENTRYPOINT [\"docker-entrypoint.sh\"]".to_owned(),
            "CMD [\"mariadbd\"]".to_owned(),
            "EXPOSE 3306".to_owned(),
            "VOLUME /var/lib/mysql".to_owned(),
            format!("ENV LANG=C.UTF-8 MARIADB_VERSION=1:{version}"),
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ],
        version,
        content: [found(&programs), vec!["/usr/share/mysql".into(), "/usr/share/zoneinfo".into()]].concat(),
        without: &["/man/", "/zoneinfo/right/"],
        entrypoint: include_str!("mariadb.sh"),
        written: &[
            ("etc/mysql/my.cnf", "[mariadbd]\nskip-name-resolve\n!includedir /etc/mysql/conf.d/\n"),
            ("etc/mysql/conf.d/README.cnf", "# More options: files that end in .cnf\n"),
        ],
        account: ("mysql", 999),
        dirs: &["var/lib/mysql", "run/mysqld"],
    }
}

/// "/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"
fn mysql() -> Recipe {
    let prefix = tools::mysql().expect("MySQL (scripts/matrix install mysql-sid)");
    let printed = tools::run(prefix.join("sbin/mysqld"), &["--no-defaults", "--version"]);
    let version = printed.split("Ver ").nth(1).and_then(|rest| rest.split(['-', ' ']).next());
    let version = version.expect("a version of MySQL").to_owned();
    let (sbin, bin) = (prefix.join("sbin"), prefix.join("bin"));
    Recipe {
        name: "mysql",
        major: series(&version),
        settings: vec![
            "ENTRYPOINT [\"docker-entrypoint.sh\"]".to_owned(),
            "CMD [\"mysqld\"]".to_owned(),
            "EXPOSE 3306".to_owned(),
            "VOLUME /var/lib/mysql".to_owned(),
            format!("ENV LANG=C.UTF-8 MYSQL_VERSION={version}-1.el9"),
            format!(
                "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}:{}",
                sbin.display(),
                bin.display()
            ),
        ],
        version,
        // They look for their own loader and libraries where they were unpacked, by this link.
        content: vec![
            sbin.join("mysqld"),
            bin.join("mysql"),
            prefix.join("share/mysql"),
            prefix.with_file_name("lib"),
            "/usr/share/zoneinfo".into(),
        ],
        without: &["/gconv/", "/perl", "/mysql/plugin/", "/systemd/", "/zoneinfo/right/"],
        entrypoint: include_str!("mysql.sh"),
        written: &[(
            "etc/mysql/my.cnf",
            "[mysqld]\nskip-name-resolve\ndatadir=/var/lib/mysql\nsocket=/run/mysqld/mysqld.sock\nmysqlx=OFF\n\
             [client]\nsocket=/run/mysqld/mysqld.sock\n",
        )],
        account: ("mysql", 999),
        dirs: &["var/lib/mysql", "var/lib/mysql-files", "run/mysqld"],
    }
}

/// "Redis server v=7.0.15 sha=…"
fn redis() -> Recipe {
    let printed = tools::run("redis-server", &["--version"]);
    let version = printed.split_whitespace().find_map(|word| word.strip_prefix("v="));
    let version = version.expect("a version of Redis").to_owned();
    Recipe {
        name: "redis",
        major: series(&version),
        settings: vec![
            "ENTRYPOINT [\"docker-entrypoint.sh\"]".to_owned(),
            "CMD [\"redis-server\"]".to_owned(),
            "EXPOSE 6379".to_owned(),
            "VOLUME /data".to_owned(),
            "WORKDIR /data".to_owned(),
            format!("ENV REDIS_VERSION={version}"),
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ],
        version,
        content: found(&["redis-server", "redis-cli", "redis-check-aof", "redis-check-rdb"]),
        without: &[],
        entrypoint: include_str!("redis.sh"),
        written: &[],
        account: ("redis", 999),
        dirs: &["data"],
    }
}

/// The first two numbers of a version.
fn series(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn found(programs: &[&str]) -> Vec<PathBuf> {
    programs.iter().map(|name| tools::find(name).unwrap_or_else(|| panic!("{name} is not installed"))).collect()
}

impl Recipe {
    /// The tar of the whole image; made when it is not there.
    fn tar(&self) -> PathBuf {
        let files = self.files();
        let mut hasher = DefaultHasher::new();
        (self.entrypoint, self.written, self.account, self.dirs).hash(&mut hasher);
        for file in &files {
            let about = fs::symlink_metadata(file).expect("looking at a file");
            (file, about.len(), about.mtime(), about.mode()).hash(&mut hasher);
        }
        let kept = kept_in();
        let tar = kept.join(format!("{}-{}-{:016x}.tar", self.name, self.version, hasher.finish()));
        if !tar.exists() {
            fs::create_dir_all(&kept).expect("making the directory of the test images");
            self.build(&files, &tar);
        }
        tar
    }

    /// All files and links, each under its one true path.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        let roots =
            found(&TOOLS).into_iter().chain(self.content.iter().cloned()).chain(["/usr/lib/locale/C.utf8".into()]);
        roots.for_each(|root| self.add(&root, &mut files));
        for library in libraries(&files) {
            self.add(&library, &mut files);
        }
        files
    }

    fn add(&self, path: &Path, files: &mut BTreeSet<PathBuf>) {
        let (Some(dir), Some(name)) = (path.parent().and_then(|dir| dir.canonicalize().ok()), path.file_name()) else {
            return;
        };
        let path = dir.join(name);
        let about = fs::symlink_metadata(&path);
        let text = path.to_string_lossy();
        let Ok(about) = about.as_ref().map(fs::Metadata::file_type) else { return };
        if self.without.iter().any(|part| text.contains(part)) {
        } else if about.is_dir() {
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            inside.for_each(|entry| self.add(&entry.path(), files));
        } else if files.insert(path.clone()) && about.is_symlink() {
            let target = fs::read_link(&path).expect("reading a link");
            self.add(&dir.join(target), files);
        }
    }

    /// Written beside, then renamed: several tests may be at it at the same time.
    fn build(&self, files: &BTreeSet<PathBuf>, tar: &Path) {
        let dir = tempfile::tempdir_in(tar.parent().expect("a directory")).expect("a temporary directory");
        let root = dir.path().join("root");
        self.lay_out(&root);
        let list = dir.path().join("files");
        let names: Vec<String> = files.iter().map(|file| file.to_string_lossy()[1..].to_owned()).collect();
        fs::write(&list, names.join("\n")).expect("writing a list of files");
        let made = dir.path().join("tar");
        let mut pack = Command::new(tools::find("tar").expect("tar"));
        pack.args(["--create", "--numeric-owner", "--sort=name", "--hard-dereference", "--file"]).arg(&made);
        pack.arg("-C").arg(&root).arg(".").args(["-C", "/", "--no-recursion", "--verbatim-files-from", "--files-from"]);
        let output = pack.arg(&list).output().expect("starting tar");
        assert!(output.status.success(), "packing an image: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&made, tar).expect("naming an image");
        let older = fs::read_dir(tar.parent().expect("a directory")).into_iter().flatten().flatten();
        let start = format!("{}-", self.name);
        let is_older = |path: &PathBuf| {
            path != tar && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start))
        };
        older.map(|entry| entry.path()).filter(is_older).for_each(|path| drop(fs::remove_file(path)));
    }

    /// What the image has besides files of packages.
    fn lay_out(&self, root: &Path) {
        let (name, id) = self.account;
        let dir = |path: &str, mode: u32, owner: u32| {
            let path = root.join(path);
            fs::create_dir_all(&path).expect("making a directory");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("opening a directory");
            std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("giving a directory away");
        };
        for path in ["", "etc", "usr", "usr/local", "usr/local/bin", "var", "var/lib", "run", "root", "home"] {
            dir(path, 0o755, 0);
        }
        for path in ["proc", "sys", "dev", "docker-entrypoint-initdb.d"] {
            dir(path, 0o755, 0);
        }
        dir("tmp", 0o1777, 0);
        self.dirs.iter().for_each(|path| dir(path, if path.starts_with("run/") { 0o3777 } else { 0o700 }, id));
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).expect("making a link");
        }
        symlink("../run", root.join("var/run")).expect("making a link");
        let accounts = format!(
            "root:x:0:0:root:/root:/bin/bash\n{name}:x:{id}:{id}::/var/lib/{name}:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n"
        );
        let groups = format!("root:x:0:\n{name}:x:{id}:\nnogroup:x:65534:\n");
        let own = [
            ("etc/passwd", accounts.as_str(), 0o644),
            ("etc/group", groups.as_str(), 0o644),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644),
            ("usr/local/bin/docker-entrypoint.sh", self.entrypoint, 0o755),
        ];
        for (path, text, mode) in own.into_iter().chain(self.written.iter().map(|(path, text)| (*path, *text, 0o644))) {
            dir(path.rsplit_once('/').expect("a path with a directory").0, 0o755, 0);
            fs::write(root.join(path), text).expect("writing a file");
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).expect("opening a file");
        }
    }
}

/// What programs and libraries are linked with.
fn libraries(files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let linked = |path: &&PathBuf| {
        let mut magic = [0; 4];
        fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic)).is_ok()
            && magic == *b"\x7fELF"
    };
    let ldd = Command::new(tools::find("ldd").expect("ldd")).args(files.iter().filter(linked)).output();
    let printed = ldd.expect("starting ldd").stdout;
    // "	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" and "	/lib64/ld-linux-x86-64.so.2 (0x…)"
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    String::from_utf8_lossy(&printed).lines().filter(|line| line.starts_with('\t')).filter_map(path).collect()
}

/// Beside what cargo builds, wherever that is.
fn kept_in() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this test");
    let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    target.unwrap_or(&std::env::temp_dir()).join("test-images")
}
