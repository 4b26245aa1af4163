//! What a person meant by an unknown key: the nearest known one, or another tool's word for it.
//!
//! Owns the table of other tools' words.

/// Words of GitHub Actions, Argo, Ploomber, Kestra, Dagster, DVC and others for our keys.
const OTHER_WORDS: &[(&str, &[&str])] = &[
    (
        "needs",
        &[
            "dependsOn",
            "depends_on",
            "depends",
            "upstream",
            "deps",
            "after",
            "dependencies",
            "requires",
        ],
    ),
    ("sweep", &["matrix", "grid", "foreach", "withItems", "withParam", "strategy"]),
    ("steps", &["jobs", "tasks", "stages", "templates", "ops", "assets"]),
    ("triggers", &["on", "push", "cron", "schedule", "schedules", "trigger"]),
    (
        "params",
        &["parameters", "args", "arguments", "inputs", "vars", "variables", "with", "config"],
    ),
    ("run", &["command", "script", "cmd", "commands", "shell", "uses"]),
    ("outputs", &["outs", "products", "product", "artifacts", "output"]),
    ("notebook", &["source", "nb", "path", "file", "papermill", "input_path"]),
    ("name", &["id", "pipeline", "metadata"]),
    ("inputs", &["deps", "watch", "files"]),
    ("timeout", &["timeout-minutes", "activeDeadlineSeconds", "execution_timeout"]),
    ("retries", &["retry", "retryStrategy", "maxRetries"]),
    ("image", &["container", "dockerImage", "docker_image"]),
    ("env", &["environment"]),
    ("workdir", &["working-directory", "wdir", "workingDir", "cwd"]),
    ("kernel", &["kernelspec", "kernelspec_name", "kernel_name"]),
    ("cron", &["schedule", "expression"]),
    ("timezone", &["tz", "time_zone", "timeZone"]),
    ("missed", &["catchup", "recoverMissedSchedules", "startingDeadlineSeconds"]),
    ("concurrency", &["concurrencyPolicy"]),
    ("flow", &["dag", "dags", "pipeline", "graph"]),
    ("cpu", &["cpus", "cores"]),
    ("memory", &["mem", "ram"]),
    ("gpu", &["gpus", "nvidia.com/gpu"]),
];

/// A hint for an unknown key, given the known ones.
pub fn for_key(key: &str, known: &[&'static str]) -> Option<String> {
    if key == "on" && known.contains(&"triggers") {
        return Some("write `triggers:`; YAML 1.1 tools read a bare `on` as true".into());
    }
    let same = |word: &str| word.eq_ignore_ascii_case(key);
    let known_word = known.iter().copied().find(|word| same(word));
    let other = || {
        OTHER_WORDS
            .iter()
            .find(|(ours, theirs)| known.contains(ours) && theirs.iter().any(|word| same(word)))
            .map(|(ours, _)| *ours)
    };
    let found = known_word.or_else(other).or_else(|| nearest(key, known.iter().copied()));
    Some(match found {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known keys: {}", known.join(", ")),
    })
}

/// The nearest word by spelling, if one is near enough to be meant.
pub fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    words
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= word.chars().count().div_ceil(3).min(3))
        .filter(|(distance, word)| *distance < word.chars().count())
        .min()
        .map(|(_, word)| word)
}
