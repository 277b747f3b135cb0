//! cfg
mod source;
