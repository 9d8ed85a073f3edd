//! `serve`, `init`, `doctor`: the commands that can do without a running daemon.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use pando_api::{ClientError, InitRequest};
use pando_daemon::{DEFAULT_LISTEN, DEFAULT_PLUGIN, Local, Options, Plugin};
use pando_model::{DoctorView, ErrorKind};

use crate::context::{Context, ROOT_HOME, variable};
use crate::errors::{Done, Error};
use crate::{output, report, settings};

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The TCP address; only ones of this machine are taken
    #[arg(long, value_name = "ADDRESS", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Permission bits of the socket HOME/run/pando.sock
    #[arg(long, value_name = "OCTAL", default_value = "600", value_parser = mode)]
    socket_mode: u32,
    /// A directory with PostgreSQL's programs (postgres, pg_basebackup, …), looked at before the usual ones; may be
    /// repeated
    #[arg(long, value_name = "DIR", env = "PANDO_POSTGRES", hide_env_values = true, value_delimiter = ':')]
    postgres: Vec<PathBuf>,
    /// Where another series of MariaDB is installed (the directory with its bin, sbin and share), looked at before the
    /// usual ones; may be repeated
    #[arg(long, value_name = "DIR", env = "PANDO_MARIADB", hide_env_values = true, value_delimiter = ':')]
    mariadb: Vec<PathBuf>,
    /// A directory with a Redis or Valkey server's program, looked at before the usual ones; may be repeated
    #[arg(long, value_name = "DIR", env = "PANDO_REDIS", hide_env_values = true, value_delimiter = ':')]
    redis: Vec<PathBuf>,
    /// Where another series of MySQL is installed (the directory with its bin, sbin and share), looked at before the
    /// usual ones; may be repeated
    #[arg(long, value_name = "DIR", env = "PANDO_MYSQL", hide_env_values = true, value_delimiter = ':')]
    mysql: Vec<PathBuf>,
    /// The socket of the Docker or Podman engine for clones in containers [default: the first that is there]
    #[arg(long, value_name = "unix:///PATH", env = "DOCKER_HOST", hide_env_values = true)]
    engine: Option<String>,
    /// A directory with certificates of registries of images (DIR/HOST:PORT/ca.crt), looked at besides
    /// /etc/docker/certs.d and /etc/containers/certs.d; may be repeated
    #[arg(long, value_name = "DIR", env = "PANDO_REGISTRY_CERTS", hide_env_values = true, value_delimiter = ':')]
    registry_certs: Vec<PathBuf>,
    /// Serve the volume plugin of Docker and Podman, at this socket, whose name is the driver's [default:
    /// /run/docker/plugins/pando.sock; on by itself for root's home /var/lib/pando]
    #[arg(long, value_name = "PATH", num_args = 0..=1, env = "PANDO_VOLUME_PLUGIN", hide_env_values = true)]
    volume_plugin: Option<Option<PathBuf>>,
    /// Serve no volume plugin
    #[arg(long, conflicts_with = "volume_plugin")]
    no_volume_plugin: bool,
}

impl ServeArgs {
    /// A home of its own, such as a test's, takes the machine's plugin only when told.
    fn plugin(&self, home: &Path) -> io::Result<Plugin> {
        let usual = || PathBuf::from(DEFAULT_PLUGIN);
        Ok(match &self.volume_plugin {
            _ if self.no_volume_plugin => Plugin::No,
            Some(told) => Plugin::At(told.as_ref().map_or_else(|| Ok(usual()), std::path::absolute)?),
            None if home == Path::new(ROOT_HOME) => Plugin::IfFree(usual()),
            None => Plugin::No,
        })
    }
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// A directory on btrfs, or on another file system with reflinks, to use as pool
    #[arg(long, value_name = "PATH", conflicts_with = "size")]
    pool: Option<PathBuf>,
    /// Size of the image file that is made where no path is given, such as 20G
    #[arg(long, value_parser = settings::size)]
    size: Option<u64>,
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("{text:?} is not a mode such as 600 or 660"))
}

/// Runs the daemon in this process.
pub fn serve(context: &Context, args: &ServeArgs) -> Done {
    if context.elsewhere {
        return Err(Error::usage("serve runs a daemon here: it takes no --host", "unset PANDO_HOST"));
    }
    let options = Options {
        listen: args.listen,
        socket_mode: args.socket_mode,
        plugin: args.plugin(&context.home)?,
        log: variable("PANDO_LOG"),
        postgres: args.postgres.clone(),
        mariadb: args.mariadb.clone(),
        redis: args.redis.clone(),
        mysql: args.mysql.clone(),
        engine: args.engine.clone(),
        registry_certs: args.registry_certs.clone(),
        certificates: variable("SSL_CERT_FILE").map(PathBuf::from),
        fail_points: variable("PANDO_FAILPOINTS"),
        ..Options::of_home(&context.home)
    };
    Ok(pando_daemon::serve(&options)?)
}

/// Makes or adopts the pool: through the daemon when one runs, else here.
pub async fn init(context: &Context, args: &InitArgs) -> Done {
    let pool = args.pool.as_ref().map(std::path::absolute).transpose()?;
    let pool = pool.map(|pool| pool.into_os_string().into_string());
    let pool = pool.transpose().map_err(|_| Error::new(ErrorKind::Usage, "the path of a pool must be UTF-8"))?;
    let body = InitRequest { pool, size_bytes: args.size };
    let done = match context.client.init(&body).await {
        Err(error) if nobody_serves(context, &error) => here(context, move |local| local.init(body))?,
        answer => answer?,
    };
    told(context, &done)
}

/// Says what is there and what is missing.
pub async fn doctor(context: &Context) -> Done {
    let found = match context.client.doctor().await {
        Err(error) if nobody_serves(context, &error) => here(context, Local::doctor)?,
        answer => answer?,
    };
    told(context, &found)
}

/// Whether this process may take the home itself. A socket that is there but closed to us says no.
fn nobody_serves(context: &Context, error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => {
            !context.elsewhere && source.kind() != io::ErrorKind::PermissionDenied
        }
        _ => false,
    }
}

fn here(context: &Context, work: impl FnOnce(&Local) -> Result<DoctorView, pando_model::Problem>) -> Done<DoctorView> {
    let local =
        Local::open(&context.home, variable("PANDO_FAILPOINTS").as_deref(), variable("DOCKER_HOST").as_deref())?;
    let done = work(&local);
    local.close();
    output::note("no daemon runs on this home: pando serve starts it");
    Ok(done?)
}

fn told(context: &Context, found: &DoctorView) -> Done {
    context.print(found, report::doctor)?;
    if found.healthy {
        return Ok(());
    }
    output::note("something is missing; the lines above say what");
    Err(Error::Quiet(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal_and_has_nine_bits() {
        assert_eq!(mode("660"), Ok(0o660));
        for bad in ["", "999", "1777", "-1", "rw"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
