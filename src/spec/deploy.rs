//! Deployments: which output is the model, under which conditions, and where it is named.
//!
//! Owns reading `deploy`. Proposing is later work; here a file is validated to the letter.

use serde_json::Value;

use super::reference::{Reference, Template, is_name_character};
use super::shape::Report;
use super::yaml::Node;
use crate::types::Period;

/// A validated deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// The step whose output is the model.
    pub step: String,
    /// The output.
    pub output: String,
    /// Conditions, all of which must hold.
    pub gates: Vec<Gate>,
    /// Whether an incumbent must exist.
    pub incumbent: Incumbent,
    /// The deployment that comes before.
    pub after: Option<String>,
    /// How long that one must have stood.
    pub soak: Option<Period>,
    /// Merge without a person.
    pub auto_merge: bool,
    /// Propose nothing.
    pub suspend: bool,
    /// The proposal's place and values, as in the file.
    pub pull_request: Value,
}

/// Whether a comparison with the incumbent needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incumbent {
    /// Gates that mention it pass without one.
    Optional,
    /// Gates that mention it fail without one.
    Required,
}

/// `METRIC OP number` or `METRIC OP incumbent.METRIC [± number]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The candidate's metric.
    pub metric: String,
    /// `<`, `<=`, `>`, `>=`, `==` or `!=`.
    pub operator: &'static str,
    /// What it is compared with.
    pub operand: Operand,
}

/// The right side of a gate.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A number.
    Number(f64),
    /// The incumbent's metric and what is added to it.
    Incumbent(String, f64),
}

impl Gate {
    /// Parses a condition.
    ///
    /// # Errors
    /// Says the grammar.
    pub fn parse(text: &str) -> Result<Self, String> {
        const OPERATORS: [&str; 6] = ["<=", ">=", "==", "!=", "<", ">"];
        let refuse = || {
            format!(
                "{text:?} is no gate: wanted METRIC OP NUMBER or METRIC OP incumbent.METRIC \
                 with an optional + or - NUMBER, where OP is one of < <= > >= == !="
            )
        };
        let (at, operator) = text
            .char_indices()
            .find_map(|(at, _)| {
                OPERATORS
                    .iter()
                    .find(|operator| text[at..].starts_with(**operator))
                    .map(|op| (at, *op))
            })
            .ok_or_else(refuse)?;
        let name = |text: &str| !text.is_empty() && text.chars().all(is_name_character);
        let metric = text[..at].trim();
        let right = text[at + operator.len()..].trim();
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        let operand = match right.strip_prefix("incumbent.") {
            None => Operand::Number(number(right).ok_or_else(refuse)?),
            Some(rest) => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let (metric, add) = match words[..] {
                    [metric] => (metric, 0.0),
                    [metric, "+", value] => (metric, number(value).ok_or_else(refuse)?),
                    [metric, "-", value] => (metric, -number(value).ok_or_else(refuse)?),
                    _ => return Err(refuse()),
                };
                if !name(metric) {
                    return Err(refuse());
                }
                Operand::Incumbent(metric.to_owned(), add)
            }
        };
        if !name(metric) {
            return Err(refuse());
        }
        Ok(Self { metric: metric.to_owned(), operator, operand })
    }
}

/// Reads the checked `deploy` map.
pub(super) fn read(node: &Node, report: &mut Report<'_>) -> Vec<Deployment> {
    let names: Vec<&str> = node.entries().iter().map(|(key, _)| key.text.as_str()).collect();
    node.entries()
        .iter()
        .filter_map(|(key, node)| {
            let model = node.get("model")?;
            let (step, output) = if let Ok(
                [super::reference::Part::Reference(Reference::Output { step, name, .. })],
            ) = Template::parse(model.text()?).as_ref().map(Template::parts)
            {
                (step.clone(), name.clone())
            } else {
                let message = "`model` must be one reference to an output of a step";
                report.error(model.place, message).hint =
                    Some("for example {{ steps.train.outputs.model }}".into());
                return None;
            };
            let mut gates = Vec::new();
            for gate in node.get("gates").map(Node::items).unwrap_or_default() {
                match gate.text().map(Gate::parse) {
                    Some(Ok(gate)) => gates.push(gate),
                    Some(Err(message)) => {
                        report.error(gate.place, message);
                    }
                    None => {}
                }
            }
            let text = |name: &str| node.get(name).and_then(Node::text);
            if let Some(after) = text("after")
                && (after == key.text || !names.contains(&after))
            {
                let place = node.get("after").map_or(node.place, |node| node.place);
                report.error(place, format!("`after`: there is no other deployment {after:?}"));
            }
            let pull_request = node.get("pullRequest")?;
            for (name, value) in pull_request.get("set").map(Node::entries).unwrap_or_default() {
                if let Some(Err(message)) = value.text().map(Template::parse) {
                    report.error(value.place, format!("`set` {:?}: {message}", name.text));
                }
            }
            Some(Deployment {
                name: key.text.clone(),
                step,
                output,
                gates,
                incumbent: match text("incumbent") {
                    Some("required") => Incumbent::Required,
                    _ => Incumbent::Optional,
                },
                after: text("after").map(str::to_owned),
                soak: text("soak").and_then(|text| text.parse().ok()),
                auto_merge: node.get("autoMerge").and_then(Node::boolean).unwrap_or(false),
                suspend: node.get("suspend").and_then(Node::boolean).unwrap_or(false),
                pull_request: pull_request.json(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_parse() {
        let gate = Gate::parse("auc >= 0.80").unwrap();
        assert_eq!((gate.metric.as_str(), gate.operator), ("auc", ">="));
        assert_eq!(gate.operand, Operand::Number(0.8));
        let gate = Gate::parse("auc > incumbent.auc - 0.01").unwrap();
        assert_eq!(gate.operand, Operand::Incumbent("auc".into(), -0.01));
        for text in
            ["auc", "auc > ", "> 1", "auc > b", "auc > incumbent.auc * 2", "a b > 1", "a > inf"]
        {
            assert!(Gate::parse(text).is_err(), "{text}");
        }
    }
}
