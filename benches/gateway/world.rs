//! Everybody else: the pantry's FHIR server, which takes Tasks, and the clinic's hook, which takes notifications.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// What arrived, and when.
pub struct World {
    pub address: String,
    /// Tasks that reached the pantry.
    pub tasks: Arc<AtomicUsize>,
    /// Notifications of events: when, and the whole text.
    pub heard: mpsc::UnboundedReceiver<(Instant, String)>,
    /// Whether `/slow` is slow.
    pub slow: Arc<AtomicBool>,
}

pub async fn open() -> World {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let tasks = Arc::new(AtomicUsize::new(0));
    let (sender, heard) = mpsc::unbounded_channel();
    let (count, base) = (tasks.clone(), address.clone());
    let take = move |body: Bytes| {
        let (count, base) = (count.clone(), base.clone());
        async move {
            let mut task: Value = serde_json::from_slice(&body).unwrap();
            let id = count.fetch_add(1, Ordering::SeqCst).to_string();
            task["id"] = Value::String(id.clone());
            task["meta"]["versionId"] = Value::String("1".into());
            let place = format!("http://{base}/fhir/Task/{id}");
            (StatusCode::CREATED, [(header::LOCATION, place)], fhir(task.to_string())).into_response()
        }
    };
    let hook = move |body: Bytes| {
        let sender = sender.clone();
        async move {
            let _ = sender.send((Instant::now(), String::from_utf8_lossy(&body).to_string()));
        }
    };
    let empty = || async { fhir(r#"{"resourceType":"Bundle","type":"searchset","entry":[]}"#.into()) };
    let slow = Arc::new(AtomicBool::new(false));
    let is_slow = slow.clone();
    let sleeper = move |_: Bytes| {
        let slow = is_slow.load(Ordering::SeqCst);
        async move {
            if slow {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
        }
    };
    let router = Router::new()
        .route("/fhir/Task", post(take).get(empty))
        .route("/hook", post(hook))
        .route("/slow", post(sleeper))
        .fallback(get(empty));
    tokio::spawn(async move { axum::serve(listener, router).await });
    World { address, tasks, heard, slow }
}

fn fhir(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/fhir+json")], body).into_response()
}
