//! polldm as the scenarios run it: a process of its own, with a configuration file, a port and a control socket.

use std::fs::{File, Permissions};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::counts::Counts;
use crate::guest::tail;
use crate::wait::wait_until;

/// How long the target may take to listen, and to leave after SIGTERM. It needs a fraction of a second for either.
const START_STOP_LIMIT: Duration = Duration::from_secs(20);

/// How long I/O of the guest may take to get where a scenario waits for it. Only a busy machine, or a host that connects again, needs
/// more than a second.
const COUNTS_LIMIT: Duration = Duration::from_secs(60);

/// The engine under test, at the head of a configuration: the one that the build is for. (polldm may be another build, by `POLLDM_BINARY`, of the same feature.)
const ENGINE: &str = if cfg!(feature = "spdk") {
    "engine: spdk\nspdk: { hugepages: off, memory: 1GiB }\nreactors: { count: 1 }\n"
} else {
    ""
};

/// Sectors of a mapped device's table in a mebibyte.
pub const SECTORS_PER_MIB: u64 = 2048;

/// A protocol that a target exports its devices by.
#[derive(Clone, Copy, PartialEq)]
pub enum Front {
    /// NVMe/TCP, to the kernel's own initiator.
    Nvme,
    /// iSCSI, to the kernel's initiator and open-iscsi.
    Iscsi,
}

/// What a volume is stored on.
#[derive(Clone, Copy, PartialEq)]
pub enum Backing {
    /// Memory: gone with the process.
    Malloc,
    /// A sparse file beside the configuration: survives the process.
    File,
}

/// One namespace and everything beneath it: bdev `NAME-bdev`, device `NAME`, namespace id by its place in the list.
pub struct Volume {
    /// Name of the mapped device.
    pub name: &'static str,
    /// Where the data goes.
    pub backing: Backing,
    /// Bytes per logical block, 512 or 4096.
    pub block_size: u32,
    /// Size of the mapped device.
    pub mib: u64,
    /// Size of the bdev, at least that of the device.
    pub bdev_mib: u64,
    /// The device's table, when it is not one linear line.
    pub table: Option<String>,
}

impl Volume {
    /// A volume as large as its bdev.
    pub fn new(name: &'static str, backing: Backing, block_size: u32, mib: u64) -> Volume {
        Volume {
            name,
            backing,
            block_size,
            mib,
            bdev_mib: mib,
            table: None,
        }
    }

    /// Leaves room on the bdev for a bigger table.
    pub fn on_bdev_of(self, bdev_mib: u64) -> Volume {
        Volume { bdev_mib, ..self }
    }

    /// A multipath device whose only path is the bdev.
    pub fn with_one_path(self, features: &str) -> Volume {
        let table = Some(self.multipath_table(features));
        Volume { table, ..self }
    }

    /// A table with one path, the bdev; `features` with their count before them.
    pub fn multipath_table(&self, features: &str) -> String {
        format!(
            "0 {} multipath {features} 0 1 1 round-robin 0 1 0 {}-bdev",
            self.mib * SECTORS_PER_MIB,
            self.name
        )
    }

    /// A table of one linear line over the first `mib` mebibytes of the bdev.
    pub fn linear_table(&self, mib: u64) -> String {
        format!("0 {} linear {}-bdev 0", mib * SECTORS_PER_MIB, self.name)
    }
}

/// A polldm that serves one subsystem. Dropping it kills the process and deletes its directory.
pub struct Target {
    binary: PathBuf,
    directory: TempDir,
    process: Option<Child>,
    front: Front,
    /// The TCP ports on the loopback address, one listener each; of [`Front::Nvme`].
    pub ports: [u16; 2],
    /// The TCP ports of the iSCSI target, which has every volume as a logical unit, from 0. Each is a portal group: 1 and 2. Of [`Front::Iscsi`].
    pub iscsi_ports: [u16; 2],
    /// The subsystem that it serves.
    pub nqn: String,
}

impl Target {
    /// Writes the configuration, starts `polldm serve` and waits for its port. The native engine exports by both protocols at once; SPDK exports a
    /// device one way only, which is `front`. `hosts` is the YAML of the hosts that may connect over NVMe/TCP.
    pub fn start(
        binary: &Path,
        front: Front,
        nqn: &str,
        hosts: &str,
        volumes: &[Volume],
    ) -> Result<Target, String> {
        let directory = TempDir::with_prefix("polldm-linux-host-").map_err(|e| e.to_string())?;
        let [first, second, group_1, group_2] =
            free_ports().map_err(|e| format!("cannot find free ports: {e}"))?;
        let ports = [first, second];
        let iscsi_ports = [group_1, group_2];
        let exports_by = |one: Front| front == one || cfg!(not(feature = "spdk"));
        let mut configuration = configuration(directory.path(), volumes);
        if exports_by(Front::Nvme) {
            configuration += &nvmf(ports, nqn, hosts, volumes);
        }
        if exports_by(Front::Iscsi) {
            configuration += &iscsi(iscsi_ports, nqn, volumes);
        }
        write_secrets(directory.path())?;
        let file = directory.path().join("polldm.yaml");
        std::fs::write(&file, configuration)
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let mut target = Target {
            binary: binary.to_owned(),
            directory,
            process: None,
            front,
            ports,
            iscsi_ports,
            nqn: nqn.to_owned(),
        };
        target.serve()?;
        Ok(target)
    }

    /// Starts the process (again) with the same configuration and waits for its port.
    pub fn serve(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "the target runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .map_err(|e| format!("cannot write the target's log: {e}"))?;
        // setpriv becomes the target, and makes the kernel end it should the test be killed.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.binary)
            .arg("serve")
            .arg(self.directory.path().join("polldm.yaml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start the target: {e}"))?;
        let port = match self.front {
            Front::Nvme => self.ports[0],
            Front::Iscsi => self.iscsi_ports[0],
        };
        let listening = wait_until(START_STOP_LIMIT, || {
            if let Some(status) = process.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("the process ended with {status}"));
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        });
        self.process = Some(process);
        listening.map_err(|e| {
            format!(
                "the target does not listen on port {port}: {e}\n{}",
                self.log()
            )
        })
    }

    /// SIGTERM, then waits: the target must leave with exit code 0.
    pub fn terminate(&mut self) -> Result<(), String> {
        let mut process = self.process.take().ok_or("the target does not run")?;
        let status = Command::new("kill")
            .args(["-TERM", &process.id().to_string()])
            .status()
            .map_err(|e| format!("cannot run kill: {e}"))?;
        if !status.success() {
            return Err(format!("the target could not be signalled: {status}"));
        }
        let mut ended: Option<ExitStatus> = None;
        let left = wait_until(START_STOP_LIMIT, || {
            ended = process.try_wait().map_err(|e| e.to_string())?;
            Ok(ended.is_some())
        });
        if let Err(reason) = left {
            let _ = process.kill();
            let _ = process.wait();
            return Err(format!(
                "the target does not leave after SIGTERM: {reason}\n{}",
                self.log()
            ));
        }
        match ended {
            Some(status) if status.success() => Ok(()),
            other => Err(format!(
                "after SIGTERM the target ended with {other:?}, not with 0\n{}",
                self.log()
            )),
        }
    }

    /// SIGKILL: the process is gone when this returns.
    pub fn kill(&mut self) -> Result<(), String> {
        let mut process = self.process.take().ok_or("the target does not run")?;
        process
            .kill()
            .and_then(|()| process.wait())
            .map_err(|e| format!("cannot kill the target: {e}"))?;
        Ok(())
    }

    /// A polldm that asks this target.
    fn on_socket<'a>(&self, polldm: &'a mut Command) -> &'a mut Command {
        polldm
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .stdin(Stdio::null())
    }

    /// A polldm command against this target; its output.
    pub fn command(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .on_socket(&mut Command::new(&self.binary))
            .args(arguments)
            .output()
            .map_err(|e| format!("cannot run polldm: {e}"))?;
        if !output.status.success() {
            return Err(format!(
                "polldm {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command that must be refused; what it says then.
    pub fn refusal(&self, arguments: &[&str]) -> Result<String, String> {
        match self.command(arguments) {
            Ok(output) => Err(format!(
                "polldm {} should be refused, and succeeded: {output}",
                arguments.join(" ")
            )),
            Err(refusal) => Ok(refusal),
        }
    }

    /// Where a device's I/O is.
    pub fn counts(&self, device: &str) -> Result<Counts, String> {
        let output = self.command(&["stats", device, "--json"])?;
        Counts::parse(&output)
    }

    /// Waits until a device's I/O is where it should be; `what` says where that is.
    pub fn await_counts(
        &self,
        device: &str,
        what: &str,
        condition: impl Fn(&Counts) -> bool,
    ) -> Result<Counts, String> {
        let mut found = self.counts(device)?;
        let waited = wait_until(COUNTS_LIMIT, || {
            found = self.counts(device)?;
            Ok(condition(&found))
        });
        waited.map_err(|e| {
            format!(
                "waiting for {what}: {e}; there is {found:?}\n{}",
                self.log()
            )
        })?;
        Ok(found)
    }

    /// Makes a device with this table.
    pub fn create(&self, device: &str, table: &str) -> Result<(), String> {
        self.command(&["dm", "create", device, "--table", table])
            .map(drop)
    }

    /// Starts a command that takes its time; its outcome comes with [`Running::refusal`].
    pub fn start_command(&self, arguments: &[&str]) -> Result<Running, String> {
        let process = self
            .on_socket(&mut Command::new(&self.binary))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot run polldm: {e}"))?;
        Ok(Running { process })
    }

    /// Loads a table and makes it live: the three steps an operator takes.
    pub fn swap_table(&self, device: &str, table: &str) -> Result<(), String> {
        self.command(&["dm", "load", device, "--table", table])?;
        self.command(&["dm", "suspend", device])?;
        self.command(&["dm", "resume", device])?;
        Ok(())
    }

    /// The file behind a `Backing::File` volume.
    pub fn backing_file(&self, volume: &str) -> PathBuf {
        backing_file(self.directory.path(), volume)
    }

    /// The end of what the target wrote, for an error message.
    pub fn log(&self) -> String {
        format!(
            "--- the target's log ends\n{}\n---",
            tail(&self.log_file(), 30)
        )
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("polldm.log")
    }
}

/// A polldm command that runs beside the scenario.
pub struct Running {
    process: Child,
}

impl Running {
    /// Waits for its end, which must be a refusal: what it says.
    pub fn refusal(self) -> Result<String, String> {
        let output = self
            .process
            .wait_with_output()
            .map_err(|e| format!("cannot wait for polldm: {e}"))?;
        match output.status.success() {
            true => Err("the command should be refused, and succeeded".into()),
            false => Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.process.is_some() {
            // The scenario has failed: what the target was at goes with it.
            for view in [&["export", "ls"][..], &["stats"], &["dm", "status"]] {
                // One that hangs is killed: that is an answer too.
                let output = self
                    .on_socket(Command::new("timeout").arg("10").arg(&self.binary))
                    .args(view)
                    .output();
                match output {
                    Ok(output) => println!(
                        "--- polldm {}: {}\n{}{}",
                        view.join(" "),
                        output.status,
                        String::from_utf8_lossy(&output.stdout),
                        String::from_utf8_lossy(&output.stderr)
                    ),
                    Err(e) => println!("--- cannot run polldm: {e}"),
                }
            }
            let _ = self.kill();
        }
    }
}

/// Ports that a moment ago nobody used. Chosen here and not by the target, so that it has the same ones again after a
/// restart.
fn free_ports() -> std::io::Result<[u16; 4]> {
    // All are held until all are known: they must differ.
    let listeners = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

/// The name of the iSCSI target beside the subsystem of this name.
pub fn iqn(nqn: &str) -> String {
    nqn.replacen("nqn.", "iqn.", 1)
}

/// What initiators of the second iSCSI target prove themselves with, and what it proves itself with: each a name and a secret.
pub const CHAP: [(&str, &str); 2] = [
    ("guest", "secret-of-the-guest"),
    ("polldm", "secret-of-the-target"),
];

/// The name of the second iSCSI target, which asks for proof and gives it.
pub fn chap_iqn(nqn: &str) -> String {
    iqn(nqn) + "-chap"
}

/// Writes the secrets that the second iSCSI target asks for.
fn write_secrets(directory: &Path) -> Result<(), String> {
    let [(user, secret), (own, proof)] = CHAP;
    let file = directory.join("chap");
    let lines = format!("initiator {user} {secret}\ntarget {own} {proof}\n");
    std::fs::write(&file, lines)
        .and_then(|()| std::fs::set_permissions(&file, Permissions::from_mode(0o600)))
        .map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// The part of the YAML file that exports the volumes as namespaces of one subsystem.
fn nvmf(ports: [u16; 2], nqn: &str, hosts: &str, volumes: &[Volume]) -> String {
    let namespaces: String = (1..)
        .zip(volumes)
        .map(|(nsid, volume)| format!("          - {{ nsid: {nsid}, device: {} }}\n", volume.name))
        .collect();
    let listeners = ports.map(|port| format!("\"127.0.0.1:{port}\"")).join(", ");
    format!(
        "  nvmf:\n    listeners: [ {listeners} ]\n    \
         subsystems:\n      - nqn: {nqn}\n        hosts: {hosts}\n        namespaces:\n{namespaces}"
    )
}

/// The part that exports the volumes as logical units: of one target for everyone, and of one that asks for proof.
fn iscsi([first, second]: [u16; 2], nqn: &str, volumes: &[Volume]) -> String {
    let units: String = volumes
        .iter()
        .enumerate()
        .map(|(lun, volume)| format!("          - {{ lun: {lun}, device: {} }}\n", volume.name))
        .collect();
    format!(
        "  iscsi:\n    portals: [ \"127.0.0.1:{first}\" ]\n    \
         portal_groups: [ {{ tag: 2, portals: [ \"127.0.0.1:{second}\" ] }} ]\n    \
         targets:\n      - iqn: {}\n        initiators: any\n        luns:\n{units}      \
         - iqn: {}\n        initiators: any\n        \
         chap: {{ secrets: chap, mutual: true }}\n        luns:\n{units}",
        iqn(nqn),
        chap_iqn(nqn)
    )
}

fn backing_file(directory: &Path, volume: &str) -> PathBuf {
    directory.join(format!("{volume}.img"))
}

/// The YAML file of a target, up to its exports: one bdev and one device per volume.
fn configuration(directory: &Path, volumes: &[Volume]) -> String {
    let mut bdevs = String::new();
    let mut devices = String::new();
    for volume in volumes {
        let Volume {
            name,
            block_size,
            mib,
            bdev_mib,
            ..
        } = volume;
        let (kind, path) = match volume.backing {
            Backing::Malloc => ("malloc", String::new()),
            Backing::File => (
                "file",
                format!(", path: {}", backing_file(directory, name).display()),
            ),
        };
        bdevs += &format!(
            "  - {kind}: {{ name: {name}-bdev{path}, size: {bdev_mib}MiB, block_size: {block_size} }}\n"
        );
        let table = volume.table.clone();
        devices += &format!(
            "  - name: {name}\n    table: \"{}\"\n",
            table.unwrap_or_else(|| volume.linear_table(*mib))
        );
    }
    format!(
        "{ENGINE}control: {{ socket: {} }}\nbdevs:\n{bdevs}devices:\n{devices}exports:\n",
        directory.join("control.sock").display()
    )
}
