//! Whom callbacks trust, and how their receiver can tell them from others' (spec/webhooks.md §1, spec/settings.md §6).

use estafet_harness::{Api, PATIENCE, Sandbox, Sink, client, sink::Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{KERRY, World};

const AUTHORITY: &[u8] = include_bytes!("fixtures/webhook-ca.pem");
const CHAIN: &[u8] = include_bytes!("fixtures/webhook-server.pem");
const KEY: &[u8] = include_bytes!("fixtures/webhook-server.key");
const PATH: &str = "/v1/certificates/webhooks/ca";

async fn upload(admin: &Api, pem: &[u8]) -> anyhow::Result<u16> {
    Ok(admin.request(Method::POST, PATH, Some(("text/plain", pem.to_vec()))).await?.status)
}

async fn failed_connections(admin: &Api) -> anyhow::Result<bool> {
    let is_failure = |line: &&str| line.contains("callback_posts") && line.contains(r#"result="connection""#);
    Ok(admin.metrics().await?.lines().find(is_failure).is_some_and(|line| !line.ends_with(" 0")))
}

#[tokio::test]
async fn an_untrusted_receiver_gets_nothing_until_its_authority_is_uploaded() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.retry_soon().await?;
    let private = Sink::start_tls(CHAIN, KEY).await?;
    world.admin.patch_settings(&json!({ "webhooks": { "url": private.url() } })).await?;
    let id = world.admin.phone_sends_text(KERRY, "only over trusted connections").await?;
    client::until("a connection was refused", async || failed_connections(&world.admin).await).await?;
    assert!(private.arrivals().is_empty());

    // In force without a restart, and the callback that failed is tried again.
    assert_eq!(upload(&world.admin, AUTHORITY).await?, 200);
    private.wait_for_message(&id).await?;
    assert!(world.sink.arrivals().is_empty(), "nothing goes to the former receiver");

    // Without it new connections are refused again.
    assert_eq!(world.admin.call(Method::DELETE, PATH, None).await?.status, 200);
    let second = world.admin.phone_sends_text(KERRY, "no longer trusted").await?;
    world.admin.patch_settings(&json!({ "webhooks": { "url": world.sink.url() } })).await?;
    world.sink.wait_for_message(&second).await?;
    assert!(private.arrivals().iter().all(|arrival| arrival.messages().all(|brought| brought != second)));
    Ok(())
}

#[tokio::test]
async fn the_authority_is_shown_as_uploaded_replaced_and_outlives_a_restart_and_a_reset() -> anyhow::Result<()> {
    let mut sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    let absent = admin.call(Method::GET, PATH, None).await?;
    assert_eq!((absent.status, absent.error_code()), (404, Some(1006)));
    assert!(absent.text_at("/errors/0/details").is_some(), "{}", absent.text);

    let twice = [AUTHORITY, CHAIN].concat();
    for bundle in [AUTHORITY, &twice] {
        assert_eq!(upload(&admin, bundle).await?, 200);
        let shown = admin.call(Method::GET, PATH, None).await?;
        assert_eq!((shown.status, shown.text.as_bytes()), (200, bundle));
        assert_eq!(shown.headers["content-type"], "text/plain");
    }
    for refused in [KEY, b"hello", b""] {
        assert_eq!(upload(&admin, refused).await?, 400);
    }
    admin.call(Method::DELETE, "/v1/settings/application", None).await?;
    sandbox.terminate().await?;
    sandbox.restart().await?;
    let admin = sandbox.login().await?;
    assert_eq!(admin.call(Method::GET, PATH, None).await?.text.as_bytes(), twice);
    assert!(!admin.settings().await?.to_string().contains("CERTIFICATE"));
    assert_eq!(admin.create_user("agent", "Ag3nt!pass").await?.call(Method::GET, PATH, None).await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn signed_callbacks_keep_body_and_id_through_every_try_and_secrets_are_never_shown() -> anyhow::Result<()> {
    const APP: &str = "0123456789abcdef0123456789abcdef";
    const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let world = World::start().await?;
    world.retry_soon().await?;
    world.admin.patch_settings(&json!({ "webhooks": { "app_secret": APP, "signing_secret": STANDARD } })).await?;
    let shown = world.admin.settings().await?;
    assert_eq!(
        (&shown["webhooks"]["app_secret"], &shown["webhooks"]["signing_secret"]),
        (&json!("********"), &json!("********"))
    );

    world.sink.reply_next([Reply::Status(500), Reply::Status(500)]);
    let id = world.admin.phone_sends_text(KERRY, "signed").await?;
    let tries = world.sink.wait_for(PATIENCE, |arrivals| arrivals.len() == 3).await?;
    for attempt in &tries {
        assert!(attempt.messages().any(|brought| brought == id));
        assert_eq!(attempt.body, tries[0].body);
        assert_eq!(attempt.headers["webhook-id"], tries[0].headers["webhook-id"]);
        assert_eq!(attempt.headers["x-hub-signature-256"], tries[0].headers["x-hub-signature-256"]);
        assert!(attempt.headers["webhook-signature"].to_str()?.starts_with("v1,"));
        assert!(attempt.headers["webhook-timestamp"].to_str()?.parse::<i64>().is_ok());
    }

    world.admin.patch_settings(&json!({ "webhooks": { "app_secret": "", "signing_secret": Value::Null } })).await?;
    let plain = world.admin.phone_sends_text(KERRY, "not signed").await?;
    let plain = world.sink.wait_for_message(&plain).await?;
    for header in ["x-hub-signature-256", "webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert!(!plain.headers.contains_key(header), "{header}");
    }
    let log = world.sandbox.end_of_log();
    assert!(!log.contains(APP) && !log.contains(STANDARD));
    Ok(())
}
