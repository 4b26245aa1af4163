//! The kernel's process and its sockets: started, asked, interrupted, ended, never left behind.
//!
//! Owns the connection folder, the process group and the shutdown ladder. It must not know cells.

#![expect(unsafe_code, reason = "the child asks the kernel of the machine to die with its parent")]
#![expect(clippy::disallowed_methods, reason = "makes connection folders and removes stale ones")]

use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout_at};
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket};

use super::kernelspec::KernelSpec;
use super::wire::{Codec, Message, WireError};

/// How long a kernel may take to leave once it said that it will.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How much of a kernel's own error stream is kept for messages.
const STDERR_KEPT: usize = 64 << 10;

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

/// Why a kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It could not be started.
    #[error("failed to start kernel {name:?} ({program}): {source}")]
    Spawn {
        /// The kernel's name.
        name: String,
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended.
    #[error("the kernel died: {how}{stderr}")]
    Died {
        /// Its exit in words.
        how: String,
        /// What it wrote last.
        stderr: String,
    },
    /// It did not answer.
    #[error("the kernel did not answer within {0} s of its start")]
    StartTimeout(u64),
    /// The sockets broke.
    #[error("failed to talk to the kernel: {0}")]
    Socket(String),
    /// A message broke.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The connection folder could not be made.
    #[error("failed to make the kernel's connection folder: {0}")]
    Folder(std::io::Error),
}

/// A message and where it came from.
#[derive(Debug)]
pub enum Event {
    /// A reply on the shell channel.
    Shell(Message),
    /// A broadcast.
    Broadcast(Message),
    /// The process ended.
    Died(String),
}

/// A running kernel.
pub struct Kernel {
    codec: Codec,
    spec: KernelSpec,
    process: tokio::process::Child,
    group: Pid,
    shell: DealerSocket,
    control: DealerSocket,
    broadcast: SubSocket,
    stderr: tokio::task::JoinHandle<Vec<u8>>,
    exit: Option<ExitStatus>,
    /// Says that the folder is in use.
    _lock: std::fs::File,
    /// Removed with all sockets when the kernel is gone.
    _folder: tempfile::TempDir,
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

impl Kernel {
    /// Starts a kernel in a working directory and waits until it answers.
    ///
    /// # Errors
    /// Says why it does not, with what it wrote on its error stream.
    pub async fn start(
        spec: KernelSpec,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self, KernelError> {
        let codec = Codec::new();
        // Socket paths have at most 107 bytes, so the folder is a short one of our own; only its
        // owner may enter, for Unix sockets have no other protection.
        sweep();
        let runtime = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(RUNTIME)
            .map_err(KernelError::Folder)?;
        let stem = runtime.path().join("k").to_string_lossy().into_owned();
        let connection = Connection {
            transport: "ipc",
            ip: stem.clone(),
            shell_port: 1,
            iopub_port: 2,
            stdin_port: 3,
            control_port: 4,
            hb_port: 5,
            key: codec.key(),
            signature_scheme: "hmac-sha256",
            kernel_name: &spec.name,
        };
        let file = runtime.path().join(CONNECTION);
        let text = serde_json::to_string(&connection).expect("plain data has a JSON form");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let lock = options
            .open(&file)
            .and_then(|mut file| {
                std::io::Write::write_all(&mut file, text.as_bytes())?;
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                Ok(file)
            })
            .map_err(KernelError::Folder)?;
        let (process, stderr) = spawn(&spec, &file, folder)?;
        let group = process
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| KernelError::Socket("the process has no id".into()))?;
        let mut kernel = Self {
            codec,
            spec,
            process,
            group,
            shell: DealerSocket::new(),
            control: DealerSocket::new(),
            broadcast: SubSocket::new(),
            stderr,
            exit: None,
            _lock: lock,
            _folder: runtime,
        };
        let deadline = Instant::now() + limit;
        let ready = timeout_at(deadline, kernel.connect(&stem)).await;
        match ready {
            Ok(Ok(())) => Ok(kernel),
            Ok(Err(error)) => {
                kernel.kill().await;
                Err(error)
            }
            Err(_) => {
                kernel.kill().await;
                Err(KernelError::StartTimeout(limit.as_secs()))
            }
        }
    }

    async fn connect(&mut self, stem: &str) -> Result<(), KernelError> {
        for port in [1, 2, 4] {
            self.wait_for_socket(&format!("{stem}-{port}")).await?;
        }
        let broken = |error: zeromq::ZmqError| KernelError::Socket(error.to_string());
        self.shell.connect(&format!("ipc://{stem}-1")).await.map_err(broken)?;
        self.broadcast.connect(&format!("ipc://{stem}-2")).await.map_err(broken)?;
        self.control.connect(&format!("ipc://{stem}-4")).await.map_err(broken)?;
        self.broadcast.subscribe("").await.map_err(broken)?;
        // Ready is: the reply is there, and the broadcast channel is seen to work. Kernels without
        // a welcome message are asked again until they broadcast for us.
        let (mut replied, mut heard) = (false, false);
        while !(replied && heard) {
            let (_, request) = self.codec.request("kernel_info_request", &serde_json::json!({}));
            self.shell.send(request).await.map_err(broken)?;
            let pause = Instant::now() + Duration::from_millis(200);
            while !(replied && heard) {
                match timeout_at(pause, self.event()).await {
                    Err(_) => break,
                    Ok(Ok(Event::Shell(message))) => {
                        replied |= message.kind == "kernel_info_reply";
                    }
                    Ok(Ok(Event::Broadcast(_))) => heard = true,
                    Ok(Ok(Event::Died(how))) => return Err(self.died(how).await),
                    Ok(Err(error)) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Waits until a socket takes connections, without the library's growing pauses.
    async fn wait_for_socket(&mut self, path: &str) -> Result<(), KernelError> {
        loop {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Ok(());
            }
            tokio::select! {
                status = self.process.wait() => {
                    let how = status.map_or_else(|error| error.to_string(), in_words);
                    return Err(self.died(how).await);
                }
                () = sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    /// Sends a request on the shell channel; returns its id.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn send(
        &mut self,
        kind: &str,
        content: &impl Serialize,
    ) -> Result<String, KernelError> {
        let (id, message) = self.codec.request(kind, content);
        self.shell.send(message).await.map_err(|error| KernelError::Socket(error.to_string()))?;
        Ok(id)
    }

    /// The next event. What the kernel broadcast before it died comes before its death.
    ///
    /// # Errors
    /// A broken socket or message.
    pub async fn event(&mut self) -> Result<Event, KernelError> {
        let broken = |error: zeromq::ZmqError| KernelError::Socket(error.to_string());
        loop {
            if let Some(status) = self.exit {
                let rest = tokio::time::timeout(Duration::from_millis(100), self.broadcast.recv());
                return match rest.await {
                    Ok(Ok(message)) => Ok(Event::Broadcast(self.codec.decode(&message)?)),
                    _ => Ok(Event::Died(in_words(status))),
                };
            }
            tokio::select! {
                biased;
                message = self.broadcast.recv() => {
                    return Ok(Event::Broadcast(self.codec.decode(&message.map_err(broken)?)?));
                }
                message = self.shell.recv() => {
                    return Ok(Event::Shell(self.codec.decode(&message.map_err(broken)?)?));
                }
                status = self.process.wait() => {
                    let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
                    self.exit = Some(status);
                }
            }
        }
    }

    /// Interrupts what the kernel does.
    pub async fn interrupt(&mut self) {
        if self.spec.file.interrupt_mode.as_deref() == Some("message") {
            let (_, message) = self.codec.request("interrupt_request", &serde_json::json!({}));
            let _ = self.control.send(message).await;
        } else {
            let _ = rustix::process::kill_process_group(self.group, Signal::INT);
        }
    }

    /// The error of a kernel that died, with what it wrote last.
    pub async fn died(&mut self, how: String) -> KernelError {
        let rest = tokio::time::timeout(Duration::from_millis(500), &mut self.stderr).await;
        let bytes = rest.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let last: Vec<&str> = text.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let stderr = if last.is_empty() { String::new() } else { format!("\n{}", last.join("\n")) };
        KernelError::Died { how, stderr }
    }

    /// Asks the kernel to leave, then makes it. Returns once it and its process group are gone.
    pub async fn shut_down(mut self) {
        if self.exit.is_none() {
            let content = serde_json::json!({ "restart": false });
            let (_, message) = self.codec.request("shutdown_request", &content);
            // On the control channel ipykernel 7 can deadlock; other kernels ignore the shell's.
            let sent = if self.spec.is_ipykernel() {
                self.shell.send(message).await
            } else {
                self.control.send(message).await
            };
            if sent.is_ok() {
                let deadline = Instant::now() + SHUTDOWN;
                let left = async {
                    loop {
                        tokio::select! {
                            _ = self.broadcast.recv() => {}
                            _ = self.process.wait() => break,
                        }
                    }
                };
                let _ = timeout_at(deadline, left).await;
            }
        }
        self.kill().await;
    }

    /// Ends the kernel's process group at once.
    pub async fn kill(&mut self) {
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        let _ = self.process.wait().await;
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}

fn spawn(
    spec: &KernelSpec,
    file: &Path,
    folder: &Path,
) -> Result<(tokio::process::Child, tokio::task::JoinHandle<Vec<u8>>), KernelError> {
    let argv = spec.command(file);
    let mut command = tokio::process::Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .current_dir(folder)
        .envs(&spec.file.env)
        .env("JPY_PARENT_PID", std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if spec.is_ipykernel() {
        command.arg("--HistoryManager.hist_file=:memory:");
    }
    // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    let mut process = command.spawn().map_err(|source| KernelError::Spawn {
        name: spec.name.clone(),
        program: argv[0].clone(),
        source,
    })?;
    let mut stream = process.stderr.take();
    let stderr = tokio::spawn(async move {
        let mut kept = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(stream) = &mut stream {
            match stream.read(&mut buffer).await {
                Ok(count) if count > 0 => kept.extend_from_slice(&buffer[..count]),
                _ => break,
            }
            let surplus = kept.len().saturating_sub(STDERR_KEPT);
            kept.drain(..surplus);
        }
        kept
    });
    Ok((process, stderr))
}

/// How a process ended, in words.
fn in_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(9), _) => "killed by signal 9 (perhaps out of memory)".into(),
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("it exited with code {code}"),
        (None, None) => "it ended".into(),
    }
}
