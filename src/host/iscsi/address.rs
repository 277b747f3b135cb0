//! Where a logical unit is: `iscsi://host:port/iqn/lun`.

use super::error::Error;
use crate::host::address::{resolve, split_authority_or};
use crate::iscsi::NAME_BYTES_MAX;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The scheme of an [`Address`].
pub const SCHEME: &str = "iscsi://";

/// The TCP port of iSCSI targets (RFC 7143, 13.8).
pub const PORT: u16 = 3260;

/// The highest number that a LUN of one level can have (SAM-5, 4.7.7.3).
const LUN_MAX: u16 = 16_383;

/// A logical unit of a target behind a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name, IPv4 address, or IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 3260 where the text has none.
    pub port: u16,
    /// Name of the target.
    pub iqn: String,
    /// Number of the unit.
    pub lun: u16,
}

impl Address {
    /// The address of a unit at a known socket address.
    pub fn new(socket: SocketAddr, iqn: &str, lun: u16) -> Self {
        Self {
            host: socket.ip().to_string(),
            port: socket.port(),
            iqn: iqn.to_owned(),
            lun,
        }
    }

    /// The same unit elsewhere, as a target says it: host, port and the tag of a portal group, of which the last two may be missing
    /// (TargetAddress; RFC 7143, 13.8).
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when it cannot be read.
    pub(super) fn moved(&self, elsewhere: &str) -> Result<Self, Error> {
        let authority = match elsewhere.rsplit_once(',') {
            Some((authority, _)) => authority,
            None => elsewhere,
        };
        let (host, port) = split_authority_or(authority, PORT).ok_or_else(|| {
            Error::Address(format!(
                "the target sends initiators to \"{elsewhere}\", which is no address"
            ))
        })?;
        Ok(Self {
            host: host.to_owned(),
            port,
            ..self.clone()
        })
    }

    /// Every socket address the host name stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the name cannot be resolved.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        Ok(resolve(&self.host, self.port)?)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| {
            Error::Address(format!(
                "\"{text}\": {reason}; expected {SCHEME}HOST[:PORT]/IQN/LUN, \
                 for example {SCHEME}127.0.0.1:{PORT}/iqn.2026-11.io.polldm:disks/0"
            ))
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("the scheme is not iscsi"))?;
        let (authority, path) = rest
            .split_once('/')
            .ok_or_else(|| wrong("the name of the target is missing"))?;
        if authority.contains(['@', '%']) {
            return Err(wrong(
                "names and secrets are no part of an address: --secrets names a file with them",
            ));
        }
        let (iqn, lun) = path
            .rsplit_once('/')
            .ok_or_else(|| wrong("the number of the unit is missing"))?;
        if !["iqn.", "eui.", "naa."]
            .iter()
            .any(|kind| iqn.starts_with(kind))
        {
            return Err(wrong(
                "the name of the target does not begin with \"iqn.\", \"eui.\" or \"naa.\"",
            ));
        }
        if iqn.len() > NAME_BYTES_MAX {
            return Err(wrong(&format!(
                "the name of the target is longer than {NAME_BYTES_MAX} bytes"
            )));
        }
        let lun = lun
            .parse()
            .ok()
            .filter(|&lun| lun <= LUN_MAX)
            .ok_or_else(|| wrong(&format!("LUN is not a number from 0 to {LUN_MAX}")))?;
        let (host, port) = split_authority_or(authority, PORT).ok_or_else(|| {
            wrong("HOST[:PORT] cannot be read (an IPv6 address stands in brackets, a port is 1 to 65535)")
        })?;
        Ok(Self {
            host: host.to_owned(),
            port,
            iqn: iqn.to_owned(),
            lun,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            iqn,
            lun,
        } = self;
        if host.contains(':') {
            write!(f, "{SCHEME}[{host}]:{port}/{iqn}/{lun}")
        } else {
            write!(f, "{SCHEME}{host}:{port}/{iqn}/{lun}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }

    #[test]
    fn good_addresses() {
        let address = parse("iscsi://127.0.0.1:3261/iqn.2026-11.io.polldm:disks/7").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.lun),
            ("127.0.0.1", 3261, 7)
        );
        assert_eq!(address.iqn, "iqn.2026-11.io.polldm:disks");
        let short = parse("iscsi://storage/naa.52004567BA64678D/0").unwrap();
        assert_eq!((short.host.as_str(), short.port), ("storage", 3260));
        let v6 = parse("iscsi://[::1]/iqn.a/16383").unwrap();
        assert_eq!((v6.host.as_str(), v6.lun), ("::1", 16383));
        for address in [address, short, v6] {
            assert_eq!(parse(&address.to_string()).unwrap(), address);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, part) in [
            ("scsi://1.2.3.4/iqn.a/0", "scheme"),
            ("iscsi://1.2.3.4", "name of the target is missing"),
            ("iscsi://1.2.3.4/iqn.a", "number of the unit is missing"),
            ("iscsi://1.2.3.4/disks/0", "does not begin with"),
            ("iscsi://1.2.3.4/iqn.a/", "LUN is not a number"),
            ("iscsi://1.2.3.4/iqn.a/16384", "0 to 16383"),
            ("iscsi://1.2.3.4:0/iqn.a/0", "HOST[:PORT]"),
            ("iscsi://:1/iqn.a/0", "HOST[:PORT]"),
            ("iscsi://name%secret@h/iqn.a/0", "--secrets names a file"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("iscsi://h/iqn.{}/0", "a".repeat(220));
        assert!(parse(&long).unwrap_err().contains("longer than 223"));
    }
}
