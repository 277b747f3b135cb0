//! Remotes against a controller that notes what it is told, and misbehaves when told to.

#[allow(dead_code, reason = "stories use the rest")]
mod fake;
mod loss;
mod wire;

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{RemoteReport, RemoteSpec, RemoteState};
use crate::bdev::tests::{Bench, POOL_BYTES};
use crate::bdev::{Bdev, Core, Error, Patience, Payload, Registry, Spec};
use crate::dm::{Op, Payload as _, Status};
use crate::host::Address;
use fake::{BLOCK, Fake, Seen};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// A remote at this address, which nothing times out at.
pub(super) fn spec(address: SocketAddr) -> RemoteSpec {
    RemoteSpec {
        address: Address::new(address, "nqn.2026-11.io.polldm:scripted"),
        nsid: 1,
        host_nqn: Some("nqn.2026-11.io.polldm:host".into()),
        header_digest: false,
        data_digest: false,
        keep_alive: NEVER,
        reconnect_delay: Duration::from_millis(10),
        ctrl_loss_timeout: NEVER,
        fast_io_fail_timeout: None,
        io_timeout: NEVER,
    }
}

fn open(spec: RemoteSpec) -> Result<Arc<Bdev>, Error> {
    Registry::default().add("r0", Spec::NvmeTcp(Box::new(spec)))
}

/// A reactor's worth of a remote, of that patience.
fn bench(bdev: &Arc<Bdev>, patience: Patience) -> Bench {
    let mut bench = Bench::new(bdev, Core::new(POOL_BYTES));
    bench.channel = bdev
        .channel_with(&mut bench.core, patience)
        .expect("channel");
    bench
}

fn report(bdev: &Bdev) -> RemoteReport {
    let standing = bdev.facts().standing.as_ref();
    standing.expect("it is a remote").report()
}

/// Turns the reactor until something is so.
fn until(bench: &mut Bench, mut so: impl FnMut(&mut Bench) -> bool) {
    while !so(bench) {
        bench.poll();
        thread::yield_now();
    }
}

fn until_state(bench: &mut Bench, bdev: &Bdev, state: RemoteState) {
    until(bench, |_| report(bdev).state == state);
}

/// Starts a write of one block of `value` bytes, from memory that outlives every test.
fn start_write(bench: &mut Bench, block: u64, value: u8) -> u32 {
    let memory = Box::leak(vec![value; BLOCK].into_boxed_slice());
    // SAFETY: the memory is never given back, and nobody else's.
    let payload = unsafe { Payload::new(NonNull::from(memory).cast(), BLOCK as u32) };
    bench.start(Op::Write, false, block * 8, 8, payload)
}

fn flush(bench: &mut Bench) -> Status {
    bench.run(Op::Flush, false, 0, 0, Payload::empty())
}
