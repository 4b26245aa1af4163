//! What an execution leaves for other programs: its outputs and why it ended.
//!
//! Owns `outputs.json` and the conventions by which notebooks show values: scrapbook's scraps,
//! papermill's records, and our own MIME type.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::execute::Ending;
use crate::notebook::Notebook;

/// The MIME type of a display whose keys are outputs.
const OUTPUTS_MIME: &str = "application/vnd.jupyterflow.outputs+json";

/// The document `outputs.json`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outputs {
    /// Version of the document.
    pub api_version: String,
    /// `Outputs`.
    pub kind: String,
    /// How it ended.
    pub phase: EndingPhase,
    /// Why, in words; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Named values.
    pub outputs: IndexMap<String, Value>,
    /// The finite numbers among them.
    pub metrics: IndexMap<String, f64>,
}

/// How an execution ended, as far as a scheduler cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndingPhase {
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
    /// By a signal to the executor: not the notebook's fault.
    Interrupted,
}

impl Outputs {
    /// The document of an ending.
    pub fn new(
        phase: EndingPhase,
        message: Option<String>,
        outputs: IndexMap<String, Value>,
    ) -> Self {
        let metrics = finite_numbers(&outputs);
        Self {
            api_version: "jupyterflow.io/v1alpha1".into(),
            kind: "Outputs".into(),
            phase,
            message,
            outputs,
            metrics,
        }
    }
}

/// The finite numbers among values.
pub fn finite_numbers(values: &IndexMap<String, Value>) -> IndexMap<String, f64> {
    let numbers = values.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    numbers.filter(|(_, number)| number.is_finite()).collect()
}

/// The values that an executed notebook shows, weakest convention first, the last of a name wins.
pub fn collect(notebook: &Notebook) -> IndexMap<String, Value> {
    let mut scraps = IndexMap::new();
    let mut displays = IndexMap::new();
    for output in notebook.cells.iter().flat_map(crate::notebook::Cell::outputs) {
        let Some(data) = output.get("data").map(crate::notebook::json::Raw::object) else {
            continue;
        };
        for (mime, value) in data.entries() {
            if mime == OUTPUTS_MIME {
                displays.extend(value.view::<IndexMap<String, Value>>().unwrap_or_default());
            } else if mime == "application/papermill.record+json" {
                scraps.extend(value.view::<IndexMap<String, Value>>().unwrap_or_default());
            } else if let Some(encoder) = mime.strip_prefix("application/scrapbook.scrap.") {
                let scrap: Value = value.view().unwrap_or_default();
                let wanted = matches!(encoder, "json+json" | "text+json");
                if let (true, Some(name), Some(data)) =
                    (wanted, scrap["name"].as_str(), scrap.get("data"))
                {
                    scraps.insert(name.to_owned(), data.clone());
                }
            }
        }
    }
    scraps.extend(displays);
    scraps
}

impl Ending {
    /// The phase and the words of this ending.
    pub fn describe(&self) -> (EndingPhase, Option<String>) {
        match self {
            Self::Succeeded => (EndingPhase::Succeeded, None),
            Self::CellFailed { cell, error, .. } => {
                let message = format!("cell {cell} raised {}: {}", error.name, error.value);
                (EndingPhase::Failed, Some(message))
            }
            Self::TimedOut { cell, seconds } => {
                (EndingPhase::Failed, Some(format!("cell {cell} took longer than {seconds} s")))
            }
            Self::Kernel(message) | Self::Save(message) => {
                (EndingPhase::Failed, Some(message.clone()))
            }
            Self::Signalled(number) => {
                (EndingPhase::Interrupted, Some(format!("ended by signal {number}")))
            }
        }
    }

    /// The exit code of the process: 0, 1, or 128 and the signal's number.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Succeeded => 0,
            Self::CellFailed { .. } | Self::TimedOut { .. } | Self::Kernel(_) | Self::Save(_) => 1,
            Self::Signalled(number) => 128 + number,
        }
    }
}
