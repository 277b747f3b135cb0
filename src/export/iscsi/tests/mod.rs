//! The protocol core against memory: what an initiator sends, and what must come back.

mod aca;
mod changes;
mod chap;
mod copy;
mod data;
mod hostile;
mod kept;
mod line;
mod login;
mod manage;
mod ready;
mod resize;
mod sanitize;
mod tas;
mod ways;
