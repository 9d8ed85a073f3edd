//! A hostile or broken server as the client meets it: answers without end, drop by drop, or none.

use std::net::TcpListener;
use std::thread;

use super::*;

/// A server that answers a question with these bytes, then with `more` until nobody listens, each after a pause.
fn answering(first: &'static [u8], more: Vec<u8>, pause: Duration) -> Client {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 100];
        let _ = stream.read(&mut asked).unwrap();
        stream.write_all(first).unwrap();
        loop {
            SystemClock.sleep(pause);
            if stream.write_all(&more).is_err() {
                return;
            }
        }
    });
    Client::tcp("127.0.0.1", port).unwrap()
}

#[test]
fn an_answer_without_end_is_given_up() {
    let begun = SystemClock.instant();
    for (first, more) in [
        (&b"$9999999999\r\n"[..], "x"),
        (b"$9223372036854775807\r\n", "x"),
        (b"*9999999999\r\n", ":1\r\n"),
        (b"*9223372036854775807\r\n", "*1\r\n:1\r\n"),
        (b"*1000\r\n", "$1000000\r\n"),
        (b"", "+x"),
    ] {
        let mut client = answering(first, more.repeat(1 << 16).into_bytes(), Duration::ZERO);
        let answer = client.call(&["INFO"]);
        assert!(matches!(answer, Err(ClientError::Flood | ClientError::Nonsense)), "{first:?} {more}: {answer:?}");
        assert!(client.bytes <= MOST || !matches!(first, b"*1000\r\n"), "{} bytes were read", client.bytes);
        // The rest of it is no answer to the next question.
        assert!(matches!(client.call(&["PING"]), Err(ClientError::Io(_))));
    }
    assert!(begun.elapsed() < WHOLE);
}

#[test]
fn an_answer_as_large_as_they_get_is_read() {
    let text = [&b"*2\r\n$15000000\r\n"[..], &[b'x'; 15_000_000], b"\r\n*2000\r\n", &b":1\r\n".repeat(2000)].concat();
    let mut client = answering(text.leak(), b"+OK\r\n".to_vec(), Duration::from_millis(10));
    let answer = client.call(&["FUNCTION", "DUMP"]).unwrap();
    assert_eq!(
        answer.list().iter().map(|part| (part.text().len(), part.list().len())).collect::<Vec<_>>(),
        [(15_000_000, 0), (0, 2000)]
    );
    assert_eq!(client.call(&["PING"]).unwrap(), Reply::Text(b"OK".to_vec()));
}

#[test]
fn one_that_is_silent_or_never_ends_its_answer_is_said_to_be_so() {
    let said = |mut client: Client| {
        client.stream.get_mut().whole = Duration::from_secs(6);
        client.call(&["INFO"]).unwrap_err().to_string()
    };
    let silent = said(answering(b"", Vec::new(), Duration::from_millis(100)));
    assert_eq!(silent, "the connection failed: the server has not answered within 5 s");
    let drops = said(answering(b"$100\r\n", b"x".to_vec(), Duration::from_millis(100)));
    assert_eq!(drops, "the connection failed: the server has not answered within 6 s");
}
