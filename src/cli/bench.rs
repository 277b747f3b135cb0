//! `polldm bench`: how fast is a target, and how late are its slowest answers?

use std::io;

use clap::Args;

use super::{Failure, NoSocket};
use crate::bench::{NvmeTcpTarget, Options, TargetAddress, execute, execute_with};
use crate::config;
use crate::node::{DeviceTarget, swaps};

const EXAMPLES: &str = "\
Examples:
  polldm bench \\
    'nvme-tcp://127.0.0.1:4420/nqn.2026-11.io.polldm:quickstart?nsid=1'
  polldm bench 'nvme-tcp://127.0.0.1/NQN?nsid=2' --rw randwrite --time 30s
  polldm bench nvme-tcp://127.0.0.1/NQN --rate 50000 --plot latency.svg
  polldm bench nvme-tcp://127.0.0.1/NQN --rw randrw --verify --flush-every 64
  polldm bench dm:conf/quickstart.yaml#vol1 --qd 128
  polldm bench dm:conf/quickstart.yaml#vol1 --qd 128 --swap-every 10ms

NQN stands for the subsystem's name; nsid may be left out where it has only
one namespace. Writes destroy what is on the target. With --rate, latency
counts from when an I/O was due, so a stall is charged to everything that had
to wait for it.";

/// Measure latency and throughput of a namespace or a mapped device
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    _no_socket: NoSocket,
}

/// Runs it; whether no I/O failed and nothing was read that had not been written is its success.
pub(super) fn run(bench: &Bench) -> Result<(), Failure> {
    let options = &bench.options;
    options.validate().map_err(Failure::Usage)?;
    let clean = match &options.target {
        TargetAddress::NvmeTcp(address) => {
            let mut target =
                NvmeTcpTarget::connect(address, options).map_err(Failure::Operation)?;
            execute(&mut target, options, &mut io::stdout().lock()).map_err(Failure::Operation)?
        }
        TargetAddress::Device { file, device } if options.swap_every.is_some() => {
            let plan = config::load(file)?;
            let device = swaps::Swapped::open(&plan, device)?;
            let run = || device.run(options);
            execute_with(options, &mut io::stdout().lock(), run).map_err(Failure::Operation)?
        }
        TargetAddress::Device { file, device } => {
            let mut target = DeviceTarget::open(&config::load(file)?, device)?;
            execute(&mut target, options, &mut io::stdout().lock()).map_err(Failure::Operation)?
        }
    };
    if clean {
        Ok(())
    } else {
        let reason = "some I/O failed, or read what had not been written: see the report";
        Err(Failure::Operation(reason.into()))
    }
}
