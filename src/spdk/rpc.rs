//! What SPDK is asked by its own JSON-RPC, over the UNIX socket that it listens on: the one interface to bdev modules and targets that SPDK keeps
//! from version to version; their functions are not among what SPDK installs.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// How long SPDK may take for an answer. To attach an NVMe controller over a network can take seconds; SPDK itself gives up after ten.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of an answer at the most: all bdevs of a large node, many times over.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// SPDK's JSON-RPC server.
pub(super) struct Rpc {
    socket: PathBuf,
}

/// Why a method was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub method: String,
    /// JSON-RPC's code, or a negative errno; 0 when SPDK gave no answer.
    pub code: i64,
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SPDK's {} says: {}", self.method, self.message)
    }
}

impl Rpc {
    pub fn new(socket: PathBuf) -> Rpc {
        Rpc { socket }
    }

    /// Calls a method and waits for what it returns. Blocks; not for a thread of SPDK's.
    ///
    /// # Errors
    /// What SPDK has against it.
    pub fn call(&self, method: &str, params: Value) -> Result<Value, Refused> {
        let refused = |code, message: String| Refused {
            method: method.into(),
            code,
            message,
        };
        let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        if params.as_object().is_none_or(|params| !params.is_empty()) {
            request["params"] = params;
        }
        let mut answer = self
            .exchange(&request.to_string())
            .map_err(|error| refused(0, format!("{}: {error}", self.socket.display())))?;
        if let Some(error) = answer.get("error") {
            let code = error.get("code").and_then(Value::as_i64).unwrap_or(0);
            let message = error.get("message").and_then(Value::as_str).unwrap_or("?");
            return Err(refused(code, message.into()));
        }
        Ok(answer
            .get_mut("result")
            .map(Value::take)
            .unwrap_or_default())
    }

    fn exchange(&self, request: &str) -> std::io::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(request.as_bytes())?;
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = match stream.read(&mut part) {
                // A read with a time limit ends so when the process was stopped and goes on (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&part[..length]);
            match serde_json::from_slice(&text) {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_eof() && text.len() < ANSWER_BYTES_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    /// One server that gives one answer to one request, in two parts.
    fn server(directory: &Path, answer: &'static str) -> (Rpc, std::thread::JoinHandle<Value>) {
        let socket = directory.join("spdk.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).expect("a request");
            let (first, second) = answer.split_at(answer.len() / 2);
            stream.write_all(first.as_bytes()).expect("taken");
            stream.write_all(second.as_bytes()).expect("taken");
            serde_json::from_slice(&request[..length]).expect("JSON")
        });
        (Rpc::new(socket), thread)
    }

    #[test]
    fn an_answer_in_parts_and_a_refusal() {
        let directory = tempfile::tempdir().expect("a directory");
        let (rpc, thread) = server(
            directory.path(),
            r#"{"jsonrpc":"2.0","id":1,"result":["a"]}"#,
        );
        assert_eq!(rpc.call("m", json!({ "x": 1 })), Ok(json!(["a"])));
        let request = thread.join().expect("served");
        assert_eq!(request["params"], json!({ "x": 1 }));

        let directory = tempfile::tempdir().expect("a directory");
        let (rpc, thread) = server(
            directory.path(),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-17,"message":"File exists"}}"#,
        );
        let refused = rpc.call("m", json!({})).expect_err("refused");
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (-17, "File exists")
        );
        // SPDK refuses parameters where a method has none.
        assert!(thread.join().expect("served").get("params").is_none());
    }

    /// A signal ends a read that has a time limit, whatever its handler says of restarting.
    #[test]
    fn a_signal_does_not_end_the_wait() {
        extern "C" fn nothing(_: libc::c_int) {}
        let handler = nothing as extern "C" fn(libc::c_int);
        // SAFETY: a handler that does nothing, for a signal that nobody else uses here.
        unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("spdk.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        // SAFETY: names this thread.
        let caller = unsafe { libc::pthread_self() };
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).expect("a request");
            // So many that some meet the read, before there is anything to be read.
            for _ in 0..1000 {
                // SAFETY: the thread is there: it waits for the answer, and then for this one.
                unsafe { libc::pthread_kill(caller, libc::SIGUSR2) };
                std::thread::yield_now();
            }
            let answer = br#"{"jsonrpc":"2.0","id":1,"result":true}"#;
            stream.write_all(answer).expect("taken");
        });
        assert_eq!(Rpc::new(socket).call("m", json!({})), Ok(json!(true)));
        thread.join().expect("served");
    }

    #[test]
    fn nobody_there_is_an_error() {
        let rpc = Rpc::new("/nonexistent/spdk.sock".into());
        assert_eq!(rpc.call("m", json!({})).expect_err("refused").code, 0);
    }
}
