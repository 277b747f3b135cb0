//! The kernel's dm-multipath above two sessions of open-iscsi, one through each portal group of a target. What `multipathd` would do the scenario does: it
//! makes the table, and reinstates paths that work again.

use super::Context;
use crate::cable::Cable;
use crate::guest::Guest;
use crate::initiator::{await_progress, start_endless_writes};
use crate::iscsi::{Portal, Session};
use crate::target::{self, Backing, Front, SECTORS_PER_MIB, Target, Volume};

/// Size of the disk.
const MIB: u64 = 128;

/// The host's multipath device, and the names of the disks that are its paths, that of portal group 1 first.
struct Map<'a> {
    guest: &'a Guest,
    disks: [String; 2],
}

impl<'a> Map<'a> {
    /// One group of both disks, used in turn. The kernel's own knowledge of ALUA is asked for where the target has it.
    fn create(guest: &'a Guest, sessions: [&Session<'_>; 2]) -> Result<Map<'a>, String> {
        let [first, second] = [sessions[0].disk(0)?, sessions[1].disk(0)?];
        let disks = [&first, &second].map(|disk| disk.trim_start_matches("/dev/").to_owned());
        guest.run(&format!(
            r#"
            set -e
            first=$(cat /sys/block/{}/device/wwid)
            second=$(cat /sys/block/{}/device/wwid)
            [ "$first" = "$second" ] || fail the paths lead to $first and to $second
            dmsetup create paths --table '0 {sectors} multipath 1 queue_if_no_path {handler} 1 1 round-robin 0 2 1 {first} 1 {second} 1'
            "#,
            disks[0],
            disks[1],
            handler = if cfg!(feature = "spdk") { "0" } else { "1 alua" },
            sectors = MIB * SECTORS_PER_MIB,
        ))?;
        Ok(Map { guest, disks })
    }

    /// Its block device. Nobody makes names in /dev/mapper here; this one is the kernel's own.
    fn device(&self) -> Result<String, String> {
        let minor = self
            .guest
            .run("dmsetup info -c --noheadings -o minor paths")?;
        Ok(format!("/dev/dm-{}", minor.trim()))
    }

    /// Waits until the kernel knows the ALUA state of a path's portal group.
    fn await_access(&self, path: usize, state: &str) -> Result<(), String> {
        let disk = &self.disks[path];
        self.guest
            .run(&format!("await 60 access_state_is {disk} {state}"))
            .map(drop)
    }

    /// Waits until the path has failed by an I/O.
    fn await_failed(&self, path: usize) -> Result<(), String> {
        let disk = &self.disks[path];
        self.guest
            .run(&format!("await 60 path_is paths {disk} F"))
            .map(drop)
    }

    /// Waits until I/O goes over these paths.
    fn await_io(&self, paths: &[usize]) -> Result<(), String> {
        let disks: Vec<&str> = paths
            .iter()
            .map(|path| self.disks[*path].as_str())
            .collect();
        self.guest
            .run(&format!("await_io {}", disks.join(" ")))
            .map(drop)
    }

    /// Has the kernel look at a path's disk, as `multipathd` does before it takes the path for one that works.
    fn rescan(&self, path: usize) -> Result<(), String> {
        let disk = &self.disks[path];
        self.guest
            .run(&format!("echo 1 >/sys/block/{disk}/device/rescan"))
            .map(drop)
    }

    /// Takes a path for one that works.
    fn reinstate(&self, path: usize) -> Result<(), String> {
        let disk = &self.disks[path];
        self.guest.run(&format!(
            "dmsetup message paths 0 reinstate_path $(cat /sys/block/{disk}/dev)
             path_is paths {disk} A"
        ))?;
        Ok(())
    }

    fn remove(self) -> Result<(), String> {
        self.guest.run("dmsetup remove paths").map(drop)
    }
}

/// What a scenario has beneath ext4 with fio, which writes and compares.
struct Paths<'a> {
    target: &'a Target,
    map: &'a Map<'a>,
    /// What the second path leads through.
    cable: &'a Cable,
    second: &'a Session<'a>,
}

/// Lets something happen to the paths, while I/O goes over both. Nothing that is above them has an error.
fn beneath_ext4(
    context: &Context<'_>,
    name: &str,
    happens: impl FnOnce(&Paths<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let guest = context.guest;
    let volume = Volume::new("disk", Backing::Malloc, 4096, MIB);
    let mut target = context.target_by(Front::Iscsi, name, &[volume])?;
    let cable = Cable::to(target.iscsi_ports[1]).map_err(|e| format!("the cable: {e}"))?;
    // What is advised beneath a multipath: the I/O of a session that is gone is given back soon.
    let soon = [("node.session.timeo.replacement_timeout", "1")];
    let first = Session::open(guest, &Portal::of(&target), &soon)?;
    let second = Session::open(guest, &Portal::over(&cable, &target), &soon)?;
    let map = Map::create(guest, [&first, &second])?;
    let device = map.device()?;
    guest.run(&format!(
        "make_file_system ext4 {device} /mnt/paths && truncate -s 64M /mnt/paths/file"
    ))?;
    let writes = start_endless_writes(guest, "/mnt/paths/file")?;
    map.await_io(&[0, 1])?;
    happens(&Paths {
        target: &target,
        map: &map,
        cable: &cable,
        second: &second,
    })?;
    if target.counts("disk")?.errors > 0 {
        return Err("I/O has failed".into());
    }
    writes.stop()?;
    guest.run(&format!(
        "umount /mnt/paths && check_file_system ext4 {device}"
    ))?;
    map.remove()?;
    // Of the paths' I/O some has failed.
    context.expect_io_errors("sd")?;
    first.close()?;
    second.close()?;
    target.terminate()
}

/// A connection is cut, and comes back; then the device's table is swapped.
pub fn two_sessions(context: &Context<'_>) -> Result<(), String> {
    let in_three = "0 65536 linear disk-bdev 0\n\
                    65536 131072 linear disk-bdev 65536\n\
                    196608 65536 linear disk-bdev 196608";
    let whole = format!("0 {} linear disk-bdev 0", MIB * SECTORS_PER_MIB);
    beneath_ext4(context, "iscsi-paths", |paths| {
        let Paths { map, target, .. } = paths;
        paths.cable.cut();
        paths.second.await_state("FAILED")?;
        map.await_failed(1)?;
        map.await_io(&[0])?;
        paths.cable.mend();
        paths.second.await_state("LOGGED_IN")?;
        map.rescan(1)?;
        map.reinstate(1)?;
        map.await_io(&[0, 1])?;

        for table in [in_three, &whole, in_three, &whole] {
            target.swap_table("disk", table)?;
            await_progress(target, "disk")?;
        }
        map.await_io(&[0, 1])
    })
}

/// Each portal group becomes unusable in turn, and both at once: the host sees each ALUA state, and moves its I/O.
pub fn alua(context: &Context<'_>) -> Result<(), String> {
    beneath_ext4(context, "iscsi-alua", |paths| {
        let map = paths.map;
        let iqn = target::iqn(&paths.target.nqn);
        let set = |path: usize, state: &str| {
            let tag = (path + 1).to_string();
            let command = ["iscsi", "alua", &iqn, "--portal-group", &tag, state];
            paths.target.command(&command)
        };
        let reinstate = |path: usize| {
            set(path, "optimized")?;
            map.rescan(path)?;
            map.await_access(path, "active/optimized")?;
            map.reinstate(path)
        };
        for path in [0, 1] {
            map.await_access(path, "active/optimized")?;
        }

        // A way in that should not be used, and is.
        set(0, "non-optimized")?;
        map.await_access(0, "active/non-optimized")?;
        map.await_io(&[0, 1])?;
        // One that cannot be used, in each of the two ways, and is left.
        for (path, state) in [(0, "unavailable"), (1, "standby")] {
            set(path, state)?;
            map.await_failed(path)?;
            map.await_access(path, state)?;
            map.await_io(&[1 - path])?;
            reinstate(path)?;
            map.await_io(&[0, 1])?;
        }
        // No way in: the host's I/O waits in the host.
        set(0, "standby")?;
        set(1, "unavailable")?;
        map.await_failed(0)?;
        map.await_failed(1)?;
        reinstate(0)?;
        reinstate(1)?;
        map.await_io(&[0, 1])
    })
}
