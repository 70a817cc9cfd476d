//! The receiver: answers 204 to every request over keep-alive connections, and counts. A thread a connection, because few are made.

use crate::Res;
use crate::load::content_length;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// See the module. Dropping it closes the port; its connections end with their clients.
pub struct Sink {
    pub address: SocketAddr,
    taken: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Sink {
    pub fn start() -> Res<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (taken, stopping) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&taken), Arc::clone(&stopping));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let count = Arc::clone(&count);
                std::thread::spawn(move || {
                    // A connection that breaks is the other side's end; whoever waits for deliveries sees that they do not come.
                    let _ = serve(stream, &count);
                });
            }
        });
        Ok(Self { address, taken, stopping, accepting: Some(accepting) })
    }

    /// How many requests it has answered.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, taken: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let length = head.map(|end| end + 4 + content_length(&String::from_utf8_lossy(bytes.get(..end).unwrap_or_default())));
        if let Some(length) = length.filter(|l| bytes.len() >= *l) {
            bytes.drain(..length);
            taken.fetch_add(1, Ordering::AcqRel);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
            continue;
        }
        match stream.read(&mut part)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
    }
}
