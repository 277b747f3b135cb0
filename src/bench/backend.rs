//! What the load generator drives: one trait, statically dispatched, a batch at a time.
//!
//! A job calls [`Backend::submit`] with a slice of requests and [`Backend::poll`] for a slice of
//! completions, and reads the clock once per turn; so what the generator itself adds is shared by the
//! whole batch.

use std::time::Duration;

/// What an I/O does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Reads blocks.
    Read = 0,
    /// Writes blocks.
    Write = 1,
    /// Makes everything written before durable; has no blocks.
    Flush = 2,
}

impl Kind {
    /// Every kind, in the order of reports.
    pub const ALL: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Flush];

    /// The word reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// One I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// First block, in blocks of the geometry.
    pub lba: u64,
    /// Number of blocks; 0 for a flush.
    pub block_count: u32,
    /// The number of this write within its job (1 and up), or, for a read, that of the last write of the
    /// place (0 when it is not known). Only of meaning with [`Data::NEEDED`].
    pub generation: u32,
    /// The job's name for this I/O, below its queue depth.
    pub tag: u16,
    /// What it does.
    pub kind: Kind,
}

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// [`Request::tag`].
    pub tag: u16,
    /// 0 when all is well; otherwise a code that [`Backend::error_text`] explains.
    pub error: u32,
}

/// Where outgoing data comes from and incoming data goes.
pub trait Data {
    /// Whether contents matter. Where they do not, a backend sends what its buffers hold and looks at
    /// nothing it receives.
    const NEEDED: bool;

    /// Fills `buffer` with what `request` writes from `offset` (bytes) on.
    fn fill(&mut self, request: &Request, offset: u32, buffer: &mut [u8]);

    /// Checks what `request` read from `offset` (bytes) on.
    fn check(&mut self, request: &Request, offset: u32, data: &[u8]);
}

/// Contents do not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoData;

impl Data for NoData {
    const NEEDED: bool = false;

    #[inline(always)]
    fn fill(&mut self, _: &Request, _: u32, _: &mut [u8]) {}

    #[inline(always)]
    fn check(&mut self, _: &Request, _: u32, _: &[u8]) {}
}

/// What a target is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a block; a power of two, at least 512.
    pub block_size: u32,
    /// Blocks there are.
    pub block_count: u64,
    /// Largest I/O in bytes; `None` without a limit.
    pub transfer_size_max: Option<u64>,
    /// Most I/Os outstanding per job.
    pub depth_max: usize,
    /// Most jobs.
    pub jobs_max: usize,
}

/// One job's way to a target. It is opened, used and dropped on one thread.
pub trait Backend: Sized {
    /// What [`Target::seat`] prepares on the main thread and [`Backend::open`] makes a backend of.
    type Seat: Send;

    /// Opens the backend on the job's thread.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    fn open(seat: Self::Seat) -> Result<Self, String>;

    /// Submits requests in order, as many as are taken; how many were.
    ///
    /// # Errors
    ///
    /// A sentence for the user, when the target is lost. What fails for one I/O is told by [`Done::error`].
    fn submit<D: Data>(&mut self, requests: &[Request], data: &mut D) -> Result<usize, String>;

    /// Collects completions without waiting; how many there were. `done` has room for every I/O outstanding.
    ///
    /// # Errors
    ///
    /// As [`Backend::submit`].
    fn poll<D: Data>(&mut self, done: &mut [Done], data: &mut D) -> Result<usize, String>;

    /// Nanoseconds since some moment before.
    fn now(&self) -> u64;

    /// Takes leave of the target, with nothing outstanding. What was measured stands, whatever comes of it.
    fn end(&mut self) {}

    /// What an error code means.
    fn error_text(code: u32) -> String;
}

/// What is measured, as the main thread sees it.
pub trait Target {
    /// How jobs reach it.
    type Backend: Backend;

    /// What it is like.
    fn geometry(&self) -> Geometry;

    /// Prepares the way for job `job`, with `depth` I/Os outstanding.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    fn seat(
        &mut self,
        job: usize,
        depth: usize,
    ) -> Result<<Self::Backend as Backend>::Seat, String>;

    /// Called about ten times a second while jobs run: keep alive and the like.
    ///
    /// # Errors
    ///
    /// A sentence for the user; the run is then over.
    fn tend(&mut self) -> Result<(), String>;

    /// Takes leave of it after a run, likewise.
    fn end(&mut self) {}

    /// Processor time that the other side has used so far, where it can be known.
    fn target_cpu(&mut self) -> Option<Duration>;
}
