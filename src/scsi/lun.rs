//! Logical unit numbers: eight bytes, of which disks use the first two (SAM-5, 4.7).

/// Most logical units of a target: what peripheral device addressing can name, which every initiator understands.
pub const UNITS_MAX: u16 = 256;

/// What a LUN names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lun {
    /// A logical unit by number.
    Unit(u16),
    /// The well-known logical unit REPORT LUNS.
    ReportLuns,
    /// Nothing that could be here.
    Unknown,
}

/// The well-known logical unit REPORT LUNS as eight bytes (SPC-4, 8.2).
pub const REPORT_LUNS: [u8; 8] = [0xC1, 0x01, 0, 0, 0, 0, 0, 0];

impl Lun {
    /// Reads a LUN: peripheral device or flat space addressing of a single level (SAM-5, 4.7.7), or well known (4.7.7.5.2).
    #[inline]
    pub fn decode(bytes: [u8; 8]) -> Lun {
        if bytes[2..] != [0; 6] {
            return Lun::Unknown;
        }
        match (bytes[0] >> 6, bytes[0] & 0x3F) {
            (0, 0) => Lun::Unit(u16::from(bytes[1])),
            (1, high) => Lun::Unit(u16::from(high) << 8 | u16::from(bytes[1])),
            _ if bytes == REPORT_LUNS => Lun::ReportLuns,
            _ => Lun::Unknown,
        }
    }

    /// Writes the LUN of a unit.
    pub fn encode(unit: u16) -> [u8; 8] {
        let [high, low] = unit.to_be_bytes();
        if unit < 256 {
            [0, low, 0, 0, 0, 0, 0, 0]
        } else {
            [0x40 | high, low, 0, 0, 0, 0, 0, 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_are_read_as_they_are_written() {
        for unit in [0, 1, 255, 256, 16383] {
            assert_eq!(Lun::decode(Lun::encode(unit)), Lun::Unit(unit));
        }
        assert_eq!(Lun::decode([0x40, 7, 0, 0, 0, 0, 0, 0]), Lun::Unit(7));
        assert_eq!(Lun::decode(REPORT_LUNS), Lun::ReportLuns);
        for unknown in [
            [1, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0, 0],
            [0x80, 0, 0, 0, 0, 0, 0, 0],
            [0xC1, 2, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Lun::decode(unknown), Lun::Unknown);
        }
    }
}
