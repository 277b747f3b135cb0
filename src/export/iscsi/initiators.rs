//! Who may log in, and who sees which unit: initiators by name, by a pattern of names, and by the network that they come from.

use std::net::IpAddr;

use crate::iscsi::NAME_BYTES_MAX;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("`{address}` is no IP address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or_else(|| format!("what follows `/` is a number of bits, 0 to {most}"))?,
        };
        let network = Self { address, bits };
        let first = network.first();
        if first != address {
            return Err(format!(
                "the address has bits beyond the first {bits}; the network is {first}/{bits}"
            ));
        }
        Ok(network)
    }

    /// Its first address.
    fn first(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        let same_kind = self.address.is_ipv4() == address.is_ipv4();
        let bits = self.bits;
        same_kind && Self { address, bits }.first() == self.address
    }
}

/// One entry of a list: a name or pattern, a network, or both with `@` between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    text: String,
    name: Option<String>,
    network: Option<Network>,
}

impl Rule {
    /// Reads an entry: `iqn.1993-08.org.debian:*`, `192.0.2.0/24`, `iqn.1993-08.org.debian:*@192.0.2.0/24`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_named = ["iqn.", "eui.", "naa.", "*"]
            .iter()
            .any(|start| text.to_ascii_lowercase().starts_with(start));
        let (name, network) = match text.split_once('@') {
            Some((name, network)) => (Some(name), Some(network)),
            None if is_named => (Some(text), None),
            None => (None, Some(text)),
        };
        if let Some(name) = name {
            let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':' | '*');
            if !is_named || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
                return Err(format!(
                    "`{name}` is neither an iSCSI name nor a pattern of such"
                ));
            }
        }
        Ok(Self {
            text: text.to_owned(),
            name: name.map(str::to_ascii_lowercase),
            network: network.map(Network::parse).transpose()?,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, name: &str, address: Option<IpAddr>) -> bool {
        let by_name = self
            .name
            .as_ref()
            .is_none_or(|pattern| fits(pattern.as_bytes(), name.to_ascii_lowercase().as_bytes()));
        let by_network = self
            .network
            .is_none_or(|network| address.is_some_and(|address| network.contains(address)));
        by_name && by_network
    }
}

/// Whether a name fits a pattern, in which `*` stands for anything.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    // Where the last `*` is, and from where on in the name what follows it was looked for.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, in_name));
            at += 1;
        } else if pattern.get(at) == Some(&name[in_name]) {
            at += 1;
            in_name += 1;
        } else if let Some((place, from)) = star {
            star = Some((place, from + 1));
            at = place + 1;
            in_name = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Which initiators may log in to a target, or see a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Initiators {
    /// Every one.
    Any,
    /// Those that one of these fits.
    List(Vec<Rule>),
}

impl Initiators {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Self, String> {
        let rules: Result<Vec<Rule>, String> =
            list.iter().map(|text| Rule::parse(text.as_ref())).collect();
        Ok(Initiators::List(rules?))
    }

    /// Whether an initiator of this name, that comes from this address, is among them.
    pub fn allow(&self, name: &str, address: Option<IpAddr>) -> bool {
        match self {
            Initiators::Any => true,
            Initiators::List(list) => list.iter().any(|rule| rule.matches(name, address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_patterns_and_networks() {
        let name = "iqn.1993-08.org.debian:01:abc";
        let here: Option<IpAddr> = Some([192, 0, 2, 7].into());
        let there: Option<IpAddr> = Some("2001:db8::7".parse().expect("an address"));
        for (rule, address, allowed) in [
            ("iqn.1993-08.org.debian:01:abc", here, true),
            ("IQN.1993-08.org.Debian:01:ABC", here, true),
            ("iqn.1993-08.org.debian:01:abcd", here, false),
            ("iqn.1993-08.org.debian:01:ab", here, false),
            ("iqn.1993-08.org.debian:*", here, true),
            ("iqn.*:01:*", None, true),
            ("iqn.*:*:*b*c", None, true),
            ("*", None, true),
            ("*abc", None, true),
            ("*abd", None, false),
            ("iqn.*:02:*", here, false),
            ("192.0.2.0/24", here, true),
            ("192.0.2.7", here, true),
            ("192.0.2.8", here, false),
            ("192.0.3.0/24", here, false),
            ("0.0.0.0/0", here, true),
            ("0.0.0.0/0", there, false),
            ("::/0", there, true),
            ("::/0", here, false),
            ("2001:db8::/32", there, true),
            ("192.0.2.0/24", None, false),
            ("*debian*@192.0.2.0/24", here, true),
            ("*debian*@192.0.3.0/24", here, false),
            ("*redhat*@192.0.2.0/24", here, false),
        ] {
            let initiators = Initiators::parse(&[rule]).expect(rule);
            assert_eq!(initiators.allow(name, address), allowed, "{rule}");
        }
    }

    #[test]
    fn what_is_neither_a_name_nor_a_network() {
        for (rule, message) in [
            ("", "is no IP address"),
            ("host7", "is no IP address"),
            ("iqn.2026-11.io:a b", "neither an iSCSI name"),
            ("host@192.0.2.0/24", "neither an iSCSI name"),
            ("192.0.2.7/24", "the network is 192.0.2.0/24"),
            ("192.0.2.0/33", "0 to 32"),
            ("192.0.2.0/", "0 to 32"),
            ("2001:db8::/129", "0 to 128"),
            ("iqn.2026-11.io:a@", "is no IP address"),
        ] {
            let error = Rule::parse(rule).expect_err(rule);
            assert!(error.contains(message), "{rule}: {error}");
        }
    }
}
