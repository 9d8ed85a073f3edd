//! The rule for a test that needs a program: in CI a missing one fails the test, elsewhere the test says
//! that it was skipped and what would help. A test never passes in silence without having run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Programs that tests need, with Debian's package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("btrfs", "btrfs-progs"),
    ("catatonit", "catatonit"),
    ("cc", "gcc"),
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("faketime", "faketime"),
    ("filefrag", "e2fsprogs"),
    ("getfacl", "acl"),
    ("getfattr", "attr"),
    ("hostname", "hostname"),
    ("initdb", "postgresql"),
    ("ip", "iproute2"),
    ("losetup", "mount"),
    ("mariadb", "mariadb-client"),
    ("mariadb-backup", "mariadb-backup"),
    ("mariadb-install-db", "mariadb-server-core"),
    ("mariadbd", "mariadb-server-core"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mount", "mount"),
    ("newgidmap", "uidmap"),
    ("newuidmap", "uidmap"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("pgbackrest", "pgbackrest"),
    ("podman", "podman"),
    ("php", "php-cli"),
    ("python3", "python3 python3-yaml"),
    ("redis-server", "redis-server"),
    ("rsync", "rsync"),
    ("setfacl", "acl"),
    ("setfattr", "attr"),
    ("ssh", "openssh-client"),
    ("sshd", "openssh-server"),
];

/// Whether a program is there: by its name, or by the first name that is found.
///
/// # Panics
/// When it is missing and the variable `CI` is set.
#[must_use]
pub fn require(name: &str) -> bool {
    let found = if name == "initdb" { newest_postgres().is_some() } else { find(name).is_some() };
    found || lack(name)
}

/// Whether this process is root. Where it is not, says that the test was skipped.
#[must_use]
pub fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED test: needs root");
    }
    root
}

/// User and group of an account that is not root, as `/etc/passwd` has it.
///
/// # Panics
/// When there is none.
pub fn somebody() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("reading /etc/passwd");
    let line = |name: &str| passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).map(str::to_owned);
    let line = line("postgres").or_else(|| line("nobody")).expect("an account that is not root");
    let mut ids = line.split(':').skip(2).map_while(|field| field.parse().ok());
    (ids.next().expect("a user's number"), ids.next().expect("a group's number"))
}

/// Whether this machine has a locale, named as `locale -a` names it.
///
/// # Panics
/// When it has not and the variable `CI` is set.
pub fn require_locale(name: &str) -> bool {
    let listed = output(Path::new("locale"), &["-a"]);
    String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == name)
        || skip(&format!("the locale {name} (localedef -i de_DE -f UTF-8 de_DE.UTF-8)"))
}

/// Skips a test by the same rule, for another reason than a program.
///
/// # Panics
/// When the variable `CI` is set.
pub fn skip(needs: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "this test needs {needs}, and in CI nothing is skipped");
    eprintln!("SKIPPED test: needs {needs}");
    false
}

fn lack(name: &str) -> bool {
    let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(name, |(_, package)| package);
    skip(&format!("{name} (apt-get install {package})"))
}

/// The absolute path of a program.
pub fn find(name: &str) -> Option<PathBuf> {
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    usual.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The program directories of all installed PostgreSQL servers, oldest first.
pub fn all_postgres() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// The program directory of the newest installed PostgreSQL server.
pub fn newest_postgres() -> Option<PathBuf> {
    all_postgres().pop()
}

/// The prefixes of the MariaDB servers that are here, by series: this machine's own, and those that `scripts/matrix`
/// brought, which PANDO_MARIADB names.
///
/// # Panics
/// When a server does not say its version.
pub fn all_mariadb() -> BTreeMap<String, PathBuf> {
    let more = std::env::var("PANDO_MARIADB").unwrap_or_default();
    std::iter::once(PathBuf::from("/usr"))
        .chain(more.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from))
        .filter(|prefix| prefix.join("sbin/mariadbd").is_file())
        .map(|prefix| {
            let text = run(prefix.join("sbin/mariadbd"), &["--no-defaults", "--version"]);
            let version = text.split("Ver ").nth(1).expect("a version");
            let series: Vec<&str> = version.split('.').take(2).collect();
            (series.join("."), prefix)
        })
        .collect()
}

/// The prefix of the MySQL server that `scripts/matrix` brought, which PANDO_MYSQL names: Debian's releases have none.
pub fn mysql() -> Option<PathBuf> {
    let named = std::env::var("PANDO_MYSQL").unwrap_or_default();
    named.split(':').map(PathBuf::from).find(|prefix| prefix.join("sbin/mysqld").is_file())
}

/// Whether it is there.
///
/// # Panics
/// When it is missing and the variable `CI` is set.
#[must_use]
pub fn require_mysql() -> bool {
    mysql().is_some() || skip("MySQL (scripts/matrix install mysql-sid; PANDO_MYSQL=$(scripts/matrix dirs mysql))")
}

/// Runs a program to its end and hands back its output.
///
/// # Panics
/// When it cannot be started or fails.
pub fn run(program: impl AsRef<Path>, args: &[&str]) -> String {
    let output = output(program.as_ref(), args);
    assert!(
        output.status.success(),
        "{} {args:?} failed: {}",
        program.as_ref().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end, however it ends.
///
/// # Panics
/// When it cannot be started.
pub fn output(program: &Path, args: &[&str]) -> Output {
    let path = if program.is_absolute() {
        program.to_owned()
    } else {
        find(&program.to_string_lossy()).unwrap_or_else(|| panic!("{} is not installed", program.display()))
    };
    Command::new(path).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output().expect("starting a program")
}
