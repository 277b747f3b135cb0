//! Controllers on the PCI bus: whether SPDK can have one, before SPDK is started.

use std::fs;
use std::path::Path;

/// Drivers that give a device to a program.
const USER_SPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// Refuses an address where there is no device, or one that the kernel uses.
///
/// # Errors
/// What is wrong, and what would mend it.
pub fn check_pci(address: &str) -> Result<(), (String, String)> {
    let device = Path::new("/sys/bus/pci/devices").join(address);
    if !device.exists() {
        return Err((
            format!("there is no PCI device {address}"),
            "`lspci -D -d ::0108` lists the NVMe controllers".into(),
        ));
    }
    let driver = fs::read_link(device.join("driver"));
    let driver = driver.ok().and_then(|path| {
        let name = path.file_name()?;
        Some(name.to_string_lossy().into_owned())
    });
    let held = match driver {
        Some(driver) if USER_SPACE_DRIVERS.contains(&driver.as_str()) => return Ok(()),
        Some(driver) => format!("the kernel has it, by its driver {driver}"),
        None => "it has no driver".into(),
    };
    Err((
        format!("SPDK cannot have the PCI device {address}: {held}"),
        format!(
            "`driverctl set-override {address} vfio-pci`, or SPDK's scripts/setup.sh, gives it to a user-space driver; all that is mounted from it must \
             be unmounted before"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there() {
        let (reason, _) = check_pci("ffff:ff:1f.7").expect_err("there is none");
        assert_eq!(reason, "there is no PCI device ffff:ff:1f.7");
    }
}
