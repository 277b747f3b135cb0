//! `io-affinity`: each core has its own path.

use std::fmt::Write;

use super::super::super::super::io::CoreId;
use super::super::super::{Arguments, Refusal, refuse};
use super::{Policy, Slot};

/// One past the highest core a mask may name.
const CORES_MAX: usize = 1024;
/// Hexadecimal digits between two commas of a mask.
const GROUP_DIGITS: usize = 8;

/// A mask per path says which cores use it. A core without a usable path of its own takes the first usable one, and counts a
/// miss. (The kernel first looks for a path of the same NUMA node; which core is on which node is not known here.)
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoAffinity {
    /// By path, the cores as the table names them, in words of 32, the lowest first.
    masks: Vec<Vec<u32>>,
    /// By core, the path that named it first.
    claims: Vec<Option<Slot>>,
    /// This core's own path.
    own: Option<Slot>,
    /// Usable paths in the order of the table.
    usable: Vec<bool>,
    misses: u64,
}

/// Reads a mask: hexadecimal digits, a comma between each eight, the highest cores first.
fn mask(word: &str) -> Result<Vec<u32>, String> {
    let wrong = || {
        format!(
            "core mask '{word}' is not hexadecimal, in groups of at most {GROUP_DIGITS} digits with commas between them"
        )
    };
    let mut groups = Vec::new();
    for group in word.rsplit(',') {
        let plain = group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if group.is_empty() || group.len() > GROUP_DIGITS || !plain {
            return Err(wrong());
        }
        groups.push(u32::from_str_radix(group, 16).map_err(|_| wrong())?);
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.len() * 32 > CORES_MAX {
        return Err(format!(
            "core mask '{word}' names cores past {}",
            CORES_MAX - 1
        ));
    }
    Ok(groups)
}

/// The cores that a mask names.
fn cores(mask: &[u32]) -> impl Iterator<Item = usize> + '_ {
    let bits = mask.len() * 32;
    (0..bits).filter(|core| mask[core / 32] >> (core % 32) & 1 == 1)
}

impl Policy for IoAffinity {
    const NAME: &'static str = "io-affinity";
    const INFO_WORDS: usize = 1;
    const TABLE_WORDS: usize = 1;

    fn build(_arguments: &mut Arguments<'_>) -> Result<IoAffinity, Refusal> {
        Ok(IoAffinity::default())
    }

    fn add(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Refusal> {
        let word = arguments.word("the core mask")?;
        let mask = mask(word)?;
        let slot = Slot(self.usable.len() as u16);
        let mut claimed = false;
        for core in cores(&mask) {
            if self.claims.len() <= core {
                self.claims.resize(core + 1, None);
            }
            claimed |= *self.claims[core].get_or_insert(slot) == slot;
        }
        if !claimed {
            return refuse(format!(
                "core mask '{word}' leaves the path without a core: it names none that is not another path's already"
            ));
        }
        self.masks.push(mask);
        self.usable.push(true);
        Ok(())
    }

    fn bind(&mut self, core: CoreId) {
        self.own = self.claims.get(usize::from(core.0)).copied().flatten();
    }

    #[inline]
    fn select(&mut self, _bytes: u64, _now_ns: u64) -> Option<Slot> {
        if let Some(own) = self.own
            && self.usable[usize::from(own.0)]
        {
            return Some(own);
        }
        let any = self.usable.iter().position(|usable| *usable)?;
        self.misses += 1;
        Some(Slot(any as u16))
    }

    fn fail(&mut self, slot: Slot) {
        let usable = std::mem::replace(&mut self.usable[usize::from(slot.0)], false);
        assert!(usable, "only a usable path fails");
    }

    fn reinstate(&mut self, slot: Slot) {
        let usable = std::mem::replace(&mut self.usable[usize::from(slot.0)], true);
        assert!(!usable, "only a failed path is reinstated");
    }

    fn info(&self, _slot: Slot, text: &mut String) {
        let _ = write!(text, " {}", self.misses);
    }

    fn table(&self, slot: Slot, text: &mut String) {
        let mut groups = self.masks[usize::from(slot.0)].iter().rev();
        let highest = groups.next().expect("a path has a core");
        let _ = write!(text, " {highest:x}");
        for group in groups {
            let _ = write!(text, ",{group:08x}");
        }
    }
}
