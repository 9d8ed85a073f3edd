//! A registry, as the OCI distribution specification has it: asked what it has, sent the rest, asked for images.
//! One client for one repository; calls block. HTTP is plain on this machine alone.
//!
//! Who may do what is asked for only when the registry says so: with a name and password, or with a token that
//! another server gives for them. A redirect to another host never gets either.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use ureq::http::{Request, Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};
use url::Url;

use super::origin::Origin;
use super::{Descriptor, INDEX, MANIFEST, Reference, digest_of};
use crate::ImageError;

/// What a manifest may be, here and of Docker's own kinds.
const ACCEPTED: [&str; 4] = [
    MANIFEST,
    INDEX,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The largest document that is read.
const MOST_JSON: u64 = 8 << 20;
/// Where systems keep whom they trust.
const TRUSTED: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Whom a registry knows.
#[derive(Clone)]
pub struct Login {
    /// The account.
    pub user: String,
    /// Its password, or a token in the place of one.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What was sent, and what was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blobs that were sent.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of those that were there.
    pub there: u64,
}

/// A repository of a registry.
pub struct Registry {
    agent: Agent,
    reference: Reference,
    login: Option<Login>,
    /// Whether this machine trusts anybody at all.
    trusts: bool,
    /// What the registry wanted to see.
    authorization: Option<String>,
    /// What may be done: `pull`, `pull,push`.
    actions: &'static str,
}

impl Registry {
    /// The repository of a name. Nobody is called yet.
    pub fn new(reference: Reference, login: Option<Login>) -> Self {
        let roots = trusted(reference.registry());
        let trusts = !roots.is_empty();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("pando/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(300)))
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), reference, login, trusts, authorization: None, actions: "pull" }
    }

    fn url(&self, what: &str) -> String {
        format!("{}/v2/{}/{what}", self.reference.address(), self.reference.repository)
    }

    /// Calls, and once more after the registry has said whom it wants to see.
    fn call(&mut self, method: &str, url: &str, media: &[&str], body: &[u8]) -> Result<Response<Body>, ImageError> {
        for asked in [false, true] {
            let mut request = Request::builder().method(method).uri(url);
            let kind = if method == "GET" || method == "HEAD" { header::ACCEPT } else { header::CONTENT_TYPE };
            for one in media {
                request = request.header(kind.clone(), *one);
            }
            let bare = matches!(method, "GET" | "HEAD");
            let answer = if bare {
                self.run(request, url, SendBody::none())?
            } else {
                let mut reader = body;
                let request = request.header(header::CONTENT_LENGTH, body.len());
                self.run(request, url, SendBody::from_reader(&mut reader))?
            };
            if answer.status() != StatusCode::UNAUTHORIZED || asked {
                return Ok(answer);
            }
            let wanted = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
            self.authorize(wanted.unwrap_or_default())?;
        }
        Err(self.denied())
    }

    fn run(
        &self,
        mut request: ureq::http::request::Builder,
        url: &str,
        body: SendBody<'_>,
    ) -> Result<Response<Body>, ImageError> {
        if !self.trusts && url.starts_with("https:") {
            let known = TRUSTED.first().copied().unwrap_or_default();
            return Err(self.failed(format!("this machine trusts nobody: {known} is missing (ca-certificates)")));
        }
        let own = Url::parse(url).ok().map(|url| url.origin())
            == Url::parse(&self.reference.address()).ok().map(|url| url.origin());
        if let Some(authorization) = self.authorization.as_deref().filter(|_| own) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(body).map_err(|error| self.failed(error.to_string()))?;
        self.agent.run(request).map_err(|error| self.failed(error.to_string()))
    }

    fn failed(&self, why: impl std::fmt::Display) -> ImageError {
        ImageError::Registry(format!("the registry {}: {why}", self.reference.registry()))
    }

    fn denied(&self) -> ImageError {
        ImageError::Denied { registry: self.reference.registry().to_owned() }
    }

    /// What a registry says that did not do what it was asked for.
    fn complaint(&self, answer: Response<Body>, doing: &str) -> ImageError {
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return self.denied();
        }
        let text = document(answer).unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said["errors"][0]["message"].as_str()).map(str::to_owned);
        self.failed(format!("{doing} {} failed: {}", self.reference, said.unwrap_or_else(|| status.to_string())))
    }

    /// Finds out what the registry wants to see, by what it said when it refused.
    fn authorize(&mut self, wanted: &str) -> Result<(), ImageError> {
        let basic = self
            .login
            .as_ref()
            .map(|Login { user, password }| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))));
        let Some(wanted) = strip_word(wanted, "bearer") else {
            self.authorization = Some(basic.ok_or_else(|| self.denied())?);
            return Ok(());
        };
        let realm = parameter(wanted, "realm").and_then(|realm| Url::parse(&realm).ok());
        let mut url = realm.ok_or_else(|| self.failed("it names no place to get a token from"))?;
        // A password goes nowhere in the clear, except on this machine.
        if url.scheme() != "https" && !self.reference.address().starts_with("http://") {
            return Err(self.failed("it wants the password sent in the clear"));
        }
        if let Some(service) = parameter(wanted, "service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let scope = format!("repository:{}:{}", self.reference.repository, self.actions);
        url.query_pairs_mut().append_pair("scope", &scope);
        let mut request = Request::builder().method("GET").uri(url.as_str());
        if let Some(basic) = &basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        let request = request.body(()).map_err(|error| self.failed(error.to_string()))?;
        let answer = self.agent.run(request).map_err(|error| self.failed(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(self.denied());
        }
        let told: Value = serde_json::from_slice(&document(answer)?).map_err(|error| self.failed(error))?;
        let token = told["token"].as_str().or(told["access_token"].as_str());
        self.authorization = Some(format!("Bearer {}", token.ok_or_else(|| self.denied())?));
        Ok(())
    }

    /// Sends an image: what is not there yet, and last the manifest, which makes it visible. `from`: a repository of
    /// the same registry that may have blobs of it.
    pub fn push(
        &mut self,
        manifest: &[u8],
        blobs: &[(Descriptor, PathBuf)],
        from: Option<&str>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Sent, ImageError> {
        self.actions = "pull,push";
        let mut sent = Sent::default();
        for (blob, path) in blobs {
            let there = self.call("HEAD", &self.url(&format!("blobs/{}", blob.digest)), &[], &[])?;
            match there.status() {
                StatusCode::OK => sent.there += blob.size,
                StatusCode::NOT_FOUND => {
                    if self.upload(blob, path, from, &mut |bytes| progress(sent.bytes + bytes))? {
                        sent.blobs += 1;
                        sent.bytes += blob.size;
                    } else {
                        sent.there += blob.size;
                    }
                }
                _ => return Err(self.complaint(there, "asking for a layer of")),
            }
        }
        let url = self.url(&format!("manifests/{}", self.reference.tag));
        let answer = self.call("PUT", &url, &[MANIFEST], manifest)?;
        if answer.status().is_success() { Ok(sent) } else { Err(self.complaint(answer, "naming")) }
    }

    /// Sends a blob; says whether that was needed.
    fn upload(
        &mut self,
        blob: &Descriptor,
        path: &Path,
        from: Option<&str>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool, ImageError> {
        let from = from.filter(|from| *from != self.reference.repository);
        let mount = from.map(|from| format!("?mount={}&from={from}", blob.digest)).unwrap_or_default();
        let begun = self.call("POST", &self.url(&format!("blobs/uploads/{mount}")), &[], &[])?;
        if begun.status() == StatusCode::CREATED {
            return Ok(false);
        }
        if begun.status() != StatusCode::ACCEPTED {
            return Err(self.complaint(begun, "sending a layer of"));
        }
        let place = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let place = Url::parse(&self.reference.address()).and_then(|base| base.join(place.unwrap_or_default()));
        let mut place = place.map_err(|error| self.failed(error))?;
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let file = File::open(path).map_err(ImageError::io("reading", path))?;
        let mut body = Counted { from: file, read: 0, progress };
        let request = Request::builder()
            .method("PUT")
            .uri(place.as_str())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, blob.size);
        let answer = self.run(request, place.as_str(), SendBody::from_reader(&mut body))?;
        if answer.status().is_success() { Ok(true) } else { Err(self.complaint(answer, "sending a layer of")) }
    }
}

impl Origin for Registry {
    fn manifest(&mut self, digest: Option<&str>) -> Result<Vec<u8>, ImageError> {
        let tag = digest.map_or_else(|| self.reference.tag.clone(), str::to_owned);
        let answer = self.call("GET", &self.url(&format!("manifests/{tag}")), &ACCEPTED, &[])?;
        if !answer.status().is_success() {
            return Err(self.complaint(answer, "asking for"));
        }
        let bytes = document(answer)?;
        if tag.contains(':') && digest_of(&bytes) != tag {
            return Err(self.failed(format!("{tag} is not what its digest says")));
        }
        Ok(bytes)
    }

    fn blob(&mut self, digest: &str) -> Result<Box<dyn Read + '_>, ImageError> {
        let answer = self.call("GET", &self.url(&format!("blobs/{digest}")), &[], &[])?;
        if !answer.status().is_success() {
            return Err(self.complaint(answer, "taking a layer of"));
        }
        Ok(Box::new(answer.into_body().into_reader()))
    }
}

fn document(answer: Response<Body>) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    answer.into_body().into_reader().take(MOST_JSON).read_to_end(&mut bytes).map_err(ImageError::Stream)?;
    Ok(bytes)
}

/// Whom this machine trusts, and whom Docker is told to trust for one registry.
fn trusted(registry: &str) -> Vec<Certificate<'static>> {
    let own = Path::new("/etc/docker/certs.d").join(registry).join("ca.crt");
    let mut found = Vec::new();
    for path in TRUSTED.iter().map(Path::new).chain([own.as_path()]) {
        let Ok(text) = std::fs::read(path) else { continue };
        let certificate = |item: PemItem<'static>| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        };
        found.extend(parse_pem(&text).flatten().filter_map(certificate));
    }
    found
}

struct Counted<'a> {
    from: File,
    read: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        self.read += got as u64;
        (self.progress)(self.read);
        Ok(got)
    }
}

/// What stands behind a word, whichever letters are large.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.trim().split_once(' ')?;
    first.eq_ignore_ascii_case(word).then_some(rest)
}

/// `realm="https://auth.example/token",service="reg"`
fn parameter(text: &str, name: &str) -> Option<String> {
    let at = text.find(&format!("{name}=\""))? + name.len() + 2;
    let rest = text.get(at..)?;
    Some(rest.get(..rest.find('"')?)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_wants_is_read() {
        let wanted = "Bearer realm=\"https://auth.example/token\",service=\"reg\"";
        let rest = strip_word(wanted, "bearer").unwrap();
        assert_eq!(parameter(rest, "realm").as_deref(), Some("https://auth.example/token"));
        assert_eq!(parameter(rest, "service").as_deref(), Some("reg"));
        assert_eq!(parameter(rest, "scope"), None);
        assert_eq!(strip_word("Basic realm=\"x\"", "bearer"), None);
    }
}
