//! Namespaces: what every core is told of them, and each core's own copy.
//!
//! The list of a subsystem's namespaces is kept by the [`super::target`] and sent to every core when it changes; the data path looks only at its core's
//! copy, which also counts (no lock, no shared counter per I/O: AT-90).

use std::sync::Arc;

use crate::dm::{DeviceId, Geometry};
use crate::export::stats::CommandStats;
use crate::nvme::Status;
use crate::nvme::log::AnaState;

/// A namespace as configured; the same on every core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub nsid: u32,
    /// The mapped device.
    pub device: DeviceId,
    /// Its name.
    pub device_name: String,
    /// What hosts know it by.
    pub uuid: [u8; 16],
}

/// A namespace on one core.
pub struct LocalNamespace {
    /// What it is.
    pub namespace: Arc<Namespace>,
    /// The device's geometry; `None` while it has no table or no blocks, and then the namespace is not active.
    pub geometry: Option<Geometry>,
    /// log2 of sectors per block.
    pub block_shift: u32,
    /// Blocks; 0 while inactive.
    pub blocks: u64,
    /// The ANA state by which commands are judged.
    pub ana: AnaState,
    /// Counters of this core.
    pub stats: Box<CommandStats>,
    /// Commands of this core that are at the device.
    pub in_flight: u32,
}

impl LocalNamespace {
    /// A namespace over a device with this geometry.
    pub fn new(namespace: Arc<Namespace>, geometry: Option<Geometry>) -> Self {
        let stats = Box::new(CommandStats::default());
        let mut local = Self {
            namespace,
            geometry: None,
            block_shift: 0,
            blocks: 0,
            ana: AnaState::default(),
            stats,
            in_flight: 0,
        };
        local.set_geometry(geometry);
        local
    }

    /// Takes over a new geometry; true if hosts can see the difference.
    pub fn set_geometry(&mut self, geometry: Option<Geometry>) -> bool {
        let geometry =
            geometry.filter(|geometry| geometry.sectors >= u64::from(geometry.block_bytes / 512));
        let changed = self.geometry != geometry;
        self.geometry = geometry;
        (self.block_shift, self.blocks) = match geometry {
            Some(geometry) => {
                let shift = (geometry.block_bytes / 512).trailing_zeros();
                (shift, geometry.sectors >> shift)
            }
            None => (0, 0),
        };
        changed
    }

    /// Whether hosts see it.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.blocks != 0
    }
}

/// The namespaces of one subsystem on one core, by NSID.
#[derive(Default)]
pub struct LocalNamespaces {
    table: Vec<Option<LocalNamespace>>,
    /// The ANA state by which commands are judged; each namespace has a copy, where its look-up finds it.
    ana_enforced: AnaState,
    /// The ANA state that hosts are told. It follows when every core enforces it.
    ana_reported: AnaState,
    /// How often the ANA log page has changed: the state, or which namespaces are listed.
    ana_changes: u64,
    /// Namespaces that were removed while commands were at the device. They are dropped when the last command is done.
    leaving: Vec<LocalNamespace>,
    /// What namespaces that are gone have counted: the SMART log never goes back.
    retired: CommandStats,
}

impl LocalNamespaces {
    /// The namespace with this NSID, active or not.
    #[inline]
    pub fn get(&self, nsid: u32) -> Option<&LocalNamespace> {
        // NSID 0 wraps to an index that no table has.
        self.table.get(nsid.wrapping_sub(1) as usize)?.as_ref()
    }

    /// The same, to count.
    #[inline]
    pub fn get_mut(&mut self, nsid: u32) -> Option<&mut LocalNamespace> {
        self.table.get_mut(nsid.wrapping_sub(1) as usize)?.as_mut()
    }

    /// All, in order of NSID.
    pub fn iter(&self) -> impl Iterator<Item = &LocalNamespace> {
        self.table.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut LocalNamespace> {
        self.table.iter_mut().flatten()
    }

    /// Active namespaces, in order of NSID.
    pub fn active(&self) -> impl Iterator<Item = &LocalNamespace> {
        self.iter().filter(|namespace| namespace.is_active())
    }

    /// The counters of all namespaces that are or were here.
    pub fn stats(&self) -> impl Iterator<Item = &CommandStats> {
        let present = self.iter().chain(&self.leaving);
        present.map(|local| &*local.stats).chain([&self.retired])
    }

    /// Judges commands that arrive from now on by this ANA state.
    pub fn enforce_ana(&mut self, state: AnaState) {
        self.ana_enforced = state;
        self.iter_mut().for_each(|local| local.ana = state);
    }

    /// Tells hosts this ANA state from now on; true if they can see the difference, which takes a namespace.
    pub fn report_ana(&mut self, state: AnaState) -> bool {
        let changed = std::mem::replace(&mut self.ana_reported, state) != state;
        let seen = changed && self.active().next().is_some();
        self.ana_changes += u64::from(seen);
        seen
    }

    /// What commands for all namespaces end with because of the ANA state; `None` when they can be carried out.
    pub fn ana_refusal(&self) -> Option<Status> {
        self.active().find_map(|local| local.ana.refusal())
    }

    /// The ANA state that hosts are told, and how often the ANA log page has changed.
    pub fn ana_report(&self) -> (AnaState, u64) {
        (self.ana_reported, self.ana_changes)
    }

    /// A device changed; returns the NSIDs that hosts see change.
    pub fn device_changed(&mut self, device: DeviceId, geometry: Option<Geometry>) -> Vec<u32> {
        let mut changed = Vec::new();
        let mut relisted = false;
        for local in self.iter_mut() {
            let was_active = local.is_active();
            if local.namespace.device == device && local.set_geometry(geometry) {
                changed.push(local.namespace.nsid);
                relisted |= local.is_active() != was_active;
            }
        }
        self.ana_changes += u64::from(relisted);
        changed
    }

    /// Takes over a new list. `geometry` is asked for devices that are new here. Returns the NSIDs that hosts see change.
    pub fn replace(
        &mut self,
        list: &[Arc<Namespace>],
        mut geometry: impl FnMut(DeviceId) -> Option<Geometry>,
    ) -> Vec<u32> {
        let size = list
            .iter()
            .map(|namespace| namespace.nsid as usize)
            .max()
            .unwrap_or(0);
        let mut table: Vec<Option<LocalNamespace>> =
            std::iter::repeat_with(|| None).take(size).collect();
        let mut changed = Vec::new();
        let listed = |local: &Self| -> Vec<u32> {
            let active = local.active();
            active.map(|local| local.namespace.nsid).collect()
        };
        let listed_before = listed(self);
        for namespace in list {
            let old = self
                .table
                .get_mut(namespace.nsid as usize - 1)
                .and_then(Option::take);
            let local = match old {
                Some(old) if old.namespace == *namespace => old,
                old => {
                    self.leaving.extend(old);
                    changed.push(namespace.nsid);
                    let mut local =
                        LocalNamespace::new(Arc::clone(namespace), geometry(namespace.device));
                    local.ana = self.ana_enforced;
                    local
                }
            };
            table[namespace.nsid as usize - 1] = Some(local);
        }
        for old in std::mem::replace(&mut self.table, table)
            .into_iter()
            .flatten()
        {
            changed.push(old.namespace.nsid);
            self.leaving.push(old);
        }
        self.ana_changes += u64::from(listed(self) != listed_before);
        self.forget_idle();
        changed.sort_unstable();
        changed
    }

    /// A command that went to `device` under `nsid` is done.
    #[inline]
    pub fn finished(&mut self, nsid: u32, device: DeviceId) {
        if let Some(local) = self.get_mut(nsid)
            && local.namespace.device == device
            && local.in_flight > 0
        {
            local.in_flight -= 1;
            return;
        }
        let leaving = self.leaving.iter_mut();
        for local in
            leaving.filter(|local| local.namespace.nsid == nsid && local.namespace.device == device)
        {
            local.in_flight = local.in_flight.saturating_sub(1);
        }
        self.forget_idle();
    }

    /// Whether a device that was taken away still has commands of this core.
    pub fn is_leaving(&self, device: DeviceId) -> bool {
        self.leaving
            .iter()
            .any(|local| local.namespace.device == device)
    }

    fn forget_idle(&mut self) {
        let retired = &mut self.retired;
        self.leaving.retain(|local| {
            let stays = local.in_flight > 0;
            if !stays {
                retired.merge(&local.stats);
            }
            stays
        });
    }
}

/// A UUID of version 8 (RFC 9562, 5.8) made from names, so that a namespace keeps its identity over restarts without
/// anything being written down. FNV-1a with 128 bits, which is not meant to withstand an enemy: names come from the operator.
pub fn uuid_from_names(names: &[&str]) -> [u8; 16] {
    const OFFSET_BASIS: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let mut hash = OFFSET_BASIS;
    for name in names {
        for byte in name.bytes().chain([0]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    let mut uuid = hash.to_be_bytes();
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::AtomicWrites;
    use crate::export::stats::Kind;

    fn geometry(sectors: u64, block_bytes: u32) -> Geometry {
        Geometry {
            sectors,
            block_bytes,
            physical_bytes: block_bytes,
            volatile_cache: false,
            discard: true,
            discard_zeroes: true,
            write_zeroes: true,
            optimal_write_bytes: block_bytes,
            atomic_writes: AtomicWrites::NONE,
            read_only: false,
        }
    }

    fn namespace(nsid: u32, device: u32) -> Arc<Namespace> {
        let device_name = format!("vol{device}");
        Arc::new(Namespace {
            nsid,
            device: DeviceId(device),
            device_name,
            uuid: [0; 16],
        })
    }

    #[test]
    fn a_new_list_keeps_what_stays_and_tells_what_changed() {
        let mut local = LocalNamespaces::default();
        let all = |_| Some(geometry(64, 4096));
        assert_eq!(
            local.replace(&[namespace(1, 10), namespace(3, 30)], all),
            vec![1, 3]
        );
        assert_eq!(local.get(1).unwrap().blocks, 8);
        assert!(local.get(0).is_none() && local.get(2).is_none() && local.get(4).is_none());
        let in_use = local.get_mut(1).unwrap();
        in_use.in_flight = 1;
        in_use.stats.record(Kind::Write, true, 8, 100);
        assert_eq!(
            local.replace(&[namespace(1, 10), namespace(2, 20)], all),
            vec![2, 3]
        );
        assert_eq!(local.get(1).unwrap().in_flight, 1);
        assert_eq!(local.replace(&[namespace(1, 11)], all), vec![1, 2]);
        assert!(local.is_leaving(DeviceId(10)));
        local.finished(1, DeviceId(10));
        assert!(!local.is_leaving(DeviceId(10)));
        let written: u64 = local.stats().map(|stats| stats.kind(Kind::Write).ios).sum();
        assert_eq!(written, 1, "what is gone still counts");
    }

    #[test]
    fn a_device_without_a_table_is_no_active_namespace() {
        let mut local = LocalNamespace::new(namespace(1, 1), None);
        assert!(!local.is_active());
        assert!(local.set_geometry(Some(geometry(15, 4096))));
        assert_eq!((local.blocks, local.is_active()), (1, true));
        assert!(!local.set_geometry(Some(geometry(15, 4096))));
        assert!(local.set_geometry(Some(geometry(7, 4096))));
        assert!(!local.is_active());
    }

    #[test]
    fn uuids_are_stable_and_distinct() {
        let one = uuid_from_names(&["nqn", "1", "vol0"]);
        assert_eq!(one, uuid_from_names(&["nqn", "1", "vol0"]));
        assert_ne!(one, uuid_from_names(&["nqn", "1vol0"]));
        assert_ne!(one, uuid_from_names(&["nqn", "2", "vol0"]));
        assert_eq!((one[6] >> 4, one[8] >> 6), (8, 2));
    }
}
