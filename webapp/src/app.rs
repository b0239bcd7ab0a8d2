//! Everything a request needs, prepared once; and what runs beside the requests.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

use estafet_model::{ApiError, IdGenerator, IdKey, settings::patch::Policy};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Role, SharedStore};

use crate::{
    Deps,
    answer::Renderer,
    auth::{
        self, Access, Caller, Gate,
        accounts::{ADMIN, Accounts},
        hasher::Hasher,
        throttle::Throttle,
        token::{KEY_LENGTH, Signer},
    },
    config::Config,
    contacts::Contacts,
    error::Error,
    limiter::{Class, Limiter},
    message::Rules,
    metrics::Metrics,
    route::Router,
    settings::SettingsService,
    template::{Library, Shelf},
};

/// How often other replicas' changes of accounts are looked for (S4: 1 s).
const POLL: Duration = Duration::from_millis(300);
/// Password of a new `admin` when the configuration names none; to be changed at the first login.
const INITIAL_PASSWORD: &str = "secret";

/// Shared by all requests.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) renderer: Renderer,
    pub(crate) gate: Gate,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) hasher: Hasher,
    pub(crate) throttle: Mutex<Throttle>,
    pub(crate) router: Arc<Router>,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) settings: SettingsService,
    pub(crate) templates: Arc<Shelf>,
    pub(crate) metrics: Arc<Metrics>,
    limiter: Limiter,
    ids: Mutex<IdGenerator>,
    user_hash: RandomState,
}

impl App {
    /// Prepares accounts, keys, caches and links, and starts what runs beside.
    pub(crate) async fn prepare(config: Config, deps: &Deps) -> Result<Arc<Self>, Error> {
        config.check()?;
        let templates = Arc::new(Shelf::load(&config.template_files, config.sample_templates)?);
        let (store, clock, tasks) = (deps.store.clone(), deps.clock.clone(), deps.tasks.clone());
        let key = secret_key(&store).await?;
        let tag = store.next_tag().await.map_err(|source| Error::Store { what: "the id generator", source })?;
        let hasher = Hasher::new(config.limits.waiting_hashes).map_err(|error| Error::Hash(error.to_string()))?;
        let accounts = Arc::new(Accounts::new(store.clone(), config.number, clock.clone()));
        prepare_accounts(&accounts, &hasher, &config).await?;
        let metrics = Arc::new(Metrics::new());
        let router = Router::start(&config, deps.connect.clone(), deps.map.clone(), &tasks, metrics.clone());
        let policy = Policy {
            allow_loopback_http: config.allow_loopback_http,
            pass_through_locked: config.pass_through_locked,
            reject_unknown: config.reject_unknown_settings,
        };
        let settings = SettingsService::new(store.clone(), config.number, policy, router.clone());
        if let Some(url) = &config.initial_webhook_url {
            settings.set_initial_url(url, &tasks).await?;
        }
        let contacts = Arc::new(Contacts::new(config.number, store, clock.clone(), tasks.clone(), router.clone()));
        tasks.spawn("webapp-accounts", poll_accounts(accounts.clone(), tasks.clone()));
        Ok(Arc::new(Self {
            renderer: Renderer::new(&config.version),
            gate: Gate::new(Signer::new(&key), config.api_key.clone()),
            throttle: Mutex::new(Throttle::new(config.limits.failures_per_user, config.limits.failures_per_address)),
            limiter: Limiter::new(&config.limits),
            ids: Mutex::new(IdGenerator::new(tag)),
            user_hash: RandomState::new(),
            config,
            clock,
            accounts,
            hasher,
            router,
            contacts,
            settings,
            templates,
            metrics,
        }))
    }

    /// Finds out who calls, whether they may, and whether there is room in the rate.
    pub(crate) async fn admit(&self, access: Access, class: Class, headers: &axum::http::HeaderMap) -> Result<Caller, ApiError> {
        let identified = self.gate.identify(access, headers)?;
        let caller = match identified {
            auth::Identified::Anonymous => Caller::Anonymous,
            auth::Identified::Token(claims) => {
                let now_ms = self.clock.now_ms();
                let role = match self.accounts.honours(&claims, now_ms) {
                    Some(role) => role,
                    // Another replica may have issued it a moment ago, after a change not heard of here.
                    None if claims.is_current(now_ms) => {
                        self.accounts.refresh_for_doubt().await;
                        self.accounts.honours(&claims, now_ms).ok_or_else(auth::denied)?
                    }
                    None => return Err(auth::denied()),
                };
                if access == Access::Admin && role != Role::Admin {
                    return Err(auth::forbidden());
                }
                Caller::Account(role, claims)
            }
        };
        self.limiter.admit(class)?;
        Ok(caller)
    }

    /// The key of a new message id.
    pub(crate) fn next_id(&self, now_ms: i64) -> IdKey {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).generate(now_ms)
    }

    /// A user name as the login throttle counts it.
    pub(crate) fn user_key(&self, username: &str) -> u64 {
        self.user_hash.hash_one(username)
    }

    /// How messages of the number are judged.
    pub(crate) fn message_rules<'a>(&self, templates: &'a Library) -> Rules<'a> {
        Rules { sender: self.config.number, strict: self.config.strict_params, templates }
    }
}

async fn secret_key(store: &SharedStore) -> Result<Vec<u8>, Error> {
    let fresh: [u8; KEY_LENGTH] = rand::random();
    store.secret("token_signing_key", &fresh).await.map_err(|source| Error::Store { what: "the token signing key", source })
}

async fn prepare_accounts(accounts: &Accounts, hasher: &Hasher, config: &Config) -> Result<(), Error> {
    let failed = |source| Error::Store { what: "the accounts", source };
    accounts.refresh().await.map_err(failed)?;
    if accounts.known(ADMIN).is_some() {
        return Ok(());
    }
    let password = config.initial_admin_password.as_deref();
    if password.is_some_and(|password| auth::password::check_password(password, "password").is_err()) {
        tracing::warn!("the initial password of admin is weaker than the rules for passwords ask for");
    }
    let hash = hasher.hash(password.unwrap_or(INITIAL_PASSWORD)).await.map_err(|error| Error::Hash(error.to_string()))?;
    // `false`: another replica was faster, and its account is as good.
    if !accounts.create(ADMIN, Role::Admin, hash, password.is_none()).await.map_err(failed)? {
        accounts.refresh().await.map_err(failed)?;
    }
    Ok(())
}

async fn poll_accounts(accounts: Arc<Accounts>, tasks: Tasks) {
    let mut failing = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = tasks.shutdown().cancelled() => return,
        }
        match accounts.refresh().await {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "accounts not refreshed, going on with what is known");
                }
            }
        }
    }
}
