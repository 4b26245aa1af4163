//! The table of keys: every key of a pipeline file, its shape and one sentence.
//!
//! Owns nothing but the table of DESIGN section 3. The check and the JSON Schema read it.

use super::shape::Shape::{
    Any, Boolean, Duration, Integer, Json, Label, List, Map, Memory, Nothing, Object, OneOrMany,
    Processors, Scalar, Text, Word,
};
use super::shape::{Key, Shape, Table};

const fn key(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: false, doc }
}

const fn needed(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: true, doc }
}

const TRIGGER_WORDS: Shape = Word(&["change", "pullRequest"]);

static SCHEDULE: Table = Table {
    name: "a schedule",
    keys: &[
        needed("cron", Text, "Five crontab fields, or @daily and its kin."),
        key("timezone", Text, "IANA time zone; UTC unless given."),
        key("missed", Word(&["none", "last", "all"]), "What to do with ticks more than 60 s late."),
        key("maxLateness", Duration, "Ticks later than this are skipped."),
    ],
    one_of: &[],
};

static SCHEDULE_SHAPE: Shape = Any(&[Text, Object(&SCHEDULE)], "a crontab line or a map with cron");

static STALE: Table = Table {
    name: "`stale`",
    keys: &[needed("maxAge", Duration, "A successful run at most this old must exist.")],
    one_of: &[],
};

static CHECK: Table = Table {
    name: "`check`",
    keys: &[
        needed("url", Text, "Answers with needsSync, parameters and key."),
        key("every", Duration, "How often it is asked; 5m unless given."),
        key("params", Map(&Text), "Parameters and the names in the reply that give them."),
    ],
    one_of: &[],
};

static TRIGGERS: Table = Table {
    name: "`triggers`",
    keys: &[
        key("change", Nothing, "A run for each change of notebooks, scripts, inputs or the file."),
        key(
            "schedule",
            Any(
                &[Text, List(&SCHEDULE_SHAPE), Object(&SCHEDULE)],
                "a crontab line, a map with cron, or a list",
            ),
            "A run at each instant.",
        ),
        key("stale", Object(&STALE), "A run when the newest success is too old."),
        key("check", Object(&CHECK), "A run when a URL says so."),
        key("pipelines", OneOrMany(&Label), "A run for newer successes of other pipelines."),
        key("pullRequest", Nothing, "A run for the head of each open pull request."),
    ],
    one_of: &[],
};

static HISTORY: Table = Table {
    name: "`history`",
    keys: &[
        key("successful", Integer(0, 10_000), "Successful runs that are kept; 10 unless given."),
        key("failed", Integer(0, 10_000), "Other ended runs that are kept; 10 unless given."),
    ],
    one_of: &[],
};

static PROPOSAL: Table = Table {
    name: "`pullRequest`",
    keys: &[
        needed("repo", Text, "The repository that names the model."),
        key("base", Text, "Its branch; main unless given."),
        needed("file", Text, "The file that names the model."),
        key("document", Integer(0, 1000), "Which document of the file, from 0."),
        needed("set", Map(&Text), "Fields and the values that they should have."),
        key("credentials", Text, "Name of the credentials."),
    ],
    one_of: &[],
};

static DEPLOYMENT: Table = Table {
    name: "a deployment",
    keys: &[
        needed("model", Text, "A reference to the output that is the model."),
        key("gates", List(&Text), "Conditions such as auc >= 0.80 or auc > incumbent.auc."),
        key("incumbent", Word(&["optional", "required"]), "Whether an incumbent must exist."),
        key("after", Text, "The deployment that comes before this one."),
        key("soak", Duration, "How long that one must have stood."),
        key("autoMerge", Boolean, "Merge without a person."),
        key("suspend", Boolean, "Propose nothing."),
        needed("pullRequest", Object(&PROPOSAL), "Where the model is named."),
    ],
    one_of: &[],
};

static SECRET: Table = Table {
    name: "a secret",
    keys: &[
        needed("secret", Text, "The secret's name."),
        needed("key", Text, "The key within it."),
    ],
    one_of: &[],
};

static RESOURCES: Table = Table {
    name: "`resources`",
    keys: &[
        key("cpu", Processors, "Processors."),
        key("memory", Memory, "Memory."),
        key("gpu", Integer(0, 1024), "Graphics processors."),
    ],
    one_of: &[],
};

static BEST: Table = Table {
    name: "`best`",
    keys: &[
        needed("metric", Text, "The metric that decides."),
        needed("goal", Word(&["max", "min"]), "Whether more or less is better."),
        key("allowFailed", Integer(0, 10_000), "Points that may fail; 0 unless given."),
    ],
    one_of: &[],
};

static RESOURCE: Table = Table {
    name: "`resource`",
    keys: &[
        needed(
            "manifest",
            Any(&[Text, Map(&Json)], "a file or an object"),
            "The Kubernetes object.",
        ),
        key("success", Text, "Condition of success, as in Argo."),
        key("failure", Text, "Condition of failure, as in Argo."),
        key("outputs", Map(&Text), "Outputs and the JSON paths that give them."),
        key("keep", Word(&["never", "onFailure", "always"]), "Whether the object stays."),
    ],
    one_of: &[],
};

const KERNEL: Key = key("kernel", Text, "Kernelspec name; the notebook's own unless given.");
const IMAGE: Key = key("image", Text, "Container image.");
const REQUIREMENTS: Key = key("requirements", Text, "A requirements file for pip.");
const INPUTS: Key =
    key("inputs", OneOrMany(&Text), "Further files and globs whose change means a new run.");
const ENV: Key = key("env", Map(&Scalar), "Environment variables.");
static SECRET_SHAPE: Shape = Object(&SECRET);

const SECRETS: Key = key("secrets", Map(&SECRET_SHAPE), "Environment variables from secrets.");
const WORKDIR: Key = key("workdir", Text, "Working directory.");
const RESOURCES_KEY: Key = key("resources", Object(&RESOURCES), "What a step needs of a machine.");
const NODE_SELECTOR: Key = key("nodeSelector", Map(&Scalar), "Node labels.");
const TOLERATIONS: Key = key("tolerations", List(&Map(&Json)), "Tolerations of node taints.");
const RETRIES: Key = key("retries", Integer(0, 100), "Further attempts after a failure.");
const INTERRUPTIONS: Key =
    key("interruptions", Integer(0, 100), "Further attempts after a lost process; 3 unless given.");
const PARAMS: Key = key("params", Map(&Json), "Parameters.");

static STEP: Table = Table {
    name: "a step",
    keys: &[
        key("notebook", Text, "The notebook to execute."),
        key("run", Text, "Shell text to run with sh -e."),
        key("resource", Object(&RESOURCE), "A Kubernetes object to create and wait for."),
        key("needs", OneOrMany(&Text), "Steps that must succeed before."),
        PARAMS,
        key("sweep", Map(&List(&Json)), "A grid: each name with its values."),
        key("best", Object(&BEST), "Which point later steps see."),
        key("outputs", Map(&Text), "Names and the files that the step leaves."),
        key("metrics", Text, "A flat JSON file whose numbers are metrics."),
        INPUTS,
        KERNEL,
        IMAGE,
        REQUIREMENTS,
        ENV,
        SECRETS,
        WORKDIR,
        RESOURCES_KEY,
        NODE_SELECTOR,
        TOLERATIONS,
        key("timeout", Duration, "Duration of one attempt."),
        RETRIES,
        INTERRUPTIONS,
    ],
    one_of: &[&["notebook", "run", "resource"]],
};

/// One document of a pipeline file.
pub static PIPELINE: Table = Table {
    name: "a pipeline",
    keys: &[
        key("version", Integer(1, 1), "Version of this format: 1."),
        key("name", Label, "The pipeline's name; the folder's unless given."),
        key("description", Text, "For people."),
        key(
            "triggers",
            Any(
                &[TRIGGER_WORDS, List(&TRIGGER_WORDS), Object(&TRIGGERS)],
                "a word, a list of words, or a map",
            ),
            "Why runs are wanted; change unless given, [] for by hand only.",
        ),
        key(
            "concurrency",
            Word(&["queue", "forbid", "replace", "allow"]),
            "What happens while a run is active; queue unless given.",
        ),
        key("deploy", Map(&Object(&DEPLOYMENT)), "Where accepted models are proposed."),
        PARAMS,
        key("steps", Map(&Object(&STEP)), "The steps."),
        key("flow", Text, "The steps in short form: a.ipynb >> [b.ipynb, python c.py]."),
        key("timeout", Duration, "Duration of the whole run."),
        key("history", Object(&HISTORY), "How many ended runs are kept."),
        INPUTS,
        KERNEL,
        IMAGE,
        REQUIREMENTS,
        ENV,
        SECRETS,
        WORKDIR,
        RESOURCES_KEY,
        NODE_SELECTOR,
        TOLERATIONS,
        RETRIES,
        INTERRUPTIONS,
    ],
    one_of: &[&["steps", "flow"]],
};
