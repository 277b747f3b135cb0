//! Mapped devices as namespaces of SPDK's NVMe-oF target, over TCP, RDMA and vfio-user.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::app::said;
use super::rpc::Refused;
use super::world::World;
use crate::dm::DeviceId;

/// The discovery subsystem, which every SPDK target has; hosts find it where it listens.
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Whether the SPDK that this was built with has NVMe over RDMA.
pub const HAS_RDMA: bool = spdk_sys::HAS_RDMA;

/// Whether the SPDK that this was built with has vfio-user.
pub const HAS_VFIO_USER: bool = spdk_sys::HAS_VFIO_USER;

/// Where hosts come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// An RDMA device.
    Rdma(SocketAddr),
    /// The directory of an emulated controller, which is one subsystem's.
    VfioUser(PathBuf),
}

/// A subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsystem {
    /// Its NQN.
    pub nqn: String,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// The hosts that may connect; `None` for every one.
    pub hosts: Option<Vec<String>>,
    /// The ANA state, in SPDK's words.
    pub ana: &'static str,
    /// The directory in which it is an emulated controller as well.
    pub vfio_user: Option<PathBuf>,
    /// What it serves.
    pub namespaces: Vec<Namespace>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// The mapped device.
    pub device: DeviceId,
    /// What hosts know it by, in the form of 8-4-4-4-12 digits; SPDK's own choice when left out.
    pub uuid: Option<String>,
}

/// A running export.
pub struct Export {
    world: Arc<World>,
    /// Those of all subsystems.
    listeners: Vec<Listener>,
    /// Those of one subsystem, by its NQN.
    own: Vec<(String, Listener)>,
    /// The device of each namespace, by NQN and NSID: its bdev's name in SPDK need not be its own.
    devices: Mutex<BTreeMap<(String, u32), DeviceId>>,
}

impl Export {
    /// Creates the subsystems and listens.
    ///
    /// # Errors
    /// What SPDK refused, and at which listener if it was one.
    pub fn start(
        world: Arc<World>,
        listeners: &[Listener],
        subsystems: &[Subsystem],
    ) -> Result<Export, (Option<Listener>, String)> {
        let own = subsystems.iter().filter_map(|subsystem| {
            let directory = subsystem.vfio_user.clone()?;
            Some((subsystem.nqn.clone(), Listener::VfioUser(directory)))
        });
        let export = Export {
            world,
            listeners: listeners.to_vec(),
            own: own.collect(),
            devices: Mutex::default(),
        };
        let own = export.own.iter().map(|(_, listener)| listener);
        let transports: BTreeSet<&str> = listeners.iter().chain(own).map(transport).collect();
        for transport in transports {
            export
                .call("nvmf_create_transport", json!({ "trtype": transport }))
                .map_err(|refused| (None, said(&refused.to_string())))?;
        }
        for subsystem in subsystems {
            export.create(subsystem).map_err(|reason| (None, reason))?;
        }
        export.world.listens(export.addresses());
        // Last of all: whoever connects finds everything there.
        let nqns = subsystems.iter().map(|subsystem| subsystem.nqn.as_str());
        for nqn in nqns.chain([DISCOVERY_NQN]) {
            for listener in export.listeners_of(nqn) {
                if let Listener::VfioUser(directory) = listener {
                    let socket = prepare(directory);
                    let socket = socket.map_err(|reason| (Some(listener.clone()), reason))?;
                    export.world.listens_in(socket);
                }
                export
                    .call("nvmf_subsystem_add_listener", listen(nqn, listener))
                    .map_err(|refused| (Some(listener.clone()), refused.to_string()))?;
            }
        }
        for subsystem in subsystems {
            export
                .set_ana(&subsystem.nqn, subsystem.ana)
                .map_err(|reason| (None, reason))?;
        }
        Ok(export)
    }

    /// Where hosts can connect over TCP.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let of_tcp = |listener: &Listener| match listener {
            Listener::Tcp(address) => Some(*address),
            _ => None,
        };
        self.listeners.iter().filter_map(of_tcp).collect()
    }

    /// Where hosts can connect, in words for an operator.
    pub fn listeners(&self) -> Vec<String> {
        let own = self.own.iter().map(|(_, listener)| listener);
        let words = |listener: &Listener| match listener {
            Listener::Tcp(address) => address.to_string(),
            Listener::Rdma(address) => format!("rdma {address}"),
            Listener::VfioUser(directory) => format!("vfio-user {}", directory.display()),
        };
        self.listeners.iter().chain(own).map(words).collect()
    }

    /// The listeners of a subsystem.
    fn listeners_of(&self, nqn: &str) -> impl Iterator<Item = &Listener> {
        let own = self.own.iter().filter(move |(of, _)| of == nqn);
        self.listeners
            .iter()
            .chain(own.map(|(_, listener)| listener))
    }

    /// Serves a device as one more namespace.
    ///
    /// # Errors
    /// What SPDK has against it, or against the device.
    pub fn add_namespace(&self, nqn: &str, namespace: &Namespace) -> Result<(), String> {
        let bdev = self.world.bdev_name(namespace.device)?;
        let mut params = json!({ "nsid": namespace.nsid, "bdev_name": bdev });
        if let Some(uuid) = &namespace.uuid {
            params["uuid"] = uuid.clone().into();
        }
        let params = json!({ "nqn": nqn, "namespace": params });
        self.say("nvmf_subsystem_add_ns", params)?;
        self.devices()
            .insert((nqn.into(), namespace.nsid), namespace.device);
        Ok(())
    }

    /// Takes a namespace away from its hosts; what is parked at its device is aborted. The device that it served.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<DeviceId, String> {
        let key = (nqn.to_owned(), nsid);
        // Taken, so that of two who remove it one lets go of the device.
        let device = self.devices().remove(&key);
        let device =
            device.ok_or_else(|| format!("there is no namespace {nsid} in a subsystem '{nqn}'"))?;
        let params = json!({ "nqn": nqn, "nsid": nsid });
        let removed = self
            .world
            .rpc_aborting(device, "nvmf_subsystem_remove_ns", params);
        match removed {
            Err(refused) if self.has_namespace(nqn, nsid) => {
                self.devices().insert(key, device);
                Err(refused.to_string())
            }
            // One that is gone although SPDK was asked in vain: it had not answered in time when it was asked before.
            _ => Ok(device),
        }
    }

    /// Whether SPDK has a namespace, or does not say.
    fn has_namespace(&self, nqn: &str, nsid: u32) -> bool {
        let Ok(subsystems) = self.subsystems() else {
            return true;
        };
        let mut of_nqn = subsystems.iter().filter(|told| told["nqn"] == nqn);
        of_nqn.any(|told| {
            let mut namespaces = told["namespaces"].as_array().into_iter().flatten();
            namespaces.any(|namespace| namespace["nsid"] == nsid)
        })
    }

    /// What the device of a namespace is called now.
    pub fn device_name(&self, nqn: &str, nsid: u32) -> Option<String> {
        let device = self.devices().get(&(nqn.to_owned(), nsid)).copied();
        self.world.device_name(device?)
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<(String, u32), DeviceId>> {
        let devices = self.devices.lock();
        devices.expect("no holder of this lock can panic")
    }

    /// Changes the ANA state of a subsystem at every listener; `state` in SPDK's words.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn set_ana(&self, nqn: &str, state: &str) -> Result<(), String> {
        for listener in self.listeners_of(nqn) {
            let mut params = listen(nqn, listener);
            params["ana_state"] = state.into();
            self.say("nvmf_subsystem_listener_set_ana_state", params)?;
        }
        Ok(())
    }

    /// The ANA state of a subsystem, in SPDK's words; it is the same at every listener.
    pub fn ana(&self, nqn: &str) -> Option<String> {
        let listeners = self.call("nvmf_subsystem_get_listeners", json!({ "nqn": nqn }));
        let state = &listeners.ok()?[0]["ana_states"][0]["ana_state"];
        state.as_str().map(str::to_owned)
    }

    /// The subsystems as SPDK tells them, without that of the discovery.
    ///
    /// # Errors
    /// When SPDK does not answer.
    pub fn subsystems(&self) -> Result<Vec<Value>, String> {
        let subsystems = self
            .call("nvmf_get_subsystems", json!({}))
            .map_err(|refused| refused.to_string())?;
        let Value::Array(mut subsystems) = subsystems else {
            return Err("SPDK's nvmf_get_subsystems returns no list".into());
        };
        subsystems.retain(|subsystem| subsystem["nqn"] != DISCOVERY_NQN);
        Ok(subsystems)
    }

    fn create(&self, subsystem: &Subsystem) -> Result<(), String> {
        let Subsystem {
            nqn, serial, model, ..
        } = subsystem;
        let mut params = json!({
            "nqn": nqn,
            "serial_number": serial,
            "model_number": model,
            "allow_any_host": subsystem.hosts.is_none(),
            "ana_reporting": true,
            "max_namespaces": crate::config::NSID_MAX,
        });
        // No bound on the blocks of a discard: of one Linux concludes that there are discards, whatever else it is told (seen with 6.1). An SPDK
        // that does not know the bound has none.
        if spdk_sys::HAS_DMRSL {
            params["dmrsl"] = 0.into();
        }
        self.say("nvmf_create_subsystem", params)?;
        for host in subsystem.hosts.iter().flatten() {
            self.say(
                "nvmf_subsystem_add_host",
                json!({ "nqn": nqn, "host": host }),
            )?;
        }
        for namespace in &subsystem.namespaces {
            self.add_namespace(nqn, namespace)?;
        }
        Ok(())
    }

    fn call(&self, method: &str, params: Value) -> Result<Value, Refused> {
        self.world.rpc(method, params)
    }

    fn say(&self, method: &str, params: Value) -> Result<(), String> {
        self.call(method, params)
            .map(drop)
            .map_err(|refused| refused.to_string())
    }
}

/// A listener's transport, in SPDK's words.
fn transport(listener: &Listener) -> &'static str {
    match listener {
        Listener::Tcp(_) => "TCP",
        Listener::Rdma(_) => "RDMA",
        Listener::VfioUser(_) => "VFIOUSER",
    }
}

/// The parameters that name a listener of a subsystem.
fn listen(nqn: &str, listener: &Listener) -> Value {
    let mut place = match listener {
        Listener::Tcp(address) | Listener::Rdma(address) => json!({
            "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "traddr": address.ip().to_string(),
            "trsvcid": address.port().to_string(),
        }),
        // SPDK wants a service of every listener; here it has no meaning.
        Listener::VfioUser(directory) => json!({ "traddr": directory, "trsvcid": "0" }),
    };
    place["trtype"] = transport(listener).into();
    json!({ "nqn": nqn, "listen_address": place })
}

/// Makes the directory of a controller, which only this user can enter, and takes away the socket that a process which ended without a word has left
/// there. The socket's path.
fn prepare(directory: &Path) -> Result<PathBuf, String> {
    let failed = |what: &str, error: std::io::Error| {
        format!("the directory {} {what}: {error}", directory.display())
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| failed("cannot be made", error))?;
    let socket = directory.join(crate::config::VFIO_USER_SOCKET);
    match UnixStream::connect(&socket) {
        Ok(_) => {
            return Err(format!(
                "another process has a controller in the directory {}",
                directory.display()
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(&socket).map_err(|error| failed("cannot be tidied up", error))?;
        }
        Err(_) => {}
    }
    Ok(socket)
}
