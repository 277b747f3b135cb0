//! The kernel and the initramfs that the guest boots, built by `build-image` from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What must be on the machine: program, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 18] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("nvme", "nvme-cli"),
    ("iscsid", "open-iscsi"),
    ("sg_reset", "sg3-utils"),
    ("dmsetup", "dmsetup"),
    ("fio", "fio"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("blkdiscard", "util-linux"),
    ("setpriv", "util-linux"),
    ("rdma", "iproute2"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("bash", "bash"),
];

/// Where administrators' programs are that may not be on a user's PATH.
const EXTRA_PATH: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A guest that is ready to boot.
pub struct Image {
    /// An uncompressed ELF kernel.
    pub kernel: PathBuf,
    /// An uncompressed cpio archive.
    pub initramfs: PathBuf,
}

/// The Debian packages that are missing on this machine, each once.
pub fn missing_packages() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(EXTRA_PATH.iter().map(PathBuf::from))
        .collect();
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| {
            !directories
                .iter()
                .any(|directory| directory.join(program).is_file())
        })
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    missing
}

/// Builds the image in `cache`, or finds it there unchanged.
pub fn build(cache: &Path) -> Result<Image, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/linux-host/build-image");
    let output = Command::new(&script)
        .arg(cache)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", script.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(Image {
        kernel: cache.join("vmlinux"),
        initramfs: cache.join("initramfs"),
    })
}
