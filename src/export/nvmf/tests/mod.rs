//! The protocol core against memory: what a host sends, and what must come back.

mod admin;
mod ana;
mod bounds;
mod host;
mod hostile;
mod io;
mod live;
mod streams;
mod target;
mod zeroes;
