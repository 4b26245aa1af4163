//! What a pod is told, and what it tells: as text that no template language can take for its own.
//!
//! Owns the packing. A value of a user may hold braces or quotes; packed, it is letters and digits.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checkout::Checkout;
use crate::engine::step::retelling::Attempt;
use crate::plan::Run;
use crate::spec::Fingerprint;
use crate::store::RunSpec;

/// The longest packed text, in bytes: the kernel takes arguments of at most 128 KiB, and Argo puts a
/// pod's whole template into one variable.
pub const LONGEST: usize = 96 << 10;

/// What every pod of a run is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The run, without its steps.
    pub run: Run,
    /// What it executes.
    pub spec: RunSpec,
    /// The source's root in the pod; of a repository, where its results go.
    pub root: String,
    /// Where the run's commit comes from; none where its files lie in the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<Checkout>,
    /// Whether results go to an object store: the root is the pod's own, and Argo carries them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
    /// Variables whose values Argo would take for its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
}

/// What a pod tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// The attempt, if it came to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// What the run's files were when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beginning: Option<Beginning>,
}

/// What the files of a run were when it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Beginning {
    /// Those that it was claimed for.
    Claimed,
    /// Others, which it took.
    Taken(Box<Fingerprint>),
    /// Others, which are another change's: it does nothing.
    MovedOn,
    /// Files that are not whole.
    Broken(String),
}

/// Packs a value.
///
/// # Errors
/// In words: it is too long.
pub fn pack(value: &impl Serialize) -> Result<String, String> {
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&json).map_err(|error| error.to_string())?;
    let text = STANDARD.encode(encoder.finish().map_err(|error| error.to_string())?);
    if text.len() > LONGEST {
        let (long, most) = (text.len() >> 10, LONGEST >> 10);
        return Err(format!("{long} KiB when packed, where a pod can be given {most}"));
    }
    Ok(text)
}

/// Unpacks one.
///
/// # Errors
/// In words: it is none of ours.
pub fn unpack<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let mut json = String::new();
    // What was packed small may unpack large, but no larger than this.
    let mut decoder = GzDecoder::new(bytes.as_slice()).take(64 << 20);
    decoder.read_to_string(&mut json).map_err(|error| error.to_string())?;
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

/// Unpacks what one pod told, or the list of what several did, as Argo gives it. What a pod did not
/// tell is left out.
///
/// # Errors
/// In words: it is none of ours.
pub fn unpack_all(text: &str) -> Result<Vec<Told>, String> {
    let listed = serde_json::from_str::<Vec<String>>(text);
    let texts = listed.unwrap_or_else(|_| vec![text.to_owned()]);
    texts.iter().filter(|text| !text.is_empty()).map(|text| unpack(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_packed_holds_no_braces_and_comes_back() {
        let value = json!({"a": "{{workflow.name}}\" \\ {{=1}}", "b": [1.5, null]});
        let text = pack(&value).unwrap();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)), "{text}");
        assert_eq!(unpack::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn one_or_several_pods_are_read() {
        let told = pack(&Told::default()).unwrap();
        assert_eq!(unpack_all(&told).unwrap().len(), 1);
        assert_eq!(unpack_all(&json!([told, "", told]).to_string()).unwrap().len(), 2);
        assert_eq!(unpack_all("").unwrap().len(), 0);
        assert!(unpack_all("{{tasks.a.outputs.parameters.told}}").is_err());
    }

    #[test]
    fn what_is_too_long_says_so() {
        let noise: Vec<u32> = (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761)).collect();
        assert!(pack(&noise).unwrap_err().contains("a pod can be given 96"));
    }
}
