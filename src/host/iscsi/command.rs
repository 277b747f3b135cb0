//! Command descriptor blocks of what an initiator sends here (SBC-3, 5; SPC-4, 6).

use crate::scsi::Cdb;
use crate::scsi::cdb::opcode;

/// FUA: what is written is durable when the command ends (SBC-3, 5.11).
const FUA: u8 = 0x08;

/// READ CAPACITY (16) among the service actions of its operation code (SBC-3, 5.19).
const READ_CAPACITY_16: u8 = 0x10;

/// READ (10), or (16) where that does not reach.
#[inline]
pub fn read(lba: u64, block_count: u32) -> Cdb {
    transfer(opcode::READ_10, opcode::READ_16, 0, lba, block_count)
}

/// WRITE (10), or (16) where that does not reach; durable when it ends where `fua` is set.
#[inline]
pub fn write(lba: u64, block_count: u32, fua: bool) -> Cdb {
    let flags = if fua { FUA } else { 0 };
    transfer(opcode::WRITE_10, opcode::WRITE_16, flags, lba, block_count)
}

#[inline]
fn transfer(short: u8, long: u8, flags: u8, lba: u64, block_count: u32) -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[1] = flags;
    match (u32::try_from(lba), u16::try_from(block_count)) {
        (Ok(lba), Ok(block_count)) => {
            cdb.0[0] = short;
            cdb.0[2..6].copy_from_slice(&lba.to_be_bytes());
            cdb.0[7..9].copy_from_slice(&block_count.to_be_bytes());
        }
        _ => {
            cdb.0[0] = long;
            cdb.0[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb.0[10..14].copy_from_slice(&block_count.to_be_bytes());
        }
    }
    cdb
}

/// SYNCHRONIZE CACHE (10) for every block.
#[inline]
pub fn synchronize_cache() -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[0] = opcode::SYNCHRONIZE_CACHE_10;
    cdb
}

/// TEST UNIT READY.
pub fn test_unit_ready() -> Cdb {
    Cdb::default()
}

/// READ CAPACITY (16).
pub fn read_capacity(length: u32) -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[0] = opcode::SERVICE_ACTION_IN_16;
    cdb.0[1] = READ_CAPACITY_16;
    cdb.0[10..14].copy_from_slice(&length.to_be_bytes());
    cdb
}

/// INQUIRY, of a page of vital product data where one is given.
pub fn inquiry(page: Option<u8>, length: u16) -> Cdb {
    let mut cdb = Cdb::default();
    cdb.0[0] = opcode::INQUIRY;
    cdb.0[1] = u8::from(page.is_some());
    cdb.0[2] = page.unwrap_or(0);
    cdb.0[3..5].copy_from_slice(&length.to_be_bytes());
    cdb
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SBC-3, 5.11, 5.15, 5.32, 5.35: the short form where it reaches, the long one beyond.
    #[test]
    fn the_short_form_where_it_reaches() {
        let short = [0x28, 0, 1, 2, 3, 4, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(0x0102_0304, 8).0, short);
        let far = [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
        assert_eq!(read(1 << 32, 8).0, far);
        let long = [0x8A, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        assert_eq!(write(1, 65_536, true).0, long);
        assert_eq!(write(1, 1, false).0[..2], [0x2A, 0]);
    }
}
