//! The control plane's one schema: every method with its parameters and its result, for server and client alike.
//!
//! Each method is a type that implements [`Method`]; the types below are what goes over the socket. Sizes are in the unit
//! their name says (`sectors` are 512 bytes), times in nanoseconds. Unknown parameters are refused, so that a typing error is
//! never taken for a default; a client must ignore fields of a result that it does not know, so that servers can grow.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One method of the control plane.
pub trait Method {
    /// What requests call it.
    const NAME: &'static str;
    /// One line for people.
    const ABOUT: &'static str;
    /// What it is given: a struct, by name.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// What it answers.
    type Result: Serialize + DeserializeOwned + JsonSchema;
}

/// Serves one method. What serves all of them can be passed to [`dispatch`].
pub trait Serve<M: Method> {
    /// Does it.
    ///
    /// # Errors
    /// Why not; nothing was changed then.
    fn serve(&self, params: M::Params) -> Result<M::Result, crate::dm::Error>;
}

/// Lists the methods once: their types, their names, and the dispatch over them.
macro_rules! methods {
    ($($(#[doc = $about:literal])+ $method:ident = $name:literal ($params:ty) -> $result:ty;)+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug)]
            pub struct $method;

            impl Method for $method {
                const NAME: &'static str = $name;
                const ABOUT: &'static str = concat!($($about),+);
                type Params = $params;
                type Result = $result;
            }
        )+

        /// The names of all methods.
        pub const METHOD_NAMES: &[&str] = &[$($name),+];

        /// Calls the method `name` of `service`. `None` when there is no such method.
        pub fn dispatch<S>(service: &S, name: &str, params: &serde_json::Value) -> Option<Result<serde_json::Value, Failure>>
        where
            S: $(Serve<$method> +)+ ?Sized,
        {
            match name {
                $($name => Some(call::<$method, S>(service, params)),)+
                _ => None,
            }
        }

        /// JSON Schemas of all methods: what `schema` answers.
        pub fn describe() -> serde_json::Value {
            let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
            let mut methods = serde_json::Map::new();
            $(
                methods.insert($name.to_owned(), serde_json::json!({
                    "description": <$method as Method>::ABOUT.trim(),
                    "params": generator.subschema_for::<$params>(),
                    "result": generator.subschema_for::<$result>(),
                }));
            )+
            serde_json::json!({
                "title": "polldm control plane: JSON-RPC 2.0, one message per line, parameters by name",
                "methods": methods,
                "$defs": generator.take_definitions(true),
            })
        }
    };
}

methods! {
    /// Makes a device; with a table, it is loaded and made live in the same step, or nothing is made at all.
    DmCreate = "dm.create"(CreateParams) -> Done;
    /// Loads a table into the inactive slot. The live table and its I/O are not touched.
    DmLoad = "dm.load"(LoadParams) -> Done;
    /// Empties the inactive slot.
    DmClear = "dm.clear"(DeviceParams) -> Done;
    /// Parks new I/O and answers when what was in flight has ended.
    DmSuspend = "dm.suspend"(DeviceParams) -> Done;
    /// Makes the inactive table live, if there is one, and lets I/O run.
    DmResume = "dm.resume"(DeviceParams) -> Done;
    /// Gives a device another name.
    DmRename = "dm.rename"(RenameParams) -> Done;
    /// Removes a device that nothing exports.
    DmRemove = "dm.remove"(DeviceParams) -> Done;
    /// Names of devices.
    DmLs = "dm.ls"(LsParams) -> LsResult;
    /// State of one device or of all.
    DmInfo = "dm.info"(InfoParams) -> InfoResult;
    /// What the targets of live tables say of themselves.
    DmStatus = "dm.status"(StatusParams) -> LinesResult;
    /// Tables, as they could be loaded again.
    DmTable = "dm.table"(TableParams) -> LinesResult;
    /// Backing devices beneath live tables.
    DmDeps = "dm.deps"(InfoParams) -> DepsResult;
    /// Target types that tables can be made of.
    DmTargets = "dm.targets"(NoParams) -> TargetsResult;
    /// Backing devices.
    BdevLs = "bdev.ls"(NoParams) -> BdevsResult;
    /// Exports: listeners, subsystems, namespaces, and the hosts that are connected.
    ExportLs = "export.ls"(NoParams) -> ExportsResult;
    /// Adds a namespace to a subsystem; connected hosts are told.
    NvmfAddNamespace = "nvmf.add_namespace"(AddNamespaceParams) -> Done;
    /// Takes a namespace away; connected hosts are told.
    NvmfRemoveNamespace = "nvmf.remove_namespace"(RemoveNamespaceParams) -> Done;
    /// Counters and latency histograms.
    Stats = "stats"(StatsParams) -> StatsResult;
    /// Who answers.
    Version = "version"(NoParams) -> VersionResult;
    /// This schema.
    Schema = "schema"(NoParams) -> serde_json::Value;
}

/// Why a method did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its parameters are not what it takes; the sentence names the parameter.
    Params(String),
    /// It was refused.
    Refused(crate::dm::Error),
    /// Its result cannot be written as JSON: a defect of the server.
    Internal(String),
}

fn call<M: Method, S: Serve<M> + ?Sized>(
    service: &S,
    params: &serde_json::Value,
) -> Result<serde_json::Value, Failure> {
    let params = parse_params::<M>(params).map_err(Failure::Params)?;
    let result = service.serve(params).map_err(Failure::Refused)?;
    serde_json::to_value(result).map_err(|error| Failure::Internal(error.to_string()))
}

/// Reads a method's parameters.
///
/// # Errors
/// A sentence that names the parameter that is wrong.
pub fn parse_params<M: Method>(params: &serde_json::Value) -> Result<M::Params, String> {
    let wrong = |reason: &str| format!("{}: {reason}", M::NAME);
    let object = match params {
        serde_json::Value::Null => serde_json::Map::new(),
        serde_json::Value::Object(object) => object.clone(),
        _ => {
            return Err(wrong(
                "params go by name: an object such as {\"name\": \"vol0\"}",
            ));
        }
    };
    let read = |object: serde_json::Map<_, _>| {
        serde_json::from_value::<M::Params>(serde_json::Value::Object(object))
            .map_err(|error| error.to_string())
    };
    let Err(error) = read(object.clone()) else {
        // Read again rather than cloned: parameters need not be Clone.
        return read(object).map_err(|error| wrong(&error));
    };
    // The reader of values says what is wrong but not where: it is the parameter without which the complaint is another.
    let at_fault = object.keys().find(|key| {
        let mut without = object.clone();
        without.remove(*key);
        error.starts_with("invalid") && read(without).err().as_deref() != Some(&error)
    });
    Err(match at_fault {
        Some(key) => wrong(&format!("parameter '{key}': {error}")),
        None => wrong(&error.replace("field", "parameter")),
    })
}

/// No parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// It was done; there is nothing more to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {}

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
    /// It refuses writes.
    pub read_only: bool,
    /// It has a live table.
    pub live_table: bool,
    /// It has an inactive table.
    pub inactive_table: bool,
    /// How many exports hold it.
    pub open_count: u32,
    /// Events so far.
    pub event_nr: u32,
    /// Targets of the live table.
    pub target_count: u32,
    /// Size in sectors; 0 without a live table.
    pub sectors: u64,
    /// What a flush promises.
    pub flush: FlushPolicy,
    /// The backing devices beneath the live table.
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

/// Backing devices of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DepsResult {
    /// In order of their names.
    pub devices: Vec<DeviceDeps>,
}

/// Backing devices of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceDeps {
    /// The device's name.
    pub name: String,
    /// The backing devices beneath its live table.
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
    /// In order of their names.
    pub bdevs: Vec<Bdev>,
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
    /// The devices whose live table uses it.
    pub devices: Vec<String>,
}

/// What hosts can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportsResult {
    /// The NVMe/TCP target; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvmf: Option<NvmfExport>,
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

/// Whose counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatsParams {
    /// Only this device and the namespaces that export it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Counters since the start; they never go back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatsResult {
    /// Per mapped device, all reactors added up.
    pub devices: Vec<DeviceStats>,
    /// Per namespace, all reactors added up.
    pub namespaces: Vec<NamespaceStats>,
    /// Per reactor.
    pub reactors: Vec<ReactorStats>,
    /// The NVMe/TCP target's connections; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvmf: Option<NvmfStats>,
}

/// Connections of the NVMe/TCP target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NvmfStats {
    /// Connections now.
    pub connections: u64,
    /// Since the start.
    pub events: NvmfEvents,
}

/// Counters of a mapped device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceStats {
    /// Its name.
    pub name: String,
    /// Per kind of I/O: read, write, flush, discard (write-zeroes among them).
    pub operations: Vec<OperationStats>,
    /// I/Os admitted and not completed yet.
    pub in_flight: u64,
    /// I/Os that wait for the device to be resumed, or for a flush to end.
    pub parked: u64,
    /// Pieces of I/O that a backing device had no room for when they came.
    pub busy: u64,
}

/// Counters of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamespaceStats {
    /// The subsystem.
    pub nqn: String,
    /// The namespace's identifier.
    pub nsid: u32,
    /// The device.
    pub device: String,
    /// Per kind of command: read, write, flush, discard, write_zeroes.
    pub operations: Vec<OperationStats>,
}

/// Counters of one kind of I/O.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationStats {
    /// Its kind.
    pub operation: String,
    /// How many were completed, those with an error among them.
    pub ios: u64,
    /// How many ended with an error.
    pub errors: u64,
    /// Bytes of those that ended well.
    pub bytes: u64,
    /// How long they took.
    pub latency: Latency,
}

/// A latency histogram and what can be read off it. Quantiles are upper bounds of buckets, so they are a little too
/// high, never too low.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// Half of them took at most this long.
    pub p50_ns: u64,
    /// 99 % of them.
    pub p99_ns: u64,
    /// 99.9 % of them.
    pub p999_ns: u64,
    /// All of them.
    pub max_ns: u64,
    /// The buckets that are not empty, ascending.
    pub buckets: Vec<LatencyBucket>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyBucket {
    /// Its upper bound; left out when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_ns: Option<u64>,
    /// How many fell into it and into no lower one.
    pub count: u64,
}

/// What a reactor spent its time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReactorStats {
    /// The reactor.
    pub reactor: u32,
    /// Since it started.
    pub elapsed_ns: u64,
    /// In turns in which something was done.
    pub busy_ns: u64,
    /// Asleep in the kernel. What is neither was spent polling.
    pub asleep_ns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Messages handled.
    pub messages: u64,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionResult {
    /// Of polldm.
    pub version: String,
    /// The server's process.
    pub pid: u32,
    /// Since the control socket was opened, in milliseconds.
    pub uptime_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{text}");
    }

    #[test]
    fn what_is_left_out_is_the_default_and_comes_back_the_same() {
        assert_eq!(
            parse_params::<DmCreate>(&json!({"name": "a"})),
            Ok(CreateParams {
                name: "a".into(),
                ..CreateParams::default()
            })
        );
        assert_eq!(
            parse_params::<DmTable>(&json!({})),
            Ok(TableParams::default())
        );
        assert_eq!(
            parse_params::<DmTable>(&serde_json::Value::Null),
            Ok(TableParams::default())
        );
        round_trip(&CreateParams::default());
        round_trip(&CreateParams {
            table: Some("0 8 zero".into()),
            flush: FlushPolicy::Ordered,
            ..CreateParams::default()
        });
        round_trip(&TableParams {
            name: Some("a".into()),
            target: None,
            inactive: true,
        });
        round_trip(&ExportsResult::default());
        round_trip(&Latency::from_buckets([(Some(5), 1), (None, 2)], 9));
        let bdev = json!({"jsonrpc": "2.0"});
        assert!(parse_params::<Version>(&bdev).is_err());
    }

    #[test]
    fn a_client_overlooks_what_a_newer_server_adds() {
        let answer =
            json!({"devices": [{"name": "a", "uuid": "", "id": 0, "colour": "red"}], "more": 1});
        assert_eq!(
            serde_json::from_value::<LsResult>(answer).unwrap().devices[0].name,
            "a"
        );
    }

    #[test]
    fn names_are_unique_and_all_are_described() {
        let described = describe();
        let methods = described["methods"].as_object().unwrap();
        assert_eq!(methods.len(), METHOD_NAMES.len());
        for name in METHOD_NAMES {
            let method = &methods[*name];
            assert!(
                method["description"]
                    .as_str()
                    .is_some_and(|about| about.ends_with('.')),
                "{name}"
            );
            assert!(
                method["params"].is_object() && !method["result"].is_null(),
                "{name}"
            );
        }
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        fn references<'a>(value: &'a serde_json::Value, into: &mut Vec<&'a str>) {
            match value {
                serde_json::Value::Object(object) => {
                    into.extend(object.get("$ref").and_then(|reference| reference.as_str()));
                    object.values().for_each(|value| references(value, into));
                }
                serde_json::Value::Array(list) => {
                    list.iter().for_each(|value| references(value, into))
                }
                _ => {}
            }
        }
        let described = describe();
        let mut found = Vec::new();
        references(&described, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(described.pointer(pointer).is_some(), "{reference}");
        }
    }
}
