//! The schema of `/v1/settings/application`, of what is shown and of what may be changed. A test keeps it equal to
//! the settings themselves.

use estafet_model::settings::endpoint::MOST as RECEIVERS;

use super::words::{
    Member, Schema, any_of, closed, flag, list, map, may, need, one_of_numbers, open, text_like, text_of, text_that, whole, word,
};

/// Whether the schema is of an answer, where nothing else may be, or of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Answer,
    Change,
}

/// The settings as they are shown.
pub(super) fn shown() -> Schema {
    settings(Of::Answer)
}

/// A change of them.
pub(super) fn change() -> Schema {
    settings(Of::Change)
}

fn settings(of: Of) -> Schema {
    let flags = [
        "callback_persist",
        "pass_through",
        "sent_status",
        "db_garbagecollector_enable",
        "notify_user_change_number",
        "show_security_notifications",
        "skip_referral_media_download",
        "webhook_payload_conversation_pricingmodel_disabled",
        "axolotl_context_striping_disabled",
        "verbose_logging",
    ];
    let mut members: Vec<Member> = flags.into_iter().map(|name| may(name, flag())).collect();
    members.extend([
        may("callback_backoff_delay_ms", integer(of, 1, 900_000)),
        may("max_callback_backoff_delay_ms", integer(of, 1, 86_400_000)),
        may("heartbeat_interval", integer(of, 1, 60)),
        may("unhealthy_interval", integer(of, 1, 600)),
        may("on_call_pager", text_of(0, 64, None)),
        may("log_level", if of == Of::Answer { word(&["error", "warning", "info", "debug"]) } else { levels() }),
        may("media", object(of, [may("auto_download", list(kind(), 0, usize::MAX))])),
        may("garbagecollector_enable", object(of, ["messages", "media"].map(|name| may(name, flag())))),
        may("identical_messages", identical_messages(of)),
        may("webhooks", webhooks(of)),
    ]);
    if of == Of::Answer {
        members.push(may("wa_id", text_that("The number that is registered")));
    }
    object(of, members)
}

fn identical_messages(of: Of) -> Schema {
    let window = integer(of, u64::from(of == Of::Answer), 24 * 3600);
    object(of, [may("window", window), may("refuse", flag())])
}

fn webhooks(of: Of) -> Schema {
    let message = object(of, ["sent", "delivered", "read"].map(|name| may(name, flag())));
    let members = [
        may("url", text_of(0, 2048, Some("Where callbacks go; an empty text clears it"))),
        may("max_concurrent_requests", requests(of)),
        may("message", message),
        may("app_secret", text_that("Signs callbacks with X-Hub-Signature-256; shown as asterisks")),
        may("signing_secret", text_that("Signs callbacks as Standard Webhooks; shown as asterisks")),
        may("strict_global_order", flag()),
        may("max_age", integer(of, 60, 90 * 24 * 3600)),
        may("accept_2xx", flag()),
        may("timeout_ms", integer(of, 100, 60_000)),
        may("keep_delivered", integer(of, u64::from(of == Of::Answer), 30 * 24 * 3600)),
        may("deny_private", flag()),
        may("errors_url", text_of(0, 2048, Some("Page that explains errors"))),
        may("endpoints", list(endpoint(of), 0, RECEIVERS)),
    ];
    object(of, members)
}

/// A further receiver.
fn endpoint(of: Of) -> Schema {
    let name = text_like("^[a-z0-9_-]{1,32}$", "Unique for the number, and not main");
    let topics = list(word(&["messages", "statuses", "errors"]), 0, usize::MAX);
    let members = [
        need("name", name),
        need("url", text_of(1, 2048, Some("Where its callbacks go"))),
        may("events", topics),
        may("headers", map(text_that("Sent with its callbacks; shown as asterisks"))),
        may("ca", text_that("Certificates it may have, in PEM form")),
        may("app_secret", text_that("Signs its callbacks with X-Hub-Signature-256; shown as asterisks")),
        may("signing_secret", text_that("Signs its callbacks as Standard Webhooks; shown as asterisks")),
        may("timeout_ms", integer(of, 100, 60_000)),
    ];
    object(of, members)
}

fn requests(of: Of) -> Schema {
    let number = one_of_numbers([6, 12, 18, 24]);
    if of == Of::Answer { number } else { any_of([number, word(&["6", "12", "18", "24"])]) }
}

fn object(of: Of, members: impl IntoIterator<Item = Member>) -> Schema {
    if of == Of::Answer { closed(members) } else { open(members) }
}

fn integer(of: Of, least: u64, most: u64) -> Schema {
    let number = whole(least, most);
    if of == Of::Answer { number } else { any_of([number, text_like("^[0-9]{1,8}$", "The same as digits")]) }
}

fn levels() -> Schema {
    word(&["error", "warning", "warn", "info", "debug"])
}

fn kind() -> Schema {
    word(&["audio", "document", "image", "sticker", "video", "voice"])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use estafet_model::{
        EndpointId,
        settings::{
            Settings,
            endpoint::{Endpoint, Topic},
            patch,
            secret::Secret,
        },
    };
    use serde_json::Value;

    use super::*;

    /// Paths of all members: of a schema those it describes, of a value those it has. Items of a list have the path of
    /// the list.
    fn paths(value: &Value, is_schema: bool, path: &str, found: &mut BTreeSet<String>) {
        let value = value.get("items").filter(|_| is_schema).or(value.get(0)).unwrap_or(value);
        let members = if is_schema { &value["properties"] } else { value };
        for (name, value) in members.as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            paths(value, is_schema, &path, found);
            found.insert(path);
        }
    }

    fn all(value: &Value, is_schema: bool) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        paths(value, is_schema, "", &mut found);
        found
    }

    fn receiver(secret: Option<Secret>) -> Endpoint {
        Endpoint {
            id: EndpointId::MAIN,
            name: "other".to_owned(),
            url: "https://example.org/".to_owned(),
            events: vec![Topic::Errors],
            headers: secret.clone().map(|value| ("x-key".to_owned(), value)).into_iter().collect(),
            ca: Some("PEM".to_owned()),
            app_secret: secret.clone(),
            signing_secret: secret,
            timeout_ms: Some(100),
        }
    }

    #[test]
    fn every_setting_is_described_and_nothing_else() {
        let mut settings = Settings { on_call_pager: Some("1".to_owned()), ..Settings::default() };
        settings.identical_messages.window = Some(60);
        let webhooks = &mut settings.webhooks;
        webhooks.url = Some("https://example.org/".to_owned());
        webhooks.errors_url = webhooks.url.clone();
        webhooks.app_secret = Secret::app("0123456789abcdef");
        webhooks.signing_secret = webhooks.app_secret.clone();
        (webhooks.strict_global_order, webhooks.accept_2xx) = (Some(true), Some(true));
        (webhooks.max_age, webhooks.timeout_ms, webhooks.keep_delivered) = (Some(60), Some(100), Some(1));
        webhooks.deny_private = true;
        webhooks.endpoints = vec![receiver(webhooks.app_secret.clone())];
        webhooks.ca = Some("not a member of the API".to_owned());
        let mut rendered = all(&patch::render(&settings, "15550000001".parse().ok()), false);
        assert!(rendered.remove("/webhooks/endpoints/headers/x-key"), "headers have any name");
        let schema = |schema: Schema| all(&serde_json::to_value(schema).unwrap(), true);
        assert_eq!(schema(shown()), rendered);
        let mut changeable = rendered;
        changeable.remove("/wa_id");
        assert_eq!(schema(change()), changeable);
    }
}
