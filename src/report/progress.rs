//! Progress on standard error: a bar on a terminal, else a line every few seconds. And the figures for Prometheus.

use super::metrics::{self, Metrics};
use crate::pipeline::{Counted, Progress};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the bar is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// Not at all.
    None,
    /// A bar on the terminal.
    Bar,
    /// A message every few seconds.
    Lines,
}

/// Runs `job` while its progress towards `total` bytes is shown and noted. `total` is `None` where the end
/// is not known (compressed input).
pub fn shown<T>(
    display: Display,
    metrics: &Metrics,
    progress: &Progress,
    total: Option<u64>,
    job: impl FnOnce() -> T,
) -> T {
    let ended = AtomicBool::new(false);
    // The job may panic; the watchers must end all the same.
    struct End<'a>(&'a AtomicBool, Vec<std::thread::Thread>);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            self.1.iter().for_each(std::thread::Thread::unpark);
        }
    }
    let result = std::thread::scope(|scope| {
        let mut end = End(&ended, Vec::new());
        let ended = &ended;
        match display {
            Display::None => {}
            Display::Bar => end.1.push(scope.spawn(move || bar(ended, progress, total)).thread().clone()),
            Display::Lines => end.1.push(scope.spawn(move || lines(ended, progress, total)).thread().clone()),
        }
        if metrics.is_on() {
            end.1.push(scope.spawn(move || note(ended, metrics, progress, total)).thread().clone());
        }
        job()
    });
    metrics.note_end(progress, total);
    result
}

fn note(ended: &AtomicBool, metrics: &Metrics, progress: &Progress, total: Option<u64>) {
    while !ended.load(Ordering::Relaxed) {
        metrics.note(progress, total);
        std::thread::park_timeout(metrics::INTERVAL);
    }
}

fn bar(ended: &AtomicBool, progress: &Progress, total: Option<u64>) {
    let bar = match total {
        Some(total) => ProgressBar::new(total)
            .with_style(style("{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}{left}")),
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
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("left", |state: &ProgressState, to: &mut dyn std::fmt::Write| {
        let _ = to.write_str(&left(state.pos(), state.eta()));
    })
}

/// How long it takes; as long as nothing is done, nobody knows.
fn left(done: u64, time: Duration) -> String {
    if done == 0 { String::new() } else { format!("  {:#} left", HumanDuration(time)) }
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
            gpu_bytes = progress.gpu_bytes.load(Ordering::Relaxed),
            total_bytes = total,
            bytes_per_second = rate as u64,
            seconds_left = left.map(|s| s as u64),
            "{} done, {}/s, {}",
            HumanBytes(bytes),
            HumanBytes(rate as u64),
            counts(progress)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_told_before_anything_is_done() {
        assert_eq!(left(0, Duration::ZERO), "");
        assert_eq!(left(1, Duration::from_secs(14)), "  14s left");
    }
}
