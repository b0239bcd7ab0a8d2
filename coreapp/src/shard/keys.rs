//! The keys of a number: end-to-end account and static Noise key. They live in the message database,
//! so every owner of every shard has the same, and never change (`estafet_upstream::e2e` says why).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use estafet_model::WaId;
use estafet_store::SharedStore;
use estafet_upstream::{
    StaticKey,
    e2e::{self, Account, PublicKeys},
};
use tokio::sync::OnceCell;

/// The keys of a number, loaded.
pub struct NumberKeys {
    /// End-to-end account.
    pub account: Account,
    /// Its public half.
    pub public: PublicKeys,
    /// Static key of the transport.
    pub static_key: StaticKey,
}

/// Why the keys could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("keys of {number} cannot be read")]
    Store {
        /// The number.
        number: WaId,
        /// Cause.
        source: estafet_store::Error,
    },
    /// The stored account is damaged.
    #[error("end-to-end account of {number} is unreadable")]
    Account {
        /// The number.
        number: WaId,
        /// Cause.
        source: e2e::Error,
    },
    /// The stored static key is damaged.
    #[error("static key of {number} is unreadable")]
    StaticKey {
        /// The number.
        number: WaId,
    },
}

/// The keys of a node's numbers. They never change, so each is read once, whatever the number of its shards.
#[derive(Clone, Default)]
pub(crate) struct KeyRing(Arc<Mutex<HashMap<WaId, Arc<OnceCell<Stored>>>>>);

/// Keys as the database has them.
struct Stored {
    account: Vec<u8>,
    static_key: Vec<u8>,
}

impl KeyRing {
    /// The keys of `number`; makes them at the first call ever.
    pub(crate) async fn of(&self, store: &SharedStore, number: WaId) -> Result<NumberKeys, Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default().clone();
        known.get_or_try_init(|| Stored::read(store, number)).await?.keys(number)
    }
}

impl Stored {
    async fn read(store: &SharedStore, number: WaId) -> Result<Self, Error> {
        let read = async |name: &str, fresh: &[u8]| {
            store.secret(&format!("{name}/{number}"), fresh).await.map_err(|source| Error::Store { number, source })
        };
        let account = read("e2e_account", &Account::new().to_bytes()).await?;
        let static_key = read("noise_static_key", StaticKey::generate().to_bytes().as_slice()).await?;
        Ok(Self { account, static_key })
    }

    fn keys(&self, number: WaId) -> Result<NumberKeys, Error> {
        let account = Account::from_bytes(&self.account).map_err(|source| Error::Account { number, source })?;
        let static_key =
            self.static_key.as_slice().try_into().map(StaticKey::from_bytes).map_err(|_| Error::StaticKey { number })?;
        Ok(NumberKeys { public: account.public_keys(), account, static_key })
    }
}
