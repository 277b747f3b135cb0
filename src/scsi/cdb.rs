//! Command descriptor blocks: their bytes, and the operation codes that are known here (SPC-4, SBC-3).

/// Bytes of the longest CDB that is carried out.
pub const CDB_BYTES: usize = 16;

/// Operation codes of CDBs that are longer (SPC-4, 4.2.3, 4.2.4), of which none is carried out.
const EXTENDED_CDB: u8 = 0x7E;
const VARIABLE_LENGTH_CDB: u8 = 0x7F;

/// NACA in the CONTROL byte: if the command fails, its task set is at fault (SAM-5, 5.9).
pub const NACA: u8 = 0x04;

/// A command descriptor block, in the 16 bytes that iSCSI has for it; shorter ones are followed by zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdb(pub [u8; CDB_BYTES]);

/// Operation codes.
#[allow(missing_docs)]
pub mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0A;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const RESERVE_6: u8 = 0x16;
    pub const RELEASE_6: u8 = 0x17;
    pub const MODE_SENSE_6: u8 = 0x1A;
    pub const START_STOP_UNIT: u8 = 0x1B;
    pub const PREVENT_ALLOW: u8 = 0x1E;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2A;
    pub const WRITE_AND_VERIFY_10: u8 = 0x2E;
    pub const VERIFY_10: u8 = 0x2F;
    pub const PRE_FETCH_10: u8 = 0x34;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const READ_DEFECT_DATA_10: u8 = 0x37;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const SANITIZE: u8 = 0x48;
    pub const LOG_SENSE: u8 = 0x4D;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const RESERVE_10: u8 = 0x56;
    pub const RELEASE_10: u8 = 0x57;
    pub const MODE_SENSE_10: u8 = 0x5A;
    pub const PERSISTENT_RESERVE_IN: u8 = 0x5E;
    pub const PERSISTENT_RESERVE_OUT: u8 = 0x5F;
    pub const EXTENDED_COPY: u8 = 0x83;
    pub const RECEIVE_COPY_RESULTS: u8 = 0x84;
    pub const READ_16: u8 = 0x88;
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    pub const WRITE_16: u8 = 0x8A;
    pub const ORWRITE_16: u8 = 0x8B;
    pub const WRITE_AND_VERIFY_16: u8 = 0x8E;
    pub const VERIFY_16: u8 = 0x8F;
    pub const PRE_FETCH_16: u8 = 0x90;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const WRITE_ATOMIC_16: u8 = 0x9C;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9E;
    pub const REPORT_LUNS: u8 = 0xA0;
    pub const MAINTENANCE_IN: u8 = 0xA3;
    pub const MAINTENANCE_OUT: u8 = 0xA4;
    pub const READ_12: u8 = 0xA8;
    pub const WRITE_12: u8 = 0xAA;
    pub const WRITE_AND_VERIFY_12: u8 = 0xAE;
    pub const VERIFY_12: u8 = 0xAF;
    pub const READ_DEFECT_DATA_12: u8 = 0xB7;
}

impl Cdb {
    /// OPERATION CODE.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// One byte.
    #[inline]
    pub fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Whether a bit is set.
    #[inline]
    pub fn bit(&self, at: usize, bit: u8) -> bool {
        self.0[at] >> bit & 1 != 0
    }

    /// Two bytes.
    #[inline]
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Eight bytes.
    #[inline]
    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// The CONTROL byte (SAM-5, 5.2): the last one, or the second of what says itself how long it is. `None` for groups whose length is not
    /// known.
    pub fn control(opcode: u8) -> Option<usize> {
        match opcode {
            EXTENDED_CDB | VARIABLE_LENGTH_CDB => Some(1),
            _ => Cdb::length(opcode).checked_sub(1),
        }
    }

    /// NACA, with the byte that it is in, if it is set.
    pub fn naca(&self) -> Option<usize> {
        Cdb::control(self.opcode()).filter(|&control| self.0[control] & NACA != 0)
    }

    /// Length by group code (SPC-4, 4.2.5.1); 0 for groups whose length it does not tell.
    pub fn length(opcode: u8) -> usize {
        match opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            _ => 0,
        }
    }

    /// First block and number of blocks of a command in one of the usual forms (SBC-3, 5: READ and all like it).
    #[inline]
    pub fn range(&self) -> (u64, u32) {
        match Self::length(self.opcode()) {
            6 => {
                let lba = self.u32(0) & 0x001F_FFFF;
                // No blocks stand for 256 (SBC-3, 5.9).
                let count = match self.0[4] {
                    0 => 256,
                    count => u32::from(count),
                };
                (u64::from(lba), count)
            }
            10 => (u64::from(self.u32(2)), u32::from(self.u16(7))),
            12 => (u64::from(self.u32(2)), self.u32(6)),
            _ => (self.u64(2), self.u32(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SAM-5, 5.2; SPC-4, 4.2.2 to 4.2.4.
    #[test]
    fn the_control_byte_of_every_length() {
        for (opcode, control) in [
            (0x00, Some(5)),
            (0x28, Some(9)),
            (0x5F, Some(9)),
            (0x60, None),
            (0x7E, Some(1)),
            (0x7F, Some(1)),
            (0x88, Some(15)),
            (0xA8, Some(11)),
            (0xC0, None),
        ] {
            assert_eq!(Cdb::control(opcode), control, "{opcode:02x}");
            let mut cdb = Cdb([!NACA; CDB_BYTES]);
            cdb.0[0] = opcode;
            assert_eq!(cdb.naca(), None);
            if let Some(control) = control {
                cdb.0[control] = NACA;
            }
            assert_eq!(cdb.naca(), control);
        }
    }

    #[test]
    fn ranges_of_every_length() {
        let range = |bytes: &[u8]| {
            let mut cdb = Cdb::default();
            cdb.0[..bytes.len()].copy_from_slice(bytes);
            cdb.range()
        };
        assert_eq!(range(&[0x08, 0xFF, 1, 2, 0, 0]), (0x1F_0102, 256));
        assert_eq!(
            range(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]),
            (0x0102_0304, 0x0506)
        );
        assert_eq!(
            range(&[0xA8, 0, 1, 2, 3, 4, 0, 0, 5, 6, 0, 0]),
            (0x0102_0304, 0x0506)
        );
        assert_eq!(
            range(&[0x88, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 5, 6, 0, 0]),
            (0x0100_0000_0000_0002, 0x0506)
        );
    }
}
