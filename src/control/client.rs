//! The client: calls the schema's methods on a server, one after another.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::schema::Method;

/// Longest response that is read. The server bounds requests; what it answers about a hundred thousand targets fits.
const RESPONSE_BYTES_MAX: u64 = 256 << 20;
/// For sending a request. Answers may take as long as the I/O a suspend waits for.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a call came to nothing.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers at the socket.
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    Io(io::Error),
    /// The server has hung up without an answer.
    HungUp,
    /// What came back is no answer to the request.
    Protocol(String),
    /// The server refused.
    Refused {
        /// JSON-RPC's number.
        code: i64,
        /// What was wrong and what would be right.
        message: String,
        /// The errno's name, when an operation on a device was refused.
        errno: Option<String>,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { path, error } => {
                let path = path.display();
                match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => write!(
                        f,
                        "no polldm serves on {path}: start one with 'polldm serve FILE', or name its socket with --socket"
                    ),
                    io::ErrorKind::PermissionDenied => {
                        write!(f, "the control socket {path} belongs to another user")
                    }
                    _ => write!(f, "cannot connect to the control socket {path}: {error}"),
                }
            }
            ClientError::Io(error) => write!(f, "the connection to the server broke: {error}"),
            ClientError::HungUp => write!(f, "the server ended before it answered"),
            ClientError::Protocol(reason) => {
                write!(f, "the server's answer makes no sense: {reason}")
            }
            ClientError::Refused {
                message,
                errno: Some(errno),
                ..
            } => write!(f, "{message} ({errno})"),
            ClientError::Refused {
                message,
                errno: None,
                ..
            } => write!(f, "{message}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A response as it is read.
#[derive(Deserialize)]
struct Response {
    id: Value,
    result: Option<Value>,
    error: Option<ResponseError>,
}

#[derive(Deserialize)]
struct ResponseError {
    code: i64,
    message: String,
    data: Option<Value>,
}

/// A connection to a control server.
pub struct Client {
    stream: BufReader<UnixStream>,
    next_id: u64,
}

impl Client {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// When nobody serves there.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_write_timeout(Some(SEND_TIME_MAX))?;
            Ok(stream)
        });
        let stream = connected.map_err(|error| ClientError::Connect {
            path: path.to_owned(),
            error,
        })?;
        Ok(Client {
            stream: BufReader::new(stream),
            next_id: 1,
        })
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// What the server refused, or how the connection failed.
    pub fn call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({
            "jsonrpc": "2.0",
            "id": id,
            "method": M::NAME,
            "params": serde_json::to_value(params).map_err(|error| ClientError::Protocol(error.to_string()))?,
        });
        let sent = self
            .stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes());
        let response = match (self.receive(), sent) {
            // A server that is full says so and closes without having read the request.
            (Ok(response), _) => response,
            (Err(_), Err(error)) => return Err(ClientError::Io(error)),
            (Err(error), Ok(())) => return Err(error),
        };
        if let Some(error) = response.error {
            let errno = error
                .data
                .as_ref()
                .and_then(|data| data["errno"].as_str())
                .map(str::to_owned);
            return Err(ClientError::Refused {
                code: error.code,
                message: error.message,
                errno,
            });
        }
        if response.id != json!(id) {
            return Err(ClientError::Protocol(format!(
                "it answers request {}, not {id}",
                response.id
            )));
        }
        let result = response
            .result
            .ok_or_else(|| ClientError::Protocol("it has no result".into()))?;
        serde_json::from_value(result)
            .map_err(|error| ClientError::Protocol(format!("{}: {error}", M::NAME)))
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream)
            .take(RESPONSE_BYTES_MAX)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(ClientError::HungUp),
            Ok(_) if line.last() != Some(&b'\n') => Err(ClientError::HungUp),
            Ok(_) => serde_json::from_slice(&line)
                .map_err(|error| ClientError::Protocol(error.to_string())),
            Err(error) => Err(ClientError::Io(error)),
        }
    }
}
