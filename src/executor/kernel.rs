//! A running kernel and its channels: started, asked, interrupted, ended, never left behind.
//!
//! Owns the channels and the shutdown ladder. It must not know cells. Completion, outputs and
//! endings are decided elsewhere.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use zeromq::{DealerSocket, Socket, SocketEvent, SocketRecv, SocketSend};

use super::broadcast::{Broadcasts, Item};
use super::connection::{Address, Channel, ConnectionFolder, Transport};
use super::kernelspec::KernelSpec;
use super::launch::{BOOTSTRAP, BOOTSTRAP_NAME, Launch, command_line, is_stock};
use super::process::Process;
use super::wire::{Codec, Message, WireError};
use crate::notebook::json::Raw;

/// How long a kernel may take to leave once it was asked to, or once it closed a channel.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long the next of its last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// It died before it answered, at each try.
    #[error("{0}")]
    Start(String),
    /// It did not answer.
    #[error("the kernel did not answer within {0} s of its start")]
    StartTimeout(u64),
    /// Slim was asked for, and this is no stock ipykernel.
    #[error("kernel {0:?} is no stock ipykernel, so it cannot be launched slim; use --launch auto")]
    NotStock(String),
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
    /// Broadcasts before the next one may be missing: the kernel dropped them.
    MayBeMissing,
    /// The process ended.
    Died,
}

/// A running kernel.
pub struct Kernel {
    channels: Channels,
    process: Process,
    interrupt_by_message: bool,
    shell_shutdown: bool,
    /// Whether it drops broadcasts that are not read in time.
    drops_output: bool,
    /// What it says of its language.
    pub language_info: Option<Raw>,
    /// Something that a person should know of its start.
    pub warning: Option<String>,
    /// Removed with all sockets when the kernel is gone.
    _folder: ConnectionFolder,
}

struct Channels {
    codec: Codec,
    shell: DealerSocket,
    shell_events: futures::channel::mpsc::Receiver<SocketEvent>,
    control: DealerSocket,
    broadcasts: Broadcasts,
    /// Why a channel is closed, and how long the process may live on without it.
    closed: Option<(String, Instant)>,
}

impl Kernel {
    /// Starts a kernel in a working directory and waits until it answers.
    ///
    /// # Errors
    /// Says why it does not, with what it wrote on its error stream.
    pub async fn start(
        spec: &KernelSpec,
        launch: Launch,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self, KernelError> {
        let mut failed: Option<String> = None;
        for (launch, transport) in attempts(spec, launch) {
            match Self::start_once(spec, launch, transport, folder, limit).await {
                Ok(mut kernel) => {
                    kernel.warning = failed.map(|why| {
                        format!("the kernel runs at a second try, the first one failed: {why}")
                    });
                    return Ok(kernel);
                }
                Err(error @ KernelError::Died { .. }) => failed = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Err(KernelError::Start(failed.unwrap_or_default()))
    }

    async fn start_once(
        spec: &KernelSpec,
        launch: Launch,
        transport: Transport,
        folder: &Path,
        limit: Duration,
    ) -> Result<Self, KernelError> {
        let codec = Codec::default();
        let runtime =
            ConnectionFolder::make(&codec, &spec.name, transport).map_err(KernelError::Folder)?;
        let line = command_line(spec, launch, &runtime.file())
            .ok_or_else(|| KernelError::NotStock(spec.name.clone()))?;
        if line.slim {
            runtime.add(BOOTSTRAP_NAME, BOOTSTRAP).map_err(KernelError::Folder)?;
        }
        let mut process = Process::spawn(spec, &line.argv, folder)?;
        let connected = timeout(limit, Channels::connect(codec, &runtime, &mut process)).await;
        let error = match connected {
            Ok(Ok((channels, language_info))) => {
                return Ok(Self {
                    channels,
                    interrupt_by_message: spec.file.interrupt_mode.as_deref() == Some("message"),
                    shell_shutdown: spec.is_ipykernel(),
                    process,
                    drops_output: !line.slim,
                    language_info,
                    warning: None,
                    _folder: runtime,
                });
            }
            Ok(Err(error)) => error,
            Err(_) => KernelError::StartTimeout(limit.as_secs()),
        };
        process.kill().await;
        Err(error)
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
        self.channels.send(kind, content).await
    }

    /// The next event. What the kernel broadcast before it died comes before its death.
    ///
    /// # Errors
    /// A broken socket or message.
    pub async fn event(&mut self) -> Result<Event, KernelError> {
        loop {
            match self.channels.event(&mut self.process).await? {
                Event::MayBeMissing if !self.drops_output => {}
                event => return Ok(event),
            }
        }
    }

    /// Interrupts what the kernel does.
    pub async fn interrupt(&mut self) {
        if self.interrupt_by_message {
            self.channels.control("interrupt_request", &json!({})).await;
        } else {
            self.process.interrupt();
        }
    }

    /// The error of a kernel that died, with what it wrote last.
    pub async fn obituary(&mut self) -> KernelError {
        self.process.obituary().await
    }

    /// Asks the kernel to leave, then makes it. Returns once it and its process group are gone.
    pub async fn shut_down(mut self) {
        if !self.process.has_ended() {
            let content = json!({ "restart": false });
            // On the control channel ipykernel 7 can deadlock; other kernels ignore the shell's.
            if self.shell_shutdown {
                let _ = self.channels.send("shutdown_request", &content).await;
            } else {
                self.channels.control("shutdown_request", &content).await;
            }
            let _ = timeout(SHUTDOWN, self.process.wait()).await;
        }
        self.process.kill().await;
    }

    /// Ends the kernel's process group at once.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }
}

impl Channels {
    /// Connects to a kernel that is starting, and waits until it answers and is heard.
    async fn connect(
        codec: Codec,
        folder: &ConnectionFolder,
        process: &mut Process,
    ) -> Result<(Self, Option<Raw>), KernelError> {
        for channel in [Channel::Shell, Channel::Broadcast, Channel::Control] {
            wait_for(&folder.address(channel), process).await?;
        }
        let broken = |error: zeromq::ZmqError| KernelError::Socket(error.to_string());
        let endpoint = |channel| folder.address(channel).endpoint();
        let (mut shell, mut control) = (DealerSocket::new(), DealerSocket::new());
        shell.connect(&endpoint(Channel::Shell)).await.map_err(broken)?;
        control.connect(&endpoint(Channel::Control)).await.map_err(broken)?;
        let broadcasts = Broadcasts::connect(endpoint(Channel::Broadcast)).await;
        let broadcasts = broadcasts.map_err(KernelError::Socket)?;
        let shell_events = shell.monitor();
        let mut channels = Self { codec, shell, shell_events, control, broadcasts, closed: None };
        // Ready is: the reply is there, and the broadcast channel is seen to work. Kernels without
        // a welcome message are asked again until they broadcast for us.
        let (mut reply, mut heard) = (None, false);
        while reply.is_none() || !heard {
            channels.send("kernel_info_request", &json!({})).await?;
            let pause = Instant::now() + Duration::from_millis(200);
            while reply.is_none() || !heard {
                match timeout_at(pause, channels.event(process)).await {
                    Err(_) => break,
                    Ok(Ok(Event::Shell(message))) if message.kind == "kernel_info_reply" => {
                        reply = Some(message.content);
                    }
                    Ok(Ok(Event::Shell(_) | Event::MayBeMissing)) => {}
                    Ok(Ok(Event::Broadcast(_))) => heard = true,
                    Ok(Ok(Event::Died)) => return Err(process.obituary().await),
                    Ok(Err(error)) => return Err(error),
                }
            }
        }
        let language_info = reply.and_then(|content| content.get("language_info").cloned());
        Ok((channels, language_info))
    }

    async fn send(&mut self, kind: &str, content: &impl Serialize) -> Result<String, KernelError> {
        let (id, message) = self.codec.request(kind, content);
        self.shell.send(message).await.map_err(|error| KernelError::Socket(error.to_string()))?;
        Ok(id)
    }

    async fn control(&mut self, kind: &str, content: &impl Serialize) {
        let (_, message) = self.codec.request(kind, content);
        let _ = self.control.send(message).await;
    }

    async fn event(&mut self, process: &mut Process) -> Result<Event, KernelError> {
        loop {
            if process.has_ended() {
                // The channel is read to its end: the last words are in it.
                return match timeout(LAST_WORDS, self.broadcasts.next()).await {
                    Ok(Item::Message(message)) => {
                        Ok(Event::Broadcast(self.codec.decode(&message)?))
                    }
                    Ok(Item::MayBeMissing) => Ok(Event::MayBeMissing),
                    Ok(Item::Closed(_)) | Err(_) => Ok(Event::Died),
                };
            }
            // Sockets of a process that ends are closed a moment before it is gone.
            if let Some((why, deadline)) = &self.closed {
                if timeout_at(*deadline, process.wait()).await.is_err() {
                    return Err(KernelError::Socket(why.clone()));
                }
                continue;
            }
            let closed = tokio::select! {
                biased;
                item = self.broadcasts.next() => match item {
                    Item::Message(message) => {
                        return Ok(Event::Broadcast(self.codec.decode(&message)?));
                    }
                    Item::MayBeMissing => return Ok(Event::MayBeMissing),
                    Item::Closed(why) => why,
                },
                message = self.shell.recv() => match message {
                    Ok(message) => return Ok(Event::Shell(self.codec.decode(&message)?)),
                    Err(error) => format!("its shell channel broke: {error}"),
                },
                event = self.shell_events.next() => match event {
                    Some(SocketEvent::Disconnected(_)) | None => "it closed its shell channel".into(),
                    Some(_) => continue,
                },
                () = process.wait() => continue,
            };
            self.closed = Some((closed, Instant::now() + SHUTDOWN));
        }
    }
}

/// Waits until a channel takes connections, without the library's growing pauses.
async fn wait_for(address: &Address, process: &mut Process) -> Result<(), KernelError> {
    while !address.answers().await {
        if timeout(Duration::from_millis(1), process.wait()).await.is_ok() {
            return Err(process.obituary().await);
        }
    }
    Ok(())
}

/// How to start a kernel, and how if it dies so. What is written in Python stands on ipykernel's own
/// machinery, which takes Unix sockets; of others many know TCP only, or never say that they do not.
fn attempts(spec: &KernelSpec, launch: Launch) -> Vec<(Launch, Transport)> {
    let stock = is_stock(spec) && launch != Launch::Exact;
    let again = if launch == Launch::Auto { Launch::Exact } else { launch };
    match (spec.is_python(), stock) {
        (true, true) => vec![(launch, Transport::Ipc), (again, Transport::Tcp)],
        (true, false) => vec![(launch, Transport::Ipc), (launch, Transport::Tcp)],
        (false, _) => vec![(launch, Transport::Tcp), (launch, Transport::Tcp)],
    }
}
