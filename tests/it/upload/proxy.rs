//! A proxy between the program and a server, which fails as networks and servers do.
//!
//! It speaks just enough HTTP/1.1 to know one request from the next: each gets a connection of its own to the server,
//! and what comes back is passed on as it is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to do to requests.
#[derive(Clone)]
pub struct Fault {
    /// How the request's first line begins, such as `PUT`.
    pub method: &'static str,
    /// What the first line has somewhere.
    pub part: String,
    /// How many requests to let pass before.
    pub after: usize,
    /// How many requests it happens to.
    pub times: usize,
    pub action: Action,
}

#[derive(Clone)]
pub enum Action {
    /// The answer is this, and the server never hears of the request.
    Answer { status: u16, headers: String, body: String },
    /// The request waits for so long.
    Delay(Duration),
    /// The connection breaks when so many bytes of the body have gone through.
    Cut(usize),
    /// The request goes through, and its answer does not.
    LoseAnswer,
    /// A bit of the body is flipped.
    Corrupt,
}

#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    /// First lines of all requests.
    seen: Vec<String>,
    /// First lines of the requests that got their answer.
    answered: Vec<String>,
}

impl Proxy {
    /// Starts a proxy before a server.
    pub fn before(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let proxy = Proxy { address, state: Arc::default() };
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let proxy = accepting.clone();
                // A client that goes away in the middle is none of a test's concern.
                std::thread::spawn(move || proxy.serve(client, server).ok());
            }
        });
        proxy
    }

    /// Lets a fault happen from now on.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().expect("no test panics here").faults.push(fault);
    }

    /// No faults any more, and no memory.
    pub fn reset(&self) {
        *self.state.lock().expect("no test panics here") = State::default();
    }

    /// How many requests there were whose first line begins and goes on so.
    pub fn seen(&self, method: &str, part: &str) -> usize {
        let state = self.state.lock().expect("no test panics here");
        state.seen.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    /// The same for those that were answered.
    pub fn answered(&self, method: &str, part: &str) -> usize {
        let state = self.state.lock().expect("no test panics here");
        state.answered.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    fn fault(&self, line: &str) -> Option<Action> {
        let mut state = self.state.lock().expect("no test panics here");
        state.seen.push(line.into());
        for fault in &mut state.faults {
            if !line.starts_with(fault.method) || !line.contains(&fault.part) || fault.times == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times -= 1;
            return Some(fault.action.clone());
        }
        None
    }

    fn serve(&self, mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut block = vec![0; 64 << 10];
        let end = loop {
            let read = client.read(&mut block)?;
            if read == 0 {
                return Ok(());
            }
            head.extend_from_slice(&block[..read]);
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
        };
        let body = head.split_off(end + 4);
        let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        let action = self.fault(&line);
        match &action {
            Some(Action::Answer { status, headers, body: answer }) => {
                return self.answer(client, &head, body.len(), *status, headers, answer);
            }
            Some(Action::Delay(delay)) => std::thread::sleep(*delay),
            _ => {}
        }
        let mut upstream = TcpStream::connect(server)?;
        // So that the end of the connection is the end of the answer.
        upstream.write_all(&head[..head.len() - 2])?;
        upstream.write_all(b"connection: close\r\n\r\n")?;
        let (mut from, mut to) = (client.try_clone()?, upstream.try_clone()?);
        let on_body = action.clone();
        let sending = std::thread::spawn(move || -> std::io::Result<()> {
            let mut left = if let Some(Action::Cut(bytes)) = on_body { bytes } else { usize::MAX };
            let mut is_sound = !matches!(on_body, Some(Action::Corrupt));
            let mut piece = body;
            loop {
                if let (false, Some(byte)) = (is_sound, piece.first_mut()) {
                    *byte ^= 1;
                    is_sound = true;
                }
                let passed = piece.len().min(left);
                to.write_all(&piece[..passed])?;
                left -= passed;
                if left == 0 {
                    from.shutdown(Shutdown::Both)?;
                    return to.shutdown(Shutdown::Both);
                }
                piece.resize(64 << 10, 0);
                let read = from.read(&mut piece)?;
                if read == 0 {
                    return Ok(());
                }
                piece.truncate(read);
            }
        });
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        if !matches!(action, Some(Action::LoseAnswer)) {
            self.state.lock().expect("no test panics here").answered.push(line);
            client.write_all(&answer)?;
        }
        client.shutdown(Shutdown::Both)?;
        let _ = sending.join();
        Ok(())
    }

    fn answer(
        &self,
        mut client: TcpStream,
        head: &[u8],
        mut read: usize,
        status: u16,
        headers: &str,
        body: &str,
    ) -> std::io::Result<()> {
        // The request is read to its end first: an answer in the middle is a different fault.
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if head.contains("expect: 100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut block = vec![0; 64 << 10];
        while read < length {
            match client.read(&mut block)? {
                0 => return Ok(()),
                n => read += n,
            }
        }
        let body = if head.starts_with("head ") { "" } else { body };
        let bytes = body.len();
        let answer =
            format!("HTTP/1.1 {status} Fault\r\n{headers}content-length: {bytes}\r\nconnection: close\r\n\r\n{body}");
        client.write_all(answer.as_bytes())?;
        client.shutdown(Shutdown::Both)
    }
}
