//! Where a namespace is: `nvme-tcp://host:port/nqn?nsid=1`.

use super::error::Error;
use crate::nvme::{NQN_SIZE_MAX, PORT_IO};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The scheme of an [`Address`].
pub const SCHEME: &str = "nvme-tcp://";

/// A subsystem, and maybe a namespace of it, behind a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name, IPv4 address, or IPv6 address without its brackets.
    pub host: String,
    /// TCP port; 4420 where the text has none.
    pub port: u16,
    /// NQN of the subsystem.
    pub nqn: String,
    /// Namespace; `None` when the text has none.
    pub nsid: Option<u32>,
}

impl Address {
    /// The address of a subsystem at a known socket address.
    pub fn new(socket: SocketAddr, nqn: &str) -> Self {
        Self {
            host: socket.ip().to_string(),
            port: socket.port(),
            nqn: nqn.to_owned(),
            nsid: None,
        }
    }

    /// Every socket address the host name stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the name cannot be resolved.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        resolve(&self.host, self.port)
    }
}

/// Every socket address a host name stands for.
pub(super) fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    (host, port)
        .to_socket_addrs()
        .map(Iterator::collect)
        .map_err(Error::io(format!("resolving \"{host}\"")))
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| {
            Error::Address(format!(
                "\"{text}\": {reason}; expected {SCHEME}HOST[:PORT]/NQN[?nsid=N], \
                 for example {SCHEME}127.0.0.1:{PORT_IO}/nqn.2026-11.io.polldm:quickstart?nsid=1"
            ))
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("the scheme is not nvme-tcp"))?;
        let (authority, path) = rest
            .split_once('/')
            .ok_or_else(|| wrong("the NQN of the subsystem is missing"))?;
        let (nqn, query) = match path.split_once('?') {
            Some((nqn, query)) => (nqn, Some(query)),
            None => (path, None),
        };
        if nqn.is_empty() {
            return Err(wrong("the NQN of the subsystem is missing"));
        }
        if !nqn.starts_with("nqn.") {
            return Err(wrong("the NQN does not begin with \"nqn.\""));
        }
        if nqn.len() > NQN_SIZE_MAX {
            return Err(wrong(&format!(
                "the NQN is longer than {NQN_SIZE_MAX} bytes"
            )));
        }
        let (host, port) = split_authority(authority).ok_or_else(|| {
            wrong("HOST[:PORT] cannot be read (an IPv6 address stands in brackets, a port is 1 to 65535)")
        })?;
        let mut nsid = None;
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            match pair.split_once('=') {
                Some(("nsid", value)) => {
                    let parsed = value
                        .parse()
                        .ok()
                        .filter(|&nsid| nsid != 0 && nsid != u32::MAX);
                    nsid = Some(
                        parsed.ok_or_else(|| wrong("nsid is not a number from 1 to 4294967294"))?,
                    );
                }
                _ => return Err(wrong(&format!("unknown parameter \"{pair}\""))),
            }
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            nqn: nqn.to_owned(),
            nsid,
        })
    }
}

/// Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; port 4420 where there is none, `None` where it can be neither.
pub fn split_authority(authority: &str) -> Option<(&str, u16)> {
    split_authority_or(authority, PORT_IO)
}

/// The same with another port where there is none.
pub(super) fn split_authority_or(authority: &str, port_default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':')?)
                },
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0)?,
        None => port_default,
    };
    (!host.is_empty()).then_some((host, port))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            nqn,
            nsid,
        } = self;
        if host.contains(':') {
            write!(f, "{SCHEME}[{host}]:{port}/{nqn}")?;
        } else {
            write!(f, "{SCHEME}{host}:{port}/{nqn}")?;
        }
        match nsid {
            Some(nsid) => write!(f, "?nsid={nsid}"),
            None => Ok(()),
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
        let address = parse("nvme-tcp://127.0.0.1:4421/nqn.2026-11.io.polldm:a?nsid=7").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port, address.nsid),
            ("127.0.0.1", 4421, Some(7))
        );
        assert_eq!(address.nqn, "nqn.2026-11.io.polldm:a");
        let short = parse("nvme-tcp://storage/nqn.a").unwrap();
        assert_eq!(
            (short.host.as_str(), short.port, short.nsid),
            ("storage", 4420, None)
        );
        let v6 = parse("nvme-tcp://[::1]:5/nqn.a").unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 5));
        assert_eq!(parse("nvme-tcp://[::1]/nqn.a").unwrap().port, 4420);
        for address in [address, short, v6] {
            assert_eq!(parse(&address.to_string()).unwrap(), address);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, part) in [
            ("tcp://1.2.3.4/nqn.a", "scheme"),
            ("nvme-tcp://1.2.3.4", "NQN of the subsystem is missing"),
            ("nvme-tcp://1.2.3.4/", "NQN of the subsystem is missing"),
            ("nvme-tcp://1.2.3.4/a", "begin with \"nqn.\""),
            ("nvme-tcp://1.2.3.4:0/nqn.a", "HOST[:PORT]"),
            ("nvme-tcp://1.2.3.4:70000/nqn.a", "HOST[:PORT]"),
            ("nvme-tcp://[::1/nqn.a", "HOST[:PORT]"),
            ("nvme-tcp://[::1]x/nqn.a", "HOST[:PORT]"),
            ("nvme-tcp://:1/nqn.a", "HOST[:PORT]"),
            ("nvme-tcp://h/nqn.a?nsid=0", "nsid"),
            ("nvme-tcp://h/nqn.a?ns=1", "unknown parameter \"ns=1\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("nvme-tcp://h/nqn.{}", "a".repeat(220));
        assert!(parse(&long).unwrap_err().contains("longer than 223"));
    }
}
