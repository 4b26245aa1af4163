//! `plan`: what a pass would do, and for all else why not. It changes nothing.

use std::path::PathBuf;

use super::documents::PlanDocument;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::session::Session;
use crate::plan::{Plan, Reason};
use crate::spec::{Problem, Severity};
use crate::types::Timestamp;

/// Show what a pass would do, and for all else why not
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder or a pipeline file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Plan as if it were this instant (RFC 3339)
    #[arg(long, value_name = "INSTANT")]
    at: Option<String>,
    /// Exit with 3 when something would be done
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let at = args.at.as_deref().map(instant).transpose()?;
    let mut session = Session::to_read(global, &args.path)?;
    let look = session.look_twice(|| at.unwrap_or_else(Timestamp::now))?;
    let plan = &look.plan;
    let document = PlanDocument::from(plan);
    let names = || plan.actions().filter_map(|(_, action)| action.run()).map(ToString::to_string);
    print::document(global.output, "Plan", &document, || table(plan), || names().collect())?;
    let mut code = problems_code(&plan.problems);
    if plan.not_done().any(|not_done| not_done.reason == Reason::SourceUnreadable) {
        code = code.worse(Code::Unreachable);
    }
    if args.check && !plan.is_empty() {
        code = code.worse(Code::WouldAct);
    }
    Ok(code)
}

/// An instant as a person writes it.
pub fn instant(text: &str) -> Result<Timestamp, CliError> {
    text.parse().map_err(|_| {
        CliError::usage(format!("{text:?} is no instant"))
            .hint("write it as in RFC 3339: 2026-11-22T03:00:00Z")
    })
}

/// The exit code that problems of files demand.
pub fn problems_code(problems: &[Problem]) -> Code {
    let bad = problems.iter().any(|problem| problem.severity == Severity::Error);
    if bad { Code::Usage } else { Code::Done }
}

/// A plan as a table; problems go to stderr, with their lines.
pub fn table(plan: &Plan) -> String {
    for problem in &plan.problems {
        print::problem(problem);
    }
    let actions = plan.actions().map(|(id, action)| {
        let run = action.run().map(ToString::to_string).unwrap_or_default();
        vec![action.word().to_owned(), id.to_string(), run, action.reason()]
    });
    let actions: Vec<Vec<String>> = actions.collect();
    let rest = plan.not_done().map(|not_done| {
        let until = not_done.until.map(|at| format!(" (until {at:.0})")).unwrap_or_default();
        let words = format!("{}{until}", not_done.message);
        vec![not_done.pipeline.clone(), not_done.reason.to_string(), words]
    });
    let rest: Vec<Vec<String>> = rest.collect();
    let mut parts = Vec::new();
    if !actions.is_empty() {
        parts.push(print::table(&["ACTION", "PIPELINE", "RUN", "BECAUSE"], actions));
    }
    if !rest.is_empty() {
        parts.push(print::table(&["NOT DONE", "REASON", "MESSAGE"], rest));
    }
    if parts.is_empty() {
        return "no pipeline here; `jupyterflow init` writes a first one".into();
    }
    parts.join("\n\n")
}
