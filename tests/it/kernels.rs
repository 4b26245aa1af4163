//! Kernels that misbehave, launch modes, and stalls: nothing is lost in silence and nothing hangs.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Ended, Place, marked, processes_with, venv, wait_for};

/// A place with a kernel `hostile` that does one thing wrong.
fn hostile(fault: &str) -> (Place, String) {
    let (mut place, mark) = marked();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile_kernel.py");
    let argv = json!([venv().join("bin/python"), script, fault, "{connection_file}"]);
    let spec = json!({ "argv": argv, "display_name": "Hostile", "language": "python" });
    place.write("jupyter/kernels/hostile/kernel.json", &spec.to_string());
    let jupyter = place.path("jupyter");
    place.env("JUPYTER_PATH", jupyter);
    place.notebook_of("hostile", "python", "in.ipynb", &["1", "2"]);
    (place, mark)
}

fn statuses(notebook: &Value) -> Vec<&str> {
    let cells = notebook["cells"].as_array().unwrap();
    cells.iter().filter_map(|cell| cell["metadata"]["papermill"]["status"].as_str()).collect()
}

#[test]
fn a_kernel_that_breaks_the_protocol_gets_a_clear_error_in_time() {
    for (fault, words) in [
        ("dies at once", "never installed"),
        ("never starts", "did not answer within 2 s"),
        ("garbage", "too few parts"),
        ("half a message", "too few parts"),
        ("wrong signature", "wrong signature"),
        ("no json", "not valid JSON"),
        ("dies", "killed by signal 9"),
        ("closes its output", "closed its output channel"),
        ("closes its shell", "closed its shell channel"),
    ] {
        let (place, mark) = hostile(fault);
        let begin = Instant::now();
        // Without a limit it would wait ten minutes, or for ever.
        let limit = if fault == "never starts" { "2" } else { "600" };
        let ended = place.run(&["exec", "in.ipynb", "out.ipynb", "--start-timeout", limit]);
        let took = begin.elapsed();
        ended.expect(1).says(words);
        assert!(took < Duration::from_secs(60), "{fault}: {took:?}");
        wait_for("the kernel to be gone", || processes_with(&mark).is_empty());
        let notebook = place.read_json("out.ipynb");
        if !matches!(fault, "dies at once" | "never starts") {
            assert_eq!(statuses(&notebook), ["failed", "pending"], "{fault}");
            assert!(notebook["cells"][0]["outputs"].to_string().contains("before"), "{fault}");
        }
    }
}

#[test]
fn a_missing_idle_is_told_and_a_missing_reply_ends_the_run() {
    let (place, _) = hostile("never idle");
    let ended = place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(0);
    ended.says("outputs of cell 1 may be incomplete: the kernel never said that the cell was over");
    let notebook = place.read_json("out.ipynb");
    assert!(notebook["cells"][1]["outputs"].to_string().contains("may be incomplete"));
    let (place, _) = hostile("never answers");
    let begin = Instant::now();
    place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(1).says("never answered");
    assert!(begin.elapsed() < Duration::from_secs(100));
}

#[test]
fn a_kernel_that_hangs_at_its_end_is_ended() {
    let (place, mark) = hostile("hangs at its end");
    let begin = Instant::now();
    place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(0);
    assert!(begin.elapsed() < Duration::from_secs(60));
    wait_for("the kernel to be gone", || processes_with(&mark).is_empty());
}

/// What a notebook leaves to be done at the interpreter's end is done, however the kernel was
/// launched.
#[test]
fn the_end_of_a_slim_kernel_is_an_ordinary_end() {
    for launch in ["exact", "slim"] {
        let place = Place::new();
        let cells = [
            "import atexit, threading, time\natexit.register(lambda: open('atexit', 'w').write('x'))",
            "f = open('unclosed', 'w'); f.write('x' * 10)",
            "def late():\n    time.sleep(0.05); open('thread', 'w').write('x')\nthreading.Thread(target=late).start()",
            "class A:\n    def __del__(self): open('deleted', 'w').write('x')\na = A()",
            "import tempfile; d = tempfile.TemporaryDirectory(dir='.'); open(d.name + '/f', 'w')\nopen('folder', 'w').write(d.name)",
            "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(lambda: (time.sleep(0.05), open('pool', 'w').write('x'))) and None",
            "import ctypes\nlibc = ctypes.CDLL(None); libc.fopen.restype = ctypes.c_void_p\nlibc.fputs(b'x', ctypes.c_void_p(libc.fopen(b'stdio', b'w')))",
        ];
        place.notebook("in.ipynb", &cells);
        place.run(&["exec", "in.ipynb", "out.ipynb", "--launch", launch]).expect(0);
        for name in ["atexit", "unclosed", "thread", "deleted", "pool", "stdio"] {
            let length = std::fs::metadata(place.path(name)).map_or(0, |data| data.len());
            assert!(length > 0, "{launch}: {name} was not written");
        }
        assert!(!std::path::Path::new(&place.read("folder")).exists(), "{launch}");
    }
}

#[test]
fn slim_is_for_a_stock_ipykernel_only() {
    let place = Place::new();
    place.notebook_of("bash", "bash", "in.ipynb", &["echo x"]);
    place
        .run(&["exec", "in.ipynb", "out.ipynb", "--launch", "slim"])
        .expect(1)
        .says("no stock ipykernel");
    place.run(&["exec", "in.ipynb", "out.ipynb", "--launch", "auto"]).expect(0);
}

/// Where the bootstrap fails, the kernelspec's own command line is tried, with a word.
#[test]
fn a_slim_launch_that_fails_is_followed_by_an_exact_one() {
    let mut place = Place::new();
    // An ipykernel without the method that the bootstrap changes.
    let custom = "import sys\nclass Finder:\n    def find_spec(self, name, path=None, target=None):\n\
                  \x20       if name == 'ipykernel.kernelapp' and sys.argv[0].endswith('slim.py'): raise ImportError('no fast launch')\n\
                  sys.meta_path.insert(0, Finder())";
    place.write("custom/sitecustomize.py", custom);
    let custom = place.path("custom");
    place.env("PYTHONPATH", custom).notebook("in.ipynb", &["1 + 1"]);
    let ended = place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(0);
    ended.says("at a second try").says("no fast launch");
    place
        .run(&["exec", "in.ipynb", "out.ipynb", "--launch", "slim"])
        .expect(1)
        .says("no fast launch");
}

/// Papermill hangs at an Output widget within another.
#[test]
fn output_widgets_may_be_nested() {
    let place = Place::new();
    let cells = [
        "import ipywidgets as w\nfrom IPython.display import display\nouter, inner = w.Output(), w.Output(); display(outer)",
        "with outer:\n    display(inner)\n    with inner:\n        print('inner')\n    print('outer')\nprint('cell')",
        "len(outer.outputs), len(inner.outputs)",
    ];
    place.notebook("in.ipynb", &cells);
    place.run(&["exec", "in.ipynb", "out.ipynb"]).expect(0);
    let notebook = place.read_json("out.ipynb");
    assert_eq!(notebook["cells"][1]["outputs"][0]["text"], json!(["cell\n"]));
    assert_eq!(notebook["cells"][2]["outputs"][0]["data"]["text/plain"], json!("(2, 1)"));
}

/// Twenty thousand displays while we are stopped for five seconds.
#[test]
fn a_stall_of_ours_loses_nothing_or_says_so() {
    for launch in ["slim", "exact"] {
        let place = Place::new();
        let source = "from IPython.display import display\nopen('begun', 'w')\nfor i in range(20_000): display(i)";
        place.notebook("in.ipynb", &[source, "'after'"]);
        let mut exec = place.spawn(&["exec", "in.ipynb", "out.ipynb", "--launch", launch]);
        wait_for("the cell to begin", || place.path("begun").exists());
        exec.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(5));
        exec.signal(Signal::CONT);
        assert_eq!(exec.end(), 0, "{}", exec.log());
        let notebook = place.read_json("out.ipynb");
        let shown = notebook["cells"][0]["outputs"].as_array().unwrap();
        let displays = shown.iter().filter(|o| o["output_type"] == "display_data").count();
        let told = notebook["cells"][0]["outputs"].to_string().contains("may be incomplete");
        if launch == "slim" {
            assert_eq!((displays, told), (20_000, false), "{}", exec.log());
        } else {
            assert!(displays == 20_000 || told, "{displays} displays are left in silence");
            assert_eq!(told, exec.log().contains("outputs of cell 1 may be incomplete"));
        }
        assert!(notebook["cells"][1]["outputs"].to_string().contains("after"));
    }
}

/// The most memory that a process had, in MiB.
fn peak(place: &Place, args: &[&str]) -> (Ended, u64) {
    let mut command = place.command(venv().join("bin/python"));
    command.arg("-c").arg(
        "import os, resource, subprocess, sys, threading, time
process = subprocess.Popen(sys.argv[1:])
most = 0
while process.poll() is None:
    try: text = open(f'/proc/{process.pid}/status').read()
    except OSError: break
    most = max([most, *(int(l.split()[1]) for l in text.splitlines() if l.startswith('VmHWM'))])
    time.sleep(0.02)
process.wait()
print('PEAK', most // 1024)
sys.exit(process.returncode)",
    );
    command.arg(env!("CARGO_BIN_EXE_jupyterflow")).args(args);
    let ended = Ended::from(command.output().unwrap());
    let line = ended.stdout.lines().find_map(|line| line.strip_prefix("PEAK "));
    let most = line.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    (ended, most)
}

#[test]
fn a_gigabyte_of_output_takes_bounded_memory() {
    let place = Place::new();
    place.notebook(
        "in.ipynb",
        &["line = 'x' * 999_999\nfor _ in range(1000): print(line, flush=True)", "1"],
    );
    let (ended, most) = peak(&place, &["exec", "in.ipynb", "out.ipynb", "--output-limit", "8"]);
    ended.expect(0);
    let notebook = place.read_json("out.ipynb");
    let text = notebook["cells"][0]["outputs"].to_string();
    assert!(text.len() < 10 << 20);
    let (_, rest) = text.split_once("[jupyterflow: ").expect("what was cut is told");
    let cut: u64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(cut, 1_000_000_000 - (8 << 20), "{rest}");
    assert!(most < 200, "{most} MiB");
}
