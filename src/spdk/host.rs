//! A user of one bdev on one reactor: what a load generator needs, with memory of its own for each command.

use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::ptr::{NonNull, null_mut};

use spdk_sys::{spdk_bdev_desc, spdk_bdev_io, spdk_io_channel, spdk_poller};

use super::module::errno_name;
use super::thread::Thread;

/// Alignment of a command's memory: a page, which is what any device's DMA asks for.
const BUFFER_ALIGNMENT: usize = 4096;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reads blocks into the command's memory.
    Read,
    /// Writes them from there.
    Write,
    /// Flushes all of the device.
    Flush,
}

/// A bdev that is open on this thread of SPDK's, and commands to it.
pub struct Host {
    descriptor: *mut spdk_bdev_desc,
    channel: *mut spdk_io_channel,
    block_bytes: u32,
    blocks: u64,
    /// One for each command.
    commands: Box<[Command]>,
    bytes: usize,
    /// (Command, whether it went well), in the order in which they ended.
    ended: Box<RefCell<Vec<(u16, bool)>>>,
    in_flight: usize,
}

struct Command {
    number: u16,
    memory: NonNull<u8>,
    ended: *const RefCell<Vec<(u16, bool)>>,
}

impl Host {
    /// Opens a bdev by its name in SPDK, for `depth` commands of up to `bytes` each. On a thread of SPDK's, to which it then belongs.
    ///
    /// # Errors
    /// No such bdev, or no memory.
    pub fn open(name: &str, depth: u16, bytes: usize) -> Result<Host, String> {
        let text = CString::new(name).map_err(|_| "a name cannot contain NUL".to_owned())?;
        let mut descriptor = null_mut();
        // SAFETY: on a thread of SPDK's, as the caller sees to; the callback takes nothing.
        let result = unsafe {
            spdk_sys::spdk_bdev_open_ext(
                text.as_ptr(),
                true,
                Some(happened),
                null_mut(),
                &mut descriptor,
            )
        };
        if result != 0 {
            return Err(format!(
                "bdev '{name}' cannot be opened: {}",
                errno_name(-result)
            ));
        }
        let ended = Box::new(RefCell::new(Vec::with_capacity(usize::from(depth))));
        // SAFETY: the descriptor is open, and so its bdev is there.
        let (channel, block_bytes, blocks) = unsafe {
            let bdev = spdk_sys::spdk_bdev_desc_get_bdev(descriptor);
            (
                spdk_sys::spdk_bdev_get_io_channel(descriptor),
                spdk_sys::spdk_bdev_get_block_size(bdev),
                spdk_sys::spdk_bdev_get_num_blocks(bdev),
            )
        };
        let mut host = Host {
            descriptor,
            channel,
            block_bytes,
            blocks,
            commands: Box::default(),
            bytes,
            ended,
            in_flight: 0,
        };
        if channel.is_null() {
            return Err(format!("SPDK has no memory for a channel to bdev '{name}'"));
        }
        let address: *const _ = &*host.ended;
        let command = |number| {
            // SAFETY: takes numbers; null when there is no memory.
            let memory = unsafe { spdk_sys::spdk_dma_zmalloc(bytes, BUFFER_ALIGNMENT, null_mut()) };
            Some(Command {
                number,
                memory: NonNull::new(memory.cast())?,
                ended: address,
            })
        };
        let commands: Vec<Command> = (0..depth).map_while(command).collect();
        host.commands = commands.into();
        if host.commands.len() < usize::from(depth) {
            return Err(format!(
                "SPDK has no memory for {depth} commands of {bytes} bytes"
            ));
        }
        Ok(host)
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The memory of a command that is not under way.
    pub fn memory(&mut self, command: u16) -> &mut [u8] {
        let memory = self.commands[usize::from(command)].memory;
        // SAFETY: ours, initialised with zeroes, and of that length; whoever has the command knows that it is not under way, or does no more
        // than what a host may do to memory that a disk is writing to.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), self.bytes) }
    }

    /// Submits a command; false when SPDK has no room for it now. How it ended is told by [`Host::ended`].
    ///
    /// # Errors
    /// SPDK refuses it.
    #[inline]
    pub fn submit(
        &mut self,
        command: u16,
        act: Act,
        block: u64,
        count: u32,
    ) -> Result<bool, String> {
        let command = &self.commands[usize::from(command)];
        let bytes = u64::from(count) * u64::from(self.block_bytes);
        assert!(bytes <= self.bytes as u64, "a command has so much memory");
        let memory: *mut c_void = command.memory.as_ptr().cast();
        let context: *mut c_void = std::ptr::from_ref(command).cast_mut().cast();
        let (descriptor, channel, count) = (self.descriptor, self.channel, u64::from(count));
        // SAFETY: open, on this thread; the memory holds the blocks, and it and the command stay until the command has ended, which a drop
        // asserts.
        let result = unsafe {
            match act {
                Act::Read => spdk_sys::spdk_bdev_read_blocks(
                    descriptor,
                    channel,
                    memory,
                    block,
                    count,
                    Some(ended),
                    context,
                ),
                Act::Write => spdk_sys::spdk_bdev_write_blocks(
                    descriptor,
                    channel,
                    memory,
                    block,
                    count,
                    Some(ended),
                    context,
                ),
                Act::Flush => spdk_sys::spdk_bdev_flush_blocks(
                    descriptor,
                    channel,
                    0,
                    self.blocks,
                    Some(ended),
                    context,
                ),
            }
        };
        match -result {
            0 => {
                self.in_flight += 1;
                Ok(true)
            }
            libc::ENOMEM => Ok(false),
            errno => Err(format!("SPDK refuses an I/O: {}", errno_name(errno))),
        }
    }

    /// Tells of what has ended since the last call, as much as there is room for in `told`: commands, and whether they went well.
    #[inline]
    pub fn ended(&mut self, told: &mut impl FnMut(u16, bool)) {
        let mut ended = self.ended.borrow_mut();
        self.in_flight -= ended.len();
        for (command, well) in ended.drain(..) {
            told(command, well);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        assert_eq!(self.in_flight, 0, "a host leaves when its I/O has ended");
        // SAFETY: of this thread, with nothing in flight; everything is given back once.
        unsafe {
            if !self.channel.is_null() {
                spdk_sys::spdk_put_io_channel(self.channel);
            }
            spdk_sys::spdk_bdev_close(self.descriptor);
            for command in &self.commands {
                spdk_sys::spdk_dma_free(command.memory.as_ptr().cast());
            }
        }
    }
}

unsafe extern "C" fn ended(io: *mut spdk_bdev_io, success: bool, context: *mut c_void) {
    // SAFETY: the command's host is there until all have ended; the I/O is freed once.
    unsafe {
        let command = &*context.cast::<Command>();
        (*command.ended)
            .borrow_mut()
            .push((command.number, success));
        spdk_sys::spdk_bdev_free_io(io);
    }
}

unsafe extern "C" fn happened(
    _: spdk_sys::spdk_bdev_event_type,
    _: *mut spdk_sys::spdk_bdev,
    _: *mut c_void,
) {
    // A load ends by itself; what is removed meanwhile waits for it.
}

/// Work that a reactor turns: false when it is over.
pub(super) type Turns = Box<dyn FnMut() -> bool>;

struct Turned {
    turns: Turns,
    poller: *mut spdk_poller,
}

/// Turns `turns` on the current thread of SPDK's in each of its reactor's rounds, until it is over; the thread then ends.
pub(super) fn turn(turns: Turns) {
    let turned = Box::leak(Box::new(Turned {
        turns,
        poller: null_mut(),
    }));
    let context: *mut c_void = (&raw mut *turned).cast();
    // SAFETY: `poll` gets what it expects, until it frees that; on a thread of SPDK's, as the caller sees to.
    let poller = unsafe {
        spdk_sys::spdk_poller_register_named(Some(poll), context, 0, c"polldm_load".as_ptr())
    };
    assert!(!poller.is_null(), "SPDK has memory for a poller");
    turned.poller = poller;
}

unsafe extern "C" fn poll(context: *mut c_void) -> c_int {
    // SAFETY: leaked by `turn`; a poller is not called within itself.
    let turned = unsafe { &mut *context.cast::<Turned>() };
    if (turned.turns)() {
        return 1;
    }
    // SAFETY: registered on this thread; unregistered, it is not called again, so the box is nobody else's.
    let turned = unsafe {
        spdk_sys::spdk_poller_unregister(&mut turned.poller);
        Box::from_raw(context.cast::<Turned>())
    };
    drop(turned);
    Thread::exit_current();
    1
}
