use reqwest::Method;
use serde_json::{Value, json};

use super::world::{USER_PASSWORD, World};

#[tokio::test]
async fn an_admin_creates_reads_changes_and_deletes_users() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let created = webapp.post("/v1/users/", &admin, json!({"username": "agent7", "password": USER_PASSWORD})).await.is(201);
    assert_eq!(created.body["users"], json!([{"username": "agent7"}]));
    let read = webapp.get("/v1/users/agent7", &admin).await.is(200);
    assert_eq!(read.body["users"], json!([{"ROLES": "ROLE_USER", "username": "agent7"}]));
    assert_eq!(webapp.get("/v1/users/admin", &admin).await.body["users"][0]["ROLES"], "ROLE_ADMIN");
    let duplicate = webapp.post("/v1/users", &admin, json!({"username": "agent7", "password": USER_PASSWORD})).await;
    assert_eq!(duplicate.refusal(), (400, 1014));
    assert_eq!(duplicate.body["errors"][0]["details"], "Unable to create user. Already exist?");

    let token = webapp.token("agent7", USER_PASSWORD).await;
    webapp.put("/v1/users/agent7", &token, json!({"password": "N3w!passw"})).await.is(200);
    webapp.get("/v1/users/agent7", &token).await.is(200);
    webapp.login("agent7", USER_PASSWORD, None).await.is(401);
    webapp.login("agent7", "N3w!passw", None).await.is(200);

    let deleted = webapp.delete("/v1/users/agent7", &admin).await.is(200);
    assert_eq!(deleted.body["users"], json!([{"username": "agent7"}]));
    assert_eq!(webapp.get("/v1/users/agent7", &token).await.refusal(), (401, 1005));
    assert_eq!(webapp.delete("/v1/users/agent7", &admin).await.refusal(), (404, 1006));
    assert_eq!(webapp.get("/v1/users/agent7", &admin).await.refusal(), (404, 1006));
    // A new account of the same name does not inherit the tokens of the old one.
    webapp.post("/v1/users", &admin, json!({"username": "agent7", "password": USER_PASSWORD})).await.is(201);
    assert_eq!(webapp.get("/v1/users/agent7", &token).await.refusal(), (401, 1005));
    assert_eq!(webapp.delete("/v1/users/admin", &admin).await.refusal(), (400, 1009));
}

#[tokio::test]
async fn bad_names_and_passwords_are_refused() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    for (body, code) in [
        (json!({"username": "abc", "password": USER_PASSWORD}), 1009),
        (json!({"username": "a".repeat(33), "password": USER_PASSWORD}), 1009),
        (json!({"username": "login", "password": USER_PASSWORD}), 1009),
        (json!({"username": 12345, "password": USER_PASSWORD}), 1009),
        (json!({"username": "agent8", "password": "Agent1234"}), 1009),
        (json!({"username": "agent8", "password": "Ag3n!pa"}), 1009),
        (json!({"username": "agent8"}), 1008),
        (json!({"password": USER_PASSWORD}), 1008),
        (json!([]), 1008),
        (Value::Null, 1008),
    ] {
        assert_eq!(webapp.post("/v1/users", &admin, body.clone()).await.refusal(), (400, code), "{body}");
    }
    webapp.post("/v1/users", &admin, json!({"username": "abcd", "password": USER_PASSWORD})).await.is(201);
    assert_eq!(webapp.put("/v1/users/nobody", &admin, json!({"password": USER_PASSWORD})).await.refusal(), (404, 1006));
    assert_eq!(webapp.put("/v1/users/abcd", &admin, json!({"password": "weak"})).await.refusal(), (400, 1009));
}

#[tokio::test]
async fn roles_decide_who_may_call_what() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let user = webapp.user(&admin, "agent7").await;
    webapp.user(&admin, "agent8").await;
    let (text, password) = (json!({"to": "16315551234", "text": {"body": "x"}}), json!({"password": USER_PASSWORD}));
    // Columns: administrator, user, API key, nobody.
    for (method, path, body, expected) in [
        (Method::GET, "/v1/users/agent7", None, [200, 200, 401, 401]),
        (Method::GET, "/v1/users/agent8", None, [200, 403, 401, 401]),
        (Method::PUT, "/v1/users/agent8", Some(password), [200, 403, 401, 401]),
        (Method::POST, "/v1/users", Some(json!({})), [400, 403, 401, 401]),
        (Method::DELETE, "/v1/users/agent8", None, [200, 403, 401, 401]),
        (Method::GET, "/v1/settings/application", None, [200, 403, 401, 401]),
        (Method::PATCH, "/v1/settings/application", Some(json!({})), [200, 403, 401, 401]),
        (Method::DELETE, "/v1/settings/application", None, [200, 403, 401, 401]),
        (Method::POST, "/v1/contacts", Some(json!({"contacts": ["16315551234"]})), [200, 200, 401, 401]),
        (Method::POST, "/v1/messages", Some(text), [201, 201, 401, 401]),
        (Method::GET, "/v1/health", None, [200, 200, 200, 401]),
        (Method::GET, "/metrics", None, [200, 200, 200, 401]),
    ] {
        let callers = [format!("Bearer {admin}"), format!("bearer {user}"), "APIKEY key-0123456789".to_owned(), String::new()];
        for (caller, status) in callers.iter().zip(expected) {
            let got = webapp.call(method.clone(), path, caller, body.clone()).await;
            assert_eq!(got.status, status, "{method} {path} as {caller:.10}: {}", got.body);
            if status == 401 || status == 403 {
                assert_eq!(got.code(), 1005);
            }
        }
    }
    assert_eq!(webapp.call(Method::GET, "/v1/health", "Apikey key-0123456780", None).await.refusal(), (401, 1005));
}
