//! Changes to the settings: a merge patch, checked member by member and applied whole or not at
//! all (spec/settings.md §1).
//!
//! Nested objects merge key by key, arrays are replaced. Integers may come as strings of digits,
//! booleans may not come as strings. Old and new form of one switch in the same change: the new
//! form wins. [`render`] shows both.

use serde_json::{Map, Value, json};

use super::{
    Settings, WebhookSettings, endpoint,
    secret::{MASK, Secret},
    webhook_url,
};
use crate::{ApiError, Code, WaId};

/// What a deployment allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// `http://` callback URLs to loopback hosts.
    pub allow_loopback_http: bool,
    /// Refuse `pass_through: true` (1025).
    pub pass_through_locked: bool,
    /// Refuse unknown members (1010) instead of ignoring them.
    pub reject_unknown: bool,
}

/// Kinds of media that can be downloaded at once.
const MEDIA: [&str; 6] = ["audio", "document", "image", "sticker", "video", "voice"];

/// Applies `change` to `current`.
pub fn apply(current: &Settings, change: &Map<String, Value>, policy: Policy) -> Result<Settings, ApiError> {
    let mut next = current.clone();
    // Old forms first, so that new ones in the same change win.
    for old_forms in [true, false] {
        for (name, value) in change {
            if matches!(name.as_str(), "sent_status" | "db_garbagecollector_enable") == old_forms {
                member(&mut next, name, value, policy)?;
            }
        }
    }
    check_relations(&next, change)?;
    Ok(next)
}

fn member(next: &mut Settings, name: &str, value: &Value, policy: Policy) -> Result<(), ApiError> {
    match name {
        "callback_backoff_delay_ms" => next.callback_backoff_delay_ms = integer(name, value, 1, 900_000)?,
        "max_callback_backoff_delay_ms" => next.max_callback_backoff_delay_ms = integer(name, value, 1, 86_400_000)?,
        "callback_persist" => next.callback_persist = boolean(name, value)?,
        "heartbeat_interval" => next.heartbeat_interval = integer(name, value, 1, 60)?,
        "unhealthy_interval" => next.unhealthy_interval = integer(name, value, 1, 600)?,
        "media" => media(next, value, policy)?,
        "webhooks" => webhooks(next, value, policy)?,
        "pass_through" => next.pass_through = pass_through(value, policy)?,
        "identical_messages" => identical_messages(next, value, policy)?,
        "garbagecollector_enable" => garbage_collector(next, value, policy)?,
        "db_garbagecollector_enable" => next.garbagecollector_enable.messages = boolean(name, value)?,
        "sent_status" => next.webhooks.message.sent = boolean(name, value)?,
        "notify_user_change_number" => next.notify_user_change_number = boolean(name, value)?,
        "show_security_notifications" => next.show_security_notifications = boolean(name, value)?,
        "skip_referral_media_download" => next.skip_referral_media_download = boolean(name, value)?,
        "webhook_payload_conversation_pricingmodel_disabled" => {
            next.webhook_payload_conversation_pricingmodel_disabled = boolean(name, value)?;
        }
        "axolotl_context_striping_disabled" => next.axolotl_context_striping_disabled = boolean(name, value)?,
        "on_call_pager" => next.on_call_pager = optional_text(name, value, 64)?,
        "verbose_logging" => next.verbose_logging = boolean(name, value)?,
        "log_level" => next.log_level = log_level(value)?,
        "wa_id" => return Err(ApiError::new(Code::ParameterNotRequired, "Parameter 'wa_id' is read only")),
        _ => return unknown(name, policy),
    }
    Ok(())
}

fn media(next: &mut Settings, value: &Value, policy: Policy) -> Result<(), ApiError> {
    for (name, value) in object("media", value)? {
        match name.as_str() {
            "auto_download" => next.media.auto_download = kinds_of_media(value)?,
            _ => unknown(&format!("media.{name}"), policy)?,
        }
    }
    Ok(())
}

fn webhooks(next: &mut Settings, value: &Value, policy: Policy) -> Result<(), ApiError> {
    for (name, value) in object("webhooks", value)? {
        match name.as_str() {
            "url" => next.webhooks.url = callback_url("webhooks.url", value, policy)?,
            "max_concurrent_requests" => {
                let path = "webhooks.max_concurrent_requests";
                let wanted = integer(path, value, 0, u64::from(u32::MAX))?;
                if ![6, 12, 18, 24].contains(&wanted) {
                    return Err(ApiError::invalid(path, "must be 6, 12, 18 or 24"));
                }
                next.webhooks.max_concurrent_requests = wanted as u32;
            }
            "message" => switches(next, value, policy)?,
            "endpoints" => {
                let WebhookSettings { endpoints, last_endpoint, .. } = &mut next.webhooks;
                *endpoints = endpoint::read(endpoints, last_endpoint, value, policy)?;
            }
            "app_secret" => secret(&mut next.webhooks.app_secret, "webhooks.app_secret", value, Secret::app, APP_SECRET)?,
            "signing_secret" => {
                secret(&mut next.webhooks.signing_secret, "webhooks.signing_secret", value, Secret::standard, SIGNING_SECRET)?;
            }
            _ => delivery(next, name, value, policy)?,
        }
    }
    Ok(())
}

/// The extensions that say how callbacks are delivered; `null` goes back to what the node is configured with.
fn delivery(next: &mut Settings, name: &str, value: &Value, policy: Policy) -> Result<(), ApiError> {
    let (path, webhooks) = (format!("webhooks.{name}"), &mut next.webhooks);
    let flag = || if value.is_null() { Ok(None) } else { boolean(&path, value).map(Some) };
    let whole = |least, most| if value.is_null() { Ok(None) } else { integer(&path, value, least, most).map(Some) };
    match name {
        "strict_global_order" => webhooks.strict_global_order = flag()?,
        "accept_2xx" => webhooks.accept_2xx = flag()?,
        "deny_private" => webhooks.deny_private = flag()?.unwrap_or(false),
        "max_age" => webhooks.max_age = whole(60, MAX_AGE)?,
        "timeout_ms" => webhooks.timeout_ms = whole(100, 60_000)?,
        "keep_delivered" => webhooks.keep_delivered = whole(0, KEEP_DELIVERED)?.filter(|seconds| *seconds > 0),
        "errors_url" => webhooks.errors_url = callback_url(&path, value, policy)?,
        _ => return unknown(&path, policy),
    }
    Ok(())
}

/// Longest `webhooks.max_age`: 90 days, in seconds.
const MAX_AGE: u64 = 90 * 24 * 3600;

/// Longest `webhooks.keep_delivered`: 30 days, in seconds; received files live no longer.
const KEEP_DELIVERED: u64 = 30 * 24 * 3600;

pub(super) const APP_SECRET: &str = "must be 16 to 256 visible ASCII characters, or empty";
pub(super) const SIGNING_SECRET: &str = "must be whsec_ and the base64 of 24 to 64 bytes, or empty";

/// Sets, clears or, when it is only the mask that `GET` showed, leaves a secret.
pub(super) fn secret(
    next: &mut Option<Secret>,
    path: &str,
    value: &Value,
    read: impl Fn(&str) -> Option<Secret>,
    rule: &str,
) -> Result<(), ApiError> {
    match value {
        Value::Null => *next = None,
        Value::String(text) if text.is_empty() => *next = None,
        Value::String(text) if text == MASK => {}
        Value::String(text) => *next = Some(read(text).ok_or_else(|| ApiError::invalid(path, rule))?),
        _ => return Err(ApiError::invalid(path, rule)),
    }
    Ok(())
}

fn switches(next: &mut Settings, value: &Value, policy: Policy) -> Result<(), ApiError> {
    for (name, value) in object("webhooks.message", value)? {
        let path = format!("webhooks.message.{name}");
        match name.as_str() {
            "sent" => next.webhooks.message.sent = boolean(&path, value)?,
            "delivered" => next.webhooks.message.delivered = boolean(&path, value)?,
            "read" => next.webhooks.message.read = boolean(&path, value)?,
            _ => unknown(&path, policy)?,
        }
    }
    Ok(())
}

fn garbage_collector(next: &mut Settings, value: &Value, policy: Policy) -> Result<(), ApiError> {
    for (name, value) in object("garbagecollector_enable", value)? {
        let path = format!("garbagecollector_enable.{name}");
        match name.as_str() {
            "messages" => next.garbagecollector_enable.messages = boolean(&path, value)?,
            "media" => next.garbagecollector_enable.media = boolean(&path, value)?,
            _ => unknown(&path, policy)?,
        }
    }
    Ok(())
}

/// Longest `identical_messages.window`: a day, in seconds.
const IDENTICAL_WINDOW: u64 = 24 * 3600;

fn identical_messages(next: &mut Settings, value: &Value, policy: Policy) -> Result<(), ApiError> {
    for (name, value) in object("identical_messages", value)? {
        let path = format!("identical_messages.{name}");
        let rule = &mut next.identical_messages;
        match name.as_str() {
            "window" if value.is_null() => rule.window = None,
            "window" => rule.window = Some(integer(&path, value, 0, IDENTICAL_WINDOW)?).filter(|seconds| *seconds > 0),
            "refuse" => rule.refuse = boolean(&path, value)?,
            _ => unknown(&path, policy)?,
        }
    }
    Ok(())
}

/// Rules over two members, checked on the result; the refusal names the one that was sent.
fn check_relations(next: &Settings, change: &Map<String, Value>) -> Result<(), ApiError> {
    let sent = |first: &'static str, second: &'static str| if change.contains_key(first) { first } else { second };
    if next.max_callback_backoff_delay_ms < next.callback_backoff_delay_ms {
        let name = sent("max_callback_backoff_delay_ms", "callback_backoff_delay_ms");
        return Err(ApiError::invalid(
            name,
            "breaks the rule that max_callback_backoff_delay_ms is at least callback_backoff_delay_ms",
        ));
    }
    if next.unhealthy_interval <= 2 * next.heartbeat_interval {
        let name = sent("unhealthy_interval", "heartbeat_interval");
        return Err(ApiError::invalid(name, "breaks the rule that unhealthy_interval is more than twice heartbeat_interval"));
    }
    Ok(())
}

pub(super) fn unknown(path: &str, policy: Policy) -> Result<(), ApiError> {
    if policy.reject_unknown {
        return Err(ApiError::new(Code::ParameterNotRequired, format!("Parameter '{path}' is not known")));
    }
    Ok(())
}

pub(super) fn object<'a>(path: &str, value: &'a Value) -> Result<&'a Map<String, Value>, ApiError> {
    value.as_object().ok_or_else(|| ApiError::invalid(path, "must be an object"))
}

fn boolean(path: &str, value: &Value) -> Result<bool, ApiError> {
    value.as_bool().ok_or_else(|| ApiError::invalid(path, "must be true or false"))
}

pub(super) fn integer(path: &str, value: &Value, least: u64, most: u64) -> Result<u64, ApiError> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| ApiError::invalid(path, format!("must be a whole number from {least} to {most}")))
}

fn optional_text(path: &str, value: &Value, longest: usize) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text.chars().count() <= longest && !text.chars().any(char::is_control) => Ok(Some(text.clone())),
        _ => Err(ApiError::invalid(path, format!("must be a string of at most {longest} characters"))),
    }
}

pub(super) fn callback_url(path: &str, value: &Value, policy: Policy) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => match webhook_url::check(text, policy.allow_loopback_http) {
            Ok(()) => Ok(Some(text.clone())),
            Err(why) => Err(ApiError::invalid(path, why)),
        },
        _ => Err(ApiError::invalid(path, "must be a string")),
    }
}

fn kinds_of_media(value: &Value) -> Result<Vec<String>, ApiError> {
    let path = "media.auto_download";
    let wrong = || ApiError::invalid(path, format!("must be a list of {}", MEDIA.join(", ")));
    let mut kinds: Vec<String> = Vec::new();
    for kind in value.as_array().ok_or_else(wrong)? {
        let kind = kind.as_str().filter(|kind| MEDIA.contains(kind)).ok_or_else(wrong)?;
        if !kinds.iter().any(|k| k == kind) {
            kinds.push(kind.to_owned());
        }
    }
    Ok(kinds)
}

fn pass_through(value: &Value, policy: Policy) -> Result<bool, ApiError> {
    let wanted = boolean("pass_through", value)?;
    if wanted && policy.pass_through_locked {
        return Err(ApiError::new(Code::InvalidRequest, "pass_through can no longer be enabled"));
    }
    Ok(wanted)
}

fn log_level(value: &Value) -> Result<String, ApiError> {
    match value.as_str() {
        Some("warn" | "warning") => Ok("warning".to_owned()),
        Some(level @ ("error" | "info" | "debug")) => Ok(level.to_owned()),
        _ => Err(ApiError::invalid("log_level", "must be error, warning, info or debug")),
    }
}

/// The settings as `GET` shows them: old forms beside new ones, and the number once registered.
pub fn render(settings: &Settings, registered: Option<WaId>) -> Value {
    let mut shown = serde_json::to_value(settings).unwrap_or_default();
    shown["sent_status"] = json!(settings.webhooks.message.sent);
    shown["db_garbagecollector_enable"] = json!(settings.garbagecollector_enable.messages);
    if let Some(members) = shown.as_object_mut() {
        members.retain(|name, _| name != "business_profile" && name != "about");
    }
    if let Some(webhooks) = shown["webhooks"].as_object_mut() {
        webhooks.remove("ca");
        webhooks.remove("last_endpoint");
        webhooks.entry("endpoints").and_modify(endpoint::conceal);
        for name in ["app_secret", "signing_secret"] {
            webhooks.entry(name).and_modify(|secret| *secret = json!(MASK));
        }
    }
    if let Some(number) = registered {
        shown["wa_id"] = json!(number);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(change: Value) -> Result<Settings, ApiError> {
        patched_under(change, Policy::default())
    }

    fn patched_under(change: Value, policy: Policy) -> Result<Settings, ApiError> {
        apply(&Settings::default(), change.as_object().unwrap(), policy)
    }

    #[test]
    fn nested_objects_merge_and_arrays_are_replaced() {
        let one = patched(json!({"webhooks": {"url": "https://a.example/", "message": {"read": false}}})).unwrap();
        assert_eq!(one.webhooks.max_concurrent_requests, 6);
        assert!(one.webhooks.message.delivered && !one.webhooks.message.read);
        let two = apply(&one, json!({"media": {"auto_download": ["image", "image"]}}).as_object().unwrap(), Policy::default());
        let two = two.unwrap();
        assert_eq!(two.media.auto_download, ["image"]);
        assert_eq!(two.webhooks, one.webhooks);
        let cleared = apply(&two, json!({"webhooks": {"url": ""}}).as_object().unwrap(), Policy::default()).unwrap();
        assert_eq!(cleared.webhooks.url, None);
    }

    #[test]
    fn secrets_and_certificates_are_never_shown_and_the_mask_changes_nothing() {
        const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let change = json!({"webhooks": {"app_secret": "0123456789abcdef", "signing_secret": STANDARD, "ca": "not a member"}});
        let mut set = patched(change).unwrap();
        assert_eq!(set.webhooks.ca, None);
        set.webhooks.ca = Some("PEM".to_owned());
        let shown = render(&set, None);
        assert_eq!((&shown["webhooks"]["app_secret"], &shown["webhooks"]["signing_secret"]), (&json!(MASK), &json!(MASK)));
        assert!(shown["webhooks"].get("ca").is_none());
        assert!(render(&Settings::default(), None)["webhooks"].get("app_secret").is_none());
        let again = apply(&set, json!({"webhooks": shown["webhooks"].clone()}).as_object().unwrap(), Policy::default());
        assert_eq!(again.unwrap(), set);
        let cleared = json!({"webhooks": {"app_secret": "", "signing_secret": null}});
        let cleared = apply(&set, cleared.as_object().unwrap(), Policy::default()).unwrap().webhooks;
        assert_eq!((cleared.app_secret, cleared.signing_secret, cleared.ca), (None, None, Some("PEM".to_owned())));
        assert_eq!(set.reset().webhooks.ca, Some("PEM".to_owned()));
    }

    #[test]
    fn wrong_values_are_refused_with_their_path() {
        for (change, path) in [
            (json!({"callback_backoff_delay_ms": 0}), "callback_backoff_delay_ms"),
            (json!({"callback_backoff_delay_ms": 900_001}), "callback_backoff_delay_ms"),
            (json!({"callback_backoff_delay_ms": 3.5}), "callback_backoff_delay_ms"),
            (json!({"callback_backoff_delay_ms": -3}), "callback_backoff_delay_ms"),
            (json!({"callback_backoff_delay_ms": "3s"}), "callback_backoff_delay_ms"),
            (json!({"max_callback_backoff_delay_ms": 2999}), "max_callback_backoff_delay_ms"),
            (json!({"max_callback_backoff_delay_ms": 86_400_001u64}), "max_callback_backoff_delay_ms"),
            (json!({"heartbeat_interval": 15}), "heartbeat_interval"),
            (json!({"unhealthy_interval": 10}), "unhealthy_interval"),
            (json!({"unhealthy_interval": 601}), "unhealthy_interval"),
            (json!({"callback_persist": "true"}), "callback_persist"),
            (json!({"callback_persist": null}), "callback_persist"),
            (json!({"media": []}), "media"),
            (json!({"media": {"auto_download": "image"}}), "media.auto_download"),
            (json!({"media": {"auto_download": ["smell"]}}), "media.auto_download"),
            (json!({"webhooks": "https://a.example"}), "webhooks"),
            (json!({"webhooks": {"url": 5}}), "webhooks.url"),
            (json!({"webhooks": {"url": "http://a.example"}}), "webhooks.url"),
            (json!({"webhooks": {"app_secret": "short"}}), "webhooks.app_secret"),
            (json!({"webhooks": {"signing_secret": "0123456789abcdef"}}), "webhooks.signing_secret"),
            (json!({"webhooks": {"max_concurrent_requests": 7}}), "webhooks.max_concurrent_requests"),
            (json!({"webhooks": {"message": {"sent": 1}}}), "webhooks.message.sent"),
            (json!({"webhooks": {"max_age": 59}}), "webhooks.max_age"),
            (json!({"webhooks": {"timeout_ms": 60_001}}), "webhooks.timeout_ms"),
            (json!({"webhooks": {"accept_2xx": "true"}}), "webhooks.accept_2xx"),
            (json!({"webhooks": {"deny_private": 1}}), "webhooks.deny_private"),
            (json!({"webhooks": {"keep_delivered": 2_592_001}}), "webhooks.keep_delivered"),
            (json!({"webhooks": {"errors_url": "http://a.example"}}), "webhooks.errors_url"),
            (json!({"garbagecollector_enable": true}), "garbagecollector_enable"),
            (json!({"identical_messages": {"window": 86_401}}), "identical_messages.window"),
            (json!({"identical_messages": {"refuse": 1}}), "identical_messages.refuse"),
            (json!({"log_level": "loud"}), "log_level"),
            (json!({"on_call_pager": 5}), "on_call_pager"),
            (json!({"sent_status": "yes", "webhooks": {"message": {"sent": true}}}), "sent_status"),
        ] {
            let error = patched(change.clone()).expect_err(&change.to_string());
            assert_eq!(error.code, Code::ParameterInvalid, "{change}");
            assert!(error.details.contains(&format!("'{path}'")), "{change}: {}", error.details);
        }
    }

    #[test]
    fn digit_strings_are_integers() {
        let settings =
            patched(json!({"callback_backoff_delay_ms": "5000", "webhooks": {"max_concurrent_requests": "12"}})).unwrap();
        assert_eq!((settings.callback_backoff_delay_ms, settings.webhooks.max_concurrent_requests), (5000, 12));
    }

    #[test]
    fn delivered_callbacks_are_kept_for_some_time_and_not_for_none() {
        let kept = patched(json!({"webhooks": {"keep_delivered": "3600"}})).unwrap();
        assert_eq!(kept.webhooks.keep_delivered, Some(3600));
        for none in [json!(0), json!(null)] {
            let change = json!({"webhooks": {"keep_delivered": none}});
            assert_eq!(apply(&kept, change.as_object().unwrap(), Policy::default()).unwrap(), Settings::default());
        }
    }

    #[test]
    fn r85_identical_messages_are_compared_within_a_window_and_not_within_none() {
        let on = patched(json!({"identical_messages": {"window": "3600", "refuse": true}})).unwrap();
        assert_eq!((on.identical_messages.window, on.identical_messages.refuse), (Some(3600), true));
        assert_eq!(render(&on, None)["identical_messages"], json!({"window": 3600, "refuse": true}));
        for none in [json!(0), json!(null)] {
            let change = json!({"identical_messages": {"window": none, "refuse": false}});
            let off = apply(&on, change.as_object().unwrap(), Policy::default()).unwrap();
            assert_eq!(off, Settings::default());
            assert!(render(&off, None).get("identical_messages").is_none());
        }
    }

    #[test]
    fn null_gives_delivery_back_to_the_configuration_of_the_node() {
        let change = json!({"webhooks": {"max_age": 3600, "accept_2xx": true, "timeout_ms": "500", "strict_global_order": true}});
        let set = patched(change).unwrap();
        assert_eq!((set.webhooks.max_age, set.webhooks.accept_2xx, set.webhooks.timeout_ms), (Some(3600), Some(true), Some(500)));
        let change = json!({"webhooks": {"max_age": null, "accept_2xx": null, "timeout_ms": null, "strict_global_order": null}});
        assert_eq!(apply(&set, change.as_object().unwrap(), Policy::default()).unwrap(), Settings::default());
    }

    #[test]
    fn old_and_new_forms_are_one_switch_and_the_new_form_wins() {
        let old = patched(json!({"sent_status": true, "db_garbagecollector_enable": false})).unwrap();
        assert!(old.webhooks.message.sent && !old.garbagecollector_enable.messages);
        let both = patched(json!({
            "webhooks": {"message": {"sent": false}}, "sent_status": true,
            "garbagecollector_enable": {"messages": true}, "db_garbagecollector_enable": false,
        }))
        .unwrap();
        assert!(!both.webhooks.message.sent && both.garbagecollector_enable.messages);
        let shown = render(&old, None);
        assert_eq!((&shown["sent_status"], &shown["webhooks"]["message"]["sent"]), (&json!(true), &json!(true)));
        assert_eq!(shown["db_garbagecollector_enable"], json!(false));
    }

    #[test]
    fn unknown_members_are_ignored_unless_the_policy_says_otherwise() {
        let change = json!({"some_future_switch": 5, "webhooks": {"colour": "red"}});
        assert_eq!(patched(change.clone()).unwrap(), Settings::default());
        let strict = Policy { reject_unknown: true, ..Policy::default() };
        assert_eq!(patched_under(change, strict).unwrap_err().code, Code::ParameterNotRequired);
    }

    #[test]
    fn the_number_is_read_only_and_pass_through_can_be_locked() {
        assert_eq!(patched(json!({"wa_id": "15550000001"})).unwrap_err().code, Code::ParameterNotRequired);
        assert!(patched(json!({"pass_through": true})).unwrap().pass_through);
        let locked = Policy { pass_through_locked: true, ..Policy::default() };
        assert_eq!(patched_under(json!({"pass_through": true}), locked).unwrap_err().code, Code::InvalidRequest);
        let number = "15550000001".parse().unwrap();
        assert_eq!(render(&Settings::default(), Some(number))["wa_id"], json!("15550000001"));
        assert_eq!(render(&Settings::default(), None).get("wa_id"), None);
    }
}
