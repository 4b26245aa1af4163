"""Cases that papermill and `exec` are compared over: cells, and how they are run."""

import nbformat

V4 = nbformat.v4


def code(source, tags=(), **metadata):
    cell = V4.new_code_cell(source)
    cell.metadata.update(metadata)
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def notebook(cells, kernel="python3", language="python", **metadata):
    spec = {"name": kernel, "display_name": kernel, "language": language}
    made = V4.new_notebook(metadata={"kernelspec": spec, **metadata})
    made.cells = [code(cell) if isinstance(cell, str) else cell for cell in cells]
    return made


P = ["parameters"]
#: A kernel that is told to end does so a tenth of a second later: what is sent to it until then is still done, which is
#: chance.
LATER = ["import time; time.sleep(0.5)", "print('never')"]

#: Deno hands prints over in a task of its own, and waits 5 ms for it before it says that a cell is
#: over: what that task has not sent by then is lost to any client. Such cells wait longer.
SETTLED = "await new Promise((done) => setTimeout(done, 2000))"
DECLARED = code("a = 1\nb = 'x'", P)
SHOW = "print(a, b)"

RICH = """from IPython.display import *
display({'text/plain': 'p', 'text/html': '<b>x</b>', 'text/latex': '$x$', 'text/markdown': '*x*',
  'image/svg+xml': '<svg>\\n</svg>', 'application/json': {'a': [1, None, {'b': 'x\\ny'}]},
  'application/javascript': 'alert(1)\\nalert(2)', 'application/geo+json': {'type': 'Point'},
  'application/vnd.x+json': [1], 'application/pdf': 'JVBERg==', 'image/png': 'iVBORw0KGgo=', 'image/jpeg': '/9j/',
  'text/x-own': 'l1\\nl2'}, raw=True, metadata={'image/png': {'width': 1}, 'own': True})
HTML('<i>y</i>')"""

PLOT = """%matplotlib inline
import matplotlib.pyplot as plt
plt.plot([1, 2, 3]); plt.show()"""

DISPLAYS = [
    "h = display('one', display_id='d'); display('other', display_id='e')",
    "display('again', display_id='d')",
    "from IPython.display import update_display\nupdate_display('two', display_id='d'); h2 = display('f', display_id=True)",
    "h2.update({'text/plain': 'x', 'text/html': '<b>'}, raw=True)\nupdate_display('none', display_id='unknown')",
]

CLEARS = [
    "from IPython.display import clear_output\nprint('a'); clear_output(); print('b')",
    "print('a'); clear_output(wait=True); print('b'); clear_output(wait=True)",
    "display('x', display_id='c'); clear_output(); display('y', display_id='c2')",
    "from IPython.display import update_display\nupdate_display('gone', display_id='c'); update_display('z', display_id='c2')",
    "clear_output(wait=True); print('only')",
    "display('w', display_id='w'); clear_output(wait=True); display('v')",
    "update_display('late', display_id='w')",
]

WIDGETS = [
    "import ipywidgets as w\nfrom IPython.display import display, clear_output",
    "s = w.IntSlider(value=3, description='s'); s",
    "s.value = 7; w.HBox([s, w.Text('t')])",
    "o = w.Output(); display(o)",
    "with o:\n    print('in the widget'); print('more'); display('shown')\nprint('in the cell')",
    "with o:\n    1 / 0",
    "o.append_stdout('appended')",
    "with o:\n    clear_output(); print('after')",
    "with o:\n    clear_output(wait=True); print('waited')",
    # One Output widget within another hangs papermill: a test of its own shows that we do not.
    "i = w.Image(value=b'\\x00\\x01binary', format='png'); i",
    "i.value = b'other'\nw.Button(description='b').click()",
    "o2 = w.Output(); display(o2)\n@o2.capture()\ndef f(): print('captured')\nf()",
    "o.outputs[:1]",
]

ODD = """\
import sys
print('\\u00e9\\U0001f60d\\u2028x\\x0b\\x0c\\x85 \\x00 \\x1b[31mred\\x1b[0m'); print('a\\rb\\bc', end='')
'\\ud800'.encode('utf-8', 'surrogatepass'); print(ascii('\\udc80'))"""

#: name -> (cells or notebook, arguments, keywords of the comparison)
CASES = {
    "streams": (["print('a'); print('b', end=''); print('c')", "import sys\nprint('e', file=sys.stderr)",
                 "import sys\nsys.stdout.write('no newline')", "import sys\nfor i in range(300): print(i)"], []),
    "results": (["1", "None", "'text'", "1;", "{'a': [1, 2]}", "_ , __, Out[1]", "In[1]", "print", "[0.1, float('nan')]",
                 "b'\\x00'", "x = 5\nx", "x: int = 6", "import datetime\ndatetime.date(2020, 1, 1)"], []),
    "rich": ([RICH, "from IPython.display import *\nMarkdown('*m*'); Latex('$y$')", "JSON({'n': 1})", "SVG('<svg></svg>')",
              "Image(data=bytes([137, 80, 78, 71, 13, 10, 26, 10]), format='png')", "Javascript('1')", "Math('x^2')",
              "import json\ndisplay({'application/json': {'x': float('nan')}}, raw=True)", "Pretty('p')"], []),
    "plot": ([PLOT, "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})", "pd.Series([1.5]).describe()"], []),
    "displays": (DISPLAYS, []),
    "clears": (CLEARS, []),
    "widgets": (WIDGETS, []),
    "widget-error": (["import ipywidgets as w\nw.IntSlider()", "raise ValueError"], []),
    "comms": (["from comm import create_comm\nc = create_comm(target_name='mine', data={'state': {'a': 1}})",
               "c.send({'x': 1}); c.send({'state': {'b': 2}}); c.close()", "create_comm(target_name='other')"], []),
    "error": (["1", "def f(x):\n    return 1 / x\nf(0)", "2"], []),
    "error-first": (["1 / 0"], []),
    "syntax-error": (["1", "a ="], []),
    "indentation-error": (["  x = 1\n y"], []),
    "python-2": (["print 'old'"], []),
    "chained": (["try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('é\\n\"x\"') from e"], []),
    "group": (["raise ExceptionGroup('g', [ValueError('a'), TypeError('b')])"], []),
    "custom-error": (["class E(Exception):\n    def __str__(self): return 'mine'\nraise E"], []),
    "recursion": (["def f(): f()\nf()", "1"], []),
    "depth": (["import traceback\nlen(traceback.extract_stack())"], []),
    "output-before-error": (["print('a'); display('b'); raise KeyError('k')"], []),
    "shown-error": (["try:\n    1 / 0\nexcept Exception:\n    get_ipython().showtraceback()", "print('later')"], []),
    "two-shown-errors": (["try:\n    1 / 0\nexcept Exception:\n    get_ipython().showtraceback()",
                          "try:\n    int('x')\nexcept Exception:\n    get_ipython().showtraceback()", "3"], []),
    "interrupt": (["import os, signal, time\nos.kill(os.getpid(), signal.SIGINT); time.sleep(5)"], []),
    "interrupt-main": (["import _thread, time\n_thread.interrupt_main(); time.sleep(5)"], []),
    "keyboard-interrupt": (["raise KeyboardInterrupt"], []),
    "question": (["input('? ')", "1"], []),
    "getpass": (["import getpass\ngetpass.getpass()"], []),
    **{f"exit-{i}": ([source, "print('later')"], []) for i, source in enumerate([
        "import sys; sys.exit()", "import sys; sys.exit(0)", "import sys; sys.exit('')", "import sys; sys.exit(1)",
        "import sys; sys.exit('bye')", "raise SystemExit", "raise SystemExit(0.0)", "import sys; sys.exit(None)"])},
    **{f"{word}-by-cell": ([f"{word}()", *LATER], [], {"states": True})
       for word in ("exit", "quit")},
    "allowed": ([code("1 / 0", ["raises-exception"]), "print('later')"], [], {"allowed": True}),
    "allowed-exit": ([code("import sys; sys.exit(0)", ["raises-exception"]), "print('later')"], []),
    "allowed-then-error": ([code("1 / 0", ["raises-exception"]), "int('x')"], []),
    "skipped": ([V4.new_code_cell("1 / 0", outputs=[V4.new_output("stream", text="old")], execution_count=9,
                                  metadata={"tags": ["skip-execution"]}), "2"], []),
    "nothing": ([], []),
    "no-code": ([V4.new_markdown_cell("# t", attachments={"a.png": {"image/png": "iVBORw0KGgo="}}), V4.new_raw_cell("r"),
                 "", "   \n", "# only a comment"], []),
    "magics": (["%%capture x\nprint('hidden')", "x.stdout", "!echo shell", "%%bash\necho bash; echo err >&2", "%%html\n<b>h</b>",
                "%%writefile made.txt\ncontent", "!cat made.txt", "%cd .", "%lsmagic_nothing", "later = 1"], []),
    "cell-magic": (["%%nothing_of_that_name\nx"], []),
    "pager": (["?len", "print??", "%pinfo abs"], []),
    "script-error": (["%%bash\nexit 3", "1"], []),
    "load-ext": (["%load_ext no_such_extension", "1"], []),
    "run-magic": (["%%writefile r.py\nprint('in r'); raise ValueError('r')", "%run r.py", "2"], []),
    "subprocess": (["import subprocess\nprint(subprocess.run(['echo', 'x'], capture_output=True, text=True).stdout)",
                    "import os, time\n_ = os.system('echo direct'); time.sleep(3)"], []),
    "warnings": (["import warnings\nwarnings.warn('careful')", "import logging\nlogging.warning('logged')"], []),
    "odd-text": ([ODD, "'\\u2028'", "print('x' * 1_000_000)"], []),
    "many-displays": (["for i in range(700): display(i)"], []),
    "async": (["import asyncio\nawait asyncio.sleep(0.01)\nprint('slept')",
               "async def f():\n    for i in range(5):\n        print('task', i); await asyncio.sleep(0.05)\nt = asyncio.create_task(f())",
               "await asyncio.sleep(0.6); print('done')", "await t"], []),
    "threads": (["import threading\ngo, done = threading.Event(), threading.Event()\n"
                 "def f():\n    print('one', flush=True); done.set(); go.wait(); print('two', flush=True); done.set()\n"
                 "threading.Thread(target=f).start(); done.wait(); done.clear()",
                 "print('before', flush=True); go.set(); done.wait(); print('after')"], []),
    "processes": (["from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as p: print(list(p.map(abs, [-1, -2])))",
                   "import multiprocessing as m\np = m.Pool(2); print(p.map(abs, [-3])); p.close(); p.join()"], []),
    "surroundings": (["import sys, os\nprint(os.path.basename(sys.argv[0]), len(sys.argv), sys.argv[1], sys.argv[3])",
                      "print([p for p in sys.path if 'jf-kernel' in p], sys.path[0], len(sys.path), sys.path[1:4])",
                      "print(__name__, sys.modules['__main__'].__name__, hasattr(sys.modules['__main__'], '__file__'), '__file__' in globals())",
                      "import gc, threading\nprint(gc.isenabled(), gc.get_threshold(), type(get_ipython().parent).__name__)",
                      "import debugpy\nprint(debugpy.__name__)", "sorted(k for k in globals() if k.startswith('_') and not k.startswith('_i'))",
                      "print(os.getcwd() == os.path.realpath('.'), get_ipython().history_manager.hist_file)",
                      "import __main__\n[k for k in vars(__main__) if not k.startswith('_')]", "import signal\nsignal.getsignal(signal.SIGINT)",
                      "sys.flags.interactive, sys.stdin, sys.stdout.encoding, sys.stdout.isatty()",
                      "get_ipython().kernel.shell_streams and None", "import pickle\nclass A: pass\npickle.loads(pickle.dumps(A())).__class__"], []),
    "metadata": (notebook([code("1", collapsed=True, editable=False, jupyter={"outputs_hidden": True}, own={"b": [1]}),
                           V4.new_markdown_cell("m", metadata={"slideshow": {"slide_type": "slide"}})],
                          title="T", authors=[{"name": "x"}], widgets={"old": 1}, own=1.0), []),
    "report-mode": ([code("a = 1", P), "print(a)", V4.new_markdown_cell("m")], ["--report-mode", "-p", "a", "2"]),
    "report-mode-jupyter": ([code("1", jupyter={"outputs_hidden": True})], ["--report-mode"], {"jupyter": True}),
    "parameters": ([DECLARED, SHOW], ["-p", "a", "7", "-r", "b", "8"]),
    "unknown-parameter": ([DECLARED, SHOW, "c"], ["-p", "c", "True"]),
    "no-parameters-cell": (["print(a)"], ["-p", "a", "1"]),
    "injected-before": ([code("a = 0", ["injected-parameters"]), DECLARED, SHOW], ["-p", "a", "5"]),
    "both-tags": ([code("a = 0; b = 1", ["parameters", "injected-parameters"]), "print(a)"], ["-p", "a", "5"]),
    "two-injected": ([DECLARED, code("a = 2", ["injected-parameters"]), code("a = 3", ["injected-parameters"]), SHOW], ["-p", "a", "5"]),
    "markdown-parameters": ([V4.new_markdown_cell("p", metadata={"tags": P}), "print(a)"], ["-p", "a", "5"]),
    "all-kinds": ([DECLARED, SHOW, "c, d, e"], ["-p", "a", "1e3", "-y", "b: [yes, 010, 1e3, 12:30, ~, {1: x}]\nc: 0x1F\nd: 2019-01-01",
                  "-b", "ZTogLmluZgpmOiAhIXN0ciA1Cg==", "--inject-paths"]),
    "templates": ([DECLARED, SHOW], ["-p", "a", "3", "-p", "b", "n"], {"output": "out-{a:03d}-{b:>3}.ipynb"}),
    "old-banner": ([V4.new_markdown_cell("old", metadata={"tags": ["papermill-error-cell-tag"]}), "1",
                    V4.new_markdown_cell("old", metadata={"tags": ["papermill-error-cell-tag"]}), "2"], []),
    "kernel-option": (notebook(["print(1)"], kernel="nothing", language="python"), ["-k", "python3"]),
    "language-option": (notebook(["print(1)"], language="cobol"), ["-l", "python", "-p", "a", "1"]),
    "cwd": (["import os\nprint(os.path.basename(os.getcwd()))"], ["--cwd", "/usr"]),
    "save-once": (["1", "1 / 0"], ["--no-request-save-on-cell-execute"]),
    "options": (["1"], ["--log-level", "WARNING", "--autosave-cell-every", "0", "--start-timeout", "30", "--no-report-mode",
                        "--prepare-execute", "--engine", "nbclient", "--execution-timeout", "0", "--no-log-output"]),
    "timeout": (["1", "import time; print('before', flush=True); time.sleep(30)", "2"], ["--execution-timeout", "10"], {"states": True}),
    "death": (["1", "import os, time; print('last', flush=True); time.sleep(2); os._exit(3)", "2"], [], {"states": True}),
    "shutdown-by-cell": (["1", "get_ipython().kernel.do_shutdown(False)", *LATER], [], {"states": True}),
    "data-science": (["import pandas as pd, numpy as np\ndf = pd.DataFrame(np.arange(6).reshape(3, 2), columns=list('ab'))\ndf.style.set_uuid('u')",
                      "df.info()", "import matplotlib.pyplot as plt\nfig, axes = plt.subplots(2); fig", "axes[0].hist([1, 2, 2])", "df.plot();",
                      "import logging; logging.getLogger('x').warning('w'); logging.basicConfig(force=True, level='INFO'); logging.info('i')",
                      "from joblib import Parallel, delayed\nParallel(n_jobs=2)(delayed(abs)(-i) for i in range(3))", "df['b'].nope"], []),
    "tools": (["import inspect\ndef f(x):\n    return x  # c\nprint(inspect.getsource(f), inspect.getfile(f)[:4])", "import pdb\npdb.set_trace()"], []),
    "breakpoint": (["import sys\nsys.breakpointhook.__name__", "x = 3\nbreakpoint()\n1", "breakpoint()\nx"], []),
    "debug-magic": (["try:\n    1 / 0\nexcept Exception: pass", "%debug", "1"], []),
    "extensions": (["%load_ext autoreload\n%autoreload 2", "%config InlineBackend.figure_formats", "%who", "%%script cat\ntext", "%env JF_NONE=1",
                    "%pwd\n%dirs", "%alias_magic t timeit", "%macro m 1", "%store"], []),
    "processes-2": (["import os\npid = os.fork()\nif pid == 0:\n    os._exit(0)\nos.waitpid(pid, 0)[1]",
                     "%%writefile worker.py\ndef work(x): return x * 2",
                     "import multiprocessing as m, worker\nwith m.get_context('spawn').Pool(1) as p: print(p.map(worker.work, [1, 2]))",
                     "import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', 'print(1)'], text=True)", "m.current_process().name"], []),
    "interpreter": (["import sys, faulthandler, tracemalloc, signal, threading\nprint(faulthandler.is_enabled(), tracemalloc.is_tracing(), threading.current_thread() is threading.main_thread())",
                     "print(sys.gettrace(), sys.getprofile(), sys.getrecursionlimit(), sys.excepthook.__name__, sys.displayhook.__class__.__name__)",
                     "import warnings; print([f[0] for f in warnings.filters][:5], len(warnings.filters))", "print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGCHLD))",
                     "print(sorted(t.name for t in threading.enumerate() if 'Thread-' not in t.name))", "import atexit, os\nprint(os.environ.get('JPY_PARENT_PID') is not None, os.getpgrp() == os.getpid())",
                     "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))", "import asyncio; print(type(asyncio.get_event_loop()).__name__, asyncio.get_event_loop_policy().__class__.__name__)",
                     "print(sys.stdin, sys.__stdout__ is None, sys.stdout.__class__.__name__, sys.flags)", "print('ipykernel.debugger' in sys.modules, 'slim' in sys.modules)"], []),
    "old-format": ({"cells": [{"cell_type": "code", "execution_count": 5, "metadata": {"trusted": False}, "outputs": [], "source": ["a = 1\n", "a"]},
                              {"cell_type": "heading", "level": 2, "metadata": {}, "source": "h"}, {"cell_type": "raw", "metadata": {"format": "text/x"}, "source": []}],
                    "metadata": {"kernelspec": {"name": "python3", "display_name": "p"}, "x": None}, "nbformat": 4, "nbformat_minor": 0}, [], {"invalid": True}),
    "same-ids": ({"cells": [{"cell_type": "code", "id": "same", "execution_count": None, "metadata": {}, "outputs": [], "source": source} for source in ("1", "2")],
                  "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}, [], {"invalid": True}),
    "odd-words": ([code("a = b = c = 1", P), "a, b"], ["-p", "a", "-5", "-r", "b", "--x", "-y", "{c: 'it''s', d: [1, {e: null}], 'sp ace': 1}", "-p", "é", "ü"]),
    "restart-by-cell": (["1", "get_ipython().kernel.do_shutdown(True)", *LATER], [], {"states": True}),
    "string-tags": ([code("a = 1"), "print(1)"], [], {"invalid": True, "edit": lambda n: n.cells[0].metadata.update(tags="xparametersx")}),
    "prepare-only": ([DECLARED, V4.new_code_cell("x", outputs=[V4.new_output("stream", text="old")], execution_count=3)],
                     ["--prepare-only", "-p", "a", "2"]),
    "prepare-plain": ([DECLARED], ["--prepare-only"]),
    "megabytes": (["x = '" + "y" * 3_000_000 + "'", "len(x)", "print(x[:10])"], []),
    "no-kernelspec": (V4.new_notebook(cells=[code("1")]), []),
    "no-kernelspec-k": (V4.new_notebook(cells=[code("1")]), ["-k", "python3"]),
    "unknown-kernel": (notebook(["1"], kernel="python3.4"), [], {"states": True}),
    "unknown-language": (notebook(["1"], language="cobol"), ["-p", "a", "1"]),
    "bash": (notebook([code("x=1", P), "echo $x", "echo err >&2; false", "echo later"], "bash", "bash"), ["-p", "x", "it's me"]),
    "bash-error": (notebook(["echo a", "cat /no/such/file", "echo later"], "bash", "bash"), []),
    "xpython": (notebook(["print('a')", "1 + 1", "from IPython.display import display\ndisplay('x', display_id='d')",
                          "raise ValueError('boom')", "2"], "xpython"), []),
    "xpython-raw": (notebook([code("x = 1", P), "print(x)", "{'a': 1}"], "xpython-raw"), ["-p", "x", "2"]),
    "r": (notebook([code("x <- 1", P), "print(x + 1)", "cat('a\\n'); message('m')", "data.frame(a = 1:2)", "plot(1)"], "ir", "R"), ["-p", "x", "4"]),
    "r-error": (notebook(["stop('boom')", "2"], "ir", "R"), []),
    "deno": (notebook([f"console.log('a'); {SETTLED}", "const x: number = 1", f"console.log(x + 1); console.error('e'); {SETTLED}"], "deno", "typescript"), []),
    "deno-error": (notebook(["throw new Error('boom')", "console.log('later')"], "deno", "typescript"), []),
    "deno-parameters": (notebook(["1"], "deno", "typescript"), ["-p", "a", "1"]),
}

#: Kernels that are no ipykernel cannot be launched slim.
OTHER_KERNELS = ("bash", "bash-error", "xpython", "xpython-raw", "r", "r-error", "deno", "deno-error", "deno-parameters")
