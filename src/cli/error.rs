//! What went wrong, for a person and for a script.
//!
//! Owns the exit codes. Every command ends in one of them.

use std::fmt;

/// Exit codes, as documented; where several hold, the one that comes first in [`Code::worse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Done,
    /// A run or step failed.
    Failed,
    /// Bad usage, an unknown name or an invalid file.
    Usage,
    /// `plan --check` would act.
    WouldAct,
    /// A source, engine, cluster or forge cannot be reached.
    Unreachable,
    /// A second `up` on one state.
    SecondUp,
    /// A bug in jupyterflow.
    Bug,
    /// Ended by a signal.
    Signal(u8),
    /// Of a step in a pod, whose own it is.
    Step(u8),
}

impl Code {
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::WouldAct => 3,
            Self::Unreachable => 4,
            Self::SecondUp => 5,
            Self::Bug => 70,
            Self::Signal(number) => 128_u8.saturating_add(number),
            Self::Step(number) => number,
        }
    }

    /// The one of two that is reported.
    pub fn worse(self, other: Self) -> Self {
        let rank = |code: Self| match code {
            Self::Signal(_) => 0,
            Self::Bug => 1,
            Self::SecondUp => 2,
            Self::Usage => 3,
            Self::Unreachable => 4,
            Self::Failed | Self::Step(_) => 5,
            Self::WouldAct => 6,
            Self::Done => 7,
        };
        if rank(self) <= rank(other) { self } else { other }
    }
}

/// An error with its exit code and what to do next.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub code: Code,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// Bad usage, an unknown name or an invalid file.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: Code::Usage, message: message.into(), hint: None }
    }

    /// Something that is needed cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: Code::Unreachable, message: message.into(), hint: None }
    }

    /// A run or step failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: Code::Failed, message: message.into(), hint: None }
    }

    /// Something that must not happen.
    pub fn bug(error: &dyn fmt::Display) -> Self {
        let hint = Some("this is a bug in jupyterflow: please report it with the command".into());
        Self { code: Code::Bug, message: error.to_string(), hint }
    }

    /// What happened, without what to do.
    pub fn message(&self) -> String {
        self.message.clone()
    }

    /// The same error with another code.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
