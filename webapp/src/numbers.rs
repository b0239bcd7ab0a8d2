//! The numbers this webapp serves, and which of them a request is for (docs/numbers.md).
//!
//! In this order: the header `X-Estafet-Number`, the host name of a number, the number of the token, the only
//! number there is. A token belongs to one number; with another one chosen it is refused. The numbers are those
//! of the database, looked at again and again, or one of the configuration.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, header};
use estafet_model::{ApiError, Code, WaId, settings::patch::Policy};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Role, SharedStore};

use crate::{
    auth::{
        self,
        accounts::{ADMIN, Accounts},
        hasher::Hasher,
    },
    census::Census,
    config::Config,
    contacts::Contacts,
    error::Error,
    limiter::Limiter,
    route::Router,
    settings::SettingsService,
};

/// Names the number a request is for.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-estafet-number");
/// How often numbers, and other replicas' changes of accounts, are looked for (S4: 1 s).
const POLL: Duration = Duration::from_millis(300);
/// Password of a new `admin` when the configuration names none; to be changed at the first login.
const INITIAL_PASSWORD: &str = "secret";

/// What belongs to one number.
pub(crate) struct Tenant {
    pub(crate) number: WaId,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) settings: SettingsService,
    pub(crate) census: Census,
    pub(crate) limiter: Limiter,
}

#[derive(Default)]
struct Served {
    tenants: BTreeMap<WaId, Arc<Tenant>>,
    hosts: HashMap<String, WaId>,
}

/// What a tenant is made with.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store: SharedStore,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) router: Arc<Router>,
    pub(crate) hasher: Hasher,
}

/// The numbers served.
pub(crate) struct Numbers {
    parts: Parts,
    served: RwLock<Arc<Served>>,
}

impl Numbers {
    /// Prepares the numbers there are, and follows those that come and go.
    pub(crate) async fn start(parts: Parts) -> Result<Arc<Self>, Error> {
        let numbers = Arc::new(Self { parts, served: RwLock::default() });
        numbers.look().await?;
        numbers.parts.tasks.spawn("webapp-numbers", numbers.clone().follow());
        Ok(numbers)
    }

    /// The number a request is for; `of_token` is that of its token.
    pub(crate) fn choose(&self, headers: &HeaderMap, of_token: Option<WaId>) -> Result<Arc<Tenant>, ApiError> {
        self.served().choose(headers, of_token)
    }

    fn served(&self) -> Arc<Served> {
        self.served.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    async fn follow(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = self.parts.tasks.shutdown().cancelled() => return,
            }
            let mut looked = self.look().await;
            for tenant in self.served().tenants.values() {
                let refreshed = tenant.accounts.refresh().await;
                looked = looked.and(refreshed.map_err(|source| Error::Store { what: "the accounts", source }));
            }
            match looked {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "numbers and accounts not refreshed, going on with what is known");
                    }
                }
            }
        }
    }

    /// Takes numbers that were added, lets go of those that were removed.
    async fn look(&self) -> Result<(), Error> {
        let (numbers, hosts) = match self.parts.config.number {
            Some(number) => (vec![number], HashMap::new()),
            None => {
                let rows = self.parts.store.numbers().await;
                let rows = rows.map_err(|source| Error::Store { what: "the numbers", source })?;
                let hosts = rows.iter().filter_map(|row| Some((row.host.clone()?, row.number))).collect();
                (rows.into_iter().map(|row| row.number).collect(), hosts)
            }
        };
        let before = self.served();
        if before.hosts == hosts && before.tenants.keys().eq(&numbers) {
            return Ok(());
        }
        let mut tenants = BTreeMap::new();
        for number in numbers {
            let tenant = match before.tenants.get(&number) {
                Some(tenant) => tenant.clone(),
                None => {
                    tracing::info!(%number, "serving");
                    Arc::new(self.parts.tenant(number).await?)
                }
            };
            tenants.insert(number, tenant);
        }
        *self.served.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(Served { tenants, hosts });
        Ok(())
    }
}

impl Parts {
    async fn tenant(&self, number: WaId) -> Result<Tenant, Error> {
        let Self { config, store, clock, tasks, router, hasher } = self;
        let accounts = Arc::new(Accounts::new(store.clone(), number, clock.clone()));
        prepare_accounts(&accounts, hasher, config).await?;
        let policy = Policy {
            allow_loopback_http: config.allow_loopback_http,
            pass_through_locked: config.pass_through_locked,
            reject_unknown: config.reject_unknown_settings,
        };
        let settings = SettingsService::new(store.clone(), number, policy, router.clone());
        if let Some(url) = &config.initial_webhook_url {
            settings.set_initial_url(url, tasks).await?;
        }
        let contacts = Arc::new(Contacts::new(number, store.clone(), clock.clone(), tasks.clone(), router.clone()));
        let census = Census::new(number, store.clone(), clock.clone());
        let limiter = Limiter::new(&config.limits);
        Ok(Tenant { number, accounts, contacts, settings, census, limiter })
    }
}

impl Served {
    fn choose(&self, headers: &HeaderMap, of_token: Option<WaId>) -> Result<Arc<Tenant>, ApiError> {
        let named = match headers.get(HEADER) {
            Some(value) => Some(read_header(value.as_bytes())?),
            None => host(headers).and_then(|host| self.hosts.get(&host).copied()),
        };
        if let (Some(named), Some(of_token)) = (named, of_token)
            && named != of_token
        {
            return Err(ApiError::new(Code::AccessDenied, "The token belongs to another number"));
        }
        let only = || (self.tenants.len() == 1).then(|| self.tenants.keys().next().copied()).flatten();
        match named.or(of_token).or_else(only) {
            Some(number) => self.tenants.get(&number).cloned().ok_or_else(|| match named {
                Some(_) => ApiError::invalid(HEADER.as_str(), "is not a number of this server"),
                None => auth::denied(),
            }),
            None if self.tenants.is_empty() => Err(ApiError::new(Code::NotReady, "No number has been added yet")),
            None => Err(ApiError::new(
                Code::ParameterMissing,
                "X-Estafet-Number: this server has several numbers, name one by this header, by its host name or by its token",
            )),
        }
    }
}

fn read_header(value: &[u8]) -> Result<WaId, ApiError> {
    let text = std::str::from_utf8(value).ok().map(|text| text.trim().trim_start_matches('+'));
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| ApiError::invalid(HEADER.as_str(), "must be a phone number"))
}

/// The host name of the request without its port, in lower case.
fn host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(name, _)| name);
    Some(name.trim_end_matches('.').to_ascii_lowercase())
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_host_name_is_compared_without_port_and_case() {
        let of = |value: &'static str| host(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(value))]));
        for (value, name) in [("One.Example:8443", "one.example"), ("one.example.", "one.example"), ("[::1]:80", "[::1]")] {
            assert_eq!(of(value).as_deref(), Some(name), "{value}");
        }
    }

    #[test]
    fn a_header_that_is_no_number_is_refused() {
        assert_eq!(read_header(b"+15550000001").unwrap().as_u64(), 15_550_000_001);
        for wrong in [&b""[..], b"abc", b"\xff", b"1555-0000001"] {
            assert_eq!(read_header(wrong).unwrap_err().code, Code::ParameterInvalid);
        }
    }
}
