//! A node that is not there: devices, tables and counters in plain memory, for tests of everything above it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::backend::Backend;
use super::iscsi::IscsiTargets;
use super::schema::*;
use crate::config::{BdevKind, BdevPlan};
use crate::dm::{self, Errno, Error, LowerId, SuspendOptions, Table};
use crate::engine::{
    BdevInfo, DeviceEvent, DeviceInfo as EngineInfo, DeviceOptions, GivenUp, Removed, never,
};

/// One device. Its tables are real ones.
#[derive(Default)]
struct FakeDevice {
    info: dm::Info,
    live: Option<Table>,
    inactive: Option<Table>,
    /// The suspend that waits is to be given up.
    cancelled: bool,
}

impl FakeDevice {
    /// Makes a table live.
    fn run_on(&mut self, table: Table) {
        self.info.lowers = table
            .lowers
            .iter()
            .map(|lower| lower.name.clone())
            .collect();
        self.info.targets = table.segments.len() as u32;
        self.info.sectors = table.limits.sectors;
        self.info.read_only = table.limits.read_only;
        self.live = Some(table);
    }
}

/// The node. It has the lower device `ram0` from the beginning.
pub(crate) struct Fake {
    names: Mutex<dm::Registry>,
    devices: Mutex<BTreeMap<u32, FakeDevice>>,
    /// Kind and declaration of each lower device, by name.
    bdevs: Mutex<BTreeMap<String, (&'static str, dm::Lower)>>,
    /// While it is true, suspend waits.
    busy: Mutex<bool>,
    idle: Condvar,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            names: Mutex::default(),
            devices: Mutex::default(),
            bdevs: Mutex::new(BTreeMap::from([("ram0".into(), ("malloc", ram0()))])),
            busy: Mutex::default(),
            idle: Condvar::default(),
        }
    }
}

/// The lower device `ram0`: 1 GiB, blocks of 512 bytes.
pub(crate) fn ram0() -> dm::Lower {
    dm::Lower {
        id: LowerId(0),
        name: "ram0".into(),
        sectors: 2_097_152,
        block_bytes: 512,
        physical_bytes: 512,
        volatile_cache: false,
        flush: true,
        fua: true,
        discard: true,
        discard_zeroes: true,
        write_zeroes: true,
        transfer_sectors_max: 0,
        optimal_write_bytes: 4096,
        atomic_writes: dm::AtomicWrites::NONE,
        read_only: false,
        keep: Default::default(),
    }
}

impl Fake {
    /// A node with `vol0` (live, held by an export) and `vol1` (empty, with a uuid).
    pub fn with_devices() -> Fake {
        let fake = Fake::default();
        fake.create("vol0", "", DeviceOptions::default()).unwrap();
        fake.load(
            "vol0",
            "0 1048576 linear ram0 0\n1048576 1048576 zero",
            false,
        )
        .unwrap();
        fake.resume("vol0", SuspendOptions::default(), &never)
            .unwrap();
        fake.names.lock().unwrap().open("vol0").unwrap();
        let ordered = DeviceOptions {
            ordered: true,
            parked_limit: None,
        };
        fake.create("vol1", "my-uuid", ordered).unwrap();
        fake
    }

    /// From now on suspends wait (true), or all that wait end (false).
    #[cfg(test)]
    pub fn set_busy(&self, busy: bool) {
        *self.busy.lock().unwrap() = busy;
        self.idle.notify_all();
    }

    /// Waits until something may have changed.
    fn look_again<'a>(&self, busy: MutexGuard<'a, bool>) -> MutexGuard<'a, bool> {
        self.idle
            .wait_timeout(busy, Duration::from_millis(2))
            .unwrap()
            .0
    }

    fn with<R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut FakeDevice) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let id = self.names.lock().unwrap().find(name)?.id.0;
        f(self.devices.lock().unwrap().entry(id).or_default())
    }
}

fn lines(
    table: Option<&Table>,
    text: impl Fn(&dm::table::Segment, &Table) -> String,
) -> Vec<dm::TargetLine> {
    table.map_or_else(Vec::new, |table| {
        table
            .segments
            .iter()
            .map(|segment| dm::TargetLine::new(segment, text(segment, table)))
            .collect()
    })
}

impl Backend for Fake {
    fn create(&self, name: &str, uuid: &str, options: DeviceOptions) -> Result<(), Error> {
        let id = self.names.lock().unwrap().create(name, uuid)?.0;
        let limit = options.parked_limit;
        let info = dm::Info {
            ordered: options.ordered,
            parked_limit_ns: limit.map(|limit| limit.as_nanos() as u64),
            ..dm::Info::default()
        };
        self.devices.lock().unwrap().insert(
            id,
            FakeDevice {
                info,
                ..FakeDevice::default()
            },
        );
        Ok(())
    }

    fn load(&self, name: &str, table: &str, read_only: bool) -> Result<(), Error> {
        self.with(name, |device| {
            let bdevs = self.bdevs.lock().unwrap();
            let resolve = |name: &str| Some(bdevs.get(name)?.1.clone());
            let table = Table::parse(table, &resolve)
                .map_err(|error| Error::new(Errno::Einval, error.to_string()))?;
            device.inactive = Some(if read_only { table.read_only() } else { table });
            device.info.inactive = true;
            Ok(())
        })
    }

    fn clear(&self, name: &str) -> Result<(), Error> {
        self.with(name, |device| {
            device.inactive = None;
            device.info.inactive = false;
            Ok(())
        })
    }

    fn suspend(
        &self,
        name: &str,
        _options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.with(name, |device| {
            (device.info.suspended, device.cancelled) = (true, false);
            Ok(())
        })?;
        let mut busy = self.busy.lock().unwrap();
        while *busy {
            let cancelled = self.with(name, |device| Ok(device.cancelled))?;
            if cancelled || given_up() {
                self.with(name, |device| {
                    device.info.suspended = false;
                    Ok(())
                })?;
                return Err(Error::new(Errno::Eintr, "cancelled"));
            }
            busy = self.look_again(busy);
        }
        Ok(())
    }

    fn resume(
        &self,
        name: &str,
        _options: SuspendOptions,
        _given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.with(name, |device| {
            if let Some(table) = device.inactive.take() {
                device.run_on(table);
            }
            (
                device.info.live,
                device.info.inactive,
                device.info.suspended,
            ) = (device.live.is_some(), false, false);
            Ok(())
        })
    }

    /// Nothing is beneath anything here.
    fn suspend_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.suspend(name, options, given_up)
    }

    fn resume_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.resume(name, options, given_up)
    }

    fn swap(
        &self,
        name: &str,
        table: &str,
        read_only: bool,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.load(name, table, read_only)?;
        self.resume(name, options, given_up)
    }

    fn cancel(&self, name: &str) -> Result<(), Error> {
        let busy = *self.busy.lock().unwrap();
        self.with(name, |device| {
            if !busy || !device.info.suspended {
                return Err(Error::new(Errno::Einval, "there is no suspend under way"));
            }
            device.cancelled = true;
            Ok(())
        })
    }

    fn fail_parked(&self, name: &str) -> Result<u64, Error> {
        self.with(name, |device| match device.info.suspended {
            true => Ok(1),
            false => Err(Error::new(Errno::Einval, "the device is not suspended")),
        })
    }

    /// The targets of this node understand `echo`, which says the other words, and `raise`, which is an event.
    fn message(
        &self,
        name: &str,
        _sector: u64,
        words: Vec<String>,
    ) -> Result<Option<String>, Error> {
        self.with(name, |device| match words.first().map(String::as_str) {
            Some("echo") => Ok(Some(words[1..].join(" "))),
            Some("raise") => {
                device.info.event_nr += 1;
                Ok(None)
            }
            _ => Err(Error::new(Errno::Einval, "no target understands that")),
        })
    }

    fn wait(
        &self,
        name: &str,
        event_nr: Option<u32>,
        given_up: GivenUp<'_>,
    ) -> Result<DeviceEvent, Error> {
        let known = match event_nr {
            Some(event_nr) => event_nr,
            None => self.info(name)?.1.event_nr,
        };
        loop {
            let (entry, info) = self.info(name)?;
            if info.event_nr != known {
                return Ok(DeviceEvent {
                    device: EngineInfo { entry, info },
                    status: self.status(name)?,
                });
            }
            if given_up() {
                return Err(Error::new(Errno::Eintr, "given up"));
            }
            drop(self.look_again(self.busy.lock().unwrap()));
        }
    }

    fn events(&self) -> u32 {
        let devices = self.devices.lock().unwrap();
        devices.values().map(|device| device.info.event_nr).sum()
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Error> {
        self.names.lock().unwrap().rename(name, new_name)?;
        self.with(new_name, |device| {
            device.info.event_nr += 1;
            Ok(())
        })
    }

    fn set_uuid(&self, name: &str, uuid: &str) -> Result<(), Error> {
        self.names.lock().unwrap().set_uuid(name, uuid).map(drop)
    }

    fn remove_deferred(&self, name: &str) -> Result<bool, Error> {
        if self.names.lock().unwrap().find(name)?.open_count == 0 {
            return self.remove(name).map(|()| true);
        }
        self.names
            .lock()
            .unwrap()
            .delete_deferred(name, |_| false)?;
        Ok(false)
    }

    fn remove_all(&self, deferred: bool) -> Result<Removed, Error> {
        let mut all = Removed::default();
        for entry in self.devices() {
            if entry.open_count == 0 {
                self.remove(&entry.name)?;
                all.removed.push(entry.name);
            } else if deferred {
                self.remove_deferred(&entry.name)?;
                all.deferred.push(entry.name);
            } else {
                all.kept.push(entry.name);
            }
        }
        Ok(all)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let mut names = self.names.lock().unwrap();
        let id = names.delete(name)?;
        names.forget(id);
        self.devices.lock().unwrap().remove(&id.0);
        Ok(())
    }

    fn devices(&self) -> Vec<dm::registry::Entry> {
        self.names.lock().unwrap().list()
    }

    fn info(&self, name: &str) -> Result<(dm::registry::Entry, dm::Info), Error> {
        let entry = self.names.lock().unwrap().find(name)?.clone();
        self.with(name, |device| Ok((entry, device.info.clone())))
    }

    fn status(&self, name: &str) -> Result<Vec<dm::TargetLine>, Error> {
        self.with(name, |device| {
            Ok(lines(device.live.as_ref(), |segment, table| {
                segment.target.status(&table.lowers)
            }))
        })
    }

    fn table(&self, name: &str, inactive: bool) -> Result<Vec<dm::TargetLine>, Error> {
        self.with(name, |device| {
            let table = if inactive {
                &device.inactive
            } else {
                &device.live
            };
            Ok(lines(table.as_ref(), |segment, table| {
                segment.target.table(&table.lowers)
            }))
        })
    }

    fn stats(&self, name: &str) -> Result<dm::Stats, Error> {
        self.with(name, |_| {
            let mut stats = dm::Stats {
                in_flight: 3,
                parked: 1,
                held: 2,
                pushed_back: 7,
                ..dm::Stats::default()
            };
            for us in [4, 9, 20, 20, 2000] {
                stats.read.latency.record(us * 1000);
            }
            (stats.read.ios, stats.read.errors, stats.read.sectors) = (5, 1, 4 * 8);
            Ok(stats)
        })
    }

    fn bdevs(&self) -> Vec<BdevInfo> {
        let names = self.names.lock().unwrap();
        let devices = self.devices.lock().unwrap();
        let info = |(kind, lower): &(&'static str, dm::Lower)| {
            let (mut tables, mut users) = (0, Vec::new());
            for entry in names.list() {
                let device = &devices[&entry.id.0];
                let both = [&device.live, &device.inactive].into_iter().flatten();
                let naming = both.filter(|table| table.lowers.contains(lower)).count();
                tables += naming as u32;
                users.extend((naming > 0).then_some(entry.name));
            }
            BdevInfo {
                kind,
                lower: lower.clone(),
                tables,
                devices: users,
                removed: false,
                remote: None,
                nvme: None,
            }
        };
        self.bdevs.lock().unwrap().values().map(info).collect()
    }

    fn add_bdev(&self, plan: &BdevPlan) -> Result<(), Error> {
        let name = &plan.name.value;
        let mut bdevs = self.bdevs.lock().unwrap();
        let id = bdevs.values().map(|(_, lower)| lower.id.0 + 1).max();
        let kind = match plan.kind {
            BdevKind::Malloc { .. } => "malloc",
            BdevKind::Null => "null",
            BdevKind::File(_) => "file",
            BdevKind::NvmeTcp(_) => "nvme-tcp",
            BdevKind::Nvme(_) | BdevKind::Spdk(_) => "nvme",
        };
        let lower = dm::Lower {
            id: LowerId(id.unwrap_or(0)),
            name: name.clone(),
            sectors: plan.sectors().unwrap_or(8),
            block_bytes: plan.block_size,
            ..ram0()
        };
        match bdevs.entry(name.clone()) {
            Entry::Occupied(_) => Err(Error::new(Errno::Ebusy, format!("a bdev '{name}' exists"))),
            Entry::Vacant(entry) => {
                entry.insert((kind, lower));
                Ok(())
            }
        }
    }

    fn remove_bdev(&self, name: &str, force: bool) -> Result<(), Error> {
        let bdevs = self.bdevs();
        let info = bdevs.iter().find(|info| info.lower.name == name);
        match info {
            None => Err(Error::new(
                Errno::Enxio,
                format!("there is no bdev '{name}'"),
            )),
            Some(info) if info.tables > 0 && !force => {
                Err(Error::new(Errno::Ebusy, format!("bdev '{name}' is in use")))
            }
            Some(_) => {
                self.bdevs.lock().unwrap().remove(name);
                Ok(())
            }
        }
    }

    fn reactors(&self) -> Vec<ReactorStats> {
        vec![ReactorStats {
            reactor: 0,
            elapsed_ns: 10_000_000_000,
            busy_ns: 2_500_000_000,
            asleep_ns: 7_000_000_000,
            sleeps: 12,
            messages: 34,
        }]
    }

    fn exports(&self) -> ExportsResult {
        let connection = |queue| Connection {
            peer: "127.0.0.1:51514".into(),
            nqn: "nqn.2026-11.io.polldm:quickstart".into(),
            controller: Some(1),
            queue: Some(queue),
            queue_size: 128,
            outstanding: u64::from(queue) * 2,
            reactor: queue,
            header_digest: false,
            data_digest: queue == 1,
        };
        let subsystem = Subsystem {
            nqn: "nqn.2026-11.io.polldm:quickstart".into(),
            hosts: None,
            ana: AnaState::Inaccessible,
            namespaces: vec![Namespace {
                nsid: 1,
                device: "vol0".into(),
                uuid: "8c9f1f64-9d6c-5a35-93b6-5bd53f7b2b31".into(),
            }],
            controllers: vec![Controller {
                id: 1,
                host_nqn: "nqn.2014-08.org.nvmexpress:uuid:1b4e28ba".into(),
                io_queues: 1,
            }],
        };
        ExportsResult {
            nvmf: Some(NvmfExport {
                listeners: vec!["127.0.0.1:4420".into()],
                subsystems: vec![subsystem],
                connections: vec![connection(0), connection(1)],
                events: NvmfEvents {
                    accepted: 9,
                    refused: 1,
                    violations: 2,
                    keep_alive_expired: 3,
                },
            }),
            iscsi: Some(IscsiExport {
                portals: vec!["127.0.0.1:3260".into()],
                portal_tags: vec![1],
                discovery: Default::default(),
                targets: vec![IscsiTarget {
                    iqn: "iqn.2026-11.io.polldm:disks".into(),
                    initiators: None,
                    authentication: Default::default(),
                    portal_groups: vec![IscsiGroup {
                        tag: 1,
                        alua: AluaState::Optimized,
                    }],
                    explicit_alua: false,
                    redirect: None,
                    luns: vec![IscsiLun {
                        lun: 0,
                        device: "vol0".into(),
                        serial: "8c9f1f649d6c8a3593b65bd53f7b2b31".into(),
                        initiators: None,
                    }],
                }],
                connections: vec![IscsiConnection {
                    peer: "127.0.0.1:40000".into(),
                    initiator: "iqn.1993-08.org.debian:01:host".into(),
                    iqn: "iqn.2026-11.io.polldm:disks".into(),
                    session: 1,
                    outstanding: 3,
                    reactor: 0,
                    commands: 12,
                    read_bytes: 4096,
                    written_bytes: 0,
                    header_digest: true,
                    data_digest: false,
                }],
                events: Default::default(),
            }),
        }
    }

    fn namespace_stats(&self) -> Vec<NamespaceStats> {
        let latency = Latency::from_buckets([(Some(8_192), 7), (Some(20_479), 3)], 100_000);
        let operation = |operation: &str, ios, latency| OperationStats {
            operation: operation.into(),
            ios,
            errors: 0,
            bytes: ios * 4096,
            latency,
        };
        vec![NamespaceStats {
            nqn: "nqn.2026-11.io.polldm:quickstart".into(),
            nsid: 1,
            device: "vol0".into(),
            operations: vec![
                operation("read", 10, latency),
                operation("write", 0, Latency::default()),
            ],
        }]
    }

    fn add_namespace(&self, params: &AddNamespaceParams) -> Result<(), Error> {
        self.names.lock().unwrap().open(&params.device).map(drop)
    }

    fn remove_namespace(&self, params: &RemoveNamespaceParams) -> Result<(), Error> {
        Err(Error::new(
            Errno::Enxio,
            format!("there is no namespace {} in {}", params.nsid, params.nqn),
        ))
    }

    fn set_ana(&self, params: &SetAnaParams) -> Result<(), Error> {
        let exports = self.exports().nvmf.unwrap_or_default();
        let mut subsystems = exports.subsystems.iter();
        let known = subsystems.any(|subsystem| subsystem.nqn == params.nqn);
        let unknown = || {
            Error::new(
                Errno::Enxio,
                format!("there is no subsystem {}", params.nqn),
            )
        };
        known.then_some(()).ok_or_else(unknown)
    }
}

impl IscsiTargets for Fake {
    fn unit_stats(&self) -> Vec<UnitStats> {
        let namespaces = self.namespace_stats();
        let unit = |namespace: NamespaceStats| UnitStats {
            iqn: "iqn.2026-11.io.polldm:disks".into(),
            lun: 0,
            device: namespace.device,
            operations: namespace.operations,
        };
        namespaces.into_iter().map(unit).collect()
    }

    fn session_stats(&self) -> Vec<SessionStats> {
        let namespaces = self.namespace_stats();
        let session = |namespace: NamespaceStats| SessionStats {
            iqn: "iqn.2026-11.io.polldm:disks".into(),
            initiator: "iqn.1993-08.org.debian:01:host".into(),
            session: 1,
            operations: namespace.operations,
        };
        namespaces.into_iter().map(session).collect()
    }

    fn add_target(&self, params: &AddTargetParams) -> Result<(), Error> {
        match self.knows_target(&params.iqn) {
            Ok(()) => Err(Error::new(
                Errno::Ebusy,
                format!("there is a target `{}` already", params.iqn),
            )),
            Err(_) => Ok(()),
        }
    }

    fn set_target(&self, params: &SetTargetParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)
    }

    fn remove_target(&self, params: &RemoveTargetParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)
    }

    fn add_lun(&self, params: &AddLunParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)?;
        self.names.lock().unwrap().open(&params.device).map(drop)
    }

    fn set_lun(&self, params: &SetLunParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)
    }

    fn remove_lun(&self, params: &RemoveLunParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)
    }

    fn set_alua(&self, params: &SetAluaParams) -> Result<(), Error> {
        self.knows_target(&params.iqn)
    }

    fn add_portal(&self, params: &AddPortalParams) -> Result<String, Error> {
        Ok(params.address.clone())
    }

    fn remove_portal(&self, _: &RemovePortalParams) -> Result<(), Error> {
        Ok(())
    }

    fn set_discovery(&self, _: &SetDiscoveryParams) -> Result<(), Error> {
        Ok(())
    }

    fn set_keep_alive(&self, _: &SetKeepAliveParams) -> Result<(), Error> {
        Ok(())
    }
}

impl Fake {
    fn knows_target(&self, iqn: &str) -> Result<(), Error> {
        let iscsi = self.exports().iscsi.unwrap_or_default();
        let known = iscsi.targets.iter().any(|target| target.iqn == iqn);
        let unknown = || Error::new(Errno::Enxio, format!("there is no target `{iqn}`"));
        known.then_some(()).ok_or_else(unknown)
    }
}
