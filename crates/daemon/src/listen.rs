//! One accept loop for both kinds of listener: bounded in connections, with a limit on how long a request's
//! head may take, and with an end that lets answers under way go out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use pando_model::{ErrorKind, Problem};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Connections of one listener at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers under way may take once the daemon was told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// What can be accepted from.
pub(crate) trait Listener: Send {
    /// A connection of it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        let stream = self.accept().await?.0;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Binds the TCP listener. Only to this machine: the protocol is not encrypted.
pub(crate) async fn bind_tcp(listen: SocketAddr) -> Result<TcpListener, Problem> {
    if !listen.ip().is_loopback() {
        let problem = Problem::new(ErrorKind::Refused, format!("{listen} is reachable from other machines"));
        return Err(problem.hint("listen on 127.0.0.1 and let others in through a tunnel or a proxy with TLS"));
    }
    TcpListener::bind(listen).await.map_err(|error| {
        let mut problem = Problem::new(ErrorKind::Failed, format!("the daemon cannot listen on {listen}"));
        problem.causes.push(error.to_string());
        problem.hint("choose another address with --listen, for example --listen 127.0.0.1:0")
    })
}

/// Serves connections until told to stop.
pub(crate) async fn accept(listener: impl Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async { (Arc::clone(&free).acquire_owned().await, listener.next().await) };
        let (permit, stream) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            next = next => next,
        };
        let Ok(permit) = permit else { break };
        match stream {
            Ok(stream) => {
                tokio::spawn(serve_one(stream, router.clone(), graceful.watcher(), permit));
            }
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were cut");
    }
}

async fn serve_one<S>(stream: S, router: Router, watcher: Watcher, _permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use pando_api::{Client, ClientError, Endpoint, InitRequest};

    #[tokio::test]
    async fn addresses_of_other_machines_are_refused() {
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7117"] {
            let problem = bind_tcp(listen.parse().expect("address")).await.expect_err("refused");
            assert_eq!(problem.kind, ErrorKind::Refused);
        }
        assert!(bind_tcp("127.0.0.1:0".parse().expect("address")).await.is_ok());
    }

    #[tokio::test]
    async fn the_client_speaks_over_both_listeners_and_the_loop_ends() {
        let version = || async { axum::Json(serde_json::json!({"version": "1", "home": "/h"})) };
        let router = crate::guard::limited(Router::new().route("/v1", get(version)));
        let dir = tempfile::tempdir().expect("dir");
        let socket = dir.path().join("s");
        let (told, stop) = watch::channel(false);
        let tcp = bind_tcp("127.0.0.1:0".parse().expect("address")).await.expect("bound");
        let address = tcp.local_addr().expect("address");
        let guarded = crate::guard::guarded(router.clone(), pando_host::secret::Secret::new("right"));
        let unix = UnixListener::bind(&socket).expect("bound");
        let loops =
            [tokio::spawn(accept(unix, router, stop.clone())), tokio::spawn(accept(tcp, guarded, stop.clone()))];

        let local = Client::new(Endpoint::Unix(socket.clone()));
        assert_eq!(local.version().await.expect("version").home, "/h");
        let missing = local.init(&InitRequest::default()).await.expect_err("no such call");
        assert!(matches!(missing, ClientError::Problem(problem) if problem.kind == ErrorKind::NotFound));
        assert!(matches!(local.list().await, Err(ClientError::Problem(_))));
        let over_tcp = |token: &str| {
            Client::new(Endpoint::parse(&format!("http://{address}"), Some(token.to_owned())).expect("endpoint"))
        };
        assert_eq!(over_tcp("right").version().await.expect("version").version, "1");
        assert!(matches!(over_tcp("wrong").version().await, Err(ClientError::Unauthorized { .. })));

        told.send(true).expect("heard");
        for ended in loops {
            ended.await.expect("ended");
        }
        assert!(matches!(local.version().await, Err(ClientError::Unreachable { .. })));
    }
}
