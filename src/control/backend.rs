//! What the control plane needs of a running node, and the methods of the schema in those terms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::iscsi::IscsiTargets;
use super::schema::{self, *};
use crate::bdev::{self, NvmeReport, RemoteReport};
use crate::config::{self, BdevKind, BdevPlan};
use crate::dm::registry::Entry;
use crate::dm::target::TYPES;
use crate::dm::{self, Errno, Error, SuspendOptions};
use crate::engine::{BdevInfo, DeviceEvent, DeviceOptions, GivenUp, Removed, never};

/// A running node, as far as operators can reach it. Verbs block the calling thread until they are done; every answer is
/// a snapshot, and no verb but suspend (and what suspends on the way) waits for I/O.
pub trait Backend: IscsiTargets + Send + Sync + 'static {
    /// Makes a device without a table.
    ///
    /// # Errors
    /// EINVAL for a bad name or uuid, EBUSY for one in use, ENOMEM when there are too many.
    fn create(&self, name: &str, uuid: &str, options: DeviceOptions) -> Result<(), Error>;

    /// Loads a table into a device's inactive slot.
    ///
    /// # Errors
    /// ENXIO without such a device; EINVAL for the table, with its line.
    fn load(&self, name: &str, table: &str, read_only: bool) -> Result<(), Error>;

    /// Empties a device's inactive slot.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn clear(&self, name: &str) -> Result<(), Error>;

    /// Suspends a device; answers when nothing is in flight. Once `given_up`, the device runs on.
    ///
    /// # Errors
    /// ENXIO without such a device; EIO, ETIMEDOUT, EINTR when the device runs on.
    fn suspend(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error>;

    /// Resumes a device, on its inactive table if it has one; `options` and `given_up` are for the suspension that this implies.
    ///
    /// # Errors
    /// ENXIO without such a device; EINVAL without a table, or when hosts could not follow the new one; EAGAIN when a target
    /// cannot be resumed; as [`Backend::suspend`].
    fn resume(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error>;

    /// Suspends a device and all mapped devices beneath it, from the top down, or none of them.
    ///
    /// # Errors
    /// As [`Backend::suspend`]; EBUSY while one of them is in another operation on a whole stack.
    fn suspend_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error>;

    /// Resumes a device and all suspended mapped devices beneath it, from the bottom up, or none of them.
    ///
    /// # Errors
    /// As [`Backend::resume`]; EBUSY while one of them is in another operation on a whole stack.
    fn resume_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error>;

    /// Makes a table live in one step, or changes nothing.
    ///
    /// # Errors
    /// As [`Backend::load`] and [`Backend::resume`].
    fn swap(
        &self,
        name: &str,
        table: &str,
        read_only: bool,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error>;

    /// Gives up the suspend of a device that is under way.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL when there is none.
    fn cancel(&self, name: &str) -> Result<(), Error>;

    /// Fails what is parked on a suspended device; how many that were.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL when it is not suspended.
    fn fail_parked(&self, name: &str) -> Result<u64, Error>;

    /// Tells a target, or the device, something; what it says.
    ///
    /// # Errors
    /// ENXIO without such a device, EINVAL for what nobody understands, EBUSY when it is not the time for it.
    fn message(&self, name: &str, sector: u64, words: Vec<String>)
    -> Result<Option<String>, Error>;

    /// Waits until a device's event number is another than `event_nr`, by default the present one.
    ///
    /// # Errors
    /// ENXIO without such a device or when it is removed meanwhile, EINTR when given up.
    fn wait(
        &self,
        name: &str,
        event_nr: Option<u32>,
        given_up: GivenUp<'_>,
    ) -> Result<DeviceEvent, Error>;

    /// Events of all devices so far.
    fn events(&self) -> u32;

    /// Gives a device another name.
    ///
    /// # Errors
    /// ENXIO without such a device; EBUSY or EINVAL for the new name.
    fn rename(&self, name: &str, new_name: &str) -> Result<(), Error>;

    /// Gives a device without a uuid one.
    ///
    /// # Errors
    /// ENXIO without such a device; EBUSY or EINVAL for the uuid, EINVAL when the device has one.
    fn set_uuid(&self, name: &str, uuid: &str) -> Result<(), Error>;

    /// Removes a device.
    ///
    /// # Errors
    /// ENXIO without such a device, EBUSY when it is in use.
    fn remove(&self, name: &str) -> Result<(), Error>;

    /// Removes a device, now or when nothing holds it any more; whether it is gone.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn remove_deferred(&self, name: &str) -> Result<bool, Error>;

    /// Removes all devices that nothing holds; the others later, when `deferred`.
    ///
    /// # Errors
    /// When one that nothing holds cannot be removed.
    fn remove_all(&self, deferred: bool) -> Result<Removed, Error>;

    /// All devices, by name.
    fn devices(&self) -> Vec<Entry>;

    /// Names and state of a device.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn info(&self, name: &str) -> Result<(Entry, dm::Info), Error>;

    /// What each target of a device's live table says of itself.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn status(&self, name: &str) -> Result<Vec<dm::TargetLine>, Error>;

    /// A device's table.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn table(&self, name: &str, inactive: bool) -> Result<Vec<dm::TargetLine>, Error>;

    /// Counters of a device, all reactors added up.
    ///
    /// # Errors
    /// ENXIO without such a device.
    fn stats(&self, name: &str) -> Result<dm::Stats, Error>;

    /// The backing devices and who uses them, in order of their names; then those that were taken away and that tables still name.
    fn bdevs(&self) -> Vec<BdevInfo>;

    /// Opens a backing device.
    ///
    /// # Errors
    /// EBUSY for a name or a file in use, ENXIO without such a file, ENOMEM, EINVAL for what else is wrong with it.
    fn add_bdev(&self, plan: &BdevPlan) -> Result<(), Error>;

    /// Closes a backing device; by force, takes it away from under the tables that name it.
    ///
    /// # Errors
    /// ENXIO without such a backing device, EBUSY when tables name it.
    fn remove_bdev(&self, name: &str, force: bool) -> Result<(), Error>;

    /// What each reactor has spent its time on.
    fn reactors(&self) -> Vec<ReactorStats>;

    /// What hosts can reach, and who is connected.
    fn exports(&self) -> ExportsResult;

    /// Counters of all namespaces, all reactors added up.
    fn namespace_stats(&self) -> Vec<NamespaceStats>;

    /// Adds a namespace to a subsystem.
    ///
    /// # Errors
    /// ENXIO without such a subsystem or device, EBUSY when the NSID is taken, EINVAL for a bad NSID or uuid.
    fn add_namespace(&self, params: &AddNamespaceParams) -> Result<(), Error>;

    /// Takes a namespace away; answers when no I/O of it is in flight.
    ///
    /// # Errors
    /// ENXIO without such a subsystem or namespace.
    fn remove_namespace(&self, params: &RemoveNamespaceParams) -> Result<(), Error>;

    /// Changes the ANA state of a subsystem.
    ///
    /// # Errors
    /// ENXIO without such a subsystem.
    fn set_ana(&self, params: &SetAnaParams) -> Result<(), Error>;
}

/// The methods of the schema, served by a node.
#[derive(Clone)]
pub struct Service {
    pub(super) backend: Arc<dyn Backend>,
    started: Instant,
    asker: Asker,
}

/// Whoever asks, as far as a verb that waits has to know.
#[derive(Clone)]
pub struct Asker {
    /// Whether it has gone away.
    pub gone: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether the server is about to end.
    pub stopping: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Service {
    /// Serves `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Service {
        Service {
            backend,
            started: Instant::now(),
            asker: Asker {
                gone: Arc::new(never),
                stopping: Arc::new(never),
            },
        }
    }

    /// The same service for somebody who may go away while a verb waits. Then a suspend is given up and the device runs on, as
    /// with a dmsetup that is interrupted.
    pub fn to(&self, asker: Asker) -> Service {
        Service {
            asker,
            ..self.clone()
        }
    }

    /// Counters of everything, or of one device and the namespaces and units that export it.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn stats(&self, device: Option<&str>) -> Result<StatsResult, Error> {
        let devices = self.each(device, |name| {
            let stats = self.backend.stats(name)?;
            Ok(device_stats(name, &stats))
        })?;
        let mut namespaces = self.backend.namespace_stats();
        namespaces.retain(|namespace| device.is_none_or(|device| namespace.device == device));
        let mut units = self.backend.unit_stats();
        units.retain(|unit| device.is_none_or(|device| unit.device == device));
        let sessions = match device {
            // A session's counters are of all its units.
            Some(_) => Vec::new(),
            None => self.backend.session_stats(),
        };
        let ExportsResult { nvmf, iscsi } = self.backend.exports();
        Ok(StatsResult {
            devices,
            namespaces,
            units,
            sessions,
            reactors: self.backend.reactors(),
            nvmf: nvmf.map(|nvmf| NvmfStats {
                connections: nvmf.connections.len() as u64,
                events: nvmf.events,
            }),
            iscsi: iscsi.map(|iscsi| IscsiStats {
                connections: iscsi.connections.len() as u64,
                events: iscsi.events,
            }),
        })
    }

    /// State of one device or of all.
    ///
    /// # Errors
    /// ENXIO without such a device.
    pub fn infos(&self, name: Option<&str>) -> Result<Vec<DeviceInfo>, Error> {
        self.each(name, |name| self.backend.info(name).map(device_info))
    }

    /// Asks about one device, or about all. When all are asked for, one that is removed meanwhile is left out.
    fn each<T>(
        &self,
        name: Option<&str>,
        ask: impl Fn(&str) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        if let Some(name) = name {
            return ask(name).map(|one| vec![one]);
        }
        let mut all = Vec::new();
        for entry in self.backend.devices() {
            match ask(&entry.name) {
                Ok(one) => all.push(one),
                Err(error) if error.errno == Errno::Enxio => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Target lines of one device or of all; with a filter, only its targets, and of all devices only those that have one.
    fn lines(
        &self,
        name: Option<&str>,
        target: Option<&str>,
        ask: impl Fn(&str) -> Result<Vec<dm::TargetLine>, Error>,
    ) -> Result<LinesResult, Error> {
        let mut devices = self.each(name, |name| {
            let mut lines = ask(name)?;
            lines.retain(|line| target.is_none_or(|target| line.target == target));
            let targets = lines.into_iter().map(target_line).collect();
            Ok(DeviceLines {
                name: name.to_owned(),
                targets,
            })
        })?;
        if name.is_none() && target.is_some() {
            devices.retain(|device| !device.targets.is_empty());
        }
        Ok(LinesResult { devices })
    }
}

impl Serve<DmCreate> for Service {
    fn serve(&self, params: CreateParams) -> Result<Done, Error> {
        let CreateParams {
            name,
            uuid,
            flush,
            table,
            read_only,
            parked_limit_ms,
        } = params;
        let options = DeviceOptions {
            ordered: flush == FlushPolicy::Ordered,
            parked_limit: parked_limit_ms.map(Duration::from_millis),
        };
        self.backend.create(&name, &uuid, options)?;
        let Some(table) = table else {
            return Ok(Done {});
        };
        let live = self.backend.load(&name, &table, read_only).and_then(|()| {
            let options = SuspendOptions::default();
            self.backend.resume(&name, options, &never)
        });
        live.map(|()| Done {}).inspect_err(|_| {
            // A half-made device would be in the way of the next attempt. Whoever opened it meanwhile may keep it.
            let _ = self.backend.remove(&name);
        })
    }
}

impl Serve<DmLoad> for Service {
    fn serve(&self, params: LoadParams) -> Result<Done, Error> {
        self.backend
            .load(&params.name, &params.table, params.read_only)
            .map(|()| Done {})
    }
}

impl Serve<DmClear> for Service {
    fn serve(&self, params: DeviceParams) -> Result<Done, Error> {
        self.backend.clear(&params.name).map(|()| Done {})
    }
}

impl Serve<DmSuspend> for Service {
    fn serve(&self, params: SuspendParams) -> Result<Done, Error> {
        let (name, options, gone) = (&params.name, params.options(), &*self.asker.gone);
        match params.stack {
            true => self.backend.suspend_stack(name, options, gone),
            false => self.backend.suspend(name, options, gone),
        }
        .map(|()| Done {})
    }
}

impl Serve<DmResume> for Service {
    fn serve(&self, params: SuspendParams) -> Result<Done, Error> {
        let (name, options, gone) = (&params.name, params.options(), &*self.asker.gone);
        match params.stack {
            true => self.backend.resume_stack(name, options, gone),
            false => self.backend.resume(name, options, gone),
        }
        .map(|()| Done {})
    }
}

impl Serve<DmSwap> for Service {
    fn serve(&self, params: SwapParams) -> Result<Done, Error> {
        let SwapParams {
            name,
            table,
            read_only,
            ..
        } = &params;
        self.backend
            .swap(name, table, *read_only, params.options(), &*self.asker.gone)
            .map(|()| Done {})
    }
}

impl Serve<DmCancel> for Service {
    fn serve(&self, params: DeviceParams) -> Result<Done, Error> {
        self.backend.cancel(&params.name).map(|()| Done {})
    }
}

impl Serve<DmFailParked> for Service {
    fn serve(&self, params: DeviceParams) -> Result<FailParkedResult, Error> {
        self.backend
            .fail_parked(&params.name)
            .map(|failed| FailParkedResult { failed })
    }
}

impl Serve<DmMessage> for Service {
    fn serve(&self, params: MessageParams) -> Result<MessageResult, Error> {
        let MessageParams {
            name,
            sector,
            words,
        } = params;
        self.backend
            .message(&name, sector, words)
            .map(|text| MessageResult { text })
    }
}

impl Serve<DmWait> for Service {
    fn serve(&self, params: WaitParams) -> Result<WaitResult, Error> {
        // Unlike a suspend, a wait may last for ever: the end of the server does not wait for it.
        let given_up = || (self.asker.gone)() || (self.asker.stopping)();
        let event = self
            .backend
            .wait(&params.name, params.event_nr, &given_up)?;
        Ok(WaitResult {
            device: device_info((event.device.entry, event.device.info)),
            status: event.status.into_iter().map(target_line).collect(),
        })
    }
}

impl Serve<DmSetUuid> for Service {
    fn serve(&self, params: SetUuidParams) -> Result<Done, Error> {
        self.backend
            .set_uuid(&params.name, &params.uuid)
            .map(|()| Done {})
    }
}

impl Serve<DmRename> for Service {
    fn serve(&self, params: RenameParams) -> Result<Done, Error> {
        self.backend
            .rename(&params.name, &params.new_name)
            .map(|()| Done {})
    }
}

impl Serve<DmRemove> for Service {
    fn serve(&self, params: RemoveParams) -> Result<Done, Error> {
        match params.deferred {
            true => self.backend.remove_deferred(&params.name).map(drop),
            false => self.backend.remove(&params.name),
        }
        .map(|()| Done {})
    }
}

impl Serve<DmRemoveAll> for Service {
    fn serve(&self, params: RemoveAllParams) -> Result<RemoveAllResult, Error> {
        let Removed {
            removed,
            deferred,
            kept,
        } = self.backend.remove_all(params.deferred)?;
        Ok(RemoveAllResult {
            removed,
            deferred,
            kept,
        })
    }
}

impl Serve<DmLs> for Service {
    fn serve(&self, params: LsParams) -> Result<LsResult, Error> {
        // Before the list: whoever waits for the next number must not have missed what is in between.
        let global_event_nr = self.backend.events();
        let mut devices: Vec<_> = self
            .backend
            .devices()
            .into_iter()
            .map(|entry| DeviceName {
                name: entry.name,
                uuid: entry.uuid,
                id: entry.id.0,
            })
            .collect();
        if let Some(target) = params.target.as_deref() {
            let having = self
                .lines(None, Some(target), |name| self.backend.status(name))?
                .devices;
            devices.retain(|device| having.iter().any(|lines| lines.name == device.name));
        }
        Ok(LsResult {
            devices,
            global_event_nr,
        })
    }
}

impl Serve<DmInfo> for Service {
    fn serve(&self, params: InfoParams) -> Result<InfoResult, Error> {
        let global_event_nr = self.backend.events();
        let devices = self.infos(params.name.as_deref())?;
        Ok(InfoResult {
            devices,
            global_event_nr,
        })
    }
}

impl Serve<DmStatus> for Service {
    fn serve(&self, params: StatusParams) -> Result<LinesResult, Error> {
        self.lines(params.name.as_deref(), params.target.as_deref(), |name| {
            self.backend.status(name)
        })
    }
}

impl Serve<DmTable> for Service {
    fn serve(&self, params: TableParams) -> Result<LinesResult, Error> {
        let inactive = params.inactive;
        self.lines(params.name.as_deref(), params.target.as_deref(), |name| {
            self.backend.table(name, inactive)
        })
    }
}

impl Serve<DmDeps> for Service {
    fn serve(&self, params: InfoParams) -> Result<DepsResult, Error> {
        let infos = self.infos(params.name.as_deref())?;
        let devices = infos.into_iter().map(|info| DeviceDeps {
            name: info.name,
            bdevs: info.bdevs,
        });
        Ok(DepsResult {
            devices: devices.collect(),
        })
    }
}

impl Serve<DmTargets> for Service {
    fn serve(&self, _: NoParams) -> Result<TargetsResult, Error> {
        let targets = TYPES.iter().map(|(name, version, _)| TargetType {
            name: (*name).to_owned(),
            version: *version,
        });
        Ok(TargetsResult {
            targets: targets.collect(),
        })
    }
}

impl Serve<BdevLs> for Service {
    fn serve(&self, _: NoParams) -> Result<BdevsResult, Error> {
        Ok(BdevsResult {
            bdevs: self.backend.bdevs().into_iter().map(bdev).collect(),
        })
    }
}

impl Serve<BdevAdd> for Service {
    fn serve(&self, params: AddBdevParams) -> Result<Done, Error> {
        let plan = bdev_plan(&params.bdev)?;
        self.backend.add_bdev(&plan).map(|()| Done {})
    }
}

impl Serve<BdevRemove> for Service {
    fn serve(&self, params: RemoveBdevParams) -> Result<Done, Error> {
        self.backend
            .remove_bdev(&params.name, params.force)
            .map(|()| Done {})
    }
}

impl Serve<ExportLs> for Service {
    fn serve(&self, _: NoParams) -> Result<ExportsResult, Error> {
        Ok(self.backend.exports())
    }
}

impl Serve<NvmfAddNamespace> for Service {
    fn serve(&self, params: AddNamespaceParams) -> Result<Done, Error> {
        self.backend.add_namespace(&params).map(|()| Done {})
    }
}

impl Serve<NvmfRemoveNamespace> for Service {
    fn serve(&self, params: RemoveNamespaceParams) -> Result<Done, Error> {
        self.backend.remove_namespace(&params).map(|()| Done {})
    }
}

impl Serve<NvmfSetAna> for Service {
    fn serve(&self, params: SetAnaParams) -> Result<Done, Error> {
        self.backend.set_ana(&params).map(|()| Done {})
    }
}

impl Serve<schema::Stats> for Service {
    fn serve(&self, params: StatsParams) -> Result<StatsResult, Error> {
        self.stats(params.device.as_deref())
    }
}

impl Serve<Version> for Service {
    fn serve(&self, _: NoParams) -> Result<VersionResult, Error> {
        Ok(VersionResult {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Serve<Schema> for Service {
    fn serve(&self, _: NoParams) -> Result<serde_json::Value, Error> {
        Ok(describe())
    }
}

fn device_info((entry, info): (Entry, dm::Info)) -> DeviceInfo {
    DeviceInfo {
        name: entry.name,
        uuid: entry.uuid,
        id: entry.id.0,
        suspended: info.suspended,
        internally_suspended: info.suspended_internally,
        deferred_remove: entry.deferred_remove,
        read_only: info.read_only,
        live_table: info.live,
        inactive_table: info.inactive,
        open_count: entry.open_count,
        event_nr: info.event_nr,
        target_count: info.targets,
        sectors: info.sectors,
        flush: if info.ordered {
            FlushPolicy::Ordered
        } else {
            FlushPolicy::Relaxed
        },
        parked_limit_ms: info.parked_limit_ns.map(|ns| ns / 1_000_000),
        bdevs: info.lowers,
    }
}

fn target_line(line: dm::TargetLine) -> TargetLine {
    TargetLine {
        start: line.start,
        sectors: line.sectors,
        target: line.target.to_owned(),
        text: line.text,
    }
}

/// Reads an entry as the configuration would.
fn bdev_plan(entry: &BdevEntry) -> Result<BdevPlan, Error> {
    // JSON is YAML.
    let plan = config::parse_bdev("bdev", &entry.0.to_string(), None).map_err(|error| {
        let help = error.help().map(|help| format!("; {help}"));
        let reason = format!("{}{}", error.message(), help.unwrap_or_default());
        Error::new(Errno::Einval, reason)
    })?;
    let path = match &plan.kind {
        BdevKind::File(file) => Some(&file.path.value),
        BdevKind::Nvme(device) => Some(&device.value),
        _ => None,
    };
    match path {
        Some(path) if !path.is_absolute() => {
            let reason = format!(
                "the path '{}' is relative, and the server's directory is not the client's; give an absolute one",
                path.display()
            );
            Err(Error::new(Errno::Einval, reason))
        }
        _ => Ok(plan),
    }
}

fn bdev(info: BdevInfo) -> Bdev {
    let lower = info.lower;
    Bdev {
        tables: info.tables,
        devices: info.devices,
        removed: info.removed,
        kind: info.kind.to_owned(),
        name: lower.name,
        sectors: lower.sectors,
        block_bytes: lower.block_bytes,
        volatile_cache: lower.volatile_cache,
        flush: lower.flush,
        fua: lower.fua,
        discard: lower.discard,
        write_zeroes: lower.write_zeroes,
        read_only: lower.read_only,
        remote: info.remote.map(remote),
        nvme: info.nvme.map(nvme),
    }
}

fn nvme(report: NvmeReport) -> Nvme {
    Nvme {
        device: report.device.display().to_string(),
        nsid: report.nsid,
        model: report.model,
        serial: report.serial,
        polled: report.polled,
        transfer_bytes_max: report.transfer_bytes_max,
    }
}

fn remote(report: RemoteReport) -> Remote {
    Remote {
        address: report.address,
        state: match report.state {
            bdev::RemoteState::Live => RemoteState::Live,
            bdev::RemoteState::Connecting => RemoteState::Connecting,
            bdev::RemoteState::Lost => RemoteState::Lost,
        },
        queues: report.queues,
        connects: report.connects,
        losses: report.losses,
        failed_attempts: report.failed_attempts,
        timeouts: report.timeouts,
        last_error: report.last_error,
    }
}

fn device_stats(name: &str, stats: &dm::Stats) -> DeviceStats {
    let kinds = [
        ("read", &stats.read),
        ("write", &stats.write),
        ("flush", &stats.flush),
        ("discard", &stats.discard),
    ];
    let operations = kinds.map(|(operation, counters)| operation_stats(operation, counters));
    DeviceStats {
        name: name.to_owned(),
        operations: operations.into(),
        in_flight: stats.in_flight,
        parked: stats.parked,
        busy: stats.busy,
        pushed_back: stats.pushed_back,
        held: stats.held,
    }
}

/// Counters of one kind of I/O, of a device or a namespace.
pub(super) fn operation_stats(operation: &str, counters: &dm::stats::Counters) -> OperationStats {
    OperationStats {
        operation: operation.to_owned(),
        ios: counters.ios,
        errors: counters.errors,
        bytes: counters.sectors * 512,
        latency: Latency::from(&counters.latency),
    }
}
