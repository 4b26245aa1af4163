//! Names of steps as Argo takes them, and what Argo makes of them.
//!
//! Owns both directions: a step's task, and the step of a node.

use std::collections::HashSet;

use crate::spec::Pipeline;
use crate::types::slug;

/// The name of each step's task and template, in the order of the pipeline: of letters, digits and `-`,
/// each once, with a letter first. A step keeps its name where Argo takes it.
pub fn tasks(pipeline: &Pipeline) -> Vec<String> {
    let steps: Vec<&str> = pipeline.steps().iter().map(crate::spec::Step::name).collect();
    let sound = |name: &str| name.starts_with(|first: char| first.is_ascii_lowercase());
    let kept = |name: &str| slug(name, 40) == name && name != MAIN && sound(name);
    let mut taken: HashSet<String> =
        steps.iter().filter(|name| kept(name)).map(|name| (*name).to_owned()).collect();
    let named = steps.iter().map(|name| {
        if kept(name) {
            return (*name).to_owned();
        }
        let mut slug = slug(name, 40);
        if !sound(&slug) {
            slug.insert_str(0, "s-");
            slug.truncate(slug.trim_end_matches('-').len());
        }
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let own = (slug != MAIN).then_some(slug.clone());
        let free = own.into_iter().chain(numbered).find(|name| !taken.contains(name));
        let free = free.unwrap_or_default();
        taken.insert(free.clone());
        free
    });
    named.collect()
}

/// The template of the whole graph.
pub const MAIN: &str = "main";
/// The part of a resource step that gives values to its manifest.
pub const VALUES: &str = "values";
/// The part of a resource step that is its object.
pub const OBJECT: &str = "object";
/// The part of a resource step that tells of it.
pub const TELL: &str = "tell";

/// The part of a resource step that a node is, and the node of the attempt that the part belongs to.
pub fn part_of(node: &str) -> Option<(&str, &'static str)> {
    let (attempt, part) = node.rsplit_once('.')?;
    let part = part.split('(').next()?;
    let part = [VALUES, OBJECT, TELL].into_iter().find(|known| *known == part)?;
    Some((attempt, part))
}

/// The task that a node belongs to, and the point of its sweep: nodes are named
/// `WORKFLOW.TASK(INDEX:ITEM)(RETRY).attempt(RETRY)`, where only the first two parts are always there.
pub fn task_of<'a>(workflow: &str, node: &'a str) -> Option<(&'a str, Option<usize>)> {
    let rest = node.strip_prefix(workflow)?.strip_prefix('.')?;
    let end = rest.find(['(', '.']).unwrap_or(rest.len());
    let (task, rest) = rest.split_at(end);
    let first = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let index = first.and_then(|(inside, _)| inside.split_once(':')?.0.parse().ok());
    Some((task, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn named(steps: &[&str]) -> Vec<String> {
        let steps: String =
            steps.iter().map(|name| format!("  \"{name}\": {{run: x}}\n")).collect();
        let documents = parse(&format!("steps:\n{steps}"), "j", "f", 100);
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
        tasks(&documents.pipelines[0])
    }

    #[test]
    fn each_task_has_a_name_of_its_own() {
        assert_eq!(named(&["prepare", "train"]), ["prepare", "train"]);
        assert_eq!(named(&["main"]), ["main-1"]);
        for steps in [
            ["a_b", "a-b", "A-B"],
            ["a-b-0", "a_b", "a-b"],
            ["ä", "ö", "0"],
            ["01_load", "s-01-load", "1"],
        ] {
            let names = named(&steps);
            assert!(
                names
                    .iter()
                    .all(|name| *name == slug(name, 40) && name.as_bytes()[0].is_ascii_lowercase()),
                "{names:?}"
            );
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), 3, "{names:?}");
        }
    }

    #[test]
    fn nodes_tell_their_task_and_point() {
        assert_eq!(task_of("w", "w.train"), Some(("train", None)));
        assert_eq!(task_of("w", "w.train(0)"), Some(("train", None)));
        assert_eq!(task_of("w", "w.train(12:12)(1).attempt(0)"), Some(("train", Some(12))));
        assert_eq!(task_of("w", "w.train(1).attempt(0)"), Some(("train", None)));
        assert_eq!(task_of("w", "w"), None);
        assert_eq!(task_of("w", "other.train"), None);
    }
}
