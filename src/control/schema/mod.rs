//! The control plane's one schema: every method with its parameters and its result, for server and client alike.
//!
//! Each method is a type that implements [`Method`]; the types below are what goes over the socket. Sizes are in the unit
//! their name says (`sectors` are 512 bytes), times in nanoseconds. Unknown parameters are refused, so that a typing error is
//! never taken for a default; a client must ignore fields of a result that it does not know, so that servers can grow.

mod device;
mod export;
mod stats;
mod verbs;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use device::*;
pub use export::*;
pub use stats::*;
pub use verbs::*;

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
    DmSuspend = "dm.suspend"(SuspendParams) -> Done;
    /// Makes the inactive table live, if there is one, and lets I/O run.
    DmResume = "dm.resume"(SuspendParams) -> Done;
    /// Makes a table live in one step, without failing I/O that merely waits: load, suspend, swap, resume, or nothing of it.
    DmSwap = "dm.swap"(SwapParams) -> Done;
    /// Gives up the suspend that is under way, alone or as part of a resume or swap: the device runs on.
    DmCancel = "dm.cancel"(DeviceParams) -> Done;
    /// Fails what is parked on a suspended device.
    DmFailParked = "dm.fail_parked"(DeviceParams) -> FailParkedResult;
    /// Tells a target, or with a word that begins with '@' the device, something.
    DmMessage = "dm.message"(MessageParams) -> MessageResult;
    /// Answers when the event number of a device is another than the given one.
    DmWait = "dm.wait"(WaitParams) -> WaitResult;
    /// Gives a device another name.
    DmRename = "dm.rename"(RenameParams) -> Done;
    /// Gives a device without a uuid one; it never changes again.
    DmSetUuid = "dm.set_uuid"(SetUuidParams) -> Done;
    /// Removes a device that nothing holds, neither an export nor a table; deferred, one that is held when it is not any more.
    DmRemove = "dm.remove"(RemoveParams) -> Done;
    /// Removes all devices that nothing holds.
    DmRemoveAll = "dm.remove_all"(RemoveAllParams) -> RemoveAllResult;
    /// Names of devices.
    DmLs = "dm.ls"(LsParams) -> LsResult;
    /// State of one device or of all.
    DmInfo = "dm.info"(InfoParams) -> InfoResult;
    /// What the targets of live tables say of themselves.
    DmStatus = "dm.status"(StatusParams) -> LinesResult;
    /// Tables, as they could be loaded again.
    DmTable = "dm.table"(TableParams) -> LinesResult;
    /// Backing and mapped devices that live tables name.
    DmDeps = "dm.deps"(InfoParams) -> DepsResult;
    /// Target types that tables can be made of.
    DmTargets = "dm.targets"(NoParams) -> TargetsResult;
    /// Backing devices.
    BdevLs = "bdev.ls"(NoParams) -> BdevsResult;
    /// Opens a backing device, so that tables can name it.
    BdevAdd = "bdev.add"(AddBdevParams) -> Done;
    /// Closes a backing device that no table names; by force, takes it away from under its tables.
    BdevRemove = "bdev.remove"(RemoveBdevParams) -> Done;
    /// Exports: listeners, subsystems, namespaces, and the hosts that are connected.
    ExportLs = "export.ls"(NoParams) -> ExportsResult;
    /// Adds a namespace to a subsystem; connected hosts are told.
    NvmfAddNamespace = "nvmf.add_namespace"(AddNamespaceParams) -> Done;
    /// Takes a namespace away; connected hosts are told.
    NvmfRemoveNamespace = "nvmf.remove_namespace"(RemoveNamespaceParams) -> Done;
    /// Changes the ANA state of a subsystem; connected hosts are told. I/O that is executing ends as it would have.
    NvmfSetAna = "nvmf.set_ana"(SetAnaParams) -> Done;
    /// Adds an iSCSI target.
    IscsiAddTarget = "iscsi.add_target"(AddTargetParams) -> Done;
    /// Changes who may log in to an iSCSI target, how they prove it, which ways lead there, and where they are sent. Sessions of initiators
    /// that may no longer log in, or not the way they came, end; the others go on.
    IscsiSetTarget = "iscsi.set_target"(SetTargetParams) -> Done;
    /// Takes an iSCSI target away and ends its sessions.
    IscsiRemoveTarget = "iscsi.remove_target"(RemoveTargetParams) -> Done;
    /// Adds a unit to a target; initiators that are logged in are told.
    IscsiAddLun = "iscsi.add_lun"(AddLunParams) -> Done;
    /// Changes who sees a unit; initiators that are logged in are told.
    IscsiSetLun = "iscsi.set_lun"(SetLunParams) -> Done;
    /// Takes a unit away; initiators that are logged in are told.
    IscsiRemoveLun = "iscsi.remove_lun"(RemoveLunParams) -> Done;
    /// Changes the ALUA state of a target in a portal group; initiators that come through it are told.
    IscsiSetAlua = "iscsi.set_alua"(SetAluaParams) -> Done;
    /// Listens on one more address; targets that are reached through its group are reached there as well. A tag that is new makes a group,
    /// through which no target is reached before `iscsi.set_target` says so.
    IscsiAddPortal = "iscsi.add_portal"(AddPortalParams) -> PortalResult;
    /// Listens on an address no longer; connections that came by it stay.
    IscsiRemovePortal = "iscsi.remove_portal"(RemovePortalParams) -> Done;
    /// Changes what initiators are asked before they are shown which targets there are; discovery sessions that there are go on.
    IscsiSetDiscovery = "iscsi.set_discovery"(SetDiscoveryParams) -> Done;
    /// Changes how long initiators may be silent.
    IscsiSetKeepAlive = "iscsi.set_keep_alive"(SetKeepAliveParams) -> Done;
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
