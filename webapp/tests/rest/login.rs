use estafet_webapp::{Config, LogoutScope};
use reqwest::Method;
use serde_json::json;

use super::world::{ADMIN_PASSWORD, START_MS, USER_PASSWORD, World, eventually, registered};

const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

fn fresh() -> Config {
    Config { initial_admin_password: None, ..registered() }
}

#[tokio::test]
async fn the_initial_password_must_be_changed_before_anything_else() {
    let (_world, _core, webapp) = World::ready_with(fresh()).await;
    let refused = webapp.login("admin", "secret", None).await;
    assert_eq!(refused.refusal(), (403, 1024));
    assert_eq!(refused.body["errors"][0]["title"], "Password Change Required");
    assert_eq!(webapp.login("admin", "secret", Some(json!({"new_password": "password"}))).await.refusal(), (400, 1009));
    assert_eq!(webapp.login("admin", "wrong", Some(json!({"new_password": ADMIN_PASSWORD}))).await.refusal(), (401, 1005));
    let got = webapp.login("admin", "secret", Some(json!({"new_password": ADMIN_PASSWORD}))).await.is(200);
    let token = got.body["users"][0]["token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3);
    webapp.get("/v1/users/admin", token).await.is(200);
    assert_eq!(webapp.login("admin", "secret", None).await.refusal(), (401, 1005));
    webapp.login("admin", ADMIN_PASSWORD, None).await.is(200);
}

#[tokio::test]
async fn a_configured_password_is_good_at_once_and_tokens_last_a_week() {
    let (world, _core, webapp) = World::ready().await;
    let got = webapp.login("admin", ADMIN_PASSWORD, None).await.is(200);
    assert_eq!(got.body["users"][0]["expires_after"], "2027-01-22 08:00:00+00:00");
    let token = got.body["users"][0]["token"].as_str().unwrap().to_owned();
    world.clock.set(START_MS + WEEK_MS - 1);
    webapp.get("/v1/users/admin", &token).await.is(200);
    world.clock.set(START_MS + WEEK_MS);
    assert_eq!(webapp.get("/v1/users/admin", &token).await.refusal(), (401, 1005));
}

#[tokio::test]
async fn bad_credentials_are_all_alike() {
    let (_world, _core, webapp) = World::ready().await;
    let wrong = webapp.login("admin", "wrong", None).await.is(401);
    let unknown = webapp.login("ghost1", "Nope1234!", None).await.is(401);
    assert_eq!(wrong.body, unknown.body);
    assert_eq!(wrong.body["errors"][0]["details"], "Invalid credentials");
    let token = webapp.admin().await;
    for authorization in
        ["", "Basic", "Basic %%%", "Basic YWRtaW4=", &format!("Bearer {token}"), &format!("Basic {}", "A".repeat(20_000))]
    {
        let got = webapp.call(Method::POST, "/v1/users/login", authorization, None).await;
        assert_eq!((got.status, got.body), (401, wrong.body.clone()), "{authorization:.40}");
    }
    for token in ["", "abc.def.ghi", "x", &format!("{token}x"), &token[1..]] {
        assert_eq!(webapp.send(token, "x").await.body, wrong.body, "{token:.40}");
    }
}

#[tokio::test]
async fn a_later_login_may_change_the_password_and_tokens_stay_valid() {
    let (_world, _core, webapp) = World::ready().await;
    let before = webapp.admin().await;
    webapp.login("admin", ADMIN_PASSWORD, Some(json!({"new_password": ADMIN_PASSWORD}))).await.is(200);
    webapp.login("admin", ADMIN_PASSWORD, Some(json!({"new_password": "0ther!Pass"}))).await.is(200);
    webapp.get("/v1/users/admin", &before).await.is(200);
    webapp.login("admin", ADMIN_PASSWORD, None).await.is(401);
    webapp.login("admin", "0ther!Pass", None).await.is(200);
}

#[tokio::test]
async fn guesses_are_throttled_after_ten_failures() {
    let (_world, _core, webapp) = World::ready().await;
    for _ in 0..10 {
        assert_eq!(webapp.login("admin", "wrong", None).await.status, 401);
    }
    let throttled = webapp.login("admin", ADMIN_PASSWORD, None).await;
    assert_eq!(throttled.refusal(), (429, 1015));
    let wait: u64 = throttled.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(webapp.login("ghost1", "wrong", None).await.status, 401, "other users of the address are not locked out");
}

#[tokio::test]
async fn logout_ends_every_token_of_the_user_and_of_nobody_else() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let one = webapp.user(&admin, "agent7").await;
    let two = webapp.token("agent7", USER_PASSWORD).await;
    assert_ne!(one, two);
    webapp.post("/v1/users/logout", &one, json!({})).await.is(200);
    for token in [&one, &two] {
        assert_eq!(webapp.get("/v1/users/agent7", token).await.refusal(), (401, 1005));
    }
    webapp.get("/v1/users/admin", &admin).await.is(200);
    // The clock stands still: this token is of the same millisecond as the logout.
    let three = webapp.token("agent7", USER_PASSWORD).await;
    webapp.get("/v1/users/agent7", &three).await.is(200);
    assert_eq!(webapp.post("/v1/users/logout", &one, json!({})).await.refusal(), (401, 1005));
    assert_eq!(webapp.call(Method::POST, "/v1/users/logout", "", None).await.refusal(), (401, 1005));
}

#[tokio::test]
async fn logout_of_scope_token_ends_one_token() {
    let (_world, _core, webapp) = World::ready_with(Config { logout_scope: LogoutScope::Token, ..registered() }).await;
    let (one, two) = (webapp.admin().await, webapp.admin().await);
    webapp.post("/v1/users/logout", &one, json!({})).await.is(200);
    assert_eq!(webapp.get("/v1/users/admin", &one).await.refusal(), (401, 1005));
    webapp.get("/v1/users/admin", &two).await.is(200);
}

#[tokio::test]
async fn replicas_share_tokens_and_logouts() {
    let (world, _core, here) = World::ready().await;
    let there = world.webapp(registered()).await;
    for scope in [LogoutScope::User, LogoutScope::Token] {
        let logs_out = world.webapp(Config { logout_scope: scope, ..registered() }).await;
        let token = here.admin().await;
        there.get("/v1/users/admin", &token).await.is(200);
        logs_out.post("/v1/users/logout", &token, json!({})).await.is(200);
        eventually("the logout reaching the other replica", async || there.get("/v1/users/admin", &token).await.status == 401)
            .await;
        // A token issued after that is good everywhere at once, whatever the replica has heard.
        let next = logs_out.admin().await;
        there.get("/v1/users/admin", &next).await.is(200);
        here.get("/v1/users/admin", &next).await.is(200);
    }
}

#[tokio::test]
async fn a_restarted_webapp_honours_old_tokens_and_passwords() {
    let (world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    webapp.put("/v1/users/admin", &token, json!({"password": "0ther!Pass"})).await.is(200);
    let restarted = world.webapp(registered()).await;
    restarted.get("/v1/users/admin", &token).await.is(200);
    restarted.login("admin", ADMIN_PASSWORD, None).await.is(401);
    restarted.login("admin", "0ther!Pass", None).await.is(200);
}
