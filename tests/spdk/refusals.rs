//! What cannot be: each is one clear error before anything is served, and nothing is left running.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::alone;
use crate::process::Served;

/// A configuration of the SPDK engine with one device, in which `engine` stands for the engine's part.
fn configuration(engine: &str, bdev: &str) -> String {
    format!(
        "\
{engine}
bdevs:
  - {bdev}
devices:
  - {{ name: vol0, table: \"0 8 linear a 0\" }}
"
    )
}

const NULL: &str = "null: { name: a, size: 1MiB }";
const WITHOUT_HUGEPAGES: &str = "engine: spdk\nspdk: { hugepages: off }\nreactors: { count: 1 }";

#[test]
fn what_the_machine_has_not() {
    let _alone = alone();
    for (engine, bdev, error) in [
        (
            "engine: spdk\nspdk: { memory: 1TiB }",
            NULL,
            "SPDK needs 1048576 MiB of hugepages and ",
        ),
        (
            "engine: spdk\nspdk: { hugepages: off }\nreactors: { cores: [1023] }",
            NULL,
            "CPU 1023 is not one this process may run on",
        ),
        (
            WITHOUT_HUGEPAGES,
            "malloc: { name: a, size: 1TiB }",
            "SPDK's bdev_malloc_create says: Cannot allocate memory; `spdk: { memory: … }` says how much SPDK has",
        ),
        (
            "engine: spdk\nspdk: { hugepages: off, rpc: /nonexistent/spdk.sock }\nreactors: { count: 1 }",
            NULL,
            // SPDK's own words, without which nobody would know.
            "Unable to start RPC service at /nonexistent/spdk.sock",
        ),
    ] {
        let complaints = Served::refused(&configuration(engine, bdev));
        assert!(complaints.contains(error), "{complaints}");
    }
}

/// A kind of bdev that only the other engine has, or a key that it does not obey.
#[test]
fn what_the_other_engine_has() {
    let _alone = alone();
    for (engine, bdev, error) in [
        (
            "engine: native",
            "spdk-json: { name: a, bdev: b }",
            "bdev `a` is of a kind that only SPDK has",
        ),
        (
            "engine: native",
            "nvme: { name: a, tcp: \"127.0.0.1:4420\", nqn: nqn.2026-11.io.polldm:x }",
            "bdev `a` is of a kind that only SPDK has",
        ),
        (
            WITHOUT_HUGEPAGES,
            "file: { name: a, path: /nonexistent, direct: off }",
            "`direct: off` is the native engine's",
        ),
    ] {
        let complaints = Served::refused(&configuration(engine, bdev));
        assert!(complaints.contains(error), "{complaints}");
        assert!(complaints.contains("polldm.yaml:"), "{complaints}");
    }
}

/// A device on the PCI bus that the kernel has, or nobody: of those that are here, whatever they are.
#[test]
fn a_pci_device_without_a_user_space_driver() {
    let _alone = alone();
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten();
    let unbound = devices.flatten().find(|device| {
        let driver = fs::read_link(device.path().join("driver")).unwrap_or_default();
        let driver = driver
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        !driver.contains("vfio") && !driver.contains("uio")
    });
    let Some(device) = unbound else {
        // A machine without a PCI bus has no device that could be bound wrongly.
        return;
    };
    let address = device.file_name().to_string_lossy().into_owned();
    let bdev = format!("nvme: {{ name: a, pcie: \"{address}\" }}");
    let complaints = Served::refused(&configuration(WITHOUT_HUGEPAGES, &bdev));
    let error = format!("SPDK cannot have the PCI device {address}: ");
    assert!(complaints.contains(&error), "{complaints}");
    assert!(complaints.contains("vfio-pci"), "{complaints}");
}

/// A second SPDK on the CPU of the first does not start, and says in SPDK's words why.
#[test]
fn a_cpu_that_another_spdk_has() {
    let _alone = alone();
    let first = Served::start(&configuration(WITHOUT_HUGEPAGES, NULL));
    let complaints = Served::refused(&configuration(WITHOUT_HUGEPAGES, NULL));
    assert!(complaints.contains("SPDK did not start"), "{complaints}");
    assert!(complaints.contains("has claimed it"), "{complaints}");
    assert_eq!(first.end(), Some(0));
}

/// The build script of the bindings, as cargo has built it for this test.
fn build_script() -> Command {
    let target = Path::new(env!("CARGO_BIN_EXE_polldm"))
        .parent()
        .expect("it is in a directory");
    let builds = fs::read_dir(target.join("build")).expect("cargo's builds");
    let scripts = builds.flatten().filter_map(|build| {
        let name = build.file_name().to_string_lossy().into_owned();
        let script = build.path().join("build-script-build");
        let written = script.metadata().ok()?.modified().ok()?;
        name.starts_with("spdk-sys-").then_some((written, script))
    });
    let (_, script) = scripts.max().expect("the bindings were built");
    Command::new(script)
}

/// An SPDK that is too old, or is not all there, is one error of the build: what was found, and what is needed.
#[test]
fn an_spdk_that_polldm_cannot_be_built_with() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    for folder in ["lib/pkgconfig", "include/spdk"] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    let refused = |expected: &[&str]| {
        let output = build_script()
            .env("SPDK_DIR", directory.path())
            .env_remove("PKG_CONFIG_PATH")
            .env("PKG_CONFIG_LIBDIR", directory.path())
            .env("OUT_DIR", directory.path())
            .output()
            .expect("it can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "{said}");
        let errors: Vec<&str> = (said.lines())
            .filter_map(|line| line.strip_prefix("cargo::error="))
            .collect();
        assert_eq!(errors.len(), 1, "{said}");
        for part in expected {
            assert!(errors[0].contains(part), "{part}: {}", errors[0]);
        }
    };
    refused(&["needs an installed SPDK, 24.09 or newer", "spdk_event"]);
    let root = directory.path().display();
    let text = format!(
        "Name: fake\nDescription: fake\nVersion: 13.0\nLibs: -L{root}/lib\nCflags: -I{root}/include\n"
    );
    for package in [
        "spdk_event",
        "spdk_event_bdev",
        "spdk_event_nvmf",
        "spdk_bdev_modules",
        "spdk_sock_modules",
        "spdk_accel_modules",
        "spdk_env_dpdk",
        "spdk_dpdklibs",
        "spdk_syslibs",
    ] {
        fs::write(at("lib/pkgconfig").join(format!("{package}.pc")), &text).expect("written");
    }
    refused(&["no directory that has libspdk_event.so or libspdk_event.a"]);
    fs::write(at("lib/libspdk_event.so"), "").expect("written");
    refused(&["spdk/bdev_module.h is in none of the directories"]);
    fs::write(at("include/spdk/bdev_module.h"), "struct spdk_bdev_io;\n").expect("written");
    let version = "#define SPDK_VERSION_MAJOR\t23\n#define SPDK_VERSION_MINOR\t5\n";
    fs::write(at("include/spdk/version.h"), version).expect("written");
    refused(&["too old (23.05)", "nvme_cdw12", "24.09 or newer is needed"]);
}
