//! A running node, built from a plan: backing devices, reactors, mapped devices, exports, in that order; taken down in the
//! opposite one.
//!
//! Everything that can be refused is refused before the first port is opened; whatever fails after that takes down what was
//! started, so nothing is ever half-started.

mod build;

use std::sync::Arc;
use std::time::Duration;

use crate::bdev;
use crate::config::{Error, Plan};
use crate::engine::Engine;
use crate::reactor::NotStopped;

/// How long a node that is told to stop waits for I/O that is in flight before it ends all the same.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    engine: Engine,
}

impl Node {
    /// Builds and starts everything a plan asks for.
    ///
    /// # Errors
    /// What could not be opened, at its place in the configuration; then nothing runs.
    pub fn start(plan: &Plan) -> Result<Node, Error> {
        let engine = build::engine(plan)?;
        let node = Node { engine };
        match build::devices(plan, &node.engine) {
            Ok(()) => Ok(node),
            Err(error) => {
                // Nothing was exported yet, so nothing is in flight.
                let _ = node.stop();
                Err(error)
            }
        }
    }

    /// The engine: devices and their verbs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The backing devices.
    pub fn bdevs(&self) -> &Arc<bdev::Registry> {
        self.engine.bdevs()
    }

    /// Stops: no new connections, what is in flight ends or is given up after [`STOP_WITHIN`].
    ///
    /// # Errors
    /// Names the reactors that had not come to rest.
    pub fn stop(&self) -> Result<(), NotStopped> {
        self.engine.stop(STOP_WITHIN)
    }
}
