//! The accounts of the number as this replica knows them, and every change to them.
//!
//! Reads come from memory: a request costs one look-up. Changes go to the store first and are in
//! force here before they are answered; other replicas see the version counter move and reload,
//! within 300 ms. A change and a reload never overlap, so an old read cannot undo a change.
//!
//! A logout moves the watermark *and* the generation: tokens of a replica whose clock runs ahead
//! are newer than any watermark, but not of the new generation.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
    time::Duration,
};

use estafet_model::{ApiError, Code, WaId};
use estafet_runtime::Clock;
use estafet_store::{Error as StoreError, RevokedToken, Role, SharedStore, UserRow};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use super::token::Claims;
use crate::error::store_failure;

/// Name of the built-in account.
pub(crate) const ADMIN: &str = "admin";

/// Least distance between two refreshes for tokens in doubt.
const DOUBT_DISTANCE: Duration = Duration::from_millis(20);

/// What requests are checked against.
#[derive(Debug, Default)]
struct Snapshot {
    users: HashMap<String, UserRow>,
    revoked: HashSet<String>,
}

/// The accounts of one number.
pub(crate) struct Accounts {
    store: SharedStore,
    number: WaId,
    clock: Clock,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Version of the snapshot; held through every change and reload.
    writing: Mutex<u64>,
    /// When a token was last in doubt.
    doubted_at: std::sync::Mutex<Option<Instant>>,
}

impl Accounts {
    pub(crate) fn new(store: SharedStore, number: WaId, clock: Clock) -> Self {
        Self {
            store,
            number,
            clock,
            snapshot: RwLock::default(),
            writing: Mutex::new(0),
            doubted_at: std::sync::Mutex::default(),
        }
    }

    /// Whether the account behind a genuine token still honours it; its role if so.
    pub(crate) fn honours(&self, claims: &Claims, now_ms: i64) -> Option<Role> {
        if !claims.is_current(now_ms) {
            return None;
        }
        let snapshot = self.current();
        let user = snapshot.users.get(&claims.user)?;
        let valid = user.generation == claims.generation
            && claims.iat_ms > user.tokens_valid_after_ms
            && (snapshot.revoked.is_empty() || !snapshot.revoked.contains(&claims.id));
        valid.then_some(user.role)
    }

    /// An account as last heard of.
    pub(crate) fn known(&self, username: &str) -> Option<UserRow> {
        self.current().users.get(username).cloned()
    }

    fn current(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(snapshot);
    }

    fn amend(&self, change: impl FnOnce(&mut Snapshot)) {
        let current = self.current();
        let mut next = Snapshot { users: current.users.clone(), revoked: current.revoked.clone() };
        change(&mut next);
        self.publish(next);
    }

    /// Reads everything if the store has changed since the last time.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let mut version = self.writing.lock().await;
        let stored = self.store.versions(self.number).await?.users;
        if *version == stored && stored != 0 {
            return Ok(());
        }
        self.load(&mut version, stored).await
    }

    /// Refreshes because of a genuine token that is not honoured; at most so often, since revoked
    /// tokens are genuine too.
    pub(crate) async fn refresh_for_doubt(&self) {
        let now = Instant::now();
        let recent = {
            let mut last = self.doubted_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let recent = last.is_some_and(|last| now < last + DOUBT_DISTANCE);
            if !recent {
                *last = Some(now);
            }
            recent
        };
        if recent {
            // Another's refresh may be under way; its result serves as well.
            drop(self.writing.lock().await);
        } else if let Err(error) = self.refresh().await {
            tracing::debug!(%error, "accounts not refreshed for a token in doubt");
        }
    }

    async fn load(&self, version: &mut MutexGuard<'_, u64>, stored: u64) -> Result<(), StoreError> {
        let users = self.store.users(self.number).await?;
        let revoked = self.store.revoked_tokens(self.number).await?;
        self.publish(Snapshot {
            users: users.into_iter().map(|user| (user.username.clone(), user)).collect(),
            revoked: revoked.into_iter().map(|token| token.id).collect(),
        });
        // The version was read before the rows: at worst the next poll reads them again.
        **version = stored;
        Ok(())
    }

    /// The account as the store has it now, known here from then on: a token issued for it is
    /// honoured at once.
    pub(crate) async fn read_fresh(&self, username: &str) -> Result<Option<UserRow>, ApiError> {
        let _writing = self.writing.lock().await;
        let user = self.read(username).await?;
        if user.as_ref() != self.current().users.get(username) {
            self.amend(|snapshot| {
                snapshot.users.remove(username);
                snapshot.users.extend(user.clone().map(|user| (user.username.clone(), user)));
            });
        }
        Ok(user)
    }

    async fn read(&self, username: &str) -> Result<Option<UserRow>, ApiError> {
        let users = self.store.users(self.number).await.map_err(|error| store_failure("read users", &error))?;
        Ok(users.into_iter().find(|user| user.username == username))
    }

    /// Adds an account; `false` if the name is taken.
    pub(crate) async fn create(
        &self,
        username: &str,
        role: Role,
        password_hash: String,
        must_change: bool,
    ) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().await;
        let user = UserRow {
            username: username.to_owned(),
            role,
            password_hash,
            must_change,
            tokens_valid_after_ms: 0,
            generation: fresh_generation(),
        };
        match self.store.create_user(self.number, &user).await {
            Ok(()) => {
                self.amend(|snapshot| {
                    snapshot.users.insert(user.username.clone(), user);
                });
                Ok(true)
            }
            Err(StoreError::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the password; `None` if there is no such account. Tokens stay valid.
    pub(crate) async fn set_password(&self, username: &str, password_hash: String) -> Result<Option<UserRow>, ApiError> {
        self.change(username, |user| {
            user.password_hash = password_hash;
            user.must_change = false;
        })
        .await
    }

    /// Voids every token of an account issued until now.
    pub(crate) async fn log_out(&self, claims: &Claims) -> Result<(), ApiError> {
        let now_ms = self.clock.now_ms();
        let changed = self
            .change(&claims.user, |user| {
                user.tokens_valid_after_ms = now_ms.max(claims.iat_ms).max(user.tokens_valid_after_ms);
                user.generation = fresh_generation();
            })
            .await?;
        changed.map(|_| ()).ok_or_else(|| ApiError::new(Code::NotFound, "No such user"))
    }

    /// Voids one token.
    pub(crate) async fn revoke(&self, claims: &Claims) -> Result<(), ApiError> {
        let _writing = self.writing.lock().await;
        let token = RevokedToken { id: claims.id.clone(), expires_at_ms: claims.exp.saturating_mul(1000) };
        self.store
            .revoke_token(self.number, &token, self.clock.now_ms())
            .await
            .map_err(|error| store_failure("revoke a token", &error))?;
        self.amend(|snapshot| {
            snapshot.revoked.insert(token.id);
        });
        Ok(())
    }

    /// Removes an account and so voids its tokens; `false` if there is none.
    pub(crate) async fn delete(&self, username: &str) -> Result<bool, ApiError> {
        let _writing = self.writing.lock().await;
        let deleted =
            self.store.delete_user(self.number, username).await.map_err(|error| store_failure("delete a user", &error))?;
        self.amend(|snapshot| {
            snapshot.users.remove(username);
        });
        Ok(deleted)
    }

    /// Reads, changes and writes an account, and shows it as the store had it to the change.
    async fn change(&self, username: &str, change: impl FnOnce(&mut UserRow)) -> Result<Option<UserRow>, ApiError> {
        let _writing = self.writing.lock().await;
        let Some(mut user) = self.read(username).await? else { return Ok(None) };
        change(&mut user);
        let found = self.store.update_user(self.number, &user).await.map_err(|error| store_failure("update a user", &error))?;
        if !found {
            return Ok(None);
        }
        self.amend(|snapshot| {
            snapshot.users.insert(user.username.clone(), user.clone());
        });
        Ok(Some(user))
    }
}

fn fresh_generation() -> i64 {
    rand::random()
}
