//! What a run scans with: the cores, and GPUs beside them where there are any.

use super::cuda::{self, Device, DeviceJob, Done, Lost};
use super::{DeviceError, ScanJob, Scanner};
use crate::domain::row::Rows;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The scanners of a run.
pub struct Engine {
    cpu: Box<dyn Scanner>,
    /// Empty until the devices are open.
    gpus: Arc<OnceLock<Vec<Arc<Device>>>>,
    opening: Option<JoinHandle<()>>,
    /// Whether GPUs alone are to scan (but for what they leave out).
    gpus_only: bool,
    /// Bytes of chunks that GPUs scanned.
    gpu_bytes: AtomicU64,
}

impl Engine {
    /// The cores alone.
    pub fn of_cores(cpu: Box<dyn Scanner>) -> Engine {
        Engine { cpu, gpus: Arc::default(), opening: None, gpus_only: false, gpu_bytes: AtomicU64::new(0) }
    }

    /// These GPUs alone; `cpu` scans what they leave out.
    pub fn of_gpus(cpu: Box<dyn Scanner>, gpus: Vec<Arc<Device>>) -> Engine {
        let gpus = Arc::new(OnceLock::from(gpus));
        Engine { cpu, gpus, opening: None, gpus_only: true, gpu_bytes: AtomicU64::new(0) }
    }

    /// The cores at once, and the GPUs as soon as they are open: that takes some tenths of a second, in
    /// which the cores can do a lot.
    pub fn of_both(cpu: Box<dyn Scanner>) -> Engine {
        let gpus = Arc::<OnceLock<_>>::default();
        let open = {
            let gpus = Arc::clone(&gpus);
            move || {
                let found = cuda::probe();
                if found.devices.is_empty() {
                    tracing::debug!("no GPU is used: {}", found.why_not());
                }
                // Nobody else sets it.
                let _ = gpus.set(found.devices);
            }
        };
        // A machine that has no room for a thread has none for a GPU either.
        let opening = std::thread::Builder::new().name("open-gpus".into()).spawn(open).ok();
        Engine { cpu, gpus, opening, gpus_only: false, gpu_bytes: AtomicU64::new(0) }
    }

    /// Name of the CPU scanner, or of the GPUs if they scan alone.
    pub fn name(&self) -> &'static str {
        if self.gpus_only { "cuda" } else { self.cpu.name() }
    }

    /// Bytes of chunks that GPUs have scanned.
    pub fn gpu_bytes(&self) -> u64 {
        self.gpu_bytes.load(Ordering::Relaxed)
    }

    /// Begins a job.
    pub fn session<'a>(&'a self, job: ScanJob<'a>) -> Session<'a> {
        Session { engine: self, job, devices: OnceLock::new(), is_dense: AtomicBool::new(false) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        /// How long a driver may take that has not come up when all work is done.
        const PATIENCE: Duration = Duration::from_secs(2);
        /// How often to look.
        const PAUSE: Duration = Duration::from_millis(5);
        // The driver does not like a process that ends while it starts up; but one that hangs must not keep the
        // process.
        let start = Instant::now();
        while self.opening.as_ref().is_some_and(|opening| !opening.is_finished()) && start.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
        }
    }
}

/// A job on an [`Engine`].
pub struct Session<'a> {
    engine: &'a Engine,
    job: ScanJob<'a>,
    devices: OnceLock<Vec<(Arc<Device>, DeviceJob)>>,
    /// Whether a batch had more lines than its slot has room for. Where lines are that short, the CPU is faster.
    is_dense: AtomicBool,
}

/// What came back from GPUs.
#[derive(Default)]
pub struct Polled {
    /// Rows of chunks, each with its ticket.
    pub rows: Vec<(u64, Rows)>,
    /// Tickets of chunks that the cores are to scan.
    pub left: Vec<u64>,
    /// Devices that failed. They are not used any more, and their chunks have to be scanned again.
    pub lost: Vec<Lost>,
}

/// A batch of chunks on the way to a GPU.
pub struct Batch<'s> {
    filling: cuda::Filling,
    job: &'s DeviceJob,
}

impl Session<'_> {
    /// Scans a chunk on the core at hand.
    ///
    /// # Errors
    /// None: cores do not fail.
    pub fn scan(&self, chunk: &[u8], rows: &mut Rows) -> Result<(), DeviceError> {
        self.engine.cpu.scan(chunk, &self.job, rows)
    }

    /// Whether cores take chunks of their own.
    pub fn cores_scan(&self) -> bool {
        !self.engine.gpus_only || self.devices().is_empty() || self.is_dense.load(Ordering::Relaxed)
    }

    /// Chunks of `size` bytes that can be on their way to or from GPUs.
    pub fn batched_chunks(&self, size: usize) -> usize {
        self.devices().len() * cuda::SLOTS * (cuda::SLOT_BYTES / size.max(1)).min(MOST_CHUNKS)
    }

    /// A batch to fill, if a GPU has room for one.
    pub fn batch(&self) -> Option<Batch<'_>> {
        if self.is_dense.load(Ordering::Relaxed) {
            return None;
        }
        // Whoever has most room: so all devices get work.
        let (device, job) = self.devices().iter().max_by_key(|(device, _)| device.idle_slots())?;
        device.fill().map(|filling| Batch { filling, job })
    }

    /// Takes in what GPUs are done with.
    pub fn poll(&self) -> Polled {
        let mut polled = Polled::default();
        for (device, job) in self.devices() {
            match device.poll(job, &self.job, &*self.engine.cpu) {
                Ok(Done::Nothing) => {}
                Ok(Done::Rows(rows)) => polled.rows.extend(rows),
                Ok(Done::TooManyLines(tickets)) => {
                    self.is_dense.store(true, Ordering::Relaxed);
                    polled.left.extend(tickets);
                }
                Err(lost) => polled.lost.push(lost),
            }
        }
        polled
    }

    /// Notes that a chunk of so many bytes came back from a GPU.
    pub fn note_gpu_bytes(&self, bytes: usize) {
        self.engine.gpu_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether the failure of a GPU ends the run.
    pub fn needs_gpus(&self) -> bool {
        self.engine.gpus_only
    }

    /// Tells devices that are open by now about the job. To be called now and then, as that takes some time.
    ///
    /// # Errors
    /// If GPUs alone are to scan, and one fails.
    pub fn prepare(&self) -> Result<(), DeviceError> {
        let Some(gpus) = self.engine.gpus.get() else { return Ok(()) };
        if self.devices.get().is_some() {
            return Ok(());
        }
        let mut failed = None;
        self.devices.get_or_init(|| {
            let jobs =
                gpus.iter().map(|device| device.job(&self.job).map(|job| job.map(|job| (Arc::clone(device), job))));
            let jobs: Vec<_> = jobs.collect();
            if jobs.iter().any(|job| matches!(job, Ok(None))) {
                tracing::warn!("the schema has more than 32 fields, or paths of more than 31 steps: the CPU scans");
            }
            let mut ready = Vec::new();
            for job in jobs {
                match job {
                    Ok(job) => ready.extend(job),
                    Err(error) => failed = Some(error),
                }
            }
            ready
        });
        match failed {
            Some(error) if self.needs_gpus() => Err(error),
            Some(error) => {
                tracing::warn!("{error}; the run goes on without it");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn devices(&self) -> &[(Arc<Device>, DeviceJob)] {
        self.devices.get().map_or(&[], Vec::as_slice)
    }
}

/// Chunks of a batch at most: of tiny ones there would be more than there are of use.
const MOST_CHUNKS: usize = 256;

impl Batch<'_> {
    /// Copies a chunk in, if there is room.
    pub fn add(&mut self, ticket: u64, chunk: &[u8]) -> bool {
        self.filling.add(ticket, chunk)
    }

    /// Whether a chunk of `size` bytes should be tried. The first one always should: one that is too long for a
    /// batch is then known to be.
    pub fn has_room(&self, size: usize) -> bool {
        let chunks = self.filling.chunks();
        chunks == 0 || (chunks < MOST_CHUNKS && self.filling.room() > size)
    }

    /// Has the chunks scanned.
    ///
    /// # Errors
    /// If the device failed.
    pub fn launch(self) -> Result<(), Lost> {
        self.filling.launch(self.job)
    }
}
