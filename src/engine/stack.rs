//! Which mapped devices sit on which, and what each offers to the tables that name it.
//!
//! One lock, taken when a table is built or ends and when a device's limits change, never by I/O. Tables end, and limits are settled, on
//! reactors: so it is held for no longer than a walk over the stacked devices. Whoever needs the names' lock, too, takes that first.
//!
//! A table reserves what it uses of a device before anything is opened, and a device asks here before it gives anything up
//! ([`Stack::limits_may_become`]). Both under the one lock, so of a table that would use the end of a device and a table that would cut
//! it off, one is refused, whichever comes second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::dm::limits::Keep;
use crate::dm::{DeviceId, Errno, Error, LEVELS_MAX, Limits, Lower};

/// The mapped devices as parts of stacks.
#[derive(Debug, Default)]
pub(super) struct Stack(Mutex<Levels>);

#[derive(Debug, Default)]
struct Levels {
    by_id: BTreeMap<DeviceId, Level>,
    /// Numbers the uses.
    uses: u64,
    /// Devices that an operation on a whole stack is about.
    busy: BTreeSet<DeviceId>,
}

#[derive(Debug, Default)]
struct Level {
    name: String,
    /// Of the live table; `None` when there is none yet.
    limits: Option<Arc<Limits>>,
    /// Size in sectors and block in bytes of what the live table is about to become.
    coming: Option<(u64, u32)>,
    /// The tables that name the device.
    uses: Vec<Use>,
}

/// A table that names a device.
#[derive(Debug)]
struct Use {
    number: u64,
    /// Whose table it is.
    by: DeviceId,
    /// How much of the device it uses: the sector after the last.
    reach: u64,
}

/// Held by a table ([`Keep`]): as long as it exists, the device beneath stays.
#[derive(Debug)]
struct Hold {
    stack: Arc<Stack>,
    lower: DeviceId,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(level) = self.stack.levels().by_id.get_mut(&self.lower) {
            level.uses.retain(|one| one.number != self.number);
        }
    }
}

/// Devices that belong to one operation on a whole stack, until it is dropped.
#[derive(Debug)]
pub(super) struct Operation<'a> {
    stack: &'a Stack,
    devices: BTreeSet<DeviceId>,
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let mut levels = self.stack.levels();
        levels.busy.retain(|id| !self.devices.contains(id));
    }
}

impl Stack {
    /// A new device, which nothing can sit on before it has a live table.
    pub fn create(&self, id: DeviceId, name: &str) {
        self.levels().by_id.entry(id).or_default().name = name.into();
    }

    /// A device has another name.
    pub fn rename(&self, id: DeviceId, name: &str) {
        self.create(id, name);
    }

    /// A device is gone.
    pub fn forget(&self, id: DeviceId) {
        self.levels().by_id.remove(&id);
    }

    /// The names of the devices whose tables name this one, each once.
    pub fn users(&self, id: DeviceId) -> Vec<String> {
        let levels = self.levels();
        let names = levels.above(id).into_iter().map(|by| levels.name(by));
        names.map(str::to_owned).collect()
    }

    /// How many devices have tables that name this one.
    pub fn user_count(&self, id: DeviceId) -> u32 {
        self.levels().above(id).len() as u32
    }

    /// The devices that the live and inactive tables of this one name.
    pub fn beneath(&self, id: DeviceId) -> Vec<DeviceId> {
        self.levels().beneath(id).into_iter().collect()
    }

    /// What a device offers to a table of `upper` that names it; it is held until the table is gone. To be called with the names locked,
    /// so that it is not being removed.
    ///
    /// # Errors
    /// Why the table cannot name it: it has no live table, the device would be beneath itself (LC-10), or the stack too high.
    pub fn declare_to(self: &Arc<Self>, upper: DeviceId, lower: DeviceId) -> Result<Lower, String> {
        let mut levels = self.levels();
        if !levels.above(lower).contains(&upper) {
            levels.check_loop(upper, lower)?;
            levels.check_height(upper, lower)?;
        }
        levels.uses += 1;
        let number = levels.uses;
        let level = levels.by_id.entry(lower).or_default();
        let name = &level.name;
        let Some(limits) = &level.limits else {
            return Err(format!(
                "the mapped device '{name}' has no live table; load one and resume it first"
            ));
        };
        let mut limits = Limits::clone(limits);
        if let Some((sectors, block_bytes)) = level.coming {
            if block_bytes != limits.block_bytes {
                return Err(format!(
                    "the mapped device '{name}' is just being given a table with other blocks; try again when that is done"
                ));
            }
            limits.sectors = limits.sectors.min(sectors);
        }
        let mut declared = Lower::of_device(lower, name, &limits);
        // All of it, until the table is built and says what it uses.
        level.uses.push(Use {
            number,
            by: upper,
            reach: limits.sectors,
        });
        declared.keep = Keep(Some(Arc::new(Hold {
            stack: Arc::clone(self),
            lower,
            number,
        })));
        Ok(declared)
    }

    /// A table that names the device is built: it uses no more of it than `reach` sectors.
    pub fn set_reach(&self, lower: &Lower, reach: u64) {
        let keep = lower.keep.0.as_ref();
        let Some(hold) = keep.and_then(|keep| keep.downcast_ref::<Hold>()) else {
            return;
        };
        let mut levels = self.levels();
        let level = levels.by_id.get_mut(&hold.lower);
        let uses = level.map_or([].iter_mut(), |level| level.uses.iter_mut());
        for one in uses.filter(|one| one.number == hold.number) {
            one.reach = reach;
        }
    }

    /// Whether the tables that name a device can do with what it is about to become ([`crate::dm::Env::limits_may_become`]).
    ///
    /// # Errors
    /// Which cannot, and why.
    pub fn limits_may_become(&self, id: DeviceId, new: &Limits) -> Result<(), String> {
        let mut levels = self.levels();
        let Some(level) = levels.by_id.get(&id) else {
            return Ok(());
        };
        let old = level.limits.as_ref().map_or(new, |limits| limits);
        for one in &level.uses {
            let (user, reach) = (levels.name(one.by), one.reach);
            if reach > new.sectors {
                return Err(format!(
                    "the new table has {} sectors, and a table of '{user}' uses '{}' up to sector {reach}; give '{user}' a table that uses less of it first",
                    new.sectors, level.name
                ));
            }
            if new.block_bytes != old.block_bytes {
                return Err(format!(
                    "the new table has blocks of {} bytes and the live one of {}; '{user}', whose table names '{}', cannot follow that",
                    new.block_bytes, old.block_bytes, level.name
                ));
            }
        }
        if let Some(level) = levels.by_id.get_mut(&id) {
            level.coming = Some((new.sectors, new.block_bytes));
        }
        Ok(())
    }

    /// What a device has become ([`crate::dm::Env::limits_are`]).
    pub fn limits_are(&self, id: DeviceId, limits: &Arc<Limits>) {
        let mut levels = self.levels();
        let level = levels.by_id.entry(id).or_default();
        (level.limits, level.coming) = (Some(limits.clone()), None);
    }

    /// Begins an operation on these devices together, so that no other such operation comes in between.
    ///
    /// # Errors
    /// EBUSY when one of them is in the middle of another.
    pub fn begin(
        &self,
        devices: impl IntoIterator<Item = DeviceId>,
    ) -> Result<Operation<'_>, Error> {
        let devices: BTreeSet<DeviceId> = devices.into_iter().collect();
        let mut levels = self.levels();
        if let Some(id) = devices.intersection(&levels.busy).next() {
            let reason = format!(
                "'{}' is in the middle of another operation on a whole stack",
                levels.name(*id)
            );
            return Err(Error::new(Errno::Ebusy, reason));
        }
        levels.busy.extend(&devices);
        Ok(Operation {
            stack: self,
            devices,
        })
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

impl Levels {
    fn name(&self, id: DeviceId) -> &str {
        self.by_id.get(&id).map_or("", |level| &level.name)
    }

    fn above(&self, id: DeviceId) -> BTreeSet<DeviceId> {
        let uses = self
            .by_id
            .get(&id)
            .map_or([].iter(), |level| level.uses.iter());
        uses.map(|one| one.by).collect()
    }

    fn beneath(&self, id: DeviceId) -> BTreeSet<DeviceId> {
        let named = |level: &Level| level.uses.iter().any(|one| one.by == id);
        let lowers = self.by_id.iter().filter(|(_, level)| named(level));
        lowers.map(|(lower, _)| *lower).collect()
    }

    /// LC-10: a device is never beneath itself, by whatever live and inactive tables.
    fn check_loop(&self, upper: DeviceId, lower: DeviceId) -> Result<(), String> {
        // How the walk from `upper` upwards came to each device: from which one beneath.
        let mut reached = BTreeMap::from([(upper, upper)]);
        let mut unseen = vec![upper];
        while let Some(id) = unseen.pop() {
            for above in self.above(id) {
                if let std::collections::btree_map::Entry::Vacant(entry) = reached.entry(above) {
                    entry.insert(id);
                    unseen.push(above);
                }
            }
        }
        if !reached.contains_key(&lower) {
            return Ok(());
        }
        let mut chain = vec![self.name(upper), self.name(lower)];
        let mut id = lower;
        while id != upper {
            id = reached[&id];
            chain.push(self.name(id));
        }
        Err(format!(
            "a mapped device cannot be beneath itself: {}",
            chain.join(" on ")
        ))
    }

    fn check_height(&self, upper: DeviceId, lower: DeviceId) -> Result<(), String> {
        let above = height(upper, |id| self.above(id));
        let beneath = height(lower, |id| self.beneath(id));
        if above + beneath <= LEVELS_MAX {
            return Ok(());
        }
        Err(format!(
            "'{}' on '{}' would be part of a stack of {} mapped devices; there are at most {LEVELS_MAX} one above the other",
            self.name(upper),
            self.name(lower),
            above + beneath
        ))
    }
}

/// The devices on the longest way from `id`, itself counted. There are no loops, so it ends.
fn height(id: DeviceId, next: impl Fn(DeviceId) -> BTreeSet<DeviceId>) -> usize {
    let mut front = BTreeSet::from([id]);
    let mut height = 0;
    while !front.is_empty() {
        front = front.into_iter().flat_map(&next).collect();
        height += 1;
    }
    height
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::AtomicWrites;

    const A: DeviceId = DeviceId(0);
    const B: DeviceId = DeviceId(1);
    const C: DeviceId = DeviceId(2);

    fn limits(sectors: u64, block_bytes: u32) -> Arc<Limits> {
        Arc::new(Limits {
            sectors,
            block_bytes,
            physical_bytes: block_bytes,
            volatile_cache: false,
            discard: false,
            discard_zeroes: false,
            write_zeroes: false,
            optimal_write_bytes: block_bytes,
            atomic_writes: AtomicWrites::NONE,
            read_only: false,
        })
    }

    /// Devices with live tables of 64 sectors.
    fn stack(devices: u32) -> Arc<Stack> {
        let stack = Arc::new(Stack::default());
        for id in (0..devices).map(DeviceId) {
            stack.create(id, &format!("v{}", id.0));
            stack.limits_are(id, &limits(64, 512));
        }
        stack
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T, String>) -> String {
        result.unwrap_err()
    }

    #[test]
    fn lc_10_no_device_is_beneath_itself() {
        let stack = stack(4);
        let on_itself = refusal(stack.declare_to(A, A));
        assert!(on_itself.ends_with("itself: v0 on v0"), "{on_itself}");
        let _a_on_b = stack.declare_to(A, B).unwrap();
        let b_on_c = stack.declare_to(B, C).unwrap();
        let refused = refusal(stack.declare_to(C, A));
        assert!(
            refused.ends_with("itself: v2 on v0 on v1 on v2"),
            "{refused}"
        );
        let _c_on_d = stack.declare_to(C, DeviceId(3)).unwrap();
        drop(b_on_c);
        assert_eq!(stack.users(C), Vec::<String>::new());
        stack.declare_to(C, A).unwrap();
    }

    #[test]
    fn a_stack_has_a_greatest_height() {
        let stack = stack(LEVELS_MAX as u32 + 2);
        let on = |upper: usize, lower: usize| {
            stack.declare_to(DeviceId(upper as u32), DeviceId(lower as u32))
        };
        let mut held = Vec::new();
        // Two halves, put together at last.
        for lower in (0..LEVELS_MAX - 1).filter(|lower| *lower != 5) {
            held.push(on(lower + 1, lower).unwrap());
        }
        held.push(on(6, 5).unwrap());
        for (upper, lower) in [(LEVELS_MAX, LEVELS_MAX - 1), (0, LEVELS_MAX)] {
            let refused = refusal(on(upper, lower));
            assert!(
                refused.contains("a stack of 17 mapped devices"),
                "{refused}"
            );
        }
        // Beside it there is room.
        on(LEVELS_MAX, LEVELS_MAX - 2).unwrap();
    }

    /// LC-16: of a table that uses the end and one that cuts it off, whichever comes second is refused.
    #[test]
    fn lc_16_what_is_used_is_not_taken_away() {
        let stack = stack(3);
        let on_b = stack.declare_to(A, B).unwrap();
        assert!(
            refusal(stack.limits_may_become(B, &limits(63, 512)))
                .contains("uses 'v1' up to sector 64")
        );
        stack.set_reach(&on_b, 32);
        assert!(refusal(stack.limits_may_become(B, &limits(31, 512))).contains("of 'v0'"));
        assert!(refusal(stack.limits_may_become(B, &limits(64, 4096))).contains("cannot follow"));
        stack.limits_may_become(B, &limits(32, 512)).unwrap();
        assert_eq!(stack.declare_to(C, B).unwrap().sectors, 32, "on its way");
        stack.limits_are(B, &limits(64, 512));
        assert_eq!(stack.declare_to(C, B).unwrap().sectors, 64, "it has failed");
        stack.limits_may_become(B, &limits(128, 512)).unwrap();
        assert_eq!(stack.declare_to(C, B).unwrap().sectors, 64, "not yet");
        stack.limits_are(B, &limits(128, 512));
        assert_eq!(stack.declare_to(C, B).unwrap().sectors, 128);
        drop(on_b);
        stack.limits_may_become(B, &limits(64, 4096)).unwrap();
        assert!(refusal(stack.declare_to(A, B)).contains("other blocks"));
    }

    #[test]
    fn operations_on_stacks_that_share_a_device_exclude_each_other() {
        let stack = stack(3);
        let first = stack.begin([A, B]).unwrap();
        let refused = stack.begin([B, C]).unwrap_err();
        assert!(
            refused.reason.starts_with("'v1' is in the middle"),
            "{refused}"
        );
        let beside = stack.begin([C]).unwrap();
        drop(first);
        stack.begin([A, B]).unwrap();
        drop(beside);
    }
}
