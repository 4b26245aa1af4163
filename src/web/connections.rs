//! The connections of whoever is served.
//!
//! Owns how many there are, in all and of each peer, and how long one may be silent and last: whoever
//! opens many and says little uses up neither the daemon's files nor the turns of others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

/// So many connections at a time; others wait.
const MOST: usize = 100;
/// and so many of one address; more are closed at once.
const MOST_OF_ONE: usize = 20;
/// A connection that says or takes nothing for this long is closed,
const SILENCE: Duration = Duration::from_secs(10);
/// and any after this long: what is served here takes moments.
const LONGEST: Duration = Duration::from_secs(30);

type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A listener that takes no more than so many connections.
pub struct Limited {
    listener: TcpListener,
    free: Arc<Semaphore>,
    peers: Peers,
}

impl Limited {
    /// Limits a listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(MOST)), peers: Peers::default() }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
                // The semaphore is never closed.
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Some(peer) = Peer::enter(&self.peers, address.ip()) else { continue };
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_read_timeout(Some(SILENCE));
                    stream.set_write_timeout(Some(SILENCE));
                    let until = Instant::now() + LONGEST;
                    let stream = Box::pin(stream);
                    return (Connection { stream, until, _peer: peer, _permit: permit }, address);
                }
                // Such as too many open files: it may pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, which counts until it is closed.
pub struct Connection {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    until: Instant,
    _peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// One connection of an address.
struct Peer {
    peers: Peers,
    address: IpAddr,
}

impl Peer {
    /// Counts a connection; none where its address has as many as it may.
    fn enter(peers: &Peers, address: IpAddr) -> Option<Self> {
        let mut counts = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self { peers: Arc::clone(peers), address })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut counts = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Each word and each silence leads here.
        if Instant::now() > self.until {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}
