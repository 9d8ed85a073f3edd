//! The life of the daemon, from the lock to the last operation.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pando_api::socket_path;
use pando_host::FailPoints;
use pando_host::process::end_soon;
use pando_host::secret::Secret;
use pando_model::{ErrorKind, Problem};
use pando_operations::{Around, Pando};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing_subscriber::EnvFilter;

use crate::guard::{guarded, limited};
use crate::home::HomeLock;
use crate::listen::{accept, bind_tcp};
use crate::plugin;
use crate::routes::router;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7117);

/// Whether, and where, the volume plugin is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugin {
    /// Nowhere.
    No,
    /// Here, unless another daemon does: then this one goes on without.
    IfFree(PathBuf),
    /// Here.
    At(PathBuf),
}

/// How a daemon is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it serves.
    pub home: PathBuf,
    /// Its TCP address; a loopback one.
    pub listen: SocketAddr,
    /// Permission bits of its socket.
    pub socket_mode: u32,
    /// What is logged, as `tracing` filters (`info`, `pando_operations=debug`).
    pub log: Option<String>,
    /// Directories with PostgreSQL's programs, looked at before the usual ones.
    pub postgres: Vec<PathBuf>,
    /// Prefixes of MariaDB installations, looked at before the usual ones.
    pub mariadb: Vec<PathBuf>,
    /// Directories with programs of Redis and Valkey, likewise.
    pub redis: Vec<PathBuf>,
    /// Prefixes of MySQL installations, looked at before the usual ones.
    pub mysql: Vec<PathBuf>,
    /// The Docker or Podman engine that containers run in, as `DOCKER_HOST` says it; sought when absent.
    pub engine: Option<String>,
    /// Directories with certificates of registries of images, looked at besides the usual ones.
    pub registry_certs: Vec<PathBuf>,
    /// The system's certificates, where they lie elsewhere than usual.
    pub certificates: Option<PathBuf>,
    /// Fail points to arm, for tests.
    pub fail_points: Option<String>,
    /// The volume plugin of Docker and Podman.
    pub plugin: Plugin,
}

impl Options {
    /// The usual ones for a home.
    pub fn of_home(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            listen: DEFAULT_LISTEN,
            socket_mode: 0o600,
            log: None,
            postgres: Vec::new(),
            mariadb: Vec::new(),
            redis: Vec::new(),
            mysql: Vec::new(),
            engine: None,
            registry_certs: Vec::new(),
            certificates: None,
            fail_points: None,
            plugin: Plugin::No,
        }
    }
}

/// Runs the daemon until SIGTERM or SIGINT. A second signal ends it at once: the next daemon recovers.
///
/// # Errors
/// When the home is taken or cannot be opened, an address is taken, or the mirrors' thread died.
pub fn serve(options: &Options) -> Result<(), Problem> {
    log_to_stderr(options.log.as_deref())?;
    let fail = fail_points(options.fail_points.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::from_error(ErrorKind::Failed, &error))?;
    let outcome = runtime.block_on(live(options, fail));
    // A long poll may still sit in a thread; nobody waits for its answer any more.
    runtime.shutdown_background();
    outcome
}

/// Fail points from a text such as `clone.volume.after=kill`; none from none.
///
/// # Errors
/// Usage, when a part cannot be read.
pub(crate) fn fail_points(text: Option<&str>) -> Result<FailPoints, Problem> {
    let fail = FailPoints::default();
    match text.filter(|text| !text.is_empty()).map(|text| fail.arm_from(text)) {
        Some(Err(entry)) => Err(Problem::new(ErrorKind::Usage, format!("{entry:?} is not a fail point"))),
        _ => Ok(fail),
    }
}

fn log_to_stderr(filter: Option<&str>) -> Result<(), Problem> {
    static ONCE: OnceLock<()> = OnceLock::new();
    let filter = EnvFilter::try_new(filter.unwrap_or("info"))
        .map_err(|error| Problem::from_error(ErrorKind::Usage, &error).hint("PANDO_LOG takes info, debug or a list"))?;
    ONCE.get_or_init(|| {
        // Fails only where a program that embeds the daemon has set its own.
        let _ = tracing_subscriber::fmt()
            .with_writer(io::stderr)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .with_env_filter(filter)
            .try_init();
    });
    Ok(())
}

async fn live(options: &Options, fail: FailPoints) -> Result<(), Problem> {
    let mut signals = Signals::new()?;
    let lock = HomeLock::take(&options.home)?;
    let tcp = bind_tcp(options.listen).await?;
    let unix = lock.bind(&options.home, options.socket_mode)?;
    let outcome = open_and_run(options, fail, tcp, unix, &mut signals).await;
    if let Err(error) = std::fs::remove_file(socket_path(&options.home)) {
        tracing::debug!(%error, "the socket was not removed");
    }
    outcome
}

async fn open_and_run(
    options: &Options,
    fail: FailPoints,
    tcp: TcpListener,
    unix: UnixListener,
    signals: &mut Signals,
) -> Result<(), Problem> {
    let home = options.home.clone();
    let around = Around {
        postgres: options.postgres.clone(),
        mariadb: options.mariadb.clone(),
        redis: options.redis.clone(),
        mysql: options.mysql.clone(),
        engine: options.engine.clone(),
        registry_certs: options.registry_certs.clone(),
        certificates: options.certificates.clone(),
    };
    let pando = off_thread(move || Pando::open(&home, fail, &around)).await?;
    let (told, stop) = watch::channel(false);
    let mut loops = Vec::new();
    let mut plugin_socket = None;
    // First of all: what was under way may have to stop containers, whose engine looks at their volumes before.
    if let Some((listener, socket)) = bind_plugin(&options.plugin)? {
        loops.push(tokio::spawn(accept(listener, plugin::router(pando.clone()), stop.clone())));
        plugin_socket = Some(socket);
    }
    let recovering = pando.clone();
    let recovered = off_thread(move || {
        recovering.recover()?;
        Ok(Secret::new(recovering.token()?))
    });
    let token = tokio::select! {
        token = recovered => token?,
        // Undoing may have to ask production. What is not at its end now is begun again by the next daemon.
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: what was under way is recovered at the next start");
            return Ok(());
        }
    };
    announce(&options.home, &tcp);
    let calls = limited(router(pando.clone(), options.home.display().to_string()));
    loops.push(tokio::spawn(accept(unix, calls.clone(), stop.clone())));
    loops.push(tokio::spawn(accept(tcp, guarded(calls, token), stop)));
    let died = keep_running(pando.clone())?;
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping: running operations are finished or undone, units go on");
            Ok(())
        }
        _ = died => Err(Problem::new(ErrorKind::Failed, "the thread that follows the mirrors ended")
            .hint("the log above says why; start the daemon again")),
    };
    // Its file goes first: an engine that comes now finds nobody, instead of waiting for an answer.
    drop(plugin_socket);
    let _ = told.send(true);
    tokio::select! {
        ended = off_thread(move || { end_soon(); pando.stop(); Ok(()) }) => ended?,
        _ = signals.next() => return Err(Problem::new(ErrorKind::Failed, "stopped at once by a second signal")
            .hint("unfinished operations are recovered when the daemon starts again")),
    }
    for ended in loops {
        let _ = ended.await;
    }
    outcome
}

fn bind_plugin(plugin: &Plugin) -> Result<Option<(UnixListener, plugin::Socket)>, Problem> {
    let bound = match plugin {
        Plugin::No => return Ok(None),
        Plugin::At(path) => plugin::bind(path).map_err(|problem| (problem, true)),
        Plugin::IfFree(path) => plugin::bind(path).map_err(|problem| (problem, false)),
    };
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err((problem, true)) => Err(problem),
        Err((problem, false)) => {
            tracing::info!(%problem, "no volume plugin here");
            Ok(None)
        }
    }
}

fn announce(home: &Path, tcp: &TcpListener) {
    let tcp = tcp.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    let socket = socket_path(home);
    tracing::info!(home = %home.display(), socket = %socket.display(), tcp, version = env!("CARGO_PKG_VERSION"), "pando serves");
}

/// Runs the facade's own loop in a thread; what comes back answers when that loop has ended.
fn keep_running(pando: Pando) -> Result<oneshot::Receiver<()>, Problem> {
    let (alive, died) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("pando-run".to_owned())
        .spawn(move || {
            let _alive = alive;
            pando.run();
        })
        .map_err(|error| Problem::from_error(ErrorKind::Failed, &error))?;
    Ok(died)
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    crate::answer::blocking(work).await.map_err(|failure| failure.problem)
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Self, Problem> {
        let listen = |kind| signal(kind).map_err(|error| Problem::from_error(ErrorKind::Failed, &error));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_points_are_read_or_refused() {
        assert!(fail_points(None).is_ok());
        assert!(fail_points(Some("a.b.before=error")).is_ok_and(|fail| fail.pass("a.b.before").is_err()));
        assert!(fail_points(Some("nonsense")).is_err_and(|problem| problem.kind == ErrorKind::Usage));
    }

    #[test]
    fn a_log_filter_that_cannot_be_read_is_wrong_usage() {
        assert!(log_to_stderr(Some("pando=nonsense")).is_err_and(|problem| problem.kind == ErrorKind::Usage));
    }
}
