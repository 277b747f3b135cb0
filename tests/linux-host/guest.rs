//! The guest: a QEMU process with Debian's kernel in it, and the agent that runs jobs there.
//!
//! The driver on this side and the guest's `init` speak the line protocol that `guest/init` describes, over a
//! virtio-serial port. Jobs run at the same time, so a scenario can act on the target while the guest is writing.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::wait::wait_until;

/// How long the guest may take from power-on to its agent. It takes about 4 s on an idle 2-core machine; the rest is
/// for machines that are slower, or busy with other tests.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long one job may take unless the scenario says otherwise: an order of magnitude above the slowest.
pub const JOB_LIMIT: Duration = Duration::from_secs(120);

/// An oops or panic ends QEMU (`-no-reboot`), which the driver sees at once. `hardened_usercopy` takes it for an attack
/// when nvme-tcp and nvmet-tcp meet on one machine, as they do in the self-check: pages that a host sent without a copy
/// are received as one piece, across the end of a huge page. `no_timer_check` keeps it from giving up its timer
/// when others have taken the processors while it boots.
const KERNEL_COMMAND_LINE: &str = if WITH_IOMMU {
    "console=ttyS0 quiet oops=panic panic=-1 nokaslr mitigations=off hardened_usercopy=off no_timer_check intel_iommu=on iommu=pt"
} else {
    "console=ttyS0 quiet oops=panic panic=-1 nokaslr mitigations=off hardened_usercopy=off no_timer_check"
};

/// Whether the guest has an IOMMU, as vfio wants it, which gives a disk to SPDK. The kernel's own drivers go past it (`iommu=pt`).
const WITH_IOMMU: bool = cfg!(feature = "spdk");

/// The IOMMU: as wide as addresses of programs are, so that SPDK can use them for those of the bus.
const IOMMU: &[&str] = if WITH_IOMMU {
    &["-device", "intel-iommu,intremap=on,aw-bits=48"]
} else {
    &[]
};

/// Mebibytes of memory; SPDK in the guest takes more than half a gibibyte in hugepages.
const MEMORY_MIB: &str = if cfg!(feature = "spdk") {
    "2560"
} else {
    "1024"
};

/// The serial numbers of the guest's two NVMe disks, which lead to one medium.
const DISK_SERIALS: [&str; 2] = ["one", "two"];

/// The size of that medium.
const DISK_BYTES: u64 = 256 << 20;

/// What QEMU writes a line about.
const DISK_EVENTS: [&str; 3] = ["pci_nvme_flush_ns", "pci_nvme_dsm", "pci_nvme_write"];

/// What the agent says about one job.
enum Message {
    Event(String),
    Output(String),
    End(i32),
}

/// Where the reader thread delivers the messages of each job.
type Routes = Arc<Mutex<HashMap<u64, Sender<Message>>>>;

/// A running guest. Dropping it ends the QEMU process.
pub struct Guest {
    qemu: Child,
    agent: UnixStream,
    routes: Routes,
    next_job: Cell<u64>,
    console: PathBuf,
    /// What QEMU writes, the commands that its disks are given among it.
    qemu_log: PathBuf,
    /// How long the boot took.
    pub boot_time: Duration,
}

impl Guest {
    /// Boots the image and waits for its agent. Sockets and logs go to `directory`.
    pub fn boot(image: &Image, directory: &Path) -> Result<Guest, String> {
        let started = Instant::now();
        let socket = directory.join("agent.sock");
        let console = directory.join("console.log");
        let qemu_log = directory.join("qemu.log");
        let disk = directory.join("disk.img");
        File::create(&disk)
            .and_then(|file| file.set_len(DISK_BYTES))
            .map_err(|e| format!("cannot make {}: {e}", disk.display()))?;
        // A guest that boots after another one failed finds the other's socket here.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)
            .map_err(|e| format!("cannot listen on {}: {e}", socket.display()))?;
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;

        let log = File::create(&qemu_log)
            .map_err(|e| format!("cannot write {}: {e}", qemu_log.display()))?;
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
                "-M",
                "q35",
            ])
            // Software emulation everywhere, so that the test is the same test on every machine. `max` has the
            // instructions that the guest's CRC code wants.
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                MEMORY_MIB,
            ])
            .args(IOMMU)
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args(["-append", KERNEL_COMMAND_LINE])
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-netdev",
                "user,id=net",
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ])
            .args([
                "-chardev",
                &format!("socket,id=agent,path={}", socket.display()),
            ])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=agent,name=polldm.agent"])
            .args([
                "-blockdev",
                &format!(
                    "driver=raw,node-name=disk,discard=unmap,file.driver=file,file.filename={}",
                    disk.display()
                ),
            ])
            .args(DISK_SERIALS.iter().flat_map(|serial| {
                let device = format!("nvme,serial={serial},drive=disk,share-rw=on");
                ["-device".to_owned(), device]
            }))
            .args(DISK_EVENTS.iter().flat_map(|event| ["-trace", event]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start qemu-system-x86_64: {e}"))?;

        let mut agent = None;
        let connected = wait_until(BOOT_LIMIT, || match listener.accept() {
            Ok((stream, _)) => {
                agent = Some(stream);
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => match qemu.try_wait() {
                Ok(None) => Ok(false),
                other => Err(format!(
                    "QEMU ended at once ({other:?}): {}",
                    tail(&qemu_log, 5)
                )),
            },
            Err(e) => Err(e.to_string()),
        });
        let Some(agent) = agent.filter(|_| connected.is_ok()) else {
            let _ = qemu.kill();
            let _ = qemu.wait();
            return Err(connected.err().unwrap_or_default());
        };
        agent.set_nonblocking(false).map_err(|e| e.to_string())?;

        let routes = Routes::default();
        let (ready, is_ready) = channel();
        let reader = BufReader::new(agent.try_clone().map_err(|e| e.to_string())?);
        let delivered = Arc::clone(&routes);
        std::thread::spawn(move || deliver(reader, &delivered, ready));

        let mut guest = Guest {
            qemu,
            agent,
            routes,
            next_job: Cell::new(0),
            console,
            qemu_log,
            boot_time: Duration::ZERO,
        };
        is_ready.recv_timeout(BOOT_LIMIT).map_err(|e| {
            format!(
                "the guest did not come up ({e}); its console ends:\n{}",
                guest.console_tail()
            )
        })?;
        guest.boot_time = started.elapsed();
        Ok(guest)
    }

    /// Starts a shell script in the guest and returns at once.
    pub fn start(&self, script: &str) -> Result<Job<'_>, String> {
        let id = self.next_job.get();
        self.next_job.set(id + 1);
        let (sender, messages) = channel();
        self.routes
            .lock()
            .expect("the reader thread does not panic")
            .insert(id, sender);
        let line = script.replace('\\', "\\\\").replace('\n', "\\n");
        (&self.agent)
            .write_all(format!("run {id} {line}\n").as_bytes())
            .map_err(|e| {
                format!(
                    "the guest is gone ({e}); its console ends:\n{}",
                    self.console_tail()
                )
            })?;
        Ok(Job {
            guest: self,
            id,
            script: script.to_owned(),
            messages,
            output: String::new(),
            status: None,
        })
    }

    /// Runs a shell script in the guest and returns its output; a non-zero exit status is an error.
    pub fn run(&self, script: &str) -> Result<String, String> {
        self.start(script)?.succeed()
    }

    /// How many commands the NVMe disks have been given, as QEMU counts them: lines with all of these words.
    pub fn disk_commands(&self, words: &[&str]) -> Result<usize, String> {
        let log = std::fs::read(&self.qemu_log).map_err(|e| format!("QEMU's log: {e}"))?;
        let log = String::from_utf8_lossy(&log);
        let lines = log
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(lines.count())
    }

    /// What the kernel wrote last on its console.
    pub fn console_tail(&self) -> String {
        tail(&self.console, 30)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The guest has nothing to save; an error here means that QEMU ended before.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A setting of the guest's kernel that a scenario has changed for its time.
pub struct Setting<'guest> {
    guest: &'guest Guest,
    file: String,
    before: String,
}

impl<'guest> Setting<'guest> {
    /// Writes the value to a file of sysfs, whose path may be a pattern that one file fits.
    pub fn change(guest: &'guest Guest, file: &str, value: &str) -> Result<Self, String> {
        let output = guest.run(&format!(
            "set -e; file=$(echo {file}); echo $file; cat $file; echo {value} >$file"
        ))?;
        let (file, before) = output
            .trim_end()
            .split_once('\n')
            .ok_or_else(|| format!("{file} has no value: {output}"))?;
        Ok(Setting {
            guest,
            file: file.to_owned(),
            before: before.to_owned(),
        })
    }

    /// Writes back what was there before.
    pub fn restore(self) -> Result<(), String> {
        let Setting {
            guest,
            file,
            before,
        } = self;
        guest.run(&format!("echo {before} >{file}")).map(drop)
    }
}

/// One script that runs, or ran, in the guest.
pub struct Job<'guest> {
    guest: &'guest Guest,
    id: u64,
    script: String,
    messages: Receiver<Message>,
    output: String,
    status: Option<i32>,
}

impl Job<'_> {
    /// Waits for the next line that the job `tell`s. An error if the job ends first, or takes longer than `JOB_LIMIT`.
    pub fn event(&mut self) -> Result<String, String> {
        while self.status.is_none() {
            if let Some(text) = self.receive(Instant::now() + JOB_LIMIT)? {
                return Ok(text);
            }
        }
        Err(format!(
            "a job ended before it told what was waited for.\n{}",
            self.describe()
        ))
    }

    /// The events that have arrived and not been asked for yet, without waiting.
    pub fn events_so_far(&mut self) -> Result<Vec<String>, String> {
        let mut events = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            events.extend(self.take(message));
        }
        Ok(events)
    }

    /// Whether the job has ended, without waiting. Events that nobody has asked for are dropped.
    pub fn is_finished(&mut self) -> Result<bool, String> {
        self.events_so_far()?;
        Ok(self.status.is_some())
    }

    /// Waits for the end and returns exit status and output.
    pub fn finish(mut self) -> Result<(i32, String), String> {
        let deadline = Instant::now() + JOB_LIMIT;
        loop {
            if let Some(status) = self.status {
                return Ok((status, std::mem::take(&mut self.output)));
            }
            self.receive(deadline)?;
        }
    }

    /// Waits for the end and returns the output; a non-zero exit status is an error that shows script and output.
    pub fn succeed(mut self) -> Result<String, String> {
        let deadline = Instant::now() + JOB_LIMIT;
        while self.status.is_none() {
            self.receive(deadline)?;
        }
        if self.status == Some(0) {
            Ok(std::mem::take(&mut self.output))
        } else {
            Err(self.describe())
        }
    }

    /// Takes one message; returns its text if it is an event.
    fn receive(&mut self, deadline: Instant) -> Result<Option<String>, String> {
        match self
            .messages
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(message) => Ok(self.take(message)),
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "a job in the guest hangs.\n{}\n{}",
                self.describe(),
                self.guest.console_tail()
            )),
            Err(RecvTimeoutError::Disconnected) => Err(format!(
                "the guest died.\n{}\n{}",
                self.describe(),
                self.guest.console_tail()
            )),
        }
    }

    fn take(&mut self, message: Message) -> Option<String> {
        match message {
            Message::Event(text) => return Some(text),
            Message::Output(text) => {
                self.output.push_str(&text);
                self.output.push('\n');
            }
            Message::End(status) => self.status = Some(status),
        }
        None
    }

    fn describe(&self) -> String {
        let status = self.status.map_or("still running".to_owned(), |status| {
            format!("exit status {status}")
        });
        format!(
            "--- script in the guest ({status})\n{}\n--- its output\n{}---",
            self.script.trim(),
            self.output
        )
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if let Ok(mut routes) = self.guest.routes.lock() {
            routes.remove(&self.id);
        }
    }
}

/// The reader thread: hands each line of the agent to the job it belongs to. Ends with the connection, which drops
/// every sender and so wakes every waiting job.
fn deliver(mut reader: BufReader<UnixStream>, routes: &Routes, ready: Sender<()>) {
    let mut bytes = Vec::new();
    // Programs in the guest may print anything: a line ends with its newline and need not be UTF-8.
    while reader
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|count| count > 0)
    {
        let line = String::from_utf8_lossy(&bytes)
            .trim_end_matches('\n')
            .to_owned();
        bytes.clear();
        if line == "ready" {
            // The booting thread may have given up.
            let _ = ready.send(());
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let (kind, id, text) = (
            words.next(),
            words.next().and_then(|id| id.parse::<u64>().ok()),
            words.next(),
        );
        let text = text.unwrap_or_default();
        let message = match kind {
            Some("event") => Message::Event(text.to_owned()),
            Some("out") => Message::Output(text.to_owned()),
            Some("end") => Message::End(text.parse().unwrap_or(-1)),
            _ => continue,
        };
        if let (Some(id), Ok(routes)) = (id, routes.lock())
            && let Some(route) = routes.get(&id)
        {
            // A job that nobody waits for any more has no receiver.
            let _ = route.send(message);
        }
    }
    if let Ok(mut routes) = routes.lock() {
        routes.clear();
    }
}

/// The last lines of a log, for an error message.
pub fn tail(file: &Path, lines: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
