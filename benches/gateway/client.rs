//! A load generator of our own: HTTP/1.1 over kept-alive connections, so that it takes little of the shared cores.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request as bytes.
pub fn request(method: &str, path: &str, token: &str, more: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n", body.len());
    if !token.is_empty() {
        text.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if !body.is_empty() {
        text.push_str("content-type: application/fhir+json\r\n");
    }
    for (name, value) in more {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// One kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(1 << 16) })
    }

    /// Sends a request and reads the whole answer: status and body.
    pub async fn ask(&mut self, request: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let length = text.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        Ok((status, self.buffer[head..head + length].to_vec()))
    }

    async fn more(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Makes the n-th request.
pub type Requests = Arc<dyn Fn(usize) -> Vec<u8> + Send + Sync>;

/// How long a load lasts: a time, and at most so many requests.
#[derive(Clone, Copy)]
pub struct Until {
    pub time: Duration,
    pub count: usize,
}

/// What a load saw.
#[derive(Default)]
pub struct Seen {
    pub answered: usize,
    /// Answers that were not 2xx.
    pub bad: usize,
    pub first_bad: String,
    pub wall: Duration,
    /// Sorted.
    pub latencies: Vec<Duration>,
    /// Answers' bodies, if they were asked for.
    pub bodies: Vec<Vec<u8>>,
}

impl Seen {
    pub fn at(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }
}

/// Loads a server over so many connections, each with one request under way. `rate` paces all of them together.
pub async fn load(
    address: &str,
    connections: usize,
    requests: &Requests,
    until: Until,
    keep: bool,
    rate: Option<f64>,
) -> Seen {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (next, requests, address) = (next.clone(), requests.clone(), address.to_string());
        let one: Pin<Box<dyn Future<Output = Seen> + Send>> = Box::pin(async move {
            let mut seen = Seen::default();
            let Ok(mut connection) = Connection::open(&address).await else {
                seen.first_bad = "no connection".into();
                seen.bad = 1;
                return seen;
            };
            loop {
                if began.elapsed() >= until.time {
                    return seen;
                }
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= until.count {
                    return seen;
                }
                if let Some(rate) = rate {
                    let due = began + Duration::from_secs_f64(number as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                let request = requests(number);
                let sent = Instant::now();
                match connection.ask(&request).await {
                    Ok((status, body)) if (200..300).contains(&status) => {
                        seen.latencies.push(sent.elapsed());
                        seen.answered += 1;
                        if keep {
                            seen.bodies.push(body);
                        }
                    }
                    Ok((status, body)) => {
                        seen.bad += 1;
                        let start = String::from_utf8_lossy(&body[..body.len().min(400)]).to_string();
                        seen.first_bad = format!("{status} {start}");
                    }
                    Err(error) => {
                        seen.bad += 1;
                        seen.first_bad = error.to_string();
                        return seen;
                    }
                }
            }
        });
        tasks.push(tokio::spawn(one));
    }
    let mut all = Seen::default();
    for task in tasks {
        let Ok(seen) = task.await else { continue };
        all.answered += seen.answered;
        all.bad += seen.bad;
        if all.first_bad.is_empty() {
            all.first_bad = seen.first_bad;
        }
        all.latencies.extend(seen.latencies);
        all.bodies.extend(seen.bodies);
    }
    all.wall = began.elapsed();
    all.latencies.sort_unstable();
    all
}
