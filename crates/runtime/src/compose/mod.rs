//! Compose projects: containers of the user's that a file describes, brought up and stopped as one. Whose they are and what
//! runs on which data is decided elsewhere; here is only how Compose is asked.
//!
//! Both are known, `docker compose` (2) and `docker-compose` (1): what is asked of them is what both can do.

mod read;
mod sim;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::tool::{SEARCH_PATH, ToolCommand};
use pando_host::{Tool, ToolError};

use crate::RuntimeError;
pub use sim::SimProjects;

/// One project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its name, which stands before the names of its containers and volumes.
    pub name: String,
    /// The file that describes it.
    pub file: PathBuf,
}

/// A volume that a file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredVolume {
    /// What the engine calls it: `dev1_db`.
    pub name: String,
    /// Its driver's options, variables filled in.
    pub options: BTreeMap<String, String>,
}

/// Asks Compose. All calls block, and may be repeated.
pub trait Projects: Send + Sync {
    /// Whether the file is there.
    fn is_there(&self, project: &Project) -> bool;
    /// The volumes that the file declares.
    fn volumes(&self, project: &Project) -> Result<Vec<DeclaredVolume>, RuntimeError>;
    /// The services that run.
    fn running(&self, project: &Project) -> Result<Vec<String>, RuntimeError>;
    /// Makes and starts all services, in the order and with the checks of health that the file says. With `only`: starts
    /// these, as they were made.
    fn up(&self, project: &Project, only: Option<&[String]>) -> Result<(), RuntimeError>;
    /// Stops all services. Their containers stay.
    fn stop(&self, project: &Project) -> Result<(), RuntimeError>;
    /// Removes containers and networks. Volumes stay.
    fn down(&self, project: &Project) -> Result<(), RuntimeError>;
}

/// The Compose of this machine.
#[derive(Debug)]
pub struct ComposeTool {
    /// The engine's socket.
    socket: PathBuf,
}

impl ComposeTool {
    /// Compose for the engine behind a socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// `docker compose` where Docker knows it, else `docker-compose`.
    fn command(&self) -> Result<ToolCommand, ToolError> {
        let dirs = || SEARCH_PATH.iter().map(Path::new);
        let with_engine = |command: ToolCommand| {
            let host = format!("unix://{}", self.socket.display());
            // Recovered volumes may take longer to mount than the minute that version 1 waits for an answer.
            command.env("DOCKER_HOST", host).env("COMPOSE_HTTP_TIMEOUT", "300").inherit("HOME").inherit("DOCKER_CONFIG")
        };
        if let Some(docker) = Tool::find_in(dirs(), "docker") {
            let compose = with_engine(docker.command().arg("compose"));
            if compose.clone().arg("version").run().is_ok() {
                return Ok(compose);
            }
        }
        Tool::find("docker-compose", "docker-compose").map(|tool| with_engine(tool.command()))
    }

    fn run(&self, project: &Project, action: &str, args: &[&str]) -> Result<String, RuntimeError> {
        let failed = |source| RuntimeError::Tool { action: format!("{action} the project {}", project.name), source };
        let dir = project.file.parent().unwrap_or(Path::new("/"));
        let command = self.command().map_err(failed)?.dir(dir).arg("--project-name").arg(&project.name);
        let finished = command.arg("--file").arg(&project.file).args(args).run();
        finished.map(|finished| finished.text()).map_err(failed)
    }
}

impl Projects for ComposeTool {
    fn is_there(&self, project: &Project) -> bool {
        project.file.is_file()
    }

    fn volumes(&self, project: &Project) -> Result<Vec<DeclaredVolume>, RuntimeError> {
        let text = self.run(project, "reading", &["config"])?;
        read::volumes(&text, &project.name).map_err(|line| {
            RuntimeError::Invalid(format!("the volumes of {} cannot be read: {line}", project.file.display()))
        })
    }

    fn running(&self, project: &Project) -> Result<Vec<String>, RuntimeError> {
        let text = self.run(project, "looking at", &["ps", "--services", "--filter", "status=running"])?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn up(&self, project: &Project, only: Option<&[String]>) -> Result<(), RuntimeError> {
        let mut args = vec!["up", "--detach"];
        if let Some(services) = only {
            args.push("--no-recreate");
            args.extend(services.iter().map(String::as_str));
        }
        self.run(project, "starting", &args).map(drop)
    }

    fn stop(&self, project: &Project) -> Result<(), RuntimeError> {
        self.run(project, "stopping", &["stop"]).map(drop)
    }

    fn down(&self, project: &Project) -> Result<(), RuntimeError> {
        // Volumes without a name go with their containers, those with one are the driver's.
        self.run(project, "taking away", &["rm", "--stop", "--force", "-v"])?;
        self.run(project, "taking away", &["down"]).map(drop)
    }
}
