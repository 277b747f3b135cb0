//! One backing device: a bdev of SPDK's, made if need be, and open.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde_json::{Value, json};

use super::app::App;
use super::attach::{attach, attach_remote};
use super::memory::MEMORY_MIB_MIN;
use super::module::{PRODUCT, errno_name};
use super::queues::Queues;
use super::rpc::Refused;
use super::thread::Thread;
use crate::bdev::{self, Bdev, Direct, Error, Foreign, SpdkSpec, Spec};
use crate::dm::limits::Keep;
use crate::dm::{AtomicWrites, Lower, LowerId};

/// Microseconds after which a command ends its connection, as natively unless configured otherwise; SPDK has one time for all controllers, and none
/// unless told.
const IO_TIMEOUT_US: u64 = 30_000_000;

/// How long a controller that is being taken away is waited for by one that is to have its name.
const DETACHED_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What takes back an NVMe controller.
const DETACH: &str = "bdev_nvme_detach_controller";
/// JSON-RPC's code of a refusal for want of memory: SPDK's negative errno.
const NO_MEMORY: i64 = -(libc::ENOMEM as i64);

/// Something that a bdev below has done by itself.
pub(super) enum Event {
    /// It went away.
    Removed(LowerId),
    /// It has this many sectors now.
    Resized(LowerId, u64),
}

/// Makes and opens bdevs.
pub(super) struct Opener {
    app: Arc<App>,
    events: Sender<Event>,
    done: Mutex<Done>,
    /// Of the controllers whose namespaces are open, by address.
    queues: Mutex<BTreeMap<usize, Weak<Queues>>>,
}

/// What is done once.
#[derive(Default)]
struct Done {
    /// Whether NVMe bdevs flush; `None`: not asked yet.
    nvme_flushes: Option<bool>,
    /// Configurations in SPDK's form whose methods were called.
    configurations: BTreeSet<std::path::PathBuf>,
}

/// A bdev that is open. It is closed when neither the registry nor a channel holds it.
pub(super) struct Opened {
    descriptor: AtomicPtr<spdk_sys::spdk_bdev_desc>,
    block_shift: u32,
    /// Flushes are sent to it as NVMe's command: as I/O of SPDK's they would be answered and not sent.
    flushes_by_command: bool,
    /// Of its controller, if it is a namespace of NVMe.
    queues: Option<Arc<Queues>>,
    /// The registry's hold, and one for each channel.
    holds: AtomicU32,
    app: Arc<App>,
    /// What takes the bdev back, if we made it: method and parameters.
    undo: Option<Undo>,
    /// What SPDK's events are told with; freed when it is closed.
    watch: AtomicPtr<Watch>,
}

/// A method that takes a bdev back, and its parameters.
type Undo = (&'static str, Value);

/// The registry's hold.
struct Held(Arc<Opened>);

/// What an event of SPDK's finds.
struct Watch {
    id: LowerId,
    sectors_per_block: u64,
    events: Sender<Event>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let is_in_use = self.0.holds.load(Ordering::Acquire) > 1;
        self.0.release();
        if is_in_use {
            self.0.give_up_io();
        }
    }
}

impl Opened {
    /// What a device of the registry is made of on this engine.
    pub fn of(bdev: &Bdev) -> Option<Arc<Opened>> {
        let held = bdev.body_of_engine()?.downcast_ref::<Held>()?;
        Some(held.0.clone())
    }

    pub fn block_shift(&self) -> u32 {
        self.block_shift
    }

    pub fn flushes_by_command(&self) -> bool {
        self.flushes_by_command
    }

    pub fn queues(&self) -> Option<&Queues> {
        self.queues.as_deref()
    }

    /// The open descriptor, held for a channel until [`Opened::release`].
    pub fn hold(&self) -> Option<*mut spdk_sys::spdk_bdev_desc> {
        let more = |holds: u32| (holds > 0).then_some(holds + 1);
        self.holds
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(self.descriptor.load(Ordering::Acquire))
    }

    /// Lets go of it; the last to do so closes it. On a thread of SPDK's that is left to another thread.
    pub fn release(self: &Arc<Self>) {
        if self.holds.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let opened = self.clone();
        if Thread::current().is_none() {
            opened.close();
            return;
        }
        let thread = std::thread::Builder::new().name("spdk-close".into());
        // Without a thread it stays open until the process ends.
        let _ = thread.spawn(move || opened.close());
    }

    /// Ends what is in flight on an NVMe controller of ours, which a target that stands still would keep for ever, and with it the channels (PM-14). What is
    /// in flight on any other bdev ends as it will.
    fn give_up_io(self: &Arc<Self>) {
        let Some((DETACH, params)) = self.undo.clone() else {
            return;
        };
        let app = self.app.clone();
        let thread = std::thread::Builder::new().name("spdk-give-up".into());
        // Refused when it is not connected just now: then its I/O fails by itself, soon.
        let _ = thread.spawn(move || app.rpc.call("bdev_nvme_disable_controller", params));
    }

    /// Closes the bdev, and takes it back if we made it. Blocks.
    fn close(&self) {
        let descriptor = self.descriptor.swap(null_mut(), Ordering::AcqRel) as usize;
        let watch = self.watch.swap(null_mut(), Ordering::AcqRel) as usize;
        if descriptor == 0 {
            return;
        }
        let closed = self.app.app_thread.call(move || {
            // SAFETY: opened on this thread, closed once, with no channel left: all holds are gone. After that SPDK tells no event.
            unsafe {
                spdk_sys::spdk_bdev_close(descriptor as *mut spdk_sys::spdk_bdev_desc);
                drop(Box::from_raw(watch as *mut Watch));
            }
        });
        if let (Some(()), Some((method, params))) = (closed, &self.undo) {
            // A bdev that went away by itself is not there to be deleted.
            let _ = self.app.rpc.call(method, params.clone());
        }
    }
}

impl Opener {
    pub fn new(app: Arc<App>, events: Sender<Event>) -> Opener {
        Opener {
            app,
            events,
            done: Mutex::default(),
            queues: Mutex::default(),
        }
    }

    fn call(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.app.rpc.call(method, params).map_err(refusal)
    }

    /// Makes a bdev if need be: its name in SPDK, and what takes it back.
    fn make(&self, name: &str, spec: &Spec) -> Result<(String, Option<Undo>), Error> {
        let delete = |method| Some((method, json!({ "name": name })));
        match spec {
            Spec::Null { bytes, block_bytes } => {
                self.call("bdev_null_create", sized(name, *bytes, *block_bytes))?;
                Ok((name.into(), delete("bdev_null_delete")))
            }
            Spec::Malloc {
                atomic_writes: true,
                ..
            } => Err(engine(
                "`atomic_writes` is the native engine's; leave it out, SPDK's bdevs promise nothing of the kind",
            )),
            Spec::Malloc {
                bytes, block_bytes, ..
            } => {
                let params = sized(name, *bytes, *block_bytes);
                let made = self.app.rpc.call("bdev_malloc_create", params);
                made.map_err(|refused| match refused.code {
                    NO_MEMORY => engine(&format!(
                        "{refused}; `spdk: {{ memory: … }}` says how much SPDK has, of which it needs {} MiB for itself",
                        MEMORY_MIB_MIN
                    )),
                    _ => refusal(refused),
                })?;
                Ok((name.into(), delete("bdev_malloc_delete")))
            }
            Spec::File {
                path,
                bytes,
                block_bytes,
                direct,
                read_only,
            } => {
                if *direct == Direct::Off {
                    return Err(engine(
                        "`direct: off` is the native engine's: SPDK's aio always goes past the page cache",
                    ));
                }
                if let Some(bytes) = bytes {
                    grow(path, *bytes)?;
                }
                let params = json!({
                    "name": name,
                    "filename": path,
                    "block_size": block_bytes,
                    "readonly": read_only,
                });
                self.call("bdev_aio_create", params)?;
                Ok((name.into(), delete("bdev_aio_delete")))
            }
            Spec::Nvme { .. } => Err(engine(
                "`device` of `nvme` is the native engine's; give SPDK the controller, and its address as `pcie`",
            )),
            Spec::NvmeTcp(remote) => {
                self.nvme_flushes();
                self.await_detached(name);
                self.call("bdev_nvme_attach_controller", attach_remote(name, remote)?)?;
                let undo = delete(DETACH);
                Ok((format!("{name}n{}", remote.nsid), undo))
            }
            Spec::Spdk(SpdkSpec::Nvme { at, nsid }) => {
                self.nvme_flushes();
                self.await_detached(name);
                self.call("bdev_nvme_attach_controller", attach(name, at))?;
                let undo = delete(DETACH);
                Ok((format!("{name}n{nsid}"), undo))
            }
            Spec::Spdk(SpdkSpec::Json { config, bdev, .. }) => {
                if let Some(config) = config {
                    self.configure(config)?;
                }
                Ok((bdev.clone(), None))
            }
        }
    }

    /// Switches on that NVMe bdevs flush, which they drop unless told otherwise, and that a target which stands still is given up; whether they
    /// flush. Not every SPDK can.
    fn nvme_flushes(&self) -> bool {
        let mut done = self.done.lock().expect("no holder of this lock can panic");
        *done.nvme_flushes.get_or_insert_with(|| {
            let set = |params| self.app.rpc.call("bdev_nvme_set_options", params).is_ok();
            // An SPDK that refuses this waits for ever.
            set(json!({ "action_on_timeout": "reset", "timeout_us": IO_TIMEOUT_US }));
            spdk_sys::HAS_NVME_FLUSH && set(json!({ "enable_flush": true }))
        })
    }

    /// Whether another bdev of SPDK's, such as a RAID, has taken an NVMe bdev for its own.
    fn has_nvme_beneath_others(&self) -> bool {
        // Without an answer it may have.
        let Ok(bdevs) = self.call("bdev_get_bdevs", json!({})) else {
            return true;
        };
        let mut bdevs = bdevs.as_array().into_iter().flatten();
        bdevs.any(|bdev| bdev["claimed"] == true && !bdev["driver_specific"]["nvme"].is_null())
    }

    /// Calls the methods of a configuration in SPDK's form, once.
    fn configure(&self, path: &Path) -> Result<(), Error> {
        // First: SPDK takes no such options any more once it has a controller, which a configuration may attach.
        let nvme_flushes = self.nvme_flushes();
        let mut done = self.done.lock().expect("no holder of this lock can panic");
        if done.configurations.contains(path) {
            return Ok(());
        }
        let wrong = |what: String| engine(&format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let config: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        let form = "SPDK's form is { \"subsystems\": [ { \"subsystem\": …, \"config\": [ { \"method\": …, \"params\": … } ] } ] }";
        let subsystems = config["subsystems"]
            .as_array()
            .ok_or_else(|| wrong(format!("has no list `subsystems`; {form}")))?;
        let mut known = self.names()?;
        for subsystem in subsystems {
            // A subsystem without a configuration has null.
            for entry in subsystem["config"].as_array().into_iter().flatten() {
                let method = entry["method"]
                    .as_str()
                    .ok_or_else(|| wrong(format!("has an entry without `method`; {form}")))?;
                let mut params = match &entry["params"] {
                    Value::Null => json!({}),
                    params => params.clone(),
                };
                if nvme_flushes && method == "bdev_nvme_set_options" {
                    params["enable_flush"] = true.into();
                }
                self.app
                    .rpc
                    .call(method, params)
                    .map_err(|refused| wrong(refused.to_string()))?;
                self.examine(&mut known)?;
            }
        }
        done.configurations.insert(path.into());
        Ok(())
    }

    /// The names of all bdevs in SPDK but those of mapped devices.
    fn names(&self) -> Result<BTreeSet<String>, Error> {
        let bdevs = self.call("bdev_get_bdevs", json!({}))?;
        let bdevs = bdevs.as_array().into_iter().flatten();
        let mapped = PRODUCT.to_str().ok();
        let others = bdevs.filter(|bdev| bdev["product_name"].as_str() != mapped);
        let names = others.filter_map(|bdev| bdev["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Has SPDK's modules look at the bdevs that a configuration has made, and at what they make of these: logical volumes, RAID, partitions. What else
    /// there is they are not shown.
    fn examine(&self, known: &mut BTreeSet<String>) -> Result<(), Error> {
        loop {
            let names = self.names()?;
            let new: Vec<&String> = names.difference(known).collect();
            if new.is_empty() {
                return Ok(());
            }
            for name in new {
                // Refused when the configuration has asked for it itself.
                let _ = self.call("bdev_examine", json!({ "name": name }));
            }
            self.call("bdev_wait_for_examine", json!({}))?;
            *known = names;
        }
    }

    /// Waits until a controller of this name that is being taken away is gone: its last I/O may have to end before.
    fn await_detached(&self, name: &str) {
        let deadline = Instant::now() + DETACHED_WITHIN;
        // All of them: of one that is not there SPDK would complain in its log.
        let is_there = || {
            let controllers = self.call("bdev_nvme_get_controllers", json!({}));
            let controllers = controllers.unwrap_or_default();
            let mut all = controllers.as_array().into_iter().flatten();
            all.any(|controller| controller["name"] == name)
        };
        while is_there() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The I/O queues of a controller, which all its namespaces share.
    fn queues_of(&self, controller: Controller) -> Arc<Queues> {
        let mut all = self
            .queues
            .lock()
            .expect("no holder of this lock can panic");
        all.retain(|_, queues| queues.strong_count() > 0);
        let known = all.get(&controller.address).and_then(Weak::upgrade);
        // Another controller may have come to lie where one was whose last namespace is being closed.
        known
            .filter(|queues| queues.granted() == controller.queues)
            .unwrap_or_else(|| {
                let queues = Arc::new(Queues::new(controller.queues));
                all.insert(controller.address, Arc::downgrade(&queues));
                queues
            })
    }

    /// Opens a bdev that is there.
    fn open_made(
        &self,
        id: LowerId,
        name: &str,
        in_spdk: &str,
        spec: &Spec,
        undo: Option<Undo>,
    ) -> Result<bdev::Opened, Error> {
        let read_only = matches!(
            spec,
            Spec::File {
                read_only: true,
                ..
            }
        );
        let is_path = matches!(spec, Spec::NvmeTcp(_) | Spec::Spdk(SpdkSpec::Nvme { .. }));
        let text = CString::new(in_spdk).map_err(|_| engine("a name cannot contain NUL"))?;
        let events = self.events.clone();
        let opened = self.app.app_thread.call(move || {
            // SAFETY: called on SPDK's own thread.
            let facts = unsafe { open(&text, !read_only, id, events) }?;
            if is_path {
                // SAFETY: on SPDK's own thread; the descriptor was just opened, so its bdev is there.
                unsafe { forget_uuid(facts.descriptor as *mut spdk_sys::spdk_bdev_desc) };
            }
            Ok(facts)
        });
        let facts = match opened {
            None => return Err(engine("the engine is stopping")),
            Some(Err(libc::ENODEV)) => {
                return Err(engine(&format!(
                    "SPDK has no bdev '{in_spdk}'; SPDK's bdev_get_bdevs names those that it has"
                )));
            }
            Some(Err(errno)) => {
                return Err(engine(&format!(
                    "SPDK cannot open bdev '{in_spdk}': {}{}",
                    errno_name(errno),
                    match errno {
                        libc::EPERM => "; another module of SPDK's has claimed it",
                        _ => "",
                    }
                )));
            }
            Some(Ok(facts)) => facts,
        };
        let opened = Arc::new(Opened {
            descriptor: AtomicPtr::new(facts.descriptor as *mut _),
            block_shift: (facts.block_bytes / 512).trailing_zeros(),
            // Without a cache there is nothing to send.
            flushes_by_command: facts.module == "nvme" && facts.write_cache && !self.nvme_flushes(),
            queues: facts
                .controller
                .map(|controller| self.queues_of(controller)),
            holds: AtomicU32::new(1),
            app: self.app.clone(),
            undo,
            watch: AtomicPtr::new(facts.watch as *mut _),
        });
        // From here on it is closed whatever happens.
        let held = Held(opened);
        facts.check(in_spdk)?;
        let kind = match spec {
            Spec::Null { .. } => "null",
            Spec::Malloc { .. } => "malloc",
            Spec::File { .. } => "file",
            Spec::NvmeTcp(_) => "nvme-tcp",
            Spec::Nvme { .. } | Spec::Spdk(SpdkSpec::Nvme { .. }) => "nvme",
            Spec::Spdk(SpdkSpec::Json { .. }) => "spdk-json",
        };
        // NVMe bdevs that flush by command do not do so for a bdev above them.
        let flush = facts.flush
            && (facts.holds_the_data() || !self.has_nvme_beneath_others() || self.nvme_flushes());
        let word = match spec {
            Spec::Spdk(SpdkSpec::Json { volatile_cache, .. }) => *volatile_cache,
            _ => None,
        };
        match word {
            Some(true) if !flush => {
                return Err(engine(&format!(
                    "bdev '{in_spdk}' takes no flush, so nothing that is in the cache beneath it (`volatile_cache: true`) can be made durable"
                )));
            }
            Some(false) if flush => {
                return Err(engine(&format!(
                    "bdev '{in_spdk}' takes flushes, and is sent them: leave `volatile_cache: false` out"
                )));
            }
            _ => {}
        }
        let volatile_cache = match spec {
            Spec::Malloc { volatile_cache, .. } => *volatile_cache,
            // Nothing of ours is in its cache, and SPDK flushes nothing that is not open to be written.
            _ if read_only => false,
            // The operator's word, for a bdev that cannot be asked.
            _ if word == Some(false) => false,
            // Some, such as RAID and rbd, hand flushes on and say that they have no cache.
            // Without a flush whatever is beneath it may have one of which it does not say so, as logical volumes and `uring` do not.
            _ => facts.write_cache || flush || !facts.holds_the_data(),
        };
        let declared = Lower {
            id,
            name: name.into(),
            sectors: facts.blocks * u64::from(facts.block_bytes) / 512,
            block_bytes: facts.block_bytes,
            physical_bytes: facts.block_bytes,
            volatile_cache,
            flush,
            // SPDK's bdevs drop the bit, so the mapper makes good for it by a flush (FL-28).
            fua: false,
            discard: facts.unmap,
            discard_zeroes: facts.module == "malloc",
            write_zeroes: true,
            // The bdev layer splits what is too large.
            transfer_sectors_max: 0,
            optimal_write_bytes: facts.block_bytes.max(4096),
            atomic_writes: AtomicWrites::NONE,
            read_only,
            keep: Keep::default(),
        };
        Ok(bdev::Opened {
            kind,
            declared,
            body: Box::new(held),
        })
    }
}

impl Foreign for Opener {
    fn open(&self, id: LowerId, name: &str, spec: &Spec) -> Result<bdev::Opened, Error> {
        let (in_spdk, undo) = self.make(name, spec)?;
        let made = undo.clone();
        self.open_made(id, name, &in_spdk, spec, undo)
            .inspect_err(|_| {
                if let Some((method, params)) = made {
                    // Already undone if it was opened.
                    let _ = self.app.rpc.call(method, params);
                }
            })
    }
}

/// What is known of a bdev once it is open. Addresses as numbers, so that it can go from thread to thread.
struct Facts {
    descriptor: usize,
    watch: usize,
    module: String,
    blocks: u64,
    block_bytes: u32,
    metadata_bytes: u32,
    write_unit_blocks: u32,
    zoned: bool,
    write_cache: bool,
    flush: bool,
    unmap: bool,
    controller: Option<Controller>,
}

/// An NVMe controller: where it lies in memory, how many I/O queues it has granted, and whether it is reached over fabrics and says that it takes no SGLs.
#[derive(Clone, Copy)]
struct Controller {
    address: usize,
    queues: usize,
    lacks_sgls: bool,
}

impl Facts {
    /// Whether it is known to hold the data itself, so that it can be believed what it says of its cache.
    fn holds_the_data(&self) -> bool {
        matches!(&*self.module, "malloc" | "null" | "nvme" | "virtio_blk")
    }

    /// Refuses what the mapper cannot do justice to.
    fn check(&self, name: &str) -> Result<(), Error> {
        let refuse = |what: String| Err(engine(&format!("bdev '{name}' {what}")));
        if self.block_bytes != 512 && self.block_bytes != 4096 {
            return refuse(format!(
                "has blocks of {} bytes; 512 and 4096 can be mapped",
                self.block_bytes
            ));
        }
        if self.metadata_bytes != 0 {
            return refuse(format!(
                "has {} bytes of metadata (DIF) in each block, which tables cannot map; format it without",
                self.metadata_bytes
            ));
        }
        if self.controller.is_some_and(|of| of.lacks_sgls) {
            return refuse(
                "is of a controller that takes no SGLs (SGLS 0), which NVMe over Fabrics asks for; SPDK cannot send it what lies in several buffers".into(),
            );
        }
        if self.zoned {
            return refuse("is zoned; its writes would have to be in order".into());
        }
        if self.write_unit_blocks > 1 {
            return refuse(format!(
                "is written in units of {} blocks; a target can cut a write anywhere between blocks",
                self.write_unit_blocks
            ));
        }
        Ok(())
    }
}

/// # Safety
/// To be called on SPDK's own thread.
unsafe fn open(name: &CStr, write: bool, id: LowerId, events: Sender<Event>) -> Result<Facts, i32> {
    let watch = Box::into_raw(Box::new(Watch {
        id,
        sectors_per_block: 1,
        events,
    }));
    let mut descriptor = null_mut();
    // SAFETY: the watch lives until after the descriptor is closed.
    let result = unsafe {
        spdk_sys::spdk_bdev_open_ext(
            name.as_ptr(),
            write,
            Some(happened),
            watch.cast::<c_void>(),
            &mut descriptor,
        )
    };
    if result != 0 {
        // SAFETY: SPDK has not taken it.
        drop(unsafe { Box::from_raw(watch) });
        return Err(-result);
    }
    // SAFETY: a bdev is there as long as a descriptor of it is open; on this thread nothing happens to it meanwhile.
    unsafe {
        let bdev = spdk_sys::spdk_bdev_desc_get_bdev(descriptor);
        let block_bytes = spdk_sys::spdk_bdev_get_block_size(bdev);
        (*watch).sectors_per_block = u64::from(block_bytes / 512);
        let module = CStr::from_ptr(spdk_sys::spdk_bdev_get_module_name(bdev));
        let supports = |kind| spdk_sys::spdk_bdev_io_type_supported(bdev, kind);
        Ok(Facts {
            descriptor: descriptor as usize,
            watch: watch as usize,
            module: module.to_string_lossy().into_owned(),
            blocks: spdk_sys::spdk_bdev_get_num_blocks(bdev),
            block_bytes,
            metadata_bytes: spdk_sys::spdk_bdev_get_md_size(bdev),
            write_unit_blocks: spdk_sys::spdk_bdev_get_write_unit_size(bdev),
            zoned: spdk_sys::spdk_bdev_is_zoned(bdev),
            write_cache: spdk_sys::spdk_bdev_has_write_cache(bdev),
            flush: supports(spdk_sys::SPDK_BDEV_IO_TYPE_FLUSH),
            unmap: supports(spdk_sys::SPDK_BDEV_IO_TYPE_UNMAP),
            controller: match module.to_bytes() {
                b"nvme" => controller(descriptor),
                _ => None,
            },
        })
    }
}

/// The controller of a namespace; `None` if it is gone already.
///
/// # Safety
/// To be called on SPDK's own thread, with an open descriptor of a bdev of SPDK's module `nvme`.
unsafe fn controller(descriptor: *mut spdk_sys::spdk_bdev_desc) -> Option<Controller> {
    // SAFETY: the caller's promise: that module's context is the namespace, which belongs to a controller and stays while nothing else
    // happens on this thread.
    unsafe {
        let namespace = spdk_sys::spdk_bdev_get_module_ctx(descriptor);
        if namespace.is_null() {
            return None;
        }
        let controller = spdk_sys::spdk_nvme_ns_get_ctrlr(namespace.cast());
        let options = spdk_sys::spdk_nvme_ctrlr_get_opts(controller);
        Some(Controller {
            address: controller.addr(),
            queues: (*options).num_io_queues as usize,
            // What SPDK says of one that has not said how many it takes.
            lacks_sgls: spdk_sys::spdk_nvme_ctrlr_is_fabrics(controller)
                && spdk_sys::spdk_nvme_ctrlr_get_max_sges(controller) == u16::MAX,
        })
    }
}

/// Takes from a bdev its second name in SPDK, the UUID of the namespace: the same namespace by another path has it too, and SPDK makes no bdev that would share
/// a name with one that is there.
///
/// # Safety
/// To be called on SPDK's own thread, with an open descriptor.
unsafe fn forget_uuid(descriptor: *mut spdk_sys::spdk_bdev_desc) {
    // SAFETY: the caller's promise.
    unsafe { spdk_sys::spdk_bdev_alias_del_all(spdk_sys::spdk_bdev_desc_get_bdev(descriptor)) };
}

unsafe extern "C" fn happened(
    kind: spdk_sys::spdk_bdev_event_type,
    bdev: *mut spdk_sys::spdk_bdev,
    context: *mut c_void,
) {
    // SAFETY: kept until after the descriptor is closed.
    let watch = unsafe { &*context.cast::<Watch>() };
    let event = match kind {
        spdk_sys::SPDK_BDEV_EVENT_REMOVE => Event::Removed(watch.id),
        spdk_sys::SPDK_BDEV_EVENT_RESIZE => {
            // SAFETY: SPDK tells of a bdev that is there.
            let blocks = unsafe { spdk_sys::spdk_bdev_get_num_blocks(bdev) };
            Event::Resized(watch.id, blocks * watch.sectors_per_block)
        }
        _ => return,
    };
    // Nobody listens any more when the engine stops.
    let _ = watch.events.send(event);
}

/// The parameters of a bdev that has a size of its own.
fn sized(name: &str, bytes: u64, block_bytes: u32) -> Value {
    json!({ "name": name, "num_blocks": bytes / u64::from(block_bytes), "block_size": block_bytes })
}

/// Creates a file, or lets it grow, as the native engine does.
fn grow(path: &Path, bytes: u64) -> Result<(), Error> {
    let failed = |what| {
        move |error| Error::File {
            path: path.into(),
            what,
            error,
        }
    };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("open"))?;
    let metadata = file.metadata().map_err(failed("inspect"))?;
    match metadata.len() {
        _ if !metadata.is_file() => Ok(()),
        has_bytes if has_bytes > bytes => Err(Error::FileSize {
            path: path.into(),
            has_bytes,
            wanted_bytes: bytes,
            advice: "leave `size` out to take the file as it is; it is never cut",
        }),
        has_bytes if has_bytes == bytes => Ok(()),
        _ => file.set_len(bytes).map_err(failed("grow")),
    }
}

fn engine(reason: &str) -> Error {
    Error::Engine {
        reason: reason.into(),
    }
}

fn refusal(refused: Refused) -> Error {
    engine(&refused.to_string())
}
