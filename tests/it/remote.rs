//! Notebooks behind URLs: a real S3 server, and a web server.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::{Place, has, venv, wait_for};

/// A server of a test; it ends with it.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn serve(command: &mut Command, port: u16) -> Server {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Server { child, port };
    wait_for("the server to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    server
}

fn versitygw() -> PathBuf {
    venv().join("bin/versitygw")
}

#[test]
fn notebooks_are_read_from_and_written_to_s3() {
    if !has("versitygw", versitygw().exists()) {
        return;
    }
    let mut place = Place::new();
    let port = free_port();
    let bucket = place.path("data/bucket");
    std::fs::create_dir_all(bucket.join("deep")).unwrap();
    let mut command = place.command(versitygw());
    command.args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix", "data"]);
    command.env("ROOT_ACCESS_KEY", "key").env("ROOT_SECRET_KEY", "very-secret");
    let server = serve(&mut command, port);
    place.notebook("in.ipynb", &["#tag parameters\na = 1", "print('a is', a)"]);
    std::fs::copy(place.path("in.ipynb"), bucket.join("deep/in.ipynb")).unwrap();
    std::fs::write(bucket.join("parameters.yaml"), "a: 010\n").unwrap();
    place
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", server.port))
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "very-secret");
    let arguments = ["-f", "s3://bucket/parameters.yaml"];
    let mut all = vec!["exec", "s3://bucket/deep/in.ipynb", "s3://bucket/out-{a}.ipynb"];
    all.extend(arguments);
    place.run(&all).expect(0);
    let text = std::fs::read_to_string(bucket.join("out-8.ipynb")).unwrap();
    assert!(text.contains("a is 8"), "{text}");
    // A failing notebook is there as well, and what fails says which object.
    place.notebook("bad.ipynb", &["1 / 0"]);
    place.run(&["exec", "bad.ipynb", "s3://bucket/bad.ipynb"]).expect(1);
    assert!(bucket.join("bad.ipynb").exists());
    let missing = place.run(&["exec", "s3://bucket/none.ipynb", "out.ipynb"]).expect(2);
    missing.says("failed to read s3://bucket/none.ipynb");
    place.env("AWS_SECRET_ACCESS_KEY", "wrong-secret");
    let refused = place.run(&["exec", "in.ipynb", "s3://bucket/refused.ipynb"]).expect(1);
    assert!(!refused.stderr.contains("wrong-secret"), "{}", refused.stderr);
    refused.says("failed to write s3://bucket/refused.ipynb");
}

#[test]
fn notebooks_are_read_from_and_put_to_web_servers() {
    let place = Place::new();
    let port = free_port();
    let script = "
import http.server, os, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_PUT(self):
        if 'refused' in self.path:
            self.send_error(403); return
        body = self.rfile.read(int(self.headers['Content-Length']))
        open(self.path.split('?')[0].strip('/'), 'wb').write(body)
        self.send_response(201); self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()";
    let mut command = place.command(venv().join("bin/python"));
    let server = serve(command.args(["-c", script, &port.to_string()]), port);
    place.notebook("in.ipynb", &["print('hello')"]);
    let url = |path: &str| format!("http://user:secret@127.0.0.1:{}/{path}", server.port);
    let (input, output) = (url("in.ipynb?token=secret"), url("out.ipynb"));
    place.run(&["exec", &input, &output]).expect(0);
    assert!(place.read("out.ipynb").contains("hello"));
    for (input, output, code) in [
        (url("none.ipynb?token=secret"), "local.ipynb".to_owned(), 2),
        ("in.ipynb".to_owned(), url("refused?token=secret"), 1),
    ] {
        let ended = place.run(&["exec", &input, &output]).expect(code);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
        ended.says(&format!("http://127.0.0.1:{}/", server.port));
    }
}

/// A server that takes connections and never answers, and a reader of a pipe who never reads: a
/// signal ends the wait.
#[test]
fn a_write_that_hangs_ends_with_a_signal() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/out.ipynb", silent.local_addr().unwrap());
    let place = Place::new();
    assert!(place.command("mkfifo").arg("pipe").status().unwrap().success());
    let mut reader = place.command("sh").args(["-c", "exec sleep 60 < pipe"]).spawn().unwrap();
    // More than a pipe holds.
    place.notebook("in.ipynb", &["print('x' * 1_000_000)\nopen('done', 'w')"]);
    for output in [url.as_str(), "pipe"] {
        let _ = std::fs::remove_file(place.path("done"));
        let args = ["exec", "in.ipynb", output, "--no-request-save-on-cell-execute"];
        let mut exec = place.spawn(&args);
        wait_for("the kernel to have come and gone", || {
            place.path("done").exists() && !has_child(exec.child.id())
        });
        exec.signal(rustix::process::Signal::TERM);
        assert_eq!(exec.end(), 143, "{output}: {}", exec.log());
    }
    reader.kill().unwrap();
    reader.wait().unwrap();
}

fn has_child(id: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    children.is_ok_and(|children| !children.trim().is_empty())
}
