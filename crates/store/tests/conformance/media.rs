//! Rows about files.

use estafet_store::{MediaRow, ProviderRow, SharedStore};
use uuid::Uuid;

use crate::given::*;

fn file(n: u128, used_at_ms: i64) -> MediaRow {
    MediaRow {
        id: Uuid::from_u128(n),
        mime_type: "audio/ogg; codecs=opus".to_owned(),
        sha256: [0xa5; 32],
        size: 1 << 33,
        created_at_ms: NOW,
        used_at_ms,
    }
}

pub(crate) async fn a_file_is_stored_once_and_comes_back(store: SharedStore) {
    let row = file(1, NOW);
    store.put_media(number(), &row).await.unwrap();
    store.put_media(number(), &MediaRow { size: 7, ..row.clone() }).await.unwrap();
    assert_eq!(store.media(number(), row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(store.media(other_number(), row.id).await.unwrap(), None);
    assert_eq!(store.media_usage(number()).await.unwrap(), (1, 1 << 33));
    assert_eq!(store.media_usage(other_number()).await.unwrap(), (0, 0));
    assert!(!store.delete_media(other_number(), row.id).await.unwrap());
    assert!(store.delete_media(number(), row.id).await.unwrap());
    assert!(!store.delete_media(number(), row.id).await.unwrap());
    assert_eq!(store.media(number(), row.id).await.unwrap(), None);
}

pub(crate) async fn what_was_not_used_for_long_is_removed_oldest_first(store: SharedStore) {
    for (n, used_at_ms) in [(1, NOW + 30), (2, NOW + 10), (3, NOW + 20), (4, NOW)] {
        store.put_media(number(), &file(n, used_at_ms)).await.unwrap();
    }
    store.put_media(other_number(), &file(5, NOW)).await.unwrap();
    store.use_media(number(), Uuid::from_u128(4), NOW + 99).await.unwrap();
    store.use_media(number(), Uuid::from_u128(4), NOW + 50).await.unwrap();
    assert_eq!(store.media(number(), Uuid::from_u128(4)).await.unwrap().unwrap().used_at_ms, NOW + 99, "only moves up");
    let removed = async |before, limit| {
        let mut ids: Vec<u128> =
            store.delete_unused_media(number(), before, limit).await.unwrap().iter().map(|id| id.as_u128()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(removed(NOW + 10, 10).await, [], "the moment itself is not before it");
    assert_eq!(removed(NOW + 99, 2).await, [2, 3]);
    assert_eq!(removed(NOW + 99, 2).await, [1]);
    assert_eq!(store.media_usage(other_number()).await.unwrap().0, 1);
}

pub(crate) async fn providers_are_replaced_by_name(store: SharedStore) {
    let provider = |name: &str, body: &str| ProviderRow { name: name.to_owned(), body: body.to_owned() };
    for written in [provider("b", "{}"), provider("a", "{}"), provider("b", r#"{"x":1}"#), provider("B", "[]")] {
        store.put_media_provider(number(), &written).await.unwrap();
    }
    let expected = [provider("B", "[]"), provider("a", "{}"), provider("b", r#"{"x":1}"#)];
    assert_eq!(store.media_providers(number()).await.unwrap(), expected);
    assert!(store.media_providers(other_number()).await.unwrap().is_empty());
    assert!(store.delete_media_provider(number(), "a").await.unwrap());
    assert!(!store.delete_media_provider(number(), "a").await.unwrap());
    assert!(!store.delete_media_provider(other_number(), "b").await.unwrap());
    assert_eq!(store.media_providers(number()).await.unwrap().len(), 2);
}
