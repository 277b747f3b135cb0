//! The control plane: JSON-RPC 2.0 on a UNIX socket, with one typed [`schema`] for server and client; and Prometheus.
//!
//! # On the wire
//!
//! A stream socket of mode 0600. Every message is one line: UTF-8 JSON without a raw line feed in it, ended by one. Requests of a
//! connection are answered in their order, one at a time; connections do not wait for each other. Empty lines are ignored.
//! Parameters go by name. Batches of up to [`rpc::BATCH_MAX`] requests and notifications are what JSON-RPC says they are.
//!
//! ```text
//! → {"jsonrpc":"2.0","id":1,"method":"dm.suspend","params":{"name":"vol0"}}
//! ← {"jsonrpc":"2.0","id":1,"result":{}}
//! → {"jsonrpc":"2.0","id":2,"method":"dm.remove","params":{"name":"vol0"}}
//! ← {"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":"device 'vol0' is in use: …","data":{"errno":"EBUSY","errno_number":16}}}
//! ```
//!
//! The method `schema` answers with JSON Schemas of all of them. By hand: `echo '{"jsonrpc":"2.0","id":1,"method":"dm.ls"}' | nc -U SOCKET`.
//!
//! | what | bound | then |
//! |---|---|---|
//! | connections | [`server::CONNECTIONS_MAX`] | error [`rpc::TOO_MANY_CONNECTIONS`], closed |
//! | bytes of a request | [`server::REQUEST_BYTES_MAX`] | error; the line is skipped, the connection lives |
//! | time from a request's first byte to its line feed | [`server::REQUEST_TIME_MAX`] | error, closed |
//! | time to take a response | [`server::RESPONSE_TIME_MAX`] | closed |
//! | silence between requests | [`server::IDLE_TIME_MAX`] | closed |
//!
//! A client that goes away while its verb waits for I/O gives the verb up: a suspend, alone or as part of a resume or swap, is
//! cancelled and the device runs on, as with a dmsetup that is interrupted; a wait ends. Every other verb ends as it would
//! have, and its answer is dropped.
//!
//! | file | what is in it |
//! |---|---|
//! | [`schema`] | methods, parameters, results |
//! | `backend` | what is needed of a node ([`Backend`]), and the methods in those terms ([`Service`]) |
//! | `native`, `native_iscsi` | the native engine's node as a backend |
//! | [`rpc`], `lines`, [`server`], [`socket`] | the server, from one request to the socket's file |
//! | [`client`] | the client |
//! | [`metrics`] | the Prometheus endpoint |

mod backend;
pub mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fake;
mod iscsi;
mod latency;
mod lines;
pub mod metrics;
mod native;
mod native_iscsi;
pub mod rpc;
pub mod schema;
pub mod server;
pub mod socket;
#[cfg(feature = "spdk")]
mod spdk;

pub use backend::{Asker, Backend, Service};
pub use client::{Client, ClientError};
pub use iscsi::IscsiTargets;
pub use server::Server;
pub use socket::{BindError, Socket};
