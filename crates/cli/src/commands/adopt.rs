//! `adopt`: what a Docker volume or a container's directory holds becomes an app. The container goes on as it is:
//! its data is mirrored like any directory.
//!
//! Docker is asked by its own program, so that contexts and `DOCKER_HOST` mean here what they mean there.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use pando_host::{Tool, ToolError};
use pando_model::{ErrorKind, LinkRequest, LinkSource, Name, Problem};
use serde::Deserialize;
use serde_json::Value;

use super::reader;
use crate::args::Detach;
use crate::context::Context;
use crate::errors::{Done, Error};

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The app's name
    app: Name,
    /// A volume's name, or a container's and a path in it: uploads, web:/var/www/html
    #[arg(value_name = "[NAME=]VOLUME|CONTAINER:/PATH", required = true)]
    sources: Vec<String>,
    /// A pattern of files to leave out, as rsync reads it
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    #[command(flatten)]
    detach: Detach,
}

/// What marks the data directory of a server, and how such a server is linked.
const SERVERS: [(&str, &str); 5] = [
    ("PG_VERSION", "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
    ("mysql.ibd", "mysql://USER:PASSWORD@HOST:PORT/DATABASE"),
    ("ibdata1", "mariadb://USER:PASSWORD@HOST:PORT/DATABASE"),
    ("appendonlydir", "redis://:PASSWORD@HOST:PORT/0"),
    ("dump.rdb", "redis://:PASSWORD@HOST:PORT/0"),
];

/// Links what volumes and containers hold.
pub async fn adopt(context: &Context, args: AdoptArgs) -> Done {
    if context.elsewhere {
        return Err(Error::usage("volumes are those of this machine, and --host names another", "leave --host out"));
    }
    let mut sources = Vec::new();
    for text in &args.sources {
        let (name, what) = match text.split_once('=') {
            Some((name, what)) => (Some(name.parse().map_err(Error::from)?), what),
            None => (None, text.as_str()),
        };
        let path = place(what)?;
        refuse_servers(what, &path)?;
        sources.push(LinkSource { name, url: url_of(&path)?, exclude: args.exclude.clone(), image: None });
    }
    let policy = None;
    let body =
        LinkRequest { app: args.app, sources, policy, set: Default::default(), edits: Vec::new(), hooks: Vec::new() };
    let Some(ended) = context.finish(context.client.link(&body).await?, args.detach).await? else { return Ok(()) };
    let shown = context.client.show(&ended.subject).await?;
    context.print(&shown, |shown| reader(context).show(shown))
}

/// Where a volume, or a directory of a container, lies on this machine.
fn place(what: &str) -> Done<PathBuf> {
    match what.split_once(':') {
        Some((container, path)) => mounted(container, Path::new(path)),
        None => volume(what),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    driver: String,
    mountpoint: PathBuf,
}

fn volume(name: &str) -> Done<PathBuf> {
    let found: Volume = inspect("volume", name)?;
    if found.driver == "pando" {
        let problem = Problem::new(ErrorKind::Refused, format!("{name} is a volume of Pando's already"));
        return Err(problem.hint("pando ls shows it").into());
    }
    Ok(found.mountpoint)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    source: PathBuf,
    destination: PathBuf,
}

/// The deepest mount of the container that the path lies in: what is not mounted dies with the container.
fn mounted(container: &str, path: &Path) -> Done<PathBuf> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::usage(
            format!("{} is not an absolute path", path.display()),
            "for example web:/var/www/html",
        ));
    }
    let found: Value = inspect("container", container)?;
    let mounts: Vec<Mount> = serde_json::from_value(found["Mounts"].clone())?;
    let within = |mount: &Mount| Some((mount.source.clone(), path.strip_prefix(&mount.destination).ok()?.to_owned()));
    let deepest = mounts.iter().filter_map(within).min_by_key(|(_, rest)| rest.components().count());
    let (source, rest) = deepest.ok_or_else(|| {
        let known: Vec<String> = mounts.iter().map(|mount| mount.destination.display().to_string()).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
        let text = format!("{} of {container} lies in no volume", path.display());
        Error::from(Problem::new(ErrorKind::Refused, text).hint(known))
    })?;
    Ok(if rest.as_os_str().is_empty() { source } else { source.join(rest) })
}

/// What `docker KIND inspect NAME` says.
fn inspect<T: serde::de::DeserializeOwned>(kind: &str, name: &str) -> Done<T> {
    let docker = Tool::find("docker", "docker.io").map_err(|error| broken(kind, name, &error))?;
    let command = docker.command().inherit("HOME").inherit("DOCKER_HOST").inherit("DOCKER_CONFIG");
    let asked = command.args([kind, "inspect", "--format", "{{json .}}", "--", name]).run();
    let answer = asked.map_err(|error| match &error {
        ToolError::Failed { stderr, .. } if stderr.to_lowercase().contains("no such") => {
            let problem = Problem::new(ErrorKind::NotFound, format!("there is no {kind} {name}"));
            problem.hint(format!("docker {kind} ls shows them")).into()
        }
        _ => broken(kind, name, &error),
    })?;
    Ok(serde_json::from_slice(&answer.stdout)?)
}

fn broken(kind: &str, name: &str, error: &ToolError) -> Error {
    let mut problem = Problem::new(ErrorKind::Failed, format!("asking Docker for the {kind} {name}"));
    problem.causes.push(error.to_string());
    if let ToolError::Failed { stderr, .. } = error {
        problem.causes.push(stderr.lines().last().unwrap_or_default().to_owned());
    }
    problem.hint = error.hint();
    problem.into()
}

/// The files of a running server change under whoever copies them: a server is followed by its log.
fn refuse_servers(what: &str, path: &Path) -> Done {
    let Some((_, url)) = SERVERS.iter().find(|(sign, _)| path.join(sign).exists()) else { return Ok(()) };
    let problem = Problem::new(ErrorKind::Refused, format!("{what} holds a database server's files"));
    Err(problem.hint(format!("link the server itself: pando link APP {url}")).into())
}

/// The path as a URL: everything but plain characters is escaped.
fn url_of(path: &Path) -> Done<String> {
    let text = path.to_str().ok_or_else(|| Error::new(ErrorKind::Failed, "a volume's path is not UTF-8"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let part = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    Ok(format!("file://{}", text.bytes().map(part).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_url_and_back() {
        let path = Path::new("/srv/a b/%41");
        let url: pando_model::SourceUrl = url_of(path).expect("url").parse().expect("source");
        assert_eq!(Path::new(&url.path), path);
    }

    #[test]
    fn a_servers_files_are_not_adopted() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(refuse_servers("data", dir.path()).is_ok());
        std::fs::write(dir.path().join("PG_VERSION"), "15").expect("written");
        assert_eq!(refuse_servers("data", dir.path()).expect_err("refused").code(), 4);
    }
}
