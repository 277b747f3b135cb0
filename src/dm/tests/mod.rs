//! The mapper as a whole, on several cores, against what the semantics say. Tests are named by the ids they show.

mod mapping;
mod oracle;
