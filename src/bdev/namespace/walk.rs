//! One I/O of the mapper as NVMe commands, one at a time.
//!
//! ```text
//! read, write      Read, Write with FUA; never above MDTS, which the mapper splits at
//! flush            Flush of the namespace
//! discard          Dataset Management, deallocate, one range…     (… : again until the whole range is done)
//! write-zeroes     Write Zeroes with FUA…
//! ```

use super::Geometry;
use crate::bdev::payload::Payload;
use crate::dm::{LowerIo, Op};
use crate::nvme::command::{Command, DatasetRange};
use crate::nvme::opcode::io;

/// Dataset Management: deallocate (bit 2 of command dword 11).
const DEALLOCATE: u32 = 1 << 2;

/// How far an I/O is.
pub(in crate::bdev) struct Walk {
    op: Op,
    fua: bool,
    /// Where what is left begins, and how many sectors it is.
    sector: u64,
    left: u32,
    /// What the present command does of it.
    sectors: u32,
}

impl Walk {
    /// At the beginning of `io`.
    #[inline]
    pub(in crate::bdev) fn new(io: &LowerIo<Payload>) -> Walk {
        Walk {
            op: io.op,
            fua: io.fua,
            sector: io.sector,
            left: io.sectors,
            sectors: 0,
        }
    }

    #[inline]
    pub(in crate::bdev) fn op(&self) -> Op {
        self.op
    }

    /// The command that is next, or that is to be sent again.
    pub(in crate::bdev) fn command(&mut self, geometry: &Geometry) -> Command {
        let Geometry {
            nsid, block_shift, ..
        } = *geometry;
        let mut ranged = |opcode: u8, sectors_max: u32| {
            self.sectors = self.left.min(sectors_max);
            let lba = self.sector >> block_shift;
            Command::block_io(opcode, nsid, lba, self.sectors >> block_shift)
        };
        let mut command = match self.op {
            Op::Read => ranged(io::READ, u32::MAX),
            Op::Write => ranged(io::WRITE, u32::MAX),
            Op::WriteZeroes => ranged(io::WRITE_ZEROES, geometry.zeroes_sectors_max),
            Op::Discard => {
                self.sectors = self.left.min(geometry.discard_sectors_max);
                let mut command = Command::new(io::DATASET_MANAGEMENT, nsid);
                // Dword 10 is the number of ranges, minus one.
                command.set_dword(11, DEALLOCATE);
                command
            }
            Op::Flush | Op::CompareAndWrite | Op::WriteAtomic => Command::new(io::FLUSH, nsid),
        };
        if self.fua && matches!(self.op, Op::Write | Op::WriteZeroes) {
            command.set_force_unit_access();
        }
        command
    }

    /// The data of the present Dataset Management.
    pub(in crate::bdev) fn range(&self, geometry: &Geometry) -> [u8; DatasetRange::SIZE] {
        let mut range = [0; DatasetRange::SIZE];
        DatasetRange {
            context: 0,
            block_count: self.sectors >> geometry.block_shift,
            lba: self.sector >> geometry.block_shift,
        }
        .encode(&mut range);
        range
    }

    /// The present command has succeeded; whether there is another.
    #[inline]
    pub(in crate::bdev) fn goes_on(&mut self) -> bool {
        if !matches!(self.op, Op::Discard | Op::WriteZeroes) {
            return false;
        }
        self.sector += u64::from(self.sectors);
        self.left -= self.sectors;
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::Payload as _;

    const GEOMETRY: Geometry = Geometry {
        nsid: 9,
        block_shift: 3,
        zeroes_sectors_max: 64,
        discard_sectors_max: 800,
    };

    fn walk(op: Op, fua: bool, sector: u64, sectors: u32) -> Walk {
        Walk::new(&LowerIo {
            op,
            fua,
            sector,
            sectors,
            payload: Payload::empty(),
        })
    }

    /// Write Zeroes is cut at its own limit, with FUA on every piece; each is the same when it is sent again.
    #[test]
    fn write_zeroes_goes_piece_by_piece() {
        let mut walk = walk(Op::WriteZeroes, true, 80, 160);
        for (lba, blocks, more) in [(10, 8, true), (18, 8, true), (26, 4, false)] {
            for _ in 0..2 {
                let command = walk.command(&GEOMETRY);
                assert_eq!((command.opcode(), command.nsid()), (io::WRITE_ZEROES, 9));
                assert_eq!((command.lba(), command.block_count()), (lba, blocks));
                assert!(command.is_force_unit_access() && !command.is_deallocate());
            }
            assert_eq!(walk.goes_on(), more);
        }
    }

    #[test]
    fn discard_is_one_range_at_a_time() {
        let mut walk = walk(Op::Discard, true, 0, 1000);
        for (lba, block_count, more) in [(0, 100, true), (100, 25, false)] {
            let command = walk.command(&GEOMETRY);
            assert_eq!(command.opcode(), io::DATASET_MANAGEMENT);
            assert!(command.is_dataset_deallocate() && !command.is_force_unit_access());
            assert_eq!(command.range_count(), 1);
            let mut range = [0; DatasetRange::SIZE];
            DatasetRange {
                context: 0,
                block_count,
                lba,
            }
            .encode(&mut range);
            assert_eq!(walk.range(&GEOMETRY), range);
            assert_eq!(walk.goes_on(), more);
        }
    }

    #[test]
    fn what_is_done_with_one_command() {
        for (op, opcode) in [(Op::Read, io::READ), (Op::Write, io::WRITE)] {
            for fua in [false, true] {
                let mut walk = walk(op, fua, 24, 4096);
                let command = walk.command(&GEOMETRY);
                assert_eq!(command.opcode(), opcode);
                assert_eq!((command.lba(), command.block_count()), (3, 512));
                assert_eq!(command.is_force_unit_access(), fua && op == Op::Write);
                assert!(!walk.goes_on());
            }
        }
        let mut flush = walk(Op::Flush, false, 0, 0);
        assert_eq!(flush.command(&GEOMETRY), Command::new(io::FLUSH, 9));
        assert!(!flush.goes_on());
    }
}
