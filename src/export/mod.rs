//! The ways hosts reach mapped devices.

pub mod nvmf;
