//! What stands between a client and a server on loopback and is not always well: it answers in the server's place, or
//! cuts a request or an answer off in the middle. Each request has a connection of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is answered with a status, and gets no further. Then follow header lines, each with its end.
    Answer(u16, &'static str),
    /// After so many bytes of its body the connection breaks.
    CutRequest(u64),
    /// After so many bytes of the answer, head and all.
    CutAnswer(u64),
}

/// A bad line to a server. Its threads end with the process.
#[derive(Debug)]
pub struct FaultyHttp {
    port: u16,
}

impl FaultyHttp {
    /// Stands before a port. `fault` is asked for each request, with its first line and the length of its body.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn before(port: u16, mut fault: impl FnMut(&str, u64) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binding a port on loopback");
        let own = listener.local_addr().expect("the address just bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One after the other: a client of a registry has one request at a time.
                let _ = pass(stream, port, &mut fault);
            }
        });
        Self { port: own }
    }

    /// Its host and port, as references begin with.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn pass(client: TcpStream, port: u16, fault: &mut impl FnMut(&str, u64) -> Fault) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut to_client = client;
    let mut head = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let small = line.to_lowercase();
        if let Some(told) = small.strip_prefix("content-length:") {
            length = told.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
        if !small.starts_with("connection:") {
            head.push(line);
        }
    }
    let first = head.first().cloned().unwrap_or_default();
    let fault = fault(first.trim(), length);
    if let Fault::Answer(status, lines) = fault {
        write!(to_client, "HTTP/1.1 {status} Fault\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
        // What was being sent is taken all the same: a connection that is reset loses its answer.
        let _ = std::io::copy(&mut reader.take(length), &mut std::io::sink());
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    write!(server, "{}Connection: close\r\n\r\n", head.concat())?;
    let most = if let Fault::CutRequest(bytes) = fault { bytes } else { length };
    std::io::copy(&mut reader.take(length.min(most)), &mut server)?;
    if let Fault::CutRequest(_) = fault {
        server.shutdown(Shutdown::Both)?;
        return to_client.shutdown(Shutdown::Both);
    }
    let most = if let Fault::CutAnswer(bytes) = fault { bytes } else { u64::MAX };
    std::io::copy(&mut server.take(most), &mut to_client)?;
    to_client.shutdown(Shutdown::Both)
}
