//! What a host does with an iSCSI target, as `initiator` for NVMe: discover, log in, find the disks, log out. The same steps run
//! against polldm and, in the self-check, against the kernel's own target.

use crate::guest::Guest;

/// A target at a portal.
pub struct Portal {
    /// IPv4 address, as the guest sees it.
    pub address: &'static str,
    /// TCP port.
    pub port: u16,
    /// Name of the target.
    pub iqn: String,
}

impl Portal {
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
            grep -q '^{address}:{port},[0-9]* {iqn}$' /tmp/targets || fail the target is not among $(cat /tmp/targets)
            {settings}
            {record} --login
            ",
            address = portal.address,
            port = portal.port,
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

    /// A parameter as it was negotiated, by its name in sysfs: `header_digest`, `max_burst_length`, ...
    pub fn negotiated(&self, name: &str) -> Result<String, String> {
        let Session { iqn, port, .. } = self;
        let output = self
            .guest
            .run(&format!("session_value {iqn} {port} {name}"))?;
        Ok(output.trim().to_owned())
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
             await 10 gone >/dev/null"
        ))?;
        Ok(())
    }
}
