"""git's own http-backend behind a small web server, which can also hang, fail and ask for a password.

    git_server.py FOLDER [ADDRESS]    serves FOLDER/repos at 127.0.0.1 or ADDRESS; FOLDER/mode says how; writes
                                      FOLDER/port; with FOLDER/server.pem, a key and its certificate, by https
"""

import base64
import http.server
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time

folder = pathlib.Path(sys.argv[1])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def refuse(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self):
        mode, _, detail = (folder / "mode").read_text().strip().partition(" ")
        body = self.body()
        with open(folder / "asked", "a") as log:
            print(self.command, self.path, file=log)
        if mode == "hang":
            threading.Event().wait()
        if mode == "status":
            return self.refuse(int(detail))
        if mode == "redirect":
            return self.refuse(302, Location=detail + self.path)
        if mode == "password":
            wanted = "Basic " + base64.b64encode(detail.encode()).decode()
            if self.headers.get("Authorization") != wanted:
                return self.refuse(401, WWW_Authenticate='Basic realm="git"')
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(folder / "repos"), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }
        if encoding := self.headers.get("Content-Encoding"):
            env["HTTP_CONTENT_ENCODING"] = encoding
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        if mode == "old":
            # A server that does not know what shallow is; the length of its lines stays.
            content = content.replace(b" shallow ", b" sha11ow ")
        if mode == "lie" and self.command == "POST" and (at := content.find(b"PACK")) >= 0:
            middle = (at + len(content)) // 2
            content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        status = next((value for name, value in headers if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if mode == "stall" and self.command == "POST":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            threading.Event().wait()
        pieces = max(1, len(content) // 20) if mode == "slow" else max(1, len(content))
        for start in range(0, len(content), pieces):
            self.wfile.write(content[start : start + pieces])
            time.sleep(0.05 if mode == "slow" else 0)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", 0), Handler)
server.daemon_threads = True
# Clients that are killed are what tests are about.
server.handle_error = lambda *_: None
if (folder / "server.pem").exists():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
(folder / "port.new").write_text(str(server.server_port))
(folder / "port.new").rename(folder / "port")
server.serve_forever()
