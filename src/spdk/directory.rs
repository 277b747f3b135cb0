//! A directory for SPDK's JSON-RPC socket that only this user can enter: `polldm-spdk-PID` among the temporary files. Whoever has one keeps it locked
//! (`flock`), so that those of processes that were killed can be told from all others, and are removed by the next that starts.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Error};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What its name begins with.
const PREFIX: &str = "polldm-spdk-";

/// Temporary files that are looked at, and directories that are removed, at one start: enough for any machine that is looked after, and no more than a moment.
const LOOKED_AT_MAX: usize = 10_000;
const REMOVED_MAX: usize = 100;

/// How often one is made anew that another process has taken for left behind, between its making and its lock.
const ATTEMPTS: usize = 8;

/// A directory of this process, which is removed when this is dropped.
pub(super) struct PrivateDirectory {
    path: PathBuf,
    /// Open and locked.
    _lock: File,
}

impl PrivateDirectory {
    /// Makes one, and removes those that processes have left which are gone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<PrivateDirectory, String> {
        let among = std::env::temp_dir();
        remove_left_behind(&among);
        let path = among.join(format!("{PREFIX}{}", std::process::id()));
        PrivateDirectory::make(&path).map_err(|error| {
            format!(
                "cannot make the directory {} for SPDK's JSON-RPC socket: {error}",
                path.display()
            )
        })
    }

    fn make(path: &Path) -> io::Result<PrivateDirectory> {
        for _ in 0..ATTEMPTS {
            DirBuilder::new().mode(0o700).create(path)?;
            // Waits for whoever has taken it for left behind, and is about to remove it.
            if let Some(lock) = locked(path, libc::LOCK_EX) {
                return Ok(PrivateDirectory {
                    path: path.into(),
                    _lock: lock,
                });
            }
        }
        Err(Error::other("other processes remove it"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What is left in a directory of temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes have left behind that are gone. What cannot be removed stays.
fn remove_left_behind(among: &Path) {
    let Ok(entries) = fs::read_dir(among) else {
        return;
    };
    let entries = entries.flatten().take(LOOKED_AT_MAX);
    let named = entries.filter(|entry| is_ours(&entry.file_name().to_string_lossy()));
    for entry in named.take(REMOVED_MAX) {
        let path = entry.path();
        // Held until it is removed, so that nobody makes it their own meanwhile. Links in it are removed, and not followed.
        if let Some(_lock) = locked(&path, libc::LOCK_EX | libc::LOCK_NB) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX);
    digits.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The lock on a directory of this user's; `None` if it cannot be had, if it is another's, if there is none, or if it is a link.
fn locked(path: &Path, how: i32) -> Option<File> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    let opened = directory.metadata().ok()?;
    // SAFETY: takes nothing and cannot fail.
    if opened.uid() != unsafe { libc::geteuid() } {
        return None;
    }
    // SAFETY: an open file.
    if unsafe { libc::flock(directory.as_raw_fd(), how) } != 0 {
        return None;
    }
    // Whoever had the lock before may have removed it, and somebody else may have made another.
    let named = fs::symlink_metadata(path).ok()?;
    let is_same = (named.dev(), named.ino()) == (opened.dev(), opened.ino());
    is_same.then_some(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Of what lies among the temporary files, what a process of this user has left behind goes, with what is in it, and nothing else.
    #[test]
    fn what_is_left_behind_is_removed() {
        let among = tempfile::tempdir().expect("a directory");
        let at = |name: &str| among.path().join(name);
        let elsewhere = tempfile::tempdir().expect("a directory");
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, "").expect("a file");

        let held = PrivateDirectory::make(&at("polldm-spdk-1")).expect("made");
        fs::create_dir(at("polldm-spdk-2")).expect("made");
        fs::write(at("polldm-spdk-2/spdk.sock.lock"), "").expect("a file");
        symlink(&precious, at("polldm-spdk-2/link")).expect("a link");
        symlink(elsewhere.path(), at("polldm-spdk-3")).expect("a link");
        fs::write(at("polldm-spdk-4"), "").expect("a file");
        for other in [
            "polldm-spdk-",
            "polldm-spdk-5x",
            "polldm-spdk",
            "x-polldm-spdk-6",
        ] {
            fs::create_dir(at(other)).expect("made");
        }

        remove_left_behind(among.path());
        assert!(!at("polldm-spdk-2").exists());
        assert!(held.path().exists(), "its process is there");
        assert!(precious.exists(), "links are not followed");
        assert_eq!(fs::read_dir(among.path()).expect("read").count(), 7);

        drop(held);
        assert!(!at("polldm-spdk-1").exists());
    }
}
