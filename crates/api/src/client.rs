//! The typed client: one method per call, one connection per request.
//!
//! A connection per request costs a fraction of a millisecond on a socket and leaves nothing to be kept
//! alive, closed or found dead after the daemon was restarted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pando_model::{
    ApplyPlan, BookmarkRequest, CloneRequest, ComposeView, DiskView, DoctorView, EventView, ExportRequest,
    ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, ImageView, ImportRequest, LeaseRequest,
    LinkRequest, ListView, LogView, MomentRequest, Name, OperationId, OperationView, Problem, RefreshRequest, ShowView,
    SnapshotRequest, TimelineView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::body::{InitRequest, VersionView};
use crate::endpoint::Endpoint;
use crate::paths;

/// An answer above this is not one of ours.
const MAX_ANSWER: usize = 64 << 20;

/// A host that drops packets would else hold the caller for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no pando daemon answers at {endpoint}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the answer was whole.
    #[error("the connection to the pando daemon at {endpoint} broke")]
    Broken {
        /// Where the daemon was.
        endpoint: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer came that is not Pando's.
    #[error("what answers at {endpoint} is not a pando daemon of this version ({found})")]
    Foreign {
        /// Where it was asked.
        endpoint: String,
        /// What came, in short.
        found: String,
    },
    /// The token is missing or wrong.
    #[error("the pando daemon at {endpoint} does not accept the token")]
    Unauthorized {
        /// Where it was asked.
        endpoint: String,
    },
    /// The daemon answered with a problem.
    #[error(transparent)]
    Problem(#[from] Problem),
}

/// Speaks to one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

type Answer<T> = Result<T, ClientError>;

/// The calls.
impl Client {
    /// A client of the daemon at `endpoint`. Connects only when asked something.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Version and home of the daemon.
    pub async fn version(&self) -> Answer<VersionView> {
        self.get(paths::ROOT).await
    }

    /// Makes or adopts a pool.
    pub async fn init(&self, body: &InitRequest) -> Answer<DoctorView> {
        self.call(Method::POST, paths::INIT, Some(body)).await
    }

    /// What is there, what is missing.
    pub async fn doctor(&self) -> Answer<DoctorView> {
        self.get(paths::DOCTOR).await
    }

    /// Apps and clones.
    pub async fn list(&self) -> Answer<ListView> {
        self.get(paths::LIST).await
    }

    /// One app or clone.
    pub async fn show(&self, name: &Name) -> Answer<ShowView> {
        self.get(&paths::name(name)).await
    }

    /// One app or clone, without the bytes that only it holds: counting them may take a moment.
    pub async fn show_uncounted(&self, name: &Name) -> Answer<ShowView> {
        self.get(&paths::name_uncounted(name)).await
    }

    /// The moments that can be asked for.
    pub async fn timeline(&self, name: &Name) -> Answer<TimelineView> {
        self.get(&paths::under_name(name, "timeline")).await
    }

    /// What a Compose project on clones of an app begins with.
    pub async fn compose_files(&self, app: &Name) -> Answer<ComposeView> {
        self.get(&paths::under_name(app, "compose")).await
    }

    /// The end of the servers' logs.
    pub async fn logs(&self, name: &Name, source: Option<&Name>) -> Answer<LogView> {
        self.get(&paths::logs(name, source)).await
    }

    /// Who uses how many bytes.
    pub async fn disk(&self) -> Answer<DiskView> {
        self.get(paths::DISK).await
    }

    /// Links an app.
    pub async fn link(&self, body: &LinkRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::APPS, Some(body)).await
    }

    /// Links an app, or changes it to what is asked for.
    pub async fn apply(&self, body: &LinkRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::APPLY, Some(body)).await
    }

    /// What applying would change.
    pub async fn plan(&self, body: &LinkRequest) -> Answer<ApplyPlan> {
        self.call(Method::POST, paths::APPLY_PLAN, Some(body)).await
    }

    /// Removes an app and its timeline.
    pub async fn unlink(&self, app: &Name) -> Answer<OperationView> {
        self.bare(Method::DELETE, &paths::app(app)).await
    }

    /// Makes a clone.
    pub async fn clone_app(&self, body: &CloneRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::CLONES, Some(body)).await
    }

    /// Removes a clone.
    pub async fn remove(&self, clone: &Name) -> Answer<OperationView> {
        self.bare(Method::DELETE, &paths::clone(clone)).await
    }

    /// Starts a clone's servers.
    pub async fn start(&self, clone: &Name) -> Answer<OperationView> {
        self.bare(Method::POST, &paths::clone_verb(clone, "start")).await
    }

    /// Stops a clone's servers.
    pub async fn stop(&self, clone: &Name) -> Answer<OperationView> {
        self.bare(Method::POST, &paths::clone_verb(clone, "stop")).await
    }

    /// Gives a clone the data of a moment of its parent.
    pub async fn refresh(&self, clone: &Name, body: &RefreshRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::clone_verb(clone, "refresh"), Some(body)).await
    }

    /// Sets a clone back to a moment of its own.
    pub async fn rewind(&self, clone: &Name, body: &MomentRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::clone_verb(clone, "rewind"), Some(body)).await
    }

    /// Takes back the last refresh or rewind.
    pub async fn undo(&self, clone: &Name) -> Answer<OperationView> {
        self.bare(Method::POST, &paths::clone_verb(clone, "undo")).await
    }

    /// Makes a clone durable, recording, and kept for ever.
    pub async fn promote(&self, clone: &Name) -> Answer<OperationView> {
        self.bare(Method::POST, &paths::clone_verb(clone, "promote")).await
    }

    /// Changes a clone's lease.
    pub async fn lease(&self, clone: &Name, body: &LeaseRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::clone_verb(clone, "lease"), Some(body)).await
    }

    /// Takes a snapshot of an app or clone.
    pub async fn snapshot(&self, name: &Name, body: &SnapshotRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::under_name(name, "snapshots"), Some(body)).await
    }

    /// Gives a moment a name.
    pub async fn bookmark(&self, name: &Name, body: &BookmarkRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::under_name(name, "bookmarks"), Some(body)).await
    }

    /// Forgets a bookmark.
    pub async fn unbookmark(&self, name: &Name, bookmark: &Name) -> Answer<OperationView> {
        self.bare(Method::DELETE, &paths::bookmark(name, bookmark)).await
    }

    /// Begins to stream an app or clone at a moment.
    pub async fn export(&self, name: &Name, body: &ExportRequest) -> Answer<OperationView> {
        self.call(Method::POST, &paths::under_name(name, "exports"), Some(body)).await
    }

    /// Begins to make a clone of an archive.
    pub async fn import(&self, body: &ImportRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::IMPORTS, Some(body)).await
    }

    /// Images with data in them.
    pub async fn images(&self) -> Answer<Vec<ImageView>> {
        self.bare(Method::GET, paths::IMAGES).await
    }

    /// Begins to make an image.
    pub async fn build_image(&self, body: &ImageRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::IMAGES, Some(body)).await
    }

    /// Begins to send an image to its registry.
    pub async fn push_image(&self, body: &ImagePushRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::IMAGE_PUSH, Some(body)).await
    }

    /// Begins to write an image as one file, which [`Client::take_data`] gives.
    pub async fn save_image(&self, body: &ImageSaveRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::IMAGE_SAVE, Some(body)).await
    }

    /// Begins to forget an image.
    pub async fn remove_image(&self, body: &ImageRemoveRequest) -> Answer<OperationView> {
        self.call(Method::POST, paths::IMAGE_REMOVE, Some(body)).await
    }

    /// What an `export` or an image as a file gives, piece by piece. Whether it was whole says the operation.
    pub async fn take_data(
        &self,
        id: &OperationId,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Answer<Result<(), io::Error>> {
        let request = self.request(Method::GET, &paths::data(id), None::<&()>)?;
        let (response, driver) = self.open(request).await?;
        let (head, mut body) = response.into_parts();
        if !head.status.is_success() {
            let text = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| self.broken(error))?.to_bytes();
            let problem: Problem = serde_json::from_slice(&text).map_err(|error| self.foreign(head.status, &error))?;
            return Err(problem.into());
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            if let Some(bytes) = frame.data_ref()
                && let Err(error) = sink(bytes)
            {
                driver.abort();
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Gives an `import` its archive, read in a thread of its own. What became of it says the operation.
    pub async fn give_data(&self, id: &OperationId, from: impl io::Read + Send + 'static) -> Answer<OperationView> {
        let request = self.request(Method::PUT, &paths::data(id), None::<&()>)?.map(|_| Pieces::of(from));
        let (response, driver) = self.open(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let bytes = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
        driver.abort();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.foreign(status, &error));
        }
        let problem: Problem = serde_json::from_slice(&bytes).map_err(|error| self.foreign(status, &error))?;
        Err(problem.into())
    }

    /// All operations, newest first.
    pub async fn operations(&self) -> Answer<Vec<OperationView>> {
        self.get(paths::OPERATIONS).await
    }

    /// One operation; waits at most so long for its end.
    pub async fn operation(&self, id: &OperationId, wait_ms: u64) -> Answer<OperationView> {
        self.get(&paths::operation(id, wait_ms)).await
    }

    /// Events above a sequence; waits at most so long for one.
    pub async fn events(&self, since: u64, wait_ms: u64) -> Answer<Vec<EventView>> {
        self.get(&paths::events(since, wait_ms)).await
    }
}

/// The wire.
impl Client {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        self.bare(Method::GET, path).await
    }

    async fn bare<T: DeserializeOwned>(&self, method: Method, path: &str) -> Answer<T> {
        self.call(method, path, None::<&()>).await
    }

    async fn call<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&B>) -> Answer<T> {
        let (status, bytes) = self.exchange(self.request(method, path, body)?).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.foreign(status, &error));
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(ClientError::Unauthorized { endpoint: self.endpoint.to_string() });
        }
        let problem: Problem = serde_json::from_slice(&bytes).map_err(|error| self.foreign(status, &error))?;
        Err(problem.into())
    }

    fn request<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Answer<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(method).uri(path).header(HOST, self.endpoint.authority());
        if let Endpoint::Tcp { token: Some(token), .. } = &self.endpoint {
            builder = builder.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            Some(body) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|error| self.broken(error))?
            }
            None => Vec::new(),
        };
        builder.body(Full::new(bytes.into())).map_err(|error| self.broken(error))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer<(StatusCode, Bytes)> {
        let (response, driver) = self.open(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let bytes = body.collect().await;
        driver.abort();
        Ok((status, bytes.map_err(|error| self.broken(error))?.to_bytes()))
    }

    /// Sends a request on a connection of its own. Whoever aborts the driver cuts the connection.
    async fn open<B>(&self, request: Request<B>) -> Answer<(Response<Incoming>, Driver)>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.broken(error))?;
        // The connection's own error reaches the caller through the request it breaks.
        let driver = Driver(tokio::spawn(async { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        Ok((response, driver))
    }

    async fn connect(&self) -> Answer<Stream> {
        let opening = async {
            match &self.endpoint {
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
                Endpoint::Tcp { host, port, .. } => TcpStream::connect((host.as_str(), *port)).await.map(Stream::Tcp),
            }
        };
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, opening).await;
        opened
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| ClientError::Unreachable { endpoint: self.endpoint.to_string(), source })
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { endpoint: self.endpoint.to_string(), source: source.into() }
    }

    fn foreign(&self, status: StatusCode, error: &serde_json::Error) -> ClientError {
        ClientError::Foreign { endpoint: self.endpoint.to_string(), found: format!("status {status}, {error}") }
    }
}

/// What moves a connection's bytes; the connection goes with it.
struct Driver(tokio::task::JoinHandle<()>);

impl Driver {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.abort();
    }
}

/// A body that is read in a thread of its own.
struct Pieces(tokio::sync::mpsc::Receiver<io::Result<Bytes>>);

impl Pieces {
    fn of(mut from: impl io::Read + Send + 'static) -> Self {
        let (pieces, body) = tokio::sync::mpsc::channel(4);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            loop {
                let piece = match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(got) => Ok(Bytes::copy_from_slice(buffer.get(..got).unwrap_or_default())),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if pieces.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Self(body)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(hyper::body::Frame::data)))
    }
}

/// Either kind of connection, so that everything above is written once.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
