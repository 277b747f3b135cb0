//! (under construction) What one core tells another about a device.

/// A message between the mappers of two cores.
#[derive(Debug)]
pub enum Message {}
