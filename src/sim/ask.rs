//! An original as a host puts it, before it has a number.

use crate::dm::Op;

/// An original to submit; [`Cluster::submit`](super::cluster::Cluster::submit) gives it its number.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What to do.
    pub op: Op,
    /// Force-unit-access.
    pub fua: bool,
    /// First sector.
    pub sector: u64,
    /// Sectors; 0 for a flush.
    pub sectors: u32,
    /// The payload; empty for operations without one.
    pub bytes: Vec<u8>,
}

impl Ask {
    /// A read.
    pub fn read(sector: u64, sectors: u32) -> Ask {
        let bytes = vec![0xee; sectors as usize * 512];
        Ask {
            op: Op::Read,
            fua: false,
            sector,
            sectors,
            bytes,
        }
    }

    /// A write of `bytes`.
    pub fn write(sector: u64, bytes: Vec<u8>) -> Ask {
        let sectors = bytes.len() as u32 / 512;
        Ask {
            op: Op::Write,
            fua: false,
            sector,
            sectors,
            bytes,
        }
    }

    /// A write of sectors full of `byte`.
    pub fn fill(sector: u64, sectors: u32, byte: u8) -> Ask {
        Ask::write(sector, vec![byte; sectors as usize * 512])
    }

    /// A flush.
    pub fn flush() -> Ask {
        Ask::range(Op::Flush, 0, 0)
    }

    /// An operation without bytes.
    pub fn range(op: Op, sector: u64, sectors: u32) -> Ask {
        Ask {
            op,
            fua: false,
            sector,
            sectors,
            bytes: Vec::new(),
        }
    }

    /// Writes sectors full of `new` if they are full of `old`.
    pub fn compare_and_write(sector: u64, sectors: u32, old: u8, new: u8) -> Ask {
        let bytes = sectors as usize * 512;
        let all = [vec![old; bytes], vec![new; bytes], vec![0xee; bytes]].concat();
        Ask {
            op: Op::CompareAndWrite,
            fua: false,
            sector,
            sectors,
            bytes: all,
        }
    }

    /// An atomic write of sectors full of `byte`.
    pub fn atomic(sector: u64, sectors: u32, byte: u8) -> Ask {
        Ask {
            op: Op::WriteAtomic,
            ..Ask::fill(sector, sectors, byte)
        }
    }

    /// The same with force-unit-access.
    pub fn fua(self) -> Ask {
        Ask { fua: true, ..self }
    }
}
