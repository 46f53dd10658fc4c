//! Figures of a run for Prometheus: in a text file, for the collector of a node, or on a small endpoint.
//!
//! The format is Prometheus's text format, version 0.0.4, which every collector reads. Counters only grow while the
//! process lives, whatever commands follow each other in it.

use crate::domain::ledger::Ledger;
use crate::domain::reason::Reason;
use crate::error::{Context, Error, Result};
use crate::pipeline::{Counted, Progress};
use std::fmt::{Display, Write as _};
use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the figures are taken.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest question, in bytes.
const LONGEST_HEAD: usize = 8 << 10;

/// Where figures go; nowhere by default.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    command: String,
    started: f64,
    file: Option<PathBuf>,
    /// Whether it was said that the file cannot be written.
    has_warned: AtomicBool,
    page: Mutex<Page>,
}

/// What there is to tell.
#[derive(Debug, Default)]
struct Page {
    /// Of the work that is done with.
    before: Figures,
    /// Of the work at hand.
    now: Figures,
    /// When `now` was taken.
    taken: Option<Instant>,
    bytes_per_second: f64,
    ledger: Option<Ledger>,
    status: Option<u8>,
}

/// Sums at a moment.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Bytes to process, where that is known.
    total: u64,
    bytes: u64,
    gpu_bytes: u64,
    documents: u64,
    rejects: [u64; Reason::ALL.len()],
}

impl Figures {
    fn of(progress: &Progress, total: Option<u64>) -> Figures {
        Figures {
            total: total.unwrap_or_default(),
            bytes: progress.bytes.load(Ordering::Relaxed),
            gpu_bytes: progress.gpu_bytes.load(Ordering::Relaxed),
            documents: match progress.counted {
                Counted::Documents => progress.documents.load(Ordering::Relaxed),
                Counted::Files => 0,
            },
            rejects: std::array::from_fn(|reason| progress.rejects[reason].load(Ordering::Relaxed)),
        }
    }

    fn add(&mut self, other: &Figures) {
        self.total += other.total;
        self.bytes += other.bytes;
        self.gpu_bytes += other.gpu_bytes;
        self.documents += other.documents;
        self.rejects.iter_mut().zip(other.rejects).for_each(|(mine, theirs)| *mine += theirs);
    }
}

impl Metrics {
    /// Begins to tell about a command.
    ///
    /// # Errors
    /// If the file cannot be written, or nothing can listen at the address.
    pub fn start(command: &str, file: Option<&Path>, address: Option<SocketAddr>) -> Result<Metrics> {
        if file.is_none() && address.is_none() {
            return Ok(Metrics::default());
        }
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (file, page) = (file.map(PathBuf::from), Mutex::default());
        let inner =
            Arc::new(Inner { command: command.into(), started, file, has_warned: AtomicBool::new(false), page });
        inner.write()?;
        if let Some(address) = address {
            let address = listen(address, Arc::clone(&inner))?;
            tracing::info!(%address, "Figures for Prometheus are at http://{address}/metrics");
        }
        Ok(Metrics(Some(inner)))
    }

    /// Whether anybody wants figures.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the figures of the work at hand, which is to process `total` bytes if that is known.
    pub fn note(&self, progress: &Progress, total: Option<u64>) {
        let Some(inner) = &self.0 else { return };
        inner.page().take(Figures::of(progress, total));
        inner.write_or_warn();
    }

    /// The work at hand is done with.
    pub fn note_end(&self, progress: &Progress, total: Option<u64>) {
        let Some(inner) = &self.0 else { return };
        let mut page = inner.page();
        page.take(Figures::of(progress, total));
        let now = std::mem::take(&mut page.now);
        page.before.add(&now);
        page.taken = None;
    }

    /// Notes what became of every line.
    pub fn note_ledger(&self, ledger: &Ledger) {
        if let Some(inner) = &self.0 {
            inner.page().ledger = Some(ledger.clone());
        }
    }

    /// The process is about to end.
    pub fn end(&self, status: u8) {
        let Some(inner) = &self.0 else { return };
        inner.page().status = Some(status);
        inner.write_or_warn();
    }
}

impl Page {
    fn take(&mut self, figures: Figures) {
        let now = Instant::now();
        if let Some(taken) = self.taken.filter(|taken| *taken < now) {
            let bytes = figures.bytes.saturating_sub(self.now.bytes);
            self.bytes_per_second = bytes as f64 / now.duration_since(taken).as_secs_f64();
        }
        (self.now, self.taken) = (figures, Some(now));
    }
}

impl Inner {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the figures into the file, if there is one, so that no reader sees half of them.
    fn write(&self) -> Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // Collectors run as another user. (What the process's mask forbids stays forbidden.)
        let mut file = tempfile::Builder::new()
            .prefix(".colophon-metrics-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .context(path, "write the figures")?;
        file.write_all(self.text().as_bytes()).context(path, "write the figures")?;
        file.persist(path).map_err(|error| Error::io(path, "write the figures", &error.error))?;
        Ok(())
    }

    /// The work goes on without figures.
    fn write_or_warn(&self) {
        if let Err(error) = self.write()
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{error}; the run goes on without the figures");
        }
    }

    /// The page in Prometheus's text format.
    fn text(&self) -> String {
        let page = self.page();
        let mut all = page.before.clone();
        all.add(&page.now);
        let mut text = Text::default();
        text.gauge("info", "The program and what it does.");
        text.labelled(&[("version", env!("CARGO_PKG_VERSION")), ("command", &self.command)], 1);
        text.gauge("start_time_seconds", "When it started, in seconds since 1970.").value(self.started);
        text.gauge("running", "1 until it ends.").value(u8::from(page.status.is_none()));
        if let Some(status) = page.status {
            text.gauge("exit_status", "0 sound, 1 a gate failed, 2 usage, 3 environment, 130 and 143 stopped.");
            text.value(status);
        }
        if all.total > 0 {
            text.gauge("expected_bytes", "Bytes to process, where that is known: input, once a pass.").value(all.total);
        }
        text.counter("processed_bytes_total", "Bytes processed (unpacked), by what scanned them.");
        text.labelled(&[("device", "cpu")], all.bytes.saturating_sub(all.gpu_bytes));
        text.labelled(&[("device", "gpu")], all.gpu_bytes);
        text.gauge("bytes_per_second", "Bytes processed a second, lately.").value(page.bytes_per_second.round());
        text.counter("documents_total", "Documents found (in an export: exported).").value(all.documents);
        text.counter("rejected_lines_total", "Lines rejected, by reason.");
        for (reason, lines) in Reason::ALL.iter().zip(all.rejects) {
            text.labelled(&[("reason", reason.name())], lines);
        }
        if let Some(ledger) = &page.ledger {
            text.gauge("ledger_lines", "What became of the input's lines; there when the export is done.");
            for (fate, lines) in ledger.fates() {
                text.labelled(&[("fate", fate)], lines);
            }
        }
        text.0
    }
}

/// Prometheus's text format. No value of a label has a character that would need an escape.
#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn gauge(&mut self, name: &'static str, help: &str) -> &mut Text {
        self.family(name, help, "gauge")
    }

    fn counter(&mut self, name: &'static str, help: &str) -> &mut Text {
        self.family(name, help, "counter")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> &mut Text {
        self.1 = name;
        let _ = writeln!(self.0, "# HELP colophon_{name} {help}\n# TYPE colophon_{name} {kind}");
        self
    }

    fn value(&mut self, value: impl Display) {
        let _ = writeln!(self.0, "colophon_{} {value}", self.1);
    }

    fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let _ = writeln!(self.0, "colophon_{}{{{}}} {value}", self.1, labels.join(","));
    }
}

/// Serves the page until the process ends; gives the address, with the port if that was left open.
fn listen(address: SocketAddr, inner: Arc<Inner>) -> Result<SocketAddr> {
    let failure = |error: io::Error| Error::Environment {
        subject: format!("--metrics-addr {address}"),
        cause: format!("could not listen: {error}"),
        remedy: "choose an address of this machine and a free port".into(),
    };
    let listener = TcpListener::bind(address).map_err(failure)?;
    let address = listener.local_addr().map_err(failure)?;
    let serve = move || {
        for connection in listener.incoming() {
            // A client that goes away is no failure of the run; where none can be taken, there may be room later.
            if connection.and_then(|connection| answer(connection, &inner)).is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failure)?;
    Ok(address)
}

/// Answers one request for the page; the connection then ends.
fn answer(mut connection: TcpStream, inner: &Inner) -> io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut connection)?;
    let mut words = head.split([' ', '\r', '\n']);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, path.split('?').next()) {
        ("GET" | "HEAD", Some("/metrics")) => ("200 OK", inner.text()),
        ("GET" | "HEAD", _) => ("404 Not Found", "The figures are at /metrics\n".into()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let length = body.len();
    let body = if method == "HEAD" { String::new() } else { body };
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    connection.flush()
}

/// What a client asks, up to the empty line; bounded in length and time.
fn read_head(connection: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut buffer = [0; 1 << 10];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        connection.set_read_timeout(Some(left))?;
        match connection.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner() -> Arc<Inner> {
        let (command, file, has_warned, page) = ("export".into(), None, AtomicBool::new(false), Mutex::default());
        Arc::new(Inner { command, started: 0.0, file, has_warned, page })
    }

    fn ask(address: SocketAddr, question: &[u8]) -> String {
        let mut connection = TcpStream::connect(address).expect("a connection");
        connection.write_all(question).expect("asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn requests_and_their_answers() {
        let address = listen(SocketAddr::from(([127, 0, 0, 1], 0)), inner()).expect("a port");
        for (question, answer) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
            ("\r\n\r\n", "HTTP/1.1 405 "),
        ] {
            let answered = ask(address, question.as_bytes());
            assert!(answered.starts_with(answer), "{question:?}: {answered:?}");
            let is_page = answered.ends_with("colophon_rejected_lines_total{reason=\"too_long\"} 0\n");
            assert_eq!(is_page, question.starts_with("GET /metrics"), "{question:?}: {answered:?}");
        }
    }

    /// Somebody who never asks, or never ends asking, disturbs nobody for long.
    #[test]
    fn clients_that_do_not_behave() {
        let address = listen(SocketAddr::from(([127, 0, 0, 1], 0)), inner()).expect("a port");
        let _silent = TcpStream::connect(address).expect("a connection");
        // The other end may hang up in the middle of it.
        let _ = TcpStream::connect(address).expect("a connection").write_all(&[0xFF; 100_000]);
        drop(TcpStream::connect(address).expect("a connection"));
        assert!(ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn sums_go_on_from_one_piece_of_work_to_the_next() {
        let metrics = Metrics(Some(inner()));
        for _ in 0..2 {
            let progress = Progress::default();
            progress.add(100, 3, 1);
            progress.reject(Reason::NotObject);
            metrics.note(&progress, Some(100));
            metrics.note_end(&progress, Some(100));
        }
        let text = metrics.0.as_ref().expect("on").text();
        for line in [
            "expected_bytes 200",
            "processed_bytes_total{device=\"cpu\"} 200",
            "documents_total 6",
            "rejected_lines_total{reason=\"not_object\"} 2",
        ] {
            assert!(text.contains(&format!("\ncolophon_{line}\n")), "{line}: {text}");
        }
    }
}
