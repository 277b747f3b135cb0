//! Paths and groups: which are usable, and which takes the next I/O (5.2, MP-9, MP-10).
//!
//! What all cores must agree on (which paths have failed, which group is current) changes only by what reaches every copy in the
//! same order: messages, and notices that the home core found to be news. A core that sees a path fail stops using it at once, as
//! *suspect*, and tells the home core. Until the notice has come back it makes do with other paths, without leaving the group.
//!
//! | | changed by | |
//! |---|---|---|
//! | failed | message, notice | the path's state, as INFO shows it |
//! | suspect | an error seen here | not used here until the notice comes back, or a reinstatement |
//! | lost | its device was taken away | not used here any more |
//! | gone | the notice of that | failed for good |
//! | resting | a reinstatement | valid, but used only after a pause (MP-7) |

use super::super::super::io::CoreId;
use super::super::ChannelIndex;
use super::selector::{Selector, Slot};

/// After this many reinstatements in a row that no I/O's success followed, the next one is followed by a pause.
const FLAPS_UNTIL_REST: u32 = 3;
/// The first such pause, in nanoseconds; it doubles with each failure more.
const REST_NS: u64 = 10_000_000;
/// The longest pause: so a path that whoever reinstates it takes to be good while it is not costs each core one round of errors a second.
const REST_NS_MAX: u64 = 1_000_000_000;

/// Whether a path's device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    There,
    /// It was taken away, as this core has seen.
    Lost,
    /// It was taken away, as every core knows.
    Gone,
}

/// A path: a device, as a member of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    pub channel: ChannelIndex,
    pub group: u16,
    pub slot: Slot,
    /// Failed, and every core knows it.
    pub failed: bool,
    /// Times it became so.
    pub fail_count: u32,
    /// Reinstatements so far: what an I/O or notice of an earlier one says about the path is out of date.
    pub generation: u32,
    /// An error was seen here, and the home core has not confirmed it yet.
    suspect: bool,
    device: Device,
    /// Failures in a row of a path that had not worked since its last reinstatement.
    flaps: u32,
    /// Was reinstated, and nothing has succeeded here since.
    unproven: bool,
    /// Reinstated, but not to be used before this time.
    rests_until_ns: Option<u64>,
}

impl Path {
    /// A new, active path.
    pub fn new(channel: ChannelIndex, group: u16, slot: Slot) -> Path {
        Path {
            channel,
            group,
            slot,
            failed: false,
            fail_count: 0,
            generation: 0,
            suspect: false,
            device: Device::There,
            flaps: 0,
            unproven: false,
            rests_until_ns: None,
        }
    }

    fn usable(&self) -> bool {
        !self.failed && self.rests_until_ns.is_none() && self.promising()
    }

    /// Nothing is known here that speaks against the path, beyond what all know.
    fn promising(&self) -> bool {
        !self.suspect && self.device == Device::There
    }

    /// Becomes failed; whether it was not.
    fn fail(&mut self) -> bool {
        self.suspect = false;
        self.rests_until_ns = None;
        let news = !std::mem::replace(&mut self.failed, true);
        self.fail_count += u32::from(news);
        news
    }
}

/// A group of paths, with its selector.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its paths' places, from here.
    pub first: u16,
    /// How many.
    pub count: u16,
    pub selector: Selector,
    /// Only used when no other group can be.
    pub bypassed: bool,
    /// Paths that have not failed.
    pub valid: u16,
    /// Paths that this core may use now.
    pub usable: u16,
}

impl Group {
    /// A group of `count` active paths.
    pub fn new(first: u16, count: u16, selector: Selector) -> Group {
        Group {
            first,
            count,
            selector,
            bypassed: false,
            valid: count,
            usable: count,
        }
    }
}

/// Whether the current group has taken I/O since it became current, as INFO shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    No,
    /// On this core, and the home core has not been told.
    Here,
    /// The home core knows, or is the one.
    Known,
}

/// A suspicion, for the other cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// As of which reinstatement.
    pub generation: u32,
    /// It never worked since then.
    pub unproven: bool,
}

/// All groups and their paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Paths {
    paths: Vec<Path>,
    groups: Vec<Group>,
    /// The group to change to as soon as it has a valid path, or another one has.
    next: Option<u16>,
    current: Option<u16>,
    used: Used,
}

impl Paths {
    /// All paths active, beginning with the group `initial`, counted from 1; 0 without groups (MP-3).
    pub fn new(paths: Vec<Path>, groups: Vec<Group>, initial: u16) -> Paths {
        let mut all = Paths {
            paths,
            groups,
            next: initial.checked_sub(1),
            current: None,
            used: Used::No,
        };
        all.settle();
        all
    }

    /// All paths, in the order of the table.
    pub fn all(&self) -> &[Path] {
        &self.paths
    }

    /// All groups, in the order of the table.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The copy of the target lives on this core from now on.
    pub fn bind(&mut self, core: CoreId) {
        for group in &mut self.groups {
            group.selector.bind(core);
        }
    }

    /// The group that takes, or would take, I/O, counted from 1; 0 without groups (5.8).
    pub fn shown_group(&self) -> u16 {
        let first = (!self.groups.is_empty()).then_some(0);
        self.next.or(self.current).or(first).map_or(0, |at| at + 1)
    }

    /// A group's letter in INFO: `D` bypassed, `A` taking I/O, `E` otherwise.
    pub fn letter(&self, group: usize) -> char {
        let current = self.current.map(usize::from) == Some(group);
        match self.groups[group].bypassed {
            true => 'D',
            false if current && self.used != Used::No => 'A',
            false => 'E',
        }
    }

    /// Chooses a path for an I/O of `bytes` and counts it there: the path's place, and its generation (5.2).
    #[inline]
    pub fn start(&mut self, bytes: u64, now_ns: u64) -> Option<(u16, u32)> {
        let at = match self.current {
            Some(at) if self.groups[usize::from(at)].usable > 0 => {
                if self.used == Used::No {
                    self.used = Used::Here;
                }
                at
            }
            _ => self.scan(|group| group.usable > 0)?,
        };
        let group = &mut self.groups[usize::from(at)];
        let slot = group.selector.start(bytes, now_ns);
        let path = group.first + slot.expect("the group has a usable path").0;
        Some((path, self.paths[usize::from(path)].generation))
    }

    /// An I/O that [`Paths::start`] counted has ended.
    #[inline]
    pub fn end(&mut self, path: u16, bytes: u64, started_ns: u64, now_ns: u64) {
        let Path { group, slot, .. } = self.paths[usize::from(path)];
        let selector = &mut self.groups[usize::from(group)].selector;
        selector.end(slot, bytes, started_ns, now_ns);
    }

    /// The path works: an I/O ended without a path error. The group to announce to the home core, if this is the first I/O it
    /// took here since it became current.
    #[inline]
    pub fn works(&mut self, path: u16) -> Option<u16> {
        let path = &mut self.paths[usize::from(path)];
        path.unproven = false;
        if self.used != Used::Here || self.current != Some(path.group) {
            return None;
        }
        self.used = Used::Known;
        self.current
    }

    /// Some core has used the group.
    pub fn announced(&mut self, group: u16) {
        if self.current == Some(group) {
            self.used = Used::Known;
        }
    }

    /// An I/O that was started as of `generation`, of which the lower 16 bits count, met a path error: what to tell the others, if
    /// it is the first to say so. An I/O from before a reinstatement says nothing about the path as it is now.
    pub fn suspect(&mut self, path: u16, generation: u32) -> Option<Suspicion> {
        let known = &self.paths[usize::from(path)];
        if known.failed || known.suspect || known.generation as u16 != generation as u16 {
            return None;
        }
        let suspicion = Suspicion {
            generation: known.generation,
            unproven: known.unproven,
        };
        self.change(path, |path| path.suspect = true);
        Some(suspicion)
    }

    /// A suspicion of some core, in its turn: the path fails, unless it was reinstated since. Whether that is news (MP-9).
    pub fn confirm(&mut self, path: u16, suspicion: Suspicion) -> bool {
        let known = self.paths.get(usize::from(path));
        if known.is_none_or(|path| path.generation != suspicion.generation) {
            return false;
        }
        let mut news = false;
        self.change(path, |path| {
            news = path.fail();
            if news {
                path.flaps = if suspicion.unproven {
                    path.flaps + 1
                } else {
                    0
                };
            }
        });
        self.settle();
        news
    }

    /// A device was taken away: its paths are not used here any more. Whether this copy did not know.
    pub fn take_away(&mut self, channel: ChannelIndex) -> bool {
        let mut news = false;
        for index in self.on(channel) {
            self.change(index, |path| {
                if path.device == Device::There {
                    path.device = Device::Lost;
                    news = true;
                }
            });
        }
        news
    }

    /// Some core has seen the device taken away. Whether that is news.
    pub fn confirm_gone(&mut self, channel: ChannelIndex) -> bool {
        let mut news = false;
        for index in self.on(channel) {
            self.change(index, |path| {
                news |= std::mem::replace(&mut path.device, Device::Gone) != Device::Gone;
                path.fail();
            });
        }
        self.settle();
        news
    }

    /// Whether every core knows that the device was taken away.
    pub fn is_gone(&self, channel: ChannelIndex) -> bool {
        self.paths
            .iter()
            .any(|path| path.channel == channel && path.device == Device::Gone)
    }

    /// Fails all paths on a device; whether any was not failed.
    pub fn fail(&mut self, channel: ChannelIndex) -> bool {
        let mut news = false;
        for index in self.on(channel) {
            self.change(index, |path| news |= path.fail());
        }
        self.settle();
        news
    }

    /// Reinstates all paths on a device that is there; whether any was failed (MP-10).
    pub fn reinstate(&mut self, channel: ChannelIndex, now_ns: u64) -> bool {
        let mut news = false;
        for index in self.on(channel) {
            self.change(index, |path| {
                path.generation = path.generation.wrapping_add(1);
                path.suspect = false;
                path.unproven = true;
                if std::mem::replace(&mut path.failed, false) {
                    news = true;
                    path.rests_until_ns = rest_ns(path.flaps).map(|rest| now_ns + rest);
                }
            });
        }
        self.settle();
        news
    }

    /// Changes to a group, counted from 0, and forgets all bypasses (5.5).
    pub fn switch(&mut self, group: u16) {
        for group in &mut self.groups {
            group.bypassed = false;
        }
        self.choose_again();
        self.next = Some(group);
        self.settle();
    }

    /// Sets or clears a group's bypass, and chooses the group anew.
    pub fn bypass(&mut self, group: u16, bypassed: bool) {
        self.groups[usize::from(group)].bypassed = bypassed;
        self.choose_again();
        self.settle();
    }

    /// No path is valid, as far as every core knows.
    pub fn none_valid(&self) -> bool {
        self.groups.iter().all(|group| group.valid == 0)
    }

    /// This core may use some path now.
    pub fn any_usable(&self) -> bool {
        self.groups.iter().any(|group| group.usable > 0)
    }

    /// Some path will be usable after its pause.
    pub fn any_resting(&self) -> bool {
        let rests = |path: &Path| path.rests_until_ns.is_some() && path.promising();
        self.paths.iter().any(rests)
    }

    /// When the next pause is over; `u64::MAX` when there is none.
    pub fn due_ns(&self) -> u64 {
        let pauses = self.paths.iter().filter_map(|path| path.rests_until_ns);
        pauses.min().unwrap_or(u64::MAX)
    }

    /// Ends the pauses that are over.
    pub fn timer(&mut self, now_ns: u64) {
        for index in 0..self.paths.len() as u16 {
            self.change(index, |path| {
                path.rests_until_ns = path.rests_until_ns.filter(|until| *until > now_ns);
            });
        }
    }

    /// The places of the paths on a device.
    fn on(&self, channel: ChannelIndex) -> impl Iterator<Item = u16> + use<> {
        let on = |at: &u16| self.paths[usize::from(*at)].channel == channel;
        let places: Vec<u16> = (0..self.paths.len() as u16).filter(on).collect();
        places.into_iter()
    }

    /// Changes a path, and what its group counts.
    fn change(&mut self, index: u16, change: impl FnOnce(&mut Path)) {
        let path = &mut self.paths[usize::from(index)];
        let before = (path.usable(), path.failed);
        change(path);
        let group = &mut self.groups[usize::from(path.group)];
        match (before.0, path.usable()) {
            (true, false) => {
                group.selector.fail(path.slot);
                group.usable -= 1;
            }
            (false, true) => {
                group.selector.reinstate(path.slot);
                group.usable += 1;
            }
            _ => {}
        }
        match (before.1, path.failed) {
            (false, true) => group.valid -= 1,
            (true, false) => group.valid += 1,
            _ => {}
        }
        assert!(group.usable <= group.valid && group.valid <= group.count);
    }

    fn choose_again(&mut self) {
        self.current = None;
        self.next = None;
    }

    /// Chooses the current group as soon as something has changed, rather than with the next I/O: so all cores choose the same (5.2).
    fn settle(&mut self) {
        let before = self.current;
        let valid = |at: u16| self.groups[usize::from(at)].valid > 0;
        if self.none_valid() {
            self.current = None;
        } else if let Some(next) = self.next.take().filter(|next| valid(*next)) {
            self.current = Some(next);
        } else if !self.current.is_some_and(valid) {
            self.current = self.scan(|group| group.valid > 0);
        }
        if self.current != before {
            self.used = Used::No;
        }
    }

    /// The first group that is able, those that are bypassed last.
    fn scan(&self, able: impl Fn(&Group) -> bool) -> Option<u16> {
        let find = |bypassed| {
            let fits = |group: &Group| group.bypassed == bypassed && able(group);
            self.groups.iter().position(fits)
        };
        find(false).or_else(|| find(true)).map(|at| at as u16)
    }
}

/// How long a path rests after a reinstatement, given its failures in a row (MP-7).
fn rest_ns(flaps: u32) -> Option<u64> {
    let doublings = flaps.checked_sub(FLAPS_UNTIL_REST)?;
    let rest_ns = REST_NS.checked_shl(doublings.min(16))?;
    Some(rest_ns.min(REST_NS_MAX))
}
