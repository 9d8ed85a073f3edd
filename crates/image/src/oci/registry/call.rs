//! One call of a registry: shown who asks once the registry wants to know, and made again where that may help: when
//! the connection broke, when there were too many calls, when a server behind it was not there.

use std::cell::RefCell;
use std::fs::File;
use std::io::ErrorKind;
use std::time::Duration;

use pando_host::{Clock, SystemClock};
use serde_json::Value;
use ureq::http::{HeaderName, Request, Response, StatusCode, header};
use ureq::{Body, SendBody};
use url::Url;

use super::auth::challenges;
use super::{Counted, Registry, document};
use crate::ImageError;
use crate::oci::reference::is_here;

/// The longest wait between two tries, also where a registry names a longer one.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// What is sent along.
pub(super) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// A part of a file: from, to, and who hears how far it is.
    Part(&'a File, u64, u64, RefCell<&'a mut dyn FnMut(u64)>),
}

/// What is asked for.
pub(super) struct Ask<'a> {
    method: &'static str,
    pub url: String,
    headers: Vec<(HeaderName, String)>,
    payload: Payload<'a>,
}

impl<'a> Ask<'a> {
    pub fn new(method: &'static str, url: String) -> Self {
        Self { method, url, headers: Vec::new(), payload: Payload::Nothing }
    }

    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn sending(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The next try may have one.
    Broken(String),
    /// No try will.
    Final(ImageError),
}

/// Whether the same call may do better a moment later.
pub(super) fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long a registry wants to be left alone, where it says so in seconds.
fn pause(answer: &Response<Body>) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

impl Registry {
    /// Calls, as often as there is hope.
    pub(super) fn call(&mut self, ask: &Ask<'_>) -> Result<Response<Body>, ImageError> {
        self.patiently(|registry| registry.once(ask))
    }

    /// Does something as often as there is hope. A registry that never answered is not waited for: its name may be
    /// wrong.
    fn patiently(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<Response<Body>, Trouble>,
    ) -> Result<Response<Body>, ImageError> {
        let mut tried = 0;
        loop {
            let last = tried + 1 >= self.manners.tries;
            let wanted = match ask(self) {
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Broken(why)) if last || !self.met => return Err(self.failed(why)),
                Err(Trouble::Broken(_)) => None,
                Ok(answer) if last || !passes(answer.status()) => return Ok(answer),
                Ok(answer) => pause(&answer),
            };
            self.wait(tried, wanted);
            tried += 1;
        }
    }

    /// Waits before the next try.
    pub(super) fn wait(&self, tried: u32, wanted: Option<Duration>) {
        let own = self.manners.wait.saturating_mul(1 << tried.min(16));
        SystemClock.sleep(wanted.unwrap_or(own).min(MOST_WAIT));
    }

    /// Calls, and once more after the registry has said whom it wants to see.
    pub(super) fn once(&mut self, ask: &Ask<'_>) -> Result<Response<Body>, Trouble> {
        let answer = self.run(ask)?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let wanted = answer.headers().get_all(header::WWW_AUTHENTICATE);
        let wanted: Vec<String> = wanted.iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
        self.authorize(&wanted.join(", ")).map_err(Trouble::Final)?;
        self.run(ask)
    }

    fn run(&mut self, ask: &Ask<'_>) -> Result<Response<Body>, Trouble> {
        if let Some(why) = self.mistrust.as_ref().filter(|_| ask.url.starts_with("https:")) {
            return Err(Trouble::Final(self.failed(why)));
        }
        let mut request = Request::builder().method(ask.method).uri(ask.url.as_str());
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
        if let Some(authorization) = self.authorization.as_deref().filter(|_| origin(&ask.url) == origin(&self.address))
        {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = match &ask.payload {
            Payload::Nothing if matches!(ask.method, "GET" | "HEAD") => self.give(request, SendBody::none()),
            Payload::Nothing => {
                self.give(request.header(header::CONTENT_LENGTH, 0), SendBody::from_reader(&mut std::io::empty()))
            }
            Payload::Bytes(bytes) => {
                let mut reader = *bytes;
                let request = request.header(header::CONTENT_LENGTH, bytes.len());
                self.give(request, SendBody::from_reader(&mut reader))
            }
            Payload::Part(file, from, to, progress) => {
                let mut progress = progress.borrow_mut();
                let mut reader = Counted { from: file, at: *from, end: *to, progress: &mut **progress };
                let request = request.header(header::CONTENT_LENGTH, to - from);
                self.give(request, SendBody::from_reader(&mut reader))
            }
        }?;
        self.met = true;
        Ok(answer)
    }

    fn give(&self, request: ureq::http::request::Builder, body: SendBody<'_>) -> Result<Response<Body>, Trouble> {
        let request = request.body(body).map_err(|error| Trouble::Final(self.failed(error)))?;
        self.agent.run(request).map_err(|error| self.trouble(error))
    }

    fn trouble(&self, error: ureq::Error) -> Trouble {
        let text = error.to_string();
        match error {
            ureq::Error::Io(io) if io.kind() == ErrorKind::InvalidData => Trouble::Final(self.mistrusted(&text)),
            ureq::Error::Rustls(_) => Trouble::Final(self.mistrusted(&text)),
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
            | ureq::Error::BodyStalled => Trouble::Broken(text),
            _ => Trouble::Final(self.failed(text)),
        }
    }

    fn mistrusted(&self, why: &str) -> ImageError {
        let source = std::io::Error::other(why.to_owned());
        ImageError::Mistrusted { registry: self.reference.registry().to_owned(), source }
    }

    pub(super) fn failed(&self, why: impl std::fmt::Display) -> ImageError {
        ImageError::Registry(format!("the registry {}: {why}", self.reference.registry()))
    }

    fn denied(&self) -> ImageError {
        ImageError::Denied { registry: self.reference.registry().to_owned() }
    }

    /// What a registry says that did not do what it was asked for.
    pub(super) fn complaint(&self, answer: Response<Body>, doing: &str) -> ImageError {
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return self.denied();
        }
        let text = document(answer).unwrap_or_default();
        let json = serde_json::from_slice::<Value>(&text);
        if status == StatusCode::BAD_REQUEST && json.is_err() && self.address.starts_with("http:") {
            return self
                .mistrusted("plain HTTP is a bad request to it: it may speak TLS, and no certificate of it is kept");
        }
        let said = match json {
            Ok(said) => said["errors"][0]["message"].as_str().map(str::to_owned),
            // Whatever stands before it may answer with a line of text.
            Err(_) => String::from_utf8(text).ok().filter(|text| !text.contains('<') && text.len() <= 200),
        };
        let said = said.filter(|said| !said.trim().is_empty());
        let said = said.map_or_else(|| status.to_string(), |said| format!("{} ({})", said.trim(), status.as_u16()));
        self.failed(format!("{doing} {} failed: {said}", self.reference))
    }

    /// Finds out what the registry wants to see, by what it said when it refused.
    fn authorize(&mut self, wanted: &str) -> Result<(), ImageError> {
        let wanted = challenges(wanted);
        let Some(bearer) = wanted.iter().find(|challenge| challenge.scheme == "bearer") else {
            let login = self.login.as_ref().filter(|login| login.identity().is_none());
            self.authorization = Some(login.ok_or_else(|| self.denied())?.basic());
            return Ok(());
        };
        let call = bearer.token_call(&self.scopes, self.login.as_ref());
        let call = call.ok_or_else(|| self.failed("it names no place to get a token from"))?;
        // A password goes nowhere in the clear, except on this machine.
        if call.url.scheme() != "https" && !call.url.host_str().is_some_and(is_here) {
            return Err(self.failed("it wants the password sent in the clear"));
        }
        let answer = self.patiently(|registry| {
            let mut request = Request::builder().uri(call.url.as_str());
            if let Some(basic) = &call.basic {
                request = request.header(header::AUTHORIZATION, basic);
            }
            match &call.form {
                None => registry.give(request, SendBody::none()),
                Some(form) => {
                    let request = request.method("POST").header(header::CONTENT_LENGTH, form.len());
                    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                    registry.give(request, SendBody::from_reader(&mut form.as_bytes()))
                }
            }
        })?;
        if passes(answer.status()) {
            return Err(self.complaint(answer, "getting a token for"));
        }
        if !answer.status().is_success() {
            return Err(self.denied());
        }
        let told: Value = serde_json::from_slice(&document(answer)?).map_err(|error| self.failed(error))?;
        let token = told["token"].as_str().or(told["access_token"].as_str());
        self.authorization = Some(format!("Bearer {}", token.ok_or_else(|| self.denied())?));
        Ok(())
    }
}
