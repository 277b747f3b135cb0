//! As much of HTTP/1.1 as a scraper speaks: one request, one answer, the connection closed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Most bytes of a request line and its header. Scrapers send a few hundred.
pub const HEADER_BYTES_MAX: usize = 8 << 10;
/// Most bytes that are still read, and thrown away, after an answer.
const REST_BYTES_MAX: usize = 64 << 10;
/// How long a peer has to close its side after an answer. It keeps the next scraper, and a stop, waiting.
const REST_TIME_MAX: Duration = Duration::from_millis(100);

/// The media type of the text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    /// Further header lines, each ended.
    header: &'static str,
    media_type: &'static str,
    body: String,
    /// The body's length is told but the body is not sent (HEAD).
    header_only: bool,
}

impl Answer {
    fn refusal(status: &'static str, reason: &str) -> Answer {
        let media_type = "text/plain; charset=utf-8";
        Answer {
            status,
            header: "",
            media_type,
            body: format!("{reason}\n"),
            header_only: false,
        }
    }
}

/// Serves one connection, within `time_max`.
///
/// # Errors
/// When the peer goes away or is too slow to take the answer.
pub(super) fn serve(
    stream: &TcpStream,
    time_max: Duration,
    metrics: impl FnOnce() -> Result<String, String>,
) -> io::Result<()> {
    let deadline = Instant::now() + time_max;
    let answer = match read_header(stream, deadline)? {
        Header::Whole(header) => answer(&header, metrics),
        Header::TooLarge => Answer::refusal(
            "431 Request Header Fields Too Large",
            "the header is too large",
        ),
        Header::TooSlow => {
            Answer::refusal("408 Request Timeout", "the request did not end in time")
        }
        Header::Gone => return Ok(()),
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        answer.status,
        answer.media_type,
        answer.body.len(),
        answer.header
    );
    let body = if answer.header_only { "" } else { &answer.body };
    write_within(stream, format!("{head}{body}").as_bytes(), deadline)?;
    stream.shutdown(Shutdown::Write)?;
    // Closed with bytes unread, the kernel would reset the connection and the answer might be lost on its way.
    drain(stream, deadline.min(Instant::now() + REST_TIME_MAX))
}

/// What a request wants: the method and the path are all that matters.
fn answer(header: &[u8], metrics: impl FnOnce() -> Result<String, String>) -> Answer {
    let bad = || Answer::refusal("400 Bad Request", "this is not HTTP/1.1");
    let line = header
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return bad();
    };
    let words: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let [method, target, version] = words[..] else {
        return bad();
    };
    if !version.starts_with("HTTP/1.") {
        return bad();
    }
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET" | "HEAD", "/metrics") => match metrics() {
            Ok(body) => Answer {
                status: "200 OK",
                header: "",
                media_type: MEDIA_TYPE,
                body,
                header_only: method == "HEAD",
            },
            Err(reason) => Answer::refusal("503 Service Unavailable", &reason),
        },
        (_, "/metrics") => {
            let refusal = Answer::refusal(
                "405 Method Not Allowed",
                "only GET and HEAD are served here",
            );
            Answer {
                header: "Allow: GET, HEAD\r\n",
                ..refusal
            }
        }
        _ => Answer::refusal("404 Not Found", "the metrics are at /metrics"),
    }
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// A request line and header, ended by an empty line.
    Whole(Vec<u8>),
    TooLarge,
    TooSlow,
    Gone,
}

fn read_header(mut stream: &TcpStream, deadline: Instant) -> io::Result<Header> {
    let mut header = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if ends(&header) {
            return Ok(Header::Whole(header));
        }
        if header.len() >= HEADER_BYTES_MAX {
            return Ok(Header::TooLarge);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Header::TooSlow);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(Header::Gone),
            Ok(read) => header.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(Header::TooSlow);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether there is an empty line: lenient about lone line feeds, as RFC 9112, 2.2 allows.
fn ends(header: &[u8]) -> bool {
    header.windows(4).any(|four| four == b"\r\n\r\n") || header.windows(2).any(|two| two == b"\n\n")
}

fn write_within(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until the peer has closed, has sent too much, or time is up.
fn drain(mut stream: &TcpStream, deadline: Instant) -> io::Result<()> {
    let mut chunk = [0; 1024];
    let mut drained = 0;
    while drained < REST_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => drained += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What is answered to `request` when the peer then closes its side.
    fn ask(request: &[u8], time_max: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let server =
            std::thread::spawn(move || serve(&stream, time_max, || Ok("a 1\n".to_owned())));
        // The server may answer and close before it has read everything.
        let _ = peer.write_all(request);
        let mut answer = String::new();
        let _ = peer.read_to_string(&mut answer);
        drop(peer);
        let _ = server.join().unwrap();
        answer
    }

    fn status(request: &[u8]) -> String {
        let answer = ask(request, Duration::from_secs(60));
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn one_path_two_methods() {
        let get = ask(
            b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            Duration::from_secs(60),
        );
        assert!(
            get.ends_with("\r\n\r\na 1\n") && get.contains("version=0.0.4"),
            "{get}"
        );
        let head = ask(b"HEAD /metrics HTTP/1.0\r\n\r\n", Duration::from_secs(60));
        assert!(
            head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        let post = ask(b"POST /metrics HTTP/1.1\r\n\r\n", Duration::from_secs(60));
        assert!(
            post.starts_with("HTTP/1.1 405 Method Not Allowed")
                && post.contains("Allow: GET, HEAD"),
            "{post}"
        );
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for request in [
            &b"\n\n"[..],
            b"GET /metrics\r\n\r\n",
            b"GET /metrics FTP/1\r\n\r\n",
            b"\xff\xfe x HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(status(request), "HTTP/1.1 400 Bad Request", "{request:?}");
        }
        let large = [
            b"GET /metrics HTTP/1.1\r\n".to_vec(),
            vec![b'x'; HEADER_BYTES_MAX],
        ]
        .concat();
        assert_eq!(
            status(&large),
            "HTTP/1.1 431 Request Header Fields Too Large"
        );
    }

    #[test]
    fn half_a_request_is_given_up() {
        let answer = ask(b"GET /metrics HT", Duration::from_millis(20));
        // The time for the answer is up as well: it is sent only if the system takes it at once.
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
}
