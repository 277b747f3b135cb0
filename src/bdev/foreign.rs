//! Backing devices that another engine opens: names, uses and removal are the same for them, what they are made of is not.

use std::any::Any;

use crate::dm::{Lower, LowerId};

use super::Spec;
use super::error::Error;

/// Opens the backing devices of another engine. Called by threads of the control plane, and may block.
pub trait Foreign: Send + Sync {
    /// Opens a device. What it declares has `id` and `name`.
    ///
    /// # Errors
    /// Why it could not be opened.
    fn open(&self, id: LowerId, name: &str, spec: &Spec) -> Result<Opened, Error>;
}

/// A device that another engine has opened.
pub struct Opened {
    /// Its kind, as the configuration calls it.
    pub kind: &'static str,
    /// What it can do.
    pub declared: Lower,
    /// What it is made of, for that engine to find again. Dropped when nobody has the device open, on any thread.
    pub body: Box<dyn Any + Send + Sync>,
}
