//! One GPU at work: its slots, free and busy.

use super::Unusable;
use super::kernels::Kernels;
use super::layout::job_bytes;
use super::slot::Slot;
use crate::domain::row::Rows;
use crate::scan::{DeviceError, ScanJob, Scanner};
use cudarc::driver::{CudaContext, CudaSlice, DriverError, sys};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a slot. Large enough that the launches of its kernels take little beside them and that its
/// lines keep all multiprocessors busy; small enough that the first results come soon.
pub const SLOT_BYTES: usize = 16 << 20;
/// Slots of a device: one is filled, one on its way there, one is scanned, one on its way back.
pub const SLOTS: usize = 4;
/// Lines of more bytes are scanned by the host: a line is one warp's work, and the others would wait.
pub const LONGEST_LINE: u32 = 256 << 10;

/// The oldest GPUs that can run the kernels.
const COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// A GPU.
pub struct Device {
    /// Its number among the devices that the driver offers.
    pub ordinal: usize,
    /// As its maker calls it.
    pub name: String,
    /// Its memory in bytes.
    pub memory: usize,
    context: Arc<CudaContext>,
    kernels: Kernels,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    idle: Vec<Slot>,
    /// In the order in which they were launched.
    busy: Vec<Slot>,
    /// What the driver said when the device failed; it is not used any more.
    lost: Option<String>,
}

/// What the kernels have to know of a job, in the device's memory.
///
/// When it is dropped, the device finishes what it has begun, as the kernels read it to the end.
pub struct DeviceJob {
    device: Arc<Device>,
    bytes: ManuallyDrop<CudaSlice<u8>>,
    sources: usize,
}

/// A slot that is being filled.
pub struct Filling {
    device: Arc<Device>,
    slot: Box<Slot>,
}

/// What a poll found.
pub enum Done {
    /// Nothing is done.
    Nothing,
    /// The rows of chunks, each with its ticket.
    Rows(Vec<(u64, Rows)>),
    /// These chunks have more lines than there is room for: whoever asked scans them.
    TooManyLines(Vec<u64>),
}

/// A device failed; these chunks were not scanned.
#[derive(Debug)]
pub struct Lost {
    /// Which device, and what the driver said.
    pub error: DeviceError,
    /// Tickets of the chunks.
    pub tickets: Vec<u64>,
    /// Whether this is the first that is heard of it.
    pub is_news: bool,
}

impl Device {
    /// Opens a device and has it scan something known: one that gets that wrong is not used.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(ordinal: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Device>, Unusable> {
        let context = CudaContext::new(ordinal)?;
        let capability = context.compute_capability()?;
        let name = context.name()?;
        if capability < COMPUTE_CAPABILITY {
            return Err(Unusable::TooOld { name, capability });
        }
        // SAFETY: a slot orders all use of its memory itself, on a stream of its own.
        unsafe { context.disable_event_tracking() };
        let multiprocessors =
            context.attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.unsigned_abs();
        let kernels = Kernels::load(&context, multiprocessors)?;
        let idle = (0..slots).map(|_| Slot::new(&context, slot_bytes)).collect::<Result<_, _>>()?;
        let memory = context.total_mem()?;
        let slots = Mutex::new(Slots { idle, ..Slots::default() });
        Ok(Arc::new(Device { ordinal, name, memory, context, kernels, slots }))
    }

    /// Tells the device about a job; `None` if its schema is too large for the kernels.
    ///
    /// # Errors
    /// If the device fails.
    pub fn job(self: &Arc<Self>, job: &ScanJob) -> Result<Option<DeviceJob>, DeviceError> {
        let Some(bytes) = job_bytes(job, LONGEST_LINE) else { return Ok(None) };
        let stream = self.context.default_stream();
        let copied = stream.clone_htod(&bytes).and_then(|bytes| stream.synchronize().map(|()| bytes));
        let bytes = copied.map_err(|e| self.lose(&e).error)?;
        let sources = job.schema.tree().sources();
        Ok(Some(DeviceJob { device: Arc::clone(self), bytes: ManuallyDrop::new(bytes), sources }))
    }

    /// A slot to fill, if one is free.
    pub fn fill(self: &Arc<Self>) -> Option<Filling> {
        let slot = self.lock().idle.pop()?;
        Some(Filling { device: Arc::clone(self), slot: Box::new(slot) })
    }

    /// Whether anything is under way.
    pub fn is_busy(&self) -> bool {
        !self.lock().busy.is_empty()
    }

    /// Whether the device has failed.
    pub fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    /// Slots that are free.
    pub fn idle_slots(&self) -> usize {
        self.lock().idle.len()
    }

    /// Takes in a batch that is done by now. `cpu` scans long lines, which the device leaves out.
    ///
    /// # Errors
    /// If the device failed.
    pub fn poll(&self, device_job: &DeviceJob, job: &ScanJob, cpu: &dyn Scanner) -> Result<Done, Lost> {
        // Any worker may ask, and the driver wants to be told which device each thread means.
        self.context.bind_to_thread().map_err(|e| self.lose(&e))?;
        let done = {
            let mut slots = self.lock();
            let mut done = None;
            for index in 0..slots.busy.len() {
                match slots.busy[index].advance(device_job.sources) {
                    Ok(false) => {}
                    Ok(true) => {
                        done = Some(slots.busy.remove(index));
                        break;
                    }
                    Err(e) => {
                        drop(slots);
                        return Err(self.lose(&e));
                    }
                }
            }
            done
        };
        let Some(slot) = done else { return Ok(Done::Nothing) };
        match slot.take(cpu, job) {
            Ok(taken) => {
                let done = taken.map_or_else(|| Done::TooManyLines(slot.tickets().collect()), Done::Rows);
                self.give_back(slot);
                Ok(done)
            }
            Err(impossible) => {
                self.lock().busy.push(slot);
                Err(self.lose_for(impossible.to_string()))
            }
        }
    }

    /// Has a slot ready for the next batch.
    fn give_back(&self, mut slot: Slot) {
        slot.clear();
        let mut slots = self.lock();
        if slots.lost.is_none() {
            slots.idle.push(slot);
        } else {
            std::mem::forget(slot); // see `lose_for`
        }
    }

    /// Waits until nothing is under way, and forgets what was. A device that takes too long is given up.
    fn settle(&self) {
        /// A batch takes milliseconds.
        const PATIENCE: Duration = Duration::from_secs(3);
        /// How often to look.
        const PAUSE: Duration = Duration::from_micros(200);
        let busy = std::mem::take(&mut self.lock().busy);
        let start = Instant::now();
        for slot in busy {
            let outcome = loop {
                match slot.is_done() {
                    Ok(false) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                    Ok(false) => break Err("it did not answer in time".into()),
                    Ok(true) => break Ok(()),
                    Err(e) => break Err(super::said(&e)),
                }
            };
            match outcome {
                Ok(()) => self.give_back(slot),
                Err(cause) => {
                    std::mem::forget(slot);
                    self.lose_for(cause);
                }
            }
        }
    }

    /// Its context.
    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Its kernels.
    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the device up, with all that was under way.
    fn lose(&self, cause: &DriverError) -> Lost {
        self.lose_for(super::said(cause))
    }

    fn lose_for(&self, cause: String) -> Lost {
        let mut slots = self.lock();
        let Slots { idle, busy, lost } = std::mem::take(&mut *slots);
        let is_news = lost.is_none();
        let cause = lost.unwrap_or(cause);
        slots.lost = Some(cause.clone());
        let tickets = busy.iter().flat_map(|slot| slot.tickets()).collect();
        // A copy into a slot's memory may still be under way, and freeing it would wait for a device that
        // does not answer.
        idle.into_iter().chain(busy).for_each(std::mem::forget);
        Lost { error: DeviceError { device: self.to_string(), cause }, tickets, is_news }
    }
}

impl Drop for DeviceJob {
    fn drop(&mut self) {
        // The thread that drops it need not be one that has worked with the device.
        let is_bound = self.device.context.bind_to_thread().is_ok();
        self.device.settle();
        if is_bound && !self.device.is_lost() {
            // SAFETY: dropped here and nowhere else, and not used again. A lost device keeps it: its kernels may
            // still read it, and freeing would wait for them.
            unsafe { ManuallyDrop::drop(&mut self.bytes) };
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GPU {} ({})", self.ordinal, self.name)
    }
}

impl Filling {
    /// Copies a chunk in, if there is room.
    pub fn add(&mut self, ticket: u64, chunk: &[u8]) -> bool {
        self.slot.add(ticket, chunk)
    }

    /// Chunks in it.
    pub fn chunks(&self) -> usize {
        self.slot.tickets().count()
    }

    /// Bytes that it still has room for.
    pub fn room(&self) -> usize {
        self.slot.room()
    }

    /// Has the chunks scanned; an empty slot is given back.
    ///
    /// # Errors
    /// If the device failed.
    pub fn launch(mut self, job: &DeviceJob) -> Result<(), Lost> {
        let device = &self.device;
        if self.slot.is_empty() {
            device.lock().idle.push(*self.slot);
            return Ok(());
        }
        let launched = match device.is_lost() {
            true => Err(DriverError(sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE)),
            false => self.slot.launch(&device.kernels, &job.bytes, job.sources),
        };
        let mut slots = device.lock();
        slots.busy.push(*self.slot);
        drop(slots);
        launched.map_err(|e| device.lose(&e))
    }
}
