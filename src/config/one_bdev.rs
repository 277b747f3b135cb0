//! One backing device by itself, in the words of an entry of `bdevs:`: what `polldm bdev add` and the control socket take.

use std::path::Path;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::build::{self, Surroundings};
use super::plan::{BdevKind, BdevPlan, Direct};
use super::raw::Bdev;
use super::source::{Error, Problem, Source};
use crate::bdev::{NvmeAddress, SpdkSpec};

/// What to put where there is nothing.
const SMALLEST: &str =
    "an entry is a map with one key, such as `malloc: { name: ram0, size: 1GiB }`";

/// Reads one entry of `bdevs:` from its text, which may be JSON, too; `source_name` is what errors call it. Relative paths in it count from
/// `directory`; without one they stay as they are.
///
/// # Errors
/// As [`super::load`], for what is wrong with a backing device.
pub fn parse_bdev(
    source_name: &str,
    text: &str,
    directory: Option<&Path>,
) -> Result<BdevPlan, Error> {
    let source = Source::new(source_name, text);
    super::check_length(source_name, text.len())?;
    let entry: Option<Bdev> = super::from_yaml(&source)?;
    let entry = entry
        .ok_or_else(|| source.error(Problem::whole("there is no bdev in this").help(SMALLEST)))?;
    let process = super::current_process(source_name)?;
    let surroundings = Surroundings {
        process: &process,
        directory,
        engine: None,
    };
    build::bdev(entry, &surroundings).map_err(|problem| source.error(problem))
}

/// The JSON Schema of one entry of `bdevs:`.
pub fn bdev_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Bdev>()
}

impl BdevPlan {
    /// The entry that reads as this plan, whatever the directory; `None` when its path is not UTF-8.
    pub fn entry(&self) -> Option<Value> {
        let mut keys = Map::new();
        keys.insert("name".into(), json!(self.name.value));
        if let BdevKind::Spdk(spec) = &self.kind {
            return spdk_entry(keys, spec);
        }
        let mut put = |key: &str, value: Value| {
            keys.insert(key.into(), value);
        };
        if !matches!(self.kind, BdevKind::Nvme(_) | BdevKind::NvmeTcp(_)) {
            put("block_size", json!(self.block_size));
        }
        if let Some(size) = &self.size {
            put("size", json!(size.value));
        }
        let kind = match &self.kind {
            BdevKind::Null => "null",
            BdevKind::Malloc {
                volatile_cache,
                atomic_writes,
            } => {
                put("volatile_cache", json!(volatile_cache));
                put("atomic_writes", json!(atomic_writes));
                "malloc"
            }
            BdevKind::File(file) => {
                let direct = match file.direct {
                    Direct::Auto => "auto",
                    Direct::On => "on",
                    Direct::Off => "off",
                };
                put("path", json!(file.path.value.to_str()?));
                put("direct", json!(direct));
                put("read_only", json!(file.read_only));
                "file"
            }
            BdevKind::Nvme(device) => {
                put("device", json!(device.value.to_str()?));
                "nvme"
            }
            BdevKind::NvmeTcp(remote) => {
                let span = |span: Duration| json!(format!("{}ms", span.as_millis()));
                let (host, port) = &remote.address.value;
                let address = match host.contains(':') {
                    true => format!("[{host}]:{port}"),
                    false => format!("{host}:{port}"),
                };
                put("address", json!(address));
                put("nqn", json!(remote.nqn));
                put("nsid", json!(remote.nsid));
                if let Some(nqn) = &remote.host_nqn {
                    put("host_nqn", json!(nqn));
                }
                put("header_digest", json!(remote.header_digest));
                put("data_digest", json!(remote.data_digest));
                put("keep_alive", span(remote.keep_alive));
                put("reconnect_delay", span(remote.reconnect_delay));
                put("ctrl_loss_timeout", span(remote.ctrl_loss_timeout));
                if let Some(timeout) = remote.fast_io_fail_timeout {
                    put("fast_io_fail_timeout", span(timeout));
                }
                put("io_timeout", span(remote.io_timeout));
                "nvme-tcp"
            }
            BdevKind::Spdk(_) => unreachable!("answered above"),
        };
        Some(json!({ kind: keys }))
    }
}

/// The entry of a bdev of SPDK's, whose name is in `keys` already.
fn spdk_entry(mut keys: Map<String, Value>, spec: &SpdkSpec) -> Option<Value> {
    let kind = match spec {
        SpdkSpec::Nvme { at, nsid } => {
            keys.insert("nsid".into(), json!(nsid));
            match at {
                NvmeAddress::Tcp(address, nqn) => {
                    keys.insert("tcp".into(), json!(address));
                    keys.insert("nqn".into(), json!(nqn));
                }
                NvmeAddress::Pcie(address) => {
                    keys.insert("pcie".into(), json!(address));
                }
                NvmeAddress::VfioUser(directory) => {
                    keys.insert("vfio_user".into(), json!(directory.to_str()?));
                }
            }
            "nvme"
        }
        SpdkSpec::Json {
            config,
            bdev,
            volatile_cache,
        } => {
            keys.insert("bdev".into(), json!(bdev));
            if let Some(word) = volatile_cache {
                keys.insert("volatile_cache".into(), json!(word));
            }
            if let Some(config) = config {
                keys.insert("config".into(), json!(config.to_str()?));
            }
            "spdk-json"
        }
    };
    Some(json!({ kind: keys }))
}
