//! `polldm bench`: how fast is a target, and how late are its slowest answers?

use std::io;

use clap::Args;

use super::{Engine, Failure, NoSocket};
use crate::bench::{IscsiTarget, NvmeTcpTarget, Options, TargetAddress, execute, execute_with};
use crate::config;
#[cfg(feature = "spdk")]
use crate::node::spdk_load::Loaded;
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
    let clean = match &options.target {
        TargetAddress::NvmeTcp(address) => {
            let mut target =
                NvmeTcpTarget::connect(address, options).map_err(Failure::Operation)?;
            execute(&mut target, options, &mut io::stdout().lock()).map_err(Failure::Operation)?
        }
        TargetAddress::Iscsi(address) => {
            let mut target = IscsiTarget::connect(address, options).map_err(Failure::Operation)?;
            execute(&mut target, options, &mut io::stdout().lock()).map_err(Failure::Operation)?
        }
        TargetAddress::Device { file, device } if options.swap_every.is_some() => {
            let plan = config::load_for(file, bench.engine.map(config::Engine::from))?;
            let device = swaps::Swapped::open(&plan, device)?;
            let run = || device.run(options);
            execute_with(options, &mut io::stdout().lock(), run).map_err(Failure::Operation)?
        }
        TargetAddress::Device { file, device } => {
            let plan = config::load_for(file, bench.engine.map(config::Engine::from))?;
            #[cfg(feature = "spdk")]
            if plan.engine == config::Engine::Spdk {
                let loaded = Loaded::open(&plan, device)?;
                let run = || loaded.run(options);
                let clean = execute_with(options, &mut io::stdout().lock(), run)
                    .map_err(Failure::Operation)?;
                return concluded(clean);
            }
            let mut target = DeviceTarget::open(&plan, device)?;
            execute(&mut target, options, &mut io::stdout().lock()).map_err(Failure::Operation)?
        }
    };
    concluded(clean)
}

fn concluded(clean: bool) -> Result<(), Failure> {
    if clean {
        Ok(())
    } else {
        let reason = "some I/O failed, or read what had not been written: see the report";
        Err(Failure::Operation(reason.into()))
    }
}
