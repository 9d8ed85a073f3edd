//! What a toolkit says of a production that is not there: each operation is asked with all its parts, about nobody's address
//! and empty directories. Most will refuse that; none may refuse it as what it does not know, and what answers, answers in
//! the protocol's words. So a misspelt operation or field is found without any production.

use std::path::Path;

use pando_host::{Bounds, Tool, ToolError};
use pando_model::{EngineKind, Profile, SourceUrl};
use serde::de::DeserializeOwned;

use super::{Kit, Look, named, said};
use crate::Source;
use crate::postgres::tree::private_dir;
use crate::toolkit::call::{About, question, text};
use crate::toolkit::message::{Done, Entry, IsReady, Looked, Operation, Place, Question, Serve, ToRun, Where};

/// A word that no protocol will ever have.
const UNKNOWN: &str = "no-such-operation";

/// What a toolkit did with a question: the answer, or the last line of its stderr.
type Said = Result<Vec<u8>, String>;

impl Kit<'_> {
    /// Every operation but `identify`, which was looked at before.
    pub(super) fn alone(&mut self) {
        for operation in Operation::ALL.into_iter().filter(|operation| *operation != Operation::Identify) {
            self.check(&named(operation, "it is known, and answers in the protocol's words"), |kit| {
                let question = kit.about_nobody(operation)?;
                let unknown = kit.asks(UNKNOWN, operation, &question)?;
                match kit.asks(operation.as_str(), operation, &question)? {
                    Ok(answer) => kit.is_answer(operation, &answer),
                    Err(why) if unknown.is_err_and(|other| same(operation, &why, &other)) => {
                        Err(format!("it is refused in the same words as an operation that does not exist: {why}"))
                    }
                    Err(why) if why.is_empty() => Err("it fails without a word".to_owned()),
                    Err(_) => Ok(()),
                }
            });
        }
    }

    /// A whole question, about a production that nobody serves and a copy that nobody made.
    fn about_nobody(&self, operation: Operation) -> Look<Question> {
        let seat = self.seat(&format!("nothing-{}", operation.as_str()))?;
        private_dir(&seat.data, seat.account.as_ref()).map_err(said)?;
        // Bound and let go: nobody listens there now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).map(|at| at.port());
        let url: SourceUrl = format!("toolkit+{}://user:password@127.0.0.1/", self.toolkit.name)
            .parse()
            .map_err(|error: pando_model::SourceUrlError| error.to_string())?;
        let url = SourceUrl { engine: EngineKind::Toolkit, port: port.ok(), path: String::new(), ..url };
        let source =
            Source { url, exclude: Vec::new(), facts: serde_json::Value::Null, tag: "pando_kit_nobody".to_owned() };
        let place = |path: &Path| text(path).map_err(said);
        let place = Place { data: place(&seat.data)?, run: place(&seat.run)? };
        let serve = Serve { port: None, profile: Profile::Disposable, settings: Default::default() };
        let entry = Entry { user: "pando".to_owned(), password: "no-ones-password".to_owned() };
        let on_copies = !operation.sees_production();
        let about = About {
            source: Some(&source),
            place: (operation != Operation::Preflight && operation != Operation::Position).then_some(place),
            serve: on_copies.then_some(serve),
            entry: (operation == Operation::Sanitise).then_some(entry),
        };
        Ok(question(operation, about))
    }

    /// Asks by a word, whatever the question is of.
    fn asks(&self, word: &str, operation: Operation, asked: &Question) -> Look<Said> {
        let mut input = serde_json::to_value(asked).map_err(|error| error.to_string())?;
        input["operation"] = word.into();
        let seconds = self.toolkit.seconds.unwrap_or(operation.seconds());
        let bounds = Bounds { time: std::time::Duration::from_secs(seconds), output: 1 << 20 };
        let tool = Tool::at(&self.toolkit.path).command().account(self.toolkit.account.as_ref());
        match tool.arg(word).run_bounded(input.to_string().as_bytes(), bounds) {
            Ok(done) => Ok(Ok(done.stdout)),
            Err(ToolError::Failed { stderr, .. }) => {
                let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty());
                Ok(Err(last.unwrap_or_default().to_owned()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_answer(&self, operation: Operation, answer: &[u8]) -> Look {
        let read = |ready: Look<bool>| match ready? {
            true => Err("it says that a server is ready where there is none".to_owned()),
            false => Ok(()),
        };
        match operation {
            Operation::Identify => Ok(()),
            Operation::Preflight => self.reads::<Looked>(operation, answer).map(drop),
            Operation::Position => self.reads::<Where>(operation, answer).map(drop),
            Operation::Ingest | Operation::Follow | Operation::Unit => self.reads::<ToRun>(operation, answer).map(drop),
            Operation::Prepare | Operation::Sanitise => self.reads::<Done>(operation, answer).map(drop),
            Operation::Ready => read(self.reads::<IsReady>(operation, answer).map(|answer| answer.ready)),
        }
    }

    fn reads<A: DeserializeOwned>(&self, operation: Operation, answer: &[u8]) -> Look<A> {
        self.toolkit.read(operation, answer, &[]).map_err(said)
    }
}

/// Whether what was said of an operation is what was said of one that does not exist, but for their words.
fn same(operation: Operation, why: &str, other: &str) -> bool {
    why.replace(operation.as_str(), "…") == other.replace(UNKNOWN, "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_for_what_is_unknown_are_known_by_all_but_the_operation() {
        assert!(same(Operation::Ready, "'ready' is no operation", "'no-such-operation' is no operation"));
        assert!(same(Operation::Ready, "usage: x OPERATION", "usage: x OPERATION"));
        assert!(!same(Operation::Ready, "holds no copy", "'no-such-operation' is no operation"));
    }
}
