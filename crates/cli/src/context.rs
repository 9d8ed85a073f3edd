//! What a command needs to do its work: where the daemon is, how to answer, what time it is here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pando_api::{Client, Endpoint};
use pando_host::{Account, Clock, SystemClock};
use pando_model::{ErrorKind, Moment, Name, OperationState, OperationView, Problem, Target};
use serde::Serialize;

use crate::args::{Detach, Global};
use crate::errors::{Done, Error};
use crate::progress::Progress;
use crate::{moments, output};

/// The home of the machine's own daemon.
pub const ROOT_HOME: &str = "/var/lib/pando";

/// How long one question for an operation's end waits: also how often progress is seen.
const POLL: Duration = Duration::from_millis(200);

/// The surroundings of one command.
pub struct Context {
    /// Speaks to the daemon.
    pub client: Client,
    /// The home; what `serve` serves.
    pub home: PathBuf,
    /// Whether `--host` names the daemon, which then may be on another machine.
    pub elsewhere: bool,
    /// Answer in JSON.
    pub json: bool,
    /// The zone that times are typed and shown in.
    pub zone: TimeZone,
}

impl Context {
    /// Reads the surroundings.
    pub fn new(global: &Global) -> Done<Self> {
        let home = home(global)?;
        let host = global.host.as_deref().filter(|host| !host.is_empty());
        let endpoint = match host {
            Some(host) => Endpoint::parse(host, variable("PANDO_TOKEN"))?,
            None => Endpoint::of_home(&home),
        };
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        Ok(Self { client: Client::new(endpoint), home, elsewhere: host.is_some(), json: global.json, zone })
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// The time, for spans.
    pub fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    /// Reads `NAME` or `NAME@MOMENT`, with times in the local zone.
    pub fn target(&self, text: &str) -> Done<Target> {
        moments::target(text, self.now(), &self.zone)
    }

    /// The same where the moment is required.
    pub fn target_with_moment(&self, text: &str, command: &str) -> Done<(Name, Moment)> {
        let Target { name, moment } = self.target(text)?;
        let hint = format!("pando {command} {name}@-10m; pando timeline {name} shows what can be asked for");
        let moment = moment.ok_or_else(|| Error::usage(format!("{command} needs a moment"), hint))?;
        Ok((name, moment))
    }

    /// Prints a view: as JSON, or in the words of `people`.
    pub fn print<T: Serialize>(&self, view: &T, people: impl FnOnce(&T) -> String) -> Done {
        if self.json { output::json(view) } else { output::text(&people(view)) }
    }

    /// Waits for the end of an operation and shows its progress. With `--detach` prints its id instead and
    /// answers nothing.
    pub async fn finish(&self, begun: OperationView, detach: Detach) -> Done<Option<OperationView>> {
        if detach.detach {
            self.print(&begun, |operation| format!("{}\n", operation.id))?;
            return Ok(None);
        }
        let ended = tokio::select! {
            ended = self.watch(begun.clone()) => ended?,
            _ = tokio::signal::ctrl_c() => {
                output::note(&format!("{} goes on; pando op {} shows it", begun.verb, begun.id));
                return Err(Error::Quiet(130));
            }
        };
        match ended.state {
            OperationState::Done => Ok(Some(ended)),
            _ => Err(why(&ended).into()),
        }
    }

    /// Asks for an operation until it has ended.
    pub async fn watch(&self, operation: OperationView) -> Done<OperationView> {
        self.watch_until(operation, |_| false).await
    }

    /// The same, or until it is as far as `enough` says.
    pub async fn watch_until(
        &self,
        mut operation: OperationView,
        enough: impl Fn(&OperationView) -> bool,
    ) -> Done<OperationView> {
        let mut progress = Progress::new(self.json, self.instant());
        while matches!(operation.state, OperationState::Running | OperationState::Undoing) && !enough(&operation) {
            operation = self.client.operation(&operation.id, POLL.as_millis() as u64).await?;
            progress.show(&operation, self.instant());
        }
        progress.end();
        Ok(operation)
    }
}

/// Why an operation did not end well.
pub fn why(operation: &OperationView) -> Problem {
    let said = operation.error.clone();
    let problem =
        said.unwrap_or_else(|| Problem::new(ErrorKind::Failed, format!("{} did not succeed", operation.verb)));
    match operation.state {
        OperationState::Stuck if problem.hint.is_none() => {
            problem.hint(format!("pando op {} shows where it is stuck", operation.id))
        }
        _ => problem,
    }
}

/// A variable of the environment that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn home(global: &Global) -> Done<PathBuf> {
    let chosen = match &global.home {
        Some(home) => home.clone(),
        None if Account::is_root() => PathBuf::from(ROOT_HOME),
        None => match (variable("XDG_DATA_HOME"), variable("HOME")) {
            (Some(data), _) => PathBuf::from(data).join("pando"),
            (None, Some(home)) => PathBuf::from(home).join(".local/share/pando"),
            (None, None) => {
                return Err(Error::usage("neither HOME nor XDG_DATA_HOME is set", "name a home with --home DIR"));
            }
        },
    };
    Ok(std::path::absolute(chosen)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let global = Global { json: false, home: Some("h".into()), host: None };
        Context::new(&global).expect("context")
    }

    #[test]
    fn a_home_is_absolute_and_its_socket_is_the_default() {
        let context = context();
        assert!(context.home.is_absolute());
        assert_eq!(context.client.endpoint(), &Endpoint::of_home(&context.home));
        assert!(!context.elsewhere);
    }

    #[test]
    fn a_rewind_without_a_moment_is_wrong_usage() {
        let error = context().target_with_moment("dev1", "rewind").expect_err("no moment");
        assert_eq!(error.code(), 2);
        assert!(context().target_with_moment("dev1@-10m", "rewind").is_ok());
    }
}
