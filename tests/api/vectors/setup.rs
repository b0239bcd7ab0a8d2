//! Brings about the states that vectors name in `setup`.
//!
//! Vectors that differ only in the account they use share a sandbox; each gets a user of its own. States
//! that change the whole number get a sandbox of their own.

use std::collections::{BTreeMap, btree_map::Entry};

use anyhow::{Context as _, bail};
use estafet_harness::{
    Api, Sandbox, Sink,
    client::{text_message, until},
    files,
    sandbox::{ADMIN_PASSWORD, API_KEY, Options},
    vectors::{Names, RequestVector},
    web::Web,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Phones the vectors write to and hear from.
const PHONES: &[(&str, &str)] = &[("16315551234", "Kerry"), ("16315551001", "Ana"), ("558299887766", "Brisa")];
/// The namespace of the vectors' templates.
const TEMPLATES: &str = "estafet_sandbox";
const USER_PASSWORD: &str = "Us3r!pass";

/// How the sandbox of a vector is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flavour {
    Registered,
    Fresh,
    NotRegistered,
    ContactModeLive,
    ContactModeAlwaysValid,
    LegacyContactCheck,
    TokensExpireSoon,
    RateBucketMessagesEmpty,
    JobQueueFull,
}

impl Flavour {
    fn of(vector: &RequestVector) -> Self {
        let has = |state: &str| vector.setup.iter().any(|name| name == state);
        let uses_expired = vector.request.headers.values().any(|value| value.contains("{{expired_token}}"));
        match () {
            () if uses_expired => Self::TokensExpireSoon,
            () if has("fresh") => Self::Fresh,
            () if has("not_registered") => Self::NotRegistered,
            () if has("contact_mode_live") => Self::ContactModeLive,
            () if has("contact_mode_always_valid") => Self::ContactModeAlwaysValid,
            () if has("legacy_contact_check") => Self::LegacyContactCheck,
            () if has("rate_bucket_messages_empty") => Self::RateBucketMessagesEmpty,
            () if has("job_queue_full") => Self::JobQueueFull,
            () => Self::Registered,
        }
    }

    fn options(self) -> Options {
        let options = Sandbox::options();
        match self {
            Self::Registered => options,
            Self::Fresh => options.with_initial_password(),
            Self::NotRegistered => options.switch("--unregistered"),
            Self::ContactModeLive => options.flag("--contact-mode", "live"),
            Self::ContactModeAlwaysValid => options.flag("--contact-mode", "always_valid"),
            Self::LegacyContactCheck => options.switch("--legacy-contact-check"),
            Self::TokensExpireSoon => options.flag("--token-lifetime", "1"),
            Self::RateBucketMessagesEmpty => options.flag("--messages-per-second", "1"),
            Self::JobQueueFull => options.flag("--max-outbox", "0"),
        }
    }

    /// Whether there are phones and users.
    fn is_in_use(self) -> bool {
        !matches!(self, Self::Fresh | Self::NotRegistered | Self::TokensExpireSoon)
    }
}

/// A sandbox that vectors share.
pub(super) struct Stage {
    pub(super) sandbox: Sandbox,
    pub(super) sink: Sink,
    pub(super) web: Web,
    pub(super) anonymous: Api,
    /// The admin; nobody on a fresh installation.
    pub(super) admin: Option<Api>,
}

impl Stage {
    async fn start(flavour: Flavour) -> anyhow::Result<Self> {
        let sink = Sink::start().await?;
        let sandbox = flavour.options().webhook(&sink.url()).start().await?;
        let anonymous = sandbox.anonymous()?;
        let admin = if flavour == Flavour::Fresh { None } else { Some(sandbox.login().await?) };
        let stage = Self { sandbox, sink, web: Web::start().await?, anonymous, admin };
        if flavour == Flavour::TokensExpireSoon {
            let admin = stage.admin()?;
            let refused = async || Ok(admin.call(Method::GET, "/v1/settings/application", None).await?.status == 401);
            until("the token has expired", refused).await?;
        }
        if flavour.is_in_use() {
            for (number, name) in PHONES {
                stage.anonymous.add_phone(number, name).await?;
                stage.anonymous.set_phone(number, "read").await?;
            }
        }
        Ok(stage)
    }

    /// A registered number of its own, for callbacks.
    pub(super) async fn registered() -> anyhow::Result<Self> {
        Self::start(Flavour::Registered).await
    }

    pub(super) fn admin(&self) -> anyhow::Result<&Api> {
        self.admin.as_ref().context("nobody has logged in")
    }

    pub(super) fn names(&self) -> Names {
        let mut names = Names::new();
        names.set("admin_user", "admin");
        names.set("admin_pass", ADMIN_PASSWORD);
        names.set("api_key", API_KEY);
        names.set("business_number", &self.sandbox.ready().business_number);
        names.set("template_ns", TEMPLATES);
        names.set("link_host", self.web.url());
        // Stands for an uploaded file where the message is refused whatever it names.
        names.set("media_ogg", "00000000-0000-4000-8000-000000000001");
        if let Some(token) = self.admin.as_ref().and_then(Api::token) {
            names.set("admin_token", token);
            names.set("expired_token", token);
        }
        names
    }
}

/// Sandboxes started so far.
#[derive(Default)]
pub(super) struct Stages {
    shared: BTreeMap<Flavour, Stage>,
    own: Option<Stage>,
    users: usize,
}

impl Stages {
    /// Brings about the states of a vector.
    pub(super) async fn prepare(&mut self, vector: &RequestVector) -> anyhow::Result<(&Stage, Names)> {
        let flavour = Flavour::of(vector);
        self.users += 1;
        let user = format!("user{:04}", self.users);
        let stage = if flavour == Flavour::Fresh || vector.setup.iter().any(|state| changes_the_number(state)) {
            self.own.insert(Stage::start(flavour).await?)
        } else {
            match self.shared.entry(flavour) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Stage::start(flavour).await?),
            }
        };
        let mut names = stage.names();
        if flavour.is_in_use() {
            let account = stage.admin()?.create_user(&user, USER_PASSWORD).await?;
            names.set("user_name", &user);
            names.set("user_token", account.token().context("no token")?);
            let named = serde_json::to_string(&vector.request.body)? + &vector.request.path;
            for (name, content_type, content) in
                [("media_jpeg", "image/jpeg", files::jpeg()), ("media_webp", "image/webp", files::webp())]
            {
                if named.contains(&format!("{{{{{name}}}}}")) {
                    names.set(name, account.upload(content_type, content).await?);
                }
            }
            for state in &vector.setup {
                bring_about(state, stage, &account, &user, &mut names).await.with_context(|| state.clone())?;
            }
        }
        Ok((stage, names))
    }
}

/// States that would disturb vectors on the same sandbox.
fn changes_the_number(state: &str) -> bool {
    setting(state).is_some()
}

/// The settings that a state stands for.
fn setting(state: &str) -> Option<Value> {
    Some(match state {
        "pass_through_on" => json!({ "pass_through": true }),
        "sent_status_true" => json!({ "sent_status": true }),
        "security_notifications_on" => json!({ "show_security_notifications": true }),
        "notify_user_change_number" => json!({ "notify_user_change_number": true }),
        "auto_download_empty" => json!({ "media": { "auto_download": [] } }),
        _ => return None,
    })
}

/// Changes the settings if that is what the state stands for.
pub(super) async fn apply_setting(state: &str, stage: &Stage) -> anyhow::Result<bool> {
    match setting(state) {
        Some(settings) => stage.admin()?.patch_settings(&settings).await.map(|()| true),
        None => Ok(false),
    }
}

async fn bring_about(state: &str, stage: &Stage, account: &Api, user: &str, names: &mut Names) -> anyhow::Result<()> {
    if apply_setting(state, stage).await? {
        return Ok(());
    }
    match state {
        "registered" | "webhook_set" | "contact_mode_live" | "contact_mode_always_valid" | "legacy_contact_check" => {}
        "job_queue_full" => {}
        "rate_bucket_messages_empty" => {
            let emptied = async || {
                let answer = account.call(Method::POST, "/v1/messages", Some(&text_message(PHONES[0].0, "one more"))).await?;
                Ok(answer.status == 429)
            };
            until("the bucket is empty", emptied).await?;
        }
        "user_has_two_tokens" => {
            let second = stage.anonymous.login(user, USER_PASSWORD).await?;
            names.set("user_token_2", second.token().context("no token")?);
        }
        "user_logged_out_with_user_token" => succeed(account, Method::POST, "/v1/users/logout", None).await?,
        "user_password_changed" => {
            let body = json!({ "password": "N3w!passw" });
            succeed(account, Method::PUT, &format!("/v1/users/{user}"), Some(&body)).await?;
        }
        "media_provider_p1" => {
            let provider = json!([{ "name": "p1", "type": "www", "config": { "bearer": "tok" } }]);
            succeed(stage.admin()?, Method::POST, "/v1/settings/application/media/providers", Some(&provider)).await?;
        }
        "media_jpeg_deleted" => {
            let path = names.fill("/v1/media/{{media_jpeg}}")?;
            succeed(account, Method::DELETE, &path, None).await?;
        }
        "known_contact_16315551234" => become_known(stage, PHONES[0].0).await?,
        "identity_changed_16315551234" => {
            let user = PHONES[0].0;
            become_known(stage, user).await?;
            let before = hash_of(account, user).await?;
            stage.anonymous.phone_gets_new_identity(user).await?;
            until("the new identity is known", async || Ok(hash_of(account, user).await? != before)).await?;
            names.set("identity_hash", hash_of(account, user).await?);
        }
        "user_deleted" => succeed(stage.admin()?, Method::DELETE, &format!("/v1/users/{user}"), None).await?,
        "inbound_text_stored" => {
            let id = stage.anonymous.phone_sends_text(PHONES[0].0, "an incoming text").await?;
            stage.sink.wait_for_message(&id).await?;
            names.set("inbound_id", id);
        }
        "template_order_update_en_US_two_body_params" => {
            let body = json!({ "type": "BODY", "text": "Hello {{1}}, your order will arrive {{2}}." });
            add_template(stage, "order_update", &json!([body])).await?;
        }
        "template_pic_note_image_header" => {
            let header = json!({ "type": "HEADER", "format": "IMAGE" });
            add_template(stage, "pic_note", &json!([header, { "type": "BODY", "text": "Have a look." }])).await?;
        }
        other => bail!("nothing brings about the state `{other}`"),
    }
    Ok(())
}

/// Has the business and a phone exchange a message: only of users it knows is the business told anything.
pub(super) async fn become_known(stage: &Stage, user: &str) -> anyhow::Result<()> {
    let id = stage.anonymous.phone_sends_text(user, "hello").await?;
    stage.sink.wait_for_message(&id).await.map(drop)
}

async fn hash_of(account: &Api, user: &str) -> anyhow::Result<String> {
    let answer = account.identity(user).await?;
    answer.text_at("/contacts/hash").map(str::to_owned).with_context(|| format!("no hash in {}", answer.text))
}

async fn add_template(stage: &Stage, name: &str, components: &Value) -> anyhow::Result<()> {
    let template = json!({ "namespace": TEMPLATES, "name": name, "language": "en_US", "components": components });
    stage.anonymous.add_templates(&template).await
}

async fn succeed(api: &Api, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<()> {
    let answer = api.call(method, path, body).await?;
    anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
    Ok(())
}
