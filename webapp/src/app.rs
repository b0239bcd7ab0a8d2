//! Everything a request needs, prepared once; and what runs beside the requests.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex},
};

use axum::http::HeaderMap;
use estafet_model::{ApiError, IdGenerator, IdKey, WaId};
use estafet_runtime::Clock;
use estafet_store::{Role, SharedStore};

use crate::{
    Deps,
    answer::Renderer,
    auth::{
        self, Access, Caller, Gate,
        hasher::Hasher,
        throttle::Throttle,
        token::{Claims, KEY_LENGTH, Signer},
    },
    config::Config,
    error::Error,
    limiter::{Class, Limiter},
    media::Files,
    message::Rules,
    metrics::Metrics,
    numbers::{Numbers, Parts, Tenant},
    route::Router,
    served::Served,
    template::{self, Library, Shelf},
};

/// Who calls, and for which number.
pub(crate) struct Admission {
    pub(crate) caller: Caller,
    /// An error if the request does not say; few requests go without a number.
    pub(crate) tenant: Result<Arc<Tenant>, ApiError>,
}

/// Shared by all requests.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) renderer: Renderer,
    pub(crate) gate: Gate,
    pub(crate) store: SharedStore,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) hasher: Hasher,
    pub(crate) throttle: Mutex<Throttle>,
    pub(crate) router: Arc<Router>,
    pub(crate) templates: Arc<Shelf>,
    pub(crate) files: Files,
    pub(crate) metrics: Arc<Metrics>,
    limiter: Limiter,
    ids: Mutex<IdGenerator>,
    user_hash: RandomState,
}

impl App {
    /// Prepares accounts, keys, caches and links, and starts what runs beside.
    pub(crate) async fn prepare(config: Config, deps: &Deps) -> Result<Arc<Self>, Error> {
        config.check()?;
        let templates = Arc::new(shelf(&config, deps)?);
        let (store, clock, tasks) = (deps.store.clone(), deps.clock.clone(), deps.tasks.clone());
        let key = secret_key(&store).await?;
        let tag = store.next_tag().await.map_err(|source| Error::Store { what: "the id generator", source })?;
        let hasher = Hasher::new(config.limits.waiting_hashes).map_err(|error| Error::Hash(error.to_string()))?;
        let metrics = Arc::new(Metrics::new(Served::new(&config.node, config.limits.connections)));
        let router = Router::start(&config, deps.connect.clone(), deps.map.clone(), &tasks, metrics.clone());
        let parts = Parts {
            config: config.clone(),
            store: store.clone(),
            clock: clock.clone(),
            tasks,
            router: router.clone(),
            hasher: hasher.clone(),
        };
        let files = Files::new(store.clone(), deps.blobs.clone(), clock.clone(), config.max_upload_bytes, config.limits.uploads);
        let numbers = Numbers::start(parts).await?;
        Ok(Arc::new(Self {
            renderer: Renderer::new(&config.version),
            gate: Gate::new(Signer::new(&key), config.api_key.clone()),
            throttle: Mutex::new(Throttle::new(config.limits.failures_per_user, config.limits.failures_per_address)),
            limiter: Limiter::new(&config.limits),
            ids: Mutex::new(IdGenerator::new(tag)),
            user_hash: RandomState::new(),
            config,
            clock,
            store,
            numbers,
            hasher,
            router,
            templates,
            files,
            metrics,
        }))
    }

    /// Finds out who calls and for which number, whether they may, and whether there is room in the rate. What
    /// needs no number is admitted without one.
    pub(crate) async fn admit(&self, access: Access, class: Class, headers: &HeaderMap) -> Result<Admission, ApiError> {
        let identified = self.gate.identify(access, headers)?;
        let (caller, tenant) = match identified {
            auth::Identified::Anonymous => (Caller::Anonymous, self.numbers.choose(headers, None)),
            auth::Identified::Token(claims) => {
                let tenant = self.numbers.choose(headers, claims.number)?;
                let role = self.role(&tenant, &claims).await?;
                if access == Access::Admin && role != Role::Admin {
                    return Err(auth::forbidden());
                }
                (Caller::Account(role, claims), Ok(tenant))
            }
        };
        // Each number has its own rates; who names none shares one.
        tenant.as_ref().map_or(&self.limiter, |tenant| &tenant.limiter).admit(class)?;
        Ok(Admission { caller, tenant })
    }

    async fn role(&self, tenant: &Tenant, claims: &Claims) -> Result<Role, ApiError> {
        let now_ms = self.clock.now_ms();
        match tenant.accounts.honours(claims, now_ms) {
            Some(role) => Ok(role),
            // Another replica may have issued it a moment ago, after a change not heard of here.
            None if claims.is_current(now_ms) => {
                tenant.accounts.refresh_for_doubt().await;
                tenant.accounts.honours(claims, now_ms).ok_or_else(auth::denied)
            }
            None => Err(auth::denied()),
        }
    }

    /// The key of a new message id.
    pub(crate) fn next_id(&self, now_ms: i64) -> IdKey {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).generate(now_ms)
    }

    /// A user name as the login throttle counts it.
    pub(crate) fn user_key(&self, number: WaId, username: &str) -> u64 {
        self.user_hash.hash_one((number, username))
    }

    /// How messages of a number are judged.
    pub(crate) fn message_rules<'a>(&self, sender: WaId, templates: &'a Library) -> Rules<'a> {
        Rules { sender, strict: self.config.strict_params, templates }
    }
}

/// The templates of the files. Where they cannot be changed by hand the files are read again.
fn shelf(config: &Config, deps: &Deps) -> Result<Shelf, Error> {
    let files = template::Files::new(&config.template_files, config.sample_templates);
    let library = files.read()?;
    Ok(if config.template_control {
        Shelf::of(library, deps.templates.clone())
    } else {
        Shelf::fetched_from(Arc::new(files), library, deps.clock.now_ms())
    })
}

async fn secret_key(store: &SharedStore) -> Result<Vec<u8>, Error> {
    let fresh: [u8; KEY_LENGTH] = rand::random();
    store.secret("token_signing_key", &fresh).await.map_err(|source| Error::Store { what: "the token signing key", source })
}
