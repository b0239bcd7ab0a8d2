//! What a collector goes through and removes, and how large the tables are.

use estafet_model::{Seq, Slot, StatusSet};
use estafet_store::{Batch, SharedStore, StatusRow, Times};

use crate::given::{NOW, inbound, message, messages, number, other_number, owner, places, seq, slot};

fn status(at: (u32, i64)) -> StatusRow {
    let statuses = StatusSet::from_bits(7);
    StatusRow { slot: slot(at.0), seq: seq(at.1), statuses, error_code: Some(470), changed_at_ms: NOW, times: Times::default() }
}

pub(crate) async fn states_are_gone_through_page_by_page(store: SharedStore) {
    let fence = owner(&*store).await;
    let all = [(3, 1), (3, 2), (3, 7), (4, 1), (6, 2), (9, 1)];
    store.commit(&fence, &Batch { statuses: all.map(status).into(), ..Batch::default() }).await.unwrap();
    let page = async |after: (u32, i64), last: u32, limit| {
        let rows = store.states(number(), (slot(after.0), seq(after.1)), slot(last), limit).await.unwrap();
        assert!(rows.iter().all(|row| *row == status((row.slot.get().into(), row.seq.get()))), "{rows:?}");
        places(rows.iter().map(|row| (&row.slot, &row.seq)))
    };
    assert_eq!(page((0, 0), 1023, 99).await, all.map(|(s, q)| (s as u16, q)));
    assert_eq!(page((3, 1), 1023, 3).await, [(3, 2), (3, 7), (4, 1)]);
    assert_eq!(page((4, 1), 8, 99).await, [(6, 2)], "the last slot is the end");
    assert_eq!(page((9, 1), 1023, 99).await, []);
    assert!(store.states(other_number(), (Slot::FIRST, Seq::ZERO), Slot::LAST, 99).await.unwrap().is_empty());
}

pub(crate) async fn incoming_messages_are_gone_through_and_removed_by_id(store: SharedStore) {
    let fence = owner(&*store).await;
    let ids = ["ABa", "ABb", "ABc", "b\0c"];
    store.commit(&fence, &Batch { inbound: ids.map(inbound).into(), ..Batch::default() }).await.unwrap();
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = store.inbound_ids(number(), &after, 3).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        found.extend(page);
    }
    assert_eq!(found.len(), ids.len(), "{found:?}");
    assert!(found.iter().all(|(_, came_at_ms)| *came_at_ms == NOW + 7));
    let removed = found.into_iter().map(|(id, _)| id).filter(|id| id != "ABb").collect();
    let forget = Batch { forgotten_inbound: removed, ..Batch::default() };
    store.commit(&fence, &forget).await.unwrap();
    store.commit(&fence, &forget).await.expect("a batch may be repeated");
    let left = store.inbound(number(), &ids.map(str::to_owned)).await.unwrap();
    assert_eq!(left.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["ABb"]);
}

pub(crate) async fn tables_have_sizes(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &messages((1..=50).map(|i| message((1, i), i as u64)))).await.unwrap();
    let sizes = store.sizes().await.unwrap();
    assert!(sizes.iter().any(|size| size.table == "message_out" && size.rows.is_some()), "{sizes:?}");
    assert!(sizes.iter().filter_map(|size| size.bytes).sum::<u64>() > 0, "{sizes:?}");
}
