//! Names, ids, digests and durations as types: the words that every room shares.
//!
//! Owns the alphabet and the length of each kind of name, and how it prints. It must not know
//! where a name comes from, read a clock, or touch files.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Serde by `Display` and `FromStr`.
macro_rules! text_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string" })
            }
        }
    };
}
/// A number with the word for one or for several: `1 tick`, `3 ticks`.
pub fn counted(count: impl TryInto<u64>, one: &str, several: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {several}"),
    }
}

/// An instant in UTC, the only kind of time the core knows. It is always an argument.
pub type Timestamp = jiff::Timestamp;

/// A SHA-256 digest, printed as `sha256:HEX`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Digest of raw bytes, for files and artifacts.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Digest of a JSON value in canonical form (RFC 8785), opened by a version tag, so that a
    /// later format can never be taken for this one.
    pub fn of_json(tag: &str, value: &serde_json::Value) -> Self {
        let tagged = serde_json::json!([tag, value]);
        let text = serde_json_canonicalizer::to_string(&tagged)
            .expect("a JSON value with finite numbers has a canonical form");
        Self::of_bytes(text.as_bytes())
    }

    /// The 64 hexadecimal digits without the `sha256:` prefix.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let sound = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !sound {
            return Err(InvalidName::new("a digest", text, "sha256: and 64 hexadecimal digits"));
        }
        Ok(Self(hex.to_owned()))
    }
}

text_serde!(Digest);

/// A digest in the making, for content that is read in pieces.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces in order.
    pub fn finish(self) -> Digest {
        let mut hex = String::with_capacity(64);
        for byte in self.0.finalize() {
            use fmt::Write as _;
            write!(hex, "{byte:02x}").expect("writing to a string never fails");
        }
        Digest(hex)
    }
}

/// A text that is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}: wanted {rule}")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    /// Describes what was wanted and what stood there.
    pub fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.to_owned(), rule }
    }
}

/// An error with its causes, each said once.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// A pipeline's name: a DNS label (RFC 1123) of at most 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipelineName(String);

impl PipelineName {
    /// Longest name, in characters.
    pub const MAX: usize = 40;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PipelineName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_dns_label(text, Self::MAX) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "at most 40 of a-z, 0-9 and -, beginning and ending with a letter or digit";
        Err(InvalidName::new("a pipeline name", text, rule))
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_serde!(PipelineName);

fn is_dns_label(text: &str, max: usize) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes.iter().all(|&byte| edge(byte) || byte == b'-')
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
}

/// Lower case, with one `-` for every run of characters other than `a-z0-9`, none at the ends,
/// cut to `max` characters. Empty where nothing is left.
pub fn slug(text: &str, max: usize) -> String {
    let mut out = String::new();
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            out.push(character);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(max);
    out.truncate(out.trim_end_matches('-').len());
    out
}

/// Which pipeline: the source's name, the folder of its file within the source (empty at the
/// root, `/` between parts), and its name. A URL, an absolute path or a uid is never part of it,
/// so a moved home or a recreated source is the same pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PipelineId {
    /// `local`, or `namespace/name` of a source, with `@branch` where a pattern matched several.
    pub source: String,
    /// Folder of the pipeline file, relative to the source's root; empty at the root.
    pub folder: String,
    /// The pipeline's name.
    pub name: PipelineName,
}

impl PipelineId {
    /// Whether its file lies in a folder or anywhere below it; the empty one is the root.
    pub fn is_below(&self, folder: &str) -> bool {
        let rest = self.folder.strip_prefix(folder);
        folder.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// How a person names it where the bare name is not unique: `FOLDER:NAME`.
    pub fn qualified(&self) -> String {
        format!("{}:{}", self.folder, self.name)
    }
}

impl fmt::Display for PipelineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.folder.is_empty() {
            write!(formatter, "{}", self.name)
        } else {
            write!(formatter, "{}:{}", self.folder, self.name)
        }
    }
}

/// Why a run is wanted. Which kinds exist is fixed by the file format.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum TriggerKind {
    /// The pipeline's digest changed.
    Change,
    /// A scheduled instant came.
    Schedule,
    /// The newest success is too old.
    Stale,
    /// A URL said that a run is needed.
    Check,
    /// Other pipelines succeeded.
    Pipelines,
    /// A pull request changes this pipeline.
    PullRequest,
    /// A person or a program asked.
    Manual,
}

impl TriggerKind {
    /// The word used in files, documents and identities.
    pub fn word(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Schedule => "schedule",
            Self::Stale => "stale",
            Self::Check => "check",
            Self::Pipelines => "pipelines",
            Self::PullRequest => "pullRequest",
            Self::Manual => "manual",
        }
    }
}

impl fmt::Display for TriggerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// A run's id: the digest of its identity (pipeline, trigger kind, trigger key).
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct RunId(Digest);

impl RunId {
    /// The id of the run that answers this trigger key of this pipeline.
    pub fn new(pipeline: &PipelineId, kind: TriggerKind, key: &str) -> Self {
        let identity = serde_json::json!([
            [pipeline.source, pipeline.folder, pipeline.name.as_str()],
            kind.word(),
            key
        ]);
        Self(Digest::of_json("jupyterflow/run/v1", &identity))
    }

    /// The run's name, `PIPELINE[-INSTANT]-HASH`: the pipeline cut to 24 characters, the nominal
    /// instant for schedules only, and 16 hexadecimal digits of the identity.
    pub fn name(&self, pipeline: &PipelineName, scheduled_at: Option<Timestamp>) -> RunName {
        let stem: String = pipeline.as_str().chars().take(24).collect();
        let stem = stem.trim_end_matches('-');
        let hash = &self.0.hex()[..16];
        RunName(match scheduled_at {
            Some(instant) => {
                let instant = instant.strftime("%Y%m%dt%H%Mz");
                format!("{stem}-{instant}-{hash}")
            }
            None => format!("{stem}-{hash}"),
        })
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A run's name: a DNS label that no clock reading enters, never used again for another run.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct RunName(String);

impl RunName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that was written by this program earlier (a row, a folder). Anything that could
    /// leave the results folder is refused.
    pub fn from_stored(text: &str) -> Result<Self, InvalidName> {
        if is_dns_label(text, 63) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName::new("a run name", text, "a DNS label of at most 63 characters"))
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A length of time in whole seconds, written `1h30m`: integers with `s m h d w`, joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period(u64);

const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl Period {
    /// A period of this many seconds.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// The same length for the standard library's clocks.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse =
            || InvalidName::new("a duration", text, "integers with s, m, h, d or w: 1h30m");
        let mut total: u64 = 0;
        let mut digits = String::new();
        for character in text.chars() {
            if character.is_ascii_digit() {
                digits.push(character);
                continue;
            }
            let unit = UNITS.iter().find(|(letter, _)| *letter == character).ok_or_else(refuse)?.1;
            let count: u64 = digits.parse().map_err(|_| refuse())?;
            total =
                count.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(refuse)?;
            digits.clear();
        }
        // A hundred years is beyond any use here, and keeps date arithmetic inside its range.
        if text.is_empty() || !digits.is_empty() || total > 100 * 366 * 86_400 {
            return Err(refuse());
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0s");
        }
        let mut rest = self.0;
        for (letter, unit) in UNITS {
            if rest >= unit {
                write!(formatter, "{}{letter}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

text_serde!(Period);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600)]
        {
            assert_eq!(text.parse::<Period>().unwrap().seconds(), seconds, "{text}");
        }
        assert_eq!("90m".parse::<Period>().unwrap().to_string(), "1h30m");
        for text in
            ["", "5", "h", "1.5h", "-1h", "1h 30m", "1y", "99999999999999999999s", "9999999w"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn slugs_are_dns_labels_or_empty() {
        assert_eq!(slug("My Pipeline (v2)", 40), "my-pipeline-v2");
        assert_eq!(slug("한국어", 40), "");
        assert_eq!(slug("Ünïcode--x", 40), "n-code-x");
        assert_eq!(slug("abc-def", 4), "abc");
    }

    #[test]
    fn run_names_hold_no_clock_reading() {
        let pipeline = PipelineId {
            source: "local".into(),
            folder: "a/b".into(),
            name: "a-very-long-pipeline-name-indeed".parse().unwrap(),
        };
        let id = RunId::new(&pipeline, TriggerKind::Schedule, "2026-11-22T03:00:00Z");
        let instant = "2026-11-22T03:00:00Z".parse().unwrap();
        let name = id.name(&pipeline.name, Some(instant));
        assert!(name.as_str().starts_with("a-very-long-pipeline-nam-20261122t0300z-"), "{name}");
        assert_eq!(name, id.name(&pipeline.name, Some(instant)));
        assert!(RunName::from_stored(name.as_str()).is_ok());
        assert!(RunName::from_stored("../x").is_err());
    }

    #[test]
    fn folders_are_told_by_their_parts() {
        let id = PipelineId {
            source: "local".into(),
            folder: "a/bc".into(),
            name: "p".parse().unwrap(),
        };
        for (folder, below) in
            [("", true), ("a", true), ("a/bc", true), ("a/b", false), ("c", false)]
        {
            assert_eq!(id.is_below(folder), below, "{folder}");
        }
    }

    #[test]
    fn digests_of_json_ignore_key_order_but_not_the_tag() {
        let one = Digest::of_json("v1", &serde_json::json!({"a": 1, "b": [1.0, "x"]}));
        let two = Digest::of_json("v1", &serde_json::json!({"b": [1, "x"], "a": 1}));
        assert_eq!(one, two);
        assert_ne!(one, Digest::of_json("v2", &serde_json::json!({"a": 1, "b": [1, "x"]})));
        assert_eq!(one.to_string().parse::<Digest>().unwrap(), one);
    }
}
