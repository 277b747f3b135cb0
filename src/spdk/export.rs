//! Mapped devices as namespaces of SPDK's NVMe-oF target, over TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::rpc::Refused;
use super::world::World;

/// The discovery subsystem, which every SPDK target has; hosts find it where it listens.
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener(pub SocketAddr);

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
    /// What it serves.
    pub namespaces: Vec<Namespace>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// The mapped device.
    pub device: String,
    /// What hosts know it by, in the form of 8-4-4-4-12 digits; SPDK's own choice when left out.
    pub uuid: Option<String>,
}

/// A running export.
pub struct Export {
    world: Arc<World>,
    listeners: Vec<Listener>,
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
        let export = Export {
            world,
            listeners: listeners.to_vec(),
        };
        let whole = |refused: Refused| (None, refused.to_string());
        export
            .call("nvmf_create_transport", json!({ "trtype": "TCP" }))
            .map_err(whole)?;
        for subsystem in subsystems {
            export.create(subsystem).map_err(whole)?;
        }
        export.world.listens(export.addresses());
        // Last of all: whoever connects finds everything there.
        let nqns = subsystems.iter().map(|subsystem| subsystem.nqn.as_str());
        for nqn in nqns.chain([DISCOVERY_NQN]) {
            for listener in listeners {
                export
                    .call("nvmf_subsystem_add_listener", listen(nqn, *listener))
                    .map_err(|refused| (Some(*listener), refused.to_string()))?;
            }
        }
        for subsystem in subsystems {
            export
                .set_ana(&subsystem.nqn, subsystem.ana)
                .map_err(|reason| (None, reason))?;
        }
        Ok(export)
    }

    /// Where hosts can connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.0).collect()
    }

    /// Serves a device as one more namespace.
    ///
    /// # Errors
    /// What SPDK has against it.
    pub fn add_namespace(&self, nqn: &str, namespace: &Namespace) -> Result<(), String> {
        let mut params = json!({ "nsid": namespace.nsid, "bdev_name": namespace.device });
        if let Some(uuid) = &namespace.uuid {
            params["uuid"] = uuid.clone().into();
        }
        let params = json!({ "nqn": nqn, "namespace": params });
        self.say("nvmf_subsystem_add_ns", params)
    }

    /// Takes a namespace away from its hosts. The device that it served.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<String, String> {
        let device = self.device_of(nqn, nsid)?;
        self.say(
            "nvmf_subsystem_remove_ns",
            json!({ "nqn": nqn, "nsid": nsid }),
        )?;
        Ok(device)
    }

    /// Changes the ANA state of a subsystem at every listener; `state` in SPDK's words.
    ///
    /// # Errors
    /// When there is no such subsystem.
    pub fn set_ana(&self, nqn: &str, state: &str) -> Result<(), String> {
        for listener in &self.listeners {
            let mut params = listen(nqn, *listener);
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

    fn create(&self, subsystem: &Subsystem) -> Result<(), Refused> {
        let Subsystem {
            nqn, serial, model, ..
        } = subsystem;
        let params = json!({
            "nqn": nqn,
            "serial_number": serial,
            "model_number": model,
            "allow_any_host": subsystem.hosts.is_none(),
            "ana_reporting": true,
            "max_namespaces": crate::config::NSID_MAX,
        });
        self.call("nvmf_create_subsystem", params)?;
        for host in subsystem.hosts.iter().flatten() {
            self.call(
                "nvmf_subsystem_add_host",
                json!({ "nqn": nqn, "host": host }),
            )?;
        }
        for namespace in &subsystem.namespaces {
            self.add_namespace(nqn, namespace)
                .map_err(|message| Refused {
                    method: "nvmf_subsystem_add_ns".into(),
                    code: 0,
                    message,
                })?;
        }
        Ok(())
    }

    /// The device that a namespace serves.
    fn device_of(&self, nqn: &str, nsid: u32) -> Result<String, String> {
        let subsystems = self.subsystems()?;
        let subsystem = subsystems
            .iter()
            .find(|subsystem| subsystem["nqn"] == nqn)
            .ok_or_else(|| format!("there is no subsystem '{nqn}'"))?;
        let mut namespaces = subsystem["namespaces"].as_array().into_iter().flatten();
        let namespace = namespaces.find(|namespace| namespace["nsid"] == nsid);
        namespace
            .and_then(|namespace| namespace["bdev_name"].as_str())
            .map(str::to_owned)
            .ok_or_else(|| format!("subsystem '{nqn}' has no namespace {nsid}"))
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

/// The parameters that name a listener of a subsystem.
fn listen(nqn: &str, listener: Listener) -> Value {
    let Listener(address) = listener;
    json!({
        "nqn": nqn,
        "listen_address": {
            "trtype": "TCP",
            "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "traddr": address.ip().to_string(),
            "trsvcid": address.port().to_string(),
        },
    })
}
