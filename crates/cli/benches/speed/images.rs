//! Data in a container, each way to the first answer and the first write: a dump that is restored at the first start
//! (what people do first), data baked into an image, the same where the image declares its data as a volume, which the
//! engine then copies, and a volume of Pando's.

use std::path::Path;
use std::time::Duration;

use pando_testkit::{Daemon, Docker, Image, wait_until};

use super::rig::{self, Table};

/// All ways on one production.
pub fn measure(table: &mut Table, scale: u32) {
    let Some(docker) = Docker::start() else { return };
    let server = docker.image(Image::Postgres);
    let production = rig::production(scale, &["fsync = off"]);
    let bytes = rig::size(rig::bytes(&production));
    // Docker looks for drivers there alone; the file's name is the driver's.
    let driver = format!("pando-speed-{}", std::process::id());
    let socket = Path::new("/run/docker/plugins").join(format!("{driver}.sock"));
    let dir = tempfile::tempdir().expect("a directory");
    let env = [("DOCKER_HOST", docker.host()), ("PANDO_VOLUME_PLUGIN", socket.display().to_string())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let daemon = rig::prepared(Daemon::start_with(Path::new(env!("CARGO_BIN_EXE_pando")), &env));
    rig::link(&daemon, &production, &[]);
    let (took, built) = rig::timed(|| daemon.pando_json(&["image", "build", "shop", "shop:1"]));
    let new = built["new_bytes"].as_u64().unwrap_or(0);
    table.row(&format!("`image build` of {bytes}, {} of layers", rig::size(new)), &seconds(took), "", "", "");
    production.psql_in("shop", "UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1");
    let (took, next) = rig::timed(|| daemon.pando_json(&["image", "build", "shop@now", "shop:2"]));
    let of = |key: &str| rig::size(next[key].as_u64().unwrap_or(0));
    let words = format!(
        "the next, one row changed: {} of layers for {} in files of {}",
        of("new_bytes"),
        of("changed_bytes"),
        of("changed_file_bytes")
    );
    table.row(&words, &seconds(took), "", "", "");
    docker.build("FROM shop:1\nVOLUME /var/lib/postgresql/data\n", "declared:1");

    let dump = dir.path().join("dump.sql");
    let sockets = production.sockets().display().to_string();
    let port = production.port().to_string();
    let args = ["-h", &sockets, "-p", &port, "-U", "boss", "--no-owner", "-f", &dump.display().to_string(), "shop"];
    pando_testkit::tools::run(production.bin().join("pg_dump"), &args);
    let restored = format!("type=bind,source={},target=/docker-entrypoint-initdb.d/dump.sql", dump.display());
    let volume =
        format!("type=volume,source=one,target=/var/lib/postgresql/data,volume-driver={driver},volume-opt=from=shop");
    for (what, image, options) in [
        (
            "peer: a dump restored at the first start",
            server.as_str(),
            vec!["--mount", &restored, "-e", "POSTGRES_DB=shop"],
        ),
        ("data in an image", "shop:1", vec![]),
        ("peer: data in an image that declares a volume there", "declared:1", vec![]),
        ("a volume of Pando's", server.as_str(), vec!["--mount", &volume]),
    ] {
        let (first, write) = first_answer_and_write(&docker, image, &options);
        let pando = format!("{} to the first answer, {} for the first write", seconds(first), seconds(write));
        table.row(&format!("{what}, {bytes}"), &pando, "", "", "");
    }
    docker.run(&["volume", "rm", "one"]);
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

/// Runs a container, and says how long its first answer and then its first write took. It is gone afterwards.
fn first_answer_and_write(docker: &Docker, image: &str, options: &[&str]) -> (Duration, Duration) {
    let run = ["run", "-d", "--network", "none", "--name", "measured", "-e", "POSTGRES_PASSWORD=x"];
    // While a dump is being restored only the socket answers.
    let ask = |sql: &str| {
        let user = if options.iter().any(|option| option.contains("initdb")) { "postgres" } else { "boss" };
        let script =
            format!("psql -h 127.0.0.1 -U {user} -d shop -AtXc \"{sql}\" || psql -U boss -d shop -AtXc \"{sql}\"");
        docker.output(&["exec", "-e", "PGPASSWORD=x", "measured", "sh", "-c", &script]).status.success()
    };
    let (first, answered) = rig::timed(|| {
        docker.run(&[&run[..], options, &[image]].concat());
        wait_until(Duration::from_secs(600), || ask("SELECT count(*) FROM pgbench_branches"))
    });
    assert!(answered, "{image}: {}", docker.run(&["logs", "measured"]));
    let (write, written) = rig::timed(|| ask("UPDATE pgbench_accounts SET abalance = 2 WHERE aid = 1"));
    assert!(written, "{image}: {}", docker.run(&["logs", "measured"]));
    docker.run(&["rm", "--force", "--volumes", "measured"]);
    (first, write)
}
