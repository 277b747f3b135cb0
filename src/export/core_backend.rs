//! The protocol's world as the engine has it: mapped devices on this core.

use std::ptr::NonNull;

use super::backend::{Backend, Lend, Request};
use crate::bdev::{LendList, Payload};
use crate::dm::{self, DeviceId, Geometry, Io, Op, Status};
use crate::engine::Core;
use crate::reactor::PoolBuffer;

impl Lend for LendList {
    #[inline]
    fn pieces(&mut self, mut each: impl FnMut(*const u8, usize)) {
        for segment in self.sort() {
            each(segment.as_ptr(), segment.length as usize);
        }
    }

    #[inline]
    fn release(&mut self) {
        self.clear();
    }
}

fn io(core: &Core<'_>, request: &Request, payload: Payload) -> Io<Payload> {
    Io {
        tag: core.tag(request.command),
        op: request.op,
        fua: request.fua,
        sector: request.sector,
        sectors: request.sectors,
        payload,
    }
}

impl Backend for Core<'_> {
    type Lend = LendList;

    #[inline]
    unsafe fn submit(&mut self, request: &Request, bytes: *mut u8) -> Option<Status> {
        let times = if request.op == Op::CompareAndWrite {
            3
        } else {
            1
        };
        let payload = match NonNull::new(bytes) {
            // SAFETY: the caller's promise is that of `Payload`: memory as long as the operation needs, untouched until completion.
            Some(bytes) => unsafe { Payload::new(bytes, times * request.sectors * 512) },
            None => dm::Payload::empty(),
        };
        let io = io(self, request, payload);
        Core::submit(self, request.device, io)
    }

    #[inline]
    unsafe fn submit_read(&mut self, request: &Request, lend: *mut LendList) -> Option<Status> {
        let Some(list) = NonNull::new(lend) else {
            return Some(Status::IoError);
        };
        // SAFETY: the caller's promise is that of `Payload`, for the list.
        let payload = unsafe { Payload::lent(list, request.sectors * 512) };
        let io = io(self, request, payload);
        Core::submit(self, request.device, io)
    }

    fn abort(&mut self, device: DeviceId, command: u32) -> bool {
        Core::abort(self, device, command)
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        Core::now_ns(self)
    }

    #[inline]
    fn buffer(&mut self, bytes: usize) -> Option<PoolBuffer> {
        self.buffers().take(bytes)
    }

    fn is_ordered(&self, device: DeviceId) -> bool {
        Core::is_ordered(self, device)
    }

    fn geometry(&self, device: DeviceId) -> Option<Geometry> {
        self.limits(device).map(|limits| Geometry::of(limits))
    }
}
