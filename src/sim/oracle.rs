//! What a device's sectors may hold: by every write that hosts have sent, and by every promise that completions have made.
//!
//! Each sector belongs to one host, which never has two writes of it under way; so the versions of a sector are in one order. A
//! read may find the last version that had completed when it was sent, or any later one. After a power cut a sector may hold the last
//! promised version, or any later one (AT-64).

/// What a sector holds, as far as it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All zero: never written, or zeroed.
    Zero,
    /// What a disk leaves behind a discard.
    Discarded,
    /// The write of this number.
    Write(u64),
}

/// Bytes in a sector.
pub const SECTOR: usize = 512;

impl Content {
    /// Fills a sector with what a write of this number holds there: the number at both ends, and the sector's own number, so that
    /// nothing that is in the wrong place or cut apart goes unnoticed.
    pub fn fill(number: u64, sector: u64, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        bytes[SECTOR - 8..SECTOR].copy_from_slice(&number.to_le_bytes());
    }

    /// What the bytes of a sector are; `None` if they are nothing that a host has written there.
    pub fn parse(sector: u64, bytes: &[u8]) -> Option<Content> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        match (word(0), word(8), word(SECTOR - 8)) {
            (0, 0, 0) => Some(Content::Zero),
            (a, b, c) if a == b && b == c && bytes[0] == super::DISCARDED => {
                Some(Content::Discarded)
            }
            (number, at, end) if number == end && at == sector => Some(Content::Write(number)),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    content: Content,
    /// Its write has completed without an error.
    completed: bool,
}

/// One sector.
#[derive(Clone, Debug)]
struct Sector {
    versions: Vec<Version>,
    /// The number of the last version that completed.
    completed: u64,
    /// The number of the version that a power cut must not take away.
    promised: u64,
}

/// One device.
#[derive(Clone, Debug)]
pub struct Oracle {
    sectors: Vec<Sector>,
    last: u64,
}

impl Oracle {
    /// A device of zeroes, all durable.
    pub fn new(sectors: u64) -> Oracle {
        let first = Version {
            number: 0,
            content: Content::Zero,
            completed: true,
        };
        let sector = Sector {
            versions: vec![first],
            completed: 0,
            promised: 0,
        };
        Oracle {
            sectors: vec![sector; sectors as usize],
            last: 0,
        }
    }

    /// The number of the write that is sent next.
    pub fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A write is sent; `content` is what every sector of it will hold.
    pub fn sent(&mut self, sector: u64, sectors: u64, number: u64, content: Content) {
        let version = Version {
            number,
            content,
            completed: false,
        };
        for sector in &mut self.sectors[sector as usize..(sector + sectors) as usize] {
            sector.versions.push(version);
        }
    }

    /// A write has completed without an error. (One that failed may have left anything between the old and the new.)
    pub fn completed(&mut self, sector: u64, sectors: u64, number: u64) {
        for sector in &mut self.sectors[sector as usize..(sector + sectors) as usize] {
            let version = sector
                .versions
                .iter_mut()
                .rev()
                .find(|v| v.number == number);
            version.expect("it was sent").completed = true;
            sector.completed = sector.completed.max(number);
        }
    }

    /// What has completed so far, by sector: what a flush sent now is to make durable, what a read sent now must not be older than.
    pub fn snapshot(&self, sector: u64, sectors: u64) -> Vec<u64> {
        let range = &self.sectors[sector as usize..(sector + sectors) as usize];
        range.iter().map(|sector| sector.completed).collect()
    }

    /// A completion has made versions durable: at least these.
    pub fn promise(&mut self, sector: u64, at_least: impl IntoIterator<Item = u64>) {
        for (sector, number) in self.sectors[sector as usize..].iter_mut().zip(at_least) {
            sector.promised = sector.promised.max(number);
        }
    }

    /// The only content that a sector can have now, if there is but one.
    pub fn certain(&self, sector: u64) -> Option<Content> {
        let sector = &self.sectors[sector as usize];
        let last = sector.versions.last().expect("the first one stays");
        last.completed.then_some(last.content)
    }

    /// Panics unless a read, sent when version `not_before` was the last to have completed, may have found these bytes.
    pub fn check_read(&self, sector: u64, not_before: u64, bytes: &[u8]) {
        self.check(sector, not_before, bytes, "a read found");
    }

    /// Panics unless a power cut may leave these bytes.
    pub fn check_durable(&self, sector: u64, bytes: &[u8]) {
        let promised = self.sectors[sector as usize].promised;
        self.check(sector, promised, bytes, "a power cut leaves");
    }

    fn check(&self, sector: u64, not_before: u64, bytes: &[u8], what: &str) {
        let found = Content::parse(sector, bytes);
        let versions = &self.sectors[sector as usize].versions;
        let mut possible = versions.iter().rev().take_while(|v| v.number >= not_before);
        if found.is_none_or(|found| !possible.any(|v| v.content == found)) {
            let possible = versions.iter().filter(|v| v.number >= not_before);
            let possible: Vec<_> = possible.map(|v| v.content).collect();
            let found = found.map_or_else(|| "bytes nobody wrote".into(), |c| format!("{c:?}"));
            panic!("{what} in sector {sector}: {found}, which is none of {possible:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u64, sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR];
        Content::fill(number, sector, &mut bytes);
        bytes
    }

    #[test]
    fn a_read_may_find_what_is_under_way_but_nothing_older_than_what_had_completed() {
        let mut oracle = Oracle::new(2);
        oracle.sent(0, 1, 1, Content::Write(1));
        oracle.check_read(0, 0, &bytes(0, 0));
        oracle.check_read(0, 0, &bytes(1, 0));
        oracle.completed(0, 1, 1);
        assert_eq!(oracle.certain(0), Some(Content::Write(1)));
        let stale = std::panic::catch_unwind(|| oracle.check_read(0, 1, &[0; SECTOR]));
        assert!(stale.is_err());
        let misplaced = std::panic::catch_unwind(|| oracle.check_read(0, 1, &bytes(1, 1)));
        assert!(misplaced.is_err());
    }

    #[test]
    fn a_promise_forbids_what_is_older() {
        let mut oracle = Oracle::new(1);
        oracle.sent(0, 1, 1, Content::Write(1));
        oracle.completed(0, 1, 1);
        oracle.check_durable(0, &bytes(0, 0));
        oracle.promise(0, oracle.snapshot(0, 1));
        oracle.check_durable(0, &bytes(1, 0));
        let lost = std::panic::catch_unwind(|| oracle.check_durable(0, &[0; SECTOR]));
        assert!(lost.is_err());
    }
}
