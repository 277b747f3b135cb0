//! What suspends, waits, speaks to targets, or takes devices away: more of `dm.*`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeviceInfo, TargetLine};

/// How to suspend a device, alone or on the way to another table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuspendParams {
    /// The device's name.
    pub name: String,
    /// I/O that merely waits, such as for a path, is kept for later rather than waited for or failed.
    #[serde(default)]
    pub noflush: bool,
    /// The device is not flushed before it is suspended. Without effect on the data that hosts may rely on: what they flushed is
    /// durable in any case. With `noflush`, it never is.
    #[serde(default)]
    pub nolockfs: bool,
    /// Give up when I/O is still in flight after so many milliseconds: the device runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// With all mapped devices beneath it, as one operation that is undone when it fails: suspended from the top down (those beneath the
    /// live tables; the time is for all together), resumed from the bottom up (those that are suspended, beneath live and
    /// inactive tables).
    #[serde(default)]
    pub stack: bool,
}

impl SuspendParams {
    /// The same for the engine.
    pub fn options(&self) -> crate::dm::SuspendOptions {
        crate::dm::SuspendOptions {
            noflush: self.noflush,
            lockfs: !self.nolockfs,
            timeout_ns: self.timeout_ms.map(nanoseconds),
        }
    }
}

/// A table that is to be live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapParams {
    /// The device's name.
    pub name: String,
    /// Lines of `start length type arguments…`, in sectors.
    pub table: String,
    /// It refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Give up when I/O is still in flight after so many milliseconds: the device runs on, on the table it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl SwapParams {
    /// How to suspend for it.
    pub fn options(&self) -> crate::dm::SuspendOptions {
        crate::dm::SuspendOptions {
            noflush: true,
            lockfs: false,
            timeout_ns: self.timeout_ms.map(nanoseconds),
        }
    }
}

fn nanoseconds(milliseconds: u64) -> u64 {
    let span = Duration::from_millis(milliseconds).as_nanos();
    u64::try_from(span).unwrap_or(u64::MAX)
}

/// What was failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailParkedResult {
    /// How many I/Os.
    pub failed: u64,
}

/// Something to be told to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageParams {
    /// The device's name.
    pub name: String,
    /// A sector of the target.
    #[serde(default)]
    pub sector: u64,
    /// What to tell it.
    pub words: Vec<String>,
}

/// What a target answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageResult {
    /// Its words; left out when it has none, which is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// The device's name.
    pub name: String,
    /// The event number that is known; the present one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_nr: Option<u32>,
}

/// A device after an event (LC-24).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitResult {
    /// Its state.
    pub device: DeviceInfo,
    /// What its targets say of themselves.
    pub status: Vec<TargetLine>,
}

/// A uuid for a device that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetUuidParams {
    /// The device's name.
    pub name: String,
    /// The uuid, 1 to 128 bytes.
    pub uuid: String,
}

/// A device to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveParams {
    /// Its name.
    pub name: String,
    /// If it is held, by an export or by another device's table: as soon as nothing holds it any more.
    #[serde(default)]
    pub deferred: bool,
}

/// All devices to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveAllParams {
    /// Those that are held: as soon as nothing holds them any more.
    #[serde(default)]
    pub deferred: bool,
}

/// What became of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoveAllResult {
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that go when nothing holds them any more.
    pub deferred: Vec<String>,
    /// Those that stay, because they are held.
    pub kept: Vec<String>,
}
