//! CHAP (RFC 7143, 12.1; RFC 1994): each side proves that it knows a secret, by a digest over the secret and what the other made up.
//!
//! ```text
//! initiator                                   target
//! CHAP_A=7,5               what it can
//!                                             CHAP_A=7 CHAP_I=id CHAP_C=challenge
//! CHAP_N=name CHAP_R=digest
//!   [CHAP_I=id CHAP_C=challenge]              CHAP_N=name CHAP_R=digest, if it was asked
//! ```

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

use super::secrets::Secret;

/// Most bytes of a challenge or a response (RFC 7143, 12.1.3).
const BINARY_BYTES_MAX: usize = 1024;

/// CHAP_A (RFC 7143, 12.1.3, and IANA's registry of PPP authentication algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// MD5, which every initiator has.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA3-256.
    Sha3,
}

impl Algorithm {
    /// By its number.
    pub fn of(number: &str) -> Option<Self> {
        match number {
            "5" => Some(Algorithm::Md5),
            "6" => Some(Algorithm::Sha1),
            "7" => Some(Algorithm::Sha256),
            "8" => Some(Algorithm::Sha3),
            _ => None,
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Algorithm::Md5 => 5,
            Algorithm::Sha1 => 6,
            Algorithm::Sha256 => 7,
            Algorithm::Sha3 => 8,
        }
    }

    /// Bytes of a digest, and of the challenges that are made for it.
    pub fn bytes(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 | Algorithm::Sha3 => 32,
        }
    }

    /// What proves the secret (RFC 1994, 4.1): a digest over identifier, secret and challenge.
    pub fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn over<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            for part in parts {
                digest.update(part);
            }
            digest.finalize().to_vec()
        }
        let parts = [&[identifier], secret.bytes(), challenge];
        match self {
            Algorithm::Md5 => over::<Md5>(parts),
            Algorithm::Sha1 => over::<Sha1>(parts),
            Algorithm::Sha256 => over::<Sha256>(parts),
            Algorithm::Sha3 => over::<Sha3_256>(parts),
        }
    }
}

/// The keys of CHAP that one side has said at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// CHAP_A.
    pub algorithms: Option<String>,
    /// CHAP_N.
    pub name: Option<String>,
    /// CHAP_R.
    pub response: Option<String>,
    /// CHAP_I.
    pub identifier: Option<String>,
    /// CHAP_C.
    pub challenge: Option<String>,
}

/// A binary value in hexadecimal form (RFC 7143, 6.1).
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("0x".to_owned()).chain(digits).collect()
}

/// The bytes of a binary value (RFC 7143, 6.1): hexadecimal after 0x, base64 after 0b. `None` when it is neither, or too long.
pub fn binary(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => from_hexadecimal(digits.as_bytes()),
        "0b" | "0B" => from_base64(digits.as_bytes()),
        _ => None,
    };
    bytes.filter(|bytes| bytes.len() <= BINARY_BYTES_MAX)
}

fn from_hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(value(high)? << 4 | value(low)?).ok();
    pairs.iter().map(byte).collect()
}

/// RFC 4648, 4: four digits are three bytes, the last ones may be fewer and are filled up with `=`.
fn from_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = digits.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(groups.len() * 3);
    for (index, group) in groups.iter().enumerate() {
        let filled = group.iter().rev().take_while(|&&digit| digit == b'=');
        let filled = filled.count();
        if filled > 2 || filled > 0 && index + 1 < groups.len() {
            return None;
        }
        let mut value = 0;
        for &digit in &group[..4 - filled] {
            value = value << 6 | base64_digit(digit)?;
        }
        value <<= 6 * filled;
        let [_, three @ ..] = value.to_be_bytes();
        let (kept, left) = three.split_at(3 - filled);
        if left.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend_from_slice(kept);
    }
    Some(bytes)
}

fn base64_digit(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::super::secrets::Secrets;
    use super::*;

    /// RFC 1994, 4.1. The digests are those of an independent implementation (Python's hashlib).
    #[test]
    fn responses_are_digests_over_identifier_secret_and_challenge() {
        let secrets = Secrets::parse("initiator a secret-of-the-one").expect("right");
        let secret = &secrets.user("a").expect("a").secret;
        let challenge: Vec<u8> = (0..16).collect();
        for (number, expected) in [
            ("5", "94519504b2c5a703737b422e93c76d79"),
            ("6", "502542352fa37228cb8e1e397a9555f2dabd3d89"),
            (
                "7",
                "d31cbe93ef228820d038de48e25c283d2123a8dc4b027c7e05bdab79bbb0481a",
            ),
            (
                "8",
                "fbc88bcf4214e0577e7f5be6ade502f9b7dbcd4b57d5e967fc0934543875ee27",
            ),
        ] {
            let algorithm = Algorithm::of(number).expect("known");
            assert_eq!(algorithm.number().to_string(), number);
            let response = algorithm.response(0x2A, secret, &challenge);
            assert_eq!(response.len(), algorithm.bytes());
            assert_eq!(hexadecimal(&response), format!("0x{expected}"));
        }
    }

    /// RFC 7143, 6.1; the examples of RFC 4648, 10.
    #[test]
    fn binary_values_are_hexadecimal_or_base64() {
        let longest = "ab".repeat(BINARY_BYTES_MAX);
        for (text, expected) in [
            ("0x", Some(&b""[..])),
            ("0x00fF", Some(&[0, 255])),
            ("0Xab", Some(&[0xAB])),
            ("0b", Some(b"")),
            ("0bZg==", Some(b"f")),
            ("0bZm8=", Some(b"fo")),
            ("0bZm9v", Some(b"foo")),
            ("0BZm9vYmFy", Some(b"foobar")),
            ("0b+/+/", Some(&[0xFB, 0xFF, 0xBF])),
            ("", None),
            ("0", None),
            ("66", None),
            ("0x0", None),
            ("0xgg", None),
            ("0x+1", None),
            ("0bZg", None),
            ("0bZg=", None),
            ("0bZ===", None),
            ("0bZh==", None),
            ("0bZg==Zm9v", None),
            ("0bZ=9v", None),
            ("0bZm9\u{e9}", None),
            ("\u{e9}x00", None),
        ] {
            assert_eq!(binary(text).as_deref(), expected, "{text}");
        }
        assert!(binary(&format!("0x{longest}")).is_some());
        assert!(binary(&format!("0x{longest}ab")).is_none());
    }
}
