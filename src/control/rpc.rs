//! JSON-RPC 2.0 over lines: what one line asks, and the line that answers it.

use serde_json::{Value, json};

use super::backend::Service;
use super::schema::{Failure, METHOD_NAMES, dispatch};
use crate::suggest::nearest;

/// Most requests of one batch, so that one line cannot keep a connection's thread for long.
pub const BATCH_MAX: usize = 64;

/// The line is not JSON (JSON-RPC 2.0, section 5.1).
pub const PARSE_ERROR: i64 = -32700;
/// It is JSON, but no request.
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method takes other parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// A defect of the server.
pub const INTERNAL_ERROR: i64 = -32603;
/// The method was refused; `data` has `errno` and `errno_number`. The first of the numbers left to servers.
pub const REFUSED: i64 = -32000;
/// All connections that the server allows are in use.
pub const TOO_MANY_CONNECTIONS: i64 = -32001;

/// An error as JSON-RPC has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorObject {
    /// Which error: one of the constants here.
    pub code: i64,
    /// What was wrong and what would be right.
    pub message: String,
    /// For [`REFUSED`]: the errno.
    pub data: Option<Value>,
}

impl ErrorObject {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> ErrorObject {
        ErrorObject {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// The response that carries it.
    pub fn response(self, id: Value) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    }
}

impl From<Failure> for ErrorObject {
    fn from(failure: Failure) -> ErrorObject {
        match failure {
            Failure::Params(reason) => ErrorObject::new(INVALID_PARAMS, reason),
            Failure::Internal(reason) => ErrorObject::new(INTERNAL_ERROR, reason),
            Failure::Refused(error) => ErrorObject {
                code: REFUSED,
                message: error.reason,
                data: Some(
                    json!({ "errno": error.errno.name(), "errno_number": error.errno as i32 }),
                ),
            },
        }
    }
}

/// Answers one line. `None` when nothing in it wants an answer.
pub fn answer(service: &Service, line: &[u8]) -> Option<Value> {
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("this line is not JSON: {error}");
            return Some(ErrorObject::new(PARSE_ERROR, message).response(Value::Null));
        }
    };
    let Value::Array(batch) = request else {
        return answer_one(service, request);
    };
    if batch.is_empty() || batch.len() > BATCH_MAX {
        let message = format!("a batch has 1 to {BATCH_MAX} requests, not {}", batch.len());
        return Some(ErrorObject::new(INVALID_REQUEST, message).response(Value::Null));
    }
    let answers: Vec<Value> = batch
        .into_iter()
        .filter_map(|request| answer_one(service, request))
        .collect();
    // A batch of notifications is answered by nothing at all, not by an empty list (section 6).
    (!answers.is_empty()).then_some(Value::Array(answers))
}

fn answer_one(service: &Service, request: Value) -> Option<Value> {
    let mut request = match request {
        Value::Object(request) => request,
        other => {
            let message = format!("a request is an object, not {}", kind(&other));
            return Some(ErrorObject::new(INVALID_REQUEST, message).response(Value::Null));
        }
    };
    let id = request.remove("id");
    let result = match check(&request, id.as_ref()) {
        Ok(method) => run(
            service,
            method,
            request.get("params").unwrap_or(&Value::Null),
        ),
        // What is no request is no notification either: it is answered in any case (section 5.1).
        Err(error) => {
            let id = id.filter(|id| matches!(id, Value::String(_) | Value::Number(_)));
            return Some(error.response(id.unwrap_or(Value::Null)));
        }
    };
    let id = id?;
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => error.response(id),
    })
}

/// Checks the envelope; the method's name.
fn check<'a>(
    request: &'a serde_json::Map<String, Value>,
    id: Option<&Value>,
) -> Result<&'a str, ErrorObject> {
    let invalid = |message: String| Err(ErrorObject::new(INVALID_REQUEST, message));
    match request.get("jsonrpc") {
        Some(Value::String(version)) if version == "2.0" => {}
        Some(other) => return invalid(format!("'jsonrpc' must be \"2.0\", not {other:.40}")),
        None => return invalid("'jsonrpc' is missing: it must be \"2.0\"".into()),
    }
    if let Some(id @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) = id {
        return invalid(format!("'id' is a string or a number, not {}", kind(id)));
    }
    match request.get("method") {
        Some(Value::String(method)) => Ok(method),
        Some(other) => invalid(format!("'method' is a string, not {}", kind(other))),
        None => invalid("'method' is missing: 'schema' describes all there are".into()),
    }
}

fn run(service: &Service, method: &str, params: &Value) -> Result<Value, ErrorObject> {
    match dispatch(service, method, params) {
        Some(result) => result.map_err(ErrorObject::from),
        None => Err(ErrorObject::new(METHOD_NOT_FOUND, unknown_method(method))),
    }
}

fn unknown_method(method: &str) -> String {
    let shown: String = method
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    // Most slips are a forgotten room: 'create' for 'dm.create'.
    let in_a_room = METHOD_NAMES
        .iter()
        .find(|name| name.rsplit('.').next() == Some(method))
        .copied();
    let meant = in_a_room.or_else(|| nearest(method, METHOD_NAMES.iter().copied()));
    match meant {
        Some(name) => format!("there is no method '{shown}'; did you mean '{name}'?"),
        None => format!("there is no method '{shown}'; 'schema' describes all there are"),
    }
}

/// What a value is, for a message.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The one harness for hostile input: unit test, property test and fuzz target all call it. Whatever the line is, it is answered by
/// JSON-RPC on one line, or it was a notification.
#[cfg(any(test, fuzzing))]
pub fn fuzz_request(data: &[u8]) {
    use super::backend::Asker;
    use std::sync::Arc;
    // Of somebody who has gone away, so that nothing waits for an event that never comes.
    let service = Service::new(Arc::new(super::fake::Fake::with_devices())).to(Asker {
        gone: Arc::new(|| true),
        stopping: Arc::new(|| false),
    });
    for line in data.split(|byte| *byte == b'\n') {
        let Some(answer) = answer(&service, line) else {
            continue;
        };
        let answers = answer
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![answer.clone()]);
        assert!(!answers.is_empty());
        for answer in answers {
            assert_eq!(answer["jsonrpc"], "2.0");
            assert!(
                matches!(
                    answer["id"],
                    Value::Null | Value::Number(_) | Value::String(_)
                ),
                "{answer}"
            );
            assert_ne!(
                answer.get("result").is_some(),
                answer.get("error").is_some(),
                "{answer}"
            );
            assert!(!answer.to_string().contains('\n'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_answered(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_request(&data);
        }

        #[test]
        fn nearly_requests_are_answered(
            method in prop::sample::select(METHOD_NAMES),
            key in prop::sample::select(vec!["name", "table", "new_name", "bdev", "force", "uuid", "flush", "nsid", "device", "nqn", "target"]),
            value in prop::sample::select(vec!["\"vol0\"", "null", "7", "[]", "{}", "\"0 8 zero\"", r#"{"null":{"name":"n","size":512}}"#, "1e400", "true"]),
            cut in 0usize..120,
        ) {
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":{value},"method":"{method}","params":{{"name":"vol0","{key}":{value}}}}}"#
            );
            fuzz_request(text.as_bytes());
            fuzz_request(&text.as_bytes()[..cut.min(text.len())]);
        }
    }

    #[test]
    fn a_wait_of_somebody_who_has_gone_ends() {
        fuzz_request(br#"{"jsonrpc":"2.0","id":1,"method":"dm.wait","params":{"name":"vol0"}}"#);
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        fuzz_request(&[b'['; 1 << 20]);
        fuzz_request("{\"a\":".repeat(1 << 16).as_bytes());
    }
}
