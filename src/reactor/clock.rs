//! The clock of the reactors.

/// Nanoseconds of CLOCK_MONOTONIC: comparable between the threads of this machine, meaningless elsewhere.
///
/// Answered by the vDSO without a system call, some tens of nanoseconds; reactors therefore read it once per turn.
#[inline]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the answer, and CLOCK_MONOTONIC exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    debug_assert_eq!(result, 0, "CLOCK_MONOTONIC cannot fail");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
