//! A running node, built from a plan: backing devices, reactors, mapped devices, exports, in that order; taken down in the
//! opposite one.
//!
//! Everything that can be refused is refused before the first port is opened; whatever fails after that takes down what was
//! started, so nothing is ever half-started.

mod build;
mod iscsi;
mod measure;
#[cfg(feature = "spdk")]
mod spdk;
#[cfg(feature = "spdk")]
pub mod spdk_load;
pub mod swaps;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::bdev;
use crate::config::{self, AnaState, BdevPlan, Error, Plan, Uuid};
use crate::dm;
use crate::engine::Engine;
use crate::export::{iscsi as iscsi_target, nvmf};
use crate::reactor::NotStopped;

pub use iscsi::{ChangedTarget, NewTarget};
pub use measure::DeviceTarget;

/// How long a node that is told to stop waits for I/O that is in flight before it ends all the same.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    engine: Engine,
    exports: Exports,
}

/// How hosts reach the devices.
enum Exports {
    /// By the targets of the native engine, if by any.
    Native {
        nvmf: Option<nvmf::Export>,
        iscsi: Option<iscsi_target::Export>,
    },
    /// By SPDK's.
    #[cfg(feature = "spdk")]
    Spdk {
        nvmf: Option<crate::spdk::Export>,
        iscsi: Option<crate::spdk::IscsiExport>,
    },
}

/// Why an export could not be changed while running.
#[derive(Debug)]
pub enum ExportError {
    /// The device: [`dm::Error`].
    Device(dm::Error),
    /// The export: what it says.
    Export(nvmf::ConfigError),
    /// SPDK's export: what it says.
    #[cfg(feature = "spdk")]
    Spdk(String),
    /// The iSCSI target: what it says.
    Iscsi(iscsi_target::ChangeError),
    /// What is wrong with what was asked for.
    Invalid(String),
    /// The node has no NVMe/TCP export.
    NoExport,
    /// The node has no iSCSI export.
    NoIscsi,
}

impl std::fmt::Display for ExportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExportError::Device(error) => error.fmt(f),
            ExportError::Export(error) => error.fmt(f),
            #[cfg(feature = "spdk")]
            ExportError::Spdk(reason) => f.write_str(reason),
            ExportError::Iscsi(error) => error.fmt(f),
            ExportError::Invalid(reason) => f.write_str(reason),
            ExportError::NoIscsi => write!(
                f,
                "this node has no iSCSI target: its configuration has no 'exports: iscsi:'"
            ),
            ExportError::NoExport => write!(
                f,
                "this node has no NVMe/TCP export: its configuration has no 'exports: nvmf:'"
            ),
        }
    }
}

impl std::error::Error for ExportError {}

impl Node {
    /// Builds and starts everything a plan asks for.
    ///
    /// # Errors
    /// What could not be opened, at its place in the configuration; then nothing runs.
    pub fn start(plan: &Plan) -> Result<Node, Error> {
        match plan.engine {
            config::Engine::Native => {
                let store = build::iscsi_store(plan)?;
                let engine = build::engine(plan)?;
                Node::finish(plan, engine, |engine| {
                    let nvmf = build::nvmf(plan, engine)?;
                    let iscsi = build::iscsi(plan, engine, store)?;
                    Ok(Exports::Native { nvmf, iscsi })
                })
            }
            #[cfg(feature = "spdk")]
            config::Engine::Spdk => spdk::start(plan).map(|(node, _)| node),
            #[cfg(not(feature = "spdk"))]
            config::Engine::Spdk => {
                Err(plan.error_of_whole("this build of polldm has no SPDK engine"))
            }
        }
    }

    /// Makes the devices and lets hosts reach them.
    fn finish(
        plan: &Plan,
        engine: Engine,
        export: impl FnOnce(&Engine) -> Result<Exports, Error>,
    ) -> Result<Node, Error> {
        let node = Node {
            engine,
            exports: Exports::Native {
                nvmf: None,
                iscsi: None,
            },
        };
        match build::devices(plan, &node.engine).and_then(|()| export(&node.engine)) {
            Ok(exports) => Ok(Node { exports, ..node }),
            Err(error) => {
                let _ = node.stop();
                Err(error)
            }
        }
    }

    /// The engine: devices and their verbs.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The backing devices.
    pub fn bdevs(&self) -> &Arc<bdev::Registry> {
        self.engine.bdevs()
    }

    /// The NVMe/TCP export of the native engine, if there is one.
    pub fn nvmf(&self) -> Option<&nvmf::Export> {
        match &self.exports {
            Exports::Native { nvmf, .. } => nvmf.as_ref(),
            #[cfg(feature = "spdk")]
            Exports::Spdk { .. } => None,
        }
    }

    /// SPDK's NVMe-oF export, if there is one.
    #[cfg(feature = "spdk")]
    pub fn spdk(&self) -> Option<&crate::spdk::Export> {
        match &self.exports {
            Exports::Spdk { nvmf, .. } => nvmf.as_ref(),
            Exports::Native { .. } => None,
        }
    }

    /// SPDK's iSCSI export, if there is one.
    #[cfg(feature = "spdk")]
    pub fn spdk_iscsi(&self) -> Option<&crate::spdk::IscsiExport> {
        match &self.exports {
            Exports::Spdk { iscsi, .. } => iscsi.as_ref(),
            Exports::Native { .. } => None,
        }
    }

    /// The iSCSI export of the native engine, if there is one.
    pub fn iscsi(&self) -> Option<&iscsi_target::Export> {
        match &self.exports {
            Exports::Native { iscsi, .. } => iscsi.as_ref(),
            #[cfg(feature = "spdk")]
            Exports::Spdk { .. } => None,
        }
    }

    /// Where hosts can connect, with the ports that the system chose: NVMe/TCP first, then iSCSI.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.exports {
            Exports::Native { nvmf, iscsi } => {
                let nvmf = nvmf.iter().flat_map(|nvmf| nvmf.addresses());
                let iscsi = iscsi.iter().flat_map(|iscsi| iscsi.addresses());
                let iscsi = iscsi.map(|(address, _)| address);
                nvmf.copied().chain(iscsi).collect()
            }
            #[cfg(feature = "spdk")]
            Exports::Spdk { nvmf, iscsi } => {
                let nvmf = nvmf.iter().flat_map(|nvmf| nvmf.addresses());
                let iscsi = iscsi.iter().flat_map(|iscsi| iscsi.portals());
                nvmf.chain(iscsi.map(|(address, _)| *address)).collect()
            }
        }
    }

    /// Opens a backing device, in the way of the configuration's own.
    ///
    /// # Errors
    /// As [`Engine::add_bdev`].
    pub fn add_bdev(&self, plan: &BdevPlan) -> Result<(), dm::Error> {
        self.engine.add_bdev(&plan.name.value, &build::spec(plan))
    }

    /// Serves a device as one more namespace; hosts that are connected are told.
    ///
    /// # Errors
    /// When there is no such device, or the subsystem cannot have it.
    pub fn add_namespace(&self, nqn: &str, nsid: u32, device: &str) -> Result<(), ExportError> {
        #[cfg(feature = "spdk")]
        if let Some(export) = self.spdk() {
            return spdk::add_namespace(&self.engine, export, nqn, nsid, device);
        }
        let nvmf = self.nvmf().ok_or(ExportError::NoExport)?;
        let id = self.engine.open(device).map_err(ExportError::Device)?;
        let snapshot = nvmf.snapshot(&self.engine);
        let subsystems = snapshot.subsystems.iter();
        let taken = subsystems
            .flat_map(|subsystem| &subsystem.namespaces)
            .map(|namespace| namespace.uuid);
        let namespace = nvmf::NamespaceConfig {
            nsid,
            device: id,
            device_name: device.into(),
            uuid: uuid_if_free(nqn, device, taken),
        };
        nvmf.add_namespace(&self.engine, nqn, &namespace)
            .map_err(|error| {
                self.engine.close(id);
                ExportError::Export(error)
            })
    }

    /// Takes a namespace away from its hosts and lets go of its device, when the I/O on it has ended.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), ExportError> {
        #[cfg(feature = "spdk")]
        if let Some(export) = self.spdk() {
            return spdk::remove_namespace(&self.engine, export, nqn, nsid);
        }
        let nvmf = self.nvmf().ok_or(ExportError::NoExport)?;
        let (id, idle) = nvmf
            .remove_namespace(&self.engine, nqn, nsid)
            .map_err(ExportError::Export)?;
        // Disconnected, never sent to, when no core has commands at the device any more.
        let _ = idle.recv();
        self.engine.close(id);
        Ok(())
    }

    /// Changes the ANA state of a subsystem; hosts that are connected are told.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn set_ana(&self, nqn: &str, state: AnaState) -> Result<(), ExportError> {
        #[cfg(feature = "spdk")]
        if let Some(export) = self.spdk() {
            return spdk::set_ana(export, nqn, state);
        }
        let nvmf = self.nvmf().ok_or(ExportError::NoExport)?;
        nvmf.set_ana(&self.engine, nqn, state.into())
            .map_err(ExportError::Export)
    }

    /// Stops: no new connections, what is in flight ends or is given up after [`STOP_WITHIN`].
    ///
    /// # Errors
    /// Names the reactors that had not come to rest.
    pub fn stop(&self) -> Result<(), NotStopped> {
        self.engine.stop(STOP_WITHIN)
    }
}

/// The UUID of a namespace that is added: what the configuration would derive, so that hosts find the same disk when the namespace is written there later.
/// `None` if another has it (a second namespace of one device, or one of a device that was renamed since), because hosts refuse two of one UUID: then it is made
/// with the NSID.
fn uuid_if_free(
    nqn: &str,
    device: &str,
    mut taken: impl Iterator<Item = [u8; 16]>,
) -> Option<[u8; 16]> {
    let derived = Uuid::derived(nqn, device).0;
    (!taken.any(|uuid| uuid == derived)).then_some(derived)
}
