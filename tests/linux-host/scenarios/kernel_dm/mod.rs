//! polldm against the guest kernel's own device mapper: the same stories are told to both, and what each answers is compared, word by word.
//!
//! A story is a text file (`tests/linux-host/stories`), one step per line: dmsetup's verbs, which are polldm's too, and the I/O of a program. Where
//! the two are known to differ, the lines below the step say how, and which heading of `docs/differences-from-linux.md` says why:
//!
//! ```text
//! message v 0 fail_path {a}
//!     linux: EBUSY
//!     polldm: ok
//!     why: Messages while suspended
//! ```
//!
//! Any other difference is an error; so is a known one that is no more.

mod kernel;
mod polldm;
mod story;

use super::Context;
use crate::guest::Setting;
use story::Story;

/// The stories, with their names.
const STORIES: [(&str, &str); 3] = [
    ("life-cycle", include_str!("../../stories/life-cycle.txt")),
    (
        "small-targets",
        include_str!("../../stories/small-targets.txt"),
    ),
    ("multipath", include_str!("../../stories/multipath.txt")),
];

/// What the differences are explained in.
const EXPLANATIONS: &str = include_str!("../../../../docs/differences-from-linux.md");

/// Backing devices that stories may name, each of [`LOWER_MIB`].
const LOWERS: [&str; 3] = ["a", "b", "c"];
/// Size of a backing device.
const LOWER_MIB: u64 = 32;

/// All stories, told to both. Every difference that is not known is shown, not only the first.
pub fn same_as_the_kernel(context: &Context<'_>) -> Result<(), String> {
    let retries = "/sys/module/nvme_core/parameters/max_retries";
    let retries = Setting::change(context.guest, retries, "0")?;
    let mut wrong = Vec::new();
    for (name, text) in STORIES {
        let story = Story::read(name, text)?;
        wrong.extend(story.unexplained(EXPLANATIONS));
        // Both at once: neither has anything to do with the other.
        let linux = kernel::start(context, &story)?;
        let polldm = polldm::tell(context, &story)?;
        let linux = linux.outcomes(&story)?;
        wrong.extend(story.compare(&linux, &polldm));
    }
    // Failed I/O is part of the stories.
    context.expect_io_errors("nvme")?;
    retries.restore()?;
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "the two are not what the stories say:\n{}",
            wrong.join("\n")
        )),
    }
}
