//! The initiator and the load generator against our own target, over loopback sockets: each checks the other.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use polldm::bdev::{Registry, Spec};
use polldm::bench::{self, NvmeTcpTarget, Options};
use polldm::engine::{self, Engine};
use polldm::export::nvmf::{Config, Export, Hosts, NamespaceConfig, SubsystemConfig};
use polldm::host::{
    Address, Connection, Controller, Error, HostIdentity, HostOptions, Payload, discover,
};
use polldm::nvme::command::Command;
use polldm::nvme::log::AnaState;
use polldm::nvme::pdu::{Digests, Kind, Terminate};
use polldm::nvme::{NSID_ALL, Status, opcode};
use polldm::reactor::{self, PollMode, available_cpus};

const NQN: &str = "nqn.2026-11.io.polldm:initiator";
const BLOCK: u32 = 512;

/// Longer than anything takes on a loaded machine; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A target on two cores with one namespace of 8 MiB.
struct Node {
    export: Export,
    // Dropped last: the export's connections live on its cores.
    _engine: Engine,
}

impl Node {
    fn start() -> Self {
        let bdevs = Arc::new(Registry::default());
        let spec = Spec::Malloc {
            bytes: 8 << 20,
            block_bytes: BLOCK,
            volatile_cache: false,
            atomic_writes: false,
        };
        bdevs.add("ram0", spec).unwrap();
        let cpus = available_cpus().unwrap();
        let reactors = reactor::Config {
            cpus: vec![cpus[0], cpus[cpus.len() - 1]],
            poll: PollMode::Adaptive {
                spin: Duration::from_micros(20),
            },
        };
        let config = engine::Config {
            reactors,
            buffer_bytes_max: 16 << 20,
        };
        let engine = Engine::start(&config, bdevs).unwrap();
        let device = engine.create("vol0", "", false).unwrap();
        engine.load("vol0", "0 16384 linear ram0 0", false).unwrap();
        engine.resume("vol0", Default::default()).unwrap();
        let namespace = NamespaceConfig {
            nsid: 1,
            device,
            device_name: "vol0".into(),
            uuid: None,
        };
        let subsystem = SubsystemConfig {
            nqn: NQN.into(),
            serial: None,
            model: None,
            hosts: Hosts::Any,
            ana: AnaState::Optimized,
            namespaces: vec![namespace],
        };
        let config = Config {
            listeners: vec!["127.0.0.1:0".parse().unwrap()],
            subsystems: vec![subsystem],
            discovery_nqn: None,
        };
        let export = Export::start(&engine, &config).unwrap();
        Self {
            export,
            _engine: engine,
        }
    }

    fn address(&self) -> Address {
        Address::new(self.export.addresses()[0], NQN)
    }
}

fn host_options(digests: Digests) -> HostOptions {
    let mut options = HostOptions::new(HostIdentity::random().unwrap());
    options.connection.digests = digests;
    options.connection.timeout = PATIENCE;
    // Nobody tends it between two steps of a test.
    options.keep_alive_ms = 0;
    options
}

fn bytes(size: usize, salt: u8) -> Vec<u8> {
    (0..size)
        .map(|index| (index * 31 + index / 512) as u8 ^ salt)
        .collect()
}

/// Discovery names the subsystem where it listens; the controller shows its namespace.
#[test]
fn a_subsystem_is_found_and_identified() {
    let node = Node::start();
    let options = host_options(Digests::default());
    let entries = discover(&node.address(), &options).unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry.subsystem_nqn == NQN)
        .expect("the subsystem is listed");
    assert_eq!(entry.address, "127.0.0.1");
    assert_eq!(entry.service, node.address().port.to_string());

    let mut controller = Controller::connect(&node.address(), &options).unwrap();
    assert_eq!(controller.identity().subsystem_nqn, NQN);
    assert_eq!(controller.namespaces().unwrap(), [1]);
    let namespace = controller.namespace(1).unwrap();
    assert_eq!((namespace.size, namespace.block_shift), (16384, 9));
    controller.shutdown().unwrap();

    let wrong = Address {
        nqn: "nqn.2026-11.io.polldm:none".into(),
        ..node.address()
    };
    let error = Controller::connect(&wrong, &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("connect invalid parameters"), "{error}");
}

/// Every I/O command, with and without digests, in capsules and through R2Ts.
#[test]
fn what_is_written_is_read() {
    let node = Node::start();
    let both = Digests {
        header: true,
        data: true,
    };
    for (salt, digests) in [(1, Digests::default()), (2, both)] {
        let mut controller = Controller::connect(&node.address(), &host_options(digests)).unwrap();
        let mut queues = controller.connect_io_queues(2, 32).unwrap();
        let [one, other] = &mut queues[..] else {
            panic!("two queues were asked for")
        };
        for size in [512, 4096, 8192, 128 << 10] {
            let data = bytes(size, salt);
            one.write(1, 64, &data, BLOCK).unwrap();
            let read = other.read(1, 64, size as u32 / BLOCK, BLOCK).unwrap();
            assert!(read == data, "{size} bytes, {digests:?}");
            other.compare(1, 64, &data, BLOCK).unwrap();
            let different = other
                .compare(1, 64, &bytes(size, salt ^ 0xFF), BLOCK)
                .unwrap_err();
            assert!(
                matches!(different, Error::Status { status, .. } if status.is(Status::COMPARE_FAILURE))
            );
        }
        one.flush(1).unwrap();
        one.flush(NSID_ALL).unwrap();
        one.verify(1, 0, 128).unwrap();
        one.write_zeroes(1, 65, 2, true).unwrap();
        one.deallocate(1, &[(70, 1), (80, 2)]).unwrap();
        let read = other.read(1, 64, 4, BLOCK).unwrap();
        assert!(read[512..1536].iter().all(|&byte| byte == 0));
        assert_eq!(read[..512], bytes(2048, salt)[..512]);
        assert_eq!(read[1536..], bytes(2048, salt)[1536..]);

        let (old, new) = (bytes(512, salt), bytes(512, 99));
        let (compare, write) = one.compare_and_write(1, 64, &old, &new, BLOCK).unwrap();
        assert!(compare.status.is_success() && write.status.is_success());
        let (compare, write) = one.compare_and_write(1, 64, &old, &old, BLOCK).unwrap();
        assert!(compare.status.is(Status::COMPARE_FAILURE));
        assert!(write.status.is(Status::ABORTED_FAILED_FUSED));
        assert_eq!(other.read(1, 64, 1, BLOCK).unwrap(), new);

        let past = one
            .run(
                Command::block_io(opcode::io::READ, 1, 16383, 2),
                Payload::Read(1024),
            )
            .unwrap();
        assert!(past.completion.status.is(Status::LBA_OUT_OF_RANGE));
        controller.tend().unwrap();
    }
}

/// Bytes that are no PDU end their own connection with C2HTermReq, and nobody else's.
#[test]
fn garbage_ends_only_its_own_connection() {
    let node = Node::start();
    let options = host_options(Digests::default());
    let mut controller = Controller::connect(&node.address(), &options).unwrap();
    let mut garbage = Connection::open(&node.address().resolve().unwrap(), PATIENCE).unwrap();
    garbage.send(&[0xFF; 128]).unwrap();
    let answer = garbage.receive_pdu().unwrap();
    assert_eq!(answer[0], Kind::ControllerTerminate as u8);
    assert_eq!(Terminate::decode(&answer), Terminate { fes: 1, fei: 0 });
    garbage.expect_end().unwrap();
    assert_eq!(controller.namespaces().unwrap(), [1]);
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

/// The load generator runs every pattern, reads back all it wrote, and finds nothing wrong.
#[test]
fn the_load_generator_verifies_the_target() {
    let node = Node::start();
    for line in [
        "--rw randread --qd 32",
        "--rw read --bs 64k --qd 8",
        "--rw randrw --bs 4k --qd 16 --jobs 2 --verify --flush-every 32",
        "--rw write --bs 32k --qd 8 --verify --header-digest --data-digest",
        "--rw randwrite --bs 512 --qd 4 --rate 2000 --verify --size 1MiB",
    ] {
        let address = node.address().to_string();
        let words = ["bench", &address, "--time", "200ms", "--warmup", "20ms"];
        let options = Cli::parse_from(words.into_iter().chain(line.split_whitespace())).options;
        let mut target = NvmeTcpTarget::connect(&node.address(), &options).unwrap();
        let report = bench::run(&mut target, &options).unwrap().report;
        assert!(report.is_clean(), "{line}:\n{}", report.text());
        if options.verify {
            assert!(report.verify.unwrap().checked_bytes > 0, "{line}");
        }
    }
}

/// A namespace over NVMe/TCP and the mapper alone, measured in turn by the command.
#[test]
fn two_targets_are_measured_in_turn() {
    let node = Node::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mapper.yaml");
    let plan = "bdevs: [ null: { name: a, size: 8MiB } ]\ndevices: [ { name: vol0, table: 0 16384 linear a 0 } ]\n";
    std::fs::write(&file, plan).unwrap();
    let device = format!("dm:{}#vol0", file.display());
    let bench = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_polldm"));
        let address = node.address().to_string();
        let against = ["bench", &address, "--against", &device, "--warmup", "0"];
        command.args(against).args(more).output().unwrap()
    };
    let output = bench(&["--rounds", "8", "--time", "4s", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rounds = ["rounds", "idle_rounds"].map(|key| told[key].as_u64().unwrap());
    assert_eq!(rounds.iter().sum::<u64>(), 8, "{text}");
    assert_eq!(told["targets"][1]["target"], device);
    let interval = &told["ratio"]["iops"];
    let ends = ["low", "median", "high"].map(|end| interval[end].as_f64().unwrap());
    assert!(0.0 < ends[0] && ends.is_sorted(), "{text}");
    for (more, reason) in [
        (&["--rounds", "5"][..], "5 is not in 6..=100000"),
        (
            &["--time", "50ms"],
            "--rounds 60: --time has to be 1 ms at least for each",
        ),
        (&["--verify"], "cannot be used with"),
        (
            &["--header-digest"],
            "only nvme-tcp and iscsi targets have digests",
        ),
    ] {
        let output = bench(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{more:?}: {said}");
    }
}
