//! What the configuration asks of the process it is read in: its CPUs, its user, its runtime directory.

use std::io;
use std::path::{Path, PathBuf};

/// CPUs the affinity mask is read for; far more than any Linux kernel is built for (CONFIG_NR_CPUS ends at 8192).
pub(super) const CPU_COUNT_MAX: usize = 8192;

/// The process as the plan sees it. Tests make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// CPUs it may run on, ascending.
    pub cpus: Vec<usize>,
    /// Effective user ID.
    pub user_id: u32,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_directory: Option<PathBuf>,
}

impl Process {
    /// The process we are.
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            cpus: affinity()?,
            user_id: effective_user_id(),
            runtime_directory: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        })
    }

    /// The control socket when the configuration names none.
    pub fn control_socket(&self) -> PathBuf {
        control_socket(self.user_id, self.runtime_directory.as_deref())
    }
}

/// Where the control socket is when the configuration names none; server and client use the same rule.
///
/// Root's is always `/run/polldm.sock`, whatever `$XDG_RUNTIME_DIR` says: a service has none, the administrator's login shell has
/// `/run/user/0`, and the two must meet. Other users get `$XDG_RUNTIME_DIR/polldm.sock`, which only they can reach; without
/// one, `/tmp/polldm-UID/control.sock`, whose directory the server must create with mode 0700 and refuse to use when it belongs to
/// another user.
pub fn default_control_socket() -> PathBuf {
    let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    control_socket(effective_user_id(), runtime_directory.as_deref())
}

fn control_socket(user_id: u32, runtime_directory: Option<&Path>) -> PathBuf {
    match runtime_directory {
        _ if user_id == 0 => PathBuf::from("/run/polldm.sock"),
        // The XDG base directory specification: a relative path is to be ignored.
        Some(directory) if directory.is_absolute() => directory.join("polldm.sock"),
        _ => PathBuf::from(format!("/tmp/polldm-{user_id}/control.sock")),
    }
}

fn effective_user_id() -> u32 {
    // SAFETY: takes nothing, touches no memory of ours, cannot fail (geteuid(2)).
    unsafe { libc::geteuid() }
}

/// The CPUs this process may run on, ascending.
fn affinity() -> io::Result<Vec<usize>> {
    const WORD_BITS: usize = u64::BITS as usize;
    let mut mask = [0u64; CPU_COUNT_MAX / WORD_BITS];
    // SAFETY: `mask` is writable memory of exactly the size passed, any bits are valid in it, and the kernel writes at
    // most that size. `cpu_set_t` is an array of words without invariants; u64 has at least its alignment.
    let result = unsafe {
        libc::sched_getaffinity(
            0,
            size_of_val(&mask),
            mask.as_mut_ptr().cast::<libc::cpu_set_t>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..CPU_COUNT_MAX)
        .filter(|cpu| mask[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1 == 1)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_control_socket_of_their_own() {
        let runtime = Path::new("/run/user/1000");
        assert_eq!(
            control_socket(0, Some(Path::new("/run/user/0"))),
            Path::new("/run/polldm.sock")
        );
        assert_eq!(control_socket(0, None), Path::new("/run/polldm.sock"));
        assert_eq!(
            control_socket(1000, Some(runtime)),
            Path::new("/run/user/1000/polldm.sock")
        );
        assert_eq!(
            control_socket(1000, Some(Path::new("relative"))),
            Path::new("/tmp/polldm-1000/control.sock")
        );
        assert_eq!(
            control_socket(1000, None),
            Path::new("/tmp/polldm-1000/control.sock")
        );
    }

    #[test]
    fn the_affinity_mask_holds_at_least_the_cpu_we_run_on() {
        let cpus = affinity().expect("the mask can be read");
        assert!(!cpus.is_empty());
        assert!(cpus.windows(2).all(|pair| pair[0] < pair[1]));
        let parallelism = std::thread::available_parallelism().expect("known").get();
        assert!(cpus.len() >= parallelism, "{cpus:?} {parallelism}");
    }
}
