//! Identities and numbers of users (spec/contacts.md §2, spec/webhooks.md §5), end to end.

use estafet_harness::{client::until, sink::Arrival};
use serde_json::{Value, json};

use crate::world::{KERRY, World};

fn is_notice(arrival: &Arrival, kind: &str) -> bool {
    arrival.event.pointer("/messages/0/system/type").is_some_and(|found| found == kind)
}

impl World {
    /// A message that the phone has read, so that both know each other.
    async fn acquaint(&self) -> anyhow::Result<()> {
        let id = self.admin.send_text(KERRY, "hello").await?;
        self.sink.wait_for_one(|arrival| arrival.reports(&id, "read")).await.map(drop)
    }

    /// Sends a message that the network keeps, then gives the phone new keys and brings it back.
    async fn reinstall_with_a_message_on_its_way(&self) -> anyhow::Result<String> {
        self.report_sent().await?;
        self.admin.set_phone(KERRY, "offline").await?;
        let id = self.admin.send_text(KERRY, "on its way").await?;
        self.sink.wait_for_one(|arrival| arrival.reports(&id, "sent")).await?;
        self.admin.phone_gets_new_identity(KERRY).await?;
        self.admin.set_phone(KERRY, "read").await?;
        Ok(id)
    }

    async fn texts(&self, phone: &str) -> anyhow::Result<Vec<String>> {
        let inbox = self.admin.inbox(phone).await?;
        anyhow::ensure!(inbox.duplicates == 0, "{inbox:?}");
        Ok(inbox.messages.iter().map(|message| message.text().to_owned()).collect())
    }
}

#[tokio::test]
async fn with_security_notifications_a_new_identity_gets_nothing_until_it_is_acknowledged() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.admin.patch_settings(&json!({ "show_security_notifications": true })).await?;
    world.acquaint().await?;
    let id = world.reinstall_with_a_message_on_its_way().await?;
    let notice = world.sink.wait_for_one(|arrival| is_notice(arrival, "user_identity_changed")).await?;
    let hash = notice.event.pointer("/messages/0/identity/hash").and_then(Value::as_str).unwrap_or_default().to_owned();
    let failed = world.sink.wait_for_one(|arrival| arrival.reports(&id, "failed")).await?;
    assert_eq!(failed.event.pointer("/statuses/0/errors/0/code"), Some(&json!(480)), "{}", failed.event);

    let known = world.admin.identity(KERRY).await?;
    assert_eq!((known.status, known.text_at("/contacts/hash")), (200, Some(hash.as_str())), "{}", known.text);
    assert_eq!(known.body["contacts"]["acknowledged"], false);
    let text = json!({ "to": KERRY, "type": "text", "text": { "body": "too early" } });
    let refused = world.admin.call(reqwest::Method::POST, "/v1/messages", Some(&text)).await?;
    assert_eq!((refused.status, refused.error_code()), (400, Some(1028)), "{}", refused.text);

    assert_eq!(world.admin.acknowledge_identity(KERRY, &hash).await?.status, 200);
    assert_eq!(world.admin.identity(KERRY).await?.body["contacts"]["acknowledged"], true);
    let id = world.admin.send_text(KERRY, "once more").await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "read")).await?;
    assert_eq!(world.texts(KERRY).await?, ["hello", "once more"]);
    let inbound = world.admin.phone_sends_text(KERRY, "it is me").await?;
    let told = world.sink.wait_for_message(&inbound).await?;
    assert_eq!(told.event.pointer("/messages/0/identity/hash"), Some(&json!(hash)), "{}", told.event);
    Ok(())
}

#[tokio::test]
async fn without_them_what_is_on_its_way_reaches_the_new_identity_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.acquaint().await?;
    let id = world.reinstall_with_a_message_on_its_way().await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "read")).await?;
    assert_eq!(world.texts(KERRY).await?, ["hello", "on its way"]);
    let inbound = world.admin.phone_sends_text(KERRY, "it is me").await?;
    let told = world.sink.wait_for_message(&inbound).await?;
    assert_eq!(told.event.pointer("/messages/0/identity"), None, "{}", told.event);
    assert!(!world.sink.arrivals().iter().any(|arrival| is_notice(arrival, "user_identity_changed")));
    Ok(())
}

#[tokio::test]
async fn a_user_who_moves_is_told_and_is_reached_at_the_new_number_only() -> anyhow::Result<()> {
    const NEW: &str = "16315559999";
    let world = World::start().await?;
    world.admin.patch_settings(&json!({ "notify_user_change_number": true })).await?;
    world.acquaint().await?;
    assert_eq!(world.admin.phone_changes_number(KERRY, NEW).await?.status, 200);
    let notice = world.sink.wait_for_one(|arrival| is_notice(arrival, "user_changed_number")).await?;
    let system = notice.event.pointer("/messages/0/system").cloned().unwrap_or_default();
    assert_eq!((&system["new_wa_id"], &system["body"]), (&json!(NEW), &json!("Kerry changed from 16315551234 to 16315559999")));

    let late = world.admin.send_text(KERRY, "to nobody").await?;
    let failed = world.sink.wait_for_one(|arrival| arrival.reports(&late, "failed")).await?;
    assert_eq!(failed.event.pointer("/statuses/0/errors/0/code"), Some(&json!(1013)), "{}", failed.event);
    let id = world.admin.send_text(NEW, "welcome").await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "read")).await?;
    until("both inboxes have their own", async || {
        Ok(world.texts(KERRY).await? == ["hello"] && world.texts(NEW).await? == ["welcome"])
    })
    .await
}

#[tokio::test]
async fn nothing_is_known_of_strangers() -> anyhow::Result<()> {
    let world = World::start().await?;
    for user in [KERRY, "15550009001", "nobody"] {
        assert_eq!(world.admin.identity(user).await?.error_code(), Some(1006), "{user}");
        assert_eq!(world.admin.acknowledge_identity(user, "AAAAAAAAAAA=").await?.error_code(), Some(1006), "{user}");
    }
    Ok(())
}
