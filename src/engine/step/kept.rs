//! What a retry from a step keeps of the run that it repeats.
//!
//! Owns which steps these are, and whether what they left is still there. Nothing is executed here.

use crate::plan::Phase;
use crate::source::Source;
use crate::spec::{Keep, Pipeline, Step, Work};
use crate::store::StepState;

/// Why nothing can be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKept {
    /// Why.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Whether what a step made went with its run: an object without a condition of success is there to be used.
fn is_gone(step: &Step) -> bool {
    let Work::Resource(resource) = step.work() else { return false };
    resource.success.is_none() && resource.keep != Keep::Always
}

/// The states that a retry from a step keeps, of all those that a run left: of every step that succeeded, but for
/// that one and those behind it, and for objects that went with that run, which are made anew.
///
/// # Errors
/// The pipeline has no such step, or one that it needs did not succeed.
pub fn kept(
    pipeline: &Pipeline,
    states: &[StepState],
    from: &str,
) -> Result<Vec<StepState>, NotKept> {
    let steps = pipeline.steps();
    let Some(start) = steps.iter().position(|step| step.name() == from) else {
        let names: Vec<&str> = steps.iter().map(Step::name).collect();
        return Err(NotKept {
            message: format!("pipeline `{}` has no step `{from}`", pipeline.name()),
            hint: format!("its steps are {}", names.join(", ")),
        });
    };
    let succeeded = |name: &str| {
        states.iter().any(|s| s.record.name == name && s.record.phase == Phase::Succeeded)
    };
    let needed = pipeline.graph().ancestors(start);
    if let Some(name) =
        needed.iter().map(|&before| steps[before].name()).find(|name| !succeeded(name))
    {
        return Err(NotKept {
            message: format!("step `{name}`, which `{from}` needs, did not succeed in that run"),
            hint: format!("retry from `{name}`, or without --from"),
        });
    }
    let behind = |at: usize| at == start || pipeline.graph().ancestors(at).contains(&start);
    let stays = |state: &&StepState| {
        let own = |at: &usize| steps[*at].name() == state.record.base_name();
        let at = (0..steps.len()).find(own);
        let keeps = |at: usize| !behind(at) && succeeded(steps[at].name()) && !is_gone(&steps[at]);
        at.is_some_and(keeps)
    };
    Ok(states.iter().filter(stays).cloned().collect())
}

/// The first file of kept steps that is gone or another by now.
pub fn missing(source: &mut dyn Source, kept: &[StepState]) -> Option<String> {
    for artifact in kept.iter().flat_map(|state| &state.record.artifacts) {
        let present = source.digest(&artifact.path);
        // Of a notebook only the code is compared: a person may have opened it since.
        let notebook = artifact.path.ends_with(".ipynb");
        if present.is_none_or(|present| !notebook && present != artifact.digest) {
            return Some(format!(
                "MissingOutput: `{}` ({}) is gone or is another than that run left",
                artifact.name, artifact.path
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::StepRecord;
    use crate::spec::parse;

    fn state(name: &str, index: Option<usize>, phase: Phase) -> StepState {
        let mut record = StepRecord::pending(name, index, String::new());
        record.phase = phase;
        StepState { record, failures: 0, interruptions: 0 }
    }

    #[test]
    fn an_object_that_went_with_its_run_is_made_anew() {
        let object = "manifest: {apiVersion: v1, kind: Service}";
        let yaml = format!(
            "steps:\n  gone: {{resource: {{{object}}}}}\n  done: {{resource: {{{object}, success: s}}}}\n  \
             stays: {{resource: {{{object}, keep: always}}}}\n  \
             ask: {{run: x, needs: [gone, done, stays]}}\n"
        );
        let documents = parse(&yaml, "j", "f", 100);
        let states = ["gone", "done", "stays"].map(|name| state(name, None, Phase::Succeeded));
        let kept = kept(&documents.pipelines[0], &states, "ask").unwrap();
        let names: Vec<&str> = kept.iter().map(|state| state.record.name.as_str()).collect();
        assert_eq!(names, ["done", "stays"]);
    }

    #[test]
    fn what_came_before_and_beside_is_kept_and_what_comes_behind_is_not() {
        let yaml = "steps:\n  a: {run: x, sweep: {n: [1, 2]}, best: {metric: m, goal: max}}\n  \
                    b: {run: y, needs: a}\n  c: {run: z, needs: b}\n  d: {run: w}\n  e: {run: v}\n";
        let documents = parse(yaml, "j", "f", 100);
        let pipeline = &documents.pipelines[0];
        let states = [
            state("a", None, Phase::Succeeded),
            state("a", Some(0), Phase::Failed),
            state("a", Some(1), Phase::Succeeded),
            state("b", None, Phase::Failed),
            state("c", None, Phase::Skipped),
            state("d", None, Phase::Succeeded),
            state("e", None, Phase::Failed),
            state("gone", None, Phase::Succeeded),
        ];
        let names = |from: &str| {
            let kept = kept(pipeline, &states, from)?;
            Ok(kept.into_iter().map(|state| state.record.name).collect::<Vec<_>>())
        };
        assert_eq!(names("b"), Ok(["a", "a[0]", "a[1]", "d"].map(str::to_owned).to_vec()));
        assert_eq!(names("a"), Ok(vec!["d".to_owned()]));
        let refused = |from: &str| {
            let NotKept { message, hint } = names(from).unwrap_err();
            format!("{message}; {hint}")
        };
        assert_eq!(
            refused("c"),
            "step `b`, which `c` needs, did not succeed in that run; retry from `b`, or without --from"
        );
        assert!(refused("x").contains("no step `x`; its steps are a, b, c, d, e"));
    }
}
