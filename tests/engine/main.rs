//! The native engine as a whole, without any export: real reactors, real mailboxes, a front end that keeps I/O outstanding while an
//! operator changes the devices beneath it.

mod bdevs;
mod driver;
mod errands;
mod nesting;
mod stack;
mod swap;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use polldm::bdev::{Direct, Registry, Spec};
use polldm::engine::{Config, Engine};
use polldm::reactor::{self, PollMode};

const BLOCK_BYTES: usize = 4096;

fn engine(bdevs: &[(&str, Spec)], reactors: usize) -> Engine {
    let registry = Arc::new(Registry::default());
    for (name, spec) in bdevs {
        registry.add(name, spec.clone()).unwrap();
    }
    let cpus = reactor::available_cpus().unwrap();
    let cpus = (0..reactors)
        .map(|index| cpus[index % cpus.len()])
        .collect();
    let poll = PollMode::Adaptive {
        spin: Duration::from_micros(20),
    };
    let config = Config {
        reactors: reactor::Config { cpus, poll },
        buffer_bytes_max: 16 << 20,
    };
    Engine::start(&config, registry).unwrap()
}

fn malloc(megabytes: u64) -> Spec {
    Spec::Malloc {
        bytes: megabytes << 20,
        block_bytes: 4096,
        volatile_cache: false,
        atomic_writes: false,
    }
}

fn file(folder: &tempfile::TempDir, megabytes: u64) -> Spec {
    Spec::File {
        path: folder.path().join("disk"),
        bytes: Some(megabytes << 20),
        block_bytes: 4096,
        direct: Direct::Auto,
        read_only: false,
    }
}

/// Makes a device with a live table.
fn device(engine: &Engine, name: &str, table: &str) {
    engine.create(name, "", false).unwrap();
    engine.load(name, table, false).unwrap();
    engine.resume(name, Default::default()).unwrap();
}
