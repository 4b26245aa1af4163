//! Which addresses may be asked.
//!
//! Owns the words for private networks. A reply must not lead a question to a service that only this
//! machine can reach, such as the metadata service of a cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host or a network that may be asked although it is private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A name, or all names below a domain that begins with a dot.
    Name(String),
    /// A network.
    Network(IpAddr, u8),
}

/// A text that is neither.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither a host, a domain such as .svc.cluster.local, nor a network such as 10.0.0.0/8"
)]
pub struct InvalidAllowed(String);

impl FromStr for Allowed {
    type Err = InvalidAllowed;

    fn from_str(text: &str) -> Result<Self, InvalidAllowed> {
        let invalid = || InvalidAllowed(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, bits(address)));
        }
        if let Some((address, length)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| invalid())?;
            let length: u8 = length.parse().map_err(|_| invalid())?;
            return (length <= bits(address))
                .then_some(Self::Network(address, length))
                .ok_or_else(invalid);
        }
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let name = !text.is_empty() && text.chars().all(sound);
        name.then(|| Self::Name(text.to_ascii_lowercase())).ok_or_else(invalid)
    }
}

impl Allowed {
    /// Whether a host of that name is meant.
    pub fn has_name(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self {
            Self::Name(name) if name.starts_with('.') => host.ends_with(name),
            Self::Name(name) => host == *name,
            Self::Network(..) => false,
        }
    }

    /// Whether an address is meant.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let Self::Network(network, length) = self else { return false };
        let width = bits(*network);
        let (network, address) = match (*network, plain(address)) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
            _ => return false,
        };
        let rest = u32::from(width - length);
        network.checked_shr(rest).unwrap_or(0) == address.checked_shr(rest).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address without the wrapping of version 4 in version 6.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether an address is of this machine, of a private network, or of no network at all.
pub fn is_private(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address == Ipv4Addr::BROADCAST
                // Shared address space (RFC 6598), benchmarks (RFC 2544), 0/8 and 240/4.
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b))
                || a == 0
                || a >= 240
        }
        IpAddr::V6(address) => {
            address == Ipv6Addr::LOCALHOST
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                // What a translator would send on to version 4 (RFC 6052).
                || address.segments()[..2] == [0x64, 0xff9b]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_is_what_others_cannot_reach() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        for text in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_domains_and_networks_are_allowed() {
        let allowed = |text: &str| text.parse::<Allowed>().unwrap();
        assert!(allowed("diff.ml").has_name("Diff.ML."));
        assert!(!allowed("diff.ml").has_name("evil-diff.ml"));
        assert!(allowed(".svc").has_name("diff.ml.svc"));
        assert!(!allowed(".svc").has_name("diffsvc"));
        assert!(allowed("10.0.0.0/8").has_address("10.255.0.1".parse().unwrap()));
        assert!(!allowed("10.0.0.0/8").has_address("11.0.0.1".parse().unwrap()));
        assert!(allowed("0.0.0.0/0").has_address("::ffff:127.0.0.1".parse().unwrap()));
        assert!(allowed("::1").has_address("::1".parse().unwrap()));
        assert!(!allowed("fd00::/8").has_address("fc00::1".parse().unwrap()));
        for text in ["", "10.0.0.0/33", "a b", "http://x", "1.2.3.4/x"] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }
}
