//! From what was written to the plan: defaults applied, every name resolved, every limit checked.
//!
//! The first thing wrong, in the order of the file's sections, is the error: one clear message instead of a list of which half
//! are consequences of the other half.

mod bdevs;
mod devices;
mod exports;
mod iscsi;
mod nvmf;
mod spdk;
mod tables;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::DurationText;
use super::plan::{BdevPlan, IscsiPlan, NvmfPlan, Plan, PollPlan, ReactorsPlan};
use super::process::{CPU_COUNT_MAX, Process};
use super::raw::{Bdev, Config, Control, Engine, Metrics, Poll, Reactors};
use super::scalar::{Cores, SizeText, cpu_ranges, cpus_shown};
use super::source::{At, Problem, Source, Span, shown};
use super::{REACTORS_MAX, SOCKET_PATH_BYTES_MAX};

/// Microseconds an adaptive reactor polls on after the last work: longer than the gap between two I/Os at queue depth 1 over
/// a network (some 10 to 50 us), far too short to be seen as load.
const SPIN_US_DEFAULT: u32 = 100;
/// Longer than a second, `busy` is meant.
const SPIN_US_MAX: u32 = 1_000_000;

/// Where the configuration is read: what it is relative to.
pub(super) struct Surroundings<'a> {
    pub process: &'a Process,
    /// Relative paths count from here.
    pub directory: Option<&'a Path>,
    /// The engine of the command line, which outranks the one that is written.
    pub engine: Option<Engine>,
}

impl Surroundings<'_> {
    fn path(&self, path: &At<PathBuf>) -> Result<At<PathBuf>, Problem> {
        if path.value.as_os_str().is_empty() {
            return Err(Problem::at(path.span, "a path cannot be empty"));
        }
        if path.value.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Problem::at(
                path.span,
                "a path cannot contain a NUL character",
            ));
        }
        Ok(path.with(match self.directory {
            Some(directory) => directory.join(&path.value),
            None => path.value.clone(),
        }))
    }
}

/// Builds the plan.
pub(super) fn plan(
    config: Config,
    source: &Source,
    surroundings: &Surroundings<'_>,
) -> Result<Plan, Problem> {
    let spdk = spdk::plan(config.spdk.as_ref(), surroundings)?;
    let engine = engine(config.engine.as_ref(), surroundings)?;
    let reactors_span = config
        .reactors
        .as_ref()
        .and_then(|reactors| reactors.count.as_ref())
        .map(|count| count.span);
    let reactors = reactors(config.reactors.as_ref(), &surroundings.process.cpus)?;
    let control_socket = control_socket(config.control.as_ref(), surroundings)?;
    let metrics = metrics(config.metrics.as_ref())?;
    let bdevs = bdevs::bdevs(config.bdevs.unwrap_or_default(), surroundings)?;
    let devices = devices::devices(config.devices.unwrap_or_default(), &bdevs, source)?;
    let (nvmf, iscsi) = match config.exports {
        Some(exports) => (exports.nvmf, exports.iscsi),
        None => (None, None),
    };
    let nvmf = nvmf
        .map(|nvmf| nvmf::nvmf(nvmf, &devices, &bdevs, surroundings))
        .transpose()?;
    let iscsi = iscsi
        .map(|iscsi| iscsi::iscsi(iscsi, &devices, &bdevs, surroundings))
        .transpose()?;
    apart(metrics.as_ref(), nvmf.as_ref(), iscsi.as_ref())?;
    let plan = Plan {
        source: source.clone(),
        engine,
        spdk,
        reactors,
        control_socket,
        metrics,
        bdevs,
        devices,
        nvmf,
        iscsi,
    };
    spdk::check_engine(&plan, reactors_span)?;
    Ok(plan)
}

/// No two of those that listen want the same address.
fn apart(
    metrics: Option<&At<SocketAddr>>,
    nvmf: Option<&NvmfPlan>,
    iscsi: Option<&IscsiPlan>,
) -> Result<(), Problem> {
    let listeners = nvmf.map_or(&[][..], |nvmf| &nvmf.listeners);
    let portals = iscsi.map_or(&[][..], |iscsi| &iscsi.portals);
    let find = |among: &[At<SocketAddr>], address: SocketAddr| {
        let mut among = among.iter();
        let taken = among.find(|other| collide(other.value, address))?;
        Some(taken.span)
    };
    if let Some(metrics) = metrics {
        for (among, what) in [
            (listeners, "this address is also an NVMe/TCP listener"),
            (portals, "this address is also an iSCSI portal"),
        ] {
            if let Some(taken) = find(among, metrics.value) {
                return Err(Problem::at(metrics.span, what)
                    .related(taken, "the listener")
                    .help("give the metrics a port of their own"));
            }
        }
    }
    for portal in portals {
        if let Some(taken) = find(listeners, portal.value) {
            return Err(
                Problem::at(portal.span, "this address is also an NVMe/TCP listener")
                    .related(taken, "the listener")
                    .help("each protocol needs a port of its own; iSCSI's is 3260"),
            );
        }
    }
    Ok(())
}

/// Builds the plan of one backing device.
pub(super) fn bdev(bdev: Bdev, surroundings: &Surroundings<'_>) -> Result<BdevPlan, Problem> {
    bdevs::bdev_plan(bdev, surroundings)
}

/// The engine of the command line, or else the one that is written, or else the native one.
fn engine(
    written: Option<&At<Engine>>,
    surroundings: &Surroundings<'_>,
) -> Result<Engine, Problem> {
    let engine = surroundings
        .engine
        .or(written.map(|written| written.value))
        .unwrap_or(Engine::Native);
    if engine == Engine::Spdk && !cfg!(feature = "spdk") {
        let message = "this build of polldm has no SPDK engine";
        let problem = match written {
            Some(written) if surroundings.engine.is_none() => Problem::at(written.span, message),
            _ => Problem::whole(message),
        };
        return Err(problem.help(
            "use `engine: native`, or leave it out; `cargo build --release --features spdk` builds one that has it, where SPDK is installed",
        ));
    }
    Ok(engine)
}

fn reactors(reactors: Option<&Reactors>, allowed: &[usize]) -> Result<ReactorsPlan, Problem> {
    let cores = reactors.and_then(|reactors| reactors.cores.as_ref());
    let available = match cores {
        None => allowed.to_vec(),
        Some(cores) => listed_cpus(cores, allowed)?,
    };
    let count = match reactors.and_then(|reactors| reactors.count.as_ref()) {
        None => available.len().min(REACTORS_MAX),
        Some(count) => {
            let span = count.span;
            match usize::try_from(count.value) {
                Ok(count @ 1..=REACTORS_MAX) => count,
                _ => {
                    return Err(Problem::at(
                        span,
                        format!("{} is no number of reactors", count.value),
                    )
                    .help(format!("from 1 to {REACTORS_MAX}")));
                }
            }
        }
    };
    let cpus = available.iter().copied().cycle().take(count).collect();
    let spin = reactors.and_then(|reactors| reactors.spin_us.as_ref());
    if let Some(spin) = spin
        && spin.value > SPIN_US_MAX
    {
        return Err(
            Problem::at(spin.span, format!("{} us is too long to spin", spin.value)).help(format!(
                "at most {SPIN_US_MAX}; for polling without end write `poll: busy`"
            )),
        );
    }
    let poll = match reactors.and_then(|reactors| reactors.poll.as_ref()) {
        Some(At {
            value: Poll::Busy,
            span,
            ..
        }) => {
            if let Some(spin) = spin {
                return Err(
                    Problem::at(spin.span, "`spin_us` has no meaning with `poll: busy`")
                        .related(*span, "busy reactors never stop spinning")
                        .help("remove `spin_us`, or write `poll: adaptive`"),
                );
            }
            PollPlan::Busy
        }
        _ => PollPlan::Adaptive {
            spin: Duration::from_micros(spin.map_or(SPIN_US_DEFAULT, |spin| spin.value).into()),
        },
    };
    Ok(ReactorsPlan { cpus, poll })
}

fn listed_cpus(cores: &At<Cores>, allowed: &[usize]) -> Result<Vec<usize>, Problem> {
    let form = "write `auto`, a list of CPU numbers such as [0, 2], or a string of ranges such as \"0-3,6\"";
    let listed: Vec<(usize, Span)> = match &cores.value {
        Cores::Text(text) if text == "auto" => return Ok(allowed.to_vec()),
        Cores::Text(text) => cpu_ranges(text, CPU_COUNT_MAX)
            .map_err(|message| Problem::at(cores.span, message).help(form))?
            .into_iter()
            .map(|cpu| (cpu, cores.span))
            .collect(),
        Cores::Number(number) => {
            return Err(Problem::at(cores.span, format!("`cores: {number}` could mean CPU {number} or {number} CPUs"))
                .help(format!("write `cores: [{number}]` for CPU {number}, or `count: {number}` for so many reactors")));
        }
        Cores::List(list) => list
            .iter()
            .map(|cpu| (usize::try_from(cpu.value).unwrap_or(usize::MAX), cpu.span))
            .collect(),
    };
    if listed.is_empty() {
        return Err(Problem::at(cores.span, "the list of CPUs is empty").help(form));
    }
    let mut seen = Unique::default();
    for (cpu, span) in &listed {
        if !allowed.contains(cpu) {
            return Err(Problem::at(
                *span,
                format!("CPU {cpu} is not one this process may run on"),
            )
            .help(format!("its affinity mask has {}", cpus_shown(allowed))));
        }
        if seen.insert(*cpu, *span).is_err() {
            return Err(Problem::at(*span, format!("CPU {cpu} is listed twice"))
                .help("for more reactors than CPUs give their number in `count`"));
        }
    }
    Ok(listed.into_iter().map(|(cpu, _)| cpu).collect())
}

fn control_socket(
    control: Option<&Control>,
    surroundings: &Surroundings<'_>,
) -> Result<PathBuf, Problem> {
    let Some(socket) = control.and_then(|control| control.socket.as_ref()) else {
        return Ok(surroundings.process.control_socket());
    };
    let path = surroundings.path(socket)?;
    let bytes = path.value.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(Problem::at(
            socket.span,
            format!("the path of the socket has {bytes} bytes"),
        )
        .help(format!(
            "Linux allows {SOCKET_PATH_BYTES_MAX} bytes for the path of a UNIX socket"
        )));
    }
    Ok(path.value)
}

fn metrics(metrics: Option<&Metrics>) -> Result<Option<At<SocketAddr>>, Problem> {
    metrics
        .map(|metrics| address(&metrics.listen, 9090))
        .transpose()
}

/// An address and port, as numbers: a name could mean another address tomorrow.
fn address(text: &At<String>, port: u16) -> Result<At<SocketAddr>, Problem> {
    match text.value.parse() {
        Ok(address) => Ok(text.with(address)),
        Err(_) => Err(Problem::at(
            text.span,
            format!("`{}` is not an address and port", shown(&text.value)),
        )
        .help(format!(
            "write \"127.0.0.1:{port}\" or \"[::1]:{port}\"; host names are not looked up"
        ))),
    }
}

/// Whether two listeners cannot both be bound: same port, and one address covers the other.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
        // Link-local addresses are told apart by their interface.
        && match (one, other) {
            (SocketAddr::V6(one), SocketAddr::V6(other)) => {
                one.scope_id() == other.scope_id() || one.ip() != other.ip()
            }
            _ => true,
        }
}

/// Logical block sizes of this build (NVMe LBA formats and dm limits alike).
fn block_size(written: Option<&At<SizeText>>) -> Result<u32, Problem> {
    let Some(written) = written else {
        return Ok(512);
    };
    match written.value.bytes() {
        Ok(512) => Ok(512),
        Ok(4096) => Ok(4096),
        _ => Err(Problem::at(
            written.span,
            format!("`{}` is not a block size", shown(&written.value.0)),
        )
        .help("block sizes are 512 and 4096")),
    }
}

fn size(written: &At<SizeText>) -> Result<At<u64>, Problem> {
    match written.value.bytes() {
        Ok(bytes) => Ok(written.with(bytes)),
        Err((message, help)) => Err(Problem::at(written.span, message).help(help)),
    }
}

/// A span of time, where one is written.
fn span(written: Option<&At<DurationText>>) -> Result<Option<Duration>, Problem> {
    let Some(written) = written else {
        return Ok(None);
    };
    let wrong = |(why, help)| Problem::at(written.span, why).help(help);
    written.value.duration().map(Some).map_err(wrong)
}

/// What may be there once only, and where it was first.
struct Unique<K>(HashMap<K, Span>);

impl<K> Default for Unique<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Unique<K> {
    /// Takes note of `key`; or says where it was before.
    fn insert(&mut self, key: K, span: Span) -> Result<(), Span> {
        match self.0.insert(key, span) {
            None => Ok(()),
            Some(first) => Err(first),
        }
    }
}
