//! Secrets, tags, users, tokens, settings and contacts.

use std::collections::HashSet;

use estafet_store::{ContactRow, Error, RevokedToken, Role, SharedStore, UserRow, Versions};
use futures::future::join_all;

use crate::given::*;

pub(crate) async fn a_secret_is_the_same_for_all_callers(store: SharedStore) {
    let fresh: Vec<[u8; 4]> = (0..8).map(|i| [0, i, 255, i]).collect();
    let read = join_all(fresh.iter().map(|fresh| store.secret("identity", fresh))).await;
    let read: HashSet<Vec<u8>> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(read.len(), 1);
    let first = read.into_iter().next().unwrap();
    assert!(fresh.iter().any(|fresh| fresh[..] == first));
    assert_eq!(store.secret("identity", b"later").await.unwrap(), first);
    assert_eq!(store.secret("other", b"other").await.unwrap(), b"other");
}

pub(crate) async fn tags_differ(store: SharedStore) {
    let tags: HashSet<u16> = join_all((0..100).map(|_| store.next_tag())).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(tags.len(), 100);
}

fn user(name: &str, role: Role) -> UserRow {
    UserRow {
        username: name.to_owned(),
        role,
        password_hash: "$argon2id$v=19$...".to_owned(),
        must_change: true,
        tokens_valid_after_ms: NOW,
        generation: 1 << 40,
    }
}

pub(crate) async fn users_are_added_changed_and_removed(store: SharedStore) {
    let users = async |expected: u64| store.versions(number()).await.unwrap() == Versions { users: expected, settings: 0 };
    assert!(users(0).await);
    store.create_user(number(), &user("admin", Role::Admin)).await.unwrap();
    store.create_user(number(), &user("Ana 'x'", Role::User)).await.unwrap();
    assert!(matches!(store.create_user(number(), &user("admin", Role::User)).await, Err(Error::Exists(_))));
    assert!(users(2).await, "a refused change is no change");
    assert_eq!(store.users(number()).await.unwrap(), [user("Ana 'x'", Role::User), user("admin", Role::Admin)]);

    let changed = UserRow { must_change: false, tokens_valid_after_ms: NOW + 1, ..user("admin", Role::User) };
    assert!(store.update_user(number(), &changed).await.unwrap());
    assert!(!store.update_user(number(), &user("nobody", Role::User)).await.unwrap());
    assert!(store.delete_user(number(), "Ana 'x'").await.unwrap());
    assert!(!store.delete_user(number(), "Ana 'x'").await.unwrap());
    assert!(users(4).await);
    assert_eq!(store.users(number()).await.unwrap(), [changed]);
    assert!(store.users(other_number()).await.unwrap().is_empty());
}

pub(crate) async fn names_are_compared_byte_by_byte(store: SharedStore) {
    let names = ["Ana", "ana", "ana ", "an\u{e4}"];
    for name in names {
        store.create_user(number(), &user(name, Role::User)).await.unwrap();
        store.revoke_token(number(), &RevokedToken { id: name.to_owned(), expires_at_ms: NOW }, NOW).await.unwrap();
    }
    assert!(store.update_user(number(), &user("ana ", Role::Admin)).await.unwrap());
    let users: Vec<_> = store.users(number()).await.unwrap().into_iter().map(|u| (u.username, u.role)).collect();
    let expected = names.map(|name| (name.to_owned(), if name == "ana " { Role::Admin } else { Role::User }));
    assert_eq!(users, expected);
    assert_eq!(store.revoked_tokens(number()).await.unwrap().len(), names.len());
}

pub(crate) async fn a_revoked_token_is_kept_until_it_expires(store: SharedStore) {
    let token = |id: &str, expires_at_ms| RevokedToken { id: id.to_owned(), expires_at_ms };
    store.revoke_token(number(), &token("a", NOW + 10), NOW).await.unwrap();
    store.revoke_token(number(), &token("a", NOW + 10), NOW).await.unwrap();
    store.revoke_token(number(), &token("b", NOW + 20), NOW + 10).await.unwrap();
    assert_eq!(store.revoked_tokens(number()).await.unwrap(), [token("a", NOW + 10), token("b", NOW + 20)]);
    store.revoke_token(number(), &token("c", NOW + 30), NOW + 15).await.unwrap();
    assert_eq!(store.revoked_tokens(number()).await.unwrap(), [token("b", NOW + 20), token("c", NOW + 30)]);
    assert_eq!(store.versions(number()).await.unwrap().users, 4);
}

pub(crate) async fn settings_are_compared_before_they_are_set(store: SharedStore) {
    assert_eq!(store.settings(number()).await.unwrap(), None);
    assert_eq!(store.put_settings(number(), 3, "{}").await.unwrap(), None, "there is no version 3");
    let racing = join_all((0..4).map(|_| store.put_settings(number(), 0, "{}"))).await;
    assert_eq!(racing.into_iter().filter_map(Result::unwrap).collect::<Vec<_>>(), [1]);
    assert_eq!(store.put_settings(number(), 1, r#"{"a":1}"#).await.unwrap(), Some(2));
    assert_eq!(store.put_settings(number(), 1, "{}").await.unwrap(), None, "somebody else wrote");
    assert_eq!(store.settings(number()).await.unwrap(), Some((2, r#"{"a":1}"#.to_owned())));
    assert_eq!(store.versions(number()).await.unwrap(), Versions { users: 0, settings: 2 });
    assert_eq!(store.versions(other_number()).await.unwrap(), Versions::default());
}

pub(crate) async fn contact_checks_are_replaced(store: SharedStore) {
    let contact = |i, on_network, at| ContactRow { wa_id: recipient(i), on_network, checked_at_ms: NOW + at };
    let written = [contact(1, true, 1), contact(2, false, 1), contact(1, false, 2)];
    store.put_contact_checks(number(), &written).await.unwrap();
    store.put_contact_checks(number(), &[contact(2, true, 3)]).await.unwrap();
    store.put_contact_checks(number(), &[]).await.unwrap();
    let mut read = store.contacts(number(), &[recipient(1), recipient(2), recipient(3)]).await.unwrap();
    read.sort_by_key(|c| c.wa_id);
    assert_eq!(read, [contact(1, false, 2), contact(2, true, 3)]);
}
