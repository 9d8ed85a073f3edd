//! Bytes between a call and an operation: the facade hands out one end of a socket pair.
//!
//! A stream that breaks ends; whether it was whole says the operation, not the stream.

use std::io;
use std::os::unix::net::UnixStream as Blocking;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use pando_model::{ErrorKind, Problem};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;

use crate::answer::{Answer, Failure};

const PIECE: usize = 1 << 17;

fn failed(error: &io::Error) -> Failure {
    Problem::from_error(ErrorKind::Failed, error).into()
}

fn asynchronous(stream: Blocking) -> Answer<UnixStream> {
    stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).map_err(|error| failed(&error))
}

/// An answer whose body is what the operation writes.
pub(crate) fn out(stream: Blocking) -> Answer<Response> {
    let body = Body::new(Reading { stream: asynchronous(stream)?, buffer: vec![0; PIECE] });
    Ok(([(CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// Hands a body on to the operation. An operation that ends before its end has its own words for that.
pub(crate) async fn into(mut body: Body, stream: Blocking) -> Answer<()> {
    let mut stream = asynchronous(stream)?;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { break };
        if let Some(bytes) = frame.data_ref()
            && stream.write_all(bytes).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

struct Reading {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl HttpBody for Reading {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { stream, buffer } = self.get_mut();
        let mut space = ReadBuf::new(buffer);
        if let Err(error) = ready!(Pin::new(stream).poll_read(cx, &mut space)) {
            return Poll::Ready(Some(Err(error)));
        }
        let filled = space.filled();
        Poll::Ready((!filled.is_empty()).then(|| Ok(Frame::data(Bytes::copy_from_slice(filled)))))
    }
}
