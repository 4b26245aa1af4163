//! Kernelspecs: which kernels are installed, and which one a notebook runs on.
//!
//! Owns the search path of Jupyter (environment variables, the user, the active environment, the
//! system) without asking Python, and the choice among what is found.

#![expect(clippy::disallowed_methods, reason = "looks at installed kernelspecs")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// An installed kernel.
#[derive(Clone, Debug)]
pub struct KernelSpec {
    /// Its name: the folder's, lower case.
    pub name: String,
    /// Where it lies.
    pub folder: PathBuf,
    /// The content of `kernel.json`.
    pub file: SpecFile,
}

/// The content of `kernel.json`, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub struct SpecFile {
    /// The command line, with `{connection_file}` in it.
    pub argv: Vec<String>,
    /// The language.
    #[serde(default)]
    pub language: String,
    /// The name for people.
    #[serde(default)]
    pub display_name: String,
    /// Further environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `signal` or `message`.
    #[serde(default)]
    pub interrupt_mode: Option<String>,
}

/// No kernel can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum NoKernel {
    /// The notebook names none.
    #[error("the notebook names no kernel (it has no kernelspec); {0}")]
    Unnamed(String),
    /// The named one is not installed.
    #[error("kernel {name:?} is not installed; {found}")]
    Unknown {
        /// The name.
        name: String,
        /// What is installed.
        found: String,
    },
}

/// All installed kernels, first found first.
pub fn installed() -> Vec<KernelSpec> {
    let mut specs: Vec<KernelSpec> = Vec::new();
    for folder in search_path() {
        let Ok(entries) = std::fs::read_dir(folder.join("kernels")) else { continue };
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            let name = name.to_lowercase();
            if specs.iter().any(|spec| spec.name == name) {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(folder.join("kernel.json")) else { continue };
            let Ok(file) = serde_json::from_str::<SpecFile>(&text) else { continue };
            if !file.argv.is_empty() {
                specs.push(KernelSpec { name, folder, file });
            }
        }
    }
    specs
}

/// Chooses a kernel by name. The language only helps to say what else would do.
///
/// # Errors
/// Lists what is installed and how to install more.
pub fn choose(name: Option<&str>, language: Option<&str>) -> Result<KernelSpec, NoKernel> {
    let specs = installed();
    let speaks = |spec: &&KernelSpec| {
        language.is_some_and(|language| spec.file.language.eq_ignore_ascii_case(language))
    };
    let same = specs.iter().find(speaks).filter(|_| name.is_some());
    let found = if specs.is_empty() {
        "no kernel is installed; for Python: `pip install ipykernel`".to_owned()
    } else {
        let names: Vec<String> = specs
            .iter()
            .map(|spec| format!("{} ({})", spec.name, spec.file.display_name))
            .collect();
        let hint = same.map_or_else(
            || "choose one with `kernel:` or -k".to_owned(),
            |same| format!("{0} has the same language: `kernel: {0}` or -k {0}", same.name),
        );
        format!("installed: {}; {hint}", names.join(", "))
    };
    let Some(name) = name else { return Err(NoKernel::Unnamed(found)) };
    let lower = name.to_lowercase();
    // Notebooks of long ago say `python`, which `jupyter_client` takes for its own `python3`.
    let also = if lower == "python" { "python3" } else { &lower };
    let at = specs.iter().position(|spec| spec.name == lower);
    let at = at.or_else(|| specs.iter().position(|spec| spec.name == also));
    at.map(|at| specs[at].clone()).ok_or(NoKernel::Unknown { name: name.to_owned(), found })
}

/// The folders that may hold `kernels/`, most telling first.
fn search_path() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(path) = variable("JUPYTER_PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    let prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| variable(name).map(PathBuf::from))
        .chain(interpreter_prefix())
        .collect();
    let environment = prefixes.iter().map(|prefix| prefix.join("share/jupyter"));
    folders.extend(environment);
    match (variable("JUPYTER_DATA_DIR"), variable("XDG_DATA_HOME"), variable("HOME")) {
        (Some(folder), _, _) => folders.push(folder.into()),
        (None, Some(folder), _) => folders.push(Path::new(&folder).join("jupyter")),
        (None, None, Some(home)) => folders.push(Path::new(&home).join(".local/share/jupyter")),
        (None, None, None) => {}
    }
    folders.extend(["/usr/local/share/jupyter", "/usr/share/jupyter"].map(PathBuf::from));
    folders
}

/// The environments of the `jupyter` and `python3` that a shell would find.
fn interpreter_prefix() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["python3", "python", "jupyter"]
        .iter()
        .flat_map(|name| folders.iter().filter(move |folder| folder.join(name).is_file()))
        .filter_map(|folder| folder.parent().map(Path::to_owned))
        .filter(|prefix| prefix.join("share/jupyter/kernels").is_dir())
        .collect()
}

impl KernelSpec {
    /// The command line for a connection file. `python` and its versions mean the interpreter of
    /// the environment that the kernelspec belongs to, as `jupyter_client` has it.
    pub fn command(&self, connection_file: &Path) -> Vec<String> {
        let mut argv: Vec<String> = self
            .file
            .argv
            .iter()
            .map(|word| {
                word.replace("{connection_file}", &connection_file.to_string_lossy())
                    .replace("{resource_dir}", &self.folder.to_string_lossy())
            })
            .collect();
        let program = &argv[0];
        if !program.contains('/')
            && is_interpreter(program)
            && let Some(prefix) = self.folder.ancestors().nth(4)
            && let Some(python) = [program.as_str(), "python3", "python"]
                .iter()
                .map(|name| prefix.join("bin").join(name))
                .find(|path| path.is_file())
        {
            argv[0] = python.to_string_lossy().into_owned();
        }
        argv
    }

    /// The environment variables of the kernelspec. `$NAME` and `${NAME}` in them are ours, and stay
    /// as they stand where there is no such variable, as in `jupyter_client`.
    pub fn environment(&self) -> Vec<(String, String)> {
        let expand = |value: &String| expand(value, |name| std::env::var(name).ok());
        self.file.env.iter().map(|(name, value)| (name.clone(), expand(value))).collect()
    }

    /// Whether its program is a Python interpreter.
    pub fn is_python(&self) -> bool {
        self.file.argv.first().is_some_and(|program| is_interpreter(program))
    }

    /// Whether it is ipykernel, whose shutdown has a race on the control channel.
    pub fn is_ipykernel(&self) -> bool {
        self.file.argv.iter().any(|word| word.contains("ipykernel"))
    }
}

/// Whether a program is called `python`, `python3`, `python3.11` or so, wherever it lies.
pub fn is_interpreter(program: &str) -> bool {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let version = name.strip_prefix("python");
    version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Python's `string.Template.safe_substitute`.
fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let inner = rest[1..].strip_prefix('{').unwrap_or(&rest[1..]);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = inner.find(|c: char| !word(c)).unwrap_or(inner.len());
        let (name, behind) = inner.split_at(length);
        let braced = rest.starts_with("${");
        let end = 1 + usize::from(braced) * 2 + length;
        let sound = !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && (!braced || behind.starts_with('}'));
        match value(name).filter(|_| sound) {
            Some(value) => {
                out.push_str(&value);
                rest = &rest[end..];
            }
            None if rest.starts_with("$$") => {
                out.push('$');
                rest = &rest[2..];
            }
            None => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_kernelspec_are_expanded_as_python_does() {
        let value = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        for (text, expected) in [
            ("${HOME}/x:$HOME", "/h/x:/h"),
            ("$$HOME $OTHER ${HOME ${} $", "$HOME $OTHER ${HOME ${} $"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text, value), expected);
        }
    }
}
