"""What the benches on a cluster share: the API server's answers, a controller, and its counts."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CLUSTER_CACHE", ROOT / ".venv/cluster"))
KUBECTL = CACHE / "bin/kubectl"
SPACE = "bench"


def kubectl(*args, text=None):
    done = subprocess.run([KUBECTL, *args], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"kubectl {' '.join(map(str, args))[:200]}: {done.stderr[-1000:]}")
    return done.stdout


def apply(objects):
    """Many objects at once; what is there already stays."""
    kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def items(kind):
    return json.loads(kubectl("-n", SPACE, "get", kind, "-o", "json"))["items"]


def until(what, is_true, seconds):
    end = time.time() + seconds
    while not is_true():
        if time.time() > end:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.25)


def writes():
    """Writes that the API server took so far, by resource."""
    text = kubectl("get", "--raw", "/metrics")
    counts = {}
    for line in text.splitlines():
        if line.startswith("apiserver_request_total{") and not re.search(r'verb="(GET|LIST|WATCH)"', line):
            resource = re.search(r'resource="([^"]*)"', line).group(1)
            counts[resource] = counts.get(resource, 0) + float(line.rsplit(" ", 1)[1])
    return sum(counts.get(one, 0) for one in ("workflows", "notebookruns", "notebookpipelines"))


class Asking:
    """A connection to the API server that stays: a kubectl for each of many questions would be load of its own."""

    def __enter__(self):
        self.proxy = subprocess.Popen([KUBECTL, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        port = self.proxy.stdout.readline().rsplit(":", 1)[1]
        self.connection = http.client.HTTPConnection("127.0.0.1", int(port))
        return self

    def get(self, path):
        self.connection.request("GET", path)
        return json.load(self.connection.getresponse())

    def __exit__(self, *_):
        self.connection.close()
        self.proxy.terminate()
        self.proxy.wait()


class Controller:
    def __init__(self, program, folder):
        self.log = open(folder / "controller.log", "a")
        environment = {**os.environ, "JUPYTERFLOW_IMAGE": "docker.io/local/jupyterflow:1"}
        command = [program, "controller", "-n", SPACE, "--lease-namespace", SPACE, "--cache", folder / "cache"]
        self.process = subprocess.Popen(command, env=environment, stderr=self.log)

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def argo_definitions(kind):
    """Argo's definitions of its objects: `minimal`, with which 3.7 ships, or `full`, which check each field of a write."""
    folder = CACHE / "module/argo-source/manifests/base/crds" / kind
    for name in ("workflows", "cronworkflows"):
        kubectl("apply", "--server-side", "--force-conflicts", "-f", folder / f"argoproj.io_{name}.yaml")


def prepare(program):
    """The custom resources, and a namespace whose user was seen once."""
    manifests = subprocess.run([program, "generate", "manifests", "--only", "crds"], capture_output=True, text=True, check=True).stdout
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=manifests)
    kubectl("wait", "crd", "--for=condition=Established", "--timeout=60s", "notebookpipelines.jupyterflow.io", "notebookenvironments.jupyterflow.io")
    apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}])
    environment = {"owner": "somebody", "image": "docker.io/local/notebook:1"}
    apply([{
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookEnvironment", "metadata": {"name": "somebody", "namespace": SPACE},
        "spec": {"environment": environment},
    }])


def source(homes, **more):
    """A source over a folder of this machine."""
    apply([{
        "apiVersion": "jupyterflow.io/v1alpha1", "kind": "NotebookSource", "metadata": {"name": "homes", "namespace": SPACE},
        "spec": {"directory": {"path": str(homes), "claim": "homes"}, "settle": "0s", **more},
    }])
