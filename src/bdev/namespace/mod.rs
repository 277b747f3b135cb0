//! What backing devices that are NVMe namespaces have in common, however commands get there: over TCP (`bdev/remote`) or through the
//! kernel's driver (`bdev/passthrough`).
//!
//! | file | what is in it |
//! |---|---|
//! | `traits` | what a namespace and its controller say of themselves, as limits and abilities |
//! | `walk` | one I/O as NVMe commands, one at a time |
//! | `verdict` | what a completion means (MP-13) |

mod traits;
mod verdict;
mod walk;

pub(super) use traits::{Geometry, Limits, Traits, size};
pub(crate) use verdict::verdict;
pub(super) use walk::Walk;
