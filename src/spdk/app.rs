//! SPDK's application framework in this process: started on a thread of its own, which becomes SPDK's first reactor.

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::json;

use super::directory::PrivateDirectory;
use super::rpc::Rpc;
use super::thread::Thread;
use super::{iscsi, leaving, log, memory};

/// The most that SPDK may take to end once it is told to.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How SPDK is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The CPUs, one reactor each, all different.
    pub cpus: Vec<usize>,
    /// Whether SPDK's memory is hugepages.
    pub hugepages: bool,
    /// How much memory, in MiB; SPDK's own choice when left out.
    pub memory_mib: Option<u32>,
    /// Whether SPDK looks for devices on the PCI bus: it takes hold of whatever is bound to a user-space driver.
    pub pci: bool,
    /// Whether SPDK's hugepages are in one file each, as processes that emulate a controller need them.
    pub shared_memory: bool,
    /// The path of SPDK's JSON-RPC socket, for `rpc.py` and `spdk_top`; one that nobody else finds when left out.
    pub rpc: Option<PathBuf>,
    /// When devices will be exported over iSCSI, for which SPDK takes memory as it starts: seconds after which a silent initiator is asked
    /// whether it is there.
    pub iscsi: Option<u64>,
}

impl Options {
    /// The memory that SPDK cannot do without, in MiB.
    fn memory_mib_min(&self) -> u64 {
        let iscsi = if self.iscsi.is_some() {
            iscsi::MEMORY_MIB
        } else {
            0
        };
        memory::MEMORY_MIB_MIN + iscsi
    }
}

/// SPDK, running.
pub(super) struct App {
    /// Until it is stopped.
    running: Mutex<Option<Running>>,
    pub app_thread: Thread,
    pub rpc: Rpc,
}

/// What is done away with when SPDK ends.
struct Running {
    /// The thread that SPDK's first reactor runs on.
    thread: JoinHandle<()>,
    /// What SPDK ends with.
    ends: Receiver<i32>,
    /// What was made for a socket that nobody else finds.
    _directory: Option<PrivateDirectory>,
}

impl App {
    /// Starts SPDK, once in the life of a process.
    ///
    /// # Errors
    /// What is missing, or SPDK's own last words.
    pub fn start(options: &Options) -> Result<App, String> {
        if options.hugepages {
            let wanted = options
                .memory_mib
                .map_or(options.memory_mib_min(), u64::from);
            memory::check_hugepages(wanted)?;
        }
        let (socket, directory) = match &options.rpc {
            Some(path) => (path.clone(), None),
            None => {
                let directory = PrivateDirectory::new()?;
                (directory.path().join("spdk.sock"), Some(directory))
            }
        };
        log::listen();
        let (started, starts) = bounded(1);
        let (ended, ends) = bounded(1);
        let thread = {
            let (options, socket) = (options.clone(), socket.clone());
            std::thread::Builder::new()
                .name("spdk".into())
                .spawn(move || {
                    let _ = ended.send(run(&options, &socket, started));
                })
                .map_err(|error| format!("no thread for SPDK: {error}"))?
        };
        // When SPDK cannot start it drops what it was to answer with.
        let Ok(app_thread) = starts.recv() else {
            let code = ends.recv().unwrap_or(-1);
            return Err(said(&format!("SPDK did not start (code {code})")));
        };
        log::forget();
        Ok(App {
            running: Mutex::new(Some(Running {
                thread,
                ends,
                _directory: directory,
            })),
            app_thread,
            rpc: Rpc::new(socket),
        })
    }

    /// Ends SPDK, which must have nothing of ours any more. For the second time, does nothing.
    ///
    /// # Errors
    /// SPDK does not end, and is left behind; or it ended with an error.
    pub fn stop(&self) -> Result<(), String> {
        let running = self
            .running
            .lock()
            .expect("no holder of this lock can panic")
            .take();
        let Some(running) = running else {
            return Ok(());
        };
        self.app_thread.send(|| {
            // SAFETY: on SPDK's own thread, while SPDK runs.
            unsafe { spdk_sys::spdk_app_stop(0) }
        });
        let code = running.ends.recv_timeout(END_WITHIN);
        let code = code.map_err(|_| "SPDK does not end")?;
        // It has said its last word.
        let _ = running.thread.join();
        match code {
            0 => Ok(()),
            code => Err(format!("SPDK ended with {code}")),
        }
    }
}

/// A sentence, and SPDK's own last words.
pub(super) fn said(what: &str) -> String {
    match log::last_lines() {
        lines if lines.is_empty() => format!("{what}; SPDK gave no reason"),
        lines => format!("{what}; SPDK said:\n  {}", lines.join("\n  ")),
    }
}

/// Runs SPDK until it is stopped. The code that it ends with.
fn run(options: &Options, socket: &Path, started: Sender<Thread>) -> i32 {
    let cpus: Vec<String> = options.cpus.iter().map(usize::to_string).collect();
    let text = |text: &str| CString::new(text).expect("no NUL in our own words");
    let name = text("polldm");
    let mask = text(&format!("[{}]", cpus.join(",")));
    let rpc =
        CString::new(socket.as_os_str().as_encoded_bytes()).expect("the plan refuses NUL in paths");
    let virtual_addresses = text("va");
    // SAFETY: integers, flags and pointers, for all of which zeroes are valid; spdk_app_opts_init fills in what is not.
    let mut opts: spdk_sys::spdk_app_opts = unsafe { std::mem::zeroed() };
    // SAFETY: the size is that of what the pointer points to.
    unsafe { spdk_sys::spdk_app_opts_init(&mut opts, size_of::<spdk_sys::spdk_app_opts>()) };
    opts.name = name.as_ptr();
    opts.reactor_mask = mask.as_ptr();
    opts.rpc_addr = rpc.as_ptr();
    opts.no_pci = !options.pci;
    // Signals are the command's affair: serve ends by them in its own order.
    opts.disable_signal_handlers = true;
    opts.log = Some(spdk_sys::polldm_log);
    // Sees to it that no page is left to a crashed process; what is shared DPDK cannot unlink.
    opts.unlink_hugepage = options.hugepages && !options.shared_memory;
    opts.hugepage_single_segments = options.hugepages && options.shared_memory;
    if let Some(mib) = options.memory_mib {
        opts.mem_size = i32::try_from(mib).unwrap_or(i32::MAX);
    }
    if !options.hugepages {
        opts.no_huge = true;
        opts.iova_mode = virtual_addresses.as_ptr();
        if options.memory_mib.is_none() {
            opts.mem_size = options.memory_mib_min() as i32;
        }
    }
    // Bytes that SPDK copies.
    let mut startup = startup(options).into_bytes();
    opts.json_data = startup.as_mut_ptr().cast();
    opts.json_data_size = startup.len();
    super::module::add();
    leaving::begins();
    let context = Box::into_raw(Box::new(started)).cast::<c_void>();
    // SAFETY: the options and what they point to live until this returns; `on_start` gets `context` at most once, and nobody has it after.
    let code = unsafe { spdk_sys::spdk_app_start(&mut opts, Some(on_start), context) };
    // SAFETY: made above; `on_start` has only looked at it.
    drop(unsafe { Box::from_raw(context.cast::<Sender<Thread>>()) });
    // SAFETY: spdk_app_start has returned.
    unsafe { spdk_sys::spdk_app_fini() };
    leaving::has_ended();
    if options.hugepages && options.shared_memory {
        memory::give_back_hugepages();
    }
    code
}

/// What SPDK is configured with before it starts.
fn startup(options: &Options) -> String {
    // Its modules for RAID, logical volumes and partitions would look at every bdev for what is theirs, a mapped device among them, whose contents are
    // a host's; what they find they claim.
    let examine = json!({ "method": "bdev_set_options", "params": { "bdev_auto_examine": false } });
    let mut subsystems = vec![json!({ "subsystem": "bdev", "config": [examine] })];
    subsystems.extend(iscsi::startup(options.iscsi));
    json!({ "subsystems": subsystems }).to_string()
}

unsafe extern "C" fn on_start(context: *mut c_void) {
    // SAFETY: `run` keeps the sender until spdk_app_start has returned.
    let started = unsafe { &*context.cast::<Sender<Thread>>() };
    let thread = Thread::app().expect("this is SPDK's own thread");
    // Room for one was made.
    let _ = started.send(thread);
}
