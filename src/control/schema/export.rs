//! What hosts reach: `export.*` and `nvmf.*`.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::config::{AluaState, AnaState};

/// What hosts can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportsResult {
    /// The NVMe/TCP target; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvmf: Option<NvmfExport>,
    /// The iSCSI target; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<IscsiExport>,
}

/// The iSCSI target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiExport {
    /// Addresses it listens on.
    pub portals: Vec<String>,
    /// The portal group of each.
    #[serde(default)]
    pub portal_tags: Vec<u16>,
    /// What initiators are asked before they are shown which targets there are.
    #[serde(default)]
    pub discovery: IscsiAuthentication,
    /// Its targets.
    pub targets: Vec<IscsiTarget>,
    /// Every connection, those that have not logged in among them.
    pub connections: Vec<IscsiConnection>,
    /// Since the start.
    pub events: IscsiEvents,
}

/// What has happened to connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiEvents {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections ended because the initiator broke the protocol.
    pub violations: u64,
    /// Logins refused.
    pub logins_refused: u64,
}

/// A portal group as a target uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiGroup {
    /// Its tag.
    pub tag: u16,
    /// The ALUA state of the target in it.
    pub alua: AluaState,
}

/// Where initiators are sent instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiRedirect {
    /// The address.
    pub address: String,
    /// Initiators keep to it.
    pub permanent: bool,
}

/// An iSCSI target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiTarget {
    /// Its name.
    pub iqn: String,
    /// The initiators that may log in; left out when every one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiators: Option<Vec<String>>,
    /// How they prove who they are.
    #[serde(default)]
    pub authentication: IscsiAuthentication,
    /// The portal groups that it is reached through.
    #[serde(default)]
    pub portal_groups: Vec<IscsiGroup>,
    /// Initiators may change the ALUA states of its portal groups.
    #[serde(default)]
    pub explicit_alua: bool,
    /// Where initiators are sent instead; left out when they are let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<IscsiRedirect>,
    /// Its logical units, by number.
    pub luns: Vec<IscsiLun>,
}

/// How initiators prove who they are.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum IscsiAuthentication {
    /// Their names are believed.
    #[default]
    None,
    /// By CHAP.
    Chap,
    /// By CHAP, and the target has to prove itself as well.
    MutualChap,
}

impl IscsiAuthentication {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            IscsiAuthentication::None => "none",
            IscsiAuthentication::Chap => "chap",
            IscsiAuthentication::MutualChap => "mutual-chap",
        }
    }
}

/// A logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiLun {
    /// Its number.
    pub lun: u16,
    /// The device.
    pub device: String,
    /// Its serial number, which initiators know it by.
    pub serial: String,
    /// The initiators that see it; left out when all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiators: Option<Vec<String>>,
}

/// A connection of an initiator; each is a session of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiConnection {
    /// The initiator's address; empty when the socket no longer knows.
    pub peer: String,
    /// The initiator's name; empty before it has said it.
    pub initiator: String,
    /// The target's name; empty in discovery, and before the login is done.
    pub iqn: String,
    /// The session's number (TSIH); 0 before the login is done.
    pub session: u16,
    /// Commands that have not been answered.
    pub outstanding: u64,
    /// The reactor it lives on.
    pub reactor: u16,
    /// Commands that were carried out.
    #[serde(default)]
    pub commands: u64,
    /// Bytes read from units.
    #[serde(default)]
    pub read_bytes: u64,
    /// Bytes written to units.
    #[serde(default)]
    pub written_bytes: u64,
    /// Whether headers carry digests.
    pub header_digest: bool,
    /// Whether data carries digests.
    pub data_digest: bool,
}

/// The NVMe/TCP target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NvmfExport {
    /// Addresses it listens on.
    pub listeners: Vec<String>,
    /// Its subsystems.
    pub subsystems: Vec<Subsystem>,
    /// Every connection, those without a controller among them.
    pub connections: Vec<Connection>,
    /// Since the start.
    pub events: NvmfEvents,
}

/// What has happened to connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NvmfEvents {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Connections ended because the host broke the protocol.
    pub violations: u64,
    /// Controllers whose keep-alive timer expired.
    pub keep_alive_expired: u64,
}

/// A subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subsystem {
    /// Its NQN.
    pub nqn: String,
    /// The host NQNs that may connect; left out when every host may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Its ANA state.
    #[serde(default)]
    pub ana: AnaState,
    /// Its namespaces, by NSID.
    pub namespaces: Vec<Namespace>,
    /// The hosts' controllers.
    pub controllers: Vec<Controller>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: u32,
    /// The device.
    pub device: String,
    /// What hosts know it by.
    pub uuid: String,
}

/// A host's controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Controller {
    /// CNTLID.
    pub id: u16,
    /// The host's NQN.
    pub host_nqn: String,
    /// I/O queues it has connected.
    pub io_queues: u32,
}

/// A connection: one queue of a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// The host's address; empty when it is no longer known.
    pub peer: String,
    /// The subsystem; empty before Connect.
    pub nqn: String,
    /// CNTLID; left out before Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<u16>,
    /// The queue, 0 for the admin queue; left out before Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
    /// Entries of the queue.
    pub queue_size: u32,
    /// Commands that have not been answered.
    pub outstanding: u64,
    /// The reactor it lives on.
    pub reactor: u16,
    /// PDU headers carry a digest.
    pub header_digest: bool,
    /// PDU data carry a digest.
    pub data_digest: bool,
}

/// A new namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddNamespaceParams {
    /// The subsystem.
    pub nqn: String,
    /// Its identifier, from 1.
    pub nsid: u32,
    /// The device.
    pub device: String,
}

/// A namespace to take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveNamespaceParams {
    /// The subsystem.
    pub nqn: String,
    /// The namespace's identifier.
    pub nsid: u32,
}

/// A change of ANA state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAnaParams {
    /// The subsystem.
    pub nqn: String,
    /// Its new state.
    pub state: AnaState,
}

/// A new target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTargetParams {
    /// Its name.
    pub iqn: String,
    /// The initiators that may log in: names, patterns and networks, as in a configuration; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiators: Option<Vec<String>>,
    /// Path of a file of CHAP secrets that the server can read; without one, initiators' names are believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
    /// With secrets: the target has to prove itself as well.
    #[serde(default)]
    pub mutual: bool,
    /// Tags of the portal groups that it is reached through; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal_groups: Option<Vec<u16>>,
    /// Initiators may change the ALUA states of its portal groups.
    #[serde(default)]
    pub explicit_alua: bool,
}

/// What becomes of a target; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTargetParams {
    /// Its name.
    pub iqn: String,
    /// The initiators that may log in: names, patterns and networks, as in a configuration; `any` alone for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiators: Option<Vec<String>>,
    /// How they prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<IscsiAuthentication>,
    /// With CHAP: path of a file of secrets that the server can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
    /// Tags of the portal groups that it is reached through. Sessions by others end; in one that is new it is `optimized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal_groups: Option<Vec<u16>>,
    /// Initiators may change the ALUA states of its portal groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explicit_alua: Option<bool>,
    /// Where they are sent: address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<IscsiRedirect>,
    /// They are sent nowhere any more.
    #[serde(default)]
    pub no_redirect: bool,
}

/// Who sees a unit from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLunParams {
    /// The target.
    pub iqn: String,
    /// The unit's number.
    pub lun: u16,
    /// The initiators that see it, as in a configuration; `any` alone for all that may log in.
    pub initiators: Vec<String>,
}

/// One more portal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPortalParams {
    /// Address and port; port 0 lets the system choose.
    pub address: String,
    /// The tag of its group, from 1; one that there is not yet makes a group.
    pub portal_group: u16,
}

/// A portal that listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortalResult {
    /// Address and port.
    pub address: String,
}

/// A portal to close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovePortalParams {
    /// Address and port.
    pub address: String,
}

/// What discovery asks of initiators from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDiscoveryParams {
    /// How they prove who they are.
    pub authentication: IscsiAuthentication,
    /// With CHAP: path of a file of secrets that the server can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
}

/// How long initiators may be silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetKeepAliveParams {
    /// Milliseconds before one is asked whether it is there, and then before its connection ends.
    pub milliseconds: u64,
}

/// A target to take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveTargetParams {
    /// Its name.
    pub iqn: String,
}

/// A new unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddLunParams {
    /// The target.
    pub iqn: String,
    /// Its number, from 0.
    pub lun: u16,
    /// The device.
    pub device: String,
    /// The initiators that see it, as in a configuration; all that may log in when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiators: Option<Vec<String>>,
}

/// A unit to take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveLunParams {
    /// The target.
    pub iqn: String,
    /// The unit's number.
    pub lun: u16,
}

/// A change of ALUA state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetAluaParams {
    /// The target.
    pub iqn: String,
    /// The tag of a portal group that it is reached through.
    pub portal_group: u16,
    /// Its new state there.
    pub state: AluaState,
}
