//! Which CPUs there are for us, and pinning to one.

use std::io;
use std::mem::{size_of, zeroed};

/// The CPUs this process may run on (its affinity mask), ascending. What `cores: auto` means.
///
/// # Errors
/// What the kernel says; with more than 1024 CPUs in the machine, EINVAL.
pub fn available_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is plain bits, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` is valid for writes of the size given; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let limit = libc::CPU_SETSIZE as usize;
    // SAFETY: every `cpu` is below CPU_SETSIZE, which is what CPU_ISSET demands.
    Ok((0..limit)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// EINVAL if there is no such CPU or the process may not use it (cgroup, container).
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a cpu_set_t is plain bits, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid for reads of the size given; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread pinned to each available CPU in turn then sees exactly that CPU.
    #[test]
    fn pinning_narrows_the_mask() {
        for cpu in available_cpus().expect("affinity mask") {
            let seen = std::thread::spawn(move || {
                pin_current_thread(cpu).expect("pin");
                available_cpus().expect("affinity mask")
            })
            .join()
            .expect("thread");
            assert_eq!(seen, vec![cpu]);
        }
    }

    #[test]
    fn a_cpu_that_cannot_exist_is_refused() {
        let error = pin_current_thread(1 << 20).expect_err("no such CPU");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
