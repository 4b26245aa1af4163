//! Any text as parameters: YAML, words of the command line and paths with fields, into the code of
//! every language.
#![no_main]

use jupyterflow::notebook::parameters::{Builtin, Language, Parameter, fill, from_yaml};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static COUNTING: jupyterflow_fuzz::Counting = jupyterflow_fuzz::Counting;

const LANGUAGES: [&str; 9] = [
    "python", "R", "scala", "julia", "matlab", ".net-csharp", ".net-fsharp", ".net-powershell", "bash",
];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    jupyterflow_fuzz::bounded(data, || {
        let _ = Parameter::from_word(text);
        let Ok(parameters) = from_yaml(text) else { return };
        for value in parameters.values() {
            let _ = value.to_json_text();
        }
        for name in LANGUAGES {
            let language = Language::find("", name).expect("all are known");
            let _ = language.source(&parameters, "Parameters");
        }
        let now = "2026-11-25T04:05:06+01:00[Europe/Berlin]".parse().expect("it is a time");
        let builtin = Builtin { run_uuid: String::new(), now };
        let _ = fill(text, &parameters, &builtin);
    });
});
