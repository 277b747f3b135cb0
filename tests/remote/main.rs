//! Backing devices behind NVMe/TCP: an engine in this process over polldm in other processes, which are killed, stopped and started
//! again under it.

#[path = "../engine/driver.rs"]
mod driver;
mod failover;
mod loss;
mod processes;
mod refusals;
mod truth;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polldm::bdev::{Registry, RemoteReport, RemoteSpec, RemoteState, Spec};
use polldm::dm::DeviceId;
use polldm::engine::{Config, Engine};
use polldm::host::Address;
use polldm::reactor::{self, PollMode};

use driver::Seen;
use processes::{NQN, Remote};

const BLOCK_BYTES: usize = 4096;

/// Sectors of a device that is on a remote.
const SECTORS: u64 = 16384;

/// How this remote is reached: tried again soon, and for ever.
fn spec(remote: &Remote) -> RemoteSpec {
    RemoteSpec {
        address: Address::new(remote.address, NQN),
        nsid: 1,
        host_nqn: None,
        header_digest: false,
        data_digest: false,
        // A process that a busy machine sets aside is not lost.
        keep_alive: Duration::from_secs(3600),
        reconnect_delay: Duration::from_millis(100),
        ctrl_loss_timeout: Duration::from_secs(3600),
        fast_io_fail_timeout: None,
        io_timeout: Duration::from_secs(3600),
    }
}

fn engine(reactors: usize) -> Engine {
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
    Engine::start(&config, Arc::new(Registry::default())).unwrap()
}

fn add(engine: &Engine, name: &str, spec: RemoteSpec) {
    engine
        .add_bdev(name, &Spec::NvmeTcp(Box::new(spec)))
        .unwrap();
}

/// Makes a device with a live table.
fn device(engine: &Engine, name: &str, table: &str) -> DeviceId {
    engine.create(name, "", false).unwrap();
    engine.load(name, table, false).unwrap();
    engine.resume(name, Default::default()).unwrap();
    engine.open(name).unwrap()
}

/// How the remote `name` is doing.
fn report(engine: &Engine, name: &str) -> RemoteReport {
    let bdevs = engine.list_bdevs();
    let bdev = bdevs.into_iter().find(|bdev| bdev.lower.name == name);
    bdev.and_then(|bdev| bdev.remote).expect("it is a remote")
}

/// Waits until something is so.
fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}

fn until_state(engine: &Engine, name: &str, state: RemoteState) {
    until(|| report(engine, name).state == state);
}

/// Nothing fails any more, once every reactor has heard that it is well again, and nothing was read that is not what was written.
fn until_well(seen: &Seen) {
    until(|| {
        let failed = seen.failed.load(Ordering::Relaxed);
        driver::after(seen, 1000);
        seen.failed.load(Ordering::Relaxed) == failed
    });
    assert_eq!(seen.stale.load(Ordering::Relaxed), 0);
}

/// Ends an engine with nothing in flight.
fn stop(engine: &Engine) {
    engine.stop(Duration::from_secs(60)).unwrap();
}
