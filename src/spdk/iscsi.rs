//! Mapped devices as logical units of SPDK's iSCSI target.
//!
//! Portal groups are those of the configuration; every target has the initiators that may log in as a group of its own. What SPDK has against a
//! parameter it only tells its log, so the errors carry that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::app::said;
use super::rpc::Refused;
use super::world::World;
use crate::dm::DeviceId;

/// Whether the SPDK that this was built with has an iSCSI target.
pub const HAS_ISCSI: bool = spdk_sys::HAS_ISCSI;

/// The group of secrets for discovery; those of targets come after it.
const DISCOVERY_SECRETS: u32 = 1;

/// Sessions at the most. SPDK takes the memory for them when it starts, and ends the process when it runs out of PDUs; so this is half of
/// its own default, and so is what each session may have.
const SESSIONS: u32 = 64;

/// Commands of a session that wait for their answers, as SPDK has it unless told otherwise.
const QUEUE_DEPTH: u32 = 64;

/// Writes of a session whose data is asked for (R2T) before they have ended: all of its commands. With 4, as SPDK has it unless told otherwise, whatever is
/// more waits in its target: a deep queue of writes would reach the device one small part after the other, and where 4 writes wait for a path
/// nothing behind them is known to polldm.
const TRANSFERS_PER_SESSION: u32 = QUEUE_DEPTH;

/// PDUs of a session at the most, as SPDK counts them: twice its commands, 64 parts of long reads, transfers each with its request, and 8
/// more.
const PDUS_PER_SESSION: u32 = 2 * (QUEUE_DEPTH + 64 + 2 * TRANSFERS_PER_SESSION + 8);

/// Buffers of 8 KiB for immediate data, and of 64 KiB for what comes later, per session on average. A session that finds none waits.
const IMMEDIATE_BUFFERS_PER_SESSION: u32 = 32;
const DATA_BUFFERS_PER_SESSION: u32 = 8;

/// Memory that all of this takes, in MiB: the PDUs, the buffers, and 32,768 tasks.
pub(super) const MEMORY_MIB: u64 = 128;

/// How initiators prove who they are: CHAP, with MD5, which is what SPDK's target knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// Initiators have to ask for the target's proof as well.
    pub mutual: bool,
    /// CHAP names of initiators, and what they prove themselves with.
    pub users: Vec<(String, String)>,
    /// The same of the target.
    pub own: Option<(String, String)>,
}

/// A target.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub iqn: String,
    /// The initiators that may log in; `None` for every one.
    pub initiators: Option<Vec<String>>,
    /// How they prove who they are; `None` when their names are believed.
    pub chap: Option<Chap>,
    /// Tags of the portal groups that it is reached through.
    pub groups: Vec<u16>,
    /// Numbers of its units, and their devices; a unit 0 among them.
    pub luns: Vec<(u16, DeviceId)>,
}

/// A running export.
pub struct IscsiExport {
    world: Arc<World>,
    portals: Vec<(SocketAddr, u16)>,
    discovery: Option<Chap>,
    targets: Vec<Target>,
}

/// What the target is configured with before SPDK starts: room for sessions, or next to none where nothing is exported. An initiator that is silent
/// for `keep_alive` seconds is asked whether it is there, and has as long to answer.
pub(super) fn startup(keep_alive: Option<u64>) -> Option<Value> {
    if !HAS_ISCSI {
        return None;
    }
    let sessions = if keep_alive.is_some() { SESSIONS } else { 1 };
    let mut params = json!({
        "max_sessions": sessions,
        "max_queue_depth": QUEUE_DEPTH,
        "max_r2t_per_connection": TRANSFERS_PER_SESSION,
        "pdu_pool_size": sessions * PDUS_PER_SESSION,
        "immediate_data_pool_size": sessions * IMMEDIATE_BUFFERS_PER_SESSION,
        "data_out_pool_size": sessions * DATA_BUFFERS_PER_SESSION,
        "disable_chap": true,
    });
    if let Some(seconds) = keep_alive {
        params["nop_in_interval"] = seconds.into();
        params["nop_timeout"] = seconds.into();
    }
    let entry = json!({ "method": "iscsi_set_options", "params": params });
    Some(json!({ "subsystem": "iscsi", "config": [entry] }))
}

impl IscsiExport {
    /// Creates the targets, then listens: whoever connects finds everything there. Portals have the tags of their groups; `discovery` is what initiators are asked before they are
    /// shown which targets there are.
    ///
    /// # Errors
    /// What SPDK has against it.
    pub fn start(
        world: Arc<World>,
        portals: &[(SocketAddr, u16)],
        discovery: Option<&Chap>,
        targets: &[Target],
    ) -> Result<IscsiExport, String> {
        let export = IscsiExport {
            world,
            portals: portals.to_vec(),
            discovery: discovery.cloned(),
            targets: targets.to_vec(),
        };
        export
            .world
            .listens(portals.iter().map(|(address, _)| *address));
        let mut groups: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
        for (address, tag) in portals {
            groups.entry(*tag).or_default().push(portal(address));
        }
        for (tag, portals) in &groups {
            let params = json!({ "tag": tag, "portals": portals, "wait": true });
            export.call("iscsi_create_portal_group", params)?;
        }
        if let Some(chap) = discovery {
            let params = export.authentication(DISCOVERY_SECRETS, Some(chap))?;
            export.call("iscsi_set_discovery_auth", params)?;
        }
        for (tag, target) in (DISCOVERY_SECRETS + 1..).zip(targets) {
            export.create(tag, target)?;
        }
        for tag in groups.keys() {
            export.call("iscsi_start_portal_group", json!({ "tag": tag }))?;
        }
        Ok(export)
    }

    /// Where initiators can connect, with the tags of the groups.
    pub fn portals(&self) -> &[(SocketAddr, u16)] {
        &self.portals
    }

    /// What initiators are asked before they are shown which targets there are.
    pub fn discovery(&self) -> Option<&Chap> {
        self.discovery.as_ref()
    }

    /// The targets, as they were made; they do not change.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// What a unit's device is called now.
    pub fn device_name(&self, device: DeviceId) -> Option<String> {
        self.world.device_name(device)
    }

    /// The name in SPDK of a unit's bdev, which is its serial number.
    ///
    /// # Errors
    /// The device has no bdev.
    pub fn bdev_name(&self, device: DeviceId) -> Result<String, String> {
        self.world.bdev_name(device)
    }

    /// What SPDK is told of CHAP; the secrets become the group of the number `tag`.
    fn authentication(&self, tag: u32, chap: Option<&Chap>) -> Result<Value, String> {
        let Some(chap) = chap else {
            return Ok(json!({ "disable_chap": true }));
        };
        let secret = |(user, secret): &(String, String)| match &chap.own {
            None => json!({ "user": user, "secret": secret }),
            Some((own, proof)) => {
                json!({ "user": user, "secret": secret, "muser": own, "msecret": proof })
            }
        };
        let secrets: Vec<Value> = chap.users.iter().map(secret).collect();
        let params = json!({ "tag": tag, "secrets": secrets });
        self.call("iscsi_create_auth_group", params)?;
        Ok(json!({ "chap_group": tag, "require_chap": true, "mutual_chap": chap.mutual }))
    }

    /// Creates a target, whose groups of initiators and of secrets get the number `tag`.
    fn create(&self, tag: u32, target: &Target) -> Result<(), String> {
        let initiators = match &target.initiators {
            None => vec!["ANY".to_owned()],
            // SPDK takes "ALL" within a name for a word of its own; it compares names without regard to case.
            Some(names) => names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        self.call(
            "iscsi_create_initiator_group",
            json!({ "tag": tag, "initiators": initiators, "netmasks": ["ANY"] }),
        )?;
        let unit = |(lun, device): &(u16, DeviceId)| {
            let bdev = self.bdev_name(*device)?;
            Ok(json!({ "lun_id": lun, "bdev_name": bdev }))
        };
        let luns: Vec<Value> = target
            .luns
            .iter()
            .map(unit)
            .collect::<Result<_, String>>()?;
        let map = |group: &u16| json!({ "pg_tag": group, "ig_tag": tag });
        let maps: Vec<Value> = target.groups.iter().map(map).collect();
        let mut params = self.authentication(tag, target.chap.as_ref())?;
        let node = json!({
            "name": target.iqn,
            "alias_name": target.iqn,
            "pg_ig_maps": maps,
            "luns": luns,
            "queue_depth": QUEUE_DEPTH,
        });
        let fields = params.as_object_mut().expect("made of fields");
        fields.extend(node.as_object().expect("made of fields").clone());
        self.call("iscsi_create_target_node", params)
    }

    fn call(&self, method: &str, params: Value) -> Result<(), String> {
        let told = |refused: Refused| said(&refused.to_string());
        self.world.rpc(method, params).map(drop).map_err(told)
    }
}

/// A portal as SPDK writes it: IPv6 in brackets, the port as text.
fn portal(address: &SocketAddr) -> Value {
    let host = match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    json!({ "host": host, "port": address.port().to_string() })
}
