//! Calls a toolkit: as the unprivileged account, within time and output, and reads what it answers. Whatever
//! it does wrong becomes one line that names the toolkit, the operation and what was wrong; production's
//! secrets are taken out of that line, should the toolkit have printed them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_host::{Account, Bounds, Tool, ToolError};
use pando_model::{SourceUrl, is_secret};
use serde::de::DeserializeOwned;

use super::message::{Entry, Operation, PROTOCOL, Place, Question, Serve, SourceOf, UrlOf};
use crate::{EngineError, Source};

/// Bytes a toolkit may answer.
const OUTPUT: usize = 1 << 20;

/// A toolkit that may be run.
#[derive(Debug, Clone)]
pub struct Toolkit {
    /// Its name.
    pub name: String,
    /// Its executable.
    pub path: PathBuf,
    /// Who runs it; `None`: this process' own user.
    pub account: Option<Account>,
    /// Its time for an operation, where it is not the usual one.
    pub seconds: Option<u64>,
}

/// What is asked besides the operation.
#[derive(Debug, Clone, Default)]
pub struct About<'a> {
    /// The source.
    pub source: Option<&'a Source>,
    /// Where its copy is.
    pub place: Option<Place>,
    /// How it is served.
    pub serve: Option<Serve>,
    /// Who may enter.
    pub entry: Option<Entry>,
}

impl Toolkit {
    /// Asks, and reads the answer.
    pub fn ask<A: DeserializeOwned>(&self, operation: Operation, about: About<'_>) -> Result<A, EngineError> {
        let secrets = secrets(&about);
        let question = question(operation, about);
        let input = serde_json::to_vec(&question).map_err(|error| self.wrong(operation, &error.to_string()))?;
        let stdout = self.run(operation, &input, &secrets)?;
        self.read(operation, &stdout, &secrets)
    }

    /// Runs an operation on an input as it is.
    pub fn run(&self, operation: Operation, input: &[u8], secrets: &[String]) -> Result<Vec<u8>, EngineError> {
        let seconds = self.seconds.unwrap_or(operation.seconds());
        let bounds = Bounds { time: Duration::from_secs(seconds), output: OUTPUT };
        let command = Tool::at(&self.path).command().arg(operation.as_str()).account(self.account.as_ref());
        match command.run_bounded(input, bounds) {
            Ok(finished) => Ok(finished.stdout),
            Err(ToolError::Failed { status, stderr, .. }) => {
                let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty());
                let said = last.map_or_else(|| format!("it failed without a word ({status})"), str::to_owned);
                Err(self.wrong(operation, &hidden(&said, secrets)))
            }
            Err(error @ (ToolError::Late { .. } | ToolError::GivenUp { .. } | ToolError::Flood { .. })) => {
                Err(self.wrong(operation, &error.to_string()))
            }
            Err(source) => Err(EngineError::Tool { action: self.doing(operation), source }),
        }
    }

    /// Reads an answer.
    pub fn read<A: DeserializeOwned>(
        &self,
        operation: Operation,
        stdout: &[u8],
        secrets: &[String],
    ) -> Result<A, EngineError> {
        let text = std::str::from_utf8(stdout).map_err(|_| self.wrong(operation, "it printed what is not UTF-8"))?;
        if text.trim().is_empty() {
            return Err(self.wrong(operation, "it printed nothing on stdout, where its answer is expected"));
        }
        serde_json::from_str(text).map_err(|error| {
            let shown: String = text.trim().chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
            self.wrong(operation, &hidden(&format!("{error}, in what it printed: {shown}"), secrets))
        })
    }

    /// What it answered makes no sense.
    pub fn wrong(&self, operation: Operation, why: &str) -> EngineError {
        EngineError::Foreign(format!("{}: {why}", self.doing(operation)))
    }

    fn doing(&self, operation: Operation) -> String {
        format!("the toolkit {} at `{}`", self.name, operation.as_str())
    }
}

/// The question for an operation: only what it is meant to know.
pub fn question(operation: Operation, about: About<'_>) -> Question {
    let source = about.source.filter(|_| operation != Operation::Identify).map(|source| SourceOf {
        url: url(&source.url, operation.sees_production()),
        facts: source.facts.get("facts").cloned().unwrap_or_default(),
        exclude: source.exclude.clone(),
    });
    Question { protocol: PROTOCOL, operation, source, place: about.place, serve: about.serve, credentials: about.entry }
}

fn url(url: &SourceUrl, password: bool) -> UrlOf {
    let own = |(name, value): (&String, &String)| (name.clone(), value.clone());
    UrlOf {
        user: url.user.clone(),
        password: url.password.clone().filter(|_| password),
        host: url.host.clone(),
        port: url.port,
        path: url.path.clone(),
        query: url.query.iter().filter(|(name, _)| password || !is_secret(name)).map(own).collect(),
    }
}

fn secrets(about: &About<'_>) -> Vec<String> {
    let production = about.source.map(|source| source.url.secrets()).unwrap_or_default();
    let own = about.entry.as_ref().map(|entry| entry.password.clone());
    production.into_iter().chain(own).filter(|secret| !secret.is_empty()).collect()
}

/// A text without secrets.
pub fn hidden(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"))
}

/// A path as text, as messages need it.
pub fn text(path: &Path) -> Result<String, EngineError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| EngineError::Invalid(format!("{} is not UTF-8: choose another home", path.display())))
}
