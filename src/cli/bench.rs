//! `polldm bench`: how fast is a target, and how late are its slowest answers?

use std::io;
#[cfg(feature = "spdk")]
use std::{path::PathBuf, rc::Rc};

use clap::Args;

use super::{Engine, Failure, NoSocket};
use crate::bench::{
    IscsiTarget, Measured, NvmeTcpTarget, Options, TargetAddress, execute, execute_in_turn,
    run as load,
};
use crate::config;
#[cfg(feature = "spdk")]
use crate::config::Plan;
#[cfg(feature = "spdk")]
use crate::node::spdk_load::{self, Loaded};
use crate::node::{DeviceTarget, swaps};

const EXAMPLES: &str = "\
Examples:
  polldm bench \\
    'nvme-tcp://127.0.0.1:4420/nqn.2026-11.io.polldm:quickstart?nsid=1'
  polldm bench 'nvme-tcp://127.0.0.1/NQN?nsid=2' --rw randwrite --time 30s
  polldm bench nvme-tcp://127.0.0.1/NQN --rate 50000 --plot latency.svg
  polldm bench nvme-tcp://127.0.0.1/NQN --rw randrw --verify --flush-every 64
  polldm bench iscsi://127.0.0.1/iqn.2026-11.io.polldm:disks/0 --data-digest
  polldm bench iscsi://127.0.0.1/IQN/0 --secrets chap --initiator iqn.example
  polldm bench dm:conf/quickstart.yaml#vol1 --qd 128
  polldm bench dm:conf/quickstart.yaml#vol1 --qd 128 --swap-every 10ms
  polldm bench dm:conf/spdk.yaml#data --qd 128 --engine spdk
  polldm bench dm:conf/spdk.yaml#data --against dm:conf/spdk.yaml#near

NQN stands for the subsystem's name; nsid may be left out where it has only
one namespace. IQN stands for the name of an iSCSI target, the number after it
for a logical unit; each job logs in for itself. Writes destroy what is on the
target. With --rate, latency counts from when an I/O was due, so a stall is
charged to everything that had to wait for it.";

/// Measure latency and throughput of a namespace, a logical unit or a mapped device
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    #[command(flatten)]
    options: Options,
    /// What polls the device, whatever the configuration says (dm:FILE#DEVICE); on SPDK's reactors there is a queue on each, and any bdev
    /// of the configuration can be measured as well
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Runs it; whether no I/O failed and nothing was read that had not been written is its success.
pub(super) fn run(bench: &Bench) -> Result<(), Failure> {
    let options = &bench.options;
    options.validate().map_err(Failure::Usage)?;
    let mut opener = Opener::new(bench.engine);
    let mut run = opener.open(&options.target, options)?;
    let output = &mut io::stdout().lock();
    let clean = match &options.against {
        None => execute(options, output, || run(options)),
        Some(against) => {
            let mut other = opener.open(against, options)?;
            let names = [&options.target, against].map(ToString::to_string);
            execute_in_turn(options, output, names, |side, slice| match side {
                0 => run(slice),
                _ => other(slice),
            })
        }
    };
    match clean.map_err(Failure::Operation)? {
        true => Ok(()),
        false => {
            let reason = "some I/O failed, or read what had not been written: see the report";
            Err(Failure::Operation(reason.into()))
        }
    }
}

/// Measures a target once.
type Run = Box<dyn FnMut(&Options) -> Result<Measured, String>>;

/// Makes what has to be there before a target is measured.
struct Opener {
    engine: Option<Engine>,
    /// SPDK's engine, which a process has once, and the file that it is of.
    #[cfg(feature = "spdk")]
    loaded: Option<(PathBuf, Rc<Loaded>)>,
}

impl Opener {
    fn new(engine: Option<Engine>) -> Opener {
        Opener {
            engine,
            #[cfg(feature = "spdk")]
            loaded: None,
        }
    }

    fn open(&mut self, address: &TargetAddress, options: &Options) -> Result<Run, Failure> {
        Ok(match address.clone() {
            // Anew each time: what the run before has left has no part in it.
            TargetAddress::NvmeTcp(address) => Box::new(move |options| {
                load(&mut NvmeTcpTarget::connect(&address, options)?, options)
            }),
            TargetAddress::Iscsi(address) => Box::new(move |options| {
                load(&mut IscsiTarget::connect(&address, options)?, options)
            }),
            TargetAddress::Device { file, device } => {
                let plan = config::load_for(&file, self.engine.map(config::Engine::from))?;
                if options.swap_every.is_some() {
                    let swapped = swaps::Swapped::open(&plan, &device)?;
                    return Ok(Box::new(move |options| swapped.run(options)));
                }
                #[cfg(feature = "spdk")]
                if plan.engine == config::Engine::Spdk {
                    return self.open_on_spdk(file, &plan, &device);
                }
                let mut target = DeviceTarget::open(&plan, &device)?;
                Box::new(move |options| load(&mut target, options))
            }
        })
    }

    #[cfg(feature = "spdk")]
    fn open_on_spdk(&mut self, file: PathBuf, plan: &Plan, device: &str) -> Result<Run, Failure> {
        let bdev = spdk_load::in_spdk(plan, device)?;
        let loaded = match &self.loaded {
            Some((of, loaded)) if *of == file => Rc::clone(loaded),
            Some((of, _)) => {
                return Err(Failure::Usage(format!(
                    "SPDK starts once in a process: both devices have to be of one file, {}",
                    of.display()
                )));
            }
            None => {
                let loaded = Rc::new(Loaded::open(plan)?);
                self.loaded = Some((file, Rc::clone(&loaded)));
                loaded
            }
        };
        Ok(Box::new(move |options| loaded.run(&bdev, options)))
    }
}
