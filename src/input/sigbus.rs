//! Surviving a shard that shrinks while it is mapped.
//!
//! Reading a mapped page behind the end of a file raises SIGBUS, which would end the process without
//! a word. The handler puts a page of zeros in its place and notes which mapping it happened to; the
//! reader then finds the note and reports the shard. What was read meanwhile is thrown away.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Mappings that can be watched at a time. Only shards with chunks in flight are mapped.
const SLOTS: usize = 1024;

struct Slot {
    /// First byte of the mapping, 0 for a free slot.
    start: AtomicUsize,
    /// Behind its last byte.
    end: AtomicUsize,
    hit: AtomicBool,
}

static SLOTS_IN_USE: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), hit: AtomicBool::new(false) } }; SLOTS];

/// Watches a range of addresses for as long as it lives.
pub struct Watch {
    slot: &'static Slot,
}

impl Watch {
    /// Watches `len` bytes from `start`; `None` if all slots are taken.
    pub fn new(start: usize, len: usize) -> Option<Watch> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        // The end is set once the slot is ours; until then the range is empty.
        let free = |slot: &&Slot| slot.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let slot = SLOTS_IN_USE.iter().find(free)?;
        slot.hit.store(false, Ordering::SeqCst);
        slot.end.store(start + len, Ordering::SeqCst);
        Some(Watch { slot })
    }

    /// Whether a page of the range was gone when it was read.
    pub fn was_hit(&self) -> bool {
        self.slot.hit.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.end.store(0, Ordering::SeqCst);
        self.slot.start.store(0, Ordering::SeqCst);
    }
}

fn install() {
    // SAFETY: the struct is plain data, for which zeros are valid; the handler is a function of the
    // kind that SA_SIGINFO asks for and does only what a signal handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let within = |slot: &&Slot| (slot.start.load(Ordering::SeqCst)..slot.end.load(Ordering::SeqCst)).contains(&address);
    if let Some(slot) = SLOTS_IN_USE.iter().find(within) {
        slot.hit.store(true, Ordering::SeqCst);
        // SAFETY: asks for a number, async-signal-safe.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: replaces a page of a mapping of ours, whose contents are gone, by zeros; `mmap` is
        // a plain system call here.
        let zeros = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            libc::mmap((address & !(page - 1)) as *mut _, page, libc::PROT_READ, flags, -1, 0)
        };
        if zeros != libc::MAP_FAILED {
            return;
        }
    }
    // Not ours: let it happen as it would have.
    // SAFETY: restores the default action, which the repeated access then meets.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
