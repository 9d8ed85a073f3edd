//! A registry, as the OCI distribution specification has it: asked what it has, sent the rest, asked for images.
//! One client for one repository; calls block. HTTP is plain on this machine alone, and there too only where no
//! certificate is kept for that registry.
//!
//! Who may do what is asked for only when the registry says so: with a name and password, or with a token that
//! another server gives for them. A redirect to another host never gets either.
//!
//! | file | what it answers for |
//! |---|---|
//! | `auth.rs` | what a registry wants to see: challenges, and how tokens are asked for |
//! | `call.rs` | one call: shown who asks, tried again where that may help |
//! | `trust.rs`, `pinned.rs` | whose certificates are believed |
//! | `upload.rs` | one blob sent: found elsewhere, whole, or in pieces |

mod auth;
mod call;
mod pinned;
mod trust;
mod upload;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, Body, BodyReader};

use super::origin::Origin;
use super::{Descriptor, MANIFEST, Reference, digest_of};
use crate::ImageError;
use call::{Ask, Payload};
use upload::Mount;

use pinned::Tls;

pub use auth::Login;
pub use trust::Trust;

/// What a manifest may be, here and of Docker's own kinds.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                        application/vnd.docker.distribution.manifest.v2+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json";
/// What is said where no certificate is there at all.
const NOBODY: &str = "this machine trusts nobody: /etc/ssl/certs/ca-certificates.crt is missing (ca-certificates)";
/// The largest document that is read.
const MOST_JSON: u64 = 8 << 20;

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

/// How patiently a registry is spoken to, and in which portions.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How often a call is made at most.
    pub tries: u32,
    /// The first wait between two; each next is twice as long, unless the registry names one.
    pub wait: Duration,
    /// Blobs up to this size are sent in one call at first.
    pub whole: u64,
    /// The pieces of what is not.
    pub piece: u64,
}

impl Default for Manners {
    fn default() -> Self {
        // A whole blob is what every registry takes; what takes minutes is better not begun again from its start.
        Self { tries: 6, wait: Duration::from_millis(500), whole: 1 << 30, piece: 64 << 20 }
    }
}

/// A repository of a registry.
pub struct Registry {
    agent: Agent,
    reference: Reference,
    /// Where it is: `https://registry.example`.
    address: String,
    login: Option<Login>,
    manners: Manners,
    /// Why nobody can be spoken to by TLS, where that is so.
    mistrust: Option<String>,
    /// Whether it has ever answered.
    met: bool,
    /// What the registry wanted to see.
    authorization: Option<String>,
    /// What may be done, as tokens are asked for.
    scopes: Vec<String>,
}

impl Registry {
    /// The repository of a name. Nobody is called yet.
    pub fn new(reference: Reference, login: Option<Login>, trust: &Trust) -> Self {
        Self::with_manners(reference, login, trust, Manners::default())
    }

    /// The same, more or less patient.
    pub fn with_manners(reference: Reference, login: Option<Login>, trust: &Trust, manners: Manners) -> Self {
        let (kept, own) = trust.of(reference.registry());
        let (tls, mistrust) = match kept.config() {
            Ok(Some(tls)) => (Some(tls), None),
            Ok(None) => (None, Some(NOBODY.to_owned())),
            Err(error) => {
                (None, Some(format!("the certificate that is kept to be shown to it cannot be used: {error}")))
            }
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("pando/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(300)))
            .build();
        let tcp = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let agent = match &tls {
            Some(tls) => Agent::with_parts(config, tcp.chain(Tls(Arc::clone(tls))), DefaultResolver::default()),
            None => Agent::with_parts(config, tcp, DefaultResolver::default()),
        };
        let address = match reference.address() {
            plain if own => plain.replacen("http://", "https://", 1),
            address => address,
        };
        let scopes = vec![format!("repository:{}:pull", reference.repository)];
        Self { agent, reference, address, login, manners, mistrust, met: false, authorization: None, scopes }
    }

    fn url(&self, what: &str) -> String {
        format!("{}/v2/{}/{what}", self.address, self.reference.repository)
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
        self.scopes = vec![format!("repository:{}:pull,push", self.reference.repository)];
        let mut from = from.filter(|from| *from != self.reference.repository);
        if let Some(from) = from {
            self.scopes.push(format!("repository:{from}:pull"));
        }
        let mut sent = Sent::default();
        for (blob, path) in blobs {
            let mount = if self.has(blob, &mut from)? { Mount::Done } else { self.mount(blob, from)? };
            let begun = match mount {
                Mount::Done => {
                    sent.there += blob.size;
                    continue;
                }
                Mount::Begun(begun) => Some(begun),
                Mount::No => None,
            };
            self.upload(blob, path, begun, &mut |bytes| progress(sent.bytes + bytes))?;
            sent.blobs += 1;
            sent.bytes += blob.size;
        }
        let ask = Ask::new("PUT", self.url(&format!("manifests/{}", self.reference.tag)))
            .with(header::CONTENT_TYPE, MANIFEST)
            .sending(Payload::Bytes(manifest));
        let answer = self.call(&ask)?;
        if answer.status().is_success() { Ok(sent) } else { Err(self.complaint(answer, "naming")) }
    }

    /// Whether a blob is there. A token server that knows no other repository gives no token for two: then there is
    /// no other one.
    fn has(&mut self, blob: &Descriptor, from: &mut Option<&str>) -> Result<bool, ImageError> {
        let ask = Ask::new("HEAD", self.url(&format!("blobs/{}", blob.digest)));
        let mut answer = self.call(&ask);
        if from.is_some() && matches!(answer, Err(ImageError::Denied { .. })) {
            *from = None;
            self.scopes.truncate(1);
            answer = self.call(&ask);
        }
        let answer = answer?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.complaint(answer, "asking for a layer of")),
        }
    }
}

impl Origin for Registry {
    fn manifest(&mut self, digest: Option<&str>) -> Result<Vec<u8>, ImageError> {
        let tag = digest.map_or_else(|| self.reference.tag.clone(), str::to_owned);
        let ask = Ask::new("GET", self.url(&format!("manifests/{tag}"))).with(header::ACCEPT, ACCEPTED);
        let answer = self.call(&ask)?;
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
        let url = self.url(&format!("blobs/{digest}"));
        let answer = self.call(&Ask::new("GET", url.clone()))?;
        if !answer.status().is_success() {
            return Err(self.complaint(answer, "taking a layer of"));
        }
        let left = self.manners.tries;
        Ok(Box::new(Coming { registry: self, url, body: answer.into_body().into_reader(), at: 0, left }))
    }
}

/// A blob on its way; where the connection breaks, the rest is asked for.
struct Coming<'a> {
    registry: &'a mut Registry,
    url: String,
    body: BodyReader<'static>,
    at: u64,
    left: u32,
}

impl Coming<'_> {
    fn rest(&mut self) -> io::Result<()> {
        let ask = Ask::new("GET", self.url.clone()).with(header::RANGE, format!("bytes={}-", self.at));
        let answer = self.registry.call(&ask).map_err(io::Error::other)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(io::Error::other(self.registry.complaint(answer, "taking a layer of")));
        }
        self.body = answer.into_body().into_reader();
        if status != StatusCode::PARTIAL_CONTENT {
            // It gives all again.
            io::copy(&mut (&mut self.body).take(self.at), &mut io::sink())?;
        }
        Ok(())
    }
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.body.read(buffer) {
                Ok(got) => {
                    self.at += got as u64;
                    return Ok(got);
                }
                Err(error) if self.left == 0 => return Err(error),
                Err(_) => {
                    self.left -= 1;
                    self.rest()?;
                }
            }
        }
    }
}

fn document(answer: Response<Body>) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    answer.into_body().into_reader().take(MOST_JSON).read_to_end(&mut bytes).map_err(ImageError::Stream)?;
    Ok(bytes)
}

/// Bytes of a file, counted as they go.
struct Counted<'a> {
    from: &'a File,
    at: u64,
    end: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let got = std::os::unix::fs::FileExt::read_at(self.from, buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += got as u64;
        (self.progress)(self.at);
        Ok(got)
    }
}
