//! Progress on standard error: a bar on a terminal, else a line every few seconds.

use crate::pipeline::{Counted, Progress};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the bar is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Runs `job` while its progress towards `total` bytes is shown. `total` is `None` where the end
/// is not known (compressed input).
pub fn shown<T>(quiet: bool, progress: &Progress, total: Option<u64>, job: impl FnOnce() -> T) -> T {
    if quiet {
        return job();
    }
    let ended = AtomicBool::new(false);
    // The job may panic; the watcher must end all the same.
    struct End<'a>(&'a AtomicBool, std::thread::Thread);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            self.1.unpark();
        }
    }
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            if std::io::stderr().is_terminal() { bar(&ended, progress, total) } else { lines(&ended, progress, total) }
        });
        let _end = End(&ended, watcher.thread().clone());
        job()
    })
}

fn bar(ended: &AtomicBool, progress: &Progress, total: Option<u64>) {
    let bar = match total {
        Some(total) => ProgressBar::new(total)
            .with_style(style("{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}  {eta} left")),
        None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes}  {bytes_per_sec}  {msg}")),
    };
    while !ended.load(Ordering::Relaxed) {
        std::thread::park_timeout(FRAME);
        bar.set_position(progress.bytes.load(Ordering::Relaxed));
        bar.set_message(counts(progress));
    }
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn counts(progress: &Progress) -> String {
    let documents = super::summary::thousands(progress.documents.load(Ordering::Relaxed));
    if progress.counted == Counted::Files {
        return format!("{documents} file{}", if documents == "1" { "" } else { "s" });
    }
    match progress.rejected.load(Ordering::Relaxed) {
        0 => format!("{documents} documents"),
        rejected => format!("{documents} documents, {} rejected", super::summary::thousands(rejected)),
    }
}

fn lines(ended: &AtomicBool, progress: &Progress, total: Option<u64>) {
    let start = Instant::now();
    let mut next = LINE;
    while !ended.load(Ordering::Relaxed) {
        std::thread::park_timeout(next.saturating_sub(start.elapsed()));
        if start.elapsed() < next || ended.load(Ordering::Relaxed) {
            continue;
        }
        next += LINE;
        let bytes = progress.bytes.load(Ordering::Relaxed);
        let documents = progress.documents.load(Ordering::Relaxed);
        let rejected = progress.rejected.load(Ordering::Relaxed);
        let rate = bytes as f64 / start.elapsed().as_secs_f64();
        let left = total.filter(|_| bytes > 0).map(|total| total.saturating_sub(bytes) as f64 / rate);
        tracing::info!(
            bytes,
            documents,
            rejected,
            bytes_per_second = rate as u64,
            seconds_left = left.map(|s| s as u64),
            "{} done, {}/s, {}",
            HumanBytes(bytes),
            HumanBytes(rate as u64),
            counts(progress)
        );
    }
}
