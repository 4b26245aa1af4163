//! How a kernel is launched: by its kernelspec's own command line, or a stock ipykernel by a short
//! bootstrap of ours, which starts and ends in half the time and drops no output.
//!
//! Owns which kernelspecs are stock, and both command lines. It must not start anything.

use std::path::Path;

use super::kernelspec::{KernelSpec, is_interpreter};

/// The bootstrap. It lies in the kernel's connection folder while the kernel lives.
pub const BOOTSTRAP: &str = include_str!("slim.py");
/// The bootstrap's file.
pub const BOOTSTRAP_NAME: &str = "slim.py";

/// How to launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Launch {
    /// Slim where the kernelspec is a stock ipykernel, else exact.
    #[default]
    Auto,
    /// The kernelspec's own command line.
    Exact,
    /// A stock ipykernel by our bootstrap; any other kernel is refused.
    Slim,
}

/// A command line, and whether it is the bootstrap's.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Whether the bootstrap is used: then the kernel has no send limit.
    pub slim: bool,
}

/// The command line for a connection file; the bootstrap, where it is used, lies beside that file.
/// None where slim is asked for and the kernelspec is no stock ipykernel.
pub fn command_line(spec: &KernelSpec, launch: Launch, file: &Path) -> Option<CommandLine> {
    let mut argv = spec.command(file);
    if spec.is_ipykernel() {
        // A notebook's cells are no history of the user's.
        argv.push("--HistoryManager.hist_file=:memory:".into());
    }
    let stock = stock_flags(&spec.file.argv);
    if launch == Launch::Exact || (launch == Launch::Auto && stock.is_none()) {
        return Some(CommandLine { argv, slim: false });
    }
    let flags = stock?;
    let bootstrap = file.with_file_name(BOOTSTRAP_NAME).to_string_lossy().into_owned();
    // What stands between the program and `-m ipykernel_launcher` are the interpreter's flags.
    argv.splice(1 + flags..3 + flags, [bootstrap]);
    // Only its debugger, which is not there, needs modules that are not frozen.
    argv.retain(|word| word != "-Xfrozen_modules=off");
    Some(CommandLine { argv, slim: true })
}

/// Whether a kernelspec is a stock ipykernel, which can be launched slim.
pub fn is_stock(spec: &KernelSpec) -> bool {
    stock_flags(&spec.file.argv).is_some()
}

/// How many flags of the interpreter stand before `-m ipykernel_launcher`; none at all where the
/// command line is any other than `python [FLAGS] -m ipykernel_launcher -f {connection_file}
/// [--OPTIONS]`.
fn stock_flags(argv: &[String]) -> Option<usize> {
    let (program, rest) = argv.split_first()?;
    let flags = rest.iter().take_while(|word| is_plain_flag(word)).count();
    let plain = is_interpreter(program)
        && matches!(&rest[flags..], [m, module, f, file, options @ ..]
            if m == "-m"
                && (module == "ipykernel_launcher" || module == "ipykernel")
                && f == "-f"
                && file == "{connection_file}"
                && options.iter().all(|word| word.starts_with("--")));
    plain.then_some(flags)
}

/// A flag of the interpreter that takes no word after it, such as `-E`, `-s` or `-Xutf8`.
fn is_plain_flag(word: &str) -> bool {
    let Some(rest) = word.strip_prefix('-') else { return false };
    let alone = !rest.is_empty() && rest.chars().all(|c| "bBdEIOPqsSuv".contains(c));
    alone || (rest.len() > 1 && rest.starts_with(['X', 'W']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::kernelspec::SpecFile;

    fn spec(argv: &[&str]) -> KernelSpec {
        let file = serde_json::json!({ "argv": argv, "language": "python" });
        let file: SpecFile = serde_json::from_value(file).unwrap();
        KernelSpec { name: "k".into(), folder: "/none".into(), file }
    }

    fn words(argv: &[&str], launch: Launch) -> Option<String> {
        let line = command_line(&spec(argv), launch, Path::new("/f/c.json"))?;
        Some(line.argv.join(" "))
    }

    const STOCK: [&str; 5] =
        ["/p/python3.11", "-m", "ipykernel_launcher", "-f", "{connection_file}"];

    #[test]
    fn a_stock_ipykernel_is_launched_slim() {
        let history = "--HistoryManager.hist_file=:memory:";
        let slim = format!("/p/python3.11 /f/slim.py -f /f/c.json {history}");
        assert_eq!(words(&STOCK, Launch::Auto), Some(slim.clone()));
        assert_eq!(words(&STOCK, Launch::Slim), Some(slim));
        let exact = format!("/p/python3.11 -m ipykernel_launcher -f /f/c.json {history}");
        assert_eq!(words(&STOCK, Launch::Exact), Some(exact));
        let flags = ["/p/python", "-E", "-Xfrozen_modules=off", "-Xutf8"];
        let flagged: Vec<&str> = flags.into_iter().chain(STOCK[1..].iter().copied()).collect();
        let expected = format!("/p/python -E -Xutf8 /f/slim.py -f /f/c.json {history}");
        assert_eq!(words(&flagged, Launch::Auto), Some(expected));
    }

    #[test]
    fn anything_else_runs_as_it_is_written() {
        for other in [
            &["/p/python3", "-m", "xpython", "-f", "{connection_file}"][..],
            &["/p/wrapper", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            &["/p/python3", "-c", "x", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            &["/p/python3", "-m", "ipykernel_launcher", "{connection_file}"],
            &["/p/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}", "extra"],
            &["bash", "-c", "exec python -m ipykernel_launcher -f {connection_file}"],
        ] {
            let line = command_line(&spec(other), Launch::Auto, Path::new("/f/c.json")).unwrap();
            assert!(!line.slim, "{other:?}");
            assert_eq!(words(other, Launch::Slim), None, "{other:?}");
        }
    }
}
