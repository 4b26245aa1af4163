"""A stock ipykernel without its debugger, without a send limit and without a slow teardown.

The same kernel otherwise: same arguments, paths, modules and order of exit. Each line that is not
plain has its reason beside it.
"""

import atexit
import gc
import importlib.util
import os
import sys
import threading

# This file's folder is nothing that a notebook may import from (as in `ipykernel_launcher`).
if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]

# Collecting while thousands of modules are made finds nothing and costs 30 ms.
gc.disable()
# ipykernel goes without a debugger where there is none: 70 ms. Notebooks can import it all the same.
sys.modules["debugpy"] = None

import zmq
from ipykernel import kernelapp
from ipykernel.iostream import OutStream

sys.argv[0] = os.path.join(os.path.dirname(os.path.dirname(kernelapp.__file__)), "ipykernel_launcher.py")
# The control thread may wait for a thread that is gone (10 s otherwise).
OutStream.flush_timeout = 1

bind_socket = kernelapp.IPKernelApp._bind_socket


def bind_without_limit(self, socket, port):
    # A publisher drops what is beyond its limit, without a word. Only set before the bind it counts.
    if socket.type in (zmq.PUB, zmq.XPUB):
        socket.setsockopt(zmq.SNDHWM, 0)
    return bind_socket(self, socket, port)


kernelapp.IPKernelApp._bind_socket = bind_without_limit
start = kernelapp.IPKernelApp.start


def debugpy_breakpointhook(*args, **kwargs):
    # Where ipykernel has loaded debugpy, `breakpoint()` passes while no debugger is attached; here
    # none ever is. A notebook that imports debugpy gets debugpy's own hook with it.
    pass


def start_as_usual(self):
    # Everything is loaded: from here on the interpreter is as any kernel's.
    if sys.modules.get("debugpy", 0) is None:
        del sys.modules["debugpy"]
    if sys.breakpointhook is sys.__breakpointhook__ and importlib.util.find_spec("debugpy"):
        sys.breakpointhook = debugpy_breakpointhook
    gc.enable()
    gc.freeze()
    start(self)


kernelapp.IPKernelApp.start = start_as_usual


try:
    # By `exec`, so that below a cell there are as many frames as there are usually: how deep a
    # recursion goes before Python ends it is part of its traceback.
    exec("kernelapp.launch_new_instance()")
finally:
    app = kernelapp.IPKernelApp.instance()
    # What the interpreter does at its end as far as anybody can see it: threads are waited for, exit
    # functions run, objects of the notebook go, files are flushed. Then the C library's own end.
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        if app.shell is not None:
            app.shell.user_ns.clear()
            vars(app.shell.user_module).clear()
        gc.collect()
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except Exception:
                pass
        try:
            import ctypes

            ctypes.pythonapi.exit(0)
        finally:
            os._exit(0)
