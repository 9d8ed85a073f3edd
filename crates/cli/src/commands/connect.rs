//! The ways to a clone's addresses: `env` prints them, `connect` uses them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use clap::Args;
use pando_model::{CloneState, CloneView, EngineKind, ErrorKind, Name, Problem, SourceUrl, SourceView};

use super::a_clone;
use crate::context::{Context, variable};
use crate::errors::{Done, Error};
use crate::{output, quote};

/// Arguments of `env`.
#[derive(Debug, Args)]
pub struct EnvArgs {
    /// The clone's name
    clone: Name,
}

/// Arguments of `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The clone's name
    clone: Name,
    /// One source of it; needed only when it is not clear which
    source: Option<Name>,
    /// What psql, mariadb, mysql, redis-cli or the shell is to be given
    #[arg(last = true, value_name = "ARG")]
    rest: Vec<OsString>,
}

/// Prints a clone's addresses, ready for a shell: `set -a; eval "$(pando env dev1)"`.
pub async fn env(context: &Context, args: &EnvArgs) -> Done {
    let clone = a_clone(context, &args.clone).await?;
    let (variables, claimed) = quote::variables(&clone);
    for variable in claimed {
        output::note(&format!("{variable} stands for two sources: only the first is printed"));
    }
    if clone.state != CloneState::Running {
        output::note(&format!("{} is {}: nobody answers there now", clone.name, clone.state));
    }
    let object: BTreeMap<&String, &String> = variables.iter().map(|(name, value)| (name, value)).collect();
    let lines = |_: &_| variables.iter().map(|(name, value)| format!("{name}={}\n", quote::shell(value))).collect();
    context.print(&object, lines)
}

/// What is to take this process' place.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    program: OsString,
    args: Vec<String>,
    env: BTreeMap<&'static str, String>,
    dir: Option<PathBuf>,
}

/// Opens a shell on a clone.
pub async fn connect(context: &Context, args: &ConnectArgs) -> Done {
    let clone = a_clone(context, &args.clone).await?;
    let (name, source) = which(&clone, args.source.as_ref())?;
    let plan = plan(&clone, name, source)?;
    Err(become_it(plan, &args.rest).into())
}

fn which<'a>(clone: &'a CloneView, asked: Option<&Name>) -> Done<(&'a Name, &'a SourceView)> {
    let names: Vec<&str> = clone.sources.keys().map(Name::as_str).collect();
    let hint = format!("pando connect {} SOURCE, where SOURCE is one of: {}", clone.name, names.join(", "));
    if let Some(asked) = asked {
        let missing = Problem::new(ErrorKind::NotFound, format!("{} has no source {asked}", clone.name)).hint(hint);
        return clone.sources.get_key_value(asked).ok_or_else(|| missing.into());
    }
    let mut databases = clone.sources.iter().filter(|(_, source)| source.engine != EngineKind::Files);
    match (databases.next(), databases.next(), clone.sources.iter().next()) {
        (Some(only), None, _) => Ok(only),
        (None, None, Some(only)) if clone.sources.len() == 1 => Ok(only),
        _ => Err(Error::usage(format!("{} has more than one source", clone.name), hint)),
    }
}

fn plan(clone: &CloneView, name: &Name, source: &SourceView) -> Done<Plan> {
    match source.engine {
        EngineKind::Files => {
            let dir = PathBuf::from(&source.path);
            if !dir.is_dir() {
                let problem = Problem::new(ErrorKind::Refused, format!("{} cannot be reached from here", source.path));
                return Err(problem.hint("files can be opened only on the machine that holds them").into());
            }
            let program = variable("SHELL").unwrap_or_else(|| "/bin/sh".to_owned()).into();
            Ok(Plan { program, args: Vec::new(), env: BTreeMap::new(), dir: Some(dir) })
        }
        EngineKind::Postgres | EngineKind::Mariadb | EngineKind::Mysql => {
            running(clone)?;
            // All of it goes through the environment: arguments show in the process list.
            if source.engine != EngineKind::Postgres {
                return mariadb(source).ok_or_else(|| no_address(clone, name));
            }
            let env = quote::libpq(source).ok_or_else(|| no_address(clone, name))?;
            Ok(Plan { program: "psql".into(), args: Vec::new(), env, dir: None })
        }
        EngineKind::Redis => {
            running(clone)?;
            let (args, env) = quote::redis(source).ok_or_else(|| no_address(clone, name))?;
            Ok(Plan { program: "redis-cli".into(), args, env, dir: None })
        }
        EngineKind::Toolkit | EngineKind::Sim => Err(no_address(clone, name)),
    }
}

fn running(clone: &CloneView) -> Done<()> {
    if clone.state == CloneState::Running {
        return Ok(());
    }
    let problem = Problem::new(ErrorKind::Refused, format!("{} is {}", clone.name, clone.state));
    Err(problem.hint(format!("pando start {}", clone.name)).into())
}

/// MariaDB's or MySQL's client, with the password in the environment.
fn mariadb(source: &SourceView) -> Option<Plan> {
    let url: SourceUrl = source.url.as_deref()?.parse().ok()?;
    let env = BTreeMap::from([("MYSQL_PWD", url.password.clone()?)]);
    let (host, port) = (url.host.clone()?, url.port?);
    let mut args = vec![format!("--host={host}"), format!("--port={port}"), format!("--user={}", url.user.clone()?)];
    let program = if source.engine == EngineKind::Mysql { "mysql" } else { "mariadb" };
    // Newer clients of MariaDB ask for TLS, which its clone on loopback has not. Those of MySQL use what there is.
    if source.engine == EngineKind::Mariadb {
        args.push("--skip-ssl-verify-server-cert".to_owned());
    }
    args.extend(url.database().map(|name| format!("--database={name}")));
    Some(Plan { program: program.into(), args, env, dir: None })
}

fn no_address(clone: &CloneView, name: &Name) -> Error {
    let problem = Problem::new(ErrorKind::Refused, format!("{}/{name} has no address to connect to", clone.name));
    if clone.volumes.is_empty() {
        return problem.hint(format!("pando env {} prints what there is", clone.name)).into();
    }
    problem
        .hint("its server runs in a container of yours: docker exec, or the address that your project gives it")
        .into()
}

/// Gives this process to the program; comes back only when that failed.
#[allow(clippy::disallowed_types, reason = "host::Tool cleans the environment, and this program is the user's own")]
fn become_it(plan: Plan, rest: &[OsString]) -> Problem {
    let mut command = std::process::Command::new(&plan.program);
    command.args(&plan.args).args(rest).envs(&plan.env);
    if let Some(dir) = &plan.dir {
        command.current_dir(dir);
    }
    let error = command.exec();
    let program = plan.program.to_string_lossy().into_owned();
    let mut problem = Problem::new(ErrorKind::Failed, format!("{program} could not be started"));
    problem.causes.push(error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound if program == "psql" => problem.hint("apt-get install postgresql-client"),
        io::ErrorKind::NotFound if program == "redis-cli" => problem.hint("apt-get install redis-tools"),
        io::ErrorKind::NotFound if program == "mysql" => {
            problem.hint("apt-get install mysql-client-core, or mariadb-client")
        }
        io::ErrorKind::NotFound if program == "mariadb" => problem.hint("apt-get install mariadb-client"),
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clone(state: &str, sources: serde_json::Value) -> CloneView {
        serde_json::from_value(serde_json::json!({
            "name": "dev1", "id": "clone-0123456789abcdef", "app": "shop", "parent": "shop",
            "moment": "2026-11-21T10:00:00Z", "asked": "latest", "snapshot": null, "profile": "disposable",
            "record": false, "state": state, "lease_until": null, "created_at": "2026-11-21T10:00:00Z",
            "sources": sources, "timing": {"storage_ms": 1, "ready_ms": 2}, "unique_bytes": null,
            "unique_is_estimate": false
        }))
        .expect("a clone")
    }

    fn database() -> serde_json::Value {
        serde_json::json!({"engine": "postgres", "path": "/p", "url": "postgres://u:p%40w@127.0.0.1:5444/shop",
            "host": "127.0.0.1", "port": 5444})
    }

    fn planned(clone: &CloneView, asked: Option<&str>) -> Done<Plan> {
        let asked: Option<Name> = asked.map(|asked| asked.parse().expect("name"));
        let (name, source) = which(clone, asked.as_ref())?;
        plan(clone, name, source)
    }

    #[test]
    fn a_database_is_opened_with_psql_and_its_password_in_the_environment() {
        let clone = clone("running", serde_json::json!({"db": database(), "up": {"engine": "files", "path": "/"}}));
        let plan = planned(&clone, None).expect("planned");
        assert_eq!(plan.program, "psql");
        assert_eq!(plan.env.get("PGPASSWORD").map(String::as_str), Some("p@w"));
        assert_eq!(plan.env.get("PGPORT").map(String::as_str), Some("5444"));
        assert_eq!(planned(&clone, Some("up")).expect("planned").dir, Some("/".into()));
    }

    #[test]
    fn a_redis_is_opened_with_its_password_in_the_environment() {
        let source = serde_json::json!({"engine": "redis", "path": "/p", "url": "redis://pando:pw@127.0.0.1:6444/2",
            "host": "127.0.0.1", "port": 6444});
        let plan = planned(&clone("running", serde_json::json!({"q": source})), None).expect("planned");
        assert_eq!(plan.program, "redis-cli");
        assert_eq!(plan.args, ["-h", "127.0.0.1", "-p", "6444", "-n", "2", "--user", "pando"]);
        assert_eq!(plan.env.get("REDISCLI_AUTH").map(String::as_str), Some("pw"));
    }

    #[test]
    fn a_mariadb_server_is_opened_with_its_client_and_the_password_in_the_environment() {
        let url = "mariadb://pando:p%40w@127.0.0.1:5445/blog";
        let clone = clone("running", serde_json::json!({"db": {"engine": "mariadb", "path": "/p", "url": url}}));
        let plan = planned(&clone, None).expect("planned");
        assert_eq!(
            (plan.program.to_str(), plan.env.get("MYSQL_PWD").map(String::as_str)),
            (Some("mariadb"), Some("p@w"))
        );
        assert_eq!(
            plan.args,
            ["--host=127.0.0.1", "--port=5445", "--user=pando", "--skip-ssl-verify-server-cert", "--database=blog"]
        );
    }

    #[test]
    fn a_mysql_server_is_opened_with_its_own_client() {
        let url = "mysql://pando:pw@127.0.0.1:5446/blog";
        let clone = clone("running", serde_json::json!({"db": {"engine": "mysql", "path": "/p", "url": url}}));
        let plan = planned(&clone, None).expect("planned");
        assert_eq!(plan.program, "mysql");
        assert_eq!(plan.args, ["--host=127.0.0.1", "--port=5446", "--user=pando", "--database=blog"]);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let two = clone("running", serde_json::json!({"a": database(), "b": database()}));
        assert_eq!(planned(&two, None).expect_err("unclear").code(), 2);
        assert_eq!(planned(&two, Some("c")).expect_err("missing").code(), 3);
        let stopped = clone("stopped", serde_json::json!({"db": database()}));
        assert_eq!(planned(&stopped, None).expect_err("stopped").code(), 4);
        let gone = clone("running", serde_json::json!({"up": {"engine": "files", "path": "/no/such"}}));
        assert_eq!(planned(&gone, None).expect_err("elsewhere").code(), 4);
    }
}
