//! The command line of a run, and what is wrong with it.

use super::against;
use super::backend::Geometry;
use crate::host::address::SCHEME;
use crate::host::{Address, iscsi};
use clap::{Args, FromArgMatches as _, ValueEnum};
use std::iter;
use std::path::PathBuf;
use std::time::Duration;

/// Most jobs; each is a thread.
pub const JOBS_MAX: usize = 64;

/// Deepest queue per job.
pub const DEPTH_MAX: usize = crate::host::queue::DEPTH_MAX;

/// Longest run or warm-up: a day. A run always ends by itself.
pub const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Least time from one swap to the next: enough for the swap, and for as long without one.
pub const SWAP_EVERY_MIN: Duration = Duration::from_millis(1);

/// Shortest part of the time that `--against` measures at once.
pub const SLICE_MIN: Duration = Duration::from_millis(1);

/// Highest rate per job: at one I/O per nanosecond the schedule's own arithmetic would run out.
const RATE_MAX: u64 = 100_000_000;

/// Most I/O units that `--verify` keeps a generation of, four bytes each: 256 MiB of memory.
pub const VERIFY_UNITS_MAX: u64 = 64 << 20;

/// The access pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random places.
    #[value(name = "randread")]
    RandRead,
    /// Writes at random places.
    #[value(name = "randwrite")]
    RandWrite,
    /// Reads and writes at random places.
    #[value(name = "randrw")]
    RandRw,
}

impl Pattern {
    /// Whether places are random.
    pub const fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    /// Whether anything is written.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead)
    }

    /// The word of the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAddress {
    /// A namespace over NVMe/TCP.
    NvmeTcp(Address),
    /// A logical unit over iSCSI.
    Iscsi(iscsi::Address),
    /// A device of a configuration file, in this process.
    Device {
        /// The configuration.
        file: PathBuf,
        /// The name of the device in it.
        device: String,
    },
}

impl std::str::FromStr for TargetAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(SCHEME) {
            return text
                .parse()
                .map(Self::NvmeTcp)
                .map_err(|error: crate::host::Error| error.to_string());
        }
        if text.starts_with(iscsi::address::SCHEME) {
            return text
                .parse()
                .map(Self::Iscsi)
                .map_err(|error: iscsi::Error| error.to_string());
        }
        if let Some(rest) = text.strip_prefix("dm:") {
            return match rest.rsplit_once('#') {
                Some((file, device)) if !file.is_empty() && !device.is_empty() => {
                    Ok(Self::Device {
                        file: file.into(),
                        device: device.to_owned(),
                    })
                }
                _ => Err(format!(
                    "\"{text}\": expected dm:FILE#DEVICE, for example dm:conf/quickstart.yaml#vol0"
                )),
            };
        }
        Err(format!(
            "\"{text}\" is no target; expected {SCHEME}HOST[:PORT]/NQN[?nsid=N], \
             {}HOST[:PORT]/IQN/LUN or dm:FILE#DEVICE",
            iscsi::address::SCHEME
        ))
    }
}

impl std::fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NvmeTcp(address) => write!(f, "{address}"),
            Self::Iscsi(address) => write!(f, "{address}"),
            Self::Device { file, device } => write!(f, "dm:{}#{device}", file.display()),
        }
    }
}

/// Measures the latency and throughput of a namespace, a logical unit or a mapped device.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to measure.
    #[arg(
        help = "nvme-tcp://HOST[:PORT]/NQN[?nsid=N], iscsi://HOST[:PORT]/IQN/LUN, or dm:FILE#DEVICE to measure the mapper alone"
    )]
    pub target: TargetAddress,
    /// Access pattern
    #[arg(long, value_enum, default_value_t = Pattern::RandRead)]
    pub rw: Pattern,
    /// Percentage of reads with --rw randrw (50 when left out)
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rwmixread: Option<u8>,
    /// Bytes per I/O: a multiple of the block size, such as 4096, 4k or 1MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = parse_size)]
    pub bs: u64,
    /// I/Os outstanding per job
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    pub qd: usize,
    /// Threads, each with a queue of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub jobs: usize,
    /// How long to measure: 10, 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub time: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub warmup: Duration,
    /// I/Os per second of all jobs together, on a fixed schedule: latency then counts from when an I/O
    /// was due, so that a slow answer does not hide the ones queued behind it
    #[arg(long, value_name = "IOPS")]
    pub rate: Option<u64>,
    /// Write a pattern, read it back and check every byte (destroys the contents)
    #[arg(long)]
    pub verify: bool,
    /// A flush after every N writes of a job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub flush_every: Option<u32>,
    /// Use only this much of the target, from its start; all of it when left out
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Measure another target in turn with this one, and tell which is faster and how sure that is. Each is measured for --time, in parts
    #[arg(
        long,
        value_name = "TARGET",
        conflicts_with_all = ["verify", "swap_every", "hgrm", "plot"]
    )]
    pub against: Option<TargetAddress>,
    /// How often --against has both measured; 60 when left out
    #[arg(long, value_name = "COUNT", requires = "against", value_parser = clap::value_parser!(u32).range(
        i64::from(against::ROUNDS_MIN)..=i64::from(against::ROUNDS_MAX)
    ))]
    pub rounds: Option<u32>,
    /// Swap the device's table for an equal one every so often, and show how long the queues got no answer:
    /// 10ms, 1s. The load then runs on the reactors of the file, a queue on each (dm:FILE#DEVICE)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub swap_every: Option<Duration>,
    /// Seed of places and patterns: the same seed repeats the same run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Processors to pin the jobs to, in turn: 1, 2-5, 0,2
    #[arg(long, value_name = "LIST", value_parser = super::cores::parse_list)]
    pub cores: Option<super::cores::List>,
    /// Ask for header digests (nvme-tcp, iscsi)
    #[arg(long)]
    pub header_digest: bool,
    /// Ask for data digests (nvme-tcp, iscsi)
    #[arg(long)]
    pub data_digest: bool,
    /// Log in under this name (iscsi)
    #[arg(long, value_name = "NAME")]
    pub initiator: Option<String>,
    /// CHAP: a file that nobody else can read, with a line `initiator NAME SECRET`; where it has a line `target NAME SECRET` the target has
    /// to prove itself as well (iscsi)
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the histograms as an HdrHistogram V2 log
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write a percentile plot
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl Options {
    /// What the command line has for a target when nothing else is said.
    pub fn with_defaults(target: &TargetAddress) -> Self {
        let command = Self::augment_args(clap::Command::new("bench").no_binary_name(true));
        let matches = command.get_matches_from([target.to_string()]);
        Self::from_arg_matches(&matches).expect("a target is all that has to be said")
    }

    /// Percentage of reads.
    pub fn read_percent(&self) -> u8 {
        match self.rw {
            Pattern::Read | Pattern::RandRead => 100,
            Pattern::Write | Pattern::RandWrite => 0,
            Pattern::RandRw => self.rwmixread.unwrap_or(50),
        }
    }

    /// Checks what can be checked without the target.
    ///
    /// # Errors
    ///
    /// A sentence that names the option and what would be right.
    pub fn validate(&self) -> Result<(), String> {
        range("--qd", self.qd, DEPTH_MAX)?;
        range("--jobs", self.jobs, JOBS_MAX)?;
        if self.time.is_zero() {
            return Err("--time: has to be longer than nothing".into());
        }
        for (option, time) in [("--time", self.time), ("--warmup", self.warmup)] {
            if time > TIME_MAX {
                return Err(format!(
                    "{option}: a run is at most {} hours long",
                    TIME_MAX.as_secs() / 3600
                ));
            }
        }
        if let Some(rate) = self.rate {
            let rate_max = RATE_MAX * self.jobs as u64;
            if !(self.jobs as u64..=rate_max).contains(&rate) {
                return Err(format!(
                    "--rate {rate}: with {} jobs, {} to {rate_max} I/Os per second",
                    self.jobs, self.jobs
                ));
            }
        }
        if self.rwmixread.is_some() && self.rw != Pattern::RandRw {
            return Err("--rwmixread: only --rw randrw mixes reads and writes".into());
        }
        if self.flush_every.is_some() && !self.rw.writes() {
            return Err(format!(
                "--flush-every: --rw {} writes nothing to flush",
                self.rw.name()
            ));
        }
        if self.verify && !self.rw.writes() {
            return Err(format!(
                "--verify: --rw {} writes no pattern that could be checked; use write, randwrite or randrw",
                self.rw.name()
            ));
        }
        if self.bs == 0 || self.bs > u64::from(u32::MAX) {
            return Err(format!("--bs {}: has to be 1 byte to 4 GiB", self.bs));
        }
        self.validate_swaps()?;
        if self.time / self.rounds() < SLICE_MIN && self.against.is_some() {
            return Err(format!(
                "--rounds {}: --time has to be {} ms at least for each",
                self.rounds(),
                SLICE_MIN.as_millis()
            ));
        }
        for target in iter::once(&self.target).chain(&self.against) {
            if matches!(target, TargetAddress::Device { .. })
                && (self.header_digest || self.data_digest)
            {
                return Err(
                    "--header-digest and --data-digest: only nvme-tcp and iscsi targets have digests"
                        .into(),
                );
            }
            if !matches!(target, TargetAddress::Iscsi(_))
                && (self.initiator.is_some() || self.secrets.is_some())
            {
                return Err(
                    "--initiator and --secrets: only iscsi targets are logged in to".into(),
                );
            }
        }
        Ok(())
    }

    /// How often [`Options::against`] has both measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(against::ROUNDS)
    }

    fn validate_swaps(&self) -> Result<(), String> {
        let Some(every) = self.swap_every else {
            return Ok(());
        };
        if !matches!(self.target, TargetAddress::Device { .. }) {
            return Err(
                "--swap-every: only the table of dm:FILE#DEVICE is this process's to swap".into(),
            );
        }
        if self.jobs != 1 || self.cores.is_some() {
            return Err(
                "--swap-every: every reactor of the file has a queue; leave --jobs and --cores out, \
                 and say in the file which reactors there are"
                    .into(),
            );
        }
        if every < SWAP_EVERY_MIN || every > self.time {
            return Err(format!(
                "--swap-every: has to be {} ms at least, and not more than --time",
                SWAP_EVERY_MIN.as_millis()
            ));
        }
        Ok(())
    }

    /// Checks the options against what the target is like; the I/O units in use, of `bs` bytes each.
    ///
    /// # Errors
    ///
    /// As [`Options::validate`].
    pub fn fit(&self, geometry: &Geometry) -> Result<u64, String> {
        let block_size = u64::from(geometry.block_size);
        if !self.bs.is_multiple_of(block_size) {
            return Err(format!(
                "--bs {}: is no multiple of the target's block size, {block_size} bytes",
                self.bs
            ));
        }
        if let Some(limit) = geometry.transfer_size_max.filter(|&limit| self.bs > limit) {
            return Err(format!(
                "--bs {}: the target transfers at most {limit} bytes at once",
                self.bs
            ));
        }
        if self.bs / block_size > 1 << 16 {
            return Err(format!(
                "--bs {}: is more than 65,536 blocks of {block_size} bytes",
                self.bs
            ));
        }
        if self.qd > geometry.depth_max {
            return Err(format!(
                "--qd {}: the target takes at most {}",
                self.qd, geometry.depth_max
            ));
        }
        if self.jobs > geometry.jobs_max {
            return Err(format!(
                "--jobs {}: the target takes at most {}",
                self.jobs, geometry.jobs_max
            ));
        }
        let capacity = geometry.block_count.saturating_mul(block_size);
        let size = self.size.unwrap_or(capacity);
        if size > capacity {
            return Err(format!("--size {size}: the target has {capacity} bytes"));
        }
        let units = size / self.bs;
        let needed = self.jobs as u64;
        if units < needed {
            return Err(format!(
                "{size} bytes hold {units} I/Os of {} bytes, fewer than there are jobs ({needed})",
                self.bs
            ));
        }
        if self.verify && units > VERIFY_UNITS_MAX {
            return Err(format!(
                "--verify: {units} I/Os of {} bytes are more than can be kept in mind ({VERIFY_UNITS_MAX}); \
                 use --size {} or a larger --bs",
                self.bs,
                VERIFY_UNITS_MAX * self.bs
            ));
        }
        Ok(units)
    }
}

fn range(option: &str, value: usize, max: usize) -> Result<(), String> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{option} {value}: has to be 1 to {max}"))
}

/// Bytes from `4096`, `4k`, `4KiB`, `1M`, `2GiB`; units are powers of 1,024.
///
/// # Errors
///
/// What would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "\"{text}\" is no size; expected bytes, or a number with k, M, G or T (KiB, MiB, …)"
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .filter(|&size| size > 0)
        .ok_or_else(wrong)
}

/// A time from `10`, `10s`, `1.5s`, `500ms`, `2m`; seconds without a unit.
///
/// # Errors
///
/// What would be right.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("\"{text}\" is no time; expected seconds, or a number with ms, s, m or h");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = ["bench", "nvme-tcp://127.0.0.1/nqn.a"]
            .into_iter()
            .chain(line.split_whitespace());
        let options = Cli::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .options;
        options.validate()?;
        Ok(options)
    }

    const GEOMETRY: Geometry = Geometry {
        block_size: 4096,
        block_count: 1024,
        transfer_size_max: Some(128 << 10),
        depth_max: 128,
        jobs_max: 4,
    };

    #[test]
    fn defaults_and_units() {
        let options = parse("").unwrap();
        assert_eq!(
            (options.rw, options.bs, options.qd, options.jobs),
            (Pattern::RandRead, 4096, 32, 1)
        );
        assert_eq!(options.time, Duration::from_secs(10));
        assert_eq!(options.fit(&GEOMETRY), Ok(1024));
        let options = parse("--bs 128k --time 1.5s --warmup 0 --size 1MiB --cores 0-1").unwrap();
        assert_eq!(
            (options.bs, options.time),
            (131_072, Duration::from_millis(1500))
        );
        assert_eq!(options.fit(&GEOMETRY), Ok(8));
        assert_eq!(
            parse("--rw randrw --rwmixread 70").unwrap().read_percent(),
            70
        );
        assert_eq!(parse("--rw randrw").unwrap().read_percent(), 50);
        assert_eq!(parse("--rw write").unwrap().read_percent(), 0);
    }

    #[test]
    fn swaps_are_of_a_files_device_on_its_reactors() {
        let refusal = |change: fn(&mut Options)| {
            let mut options = super::super::testing::options(|_| {});
            options.swap_every = Some(Duration::from_millis(10));
            change(&mut options);
            options.validate().err().unwrap_or_default()
        };
        assert_eq!(refusal(|_| {}), "");
        assert!(refusal(|o| o.jobs = 2).contains("leave --jobs and --cores out"));
        assert!(refusal(|o| o.time = Duration::from_millis(9)).contains("not more than --time"));
        assert!(refusal(|o| o.swap_every = Some(Duration::ZERO)).contains("1 ms at least"));
    }

    #[test]
    fn bad_options_say_what_is_wrong() {
        for (line, part) in [
            ("--rw sideways", "sideways"),
            ("--rw randrw --rwmixread 101", "101"),
            ("--rwmixread 50", "--rwmixread: only --rw randrw"),
            ("--bs 4q", "no size"),
            ("--bs 0", "no size"),
            ("--qd 0", "--qd 0: has to be 1 to 1024"),
            ("--qd 5000", "--qd 5000"),
            ("--jobs 65", "--jobs 65: has to be 1 to 64"),
            ("--time 0", "--time: has to be longer"),
            ("--time 10x", "no time"),
            ("--time 25h", "at most 24 hours"),
            ("--rate 0", "--rate 0"),
            ("--jobs 4 --rate 3", "--rate 3"),
            ("--flush-every 0 --rw write", "0"),
            ("--flush-every 8", "writes nothing"),
            ("--verify", "--verify: --rw randread"),
            ("--cores 3-1", "3-1"),
            ("--swap-every 10ms", "--swap-every: only the table of dm:"),
            ("--initiator iqn.a", "only iscsi targets"),
            ("--secrets chap", "only iscsi targets"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_the_target_is_told() {
        for (line, part) in [
            ("--bs 512", "no multiple of the target's block size, 4096"),
            ("--bs 256k", "at most 131072 bytes"),
            ("--qd 129", "at most 128"),
            ("--jobs 5", "at most 4"),
            ("--size 5M", "the target has 4194304 bytes"),
            ("--size 8k --jobs 3", "fewer than there are jobs"),
        ] {
            let error = parse(line).unwrap().fit(&GEOMETRY).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        let large = Geometry {
            block_count: 1 << 40,
            ..GEOMETRY
        };
        let error = parse("--rw write --verify")
            .unwrap()
            .fit(&large)
            .unwrap_err();
        assert!(error.contains("use --size"), "{error}");
    }

    #[test]
    fn targets() {
        let device: TargetAddress = "dm:conf/a#b.yaml#vol0".parse().unwrap();
        assert_eq!(
            device,
            TargetAddress::Device {
                file: "conf/a#b.yaml".into(),
                device: "vol0".into()
            }
        );
        assert_eq!(device.to_string(), "dm:conf/a#b.yaml#vol0");
        let unit: TargetAddress = "iscsi://127.0.0.1/iqn.2026-11.io.polldm:disks/3"
            .parse()
            .unwrap();
        assert!(matches!(&unit, TargetAddress::Iscsi(address) if address.lun == 3));
        assert_eq!(
            unit.to_string(),
            "iscsi://127.0.0.1:3260/iqn.2026-11.io.polldm:disks/3"
        );
        for text in [
            "dm:conf/a.yaml",
            "dm:#vol0",
            "/dev/sda",
            "nvme-tcp://x",
            "iscsi://x/iqn.a",
        ] {
            assert!(
                text.parse::<TargetAddress>()
                    .unwrap_err()
                    .contains("expected"),
                "{text}"
            );
        }
    }
}
