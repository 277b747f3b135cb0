//! A node of the native engine, as operators reach it.

use super::backend::{Backend, operation_stats};
use super::native_iscsi::iscsi_export;
use super::schema::{
    AddNamespaceParams, Connection, Controller, ExportsResult, Namespace, NamespaceStats,
    NvmfEvents, NvmfExport, OperationStats, ReactorStats, RemoveNamespaceParams, SetAnaParams,
    Subsystem,
};
use crate::config::BdevPlan;
use crate::dm::registry::Entry;
use crate::dm::{self, Errno, Error, SuspendOptions};
use crate::engine::{BdevInfo, DeviceEvent, DeviceOptions, GivenUp, Removed};
use crate::export::iscsi::ChangeError;
use crate::export::nvmf;
use crate::export::stats::{CommandStats, Kind};
use crate::node::{ExportError, Node};
use crate::reactor::monotonic_ns;

impl Backend for Node {
    fn create(&self, name: &str, uuid: &str, options: DeviceOptions) -> Result<(), Error> {
        self.engine().create_with(name, uuid, options).map(drop)
    }

    fn load(&self, name: &str, table: &str, read_only: bool) -> Result<(), Error> {
        self.engine().load(name, table, read_only)
    }

    fn clear(&self, name: &str) -> Result<(), Error> {
        self.engine().clear(name)
    }

    fn suspend(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.engine().suspend_unless(name, options, given_up)
    }

    fn resume(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.engine().resume_unless(name, options, given_up)
    }

    fn suspend_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.engine().suspend_stack(name, options, given_up)
    }

    fn resume_stack(
        &self,
        name: &str,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.engine().resume_stack(name, options, given_up)
    }

    fn swap(
        &self,
        name: &str,
        table: &str,
        read_only: bool,
        options: SuspendOptions,
        given_up: GivenUp<'_>,
    ) -> Result<(), Error> {
        self.engine()
            .swap(name, table, read_only, options, given_up)
    }

    fn cancel(&self, name: &str) -> Result<(), Error> {
        self.engine().cancel(name)
    }

    fn fail_parked(&self, name: &str) -> Result<u64, Error> {
        self.engine().fail_parked(name)
    }

    fn message(
        &self,
        name: &str,
        sector: u64,
        words: Vec<String>,
    ) -> Result<Option<String>, Error> {
        self.engine().message(name, sector, words)
    }

    fn wait(
        &self,
        name: &str,
        event_nr: Option<u32>,
        given_up: GivenUp<'_>,
    ) -> Result<DeviceEvent, Error> {
        self.engine().wait(name, event_nr, given_up)
    }

    fn events(&self) -> u32 {
        self.engine().events()
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Error> {
        self.engine().rename(name, new_name)
    }

    fn set_uuid(&self, name: &str, uuid: &str) -> Result<(), Error> {
        self.engine().set_uuid(name, uuid)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.engine().remove(name)
    }

    fn remove_deferred(&self, name: &str) -> Result<bool, Error> {
        self.engine().remove_deferred(name)
    }

    fn remove_all(&self, deferred: bool) -> Result<Removed, Error> {
        self.engine().remove_all(deferred)
    }

    fn devices(&self) -> Vec<Entry> {
        self.engine().list()
    }

    fn info(&self, name: &str) -> Result<(Entry, dm::Info), Error> {
        self.engine()
            .info(name)
            .map(|device| (device.entry, device.info))
    }

    fn status(&self, name: &str) -> Result<Vec<dm::TargetLine>, Error> {
        self.engine().status(name)
    }

    fn table(&self, name: &str, inactive: bool) -> Result<Vec<dm::TargetLine>, Error> {
        self.engine().table(name, inactive)
    }

    fn stats(&self, name: &str) -> Result<dm::Stats, Error> {
        self.engine().stats(name)
    }

    fn bdevs(&self) -> Vec<BdevInfo> {
        self.engine().list_bdevs()
    }

    fn add_bdev(&self, plan: &BdevPlan) -> Result<(), Error> {
        Node::add_bdev(self, plan)
    }

    fn remove_bdev(&self, name: &str, force: bool) -> Result<(), Error> {
        self.engine().remove_bdev(name, force)
    }

    fn reactors(&self) -> Vec<ReactorStats> {
        let now_ns = monotonic_ns();
        let reading = |(reactor, stats): (usize, crate::reactor::ReactorStats)| ReactorStats {
            reactor: reactor as u32,
            elapsed_ns: now_ns.saturating_sub(stats.started_ns),
            busy_ns: stats.busy_ns,
            asleep_ns: stats.asleep_ns,
            sleeps: stats.sleeps,
            messages: stats.messages,
        };
        self.engine()
            .reactor_stats()
            .into_iter()
            .enumerate()
            .map(reading)
            .collect()
    }

    fn exports(&self) -> ExportsResult {
        let exports = ExportsResult {
            nvmf: self
                .nvmf()
                .map(|nvmf| nvmf_export(&nvmf.snapshot(self.engine()))),
            iscsi: self
                .iscsi()
                .map(|iscsi| iscsi_export(&iscsi.snapshot(self.engine()))),
        };
        #[cfg(feature = "spdk")]
        let exports = ExportsResult {
            nvmf: exports
                .nvmf
                .or_else(|| self.spdk().map(super::spdk::nvmf_export)),
            iscsi: exports
                .iscsi
                .or_else(|| self.spdk_iscsi().map(super::spdk::iscsi_export)),
        };
        exports
    }

    fn namespace_stats(&self) -> Vec<NamespaceStats> {
        let Some(nvmf) = self.nvmf() else {
            return Vec::new();
        };
        let of = |report: nvmf::NamespaceReport| {
            let operations = command_stats(&report.stats);
            let nvmf::NamespaceReport {
                subsystem_nqn,
                nsid,
                device_name,
                ..
            } = report;
            NamespaceStats {
                nqn: subsystem_nqn,
                nsid,
                device: device_name,
                operations,
            }
        };
        nvmf.stats(self.engine()).into_iter().map(of).collect()
    }

    fn add_namespace(&self, params: &AddNamespaceParams) -> Result<(), Error> {
        Node::add_namespace(self, &params.nqn, params.nsid, &params.device).map_err(export_error)
    }

    fn remove_namespace(&self, params: &RemoveNamespaceParams) -> Result<(), Error> {
        Node::remove_namespace(self, &params.nqn, params.nsid).map_err(export_error)
    }

    fn set_ana(&self, params: &SetAnaParams) -> Result<(), Error> {
        Node::set_ana(self, &params.nqn, params.state).map_err(export_error)
    }
}

/// Counters per kind of command.
pub(super) fn command_stats(stats: &CommandStats) -> Vec<OperationStats> {
    Kind::ALL
        .map(|(kind, name)| operation_stats(name, stats.kind(kind)))
        .into()
}

/// The errno of a refusal by an export.
pub(super) fn export_error(error: ExportError) -> Error {
    use nvmf::ConfigError::{DuplicateNsid, UnknownNamespace, UnknownSubsystem};
    let reason = error.to_string();
    match error {
        ExportError::Device(error) => error,
        ExportError::NoExport
        | ExportError::NoIscsi
        | ExportError::Iscsi(
            ChangeError::UnknownTarget(_)
            | ChangeError::UnknownUnit(..)
            | ChangeError::UnknownGroup(..)
            | ChangeError::NoGroup(_)
            | ChangeError::UnknownPortal(_),
        )
        | ExportError::Export(UnknownSubsystem(_) | UnknownNamespace { .. }) => {
            Error::new(Errno::Enxio, reason)
        }
        ExportError::Export(DuplicateNsid { .. })
        | ExportError::Iscsi(
            ChangeError::TargetExists(_)
            | ChangeError::UnitExists(..)
            | ChangeError::DeviceExists(..),
        ) => Error::new(Errno::Ebusy, reason),
        ExportError::Export(_) | ExportError::Iscsi(_) | ExportError::Invalid(_) => {
            Error::new(Errno::Einval, reason)
        }
        #[cfg(feature = "spdk")]
        ExportError::Spdk(_) => Error::new(Errno::Einval, reason),
    }
}

fn nvmf_export(snapshot: &nvmf::Snapshot) -> NvmfExport {
    let connection = |report: &nvmf::ConnectionReport| Connection {
        peer: report.peer.clone(),
        nqn: report.subsystem_nqn.clone(),
        controller: report.queue_id.map(|_| report.controller_id),
        queue: report.queue_id,
        queue_size: report.queue_size,
        outstanding: report.outstanding as u64,
        reactor: report.core,
        header_digest: report.digests.0,
        data_digest: report.digests.1,
    };
    let subsystem = |subsystem: &nvmf::SubsystemSnapshot| {
        let of_it =
            |controller: &&nvmf::ControllerSnapshot| controller.subsystem_nqn == subsystem.nqn;
        Subsystem {
            nqn: subsystem.nqn.clone(),
            hosts: match &subsystem.hosts {
                nvmf::Hosts::Any => None,
                nvmf::Hosts::List(list) => Some(list.clone()),
            },
            ana: subsystem.ana.into(),
            namespaces: subsystem
                .namespaces
                .iter()
                .map(|namespace| Namespace {
                    nsid: namespace.nsid,
                    device: namespace.device_name.clone(),
                    uuid: nvmf::target::format_uuid(&namespace.uuid),
                })
                .collect(),
            controllers: snapshot
                .controllers
                .iter()
                .filter(of_it)
                .map(|controller| Controller {
                    id: controller.controller_id,
                    host_nqn: controller.host_nqn.clone(),
                    io_queues: controller.queues.len() as u32,
                })
                .collect(),
        }
    };
    NvmfExport {
        events: NvmfEvents {
            accepted: snapshot.accepted,
            refused: snapshot.refused,
            violations: snapshot.violations,
            keep_alive_expired: snapshot.keep_alive_expired,
        },
        listeners: snapshot.addresses.iter().map(ToString::to_string).collect(),
        subsystems: snapshot.subsystems.iter().map(subsystem).collect(),
        connections: snapshot.connections.iter().map(connection).collect(),
    }
}
