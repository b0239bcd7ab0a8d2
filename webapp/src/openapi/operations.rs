//! Every operation of the API: what it takes, what it answers, how it refuses. `routes::table` names one for each
//! route, so a route without a description does not compile.

use serde_json::json;

use super::{
    LOGIN,
    operation::{Description, describe, envelope},
    settings,
    words::{
        Member, Schema, any_object, any_of, bytes, closed, flag, integer, list, map, may, named, need, null, number, one_of,
        open, text, text_like, text_of, text_that, whole, word,
    },
};
use crate::{auth::password, message, routes::shards};

const USERS: &str = "Users";
const MESSAGES: &str = "Messages";
const CONTACTS: &str = "Contacts";
const MEDIA: &str = "Media";
const SETTINGS: &str = "Settings";
const OPERATION: &str = "Operation";
const CALLBACKS: &str = "Callbacks";

/// The tags, in the order they are shown.
pub(super) const TAGS: [&str; 7] = [MESSAGES, CONTACTS, MEDIA, CALLBACKS, USERS, SETTINGS, OPERATION];

/// What asks a coreapp may wait for it in vain.
const ROUTED: [u16; 2] = [500, 504];

fn nothing(description: Description) -> Description {
    description.answers(200, "Done", [])
}

pub(crate) fn root() -> Description {
    describe("root", OPERATION, "Says that the server is there").answers_as(
        200,
        "An empty object",
        vec![("application/json", Some(closed([])))],
    )
}

pub(crate) fn login() -> Description {
    let user = closed([need("token", text()), need("expires_after", text_that("2018-03-01 15:29:26+00:00"))]);
    describe(LOGIN, USERS, "Log in")
        .details("The token is sent as `Authorization: Bearer TOKEN` with other requests. The first login of `admin` must bring a new password.")
        .may_take(open([may("new_password", new_password())]))
        .answers(200, "A token", [need("users", list(user, 1, 1))])
        .refuses(&[401, 403, 500, 503])
}

pub(crate) fn logout() -> Description {
    nothing(describe("logout", USERS, "Log out")).refuses(&[404, 500])
}

fn new_password() -> Schema {
    text_of(
        password::LENGTH.0,
        password::LENGTH.1,
        Some("With an upper-case and a lower-case letter, a digit and a special character"),
    )
}

fn user(with_role: bool) -> Member {
    let role = need("ROLES", word(&["ROLE_ADMIN", "ROLE_USER"]));
    let members = with_role.then_some(role).into_iter().chain([need("username", text())]);
    need("users", list(closed(members), 1, 1))
}

const USERNAME: (&str, &str) = ("username", "Name of the account");

pub(crate) fn create_user() -> Description {
    let username = text_of(password::NAME_LENGTH.0, password::NAME_LENGTH.1, Some("Without colons and slashes"));
    describe("createUser", USERS, "Create an account")
        .takes(open([need("username", username), need("password", new_password())]))
        .example(json!({ "username": "agent", "password": "Ag3nt!pass" }))
        .answers(201, "Created", [user(false)])
        .refuses(&[500])
}

pub(crate) fn read_user() -> Description {
    let description = describe("readUser", USERS, "Show an account").path(USERNAME.0, USERNAME.1);
    description.answers(200, "The account", [user(true)]).refuses(&[403, 404, 500])
}

pub(crate) fn update_user() -> Description {
    describe("updateUser", USERS, "Change a password")
        .path(USERNAME.0, USERNAME.1)
        .takes(open([need("password", new_password())]))
        .answers(200, "Changed", [user(false)])
        .refuses(&[403, 404, 500])
}

pub(crate) fn delete_user() -> Description {
    let description = describe("deleteUser", USERS, "Delete an account").path(USERNAME.0, USERNAME.1);
    description.answers(200, "Deleted", [user(false)]).refuses(&[404, 500])
}

pub(crate) fn check_contacts() -> Description {
    let row = closed([
        need("input", text()),
        need("status", word(&["valid", "invalid", "processing", "failed"])),
        may("wa_id", text()),
    ]);
    describe("checkContacts", CONTACTS, "Find out which numbers are on the network")
        .takes(open([
            need("contacts", list(text(), 1, 1000)),
            may("blocking", word(&["wait", "no_wait"])),
            may("force_check", any_of([flag(), word(&["true", "false"])])),
        ]))
        .example(json!({ "blocking": "wait", "contacts": ["+1 631 555 1001"], "force_check": false }))
        .answers(200, "A row for each input, in their order", [need("contacts", list(row, 1, 1000))])
}

const USER: (&str, &str) = ("wa_id", "The user");

pub(crate) fn read_identity() -> Description {
    let identity = closed([need("hash", text()), need("created_timestamp", whole(0, 1 << 53)), need("acknowledged", flag())]);
    describe("readIdentity", CONTACTS, "Show the identity of a user")
        .path(USER.0, USER.1)
        .answers(200, "The identity that is known", [need("contacts", identity)])
        .refuses(&[404])
        .refuses(&ROUTED)
}

pub(crate) fn acknowledge_identity() -> Description {
    let description = describe("acknowledgeIdentity", CONTACTS, "Accept the identity of a user")
        .path(USER.0, USER.1)
        .takes(open([need("hash", text_that("The hash that was told, in base64"))]));
    nothing(description).refuses(&[404]).refuses(&ROUTED)
}

/// Which callbacks are meant: members of a query or of a body.
const SELECTING: [(&str, &str); 6] = [
    ("from", "Seconds since 1970"),
    ("until", "Seconds since 1970"),
    ("contact", "Only those about this user"),
    ("message_id", "Only those about this message"),
    ("endpoint", "Only those for this receiver"),
    ("after", "The `next` of an answer"),
];

fn callbacks() -> Schema {
    let shown = closed([
        need("id", text()),
        need("kind", text()),
        need("endpoint", text()),
        need("timestamp", text()),
        need("body", any_of([any_object(), text()])),
        may("contact", text()),
        may("reason", text()),
        may("given_up", text()),
        may("delivered", text()),
    ]);
    list(shown, 0, 500)
}

pub(crate) fn list_callbacks(id: &'static str) -> Description {
    let begun = describe(id, CALLBACKS, "List callbacks").query("limit", whole(1, 500), "At most so many");
    let selecting =
        SELECTING.into_iter().fold(begun, |description, (name, meaning)| description.query(name, selector(name), meaning));
    selecting.answers(200, "The callbacks", [need("callbacks", callbacks()), may("next", text())]).refuses(&[500])
}

/// What selects may be a number or its digits, where it is a time.
fn selector(name: &str) -> Schema {
    let digits = || text_like("^[0-9]{1,12}$", "The same as digits");
    if matches!(name, "from" | "until") { any_of([whole(0, 1 << 40), digits()]) } else { text() }
}

/// Other members than these are refused.
fn selection(others: impl IntoIterator<Item = Member>) -> Schema {
    closed(SELECTING.into_iter().map(|(name, _)| may(name, selector(name))).chain(others))
}

fn moved(description: Description) -> Description {
    let members = [need("matched", whole(0, 500)), may("callbacks", callbacks()), may("next", text())];
    description.answers(200, "How many were meant", members).refuses(&ROUTED)
}

pub(crate) fn move_dead_letters() -> Description {
    let others = [need("action", word(&["requeue", "drop"])), may("all", flag()), may("dry_run", flag())];
    moved(describe("moveDeadLetters", CALLBACKS, "Try dead letters again, or remove them").takes(selection(others)))
}

pub(crate) fn replay_callbacks() -> Description {
    let others = [may("all", flag()), may("dry_run", flag())];
    moved(describe("replayCallbacks", CALLBACKS, "Post delivered callbacks again").takes(selection(others)))
}

pub(crate) fn trace_message() -> Description {
    let step = closed([
        need("step", text()),
        need("at_ms", integer()),
        may("wait", text_that("What was waited for")),
        may("waited_ms", integer()),
        may("awaited", flag()),
        may("about", text_that("Of a callback: what it tells")),
        may("endpoint", text_that("Of a callback: its receiver")),
        may("reason", text_that("Why it failed or was given up")),
    ]);
    let longest = closed([
        need("wait", text()),
        need("until", text()),
        need("waited_ms", integer()),
        need("awaited", flag()),
        may("about", text()),
        may("endpoint", text()),
    ]);
    let trace = closed([
        need("id", text()),
        need("direction", word(&["outgoing", "incoming"])),
        need("contact", text()),
        need("steps", list(step, 1, usize::MAX)),
        need("longest_wait", any_of([longest, null()])),
        need("keeps_delivered_callbacks", flag()),
    ]);
    describe("traceMessage", MESSAGES, "Show what happened to a message and what it waited for")
        .path("id", "Id of the message")
        .answers(200, "Its timeline", [need("trace", trace)])
        .refuses(&[404, 500])
}

pub(crate) fn send_message() -> Description {
    describe("sendMessage", MESSAGES, "Send a message")
        .details("The message is stored durably before the answer, and sent until the network has it. What becomes of it is told by callbacks.")
        .header(
            "Idempotency-Key",
            text_of(1, 255, None),
            "Repeating a send with the same key within a day gives the same id and sends nothing twice",
        )
        .takes(named("Message"))
        .example(json!({ "to": "16315551001", "type": "text", "text": { "body": "Hello" } }))
        .answers(201, "Accepted", message::schema::sent())
        .refuses(&[404, 422])
        .refuses(&ROUTED)
}

pub(crate) fn mark_message() -> Description {
    let description = describe("markMessage", MESSAGES, "Mark an incoming message as read")
        .path("id", "Id of the message")
        .takes(open([need("status", word(&["read"]))]));
    nothing(description).refuses(&[404]).refuses(&ROUTED)
}

pub(crate) fn upload_media() -> Description {
    describe("uploadMedia", MEDIA, "Upload a file")
        .details("The body is the file, `Content-Type` its MIME type, whichever it is; or a form with a part `file`, as the Cloud API has it.")
        .takes_as(true, vec![("application/octet-stream", bytes()), ("multipart/form-data", open([need("file", bytes())]))])
        .answers(200, "Stored", [need("media", list(closed([need("id", uuid())]), 1, 1))])
        .refuses(&[500])
}

fn uuid() -> Schema {
    text_like("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", "A UUID in lower case")
}

pub(crate) fn download_media() -> Description {
    describe("downloadMedia", MEDIA, "Download a file")
        .path("id", "Id of the file")
        .header("Range", text(), "One range of bytes: `bytes=0-99`")
        .answers_as(200, "The file, with its own type", vec![("*/*", None)])
        .answers_as(206, "The range", vec![("*/*", None)])
        .answers_as(404, "No such file", Vec::new())
        .answers_as(416, "No byte of the file is in the range", Vec::new())
        .refuses(&[500])
}

pub(crate) fn delete_media() -> Description {
    nothing(describe("deleteMedia", MEDIA, "Delete a file").path("id", "Id of the file")).refuses(&[404, 500])
}

pub(crate) fn collect_media(id: &'static str) -> Description {
    let status = closed([need("status", word(&["processing"]))]);
    let services = closed([need("media", closed([need("gc", status)]))]);
    describe(id, MEDIA, "Remove files that were not used for 30 days")
        .details("The end is told with a callback.")
        .answers(200, "It began", [need("services", services)])
        .refuses(&ROUTED)
}

pub(crate) fn read_health() -> Description {
    let words = ["connected", "connecting", "disconnected", "uninitialized", "unregistered"];
    let whole = closed([need("gateway_status", word(&words))]);
    let role = word(&["primary_master", "secondary_master", "coreapp"]);
    let told = closed([need("gateway_status", word(&words)), need("role", role)]);
    let error = closed([need("code", integer()), need("title", text()), need("details", text())]);
    let silent = closed([need("errors", list(error, 1, 1))]);
    let health = one_of([whole, map(one_of([told, silent]))]);
    describe("readHealth", OPERATION, "Show whether the number is connected")
        .details("Of the number as a whole where all runs in one process, by node in a cluster.")
        .answers(200, "The state", [need("health", health)])
        .refuses(&[500])
}

/// Metrics by name.
fn metrics() -> Schema {
    let sample = closed([may("labels", map(text())), need("value", number())]);
    map(closed([need("type", word(&["counter", "gauge"])), need("help", text()), need("data", list(sample, 0, usize::MAX))]))
}

fn in_both_forms(description: Description, json: Schema) -> Description {
    let form = word(&["json", "prometheus"]);
    let contents = vec![("application/json", Some(json)), ("text/plain", Some(text_that("The text format of Prometheus")))];
    description.query("format", form, "In which form").answers_as(200, "The metrics", contents).refuses(&[400])
}

pub(crate) fn read_coreapp_stats() -> Description {
    read_stats("readCoreappStats", "app", "Show what the coreapps have counted for the number since they started")
}

pub(crate) fn read_database_stats() -> Description {
    read_stats("readDatabaseStats", "db", "Show what the database holds for the number, counted at most once in half a minute")
}

/// `part` is the member with the metrics.
fn read_stats(id: &'static str, part: &'static str, summary: &'static str) -> Description {
    let away = closed([need("errors", list(named("Error"), 1, 1))]);
    let nodes = map(any_of([away, metrics()]));
    let shown = closed([need(part, any_of([metrics(), nodes]))]);
    let description = describe(id, OPERATION, summary).details("Several nodes have a member each, one that is away has errors.");
    in_both_forms(description, envelope([need("stats", shown)])).refuses(&[500])
}

pub(crate) fn read_webapp_metrics() -> Description {
    let description = describe("readWebappMetrics", OPERATION, "Show what this replica has served");
    in_both_forms(description, envelope([need("metrics", metrics())]))
}

pub(crate) fn read_metrics() -> Description {
    let description = describe("readMetrics", OPERATION, "Metrics for Prometheus")
        .details("With `format` those of the original, as at `/v1/metrics`.");
    in_both_forms(description, envelope([need("metrics", metrics())]))
}

pub(crate) fn document() -> Description {
    describe("openapi", OPERATION, "This document").answers_as(200, "OpenAPI 3.1", vec![("application/json", Some(any_object()))])
}

pub(crate) fn viewer() -> Description {
    describe("docs", OPERATION, "This document for people")
        .answers_as(200, "A page", vec![("text/html", Some(text()))])
        .answers_as(308, "The page has a slash at its end", Vec::new())
        .refuses(&[500])
}

pub(crate) fn viewer_file() -> Description {
    describe("docsFile", OPERATION, "What the page is made of")
        .path("file", "Name of the file")
        .answers_as(200, "The file", vec![("*/*", None)])
        .refuses(&[404, 500])
}

fn within(name: &'static str, schema: Schema) -> Member {
    need("settings", closed([need(name, schema)]))
}

pub(crate) fn read_settings() -> Description {
    describe("readSettings", SETTINGS, "Show the application settings")
        .answers(200, "The settings", [within("application", settings::shown())])
        .refuses(&[500])
}

pub(crate) fn change_settings(id: &'static str) -> Description {
    let description = describe(id, SETTINGS, "Change application settings")
        .details("A merge: what is not named stays. All of it is in force with the answer, or nothing.")
        .may_take(settings::change())
        .example(json!({ "webhooks": { "max_concurrent_requests": 12 } }));
    nothing(description).refuses(&[500])
}

pub(crate) fn reset_settings() -> Description {
    nothing(describe("resetSettings", SETTINGS, "Set all application settings back to their defaults")).refuses(&[500])
}

fn profile(of_answer: bool) -> Schema {
    let members = ["address", "description"].map(|name| may(name, text_of(0, 256, None))).into_iter().chain([
        may("email", text_of(0, 128, None)),
        may("vertical", text_of(0, 256, Some("A label of the original, or its code"))),
        may("websites", list(text_of(1, 256, Some("Begins with http:// or https://")), 0, 2)),
    ]);
    if of_answer { closed(members) } else { open(members) }
}

pub(crate) fn read_profile() -> Description {
    describe("readBusinessProfile", SETTINGS, "Show what the business says of itself")
        .answers(200, "What was set of it", [within("business", closed([need("profile", profile(true))]))])
        .refuses(&[500])
}

pub(crate) fn change_profile() -> Description {
    let description = describe("changeBusinessProfile", SETTINGS, "Change what the business says of itself");
    nothing(description.takes(profile(false))).refuses(&[500])
}

pub(crate) fn read_about() -> Description {
    let about = closed([need("about", closed([need("text", text())]))]);
    describe("readAbout", SETTINGS, "Show the line below the name of the business")
        .answers(200, "The line", [within("profile", about)])
        .refuses(&[500])
}

pub(crate) fn change_about() -> Description {
    let description = describe("changeAbout", SETTINGS, "Change the line below the name of the business");
    nothing(description.takes(open([need("text", text_of(1, 139, None))]))).refuses(&[500])
}

pub(crate) fn read_webhook_ca() -> Description {
    describe("readWebhookCa", SETTINGS, "Show the authorities that callbacks trust beside the system's")
        .answers_as(200, "Certificates in PEM form", vec![("text/plain", Some(text()))])
        .refuses(&[404, 500])
}

pub(crate) fn write_webhook_ca(id: &'static str) -> Description {
    let description = describe(id, SETTINGS, "Replace the authorities that callbacks trust beside the system's");
    nothing(description.takes_as(true, vec![("text/plain", text_that("Certificates in PEM form"))])).refuses(&[500])
}

pub(crate) fn remove_webhook_ca() -> Description {
    nothing(describe("removeWebhookCa", SETTINGS, "Trust the system's authorities alone")).refuses(&[500])
}

pub(crate) fn read_shards() -> Description {
    let account = closed([need("shards", whole(1, 256))]);
    describe("readShards", OPERATION, "Show the shard count")
        .answers(200, "The count", [need("account", account)])
        .refuses(&[500])
}

pub(crate) fn change_shards() -> Description {
    let count = any_of([whole(1, shards::MOST.into()), text_like("^[0-9]{1,2}$", "The same as digits")]);
    describe("changeShards", OPERATION, "Change the shard count while messages flow")
        .takes(open([
            need("cc", text_like("^[0-9]{1,3}$", "Country code of the number")),
            need("phone_number", text_that("The number without its country code")),
            need("shards", count),
            may("pin", text_like("^([0-9]{6})?$", "Two-step verification; not checked here")),
            may("cert", text_that("The number's certificate in base64")),
        ]))
        .answers(201, "Taken note of", [])
        .refuses(&[409, 500])
}

const PROVIDER: (&str, &str) = ("name", "Name of the provider");

fn provider(is_shown: bool) -> Schema {
    let object = |members: Vec<Member>| if is_shown { closed(members) } else { open(members) };
    let basic = object(vec![need("username", text_of(1, usize::MAX, None)), need("password", text_of(1, usize::MAX, None))]);
    let config = any_of([object(vec![need("basic", basic)]), object(vec![need("bearer", text_of(1, usize::MAX, None))])]);
    let name = text_like("^[A-Za-z0-9_-]{1,200}$", "Messages name it by this");
    object(vec![need("name", name), need("type", word(&["www"])), need("config", config)])
}

pub(crate) fn list_providers() -> Description {
    let media = closed([need("providers", list(provider(true), 0, usize::MAX))]);
    describe("listMediaProviders", MEDIA, "Show the providers of linked files")
        .details("Their secrets are not shown.")
        .answers(200, "The providers", [within("application", closed([need("media", media)]))])
        .refuses(&[500])
}

pub(crate) fn put_providers() -> Description {
    let description = describe("putMediaProviders", MEDIA, "Add or replace providers of linked files")
        .takes(list(provider(false), 1, usize::MAX))
        .example(json!([{ "name": "cdn", "type": "www", "config": { "bearer": "token" } }]));
    nothing(description).refuses(&[500])
}

pub(crate) fn delete_provider() -> Description {
    let description = describe("deleteMediaProvider", MEDIA, "Remove a provider of linked files").path(PROVIDER.0, PROVIDER.1);
    nothing(description).refuses(&[404, 500])
}
