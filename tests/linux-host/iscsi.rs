//! What a host does with an iSCSI target, as `initiator` for NVMe: discover, log in, find the disks, log out. The same steps run
//! against polldm and, in the self-check, against the kernel's own target.

use crate::cable::Cable;
use crate::guest::Guest;
use crate::initiator::HOST_AS_SEEN_BY_GUEST;
use crate::target::{self, Target};

/// The settings of open-iscsi that ask for digests over headers and data.
pub const DIGESTS: [(&str, &str); 2] = [
    ("node.conn[0].iscsi.HeaderDigest", "CRC32C"),
    ("node.conn[0].iscsi.DataDigest", "CRC32C"),
];

/// A target at a portal.
pub struct Portal {
    /// IPv4 address, as the guest sees it.
    pub address: &'static str,
    /// TCP port, as the guest sees it.
    pub port: u16,
    /// The port that the target says it has, which is another one when something lies between.
    pub own_port: u16,
    /// Name of the target.
    pub iqn: String,
}

impl Portal {
    /// polldm on the machine that runs the test, in portal group 1.
    pub fn of(target: &Target) -> Portal {
        let port = target.iscsi_ports[0];
        Portal {
            address: HOST_AS_SEEN_BY_GUEST,
            port,
            own_port: port,
            iqn: target::iqn(&target.nqn),
        }
    }

    /// The same polldm in portal group 2, at the other end of a cable.
    pub fn over(cable: &Cable, target: &Target) -> Portal {
        Portal {
            port: cable.port,
            own_port: target.iscsi_ports[1],
            ..Portal::of(target)
        }
    }

    /// The same polldm's target that asks for proof and gives it.
    pub fn with_chap(target: &Target) -> Portal {
        Portal {
            iqn: target::chap_iqn(&target.nqn),
            ..Portal::of(target)
        }
    }

    fn record(&self) -> String {
        format!(
            "iscsiadm -m node -T {} -p {}:{}",
            self.iqn, self.address, self.port
        )
    }
}

/// A session of the guest's kernel with a target.
pub struct Session<'a> {
    guest: &'a Guest,
    record: String,
    iqn: String,
    port: u16,
}

impl<'a> Session<'a> {
    /// Discovers the target, which must be listed, and logs in. `settings` are names and values of open-iscsi's node record. A
    /// lost connection is tried again for two minutes: longer than any scenario keeps a target away.
    pub fn open(
        guest: &'a Guest,
        portal: &Portal,
        settings: &[(&str, &str)],
    ) -> Result<Session<'a>, String> {
        let record = portal.record();
        let settings: String = [("node.session.timeo.replacement_timeout", "120")]
            .iter()
            .chain(settings)
            .map(|(name, value)| format!("{record} -o update -n {name} -v {value}\n"))
            .collect();
        guest.run(&format!(
            r"
            set -e
            start_iscsid
            iscsiadm -m discovery -t sendtargets -p {address}:{port} >/tmp/targets
            grep -q ':{own_port},[0-9]* {iqn}$' /tmp/targets || fail the target is not among $(cat /tmp/targets)
            # The address that the target gives is its own; between it and the guest there is one that stands for it.
            {record} -o new
            {settings}
            {record} --login
            ",
            address = portal.address,
            port = portal.port,
            own_port = portal.own_port,
            iqn = portal.iqn,
        ))?;
        Ok(Session {
            guest,
            record,
            iqn: portal.iqn.clone(),
            port: portal.port,
        })
    }

    /// The disk of a logical unit, once the kernel has scanned it.
    pub fn disk(&self, lun: u32) -> Result<String, String> {
        let output = self
            .guest
            .run(&format!("disk {} {} {lun}", self.iqn, self.port))
            .map_err(|e| format!("LUN {lun} of {} does not appear: {e}", self.iqn))?;
        Ok(output.trim().to_owned())
    }

    /// An error unless header and data digests were agreed upon.
    pub fn demand_digests(&self) -> Result<(), String> {
        let Session { iqn, port, .. } = self;
        for digest in ["header_digest", "data_digest"] {
            let agreed = self
                .guest
                .run(&format!("session_value {iqn} {port} {digest}"))?;
            if agreed.trim() != "1" {
                return Err(format!("{digest} is off"));
            }
        }
        Ok(())
    }

    /// Waits until the kernel says that the session is in this state: `LOGGED_IN`, `FAILED`, ...
    pub fn await_state(&self, state: &str) -> Result<(), String> {
        let Session { iqn, port, .. } = self;
        self.guest
            .run(&format!("await 60 session_is {iqn} {port} {state}"))
            .map(drop)
    }

    /// How many task management functions the guest has asked for.
    pub fn task_management(&self) -> Result<u64, String> {
        let Session { iqn, port, .. } = self;
        let output = self.guest.run(&format!("task_management {iqn} {port}"))?;
        output
            .trim()
            .parse()
            .map_err(|e| format!("iscsiadm counts {output:?}: {e}"))
    }

    /// Waits until it has asked for so many.
    pub fn await_task_management(&self, count: u64) -> Result<(), String> {
        let Session { iqn, port, .. } = self;
        self.guest
            .run(&format!(
                "asked() {{ [ $(task_management {iqn} {port}) -ge {count} ]; }}\nawait 60 asked"
            ))
            .map(drop)
    }

    /// Logs out; nothing of the session may be left.
    pub fn close(self) -> Result<(), String> {
        let Session {
            guest,
            record,
            iqn,
            port,
        } = self;
        guest.run(&format!(
            "{record} --logout || fail 'logout failed'\n\
             {record} -o delete\n\
             gone() {{ ! find_session {iqn} {port}; }}\n\
             await 60 gone >/dev/null"
        ))?;
        Ok(())
    }
}
