//! Schedules: from a crontab line and a time zone to the instants that are due.
//!
//! Owns crontab semantics, what happens at clock changes, and what counts as missed. Pure: `now`
//! is an argument, and time zones come from the embedded database.

mod admission;
mod cron;

pub use admission::{MissedPolicy, Verdict, admit};
pub use cron::{Cron, Zone};
