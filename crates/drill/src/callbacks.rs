//! The receiver of callbacks in a drill: answers 200 and keeps which status of which message came when.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use estafet_runtime::Tasks;
use serde::Deserialize;
use tokio::net::TcpListener;

/// A status as it is kept: id and status.
type Report = (Box<str>, Box<str>);
type Shared = Arc<Mutex<Vec<Report>>>;

/// The part of a callback that is looked at.
#[derive(Deserialize)]
struct Callback {
    #[serde(default)]
    statuses: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    id: Box<str>,
    status: Box<str>,
}

/// A running receiver.
pub(crate) struct Receiver {
    reports: Shared,
    address: SocketAddr,
    _tasks: Tasks,
}

impl Receiver {
    pub(crate) async fn start(listen: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let (address, reports, tasks) = (listener.local_addr()?, Shared::default(), Tasks::new());
        let router = Router::new().route("/callbacks", post(receive)).with_state(reports.clone());
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("callbacks", async move {
            // Errors of single connections are handled inside; serving itself does not fail.
            let _ = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        });
        Ok(Self { reports, address, _tasks: tasks })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/callbacks", self.address)
    }

    /// Looks at everything that arrived, in its order.
    pub(crate) fn reports<T>(&self, look: impl FnOnce(&[Report]) -> T) -> T {
        look(&self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn receive(State(reports): State<Shared>, body: Bytes) {
    // What is not about statuses is not looked at.
    let Ok(callback) = serde_json::from_slice::<Callback>(&body) else { return };
    let statuses = callback.statuses.into_iter().map(|status| (status.id, status.status));
    reports.lock().unwrap_or_else(PoisonError::into_inner).extend(statuses);
}

#[cfg(test)]
mod tests {
    use estafet_harness::Api;
    use reqwest::Method;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn statuses_are_kept_in_the_order_they_came() {
        let receiver = Receiver::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let api = Api::anonymous(receiver.url().trim_end_matches("/callbacks")).unwrap();
        for status in ["delivered", "read"] {
            let body = json!({ "statuses": [{ "id": "a", "status": status, "timestamp": "1" }] });
            assert_eq!(api.call(Method::POST, "/callbacks", Some(&body)).await.unwrap().status, 200);
        }
        assert_eq!(api.call(Method::POST, "/callbacks", Some(&json!({ "messages": [] }))).await.unwrap().status, 200);
        let kept = receiver.reports(|reports| reports.to_vec());
        assert_eq!(kept, [("a".into(), "delivered".into()), ("a".into(), "read".into())]);
    }
}
