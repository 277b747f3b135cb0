//! A node of the native engine, as operators reach it.

use super::backend::Backend;
use super::schema::{
    AddNamespaceParams, ExportsResult, NamespaceStats, ReactorStats, RemoveNamespaceParams,
};
use crate::dm::registry::Entry;
use crate::dm::{self, Errno, Error};
use crate::node::Node;
use crate::reactor::monotonic_ns;

impl Backend for Node {
    fn create(&self, name: &str, uuid: &str, ordered: bool) -> Result<(), Error> {
        self.engine().create(name, uuid, ordered).map(drop)
    }

    fn load(&self, name: &str, table: &str, read_only: bool) -> Result<(), Error> {
        self.engine().load(name, table, read_only)
    }

    fn clear(&self, name: &str) -> Result<(), Error> {
        self.engine().clear(name)
    }

    fn suspend(&self, name: &str) -> Result<(), Error> {
        self.engine().suspend(name)
    }

    fn resume(&self, name: &str) -> Result<(), Error> {
        self.engine().resume(name)
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Error> {
        self.engine().rename(name, new_name)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.engine().remove(name)
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

    fn bdevs(&self) -> Vec<(&'static str, dm::Lower)> {
        self.bdevs()
            .list()
            .iter()
            .map(|bdev| (bdev.kind(), bdev.declare()))
            .collect()
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
        ExportsResult::default()
    }

    fn namespace_stats(&self) -> Vec<NamespaceStats> {
        Vec::new()
    }

    fn add_namespace(&self, _: &AddNamespaceParams) -> Result<(), Error> {
        Err(no_export())
    }

    fn remove_namespace(&self, _: &RemoveNamespaceParams) -> Result<(), Error> {
        Err(no_export())
    }
}

fn no_export() -> Error {
    Error::new(
        Errno::Enxio,
        "this node has no NVMe/TCP export: its configuration has no 'exports: nvmf:'",
    )
}
