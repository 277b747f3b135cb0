//! Counters and latencies: `stats`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::export::{IscsiEvents, NvmfEvents};

/// Whose counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatsParams {
    /// Only this device, and the namespaces and units that export it.
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
    /// Per logical unit of the iSCSI target, all reactors added up.
    #[serde(default)]
    pub units: Vec<UnitStats>,
    /// Per session of the iSCSI target; left out when one device is asked for.
    #[serde(default)]
    pub sessions: Vec<SessionStats>,
    /// Per reactor.
    pub reactors: Vec<ReactorStats>,
    /// The NVMe/TCP target's connections; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvmf: Option<NvmfStats>,
    /// The iSCSI target's connections; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<IscsiStats>,
}

/// Connections of the iSCSI target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IscsiStats {
    /// Connections now.
    pub connections: u64,
    /// Since the start.
    pub events: IscsiEvents,
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
    /// I/Os that a suspend with noflush kept for later.
    #[serde(default)]
    pub pushed_back: u64,
    /// Pieces of I/O that targets hold back now, until a path or a resource is there.
    #[serde(default)]
    pub held: u64,
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

/// Counters of a logical unit. They begin anew when it is removed and added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitStats {
    /// The target.
    pub iqn: String,
    /// The unit's number.
    pub lun: u16,
    /// The device.
    pub device: String,
    /// Per kind of command: read, write, flush, discard, write_zeroes.
    pub operations: Vec<OperationStats>,
}

/// Counters of an iSCSI session, over all its units. They end with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionStats {
    /// The target.
    pub iqn: String,
    /// The initiator's name.
    pub initiator: String,
    /// The session's number (TSIH).
    pub session: u16,
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
