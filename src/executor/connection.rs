//! Where we and a kernel meet: a folder with its connection file and, where the kernel can use them,
//! Unix sockets; else ports of this machine.
//!
//! Owns making the folder, for its owner alone, and removing those of processes that were killed
//! before they could.

#![expect(clippy::disallowed_methods, reason = "makes connection folders and removes stale ones")]

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::wire::Codec;

/// How bytes get to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Unix sockets in the folder: nobody else can reach them, and no port can be taken meanwhile.
    Ipc,
    /// Ports of 127.0.0.1, for kernels that know nothing else. Signatures keep others out.
    Tcp,
}

/// A channel of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Channel {
    /// Requests and their replies.
    Shell,
    /// What the kernel tells everybody.
    Broadcast,
    /// Requests that do not wait for cells.
    Control,
}

/// Where connection folders are made, how their names begin, and the file that each holds.
const RUNTIME: &str = "/tmp";
const PREFIX: &str = "jf-kernel-";
const CONNECTION: &str = "connection.json";
/// A younger folder may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Removes connection folders of processes that were killed before they could. Whoever lives holds
/// a lock, which the kernel of the machine releases, also from within another container.
fn sweep() {
    let entries = std::fs::read_dir(RUNTIME).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry.metadata().and_then(|data| data.modified()).ok();
        let old = age.is_some_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
        let file = std::fs::File::open(entry.path().join(CONNECTION));
        let free = |file: std::fs::File| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        if old && file.map_or_else(|error| error.kind() == ErrorKind::NotFound, free) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A connection folder; it goes when this goes.
pub struct ConnectionFolder {
    folder: tempfile::TempDir,
    transport: Transport,
    /// The ports of shell, broadcast, stdin, control and heartbeat.
    ports: [u16; 5],
    /// Says that the folder is in use.
    _lock: std::fs::File,
}

#[derive(Serialize)]
struct Connection<'a> {
    transport: &'a str,
    ip: String,
    shell_port: u16,
    iopub_port: u16,
    stdin_port: u16,
    control_port: u16,
    hb_port: u16,
    key: &'a str,
    signature_scheme: &'a str,
    kernel_name: &'a str,
}

impl ConnectionFolder {
    /// Makes a folder with a connection file. Paths of Unix sockets have 107 bytes at most, and
    /// `ipc://` names of some kernels no more than 31, so it is a short one of our own; only its
    /// owner may enter, for these sockets have no other protection.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(codec: &Codec, kernel_name: &str, transport: Transport) -> std::io::Result<Self> {
        sweep();
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(RUNTIME)?;
        let (name, ip, ports) = match transport {
            Transport::Ipc => ("ipc", stem(folder.path()), [1, 2, 3, 4, 5]),
            Transport::Tcp => ("tcp", "127.0.0.1".to_owned(), free_ports()?),
        };
        let [shell_port, iopub_port, stdin_port, control_port, hb_port] = ports;
        let connection = Connection {
            transport: name,
            ip,
            shell_port,
            iopub_port,
            stdin_port,
            control_port,
            hb_port,
            key: codec.key(),
            signature_scheme: "hmac-sha256",
            kernel_name,
        };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut lock = options.open(folder.path().join(CONNECTION))?;
        lock.write_all(serde_json::to_string(&connection)?.as_bytes())?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { folder, transport, ports, _lock: lock })
    }

    /// The connection file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join(CONNECTION)
    }

    /// The address of a channel.
    pub fn address(&self, channel: Channel) -> Address {
        let port = self.ports[match channel {
            Channel::Shell => 0,
            Channel::Broadcast => 1,
            Channel::Control => 3,
        }];
        match self.transport {
            Transport::Ipc => Address::Path(format!("{}-{port}", stem(self.folder.path()))),
            Transport::Tcp => Address::Port(port),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn add(&self, name: &str, content: &str) -> std::io::Result<()> {
        std::fs::write(self.folder.path().join(name), content)
    }
}

fn stem(folder: &Path) -> String {
    folder.join("k").to_string_lossy().into_owned()
}

/// Five ports that nobody has at the moment. Another process may take one before the kernel does:
/// then the kernel dies at once, and is started again with others.
fn free_ports() -> std::io::Result<[u16; 5]> {
    let listeners: Vec<std::net::TcpListener> =
        (0..5).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut ports = [0; 5];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The address of a channel.
#[derive(Clone, Debug)]
pub enum Address {
    /// A Unix socket.
    Path(String),
    /// A port of 127.0.0.1.
    Port(u16),
}

impl Address {
    /// As `ZeroMQ` writes it.
    pub fn endpoint(&self) -> String {
        match self {
            Self::Path(path) => format!("ipc://{path}"),
            Self::Port(port) => format!("tcp://127.0.0.1:{port}"),
        }
    }

    /// Whether somebody takes connections there.
    pub async fn answers(&self) -> bool {
        match self {
            Self::Path(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            Self::Port(port) => tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_ok(),
        }
    }
}
