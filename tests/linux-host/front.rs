//! The front ends by which the guest reaches a target. Stories of what becomes of I/O are told over either.

use crate::guest::{Guest, Setting};
use crate::initiator::{Connection, Endpoint};
use crate::iscsi::{Portal, Session};
use crate::target::{Front, Target};

impl Front {
    /// Connects the guest to all devices of the target.
    pub fn attach<'a>(self, guest: &'a Guest, target: &Target) -> Result<Attachment<'a>, String> {
        let attached = match self {
            Front::Nvme => Connection::open(guest, &Endpoint::of(target), "").map(Attachment::Nvme),
            Front::Iscsi => Session::open(guest, &Portal::of(target), &[]).map(Attachment::Iscsi),
        };
        attached.map_err(|e| format!("{e}\n{}", target.log()))
    }

    /// Makes the guest's kernel hand on an error at once, which it would otherwise try again several times.
    pub fn without_retries<'a>(self, guest: &'a Guest, disk: &str) -> Result<Setting<'a>, String> {
        let name = disk.trim_start_matches("/dev/");
        let file = match self {
            Front::Nvme => "/sys/module/nvme_core/parameters/max_retries".to_owned(),
            Front::Iscsi => format!("/sys/block/{name}/device/scsi_disk/*/max_retries"),
        };
        Setting::change(guest, &file, "0")
    }

    /// What the names of its disks begin with.
    pub fn disk_prefix(self) -> &'static str {
        match self {
            Front::Nvme => "nvme",
            Front::Iscsi => "sd",
        }
    }
}

/// The guest's way to the devices of a target.
pub enum Attachment<'a> {
    /// Of [`Front::Nvme`].
    Nvme(Connection<'a>),
    /// Of [`Front::Iscsi`].
    Iscsi(Session<'a>),
}

impl Attachment<'_> {
    /// The block device of the target's device in this place, from 0, once the kernel has scanned it.
    pub fn disk(&self, place: u32) -> Result<String, String> {
        match self {
            Attachment::Nvme(connection) => connection.device(place + 1),
            Attachment::Iscsi(session) => session.disk(place),
        }
    }

    /// Disconnects; nothing may be left.
    pub fn close(self) -> Result<(), String> {
        match self {
            Attachment::Nvme(connection) => connection.close(),
            Attachment::Iscsi(session) => session.close(),
        }
    }
}
