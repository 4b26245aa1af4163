//! A proxy between a controller and the API server, which can let a request wait, fail or lose its answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;

/// What the proxy sees of a request.
pub struct Asked {
    pub method: String,
    pub path: String,
    pub body: String,
}

impl Asked {
    /// Whether it changes anything but a lease.
    pub fn writes(&self) -> bool {
        self.method != "GET" && !self.path.contains("/leases")
    }
}

/// What becomes of a request.
pub enum Verdict {
    /// It goes through.
    Pass,
    /// It is answered with this code, and not passed on.
    Refuse(u16),
    /// It is a watch, and is told that its version is too old.
    Expire,
    /// It is passed on, and its answer is lost.
    Lose,
    /// It is not passed on, and this is called instead.
    Never(Box<dyn FnOnce() + Send>),
    /// It waits until this is called, and is passed on.
    Before(Box<dyn FnOnce() + Send>),
    /// It is passed on, and its answer waits until this is called.
    After(Box<dyn FnOnce() + Send>),
}

/// Connections that may be under way.
type Open = Arc<Mutex<Vec<TcpStream>>>;

type Rule = Box<dyn FnMut(&Asked) -> Verdict + Send>;

pub struct Proxy {
    upstream: Child,
    rule: Arc<Mutex<Rule>>,
    /// What is under way.
    open: Open,
    config: tempfile::NamedTempFile,
}

impl Proxy {
    pub fn new() -> Self {
        // Whoever speaks to it is who the tests are.
        let mut serve = super::user::kubectl_for_long(&["proxy", "--port=0"]);
        let mut upstream = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(upstream.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let upstream_address = said.trim().rsplit(' ').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "users": [{"name": "it", "user": {}}],
        });
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.to_string().as_bytes()).unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_: &Asked| Verdict::Pass)));
        let (shared, open) = (Arc::clone(&rule), Open::default());
        let opened = Arc::clone(&open);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, address) = (Arc::clone(&shared), upstream_address.clone());
                opened.lock().unwrap().extend(stream.try_clone());
                std::thread::spawn(move || {
                    let own = stream.try_clone();
                    pass(stream, &address, &shared);
                    // A handle of it is kept, to be cut: it would stay open.
                    own.map(|own| own.shutdown(std::net::Shutdown::Both))
                });
            }
        });
        Self { upstream, rule, open, config: file }
    }

    /// The kubeconfig that leads here.
    pub fn config(&self) -> &std::path::Path {
        self.config.path()
    }

    /// Ends all connections that are under way.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// What becomes of requests from now on.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Verdict + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.upstream.kill();
        let _ = self.upstream.wait();
    }
}

/// One request of a connection, which ends with its answer.
fn pass(stream: TcpStream, upstream: &str, rule: &Mutex<Rule>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut head, mut length) = (first.clone(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked { method, path, body: String::from_utf8_lossy(&body).into_owned() };
    let verdict = (rule.lock().ok()?)(&asked);
    let mut stream = stream;
    let (mut after, mut lost) = (None, false);
    match verdict {
        Verdict::Refuse(code) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": "InternalError", "message": "the proxy refuses",
            })
            .to_string();
            let length = status.len();
            let answer = format!(
                "HTTP/1.1 {code} Refused\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{status}"
            );
            stream.write_all(answer.as_bytes()).ok()?;
            return Some(());
        }
        Verdict::Expire => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old resource version", "reason": "Expired", "code": 410,
            });
            let event = format!("{}\n", json!({"type": "ERROR", "object": status}));
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
            stream.write_all(format!("{head}{event}").as_bytes()).ok()?;
            return Some(());
        }
        Verdict::Never(instead) => {
            instead();
            return Some(());
        }
        Verdict::Before(wait) => wait(),
        Verdict::After(wait) => after = Some(wait),
        Verdict::Lose => lost = true,
        Verdict::Pass => {}
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(head.as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    if lost {
        server.read_to_end(&mut body).ok()?;
        return Some(());
    }
    if let Some(wait) = after {
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        wait();
        stream.write_all(&answer).ok()?;
        return Some(());
    }
    std::io::copy(&mut server, &mut stream).ok()?;
    Some(())
}
