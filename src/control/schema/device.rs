//! Mapped devices and what is beneath them: `dm.*` and `bdev.*`.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Names a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceParams {
    /// Its name.
    pub name: String,
}

/// What a flush promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlushPolicy {
    /// What had completed when the flush was issued is durable when the flush completes, as with a disk.
    #[default]
    Relaxed,
    /// A flush is also a barrier.
    Ordered,
}

/// A new device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// Its name, 1 to 127 bytes.
    pub name: String,
    /// An identifier that stays when it is renamed, at most 128 bytes; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// What a flush promises.
    #[serde(default)]
    pub flush: FlushPolicy,
    /// Its first table, to be made live; without one the device is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The table refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// How many milliseconds I/O may wait for the suspended device to be resumed before it fails; for ever when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_limit_ms: Option<u64>,
}

/// A table for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadParams {
    /// The device's name.
    pub name: String,
    /// Lines of `start length type arguments…`, in sectors.
    pub table: String,
    /// It refuses writes.
    #[serde(default)]
    pub read_only: bool,
}

/// A new name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameParams {
    /// The device's name.
    pub name: String,
    /// The name it is to have.
    pub new_name: String,
}

/// Which devices to name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LsParams {
    /// Only those whose live table has a target of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Names of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LsResult {
    /// In order of their names.
    pub devices: Vec<DeviceName>,
    /// Events of all devices so far, and how often one was made, removed, renamed or given another table; wraps.
    #[serde(default)]
    pub global_event_nr: u32,
}

/// A device's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceName {
    /// Its name.
    pub name: String,
    /// Its uuid; empty if it has none.
    pub uuid: String,
    /// Its number, which stands for a minor number.
    pub id: u32,
}

/// Which device to tell about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfoParams {
    /// The device's name; all devices when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// State of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InfoResult {
    /// In order of their names.
    pub devices: Vec<DeviceInfo>,
    /// Events of all devices so far, and how often one was made, removed, renamed or given another table; wraps.
    #[serde(default)]
    pub global_event_nr: u32,
}

/// State of a device (LC-22).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its uuid; empty if it has none.
    pub uuid: String,
    /// Its number, which stands for a minor number.
    pub id: u32,
    /// No I/O passes until it is resumed.
    pub suspended: bool,
    /// No I/O passes, because polldm itself has suspended it for a while.
    #[serde(default)]
    pub internally_suspended: bool,
    /// It will be removed when nothing holds it any more.
    #[serde(default)]
    pub deferred_remove: bool,
    /// It refuses writes.
    pub read_only: bool,
    /// It has a live table.
    pub live_table: bool,
    /// It has an inactive table.
    pub inactive_table: bool,
    /// How many hold it: namespaces that export it, and devices whose live or inactive tables name it.
    pub open_count: u32,
    /// Events so far.
    pub event_nr: u32,
    /// Targets of the live table.
    pub target_count: u32,
    /// Size in sectors; 0 without a live table.
    pub sectors: u64,
    /// What a flush promises.
    pub flush: FlushPolicy,
    /// How many milliseconds I/O may wait for the suspended device to be resumed before it fails; left out for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_limit_ms: Option<u64>,
    /// The devices that the live table names, backing and mapped ones.
    pub bdevs: Vec<String>,
}

/// Which status lines to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusParams {
    /// The device's name; all devices when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only targets of this type, and devices that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Which table lines to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableParams {
    /// The device's name; all devices when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only targets of this type, and devices that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The inactive table rather than the live one.
    #[serde(default)]
    pub inactive: bool,
}

/// Lines about targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinesResult {
    /// In order of their names.
    pub devices: Vec<DeviceLines>,
}

/// One line for each target of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceLines {
    /// The device's name.
    pub name: String,
    /// Its targets in ascending order; empty without a table.
    pub targets: Vec<TargetLine>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetLine {
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Its type.
    pub target: String,
    /// Its arguments (table) or what it says of itself (status).
    pub text: String,
}

/// What devices sit on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DepsResult {
    /// In order of their names.
    pub devices: Vec<DeviceDeps>,
}

/// What a device sits on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceDeps {
    /// The device's name.
    pub name: String,
    /// The devices that its live table names, backing and mapped ones.
    pub bdevs: Vec<String>,
}

/// Target types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetsResult {
    /// As they are known to tables.
    pub targets: Vec<TargetType>,
}

/// A target type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetType {
    /// What table lines call it.
    pub name: String,
    /// Version of its table and status texts.
    pub version: [u32; 3],
}

/// Backing devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BdevsResult {
    /// In order of their names; then those that were taken away and that tables still name.
    pub bdevs: Vec<Bdev>,
}

/// A backing device to be opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddBdevParams {
    /// What it is.
    pub bdev: BdevEntry,
}

/// A backing device in the words of the configuration: what would be an entry of its `bdevs:`, such as
/// `{"malloc": {"name": "ram0", "size": "1GiB"}}`. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BdevEntry(pub serde_json::Value);

impl JsonSchema for BdevEntry {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BdevEntry".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        crate::config::bdev_schema(generator)
    }
}

/// A backing device that is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveBdevParams {
    /// Its name.
    pub name: String,
    /// Take it away from under the tables that name it, as when a disk is pulled: what they submit to it fails from then on.
    #[serde(default)]
    pub force: bool,
}

/// A backing device and what it declares of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bdev {
    /// Its name.
    pub name: String,
    /// Its kind, as the configuration calls it.
    pub kind: String,
    /// Size in sectors.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// A completed write can be lost at a power cut until a flush.
    pub volatile_cache: bool,
    /// It can flush.
    pub flush: bool,
    /// A write can be made durable by itself; the mapper emulates it where not.
    pub fua: bool,
    /// It takes discards.
    pub discard: bool,
    /// It takes write-zeroes.
    pub write_zeroes: bool,
    /// It refuses writes.
    pub read_only: bool,
    /// How many tables name it, live and inactive ones.
    #[serde(default)]
    pub tables: u32,
    /// The devices that have these tables.
    pub devices: Vec<String>,
    /// It was taken away by force, and is shown until the last table that names it is gone. Its name may be another's by now.
    #[serde(default)]
    pub removed: bool,
    /// Its connection, if it is a remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// Its generic device, if it is a namespace that the kernel's NVMe driver has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvme: Option<Nvme>,
}

/// A namespace through the kernel's NVMe driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nvme {
    /// Its generic device, such as /dev/ng0n1.
    pub device: String,
    /// Namespace identifier.
    pub nsid: u32,
    /// The controller's model number.
    pub model: String,
    /// The controller's serial number.
    pub serial: String,
    /// Reactors poll for completions; otherwise the device interrupts.
    pub polled: bool,
    /// The largest read or write in bytes; what is larger is split.
    pub transfer_bytes_max: u64,
}

/// Whether a remote can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemoteState {
    /// It is connected.
    Live,
    /// The connection was lost, and is tried again.
    Connecting,
    /// It was given up: remove it and add it again.
    Lost,
}

/// The connection of a backing device behind NVMe/TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remote {
    /// Where it is: `nvme-tcp://host:port/nqn?nsid=1`.
    pub address: String,
    /// Whether it can be reached.
    pub state: RemoteState,
    /// Reactors that use it, each with an I/O queue and a connection of its own.
    pub queues: u32,
    /// Times that it was connected, the first included.
    pub connects: u64,
    /// Times that the connection was lost.
    pub losses: u64,
    /// Attempts to connect again that failed.
    pub failed_attempts: u64,
    /// Of the losses, those because a command was not answered in time.
    pub timeouts: u64,
    /// Why the connection was lost, or could not be made, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
