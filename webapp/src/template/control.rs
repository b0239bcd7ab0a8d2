//! `/sandbox/templates`: the simulated approval of templates. Who may reach it is the caller's to
//! decide. What is added here ends with the process; files are what lasts.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    definition::{self, Entry},
    language::Language,
    model::Parameters,
    shelf::Shelf,
};

/// The routes.
pub(crate) fn router(shelf: Arc<Shelf>) -> Router {
    Router::new()
        .route("/sandbox/templates", get(list).post(add))
        .route("/sandbox/templates/gaps", get(gaps))
        .route("/sandbox/templates/{namespace}/{name}", delete(remove))
        .with_state(shelf)
}

/// An answer that tells what is wrong.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// A template in the list: as it was written, and how many parameters its parts take.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    parameters: Parameters,
}

async fn list(State(shelf): State<Arc<Shelf>>) -> Json<Value> {
    let library = shelf.current();
    let listed = library.templates().map(|template| Listed { entry: &template.entry, parameters: template.parameters() });
    Json(json!({ "templates": listed.collect::<Vec<_>>() }))
}

/// Templates that cannot be sent in a language which others of their namespace have.
async fn gaps(State(shelf): State<Arc<Shelf>>) -> Json<Value> {
    Json(json!({ "gaps": shelf.current().gaps() }))
}

/// The body is a list as in a file, or one template. One that is there already is replaced.
async fn add(State(shelf): State<Arc<Shelf>>, body: Bytes) -> Result<(StatusCode, Json<Value>), Problem> {
    let templates = definition::read(&body).map_err(|error| Problem(StatusCode::BAD_REQUEST, error.to_string()))?;
    let added: Vec<_> = templates.iter().map(|template| template.entry.clone()).collect();
    shelf.add(templates).map_err(|full| Problem(StatusCode::CONFLICT, full.to_string()))?;
    Ok((StatusCode::CREATED, Json(json!({ "templates": added }))))
}

#[derive(Deserialize)]
struct Which {
    /// Without it the template goes in all languages.
    language: Option<String>,
}

async fn remove(
    State(shelf): State<Arc<Shelf>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Problem> {
    let language = match which.language.as_deref().map(|code| (code, Language::parse(code))) {
        Some((code, None)) => return Err(Problem(StatusCode::BAD_REQUEST, format!("`{code}` is not a language"))),
        Some((_, language)) => language,
        None => None,
    };
    match shelf.remove(&namespace, &name, language.as_ref()) {
        0 => Err(Problem(StatusCode::NOT_FOUND, format!("there is no template {name} in {namespace}"))),
        removed => Ok(Json(json!({ "removed": removed }))),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::{super::shelf::sampled, *};

    async fn call(router: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn templates_are_listed_added_replaced_and_removed() {
        let router = router(Arc::new(sampled(true)));
        let names = async || {
            let (_, list) = call(&router, "GET", "/sandbox/templates", "").await;
            list["templates"].as_array().unwrap().len()
        };
        assert_eq!(names().await, 4);
        let template = |status: &str| {
            json!({ "namespace": "ns", "name": "a", "language": "en", "status": status,
                "components": [{ "type": "BODY", "text": "Hi" }] })
            .to_string()
        };
        for status in ["PENDING", "APPROVED"] {
            let (code, added) = call(&router, "POST", "/sandbox/templates", &template(status)).await;
            assert_eq!((code, &added["templates"][0]["status"]), (201, &json!(status)));
        }
        assert_eq!(names().await, 5);
        assert_eq!(call(&router, "DELETE", "/sandbox/templates/ns/a?language=de", "").await.0, 404);
        assert_eq!(call(&router, "DELETE", "/sandbox/templates/ns/a?language=!", "").await.0, 400);
        assert_eq!(call(&router, "DELETE", "/sandbox/templates/ns/a?language=en", "").await, (200, json!({ "removed": 1 })));
        assert_eq!(call(&router, "DELETE", "/sandbox/templates/estafet_sandbox/order_update", "").await.1["removed"], 2);
        assert_eq!(names().await, 2);
    }

    #[tokio::test]
    async fn r182_the_list_tells_how_many_parameters_each_template_takes() {
        let router = router(Arc::new(sampled(true)));
        let (_, list) = call(&router, "GET", "/sandbox/templates", "").await;
        let told = |entry: &Value| (entry["name"].clone(), entry["language"].clone(), entry["parameters"].clone());
        let told: Vec<_> = list["templates"].as_array().unwrap().iter().map(told).collect();
        let expected = |name: &str, language: &str, header: u32, body: u32, buttons: u32| {
            (json!(name), json!(language), json!({ "header": header, "body": body, "buttons": buttons }))
        };
        assert_eq!(
            told,
            [
                expected("hello_world", "en_US", 0, 0, 0),
                expected("order_update", "en_US", 0, 2, 0),
                expected("promo_image", "en_US", 1, 1, 1),
                expected("order_update", "id", 0, 2, 0),
            ]
        );
        let again = call(&router, "POST", "/sandbox/templates", &list.to_string()).await;
        assert_eq!(again.0, 201, "what is listed can be added");
        let (_, gaps) = call(&router, "GET", "/sandbox/templates/gaps", "").await;
        let gap = |name: &str| json!({ "namespace": "estafet_sandbox", "name": name, "language": "id" });
        assert_eq!(gaps, json!({ "gaps": [gap("hello_world"), gap("promo_image")] }));
    }

    #[tokio::test]
    async fn a_list_with_a_bad_template_is_refused_whole() {
        let router = router(Arc::new(sampled(false)));
        let list = json!({ "namespace": "ns", "templates": [
            { "name": "a", "language": "en", "components": [{ "type": "BODY", "text": "Hi" }] },
            { "name": "b", "language": "en", "components": [] } ] });
        let (code, problem) = call(&router, "POST", "/sandbox/templates", &list.to_string()).await;
        assert_eq!((code, problem), (400, json!({ "error": "template 2 (b): a body is needed" })));
        assert_eq!(call(&router, "GET", "/sandbox/templates", "").await.1, json!({ "templates": [] }));
    }
}
