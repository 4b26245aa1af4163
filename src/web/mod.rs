//! What a daemon serves: its health, its metrics, and the endpoint of webhooks.
//!
//! Owns the routes and their limits. It is told what to show and whom to call; it decides nothing, and
//! believes nothing of what a request says.

mod connections;
mod hooks;
mod metrics;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use self::connections::Limited;
pub use self::hooks::{Hook, id};
pub use self::metrics::{Figures, SourceFigures};

/// The largest body of a webhook, in bytes.
const LARGEST: usize = 1 << 20;
/// A body has this long to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is served, and whom a webhook wakes.
pub struct Served {
    hooks: Vec<Hook>,
    wake: Box<dyn Fn(&str) + Send + Sync>,
    freshen: Box<dyn Fn(&mut Figures) + Send + Sync>,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    figures: Figures,
    passed: Option<Instant>,
    /// Passes are never further apart, or something hangs.
    within: Duration,
}

impl Served {
    /// Serves these hooks; `wake` is called with the name of a source whose hook was called rightly,
    /// `freshen` with figures that are about to be shown.
    pub fn new(
        hooks: Vec<Hook>,
        wake: impl Fn(&str) + Send + Sync + 'static,
        freshen: impl Fn(&mut Figures) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (wake, freshen) = (Box::new(wake), Box::new(freshen));
        Arc::new(Self { hooks, wake, freshen, shown: Mutex::default() })
    }

    /// Shows the figures of a pass that just ended; the next is due within a time.
    pub fn show(&self, figures: Figures, within: Duration) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { figures, passed: Some(Instant::now()), within };
    }
}

/// Listens on an address and serves from a thread of its own; returns the address, with the port that
/// was chosen where none was given.
///
/// # Errors
/// The address cannot be used.
pub fn serve(address: &str, served: Arc<Served>) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("web".into()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let router = Router::new()
                .route("/metrics", get(show_metrics))
                .route("/healthz", get(health))
                .route("/readyz", get(readiness))
                .route("/hooks/{id}", post(hook))
                .with_state(served);
            // It ends with the process.
            let _ = axum::serve(Limited::new(listener), router).await;
        });
    })?;
    Ok(bound)
}

async fn show_metrics(State(served): State<Arc<Served>>) -> Response {
    let mut figures = {
        let shown = served.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.figures.clone()
    };
    (served.freshen)(&mut figures);
    let text = metrics::render(&figures);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Whether passes go on; a pass that hangs is no health.
async fn health(State(served): State<Arc<Served>>) -> Response {
    let shown = served.shown.lock().unwrap_or_else(PoisonError::into_inner);
    match shown.passed {
        Some(at) if at.elapsed() > shown.within => {
            let words = format!("the last pass was {} s ago\n", at.elapsed().as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
        }
        _ => "ok\n".into_response(),
    }
}

/// Whether a pass was made.
async fn readiness(State(served): State<Arc<Served>>) -> Response {
    let shown = served.shown.lock().unwrap_or_else(PoisonError::into_inner);
    match shown.passed {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no pass was made yet\n").into_response(),
    }
}

/// A webhook: its payload is never believed, it only brings the next poll of its repository forward.
async fn hook(
    State(served): State<Arc<Served>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    let Some(hook) = served.hooks.iter().find(|hook| hook.has_id(&id)) else {
        return StatusCode::NOT_FOUND;
    };
    let bytes = match tokio::time::timeout(PATIENCE, to_bytes(body, LARGEST)).await {
        Err(_) => return StatusCode::REQUEST_TIMEOUT,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE,
        Ok(Ok(bytes)) => bytes,
    };
    if !hook.is_signed(&headers, &bytes) {
        return StatusCode::UNAUTHORIZED;
    }
    (served.wake)(&hook.source);
    StatusCode::ACCEPTED
}
