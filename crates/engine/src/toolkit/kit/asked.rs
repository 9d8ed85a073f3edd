//! Questions and answers: what a toolkit says to what it was asked, rightly or wrongly, and what `preflight`
//! and `position` say of a production that is there, is not, or does not know us.

use pando_host::{Bounds, Tool, ToolError};
use pando_model::SourceUrl;

use super::{Kit, Look, Stop, named, said};
use crate::toolkit::call::{About, question};
use crate::toolkit::message::Operation;
use crate::toolkit::{found, identify};
use crate::{Engine, Link, Source};

impl Kit<'_> {
    pub(super) fn asked(&mut self) -> Result<(), Stop> {
        self.check("it may be run: only its owner or root can change it", |kit| {
            found::may_run(kit.options.path).map_err(said)
        });
        let identity =
            self.must("identify: it answers in the protocol's words", |kit| identify(&kit.toolkit).map_err(said))?;
        self.check("identify: the same answer again", |kit| {
            let again = identify(&kit.toolkit).map_err(said)?;
            if again == identity { Ok(()) } else { Err("it answers something else the second time".to_owned()) }
        });
        self.check("identify: a clone's address is a URL", |_| match &identity.address {
            None => Ok(()),
            Some(address) if address.contains("://") && address.contains("{port}") => Ok(()),
            Some(address) => Err(format!("{address} has no :// or no {{port}}")),
        });
        self.must("identify: what it needs is installed", |_| match identity.missing.first() {
            None => Ok(()),
            Some(one) => Err(format!("{} is missing: {}", one.program, one.install.as_deref().unwrap_or("install it"))),
        })?;
        self.identity = Some(identity);
        self.wrong_questions();
        Ok(())
    }

    fn wrong_questions(&mut self) {
        let refused = |input: &'static str| {
            move |kit: &mut Self| Operation::ALL.into_iter().try_for_each(|operation| kit.refuses(operation, input))
        };
        self.check("a question that is no JSON is refused", refused("{"));
        self.check("an empty question is refused", refused(""));
        self.check("a question that is no object is refused", refused("[1]"));
        self.check("a question of another protocol is refused", |kit| {
            Operation::ALL.into_iter().try_for_each(|operation| {
                let mut question = question(operation, About::default());
                question.protocol = 99;
                kit.refuses(operation, &serde_json::to_string(&question).unwrap_or_default())
            })
        });
        self.check("a question without its parts is refused", |kit| {
            Operation::ALL.into_iter().filter(|operation| *operation != Operation::Identify).try_for_each(|operation| {
                let question = question(operation, About::default());
                kit.refuses(operation, &serde_json::to_string(&question).unwrap_or_default())
            })
        });
        self.check("an unknown operation is refused", |kit| {
            let bounds = Bounds { time: std::time::Duration::from_secs(10), output: 1 << 20 };
            let tool = Tool::at(&kit.toolkit.path).command().account(kit.toolkit.account.as_ref());
            let asked = tool.arg("no-such-operation").run_bounded(b"{\"protocol\":1}", bounds);
            judge("no-such-operation", asked.map(|done| done.stdout).map_err(|error| words(&error)))
        });
        self.check("what it does not know in a question is left alone", |kit| {
            let mut question =
                serde_json::to_value(question(Operation::Identify, About::default())).map_err(|e| e.to_string())?;
            question["later"] = serde_json::json!({ "protocol": "may say more" });
            kit.toolkit.run(Operation::Identify, question.to_string().as_bytes(), &[]).map(drop).map_err(said)
        });
    }

    fn refuses(&self, operation: Operation, input: &str) -> Look {
        let asked = self.toolkit.run(operation, input.as_bytes(), &[]);
        judge(operation.as_str(), asked.map_err(|error| error.to_string()))
    }

    pub(super) fn production(&mut self) -> Result<(), Stop> {
        let facts = self.must("preflight: this production can be linked", |kit| kit.preflight(&kit.source()?.url))?;
        if let Some(source) = &mut self.source {
            source.facts = facts;
        }
        self.check("preflight: the same facts again", |kit| {
            let source = kit.source()?;
            let again = kit.preflight(&source.url)?;
            if again == source.facts { Ok(()) } else { Err("it learned something else the second time".to_owned()) }
        });
        self.must("position: production is found", |kit| {
            match kit.engine.pulse(&kit.seat("none")?, kit.source()?, true).map_err(said)?.link {
                Link::Following => Ok(()),
                Link::Disconnected(why) | Link::Copying(why) | Link::Lost(why) | Link::Restart(why) => Err(why),
            }
        })?;
        for operation in [Operation::Preflight, Operation::Position] {
            self.check(&named(operation, "it prints no secret"), |kit| kit.prints_no_secret(operation, kit.source()?));
        }
        self.strangers();
        Ok(())
    }

    /// A wrong password, and nobody at the address.
    fn strangers(&mut self) {
        let Some(source) = self.source.clone() else { return };
        if source.url.password.is_some() {
            let password = Some("not-the-password-7Zq".to_owned());
            let wrong = Source { url: SourceUrl { password, ..source.url.clone() }, ..source.clone() };
            self.check("preflight: a wrong password is found", |kit| kit.finds_wrong(&wrong));
        }
        if source.url.host.is_some() {
            // Bound and let go: nobody listens there now.
            let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).map(|at| at.port());
            let url = SourceUrl { host: Some("127.0.0.1".into()), port: port.ok(), ..source.url.clone() };
            let gone = Source { url, tag: "pando_kit_gone".to_owned(), ..source };
            self.check("preflight: a production that does not answer is found", |kit| kit.finds_wrong(&gone));
            self.check("position: a production that does not answer is found", |kit| {
                match kit.engine.pulse(&kit.seat("none")?, &gone, true).map_err(said)?.link {
                    Link::Following => Err("it says that all is well".to_owned()),
                    Link::Disconnected(why) if why.contains("had not ended") => Err(why),
                    _ => Ok(()),
                }
            });
        }
    }

    fn preflight(&self, url: &SourceUrl) -> Look<serde_json::Value> {
        let found = self.engine.preflight(url).map_err(said)?;
        match found.findings.into_iter().find(|finding| finding.fatal) {
            None => Ok(found.facts),
            Some(finding) => Err(finding.what),
        }
    }

    fn finds_wrong(&self, source: &Source) -> Look {
        match self.preflight(&source.url) {
            Ok(_) => Err("it says that all is well".to_owned()),
            Err(why) if why.contains("had not ended") || why.contains("without a word") => Err(why),
            Err(_) => self.prints_no_secret(Operation::Preflight, source),
        }
    }

    /// Asks without the engine, which would take secrets out.
    fn prints_no_secret(&self, operation: Operation, source: &Source) -> Look {
        let Some(secret) = source.url.password.as_deref().filter(|secret| !secret.is_empty()) else { return Ok(()) };
        let question = question(operation, About { source: Some(source), ..About::default() });
        let input = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
        let bounds = Bounds { time: std::time::Duration::from_secs(operation.seconds()), output: 1 << 20 };
        let tool = Tool::at(&self.toolkit.path).command().account(self.toolkit.account.as_ref());
        let printed = match tool.arg(operation.as_str()).run_bounded(&input, bounds) {
            Ok(done) => format!("{}{}", done.text(), done.stderr),
            Err(error) => error.to_string(),
        };
        if printed.contains(secret) { Err("it prints production's password".to_owned()) } else { Ok(()) }
    }
}

fn words(error: &ToolError) -> String {
    match error {
        ToolError::Failed { stderr, .. } if stderr.trim().is_empty() => "it failed without a word".to_owned(),
        error => error.to_string(),
    }
}

/// A wrong question has to fail, soon, with a word on stderr.
fn judge(operation: &str, asked: Result<Vec<u8>, String>) -> Look {
    match asked {
        Ok(_) => Err(format!("`{operation}` ends with 0 all the same")),
        Err(why) if why.contains("without a word") => Err(format!("`{operation}` fails, but says nothing on stderr")),
        Err(why) if why.contains("and was killed") => Err(why),
        Err(_) => Ok(()),
    }
}
