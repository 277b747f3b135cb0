//! From a plan to what runs, part by part. Each failure is told at its place in the configuration.

use std::sync::Arc;

use crate::bdev;
use crate::config::{BdevKind, BdevPlan, Direct, Error, FlushPolicy, Plan, PollPlan};
use crate::engine::{Config, Engine};
use crate::reactor::{self, PollMode};

/// The most that the I/O buffers of one reactor may take: 256 commands of the largest transfer of 1 MiB. What is not used is
/// never mapped.
const BUFFER_BYTES_MAX: usize = 256 << 20;

/// Opens the backing devices and starts the reactors.
pub(super) fn engine(plan: &Plan) -> Result<Engine, Error> {
    let registry = Arc::new(bdev::Registry::default());
    for bdev in &plan.bdevs {
        registry
            .add(&bdev.name.value, spec(bdev))
            .map_err(|error| plan.error_at(span(bdev), &error.to_string(), None))?;
    }
    let poll = match plan.reactors.poll {
        PollPlan::Busy => PollMode::Busy,
        PollPlan::Adaptive { spin } => PollMode::Adaptive { spin },
    };
    let reactors = reactor::Config {
        cpus: plan.reactors.cpus.clone(),
        poll,
    };
    let config = Config {
        reactors,
        buffer_bytes_max: BUFFER_BYTES_MAX,
    };
    Engine::start(&config, registry).map_err(|error| plan.error_of_whole(&error.to_string()))
}

/// Creates the mapped devices, loads their tables and lets them run.
pub(super) fn devices(plan: &Plan, engine: &Engine) -> Result<(), Error> {
    for device in &plan.devices {
        let name = &device.name.value;
        let at_name =
            |error: crate::dm::Error| plan.error_at(device.name.span, &error.to_string(), None);
        let table = engine
            .parse(&device.table.value, device.read_only)
            .map_err(|error| plan.table_error(device, error.line, None, &error.reason, None))?;
        engine
            .create(
                name,
                device.uuid.as_deref().unwrap_or(""),
                device.flush == FlushPolicy::Ordered,
            )
            .map_err(at_name)?;
        engine.load_table(name, table).map_err(at_name)?;
        engine.resume(name).map_err(at_name)?;
    }
    Ok(())
}

fn spec(bdev: &BdevPlan) -> bdev::Spec {
    let block_bytes = bdev.block_size;
    let size = bdev.size.as_ref().map(|size| size.value);
    match &bdev.kind {
        BdevKind::Malloc { volatile_cache } => bdev::Spec::Malloc {
            bytes: size.unwrap_or(0),
            block_bytes,
            volatile_cache: *volatile_cache,
        },
        BdevKind::Null => bdev::Spec::Null {
            bytes: size.unwrap_or(0),
            block_bytes,
        },
        BdevKind::File(file) => bdev::Spec::File {
            path: file.path.value.clone(),
            bytes: size,
            block_bytes,
            direct: match file.direct {
                Direct::Auto => bdev::Direct::Auto,
                Direct::On => bdev::Direct::On,
                Direct::Off => bdev::Direct::Off,
            },
            read_only: file.read_only,
        },
    }
}

/// Where a failure to open a backing device is shown: at its path, if it has one.
fn span(bdev: &BdevPlan) -> crate::config::Span {
    match &bdev.kind {
        BdevKind::File(file) => file.path.span,
        _ => bdev.name.span,
    }
}
