"""A kernel that speaks the protocol, and then does one thing wrong: the first argument says what."""

import hashlib
import hmac
import json
import os
import signal
import sys
import time
import uuid

import zmq

FAULT, FILE = sys.argv[1:3]
if FAULT == "dies at once":
    sys.exit("no such module: it was never installed")
if FAULT == "never starts":
    time.sleep(600)
with open(FILE) as file:
    connection = json.load(file)
join = "-" if connection["transport"] == "ipc" else ":"
context = zmq.Context()


def bind(kind, name):
    socket = context.socket(kind)
    socket.linger = 0
    socket.bind(f"{connection['transport']}://{connection['ip']}{join}{connection[name + '_port']}")
    return socket


shell, control, iopub = bind(zmq.ROUTER, "shell"), bind(zmq.ROUTER, "control"), bind(zmq.XPUB, "iopub")
key = connection["key"].encode()


def send(socket, kind, content, parent, identities=(), key=key):
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "s", "username": "u", "version": "5.3",
              "date": "2026-01-01T00:00:00Z"}
    parts = [json.dumps(part).encode() for part in (header, parent, {}, content)]
    signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
    socket.send_multipart([*identities, b"<IDS|MSG>", signature, *parts])


def execute(identities, parent):
    say = lambda kind, content, **more: send(iopub, kind, content, parent, **more)
    say("status", {"execution_state": "busy"})
    say("stream", {"name": "stdout", "text": "before"})
    time.sleep(1)
    if FAULT == "garbage":
        iopub.send_multipart([b"\xff\x00", b"nonsense"])
    if FAULT == "wrong signature":
        say("stream", {"name": "stdout", "text": "forged"}, key=b"another")
    if FAULT == "no json":
        parts = [b"{", b"{", b"{", b"{"]
        signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
        iopub.send_multipart([b"<IDS|MSG>", signature, *parts])
    if FAULT == "half a message":
        iopub.send_multipart([b"<IDS|MSG>", b"0" * 64, b"{}"])
    if FAULT == "closes its output":
        iopub.close()
        time.sleep(600)
    if FAULT == "closes its shell":
        shell.close()
        time.sleep(600)
    if FAULT == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT != "never idle":
        say("status", {"execution_state": "idle"})
    if FAULT != "never answers":
        send(shell, "execute_reply", {"status": "ok", "execution_count": 1}, parent, identities)


poller = zmq.Poller()
for one in (shell, control, iopub):
    poller.register(one, zmq.POLLIN)
while True:
    for socket, _ in poller.poll():
        frames = socket.recv_multipart()
        if socket is iopub:
            continue
        at = frames.index(b"<IDS|MSG>")
        identities, parent = frames[:at], json.loads(frames[at + 2])
        kind = parent["msg_type"]
        if kind == "kernel_info_request":
            info = {"status": "ok", "protocol_version": "5.3", "implementation": "hostile", "language_info": {"name": "none"}}
            send(iopub, "status", {"execution_state": "busy"}, parent)
            send(socket, "kernel_info_reply", info, parent, identities)
            send(iopub, "status", {"execution_state": "idle"}, parent)
        elif kind == "execute_request":
            execute(identities, parent)
        elif kind == "shutdown_request" and FAULT != "hangs at its end":
            send(socket, "shutdown_reply", {"status": "ok", "restart": False}, parent, identities)
            sys.exit(0)
