//! The kernel's process: started in a group of its own, ended with all that it left in it.
//!
//! Owns the process, its environment, its error stream and its exit. It must not know the protocol.

#![expect(unsafe_code, reason = "the child asks the kernel of the machine to die with its parent")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;

use super::kernel::KernelError;
use super::kernelspec::KernelSpec;

/// How much of a kernel's own error stream is kept for messages.
const STDERR_KEPT: usize = 64 << 10;

/// A kernel's process.
pub struct Process {
    child: tokio::process::Child,
    group: Pid,
    stderr: tokio::task::JoinHandle<Vec<u8>>,
    /// How it ended, once that was seen.
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts the command line of a kernelspec in a working directory.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(spec: &KernelSpec, argv: &[String], folder: &Path) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Spawn {
            name: spec.name.clone(),
            program: argv[0].clone(),
            source,
        };
        let mut command = tokio::process::Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .current_dir(folder)
            .envs(spec.environment())
            .env("JPY_PARENT_PID", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A session of its own, as with papermill: a kernel that shared our terminal would be stopped
        // when it touches it. SAFETY: between fork and exec only two system calls are made, which are
        // async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(failed)?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = group.ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        let mut stream = child.stderr.take();
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
        Ok(Self { child, group, stderr, exit: None })
    }

    /// Whether its end was seen.
    pub fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    /// Waits for its end.
    pub async fn wait(&mut self) {
        let status = self.child.wait().await;
        self.exit = Some(status.unwrap_or_else(|_| ExitStatus::from_raw(0)));
    }

    /// Sends the signal that Ctrl-C sends, to the whole group.
    pub fn interrupt(&self) {
        let _ = rustix::process::kill_process_group(self.group, Signal::INT);
    }

    /// Ends the process group at once, and waits.
    pub async fn kill(&mut self) {
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        self.wait().await;
    }

    /// The error of a kernel that died, with what it wrote last.
    pub async fn obituary(&mut self) -> KernelError {
        let rest = tokio::time::timeout(Duration::from_millis(500), &mut self.stderr).await;
        let bytes = rest.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let last: Vec<&str> = text.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let stderr = if last.is_empty() { String::new() } else { format!("\n{}", last.join("\n")) };
        KernelError::Died { how: self.exit.map_or("it ended".into(), in_words), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
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
