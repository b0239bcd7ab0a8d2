//! The control interface of the simulated phones: JSON under `/sandbox/`. Who may reach it is the caller's to decide.

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use estafet_model::WaId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::phones::{Error, Inbox, Info, Mode, Phones, Rules, Sent};
use crate::view::View;

/// The routes.
pub fn router(phones: Phones) -> Router {
    Router::new()
        .route("/sandbox/phones", get(list).post(add))
        .route("/sandbox/phones/{number}/inbox", get(inbox))
        .route("/sandbox/phones/{number}/sent", get(sent))
        .route("/sandbox/phones/{number}/mode", put(set_mode))
        .route("/sandbox/phones/{number}/identity", post(new_identity))
        .route("/sandbox/phones/{number}/number", put(change_number))
        .route("/sandbox/phones/{number}/messages", post(send))
        .route("/sandbox/phones/{number}/messages/{id}", delete(revoke))
        .route("/sandbox/phones/{number}/messages/{id}/file", get(file))
        .route("/sandbox/network", get(rules).put(set_rules))
        .route("/sandbox/files", post(leave_file).layer(DefaultBodyLimit::disable()))
        .with_state(phones)
}

/// An answer that tells what is wrong.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Unknown(_) | Error::UnknownBusiness(_) | Error::NoMessage(_) => StatusCode::NOT_FOUND,
            Error::Exists(_) | Error::IsBusiness(_) | Error::NoBusiness | Error::OutOfReach(_) => StatusCode::CONFLICT,
            Error::Ambiguous | Error::Content(_) => StatusCode::BAD_REQUEST,
            Error::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Error::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

fn number(text: &str) -> Result<WaId, Problem> {
    text.parse().map_err(|error| Problem(StatusCode::NOT_FOUND, format!("{text} is not a phone: {error}")))
}

async fn list(State(phones): State<Phones>) -> Result<Json<Vec<Info>>, Problem> {
    Ok(Json(phones.list().await?))
}

#[derive(Deserialize)]
struct New {
    number: WaId,
    name: Option<String>,
}

async fn add(State(phones): State<Phones>, new: Result<Json<New>, JsonRejection>) -> Result<(StatusCode, Json<Value>), Problem> {
    let Json(new) = new?;
    phones.add(new.number, new.name).await?;
    Ok((StatusCode::CREATED, Json(json!({ "number": new.number }))))
}

/// How the person looks is said by the members of [`View`] as parameters.
async fn inbox(
    State(phones): State<Phones>,
    Path(phone): Path<String>,
    view: Result<Query<View>, QueryRejection>,
) -> Result<Json<Inbox>, Problem> {
    let Query(view) = view.map_err(|rejection| Problem(rejection.status(), rejection.body_text()))?;
    Ok(Json(phones.look(number(&phone)?, &view).await?))
}

async fn sent(State(phones): State<Phones>, Path(phone): Path<String>) -> Result<Json<Vec<Sent>>, Problem> {
    Ok(Json(phones.sent(number(&phone)?).await?))
}

/// The body is a file; the answer is what names it in a message.
async fn leave_file(
    State(phones): State<Phones>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Attachment>), Problem> {
    let mime_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream");
    let left = phones.leave_file(mime_type.to_owned(), body.into_data_stream()).await;
    Ok((StatusCode::CREATED, Json(left.map_err(|error| Problem(StatusCode::BAD_REQUEST, error.to_string()))?)))
}

/// The file of a message, decrypted.
async fn file(State(phones): State<Phones>, Path((phone, id)): Path<(String, String)>) -> Result<Response, Problem> {
    match phones.file(number(&phone)?, &id).await? {
        Some((mime_type, stream)) => Ok(([(header::CONTENT_TYPE, mime_type)], Body::from_stream(stream)).into_response()),
        None => Err(Problem(StatusCode::NOT_FOUND, "there is no such message with a file".to_owned())),
    }
}

#[derive(Deserialize)]
struct NewMode {
    mode: Mode,
}

async fn set_mode(
    State(phones): State<Phones>,
    Path(phone): Path<String>,
    mode: Result<Json<NewMode>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let (phone, Json(NewMode { mode })) = (number(&phone)?, mode?);
    phones.set_mode(phone, mode).await?;
    Ok(Json(json!({ "number": phone, "mode": mode })))
}

async fn rules(State(phones): State<Phones>) -> Result<Json<Rules>, Problem> {
    Ok(Json(phones.rules().await?))
}

async fn set_rules(State(phones): State<Phones>, rules: Result<Json<Rules>, JsonRejection>) -> Result<Json<Rules>, Problem> {
    let Json(rules) = rules?;
    phones.set_rules(rules).await?;
    Ok(Json(rules))
}

/// The app is installed again.
async fn new_identity(State(phones): State<Phones>, Path(phone): Path<String>) -> Result<Json<Value>, Problem> {
    let phone = number(&phone)?;
    phones.new_identity(phone).await?;
    Ok(Json(json!({ "number": phone })))
}

async fn revoke(State(phones): State<Phones>, Path((phone, id)): Path<(String, String)>) -> Result<Json<Value>, Problem> {
    phones.delete(number(&phone)?, &id).await?;
    Ok(Json(json!({ "deleted": id })))
}

#[derive(Deserialize)]
struct NewNumber {
    number: WaId,
}

async fn change_number(
    State(phones): State<Phones>,
    Path(phone): Path<String>,
    new: Result<Json<NewNumber>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let (phone, Json(NewNumber { number: new })) = (number(&phone)?, new?);
    phones.change_number(phone, new).await?;
    Ok(Json(json!({ "number": new })))
}

/// The body is the content; its member `to`, if there is one, names the business number.
async fn send(
    State(phones): State<Phones>,
    Path(phone): Path<String>,
    content: Result<Json<Value>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let (phone, Json(mut content)) = (number(&phone)?, content?);
    let to = match content.as_object_mut().and_then(|members| members.remove("to")) {
        None => None,
        Some(to) => {
            let to =
                serde_json::from_value(to).map_err(|_| Problem(StatusCode::BAD_REQUEST, "'to' is not a number".to_owned()))?;
            Some(to)
        }
    };
    let id = phones.send(phone, to, content).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use estafet_runtime::{Clock, Tasks};
    use tower::ServiceExt as _;

    use super::*;

    async fn call(router: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let response = router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn phones_are_listed_added_and_switched_and_errors_name_the_cause() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let config = crate::Config { phones: 2, ..crate::Config::new(dir.path()) };
        let router = router(crate::start(config, Clock::system(), tasks.clone()).await.unwrap().phones);
        let (status, list) = call(&router, "GET", "/sandbox/phones", "").await;
        assert_eq!((status, list[1]["name"].as_str(), list[1]["mode"].as_str()), (200, Some("Phone 1002"), Some("read")));
        let added = call(&router, "POST", "/sandbox/phones", r#"{"number":"16315551234","name":"Kerry"}"#).await;
        assert_eq!(added.0, 201);
        assert_eq!(call(&router, "POST", "/sandbox/phones", r#"{"number":"16315551234"}"#).await.0, 409);
        assert_eq!(call(&router, "PUT", "/sandbox/phones/16315551234/mode", r#"{"mode":"offline"}"#).await.0, 200);
        assert!((400..500).contains(&call(&router, "PUT", "/sandbox/phones/16315551234/mode", r#"{"mode":"lost"}"#).await.0));
        assert_eq!(call(&router, "GET", "/sandbox/phones", "").await.1[2]["mode"], "offline");
        assert!((400..500).contains(&call(&router, "PUT", "/sandbox/phones/16315551234/mode", r#"{"mode":"left"}"#).await.0));
        assert_eq!(call(&router, "POST", "/sandbox/phones/16315551234/identity", "").await.0, 200);
        let (path, to) = ("/sandbox/phones/16315551234/number", r#"{"number":"16315559999"}"#);
        assert_eq!(call(&router, "PUT", path, to).await.0, 409, "it is offline");
        assert_eq!(call(&router, "PUT", "/sandbox/phones/16315551234/mode", r#"{"mode":"read"}"#).await.0, 200);
        assert_eq!(call(&router, "PUT", path, r#"{"number":"15550001001"}"#).await.0, 409, "somebody has that number");
        assert_eq!((call(&router, "PUT", path, to).await.0, call(&router, "PUT", path, to).await.0), (200, 404));
        assert_eq!(call(&router, "GET", "/sandbox/phones", "").await.1[2]["number"], "16315559999");
        let (status, inbox) = call(&router, "GET", "/sandbox/phones/15550001001/inbox", "").await;
        assert_eq!((status, inbox["duplicates"].as_u64(), inbox["messages"].as_array().map(Vec::len)), (200, Some(0), Some(0)));
        assert_eq!(call(&router, "GET", "/sandbox/phones/15550001001/inbox?cautious=true&unread_from=3", "").await.0, 200);
        assert_eq!(call(&router, "GET", "/sandbox/phones/15550001001/inbox?cautious=perhaps", "").await.0, 400);
        let (status, problem) = call(&router, "GET", "/sandbox/phones/15550009999/inbox", "").await;
        assert!(status == 404 && problem["error"].is_string());
        assert_eq!(call(&router, "GET", "/sandbox/phones/x/sent", "").await.0, 404);
        let hello = r#"{"type":"text","text":{"body":"Hi"}}"#;
        assert_eq!(call(&router, "POST", "/sandbox/phones/15550001001/messages", hello).await.0, 409, "no business yet");
        tasks.stop(std::time::Duration::from_secs(5)).await;
    }
}
